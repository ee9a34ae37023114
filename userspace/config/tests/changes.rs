//! What a reload says that it changes.

use weir_config::{Change, Facts, Tunables, diff, parse};
use weir_core::plan::Plan;

const BASE: &str = "[node]\ninterfaces = [\"eth0\"]\nname = \"a\"\n\
    [pools.web]\nbackends = [\n{ address = \"10.0.0.11:80\", weight = 1 },\n{ address = \"10.0.0.12:80\" },\n]\n\
    [pools.web.check]\ntype = \"http\"\npath = \"/a\"\ninterval = \"5s\"\n\
    [pools.old]\nbackends = [{ address = \"10.0.0.21:80\" }]\n\
    [services.www]\nlisten = [\"192.0.2.10:80\"]\nmode = \"http\"\npool = \"web\"\n\
    request_headers = [{ set = \"X-A\", value = \"{{{node.name}\" }]\n\
    [services.www.limits]\nbody = \"1MiB\"\n\
    [services.dns]\nlisten = [\"192.0.2.10:53/udp\"]\nmode = \"l4\"\npool = \"web\"\n";

fn plan(text: &str) -> Plan {
    let facts = Facts {
        hostname: "box".into(),
        runtime_dir: "/run/weir".into(),
    };
    parse("weir.toml", text, &Tunables::default(), &facts).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

fn changes(text: &str) -> Vec<Change> {
    diff(&plan(BASE), &plan(text))
}

/// The base with one piece replaced changes these lines.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(BASE.contains(from), "{from}");
    let lines: Vec<_> = changes(&BASE.replace(from, to))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn equal_plans_have_no_changes() {
    assert_eq!(changes(BASE), []);
    assert_eq!(changes(&format!("# a comment\n{BASE}")), []);
}

#[test]
fn protocols() {
    check(
        "[pools.web.check]\ntype = \"http\"\n",
        "protocol = \"h2c\"\n[pools.web.http2]\nstreams = 10\nwindow = \"1MiB\"\nping = \"0s\"\nping_timeout = \"1s\"\n\
         [pools.web.check]\ntype = \"http\"\n",
        &[
            "pool web: check: http GET /a status 200-299,300-399 → http (h2c) GET /a status 200-299,300-399",
            "pool web: protocol: http/1.1 → h2c",
            "pool web: http2.streams: 100 → 10",
            "pool web: http2.window: 256KiB → 1MiB",
            "pool web: http2.ping: 30s → never",
            "pool web: http2.ping_timeout: 10s → 1s",
        ],
    );
}

#[test]
fn pools_and_backends() {
    check(
        "{ address = \"10.0.0.12:80\" }",
        "{ address = \"10.0.0.13:80\", backup = true }",
        &[
            "backend web/10.0.0.12:80 removed",
            "backend web/10.0.0.13:80 added",
        ],
    );
    check(
        "weight = 1 }",
        "weight = 2, name = \"n\", backup = true }",
        &[
            "backend web/10.0.0.11:80: name: 10.0.0.11:80 → n",
            "backend web/10.0.0.11:80: weight: 1 → 2",
            "backend web/10.0.0.11:80: backup: false → true",
        ],
    );
    check(
        "[pools.old]",
        "[pools.new]",
        &["pool old removed", "pool new added"],
    );
    check(
        "[pools.web]\n",
        "[pools.web]\nbalance = \"least-connections\"\n",
        &["pool web: balance: round-robin → least-connections"],
    );
    // Another order of backends is a change of the plan, and nothing to tell.
    check(
        "{ address = \"10.0.0.11:80\", weight = 1 },\n{ address = \"10.0.0.12:80\" },\n",
        "{ address = \"10.0.0.12:80\" },\n{ address = \"10.0.0.11:80\", weight = 1 },\n",
        &[],
    );
}

#[test]
fn checks() {
    check(
        "interval = \"5s\"",
        "interval = \"1m30s\"\ntimeout = \"2s\"\nrise = 5\nfall = 6\njitter = 0\nport = 81",
        &[
            "pool web: check.interval: 5s → 90s",
            "pool web: check.timeout: 1s → 2s",
            "pool web: check.rise: 2 → 5",
            "pool web: check.fall: 2 → 6",
            "pool web: check.jitter: 10 → 0",
            "pool web: check.port: the backend's → 81",
        ],
    );
    check(
        "type = \"http\"\npath = \"/a\"",
        "type = \"https\"\nhost = \"h\"\nmethod = \"HEAD\"\nstatus = [\"200\"]\nserver_name = \"s\"",
        &[
            "pool web: check: http GET /a status 200-299,300-399 → https HEAD / host h status 200 server_name s",
        ],
    );
    check(
        "[pools.web.check]\ntype = \"http\"\npath = \"/a\"\ninterval = \"5s\"\n",
        "",
        &["pool web: check: on → none"],
    );
}

#[test]
fn services() {
    check(
        "[services.dns]",
        "[services.named]",
        &["service dns removed", "service named added"],
    );
    check(
        "listen = [\"192.0.2.10:80\"]",
        "listen = [\"192.0.2.11:80\", \"[2001:db8::1]:8000-8001\"]",
        &["service www: listen: 192.0.2.10:80/tcp → 192.0.2.11:80/tcp, [2001:db8::1]:8000-8001/tcp"],
    );
    check(
        "pool = \"web\"\nrequest",
        "pool = \"old\"\nrequest",
        &["service www: pool: web → old"],
    );
    check(
        "mode = \"l4\"",
        "mode = \"l4\"\nring_size = 257",
        &["service dns: ring_size: 65537 → 257"],
    );
    check(
        "listen = [\"192.0.2.10:53/udp\"]\nmode = \"l4\"",
        "listen = [\"192.0.2.10:53/tcp\"]\nmode = \"tcp\"",
        &[
            "service dns: listen: 192.0.2.10:53/udp → 192.0.2.10:53/tcp",
            "service dns: mode: l4 → tcp",
        ],
    );
    check(
        "request_headers = [{ set = \"X-A\", value = \"{{{node.name}\" }]",
        "response_headers = [{ remove = \"X-B\" }, { append = \"X-C\", value = \"c\" }]\ntrusted_proxies = [\"10.0.0.0/8\"]\nforwarded = \"off\"\nvia = \"off\"\nallow_trace = true\nallow_connect = true\nloop_limit = \"off\"\nwebsocket = { strict = true, protocols = [\"a\", \"b\"] }",
        &[
            "service www: trusted_proxies: none → 10.0.0.0/8",
            "service www: forwarded: x-forwarded-for → off",
            "service www: via: requests → off",
            "service www: allow_trace: false → true",
            "service www: allow_connect: false → true",
            "service www: loop_limit: 4 → off",
            "service www: websocket.strict: false → true",
            "service www: websocket.protocols: any → a, b",
            "service www: request_headers: set X-A: {{{node.name} → none",
            "service www: response_headers: none → remove X-B, append X-C: c",
        ],
    );
    check(
        "request_headers = [{ set = \"X-A\", value = \"{{{node.name}\" }]",
        "request_headers = [{ replace = \"X-A\", find = \"a\", value = \"{request.header.B} c\" }]\n\
         forwarded_fields = [\"x-real-ip\"]\nvia = \"both\"\nrequest_id = \"X-Id\"\n\
         rewrite = { strip_prefix = \"/a\", add_prefix = \"/b\", query = \"\", host = \"backend\" }\n\
         rules = [{ match = { method = \"GET\", path_prefix = \"/c\" }, respond = { body = \"hi\" } }, { redirect = { to = \"https://a{request.target}\" } }]",
        &[
            "service www: forwarded_fields: none → x-real-ip",
            "service www: via: requests → both",
            "service www: request_id: off → X-Id",
            "service www: rewrite: none → strip /a, add /b, query \"\", host of the backend",
            "service www: rules: none → GET /c… → 200 \"hi\" of 2 bytes, all → 307 to https://a{request.target}",
            "service www: request_headers: set X-A: {{{node.name} → replace \"a\" in X-A by \"{request.header.B} c\"",
        ],
    );
    check(
        "request_headers = [{ set = \"X-A\", value = \"{{{node.name}\" }]",
        "request_headers = [{ set = \"X-A\", value = \"{{{node.name}\" }]\n\
         rules = [{ match = { header = [{ name = \"X-A\", prefix = [\"1\", \"2\"] }, { name = \"X-B\", value = \"c\" }, { name = \"X-C\" }] }, pool = \"web\", rewrite = { add_prefix = \"/v2\" } }]",
        &["service www: rules: none → X-A: 1…|2… X-B: c X-C: … → pool web, rewrite add /v2"],
    );
    check(
        "[services.www.limits]\nbody = \"1MiB\"",
        "[services.www.limits]\nhead = \"1KiB\"\nheaders = 5\nbody_rate = \"1KiB\"\nconnections = 6\n[services.www.timeouts]\nconnect = \"2s\"\ntunnel = \"1m\"",
        &[
            "service www: timeouts.connect: 1s → 2s",
            "service www: timeouts.tunnel: 1h → 1m",
            "service www: limits.head: 64KiB → 1KiB",
            "service www: limits.headers: 128 → 5",
            "service www: limits.body: 1MiB → none",
            "service www: limits.body_rate: 500B → 1KiB",
            "service www: limits.connections: 10000 → 6",
        ],
    );
    check(
        "[services.www.limits]\nbody = \"1MiB\"",
        "[services.www.limits]\nbody = \"1MiB\"\n[services.www.http2]\nenabled = false\nupgrade = false\nstreams = 5\nwindow = \"128KiB\"\nconnection_window = \"2MiB\"\noffences = 10",
        &[
            "service www: http2.enabled: true → false",
            "service www: http2.upgrade: true → false",
            "service www: http2.streams: 100 → 5",
            "service www: http2.window: 64KiB → 128KiB",
            "service www: http2.connection_window: 6400KiB → 2MiB",
            "service www: http2.offences: 500 → 10",
        ],
    );
}

#[test]
fn forwarding() {
    check(
        "mode = \"l4\"",
        "mode = \"l4\"\nhash = \"source-network\"\nhash_prefix_v4 = 16\non_backend_down = \"reset\"\nring_size = 257",
        &[
            "service dns: hash: flow → source-network /16 and /56",
            "service dns: on_backend_down: remap → reset",
            "service dns: ring_size: 65537 → 257",
        ],
    );
    check(
        "listen = [\"192.0.2.10:53/udp\"]\nmode = \"l4\"\npool = \"web\"\n",
        "listen = [\"192.0.2.12:*\"]\nmode = \"l4\"\nmss = 1220\nhash = \"source\"\nforward = \"dsr\"\npool = \"kept\"\n\
         [pools.kept]\nbackends = [{ address = \"10.0.0.31:*\" }]\n",
        &[
            "pool kept added",
            "service dns: listen: 192.0.2.10:53/udp → 192.0.2.12:*/tcp",
            "service dns: pool: web → kept",
            "service dns: forward: nat → dsr",
            "service dns: hash: flow → source",
            "service dns: mss: by the MTU → 1220",
        ],
    );
}

#[test]
fn sources_and_ids() {
    let full = |addresses: &str, ports: &str, id: &str| {
        BASE.replace(
            "[pools.old]\n",
            &format!("[pools.old]\nsource = {{ addresses = [{addresses}], ports = \"{ports}\" }}\n"),
        )
        .replace(
            "\"10.0.0.21:80\" }",
            &format!("\"10.0.0.21:80\", quic_id = \"{id}\" }}"),
        )
        .replace(
            "mode = \"l4\"\npool = \"web\"",
            "mode = \"l4\"\nforward = \"full-nat\"\nhash = \"quic\"\npool = \"old\"",
        )
    };
    let lines = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&plan(old), &plan(new));
        assert!(changes.iter().all(|change| !change.needs_restart()));
        changes.iter().map(ToString::to_string).collect()
    };
    let old = full("\"10.0.0.5\"", "1024-32767", "0a");
    assert_eq!(
        lines(BASE, &old),
        [
            "pool old: source: none → on",
            "backend old/10.0.0.21:80: quic_id: none → 0a",
            "service dns: pool: web → old",
            "service dns: forward: nat → full-nat",
            "service dns: hash: flow → quic by 1-byte ids",
        ]
    );
    assert_eq!(
        lines(&old, &full("\"10.0.0.6\", \"fd00::5\"", "2000-3000", "0b")),
        [
            "pool old: source.addresses: 10.0.0.5 → 10.0.0.6, fd00::5",
            "pool old: source.ports: 1024-32767 → 2000-3000",
            "backend old/10.0.0.21:80: quic_id: 0a → 0b",
        ]
    );
}

