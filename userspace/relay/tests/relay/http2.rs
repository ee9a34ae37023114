//! Backends that speak HTTP/2: what is passed on and how, and what becomes of a request when a stream or a connection
//! ends otherwise than it should.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use weir_core::plan::HttpProtocol;
use weir_relay::{Cause, Reason};

use crate::{h2::*, support::*};

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

/// A stream that the backend resets, by code: before a head and after it; and what goes again.
#[test]
fn resets() {
    for (code, word) in [
        (2, "INTERNAL_ERROR"),
        (0, "NO_ERROR"),
        (8, "CANCEL"),
        (0xd, "HTTP_1_1_REQUIRED"),
    ] {
        let backend = Backend::new();
        let (lab, mut client, mut server, stream) = one(&backend, POST);
        server.reset(stream, code);
        assert_eq!(client.response().0, 502, "{word}");
        lab.ended(Reason::BackendReset, 1);
        assert_eq!(lab.backend(0).errors[Cause::Reset as usize], 1);
    }
    // In the middle of the response the client's connection ends, before the body does.
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.head(stream, OK, false);
    server.data(stream, b"abc", false);
    assert_eq!(status(&client.head()), 200);
    assert_eq!(client.text(8), "3\r\nabc\r\n");
    server.reset(stream, 2);
    client.ends();
    lab.ended(Reason::BackendReset, 1);
    // The connection goes on.
    let mut client = lab.client();
    client.send(GET);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    assert_eq!(lab.backend(0).connections, 1);
}

/// What is safe to do twice goes to another backend after a reset.
#[test]
fn a_reset_goes_to_another_backend() {
    for (request, again) in [(GET, true), (POST, false)] {
        let (first, second) = (Backend::new(), echo());
        let lab = lab(&[first.at, second]);
        let mut client = lab.client();
        client.send(request);
        let mut server = H2::accept(&first, &[]);
        let (stream, _) = server.request();
        server.reset(stream, 2);
        assert_eq!(client.response().0, if again { 200 } else { 502 }, "{request}");
        assert_eq!(lab.service().retries, u64::from(again));
    }
}

/// What the backend says it has not looked at goes out again whatever it is: to another backend, or to the same.
#[test]
fn what_was_not_processed_goes_again() {
    for others in [true, false] {
        for by_goaway in [true, false] {
            let first = Backend::new();
            let mut backends = vec![first.at];
            backends.extend(others.then(echo));
            let lab = lab(&backends);
            let mut client = lab.client();
            client.send(POST);
            let mut server = H2::accept(&first, &[]);
            let (stream, _) = server.request();
            match by_goaway {
                true => server.go_away(0, 0),
                false => server.reset(stream, 7),
            }
            if !others {
                let mut next = if by_goaway {
                    H2::accept(&first, &[])
                } else {
                    server
                };
                let stream = loop {
                    let frame = next.frame();
                    if frame.kind == HEADERS {
                        break frame.stream;
                    }
                };
                assert_eq!(next.expect(DATA, stream).payload, b"body");
                next.head(stream, OK, true);
            }
            assert_eq!(client.response().0, 200, "{others} {by_goaway}");
            assert_eq!(lab.backend(0).errors[Cause::Reset as usize], 1);
            assert_eq!(lab.service().retries, 1);
            lab.ended(Reason::Ok, 1);
        }
    }
}

/// A backend that takes nothing is not asked for ever.
#[test]
fn a_backend_that_refuses_all() {
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.reset(stream, 7);
    for _ in 0..2 {
        let (stream, _) = loop {
            let frame = server.frame();
            if frame.kind == HEADERS {
                break (frame.stream, ());
            }
        };
        server.reset(stream, 7);
    }
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::BackendReset, 1);
}

