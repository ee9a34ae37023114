//! What is refused, and that nothing of it reaches a backend.

use weir_relay::Reason;

use crate::support::*;

/// Sends it, and expects that status, the end of the connection, and a backend that was never bothered.
fn refused(request: &str, expected: u16) {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(request);
    let head = client.head();
    assert_eq!(status(&head), expected, "{request:?}");
    assert_eq!(
        value(&head, "connection").as_deref(),
        Some("close"),
        "{request:?}"
    );
    let length: usize = value(&head, "content-length").unwrap().parse().unwrap();
    assert!(client.text(length).starts_with(&expected.to_string()));
    client.finish();
    client.ends();
    assert!(backend.is_untouched(), "{request:?}");
}

/// Fields after `Host`, then a body that would be a request to whoever reads the framing in another way.
fn smuggled(fields: &str, expected: u16) {
    refused(
        &format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
        expected,
    );
}

#[test]
fn ambiguous_framing() {
    for (fields, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: ", 400),
        ("Content-Length: 99999999999999999999", 400),
        ("Content-Length: 5\x0b", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: identity, chunked", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: gzip", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked;q=1", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding:\r\n chunked", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding\t: chunked", 400),
        ("Content-Length : 5", 400),
        (" Content-Length: 5", 400),
        ("X: y\r\n Content-Length: 5", 400),
        ("X: y\nContent-Length: 5", 400),
        ("X: y\rContent-Length: 5", 400),
        ("X: y\r\r\nContent-Length: 5", 400),
        ("X: y\x00\r\nContent-Length: 5", 400),
        ("X\x00: y", 400),
        ("X: \x7f", 400),
        ("Content-Length: 5\nX: y", 400),
        (": y", 400),
        ("X", 400),
        ("X y: z", 400),
        ("Host: a", 400),
        ("Host: b", 400),
        ("(X): y", 400),
        ("\u{fc}: y", 400),
    ] {
        smuggled(fields, expected);
    }
}

#[test]
fn request_lines() {
    for (line, expected) in [
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /", 400),
        ("GET / ", 400),
        ("GET", 400),
        ("G@T / HTTP/1.1", 400),
        ("GET /\x01 HTTP/1.1", 400),
        ("GET /\u{e4} HTTP/1.1", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET a HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET http://b/ HTTP/1.1", 400),
        ("GET http://a@a/ HTTP/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("GET / http/1.1", 400),
        ("GET / HTTP/11", 400),
        ("GET / HTTX/1.1", 400),
        ("CONNECT a:80 HTTP/1.1", 400),
        ("CONNECT /a HTTP/1.1", 400),
        ("TRACE / HTTP/1.1", 501),
        ("GET https://a/ HTTP/1.1", 421),
        ("\x16\x03\x01", 400),
    ] {
        refused(&format!("{line}\r\nHost: a\r\n\r\n"), expected);
    }
    refused("GET / HTTP/1.1\nHost: a\n\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\n\r\n", 400);
    refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn hosts() {
    refused("GET / HTTP/1.1\r\n\r\n", 400);
    for host in [
        "", "a b", "a,b", "a/b", "u@a", "a:b", "[::1", "a\\b", "\"a\"", "a:80:80",
    ] {
        refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400);
    }
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400);
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    );
    refused("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400);
}

/// A broken line end is noticed before the head is whole.
#[test]
fn broken_line_ends_are_refused_at_once() {
    refused("GET / HTTP/1.1\r\nHost: a\nX: y\r\n", 400);
    for (first, then) in [
        ("GET / HTTP/1.1\r\nHost: a\r", "X"),
        ("GET / HTTP/1.1\r\nHost: ", "\n"),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let mut client = lab.client();
        client.send(first);
        until("the first part is read", || {
            lab.service().bytes_in == first.len() as u64
        });
        client.send(then);
        assert_eq!(client.response().0, 400);
        lab.ended(Reason::ClientBadRequest, 1);
    }
}

#[test]
fn bounds_of_heads() {
    let long = "x".repeat(17 << 10);
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431);
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431);
    refused(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
    refused(&format!("GET /{long}"), 414);
    let many: String = (0..64).map(|i| format!("X-{i}: y\r\n")).collect();
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431);
    refused(&format!("GET / HTTP/1.1\r\n{}", "\r\n".repeat(10)), 400);
}

#[test]
fn a_head_that_just_fits() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let fill = "x".repeat((16 << 10) - start.len() - 4);
    client.send(format!("{start}{fill}\r\n\r\n"));
    let mut server = backend.accept();
    assert_eq!(server.head().len(), 16 << 10);
    // The response's head is longer than the room in front of its body.
    let fill = "y".repeat(10 << 10);
    server.send(format!(
        "HTTP/1.1 200 OK\r\nX: {fill}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ));
    assert_eq!(value(&client.head(), "x"), Some(fill));
    assert_eq!(client.until("0\r\n\r\n"), "3\r\nabc\r\n0\r\n\r\n");
}

/// The largest that a configuration may allow, through several reads on both sides.
#[test]
fn heads_as_large_as_may_be() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.limits.head = 1 << 20;
        http.limits.headers = 1024;
    }));
    let mut client = lab.client();
    let fields: String = (0..1000)
        .map(|i| format!("X-{i}: {}\r\n", "y".repeat(1000)))
        .collect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let mut server = backend.accept();
    let head = server.head();
    assert!(head.ends_with(&format!("{fields}\r\n")));
    server.send(format!(
        "HTTP/1.1 200 OK\r\nDate: x\r\n{fields}Content-Length: 2\r\n\r\nok"
    ));
    assert!(client.head().contains(&fields));
    assert_eq!(client.text(2), "ok");
    // A little too large: what the relay leaves unread fits into the sockets' buffers, so that nothing here depends on how
    // long it listens to what it has refused.
    let more = "Y: ".to_owned() + &"y".repeat((1 << 20) - fields.len()) + "\r\n";
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}{more}\r\n"));
    assert_eq!(client.response().0, 431);
}

