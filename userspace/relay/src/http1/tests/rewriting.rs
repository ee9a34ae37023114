//! Header rules, rewritten targets and hosts, redirects: what comes out, and that it is always a message.

use weir_core::plan::{
    HeaderAction, HeaderRule, HostRewrite, PathPattern, PathRewrite, Redirect, Replacement, Respond,
    Template, TemplatePart, Variable,
};

use super::{
    super::own::{self, Own},
    *,
};

/// `{name}` is a variable, all else stands for itself.
fn template(text: &str) -> Template {
    let mut parts = Vec::new();
    for (i, piece) in text.split(['{', '}']).enumerate() {
        if i % 2 == 0 {
            if !piece.is_empty() {
                parts.push(TemplatePart::Literal(piece.into()));
            }
        } else if let Some(name) = piece.strip_prefix("request.header.") {
            parts.push(TemplatePart::RequestField(name.into()));
        } else {
            let known = Variable::ALL.iter().find(|(name, _)| *name == piece);
            parts.push(TemplatePart::Variable(known.unwrap().1));
        }
    }
    Template { parts }
}

fn prefix(strip: &str, add: &str) -> Rewrite {
    Rewrite {
        path: PathRewrite::Prefix {
            strip: PathPattern::new(strip),
            add: template(add),
        },
        ..Rewrite::default()
    }
}

fn whole(path: &str) -> Rewrite {
    Rewrite {
        path: PathRewrite::Whole(template(path)),
        ..Rewrite::default()
    }
}

fn query(query: &str) -> Rewrite {
    Rewrite {
        query: Some(template(query)),
        ..Rewrite::default()
    }
}

fn host(host: &str) -> Rewrite {
    Rewrite {
        host: HostRewrite::Set(template(host)),
        ..Rewrite::default()
    }
}

fn replaced(find: &str, with: &str) -> Rewrite {
    Rewrite {
        replace: vec![Replacement {
            find: find.into(),
            with: with.into(),
        }],
        ..Rewrite::default()
    }
}

/// The request line's target that a backend gets.
fn target(sent: &str, rewrite: &Rewrite) -> Result<String, Malformed> {
    let head = format!("GET {sent} HTTP/1.1\r\nHost: h.example:81\r\nX-A: b/c d\r\nX-Dots: ..\r\n\r\n");
    let (out, _) = rewrite_by(head.as_bytes(), rewrite, &Rules::default())?.unwrap();
    let text = String::from_utf8_lossy(&out);
    Ok(text.split(' ').nth(1).unwrap().to_owned())
}

#[test]
fn targets() {
    for (rewrite, sent, expected) in [
        (prefix("/app", ""), "/app/x?q", "/x?q"),
        (prefix("/app", ""), "/app", "/"),
        (prefix("/app", ""), "/app?q", "/?q"),
        (prefix("/app", ""), "/app/", "/"),
        (prefix("/app", ""), "/application", "/application"),
        (prefix("/app", ""), "/%61pp/%2f?", "/%2f?"),
        // What is left never begins with two slashes: they would be an authority to some.
        (prefix("/app", ""), "/app//evil.example/x", "/evil.example/x"),
        (prefix("/app/", ""), "/app//x", "/x"),
        (prefix("", "/v2"), "/x", "/v2/x"),
        (prefix("", "/v2"), "//x", "/v2//x"),
        (prefix("/v1", "/v2"), "/v1/x", "/v2/x"),
        (prefix("/v1", "/v2"), "/v1", "/v2"),
        (prefix("/v1", "/v2"), "/x", "/v2/x"),
        (prefix("/v1", "/{request.host}"), "/v1/x", "/h.example/x"),
        (prefix("/v1", "/{request.header.x-a}"), "/v1/x", "/b%2Fc%20d/x"),
        (prefix("/x", ""), "http://h.example:81?q", "/?q"),
        (whole("/fixed"), "/x?q", "/fixed?q"),
        (whole("/a{request.path}"), "/x\"<?q", "/a/x\"<?q"),
        (whole("/{request.query}"), "/x?a=1&b", "/a%3D1%26b?a=1&b"),
        (query(""), "/x?q", "/x"),
        (query("a=b"), "/x", "/x?a=b"),
        (query("{request.query}&a=b"), "/x?q", "/x?q&a=b"),
        (query("{request.query}&a=b"), "/x", "/x?a=b"),
        (
            query("a={request.path}&{request.query}"),
            "/x&y",
            "/x&y?a=%2Fx%26y",
        ),
        (replaced("/old/", "/new/"), "/old/x/old/y", "/new/x/new/y"),
        (replaced("/old", ""), "/old", "/"),
        (replaced("aa", "b"), "/aaaaa?aa", "/bba?aa"),
        (Rewrite::default(), "//x/../y?", "//x/../y?"),
    ] {
        assert_eq!(
            target(sent, &rewrite).as_deref(),
            Ok(expected),
            "{sent} {rewrite:?}"
        );
    }
}

