//! Keys of HTTP services: whose word counts, what backends are told, what weir itself writes into messages.
//!
//! Owns which fields are weir's own by these keys, so that no rule fights over one.

use weir_core::plan::{ClientHttp2, Forwarded, ForwardedField, HostRewrite, Http, Via, WebSocket, Wire};

use super::{Files, read_limits, read_networks, read_timeouts, rewrite, rules};
use crate::{
    headers::{self, Direction, Written, belongs_to_connection, check_name, is_token_byte},
    keys,
    reader::{Cx, Table, Value},
    tunables::Values,
    words::quoted,
};

pub(super) fn read(cx: &mut Cx, table: &Table<'_>, defaults: &Values, files: &mut Files<'_>) -> Http {
    let forwarded = table.get("forwarded").and_then(|value| {
        let words = [
            ("x-forwarded-for", Forwarded::XForwardedFor),
            ("forwarded", Forwarded::Rfc7239),
            ("both", Forwarded::Both),
            ("off", Forwarded::Off),
        ];
        value.choice(cx, &words, &["proxy-protocol", "x-real-ip"])
    });
    let forwarded = forwarded.unwrap_or(Forwarded::XForwardedFor);
    let forwarded_fields = table.get("forwarded_fields");
    let forwarded_fields = forwarded_fields.map_or_else(Vec::new, |value| read_fields(cx, &value));
    let via = table.get("via").and_then(|value| {
        let words = [
            ("requests", Via::Requests),
            ("both", Via::Both),
            ("off", Via::Off),
        ];
        value.choice(cx, &words, &[])
    });
    let via = via.unwrap_or(Via::Requests);
    let mut allowed = |key| {
        let value = table.get(key).and_then(|value| value.boolean(cx));
        value.unwrap_or(false)
    };
    let wire = Wire {
        via,
        trace: allowed("allow_trace"),
        connect: allowed("allow_connect"),
        loop_limit: match table.get("loop_limit") {
            Some(value) if value.as_string() == Some("off") => None,
            Some(value) if value.as_string().is_some() => {
                value.mistake(
                    cx,
                    format!("is {}", quoted(value.as_string().unwrap_or_default())),
                    "write a number from 0 to 100, or \"off\"",
                );
                None
            }
            Some(value) => value.integer(cx, 0..=100),
            None => Some(Wire::LOOP_LIMIT),
        },
    };
    if let Some(value) = table.get("timeouts").and_then(|value| value.peek("hello")) {
        let mend = "remove it, or write mode = \"tcp\" to pass TLS on";
        value.mistake(cx, "does not apply to an http service", mend);
    }
    let websocket = table
        .get("websocket")
        .map(|value| read_websocket(cx, &value))
        .unwrap_or_default();
    let http2 = read_http2(cx, table);
    let request_id = table
        .get("request_id")
        .and_then(|value| read_request_id(cx, &value));
    let rewrite = table
        .get("rewrite")
        .and_then(|value| rewrite::read(cx, &value, false))
        .unwrap_or_default();
    let rules = table
        .get("rules")
        .map(|value| rules::read(cx, &value, files))
        .unwrap_or_default();
    let mut written = by_forwarded(forwarded, &forwarded_fields);
    if via != Via::Off {
        written.push(("via".into(), "write via = \"off\", or remove the rule"));
    }
    if let Some(name) = &request_id {
        written.push((
            name.to_ascii_lowercase(),
            "name another field in request_id, or remove the rule",
        ));
    }
    if rewrite.host != HostRewrite::Keep {
        written.push(("host".into(), "remove rewrite.host, or the rule"));
    }
    let request_headers = table
        .get("request_headers")
        .map(|value| headers::read(cx, &value, Direction::Request, &written))
        .unwrap_or_default();
    written.clear();
    if via == Via::Both {
        written.push((
            "via".into(),
            "write via = \"requests\" or \"off\", or remove the rule",
        ));
    }
    let response_headers = table
        .get("response_headers")
        .map(|value| headers::read(cx, &value, Direction::Response, &written))
        .unwrap_or_default();
    Http {
        timeouts: read_timeouts(cx, table, defaults),
        limits: read_limits(cx, table, defaults),
        trusted_proxies: read_networks(cx, table, "trusted_proxies"),
        forwarded,
        forwarded_fields,
        wire,
        websocket,
        http2,
        request_id,
        rewrite,
        rules,
        request_headers,
        response_headers,
    }
}

