//! Backends that speak HTTP/2: what is passed on and how, and what becomes of a request when a stream or a connection
//! ends otherwise than it should.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use weir_core::plan::HttpProtocol;
use weir_relay::{Cause, Reason};

use crate::{h2::*, support::*};

mod ends;
mod sharing;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

fn lab(backends: &[SocketAddr]) -> Lab {
    Lab::new(h2c(Setup::http(backends)))
}

/// One client, one backend, and the connection between that one and the relay.
fn one(backend: &Backend, request: &str) -> (Lab, Raw, H2, u32) {
    let lab = lab(&[backend.at]);
    let mut client = lab.client();
    client.send(request);
    let mut server = H2::accept(backend, &[]);
    let (stream, _) = server.request();
    (lab, client, server, stream)
}

fn respond(mut send: SendResponse<Bytes>, response: Response<()>, body: &[u8], trailers: Option<HeaderMap>) {
    let end = body.is_empty() && trailers.is_none();
    let mut stream = send.send_response(response, end).unwrap();
    if !body.is_empty() {
        stream
            .send_data(Bytes::copy_from_slice(body), trailers.is_none())
            .unwrap();
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).unwrap();
    }
}

/// Tells in the body of its response what it was asked.
fn echo() -> SocketAddr {
    serve(|request, send| async move {
        let (parts, mut body) = request.into_parts();
        let Some((bytes, trailers)) = read_body(&mut body).await else {
            return;
        };
        let mut text = format!("{} {}", parts.method, parts.uri);
        for (name, value) in &parts.headers {
            text += &format!("|{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        text += &format!("|{}|{trailers}", String::from_utf8_lossy(&bytes));
        let length = text.len();
        let response = Response::builder()
            .header("content-length", length)
            .body(())
            .unwrap();
        respond(send, response, text.as_bytes(), None);
    })
}

#[test]
fn requests_as_the_backend_sees_them() {
    let lab = lab(&[echo()]);
    let mut client = lab.client();
    for (request, seen) in [
        ("GET /a?b HTTP/1.1\r\nHost: a:81\r\n\r\n", "GET http://a:81/a?b||"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS http://a*||"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: B\r\nCookie: c=d\r\nConnection: X-Gone, TE\r\nX-Gone: 1\r\n\
             TE: trailers\r\nKeep-Alive: 5\r\n\r\n",
            "GET http://a/|x-a: B|cookie: c=d|te: trailers||",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            "POST http://a/|content-length: 4|body|",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "POST http://a/|content-length: 0||",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
            "POST http://a/|body|",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST http://a/||",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-T: 1\r\nx-u: 2\r\n\r\n",
            "POST http://a/|body|x-t: 1|x-u: 2|",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n",
            "POST http://a/||x-t: 1|",
        ),
    ] {
        client.send(request);
        assert_eq!(client.response(), (200, seen.into()), "{request}");
    }
    // The same, with each byte in a segment of its own.
    let slow =
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-T: 1\r\n\r\n";
    for byte in slow.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.response(), (200, "PUT http://a/|body|x-t: 1|".into()));
    lab.ended(Reason::Ok, 10);
    let counts = lab.backend(0);
    assert_eq!((counts.connections, counts.requests, counts.reused), (1, 10, 9));
    assert_eq!((counts.open, counts.idle, counts.in_flight), (1, 1, 0));
    assert!(counts.bytes_in > 0 && counts.bytes_out > 0);
}

#[test]
fn a_target_that_http2_can_not_say() {
    let lab = lab(&[echo()]);
    let mut client = lab.client();
    client.send("GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().0, 400);
    lab.ended(Reason::ClientBadRequest, 1);
}

/// What comes back, by what the backend says and the version that the client speaks.
#[test]
fn responses_as_the_client_sees_them() {
    let at = serve(|request, mut send| async move {
        let build = Response::builder().header("date", "x");
        let trailers = || {
            Some(HeaderMap::from_iter([(
                "x-t".parse().unwrap(),
                "1".parse().unwrap(),
            )]))
        };
        if request.method() == http::Method::HEAD {
            let build = match request.uri().path() {
                "/length" => build.header("content-length", 3),
                _ => build,
            };
            respond(send, build.body(()).unwrap(), b"", None);
            return;
        }
        match request.uri().path() {
            "/length" => respond(
                send,
                build.header("content-length", 3).body(()).unwrap(),
                b"abc",
                None,
            ),
            "/none" => respond(send, build.body(()).unwrap(), b"", None),
            "/unknown" => respond(send, build.body(()).unwrap(), b"abc", None),
            "/trailers" => respond(send, build.body(()).unwrap(), b"abc", trailers()),
            "/bare-trailers" => respond(send, build.body(()).unwrap(), b"", trailers()),
            "/announced" => {
                let build = build.header("trailer", "x-t").header("content-length", 3);
                respond(send, build.body(()).unwrap(), b"abc", trailers());
            }
            "/204" => respond(send, build.status(204).body(()).unwrap(), b"", None),
            "/304" => {
                let build = build.status(304).header("content-length", 3);
                respond(send, build.body(()).unwrap(), b"", None);
            }
            "/interim" => {
                let early = Response::builder()
                    .status(103)
                    .header("link", "x")
                    .body(())
                    .unwrap();
                send.send_informational(early).unwrap();
                respond(send, build.body(()).unwrap(), b"", None);
            }
            path => panic!("{path}"),
        }
    });
    let lab = lab(&[at]);
    let chunked = "HTTP/1.1 200 OK\r\ndate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
    let chunked_none = "HTTP/1.1 200 OK\r\ndate: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n";
    let announced = "HTTP/1.1 200 OK\r\ndate: x\r\ntrailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 3\r\n\r\n";
    let none = "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 0\r\n\r\n";
    let table = [
        ("GET /length", format!("{length}abc")),
        ("HEAD /length", length.into()),
        ("GET /none", none.into()),
        ("HEAD /none", "HTTP/1.1 200 OK\r\ndate: x\r\n\r\n".into()),
        ("GET /unknown", format!("{chunked}\r\n")),
        ("GET /trailers", format!("{chunked}x-t: 1\r\n\r\n")),
        ("GET /bare-trailers", chunked_none.into()),
        ("GET /announced", announced.into()),
        ("GET /204", "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n".into()),
        (
            "GET /304",
            "HTTP/1.1 304 Not Modified\r\ndate: x\r\ncontent-length: 3\r\n\r\n".into(),
        ),
        ("GET /interim", format!("HTTP/1.1 103 \r\nlink: x\r\n\r\n{none}")),
    ];
    let mut client = lab.client();
    for (request, expected) in &table {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.text(expected.len()), *expected, "{request}");
    }
    for (path, expected) in [
        (
            "/length",
            format!(
                "{}abc",
                length.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            ),
        ),
        (
            "/trailers",
            "HTTP/1.1 200 OK\r\ndate: x\r\nConnection: close\r\n\r\nabc".into(),
        ),
        (
            "/interim",
            none.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
        ),
    ] {
        let mut client = lab.client();
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(client.rest(), expected, "{path}");
    }
    lab.ended(Reason::Ok, table.len() as u64 + 3);
}

/// Bodies larger than any window, both ways at once, byte for byte.
#[test]
fn large_bodies_both_ways_at_once() {
    const SIZE: usize = 24 << 20;
    let at = serve(|request, mut send| async move {
        let mut body = request.into_body();
        let mut stream = send.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            let mut left = data;
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                stream
                    .send_data(left.split_to(room.min(left.len())), false)
                    .unwrap();
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    for window in [64 << 10, 1 << 20] {
        let lab = Lab::new(h2c_with(Setup::http(&[at]), |http2| http2.window = window));
        let mut client = lab.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
        ));
        let writer = client.stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || write_pattern(&writer, SIZE, 7));
        assert_eq!(status(&client.head()), 200);
        let mut got = 0;
        while got < SIZE {
            let line = client.until("\r\n");
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            assert!(
                client.exactly(size) == pattern(got, size, 7),
                "differs behind {got}"
            );
            got += size;
            assert_eq!(client.exactly(2), b"\r\n");
        }
        assert_eq!(client.text(5), "0\r\n\r\n");
        sender.join().unwrap();
        lab.ended(Reason::Ok, 1);
    }
}

