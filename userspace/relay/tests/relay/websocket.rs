//! WebSocket handshakes that are looked at: what a backend never sees, what a client is never told, which subprotocols pass.

use weir_core::plan::WebSocket;
use weir_relay::{Cause, Reason};

use crate::support::*;

/// RFC 6455 section 1.3: a key and what it must be answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn lab(backend: &Backend, websocket: WebSocket) -> Lab {
    Lab::new(Setup::http_with(&[backend.at], |http| http.websocket = websocket))
}

fn strict() -> WebSocket {
    WebSocket {
        strict: true,
        protocols: None,
    }
}

fn only(protocols: &[&str]) -> WebSocket {
    WebSocket {
        strict: false,
        protocols: Some(protocols.iter().map(|p| (*p).to_owned()).collect()),
    }
}

/// A handshake with these lines for its key and version.
fn handshake(lines: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n{lines}\r\n"
    )
}

fn good(lines: &str) -> String {
    handshake(&format!(
        "Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{lines}"
    ))
}

fn switch(lines: &str) -> String {
    format!("HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{lines}\r\n")
}

fn accepted(lines: &str) -> String {
    switch(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n{lines}"))
}

#[test]
fn what_is_no_handshake_reaches_no_backend() {
    let backend = Backend::new();
    let lab = lab(&backend, strict());
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let both = format!("{key}{version}");
    let request = |line: &str, lines: &str| format!("{line}\r\nHost: a\r\n{lines}{both}\r\n");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let cases = [
        (handshake(version), 400),
        (handshake(&key), 400),
        (handshake(&format!("{both}{key}")), 400),
        (handshake(&format!("{both}{version}")), 400),
        (
            handshake(&format!("Sec-WebSocket-Key: c2hvcnQ=\r\n{version}")),
            400,
        ),
        (
            handshake(&format!("Sec-WebSocket-Key: {}\r\n{version}", "!".repeat(24))),
            400,
        ),
        (handshake(&format!("Sec-WebSocket-Key:\r\n{version}")), 400),
        (handshake(&format!("{key}Sec-WebSocket-Version: 8\r\n")), 426),
        (handshake(&format!("{key}Sec-WebSocket-Version: 13, 8\r\n")), 426),
        (request("POST /ws HTTP/1.1", upgrade), 400),
        (
            request("POST /ws HTTP/1.1", &format!("{upgrade}Content-Length: 0\r\n")),
            400,
        ),
        (request("GET /ws HTTP/1.0", upgrade), 400),
        (request("GET /ws HTTP/1.1", "Upgrade: websocket\r\n"), 400),
        (
            request("GET /ws HTTP/1.1", "Upgrade: WebSocket\r\nConnection: close\r\n"),
            400,
        ),
        (
            request(
                "GET /ws HTTP/1.1",
                "Upgrade: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            ),
            400,
        ),
    ];
    let count = cases.len() as u64;
    for (request, expected) in cases {
        let mut client = lab.client();
        client.send(&request);
        let head = client.head();
        assert_eq!(status(&head), expected, "{request}");
        if expected == 426 {
            assert_eq!(value(&head, "sec-websocket-version").as_deref(), Some("13"));
            assert_eq!(value(&head, "upgrade").as_deref(), Some("websocket"));
            assert_eq!(value(&head, "connection").as_deref(), Some("close|Upgrade"));
        }
        client.rest();
    }
    assert!(backend.is_untouched());
    until("all have ended", || {
        let ends = lab.service().ends;
        ends[Reason::ClientBadRequest as usize] + ends[Reason::ClientUnsupported as usize] == count
    });
    assert_eq!(lab.service().ends[Reason::ClientUnsupported as usize], 2);
}

#[test]
fn other_requests_and_good_handshakes_pass() {
    let backend = Backend::new();
    let lab = lab(&backend, strict());
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocketx\r\n\r\n".to_owned(),
    ] {
        let mut client = lab.client();
        client.send(&request);
        let mut server = backend.accept();
        server.head();
        server.send("HTTP/1.1 204 N\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().0, 204, "{request}");
    }
    // A first frame in the same segment, on both sides; then each side's end by itself.
    let mut client = lab.client();
    client.send(format!(
        "{}early",
        good("Sec-WebSocket-Protocol: a, b\r\n").replace("websocket\r\nC", "WebSocket\r\nC")
    ));
    let mut server = backend.accept();
    let head = server.head();
    assert_eq!(value(&head, "sec-websocket-protocol").as_deref(), Some("a, b"));
    server.send(format!("{}frame", accepted("Sec-WebSocket-Protocol: b\r\n")));
    assert_eq!(status(&client.head()), 101);
    assert_eq!(client.text(5), "frame");
    assert_eq!(server.text(5), "early");
    client.finish();
    assert_eq!(server.rest(), "");
    server.send("last words");
    drop(server);
    assert_eq!(client.rest(), "last words");
    lab.ended(Reason::Ok, 4);
}

#[test]
fn an_answer_that_is_none_ends_in_502() {
    let bad = [
        switch(""),
        switch("Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        accepted(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")),
        accepted("Sec-WebSocket-Protocol: c\r\n"),
        accepted("Sec-WebSocket-Protocol: a, b\r\n"),
        accepted("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n"),
    ];
    let count = bad.len() as u64;
    let backend = Backend::new();
    let lab = lab(&backend, strict());
    for answer in bad {
        let mut client = lab.client();
        client.send(good("Sec-WebSocket-Protocol: a, b\r\n"));
        let mut server = backend.accept();
        server.head();
        server.send(format!("{answer}frame"));
        let (code, _) = client.response();
        assert_eq!(code, 502, "{answer}");
        server.ends();
    }
    lab.ended(Reason::BackendBadResponse, count);
    assert_eq!(lab.backend(0).errors[Cause::BadResponse as usize], count);
    // Whoever asked for none is told of none.
    let mut client = lab.client();
    client.send(good(""));
    let mut server = backend.accept();
    server.head();
    server.send(accepted("Sec-WebSocket-Protocol: a\r\n"));
    assert_eq!(client.response().0, 502);
    // A refusal of the backend's passes.
    let mut client = lab.client();
    client.send(good(""));
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 403 F\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 403);
}

