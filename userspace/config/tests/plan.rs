//! What good texts resolve to: defaults, the forms that TOML allows, and where defaults come from.

use std::time::Duration;

use weir_config::{Facts, ListFiles, Report, Source, Tunables, parse, tunables::Origin};
use weir_core::{
    ids::{PoolName, Protocol, Scope, ServiceName},
    plan::{
        AccessLog, Balance, Check, CheckKind, ClientHttp2, Conditions, Connections, FlowHash, Forward,
        Forwarded, ForwardedField, HeaderAction, HeaderRule, HostRewrite, Http, HttpCheck, L4, Listen, Lists,
        LogFormat, LogTarget, Mode, OnBackendDown, PathPattern, PathRewrite, PerSource, Plan, QuicId,
        Relayed, Retries, Rewrite, RuleAction, Template, TemplatePart, TlsCheck, Tunnel, Variable, Via, Wire,
        XdpMode,
    },
};

const POOL: &str = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

fn facts() -> Facts {
    Facts {
        hostname: "box.example".into(),
        runtime_dir: "/run/user/7/weir".into(),
    }
}

fn with(text: &str, tunables: &Tunables) -> Result<Plan, Report> {
    parse("weir.toml", text, tunables, &facts())
}

#[track_caller]
fn resolve(text: &str) -> Plan {
    with(text, &Tunables::default()).unwrap_or_else(|report| panic!("{report}\nin\n{text}"))
}

#[track_caller]
fn check_of(lines: &str) -> Check {
    let plan = resolve(&format!(
        "{POOL}[pools.web.check]\n{lines}\n[node]\nxdp = \"off\"\n"
    ));
    plan.pools[0].check.clone().expect("the pool has a check")
}

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
fn what_is_left_open_has_its_default() {
    let plan = resolve("[node]\nxdp = \"off\"\n");
    assert_eq!(&*plan.node.name, "box.example");
    assert_eq!(
        (plan.node.interfaces.len(), plan.node.workers, plan.node.hash_key),
        (0, None, None)
    );
    assert_eq!(
        (plan.node.user.as_str(), plan.node.pins.to_str()),
        ("nobody", Some("/sys/fs/bpf/weir"))
    );
    assert_eq!(plan.admin.socket.to_str(), Some("/run/user/7/weir/control.sock"));
    assert_eq!(plan.admin.http, Some("127.0.0.1:9180".parse().unwrap()));
    assert_eq!(plan.access_log, AccessLog::default());
    assert_eq!(plan.access_log.to, LogTarget::Stdout);
    assert!(plan.pools.is_empty() && plan.services.is_empty());

    let log = "[access_log]\nto = \"/var/log/weir/access.log\"\nformat = \"httplog\"\nnull = true\n";
    let plan = resolve(&format!("{log}[node]\nxdp = \"off\"\n"));
    let expected = AccessLog {
        to: LogTarget::File("/var/log/weir/access.log".into()),
        format: Some(LogFormat::Httplog),
        null: true,
    };
    assert_eq!(plan.access_log, expected);

    let plan = resolve(&format!("{POOL}[node]\ninterfaces = [\"eth0\"]\n"));
    assert_eq!(plan.node.xdp, XdpMode::Native);
    let pool = plan.pool(&PoolName::new("web")).unwrap();
    assert_eq!((pool.balance, pool.check.as_ref()), (Balance::RoundRobin, None));
    let backend = &pool.backends[0];
    assert_eq!(
        (&*backend.name, backend.weight, backend.backup),
        ("10.0.0.11:80", 10, false)
    );
    assert_eq!(
        (pool.connections, &pool.retries),
        (Connections::default(), &Retries::default())
    );
    assert_eq!(pool.max_connections(backend), None);
}

#[test]
fn a_backends_own_bound_goes_before_the_pools() {
    let plan = resolve(
        "[node]\nxdp = \"off\"\n[pools.web]\nconnections = { max = 5 }\n\
         backends = [{ address = \"10.0.0.11:80\" }, { address = \"10.0.0.12:80\", max_connections = 7 }]\n",
    );
    let pool = &plan.pools[0];
    let bounds: Vec<_> = pool.backends.iter().map(|b| pool.max_connections(b)).collect();
    assert_eq!(bounds, [Some(5), Some(7)]);
}

