//! `[pools.NAME]`

use crate::{backend, check};

#[test]
fn each_has_its_line() {
    check(
        r"[pools.web]
",
        &[r#"1:1: [pools.web] has no `backends`; write backends = [{ address = "10.0.0.11:8080" }]"#],
    );
    check(
        r"[pools.web]
backends = []
",
        &[r#"2:12: pools.web.backends is empty; write backends = [{ address = "10.0.0.11:8080" }]"#],
    );
    check(
        r"[pools.web]
backends = {}
",
        &[r"2:12: pools.web.backends is a table, not an array; put it in square brackets"],
    );
    check(
        r#"[pools."a/b"]
backends = [{ address = "10.0.0.11:80" }]
"#,
        &[
            r"1:8: `a/b` can't be the name of a pool; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
        ],
    );
    check(
        r#"[pools.""]
backends = [{ address = "10.0.0.11:80" }]
"#,
        &[
            r"1:8: `` can't be the name of a pool; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
balance = "hash"
hash = ["source"]
"#,
        &[
            r#"3:11: pools.web.balance is `hash`, which this version does not have; it has "round-robin" and "least-connections""#,
            r"4:1: unknown key `hash` in [pools.web]; `hash` belongs in [services.NAME]",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
balance = "round-robbin"
"#,
        &[
            r#"3:11: pools.web.balance is `round-robbin`, which is none of its values; did you mean "round-robin"?"#,
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
balance = "leastconn"
"#,
        &[
            r#"3:11: pools.web.balance is `leastconn`, which is none of its values; write "round-robin" or "least-connections""#,
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
balance = "peak-ewma"
"#,
        &[
            r#"3:11: pools.web.balance is `peak-ewma`, which this version does not have; it has "round-robin" and "least-connections""#,
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
balance = "random"
"#,
        &[
            r#"3:11: pools.web.balance is `random`, which this version does not have; it has "round-robin" and "least-connections""#,
        ],
    );
    check(
        r#"[pools.web]
backends = [
  { address = "10.0.0.11:80" },
  { address = "10.0.0.12:80" },
  { address = "10.0.0.11:80" },
]
"#,
        &[
            r"5:15: 10.0.0.11:80 is in pool `web` twice (first in line 3); remove one; a larger share of traffic is `weight`",
        ],
    );
    check(
        r#"[pools.web]
backends = [
  { address = "10.0.0.11:80", name = "a" },
  { address = "10.0.0.12:80", name = "a" },
]
"#,
        &[r"4:38: two backends of pool `web` are named `a` (the other in line 3); name them differently"],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80", weight = 257 }]
"#,
        &[r"2:50: pools.web.backends.weight is 257, more than 256; write a number from 0 to 256"],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80", weight = "heavy", backup = "yes", name = "a b" }]
"#,
        &[
            r"2:50: pools.web.backends.weight is a string, not an integer; write a number without quotes or fraction",
            r"2:68: pools.web.backends.backup is a string, not a boolean; write true or false, without quotes",
            r"2:82: pools.web.backends.name is `a b`; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80", weight = 0 }, { address = "10.0.0.12:80", weight = 0 }]
"#,
        &[
            r"2:12: pools.web.backends gives weight 0 to every backend that is no backup; give one a weight; `weir backend drain` takes a backend out for a while",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80", weight = 0 }, { address = "10.0.0.12:80", backup = true }]
"#,
        &[
            r"2:12: pools.web.backends gives weight 0 to every backend that is no backup; give one a weight; `weir backend drain` takes a backend out for a while",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80", backup = true }]
"#,
        &[
            r"2:12: pools.web.backends has nothing but backups; remove `backup` from those that serve ordinarily",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ name = "a" }]
"#,
        &[r#"2:13: a backend of pool `web` has no `address`; write address = "10.0.0.11:8080""#],
    );
    backend(
        r"web1.example.org:80",
        &[
            r"2:25: pools.web.backends.address has the host name `web1.example.org`, and this version resolves no names; write its address, as in 10.0.0.11:80",
        ],
    );
    backend(
        r"web1",
        &[
            r"2:25: pools.web.backends.address has the host name `web1`, and this version resolves no names; write its address, as in 10.0.0.11:80",
        ],
    );
    backend(
        r"10.0.0.11",
        &[r"2:25: pools.web.backends.address is `10.0.0.11`, without a port; write 10.0.0.11:80 for port 80"],
    );
    backend(
        r"10.0.0.11:",
        &[
            r"2:25: pools.web.backends.address is `10.0.0.11:`, without a port; write 10.0.0.11:80 for port 80",
        ],
    );
    backend(
        r"10.0.0.11:0",
        &[r"2:25: pools.web.backends.address has port 0; write a port from 1 to 65535"],
    );
    backend(
        r"10.0.0.11:65536",
        &[r"2:25: pools.web.backends.address has `65536` for its port; write a number from 1 to 65535"],
    );
    backend(
        r"10.0.0.11:http",
        &[r"2:25: pools.web.backends.address has `http` for its port; write a number from 1 to 65535"],
    );
    backend(
        r"10.0.0.11:80-90",
        &[r"2:25: pools.web.backends.address has `80-90` for its port; write a number from 1 to 65535"],
    );
    backend(
        r"10.0.0.256:80",
        &[
            r"2:25: pools.web.backends.address has `10.0.0.256`, which is no IPv4 address; write four numbers from 0 to 255 with dots between them, without leading zeros",
        ],
    );
    backend(
        r"10.0.0.011:80",
        &[
            r"2:25: pools.web.backends.address has `10.0.0.011`, which is no IPv4 address; write four numbers from 0 to 255 with dots between them, without leading zeros",
        ],
    );
    backend(
        r"",
        &[r"2:25: pools.web.backends.address is empty; write an address and port, as in 192.0.2.10:80"],
    );
    backend(
        r"80",
        &[
            r"2:25: pools.web.backends.address is `80`, without an address; write the address before the colon, as in 10.0.0.11:80",
        ],
    );
    backend(
        r":80",
        &[
            r"2:25: pools.web.backends.address is `:80`, without an address; write the address before the colon, as in 10.0.0.11:80",
        ],
    );
    backend(
        r"2001:db8::11:80",
        &[
            r"2:25: pools.web.backends.address is `2001:db8::11:80`, IPv6 without brackets; write [2001:db8::11]:80",
        ],
    );
    backend(
        r"2001:db8::11",
        &[
            r"2:25: pools.web.backends.address is `2001:db8::11`, IPv6 without brackets; write [2001:db8::11]:PORT",
        ],
    );
    backend(
        r"2001:db8::zz",
        &[
            r"2:25: pools.web.backends.address is `2001:db8::zz`, IPv6 without brackets; write IPv6 as in [2001:db8::10]:80",
        ],
    );
    backend(
        r"[2001:db8::11]",
        &[
            r"2:25: pools.web.backends.address is `[2001:db8::11]`, without a port; write [2001:db8::11]:80 for port 80",
        ],
    );
    backend(
        r"[2001:db8::11:80",
        &[
            r"2:25: pools.web.backends.address is `[2001:db8::11:80`, with a bracket that is not closed; write IPv6 as in [2001:db8::10]:80",
        ],
    );
    backend(
        r"[10.0.0.11]:80",
        &[
            r"2:25: pools.web.backends.address has `10.0.0.11` in brackets, which is no IPv6 address; write IPv4 without brackets, as in 192.0.2.10:80",
        ],
    );
    backend(
        r"[fe80::1%eth0]:80",
        &[
            r"2:25: pools.web.backends.address is `fe80::1%eth0`, an address with an interface; this version has no link-local addresses: write a global one in place of fe80::1",
        ],
    );
    backend(
        r"[fe80::1]:80",
        &[
            r"2:25: pools.web.backends.address has fe80::1, which is a link-local address; write the backend's own, global address",
        ],
    );
    backend(
        r"[::ffff:10.0.0.11]:80",
        &[
            r"2:25: pools.web.backends.address has ::ffff:10.0.0.11, which is an IPv4 address in IPv6 form; write 10.0.0.11:80",
        ],
    );
    backend(
        r"0.0.0.0:80",
        &[
            r"2:25: pools.web.backends.address has 0.0.0.0, which is every address and none; write the backend's own address; 127.0.0.1 or [::1] for this box",
        ],
    );
    backend(
        r"[::]:80",
        &[
            r"2:25: pools.web.backends.address has ::, which is every address and none; write the backend's own address; 127.0.0.1 or [::1] for this box",
        ],
    );
    backend(
        r"239.1.2.3:80",
        &[
            r"2:25: pools.web.backends.address has 239.1.2.3, which is a multicast address; write the backend's own, global address",
        ],
    );
    backend(
        r"255.255.255.255:80",
        &[
            r"2:25: pools.web.backends.address has 255.255.255.255, which is the broadcast address; write the backend's own, global address",
        ],
    );
    backend(
        r"240.0.0.1:80",
        &[
            r"2:25: pools.web.backends.address has 240.0.0.1, which is a reserved address; write the backend's own, global address",
        ],
    );
    backend(
        r"0.1.2.3:80",
        &[
            r"2:25: pools.web.backends.address has 0.1.2.3, which is a reserved address; write the backend's own, global address",
        ],
    );
}

#[test]
fn names_that_are_none_stay_on_one_line_and_are_told_once() {
    check(
        "[services.\"a\\nb\"]\nlisten = [\"[::]:8080/udp\"]\nmode = \"tcp\"\npool = \"c\\u001b\"\n\
         [pools.\"c\\u001b\"]\nbackends = [{ address = \"10.0.0.11:80\" }, { address = \"10.0.0.11:80\" }]\n",
        &[
            r"1:11: `a\nb` can't be the name of a service; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
            r#"2:11: services.a\nb.listen is UDP, which mode "tcp" does not relay; write mode = "l4", or listen on TCP"#,
            r"5:8: `c\u{1b}` can't be the name of a pool; write 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
            r"6:55: 10.0.0.11:80 is in pool `c\u{1b}` twice (first in line 6); remove one; a larger share of traffic is `weight`",
        ],
    );
}
