//! Services of mode `http`, and pools that speak HTTP: limits, headers, rules, rewriting.

use super::*;

#[track_caller]
fn http(lines: &str) -> Http {
    let service = "[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\n";
    let plan = resolve(&format!("{service}{lines}\n{POOL}[node]\nxdp = \"off\"\n"));
    match &plan.services[0].mode {
        Mode::Http(http) => http.clone(),
        other @ (Mode::L4(_) | Mode::Tcp(_)) => panic!("{other:?}"),
    }
}

#[test]
fn http2() {
    assert_eq!(http("").http2, ClientHttp2::default());
    let all = "[services.www.http2]\nenabled = false\nupgrade = false\nstreams = 7\nwindow = \"16KiB\"\n\
               connection_window = \"2MiB\"\noffences = 10\n";
    let expected = ClientHttp2 {
        enabled: false,
        upgrade: false,
        streams: 7,
        window: 16 << 10,
        connection_window: 2 << 20,
        offences: 10,
    };
    assert_eq!(http(all).http2, expected);
    // A connection has room for all of its requests.
    let room = |keys: &str| {
        http(&format!("[services.www.http2]\n{keys}\n"))
            .http2
            .connection_window
    };
    assert_eq!(room(""), 100 * (64 << 10));
    assert_eq!(room("window = \"4MiB\""), 400 << 20);
    assert_eq!(room("streams = 3"), 3 * (64 << 10));
    assert_eq!(room("streams = 10000\nwindow = \"16MiB\""), 1 << 30);
    assert_eq!(room("streams = 1\nwindow = \"16KiB\""), 64 << 10);
}

#[test]
fn limits_timeouts_and_networks_are_taken_over() {
    let all = http(
        "trusted_proxies = [\"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\", \"0.0.0.0/0\", \"::/0\"]\nforwarded = \"both\"\n\
         via = \"both\"\nallow_trace = true\nallow_connect = true\n\
         [services.www.timeouts]\nconnect = \"1ms\"\nrequest_head = \"2s\"\nclient = \"1m30s\"\nserver = \"4s\"\nkeep_alive = \"5s\"\nqueue = \"6s\"\ntunnel = \"30d\"\n\
         [services.www.limits]\nhead = \"1KiB\"\nheaders = 1024\nbody = \"2GiB\"\nbody_rate = \"2KiB\"\nconnections = 1\n",
    );
    let networks: Vec<_> = all.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(
        networks,
        ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32", "0.0.0.0/0", "::/0"]
    );
    assert_eq!(all.forwarded, Forwarded::Both);
    let t = all.timeouts;
    let ms = [
        t.connect,
        t.request_head,
        t.client,
        t.server,
        t.keep_alive,
        t.queue,
        t.tunnel,
    ]
    .map(|d| d.as_millis());
    assert_eq!(ms, [1, 2000, 90_000, 4000, 5000, 6000, 2_592_000_000]);
    let l = all.limits;
    assert_eq!(
        (l.head, l.headers, l.body, l.body_rate, l.connections),
        (1024, 1024, Some(2 << 30), Some(2048), 1)
    );
    let asked = Wire {
        via: Via::Both,
        trace: true,
        connect: true,
        loop_limit: Some(4),
    };
    assert_eq!(all.wire, asked);
    let plain = http("[services.www.limits]\nbody_rate = \"none\"\n");
    assert_eq!((plain.wire, plain.limits.body_rate), (Wire::default(), None));
    assert_eq!(http("").limits.body_rate, Some(500));
}

#[test]
fn header_values_are_templates() {
    let literal = |text: &str| TemplatePart::Literal(text.into());
    let variable = TemplatePart::Variable;
    let cases = [
        ("", vec![]),
        ("plain text", vec![literal("plain text")]),
        ("{node.name}", vec![variable(Variable::NodeName)]),
        (
            "for={client.address};{client.port}!",
            vec![
                literal("for="),
                variable(Variable::ClientAddress),
                literal(";"),
                variable(Variable::ClientPort),
                literal("!"),
            ],
        ),
        ("{{node.name}}", vec![literal("{node.name}")]),
        (
            "{{{node.name}}}",
            vec![literal("{"), variable(Variable::NodeName), literal("}")],
        ),
        ("{{\\\"a\\\":1}}", vec![literal("{\"a\":1}")]),
    ];
    for (value, parts) in cases {
        let rules = http(&format!(
            "request_headers = [{{ append = \"X-A\", value = \"{value}\" }}]"
        ))
        .request_headers;
        let action = HeaderAction::Append(Template { parts });
        assert_eq!(
            rules,
            [HeaderRule {
                name: "X-A".into(),
                action
            }],
            "{value}"
        );
    }
    // What `{match.rest}` speaks of, no header does.
    for (name, expected) in Variable::ALL
        .into_iter()
        .filter(|(name, _)| *name != "match.rest")
    {
        let rules = http(&format!(
            "tls = {{ certificates = [\"/c.pem\"], client_certificates = \"optional\", client_ca = \"/ca.pem\" }}\nresponse_headers = [{{ set = \"X-A\", value = \"{{{name}}}\" }}]"
        ))
        .response_headers;
        let action = HeaderAction::Set(Template {
            parts: vec![variable(expected)],
        });
        assert_eq!(
            rules,
            [HeaderRule {
                name: "X-A".into(),
                action
            }]
        );
    }
}