/// A GOAWAY in the middle: what is below its last stream goes on, new requests get another connection.
#[test]
fn a_goaway_lets_streams_end() {
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    server.go_away(stream, 0);
    server.data(stream, b"abc", false);
    assert_eq!(client.text(8), "3\r\nabc\r\n");
    let mut other = lab.client();
    other.send(GET);
    let mut second = H2::accept(&backend, &[]);
    let (at, _) = second.request();
    second.head(at, OK, true);
    assert_eq!(other.response().0, 200);
    server.data(stream, b"d", true);
    assert_eq!(client.text(11), "1\r\nd\r\n0\r\n\r\n");
    server.ends();
    lab.ended(Reason::Ok, 2);
    until("one connection is left", || lab.backend(0).open == 1);
}

/// The connection is cut: by what has come of each stream.
#[test]
fn a_connection_that_is_cut_takes_its_streams() {
    let backend = Backend::new();
    let lab = lab(&[backend.at]);
    let mut begun = lab.client();
    begun.send(GET);
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    server.head(stream, OK, false);
    assert_eq!(status(&begun.head()), 200);
    let mut post = lab.client();
    post.send(POST);
    let (stream, _) = server.request();
    assert_eq!(server.expect(DATA, stream).payload, b"body");
    let mut get = lab.client();
    get.send(GET);
    server.request();
    server.raw.reset();
    begun.ends();
    assert_eq!(post.response().0, 502);
    // What is safe to do twice goes again, since the connection had served before.
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(get.response().0, 200);
    lab.ended(Reason::BackendCut, 1);
    lab.ended(Reason::BackendClosedEarly, 1);
    lab.ended(Reason::Ok, 1);
}

/// What answers is no HTTP/2, or nobody; the next backend gets the request, whatever it is.
#[test]
fn backends_that_do_not_speak_it() {
    for (words, reason) in [
        (
            Some("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            Reason::BackendBadResponse,
        ),
        (Some(""), Reason::BackendClosedEarly),
        (None, Reason::BackendTimeoutConnect),
    ] {
        for others in [false, true] {
            let backend = Backend::new();
            let mut backends = vec![backend.at];
            backends.extend(others.then(echo));
            let setup = Setup::http_with(&backends, |http| {
                http.timeouts.connect = Duration::from_millis(if words.is_none() { 100 } else { 5000 });
            });
            let lab = Lab::new(h2c(setup));
            let mut client = lab.client();
            client.send(POST);
            let mut server = H2::silent(&backend);
            if let Some(words) = words {
                server.raw.send(words);
                server.raw.finish();
            }
            let (status, _) = client.response();
            if others {
                assert_eq!(status, 200);
                assert_eq!(lab.service().retries, 1);
                lab.ended(Reason::Ok, 1);
            } else {
                assert_eq!(status, if words.is_some() { 502 } else { 504 });
                lab.ended(reason, 1);
            }
        }
    }
    let lab = lab(&[closed_port()]);
    let mut client = lab.client();
    client.send(GET);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::BackendRefused, 1);
    assert_eq!(lab.backend(0).errors[Cause::Refused as usize], 1);
}

/// A backend that says nothing for too long is asked, and given up if it does not answer.
#[test]
fn a_silent_connection() {
    for answers in [true, false] {
        let backend = Backend::new();
        let lab = Lab::new(h2c_with(Setup::http(&[backend.at]), |http2| {
            http2.ping = Some(Duration::from_millis(20));
            http2.ping_timeout = Duration::from_millis(if answers { 10_000 } else { 50 });
        }));
        let mut client = lab.client();
        client.send(POST);
        let mut server = H2::accept(&backend, &[]);
        let (stream, _) = server.request();
        server.expect(DATA, stream);
        server.pongs = answers;
        if answers {
            for _ in 0..3 {
                let head = server.raw.exactly(9);
                assert_eq!(head[3], if head[3] == SETTINGS { SETTINGS } else { PING });
                let payload = server.raw.exactly(head[2].into());
                if head[3] == PING {
                    server.send(PING, ACK, 0, &payload);
                }
            }
            server.head(stream, OK, true);
            assert_eq!(client.response().0, 200);
        } else {
            assert_eq!(client.response().0, 504);
            lab.ended(Reason::BackendTimeoutResponse, 1);
        }
    }
}

