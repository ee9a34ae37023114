//! Handshakes that fail: each with what the client sees, and its reason.

use std::io::{ErrorKind, Read, Write};

use rustls::{AlertDescription, Error};
use weir_core::plan::LogFormat;
use weir_relay::Reason;

use super::{Authority, BOTH, begin, connect};
use crate::support::{Backend, Lab, Logged, Setup, status, until};

fn https(authority: &Authority, change: impl FnOnce(&mut rustls::ServerConfig)) -> Setup {
    let mut setup = Setup::http(&[Backend::new().at]);
    setup.front = Some(authority.front(&["http/1.1"], change));
    setup
}

/// The alert that a client's handshake ends with.
fn alert(lab: &Lab, config: &rustls::ClientConfig) -> AlertDescription {
    let mut client = begin(lab, config, "www.test");
    loop {
        match client.conn.complete_io(&mut client.sock) {
            Ok(_) if client.conn.is_handshaking() => {}
            // In TLS 1.3 the client is done before the server has judged.
            Ok(_) => match client.read(&mut [0]) {
                Err(error) => return of(&error),
                Ok(n) => panic!("it was served: {n} bytes"),
            },
            Err(error) => return of(&error),
        }
    }
}

fn of(error: &std::io::Error) -> AlertDescription {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error}"),
    }
}

#[test]
fn plain_http_gets_an_answer_that_can_be_read() {
    let lab = Logged::new(https(&Authority::new(), |_| {}), LogFormat::Json, false);
    let mut client = lab.lab.client();
    client.send("GET / HTTP/1.1\r\nHost: www.test\r\n\r\n");
    let head = client.head();
    assert_eq!(status(&head), 400);
    assert!(client.rest().contains("HTTPS"));
    lab.lab.ended(Reason::TlsPlain, 1);
    let line = lab.last(1);
    assert!(
        line.contains("tls-plain") && line.contains("HTTP in plain text"),
        "{line}"
    );
}

#[test]
fn what_is_no_tls_gets_an_alert() {
    for (bytes, reason) in [
        (&b"\x00\x01\x02\x03 nonsense"[..], Reason::TlsPlain),
        // SSH.
        (b"SSH-2.0-OpenSSH_9.0\r\n", Reason::TlsPlain),
        // A record of a handshake with nonsense in it, and one that is too long.
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Reason::TlsBroken),
        (b"\x16\x03\x01\xff\xffhello", Reason::TlsBroken),
        // ClientHello of nothing.
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Reason::TlsBroken),
    ] {
        let lab = Lab::new(https(&Authority::new(), |_| {}));
        let mut client = lab.client();
        client.send(bytes);
        let mut got = Vec::new();
        client.stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.first(), Some(&21), "{bytes:?} {got:?}");
        lab.ended(reason, 1);
    }
}

#[test]
fn a_hello_that_is_cut_short_has_its_reason() {
    let lab = Lab::new(https(&Authority::new(), |_| {}));
    let mut client = lab.client();
    client.send(b"\x16\x03\x01\x00\xc8\x01\x00");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.ends();
    lab.ended(Reason::TlsBroken, 1);
    // One that said nothing has just gone.
    drop(lab.client());
    lab.ended(Reason::ClientClosed, 1);
}

#[test]
fn a_message_that_never_ends_is_not_held() {
    let lab = Lab::new(https(&Authority::new(), |_| {}));
    let mut client = lab.client();
    // A ClientHello of 15 MiB.
    client.send(b"\x16\x03\x01\x40\x00\x01\xf0\x00\x00");
    let zeros = vec![0; 100_000];
    // It may be over before all is sent.
    let _ = client.stream.write_all(&zeros);
    let _ = client.rest_or_reset();
    lab.ended(Reason::TlsBroken, 1);
}

#[test]
fn a_handshake_has_its_time() {
    let authority = Authority::new();
    let mut setup = Setup::http_with(&[Backend::new().at], |http| {
        http.timeouts.handshake = super::SHORT
    });
    setup.front = Some(authority.front(&[], |_| {}));
    let lab = Lab::new(setup);
    let mut silent = lab.client();
    let mut slow = lab.client();
    slow.send(b"\x16\x03\x01\x00\xc8\x01\x00");
    silent.ends();
    slow.ends();
    lab.ended(Reason::TlsTimeout, 2);
    assert_eq!(lab.relay.snapshot().handshakes, 0);
}

#[test]
fn nothing_in_common_is_an_alert() {
    let authority = Authority::new();
    let lab = Lab::new(https(&authority, |_| {}));
    assert_eq!(
        alert(&lab, &authority.client(&["other"], BOTH)),
        AlertDescription::NoApplicationProtocol
    );
    lab.ended(Reason::TlsUnagreed, 1);
}

#[test]
fn who_does_not_believe_the_certificate_says_so() {
    let lab = Lab::new(https(&Authority::new(), |_| {}));
    let stranger = Authority::new().client(&[], BOTH);
    let mut client = begin(&lab, &stranger, "www.test");
    let failed = loop {
        if let Err(error) = client.conn.complete_io(&mut client.sock) {
            break error;
        }
    };
    assert_eq!(failed.kind(), ErrorKind::InvalidData);
    // Its alert.
    while client.conn.wants_write() {
        client.conn.write_tls(&mut client.sock).unwrap();
    }
    lab.ended(Reason::TlsAlert, 1);
}

#[test]
fn one_handshake_too_many_is_refused() {
    let authority = Authority::new();
    let lab = Lab::new(https(&authority, |_| {}));
    lab.relay.set_handshakes(1);
    // Those that say nothing are in nobody's way, however many they are.
    let silent: Vec<_> = (0..3).map(|_| lab.client()).collect();
    until("they are taken", || lab.relay.snapshot().open == 3);
    let mut first = begin(&lab, &authority.client(&[], BOTH), "www.test");
    let mut hello = Vec::new();
    first.conn.write_tls(&mut hello).unwrap();
    let (begin, rest) = hello.split_at(1);
    first.sock.write_all(begin).unwrap();
    until("it is under way", || lab.relay.snapshot().handshakes == 1);
    let mut another = lab.client();
    another.send([22]);
    another.ends();
    lab.ended(Reason::LimitHandshakes, 1);
    drop(silent);
    first.sock.write_all(rest).unwrap();
    while first.conn.is_handshaking() {
        first.conn.complete_io(&mut first.sock).unwrap();
    }
    until("it is made", || lab.relay.snapshot().handshakes == 0);
    // Those that are made count no more.
    drop(connect(&lab, &authority.client(&[], BOTH), "www.test"));
    first.write_all(b"GET / HTTP/1.1\r\n").unwrap();
}

/// Many at once, some of which go away while they wait for their turn.
#[test]
fn all_get_their_turn() {
    let authority = Authority::new();
    let lab = Lab::new(https(&authority, |_| {}));
    let config = authority.client(&[], BOTH);
    let clients: Vec<_> = (0..40)
        .map(|i| {
            let mut client = begin(&lab, &config, "www.test");
            client.conn.write_tls(&mut client.sock).unwrap();
            (i % 4 != 0).then_some(client)
        })
        .collect();
    for mut client in clients.into_iter().flatten() {
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
    }
    until("all are made", || {
        lab.service().handshakes.iter().sum::<u64>() == 30
    });
    until("none is under way", || lab.relay.snapshot().handshakes == 0);
}
