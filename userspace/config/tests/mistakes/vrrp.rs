//! `[vrrp.NAME]`

use crate::{POOL, check_as_it_stands, resolve};

const NODE: &str = "[node]\ninterfaces = [\"eth0\", \"eth1\"]\n";

/// A group with these lines from line 3 on.
#[track_caller]
fn group(lines: &str, expected: &[&str]) {
    const ROUTERS: &str = "routers = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"] }]\n";
    check_as_it_stands(&format!("[vrrp.edge]\n{ROUTERS}{lines}{POOL}{NODE}"), expected);
}

/// A group with this one router, in line 2.
#[track_caller]
fn router(keys: &str, expected: &[&str]) {
    check_as_it_stands(
        &format!("[vrrp.edge]\nrouters = [{{ {keys} }}]\n{POOL}{NODE}"),
        expected,
    );
}

/// A router with these addresses.
#[track_caller]
fn addresses(list: &str, what: &str) {
    router(
        &format!("interface = \"eth0\", id = 1, addresses = [{list}]"),
        &[&format!("2:55: vrrp.edge.routers.addresses {what}")],
    );
}

const GOOD: &str = "interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"]";

#[test]
fn keys_of_a_group() {
    for (lines, expected) in [
        (
            "priority = 9\n",
            "3:12: vrrp.edge.priority is 9, and numbers below 10 say how much a box is demoted; write 10 to 254, or 255 on a box whose own addresses they are",
        ),
        (
            "priority = 256\n",
            "3:12: vrrp.edge.priority is 256, more than 255; write a number from 1 to 255",
        ),
        (
            "interval = \"9ms\"\n",
            "3:12: vrrp.edge.interval is 9ms, less than 10ms; write at least \"10ms\"",
        ),
        (
            "interval = \"41s\"\n",
            "3:12: vrrp.edge.interval is 41s, more than 40950ms; write at most \"40950ms\"",
        ),
        (
            "interval = \"15ms\"\n",
            "3:12: vrrp.edge.interval is not a multiple of 10ms, in which adverts count; write \"10ms\"",
        ),
        (
            "preempt = \"yes\"\n",
            "3:11: vrrp.edge.preempt is `yes`, which is none of its values; write \"never\" or \"always\"",
        ),
        (
            "preempt = { delayed = \"0s\" }\n",
            "3:23: vrrp.edge.preempt.delayed is zero; write at least \"1ms\"",
        ),
        (
            "lease = \"1ms\"\n",
            "3:9: vrrp.edge.lease is 1ms, less than 30ms; write at least \"30ms\"",
        ),
        (
            "announce = { count = 0 }\n",
            "3:22: vrrp.edge.announce.count is 0, less than 1; write a number from 1 to 100",
        ),
        (
            "state = \"master\"\n",
            "3:1: this version has no `state` in [vrrp.edge]; the boxes find out who is master: the one of the greatest `priority` that nothing speaks against",
        ),
        (
            "id = 51\n",
            "3:1: this version has no `id` in [vrrp.edge]; write it into an element of `routers`",
        ),
    ] {
        group(lines, &[expected]);
    }
    check_as_it_stands(
        &format!("[vrrp.edge]\npriority = 100\n{POOL}{NODE}"),
        &[
            "1:1: [vrrp.edge] has no `routers`; write routers = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"] }]",
        ],
    );
}

