//! Requests over TLS: of any size, in both versions, with what backends are told.

use std::io::{Read, Write};

use weir_core::plan::{
    Forwarded, ForwardedField, HeaderAction, HeaderRule, Template, TemplatePart, Variable,
};
use weir_relay::Reason;

use super::{Authority, BOTH, EACH, connect, head, send, text};
use crate::support::{Backend, Lab, Setup, pattern, status, until, value};

fn setup(authority: &Authority, backend: &Backend, alpn: &[&str]) -> Setup {
    let mut setup = Setup::http_with(&[backend.at], |http| {
        http.forwarded = Forwarded::Both;
        http.forwarded_fields = vec![ForwardedField::Proto];
        let of_tls = Variable::ALL.iter().filter(|(_, variable)| variable.is_of_tls());
        http.request_headers = of_tls
            .map(|(_, variable)| {
                let name = format!("X-{}", variable.name().replace('.', "-"));
                HeaderRule {
                    name,
                    action: HeaderAction::Set(Template {
                        parts: vec![TemplatePart::Variable(*variable)],
                    }),
                }
            })
            .collect();
    });
    setup.front = Some(authority.front(alpn, |_| {}));
    setup
}

#[test]
fn requests_are_served_and_backends_are_told() {
    for (version, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let lab = Lab::new(setup(&authority, &backend, &["h2", "http/1.1"]));
        let config = authority.client(&["http/1.1"], versions);
        let mut client = connect(&lab, &config, "www.test");
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut there = None;
        for _ in 0..3 {
            // What the client claims of itself is not believed.
            send(
                &mut client,
                "GET / HTTP/1.1\r\nHost: www.test\r\nX-Tls-Sni: liar\r\nX-Forwarded-Proto: http\r\n\r\n",
            );
            let there = there.get_or_insert_with(|| backend.accept());
            let asked = there.head();
            assert_eq!(value(&asked, "x-forwarded-proto").unwrap(), "https");
            assert!(
                value(&asked, "forwarded").unwrap().contains("proto=https"),
                "{asked}"
            );
            assert_eq!(value(&asked, "x-tls-version").unwrap(), version);
            assert!(
                value(&asked, "x-tls-cipher").unwrap().starts_with("TLS_"),
                "{asked}"
            );
            assert_eq!(value(&asked, "x-tls-sni").unwrap(), "www.test");
            assert_eq!(value(&asked, "x-tls-alpn").unwrap(), "http/1.1");
            assert_eq!(value(&asked, "x-tls-resumed").unwrap(), "no");
            there.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!(status(&head(&mut client)), 200);
            assert_eq!(text(&mut client, 5), "hello");
        }
        lab.ended(Reason::Ok, 3);
        let counts = lab.service();
        assert_eq!(counts.handshakes.iter().sum::<u64>(), 1);
        assert_eq!(counts.handshakes[if version == "1.3" { 2 } else { 0 }], 1);
        assert_eq!(counts.handshake.count(), 1);
    }
}

#[test]
fn large_bodies_pass_both_ways_and_nothing_is_lost() {
    const SIZE: usize = 5_000_000;
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let lab = Lab::new(setup(&authority, &backend, &["http/1.1"]));
        let mut client = connect(&lab, &authority.client(&[], versions), "www.test");
        let (there, client) = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let mut there = backend.accept();
                there.head();
                assert!(there.exactly(SIZE) == pattern(0, SIZE, 1));
                there.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                there.send(pattern(0, SIZE, 2));
                there
            });
            send(
                &mut client,
                format!("POST / HTTP/1.1\r\nHost: www.test\r\nContent-Length: {SIZE}\r\n\r\n"),
            );
            send(&mut client, pattern(0, SIZE, 1));
            assert_eq!(status(&head(&mut client)), 200);
            // A client that reads slowly at first: the relay has to wait for it.
            std::thread::park_timeout(super::SHORT);
            let mut all = vec![0; SIZE];
            client.read_exact(&mut all).unwrap();
            assert!(all == pattern(0, SIZE, 2));
            (there.join().unwrap(), client)
        });
        drop((there, client));
        until("nothing is held", || lab.relay.snapshot().held == 0);
    }
}

#[test]
fn a_request_in_pieces_of_a_byte_is_a_request() {
    let (authority, backend) = (Authority::new(), Backend::new());
    let lab = Lab::new(setup(&authority, &backend, &[]));
    let mut client = connect(&lab, &authority.client(&[], BOTH), "www.test");
    for byte in b"GET / HTTP/1.1\r\nHost: www.test\r\n\r\n" {
        send(&mut client, [*byte]);
    }
    let mut there = backend.accept();
    there.head();
    there.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(status(&head(&mut client)), 204);
}

/// The first request comes with the last message of the handshake.
#[test]
fn a_request_right_behind_the_handshake_is_not_lost() {
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let lab = Lab::new(setup(&authority, &backend, &[]));
        let mut client = super::begin(&lab, &authority.client(&[], versions), "www.test");
        client
            .conn
            .writer()
            .write_all(b"GET / HTTP/1.1\r\nHost: www.test\r\n\r\n")
            .unwrap();
        while client.conn.is_handshaking() || client.conn.wants_write() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        let mut there = backend.accept();
        there.head();
        there.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&head(&mut client)), 204);
    }
}

/// What a connection was opened for is what its requests are for (RFC 9110 section 7.4).
#[test]
fn another_host_than_the_name_is_misdirected() {
    let (authority, backend) = (Authority::new(), Backend::new());
    let lab = Lab::new(setup(&authority, &backend, &[]));
    let config = authority.client(&[], BOTH);
    for (host, served) in [
        ("www.test", true),
        ("WWW.test:443", true),
        // A certificate of the service is for it.
        ("a.many.test", true),
        ("other.test", false),
        ("a.b.many.test", false),
        ("127.0.0.1", false),
    ] {
        let mut client = connect(&lab, &config, "www.test");
        send(
            &mut client,
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        );
        if served {
            let mut there = backend.accept();
            there.head();
            there.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
        assert_eq!(
            status(&head(&mut client)),
            if served { 200 } else { 421 },
            "{host}"
        );
    }
    assert!(backend.is_untouched());
    // Who asks for no name is not held to one.
    let mut config = config;
    config.enable_sni = false;
    let mut client = connect(&lab, &config, "www.test");
    send(&mut client, "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n");
    let mut there = backend.accept();
    there.head();
    there.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&head(&mut client)), 200);
}

#[test]
fn sessions_are_taken_up_again() {
    for (version, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let mut setup = setup(&authority, &backend, &[]);
        setup.front = Some(authority.front(&[], |config| {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        }));
        let lab = Lab::new(setup);
        let config = authority.client(&[], versions);
        let at = backend.serve("one");
        assert_ne!(at, lab.at);
        for resumed in [false, true, true] {
            let mut client = connect(&lab, &config, "www.test");
            send(&mut client, "GET / HTTP/1.1\r\nHost: www.test\r\n\r\n");
            assert_eq!(status(&head(&mut client)), 200);
            assert_eq!(text(&mut client, 3), "one");
            let kind = client.conn.handshake_kind().unwrap();
            assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed, "{version}");
        }
        let of = usize::from(version == "1.3") * 2;
        assert_eq!(lab.service().handshakes[of..of + 2], [1, 2]);
    }
}