#[test]
fn a_check_has_its_defaults() {
    let second = Duration::from_secs(1);
    let tcp = check_of("type = \"tcp\"");
    assert_eq!(
        tcp,
        Check {
            kind: CheckKind::Tcp,
            interval: 2 * second,
            timeout: second,
            rise: 2,
            fall: 2,
            port: None,
            jitter: 10,
            proxy: None,
        }
    );
    let http = HttpCheck {
        protocol: weir_core::plan::HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![(200, 299), (300, 399)],
    };
    assert_eq!(check_of("type = \"http\"").kind, CheckKind::Http(http.clone()));
    let tls = TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    };
    assert_eq!(
        check_of("type = \"https\"").kind,
        CheckKind::Http(HttpCheck {
            tls: Some(tls),
            ..http
        })
    );
}

#[test]
fn a_timeout_that_is_not_given_fits_the_interval() {
    let times = |lines| {
        let check = check_of(lines);
        (check.interval.as_millis(), check.timeout.as_millis())
    };
    assert_eq!(times("type = \"tcp\"\ninterval = \"5s\""), (5000, 1000));
    assert_eq!(times("type = \"tcp\"\ninterval = \"1s\""), (1000, 500));
    assert_eq!(times("type = \"tcp\"\ninterval = \"100ms\""), (100, 50));
    assert_eq!(times("type = \"tcp\"\ntimeout = \"1999ms\""), (2000, 1999));
}

#[test]
fn statuses_are_classes_numbers_and_ranges() {
    let check = check_of("type = \"http\"\nstatus = [\"2xx\", \"404\", \"301-302\", \"5xx\"]");
    let CheckKind::Http(http) = &check.kind else {
        panic!("{check:?}")
    };
    assert_eq!(http.status, [(200, 299), (404, 404), (301, 302), (500, 599)]);
}

#[test]
fn hosts_of_checks_are_names_and_addresses() {
    for host in [
        "a",
        "www.example.org",
        "a_b.example",
        "www.example.org:8080",
        "10.0.0.1",
        "[2001:db8::1]",
        "[::1]:80",
    ] {
        let check = check_of(&format!("type = \"http\"\nhost = \"{host}\""));
        let CheckKind::Http(http) = &check.kind else {
            panic!("{check:?}")
        };
        assert_eq!(http.host.as_deref(), Some(host));
    }
}

