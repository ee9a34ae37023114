//! `protocol`, `[pools.NAME.http2]`, `[pools.NAME.connections]`, `[pools.NAME.retries]` and `max_connections`.

use crate::check;

const POOL: &str = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

/// A pool with these lines of connections from line 4 on.
#[track_caller]
fn connections(lines: &str, expected: &[&str]) {
    check(&format!("{POOL}[pools.web.connections]\n{lines}\n"), expected);
}

/// The same with retries.
#[track_caller]
fn retries(lines: &str, expected: &[&str]) {
    check(&format!("{POOL}[pools.web.retries]\n{lines}\n"), expected);
}

#[test]
fn numbers_have_their_range() {
    connections(
        "idle_min = 1025",
        &["4:12: pools.web.connections.idle_min is 1025, more than 1024; write a number from 0 to 1024"],
    );
    connections(
        "idle_max = 65536",
        &["4:12: pools.web.connections.idle_max is 65536, more than 65535; write a number from 0 to 65535"],
    );
    connections(
        "idle_timeout = \"0s\"",
        &["4:16: pools.web.connections.idle_timeout is zero; write at least \"1ms\""],
    );
    connections(
        "idle_timeout = 30",
        &[
            "4:16: pools.web.connections.idle_timeout is a number without unit (30); write \"30s\" for seconds, or \"30ms\" for milliseconds",
        ],
    );
    connections(
        "max = 0",
        &["4:7: pools.web.connections.max is 0, less than 1; write a number from 1 to 1000000"],
    );
    connections(
        "queue = -1",
        &["4:9: pools.web.connections.queue is -1, less than 0; write a number from 0 to 10000000"],
    );
    retries(
        "attempts = 0",
        &["4:12: pools.web.retries.attempts is 0, less than 1; write a number from 1 to 16"],
    );
    retries(
        "budget = 101\nbudget_floor = 1000001",
        &[
            "4:10: pools.web.retries.budget is 101, more than 100; write a number from 0 to 100",
            "5:16: pools.web.retries.budget_floor is 1000001, more than 1000000; write a number from 0 to 1000000",
        ],
    );
    retries(
        "budget = \"20%\"",
        &[
            "4:10: pools.web.retries.budget is a string, not an integer; write a number without quotes or fraction",
        ],
    );
    check(
        "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\", max_connections = 0 }]\n",
        &["2:59: pools.web.backends.max_connections is 0, less than 1; write a number from 1 to 1000000"],
    );
}

