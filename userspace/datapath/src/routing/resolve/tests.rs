//! Tables: routes, links and neighbours in, ways out.

use super::*;
use crate::routing::{Route, Table, VlanDevice};

const ETH: Link = Link {
    up: true,
    address: Some([2, 0, 0, 0, 0, 1]),
    mtu: 1500,
    mtu_v6: 0,
    vlan: None,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> Net {
    let (addr, prefix) = text.split_once('/').unwrap();
    Net::new(ip(addr), prefix.parse().unwrap()).unwrap()
}

fn hop(ifindex: u32, gateway: Option<&str>) -> Option<Hop> {
    Some(Hop {
        ifindex,
        gateway: gateway.map(ip),
        mtu: None,
    })
}

fn main(to: &str, metric: u32, hop: Option<Hop>) -> Route {
    Route {
        net: net(to),
        table: Table::Main,
        metric,
        hop,
    }
}

fn local(to: &str) -> Route {
    Route {
        net: net(to),
        table: Table::Local,
        metric: 0,
        hop: None,
    }
}

/// Interfaces 2 and 3; a router on 2 (`.254`, known) and one on 3 (`.254`, known); backends `.11` on each known.
fn routing(routes: &[Route]) -> Routing {
    let mut routing = Routing::default();
    let other = Link {
        address: Some([2, 0, 0, 0, 0, 3]),
        mtu: 9000,
        ..ETH
    };
    routing.set_links([(2, ETH), (3, other)].into());
    let neighbors = [
        (2, "198.51.100.254", 0xa0),
        (2, "fe80::254", 0xa6),
        (3, "10.0.0.254", 0xb0),
        (3, "10.0.0.11", 0xb1),
        (3, "2001:db8:b::11", 0xb6),
    ];
    for (ifindex, address, last) in neighbors {
        let mac = [2, 0, 0, 0, 1, last];
        routing.neighbors.insert((ifindex, ip(address)), mac);
    }
    let mut tables = Tables::default();
    for route in routes {
        tables.add(*route);
    }
    routing.set_tables(tables);
    routing
}

/// What most boxes have.
fn usual() -> Vec<Route> {
    vec![
        main("0.0.0.0/0", 0, hop(2, Some("198.51.100.254"))),
        main("198.51.100.0/24", 0, hop(2, None)),
        main("10.0.0.0/24", 0, hop(3, None)),
        main("::/0", 1024, hop(2, Some("fe80::254"))),
        main("2001:db8:b::/64", 256, hop(3, None)),
        local("127.0.0.0/8"),
        local("198.51.100.1/32"),
        local("198.51.100.255/32"),
        local("192.0.2.10/32"),
        local("10.0.0.1/32"),
        local("2001:db8:b::1/128"),
        local("ff00::/8"),
    ]
}

/// The last byte of the next hop's link address.
fn to(routing: &Routing, address: &str) -> Result<u8, Unresolved> {
    let way = routing.next_hop(ip(address))?;
    Ok(way.destination[2].to_ne_bytes()[1])
}

#[test]
fn a_way_says_interface_addresses_mtu_and_whether_it_is_on_the_link() {
    let routing = routing(&usual());
    assert_eq!(
        routing.next_hop(ip("10.0.0.11")),
        Ok(NextHop {
            ifindex: 3,
            mtu: 9000,
            destination: words(&[2, 0, 0, 0, 1, 0xb1]),
            source: words(&[2, 0, 0, 0, 0, 3]),
            flags: next_hop::ON_LINK,
            outer_tag: 0,
            inner_tag: 0,
        })
    );
    let far = routing.next_hop(ip("203.0.113.9")).unwrap();
    assert_eq!((far.ifindex, far.mtu, far.flags), (2, 1500, 0));
    assert_eq!(far.destination, words(&[2, 0, 0, 0, 1, 0xa0]));
    // As it lies in the frame.
    let bytes: Vec<u8> = far
        .destination
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    assert_eq!(bytes, [2, 0, 0, 0, 1, 0xa0]);
}

#[test]
fn the_kernels_order_decides() {
    type Case<'a> = (&'a str, &'a [Route], &'a str, Result<u8, Unresolved>);
    let cases: [Case<'_>; 14] = [
        ("the default route", &[], "203.0.113.9", Ok(0xa0)),
        ("IPv6 by a link-local router", &[], "2001:db8:ffff::1", Ok(0xa6)),
        ("on the link", &[], "2001:db8:b::11", Ok(0xb6)),
        ("mapped addresses are IPv4", &[], "::ffff:10.0.0.11", Ok(0xb1)),
        (
            "the longest prefix",
            &[main("203.0.113.0/24", 500, hop(3, Some("10.0.0.254")))],
            "203.0.113.9",
            Ok(0xb0),
        ),
        (
            "the lowest metric, first",
            &[
                main("203.0.113.0/24", 5, hop(3, Some("10.0.0.254"))),
                main("203.0.113.0/24", 6, hop(2, Some("198.51.100.254"))),
            ],
            "203.0.113.9",
            Ok(0xb0),
        ),
        (
            "the lowest metric, last",
            &[
                main("203.0.113.0/24", 6, hop(2, Some("198.51.100.254"))),
                main("203.0.113.0/24", 5, hop(3, Some("10.0.0.254"))),
            ],
            "203.0.113.9",
            Ok(0xb0),
        ),
        (
            "two of one metric",
            &[
                main("203.0.113.0/24", 5, hop(2, Some("198.51.100.254"))),
                main("203.0.113.0/24", 5, hop(3, Some("10.0.0.254"))),
            ],
            "203.0.113.9",
            Err(Unresolved::NotPlain),
        ),
        (
            "no plain route, whatever a shorter one says",
            &[main("203.0.113.0/24", 0, None)],
            "203.0.113.9",
            Err(Unresolved::NotPlain),
        ),
        ("this box", &[], "192.0.2.10", Err(Unresolved::Local)),
        (
            "the table local, though main knows more",
            &[local("203.0.113.0/24"), main("203.0.113.9/32", 0, hop(2, None))],
            "203.0.113.9",
            Err(Unresolved::Local),
        ),
        ("multicast", &[], "ff02::1", Err(Unresolved::Local)),
        (
            "an interface that is not there",
            &[main("203.0.113.0/24", 0, hop(9, Some("10.0.0.254")))],
            "203.0.113.9",
            Err(Unresolved::Link(9)),
        ),
        (
            "a neighbour that is not known",
            &[],
            "10.0.0.12",
            Err(Unresolved::Neighbor((
                3,
                IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 12)),
            ))),
        ),
    ];
    for (what, more, address, expected) in cases {
        let mut routes = usual();
        routes.extend_from_slice(more);
        assert_eq!(to(&routing(&routes), address), expected, "{what}");
    }
    let bare = routing(&[main("::/0", 0, hop(2, Some("fe80::254")))]);
    assert_eq!(
        to(&bare, "203.0.113.9"),
        Err(Unresolved::NoRoute),
        "the default route of IPv6 is none of IPv4"
    );
}

