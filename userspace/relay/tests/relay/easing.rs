//! Connections that have asked nothing when connections are eased out: those that were opened in advance, by a browser or by
//! a proxy in front. Their own times are too long to end them in any of these tests.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use weir_core::plan::{IpNet, LogFormat, Mode, Passthrough, ProxyIn};

use crate::{
    support::*,
    tls::{Authority, BOTH, EACH, begin, connect, send},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// An HTTP/2 client's preface, and no settings of its own.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A GET for `/` at `a` on stream 1, whole.
const STREAM: &[u8] = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";
const GOAWAY: u8 = 7;
const HEADERS: u8 = 1;

/// How long a connection may be silent (`worker::end`).
const SILENCE: Duration = Duration::from_secs(1);
/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(3600);

fn patient(mut setup: Setup) -> Setup {
    let timeouts = match &mut setup.mode {
        Mode::Http(http) => &mut http.timeouts,
        Mode::Tcp(tcp) => &mut tcp.timeouts,
        Mode::L4(_) => unreachable!("not the relay's"),
    };
    (timeouts.request_head, timeouts.handshake) = (LONG, LONG);
    setup
}

fn http(backend: &Backend) -> Setup {
    patient(Setup::http(&[backend.at]))
}

fn https(backend: &Backend, authority: &Authority, alpn: &[&str]) -> Setup {
    let mut setup = http(backend);
    setup.front = Some(authority.front(alpn, |_| {}));
    setup
}

/// Has connections eased out, and answers how many of those that were open did not end.
fn ease(lab: &Lab, within: Duration) -> u64 {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(lab.relay.ease(within))
}

/// The same, and does not wait for their end.
fn begin_to_ease(lab: &Lab) {
    ease(lab, Duration::ZERO);
}

fn is_open(lab: &Lab) {
    until("the connection is in", || lab.service().open == 1);
}

/// The frames of HTTP/2 in what has come, as far as they are whole: kinds, and what they carry.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push((head[3], payload));
        bytes = rest;
    }
    frames
}

/// It was told goodbye, and that nothing is wrong with it.
fn is_told_goodbye(bytes: &[u8]) {
    let frames = frames(bytes);
    let codes: Vec<_> = frames.iter().filter(|(kind, _)| *kind == GOAWAY).collect();
    assert!(!codes.is_empty(), "{frames:?}");
    assert!(
        codes.iter().all(|(_, goaway)| goaway[4..8] == [0; 4]),
        "{frames:?}"
    );
}

#[test]
fn a_connection_of_http1_that_says_nothing() {
    let backend = Backend::new();
    let logged = Logged::new(http(&backend), LogFormat::Json, true);
    let lab = &logged.lab;
    let mut client = lab.client();
    is_open(lab);
    assert_eq!(ease(lab, PATIENCE), 0);
    assert_eq!(client.rest(), "");
    let record: serde_json::Value = serde_json::from_str(&logged.last(1)).unwrap();
    assert_eq!(record["end"], "drained");
    let counts = lab.service();
    assert_eq!((counts.null, counts.requests), (1, 0));
}

#[test]
fn a_connection_without_a_client_hello() {
    let authority = Authority::new();
    for tcp in [false, true] {
        let backend = Backend::new();
        let mut setup = https(&backend, &authority, &[]);
        if tcp {
            setup.mode = patient(Setup::tcp(&[backend.at])).mode;
        }
        let lab = Lab::new(setup);
        let mut client = lab.client();
        is_open(&lab);
        assert_eq!(ease(&lab, PATIENCE), 0);
        assert_eq!(client.rest(), "");
        assert_eq!(lab.service().null, 1);
        assert!(backend.is_untouched());
    }
}