#[test]
fn rules_may_change_what_is_not_weirs_own() {
    let rules = http(
        "forwarded = \"off\"\nrequest_headers = [{ set = \"Host\", value = \"a\" }, { remove = \"X-Forwarded-For\" }, { set = \"Forwarded\", value = \"x\" }]\n\
         response_headers = [{ remove = \"Server\" }, { set = \"X-Forwarded-For\", value = \"x\" }]",
    );
    assert_eq!(
        (rules.request_headers.len(), rules.response_headers.len()),
        (3, 2)
    );
}

#[test]
fn paths_of_rules_are_in_their_normal_form() {
    let rules = http(
        "rules = [{ match = { path = [\"/%61%2f%7e\", \"/b\"], host = \"*.A.example\", method = [\"GET\", \"Purge\"] }, respond = {} },\n\
         { match = { path_prefix = \"/c/\" }, rewrite = { strip_prefix = \"/c\", add_prefix = \"/{request.host}\", query = \"\", host = \"backend\" } },\n\
         { redirect = { to = \"https://{request.host}{request.target}\" } }]",
    )
    .rules;
    let conditions = Conditions {
        host: vec!["*.a.example".into()],
        path: vec![PathPattern::new("/a%2F~"), PathPattern::new("/b")],
        method: vec!["GET".into(), "Purge".into()],
        ..Conditions::default()
    };
    assert_eq!(rules[0].conditions, conditions);
    let RuleAction::Respond(respond) = &rules[0].action else {
        panic!("{rules:?}")
    };
    assert_eq!(
        (respond.status, &*respond.body, &respond.content_type),
        (200, "", &None)
    );
    let RuleAction::Relay(Relayed {
        pool: None,
        rewrite: Some(rewrite),
    }) = &rules[1].action
    else {
        panic!("{rules:?}")
    };
    let add = vec![
        TemplatePart::Literal("/".into()),
        TemplatePart::Variable(Variable::RequestHost),
    ];
    assert_eq!(
        *rewrite,
        Rewrite {
            path: PathRewrite::Prefix {
                strip: PathPattern::new("/c"),
                add: Template { parts: add }
            },
            replace: Vec::new(),
            query: Some(Template::default()),
            host: HostRewrite::Backend,
        }
    );
    let RuleAction::Redirect(redirect) = &rules[2].action else {
        panic!("{rules:?}")
    };
    assert_eq!(redirect.status, 307);
    assert!(rules[2].conditions.hold_always());
}

#[test]
fn what_weir_writes_by_itself_has_its_defaults() {
    let plain = http("");
    assert_eq!(
        (
            plain.wire,
            plain.request_id,
            plain.forwarded_fields,
            plain.rewrite,
            plain.rules
        ),
        (Wire::default(), None, vec![], Rewrite::default(), vec![])
    );
    let set = http(
        "via = \"off\"\nrequest_id = \"X-Id\"\nforwarded_fields = [\"x-real-ip\", \"x-forwarded-proto\"]",
    );
    assert_eq!(
        (set.wire.via, set.request_id.as_deref(), set.forwarded_fields),
        (
            Via::Off,
            Some("X-Id"),
            vec![ForwardedField::RealIp, ForwardedField::Proto]
        )
    );
    assert_eq!(http("request_id = \"off\"").request_id, None);
}

#[test]
fn a_host_name_that_is_no_name_has_to_be_replaced() {
    let odd = Facts {
        hostname: "(none)".into(),
        ..facts()
    };
    let report = parse("weir.toml", "[node]\nxdp = \"off\"\n", &Tunables::default(), &odd).unwrap_err();
    assert_eq!(
        report.to_string(),
        "weir.toml:1:1: this box's host name, `(none)`, can't be its name here; write name = \"edge-1\" under [node]: \
         letters, digits, dots, hyphens and underscores"
    );
    parse(
        "weir.toml",
        "[node]\nxdp = \"off\"\nname = \"a\"\n",
        &Tunables::default(),
        &odd,
    )
    .unwrap();
}

#[test]
fn http2_to_backends() {
    use weir_core::plan::{Http2, HttpProtocol};
    let text = "[node]\nxdp = \"off\"\n[pools.a]\nprotocol = \"h2c\"\n\
         backends = [{ address = \"10.0.0.1:80\" }]\n\
         [pools.a.http2]\nstreams = 1\nwindow = \"64KiB\"\nping = \"0s\"\nping_timeout = \"3s\"\n";
    let plan = resolve(text);
    let expected = Http2 {
        streams: 1,
        window: 64 << 10,
        ping: None,
        ping_timeout: Duration::from_secs(3),
    };
    assert_eq!(
        (plan.pools[0].protocol, plan.pools[0].http2),
        (HttpProtocol::H2c, expected)
    );
}
