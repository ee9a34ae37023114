//! What goes wrong on either side, and what the other side gets to see of it.

use std::time::{Duration, Instant};

use weir_core::plan::Balance;
use weir_relay::{Cause, Reason};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_head_that_does_not_end() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.request_head = SHORT
    }));
    let mut client = lab.client();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost:");
    assert_eq!(client.response().0, 408);
    let took = begun.elapsed();
    assert!(took >= SHORT, "{took:?}");
    client.finish();
    client.ends();
    lab.ended(Reason::ClientTimeoutHead, 1);
    // A client that says nothing at all is told nothing.
    let mut silent = lab.client();
    assert_eq!(silent.rest(), "");
    assert!(backend.is_untouched());
}

#[test]
fn a_request_body_that_does_not_come() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.client = SHORT
    }));
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    let mut server = backend.accept();
    server.head();
    assert_eq!(client.response().0, 408);
    assert_eq!(server.rest_or_reset().0, "he");
    lab.ended(Reason::ClientTimeout, 1);
}

#[test]
fn a_backend_that_does_not_answer() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.server = SHORT
    }));
    let mut client = lab.client();
    let begun = Instant::now();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    assert_eq!(client.response().0, 504);
    assert!(begun.elapsed() >= SHORT);
    server.ends();
    lab.ended(Reason::BackendTimeoutResponse, 1);
    assert_eq!(lab.backend(0).errors[Cause::Timeout as usize], 1);
    // The client may go on.
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    // Half a head, then silence.
    server.send("HTTP/1.1 200 OK\r\nConte");
    assert_eq!(client.response().0, 504);
}

#[test]
fn a_backend_that_falls_silent_in_its_response() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.server = SHORT
    }));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.head();
    assert_eq!(client.rest_or_reset().0, "hello");
    lab.ended(Reason::BackendTimeout, 1);
}

#[test]
fn a_refused_connection_is_another_backends_turn() {
    let backend = Backend::new();
    let (dead, alive) = (closed_port(), backend.at);
    let lab = Lab::new(Setup::http(&[dead, alive]));
    let mut client = lab.client();
    let mut server = None;
    for _ in 0..4 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        let server = server.get_or_insert_with(|| backend.accept());
        server.head();
        assert_eq!(server.text(4), "body");
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().0, 200);
    }
    assert_eq!(lab.backend(0).errors[Cause::Refused as usize], 2);
    assert_eq!(lab.service().retries, 2);
    lab.ended(Reason::Ok, 4);
}

#[test]
fn all_backends_refuse() {
    let lab = Lab::new(Setup::http(&[closed_port(), closed_port()]));
    let mut client = lab.client();
    for i in 1..=2 {
        client.send(GET);
        assert_eq!(client.response().0, 503);
        lab.ended(Reason::BackendRefused, i);
    }
    assert_eq!(lab.backend(0).errors[Cause::Refused as usize], 2);
    assert_eq!(lab.backend(1).errors[Cause::Refused as usize], 2);
}

#[test]
fn no_backend_is_up() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    lab.words(DOWN);
    let mut client = lab.client();
    client.send(GET);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::NoBackend, 1);
    // The request body is read before the connection is trusted with another request.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
    let head = client.head();
    assert_eq!(value(&head, "connection").as_deref(), Some("close"));
    assert!(backend.is_untouched());
}