/// The client breaks off: the stream is reset, the connection stays.
#[test]
fn a_client_that_breaks_off() {
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    client.reset();
    lab.ended(Reason::ClientClosed, 1);
    let frame = server.expect(RST_STREAM, stream);
    assert_eq!(frame.payload, 8_u32.to_be_bytes(), "CANCEL");
    let counts = lab.backend(0);
    assert_eq!((counts.open, counts.in_flight), (1, 0));
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

/// Requests that come while a connection is being made share it, as far as the backend lets them.
#[test]
fn requests_share_a_connection() {
    for (most, told, connections) in [(100, 1000, 1), (4, 1000, 3), (100, 5, 2)] {
        let backend = Backend::new();
        let lab = Lab::new(h2c_with(Setup::http(&[backend.at]), |http2| http2.streams = most));
        let mut clients: Vec<_> = (0..10).map(|_| lab.client()).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        let mut servers: Vec<_> = (0..connections)
            .map(|_| {
                // The others wait for it, or for what it says.
                until("all have come", || lab.service().requests == 10);
                H2::accept(&backend, &max_streams(told))
            })
            .collect();
        for (at, server) in servers.iter_mut().enumerate() {
            let each = most.min(told) as usize;
            for _ in 0..each.min(10 - each.min(10) * at.min(1) - if at == 2 { each } else { 0 }) {
                let (stream, _) = server.request();
                server.head(stream, OK, true);
            }
        }
        for client in &mut clients {
            assert_eq!(client.response().0, 200);
        }
        let counts = lab.backend(0);
        assert_eq!(
            (counts.requests, counts.connections),
            (10, connections),
            "{most} {told}"
        );
    }
}

/// With as many connections as there may be, a request waits for a stream that becomes free.
#[test]
fn who_finds_all_streams_taken_waits() {
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.max = Some(1);
    setup.connections.queue = 1;
    let lab = Lab::new(setup);
    let (mut first, mut second, mut third) = (lab.client(), lab.client(), lab.client());
    first.send(GET);
    let mut server = H2::accept(&backend, &max_streams(1));
    let (stream, _) = server.request();
    second.send(GET);
    until("it waits", || lab.pool().queued == 1);
    third.send(GET);
    assert_eq!(third.response().0, 503);
    lab.ended(Reason::QueueFull, 1);
    server.head(stream, OK, true);
    assert_eq!(first.response().0, 200);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(second.response().0, 200);
    let counts = lab.backend(0);
    assert_eq!((counts.connections, counts.open, counts.requests), (1, 1, 2));
}

/// Two workers share one connection's place: the one that waits gets it once the other's requests are done.
#[test]
fn a_place_goes_from_worker_to_worker() {
    let at = echo();
    let mut setup = h2c(Setup::http(&[at]));
    setup.connections.max = Some(1);
    setup.workers = 2;
    let lab = Lab::new(setup);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut client = lab.client();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    client.send(GET);
                    assert_eq!(client.response().0, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    lab.ended(Reason::Ok, 160);
    assert!(lab.backend(0).open <= 1);
}

#[test]
fn connections_end_in_order() {
    // Idle for too long.
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.idle_timeout = Duration::from_millis(10);
    let lab = Lab::new(setup);
    let mut client = lab.client();
    client.send(GET);
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    server.ends();
    until("it is closed", || lab.backend(0).open == 0);
    assert_eq!(lab.backend(0).idle, 0);
    // Its backend goes down: what has begun is finished.
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    lab.words(DOWN);
    let mut other = lab.client();
    other.send(GET);
    assert_eq!(other.response().0, 503);
    server.data(stream, b"abc", true);
    assert_eq!(client.text(13), "3\r\nabc\r\n0\r\n\r\n");
    server.ends();
    until("it is closed", || lab.backend(0).open == 0);
}

/// Connections in advance.
#[test]
fn connections_are_kept_ready() {
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.idle_min = 2;
    let lab = Lab::new(setup);
    let mut servers: Vec<_> = (0..2).map(|_| H2::accept(&backend, &[])).collect();
    until("they are there", || lab.backend(0).idle == 2);
    assert_eq!(lab.backend(0).warmed, 2);
    let mut client = lab.client();
    client.send(GET);
    let (stream, _) = servers[0].request();
    servers[0].head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    assert!(backend.is_untouched());
    assert_eq!((lab.backend(0).connections, lab.backend(0).reused), (2, 0));
}

/// A backend that grants no window stops the client, and nothing is lost when it goes on.
#[test]
fn a_window_that_is_shut() {
    const SIZE: usize = 8 << 20;
    let backend = Backend::new();
    let lab = lab(&[backend.at]);
    let mut client = lab.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
    ));
    let mut server = H2::accept(&backend, &window(0));
    let (stream, _) = server.request();
    let writer = client.stream.try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    let bytes = pattern(0, SIZE, 3);
    let mut sent = 0;
    // What goes in before anybody takes it: sockets' buffers, no more.
    loop {
        match std::io::Write::write(&mut &writer, &bytes[sent..]) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(sent < SIZE, "nothing holds the client back");
    writer.set_nonblocking(false).unwrap();
    let rest = bytes[sent..].to_vec();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut &writer, &rest).unwrap());
    let more = u32::try_from(SIZE).unwrap().to_be_bytes();
    server.send(WINDOW_UPDATE, 0, 0, &more);
    server.send(WINDOW_UPDATE, 0, stream, &more);
    let mut got = 0;
    while got < SIZE {
        let frame = server.expect(DATA, stream);
        assert!(
            frame.payload == bytes[got..got + frame.payload.len()],
            "differs behind {got}"
        );
        got += frame.payload.len();
        assert_eq!(frame.flags & END_STREAM != 0, got == SIZE);
    }
    sender.join().unwrap();
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
}