#[test]
fn every_form_of_toml_says_the_same() {
    let sections = "[node]\nxdp = \"off\"\n\
        [pools.web]\nbackends = [{ address = \"10.0.0.11:80\", weight = 3 }, { address = \"10.0.0.12:80\" }]\n\
        [pools.web.check]\ntype = \"tcp\"\nrise = 3\n\
        [services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\n\
        request_headers = [{ set = \"X-A\", value = \"1\" }, { remove = \"X-B\" }]\n\
        [services.www.timeouts]\nclient = \"3s\"\n";
    let arrays_of_tables = "[services.www]\nlisten = [ '127.0.0.1:8080', ]\nmode = '''http'''\npool = \"\\u0077eb\"\n\
        timeouts.client = \"3s\"\n\
        [[services.www.request_headers]]\nset = \"X-A\"\nvalue = \"1\"\n\
        [[services.www.request_headers]]\nremove = \"X-B\"\n\
        [[pools.web.backends]]\naddress = \"10.0.0.11:80\"\nweight = 0x3\n\
        [[pools.web.backends]]\naddress = \"10.0.0.12:80\"\n\
        [pools.web.check]\ntype = \"tcp\"\nrise = 3\n\
        [node]\nxdp = \"off\"\n";
    let dotted = "node.xdp = \"off\"\n\
        pools.web.backends = [{ address = \"10.0.0.11:80\", weight = 3 }, { address = \"10.0.0.12:80\" }]\n\
        pools.web.check.type = \"tcp\"\npools.web.check.rise = 3\n\
        services.\"www\".listen = [\"127.0.0.1:8080\"]\nservices.www.mode = \"http\"\nservices.www.pool = \"web\"\n\
        services.www.request_headers = [{ set = \"X-A\", value = \"1\" }, { remove = \"X-B\" }]\n\
        services.www.timeouts.client = \"3s\"\n";
    let inline = "node = { xdp = \"off\" }\n\
        pools = { web = { backends = [{ address = \"10.0.0.11:80\", weight = 3 }, { address = \"10.0.0.12:80\" }], check = { type = \"tcp\", rise = 3 } } }\n\
        services = { www = { listen = [\"127.0.0.1:8080\"], mode = \"http\", pool = \"web\", timeouts = { client = \"3s\" }, request_headers = [{ set = \"X-A\", value = \"1\" }, { remove = \"X-B\" }] } }\n";
    let expected = resolve(sections);
    assert_eq!(expected.pools[0].backends[0].weight, 3);
    for text in [arrays_of_tables, dotted, inline] {
        assert_eq!(resolve(text), expected, "{text}");
    }
    assert_eq!(resolve(&sections.replace('\n', "\r\n")), expected, "with CRLF");
    assert_eq!(
        resolve(&format!("\u{feff}{sections}")),
        expected,
        "with a byte order mark"
    );
}

#[test]
fn listen_addresses_have_ranges_protocols_and_families() {
    let plan = resolve(
        "[services.dns]\nlisten = [\"192.0.2.10:53/udp\", \"192.0.2.10:53\", \"[2001:db8::10]:8000-8003/tcp\"]\n\
         mode = \"l4\"\npool = \"web\"\nring_size = 1009\n\
         [pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }, { address = \"[2001:db8::11]:80\" }]\n\
         [node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n",
    );
    let (v4, v6) = ("192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap());
    let service = plan.service(&ServiceName::new("dns")).unwrap();
    assert_eq!(
        service.listen,
        [
            Listen {
                addr: v4,
                first: 53,
                last: 53,
                protocol: Protocol::Udp,
                scope: Scope::Address,
                interface: None,
            },
            Listen {
                addr: v4,
                first: 53,
                last: 53,
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            },
            Listen {
                addr: v6,
                first: 8000,
                last: 8003,
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            },
        ]
    );
    assert_eq!(
        service.mode,
        Mode::L4(L4 {
            hash: Default::default(),
            mss: Default::default(),
            on_backend_down: Default::default(),
            forward: Forward::Nat,
            ring_size: 1009
        })
    );
}

#[test]
fn transparent_listeners_have_networks_and_ports() {
    let plan = resolve(
        "[services.out]\nlisten = [\"transparent:80\", \"transparent:203.0.113.0/24:1000-1010/tcp\", \
         \"transparent:[2001:db8::]/32:443\", \"transparent:203.0.113.5:*\"]\n\
         mode = \"tcp\"\npool = \"original-destination\"\n\
         [node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n",
    );
    let service = plan.service(&ServiceName::new("out")).unwrap();
    let listens: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listens,
        [
            "transparent:0.0.0.0/0:80/tcp",
            "transparent:[::]/0:80/tcp",
            "transparent:203.0.113.0/24:1000-1010/tcp",
            "transparent:[2001:db8::]/32:443/tcp",
            "transparent:203.0.113.5/32:1-65535/tcp",
        ]
    );
    assert!(
        service
            .listen
            .iter()
            .all(|l| l.is_transparent() && l.keys().count() == 1)
    );
    assert_eq!(plan.transparent().count(), 5);
    let pool = plan.pool(&PoolName::new("original-destination")).unwrap();
    assert!(pool.is_original_destination() && pool.backends.len() == 1);
    assert!(pool.backends[0].is_original_destination() && pool.check.is_none());
}