#[test]
fn only_the_subprotocols_of_the_list_pass() {
    let backend = Backend::new();
    let lab = lab(&backend, only(&["chat", "v2"]));
    let protocol = |list: &str| format!("Sec-WebSocket-Protocol: {list}\r\n");
    for (asked, seen) in [
        (String::new(), None),
        (protocol("chat"), Some("chat")),
        (protocol("x, v2,chat"), Some("v2, chat")),
        (
            protocol("x") + &protocol("v2, y") + &protocol("chat"),
            Some("v2, chat"),
        ),
        // Case counts.
        (protocol("Chat, v2"), Some("v2")),
    ] {
        let mut client = lab.client();
        client.send(good(&asked));
        let mut server = backend.accept();
        let head = server.head();
        assert_eq!(value(&head, "sec-websocket-protocol").as_deref(), seen, "{head}");
        assert_eq!(value(&head, "sec-websocket-key").as_deref(), Some(KEY));
        // Without `strict`, the backend's word for the key is its own affair.
        server.send(switch("Sec-WebSocket-Accept: x\r\n"));
        assert_eq!(status(&client.head()), 101);
    }
    for asked in [protocol("x"), protocol("CHAT, x"), protocol("")] {
        let mut client = lab.client();
        client.send(good(&asked));
        assert_eq!(client.response().0, 400, "{asked}");
    }
    assert!(backend.is_untouched());
    // One that was taken out can't be chosen.
    let mut client = lab.client();
    client.send(good(&protocol("x, chat")));
    let mut server = backend.accept();
    server.head();
    server.send(switch("Sec-WebSocket-Protocol: x\r\n"));
    assert_eq!(client.response().0, 502);
    // What is no handshake keeps its fields.
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: x\r\n\r\n");
    let mut server = backend.accept();
    assert_eq!(
        value(&server.head(), "sec-websocket-protocol").as_deref(),
        Some("x")
    );
}

/// The tunnel's time is its own: none of the times before it ends it.
#[test]
fn no_other_time_ends_a_tunnel() {
    use std::time::{Duration, Instant};
    let short = Duration::from_millis(50);
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.websocket = strict();
        http.timeouts.client = short;
        http.timeouts.server = short;
        http.timeouts.keep_alive = short;
        http.timeouts.request_head = short;
    }));
    let mut client = lab.client();
    client.send(good(""));
    let mut server = backend.accept();
    server.head();
    server.send(accepted(""));
    client.head();
    let began = Instant::now();
    while began.elapsed() < 6 * short {
        std::thread::park_timeout(short);
    }
    client.send("still");
    assert_eq!(server.text(5), "still");
    server.send("here");
    assert_eq!(client.text(4), "here");
}
