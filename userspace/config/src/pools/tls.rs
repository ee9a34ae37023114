//! `[pools.NAME.tls]`: how the relay speaks TLS with the pool's backends.
//!
//! Owns the keys, and what of them fits together. What stands in the files is judged by whoever loads (`tls_files`), as for
//! services.

use weir_core::plan::{BackendTls, BackendTrust, HttpProtocol};
use weir_tls::Policy;

use crate::{
    check::is_dns_name,
    keys,
    reader::{Cx, Table, Value},
    services::{Files, certificate_files},
    spoken,
    tls_files::{Judged, Part},
    words::quoted,
};

/// What HTTP/2 is agreed on by (RFC 9113 section 3.2).
const HTTP2: &str = "h2";

pub(super) fn read(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> Option<BackendTls> {
    // Judged by `http2::read`; here only what follows from it.
    let protocol = table.get("protocol");
    let http2 = { protocol.as_ref() }.and_then(Value::as_string) == Some(HttpProtocol::H2.as_str());
    let table = table.get("tls")?.table(cx, &keys::POOL_TLS)?;
    let trust = read_trust(cx, &table, files);
    let server_name = table
        .get("server_name")
        .and_then(|value| read_server_name(cx, &value));
    let (spoken, groups_value) = spoken::read(cx, &table);
    let alpn = read_alpn(cx, &table, http2);
    let certificate = table.get("certificate").and_then(|value| {
        let (certificate, chain, key, _) = certificate_files(cx, &value, &keys::POOL_TLS_CERTIFICATE, files)?;
        files.judged.push(Judged::OfClient { chain, key });
        Some(certificate)
    });
    let tls = BackendTls {
        trust,
        server_name,
        alpn,
        certificate,
        policy: spoken.policy,
        versions: spoken.versions,
        ciphers: spoken.ciphers,
        groups: spoken.groups,
    };
    // Versions and suites were judged where they stand.
    let without_ciphers = BackendTls {
        ciphers: None,
        ..tls.clone()
    };
    spoken::judge_groups(
        cx,
        groups_value.as_ref(),
        Policy::asked_of_backends(&without_ciphers),
    );
    Some(tls)
}

fn read_trust(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> BackendTrust {
    let verify = table
        .get("verify")
        .and_then(|value| match value.as_string() {
            Some(word @ ("off" | "none")) => {
                value.mistake(
                    cx,
                    format!("is {}, and is true or false", quoted(word)),
                    "write verify = false",
                );
                None
            }
            Some(_) | None => value.boolean(cx),
        })
        .unwrap_or(true);
    let Some(value) = table.get("ca") else {
        return match verify {
            true => BackendTrust::System,
            false => BackendTrust::Anybody,
        };
    };
    if !verify {
        value.mistake(cx, "has no effect with verify = false", "remove one of the two");
        return BackendTrust::Anybody;
    }
    let Some((text, named)) = files.tls(cx, &value, Part::Certificates) else {
        return BackendTrust::System;
    };
    files.judged.push(Judged::Authorities(named));
    BackendTrust::Authorities(text)
}

pub(crate) fn read_server_name(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let name = value.string(cx)?;
    if !is_dns_name(name) {
        value.mistake(
            cx,
            format!("is {}, which is no DNS name", quoted(name)),
            "write one as in www.example.org",
        );
        return None;
    }
    Some(name.to_owned())
}

fn read_alpn(cx: &mut Cx, table: &Table<'_>, http2: bool) -> Vec<String> {
    let Some(value) = table.get("alpn") else {
        return match http2 {
            true => vec![HTTP2.to_owned()],
            false => Vec::new(),
        };
    };
    if http2 {
        value.mistake(
            cx,
            "has no effect with protocol = \"h2\", which is asked for by its own name alone",
            "remove it",
        );
        return vec![HTTP2.to_owned()];
    }
    let mut alpn: Vec<String> = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(name) = item.string(cx) else { continue };
        let (what, mend) = match name {
            // RFC 7301 section 3.1.
            _ if name.is_empty() || name.len() > 255 => {
                ("which is no protocol", "write names as in \"postgresql\"")
            }
            _ if alpn.iter().any(|known| known == name) => ("which it has already", "remove one of them"),
            _ => {
                alpn.push(name.to_owned());
                continue;
            }
        };
        item.mistake(cx, format!("has {}, {what}", quoted(name)), mend);
    }
    alpn
}