#[test]
fn listeners_that_only_look_alike_go_together() {
    // One port by both protocols and families; a virtual address beside the wildcard; neighbouring ranges.
    resolve(&format!(
        "[services.a]\nlisten = [\"0.0.0.0:80\", \"[::]:80\", \"192.0.2.10:8000-8009\"]\nmode = \"http\"\npool = \"web\"\n\
         [services.b]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:8010\"]\nmode = \"tcp\"\npool = \"web\"\n\
         [services.c]\nlisten = [\"192.0.2.10:80/udp\"]\nmode = \"l4\"\npool = \"web\"\n\
         {POOL}[node]\ninterfaces = [\"eth0\"]\n"
    ));
    // Without XDP the same address and the wildcard exclude each other, but not across families.
    resolve(&format!(
        "[services.a]\nlisten = [\"0.0.0.0:80\", \"[::1]:80\"]\nmode = \"http\"\npool = \"web\"\n{POOL}[node]\nxdp = \"off\"\n"
    ));
    // A service may feed another one.
    resolve(&format!(
        "[services.a]\nlisten = [\"127.0.0.1:81\"]\nmode = \"http\"\npool = \"b\"\n\
         [services.b]\nlisten = [\"127.0.0.1:82\"]\nmode = \"http\"\npool = \"web\"\n\
         [pools.b]\nbackends = [{{ address = \"127.0.0.1:82\" }}]\n{POOL}[node]\nxdp = \"off\"\n"
    ));
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
fn what_a_file_leaves_open_is_the_tunables() {
    let mut tunables = Tunables::default();
    let set = [
        ("weir.relay.timeout.connect", "11ms"),
        ("weir.relay.timeout.request_head", "12ms"),
        ("weir.relay.timeout.client", "13ms"),
        ("weir.relay.timeout.server", "14ms"),
        ("weir.relay.timeout.keep_alive", "15ms"),
        ("weir.relay.timeout.queue", "16ms"),
        ("weir.relay.timeout.tunnel", "17ms"),
        ("weir.relay.limit.head", "2KiB"),
        ("weir.relay.limit.headers", "18"),
        ("weir.relay.limit.connections", "19"),
        ("weir.check.interval", "20s"),
        ("weir.check.timeout", "21ms"),
        ("weir.check.rise", "22"),
        ("weir.check.fall", "23"),
        ("weir.check.jitter", "24"),
        ("weir.relay.upstream.idle_max", "25"),
        ("weir.relay.upstream.idle_timeout", "26ms"),
        ("weir.relay.upstream.queue", "27"),
        ("weir.relay.retry.attempts", "8"),
        ("weir.relay.retry.budget", "29"),
        ("weir.relay.retry.budget_floor", "30"),
        ("weir.l4.ring_size", "257"),
    ];
    for (name, value) in set {
        tunables.set(name, value, Origin::Runtime).unwrap();
    }
    let text = "[node]\ninterfaces = [\"eth0\"]\n[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\ncheck = { type = \"tcp\" }\n\
        [services.a]\nlisten = [\"127.0.0.1:80\"]\nmode = \"http\"\npool = \"web\"\n\
        [services.b]\nlisten = [\"192.0.2.10:80\"]\nmode = \"l4\"\npool = \"web\"\n\
        [services.c]\nlisten = [\"127.0.0.1:81\"]\nmode = \"tcp\"\npool = \"web\"\ntimeouts = { connect = \"1s\" }\n";
    let plan = with(text, &tunables).unwrap();
    let Mode::Http(http) = &plan.services[0].mode else {
        panic!()
    };
    let t = http.timeouts;
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
    assert_eq!(ms, [11, 12, 13, 14, 15, 16, 17]);
    assert_eq!(
        (http.limits.head, http.limits.headers, http.limits.connections),
        (2048, 18, 19)
    );
    let check = plan.pools[0].check.as_ref().unwrap();
    assert_eq!((check.interval.as_secs(), check.timeout.as_millis()), (20, 21));
    assert_eq!((check.rise, check.fall, check.jitter), (22, 23, 24));
    let upstream = Connections {
        idle_max: 25,
        idle_timeout: Duration::from_millis(26),
        queue: 27,
        ..Connections::default()
    };
    let retries = Retries {
        attempts: 8,
        budget: 29,
        floor: 30,
        ..Retries::default()
    };
    assert_eq!(
        (plan.pools[0].connections, &plan.pools[0].retries),
        (upstream, &retries)
    );
    assert_eq!(
        plan.services[1].mode,
        Mode::L4(L4 {
            hash: Default::default(),
            mss: Default::default(),
            on_backend_down: Default::default(),
            forward: Forward::Nat,
            ring_size: 257
        })
    );
    let Mode::Tcp(tcp) = &plan.services[2].mode else {
        panic!()
    };
    assert_eq!(
        (
            tcp.timeouts.connect.as_secs(),
            tcp.timeouts.queue.as_millis(),
            tcp.connections
        ),
        (1, 16, 19)
    );
}

#[test]
fn a_source_resolves_to_the_same_plan_in_another_process() {
    let mut tunables = Tunables::default();
    tunables
        .set(
            "weir.check.rise",
            "7",
            Origin::File {
                file: "a.conf".into(),
                line: 3,
            },
        )
        .unwrap();
    let text = format!("{POOL}check = {{ type = \"tcp\" }}\n[node]\nxdp = \"off\"\n");
    let source = Source {
        name: "weir.toml".into(),
        text,
        tunables,
        facts: facts(),
        lists: ListFiles::default(),
        bodies: weir_config::Bodies::default(),
        tls: weir_config::TlsFiles::default(),
    };
    let handed: Source = serde_json::from_str(&serde_json::to_string(&source).unwrap()).unwrap();
    let plan = handed.resolve().unwrap();
    assert_eq!(plan, source.resolve().unwrap());
    assert_eq!(
        (&*plan.node.name, plan.pools[0].check.as_ref().unwrap().rise),
        ("box.example", 7)
    );
    let bad = serde_json::to_string(&source)
        .unwrap()
        .replace("weir.check.rise", "weir.check.raise");
    assert!(
        serde_json::from_str::<Source>(&bad)
            .unwrap_err()
            .to_string()
            .contains("did you mean `weir.check.rise`?")
    );
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

const BOX: &str = "[node]\ninterfaces = [\"eth0\"]\n";

fn l4(plan: &Plan, index: usize) -> &L4 {
    match &plan.services[index].mode {
        Mode::L4(l4) => l4,
        other @ (Mode::Tcp(_) | Mode::Http(_)) => panic!("{other:?}"),
    }
}

/// A service with these listeners and lines, and a pool with these backends and lines.
fn forwarding(listen: &str, service: &str, backends: &str, pool: &str) -> String {
    format!(
        "{BOX}[services.a]\nlisten = [{listen}]\nmode = \"l4\"\npool = \"web\"\n{service}\n\
         [pools.web]\nbackends = [{backends}]\n{pool}\n"
    )
}

#[test]
fn each_way_of_forwarding_takes_the_backends_that_suit_it() {
    let (v4, both) = ("\"192.0.2.10:80\"", "\"192.0.2.10:80\", \"[2001:db8::10]:80\"");
    let (port, kept) = ("{ address = \"10.0.0.11:80\" }", "{ address = \"10.0.0.11:*\" }");
    let kept_v6 = "{ address = \"[2001:db8::11]:*\" }";
    let source = "source = { addresses = [\"10.0.0.5\", \"2001:db8::5\"] }";
    let cases = [
        (Forward::Nat, v4, port.to_owned(), ""),
        (Forward::Nat, "\"192.0.2.10:80-90\"", port.to_owned(), ""),
        (
            Forward::Nat,
            "\"192.0.2.10:*\", \"192.0.2.10:*/udp\"",
            kept.to_owned(),
            "",
        ),
        (Forward::FullNat, both, format!("{port}, {kept_v6}"), source),
        (Forward::Dsr, v4, port.to_owned(), ""),
        (Forward::Dsr, both, format!("{kept}, {kept_v6}"), ""),
        (Forward::Dsr, "\"192.0.2.10:*\"", kept.to_owned(), ""),
        (Forward::Ipip, both, kept.to_owned(), ""),
        (Forward::Ipip, v4, kept_v6.to_owned(), ""),
        (Forward::Ipip, "\"192.0.2.10:8000-8999\"", kept.to_owned(), ""),
    ];
    for (forward, listen, backends, pool) in cases {
        let word = forward.as_str();
        let text = forwarding(listen, &format!("forward = \"{word}\""), &backends, pool);
        let plan = resolve(&text);
        assert_eq!(l4(&plan, 0).forward, forward, "{text}");
    }
    let plan = resolve(&forwarding(both, "forward = \"ipip\"", kept, ""));
    let backend = &plan.pools[0].backends[0];
    assert_eq!(backend.key.address, "10.0.0.11:0".parse().unwrap());
    assert_eq!(
        (&*backend.name, backend.key.to_string()),
        ("10.0.0.11:*", "web/10.0.0.11:*".into())
    );
    // A pool of any backends is checked at the port that its check names.
    let check = "check = { type = \"tcp\", port = 80 }";
    let plan = resolve(&forwarding(v4, "forward = \"dsr\"", kept, check));
    assert_eq!(plan.pools[0].check.as_ref().unwrap().port, Some(80));
}

#[test]
fn one_port_goes_before_every_port() {
    let plan = resolve(&format!(
        "{BOX}[services.every]\nlisten = [\"192.0.2.10:*\", \"192.0.2.10:*/udp\", \"[2001:db8::10]:*\"]\nmode = \"l4\"\npool = \"kept\"\n\
         [services.one]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:8000-8009\"]\nmode = \"http\"\npool = \"web\"\n\
         [services.dns]\nlisten = [\"192.0.2.10:53/udp\"]\nmode = \"l4\"\npool = \"web\"\n\
         [pools.kept]\nbackends = [{{ address = \"10.0.0.11:*\" }}, {{ address = \"[2001:db8::11]:*\" }}]\n{POOL}"
    ));
    let shown: Vec<_> = plan.services[0].listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["192.0.2.10:*/tcp", "192.0.2.10:*/udp", "[2001:db8::10]:*/tcp"]
    );
    for listen in &plan.services[0].listen {
        let keys: Vec<_> = listen.keys().map(|key| key.port).collect();
        assert_eq!((listen.is_every_port(), keys), (true, vec![0]));
    }
}

#[test]
fn the_hash_takes_what_it_is_told_to() {
    let hash = |line: &str| {
        let text = forwarding(
            "\"192.0.2.10:443/udp\"",
            line,
            "{ address = \"10.0.0.11:443\", quic_id = \"00a1b2\" }, { address = \"10.0.0.12:443\", quic_id = \"00A1B3\" }",
            "",
        );
        l4(&resolve(&text), 0).hash
    };
    let source = |prefix_v4, prefix_v6| FlowHash::Source { prefix_v4, prefix_v6 };
    assert_eq!(hash(""), FlowHash::Flow);
    assert_eq!(hash("hash = \"flow\""), FlowHash::Flow);
    assert_eq!(hash("hash = \"source\""), source(32, 128));
    assert_eq!(hash("hash = \"source-network\""), source(24, 56));
    assert_eq!(
        hash("hash = \"source-network\"\nhash_prefix_v4 = 8\nhash_prefix_v6 = 48"),
        source(8, 48)
    );
    assert_eq!(hash("hash = \"quic\""), FlowHash::Quic { len: 3 });
    let plan = resolve(
        "[pools.a]\nbackends = [{ address = \"10.0.0.11:443\", quic_id = \"00a1\" }]\n[node]\nxdp = \"off\"\n",
    );
    let id = QuicId {
        value: 0xa100,
        len: 2,
    };
    assert_eq!(plan.pools[0].backends[0].quic_id, Some(id));
}

#[test]
fn packets_services_have_their_defaults_and_what_is_written() {
    let port = "{ address = \"10.0.0.11:80\" }";
    let plan = resolve(&forwarding("\"192.0.2.10:80\"", "", port, ""));
    let default = l4(&plan, 0);
    assert_eq!(
        (default.on_backend_down, default.mss, default.forward),
        (OnBackendDown::Remap, None, Forward::Nat)
    );
    assert_eq!(plan.services[0].per_source, PerSource::default());
    assert!(!plan.services[0].per_source.is_limited());
    assert_eq!(
        (plan.node.tunnel, plan.pools[0].source.as_ref()),
        (Tunnel::default(), None)
    );
    assert_eq!(plan.lists, Lists::default());

    let plan = resolve(&forwarding(
        "\"192.0.2.10:80\"",
        "forward = \"full-nat\"\non_backend_down = \"reset\"\nmss = 1220\n\
         per_source = { rate = 10, connections = 20, ban = \"1m30s\", prefix_v4 = 24, prefix_v6 = 48 }",
        port,
        "source = { addresses = [\"10.0.0.5\", \"2001:db8::5\"], ports = \"2000-2999\" }",
    ));
    let l4 = l4(&plan, 0);
    assert_eq!((l4.on_backend_down, l4.mss), (OnBackendDown::Reset, Some(1220)));
    assert_eq!(
        plan.services[0].per_source,
        PerSource {
            rate: Some(10),
            connections: Some(20),
            prefix_v4: 24,
            prefix_v6: 48,
            ban: Some(Duration::from_secs(90)),
        }
    );
    let source = plan.pools[0].source.as_ref().unwrap();
    assert_eq!(
        source.nat.map(|ports| (ports.first, ports.last)),
        Some((2000, 2999))
    );
    assert_eq!(source.relay, None);
    let addresses: Vec<_> = source.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "2001:db8::5"]);
}

