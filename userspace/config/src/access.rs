//! `[access_log]`: where records of requests and relayed connections go, and in which form.

use weir_core::plan::{AccessLog, Facility, LogFormat, LogTarget, Syslog, SyslogForm};

use crate::{
    keys,
    node::read_path,
    reader::{Cx, Table, Value},
    words::quoted,
};

/// Targets that have a word.
const WORDS: [&str; 3] = ["off", "stdout", "stderr"];

/// The section; with defaults where the file is silent, or wrong.
pub(crate) fn read_access_log(cx: &mut Cx, document: &Table<'_>) -> AccessLog {
    let mut log = AccessLog::default();
    let Some(section) = document
        .get("access_log")
        .and_then(|value| value.table(cx, &keys::ACCESS_LOG))
    else {
        return log;
    };
    if let Some(to) = section.get("to").and_then(|value| read_to(cx, &value)) {
        log.to = to;
    }
    read_syslog(cx, &section, &mut log.to);
    log.format = section
        .get("format")
        .and_then(|value| value.choice(cx, &LogFormat::ALL, &[]));
    if let Some(null) = section.get("null").and_then(|value| value.boolean(cx)) {
        log.null = null;
    }
    log
}

fn read_to(cx: &mut Cx, value: &Value<'_>) -> Option<LogTarget> {
    let text = value.string(cx)?;
    if WORDS.contains(&text) {
        return Some(LogTarget::from_word(text));
    }
    if text == "syslog" || text.starts_with("syslog:") {
        // A comma would begin what has keys of its own.
        let syslog = Syslog::from_word(text).filter(|_| !text.contains([',', '\0']));
        if syslog.is_none() {
            value.mistake(
                cx,
                format!("is {}, which names no syslog daemon", quoted(text)),
                "write \"syslog\" for /dev/log, \"syslog:/PATH\" for another socket, or \"syslog:192.0.2.1:514\" for UDP",
            );
        }
        return syslog.map(LogTarget::Syslog);
    }
    if !text.starts_with('/') {
        value.mistake(
            cx,
            format!("is {}", quoted(text)),
            "write \"stdout\", \"stderr\", \"off\", \"syslog\", or a file's absolute path",
        );
        return None;
    }
    read_path(cx, value).map(LogTarget::File)
}

/// What is said to a syslog daemon.
fn read_syslog(cx: &mut Cx, section: &Table<'_>, to: &mut LogTarget) {
    let (facility, form) = (section.get("facility"), section.get("syslog_form"));
    let LogTarget::Syslog(syslog) = to else {
        let asked = section.get("to").and_then(|value| value.as_string());
        // A daemon that could not be read is told already.
        if !asked.is_some_and(|text| text.starts_with("syslog")) {
            for value in [facility, form].into_iter().flatten() {
                cx.mistake(
                    value.key_at,
                    format!(
                        "{} does not apply: the records go to no syslog daemon",
                        value.path
                    ),
                    "remove it, or write to = \"syslog\"",
                );
            }
        }
        return;
    };
    let names = Facility::NAMES.map(|name| (name, name));
    if let Some(name) = facility.and_then(|value| value.choice(cx, &names, &[])) {
        syslog.facility = Facility::from_name(name).unwrap_or(syslog.facility);
    }
    if let Some(form) = form.and_then(|value| value.choice(cx, &SyslogForm::ALL, &[])) {
        syslog.form = form;
    }
}