#[test]
fn routers() {
    for (keys, expected) in [
        (
            "id = 51, addresses = [\"192.0.2.10/24\"]",
            "2:12: [vrrp.edge.routers] has no `interface`; name the interface whose link it is on, as in interface = \"eth0\"",
        ),
        (
            "interface = \"eth0\", id = 0, addresses = [\"192.0.2.10/24\"]",
            "2:39: vrrp.edge.routers.id is 0, less than 1; write a number from 1 to 255",
        ),
        (
            "interface = \"a/b\", id = 1, addresses = [\"192.0.2.10/24\"]",
            "2:26: vrrp.edge.routers.interface is `a/b`, which is no interface's name; write it as `ip link` shows it",
        ),
        (
            "interface = \"eth2\", id = 1, addresses = [\"192.0.2.10/24\", \"2001:db8::1/64\"]",
            "2:26: vrrp.edge.routers.interface is `eth2`, which is not among node.interfaces; did you mean \"eth0\"?",
        ),
        (
            "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\"], peers = [\"fe80::1\"]",
            "2:82: vrrp.edge.routers.peers has fe80::1, but addresses has none of its family; remove it, or add such an address",
        ),
        (
            "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\"], sources = [\"192.0.2.1\"], peers = [\"192.0.2.1\"]",
            "2:107: vrrp.edge.routers.peers has 192.0.2.1, which is this box's own source; write the addresses of the other boxes",
        ),
        (
            "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\"], sources = [\"192.0.2.10\"]",
            "2:12: vrrp.edge.routers.sources has 192.0.2.10, which is itself a virtual router's; write the box's own address on that link",
        ),
        (
            "interface = \"eth0\", id = 1, addresses = [\"2001:db8::1/64\"], checksum = \"rfc5798\"",
            "2:85: vrrp.edge.routers.checksum is for IPv4 alone: over IPv6 there is one kind; remove it",
        ),
        (
            "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\"], version2 = { password = \"123456789\" }",
            "2:97: vrrp.edge.routers.version2.password has 9 bytes; write 1 to 8, as of the other routers (keepalived: auth_pass)",
        ),
    ] {
        router(keys, &[expected]);
    }
    check_as_it_stands(
        &format!(
            "[vrrp.edge]\ninterval = \"500ms\"\nrouters = [{{ {GOOD}, version2 = true }}]\n{POOL}{NODE}"
        ),
        &[
            "3:85: vrrp.edge.routers.version2 is on, but the group's interval is 500ms, and version 2 counts in seconds; write interval = \"1s\" until the last router of version 2 is gone",
        ],
    );
    router(
        "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\", \"2001:db8::1/64\"], peers = [\"192.0.2.2\"]",
        &[
            "2:72: vrrp.edge.routers.addresses has IPv6, but peers has no address of it; write the other boxes' IPv6 addresses into peers as well, or no peers at all",
        ],
    );
}

#[test]
fn link_addresses_and_shares() {
    const TWO: &str = "shares = [{ id = 51 }, { id = 52 }]";
    let shared = |lines: &str, router: &str, expected: &[&str]| {
        let text = format!(
            "[vrrp.edge]\nrouters = [{{ interface = \"eth0\", {router}addresses = [\"192.0.2.10/24\"] }}]\n{lines}\n{POOL}{NODE}hash_key = \"00112233445566778899aabbccddeeff\"\n"
        );
        check_as_it_stands(&text, expected);
    };
    for (lines, expected) in [
        (
            "mac = \"vmac\"",
            "3:7: vrrp.edge.mac is `vmac`, which is none of its values; write \"own\", \"virtual\" or \"multicast\"",
        ),
        (
            "mac = \"multicast\"",
            "3:7: vrrp.edge.mac is \"multicast\", but it has no shares: all boxes would get what one serves; write mac = \"virtual\", or shares = [{ id = 51, priority = 200 }, { id = 52, priority = 100 }]",
        ),
    ] {
        shared(lines, "id = 51, ", &[expected]);
    }
    for (lines, expected) in [
        (
            TWO,
            "1:1: vrrp.edge has shares, but mac is \"own\": packets would come to one box only; write mac = \"multicast\" under it; or mac = \"virtual\", if its boxes are on a hub or a mirrored port",
        ),
        (
            "mac = \"multicast\"\nshares = []",
            "4:10: vrrp.edge.shares is empty; write one for each box at least, as in [{ id = 51, priority = 200 }, { id = 52, priority = 100 }]; or none, and an id for each router",
        ),
        (
            "mac = \"multicast\"\nshares = [{ id = 51 }, { id = 51 }]",
            "4:31: vrrp.edge.shares.id is 51, as of another share (line 4); give each share a number of its own",
        ),
        (
            "mac = \"multicast\"\nshares = [{ id = 51 }, { id = 52, priority = 5 }]",
            "4:46: vrrp.edge.shares.priority is 5, and numbers below 10 say how much a box is demoted; write 10 to 254, or 255 on a box whose own addresses they are",
        ),
    ] {
        shared(lines, "", &[expected]);
    }
    let many: Vec<_> = (1..=17).map(|id| format!("{{ id = {id} }}")).collect();
    shared(
        &format!("mac = \"multicast\"\nshares = [{}]", many.join(", ")),
        "",
        &[
            "4:10: vrrp.edge.shares has 17 shares, more than 16; write fewer: one or two for each box deal clients evenly",
        ],
    );
    shared(
        &format!("mac = \"multicast\"\n{TWO}"),
        "id = 51, ",
        &["2:39: vrrp.edge.routers.id stands beside shares, which have numbers of their own; remove it"],
    );
    let good = format!(
        "[vrrp.edge]\nrouters = [{{ interface = \"eth0\", addresses = [\"192.0.2.10/24\"] }}]\nmac = \"multicast\"\n{TWO}\n"
    );
    check_as_it_stands(
        &format!("{good}{POOL}{NODE}"),
        &[
            "1:1: [vrrp.edge] has shares, but there is no node.hash_key: without the same one on all boxes, some clients would have two boxes, and others none; draw one with `openssl rand -hex 16`, and write it on all boxes",
        ],
    );
    check_as_it_stands(
        &format!(
            "{good}[vrrp.other]\nrouters = [{{ interface = \"eth0\", id = 52, addresses = [\"192.0.2.11/24\"] }}]\n{POOL}{NODE}hash_key = \"00112233445566778899aabbccddeeff\"\n"
        ),
        &[
            "6:12: vrrp.other.routers has number 52 on eth0 over IPv4, as vrrp.edge in line 4; give one of them another id, or put the addresses of both into one",
        ],
    );
}