/// Two sides that answer each other by turns: nothing waits for the end of anything.
#[test]
fn a_conversation() {
    let backend = Backend::new();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (lab, mut client, mut server, stream) = one(&backend, request);
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    for turn in 0..5 {
        client.send(format!("5\r\nask-{turn}\r\n"));
        assert_eq!(
            server.expect(DATA, stream).payload,
            format!("ask-{turn}").as_bytes()
        );
        server.data(stream, format!("say-{turn}").as_bytes(), false);
        assert_eq!(client.text(10), format!("5\r\nsay-{turn}\r\n"));
    }
    client.send("0\r\n\r\n");
    assert_eq!(server.expect(DATA, stream).flags, END_STREAM);
    server.head(stream, &field("x-t", "1"), true);
    assert_eq!(client.head(), "0\r\nx-t: 1\r\n\r\n");
    lab.ended(Reason::Ok, 1);
}

#[test]
fn a_client_waits_for_100_continue() {
    let backend = Backend::new();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let (lab, mut client, mut server, stream) = one(&backend, request);
    server.head(stream, &[0x08, 3, b'1', b'0', b'0'], false);
    assert_eq!(status(&client.head()), 100);
    client.send("body");
    assert_eq!(server.expect(DATA, stream).payload, b"body");
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    lab.ended(Reason::Ok, 1);
}

/// The response is over before the request is, and the backend says that it wants no more of it.
#[test]
fn an_early_response() {
    let backend = Backend::new();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbody";
    let (lab, mut client, mut server, stream) = one(&backend, request);
    server.head(stream, &field("x-a", "1").splice_status(413), true);
    server.reset(stream, 0);
    let head = client.head();
    assert_eq!(status(&head), 413);
    assert_eq!(value(&head, "connection").as_deref(), Some("close"));
    lab.ended(Reason::Ok, 1);
}