/// A client that has begun a body and says no more holds nothing of the window that all requests of a connection share.
#[test]
fn an_upload_that_rests_stops_nobody() {
    let backend = Backend::new();
    let lab = lab(&[backend.at]);
    let mut resting = lab.client();
    resting.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    assert_eq!(server.expect(DATA, stream).payload, b"x");
    let mut other = lab.client();
    other.send(POST);
    let (stream, _) = server.request();
    assert_eq!(server.expect(DATA, stream).payload, b"body");
    server.head(stream, OK, true);
    assert_eq!(other.response().0, 200);
}

/// A client that does not read stops its own response, and nobody else's.
#[test]
fn a_client_that_does_not_read() {
    const SIZE: usize = 16 << 20;
    let at = serve(|request, mut send| async move {
        if request.uri().path() == "/small" {
            respond(send, Response::new(()), b"small", None);
            return;
        }
        let mut stream = send.send_response(Response::new(()), false).unwrap();
        let mut left = Bytes::from(pattern(0, SIZE, 5));
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return;
            };
            stream
                .send_data(left.split_to(room.min(left.len())), false)
                .unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let lab = lab(&[at]);
    let mut slow: Vec<_> = (0..8).map(|_| lab.client()).collect();
    for client in &mut slow {
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut slow {
        assert_eq!(status(&client.head()), 200);
    }
    let mut quick = lab.client();
    for _ in 0..20 {
        quick.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status(&quick.head()), 200);
        assert_eq!(quick.text(15), "5\r\nsmall\r\n0\r\n\r\n");
    }
    assert_eq!(lab.backend(0).connections, 1);
    for mut client in slow {
        let mut got = 0;
        while got < SIZE {
            let size = usize::from_str_radix(client.until("\r\n").trim(), 16).unwrap();
            assert!(
                client.exactly(size) == pattern(got, size, 5),
                "differs behind {got}"
            );
            got += size;
            assert_eq!(client.exactly(2), b"\r\n");
        }
        assert_eq!(client.text(5), "0\r\n\r\n");
    }
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
