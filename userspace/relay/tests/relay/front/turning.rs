//! From one protocol to another: `Upgrade: h2c`, and WebSocket by extended `CONNECT`.

use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderValue, Request};
use weir_relay::Reason;

use super::{
    client::Client,
    frames::{DATA, END_STREAM, Frames, HEADERS, PREFACE, SETTINGS, frame, get},
};
use crate::support::{Backend, Lab, Setup, value};

const UPGRADE: &str =
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";

#[test]
fn an_upgrade_makes_the_request_the_first_stream() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    for behind in [false, true] {
        let mut raw = lab.client();
        let settings = frame(SETTINGS, 0, 0, &[]);
        let ask = format!("GET /a HTTP/1.1\r\nHost: b.example\r\nX-Y: z\r\n{UPGRADE}\r\n");
        if behind {
            // The preface does not wait for the 101.
            raw.send([ask.as_bytes(), PREFACE, &settings].concat());
        } else {
            raw.send(ask);
        }
        assert_eq!(
            raw.head(),
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        );
        if !behind {
            raw.send([PREFACE, &settings].concat());
        }
        let mut origin = backend.accept();
        assert_eq!(
            origin.head(),
            "GET /a HTTP/1.1\r\nHost: b.example\r\nx-y: z\r\n\r\n"
        );
        origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        let mut client = Frames(raw);
        let head = client.until(HEADERS);
        assert_eq!((head.stream, head.flags & END_STREAM), (1, 0));
        let data = client.until(DATA);
        assert_eq!((data.stream, &data.payload[..]), (1, &b"ok"[..]));
        // And the next one.
        client.send(get(3));
        let mut origin = backend.accept();
        origin.head();
        origin.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let head = client.until(HEADERS);
        assert_eq!((head.stream, head.flags & END_STREAM), (3, END_STREAM));
    }
    lab.ended(Reason::Ok, 4);
}

#[test]
fn an_upgrade_that_is_not_followed() {
    let check = |setup: fn(&mut weir_core::plan::Http), ask: &str| {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], setup));
        let mut raw = lab.client();
        raw.send(ask);
        let mut origin = backend.accept();
        let head = origin.head();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(value(&head, name), None, "{head}");
        }
        origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(raw.response(), (200, "ok".into()), "{ask}");
    };
    let ask = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    check(|http| http.http2.upgrade = false, &ask(UPGRADE));
    check(|http| http.http2.enabled = false, &ask(UPGRADE));
    check(
        |_| {},
        &ask("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"),
    );
    check(
        |_| {},
        &ask("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: ***\r\n"),
    );
    check(
        |_| {},
        &ask("Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
    );
    let body = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n{UPGRADE}\r\nx");
    check(|_| {}, &body);
}

#[test]
fn no_preface_behind_an_upgrade() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut raw = lab.client();
    raw.send(format!("GET /a HTTP/1.1\r\nHost: b.example\r\n{UPGRADE}\r\n"));
    raw.head();
    raw.send("GET /smuggled HTTP/1.1\r\nHost: b.example\r\n\r\n");
    raw.rest_or_reset();
    crate::support::until("it is closed", || lab.service().open == 0);
}

fn websocket() -> Request<()> {
    let mut request = Request::connect("http://a.example/chat").body(()).unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let headers = request.headers_mut();
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    request
}

/// The proof of RFC 6455 section 4.2.2.
fn accept(key: &str) -> String {
    use sha1::Digest;
    let hash = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash)
}

#[test]
fn websocket_by_extended_connect() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut asked = client.ask(websocket(), false);
    let mut origin = backend.accept();
    let head = origin.head();
    assert!(
        head.starts_with("GET /chat HTTP/1.1\r\nHost: a.example\r\n"),
        "{head}"
    );
    assert_eq!(value(&head, "upgrade").as_deref(), Some("websocket"));
    assert_eq!(value(&head, "connection").as_deref(), Some("Upgrade"));
    assert_eq!(value(&head, "sec-websocket-protocol").as_deref(), Some("chat"));
    let key = value(&head, "sec-websocket-key").unwrap();
    origin.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\nfirst",
        accept(&key)
    ));
    let response = asked.head().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let mut body = response.into_body();
    let mut read = |count: usize| {
        let mut have = Vec::new();
        while have.len() < count {
            let data = client.wait(body.data()).unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            have.extend_from_slice(&data);
        }
        have
    };
    assert_eq!(read(5), b"first");
    asked.send(Bytes::from_static(b"to the backend"), false);
    assert_eq!(origin.text(14), "to the backend");
    origin.send("and back");
    assert_eq!(read(8), b"and back");
    // Each side ends by itself.
    asked.send(Bytes::new(), true);
    assert_eq!(origin.rest(), "");
    origin.send("last words");
    assert_eq!(read(10), b"last words");
    drop(origin);
    while let Some(data) = client.wait(body.data()) {
        assert_eq!(data.unwrap(), "");
    }
    lab.ended(Reason::Ok, 1);
}

#[test]
fn a_backend_that_does_not_switch() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked = client.ask(websocket(), false);
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let answer = asked.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (403, "no"));
    // Nor one that has not read the key.
    let asked = client.ask(websocket(), false);
    origin.head();
    origin.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    assert_eq!(asked.answer().unwrap().status, 502);
    lab.ended(Reason::BackendBadResponse, 1);
    // Nor one that has not looked at `Upgrade` at all: to the client any success means that the WebSocket is open.
    let asked = client.ask(websocket(), false);
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
    assert_eq!(asked.answer().unwrap().status, 502);
    lab.ended(Reason::BackendBadResponse, 2);
    // Nor another protocol than WebSocket.
    let mut other = websocket();
    other
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    assert_eq!(client.ask(other, false).answer().unwrap().status, 501);
}

#[test]
fn a_tunnel_has_its_time() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.wire.connect = true;
        http.timeouts.tunnel = Duration::from_millis(300);
    }));
    let client = Client::connect(lab.at);
    let mut asked = client.ask(Request::connect("a.example:443").body(()).unwrap(), false);
    let mut origin = backend.accept();
    assert!(origin.head().starts_with("CONNECT a.example:443 HTTP/1.1\r\n"));
    origin.send("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(asked.head().unwrap().status(), 200);
    asked.send("ping", false);
    assert_eq!(origin.text(4), "ping");
    assert_eq!(asked.reset_code(), h2::Reason::CANCEL);
    lab.ended(Reason::TunnelTimeout, 1);
}

/// Its own bytes have ended, and it wants no more of the other side's: nobody waits for the backend to say something.
#[test]
fn a_tunnel_ends_with_its_stream() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| http.wire.connect = true));
    let client = Client::connect(lab.at);
    let mut asked = client.ask(Request::connect("a.example:443").body(()).unwrap(), false);
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(asked.head().unwrap().status(), 200);
    asked.send("bye", true);
    assert_eq!(origin.text(3), "bye");
    asked.reset(h2::Reason::CANCEL);
    lab.ended(Reason::ClientClosed, 1);
}
