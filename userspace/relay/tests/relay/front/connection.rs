//! Connections: how they begin, how long they are kept, how they end.

use std::time::Duration;

use weir_core::plan;
use weir_relay::Reason;

use super::{
    client::Client,
    frames::{DATA, END_STREAM, Frames, GET, GOAWAY, HEADERS, PREFACE, SETTINGS, block, frame, get},
};
use crate::support::{Backend, Lab, Raw, Setup, status, until};

#[test]
fn a_preface_may_come_byte_by_byte() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut raw = Raw::connect(lab.at);
    for byte in [PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1)].concat() {
        raw.send([byte]);
    }
    let mut origin = backend.accept();
    assert_eq!(origin.head(), "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    let mut client = Frames(raw);
    assert_eq!(client.until(HEADERS).flags & END_STREAM, END_STREAM);
}

#[test]
fn a_service_may_have_none_of_it() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| http.http2.enabled = false));
    let mut raw = lab.client();
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    assert_eq!(status(&raw.head()), 505);
    lab.ended(Reason::ClientUnsupported, 1);
    assert!(backend.is_untouched());
}

#[test]
fn what_only_begins_like_it() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    for (head, expected) in [
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505),
        ("PRINT / HTTP/1.1\r\n\r\n", 400),
    ] {
        let mut raw = lab.client();
        raw.send(head);
        assert_eq!(status(&raw.head()), expected, "{head:?}");
    }
    // Nor behind another request.
    let mut raw = lab.client();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(status(&raw.head()), 204);
    raw.send(PREFACE);
    assert_eq!(status(&raw.head()), 505);
}

#[test]
fn an_idle_connection_is_told_goodbye() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.keep_alive = Duration::from_millis(200);
    }));
    let client = Client::connect(lab.at);
    let asked = client.get("/");
    let mut origin = backend.accept();
    origin.head();
    // Not idle while a request is under way, however long.
    std::thread::park_timeout(Duration::from_millis(600));
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 204);
    client.ended().unwrap();
    until("it is closed", || lab.service().open == 0);
    lab.ended(Reason::Ok, 1);
    assert_eq!(lab.service().ends.iter().sum::<u64>(), 1);
}

#[test]
fn a_head_has_its_time() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.request_head = Duration::from_millis(300);
    }));
    // No request at all.
    let mut silent = Frames::connect(lab.at);
    silent.until(GOAWAY);
    lab.ended(Reason::ClientTimeoutHead, 1);
    // A head without its end.
    let mut slow = Frames::connect(lab.at);
    slow.send(frame(HEADERS, END_STREAM, 1, &block(&GET)));
    slow.until(GOAWAY);
    lab.ended(Reason::ClientTimeoutHead, 2);
    // No settings.
    let mut mute = lab.client();
    mute.send(PREFACE);
    mute.rest_or_reset();
    until("all are closed", || lab.service().open == 0);
    assert!(backend.is_untouched());
}

#[test]
fn a_body_has_its_time() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.client = Duration::from_millis(300);
    }));
    let client = Client::connect(lab.at);
    let mut asked = client.ask(super::client::post("/"), false);
    asked.send("half", false);
    assert_eq!(asked.answer().unwrap().status, 408);
    lab.ended(Reason::ClientTimeout, 1);
    drop(backend);
}

#[test]
fn a_drain_finishes_what_has_begun() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked = client.get("/");
    let mut origin = backend.accept();
    origin.head();
    std::thread::scope(|scope| {
        let drain = || client_runtime().block_on(lab.relay.drain(Duration::from_secs(20)));
        let waiter = scope.spawn(drain);
        // It is told to ask for no more, and what it has asked for is served.
        client.refuses_more();
        origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(asked.answer().unwrap().text(), "ok");
        assert_eq!(waiter.join().unwrap(), 0);
    });
    client.ended().unwrap();
}

#[test]
fn a_drain_cuts_what_takes_too_long() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked = client.get("/");
    let mut origin = backend.accept();
    origin.head();
    let cut = client_runtime().block_on(lab.relay.drain(Duration::from_millis(200)));
    assert_eq!(cut, 1);
    assert!(asked.answer().is_err());
    lab.ended(Reason::Drained, 1);
}

fn client_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn no_more_streams_than_allowed() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.http2 = plan::ClientHttp2 {
            streams: 2,
            ..plan::ClientHttp2::default()
        };
    }));
    let mut client = Frames::connect(lab.at);
    client.send([frame(SETTINGS, 1, 0, &[]), get(1), get(3), get(5)].concat());
    assert_eq!(client.refused(), (3, 7), "REFUSED_STREAM");
    let mut first = backend.accept();
    first.head();
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.until(DATA).payload, b"ok");
    client.send(get(7));
    backend.accept();
}

#[test]
fn connections_and_streams_are_told_apart() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked: Vec<_> = (0..3).map(|_| client.get("/")).collect();
    let mut origins: Vec<_> = (0..3).map(|_| backend.accept()).collect();
    origins.iter_mut().for_each(|origin| drop(origin.head()));
    let mut old = lab.client();
    old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut fourth = backend.accept();
    fourth.head();
    until("three streams of two connections", || {
        let counts = lab.service();
        (counts.open, counts.http2, counts.http2_open, counts.http2_streams) == (2, 1, 1, 3)
            && lab.relay.snapshot().streams == 3
    });
    for origin in &mut origins {
        origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    }
    for asked in asked {
        assert_eq!(asked.answer().unwrap().status, 204);
    }
    drop(client);
    until("they are gone", || {
        let counts = lab.service();
        (counts.open, counts.http2, counts.http2_open, counts.http2_streams) == (1, 1, 0, 0)
    });
}

/// Streams of all connections count against one bound; who is refused is told, and its connection stays.
#[test]
fn all_connections_share_one_limit_of_streams() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    lab.relay.set_streams(2);
    let (one, other) = (Client::connect(lab.at), Client::connect(lab.at));
    let (first, second) = (one.get("/"), other.get("/"));
    let mut origins = [backend.accept(), backend.accept()];
    origins.iter_mut().for_each(|origin| drop(origin.head()));
    let mut refused = one.ask(super::client::post("/"), false);
    assert_eq!(refused.head().unwrap().status(), 503);
    drop(refused);
    lab.ended(Reason::LimitTotal, 1);
    for origin in &mut origins {
        origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    }
    assert_eq!(first.answer().unwrap().status, 204);
    assert_eq!(second.answer().unwrap().status, 204);
    until("there is room", || lab.relay.snapshot().streams == 0);
    let again = one.get("/");
    let served = origins.iter_mut().find(|origin| {
        let _ = origin.stream.set_nonblocking(true);
        let came = (0..400).any(|_| {
            std::thread::park_timeout(Duration::from_millis(1));
            origin.peeks()
        });
        let _ = origin.stream.set_nonblocking(false);
        came
    });
    let origin = served.unwrap();
    origin.head();
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(again.answer().unwrap().status, 204);
}
