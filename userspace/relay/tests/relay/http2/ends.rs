//! Streams and connections that end otherwise than they should, and what becomes of their requests.

use super::*;

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
