//! Tables: messages in, values out.

use rtnetlink::{
    RouteMessageBuilder, RouteNextHopBuilder,
    packet_route::{
        link::VlanProtocol,
        route::{RouteLwTunnelEncap, RouteProtocol},
        rule::RuleHeader,
    },
};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(attributes: &[RouteAttribute]) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(10, 1, 0, 0), 16)
        .gateway(Ipv4Addr::new(10, 0, 0, 254))
        .output_interface(3)
        .build();
    message.attributes.extend_from_slice(attributes);
    message
}

#[test]
fn a_plain_route_says_where_it_leads() {
    let net = Net::new(ip("10.1.0.0"), 16).unwrap();
    let plain = Route {
        net,
        table: Table::Main,
        metric: 0,
        hop: Some(Hop {
            ifindex: 3,
            gateway: Some(ip("10.0.0.254")),
            mtu: None,
        }),
    };
    assert_eq!(route(&v4(&[])), Some(plain));
    let with = [
        RouteAttribute::Priority(100),
        RouteAttribute::Metrics(vec![RouteMetric::Advmss(9), RouteMetric::Mtu(1400)]),
    ];
    let found = route(&v4(&with)).unwrap();
    assert_eq!((found.metric, found.hop.unwrap().mtu), (100, Some(1400)));

    let mut default = RouteMessageBuilder::<Ipv6Addr>::new()
        .gateway("fe80::1".parse().unwrap())
        .output_interface(2)
        .build();
    let found = route(&default).unwrap();
    assert_eq!(
        (found.net.to_string().as_str(), found.hop.unwrap().gateway),
        ("::/0", Some(ip("fe80::1")))
    );
    default.header.flags |= RouteFlags::Cloned;
    assert_eq!(route(&default), None, "an entry of a cache is no route");

    let mut over_v6 = v4(&[RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()))]);
    over_v6
        .attributes
        .retain(|a| !matches!(a, RouteAttribute::Gateway(_)));
    assert_eq!(route(&over_v6).unwrap().hop.unwrap().gateway, Some(ip("fe80::1")));

    let mut on_link = v4(&[]);
    on_link
        .attributes
        .retain(|a| !matches!(a, RouteAttribute::Gateway(_)));
    assert_eq!(route(&on_link).unwrap().hop.unwrap().gateway, None);
}

#[test]
fn what_only_the_kernel_can_follow_is_a_network_without_hop() {
    type Change = fn(&mut RouteMessage);
    let changes: [(&str, Change); 13] = [
        ("blackhole", |m| m.header.kind = RouteType::BlackHole),
        ("unreachable", |m| m.header.kind = RouteType::Unreachable),
        ("throw", |m| m.header.kind = RouteType::Throw),
        ("multicast", |m| m.header.kind = RouteType::Multicast),
        ("dead", |m| m.header.flags |= RouteFlags::Dead),
        ("link down", |m| m.header.flags |= RouteFlags::Linkdown),
        ("several next hops", |m| {
            let hop = RouteNextHopBuilder::new_ipv4().interface(3).build();
            m.attributes.push(RouteAttribute::MultiPath(vec![hop]));
        }),
        ("encapsulation", |m| {
            m.attributes
                .push(RouteAttribute::Encap(vec![RouteLwTunnelEncap::Other(
                    rtnetlink::packet_core::DefaultNla::new(1, vec![0; 4]),
                )]));
        }),
        ("a kind of encapsulation", |m| {
            m.attributes
                .push(RouteAttribute::EncapType(RouteLwEnCapType::Mpls));
        }),
        ("a next hop object", |m| {
            m.attributes.push(RouteAttribute::NhId(7))
        }),
        ("no interface", |m| {
            m.attributes.retain(|a| !matches!(a, RouteAttribute::Oif(_)))
        }),
        ("a traffic class", |m| m.header.tos = 16),
        ("a source", |m| m.header.source_prefix_length = 24),
    ];
    for (what, change) in changes {
        let mut message = v4(&[RouteAttribute::Priority(100)]);
        change(&mut message);
        let found = route(&message).unwrap();
        assert_eq!(found.hop, None, "{what}");
        assert_eq!(found.net.to_string(), "10.1.0.0/16");
        // Those that hold for some packets alone come before the metric.
        assert_eq!(
            found.metric == 0,
            matches!(what, "a traffic class" | "a source"),
            "{what}"
        );
    }
}

#[test]
fn tables_that_are_not_asked_are_left_out() {
    for (header, attribute, expected) in [
        (254, None, Some(Table::Main)),
        (255, None, Some(Table::Local)),
        (253, None, None),
        (100, None, None),
        (252, Some(1000), None),
        (0, Some(254), Some(Table::Main)),
    ] {
        let mut message = v4(&[]);
        message.header.table = header;
        message
            .attributes
            .retain(|a| !matches!(a, RouteAttribute::Table(_)));
        message.attributes.extend(attribute.map(RouteAttribute::Table));
        assert_eq!(
            route(&message).map(|r| r.table),
            expected,
            "{header} {attribute:?}"
        );
    }
    let mut message = v4(&[]);
    message.header.address_family = AddressFamily::Mpls;
    assert_eq!(route(&message), None);
    let mapped = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix("::ffff:10.0.0.0".parse().unwrap(), 104)
        .output_interface(3)
        .build();
    assert_eq!(route(&mapped), None, "it would look like a route of IPv4");
}