#[test]
fn addresses_of_routers() {
    addresses(
        "\"192.0.2.10\"",
        "has 192.0.2.10, without the length of its prefix; write 192.0.2.10/24 if its network is on that link, or 192.0.2.10/32",
    );
    addresses(
        "\"192.0.2.10/33\"",
        "has `33` for the length of a prefix; write a number from 1 to 32, as in 192.0.2.10/32",
    );
    addresses(
        "\"edge/24\"",
        "has `edge/24`, which is no address; write one with the length of its network's prefix, as in 192.0.2.10/24 or 2001:db8::10/64",
    );
    addresses(
        "\"224.0.0.18/32\"",
        "has 224.0.0.18, which is a multicast address; write an address that hosts on the link, or behind their routers, send to",
    );
    addresses(
        "\"127.0.0.1/8\"",
        "has 127.0.0.1, which is a loopback address; write an address that hosts on the link, or behind their routers, send to",
    );
    router(
        "interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\", \"192.0.2.10/32\"]",
        &["2:72: vrrp.edge.routers.addresses has 192.0.2.10 twice (first in line 2); remove one"],
    );
    // Hosts may have a link-local address for their router.
    let text = format!(
        "[vrrp.edge]\nrouters = [{{ interface = \"eth0\", id = 1, addresses = [\"fe80::10/64\"] }}]\n{POOL}{NODE}"
    );
    assert!(resolve(&text).is_ok(), "{:?}", resolve(&text));
}

#[test]
fn groups_against_each_other_and_the_rest() {
    let two = |second: &str, expected: &[&str]| {
        let text =
            format!("[vrrp.a]\nrouters = [{{ {GOOD} }}]\n[vrrp.b]\nrouters = [{{ {second} }}]\n{POOL}{NODE}");
        check_as_it_stands(&text, expected);
    };
    two(
        "interface = \"eth0\", id = 51, addresses = [\"192.0.2.11/24\"]",
        &[
            "4:12: vrrp.b.routers has number 51 on eth0 over IPv4, as vrrp.a in line 2; give one of them another id, or put the addresses of both into one",
        ],
    );
    two(
        "interface = \"eth1\", id = 51, addresses = [\"192.0.2.10/24\"]",
        &["4:56: vrrp.b.routers.addresses has 192.0.2.10, as vrrp.a in line 2; remove it from one of them"],
    );
    check_as_it_stands(
        &format!("[vrrp.a]\nrouters = [{{ {GOOD} }}]\n{POOL}[node]\nxdp = \"off\"\n"),
        &[
            "1:1: [vrrp.a] needs XDP, but node.xdp is \"off\"; write xdp = \"native\" or \"generic\" under [node], and start weir as root",
        ],
    );
    // Whoever has a service that is in no group has forgotten it, or says so.
    let service = "[services.www]\nlisten = [\"192.0.2.20:80\"]\nmode = \"http\"\npool = \"web\"\n";
    let text = format!("[vrrp.a]\nrouters = [{{ {GOOD} }}]\n{service}{POOL}{NODE}");
    check_as_it_stands(
        &text,
        &[
            "4:11: services.www.listen has 192.0.2.20, which is no virtual router's: all boxes with this service would have it at once; add it to the addresses of a router in [vrrp.NAME], or, if it is this box's alone, write own_addresses = [\"192.0.2.20\"] under [node]",
        ],
    );
    assert!(resolve(&format!("{text}own_addresses = [\"192.0.2.20\"]\n")).is_ok());
    assert!(resolve(&text.replace("192.0.2.20", "192.0.2.10")).is_ok());
    check_as_it_stands(
        &format!("{POOL}{NODE}own_addresses = [\"192.0.2.1\"]\n"),
        &[
            "5:17: node.own_addresses says which addresses are no virtual router's, but there is no [vrrp.NAME]; remove it: without virtual routers all addresses are this box's alone",
        ],
    );
    check_as_it_stands(
        &format!("[vrrp.a]\nrouters = [{{ {GOOD} }}]\n[admin]\nhttp = \"192.0.2.10:9180\"\n{POOL}{NODE}"),
        &[
            "4:8: admin.http is 192.0.2.10:9180, an address of vrrp.a, which this box does not always have; write an address of this box alone",
        ],
    );
    check_as_it_stands(
        &format!(
            "[vrrp.a]\nrouters = [{{ {GOOD} }}]\n{service}{POOL}source = {{ addresses = [\"192.0.2.10\"] }}\n{NODE}own_addresses = [\"192.0.2.20\"]\n"
        ),
        &[
            "9:25: pools.web.source has 192.0.2.10, an address of vrrp.a, which this box does not always have; write addresses of this box alone, others on each box",
        ],
    );
}