#[test]
fn broken_chunks() {
    for (chunks, reaches) in [
        ("g\r\n", false),
        ("\r\n", false),
        (" 5\r\nhello\r\n", false),
        ("5 \r\nhello\r\n", false),
        ("0x5\r\nhello\r\n", false),
        ("5\nhello\r\n", false),
        ("5\r\nhelloX", false),
        ("5\r\nhello\n", false),
        ("-5\r\n", false),
        ("ffffffffffffffff\r\n", false),
        ("10000000000000000\r\n", false),
        ("5;\x01\r\nhello\r\n", false),
        ("5;a=\"b\r\n", false),
        ("5;a\nb\r\n", false),
        ("0\r\nContent-Length: 5\r\n\r\n", false),
        ("0\r\nX : y\r\n\r\n", false),
        ("0\r\nX: y\n\r\n", false),
        ("0\r\n\n", false),
        ("5\r\nhello\r\nx", true),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let mut client = lab.client();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        if reaches {
            client.send(head);
            let mut server = backend.accept();
            server.head();
            client.send(chunks);
            // The backend gets no end of the body, and the client is told.
            let (got, _) = server.rest_or_reset();
            assert!(!got.contains("0\r\n\r\n"), "{chunks:?} {got:?}");
        } else {
            client.send(format!("{head}{chunks}"));
            assert!(backend.is_untouched(), "{chunks:?}");
        }
        assert_eq!(client.response().0, 400, "{chunks:?}");
        lab.ended(Reason::ClientBadRequest, 1);
    }
}

#[test]
fn bodies_over_the_limit() {
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
            http.limits.body = Some(10);
        }));
        let mut client = lab.client();
        client.send(request);
        assert_eq!(client.response().0, 413, "{request}");
        lab.ended(Reason::ClientBodyTooLarge, 1);
        assert!(backend.is_untouched());
    }
}

/// Whatever the backend does wrong, the client gets 502 and no byte of it.
#[test]
fn broken_responses() {
    for answer in [
        "hello",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\0\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n",
        "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\nX: y\r\n\r\n",
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let mut client = lab.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut server = backend.accept();
        server.head();
        server.send(answer);
        assert_eq!(client.response().0, 502, "{answer:?}");
        lab.ended(Reason::BackendBadResponse, 1);
        server.ends();
        // The client did nothing wrong: it may go on.
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        backend.accept().head();
    }
}

#[test]
fn too_large_a_response_head() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(17 << 10)));
    assert_eq!(client.response().0, 502);
}

/// What a backend says beyond its response is no response to the next request.
#[test]
fn extra_bytes_of_a_backend_are_not_believed() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(get);
    let mut server = backend.accept();
    server.head();
    server.send(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    assert_eq!(client.response(), (200, "1".into()));
    client.send(get);
    let mut next = backend.accept();
    next.head();
    // On an idle connection as well.
    next.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    assert_eq!(client.response(), (200, "2".into()));
    until("it is idle", || lab.backend(0).idle == 1);
    next.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    until("it is noticed", || lab.backend(0).idle == 0);
    client.send(get);
    let mut last = backend.accept();
    last.head();
    last.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3");
    assert_eq!(client.response(), (200, "3".into()));
}

#[test]
fn empty_lines_before_a_request() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    // In two pieces: half a line is nothing to refuse.
    client.send("\r");
    until("the first piece is read", || lab.service().bytes_in == 1);
    client.send("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().0, 204);
    // A few are an old client's habit; more are nobody's.
    let mut flood = lab.client();
    flood.send("\r\n".repeat(100));
    assert_eq!(flood.response().0, 400);
}

#[test]
fn nobody_claims_to_be_another() {
    let claims = "X-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX_Forwarded_For: 6.6.6.6\r\n\
                  Content_Length: 5\r\nX-Forwarded-For: 6.6.6.6\r\n";
    let ask = |trusted: bool| {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
            http.forwarded = weir_core::plan::Forwarded::XForwardedFor;
            if trusted {
                http.trusted_proxies = vec![weir_core::plan::IpNet::new([127, 0, 0, 0].into(), 8).unwrap()];
            }
        }));
        let mut client = lab.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX_Other: stays\r\n{claims}\r\n"
        ));
        backend.accept().head().to_ascii_lowercase()
    };
    let stranger = ask(false);
    assert!(
        !stranger.contains("6.6.6.6") && !stranger.contains("x-forwarded-proto"),
        "{stranger}"
    );
    assert!(
        !stranger.contains("content_length") && stranger.contains("x_other: stays"),
        "{stranger}"
    );
    assert!(stranger.contains("x-forwarded-for: 127.0.0.1\r\n"), "{stranger}");
    let proxy = ask(true);
    assert!(
        proxy.contains("x-real-ip: 6.6.6.6") && proxy.contains("x-forwarded-proto: https"),
        "{proxy}"
    );
    assert!(
        proxy.contains("x-forwarded-for: 6.6.6.6, 127.0.0.1\r\n"),
        "{proxy}"
    );
    assert!(!proxy.contains("x_forwarded_for"), "{proxy}");
}
