//! What good texts resolve to: defaults, the forms that TOML allows, and where defaults come from.

mod checks;
mod forwarded;
mod listeners;
mod relayed;

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