/// What clients may do in HTTP/2.
fn read_http2(cx: &mut Cx, table: &Table<'_>) -> ClientHttp2 {
    let section = table.get("http2").and_then(|value| value.table(cx, &keys::HTTP2));
    let get = |key| section.as_ref().and_then(|section| section.get(key));
    let default = ClientHttp2::default();
    let enabled = get("enabled").and_then(|value| value.boolean(cx));
    let upgrade = get("upgrade").and_then(|value| value.boolean(cx));
    let streams = get("streams").and_then(|value| value.integer(cx, 1..=10_000));
    let offences = get("offences").and_then(|value| value.integer(cx, 10..=1_000_000));
    let mut size = |key, range, default| {
        let size = get(key).and_then(|value| value.size(cx, range));
        size.and_then(|size| u32::try_from(size).ok()).unwrap_or(default)
    };
    let window = size("window", 16 << 10..=16 << 20, default.window);
    let streams = streams.unwrap_or(default.streams);
    // A connection begins with 65535 bytes, and nobody can take them back (RFC 9113 section 6.9.2).
    const LEAST: u32 = 64 << 10;
    let connection_window = size(
        "connection_window",
        LEAST.into()..=ClientHttp2::CONNECTION_WINDOW.into(),
        ClientHttp2::room(streams, window).max(LEAST),
    );
    if let Some(value) = get("connection_window").filter(|_| connection_window < window) {
        value.mistake(
            cx,
            "is smaller than `window`",
            "a connection has room for one request at least: raise it, or lower `window`",
        );
    }
    ClientHttp2 {
        enabled: enabled.unwrap_or(default.enabled),
        upgrade: upgrade.unwrap_or(default.upgrade),
        streams,
        window,
        connection_window,
        offences: offences.unwrap_or(default.offences),
    }
}

/// Fields of requests that tell of the client.
fn by_forwarded(forwarded: Forwarded, fields: &[ForwardedField]) -> Written {
    const MODE: &str = "set `forwarded` to another value or \"off\", or remove the rule";
    const FIELD: &str = "take it out of forwarded_fields, or remove the rule";
    let names: &[&str] = match forwarded {
        Forwarded::XForwardedFor => &["x-forwarded-for"],
        Forwarded::Rfc7239 => &["forwarded"],
        Forwarded::Both => &["x-forwarded-for", "forwarded"],
        Forwarded::Off => &[],
    };
    let further = fields
        .iter()
        .map(|field| (field.name().to_ascii_lowercase(), FIELD));
    names
        .iter()
        .map(|name| ((*name).to_owned(), MODE))
        .chain(further)
        .collect()
}

fn read_fields(cx: &mut Cx, value: &Value<'_>) -> Vec<ForwardedField> {
    let words = ForwardedField::ALL.map(|(name, field)| (name.to_ascii_lowercase(), field));
    let words: Vec<_> = words
        .iter()
        .map(|(name, field)| (name.as_str(), *field))
        .collect();
    let mut fields = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(field) = item.choice(cx, &words, &[]) else {
            continue;
        };
        if fields.contains(&field) {
            item.mistake(cx, "has a field twice", "remove one of them");
        } else {
            fields.push(field);
        }
    }
    fields
}

fn read_websocket(cx: &mut Cx, value: &Value<'_>) -> WebSocket {
    let mut websocket = WebSocket::default();
    let Some(table) = value.table(cx, &keys::WEBSOCKET) else {
        return websocket;
    };
    if let Some(strict) = table.get("strict").and_then(|value| value.boolean(cx)) {
        websocket.strict = strict;
    }
    let Some(list) = table.get("protocols") else {
        return websocket;
    };
    let mut protocols: Vec<String> = Vec::new();
    for item in list.array(cx).unwrap_or_default() {
        let Some(text) = item.string(cx) else { continue };
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            item.mistake(
                cx,
                format!("has {}, which is no subprotocol", quoted(text)),
                "write names as in graphql-transport-ws, without spaces and commas",
            );
        } else if protocols.iter().any(|known| known == text) {
            item.mistake(cx, format!("has {} twice", quoted(text)), "remove one of them");
        } else {
            protocols.push(text.to_owned());
        }
    }
    if list.elements() == Some(0) {
        list.mistake(
            cx,
            "is empty, and every handshake that asks for one would be refused",
            "name those that backends speak, or remove it for any",
        );
    }
    websocket.protocols = Some(protocols);
    websocket
}

/// The field of request ids. None for `off`.
fn read_request_id(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    if value.as_string() == Some("off") {
        return None;
    }
    let name = value.string(cx)?;
    let lower = name.to_ascii_lowercase();
    let taken = matches!(
        lower.as_str(),
        "host" | "via" | "forwarded" | "x-real-ip" | "traceparent" | "tracestate"
    ) || lower.starts_with("x-forwarded-")
        || belongs_to_connection(name);
    if taken {
        value.mistake(
            cx,
            format!("is {name}, which has another meaning"),
            "write \"X-Request-Id\", or \"off\"",
        );
        return None;
    }
    check_name(cx, value, name).then(|| name.to_owned())
}
