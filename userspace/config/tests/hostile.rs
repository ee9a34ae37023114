//! Texts that nobody would write: no panic, no wrong plan, no time that grows out of hand, and every mistake at a place
//! that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::IpAddr,
    time::Duration,
};

use proptest::prelude::*;
use weir_config::{Facts, Report, Tunables, diff, parse};
use weir_core::{
    ids::{ListenKey, Protocol},
    plan::{
        CheckKind, FlowHash, Forward, Http, L4, Mode, PathRewrite, PerSource, Plan, Pool, Rewrite,
        RuleAction, Service, Source, Template, TemplatePart, Variable, XdpMode,
    },
};

fn resolve(text: &str) -> Result<Plan, Report> {
    let facts = Facts {
        hostname: "box".into(),
        runtime_dir: "/run/weir".into(),
    };
    parse("weir.toml", text, &Tunables::default(), &facts)
}

fn shipped(name: &str) -> String {
    fs::read_to_string(format!("{}/../../config/{name}", env!("CARGO_MANIFEST_DIR"))).expect("it is shipped")
}

/// Whatever the text is: a plan that keeps its promises, or mistakes that can be shown.
fn check(text: &str) {
    match resolve(text) {
        Ok(plan) => {
            promises(&plan);
            let again = resolve(text).expect("equal texts resolve alike");
            assert_eq!(again, plan);
            assert_eq!(diff(&plan, &again), []);
        }
        Err(report) => located(&report, text),
    }
}

