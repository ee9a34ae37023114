//! Unknown keys and wrong types, wherever they stand.

use crate::check;

#[test]
fn each_has_its_line() {
    check(
        r"nodes = 1
",
        &[r"1:1: unknown key `nodes` at the top of the file; did you mean `node`?"],
    );
    check(
        r"[service.www]
",
        &[r"1:2: unknown section `service` at the top of the file; did you mean `services`?"],
    );
    check(
        r"listen = []
",
        &[r"1:1: unknown key `listen` at the top of the file; `listen` belongs in [services.NAME]"],
    );
    check(
        r#"[node]
xpd = "off"
interfaces = ["a"]
"#,
        &[r"2:1: unknown key `xpd` in [node]; did you mean `xdp`?"],
    );
    check(
        r#"[node]
xdp = "off"
timeout = "1s"
socket = "/x"
"#,
        &[
            r"3:1: unknown key `timeout` in [node]; it has name, interfaces, own_addresses, xdp, workers, user, pins, hash_key, tunnel and gateways",
            r"4:1: unknown key `socket` in [node]; `socket` belongs in [admin]",
        ],
    );
    check(
        r#"[node]
xdp = "off"
"na\nme" = 1
"#,
        &[r"3:1: unknown key `na\nme` in [node]; did you mean `name`?"],
    );
    check(
        r#"[pool.web]
backends = [{ address = "10.0.0.11:80" }]
[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pol = "web"
"#,
        &[
            r"1:2: unknown section `pool` at the top of the file; did you mean `pools`?",
            r"6:1: unknown key `pol` in [services.www]; did you mean `pool`?",
        ],
    );
    check(
        r"node = 1
",
        &[r"1:8: node is an integer, not a table; write it as [section] with keys, or as { key = value }"],
    );
    check(
        r#"pools = []
services = "x"
[node]
xdp = "off"
"#,
        &[
            r"1:9: pools is an array, not a table; write it as [section] with keys, or as { key = value }",
            r"2:12: services is a string, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
    check(
        r"pools.web = 1
services.www = 2
",
        &[
            r"1:13: pools.web is an integer, not a table; write it as [section] with keys, or as { key = value }",
            r"2:16: services.www is an integer, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
    check(
        r#"[node]
xdp = "off"
name = 5
workers = "4"
user = true
interfaces = "eth0"
pins = 1.5
hash_key = 2026-11-20
"#,
        &[
            r"3:8: node.name is an integer, not a string; put it in double quotes",
            r"4:11: node.workers is a string, not an integer; write a number without quotes or fraction",
            r"5:8: node.user is a boolean, not a string; put it in double quotes",
            r"6:14: node.interfaces is a string, not an array; put it in square brackets",
            r"7:8: node.pins is a float, not a string; put it in double quotes",
            r"8:12: node.hash_key is a date, not a string; put it in double quotes",
        ],
    );
    check(
        r"[node]
xdp = off
",
        &[r"2:7: not TOML: `off` is no value; put it in double quotes"],
    );
    check(
        r"[node]
xdp = true
",
        &[r#"2:7: node.xdp is a boolean, not a string; write "native", "generic" or "off""#],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
[services.www.limits]
heads = "1KiB"
rise = 1
connect = "1s"
"#,
        &[
            r"6:1: unknown key `heads` in [services.www.limits]; did you mean `head`?",
            r"7:1: unknown key `rise` in [services.www.limits]; `rise` belongs in [pools.NAME.check]",
            r"8:1: unknown key `connect` in [services.www.limits]; `connect` belongs in [services.NAME.timeouts]",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ adress = "10.0.0.11:80" }, { address = "10.0.0.12:80", wieght = 3, port = 80 }, "10.0.0.13:80", 7]
"#,
        &[
            r"2:15: unknown key `adress` in [pools.web.backends]; did you mean `address`?",
            r"2:70: unknown key `wieght` in [pools.web.backends]; did you mean `weight`?",
            r"2:82: unknown key `port` in [pools.web.backends]; `port` belongs in [pools.NAME.check]",
            r#"2:95: pools.web.backends has a string for a backend; write { address = "10.0.0.13:80" }"#,
            r#"2:111: pools.web.backends has a backend that is no table; write { address = "10.0.0.11:8080" }"#,
        ],
    );
}
