//! Flow control: who does not take holds up who sends, and nobody else.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use h2::client::Builder;
use weir_core::{
    ids::PoolName,
    plan::{Conditions, PathPattern, Relayed, Rule, RuleAction},
};
use weir_relay::Reason;

use super::client::{Client, post};
use crate::support::{Backend, Lab, Setup, check_pattern, pattern, until, write_pattern};

const LARGE: usize = 12 << 20;

/// The window of a request, by default.
const WINDOW: usize = 64 << 10;

#[test]
fn large_bodies_both_ways() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut request = post("/up");
    request.headers_mut().insert("content-length", LARGE.into());
    let mut asked = client.ask(request, false);
    let mut origin = backend.accept();
    let up = pattern(0, LARGE, 1);
    let sender = {
        let mut send = std::mem::replace(&mut asked.send, asked_nothing(&client));
        client.runtime.spawn(async move {
            let mut left = Bytes::from(up);
            while !left.is_empty() {
                send.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx))
                    .await
                    .unwrap()
                    .unwrap();
                let piece = left.split_to(room.min(left.len()));
                send.send_data(piece, left.is_empty()).unwrap();
            }
        })
    };
    origin.head();
    assert_eq!(origin.take(LARGE, 1), LARGE);
    origin.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
    let stream = origin.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || write_pattern(&stream, LARGE, 2));
    let answer = asked.answer().unwrap();
    assert!(answer.body == pattern(0, LARGE, 2));
    writer.join().unwrap();
    client.wait(sender).unwrap();
    lab.ended(Reason::Ok, 1);
    until("nothing is held", || lab.relay.snapshot().held == 0);
}

/// A send half that is never used.
fn asked_nothing(client: &Client) -> h2::SendStream<Bytes> {
    let mut asked = client.ask(post("/unused"), true);
    drop(asked.response.take());
    asked.send
}

#[test]
fn a_client_that_does_not_read_holds_up_its_backend_alone() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::with(
        lab.at,
        Builder::new()
            .initial_window_size(64 << 10)
            .initial_connection_window_size(1 << 20),
    );
    let mut slow = client.get("/slow");
    let mut origin = backend.accept();
    origin.head();
    origin.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        256 << 20
    ));
    let mut head = slow.head().unwrap();
    // The backend is held up after what buffers and windows take.
    origin
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let piece = vec![0; 1 << 20];
    let mut taken = 0;
    while taken < 256 << 20 {
        match (&origin.stream).write(&piece) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    assert!(
        taken < 64 << 20,
        "{taken} bytes were taken for a client that reads none"
    );
    assert!(lab.relay.snapshot().held < 4 << 20);
    // Another stream of the same connection goes its way.
    let asked = client.get("/quick");
    let mut other = backend.accept();
    other.head();
    other.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(asked.answer().unwrap().text(), "ok");
    // And the slow one goes on when it is read.
    let data = client.wait(head.body_mut().data()).unwrap().unwrap();
    assert!(!data.is_empty());
}

#[test]
fn a_backend_that_does_not_read_holds_up_its_client_alone() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut asked = client.ask(post("/slow"), false);
    let mut origin = backend.accept();
    origin.head();
    let mut sent = 0;
    let piece = Bytes::from(vec![0; 64 << 10]);
    loop {
        asked.send.reserve_capacity(piece.len());
        let send = &mut asked.send;
        let room = client.runtime.block_on(async {
            let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx));
            tokio::time::timeout(Duration::from_millis(500), capacity).await
        });
        let Ok(room) = room else { break };
        let room = room.unwrap().unwrap().min(piece.len());
        asked.send(piece.slice(..room), false);
        sent += room;
        assert!(
            sent < 64 << 20,
            "{sent} bytes were taken for a backend that reads none"
        );
    }
    until("what has come is held", || {
        lab.relay.snapshot().held >= WINDOW as u64
    });
    let other = client.get("/quick");
    let mut quick = backend.accept();
    quick.head();
    quick.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(other.answer().unwrap().text(), "ok");
    drop(origin);
    lab.ended(Reason::BackendClosedEarly, 1);
    until("nothing is held", || lab.relay.snapshot().held == 0);
}

/// The pattern is checked on the connection's own bytes, past what was read of them.
trait Take {
    fn take(&mut self, total: usize, seed: u64) -> usize;
}

