//! `pools.NAME.protocol` and `[pools.NAME.http2]`: what the pool's backends are spoken to in, and the relay's HTTP/2
//! connections to them.
//!
//! Owns the keys, ranges and defaults. That some service of the pool is relayed is seen by `cross/upstream.rs`.

use std::time::Duration;

use weir_core::plan::{Http2, HttpProtocol};

use crate::{
    keys,
    reader::{Cx, Table, Value},
};

/// Most requests at once that a connection may be allowed.
const MAX_STREAMS: u32 = 10_000;
/// Least window: about what HTTP/2 begins with.
const MIN_WINDOW: u64 = 64 << 10;
/// Largest window. All windows of a connection together stay below what HTTP/2 can count (2^31 - 1).
const MAX_WINDOW: u64 = 16 << 20;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What other proxies say.
const LATER: [&str; 4] = ["http/2", "h3", "http/1.0", "auto"];

pub(crate) fn read(cx: &mut Cx, table: &Table<'_>) -> (HttpProtocol, Http2) {
    let protocol = table.get("protocol").map(|value| read_protocol(cx, &value));
    let http2 = table.get("http2");
    let tls = table.get("tls").is_some() || table.meant("tls");
    if let (Some(value), Some(Some(protocol))) = (table.get("protocol"), protocol) {
        let (what, mend) = match (protocol, tls) {
            (HttpProtocol::H2, false) => (
                "is `h2`, which is spoken over TLS, and the pool has no section `tls`",
                "add one, or write \"h2c\" for HTTP/2 over plain TCP",
            ),
            (HttpProtocol::H2c, true) => (
                "is `h2c`, which is spoken over plain TCP, and the pool has a section `tls`",
                "write \"h2\", or remove that section",
            ),
            (HttpProtocol::H2 | HttpProtocol::H2c | HttpProtocol::Http1, _) => ("", ""),
        };
        if !what.is_empty() {
            value.mistake(cx, what, mend);
        }
    }
    if let Some(value) = &http2
        && matches!(protocol, None | Some(Some(HttpProtocol::Http1)))
        && !table.meant("protocol")
    {
        value.mistake(
            cx,
            "has no effect: the pool's backends are spoken to in HTTP/1.1",
            match tls {
                true => "write protocol = \"h2\" in the pool, or remove it",
                false => "write protocol = \"h2c\" in the pool, or remove it",
            },
        );
    }
    let section = http2.and_then(|value| value.table(cx, &keys::POOL_HTTP2));
    let http2 = section.map_or_else(Http2::default, |table| read_section(cx, &table));
    (protocol.flatten().unwrap_or_default(), http2)
}

/// `"http/1.1"`, `"h2c"` or `"h2"`.
pub(crate) fn read_protocol(cx: &mut Cx, value: &Value<'_>) -> Option<HttpProtocol> {
    let all = [HttpProtocol::Http1, HttpProtocol::H2c, HttpProtocol::H2];
    let words = all.map(|protocol| (protocol.as_str(), protocol));
    value.choice(cx, &words, &LATER)
}

fn read_section(cx: &mut Cx, table: &Table<'_>) -> Http2 {
    let default = Http2::default();
    let streams = table
        .get("streams")
        .and_then(|value| value.integer(cx, 1..=MAX_STREAMS))
        .unwrap_or(default.streams);
    let window = table
        .get("window")
        .and_then(|value| value.size(cx, MIN_WINDOW..=MAX_WINDOW))
        .and_then(|window| u32::try_from(window).ok())
        .unwrap_or(default.window);
    let ping = table
        .get("ping")
        .map(|value| value.duration(cx, Duration::ZERO..=DAY));
    let ping = match ping.flatten() {
        Some(Duration::ZERO) => None,
        Some(ping) => Some(ping),
        None => default.ping,
    };
    let ping_timeout = table
        .get("ping_timeout")
        .and_then(|value| value.duration(cx, MS..=DAY))
        .unwrap_or(default.ping_timeout);
    Http2 {
        streams,
        window,
        ping,
        ping_timeout,
    }
}
