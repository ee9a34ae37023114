//! `101` and what follows it.

use std::time::Duration;

use crate::case::{Case, OK, Setting, Step, case, passed};

/// With a key, or some proxies answer 400 themselves.
const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn ask() -> String {
    passed(
        "GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    )
}

fn asked(id: &'static str, rfc: &'static str) -> Case {
    case(id, rfc).client_piece(ASK).origin_gets(ask())
}

fn switched(id: &'static str, rfc: &'static str) -> Case {
    asked(id, rfc).origin(SWITCH).client_gets(SWITCHED)
}

/// No switch at all.
fn refused_switch(id: &'static str, rfc: &'static str, response: &str) -> Case {
    asked(id, rfc)
        .origin(response)
        .own(502)
        .origin_ends()
        .ended("backend-bad-response")
        .kept()
}

/// A request that asks for no upgrade, whatever it says.
fn not_asked(id: &'static str, rfc: &'static str, lines: &str, seen: &str) -> Case {
    case(id, rfc)
        .client(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
        .origin_gets(passed(&format!("GET /ws HTTP/1.1\r\nHost: a\r\n{seen}")))
        .origin(SWITCH)
        .own(502)
        .origin_ends()
}

pub(super) fn cases() -> Vec<Case> {
    [switches(), ends()].concat()
}

fn switches() -> Vec<Case> {
    vec![
        switched("upgrade", "9110 §7.8")
            .client("ping\r\n\r\n\0")
            .origin_gets("ping\r\n\r\n\0")
            .origin("pong\0")
            .client_gets("pong\0"),
        asked("upgrade-frame-with-101", "9110 §7.8")
            .origin(format!("{SWITCH}\x01frame"))
            .client_gets(format!("{SWITCHED}\x01frame"))
            .client("x")
            .origin_gets("x"),
        asked("upgrade-101-in-pieces", "9110 §7.8")
            .origin("HTTP/1.1 101 Switching Protocols\r\nUpgr")
            .origin("ade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfra")
            .origin("me")
            .client_gets(format!("{SWITCHED}frame")),
        case("upgrade-bytes-ahead", "9110 §7.8")
            .client(format!("{ASK}ahead"))
            .origin_gets(ask())
            .origin(SWITCH)
            .client_gets(SWITCHED)
            .origin_gets("ahead")
            .client_piece("more")
            .origin_gets("more"),
        asked("upgrade-interim-before", "9110 §15.2")
            .origin(format!("HTTP/1.1 103 H\r\n\r\n{SWITCH}"))
            .client_gets(format!("HTTP/1.1 103 H\r\n\r\n{SWITCHED}"))
            .client("x")
            .origin_gets("x"),
        case("upgrade-one-of-several", "9110 §7.8")
            .client_piece("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a, b/2\r\n\r\n")
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a, b/2\r\n"))
            .origin("HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: B/2\r\n\r\n")
            .client_gets("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: B/2\r\n\r\n")
            .client("x")
            .origin_gets("x"),
        asked("upgrade-not-taken", "9110 §7.8").origin(OK).client_gets(OK).kept(),
        asked("upgrade-426", "6455 §4.2.2")
            .origin("HTTP/1.1 426 No\r\nDate: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n")
            .client_gets("HTTP/1.1 426 No\r\nDate: x\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .kept(),
        case("upgrade-not-taken-bytes-ahead-are-a-request", "9112 §9.3.2")
            .client(format!("{ASK}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"))
            .origin_gets(ask())
            .origin(OK)
            .client_gets(OK)
            .origin_gets(passed("GET /2 HTTP/1.1\r\nHost: a\r\n"))
            .origin(OK)
            .client_gets(OK),
        refused_switch("upgrade-101-without-upgrade", "9110 §7.8", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n"),
        refused_switch("upgrade-101-without-connection", "9110 §7.8", "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n"),
        refused_switch("upgrade-101-to-another", "9110 §7.8", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"),
        refused_switch("upgrade-101-to-more", "9110 §7.8", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket, other\r\n\r\n"),
        refused_switch("upgrade-101-http-1.0", "9110 §15.2", "HTTP/1.0 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        refused_switch("upgrade-101-with-length", "9110 §8.6", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello"),
        not_asked("upgrade-without-option", "9110 §7.8", "Upgrade: websocket\r\n", ""),
        not_asked("upgrade-h2c", "9113 §3.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n", ""),
        not_asked("upgrade-h2c-among-others", "9113 §3.1", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", ""),
        not_asked("upgrade-in-two-fields", "project: one list", "Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: websocket\r\n", ""),
        case("upgrade-with-body", "9110 §7.8")
            .client("POST /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi")
            .origin_gets(format!("{}hi", passed("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n")))
            .origin(OK)
            .client_gets(OK)
            .kept(),
        case("upgrade-of-http-1.0", "9110 §7.8")
            .client("GET /ws HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .origin_gets(crate::case::passed_old("GET /ws HTTP/1.1\r\nHost: a\r\n"))
            .origin(OK)
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .ends(),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        switched("tunnel-client-ends-first", "project: half-close")
            .client("bye")
            .step(Step::ClientEnds)
            .origin_gets("bye")
            .origin_ends()
            .origin("still here")
            .client_gets("still here")
            .step(Step::OriginEnds)
            .step(Step::ClientGetsEnd { reset: Some(false) })
            .ended("ok"),
        switched("tunnel-origin-ends-first", "project: half-close")
            .origin("bye")
            .step(Step::OriginEnds)
            .client_gets("bye")
            .step(Step::ClientGetsEnd { reset: Some(false) })
            .client("still here")
            .origin_gets("still here")
            .step(Step::ClientEnds)
            .origin_ends()
            .ended("ok"),
        switched("tunnel-client-breaks-off", "project: aborts")
            .step(Step::ClientResets)
            .origin_ends()
            .ended("client-closed"),
        switched("tunnel-origin-breaks-off", "project: aborts")
            .step(Step::OriginResets)
            .step(Step::ClientGetsEnd { reset: Some(true) })
            .ended("backend-cut"),
        switched("tunnel-times-out", "project: its own time")
            .under(Setting::ShortTunnel)
            .ends()
            .origin_ends()
            .ended("tunnel-timeout"),
        switched("tunnel-outlasts-other-times", "project: its own time")
            .under(Setting::LongTunnel)
            .step(Step::Silence(Duration::from_millis(1500)))
            .client("x")
            .origin_gets("x")
            .origin("y")
            .client_gets("y"),
        switched("tunnel-outlasts-other-times-half-closed", "project: its own time")
            .under(Setting::LongTunnel)
            .step(Step::ClientEnds)
            .origin_ends()
            .step(Step::Silence(Duration::from_millis(1500)))
            .origin("y")
            .client_gets("y"),
    ]
}
