//! The files that are shipped: the reference, the examples, the tunables, and the document that describes them.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use weir_config::{Facts, Report, Tunables, keys, load, parse, tunables};
use weir_core::{
    ids::{PoolName, ServiceName},
    plan::{
        AccessLog, Balance, CheckKind, FlowHash, Forward, Forwarded, HeaderAction, Http2, HttpProtocol,
        LogFormat, Mode, OnBackendDown, Plan, TemplatePart, Variable, XdpMode,
    },
    vrrp::machine::Preempt,
};

fn root(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn facts() -> Facts {
    Facts {
        hostname: "box".into(),
        runtime_dir: "/run/weir".into(),
    }
}

fn resolve(text: &str) -> Result<Plan, Report> {
    parse("weir.toml", text, &Tunables::default(), &facts())
}

fn reference() -> Plan {
    resolve(&read("config/weir.toml")).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_reference_says_what_it_says() {
    let plan = reference();
    assert_eq!(
        (&*plan.node.name, plan.node.xdp, plan.node.workers),
        ("edge-1", XdpMode::Native, Some(2))
    );
    assert_eq!(plan.admin.http, Some("127.0.0.1:9180".parse().unwrap()));
    assert_eq!(
        plan.access_log,
        AccessLog {
            format: Some(LogFormat::Httplog),
            ..AccessLog::default()
        }
    );
    let names: Vec<_> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(
        names,
        ["web", "api", "dns", "grpc", "far", "http3"],
        "in order of the file"
    );
    let names: Vec<_> = plan
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["www", "mail", "dns", "far", "http3"],
        "in order of the file"
    );

    let web = plan.pool(&PoolName::new("web")).unwrap();
    assert_eq!(web.balance, Balance::RoundRobin);
    let backends: Vec<_> = web
        .backends
        .iter()
        .map(|b| (b.key.to_string(), &*b.name, b.weight, b.backup))
        .collect();
    assert_eq!(
        backends,
        [
            ("web/10.0.0.11:8080".into(), "web-a", 10, false),
            ("web/10.0.0.12:8080".into(), "web-b", 10, false),
            ("web/10.0.0.13:8080".into(), "web-spare", 10, true),
        ]
    );
    let check = web.check.as_ref().unwrap();
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    let CheckKind::Http(http) = &check.kind else {
        panic!("{:?}", check.kind)
    };
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_deref()),
        ("GET", "/healthz", Some("www.example.org"))
    );
    assert!(http.accepts(200) && http.accepts(399) && !http.accepts(404) && !http.accepts(199));
    let api = plan.pool(&PoolName::new("api")).unwrap().check.as_ref().unwrap();
    assert_eq!(api.port, Some(8443));
    let CheckKind::Http(http) = &api.kind else {
        panic!("{:?}", api.kind)
    };
    let tls = http.tls.as_ref().unwrap();
    assert_eq!(
        (tls.verify, tls.server_name.as_deref()),
        (true, Some("api.example.org"))
    );

    let www = plan.service(&ServiceName::new("www")).unwrap();
    let Mode::Http(http) = &www.mode else {
        panic!("{:?}", www.mode)
    };
    assert_eq!(http.forwarded, Forwarded::XForwardedFor);
    assert_eq!(http.timeouts.tunnel, Duration::from_secs(3600));
    assert_eq!(
        (
            http.limits.head,
            http.limits.headers,
            http.limits.body,
            http.limits.connections
        ),
        (65_536, 128, None, 10_000)
    );
    assert_eq!(
        http.trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["10.0.0.0/8", "2001:db8:ffff::/48"]
    );
    let HeaderAction::Set(value) = &http.request_headers[0].action else {
        panic!("{:?}", http.request_headers)
    };
    assert_eq!(value.parts, [TemplatePart::Variable(Variable::ServiceName)]);
    assert_eq!(http.request_headers[2].action, HeaderAction::Remove);
    let dns = plan.service(&ServiceName::new("dns")).unwrap();
    let Mode::L4(l4) = &dns.mode else {
        panic!("{:?}", dns.mode)
    };
    assert_eq!((l4.ring_size, dns.listen.len()), (65_537, 4));
    assert_eq!(
        (l4.forward, l4.hash, l4.on_backend_down, l4.mss),
        (Forward::Nat, FlowHash::Flow, OnBackendDown::Remap, Some(1400))
    );
    let limits = www.per_source;
    assert_eq!((limits.rate, limits.connections), (Some(200), Some(1000)));
    assert_eq!(limits.ban, Some(Duration::from_secs(600)));
    assert_eq!((plan.lists.allow.len(), plan.lists.ban.len()), (1, 2));
    let grpc = &plan.pools[3];
    assert_eq!((grpc.protocol, grpc.http2), (HttpProtocol::H2c, Http2::default()));
    let source = plan.pools[4].source.as_ref().unwrap();
    let nat = source.nat.map(|ports| (ports.first, ports.last));
    assert_eq!((source.addresses.len(), nat), (2, Some((1024, 32_767))));
    let forwarding: Vec<_> = plan.services[3..]
        .iter()
        .map(|service| match &service.mode {
            Mode::L4(l4) => (l4.forward, l4.hash, service.listen[0].is_every_port()),
            other @ (Mode::Tcp(_) | Mode::Http(_)) => panic!("{other:?}"),
        })
        .collect();
    let network = FlowHash::Source {
        prefix_v4: 24,
        prefix_v6: 56,
    };
    assert_eq!(
        forwarding,
        [
            (Forward::FullNat, network, false),
            (Forward::Nat, FlowHash::Quic { len: 2 }, true)
        ]
    );
}