/// What the plan's readers rely on.
fn promises(plan: &Plan) {
    assert!(plan.node.xdp == XdpMode::Off || !plan.node.interfaces.is_empty());
    assert!(!plan.node.name.is_empty() && plan.node.workers != Some(0));
    let mut names = BTreeSet::new();
    for pool in &plan.pools {
        assert!(names.insert(&pool.name));
        let mut addresses = BTreeSet::new();
        for backend in &pool.backends {
            assert!(backend.key.pool == pool.name && backend.weight <= 256);
            assert!(
                backend.key.address.port() > 0
                    || pool.check.as_ref().is_none_or(|check| check.port.is_some())
            );
            assert!(addresses.insert(backend.key.address), "{} twice", backend.key);
        }
        assert!(
            pool.backends.iter().any(|b| !b.backup && b.weight > 0),
            "{} serves nobody",
            pool.name
        );
        quic_promises(pool);
        if let Some(source) = &pool.source {
            source_promises(source);
        }
        if let Some(check) = &pool.check {
            assert!(Duration::ZERO < check.timeout && check.timeout < check.interval);
            assert!(check.rise > 0 && check.fall > 0 && check.port != Some(0) && check.jitter <= 50);
            if let CheckKind::Http(http) = &check.kind {
                assert!(http.path.starts_with('/') && !http.status.is_empty() && !http.method.is_empty());
                assert!(http.path.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
    let lists: BTreeSet<_> = plan
        .lists
        .allow
        .iter()
        .chain(&plan.lists.ban)
        .map(ToString::to_string)
        .collect();
    assert_eq!(lists.len(), plan.lists.allow.len() + plan.lists.ban.len());
    assert!(lists.is_empty() || plan.node.xdp != XdpMode::Off);
    let mut keys: BTreeSet<ListenKey> = BTreeSet::new();
    let mut names = BTreeSet::new();
    for service in &plan.services {
        assert!(names.insert(&service.name) && !service.listen.is_empty());
        let pools: Vec<_> = service
            .pools()
            .into_iter()
            .map(|name| plan.pool(name).expect("each service's pools exist"))
            .collect();
        let own = service.pool.as_ref().and_then(|name| plan.pool(name));
        for listen in &service.listen {
            assert!(listen.first <= listen.last && (listen.first == 0) == (listen.last == 0));
            assert!(!listen.is_every_port() || matches!(service.mode, Mode::L4(_)));
            for key in listen.keys() {
                assert!(keys.insert(key), "{key} twice");
            }
        }
        let limits = service.per_source;
        assert!(limits.is_limited() || limits == PerSource::default());
        assert!(!limits.is_limited() || plan.node.xdp != XdpMode::Off);
        match &service.mode {
            Mode::L4(l4) => {
                assert!(plan.node.xdp != XdpMode::Off && service.listen.iter().all(|l| l.is_virtual()));
                assert!(
                    (2..l4.ring_size)
                        .take_while(|d| d * d <= l4.ring_size)
                        .all(|d| l4.ring_size % d != 0)
                );
                l4_promises(l4, service, own.expect("packets go to a pool"));
            }
            Mode::Tcp(tcp) => {
                assert!(service.listen.iter().all(|l| l.protocol == Protocol::Tcp) && tcp.connections > 0);
                let rules = tcp.passthrough.as_ref().is_some_and(|p| !p.rules.is_empty());
                assert!(own.is_some() || rules);
            }
            Mode::Http(http) => {
                assert!(own.is_some() || http.rules.iter().any(|rule| rule.conditions.hold_always()));
                http_promises(http, service.listen.iter().map(|l| l.protocol));
            }
        }
        if let Mode::Tcp(_) | Mode::Http(_) = service.mode {
            let mut backends = pools.iter().flat_map(|pool| &pool.backends);
            assert!(backends.all(|b| b.key.address.port() > 0 || b.is_original_destination()));
        }
    }
}

fn quic_promises(pool: &Pool) {
    let ids: Vec<_> = pool.backends.iter().filter_map(|b| b.quic_id).collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert!(ids.is_empty() || ids.len() == pool.backends.len());
    assert!(distinct.len() == ids.len() && ids.windows(2).all(|pair| pair[0].len == pair[1].len));
}

fn source_promises(source: &Source) {
    assert!(!source.addresses.is_empty() && (source.nat.is_some() || source.relay.is_some()));
    let ports = source.relay.iter().filter_map(|relay| relay.ports.as_ref());
    let relay: Vec<_> = ports.flat_map(|p| p.traffic.iter().chain(&p.checks)).collect();
    let all: Vec<_> = source.nat.iter().chain(relay.iter().copied()).collect();
    assert!(
        all.iter()
            .all(|range| 1024 <= range.first && range.first <= range.last)
    );
    for (at, range) in all.iter().enumerate() {
        assert!(
            all.iter().skip(at + 1).all(|other| !range.overlaps(**other)),
            "{all:?}"
        );
    }
    assert!(relay.windows(2).all(|pair| pair[0].last < pair[1].first));
}

fn l4_promises(l4: &L4, service: &Service, pool: &Pool) {
    for listen in &service.listen {
        let v4 = listen.addr.is_ipv4();
        let family = |addr: &IpAddr| addr.is_ipv4() == v4;
        assert!(l4.forward == Forward::Ipip || pool.backends.iter().any(|b| family(&b.key.address.ip())));
        let source = pool.source.as_ref();
        assert!(
            l4.forward != Forward::FullNat
                || source.is_some_and(|s| s.nat.is_some() && s.addresses.iter().any(family))
        );
        for backend in &pool.backends {
            match (l4.forward, backend.key.address.port()) {
                (_, 0) => {}
                (Forward::Nat | Forward::FullNat, 1..) => assert!(!listen.is_every_port()),
                (Forward::Dsr | Forward::Ipip, port) => assert_eq!((listen.first, listen.last), (port, port)),
            }
        }
        if let FlowHash::Quic { len } = l4.hash {
            assert!(listen.protocol == Protocol::Udp && (1..=8).contains(&len));
        }
    }
}

fn http_promises(http: &Http, protocols: impl Iterator<Item = Protocol>) {
    assert!({ protocols }.all(|protocol| protocol == Protocol::Tcp));
    let t = http.timeouts;
    for timeout in [
        t.connect,
        t.request_head,
        t.client,
        t.server,
        t.keep_alive,
        t.queue,
        t.tunnel,
    ] {
        assert!(timeout > Duration::ZERO);
    }
    assert!(http.limits.head > 0 && http.limits.headers > 0 && http.limits.connections > 0);
    for rule in http.request_headers.iter().chain(&http.response_headers) {
        assert!(!rule.name.is_empty() && rule.name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert!(
            !["content-length", "transfer-encoding", "connection"]
                .contains(&rule.name.to_ascii_lowercase().as_str())
        );
    }
    rewrite_promises(&http.rewrite);
    for rule in &http.rules {
        let conditions = &rule.conditions;
        assert!(conditions.path.is_empty() || conditions.path_prefix.is_empty());
        for path in conditions.path.iter().chain(&conditions.path_prefix) {
            pattern_promises(path.as_str());
        }
        match &rule.action {
            RuleAction::Relay(relayed) => {
                assert!(relayed.pool.is_some() || relayed.rewrite.is_some());
                relayed.rewrite.iter().for_each(rewrite_promises);
            }
            RuleAction::Redirect(redirect) => {
                assert!([301, 302, 303, 307, 308].contains(&redirect.status));
                assert!(!redirect.to.parts.is_empty());
            }
            RuleAction::Respond(respond) => {
                assert!((200..600).contains(&respond.status));
                let bodiless = matches!(respond.status, 204 | 205 | 304);
                assert!(!bodiless || (respond.body.is_empty() && respond.content_type.is_none()));
            }
        }
    }
}

fn rewrite_promises(rewrite: &Rewrite) {
    assert!(
        rewrite
            .replace
            .iter()
            .all(|replacement| !replacement.find.is_empty())
    );
    let begins = |template: &Template| match template.parts.first() {
        Some(TemplatePart::Literal(text)) => text.starts_with('/'),
        Some(TemplatePart::Variable(variable)) => *variable == Variable::RequestPath,
        Some(
            TemplatePart::RequestField(_) | TemplatePart::ResponseField(_) | TemplatePart::ClientExtension(_),
        )
        | None => false,
    };
    match &rewrite.path {
        PathRewrite::Keep => {}
        PathRewrite::Prefix { strip, add } => {
            assert!(add.parts.is_empty() || begins(add));
            if !strip.as_str().is_empty() {
                pattern_promises(strip.as_str());
            }
        }
        PathRewrite::Whole(path) => assert!(begins(path)),
    }
}

fn pattern_promises(path: &str) {
    assert!(
        path.starts_with('/') && !path.contains("//") && !path.contains(['?', '#']),
        "{path}"
    );
    assert!(path.bytes().all(|b| b.is_ascii_graphic()), "{path}");
    assert!(
        !path.split('/').any(|segment| segment == "." || segment == ".."),
        "{path}"
    );
}

/// Mistakes are in order, inside the text, and fit a terminal's line.
fn located(report: &Report, text: &str) {
    assert!(!report.mistakes().is_empty(), "refused without a reason");
    let widths: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    let mut last = None;
    for mistake in report.mistakes() {
        let place = mistake.place.expect("a place");
        let width = *widths.get(place.line - 1).expect("a line of the text");
        assert!((1..=width + 1).contains(&place.column), "{mistake}");
        assert!(last <= Some(place), "out of order: {report}");
        last = Some(place);
        assert!(
            !mistake.what.is_empty() && !mistake.mend.is_empty(),
            "{mistake:?}"
        );
        assert!(!mistake.to_string().chars().any(char::is_control), "{mistake:?}");
    }
}

/// Pieces that a value or a line is replaced by.
const PIECES: [&str; 58] = [
    "",
    "0",
    "-1",
    "65536",
    "99999999999999999999999",
    "1.5",
    "true",
    "\"\"",
    "\"x\"",
    "\"http\"",
    "\"l4\"",
    "\"tcp\"",
    "\"off\"",
    "\"generic\"",
    "\"5s\"",
    "\"5\"",
    "\"0s\"",
    "\"18446744073709551615d\"",
    "\"64KiB\"",
    "\"99999999999GiB\"",
    "[]",
    "{}",
    "[[]]",
    "[1, \"a\", {}]",
    "{ a = { b = 1 } }",
    "\"[::]:80\"",
    "[\"0.0.0.0:1-65535\"]",
    "[\"192.0.2.10:80/udp\"]",
    "[\"[2001:db8::10]:53\"]",
    "\"10.0.0.1/8\"",
    "[\"::/0\"]",
    "\"{node.name\"",
    "\"{{}}\"",
    "\"\\u0000\\r\\n\"",
    "\"\u{202e}ä€😀\"",
    "'''\n\n'''",
    "2026-11-20",
    "inf",
    "0xffff",
    "\"web\"",
    "\"nat\"",
    "\"full-nat\"",
    "\"dsr\"",
    "\"ipip\"",
    "\"quic\"",
    "\"source-network\"",
    "[\"192.0.2.10:*\"]",
    "[\"192.0.2.13:*/udp\", \"192.0.2.13:53\"]",
    "[{ address = \"10.0.0.11:*\" }]",
    "[{ address = \"10.0.0.11:443\", quic_id = \"0a\" }]",
    "{ addresses = [\"10.0.0.5\", \"fd00::5\"] }",
    "{ rate = 5, ban = \"1m\" }",
    "[\"10.0.0.0/8\", \"198.51.100.0/24\"]",
    "\"2000-1999\"",
    "\"/a{match.rest}\"",
    "{ strip_prefix = \"/%2e\", add_prefix = \"/{request.path}\", host = \"backend\" }",
    "[{ match = { path_prefix = \"/a\" }, redirect = { to = \"/b{match.rest}?{request.query}\" } }, { respond = {} }]",
    "[{ match = { path = \"/a\" }, rewrite = { path = \"{request.path}/x\" } }, { respond = { status = 304, body = \"x\" } }]",
];

#[derive(Clone, Debug)]
enum Edit {
    /// A line's value becomes a piece.
    Value(prop::sample::Index, prop::sample::Index),
    /// A line goes.
    Remove(prop::sample::Index),
    /// A line stands a second time, somewhere.
    Copy(prop::sample::Index, prop::sample::Index),
    /// A character goes.
    Cut(prop::sample::Index),
    /// A character comes.
    Insert(prop::sample::Index, char),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let index = any::<prop::sample::Index>;
    let character = prop_oneof![
        prop::sample::select(vec![
            '"', '\'', '[', ']', '{', '}', '=', '.', ',', '\n', '\\', '#', '-', '0', '\0', '\u{feff}'
        ]),
        any::<char>(),
    ];
    let edit = prop_oneof![
        8 => (index(), index()).prop_map(|(line, piece)| Edit::Value(line, piece)),
        4 => index().prop_map(Edit::Remove),
        2 => (index(), index()).prop_map(|(from, to)| Edit::Copy(from, to)),
        1 => index().prop_map(Edit::Cut),
        1 => (index(), character).prop_map(|(at, c)| Edit::Insert(at, c)),
    ];
    prop::collection::vec(edit, 1..6)
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(Into::into)
        .collect();
    let mut cuts = Vec::new();
    for edit in edits {
        match edit {
            Edit::Value(line, piece) => {
                let line = line.index(lines.len());
                if let Some((key, _)) = lines[line].split_once(" = ") {
                    lines[line] = format!("{key} = {}", piece.get(&PIECES));
                }
            }
            Edit::Remove(line) => {
                lines.remove(line.index(lines.len()));
            }
            Edit::Copy(from, to) => {
                let line = from.get(&lines).clone();
                lines.insert(to.index(lines.len() + 1), line);
            }
            Edit::Cut(_) | Edit::Insert(..) => cuts.push(edit),
        }
    }
    let mut chars: Vec<char> = lines.join("\n").chars().collect();
    for edit in cuts {
        match edit {
            Edit::Cut(at) => {
                chars.remove(at.index(chars.len()));
            }
            Edit::Insert(at, c) => chars.insert(at.index(chars.len() + 1), *c),
            Edit::Value(..) | Edit::Remove(_) | Edit::Copy(..) => {}
        }
    }
    chars.into_iter().collect()
}

/// One listener of the model.
#[derive(Clone, Debug)]
struct Listener {
    addr: IpAddr,
    first: u16,
    last: u16,
    udp: bool,
}

fn listeners() -> impl Strategy<Value = Vec<Listener>> {
    let addr = prop::sample::select(vec![
        "192.0.2.10",
        "192.0.2.11",
        "127.0.0.1",
        "0.0.0.0",
        "2001:db8::10",
        "::",
        "::1",
    ]);
    let one = (addr, 1..60u16, 0..4u16, any::<bool>()).prop_map(|(addr, first, more, udp)| Listener {
        addr: addr.parse().expect("an address"),
        first,
        last: first + more,
        udp,
    });
    prop::collection::vec(one, 1..6)
}

/// Whether two of the listeners share an address, or a bound one and a wildcard share a port: port by port.
fn collide(listeners: &[Listener], bound_all: bool) -> bool {
    let mut taken: BTreeMap<(bool, u16), Vec<IpAddr>> = BTreeMap::new();
    for listener in listeners {
        for port in listener.first..=listener.last {
            taken.entry((listener.udp, port)).or_default().push(listener.addr);
        }
    }
    let bound = |addr: &IpAddr| bound_all || addr.is_loopback();
    taken.values().any(|addrs| {
        addrs.iter().enumerate().any(|(i, a)| {
            addrs.iter().skip(i + 1).any(|b| {
                let covers = |wide: &IpAddr, narrow: &IpAddr| {
                    wide.is_unspecified()
                        && !narrow.is_unspecified()
                        && wide.is_ipv4() == narrow.is_ipv4()
                        && bound(narrow)
                };
                a == b || covers(a, b) || covers(b, a)
            })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(0x7765_6972),
        ..ProptestConfig::default()
    })]

    #[test]
    fn edited_files_resolve_or_are_refused(
        name in prop::sample::select(vec![
            "weir.toml", "examples/edge.toml", "examples/forwarding.toml", "examples/relay-only.toml"
        ]),
        edits in edits(),
    ) {
        check(&edited(&shipped(name), &edits));
    }

    #[test]
    fn any_text_resolves_or_is_refused(text in any::<String>()) {
        check(&text);
        let mut tunables = Tunables::default();
        if let Err(report) = tunables.load_text("x.conf", &text) {
            located(&report, &text);
        }
    }

    #[test]
    fn listeners_collide_when_they_do_port_by_port(listeners in listeners(), xdp in any::<bool>()) {
        let node = if xdp { "interfaces = [\"eth0\"]" } else { "xdp = \"off\"" };
        let mut text = format!("[node]\n{node}\n");
        text.push_str("[admin]\nhttp = \"off\"\n[pools.web]\nbackends = [{ address = \"10.0.0.1:80\" }]\n");
        // UDP on a relay is another mistake, and no matter here.
        for (i, Listener { addr, first, last, udp }) in listeners.iter().enumerate() {
            let host = if addr.is_ipv4() { addr.to_string() } else { format!("[{addr}]") };
            let protocol = if *udp { "udp" } else { "tcp" };
            let _ = write!(
                text,
                "[services.s{i}]\nlisten = [\"{host}:{first}-{last}/{protocol}\"]\nmode = \"tcp\"\npool = \"web\"\n"
            );
        }
        let told = resolve(&text).is_err_and(|report| report.mistakes().iter().any(|m| m.what.contains("listens on")));
        prop_assert_eq!(told, collide(&listeners, !xdp), "{}", text);
    }
}

/// Four times the text may take four times as long, and some; sixteen times would be a quadratic step.
#[test]
fn time_grows_with_the_text_alone() {
    let (small, large) = (hostile_texts(2_000), hostile_texts(8_000));
    for ((name, small), (_, large)) in small.iter().zip(&large) {
        let (before, after) = (least_cpu_time(small), least_cpu_time(large));
        assert!(
            after < before * 10 + Duration::from_millis(20),
            "{name}: {before:?} for {} bytes, {after:?} for {}",
            small.len(),
            large.len()
        );
    }
}

/// Texts of n pieces each, by what they repeat.
fn hostile_texts(n: usize) -> Vec<(&'static str, String)> {
    let repeated = |piece: &dyn Fn(usize) -> String| (0..n).map(piece).collect::<String>();
    let backend = |i: usize| {
        format!(
            "{{ address = \"10.{}.{}.{}:80\" }},",
            i >> 16,
            (i >> 8) & 255,
            i & 255
        )
    };
    let lonely = |i: usize| {
        format!(
            "[services.s{i}]\nlisten = [\"127.0.0.1:{}\"]\nmode = \"tcp\"\npool = \"p{i}\"\n\
             [pools.q{i}]\nbackends = [{{ address = \"10.0.0.1:80\" }}]\n",
            i + 1
        )
    };
    let crowded = |i: usize| {
        format!("[services.s{i}]\nlisten = [\"127.0.0.1:80-90\"]\nmode = \"tcp\"\npool = \"web\"\n")
    };
    let rule =
        |value: &str| format!("[services.a]\nrequest_headers = [{{ set = \"X-A\", value = \"{value}\" }}]\n");
    let sharing = |i: usize| {
        let listen = format!("192.0.{}.{}:80", i >> 8, i & 255);
        format!(
            "[services.s{i}]\nlisten = [\"{listen}\"]\nmode = \"l4\"\npool = \"web\"\nring_size = 655373\n"
        )
    };
    vec![
        (
            "services that share a large pool",
            format!(
                "[node]\ninterfaces = [\"eth0\"]\n[pools.web]\nbackends = [{}]\n{}",
                repeated(&backend),
                repeated(&sharing)
            ),
        ),
        (
            "a long name over many mistakes",
            format!(
                "[pools.{}]\nbackends = [{}]\n",
                "x".repeat(16 * n),
                repeated(&|_| "{},".into())
            ),
        ),
        ("unknown keys", repeated(&|i| format!("k{i} = 1\n"))),
        (
            "unknown keys in one line",
            format!("node = {{ {} }}\n", repeated(&|i| format!("k{i} = 1, "))),
        ),
        (
            "one key again and again",
            repeated(&|_| "[node]\nname = 1\n".into()),
        ),
        (
            "bad elements in one line",
            format!("[node]\ninterfaces = [{}]\n", repeated(&|_| "\"a b\", ".into())),
        ),
        (
            "backends",
            format!(
                "[node]\nxdp = \"off\"\n[pools.web]\nbackends = [{}]\n",
                repeated(&backend)
            ),
        ),
        (
            "one backend again and again",
            format!("[pools.web]\nbackends = [{}]\n", repeated(&|_| backend(1))),
        ),
        ("services without their pools", repeated(&lonely)),
        ("one listener in many services", repeated(&crowded)),
        ("a deep array", format!("a = {}", "[".repeat(n))),
        ("a deep key", format!("a{} = 1\n", ".a".repeat(n))),
        ("deep tables", repeated(&|i| format!("[a.b.c.d.e.f.g{i}]\n"))),
        (
            "a long string",
            format!("[node]\nname = \"{}\"\n", "x".repeat(16 * n)),
        ),
        ("a long line of nothing", " ".repeat(16 * n)),
        ("quotes", "\"".repeat(16 * n)),
        ("a value of braces", rule(&"{".repeat(4 * n))),
        (
            "a duration of many parts",
            format!("[pools.a.check]\ninterval = \"{}\"\n", "1s".repeat(8 * n)),
        ),
    ]
}

/// The least of three runs, in time on a CPU: what else the machine does is no matter.
fn least_cpu_time(text: &str) -> Duration {
    let run = || {
        let start = cpu_time();
        check(text);
        cpu_time().saturating_sub(start)
    };
    (0..3).map(|_| run()).min().expect("three runs")
}

/// Time that this thread has spent on a CPU.
fn cpu_time() -> Duration {
    let stat =
        fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts it (CONFIG_SCHED_INFO)");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("its first number is nanoseconds"))
}