#[test]
fn what_demotes() {
    for (element, expected) in [
        (
            "{ by = 3 }",
            "3:14: vrrp.edge.demote_on says not on what; write one of service, pool, link and file, as in { link = \"eth1\", by = 10 }",
        ),
        (
            "{ link = \"eth1\", file = \"/a\" }",
            "3:14: vrrp.edge.demote_on says more than one thing; write one of service, pool, link and file, as in { link = \"eth1\", by = 10 }",
        ),
        (
            "{ pool = \"wbe\" }",
            "3:14: vrrp.edge.demote_on.pool is `wbe`, and there is no such pool; did you mean `web`?",
        ),
        (
            "{ service = \"www\" }",
            "3:14: vrrp.edge.demote_on.service is `www`, and there is no such service; name a service of this file",
        ),
        (
            "{ file = \"standby\" }",
            "3:23: vrrp.edge.demote_on.file is `standby`, not an absolute path; begin it with /",
        ),
        (
            "{ link = \"eth1\", by = 0 }",
            "3:36: vrrp.edge.demote_on.by is 0, less than 1; write a number from 1 to 255",
        ),
        (
            "{ link = \"eth1\" }, { link = \"eth1\", by = 2 }",
            "3:33: vrrp.edge.demote_on has the same twice (first in line 3); remove one",
        ),
    ] {
        group(&format!("demote_on = [{element}]\n"), &[expected]);
    }
}

#[test]
fn signatures() {
    for (keys, expected) in [
        (
            "mode = \"enforce\"",
            "3:18: [vrrp.edge.authentication] has no `keys`; write keys = [{ id = 1, file = \"/etc/weir/vrrp-1.key\" }], with a secret of `openssl rand -hex 32` in the file",
        ),
        (
            "keys = [{ id = 1, file = \"/a\" }, { id = 2, file = \"/b\" }]",
            "3:18: [vrrp.edge.authentication] has several keys, but no `sign_with`; write the id of the one that signs what this box sends",
        ),
        (
            "keys = [{ id = 1, file = \"/a\" }], sign_with = 2",
            "3:66: vrrp.edge.authentication.sign_with is 2, and no key has that number; write the id of one of the keys",
        ),
        (
            "keys = [{ id = 1, file = \"/a\" }, { id = 1, file = \"/b\" }], sign_with = 1",
            "3:60: vrrp.edge.authentication.keys.id is 1, as of another key; give each key a number of its own",
        ),
    ] {
        group(&format!("authentication = {{ {keys} }}\n"), &[expected]);
    }
    check_as_it_stands(
        &format!(
            "[vrrp.edge]\nrouters = [{{ {GOOD}, version2 = true }}]\nauthentication = {{ keys = [{{ id = 1, file = \"/a\" }}] }}\n{POOL}{NODE}"
        ),
        &[
            "2:12: vrrp.edge takes adverts of version 2, which can't be signed, but enforces signatures; write mode = \"permissive\" under its authentication, or no version2",
        ],
    );
}