fn link_message(flags: LinkFlags, attributes: &[LinkAttribute]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 5;
    message.header.flags = flags;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.attributes = attributes.to_vec();
    message
}

#[test]
fn interfaces_and_vlan_devices() {
    let mac = LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]);
    let plain = link_message(
        LinkFlags::Up,
        &[mac.clone(), LinkAttribute::Mtu(1500), LinkAttribute::Link(4)],
    );
    let eth = Link {
        up: true,
        address: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        mtu_v6: 0,
        vlan: None,
    };
    assert_eq!(
        link(&plain),
        Some((5, eth)),
        "the link of a veth is no device below"
    );

    let infos = |protocol| {
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![
                InfoVlan::Id(100),
                InfoVlan::Protocol(protocol),
                InfoVlan::EgressQos(vec![VlanQosMapping::Mapping(1, 2), VlanQosMapping::Mapping(0, 3)]),
            ])),
        ])
    };
    for (more, protocol, below, tpid) in [
        (None, VlanProtocol::Ieee8021Q, Some(2), 0x8100),
        (None, VlanProtocol::Ieee8021Ad, Some(2), 0x88a8),
        (
            Some(LinkAttribute::LinkNetNsId(1)),
            VlanProtocol::Ieee8021Q,
            None,
            0x8100,
        ),
    ] {
        let mut attributes = vec![infos(protocol), LinkAttribute::Link(2), mac.clone()];
        attributes.extend(more);
        let (_, found) = link(&link_message(LinkFlags::Up, &attributes)).unwrap();
        let tci = 3 << 13 | 100;
        assert_eq!(found.vlan, Some(VlanDevice { below, tpid, tci }));
    }

    for (what, flags, kind) in [
        ("lo", LinkFlags::Up | LinkFlags::Loopback, LinkLayerType::Ether),
        ("no ARP", LinkFlags::Up | LinkFlags::Noarp, LinkLayerType::Ether),
        ("a tunnel", LinkFlags::Up, LinkLayerType::Tunnel),
    ] {
        let mut message = link_message(flags, std::slice::from_ref(&mac));
        message.header.link_layer_type = kind;
        assert_eq!(link(&message).unwrap().1.address, None, "{what}");
    }
    assert!(!link(&link_message(LinkFlags::empty(), &[])).unwrap().1.up);
    let mut port = plain;
    port.header.interface_family = AddressFamily::Bridge;
    assert_eq!(link(&port), None);
}

#[test]
fn neighbours_count_while_the_kernel_would_send_to_them() {
    let states = [
        (NeighbourState::Reachable, true),
        (NeighbourState::Stale, true),
        (NeighbourState::Delay, true),
        (NeighbourState::Probe, true),
        (NeighbourState::Permanent, true),
        (NeighbourState::Noarp, true),
        (NeighbourState::Incomplete, false),
        (NeighbourState::Failed, false),
        (NeighbourState::None, false),
    ];
    for (state, good) in states {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
        ];
        let mac = good.then_some([2, 0, 0, 0, 0, 9]);
        assert_eq!(neighbor(&message), Some(((3, ip("10.0.0.1")), mac)), "{state}");
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbor(&message), None);
        message.header.flags = NeighbourFlags::empty();
        message.header.family = AddressFamily::Bridge;
        assert_eq!(neighbor(&message), None);
    }
}

/// A rule as the kernel tells of it.
fn rule(table: u8, priority: u32, more: &[RuleAttribute]) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: AddressFamily::Inet,
        table,
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    message.attributes = vec![
        RuleAttribute::Table(table.into()),
        RuleAttribute::SuppressPrefixLen(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    if priority != 0 {
        message.attributes.push(RuleAttribute::Priority(priority));
    }
    message.attributes.extend_from_slice(more);
    message
}

#[test]
fn any_rule_but_the_kernels_own_is_policy() {
    let own = [rule(255, 0, &[]), rule(254, 32766, &[]), rule(253, 32767, &[])];
    assert!(!is_policy(&own));
    assert!(!is_policy(&own[..2]), "as IPv6 has it");
    assert!(is_policy(&own[1..]) && is_policy(&own[..1]) && is_policy(&[]));
    for more in [
        rule(100, 100, &[]),
        rule(254, 100, &[]),
        rule(254, 32766, &[RuleAttribute::FwMark(1)]),
        rule(254, 32766, &[RuleAttribute::Iifname("eth0".into())]),
        rule(254, 32766, &[RuleAttribute::L3MDev(true)]),
    ] {
        let mut rules = own.to_vec();
        rules.push(more);
        assert!(is_policy(&rules), "{rules:?}");
    }
    type Change = fn(&mut RuleMessage);
    let changes: [Change; 5] = [
        |m| m.header.flags |= RuleFlags::Invert,
        |m| m.header.src_len = 8,
        |m| m.header.tos = 4,
        |m| m.header.action = RuleAction::Unreachable,
        |m| m.attributes.push(RuleAttribute::SuppressPrefixLen(0)),
    ];
    for change in changes {
        let mut rules = own.to_vec();
        change(&mut rules[1]);
        assert!(is_policy(&rules), "{rules:?}");
    }
}