#[test]
fn connections_and_retries() {
    check(
        "[pools.web.check]",
        "[pools.web.connections]\nidle_min = 1\nidle_max = 2\nidle_timeout = \"3s\"\nmax = 4\nqueue = 5\n\
         [pools.web.retries]\nattempts = 6\nbudget = 7\nbudget_floor = 8\non = [\"503\", \"connect\", \"502\", \"503\"]\n\
         [pools.web.check]",
        &[
            "pool web: connections.idle_min: 0 → 1",
            "pool web: connections.idle_max: 256 → 2",
            "pool web: connections.idle_timeout: 30s → 3s",
            "pool web: connections.max: any number → 4",
            "pool web: connections.queue: 1024 → 5",
            "pool web: retries.attempts: 4 → 6",
            "pool web: retries.budget: 20 → 7",
            "pool web: retries.budget_floor: 10 → 8",
            "pool web: retries.on: connect, closed → connect, 502, 503",
        ],
    );
    check(
        "[pools.web.check]",
        "[pools.web.retries]\non = []\n[pools.web.check]",
        &["pool web: retries.on: connect, closed → nothing"],
    );
    check(
        "\"10.0.0.12:80\" }",
        "\"10.0.0.12:80\", max_connections = 9 }",
        &["backend web/10.0.0.12:80: max_connections: the pool's → 9"],
    );
}

