//! Ordinary traffic: keep-alive, pipelining, every way a body can be framed, interim responses, upgrades, rewriting.

use std::time::Duration;

use weir_core::plan::{Forwarded, HeaderAction, HeaderRule, IpNet, Template, TemplatePart, Variable};

use crate::support::*;

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\nx-two:2\r\n\r\n";

#[test]
fn a_request_and_its_response() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    assert_eq!(
        server.head(),
        "GET /a?b HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\nx-two: 2\r\n\r\n"
    );
    server.send("HTTP/1.1 200 Fine\r\nDate: today\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhello");
    assert_eq!(
        client.until("hello"),
        "HTTP/1.1 200 Fine\r\nDate: today\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhello"
    );
    until("it is counted", || lab.service().responses[1] == 1);
    let (service, backend) = (lab.service(), lab.backend(0));
    assert_eq!((service.accepted, service.open, service.requests), (1, 1, 1));
    assert_eq!(service.bytes_in, GET.len() as u64);
    assert_eq!((service.total.count(), service.first_byte.count()), (1, 1));
    assert_eq!(
        (
            backend.connections,
            backend.requests,
            backend.reused,
            backend.in_flight,
            backend.idle
        ),
        (1, 1, 0, 0, 1)
    );
    drop(client);
    until("the client is gone", || lab.service().open == 0);
}

#[test]
fn both_sides_keep_their_connections() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    for i in 0..20 {
        server.head();
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{i:02}"));
        assert_eq!(client.response(), (200, format!("{i:02}")));
        client.send(GET);
    }
    server.head();
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().0, 204);
    assert!(backend.is_untouched(), "one connection was enough");
    assert_eq!(lab.backend(0).reused, 20);
    // Another client gets the connection that is idle.
    let mut other = lab.client();
    other.send(GET);
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(other.response().0, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    let mut all = String::new();
    for i in 0..50 {
        all += &format!("POST /{i} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{i:02}");
    }
    client.send(&all);
    let mut server = backend.accept();
    for i in 0..50 {
        assert!(server.head().starts_with(&format!("POST /{i} ")));
        assert_eq!(server.text(2), format!("{i:02}"));
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{i:02}"));
    }
    for i in 0..50 {
        assert_eq!(client.response(), (200, format!("{i:02}")));
    }
    assert!(backend.is_untouched());
}

#[test]
fn heads_in_pieces() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    for byte in GET.as_bytes() {
        client.send([*byte]);
    }
    let mut server = backend.accept();
    assert!(server.head().starts_with("GET /a?b "));
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc" {
        server.send([*byte]);
    }
    assert_eq!(client.response(), (200, "abc".into()));
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(format!("\r\n\r\n{GET}"));
    let mut server = backend.accept();
    assert!(server.head().starts_with("GET /a?b "));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 200);
    client.send("\r");
    client.send(format!("\n{GET}"));
    assert!(server.head().starts_with("GET /a?b "));
}

#[test]
fn chunks_both_ways_with_trailers() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let mut server = backend.accept();
    let head = server.head();
    assert_eq!(value(&head, "transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(value(&head, "te").as_deref(), Some("trailers"));
    assert_eq!(value(&head, "trailer").as_deref(), Some("X-Sum"));
    client.send("4;ext=\"a;b\"\r\nWiki\r\n5\r\npedia\r\n0\r\nX-Sum: 9\r\n\r\n");
    assert_eq!(
        server.until("X-Sum: 9\r\n\r\n"),
        "9\r\nWikipedia\r\n0\r\nX-Sum: 9\r\n\r\n"
    );
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let head = client.head();
    assert_eq!(value(&head, "transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(client.until("abc\r\n"), "3\r\nabc\r\n");
    server.send("2\r\nde\r\n0\r\nX-End: y\r\n\r\n");
    assert_eq!(client.until("\r\n\r\n"), "2\r\nde\r\n0\r\nX-End: y\r\n\r\n");
    // Both connections go on.
    client.send(GET);
    server.head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    client.head();
    assert_eq!(client.until("\r\n\r\n"), "0\r\n\r\n");
}

#[test]
fn http_1_0_clients() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let mut server = backend.accept();
    // HTTP/1.1 must name a host.
    assert_eq!(
        server.head(),
        format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", lab.at)
    );
    server.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "connection").as_deref()),
        (200, Some("keep-alive"))
    );
    assert_eq!(client.text(1), "x");
    // Chunks are unpacked; the end of the connection ends the body.
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    server.head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (
            value(&head, "transfer-encoding"),
            value(&head, "connection").as_deref()
        ),
        (None, Some("close"))
    );
    assert_eq!(client.rest(), "abc");
    let mut client = lab.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    assert!(client.rest().ends_with("x"));
}