#[test]
fn a_backend_that_is_checked_for_the_first_time_is_waited_for() {
    let backend = Backend::new();
    let lab = Lab::pending(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    until("the request is read", || lab.service().requests == 1);
    lab.words(UP);
    backend.accept().head();

    let lab = Lab::pending(Setup::http_with(&[backend.at], |http| {
        http.timeouts.queue = SHORT
    }));
    let mut client = lab.client();
    let begun = Instant::now();
    client.send(GET);
    assert_eq!(client.response().0, 503);
    assert!(begun.elapsed() >= SHORT);
    // It turns out to be down: no use in waiting on.
    let lab = Lab::pending(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    until("the request is read", || lab.service().requests == 1);
    lab.words(DOWN);
    assert_eq!(client.response().0, 503);
}

#[test]
fn a_pool_without_checks_is_up() {
    let backend = Backend::new();
    let mut setup = Setup::http(&[backend.at]);
    setup.checked = false;
    let lab = Lab::pending(setup);
    lab.client().send(GET);
    backend.accept().head();
}

#[test]
fn backups_and_weights() {
    let (a, b, backup) = (Backend::new(), Backend::new(), Backend::new());
    let mut setup = Setup::http(&[a.at, b.at, backup.at]);
    setup.backends[0].1 = 3;
    setup.backends[2].2 = true;
    let addresses = [a.serve("a"), b.serve("b"), backup.serve("c")];
    assert_eq!(setup.backends.len(), addresses.len());
    let lab = Lab::new(setup);
    let mut client = lab.client();
    let mut ask = |count| {
        let mut names = String::new();
        for _ in 0..count {
            client.send(GET);
            names += &client.response().1;
        }
        names
    };
    let names = ask(40);
    assert_eq!((names.matches('a').count(), names.matches('b').count()), (30, 10));
    let keys = lab.setup.keys();
    lab.relay.set_words(&[(keys[0].clone(), DOWN)]);
    assert_eq!(ask(5), "bbbbb");
    lab.relay.set_words(&[(keys[1].clone(), DOWN)]);
    assert_eq!(ask(5), "ccccc");
    lab.relay.set_words(&[(keys[0].clone(), UP)]);
    assert_eq!(ask(5), "aaaaa");
}

#[test]
fn the_least_loaded_backend_is_chosen() {
    let (a, b) = (Backend::new(), Backend::new());
    let mut setup = Setup::http(&[a.at, b.at]);
    setup.balance = Balance::LeastConnections;
    let lab = Lab::new(setup);
    let mut busy = lab.client();
    busy.send(GET);
    until("one is busy", || {
        lab.backend(0).in_flight + lab.backend(1).in_flight == 1
    });
    let (free, free_index) = if lab.backend(0).in_flight == 1 {
        (&b, 1)
    } else {
        (&a, 0)
    };
    let mut client = lab.client();
    client.send(GET);
    let mut server = free.accept();
    for _ in 0..5 {
        server.head();
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().0, 200);
        client.send(GET);
    }
    until("all went there", || lab.backend(free_index).requests == 6);
}

/// A pooled connection that ends just as it is used again.
#[test]
fn a_stale_connection_costs_no_request_that_may_be_sent_twice() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 200);
    // It takes the request and hangs up without a word.
    client.send(GET);
    server.head();
    drop(server);
    let mut server = backend.accept();
    assert!(server.head().starts_with("GET / "));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response(), (200, "ok".into()));
    assert_eq!(lab.backend(0).errors[Cause::Stale as usize], 1);
    // A POST may have been carried out: it is not sent again.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    server.head();
    drop(server);
    assert_eq!(client.response().0, 502);
    lab.ended(Reason::BackendClosedEarly, 1);
    assert!(backend.is_untouched());
}

/// A pooled connection that ended while it was idle is not used at all, by any method.
#[test]
fn a_connection_that_ended_while_idle_is_not_used() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 200);
    until("it is idle", || lab.backend(0).idle == 1);
    drop(server);
    until("it is noticed", || lab.backend(0).idle == 0);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let mut server = backend.accept();
    server.head();
    assert_eq!(server.text(1), "x");
    assert_eq!(lab.backend(0).errors.iter().sum::<u64>(), 0);
}

#[test]
fn a_backend_that_closes_before_it_answers() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    for part in ["", "HTTP/1.1 200 OK\r\nCont"] {
        let mut client = lab.client();
        client.send(GET);
        let mut server = backend.accept();
        server.head();
        server.send(part);
        drop(server);
        assert_eq!(client.response().0, 502);
    }
    lab.ended(Reason::BackendClosedEarly, 2);
}

