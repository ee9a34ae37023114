//! `[services.NAME]`

use crate::{check, http, listen};

#[test]
fn each_has_its_line() {
    check(
        r"[services.www]
",
        &[
            r#"1:1: [services.www] has no `listen`; write listen = ["192.0.2.10:80"]"#,
            r#"1:1: [services.www] has no `mode`; write mode = "http", "tcp" or "l4""#,
            r#"1:1: [services.www] has no `pool`; name the pool that it goes to, as in pool = "web""#,
        ],
    );
    check(
        r#"[services.www]
listen = "127.0.0.1:80"
mode = "http"
pool = "web"
"#,
        &[r"2:10: services.www.listen is a string, not an array; put it in square brackets"],
    );
    listen(
        r"",
        &[r#"2:10: services.www.listen is empty; write listen = ["192.0.2.10:80"]"#],
    );
    check(
        r#"[services."w w"]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
"#,
        &[
            r"1:11: `w w` can't be the name of a service; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "htpp"
pool = "web"
"#,
        &[r#"3:8: services.www.mode is `htpp`, which is none of its values; did you mean "http"?"#],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "https"
pool = "web"
"#,
        &[
            r#"3:8: services.www.mode is `https`, which this version does not have; it has "l4", "tcp" and "http""#,
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "udp"
pool = "web"
"#,
        &[
            r#"3:8: services.www.mode is `udp`, which this version does not have; it has "l4", "tcp" and "http""#,
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "wbe"
"#,
        &[r"4:8: services.www.pool is `wbe`, and there is no such pool; did you mean `web`?"],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "static"
"#,
        &[r"4:8: services.www.pool is `static`, and there is no such pool; write a section [pools.static]"],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = []
"#,
        &[r"4:8: services.www.pool is an array, not a string; put it in double quotes"],
    );
    http(
        r#"proxy_protocol = true
keep_alive = "5s"
timeout = "1s"
"#,
        &[
            r#"5:18: services.www.proxy_protocol says not whose headers are believed; write proxy_protocol = { from = ["10.0.0.0/8"] } with the networks of the proxies in front of it"#,
            r"6:1: unknown key `keep_alive` in [services.www]; `keep_alive` belongs in [services.NAME.timeouts]",
            r"7:1: unknown key `timeout` in [services.www]; did you mean `timeouts`?",
        ],
    );
    http(
        r#"forward = "nat"
ring_size = 65537
"#,
        &[
            r#"5:1: services.www.forward does not apply to an http service; remove it, or write mode = "l4""#,
            r#"6:1: services.www.ring_size does not apply to an http service; remove it, or write mode = "l4""#,
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "tcp"
pool = "web"
forward = "nat"
forwarded = "off"
"#,
        &[
            r#"5:1: services.www.forward does not apply to a tcp service; remove it, or write mode = "l4""#,
            r#"6:1: services.www.forwarded does not apply to a tcp service; remove it, or write mode = "http""#,
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "tcp"
pool = "web"
[services.www.timeouts]
client = "5s"
server = "5s"
request_head = "1s"
connect = "1s"
[services.www.limits]
head = "64KiB"
connections = 5
"#,
        &[
            r"6:1: services.www.timeouts.client does not apply to a tcp service; write `tunnel`, which is the silence in both directions",
            r"7:1: services.www.timeouts.server does not apply to a tcp service; write `tunnel`, which is the silence in both directions",
            r#"8:1: services.www.timeouts.request_head does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"11:1: services.www.limits.head does not apply to a tcp service; remove it, or write mode = "http""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forwarded = "off"
request_headers = []
[services.www.timeouts]
client = "5s"
"#,
        &[
            r#"7:1: services.www.forwarded does not apply to an l4 service; remove it, or write mode = "http""#,
            r#"8:1: services.www.request_headers does not apply to an l4 service; remove it, or write mode = "http""#,
            r#"9:15: services.www.timeouts does not apply to an l4 service; remove it, or write mode = "tcp" or "http""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "gre"
"#,
        &[
            r#"7:11: services.www.forward is `gre`, which this version does not have; it has "nat", "full-nat", "dsr" and "ipip""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "snat"
"#,
        &[r#"7:11: services.www.forward is `snat`, which is none of its values; did you mean "nat"?"#],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
ring_size = 65536
"#,
        &[r"7:13: services.www.ring_size is 65536, which is no prime; the next primes are 65521 and 65537"],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
ring_size = 100
"#,
        &[r"7:13: services.www.ring_size is 100, less than 251; write a number from 251 to 655373"],
    );
    http(
        r#"[services.www.timeouts]
connect = 5
client = "5"
server = "0s"
queue = "2d"
tunnel = "31d"
keepalive = "1s"
"#,
        &[
            r#"6:11: services.www.timeouts.connect is a number without unit (5); write "5s" for seconds, or "5ms" for milliseconds"#,
            r"7:10: services.www.timeouts.client has no unit (`5`); write 5s for seconds, or 5ms for milliseconds",
            r#"8:10: services.www.timeouts.server is zero; write at least "1ms""#,
            r#"9:9: services.www.timeouts.queue is 2d, more than 1d; write at most "1d""#,
            r#"10:10: services.www.timeouts.tunnel is 31d, more than 30d; write at most "30d""#,
            r"11:1: unknown key `keepalive` in [services.www.timeouts]; did you mean `keep_alive`?",
        ],
    );
    http(
        r#"[services.www.limits]
head = 65536
headers = 0
body = "64k"
connections = 0
"#,
        &[
            r#"6:8: services.www.limits.head is a number without unit (65536); write it as "64KiB""#,
            r"7:11: services.www.limits.headers is 0, less than 1; write a number from 1 to 1024",
            r"8:8: services.www.limits.body has an unknown unit, `k`; write 64KiB",
            r"9:15: services.www.limits.connections is 0, less than 1; write a number from 1 to 10000000",
        ],
    );
    http(
        r#"[services.www.limits]
head = "2MiB"
body = "some"
"#,
        &[
            r#"6:8: services.www.limits.head is 2MiB, more than 1MiB; write at most "1MiB""#,
            r#"7:8: services.www.limits.body is `some`; write a size such as "10MiB", or "none""#,
        ],
    );
    http(
        r#"[services.www.limits]
head = "10B"
body = "64"
"#,
        &[
            r#"6:8: services.www.limits.head is 10B, less than 1KiB; write at least "1KiB""#,
            r"7:8: services.www.limits.body has no unit (`64`); write 64B for bytes, or 64KiB",
        ],
    );
    http(
        r#"trusted_proxies = ["10.0.0.1/8", "2001:db8::1/32", "10.0.0.0/33", "10.0.0.0/", "::ffff:10.0.0.0/104", "[::1]", "lan", 8]
"#,
        &[
            r"5:20: services.www.trusted_proxies has `10.0.0.1/8`, with bits set behind its prefix; write 10.0.0.0/8 for the network, or 10.0.0.1/32 for the one address",
            r"5:34: services.www.trusted_proxies has `2001:db8::1/32`, with bits set behind its prefix; write 2001:db8::/32 for the network, or 2001:db8::1/128 for the one address",
            r"5:52: services.www.trusted_proxies has `10.0.0.0/33`, without a valid prefix length; write a number from 0 to 32 after the slash",
            r"5:67: services.www.trusted_proxies has `10.0.0.0/`, without a valid prefix length; write a number from 0 to 32 after the slash",
            r"5:80: services.www.trusted_proxies has `::ffff:10.0.0.0/104`, an IPv4 address in IPv6 form; write 10.0.0.0/8",
            r"5:103: services.www.trusted_proxies has `[::1]` in brackets; write networks without brackets, as in 2001:db8::/32",
            r"5:112: services.www.trusted_proxies has `lan`, which is no network; write one as in 10.0.0.0/8 or 2001:db8::/32",
            r"5:119: services.www.trusted_proxies is an integer, not a string; put it in double quotes",
        ],
    );
    http(
        r#"forwarded = "forwarded-for"
"#,
        &[
            r#"5:13: services.www.forwarded is `forwarded-for`, which is none of its values; did you mean "x-forwarded-for"?"#,
        ],
    );
    http(
        r#"forwarded = "X-Forwarded-For"
"#,
        &[
            r#"5:13: services.www.forwarded is `X-Forwarded-For`, which is none of its values; did you mean "x-forwarded-for"?"#,
        ],
    );
    http(
        r#"forwarded = "proxy-protocol"
"#,
        &[
            r#"5:13: services.www.forwarded is `proxy-protocol`, which this version does not have; it has "x-forwarded-for", "forwarded", "both" and "off""#,
        ],
    );
}

#[test]
fn no_service_has_more_connections_than_all() {
    http(
        "limits = { connections = 100001 }\n",
        &[
            "5:26: services.www.limits.connections is 100001, more than the 100000 of weir.relay.limit.connections_total; raise that tunable, or lower it",
        ],
    );
}

#[test]
fn http2() {
    http(
        r#"[services.www.http2]
enabled = 1
upgrade = "yes"
streams = 0
window = "1KiB"
connection_window = "2GiB"
offences = 9
stream = 5
"#,
        &[
            r"6:11: services.www.http2.enabled is an integer, not a boolean; write true or false, without quotes",
            r"7:11: services.www.http2.upgrade is a string, not a boolean; write true or false, without quotes",
            r"8:11: services.www.http2.streams is 0, less than 1; write a number from 1 to 10000",
            r#"9:10: services.www.http2.window is 1KiB, less than 16KiB; write at least "16KiB""#,
            r#"10:21: services.www.http2.connection_window is 2GiB, more than 1GiB; write at most "1GiB""#,
            r"11:12: services.www.http2.offences is 9, less than 10; write a number from 10 to 1000000",
            r"12:1: unknown key `stream` in [services.www.http2]; did you mean `streams`?",
        ],
    );
}

#[test]
fn a_connection_of_http2_has_room_for_one_request() {
    http(
        r#"[services.www.http2]
window = "1MiB"
connection_window = "64KiB"
"#,
        &[
            r"7:21: services.www.http2.connection_window is smaller than `window`; a connection has room for one request at least: raise it, or lower `window`",
        ],
    );
}
