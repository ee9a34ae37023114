//! What rules make of traffic: rewriting, redirects, responses, ids, and what backends are told of the client.

use weir_core::plan::{
    Conditions, Forwarded, ForwardedField, HeaderAction, HeaderRule, HostRewrite, Http, IpNet, LogFormat,
    LogTarget, PathPattern, PathRewrite, Redirect, Relayed, Replacement, Respond, Rewrite, Rule, RuleAction,
    Template, TemplatePart, Variable, Via,
};
use weir_relay::Reason;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// `{name}` is a variable, all else stands for itself.
fn template(text: &str) -> Template {
    let part = |(i, piece): (usize, &str)| {
        if i % 2 == 0 {
            return TemplatePart::Literal(piece.into());
        }
        if let Some(name) = piece.strip_prefix("request.header.") {
            return TemplatePart::RequestField(name.into());
        }
        if let Some(name) = piece.strip_prefix("response.header.") {
            return TemplatePart::ResponseField(name.into());
        }
        let known = Variable::ALL.iter().find(|(name, _)| *name == piece);
        TemplatePart::Variable(known.unwrap_or_else(|| panic!("no {piece}")).1)
    };
    let pieces = text.split(['{', '}']).enumerate();
    Template {
        parts: pieces.filter(|(_, piece)| !piece.is_empty()).map(part).collect(),
    }
}

fn set(name: &str, value: &str) -> HeaderRule {
    HeaderRule {
        name: name.into(),
        action: HeaderAction::Set(template(value)),
    }
}

fn trust_loopback(http: &mut Http) {
    http.trusted_proxies = vec![IpNet::new("127.0.0.0".parse().unwrap(), 8).unwrap()];
}

fn paths(paths: &[&str]) -> Vec<PathPattern> {
    paths.iter().map(|path| PathPattern::new(*path)).collect()
}

fn redirect(conditions: Conditions, to: &str, status: u16) -> Rule {
    Rule {
        conditions,
        action: RuleAction::Redirect(Redirect {
            to: template(to),
            status,
        }),
    }
}

fn respond(conditions: Conditions, status: u16, body: &str) -> Rule {
    Rule {
        conditions,
        action: RuleAction::Respond(Respond {
            status,
            body: body.into(),
            content_type: Some("text/plain".into()),
            headers: vec![("X-Path".into(), template("{request.path}"))],
        }),
    }
}

fn path(path: &str) -> Conditions {
    Conditions {
        path: paths(&[path]),
        ..Conditions::default()
    }
}

fn prefix(prefix: &str) -> Conditions {
    Conditions {
        path_prefix: paths(&[prefix]),
        ..Conditions::default()
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        let host = Conditions {
            host: vec!["old.example".into(), "*.old.example".into()],
            ..Conditions::default()
        };
        let posts = Conditions {
            method: vec!["POST".into()],
            ..prefix("/a")
        };
        http.rules = vec![
            redirect(host, "https://new.example{request.target}", 308),
            respond(posts, 403, "no\n"),
            respond(path("/a/b"), 200, "b\n"),
            redirect(prefix("/a"), "/c{match.rest}?{request.query}", 307),
            Rule {
                conditions: prefix("/d"),
                action: RuleAction::Relay(Relayed {
                    pool: None,
                    rewrite: Some(Rewrite {
                        path: PathRewrite::Prefix {
                            strip: PathPattern::new("/d"),
                            add: Template::default(),
                        },
                        host: HostRewrite::Set(template("d.internal")),
                        ..Rewrite::default()
                    }),
                }),
            },
        ];
        http.rewrite = Rewrite {
            path: PathRewrite::Prefix {
                strip: PathPattern::default(),
                add: template("/default"),
            },
            ..Rewrite::default()
        };
    }));
    let mut client = lab.client();
    let mut ask = |method: &str, target: &str, host: &str| {
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nbody"
        ));
        let head = client.head();
        let length = value(&head, "content-length").unwrap().parse().unwrap();
        let body = if method == "HEAD" {
            String::new()
        } else {
            client.text(length)
        };
        assert_eq!(value(&head, "connection"), None, "the connection stays: {head}");
        (
            status(&head),
            value(&head, "location"),
            value(&head, "x-path"),
            body,
        )
    };
    let moved = |to: &str, status: u16, phrase: &str| {
        (status, Some(to.to_owned()), None, format!("{status} {phrase}\n"))
    };
    let said = |status: u16, path: &str, body: &str| (status, None, Some(path.to_owned()), body.to_owned());
    assert_eq!(
        ask("GET", "/a/b?c", "WWW.old.example:80"),
        moved("https://new.example/a/b?c", 308, "Permanent Redirect")
    );
    assert_eq!(ask("POST", "/a/b", "x"), said(403, "/a/b", "no\n"));
    assert_eq!(ask("GET", "/a/%62?c", "x"), said(200, "/a/%62", "b\n"));
    assert_eq!(ask("HEAD", "/a/b", "x"), said(200, "/a/b", ""));
    assert_eq!(ask("GET", "/a", "x"), moved("/c", 307, "Temporary Redirect"));
    assert_eq!(
        ask("GET", "/a/x?y", "x"),
        moved("/c/x?y", 307, "Temporary Redirect")
    );
    assert!(backend.is_untouched());
    lab.ended(Reason::Answered, 6);
    assert_eq!((lab.service().requests, lab.service().responses[2]), (6, 3));

    let mut server = None;
    for (target, expected) in [
        ("/d/e?f", "GET /e?f HTTP/1.1\r\nHost: d.internal\r\n"),
        ("/ab", "GET /default/ab HTTP/1.1\r\nHost: x\r\n"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let server = server.get_or_insert_with(|| backend.accept());
        let head = server.head();
        assert!(head.starts_with(expected), "{head}");
        server.send(OK);
        assert_eq!(client.response().0, 200);
    }
}