#[test]
fn limits_per_source() {
    let www = "pool = \"web\"\nrequest";
    let limited = |limits: &str| format!("pool = \"web\"\nper_source = {{ {limits} }}\nrequest");
    check(
        www,
        &limited("rate = 5, ban = \"10m\""),
        &[
            "service www: per_source.rate: any → 5",
            "service www: per_source.ban: none → 10m",
        ],
    );
    check(
        www,
        &limited("connections = 7, prefix_v4 = 24, prefix_v6 = 48"),
        &[
            "service www: per_source.connections: any → 7",
            "service www: per_source.prefix_v4: 32 → 24",
            "service www: per_source.prefix_v6: 64 → 48",
        ],
    );
}

#[test]
fn lists() {
    let with = |ban: &str| format!("{BASE}[lists]\nban = [{ban}]\n");
    let lines = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&plan(old), &plan(new));
        assert!(changes.iter().all(|change| !change.needs_restart()));
        changes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        lines(BASE, &with("\"10.0.0.0/8\", \"192.0.2.7\"")),
        ["lists.ban: none → 10.0.0.0/8, 192.0.2.7/32"]
    );
    assert_eq!(
        lines(
            &with("\"10.1.0.0/16\", \"::/0\""),
            &with("\"::/0\", \"10.1.0.0/16\"")
        ),
        [""; 0],
        "another order is no other list"
    );
    let many = |from: u8| -> String { (from..from + 100).map(|i| format!("\"10.0.0.{i}\",")).collect() };
    assert_eq!(
        lines(&with(&many(0)), &with(&many(3))),
        ["lists.ban: 100 networks → 100 networks (3 new, 3 gone)"]
    );
    let allow = format!("{BASE}[lists]\nallow = [\"::1\"]\n");
    assert_eq!(lines(&allow, BASE), ["lists.allow: ::1/128 → none"]);
}

