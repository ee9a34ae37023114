//! Any text as weir.toml, and as a file of tunables.
//!
//! Holds: a refused text has located mistakes inside the text, in order; an accepted one gives the same plan again, also
//! after it went to another process, and differs in nothing from itself.

use weir_config::{Facts, ListFiles, Report, Source, Tunables, diff, parse};

/// Checks one text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    weir_toml(text);
    tunables(text);
}

fn weir_toml(text: &str) {
    let facts = Facts {
        hostname: "box".into(),
        runtime_dir: "/run/weir".into(),
    };
    let source = Source {
        name: "weir.toml".into(),
        text: text.into(),
        tunables: Tunables::default(),
        facts,
        lists: ListFiles::default(),
        bodies: weir_config::Bodies::default(),
        tls: weir_config::TlsFiles::default(),
    };
    match parse(&source.name, &source.text, &source.tunables, &source.facts) {
        Err(report) => located(&report, text, "weir.toml"),
        Ok(plan) => {
            let sent = serde_json::to_string(&source).expect("a source can be sent");
            let received: Source = serde_json::from_str(&sent).expect("and received");
            let again = received
                .resolve()
                .expect("an accepted text stays accepted, there too");
            assert_eq!(again, plan, "resolving is deterministic");
            assert_eq!(diff(&plan, &again), [], "a plan does not differ from itself");
        }
    }
}

fn tunables(text: &str) {
    let mut tunables = Tunables::default();
    if let Err(report) = tunables.load_text("x.conf", text) {
        located(&report, text, "x.conf");
    }
}

/// Checks that mistakes can be shown: somewhere in the text, each on one line, with a mend.
fn located(report: &Report, text: &str, file: &str) {
    let mistakes = report.mistakes();
    assert!(!mistakes.is_empty(), "refused without a reason");
    let lines = text.split('\n').count();
    let mut last = None;
    for mistake in mistakes {
        assert_eq!(&*mistake.file, file);
        assert!(
            !mistake.what.is_empty() && !mistake.mend.is_empty(),
            "{mistake:?}"
        );
        let place = mistake.place.expect("a mistake of a text has a place");
        assert!(
            (1..=lines).contains(&place.line),
            "line {} of {lines}: {mistake}",
            place.line
        );
        let width = text
            .split('\n')
            .nth(place.line - 1)
            .map_or(0, |line| line.chars().count());
        assert!(
            (1..=width + 1).contains(&place.column),
            "column {} of {width}: {mistake}",
            place.column
        );
        assert!(last <= Some(place), "not in file order: {report}");
        last = Some(place);
        let shown = mistake.to_string();
        assert!(
            !shown.contains(['\n', '\r', '\x1b', '\0']),
            "not one line, or not for a terminal: {shown:?}"
        );
    }
}