#[test]
fn answers_need_no_backend_and_keep_their_order() {
    let lab = Lab::new(Setup::http_with(&[closed_port()], |http| {
        http.rules = vec![respond(Conditions::default(), 200, "here\n")];
    }));
    lab.words(DOWN);
    let mut client = lab.client();
    let one = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let three = "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.send(format!("{one}{two}{three}"));
    for (at, connection) in [("/1", None), ("/2", None), ("/3", Some("close"))] {
        let head = client.head();
        assert_eq!(value(&head, "x-path").as_deref(), Some(at), "{head}");
        assert_eq!(value(&head, "connection").as_deref(), connection);
        assert_eq!(client.text(5), "here\n");
    }
    client.ends();
    // HTTP/1.0 is told aloud that its connection stays.
    let mut client = lab.client();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(value(&client.head(), "connection").as_deref(), Some("keep-alive"));
}

#[test]
fn an_answer_does_not_wait_for_the_body() {
    let lab = Lab::new(Setup::http_with(&[closed_port()], |http| {
        http.rules = vec![respond(Conditions::default(), 403, "no\n")];
    }));
    let mut client = lab.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "connection").as_deref()),
        (403, Some("close"))
    );
    assert_eq!(client.rest(), "no\n");
}

#[test]
fn paths_that_can_be_read_in_two_ways_are_refused_where_paths_count() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.rules = vec![respond(prefix("/admin"), 403, "no\n")];
    }));
    for target in ["/x/../admin", "/x/%2e%2E/admin", "/x/..%2fadmin", "/./admin"] {
        let mut client = lab.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(status(&client.head()), 400, "{target}");
    }
    lab.ended(Reason::ClientBadRequest, 4);
    for target in ["/%61dmin", "//admin//x"] {
        let mut client = lab.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().0, 403, "{target}");
    }
    assert!(backend.is_untouched());
    // A service that only looks at hosts passes paths as they are.
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.rewrite.host = HostRewrite::Set(template("b"));
    }));
    let mut client = lab.client();
    client.send("GET /x/../%2e/y HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = backend.accept().head();
    assert!(
        head.starts_with("GET /x/../%2e/y HTTP/1.1\r\nHost: b\r\n"),
        "{head}"
    );
}