#[test]
fn what_a_running_weir_can_not_change_is_marked() {
    let restart = |from: &str, to: &str, line: &str| {
        let changes = changes(&BASE.replace(from, to));
        let [change] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert!(change.needs_restart());
        assert_eq!(change.to_string(), format!("{line} (needs a restart)"));
    };
    let node = "name = \"a\"\n";
    let add = |line: &str| format!("{node}{line}\n");
    restart(
        "[\"eth0\"]",
        "[\"eth0\", \"eth1\"]",
        "node.interfaces: eth0 → eth0, eth1",
    );
    restart(node, &add("xdp = \"generic\""), "node.xdp: native → generic");
    restart(node, &add("workers = 3"), "node.workers: one per core → 3");
    restart(node, &add("user = \"weir\""), "node.user: nobody → weir");
    restart(
        node,
        &add("pins = \"/sys/fs/bpf/w\""),
        "node.pins: /sys/fs/bpf/weir → /sys/fs/bpf/w",
    );
    restart(
        node,
        &add("hash_key = \"00112233445566778899aabbccddeeff\""),
        "node.hash_key: drawn → set",
    );
    restart(
        node,
        &add("[admin]\nsocket = \"/run/w.sock\""),
        "admin.socket: /run/weir/control.sock → /run/w.sock",
    );
    restart(
        node,
        &add("[admin]\nhttp = \"off\""),
        "admin.http: 127.0.0.1:9180 → off",
    );
    restart(
        node,
        &add("[access_log]\nto = \"/a.log\""),
        "access_log.to: stdout → /a.log",
    );
    restart(
        node,
        &add("[access_log]\nformat = \"json\""),
        "access_log.format: as the log → json",
    );
    restart(
        node,
        &add("[access_log]\nnull = true"),
        "access_log.null: false → true",
    );
    restart(
        node,
        &add("tunnel.source_v4 = \"10.9.0.0/16\""),
        "node.tunnel.source_v4: 172.16.0.0/16 → 10.9.0.0/16",
    );
    restart(
        node,
        &add("tunnel.source_v6 = \"2001:db8::/64\""),
        "node.tunnel.source_v6: 100::/64 → 2001:db8::/64",
    );
    let changes = changes(&BASE.replace(node, "name = \"b\"\n"));
    assert_eq!(
        changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["node.name: a → b"]
    );
    assert!(!changes[0].needs_restart());
}

