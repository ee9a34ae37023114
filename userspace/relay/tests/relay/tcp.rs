//! TCP mode: bytes as they are.

use std::{io::Read, time::Duration};

use weir_relay::{Cause, Reason};

use crate::support::*;

#[test]
fn bytes_and_half_closes_both_ways() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp(&[backend.at]));
    // The server speaks first.
    let mut client = lab.client();
    let mut server = backend.accept();
    server.send("220 hello\r\n");
    assert_eq!(client.until("\r\n"), "220 hello\r\n");
    client.send("question");
    client.finish();
    assert_eq!(server.rest(), "question");
    server.send("answer");
    drop(server);
    assert_eq!(client.rest(), "answer");
    lab.ended(Reason::Ok, 1);
    // The other way round.
    let mut client = lab.client();
    let mut server = backend.accept();
    server.send("bye");
    server.finish();
    assert_eq!(client.rest(), "bye");
    client.send("still here");
    client.finish();
    assert_eq!(server.rest(), "still here");
    lab.ended(Reason::Ok, 2);
    let (service, counts) = (lab.service(), lab.backend(0));
    assert_eq!((service.bytes_in, service.bytes_out), (18, 20));
    assert_eq!(
        (
            counts.bytes_out,
            counts.bytes_in,
            counts.connections,
            counts.in_flight
        ),
        (18, 20, 2, 0)
    );
}

#[test]
fn resets_are_carried_across() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp(&[backend.at]));
    let mut client = lab.client();
    client.send("x");
    let mut server = backend.accept();
    server.exactly(1);
    client.reset();
    assert_eq!(server.rest_or_reset(), (String::new(), true));
    lab.ended(Reason::ClientClosed, 1);
    let mut client = lab.client();
    client.send("x");
    let mut server = backend.accept();
    server.exactly(1);
    server.reset();
    assert_eq!(client.rest_or_reset(), (String::new(), true));
    lab.ended(Reason::BackendCut, 1);
}

#[test]
fn the_next_backend_takes_it() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp(&[closed_port(), backend.at]));
    for _ in 0..4 {
        let mut client = lab.client();
        let mut server = backend.accept();
        server.send("hello");
        assert_eq!(client.text(5), "hello");
    }
    assert!(lab.backend(0).errors[Cause::Refused as usize] >= 1);
    let lab = Lab::new(Setup::tcp(&[closed_port()]));
    let mut client = lab.client();
    client.ends();
    lab.ended(Reason::BackendRefused, 1);
    lab.words(DOWN);
    lab.client().ends();
    lab.ended(Reason::NoBackend, 1);
}

#[test]
fn silence_ends_a_tunnel() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp_with(&[backend.at], |tcp| {
        tcp.timeouts.tunnel = Duration::from_millis(200);
    }));
    let mut client = lab.client();
    client.send("x");
    let mut server = backend.accept();
    server.exactly(1);
    server.ends();
    client.ends();
    lab.ended(Reason::TunnelTimeout, 1);
}

#[test]
fn the_limit_on_connections() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp_with(&[backend.at], |tcp| tcp.connections = 1));
    let client = lab.client();
    let server = backend.accept();
    let (bytes, reset) = lab.client().rest_or_reset();
    assert_eq!((bytes.as_str(), reset), ("", true));
    lab.ended(Reason::LimitConnections, 1);
    drop((client, server));
    until("there is room again", || lab.service().open == 0);
    let _client = lab.client();
    backend.accept();
}

/// 64 MiB each way at once, through readers that take their time, byte for byte.
#[test]
fn bulk_both_ways() {
    const SIZE: usize = 64 << 20;
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp(&[backend.at]));
    let client = lab.client().stream;
    let server = backend.accept().stream;
    std::thread::scope(|scope| {
        for (from, to, seed) in [(&client, &server, 1), (&server, &client, 2)] {
            scope.spawn(move || {
                write_pattern(from, SIZE, seed);
                from.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let rest = check_pattern(to, SIZE, seed);
                assert_eq!((&*to).read(&mut [0]).unwrap(), 0, "an end, after {rest} bytes");
            });
        }
    });
    lab.ended(Reason::Ok, 1);
}