#[test]
fn keys_have_their_place() {
    connections(
        "queue_timeout = \"5s\"",
        &[
            "4:1: this version has no `queue_timeout` in [pools.web.connections]; `queue` in the timeouts of a service says how long its requests wait",
        ],
    );
    connections(
        "max_idle = 5",
        &[
            "4:1: unknown key `max_idle` in [pools.web.connections]; it has idle_min, idle_max, idle_timeout, max and queue",
        ],
    );
    retries(
        "atempts = 5",
        &["4:1: unknown key `atempts` in [pools.web.retries]; did you mean `attempts`?"],
    );
    check(
        "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\nmax_connections = 5\n",
        &[
            "3:1: unknown key `max_connections` in [pools.web]; `max_connections` belongs in [pools.NAME.backends]",
        ],
    );
    check(
        "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\nconnections = 5\nretries = true\n",
        &[
            "3:15: pools.web.connections is an integer, not a table; write it as [section] with keys, or as { key = value }",
            "4:11: pools.web.retries is a boolean, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
}

#[test]
fn what_makes_another_try_is_a_list_of_words() {
    retries(
        "on = \"connect\"",
        &["4:6: pools.web.retries.on is a string, not an array; put it in square brackets"],
    );
    retries(
        "on = [\"conect\", \"429\", 503]",
        &[
            "4:7: pools.web.retries.on is `conect`, which is none of its values; did you mean \"connect\"?",
            "4:17: pools.web.retries.on is `429`, which this version does not have; it has \"connect\", \"closed\", \"timeout\", \"500\", \"502\", \"503\" and \"504\"",
            "4:24: pools.web.retries.on is an integer, not a string; write \"connect\", \"closed\", \"timeout\", \"500\", \"502\", \"503\" or \"504\"",
        ],
    );
}

#[test]
fn what_is_kept_ready_has_room() {
    connections(
        "idle_min = 8\nidle_max = 7",
        &["4:12: pools.web.connections.idle_min is 8, more than `idle_max` (7); lower it, or raise idle_max"],
    );
    connections(
        "idle_min = 257",
        &[
            "4:12: pools.web.connections.idle_min is 257, more than `idle_max` (256 by default); lower it, or raise idle_max",
        ],
    );
    connections(
        "idle_min = 8\nmax = 7",
        &[
            "4:12: pools.web.connections.idle_min is 8, and 10.0.0.11:80 may have no more than 7 connections; lower it, or raise the number of connections",
        ],
    );
    // Each worker keeps as many; a backend's own number goes before the pool's.
    check(
        "[node]\nxdp = \"off\"\nworkers = 4\n[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }, { address = \"10.0.0.12:80\", max_connections = 31 }]\n\
         [pools.web.connections]\nmax = 32\nidle_min = 8\n",
        &[
            "8:12: pools.web.connections.idle_min is 8 for each of 4 workers, 32 in all, and 10.0.0.12:80 may have no more than 31 connections; lower it, or raise the number of connections",
        ],
    );
}

#[test]
fn a_pool_of_packets_alone_has_no_use_for_it() {
    let pool = "[node]\ninterfaces = [\"eth0\"]\n[services.dns]\nlisten = [\"192.0.2.10:53\"]\nmode = \"l4\"\npool = \"web\"\n\
                [pools.web]\nbackends = [{ address = \"10.0.0.11:80\", max_connections = 5 }]\n\
                connections = { max = 5 }\nretries = { attempts = 1 }\n";
    let why = |key: &str| {
        format!(
            "{key} has no effect: the relay does not serve pool `web`, only services of mode \"l4\" use it; remove it, or use the pool in a service of mode \"http\" or \"tcp\""
        )
    };
    check(
        pool,
        &[
            &format!("8:41: {}", why("pools.web.backends.max_connections")),
            &format!("9:1: {}", why("pools.web.connections")),
            &format!("10:1: {}", why("pools.web.retries")),
        ],
    );
    // With a relay's service beside it, it has; and so it may in a pool that no service uses yet.
    let beside = "[services.www]\nlisten = [\"192.0.2.10:80\"]\nmode = \"tcp\"\npool = \"web\"\n";
    assert!(crate::resolve(&format!("{pool}{beside}")).is_ok());
    let unused = pool.replace(
        "pool = \"web\"\n",
        "pool = \"other\"\n[pools.other]\nbackends = [{ address = \"10.0.0.12:80\" }]\n",
    );
    crate::resolve(&unused).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn protocols() {
    let pool = |line: &str, expected: &[&str]| check(&format!("{POOL}{line}\n"), expected);
    pool(
        "protocol = \"h2\"",
        &[
            "3:12: pools.web.protocol is `h2`, which is spoken over TLS, and the pool has no section `tls`; add one, or write \"h2c\" for HTTP/2 over plain TCP",
        ],
    );
    pool(
        "protocol = \"h2C\"",
        &["3:12: pools.web.protocol is `h2C`, which is none of its values; did you mean \"h2c\"?"],
    );
    pool(
        "protocol = \"h3\"",
        &[
            "3:12: pools.web.protocol is `h3`, which this version does not have; it has \"http/1.1\", \"h2c\" and \"h2\"",
        ],
    );
    pool(
        "[pools.web.http2]\nstreams = 10",
        &[
            "3:1: pools.web.http2 has no effect: the pool's backends are spoken to in HTTP/1.1; write protocol = \"h2c\" in the pool, or remove it",
        ],
    );
    let http2 = |lines: &str, expected: &[&str]| {
        check(
            &format!("{POOL}protocol = \"h2c\"\n[pools.web.http2]\n{lines}\n"),
            expected,
        );
    };
    http2(
        "streams = 0",
        &["5:11: pools.web.http2.streams is 0, less than 1; write a number from 1 to 10000"],
    );
    http2(
        "window = \"32KiB\"",
        &["5:10: pools.web.http2.window is 32KiB, less than 64KiB; write at least \"64KiB\""],
    );
    http2(
        "ping_timeout = \"0s\"",
        &["5:16: pools.web.http2.ping_timeout is zero; write at least \"1ms\""],
    );
    http2(
        "connection_window = \"1MiB\"",
        &[
            "5:1: this version has no `connection_window` in [pools.web.http2]; it follows from `streams` and `window`, so that no response waits for another's client",
        ],
    );
    pool(
        "[pools.web.check]\ntype = \"tcp\"\nprotocol = \"h2c\"",
        &["5:1: pools.web.check.protocol does not apply to a tcp check; remove it, or write type = \"http\""],
    );
    pool(
        "[pools.web.check]\ntype = \"https\"\nprotocol = \"h2c\"",
        &[
            "5:12: pools.web.check.protocol is `h2c`, which is spoken over plain TCP, and the check is over TLS; write \"h2\" or \"http/1.1\"",
        ],
    );
    pool(
        "[pools.web.check]\ntype = \"http\"\nprotocol = \"h2\"",
        &[
            "5:12: pools.web.check.protocol is `h2`, which is spoken over TLS, and the check is not; write \"h2c\" or \"http/1.1\"",
        ],
    );
}

#[test]
fn tls_to_backends() {
    let pool = |lines: &str, expected: &[&str]| check(&format!("{POOL}[pools.web.tls]\n{lines}\n"), expected);
    crate::resolve(&format!("{POOL}[pools.web.tls]\n[node]\nxdp = \"off\"\n"))
        .unwrap_or_else(|report| panic!("{report}"));
    pool(
        "verify = \"off\"",
        &["4:10: pools.web.tls.verify is `off`, and is true or false; write verify = false"],
    );
    pool(
        "verify = false\nca = \"/ca.pem\"",
        &["5:6: pools.web.tls.ca has no effect with verify = false; remove one of the two"],
    );
    pool(
        "server_name = \"10.0.0.1\"",
        &[
            "4:15: pools.web.tls.server_name is `10.0.0.1`, which is no DNS name; write one as in www.example.org",
        ],
    );
    pool(
        "alpn = [\"a\", \"a\", \"\"]",
        &[
            "4:14: pools.web.tls.alpn has `a`, which it has already; remove one of them",
            "4:19: pools.web.tls.alpn has ``, which is no protocol; write names as in \"postgresql\"",
        ],
    );
    pool(
        "versions = [\"1.3\"]\nciphers = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]",
        &[
            "5:11: pools.web.tls.ciphers has none of TLS 1.3; add one, or leave that version out of `versions`",
            "5:11: pools.web.tls.ciphers has TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, which is of TLS 1.2; remove it, or add that version to `versions`",
        ],
    );
    pool(
        "sni = \"a\"",
        &["4:1: this version has no `sni` in [pools.web.tls]; the name that is asked for is `server_name`"],
    );
    check(
        &format!("{POOL}protocol = \"h2c\"\n[pools.web.tls]\n"),
        &[
            "3:12: pools.web.protocol is `h2c`, which is spoken over plain TCP, and the pool has a section `tls`; write \"h2\", or remove that section",
        ],
    );
    check(
        &format!("{POOL}protocol = \"h2\"\n[pools.web.tls]\nalpn = [\"h2\"]\n"),
        &[
            "5:8: pools.web.tls.alpn has no effect with protocol = \"h2\", which is asked for by its own name alone; remove it",
        ],
    );
}