#[test]
fn a_changed_hash_key_is_told_without_the_key() {
    let with =
        |key: &str| plan(&BASE.replace("name = \"a\"\n", &format!("name = \"a\"\nhash_key = \"{key}\"\n")));
    let changes = diff(&with(&"1".repeat(32)), &with(&"2".repeat(32)));
    assert_eq!(
        changes[0].to_string(),
        "node.hash_key: set → set (needs a restart)"
    );
}

#[test]
fn other_boxes() {
    let keyed = BASE.replace(
        "name = \"a\"\n",
        "name = \"a\"\nhash_key = \"00112233445566778899aabbccddeeff\"\n",
    );
    let with = |peers: &str, more: &str| {
        format!(
            "{keyed}[sync]\nlocal = \"10.0.0.1\"\npeers = [{peers}]\nkeys = [{{ id = 1, file = \"/etc/weir/a\" }}]\n{more}"
        )
    };
    let lines = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&plan(old), &plan(new));
        assert!(changes.iter().all(|change| !change.needs_restart()));
        changes.iter().map(ToString::to_string).collect()
    };
    let one = with("\"10.0.0.2\"", "");
    let said = "10.0.0.1:3720 with 10.0.0.2:3720, keys 1 of /etc/weir/a, signs with 1, 2000/s";
    assert_eq!(lines(&keyed, &one), [format!("sync: none → {said}")]);
    assert_eq!(
        lines(&one, &with("\"10.0.0.2:3720\"", "sign_with = 1\nrate = 2000\n")),
        [""; 0]
    );
    let two = with("\"10.0.0.2\", \"10.0.0.3:99\"", "rate = 10\n");
    let then = "10.0.0.1:3720 with 10.0.0.2:3720 10.0.0.3:99, keys 1 of /etc/weir/a, signs with 1, 10/s";
    assert_eq!(lines(&one, &two), [format!("sync: {said} → {then}")]);
}