#[test]
fn the_host_of_the_backend_that_gets_the_request() {
    let dead = closed_port();
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[dead, backend.at], |http| {
        http.rewrite.host = HostRewrite::Backend;
        http.forwarded = Forwarded::Rfc7239;
        http.forwarded_fields = vec![ForwardedField::Host];
    }));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n");
    let head = backend.accept().head();
    assert_eq!(value(&head, "host"), Some(backend.at.to_string()), "{head}");
    assert_eq!(
        value(&head, "x-forwarded-host").as_deref(),
        Some("a.example:8080")
    );
    assert_eq!(
        value(&head, "forwarded").as_deref(),
        Some("for=127.0.0.1;proto=http;host=\"a.example:8080\"")
    );
}

/// A request that waits for a backend is written for the one that comes.
#[test]
fn the_host_of_a_backend_that_comes_up_later() {
    let backend = Backend::new();
    let lab = Lab::pending(Setup::http_with(&[backend.at], |http| {
        http.rewrite.host = HostRewrite::Backend;
        http.timeouts.queue = PATIENCE;
    }));
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    until("it is read", || lab.service().requests == 1);
    lab.words(UP);
    let mut server = backend.accept();
    assert_eq!(value(&server.head(), "host"), Some(backend.at.to_string()));
    assert_eq!(server.text(4), "body");
    server.send(OK);
    assert_eq!(client.response().0, 200);
}

#[test]
fn a_large_answer_reaches_a_client_that_reads_late() {
    let body = "x".repeat(8 << 20);
    let lab = Lab::new(Setup::http_with(&[closed_port()], |http| {
        http.rules = vec![respond(Conditions::default(), 200, &body)];
    }));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is on its way", || lab.service().requests >= 1);
    for _ in 0..2 {
        let (status, got) = client.response();
        assert!(status == 200 && got == body);
    }
}

#[test]
fn a_host_that_can_not_be_made_is_a_bad_request() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.rewrite.host = HostRewrite::Set(template("{request.header.x-tenant}.internal"));
    }));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: a b\r\n\r\n");
    assert_eq!(status(&client.head()), 400);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: t1\r\n\r\n");
    assert_eq!(
        value(&backend.accept().head(), "host").as_deref(),
        Some("t1.internal")
    );
}

#[test]
fn what_is_said_of_the_client() {
    let said = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: said\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 203.0.113.7\r\n\
                X-Forwarded-For: 203.0.113.1, 192.0.2.1, 127.0.0.9\r\nX-Forwarded-Prefix: /p\r\n";
    let names = ["proto", "host", "port", "prefix"].map(|name| format!("x-forwarded-{name}"));
    for (trusted, sends, expected, real) in [
        (
            false,
            true,
            [Some("http"), Some("a.example"), None, None],
            "127.0.0.1",
        ),
        (
            true,
            true,
            [Some("https"), Some("said"), Some("443"), Some("/p")],
            "192.0.2.1",
        ),
        (
            true,
            false,
            [Some("http"), Some("a.example"), None, None],
            "127.0.0.1",
        ),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
            if trusted {
                trust_loopback(http);
            }
            http.forwarded = Forwarded::XForwardedFor;
            http.forwarded_fields = ForwardedField::ALL.map(|(_, field)| field).to_vec();
            http.request_headers = vec![set(
                "X-A",
                "{client.real_address} {request.header.x-forwarded-proto} {request.header.x-none}.",
            )];
        }));
        let mut client = lab.client();
        let fields = if sends { said } else { "" };
        client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        let head = backend.accept().head();
        let port = lab.at.port().to_string();
        for (name, expected) in names.iter().zip(expected) {
            let expected = expected.or_else(|| (name == "x-forwarded-port").then_some(port.as_str()));
            assert_eq!(value(&head, name).as_deref(), expected, "{trusted} {name} {head}");
        }
        assert_eq!(value(&head, "x-real-ip").as_deref(), Some(real), "{head}");
        // Nothing of what an untrusted client claims gets into a value by way of a variable either.
        let proto = if trusted && sends { "https" } else { "" };
        assert_eq!(value(&head, "x-a"), Some(format!("{real} {proto} .")), "{head}");
    }
}

#[test]
fn via() {
    for (via, request, response) in [
        (Via::Off, "1.1 other", None),
        (Via::Requests, "1.1 other|1.1 edge-1", None),
        (Via::Both, "1.1 other|1.1 edge-1", Some("1.0 edge-1")),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http_with(&[backend.at], |http| http.wire.via = via));
        let mut client = lab.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 other\r\n\r\n");
        let mut server = backend.accept();
        assert_eq!(value(&server.head(), "via").as_deref(), Some(request));
        server.send("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(value(&client.head(), "via").as_deref(), response);
    }
}

