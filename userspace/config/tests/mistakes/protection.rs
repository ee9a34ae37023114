//! `[lists]` and `per_source`.

use weir_config::{Tunables, tunables::Origin};

use crate::{check, with};

#[test]
fn per_source_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "http"
pool = "web"
per_source = {}
"#,
        &[
            r"7:14: [services.www.per_source] limits nothing; write rate = 100 for new connections per second, connections = 1000 for open ones, or remove it",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "http"
pool = "web"
per_source = { ban = "10m" }
"#,
        &[
            r"7:14: [services.www.per_source] limits nothing; write rate = 100 for new connections per second, connections = 1000 for open ones, or remove it",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "http"
pool = "web"
per_source = 5
"#,
        &[
            r"7:14: services.www.per_source is an integer, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[services.www.per_source]
rate = 0
connections = 10000001
ban = "1500ms"
prefix_v4 = 33
prefix_v6 = 0
"#,
        &[
            r"8:8: services.www.per_source.rate is 0, less than 1; write a number from 1 to 10000000",
            r"9:15: services.www.per_source.connections is 10000001, more than 10000000; write a number from 1 to 10000000",
            r#"10:7: services.www.per_source.ban is not in whole seconds; write "2s""#,
            r"11:13: services.www.per_source.prefix_v4 is 33, more than 32; write a number from 1 to 32",
            r"12:13: services.www.per_source.prefix_v6 is 0, less than 1; write a number from 1 to 128",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[services.www.per_source]
rates = 5
ban = "31d"
"#,
        &[
            r"8:1: unknown key `rates` in [services.www.per_source]; did you mean `rate`?",
            r#"9:7: services.www.per_source.ban is 31d, more than 30d; write at most "30d""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[services.www.per_source]
rate = 5
ban = "500ms"
prefix = 24
"#,
        &[
            r#"9:7: services.www.per_source.ban is 500ms, less than 1s; write at least "1s""#,
            r"10:1: unknown key `prefix` in [services.www.per_source]; did you mean `prefix_v4`?",
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:80"]
mode = "http"
pool = "web"
per_source = { rate = 5 }
"#,
        &[
            r#"5:1: services.www.per_source is enforced by XDP, but node.xdp is "off"; remove it, or write xdp = "native" or "generic" under [node]"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:53/udp"]
mode = "l4"
pool = "web"
per_source = { rate = 5 }
"#,
        &[
            r"7:1: services.www.per_source bounds TCP connections, and the service listens on UDP alone; remove it, or listen on TCP",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80", "127.0.0.1:80"]
mode = "http"
pool = "web"
per_source = { rate = 5 }
"#,
        &[
            r"4:28: services.www.per_source is enforced by XDP, which does not see connections to 127.0.0.1; write a virtual address, or a service of its own for this one",
        ],
    );
}

#[test]
fn lists_have_their_lines() {
    check(
        r#"[lists]
ban = ["10.0.0.0/8"]
"#,
        &[
            r#"1:1: [lists] is enforced by XDP, but node.xdp is "off"; remove it, or write xdp = "native" or "generic" under [node]"#,
        ],
    );
    check(
        r#"[lists]
ban_file = "/etc/weir/ban.txt"
"#,
        &[
            r#"1:1: [lists] is enforced by XDP, but node.xdp is "off"; remove it, or write xdp = "native" or "generic" under [node]"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[lists]
ban = ["10.0.0.1/8", "lan", 5]
allow = "10.0.0.0/8"
"#,
        &[
            r"4:8: lists.ban has `10.0.0.1/8`, with bits set behind its prefix; write 10.0.0.0/8 for the network, or 10.0.0.1/32 for the one address",
            r"4:22: lists.ban has `lan`, which is no network; write one as in 10.0.0.0/8 or 2001:db8::/32",
            r"4:29: lists.ban is an integer, not a string; put it in double quotes",
            r"5:9: lists.allow is a string, not an array; put it in square brackets",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[lists]
allow = ["10.0.0.0/8"]
ban = [
  "10.0.0.0/8",
  "10.0.0.0/16",
]
"#,
        &[
            r"6:3: lists.ban has 10.0.0.0/8, which is allowed too (lists.allow, line 4); remove it from one of the two",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[lists]
allow_file = "allow.txt"
ban_file = 5
bans = []
"#,
        &[
            r"4:14: lists.allow_file is `allow.txt`, not an absolute path; begin it with /",
            r"5:12: lists.ban_file is an integer, not a string; put it in double quotes",
            r"6:1: unknown key `bans` in [lists]; did you mean `ban`?",
        ],
    );
}

#[test]
fn lists_end_where_their_table_does() {
    let mut tunables = Tunables::default();
    tunables
        .set("weir.l4.lists.entries", "16", Origin::Runtime)
        .unwrap();
    let bans = |n: u32| {
        let bans: Vec<_> = (0..n).map(|i| format!("\"10.0.0.{i}\"")).collect();
        format!(
            "[node]\ninterfaces = [\"eth0\"]\n[lists]\nallow = [\"192.0.2.1\"]\nban = [{}]\n",
            bans.join(", ")
        )
    };
    assert!(with(&bans(15), &tunables).is_ok());
    assert_eq!(
        with(&bans(16), &tunables).unwrap_err().to_string(),
        "weir.toml:3:1: [lists] has 17 networks, and weir.l4.lists.entries makes room for 16; raise that tunable, and \
         leave room for bans at run time"
    );
}