#[test]
fn links_that_cannot_send_ethernet_give_no_way() {
    let down = Link { up: false, ..ETH };
    let tunnel = Link { address: None, ..ETH };
    for link in [down, tunnel] {
        let mut routing = routing(&usual());
        routing.set_links([(2, ETH), (3, link)].into());
        assert_eq!(to(&routing, "10.0.0.11"), Err(Unresolved::Link(3)), "{link:?}");
        assert!(!routing.needed(&[ip("10.0.0.11")]).iter().any(|n| n.0 == 3));
    }
}

#[test]
fn the_smaller_of_the_routes_and_the_interfaces_mtu_counts() {
    for (route, device, of_v6, to, expected) in [
        (None, 1500, 0, "10.9.0.1", 1500),
        (Some(1400), 1500, 0, "10.9.0.1", 1400),
        (Some(9000), 1500, 0, "10.9.0.1", 1500),
        (None, 1500, 1280, "10.9.0.1", 1500),
        (None, 1500, 1280, "2001:db8:9::1", 1280),
        (None, 1500, 0, "2001:db8:9::1", 1500),
    ] {
        let with = |gateway: &str| {
            Some(Hop {
                ifindex: 2,
                gateway: Some(ip(gateway)),
                mtu: route,
            })
        };
        let mut routing = routing(&[
            main("10.9.0.0/16", 0, with("198.51.100.254")),
            main("2001:db8:9::/48", 0, with("fe80::254")),
        ]);
        let link = Link {
            mtu: device,
            mtu_v6: of_v6,
            ..ETH
        };
        routing.set_links([(2, link)].into());
        assert_eq!(
            routing.next_hop(ip(to)).unwrap().mtu,
            expected,
            "{route:?} {device} {of_v6} {to}"
        );
    }
}