#[test]
fn a_connection_of_http1_over_tls_without_a_request() {
    let authority = Authority::new();
    for (_, versions) in EACH {
        let backend = Backend::new();
        let lab = Lab::new(https(&backend, &authority, &["http/1.1"]));
        let mut client = connect(&lab, &authority.client(&["http/1.1"], versions), "www.test");
        assert_eq!(ease(&lab, PATIENCE), 0);
        // rustls calls an end without `close_notify` an unexpected one.
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn a_connection_of_http2_without_a_stream() {
    let backend = Backend::new();
    // Its preface alone, and settings too.
    for sent in [24, PREFACE.len()] {
        let lab = Lab::new(http(&backend));
        let mut client = lab.client();
        client.send(&PREFACE[..sent]);
        until("the preface is read", || lab.service().bytes_in > 0);
        std::thread::scope(|scope| {
            let eased = scope.spawn(|| ease(&lab, PATIENCE));
            let mut bytes = Vec::new();
            client.stream.read_to_end(&mut bytes).unwrap();
            is_told_goodbye(&bytes);
            drop(client);
            assert_eq!(eased.join().unwrap(), 0);
        });
    }
}

#[test]
fn a_connection_of_http2_over_tls_without_a_stream() {
    let (backend, authority) = (Backend::new(), Authority::new());
    // Not even a preface; its preface and settings.
    for sent in [0, PREFACE.len()] {
        let lab = Lab::new(https(&backend, &authority, &["h2"]));
        let mut client = connect(&lab, &authority.client(&["h2"], BOTH), "www.test");
        send(&mut client, &PREFACE[..sent]);
        std::thread::scope(|scope| {
            let eased = scope.spawn(|| ease(&lab, PATIENCE));
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).unwrap();
            if sent > 0 {
                is_told_goodbye(&bytes);
            }
            drop(client);
            assert_eq!(eased.join().unwrap(), 0);
        });
    }
}

#[test]
fn a_proxy_that_has_not_told_of_its_client() {
    let backend = Backend::new();
    for mut setup in [http(&backend), patient(Setup::tcp(&[backend.at]))] {
        setup.proxy = Some(ProxyIn {
            from: vec![IpNet::new([127, 0, 0, 0].into(), 8).unwrap()],
            timeout: LONG,
        });
        let lab = Lab::new(setup);
        let mut client = lab.client();
        is_open(&lab);
        assert_eq!(ease(&lab, PATIENCE), 0);
        assert_eq!(client.rest(), "");
        assert_eq!(lab.service().null, 1);
        assert!(backend.is_untouched());
    }
}

#[test]
fn a_connection_whose_client_hello_would_be_passed_on() {
    let backend = Backend::new();
    let setup = Setup::tcp_with(&[backend.at], |tcp| {
        tcp.passthrough = Some(Passthrough {
            rules: Vec::new(),
            timeout: LONG,
        });
    });
    let lab = Lab::new(setup);
    let mut client = lab.client();
    is_open(&lab);
    assert_eq!(ease(&lab, PATIENCE), 0);
    assert_eq!(client.rest(), "");
    assert_eq!(lab.service().null, 1);
    assert!(backend.is_untouched());
}

/// In TCP the backend may be the one that speaks first, or later.
#[test]
fn a_tunnel_is_left_alone() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::tcp(&[backend.at]));
    let mut client = lab.client();
    let mut server = backend.accept();
    assert_eq!(ease(&lab, SILENCE * 2), 1);
    server.send("hello");
    assert_eq!(client.text(5), "hello");
}