#[test]
fn the_reference_marks_defaults_rightly() {
    let text = read("config/weir.toml");
    let lines: Vec<&str> = text.lines().collect();
    let marked: Vec<usize> = (0..lines.len())
        .filter(|&i| lines[i].contains("# (default)"))
        .collect();
    assert!(marked.len() > 20, "the marks are there: {marked:?}");
    for skipped in marked {
        let without: String = lines
            .iter()
            .enumerate()
            .filter(|&(i, _)| i != skipped)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        let plan =
            resolve(&without).unwrap_or_else(|report| panic!("without line {}: {report}", skipped + 1));
        assert_eq!(
            plan,
            reference(),
            "line {} is marked as a default: {}",
            skipped + 1,
            lines[skipped]
        );
    }
}

#[test]
fn what_the_reference_comments_out_is_good_too() {
    let text = read("config/weir.toml");
    let mut uncommented = 0;
    let text: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || "[]{}".contains(c)) => {
                uncommented += usize::from(!rest.starts_with(['[', ']', '{', '}']));
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(
        uncommented, 20,
        "own_addresses, gateways, allow_file, ban_file, interface, port, ca; and the 13 of vrrp"
    );
    let plan = resolve(&text).unwrap_or_else(|report| panic!("{report}"));
    // The digits as they stand are the bytes in order; words are little-endian.
    assert_eq!(
        plan.node.hash_key,
        Some([0x5348_7a2b_9d0e_1c6f, 0x3697_b5e8_f2c4_d0a1])
    );
    let [edge] = plan.vrrp.as_slice() else {
        panic!("{:?}", plan.vrrp)
    };
    let routers: Vec<_> = { edge.routers.iter() }
        .map(|router| {
            (
                router.id.get(),
                &*router.interface,
                router.addresses.len(),
                router.source,
            )
        })
        .collect();
    let own: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(
        routers,
        [
            (51, "eth0", 3, Some(own)),
            (51, "eth0", 1, None),
            (52, "eth1", 1, None)
        ]
    );
    assert_eq!(
        (edge.priority, edge.interval.get(), edge.preempt),
        (150, 100, Preempt::Delayed(Duration::from_secs(30)))
    );
    assert_eq!(
        edge.demote_on.iter().map(|on| on.by).collect::<Vec<_>>(),
        [10, 1, 20, 100]
    );
    assert_eq!(
        edge.authentication
            .as_ref()
            .map(|it| (it.keys.len(), it.sign_with)),
        Some((2, 1))
    );
}

#[test]
fn the_reference_has_every_key() {
    let text = read("config/weir.toml");
    for section in keys::ALL {
        for key in section.keys {
            let set = |line: &str| {
                let line = line.trim_start_matches(['#', ' ']);
                line.split([',', '{'])
                    .any(|part| part.trim_start().starts_with(&format!("{key} = ")))
            };
            let heading = |line: &str| {
                let line = line.trim_start_matches('#');
                line.starts_with('[') && line.trim_matches(['[', ']']).split('.').any(|part| part == *key)
            };
            assert!(
                text.lines().any(|line| set(line) || heading(line)),
                "no `{key}` of [{}]",
                section.heading
            );
        }
    }
}

