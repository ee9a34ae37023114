//! Ways of forwarding, what chooses a backend, ports, source addresses.

use crate::check;

#[test]
fn forwards_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
"#,
        &[
            r#"6:8: services.www.forward is "full-nat", but pool `web` has no source; write source = { addresses = ["10.0.0.5"] } under [pools.web], with free addresses of the backends' side"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = {}
"#,
        &[
            r#"10:10: [pools.web.source] has no `addresses`; write addresses = ["10.0.0.5"], free addresses of the backends' side"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = "10.0.0.5"
"#,
        &[
            r#"10:10: pools.web.source is `10.0.0.5`; write source = { addresses = ["10.0.0.5"] } for addresses of this box, "client" or "client-and-port" for the client's"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80", "[2001:db8::10]:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }, { address = "[2001:db8::11]:80" }]
source = { addresses = ["10.0.0.5"] }
"#,
        &[
            r"4:28: services.www.listen is IPv6, but the source of pool `web` has no IPv6 address; add an IPv6 address to pools.web.source.addresses, or remove this one",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80", "[2001:db8::10]:80"]
mode = "l4"
pool = "web"
forward = "dsr"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
"#,
        &[
            r"4:28: services.www.listen is IPv6, but pool `web` has no IPv6 backend, and dsr keeps the family; add an IPv6 backend, or remove this address",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "dsr"
[pools.web]
backends = [{ address = "10.0.0.11:80" }, { address = "10.0.0.12:8080" }]
"#,
        &[
            r#"6:8: services.www.forward is "dsr", which changes no port, but pool `web` has 10.0.0.12:8080, and the service listens on 192.0.2.10:80/tcp; write 10.0.0.12:* in the pool, and `port` in its check"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80-81"]
mode = "l4"
pool = "web"
forward = "ipip"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
"#,
        &[
            r#"6:8: services.www.forward is "ipip", which changes no port, but pool `web` has 10.0.0.11:80, and the service listens on 192.0.2.10:80-81/tcp; write 10.0.0.11:* in the pool, and `port` in its check"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
forward = "dsr"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
"#,
        &[
            r#"6:8: services.www.forward is "dsr", which changes no port, but pool `web` has 10.0.0.11:80, and the service listens on 192.0.2.10:*/tcp; write 10.0.0.11:* in the pool, and `port` in its check"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }, { address = "10.0.0.12:80" }]
"#,
        &[
            r"6:8: services.www listens on every port of 192.0.2.10, but pool `web` has 10.0.0.12:80, which would get them all at one; write 10.0.0.12:* in the pool, so that packets keep their port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["10.0.0.5"] }
"#,
        &[
            r"6:8: services.www listens on every port of 192.0.2.10, but pool `web` has 10.0.0.11:80, which would get them all at one; write 10.0.0.11:* in the pool, so that packets keep their port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "10.0.0.0/24"
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "ipip"
"#,
        &[
            r#"8:8: services.www.forward is "ipip", but backend 10.0.0.11 of pool `web` lies in node.tunnel.source_v4 (10.0.0.0/24), and would take tunnelled packets for its own; write another network for source_v4 under [node.tunnel]"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "ipip"
[pools.web]
backends = [{ address = "172.16.3.4:*" }, { address = "[100::7]:*" }]
"#,
        &[
            r#"6:8: services.www.forward is "ipip", but backend 172.16.3.4 of pool `web` lies in node.tunnel.source_v4 (172.16.0.0/16), and would take tunnelled packets for its own; write another network for source_v4 under [node.tunnel]"#,
            r#"6:8: services.www.forward is "ipip", but backend 100::7 of pool `web` lies in node.tunnel.source_v6 (100::/64), and would take tunnelled packets for its own; write another network for source_v6 under [node.tunnel]"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "dsrr"
hash = "srouce"
on_backend_down = "rst"
mss = 20
"#,
        &[
            r#"7:11: services.www.forward is `dsrr`, which is none of its values; did you mean "dsr"?"#,
            r#"8:8: services.www.hash is `srouce`, which is none of its values; did you mean "source"?"#,
            r#"9:19: services.www.on_backend_down is `rst`, which is none of its values; did you mean "reset"?"#,
            r"10:7: services.www.mss is 20, less than 88; write a number from 88 to 9000",
        ],
    );
}

#[test]
fn choices_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
hash_prefix_v4 = 16
"#,
        &[
            r#"7:1: services.www.hash_prefix_v4 does not apply with hash = "flow"; remove it, or write hash = "source-network""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
hash = "source"
hash_prefix_v4 = 16
hash_prefix_v6 = 48
"#,
        &[
            r#"8:1: services.www.hash_prefix_v4 does not apply with hash = "source"; remove it, or write hash = "source-network""#,
            r#"9:1: services.www.hash_prefix_v6 does not apply with hash = "source"; remove it, or write hash = "source-network""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
hash = "source-network"
hash_prefix_v4 = 33
hash_prefix_v6 = 0
"#,
        &[
            r"8:18: services.www.hash_prefix_v4 is 33, more than 32; write a number from 1 to 32",
            r"9:18: services.www.hash_prefix_v6 is 0, less than 1; write a number from 1 to 128",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:443/udp"]
mode = "l4"
pool = "web"
hash = "quic"
"#,
        &[
            r#"6:8: services.www.hash is "quic", but the backends of pool `web` have no quic_id; write quic_id = "0a1b" in each: the server id in the connection ids that it gives out"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:443/udp", "192.0.2.10:443"]
mode = "l4"
pool = "web"
hash = "quic"
[pools.web]
backends = [{ address = "10.0.0.11:443", quic_id = "01" }]
"#,
        &[
            r#"4:33: services.www.listen is TCP, but services.www.hash is "quic", which runs over UDP; write /udp behind the port, or hash = "flow""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:443/udp"]
mode = "l4"
pool = "web"
mss = 1400
"#,
        &[
            r"7:1: services.www.mss is for TCP, and the service listens on UDP alone; remove it, or listen on TCP",
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:80"]
mode = "tcp"
pool = "web"
hash = "flow"
mss = 1400
on_backend_down = "remap"
"#,
        &[
            r#"5:1: services.www.hash does not apply to a tcp service; remove it, or write mode = "l4""#,
            r#"6:1: services.www.mss does not apply to a tcp service; remove it, or write mode = "l4""#,
            r#"7:1: services.www.on_backend_down does not apply to a tcp service; remove it, or write mode = "l4""#,
        ],
    );
}

#[test]
fn every_port_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*", "192.0.2.10:*/tcp"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
"#,
        &[
            r"4:27: services.www listens on 192.0.2.10:*/tcp twice (also in line 4); give one of them another address or port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
[services.b]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
"#,
        &[
            r"10:11: services.b listens on 192.0.2.10:*/tcp, as services.www in line 4 does; give one of them another address or port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[admin]
http = "192.0.2.10:9180"
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
"#,
        &[
            r"4:8: admin.http listens on 192.0.2.10:9180/tcp, as services.www in line 6 does; give one of them another address or port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "192.0.2.10:*" }]
"#,
        &[
            r"6:8: services.www listens on 192.0.2.10:*, which is a backend of its own pool `web`; write the backend's own address and port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "192.0.2.10:*" }]
"#,
        &[
            r"6:8: services.www listens on 192.0.2.10:*, which is a backend of its own pool `web`; write the backend's own address and port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80-*", "*:*", "[2001:db8::10]"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
"#,
        &[
            r"4:11: services.www.listen has `*` for its port; write a port from 1 to 65535, or a range as in 8000-8010",
            r"4:30: services.www.listen is `*:*`, without an address; write 0.0.0.0 before the colon for every IPv4 address of the box, [::] for every IPv6 address",
            r"4:37: services.www.listen is `[2001:db8::10]`, without a port; write [2001:db8::10]:80 for port 80",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:*"]
mode = "http"
pool = "web"
"#,
        &[
            r#"4:11: services.www.listen has `*` for its port, and mode "http" can't listen on every port; write a port from 1 to 65535, or a range as in 8000-8010"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "http"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:*" }]
"#,
        &[
            r#"6:8: services.www.mode is "http", but pool `web` has 10.0.0.11:*, without a port to connect to; write its port in the pool, or a pool of its own for this service"#,
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:*" }]
check = { type = "tcp" }
"#,
        &[
            r"3:9: pools.web.check has no port to ask, and 10.0.0.11:* names none; write the port that is asked, as in port = 80, in the check",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:*" }]
[pools.web.check]
type = "http"
prot = 80
"#,
        &[r"5:1: unknown key `prot` in [pools.web.check]; did you mean `port`?"],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:*" }, { address = "10.0.0.11:*" }]
"#,
        &[
            r"2:54: 10.0.0.11:* is in pool `web` twice (first in line 2); remove one; a larger share of traffic is `weight`",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "::ffff:10.0.0.11:*" }]
"#,
        &[
            r"2:25: pools.web.backends.address is `::ffff:10.0.0.11:*`, IPv6 without brackets; write IPv6 as in [2001:db8::10]:80",
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "[::ffff:10.0.0.11]:*" }]
"#,
        &[
            r"2:25: pools.web.backends.address has ::ffff:10.0.0.11, which is an IPv4 address in IPv6 form; write 10.0.0.11:*",
        ],
    );
}

#[test]
fn sources_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
[pools.web.source]
addresses = []
ports = 1024
"#,
        &[
            r#"11:13: pools.web.source.addresses is empty; write addresses = ["10.0.0.5"], free addresses of the backends' side"#,
            r"12:9: pools.web.source.ports is an integer, not a string; put it in double quotes",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
[pools.web.source]
addresses = ["10.0.0.5", "10.0.0.5", "10.0.0.5/32", "0.0.0.0", "127.0.0.1", "224.0.0.1", "fe80::1", 7]
ports = "80-2000"
"#,
        &[
            r"11:26: pools.web.source.addresses has 10.0.0.5 twice (first in line 11); remove one",
            r"11:38: pools.web.source.addresses has `10.0.0.5/32`, which is no address; write one without port or prefix, as in 10.0.0.5 or 2001:db8::5",
            r"11:53: pools.web.source.addresses has 0.0.0.0, which is every address and none; write a free address that backends can answer to",
            r"11:64: pools.web.source.addresses has 127.0.0.1, which is a loopback address; write a free address that backends can answer to",
            r"11:77: pools.web.source.addresses has 224.0.0.1, which is a multicast address; write a free address that backends can answer to",
            r"11:90: pools.web.source.addresses has fe80::1, which is a link-local address; write a free address that backends can answer to",
            r"11:101: pools.web.source.addresses is an integer, not a string; put it in double quotes",
            r#"12:9: pools.web.source.ports begins with 80, and ports below 1024 belong to services; write "1024-32767", for example"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
[pools.web.source]
addresses = ["10.0.0.5"]
ports = "3000-2000"
port = 5
"#,
        &[
            r"12:9: pools.web.source.ports is turned round (3000-2000); write 2000-3000",
            r"13:1: unknown key `port` in [pools.web.source]; did you mean `ports`?",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
[pools.web.source]
addresses = ["10.0.0.5"]
ports = "1024-70000"
"#,
        &[r"12:9: pools.web.source.ports has `70000` for its port; write a number from 1 to 65535"],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["192.0.2.10", "10.0.0.11"] }
"#,
        &[
            r"10:25: pools.web.source.addresses has 192.0.2.10, on which services.www listens (line 4); write an address that serves nothing else",
            r"10:39: pools.web.source.addresses has 10.0.0.11, which is a backend of pool `web`; write an address that serves nothing else",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["10.0.0.5"] }
"#,
        &[
            r#"9:1: pools.web.source has no effect: no service relays to the pool, and none forwards to it by full-nat; remove it, or write forward = "full-nat" in the service"#,
        ],
    );
    check(
        r#"[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["10.0.0.5"] }
"#,
        &[
            r#"3:1: pools.web.source has no effect: no service relays to the pool, and none forwards to it by full-nat; remove it, or write forward = "full-nat" in the service"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["10.0.0.5"] }
[services.b]
listen = ["192.0.2.11:80"]
mode = "l4"
pool = "b"
forward = "full-nat"
[pools.b]
backends = [{ address = "10.0.0.12:80" }]
source = { addresses = ["10.0.0.5"] }
"#,
        &[
            r"18:25: pools.b.source has ports 1024-32767 of 10.0.0.5, and pool `web` has 1024-32767 (line 10); write another address, or ports that no other pool has",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
forward = "full-nat"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
source = { addresses = ["10.0.0.5"] }
[services.b]
listen = ["192.0.2.11:80"]
mode = "l4"
pool = "b"
forward = "full-nat"
[pools.b]
backends = [{ address = "10.0.0.12:80" }]
source = { addresses = ["10.0.0.5"], ports = "32767-40000" }
"#,
        &[
            r"18:25: pools.b.source has ports 32767-40000 of 10.0.0.5, and pool `web` has 1024-32767 (line 10); write another address, or ports that no other pool has",
        ],
    );
}

#[test]
fn quic_ids_have_their_lines() {
    check(
        r#"[pools.web]
backends = [
{ address = "10.0.0.11:443", quic_id = "0a1" },
{ address = "10.0.0.12:443", quic_id = "xx" },
{ address = "10.0.0.13:443", quic_id = 7 },
{ address = "10.0.0.14:443", quic_id = "001122334455667788" },
]
"#,
        &[
            r#"3:40: pools.web.backends.quic_id is `0a1`; write 1 to 8 bytes, two hexadecimal digits each, as in "0a1b""#,
            r#"4:40: pools.web.backends.quic_id is `xx`; write 1 to 8 bytes, two hexadecimal digits each, as in "0a1b""#,
            r"5:40: pools.web.backends.quic_id is an integer, not a string; put it in double quotes",
            r#"6:40: pools.web.backends.quic_id is `001122334455667788`; write 1 to 8 bytes, two hexadecimal digits each, as in "0a1b""#,
        ],
    );
    check(
        r#"[pools.web]
backends = [
{ address = "10.0.0.11:443", quic_id = "0a1b" },
{ address = "10.0.0.12:443", quic_id = "0A1B" },
{ address = "10.0.0.13:443", quic_id = "0a" },
{ address = "10.0.0.14:443" },
]
"#,
        &[
            r"4:13: two backends of pool `web` have the quic_id 0a1b (the other in line 3); give each its own",
            r"5:13: quic_id 0a is not as long as 0a1b, which another backend of pool `web` has (line 3); give all backends of a pool ids of one length",
            r"6:13: web/10.0.0.14:443 has no quic_id, and another backend of pool `web` has one (line 3); give all backends of a pool one, or none",
        ],
    );
}

#[test]
fn tunnels_have_their_lines() {
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "172.16.0.1/16"
source_v6 = "10.0.0.0/8"
"#,
        &[
            r"4:13: node.tunnel.source_v4 has `172.16.0.1/16`, with bits set behind its prefix; write 172.16.0.0/16 for the network, or 172.16.0.1/32 for the one address",
            r"5:13: node.tunnel.source_v6 is 10.0.0.0/8, which is not IPv6; write an IPv6 network, as in 100::/64",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "10.0.0.1"
source_v6 = "::/0"
source = "x"
"#,
        &[
            r"4:13: node.tunnel.source_v4 is 10.0.0.1/32, whose prefix is not from 8 to 31; leave the flow's hash some bits behind the prefix, as in 172.16.0.0/16",
            r"5:13: node.tunnel.source_v6 is ::/0, whose prefix is not from 8 to 127; leave the flow's hash some bits behind the prefix, as in 100::/64",
            r"6:1: unknown key `source` in [node.tunnel]; did you mean `source_v4`?",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "224.0.0.0/8"
source_v6 = "fe80::/64"
"#,
        &[
            r"4:13: node.tunnel.source_v4 is 224.0.0.0/8, which is a multicast address; write a network that backends take packets from, as in 172.16.0.0/16",
            r"5:13: node.tunnel.source_v6 is fe80::/64, which is a link-local address; write a network that backends take packets from, as in 100::/64",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "0.0.0.0/8"
source_v6 = 5
"#,
        &[
            r"4:13: node.tunnel.source_v4 is 0.0.0.0/8, which is reserved; write a network that backends take packets from, as in 172.16.0.0/16",
            r"5:13: node.tunnel.source_v6 is an integer, not a string; put it in double quotes",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[node.tunnel]
source_v4 = "127.0.0.0/8"
source_v6 = "2001:db8::/32"
"#,
        &[
            r"4:13: node.tunnel.source_v4 is 127.0.0.0/8, which is loopback; write a network that backends take packets from, as in 172.16.0.0/16",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
tunnel = "172.16.0.0/16"
"#,
        &[
            r"3:10: node.tunnel is a string, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
}