#[test]
fn requests_have_ids() {
    let path = std::env::temp_dir().join(format!("weir-relay-ids-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut seen = Vec::new();
    for trusted in [false, true] {
        let backend = Backend::new();
        let mut setup = Setup::http_with(&[backend.at], |http| {
            if trusted {
                trust_loopback(http);
            }
            http.request_id = Some("X-Request-Id".into());
            http.response_headers = vec![set("X-Id", "{request.id}")];
        });
        setup.log = weir_relay::AccessLog {
            format: LogFormat::Json,
            to: LogTarget::File(path.clone()),
            null: false,
        };
        let lab = Lab::new(setup);
        let mut client = lab.client();
        let mut server = None;
        for (sent, kept) in [
            ("", None),
            ("x-request-id: abc-1\r\n", Some("abc-1")),
            ("X-Request-Id: a\r\nX-Request-Id: b\r\n", None),
            ("X-Request-Id: a\"b\r\n", None),
            ("X-Request-Id: \r\n", None),
        ] {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{sent}\r\n"));
            let server = server.get_or_insert_with(|| backend.accept());
            let id = value(&server.head(), "x-request-id").unwrap();
            server.send(OK);
            assert_eq!(
                value(&client.head(), "x-id").as_ref(),
                Some(&id),
                "the client learns the same one"
            );
            match kept.filter(|_| trusted) {
                Some(kept) => assert_eq!(id, kept),
                None => assert!(id.len() == 36 && !seen.contains(&id), "{id}"),
            }
            seen.push(id);
        }
    }
    let logged = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let ids: Vec<String> = logged
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ids, seen);
}

#[test]
fn trace_contexts_pass_untouched() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.request_id = Some("X-Request-Id".into());
        http.wire.via = Via::Both;
        http.forwarded = Forwarded::Both;
    }));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
    let mut client = lab.client();
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {parent}\r\nTraceState: {state}\r\ntracestate: x=1\r\n\r\n"
    ));
    let mut server = backend.accept();
    let head = server.head();
    assert!(
        head.contains(&format!(
            "\r\ntraceparent: {parent}\r\nTraceState: {state}\r\ntracestate: x=1\r\n"
        )),
        "{head}"
    );
    server.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\ntraceparent: {parent}\r\n\r\n"
    ));
    assert_eq!(value(&client.head(), "traceparent").as_deref(), Some(parent));
}

#[test]
fn responses_speak_of_their_request() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.response_headers = vec![
            set(
                "X-Of",
                "{request.method} {request.target} {request.header.x-a} {response.status} {response.header.x-b} {backend.name}",
            ),
            HeaderRule {
                name: "Location".into(),
                action: HeaderAction::Replace(Replacement {
                    find: "http://inside".into(),
                    with: template("https://{request.authority}"),
                }),
            },
        ];
        http.rewrite.path = PathRewrite::Whole(template("/elsewhere"));
    }));
    let mut client = lab.client();
    let ask = "GET /a?b HTTP/1.1\r\nHost: out.example:81\r\nX-A: 1\r\nx-a: 2\r\n\r\n";
    client.send(ask);
    let mut server = backend.accept();
    assert!(server.head().starts_with("GET /elsewhere?b "));
    server.send("HTTP/1.1 302 Found\r\nX-B: 3\r\nLocation: http://inside/c\r\nContent-Length: 0\r\n\r\n");
    let head = client.head();
    assert_eq!(
        value(&head, "x-of").as_deref(),
        Some("GET /a?b 1, 2 302 3 b0"),
        "{head}"
    );
    assert_eq!(
        value(&head, "location").as_deref(),
        Some("https://out.example:81/c")
    );
    // A response of weir's own knows the request, too.
    client.send(ask);
    server.head();
    server.send("HTTP/1.1 2x0 What\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "x-of").as_deref()),
        (502, Some("GET /a?b 1, 2")),
        "{head}"
    );
}

