//! What good texts resolve to: defaults, the forms that TOML allows, and where defaults come from.

use std::time::Duration;

use weir_config::{Facts, Report, Source, Tunables, parse, tunables::Origin};
use weir_core::{
    ids::{PoolName, Protocol, ServiceName},
    plan::{
        Balance, Check, CheckKind, Forward, Forwarded, HeaderAction, HeaderRule, Http, HttpCheck, L4, Listen,
        Mode, Plan, Template, TemplatePart, TlsCheck, Variable, XdpMode,
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
    assert!(plan.pools.is_empty() && plan.services.is_empty());

    let plan = resolve(&format!("{POOL}[node]\ninterfaces = [\"eth0\"]\n"));
    assert_eq!(plan.node.xdp, XdpMode::Native);
    let pool = plan.pool(&PoolName::new("web")).unwrap();
    assert_eq!((pool.balance, pool.check.as_ref()), (Balance::RoundRobin, None));
    let backend = &pool.backends[0];
    assert_eq!(
        (&*backend.name, backend.weight, backend.backup),
        ("10.0.0.11:80", 10, false)
    );
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
            jitter: 10
        }
    );
    let http = HttpCheck {
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
                protocol: Protocol::Udp
            },
            Listen {
                addr: v4,
                first: 53,
                last: 53,
                protocol: Protocol::Tcp
            },
            Listen {
                addr: v6,
                first: 8000,
                last: 8003,
                protocol: Protocol::Tcp
            },
        ]
    );
    assert_eq!(
        service.mode,
        Mode::L4(L4 {
            forward: Forward::Nat,
            ring_size: 1009
        })
    );
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
fn limits_timeouts_and_networks_are_taken_over() {
    let all = http(
        "trusted_proxies = [\"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\", \"0.0.0.0/0\", \"::/0\"]\nforwarded = \"both\"\n\
         [services.www.timeouts]\nconnect = \"1ms\"\nrequest_head = \"2s\"\nclient = \"1m30s\"\nserver = \"4s\"\nkeep_alive = \"5s\"\nqueue = \"6s\"\ntunnel = \"30d\"\n\
         [services.www.limits]\nhead = \"1KiB\"\nheaders = 1024\nbody = \"2GiB\"\nconnections = 1\n",
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
        (l.head, l.headers, l.body, l.connections),
        (1024, 1024, Some(2 << 30), 1)
    );
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
    for (name, expected) in Variable::ALL {
        let rules = http(&format!(
            "response_headers = [{{ set = \"X-A\", value = \"{{{name}}}\" }}]"
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
    assert_eq!(
        plan.services[1].mode,
        Mode::L4(L4 {
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
