//! `[services.NAME.proxy_protocol]`, `proxy_protocol` and `proxy_tlvs` of pools, `proxy_protocol` of checks.

use crate::{check, health, http};

/// A pool with these lines from line 3 on.
#[track_caller]
fn pool(lines: &str, expected: &[&str]) {
    let pool = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";
    check(&format!("{pool}{lines}\n"), expected);
}

#[test]
fn whose_headers_are_taken_has_to_be_said() {
    http(
        "proxy_protocol = {}\n",
        &[
            "5:18: [services.www.proxy_protocol] has no `from`; write from = [\"10.0.0.0/8\"], the networks of the proxies in front of it",
        ],
    );
    http(
        "proxy_protocol = { from = [] }\n",
        &[
            "5:27: services.www.proxy_protocol.from is empty, and no connection would begin with a header; write the networks of the proxies in front of it, or remove proxy_protocol",
        ],
    );
    http(
        "proxy_protocol = { from = [\"10.0.0.1/8\"], timeout = \"0s\", via = 1 }\n",
        &[
            "5:28: services.www.proxy_protocol.from has `10.0.0.1/8`, with bits set behind its prefix; write 10.0.0.0/8 for the network, or 10.0.0.1/32 for the one address",
            "5:53: services.www.proxy_protocol.timeout is zero; write at least \"1ms\"",
            "5:59: unknown key `via` in [services.www.proxy_protocol]; `via` belongs in [services.NAME]",
        ],
    );
    http(
        "proxy_protocol = \"v2\"\n",
        &[
            "5:18: services.www.proxy_protocol says not whose headers are believed; write proxy_protocol = { from = [\"10.0.0.0/8\"] } with the networks of the proxies in front of it",
        ],
    );
    check(
        "[services.www]\nlisten = [\"192.0.2.10:80\"]\nmode = \"l4\"\npool = \"web\"\nproxy_protocol = { from = [\"10.0.0.0/8\"] }\n[node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n",
        &[
            "5:1: services.www.proxy_protocol does not apply to an l4 service; remove it, or write mode = \"tcp\" or \"http\"",
        ],
    );
}

#[test]
fn what_backends_are_told_has_to_fit() {
    pool(
        "proxy_protocol = \"v3\"",
        &["3:18: pools.web.proxy_protocol is `v3`, which is none of its values; did you mean \"v1\"?"],
    );
    pool(
        "proxy_tlvs = [\"ssl\"]",
        &[
            "3:14: pools.web.proxy_tlvs has no effect: backends are sent no PROXY header; write proxy_protocol = \"v2\", or remove it",
        ],
    );
    pool(
        "proxy_protocol = \"v1\"\nproxy_tlvs = [\"ssl\"]",
        &[
            "4:14: pools.web.proxy_tlvs has no effect: version 1 has no room for it; write proxy_protocol = \"v2\", or remove it",
        ],
    );
    pool(
        "proxy_protocol = \"v2\"\nproxy_tlvs = [\"ssl\", \"ssl\", \"netns\"]",
        &[
            "4:22: pools.web.proxy_tlvs has a TLV twice; remove one of them",
            "4:29: pools.web.proxy_tlvs is `netns`, which this version does not have; it has \"alpn\", \"authority\", \"ssl\", \"unique-id\" and \"crc32c\"",
        ],
    );
    pool(
        "proxy_protocol = \"v2\"\nprotocol = \"h2c\"",
        &[
            "3:18: pools.web.proxy_protocol tells of one client, and a connection of HTTP/2 carries many; remove it, or write protocol = \"http/1.1\"",
        ],
    );
    pool(
        "proxy_protocol = \"v2\"\nconnections = { idle_min = 1 }",
        &[
            "4:28: pools.web.connections.idle_min has no effect: each connection begins with its client's PROXY header, so none is made in advance; remove it, or proxy_protocol",
        ],
    );
    health(
        "type = \"tcp\"\nproxy_protocol = true\n",
        &["5:18: pools.web.check.proxy_protocol is a boolean, not a string; write \"v1\", \"v2\" or \"off\""],
    );
}