#[test]
fn bodies_that_the_end_of_the_connection_ends() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.0 200 OK\r\n\r\nabc");
    let head = client.head();
    assert_eq!(value(&head, "transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(client.until("abc\r\n"), "3\r\nabc\r\n");
    drop(server);
    assert_eq!(client.until("\r\n\r\n"), "0\r\n\r\n");
    // The client's connection goes on, over another one to the backend.
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 200);
}

#[test]
fn responses_without_a_body() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(value(&client.head(), "content-length").as_deref(), Some("1000"));
    for (answer, length) in [
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
            Some("77"),
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ] {
        client.send(GET);
        server.head();
        server.send(answer);
        assert_eq!(
            value(&client.head(), "content-length").as_deref(),
            length,
            "{answer}"
        );
    }
    assert!(backend.is_untouched());
}

#[test]
fn continue_comes_from_the_backend() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    let mut server = backend.accept();
    assert_eq!(value(&server.head(), "expect").as_deref(), Some("100-continue"));
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    assert_eq!(server.text(3), "abc");
    server.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 201);
    // Refused: the body never comes, so the connection can't stay.
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    server.head();
    server.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "connection").as_deref()),
        (417, Some("close"))
    );
    client.ends();
    server.ends();
}

#[test]
fn a_response_may_come_before_the_request_is_whole() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let mut server = backend.accept();
    server.head();
    assert_eq!(server.text(3), "abc");
    server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno");
    assert_eq!(value(&client.head(), "connection").as_deref(), Some("close"));
    assert_eq!(client.text(2), "no");
    // The body still passes while the response is not over.
    client.send("defg");
    assert_eq!(server.text(4), "defg");
    server.send("thin");
    assert_eq!(client.rest(), "thin");
    server.ends();
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly");
    let mut server = backend.accept();
    let head = server.head();
    assert_eq!(value(&head, "connection").as_deref(), Some("Upgrade"));
    assert_eq!(value(&head, "upgrade").as_deref(), Some("websocket"));
    // The switch and the first frame in one segment.
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nframe");
    let head = client.head();
    assert_eq!(status(&head), 101);
    assert_eq!(value(&head, "upgrade").as_deref(), Some("WebSocket"));
    assert_eq!(client.text(5), "frame");
    assert_eq!(server.text(5), "early");
    client.send("ping");
    assert_eq!(server.text(4), "ping");
    client.finish();
    assert_eq!(server.rest(), "");
    server.send("pong");
    drop(server);
    assert_eq!(client.rest(), "pong");
    until("it is counted", || {
        lab.service().responses[0] == 1 && lab.backend(0).in_flight == 0
    });
}

#[test]
fn a_refused_upgrade_is_a_response_like_others() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(client.response(), (426, "no".into()));
    client.send(GET);
    assert!(server.head().starts_with("GET /a?b "), "still HTTP");
}

#[test]
fn switches_that_nobody_asked_for() {
    for (request, answer) in [
        (GET, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
            "Connection: Upgrade\r\nUpgrade: b\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
            "Upgrade: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
            "Connection: Upgrade\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\n\r\n",
            "Connection: Upgrade\r\nUpgrade: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        ),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let mut client = lab.client();
        client.send(request);
        let mut server = backend.accept();
        server.head();
        server.send(format!("HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n"));
        assert_eq!(client.response().0, 502, "{request} {answer}");
        server.ends();
    }
}

#[test]
fn what_is_hop_by_hop_ends_here() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Host, Content-Length, X-Forwarded-For, Cookie\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-Hop: 1\r\nX-Stays: 2\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: c\r\n\
         TE: gzip\r\nUpgrade: x\r\n\r\n",
    );
    let mut server = backend.accept();
    assert_eq!(
        server.head(),
        "GET / HTTP/1.1\r\nHost: a\r\nX-Stays: 2\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: c\r\n\r\n"
    );
    server.send(
        "HTTP/1.1 200 OK\r\nConnection: Tok, close\r\nTok: x\r\nKeep-Alive: a\r\nContent-Length: 0\r\n\r\n",
    );
    let head = client.head();
    assert_eq!((value(&head, "tok"), value(&head, "keep-alive")), (None, None));
    assert_eq!(value(&head, "connection").as_deref(), Some("close"));
    client.ends();
    server.ends();
}