trait AfterHead {
    fn rest_or_reset_after_head(&mut self) -> (String, bool);
}

impl AfterHead for Raw {
    /// A response with its length, or all until the end.
    fn rest_or_reset_after_head(&mut self) -> (String, bool) {
        self.finish();
        self.rest_or_reset()
    }
}

trait SpliceStatus {
    fn splice_status(self, status: u16) -> Vec<u8>;
}

impl SpliceStatus for Vec<u8> {
    /// The status in front, as a literal.
    fn splice_status(self, status: u16) -> Vec<u8> {
        let mut block = vec![0x08, 3];
        block.extend_from_slice(status.to_string().as_bytes());
        block.extend_from_slice(&self);
        block
    }
}

/// What is wrong with a response, and what the client gets of it.
#[test]
fn responses_that_are_none() {
    let with = |name: &str, value: &str| [OK, &field(name, value)].concat();
    let table: [(Vec<u8>, &[u8]); 12] = [
        (with("connection", "close"), b""),
        (with("transfer-encoding", "chunked"), b""),
        (with("X-Upper", "1"), b""),
        (with("x-a", " blank"), b""),
        (with("x-a", "a\rb"), b""),
        (with("x a", "b"), b""),
        (with("content-length", "x"), b""),
        (with("content-length", "5"), b"four"),
        (with("content-length", "3"), b"four"),
        (field("x-no-status", "1"), b""),
        ([&field("x-a", "1"), OK].concat(), b""),
        (Vec::new().splice_status(101), b""),
    ];
    for (i, (block, body)) in table.into_iter().enumerate() {
        let backend = Backend::new();
        let (lab, mut client, mut server, stream) = one(&backend, GET);
        server.head(stream, &block, body.is_empty());
        if !body.is_empty() {
            server.data(stream, body, true);
        }
        let (text, _) = client.rest_or_reset_after_head();
        // With a length that its body does not have the head may be on its way already; then the body breaks off.
        let cut = text.starts_with("HTTP/1.1 200 ") && !body.is_empty() && !text.ends_with("four");
        assert!(text.starts_with("HTTP/1.1 502 ") || cut, "{i}: {text}");
        lab.ended(Reason::BackendBadResponse, 1);
        assert_eq!(lab.backend(0).errors[Cause::BadResponse as usize], 1, "{i}");
    }
}

/// A response to `HEAD`, or without a body by its status, has none.
#[test]
fn bodies_where_none_may_be() {
    for (request, block) in [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", OK.to_vec()),
        (GET, Vec::new().splice_status(204)),
        (GET, Vec::new().splice_status(304)),
    ] {
        let backend = Backend::new();
        let (lab, mut client, mut server, stream) = one(&backend, request);
        server.head(stream, &block, false);
        server.data(stream, b"body", true);
        let (text, _) = client.rest_or_reset_after_head();
        assert!(!text.contains("body"), "{text}");
        lab.ended(Reason::BackendBadResponse, 1);
    }
}

/// CONNECT makes a tunnel of the stream.
#[test]
fn connect_makes_a_tunnel() {
    let backend = Backend::new();
    let setup = Setup::http_with(&[backend.at], |http| http.wire.connect = true);
    let lab = Lab::new(h2c(setup));
    let mut client = lab.client();
    client.send("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n");
    let mut server = H2::accept(&backend, &[]);
    let (stream, end) = server.request();
    assert!(!end, "a tunnel has bytes to come");
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    client.send("ping");
    assert_eq!(server.expect(DATA, stream).payload, b"ping");
    server.data(stream, b"pong", false);
    assert_eq!(client.text(4), "pong");
    client.finish();
    assert_eq!(server.expect(DATA, stream).flags, END_STREAM);
    server.data(stream, b"bye", true);
    assert_eq!(client.rest(), "bye");
    lab.ended(Reason::Ok, 1);
}

/// A reload changes the protocol: what is under way ends as it began.
#[test]
fn a_reload_changes_the_protocol() {
    let at = echo();
    let lab = lab(&[at]);
    let mut client = lab.client();
    client.send(GET);
    assert_eq!(client.response().0, 200);
    let mut setup = lab.setup.clone();
    setup.protocol = HttpProtocol::Http1;
    let (listen_at, sockets) = listen(1);
    lab.relay
        .apply(
            setup.plan("www", listen_at),
            vec![listener(listen_at, "www", sockets)],
        )
        .unwrap();
    until("its connection is closed", || lab.backend(0).open == 0);
}

/// A WebSocket can't be had of a backend that does not say it knows extended CONNECT, and is told so; any other offer to switch is no reason not to answer.
#[test]
fn upgrades() {
    let lab = lab(&[echo()]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x, y/1\r\n\r\n");
    assert_eq!(client.response(), (200, "GET http://a/||".into()));
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(client.response().0, 501);
    lab.ended(Reason::ClientUnsupported, 1);
}