fn vlan(below: Option<u32>, tpid: u16, id: u16) -> Link {
    Link {
        address: Some([2, 0, 0, 0, 2, 0]),
        vlan: Some(VlanDevice { below, tpid, tci: id }),
        ..ETH
    }
}

#[test]
fn vlan_devices_stand_for_the_interface_below_with_tags() {
    let mut routing = routing(&[
        main("10.5.0.0/16", 0, hop(5, None)),
        main("10.6.0.0/16", 0, hop(6, None)),
        main("10.7.0.0/16", 0, hop(7, None)),
        main("10.8.0.0/16", 0, hop(8, None)),
        main("10.2.0.0/16", 0, hop(2, None)),
        main("10.3.0.0/16", 0, hop(3, None)),
    ]);
    routing.set_links(
        [
            (2, ETH),
            (3, ETH),
            (5, vlan(Some(2), 0x88a8, 100)),
            (6, vlan(Some(5), 0x8100, 7)),
            (7, vlan(Some(6), 0x8100, 8)),
            (8, vlan(None, 0x8100, 9)),
        ]
        .into(),
    );
    for n in 2..=8 {
        let address = IpAddr::from([10, n as u8, 0, 1]);
        routing.neighbors.insert((n, address), [2, 0, 0, 0, 3, n as u8]);
    }
    let one = u32::from_ne_bytes([0x88, 0xa8, 0, 100]);
    let two = u32::from_ne_bytes([0x81, 0x00, 0, 7]);
    let on_link = next_hop::ON_LINK;
    let set = next_hop::SET_TAGS | on_link;
    for (address, expected) in [
        ("10.5.0.1", Ok((2, set, one, 0))),
        ("10.6.0.1", Ok((2, set, one, two))),
        ("10.7.0.1", Err(Unresolved::Link(7))),
        ("10.8.0.1", Err(Unresolved::Link(8))),
        // By what is no VLAN device frames leave without a tag, whatever they came with.
        ("10.2.0.1", Ok((2, set, 0, 0))),
        ("10.3.0.1", Ok((3, set, 0, 0))),
    ] {
        let way = routing.next_hop(ip(address));
        let way = way.map(|way| (way.ifindex, way.flags, way.outer_tag, way.inner_tag));
        assert_eq!(way, expected, "{address}");
    }
    let vlans = routing.vlans();
    assert_eq!(vlans.keys().copied().collect::<Vec<_>>(), [5, 6]);
    assert_eq!(
        (vlans[&6].ifindex, vlans[&6].outer_tag, vlans[&6].inner_tag),
        (2, one, two)
    );
    let mut links = routing.links.clone();
    let plain = links
        .iter()
        .filter(|(_, link)| link.vlan.is_none())
        .map(|(&index, link)| (index, *link))
        .collect();
    routing.set_links(plain);
    let way = routing.next_hop(ip("10.3.0.1")).unwrap();
    assert_eq!(way.flags, on_link, "without VLAN devices tags stay");
    links.insert(2, Link { up: false, ..ETH });
    routing.set_links(links);
    assert_eq!(
        routing.next_hop(ip("10.5.0.1")),
        Err(Unresolved::Link(5)),
        "nothing leaves by what is down"
    );
    assert_eq!(routing.vlans(), BTreeMap::new());
}

/// Networks with the last byte of the router's link address; None: asked.
fn clients(routing: &Routing) -> Vec<(String, Option<u8>)> {
    routing
        .client_routes()
        .into_iter()
        .map(|(net, way)| {
            (
                net.to_string(),
                way.map(|way| way.destination[2].to_ne_bytes()[1]),
            )
        })
        .collect()
}

fn expected(list: &[(&str, Option<u8>)]) -> Vec<(String, Option<u8>)> {
    list.iter().map(|(net, way)| ((*net).to_owned(), *way)).collect()
}