#[test]
fn forwarded_addresses() {
    let sent =
        "X-Forwarded-For: 203.0.113.1\r\nForwarded: for=203.0.113.1\r\nx-forwarded-for: 203.0.113.2\r\n";
    let trusted = IpNet::new("127.0.0.0".parse().unwrap(), 8).unwrap();
    for (mode, trust, x, rfc) in [
        (Forwarded::XForwardedFor, false, Some("127.0.0.1"), None),
        (
            Forwarded::XForwardedFor,
            true,
            Some("203.0.113.1, 203.0.113.2, 127.0.0.1"),
            Some("for=203.0.113.1"),
        ),
        (Forwarded::Rfc7239, false, None, Some("for=127.0.0.1;proto=http")),
        (
            Forwarded::Rfc7239,
            true,
            Some("203.0.113.1|203.0.113.2"),
            Some("for=203.0.113.1, for=127.0.0.1;proto=http"),
        ),
        (
            Forwarded::Both,
            false,
            Some("127.0.0.1"),
            Some("for=127.0.0.1;proto=http"),
        ),
        (
            Forwarded::Off,
            false,
            Some("203.0.113.1|203.0.113.2"),
            Some("for=203.0.113.1"),
        ),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
            http.forwarded = mode;
            http.trusted_proxies = if trust { vec![trusted] } else { Vec::new() };
        }));
        let mut client = lab.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{sent}\r\n"));
        let head = backend.accept().head();
        assert_eq!(
            value(&head, "x-forwarded-for").as_deref(),
            x,
            "{mode:?} {trust} {head}"
        );
        assert_eq!(
            value(&head, "forwarded").as_deref(),
            rfc,
            "{mode:?} {trust} {head}"
        );
    }
}

fn rule(name: &str, action: HeaderAction) -> HeaderRule {
    HeaderRule {
        name: name.into(),
        action,
    }
}

fn template(parts: &[TemplatePart]) -> Template {
    Template {
        parts: parts.to_vec(),
    }
}

#[test]
fn header_rules() {
    let dead = closed_port();
    let backend = Backend::new();
    // Those that do not speak of the request; the others are in `rewriting`.
    let variables: Vec<_> = Variable::ALL
        .iter()
        .filter(|(name, _)| {
            ["node.", "service.", "pool.", "client.", "server.", "backend."]
                .iter()
                .any(|of| name.starts_with(of))
        })
        .flat_map(|(_, v)| [TemplatePart::Variable(*v), TemplatePart::Literal(" ".into())])
        .collect();
    let setup = Setup::http_with(&[dead, backend.at], |http| {
        http.request_headers = vec![
            rule("X-Set", HeaderAction::Set(template(&variables))),
            rule(
                "x-add",
                HeaderAction::Append(template(&[TemplatePart::Literal("2".into())])),
            ),
            rule("X-Remove", HeaderAction::Remove),
        ];
        http.response_headers = vec![
            rule(
                "Server",
                HeaderAction::Set(template(&[TemplatePart::Variable(Variable::NodeName)])),
            ),
            rule(
                "X-Gone",
                HeaderAction::Append(template(&[TemplatePart::Literal("never".into())])),
            ),
            rule("X-Gone", HeaderAction::Remove),
        ];
    });
    let lab = Lab::new(setup);
    let mut client = lab.client();
    let local = client.stream.local_addr().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-SET: old\r\nX-Add: 1\r\nx-set: older\r\nX-remove: x\r\n\r\n");
    // The first backend is dead: what is written must be right for the second.
    let mut server = backend.accept();
    let head = server.head();
    let expected = format!(
        "edge-1 www pool 127.0.0.1 {} 127.0.0.1 127.0.0.1 {} b1 {}",
        local.port(),
        lab.at.port(),
        backend.at
    );
    assert_eq!(
        value(&head, "x-set").as_deref(),
        Some(expected.as_str()),
        "{head}"
    );
    assert_eq!(value(&head, "x-add").as_deref(), Some("1|2"));
    assert_eq!(value(&head, "x-remove"), None);
    server.send("HTTP/1.1 200 OK\r\nServer: nginx\r\nX-Gone: 1\r\nContent-Length: 0\r\n\r\n");
    let head = client.head();
    assert_eq!(value(&head, "server").as_deref(), Some("edge-1"));
    assert_eq!(value(&head, "x-gone"), None);
    assert!(value(&head, "date").is_some_and(|date| date.ends_with(" GMT")));
    // Responses of weir's own follow the rules too.
    client.send("GET / HTTP/2.0\r\n\r\n");
    let head = client.head();
    assert_eq!(value(&head, "server").as_deref(), Some("edge-1"), "{head}");
}

#[test]
fn absolute_targets() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET http://a:80/x?y HTTP/1.1\r\nHost: A\r\n\r\nGET http://a?y HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    for expected in [
        "GET /x?y HTTP/1.1\r\n",
        "GET /?y HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
    ] {
        let head = server.head();
        assert!(head.starts_with(expected), "{head}");
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    for _ in 0..3 {
        assert_eq!(client.response().0, 200);
    }
}

#[test]
fn a_client_that_has_ended_its_side_still_gets_its_response() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.finish();
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(client.rest().ends_with("\r\n\r\nok"));
    until("it is over", || lab.service().open == 0);
}

#[test]
fn idle_clients_are_let_go() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.timeouts.keep_alive = Duration::from_millis(100);
    }));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().0, 200);
    assert_eq!(client.rest(), "", "closed without a word");
}