/// What was cut off must not look whole.
#[test]
fn a_response_that_breaks_off() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (framing, http, reset) in [
        ("Content-Length: 10\r\n\r\nhello", "1.1", false),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.1", false),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.0", true),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let mut client = lab.client();
        client.send(format!("GET / HTTP/{http}\r\nHost: a\r\n\r\n"));
        let mut server = backend.accept();
        server.head();
        server.send(format!("{head}{framing}"));
        client.head();
        until("the first part is relayed", || lab.service().bytes_out > 40 + 5);
        drop(server);
        let (rest, was_reset) = client.rest_or_reset();
        assert!(!rest.contains("0\r\n\r\n"));
        assert!(
            was_reset || !reset,
            "{framing} {http}: only a reset tells that client"
        );
        lab.ended(Reason::BackendCut, 1);
    }
    // By a reset of the backend, a body that the end of the connection would have ended.
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(format!("{head}\r\nhello"));
    client.head();
    assert_eq!(client.until("hello\r\n"), "5\r\nhello\r\n");
    server.reset();
    assert_eq!(client.rest_or_reset().0, "");
    lab.ended(Reason::BackendCut, 1);
}

#[test]
fn a_client_that_goes_away() {
    // In its request body.
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    for fields in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut client = lab.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        let mut server = backend.accept();
        server.head();
        client.send("5\r\nhe");
        server.exactly(2);
        drop(client);
        let (rest, _) = server.rest_or_reset();
        assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
    }
    lab.ended(Reason::ClientClosed, 2);
    // In its head.
    let mut client = lab.client();
    client.send("GET / HTT");
    client.finish();
    client.ends();
    lab.ended(Reason::ClientClosed, 3);
    // While it waits for its response: the backend need not go on.
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    client.reset();
    server.ends();
    lab.ended(Reason::ClientClosed, 4);
    // While it is sent its response: the backend is not made to produce the rest.
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    client.head();
    client.reset();
    let block = vec![b'x'; 64 << 10];
    let deadline = Instant::now() + PATIENCE;
    while std::io::Write::write_all(&mut server.stream, &block).is_ok() {
        assert!(Instant::now() < deadline, "the backend is read on and on");
    }
    lab.ended(Reason::ClientClosed, 5);
}

#[test]
fn a_client_that_does_not_read() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.client = SHORT
    }));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    let block = vec![b'x'; 64 << 10];
    let deadline = Instant::now() + PATIENCE;
    while std::io::Write::write_all(&mut server.stream, &block).is_ok() {
        assert!(Instant::now() < deadline, "the backend is read on and on");
    }
    lab.ended(Reason::ClientTimeout, 1);
}

#[test]
fn a_backend_that_never_accepts() {
    // A full queue of a listener that nobody serves drops the handshake's last step: connecting takes for ever.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into())
        .unwrap();
    full.listen(0).unwrap();
    let at = full.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    loop {
        let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let connected = filler.connect_timeout(&at.into(), Duration::from_millis(200));
        fillers.push(filler);
        if connected.is_err() {
            break;
        }
        assert!(fillers.len() < 100, "the queue is never full");
    }
    let lab = Lab::new(Setup::http_with(&[at], |http| http.timeouts.connect = SHORT));
    let mut client = lab.client();
    let begun = Instant::now();
    client.send(GET);
    assert_eq!(client.response().0, 504);
    assert!(begun.elapsed() >= SHORT);
    lab.ended(Reason::BackendTimeoutConnect, 1);
}

/// The clock goes on as long as anything is open: here it stands still but for the one connection, and the deadline has
/// been put off more than once before it passes.
#[test]
fn a_lone_connection_is_timed_out_after_more_than_one_look() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.request_head = SHORT;
        http.timeouts.server = Duration::from_millis(2500);
        http.timeouts.keep_alive = SHORT;
    }));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    assert_eq!(client.response().0, 504);
    // Nor has the answer stopped it.
    client.ends();
    lab.ended(Reason::BackendTimeoutResponse, 1);
}