#[test]
fn what_would_be_no_target_is_refused() {
    for (rewrite, sent) in [
        (whole("/a/{request.header.x-dots}/b"), "/x"),
        (replaced("x", "."), "/x/y"),
        (replaced("/", ""), "/x"),
    ] {
        assert_eq!(target(sent, &rewrite), Err(Malformed::Target), "{rewrite:?}");
    }
}

#[test]
fn hosts() {
    let with = |rewrite: &Rewrite, rules: &[HeaderRule]| {
        let head = b"GET /a HTTP/1.1\r\nhost: h.example:81\r\nX-A: b c\r\nX-B: t-1\r\n\r\n";
        let (out, _) = rewrite_by(head, rewrite, &Rules::new(rules))?.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text.to_ascii_lowercase().matches("\r\nhost:").count(),
            1,
            "{text}"
        );
        let at = text.to_ascii_lowercase().find("\r\nhost: ").unwrap() + 8;
        Ok::<_, Malformed>(text[at..].split("\r\n").next().unwrap().to_owned())
    };
    assert_eq!(with(&Rewrite::default(), &[]).as_deref(), Ok("h.example:81"));
    assert_eq!(with(&host("b.example"), &[]).as_deref(), Ok("b.example"));
    assert_eq!(
        with(&host("{request.header.x-b}.b.example"), &[]).as_deref(),
        Ok("t-1.b.example")
    );
    assert_eq!(with(&host("{request.header.x-a}"), &[]), Err(Malformed::Host));
    assert_eq!(with(&host("{request.header.x-none}"), &[]), Err(Malformed::Host));
    // A backend is not chosen yet: nothing wrong may be written in the meantime.
    let backend = Rewrite {
        host: HostRewrite::Backend,
        ..Rewrite::default()
    };
    assert_eq!(with(&backend, &[]), Err(Malformed::Host));
    let rule = HeaderRule {
        name: "Host".into(),
        action: HeaderAction::Set(template("{request.host}")),
    };
    assert_eq!(with(&Rewrite::default(), &[rule]).as_deref(), Ok("h.example"));
}

fn rule(name: &str, action: HeaderAction) -> HeaderRule {
    HeaderRule {
        name: name.into(),
        action,
    }
}

fn replace(name: &str, find: &str, with: &str) -> HeaderRule {
    let find = find.into();
    rule(
        name,
        HeaderAction::Replace(Replacement {
            find,
            with: template(with),
        }),
    )
}

#[test]
fn header_rules_in_order() {
    let set = |name, value| rule(name, HeaderAction::Set(template(value)));
    let append = |name, value| rule(name, HeaderAction::Append(template(value)));
    let head = "GET /p?q HTTP/1.1\r\nHost: a\r\nX-A: one two one\r\nx-a: three\r\nX-B: b\r\n\r\n";
    for (rules, expected) in [
        (vec![replace("x-a", "one", "1")], "X-A: 1 two 1|x-a: three|X-B: b"),
        (
            vec![replace("x-a", "one", "two"), replace("X-A", "two", "3")],
            "X-A: 3 3 3|x-a: three|X-B: b",
        ),
        // What comes in is not looked through again by the same rule.
        (
            vec![replace("X-B", "b", "bb")],
            "X-A: one two one|x-a: three|X-B: bb",
        ),
        (vec![replace("X-B", "b", "")], "X-A: one two one|x-a: three|X-B: "),
        (
            vec![
                append("X-B", "b2"),
                replace("X-B", "b", "{request.query}"),
                append("X-B", "b3"),
            ],
            "X-A: one two one|x-a: three|X-B: q|X-B: q2|X-B: b3",
        ),
        (
            vec![
                replace("X-A", "one", "1"),
                set("X-A", "{request.path} {request.id} one"),
            ],
            "X-B: b|X-A: /p some-id one",
        ),
        (
            vec![
                set("X-A", "one"),
                replace("X-A", "one", "1"),
                rule("x-b", HeaderAction::Remove),
            ],
            "X-A: 1",
        ),
        (
            vec![set("X-C", "{request.header.X-A}; {request.header.x-none}.")],
            "X-A: one two one|x-a: three|X-B: b|X-C: one two one, three; .",
        ),
    ] {
        let (out, _) = rewrite_by(head.as_bytes(), &Rewrite::default(), &Rules::new(&rules))
            .unwrap()
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        let fields: Vec<_> = text
            .split("\r\n")
            .skip(2)
            .filter(|line| !line.is_empty())
            .collect();
        assert_eq!(fields.join("|"), expected, "{rules:?}");
    }
}

