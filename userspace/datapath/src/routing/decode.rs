//! From netlink's messages to the model's values.
//!
//! Pure. Says of each route whether it is plain (one next hop, whatever the packet); what is not, is still a network
//! with an answer of its own, that the kernel alone knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::{
    AddressFamily,
    link::{
        AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage, VlanQosMapping,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteType,
        RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{Hop, Link, Mac, Neighbor, Net, Route, Table, VlanDevice};

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN`, `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// `suppress_prefixlen` of a rule that suppresses nothing: the kernel always names it.
const SUPPRESS_NOTHING: u32 = u32::MAX;

/// An interface with its index; None if the message is about something else, such as a port of a bridge.
pub(super) fn link(message: &LinkMessage) -> Option<(u32, Link)> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        up: header.flags.contains(LinkFlags::Up),
        address: None,
        mtu: 0,
        mtu_v6: 0,
        vlan: None,
    };
    let (mut below, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        if let LinkAttribute::Address(bytes) = attribute {
            let speaks = header.link_layer_type == LinkLayerType::Ether
                && !header.flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
            link.address = Mac::try_from(bytes.as_slice()).ok().filter(|_| speaks);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Link(index) = attribute {
            below = Some(*index);
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            elsewhere = true;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.vlan = vlan(infos);
        } else if let LinkAttribute::AfSpecUnspec(families) = attribute {
            link.mtu_v6 = mtu_v6(families);
        }
    }
    if let Some(vlan) = &mut link.vlan {
        vlan.below = below.filter(|_| !elsewhere);
    }
    Some((header.index, link))
}

fn mtu_v6(families: &[AfSpecUnspec]) -> u32 {
    let mut mtu = 0;
    for family in families {
        let AfSpecUnspec::Inet6(attributes) = family else {
            continue;
        };
        for attribute in attributes {
            if let AfSpecInet6::DevConf(conf) = attribute {
                mtu = u32::try_from(conf.mtu6).unwrap_or_default();
            }
        }
    }
    mtu
}

/// What makes it a VLAN device; the interface below is named elsewhere in the message.
fn vlan(infos: &[LinkInfo]) -> Option<VlanDevice> {
    let is_vlan = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Vlan));
    if !infos.iter().any(is_vlan) {
        return None;
    }
    let (mut id, mut tpid, mut priority) = (None, 0x8100, 0);
    for info in infos {
        let LinkInfo::Data(InfoData::Vlan(attributes)) = info else {
            continue;
        };
        for attribute in attributes {
            if let InfoVlan::Id(vlan) = attribute {
                id = Some(*vlan);
            } else if let InfoVlan::Protocol(protocol) = attribute {
                tpid = u16::from(*protocol);
            } else if let InfoVlan::EgressQos(mappings) = attribute {
                // What XDP sends has no priority, which the kernel calls 0.
                for mapping in mappings {
                    if let VlanQosMapping::Mapping(0, to) = mapping {
                        priority = (*to & 7) as u16;
                    }
                }
            }
        }
    }
    Some(VlanDevice {
        below: None,
        tpid,
        tci: priority << 13 | id? & 0xfff,
    })
}

/// A neighbour, with its link address if that is known and good; None if the message is about something else.
pub(super) fn neighbor(message: &NeighbourMessage) -> Option<(Neighbor, Option<Mac>)> {
    let header = &message.header;
    let ip = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6);
    if !ip || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) = attribute {
            address = Some(IpAddr::V4(*v4));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) = attribute {
            address = Some(IpAddr::V6(*v6));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = Mac::try_from(bytes.as_slice()).ok();
        }
    }
    // NUD_VALID of the kernel: what its own look-up takes.
    let good = matches!(
        header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    Some(((header.ifindex, address?), mac.filter(|_| good)))
}