/// Nobody is ended before that much time has gone by.
#[test]
fn a_young_connection_has_its_time() {
    let (backend, authority) = (Backend::new(), Authority::new());
    let plain = Lab::new(http(&backend));
    let begun = Instant::now();
    let mut client = plain.client();
    is_open(&plain);
    assert_eq!(ease(&plain, PATIENCE), 0);
    assert!(begun.elapsed() >= SILENCE, "{:?}", begun.elapsed());
    client.ends();
    // Over TLS it is the time behind the handshake.
    let lab = Lab::new(https(&backend, &authority, &[]));
    let begun = Instant::now();
    let mut client = connect(&lab, &authority.client(&[], BOTH), "www.test");
    assert_eq!(ease(&lab, PATIENCE), 0);
    assert!(begun.elapsed() >= SILENCE, "{:?}", begun.elapsed());
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn what_a_young_connection_asks_is_answered() {
    let backend = Backend::new();
    let at = backend.at;
    backend.serve("a");
    // The time that a machine leaves this test is not the test's: it is repeated if that was too little.
    let answered = (0..20).any(|_| {
        let lab = Lab::new(patient(Setup::http(&[at])));
        let begun = Instant::now();
        let (mut client, mut other) = (lab.client(), lab.client());
        until("both are in", || lab.service().open == 2);
        begin_to_ease(&lab);
        client.send(GET);
        other.send([PREFACE, STREAM].concat());
        let head = client.try_head();
        let mut bytes = Vec::new();
        let whole = other.stream.read_to_end(&mut bytes).is_ok();
        match head {
            Some(head) if whole && frames(&bytes).iter().any(|(kind, _)| *kind == HEADERS) => {
                assert_eq!(value(&head, "connection").as_deref(), Some("close"), "{head}");
                true
            }
            _ => {
                assert!(begun.elapsed() >= SILENCE, "it was ended too early");
                false
            }
        }
    });
    assert!(answered);
}

/// A request that has begun has the time that it always has, and is answered.
#[test]
fn what_has_begun_goes_on() {
    let (backend, authority) = (Backend::new(), Authority::new());
    let lab = Lab::new(http(&backend));
    let mut begun = lab.client();
    begun.send(&GET[..9]);
    until("the beginning is read", || lab.service().bytes_in > 0);
    let mut silent = lab.client();
    until("both are in", || lab.service().open == 2);
    begin_to_ease(&lab);
    silent.ends();
    begun.send(&GET[9..]);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(value(&begun.head(), "connection").as_deref(), Some("close"));
    // A handshake, too.
    let lab = Lab::new(https(&backend, &authority, &[]));
    let mut begun = begin(&lab, &authority.client(&[], BOTH), "www.test");
    let mut hello = Vec::new();
    begun.conn.write_tls(&mut hello).unwrap();
    let (first, rest) = hello.split_at(20);
    std::io::Write::write_all(&mut begun.sock, first).unwrap();
    until("its beginning is read", || lab.relay.snapshot().handshakes == 1);
    let mut silent = lab.client();
    until("both are in", || lab.service().open == 2);
    begin_to_ease(&lab);
    silent.ends();
    std::io::Write::write_all(&mut begun.sock, rest).unwrap();
    while begun.conn.is_handshaking() {
        begun.conn.complete_io(&mut begun.sock).unwrap();
    }
}

/// Between GOAWAY and the end a client may have asked: the first GOAWAY names no last stream for that reason (RFC 9113 section
/// 6.8).
#[test]
fn a_stream_that_crosses_the_goodbye_is_answered() {
    let backend = Backend::new();
    let at = backend.at;
    backend.serve("a");
    let lab = Lab::new(patient(Setup::http(&[at])));
    let mut client = lab.client();
    client.send(PREFACE);
    until("the preface is read", || lab.service().bytes_in > 0);
    begin_to_ease(&lab);
    let mut bytes = Vec::new();
    while !frames(&bytes).iter().any(|(kind, _)| *kind == GOAWAY) {
        bytes.extend(client.exactly(1));
    }
    client.send(STREAM);
    bytes.extend(client.take_ahead());
    client.stream.read_to_end(&mut bytes).unwrap();
    let frames = frames(&bytes);
    assert!(frames.iter().any(|(kind, _)| *kind == HEADERS), "{frames:?}");
}

/// Called off, connections have the time again that they had.
#[test]
fn called_off_in_time() {
    let backend = Backend::new();
    let at = backend.at;
    backend.serve("a");
    // As above: it is repeated if the machine left it no time.
    let kept = (0..20).any(|_| {
        let lab = Lab::new(patient(Setup::http(&[at])));
        let begun = Instant::now();
        let mut client = lab.client();
        is_open(&lab);
        begin_to_ease(&lab);
        lab.relay.serve_on();
        // Who is kept behind a response was served after that.
        let mut other = lab.client();
        other.send(GET);
        let head = other.head();
        let in_time = begun.elapsed() < SILENCE;
        std::thread::park_timeout((SILENCE * 3 / 2).saturating_sub(begun.elapsed()));
        client.send(GET);
        match client.try_head() {
            Some(answer) => {
                assert_eq!(value(&head, "connection"), None);
                assert_eq!(value(&answer, "connection"), None);
                true
            }
            None => {
                assert!(!in_time, "it was ended all the same");
                false
            }
        }
    });
    assert!(kept);
}