/// A head that rules blow up is refused before it has eaten the memory.
#[test]
fn what_rules_write_is_bounded() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "a".repeat(60_000));
    let long = "b".repeat(8000);
    let many = "{request.header.x-a}".repeat(400);
    for rules in [
        vec![replace("X-A", "a", &long)],
        vec![rule("X-B", HeaderAction::Set(template(&many)))],
        vec![replace("X-A", "aaa", "{request.header.x-a}"); 10],
    ] {
        let written = rewrite_by(head.as_bytes(), &Rewrite::default(), &Rules::new(&rules));
        assert_eq!(written.unwrap_err(), Malformed::TooLarge);
    }
    let target = rewrite_by(head.as_bytes(), &whole(&format!("/{many}")), &Rules::default());
    assert_eq!(target.unwrap_err(), Malformed::TargetTooLong);
}

fn location(sent: &str, to: &str) -> String {
    let head = format!("GET {sent} HTTP/1.1\r\nHost: h.example:81\r\nX-A: b&c\r\n\r\n");
    let mut store = field_store();
    let parsed = request::parse(head.as_bytes(), &mut store, LIMITS)
        .unwrap()
        .unwrap();
    let (node, service) = (Arc::from("edge"), service());
    let vars = Variables {
        request: Some((&parsed, Trust::new(Forwarded::Off, &[], client().ip()))),
        rest: "/rest",
        ..variables(&node, &service)
    };
    let redirect = Redirect {
        to: template(to),
        status: 308,
    };
    let mut out = Vec::new();
    let now = std::time::SystemTime::UNIX_EPOCH;
    own::write(
        &mut out,
        Own::Redirect(&redirect),
        false,
        now,
        &Rules::default(),
        &vars,
    )
    .unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{text}");
    let at = text.find("\r\nLocation: ").unwrap() + 12;
    text[at..].split("\r\n").next().unwrap().to_owned()
}

#[test]
fn redirects() {
    for (sent, to, expected) in [
        (
            "/a?b",
            "https://{request.host}{request.target}",
            "https://h.example/a?b",
        ),
        (
            "/a",
            "https://{request.authority}{request.path}",
            "https://h.example:81/a",
        ),
        (
            "/a?b&c",
            "https://n.example/d{match.rest}?{request.query}",
            "https://n.example/d/rest?b&c",
        ),
        ("/a", "https://n.example/?{request.query}", "https://n.example/"),
        // Nobody's target may add to the query of the operator's, or end it.
        (
            "/a?b&c",
            "/login?next={request.target}",
            "/login?next=%2Fa%3Fb%26c",
        ),
        ("/a", "/login?x={request.header.x-a}", "/login?x=b%26c"),
        // A path that begins with two slashes would lead to another host.
        ("//evil.example/x", "{request.target}", "/evil.example/x"),
        ("/\\evil.example/x", "{request.path}", "/%5Cevil.example/x"),
        ("//evil.example", "/{request.path}", "/evil.example"),
        (
            "/a\"<>",
            "https://n.example{request.path}",
            "https://n.example/a%22%3C%3E",
        ),
    ] {
        assert_eq!(location(sent, to), expected, "{sent} {to}");
    }
}