#[test]
fn limits_per_source_are_for_every_mode() {
    let plan = resolve(&format!(
        "{BOX}[services.a]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:443/udp\"]\nmode = \"l4\"\npool = \"web\"\nper_source = {{ rate = 1 }}\n\
         [services.b]\nlisten = [\"192.0.2.11:80\"]\nmode = \"http\"\npool = \"web\"\nper_source = {{ connections = 2 }}\n\
         [services.c]\nlisten = [\"192.0.2.12:80\"]\nmode = \"tcp\"\npool = \"web\"\nper_source = {{ rate = 3, ban = \"30d\" }}\n{POOL}"
    ));
    let limits: Vec<_> = plan
        .services
        .iter()
        .map(|s| {
            (
                s.per_source.rate,
                s.per_source.connections,
                s.per_source.is_limited(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            (Some(1), None, true),
            (None, Some(2), true),
            (Some(3), None, true)
        ]
    );
}

#[test]
fn two_pools_share_an_address_by_their_ports() {
    let pool = |name: &str, ports: &str| {
        format!(
            "[pools.{name}]\nbackends = [{{ address = \"10.0.0.11:80\" }}]\n\
             source = {{ addresses = [\"10.0.0.5\"], ports = \"{ports}\" }}\n\
             [services.{name}]\nlisten = [\"192.0.2.1{name}:80\"]\nmode = \"l4\"\nforward = \"full-nat\"\npool = \"{name}\"\n"
        )
    };
    let plan = resolve(&format!(
        "{BOX}{}{}{}",
        pool("1", "20000-29999"),
        pool("2", "10000-19999"),
        pool("3", "1024")
    ));
    assert_eq!(plan.pools.len(), 3);
}

#[test]
fn outer_sources_are_networks() {
    let plan = resolve(
        "[node]\ninterfaces = [\"eth0\"]\n[node.tunnel]\nsource_v4 = \"10.128.0.0/9\"\nsource_v6 = \"2001:db8:f::/48\"\n",
    );
    let tunnel = plan.node.tunnel;
    assert_eq!(
        (tunnel.source_v4.to_string(), tunnel.source_v6.to_string()),
        ("10.128.0.0/9".into(), "2001:db8:f::/48".into())
    );
    let plan = resolve("[node]\ninterfaces = [\"eth0\"]\n[node.tunnel]\nsource_v4 = \"10.0.0.0/31\"\n");
    assert_eq!(plan.node.tunnel.source_v6, Tunnel::default().source_v6);
}

#[test]
fn lists_are_networks_once_each() {
    let plan = resolve(&format!(
        "{BOX}[lists]\nallow = [\"10.1.0.0/16\", \"2001:db8::1\", \"10.1.0.0/16\"]\nban = [\"0.0.0.0/0\", \"10.1.2.0/24\"]\n"
    ));
    let shown = |list: &[weir_core::plan::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&plan.lists.allow), ["10.1.0.0/16", "2001:db8::1/128"]);
    assert_eq!(shown(&plan.lists.ban), ["0.0.0.0/0", "10.1.2.0/24"]);
    // A section that says nothing needs nothing.
    resolve("[lists]\nallow = []\n[node]\nxdp = \"off\"\n");
}

/// A check asks in the pool's protocol, unless it says otherwise.
#[test]
fn a_check_speaks_as_its_pool_does() {
    use weir_core::plan::{Http2, HttpProtocol};
    for (pool, check, expected) in [
        ("", "", HttpProtocol::Http1),
        ("protocol = \"h2c\"\n", "", HttpProtocol::H2c),
        (
            "protocol = \"h2c\"\n",
            "protocol = \"http/1.1\"\n",
            HttpProtocol::Http1,
        ),
        ("", "protocol = \"h2c\"\n", HttpProtocol::H2c),
    ] {
        let text = format!(
            "[node]\nxdp = \"off\"\n[pools.a]\n{pool}backends = [{{ address = \"10.0.0.1:80\" }}]\n\
             [pools.a.check]\ntype = \"http\"\n{check}"
        );
        let plan = resolve(&text);
        let CheckKind::Http(http) = &plan.pools[0].check.as_ref().unwrap().kind else {
            panic!("{text}");
        };
        assert_eq!(http.protocol, expected, "{text}");
        assert_eq!(plan.pools[0].http2, Http2::default());
    }
}

/// A check goes over TLS as its pool's connections do, unless it asks another server, or says otherwise.
#[test]
fn a_check_is_secured_as_its_pool_is() {
    use weir_core::plan::{HttpProtocol, TlsCheck};
    let of_pool = TlsCheck {
        verify: true,
        ca: Some("/ca.pem".into()),
        server_name: Some("a.test".into()),
    };
    let plain = TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    };
    for (check, protocol, tls) in [
        ("type = \"http\"", HttpProtocol::H2, Some(of_pool.clone())),
        ("type = \"https\"", HttpProtocol::H2, Some(of_pool.clone())),
        (
            "type = \"http\"\nprotocol = \"http/1.1\"\nserver_name = \"b.test\"",
            HttpProtocol::Http1,
            Some(TlsCheck {
                server_name: Some("b.test".into()),
                ..of_pool.clone()
            }),
        ),
        (
            "type = \"http\"\nverify = false",
            HttpProtocol::H2,
            Some(TlsCheck {
                verify: false,
                ca: None,
                ..of_pool
            }),
        ),
        ("type = \"http\"\nport = 8080", HttpProtocol::Http1, None),
        ("type = \"https\"\nport = 8443", HttpProtocol::Http1, Some(plain)),
    ] {
        let text = format!(
            "[node]\nxdp = \"off\"\n[pools.a]\nprotocol = \"h2\"\nbackends = [{{ address = \"10.0.0.1:80\" }}]\n\
             [pools.a.tls]\nca = \"/ca.pem\"\nserver_name = \"a.test\"\n[pools.a.check]\n{check}\n"
        );
        let plan = resolve(&text);
        let CheckKind::Http(http) = &plan.pools[0].check.as_ref().unwrap().kind else {
            panic!("{text}");
        };
        assert_eq!((http.protocol, &http.tls), (protocol, &tls), "{text}");
    }
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
