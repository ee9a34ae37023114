//! Interfaces that listeners and pools name, and the routers there.

use crate::{check, check_as_it_stands};

const NODE: &str = "[node]\ninterfaces = [\"eth0\", \"eth1\"]\nxdp = \"generic\"\n";
const POOL: &str = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

/// An HTTP service with these listeners in line 2, on a box with XDP.
#[track_caller]
fn listen(entries: &str, expected: &[&str]) {
    let service = format!("[services.www]\nlisten = [{entries}]\nmode = \"http\"\npool = \"web\"\n");
    check_as_it_stands(&format!("{service}{POOL}{NODE}"), expected);
}

/// The same without XDP.
#[track_caller]
fn bound(entries: &str, expected: &[&str]) {
    check(
        &format!("[services.www]\nlisten = [{entries}]\nmode = \"http\"\npool = \"web\"\n"),
        expected,
    );
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    listen(
        r#"{ interface = "eth1" }"#,
        &[
            r#"2:11: [services.www.listen] has no `address`; write { address = "192.0.2.10:443", interface = "eth1" }"#,
        ],
    );
    listen(
        r#"{ address = "192.0.2.10:80", interface = "eth0:1" }"#,
        &[
            "2:52: services.www.listen.interface is `eth0:1`, which is no interface's name; write 1 to 15 characters without \
             spaces, slashes and colons, as `ip link` shows them",
        ],
    );
    listen(
        r#"{ address = "192.0.2.10:80", device = "eth1" }"#,
        &["2:40: unknown key `device` in [services.www.listen]; it has address and interface"],
    );
    listen(
        r#"{ address = "127.0.0.1:80", interface = "eth1" }"#,
        &[
            "2:23: services.www.listen has 127.0.0.1, which nothing comes to by eth1; remove the interface, or write an address \
             that others reach",
        ],
    );
    listen(
        r#"{ address = "transparent:80", interface = "eth7" }"#,
        &[
            "2:23: services.www.listen is transparent on eth7, which is not one of node.interfaces: nothing is taken in there; \
             add \"eth7\" to node.interfaces",
        ],
    );
    let l4 = "[services.packets]\nlisten = [{ address = \"192.0.2.10:80\", interface = \"eth1\" }]\nmode = \"l4\"\npool = \"web\"\n";
    check_as_it_stands(
        &format!("{l4}{POOL}{NODE}"),
        &[
            "2:23: services.packets.listen names the interface eth1, and XDP sends the answers of mode \"l4\" as this box's \
             routes say; remove it, and have the routes tell by the backend's address: `ip route add default via ROUTER dev eth1 \
             table 100`, `ip rule add from BACKEND lookup 100`",
        ],
    );
}