#[test]
fn responses_of_the_operators() {
    let (node, service) = (Arc::from("edge"), service());
    let vars = variables(&node, &service);
    let write = |respond: &Respond, to_head: bool, rules: &[HeaderRule]| {
        let mut out = Vec::new();
        let now = std::time::SystemTime::UNIX_EPOCH;
        let answer = Own::Respond(respond);
        own::write(&mut out, answer, to_head, now, &Rules::new(rules), &vars).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.replace("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "")
    };
    let mut respond = Respond {
        status: 503,
        body: "soon\n".into(),
        content_type: Some("text/html".into()),
        headers: vec![
            ("Retry-After".into(), template("30")),
            ("X-Node".into(), template("{node.name}")),
        ],
    };
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\
                Retry-After: 30\r\nX-Node: edge\r\n\r\n";
    assert_eq!(write(&respond, false, &[]), format!("{head}soon\n"));
    assert_eq!(write(&respond, true, &[]), head);
    // The service's rules for responses hold for its fields as for a backend's.
    let rules = [
        replace("Content-Type", "html", "plain"),
        rule("X-Node", HeaderAction::Remove),
        rule("retry-after", HeaderAction::Set(template("5"))),
    ];
    assert_eq!(
        write(&respond, true, &rules),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nretry-after: 5\r\n\r\n"
    );
    respond = Respond {
        status: 204,
        body: "".into(),
        content_type: None,
        headers: Vec::new(),
    };
    assert_eq!(write(&respond, false, &[]), "HTTP/1.1 204 No Content\r\n\r\n");
    respond.status = 404;
    assert_eq!(
        write(&respond, false, &[]),
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    );
}

fn any_rewrite() -> impl Strategy<Value = Rewrite> {
    let value = "(/|x|%41|\\{request\\.path\\}|\\{request\\.query\\}|\\{request\\.host\\}|\\{request\\.method\\}|\\{request\\.header\\.cookie\\}|\\{client\\.address\\}){0,4}";
    let path = prop_oneof![
        Just(PathRewrite::Keep),
        ("(/[a-z]{1,2}){0,2}", value).prop_map(|(strip, add)| PathRewrite::Prefix {
            strip: PathPattern::new(strip),
            add: template(&add),
        }),
        value.prop_map(|path| PathRewrite::Whole(template(&format!("/{path}")))),
    ];
    let replace = proptest::collection::vec(("[a-z/.%]{1,2}", "[a-z/.]{0,2}"), 0..2);
    let replace = replace.prop_map(|all| {
        let one = |(find, with)| Replacement { find, with };
        all.into_iter().map(one).collect()
    });
    let query = proptest::option::of(value.prop_map(|text| template(&text)));
    let host = prop_oneof![
        Just(HostRewrite::Keep),
        value.prop_map(|text| HostRewrite::Set(template(&text))),
    ];
    (path, replace, query, host).prop_map(|(path, replace, query, host)| Rewrite {
        path,
        replace,
        query,
        host,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// However a request is rewritten, a backend gets a request in origin form, or none at all.
    #[test]
    fn rewritten_requests_are_requests(head in request_head(), rewrite in any_rewrite()) {
        let Ok(Some((out, body))) = rewrite_by(&head, &rewrite, &Rules::default()) else {
            return Ok(());
        };
        assert_unambiguous(&out);
        let mut store = field_store();
        let again = request::parse(&out, &mut store, LIMITS);
        let again = again.map_err(|e| TestCaseError::fail(format!("{e:?} {}", String::from_utf8_lossy(&out))))?;
        let Some(again) = again else { return Err(TestCaseError::fail("not whole")) };
        prop_assert_eq!(again.head_len, out.len());
        prop_assert_eq!(again.body, body);
        prop_assert_eq!(again.target.authority, None);
        prop_assert!(again.target.path.starts_with('/') || again.target.path == "*");
    }

    /// Where a redirect without a host leads is never the client's choice of a host.
    #[test]
    fn redirects_stay_on_their_host(sent in "/[!-\"$-~]{0,20}", to in "(/|\\{request\\.(path|target|query)\\}|x){0,3}") {
        let to = format!("/{to}");
        let location = location(&sent, &to);
        prop_assert!(location.starts_with('/'));
        prop_assert!(!location.starts_with("//") && !location.starts_with("/\\"), "{location}");
    }
}