impl Take for crate::support::Raw {
    fn take(&mut self, total: usize, seed: u64) -> usize {
        let ahead = self.take_ahead();
        assert!(ahead == pattern(0, ahead.len(), seed));
        if ahead.is_empty() {
            return check_pattern(&self.stream, total, seed);
        }
        let rest = self.exactly(total - ahead.len());
        assert!(rest == pattern(ahead.len(), rest.len(), seed));
        total
    }
}

/// Requests that wait for a backend leave room for others: their windows fill, the connection's does not. What they hold
/// counts, until it is gone.
#[test]
fn requests_that_wait_hold_up_nobody_else() {
    const WAITING: usize = 30;
    let busy = Backend::new();
    let mut setup = Setup::http_with(&[busy.at], |http| {
        http.rules = vec![Rule {
            conditions: Conditions {
                path_prefix: vec![PathPattern::new("/other")],
                ..Conditions::default()
            },
            action: RuleAction::Relay(Relayed {
                pool: Some(PoolName::new("other")),
                rewrite: None,
            }),
        }];
    });
    setup.connections.max = Some(1);
    let free = Backend::new();
    setup.others = vec![("other", vec![free.at])];
    let lab = Lab::new(setup);
    let client = Client::connect(lab.at);
    let first = client.get("/");
    let mut origin = busy.accept();
    origin.head();
    let mut waiting: Vec<_> = (0..WAITING).map(|_| client.ask(post("/"), false)).collect();
    for asked in &mut waiting {
        let mut sent = 0;
        while sent < WINDOW {
            asked.send.reserve_capacity(WINDOW - sent);
            let send = &mut asked.send;
            let room = client
                .wait(std::future::poll_fn(|cx| send.poll_capacity(cx)))
                .unwrap()
                .unwrap();
            asked.send(vec![0; room], false);
            sent += room;
        }
    }
    let all = (WAITING * WINDOW) as u64;
    until("what waits is held", || lab.relay.snapshot().held == all);
    let mut request = post("/other");
    request.headers_mut().insert("content-length", 5.into());
    let mut other = client.ask(request, false);
    other.send("hello", true);
    let mut quick = free.accept();
    quick.head();
    assert_eq!(quick.exactly(5), b"hello");
    quick.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(other.answer().unwrap().status, 204);
    drop(waiting);
    until("nothing is held", || lab.relay.snapshot().held == 0);
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(first.answer().unwrap().status, 204);
}

/// What is held is what has come, not what may come; also of requests that no backend has.
#[test]
fn no_more_is_held_than_has_come() {
    let busy = Backend::new();
    let mut setup = Setup::http(&[busy.at]);
    setup.connections.max = Some(1);
    let lab = Lab::new(setup);
    let client = Client::connect(lab.at);
    let first = client.get("/");
    let mut origin = busy.accept();
    origin.head();
    let mut asked = client.ask(post("/"), false);
    until("it waits", || lab.pool().queued == 1);
    assert_eq!(lab.relay.snapshot().held, 0);
    asked.send("hello", false);
    until("what waits is held", || lab.relay.snapshot().held == 5);
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(first.answer().unwrap().status, 204);
    origin.head();
    // It has its backend, and nothing more to give it yet.
    assert_eq!(origin.until("\r\n"), "5\r\n");
    assert_eq!(origin.exactly(7), b"hello\r\n");
    until("nothing is held", || lab.relay.snapshot().held == 0);
    asked.send("", true);
    assert_eq!(origin.text(5), "0\r\n\r\n");
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 204);
}

/// A connection that brings more than the worker may hold ends; nobody else's does.
#[test]
fn what_comes_is_bounded_for_all_together() {
    const MOST: u64 = 4 * WINDOW as u64;
    let busy = Backend::new();
    let mut setup = Setup::http(&[busy.at]);
    setup.connections.max = Some(1);
    let lab = Lab::new(setup);
    lab.relay.set_memory(MOST);
    let quiet = Client::connect(lab.at);
    let first = quiet.get("/");
    let mut origin = busy.accept();
    origin.head();
    let client = Client::connect(lab.at);
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut asked = client.ask(post("/"), false);
            asked.send(vec![0; WINDOW / 2], false);
            asked
        })
        .collect();
    until("as much as may be is held", || lab.relay.snapshot().held == MOST);
    assert_eq!(lab.pool().queued, 8);
    let mut more = client.ask(post("/"), false);
    more.send(vec![0], false);
    for asked in waiting.into_iter().chain([more]) {
        assert!(asked.answer().is_err());
    }
    let error = client.ended().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{error}");
    until("nothing is held", || lab.relay.snapshot().held == 0);
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(first.answer().unwrap().status, 204);
    lab.ended(Reason::LimitMemory, 10);
}
