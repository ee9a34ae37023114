//! TLS with backends: what goes over it, and what becomes of requests whose backend can't be had by it.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{ServerConnection, StreamOwned, pki_types::ServerName};
use weir_core::{
    plan::{self, HttpProtocol},
    proxy::Version,
};
use weir_relay::{Back, Cause, Reason};

use super::{Authority, BOTH, EACH, SHORT};
use crate::support::{Backend, Lab, Raw, Setup, pattern, status, until};

type Server = StreamOwned<ServerConnection, std::net::TcpStream>;

fn back(authority: &Authority, name: &str, http2: bool) -> Arc<Back> {
    let alpn: &[&str] = if http2 { &["h2"] } else { &[] };
    Arc::new(Back {
        config: Arc::new(authority.client(alpn, BOTH)),
        server_name: Some(ServerName::try_from(name.to_owned()).unwrap()),
        http2,
    })
}

/// A connection to a backend with which the handshake is made.
fn secured(
    raw: Raw,
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Server {
    let front = authority.front_of(&["http/1.1"], versions);
    let connection = ServerConnection::new(Arc::clone(&front.config)).unwrap();
    let mut stream = StreamOwned::new(connection, raw.stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

fn head(stream: &mut Server) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_ne!(stream.read(&mut byte).unwrap(), 0, "{}", head.escape_ascii());
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn answer(stream: &mut Server, text: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.flush().unwrap();
}

#[test]
fn requests_go_over_tls_and_connections_are_kept() {
    const SIZE: usize = 300_000;
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let mut setup = Setup::http(&[backend.at]);
        setup.back = Some(back(&authority, "www.test", false));
        let lab = Lab::new(setup);
        let mut client = lab.client();
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut there = secured(backend.accept(), &authority, versions);
        assert_eq!(there.conn.server_name(), Some("www.test"));
        assert!(head(&mut there).starts_with("GET /1 "));
        answer(&mut there, "one");
        assert_eq!(client.response(), (200, "one".into()));
        // A body each way, of many records; on the same connection, whose tickets were taken in meanwhile.
        let body = pattern(0, SIZE, 1);
        client.send(format!(
            "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
        ));
        let sent = body.clone();
        let mut sender = client.stream.try_clone().unwrap();
        let sends = std::thread::spawn(move || sender.write_all(&sent).unwrap());
        assert!(head(&mut there).starts_with("POST /2 "));
        let mut got = vec![0; SIZE];
        there.read_exact(&mut got).unwrap();
        sends.join().unwrap();
        assert!(got == body);
        write!(there, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        let answers = std::thread::spawn(move || {
            there.write_all(&got).unwrap();
            there
        });
        assert_eq!(status(&client.head()), 200);
        assert!(client.exactly(SIZE) == body);
        let mut there = answers.join().unwrap();
        let counts = lab.backend(0);
        assert_eq!((counts.connections, counts.reused), (1, 1));
        // It says that it ends, while nobody asks: the next request goes out on another connection.
        there.conn.send_close_notify();
        there.flush().unwrap();
        drop(there);
        lab.ended(Reason::Ok, 2);
        client.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut there = secured(backend.accept(), &authority, versions);
        assert!(head(&mut there).starts_with("GET /3 "));
        answer(&mut there, "three");
        assert_eq!(client.response(), (200, "three".into()));
    }
}

#[test]
fn bytes_of_a_tcp_service_go_over_tls() {
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let mut setup = Setup::tcp(&[backend.at]);
        setup.back = Some(back(&authority, "www.test", false));
        setup.proxy_out = Some(plan::ProxyOut {
            version: Version::V1,
            tlvs: plan::ProxyTlvs::default(),
        });
        let lab = Lab::new(setup);
        let mut client = lab.client();
        client.send("question");
        client.finish();
        let raw = backend.accept();
        // Whose connection it is stands before all TLS, which is left where it is.
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n") {
            let mut byte = [0];
            (&raw.stream).read_exact(&mut byte).unwrap();
            header.push(byte[0]);
        }
        assert!(
            header.starts_with(b"PROXY TCP4 127.0.0.1 "),
            "{}",
            header.escape_ascii()
        );
        let mut there = secured(raw, &authority, versions);
        let mut asked = String::new();
        there.read_to_string(&mut asked).unwrap();
        assert_eq!(asked, "question");
        there.write_all(b"answer").unwrap();
        there.conn.send_close_notify();
        there.flush().unwrap();
        drop(there);
        assert_eq!(client.rest(), "answer");
        lab.ended(Reason::Ok, 1);
    }
}

/// What a backend does, and what the client, the counters and the reasons say of it.
#[test]
fn backends_that_fail_are_told_apart() {
    let authority = Authority::new();
    let stranger = Authority::new();
    type Does<'a> = Box<dyn Fn(Raw) + 'a>;
    let shakes = |by: &Authority, raw: Raw| {
        let connection = ServerConnection::new(Arc::clone(&by.front(&["http/1.1"], |_| {}).config)).unwrap();
        let mut stream = StreamOwned::new(connection, raw.stream);
        while stream.conn.is_handshaking() && stream.conn.complete_io(&mut stream.sock).is_ok() {}
    };
    let cases: [(&str, bool, Does<'_>, u16, Reason, Cause); 6] = [
        (
            "www.test",
            false,
            Box::new(|raw| shakes(&stranger, raw)),
            502,
            Reason::BackendCertificate,
            Cause::Certificate,
        ),
        (
            "other.test",
            false,
            Box::new(|raw| shakes(&authority, raw)),
            502,
            Reason::BackendCertificate,
            Cause::Certificate,
        ),
        (
            "www.test",
            true,
            Box::new(|raw| shakes(&authority, raw)),
            502,
            Reason::BackendNoHttp2,
            Cause::Unagreed,
        ),
        (
            "www.test",
            false,
            Box::new(|mut raw| raw.send("HTTP/1.1 400 Bad Request\r\n\r\n")),
            502,
            Reason::BackendTls,
            Cause::Tls,
        ),
        (
            "www.test",
            false,
            Box::new(drop),
            502,
            Reason::BackendTls,
            Cause::Tls,
        ),
        (
            "www.test",
            false,
            Box::new(|mut raw| {
                // Until it is given up.
                let _ = raw.rest_or_reset();
            }),
            504,
            Reason::BackendTimeoutTls,
            Cause::TimeoutTls,
        ),
    ];
    for (name, http2, does, code, reason, cause) in cases {
        let backend = Backend::new();
        let mut setup = Setup::http_with(&[backend.at], |http| http.timeouts.connect = SHORT);
        setup.protocol = match http2 {
            true => HttpProtocol::H2,
            false => HttpProtocol::Http1,
        };
        setup.back = Some(back(&authority, name, http2));
        let lab = Lab::new(setup);
        let mut client = lab.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        does(backend.accept());
        assert_eq!(status(&client.head()), code, "{reason}");
        lab.ended(reason, 1);
        until("its cause", || lab.backend(0).errors[cause as usize] == 1);
    }
}

#[test]
fn the_next_backend_is_tried() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (bad, good) = (Backend::new(), Backend::new());
    let mut setup = Setup::http(&[bad.at, good.at]);
    setup.back = Some(back(&authority, "www.test", false));
    let lab = Lab::new(setup);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let config = Arc::clone(&stranger.front(&[], |_| {}).config);
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), bad.accept().stream);
    while stream.conn.is_handshaking() && stream.conn.complete_io(&mut stream.sock).is_ok() {}
    let mut there = secured(good.accept(), &authority, BOTH);
    assert!(head(&mut there).starts_with("GET / "));
    answer(&mut there, "here");
    assert_eq!(client.response(), (200, "here".into()));
    lab.ended(Reason::Ok, 1);
    assert_eq!(lab.service().retries, 1);
}