/// A response that rules blow up is weir's fault to the client, not a response cut off.
#[test]
fn a_response_that_rules_make_too_large() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.response_headers = vec![HeaderRule {
            name: "X-A".into(),
            action: HeaderAction::Replace(Replacement {
                find: "a".into(),
                with: template(&"b".repeat(8000)),
            }),
        }];
    }));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send(format!(
        "HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 0\r\n\r\n",
        "a".repeat(8000)
    ));
    assert_eq!(client.response().0, 502);
}

/// Refused or not, what a client reports can be found: its answer has the id of the record.
#[test]
fn refused_requests_have_ids() {
    let setup = Setup::http_with(&[closed_port()], |http| {
        http.request_id = Some("X-Id".into());
        http.response_headers = vec![set("X-Id", "{request.id}")];
        http.limits.body = Some(1);
        http.limits.connections = 1;
        trust_loopback(http);
    });
    let logged = Logged::new(setup, LogFormat::Json, false);
    let mut answered = Vec::new();
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 413),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nX-Id: from-a-proxy\r\n\r\n", 501),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 503),
    ] {
        let mut client = logged.lab.client();
        client.send(request);
        let head = client.head();
        assert_eq!(status(&head), expected, "{request}");
        let id = value(&head, "x-id").unwrap_or_else(|| panic!("{head}"));
        assert!(!id.is_empty(), "{head}");
        if expected == 501 {
            assert_eq!(id, "from-a-proxy");
        }
        answered.push(id);
        drop(client);
        until("the connection has ended", || logged.lab.service().open == 0);
    }
    // One connection too many.
    let first = logged.lab.client();
    until("the first is open", || logged.lab.service().open == 1);
    let mut second = logged.lab.client();
    let head = second.head();
    assert_eq!(status(&head), 503);
    answered.push(value(&head, "x-id").unwrap());
    drop(first);
    let recorded: Vec<_> = logged
        .lines(answered.len())
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(recorded, answered);
    let distinct: std::collections::BTreeSet<_> = answered.iter().collect();
    assert_eq!(distinct.len(), answered.len());
}

/// Each `Via` as a client sends it, and the least limit under which it passes.
#[test]
fn loops_end() {
    for (via, passes) in [
        ("", 0),
        ("Via: 1.1 other\r\n", 0),
        ("Via: 1.1 edge-1\r\n", 1),
        ("Via: HTTP/1.1 EDGE-1 (weir)\r\n", 1),
        ("Via: 1.1 edge-1:8080\r\n", 1),
        ("Via: 1.0 a, 1.1 edge-1,1.1 b\r\nvia:  2   edge-1\r\n", 2),
        (
            "Via: 1.1 edge-10, 1.1 xedge-1, edge-1, 1.1\r\nX-Via: 1.1 edge-1\r\n",
            0,
        ),
        ("Via: 1.1 a (1.1 edge-1)\r\n", 0),
    ] {
        for limit in [Some(0), Some(1), Some(2), None] {
            let lab = Lab::new(Setup::http_with(&[Backend::new().serve("x")], |http| {
                http.wire.loop_limit = limit;
            }));
            let mut client = lab.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{via}\r\n"));
            let expected = if limit.is_none_or(|limit| passes <= limit) {
                200
            } else {
                508
            };
            assert_eq!(client.response().0, expected, "{via} {limit:?}");
            if expected == 508 {
                client.ends();
                lab.ended(Reason::Loop, 1);
            }
        }
    }
}

/// A relay that is its own backend: without a limit the request would go round until nothing is left.
#[test]
fn a_real_loop_ends_in_508() {
    let (at, sockets) = listen(1);
    let mut setup = Setup::http_with(&[at], |http| http.wire.via = Via::Requests);
    setup.checked = false;
    let lab = Lab {
        relay: weir_relay::Relay::start(weir_relay::Options {
            workers: 1,
            access_log: weir_relay::AccessLog::OFF,
        })
        .unwrap(),
        at,
        setup,
    };
    lab.relay
        .apply(lab.setup.plan("www", at), vec![listener(at, "www", sockets)])
        .unwrap();
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().0, 508);
    // Four returns are allowed: the client's request, and five of weir's own, the last of which is one too many.
    assert_eq!(lab.service().requests, 6);
    assert_eq!(lab.service().ends[Reason::Loop as usize], 1);
}