#[test]
fn clients_are_reached_by_routers_and_all_else_is_asked() {
    assert_eq!(
        clients(&routing(&usual())),
        expected(&[
            ("::/0", Some(0xa6)),
            ("0.0.0.0/0", Some(0xa0)),
            ("10.0.0.0/24", None),
            ("127.0.0.0/8", None),
            ("192.0.2.10/32", None),
            ("198.51.100.0/24", None),
            ("2001:db8:b::/64", None),
            ("ff00::/8", None),
        ]),
        "networks on links and own addresses; not again what lies in them"
    );
    let mut more = usual();
    more.extend([
        main("203.0.113.0/24", 0, None),
        main("203.0.113.128/25", 0, hop(3, Some("10.0.0.254"))),
        main("203.0.112.0/24", 0, hop(2, Some("198.51.100.254"))),
        main("10.64.0.0/10", 0, hop(3, Some("10.0.0.99"))),
        main("127.5.0.0/16", 0, hop(3, Some("10.0.0.254"))),
    ]);
    let all = clients(&routing(&more));
    for one in expected(&[
        ("203.0.113.0/24", None),
        ("203.0.113.128/25", Some(0xb0)),
        ("10.64.0.0/10", None),
    ]) {
        assert!(all.contains(&one), "{one:?} is not among {all:?}");
    }
    assert_eq!(
        all.len(),
        11,
        "the same as the default is no entry, nor what the table local holds: {all:?}"
    );
}

#[test]
fn the_default_route_of_ipv6_is_kept_off_ipv4() {
    let routes = [main("::/0", 0, hop(2, Some("fe80::254")))];
    assert_eq!(
        clients(&routing(&routes)),
        expected(&[("::/0", Some(0xa6)), ("0.0.0.0/0", None)])
    );
    assert_eq!(clients(&routing(&[])), [], "nothing is known, nothing is said");
}

#[test]
fn with_rules_of_its_own_a_family_is_asked() {
    let mut routing = routing(&usual());
    routing.policy = [true, false];
    assert_eq!(to(&routing, "10.0.0.11"), Err(Unresolved::Policy));
    assert_eq!(to(&routing, "2001:db8:b::11"), Ok(0xb6));
    assert_eq!(
        clients(&routing),
        expected(&[
            ("::/0", Some(0xa6)),
            ("0.0.0.0/0", None),
            ("2001:db8:b::/64", None),
            ("ff00::/8", None)
        ])
    );
    let backends = [ip("10.0.0.11"), ip("2001:db8:b::11")];
    assert_eq!(routing.asked(&backends), [ip("10.0.0.11")]);
    let needed: Vec<_> = routing.needed(&backends).into_iter().collect();
    assert_eq!(needed, [(2, ip("fe80::254")), (3, ip("2001:db8:b::11"))]);
}

#[test]
fn neighbours_are_needed_before_they_are_known() {
    let routing = routing(&usual());
    let needed = routing.needed(&[ip("10.0.0.12"), ip("192.0.2.10"), ip("203.0.113.9")]);
    let needed: Vec<_> = needed.into_iter().collect();
    assert_eq!(
        needed,
        [
            (2, ip("198.51.100.254")),
            (2, ip("fe80::254")),
            (3, ip("10.0.0.12")),
        ]
    );
    let ways = routing.ways(&[ip("10.0.0.12"), ip("::ffff:10.0.0.11")]);
    assert_eq!(
        ways.backends.keys().copied().collect::<Vec<_>>(),
        [ip("10.0.0.11")]
    );
}

#[test]
fn clients_on_a_link_are_hosts_once_they_are_known() {
    let hosts = |routing: &Routing| {
        let all = routing.hosts().into_iter();
        all.map(|(net, way)| (net.to_string(), way.flags))
            .collect::<Vec<_>>()
    };
    let mut routing = routing(&usual());
    // Not `fe80::254`: no route of the table `main` leads there by its link.
    let known = [
        "10.0.0.11/32",
        "10.0.0.254/32",
        "198.51.100.254/32",
        "2001:db8:b::11/128",
    ];
    let known = known.map(|net| (net.to_owned(), next_hop::ON_LINK));
    assert_eq!(hosts(&routing), known);
    // One that sits on another link than its route says, this box's own address, and one that is routed elsewhere.
    for (ifindex, address) in [(2, "10.0.0.12"), (3, "10.0.0.1"), (3, "203.0.113.9")] {
        routing
            .neighbors
            .insert((ifindex, ip(address)), [2, 0, 0, 0, 1, 0xff]);
    }
    assert_eq!(hosts(&routing), known);
    routing.policy = [true, true];
    assert_eq!(hosts(&routing), []);
}