/// A route; None if it is of another table or family, or no route but something that the kernel remembers.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unspecified = if header.address_family == AddressFamily::Inet {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else if header.address_family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        return None;
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut number = u32::from(header.table);
    let (mut destination, mut metric) = (unspecified, 0);
    let (mut ifindex, mut gateway, mut mtu) = (None, None, None);
    let mut plain = header.kind == RouteType::Unicast
        && !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
    for attribute in &message.attributes {
        if let RouteAttribute::Table(table) = attribute {
            number = *table;
        } else if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address)?;
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
            plain &= gateway.is_some();
        } else if let RouteAttribute::Via(RouteVia::Inet(v4)) = attribute {
            gateway = Some(IpAddr::V4(*v4));
        } else if let RouteAttribute::Via(RouteVia::Inet6(v6)) = attribute {
            gateway = Some(IpAddr::V6(*v6));
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            for one in metrics {
                if let RouteMetric::Mtu(value) = one {
                    mtu = Some(*value).filter(|mtu| *mtu != 0);
                }
            }
        } else if let RouteAttribute::EncapType(kind) = attribute {
            plain &= *kind == RouteLwEnCapType::None;
        } else if matches!(
            attribute,
            RouteAttribute::Via(_)
                | RouteAttribute::MultiPath(_)
                | RouteAttribute::Encap(_)
                | RouteAttribute::NewDestination(_)
                | RouteAttribute::NhId(_)
        ) {
            plain = false;
        }
    }
    let table = match number {
        TABLE_LOCAL => Table::Local,
        TABLE_MAIN => Table::Main,
        _ => return None,
    };
    if header.tos != 0 || header.source_prefix_length != 0 {
        // Some packets to this network take it, and they ask before the metric does.
        (plain, metric) = (false, 0);
    }
    let net = Net::new(destination, header.destination_prefix_length)?;
    // IPv6 routes into mapped IPv4 mean nothing to packets, but would look like IPv4.
    (net.is_v4() == unspecified.is_ipv4()).then_some(Route {
        net,
        table,
        metric,
        hop: ifindex.filter(|_| plain).map(|ifindex| Hop {
            ifindex,
            gateway,
            mtu,
        }),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some(IpAddr::V4(*v4))
    } else if let RouteAddress::Inet6(v6) = address {
        Some(IpAddr::V6(*v6))
    } else {
        None
    }
}

/// Which of the kernel's own rules a rule is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Builtin {
    Local,
    Main,
    Default,
}

/// Whether the rules of one family are more, or others, than the kernel's own, so that tables do not decide alone. weir's
/// own rules are for packets with its mark, and for sockets that are bound to an interface: XDP sends neither.
pub(super) fn is_policy(rules: &[RuleMessage]) -> bool {
    let of_others = rules
        .iter()
        .filter(|rule| !crate::intake::is_ours(rule) && !crate::uplinks::is_ours(rule));
    let builtin: Option<Vec<_>> = of_others.map(builtin).collect();
    let Some(mut builtin) = builtin else {
        return true;
    };
    builtin.sort_unstable();
    // IPv6 has no rule for the table `default`.
    builtin != [Builtin::Local, Builtin::Main] && builtin != [Builtin::Local, Builtin::Main, Builtin::Default]
}

fn builtin(rule: &RuleMessage) -> Option<Builtin> {
    let header = &rule.header;
    let (mut table, mut priority) = (u32::from(header.table), 0);
    for attribute in &rule.attributes {
        if let RuleAttribute::Table(number) = attribute {
            table = *number;
        } else if let RuleAttribute::Priority(number) = attribute {
            priority = *number;
        } else if matches!(
            attribute,
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(SUPPRESS_NOTHING)
        ) {
        } else {
            return None;
        }
    }
    let bare = header.action == RuleAction::ToTable
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0)
        && !header.flags.contains(RuleFlags::Invert);
    match (table, priority) {
        _ if !bare => None,
        (TABLE_LOCAL, 0) => Some(Builtin::Local),
        (TABLE_MAIN, 32766) => Some(Builtin::Main),
        (TABLE_DEFAULT, 32767) => Some(Builtin::Default),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