#[test]
fn an_address_by_several_interfaces_is_one_services_where_xdp_sees_it() {
    let two = |first: &str, second: &str| {
        format!(
            "[services.www]\nlisten = [{first}]\nmode = \"http\"\npool = \"web\"\n\
             [services.other]\nlisten = [{second}]\nmode = \"tcp\"\npool = \"web\"\n"
        )
    };
    let of = |address: &str, interface: &str| {
        format!("{{ address = \"{address}\", interface = \"{interface}\" }}")
    };
    let vip = two(&of("192.0.2.10:80", "eth0"), &of("192.0.2.10:80", "eth1"));
    check_as_it_stands(
        &format!("{vip}{POOL}{NODE}"),
        &[
            "6:23: services.other listens on 192.0.2.10:80/tcp%eth1, as services.www in line 2 does; give one of them another \
             address or port: XDP knows a service by these alone, whatever the interface",
        ],
    );
    // Sockets that are bound to it are told apart, unless one of them is bound to all interfaces.
    let wild = two(&of("0.0.0.0:80", "eth0"), "\"0.0.0.0:80\"");
    check_as_it_stands(
        &format!("{wild}{POOL}{NODE}"),
        &[
            "6:11: services.other listens on 0.0.0.0:80/tcp, as services.www in line 2 does; name an interface for each of them, \
             or give one of them another address or port",
        ],
    );
    bound(
        &[of("0.0.0.0:80", "eth0"), of("192.0.2.10:80", "eth0")].join(", "),
        &[
            "2:71: services.www listens on 192.0.2.10:80/tcp, and services.www in line 2 on 0.0.0.0:80/tcp: one of them is every \
             address; give one of them another address or port",
        ],
    );
    listen(
        &[of("192.0.2.10:80", "eth0"), of("192.0.2.10:80", "eth0")].join(", "),
        &[
            "2:74: services.www listens on 192.0.2.10:80/tcp%eth0 twice (also in line 2); give one of them another address or port",
        ],
    );
    let good = two(
        &[
            of("192.0.2.10:80", "eth0"),
            of("192.0.2.10:80", "eth1"),
            of("0.0.0.0:81", "eth0"),
        ]
        .join(", "),
        &[
            of("0.0.0.0:81", "eth1"),
            of("192.0.2.11:82", "eth0"),
            "\"192.0.2.11:82\"".to_owned(),
        ]
        .join(", "),
    );
    let text = format!("{good}{POOL}{NODE}");
    crate::resolve(&text).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn routers_are_for_interfaces_that_somebody_names() {
    let node = |gateways: &str, service: &str| {
        format!(
            "[node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\ngateways = [{gateways}]\n\
             [services.www]\nlisten = [{service}]\nmode = \"http\"\npool = \"web\"\n{POOL}"
        )
    };
    let by = r#"{ address = "192.0.2.10:80", interface = "eth1" }"#;
    let one = |address: &str| format!("{{ interface = \"eth1\", address = \"{address}\" }}");
    for address in ["198.51.100.1", "2001:db8::1", "fe80::1"] {
        crate::resolve(&node(&one(address), by)).unwrap_or_else(|report| panic!("{report}"));
    }
    for (address, why) in [
        ("198.51.100.1/24", "`198.51.100.1/24`, which is no address"),
        ("127.0.0.1", "127.0.0.1, which is loopback"),
        ("::", "::, which is no router's"),
        ("ff02::1", "ff02::1, which is a multicast address"),
    ] {
        check_as_it_stands(
            &node(&one(address), by),
            &[&format!(
                "4:45: node.gateways.address is {why}; write the router's, as in 198.51.100.1 or fe80::1"
            )],
        );
    }
    check_as_it_stands(
        &node(
            &[one("198.51.100.1"), one("fe80::1"), one("198.51.100.2")].join(", "),
            by,
        ),
        &[
            "4:108: node.gateways is a second IPv4 router of eth1 (the first in line 4); remove one: an interface has one router \
             of each family",
        ],
    );
    check_as_it_stands(
        &node(&one("198.51.100.1"), "\"192.0.2.10:80\""),
        &[
            "4:13: node.gateways has eth1, which no listener and no pool names; write interface = \"eth1\" where it is meant, or \
             remove it",
        ],
    );
    let off = node(&one("198.51.100.1"), by)
        .replace("generic", "off")
        .replace("interfaces = [\"eth0\"]\n", "\n");
    check_as_it_stands(
        &off,
        &[
            "4:13: node.gateways is for routes that weir installs, which it does not do with node.xdp = \"off\"; remove it, and \
             add the route: `ip route add default via 198.51.100.1 dev eth1 metric 4096`",
        ],
    );
}

#[test]
fn a_pool_of_packets_alone_has_no_interface() {
    let l4 = "[services.packets]\nlisten = [\"192.0.2.10:80\"]\nmode = \"l4\"\npool = \"web\"\n";
    check_as_it_stands(
        &format!("{l4}{POOL}interface = \"eth1\"\n{NODE}"),
        &[
            "7:1: pools.web.interface has no effect: the relay does not serve pool `web`, only services of mode \"l4\" use it; \
             remove it, or use the pool in a service of mode \"http\" or \"tcp\"",
        ],
    );
}
