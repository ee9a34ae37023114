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
        "response_headers = [{ remove = \"X-B\" }, { append = \"X-C\", value = \"c\" }]\ntrusted_proxies = [\"10.0.0.0/8\"]\nforwarded = \"off\"",
        &[
            "service www: trusted_proxies: none → 10.0.0.0/8",
            "service www: forwarded: x-forwarded-for → off",
            "service www: request_headers: set X-A: {{{node.name} → none",
            "service www: response_headers: none → remove X-B, append X-C: c",
        ],
    );
    check(
        "[services.www.limits]\nbody = \"1MiB\"",
        "[services.www.limits]\nhead = \"1KiB\"\nheaders = 5\nconnections = 6\n[services.www.timeouts]\nconnect = \"2s\"\ntunnel = \"1m\"",
        &[
            "service www: timeouts.connect: 1s → 2s",
            "service www: timeouts.tunnel: 1h → 1m",
            "service www: limits.head: 64KiB → 1KiB",
            "service www: limits.headers: 128 → 5",
            "service www: limits.body: 1MiB → none",
            "service www: limits.connections: 10000 → 6",
        ],
    );
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