#[test]
fn exported_routes() {
    let with = |keys: &str| format!("{BASE}[export]\n{keys}\n");
    let lines = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&plan(old), &plan(new));
        assert!(changes.iter().all(|change| !change.needs_restart()));
        changes.iter().map(ToString::to_string).collect()
    };
    let default = "table 180, when any, notice 2s";
    assert_eq!(lines(BASE, &with("")), [format!("export: none → {default}")]);
    assert_eq!(lines(&with(""), &with("table = 180")), [""; 0]);
    assert_eq!(
        lines(&with(""), &with("table = 181\nwhen = \"all\"\nnotice = \"0s\"")),
        [format!("export: {default} → table 181, when all, notice 0s")]
    );
    assert_eq!(lines(&with(""), BASE), [format!("export: {default} → none")]);
}

#[test]
fn interfaces_and_routers() {
    let listen = "[services.by]\nlisten = [{ address = \"192.0.2.77:80\", interface = \"eth1\" }]\nmode = \"http\"\npool = \"by\"\n";
    let pool = "[pools.by]\nbackends = [{ address = \"10.0.0.77:80\" }]\n";
    let with = |listen: &str, more: &str| format!("{BASE}{listen}{pool}{more}");
    let lines = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&plan(old), &plan(new));
        assert!(changes.iter().all(|change| !change.needs_restart()));
        changes.iter().map(ToString::to_string).collect()
    };
    let base = with(listen, "");
    let other = with(&listen.replace("eth1", "eth2"), "");
    assert_eq!(
        lines(&base, &other),
        ["service by: listen: 192.0.2.77:80/tcp%eth1 → 192.0.2.77:80/tcp%eth2"]
    );
    assert_eq!(
        lines(&base, &with(listen, "interface = \"eth1\"\n")),
        ["pool by: interface: as the routes say → eth1"]
    );
    let router = "[[node.gateways]]\ninterface = \"eth1\"\naddress = \"198.51.100.1\"\n";
    assert_eq!(
        lines(&base, &with(listen, router)),
        ["node.gateways: none → 198.51.100.1 by eth1"]
    );
}

#[test]
fn virtual_routers() {
    let group = "[vrrp.edge]\nrouters = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"] }]\n";
    let with = |group: &str| plan(&format!("{BASE}{group}"));
    let lines =
        |old: &Plan, new: &Plan| -> Vec<String> { diff(old, new).iter().map(ToString::to_string).collect() };
    let base = with(group);
    assert_eq!(lines(&plan(BASE), &base), ["vrrp edge added"]);
    assert_eq!(lines(&base, &plan(BASE)), ["vrrp edge removed"]);
    let changed = with(
        "[vrrp.edge]\npriority = 150\ninterval = \"10ms\"\npreempt = { delayed = \"30s\" }\nlease = \"50ms\"\n\
         routers = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/32\"], sources = [\"192.0.2.1\"], peers = [\"192.0.2.2\"], checksum = \"rfc5798\" }]\n\
         announce = { count = 3, refresh = \"1m\" }\ndemote_on = [{ pool = \"web\", by = 5 }, { link = \"eth1\" }, { file = \"/a\" }]\n\
         authentication = { mode = \"permissive\", keys = [{ id = 1, file = \"/k\" }] }\n",
    );
    let changes = diff(&base, &changed);
    assert!(changes.iter().all(|change| !change.needs_restart()));
    assert_eq!(
        lines(&base, &changed),
        [
            "vrrp edge: routers: 51 on eth0 with 192.0.2.10/24, 51 on eth0 with 2001:db8::10/64 → \
             51 on eth0 with 192.0.2.10/32 from 192.0.2.1 to 192.0.2.2 rfc5798",
            "vrrp edge: priority: 100 → 150",
            "vrrp edge: interval: 1s → 10ms",
            "vrrp edge: preempt: never → delayed 30s",
            "vrrp edge: lease: 100ms → 50ms",
            "vrrp edge: announce: 5 times every 200ms, again never → 3 times every 200ms, again 1m",
            "vrrp edge: authentication: none → permissive, keys 1 of /k, signs with 1",
            "vrrp edge: demote_on: service www by 1, service dns by 1 → pool web by 5, link eth1 by 1, file /a by 1",
        ]
    );
    let own = plan(&format!("{BASE}{group}").replace(
        "name = \"a\"\n",
        "name = \"a\"\nown_addresses = [\"192.0.2.1\"]\n",
    ));
    assert_eq!(lines(&base, &own), ["node.own_addresses: none → 192.0.2.1"]);
}