#[test]
fn the_examples_hold() {
    let relay_only =
        load(&root("config/examples/relay-only.toml")).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(relay_only.plan.node.xdp, XdpMode::Off);
    for service in &relay_only.plan.services {
        assert!(!matches!(service.mode, Mode::L4(_)), "{}", service.name);
        assert!(
            service.listen.iter().all(|l| l.first >= 1024),
            "{} needs no privilege",
            service.name
        );
    }
    let edge = load(&root("config/examples/edge.toml")).unwrap_or_else(|report| panic!("{report}"));
    let l4 = edge
        .plan
        .services
        .iter()
        .filter(|service| matches!(service.mode, Mode::L4(_)))
        .count();
    assert_eq!(
        (edge.plan.node.xdp, l4, edge.plan.services.len()),
        (XdpMode::Native, 1, 2)
    );
    let forwarding =
        load(&root("config/examples/forwarding.toml")).unwrap_or_else(|report| panic!("{report}"));
    let ways: Vec<_> = forwarding
        .plan
        .services
        .iter()
        .map(|service| match &service.mode {
            Mode::L4(l4) => l4.forward,
            other @ (Mode::Tcp(_) | Mode::Http(_)) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        ways,
        [Forward::Nat, Forward::FullNat, Forward::Dsr, Forward::Ipip]
    );
}

#[test]
fn the_file_of_tunables_is_the_registry() {
    let text = read("config/tunables.d/10-defaults.conf");
    assert_eq!(
        text,
        tunables::example(),
        "write tunables::example() into the file"
    );
    // Commented out it sets nothing; uncommented, the defaults.
    let mut set = Tunables::default();
    set.load_text("10-defaults.conf", &text).unwrap();
    assert!(
        set.iter()
            .all(|setting| *setting.origin == tunables::Origin::Default)
    );
    let uncommented = text.replace("\n#weir.", "\nweir.");
    set.load_text("10-defaults.conf", &uncommented).unwrap();
    assert!(
        set.iter()
            .all(|setting| *setting.origin != tunables::Origin::Default)
    );
    assert_eq!(set.values(), Tunables::default().values());
}

#[test]
fn the_document_describes_every_key_and_tunable() {
    let text = read("docs/configuration.md");
    for section in keys::ALL {
        let described: BTreeSet<&str> = chapter(&text, section.heading)
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(key, _)| key)
            .collect();
        let missing: Vec<_> = section
            .keys
            .iter()
            .filter(|key| !described.contains(**key))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/configuration.md lacks {missing:?} of [{}]",
            section.heading
        );
        let unknown: Vec<_> = described
            .iter()
            .filter(|key| !section.keys.contains(key))
            .collect();
        assert!(
            unknown.is_empty(),
            "docs/configuration.md has {unknown:?} in [{}]",
            section.heading
        );
    }
    for setting in Tunables::default().iter() {
        let tunables::Tunable {
            name,
            kind,
            applies,
            description,
        } = setting.tunable;
        let row = format!(
            "| `{name}` | {} | {kind} | {} | {description} |",
            setting.value,
            applies.as_str()
        );
        assert!(text.contains(&row), "docs/configuration.md lacks the row\n{row}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `weir.")).count();
    assert_eq!(
        rows,
        tunables::REGISTRY.len(),
        "docs/configuration.md has a tunable that there is not"
    );
}

/// What stands between the heading of a section and the next heading.
fn chapter<'t>(text: &'t str, heading: &str) -> &'t str {
    let title = if heading.is_empty() {
        "## The file\n".to_owned()
    } else {
        format!("## `[{heading}]`")
    };
    let (_, after) = text
        .split_once(&title)
        .unwrap_or_else(|| panic!("docs/configuration.md has no {title}"));
    after.split_once("\n## ").map_or(after, |(chapter, _)| chapter)
}

#[test]
fn the_unit_lets_the_relay_outlive_a_crash_and_gives_it_time_to_drain() {
    let text = read("config/systemd/weir.service");
    let lines: BTreeSet<&str> = text.lines().collect();
    for line in [
        "KillMode=process",
        "Restart=on-failure",
        "RuntimeDirectory=weir",
        "RuntimeDirectoryPreserve=restart",
        // Adverts of virtual routers.
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET",
    ] {
        assert!(lines.contains(line), "{line}");
    }
    let stop = text
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s'))
        .unwrap();
    let drain = Tunables::default().values().relay_drain;
    assert!(
        Duration::from_secs(stop.parse().unwrap()) >= drain + Duration::from_secs(10),
        "{stop} and {drain:?}"
    );
}
