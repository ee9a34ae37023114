//! Services that XDP forwards, and limits that it enforces, against their pools and the node.
//!
//! Owns these checks and their words: families, ports, source addresses, QUIC ids, the room in the kernel's tables.

use std::collections::BTreeSet;

use weir_core::{
    ids::{Protocol, Shown},
    plan::{FlowHash, Forward, L4, Mode, XdpMode},
};

use super::{Asked, KnownPool, PoolsByName, check_loops};
use crate::{
    node::AskedNode,
    reader::Cx,
    services::{AskedListen, AskedService},
};

pub(super) fn check_pool(
    cx: &mut Cx,
    node: &AskedNode,
    service: &AskedService<'_>,
    l4: &L4,
    pool: &KnownPool<'_>,
) {
    if !pool.asked.complete {
        return;
    }
    let (name, pool_name) = (&service.name, &pool.asked.pool.name);
    let pool_at = service.pool.map_or(service.at, |(_, at)| at);
    if service.forward_known {
        check_families(cx, service, l4.forward, pool);
        check_sources(cx, service, l4.forward, pool);
        check_ports(cx, service, l4.forward, pool, pool_at);
        check_tunnel(cx, node, service, l4.forward, pool, pool_at);
    }
    if matches!(l4.hash, FlowHash::Quic { .. }) && pool.without_quic_id {
        cx.mistake(
            pool_at,
            format!(
                "services.{name}.hash is \"quic\", but the backends of pool `{pool_name}` have no quic_id"
            ),
            "write quic_id = \"0a1b\" in each: the server id in the connection ids that it gives out",
        );
    }
    if let Some(loopback) = pool.loopback {
        cx.mistake(
            pool_at,
            format!(
                "services.{name} is l4, but pool `{pool_name}` has {}, and packets can't be forwarded to loopback",
                Shown(loopback)
            ),
            "write the backend's outside address, or mode = \"tcp\"",
        );
    }
    if pool.weighted > l4.ring_size as usize {
        cx.mistake(
            pool_at,
            format!(
                "services.{name} has a ring of {} slots for {} backends",
                l4.ring_size, pool.weighted
            ),
            "write a ring_size of at least a hundred times the backends",
        );
    }
    check_loops(cx, service, pool, pool_at);
}

/// What of a service alone does not go together.
pub(super) fn check_service(cx: &mut Cx, service: &AskedService<'_>, l4: &L4) {
    let name = &service.name;
    let mut any_tcp = false;
    for AskedListen { listen, at } in &service.listen {
        match listen.protocol {
            Protocol::Udp => {}
            Protocol::Tcp => {
                any_tcp = true;
                if matches!(l4.hash, FlowHash::Quic { .. }) {
                    cx.mistake(
                        *at,
                        format!("services.{name}.listen is TCP, but services.{name}.hash is \"quic\", which runs over UDP"),
                        "write /udp behind the port, or hash = \"flow\"",
                    );
                }
            }
        }
    }
    if let Some(at) = service.mss_at
        && service.listen_known
        && !any_tcp
    {
        cx.mistake(
            at,
            format!("services.{name}.mss is for TCP, and the service listens on UDP alone"),
            "remove it, or listen on TCP",
        );
    }
}

/// Every way but the tunnel keeps the family.
fn check_families(cx: &mut Cx, service: &AskedService<'_>, forward: Forward, pool: &KnownPool<'_>) {
    if forward == Forward::Ipip {
        return;
    }
    let (name, pool_name) = (&service.name, &pool.asked.pool.name);
    let mut told = BTreeSet::new();
    for AskedListen { listen, at } in &service.listen {
        let v4 = listen.addr.is_ipv4();
        let served = if v4 { pool.has_v4 } else { pool.has_v6 };
        if listen.is_virtual() && !served && told.insert(v4) {
            let family = family(v4);
            cx.mistake(
                *at,
                format!(
                    "services.{name}.listen is {family}, but pool `{pool_name}` has no {family} backend, and {} keeps the family",
                    forward.as_str()
                ),
                format!("add an {family} backend, or remove this address"),
            );
        }
    }
}

pub(super) const fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// `full-nat` needs a source of each family that it serves.
fn check_sources(cx: &mut Cx, service: &AskedService<'_>, forward: Forward, pool: &KnownPool<'_>) {
    if forward != Forward::FullNat {
        return;
    }
    let (name, pool_name) = (&service.name, &pool.asked.pool.name);
    let Some(source) = &pool.asked.source else {
        if !pool.asked.has_source {
            cx.mistake(
                service.pool.map_or(service.at, |(_, at)| at),
                format!("services.{name}.forward is \"full-nat\", but pool `{pool_name}` has no source"),
                format!("write source = {{ addresses = [\"10.0.0.5\"] }} under [pools.{pool_name}], with free addresses of the backends' side"),
            );
        }
        return;
    };
    if !source.complete {
        return;
    }
    let mut told = BTreeSet::new();
    for AskedListen { listen, at } in &service.listen {
        let v4 = listen.addr.is_ipv4();
        let has = source.addresses.iter().any(|a| a.is_ipv4() == v4);
        if !has && told.insert(v4) {
            let family = family(v4);
            cx.mistake(
                *at,
                format!("services.{name}.listen is {family}, but the source of pool `{pool_name}` has no {family} address"),
                format!("add an {family} address to pools.{pool_name}.source.addresses, or remove this one"),
            );
        }
    }
}

/// Which ports reach which: `dsr` and `ipip` change none, and every port can't become one.
fn check_ports(cx: &mut Cx, service: &AskedService<'_>, forward: Forward, pool: &KnownPool<'_>, at: usize) {
    let (name, pool_name) = (&service.name, &pool.asked.pool.name);
    match forward {
        Forward::Nat | Forward::FullNat => {
            let every = service.listen.iter().find(|asked| asked.listen.is_every_port());
            if let (Some(every), Some(fixed)) = (every, pool.fixed_ports.values().next()) {
                cx.mistake(
                    at,
                    format!(
                        "services.{name} listens on every port of {}, but pool `{pool_name}` has {fixed}, which would get them all at one",
                        every.listen.addr
                    ),
                    format!("write {} in the pool, so that packets keep their port", portless(*fixed)),
                );
            }
        }
        Forward::Dsr | Forward::Ipip => {
            let way = forward.as_str();
            let (first, last) = (
                pool.fixed_ports.first_key_value(),
                pool.fixed_ports.last_key_value(),
            );
            let conflict = service.listen.iter().find_map(|asked| {
                let listen = asked.listen;
                let differs = |port: u16| (listen.first, listen.last) != (port, port);
                let found = [first, last]
                    .into_iter()
                    .flatten()
                    .find(|(port, _)| differs(**port));
                found.map(|(_, address)| (listen, *address))
            });
            if let (Some((listen, fixed)), true) = (conflict, service.listen_known) {
                cx.mistake(
                    at,
                    format!(
                        "services.{name}.forward is \"{way}\", which changes no port, but pool `{pool_name}` has {fixed}, and the service listens on {listen}"
                    ),
                    format!("write {} in the pool, and `port` in its check", portless(fixed)),
                );
            }
        }
    }
}

fn portless(mut address: std::net::SocketAddr) -> Shown {
    address.set_port(0);
    Shown(address)
}

/// A backend takes no packet that seems to come from itself.
fn check_tunnel(
    cx: &mut Cx,
    node: &AskedNode,
    service: &AskedService<'_>,
    forward: Forward,
    pool: &KnownPool<'_>,
    at: usize,
) {
    if forward != Forward::Ipip || !node.tunnel_read {
        return;
    }
    let tunnel = node.node.tunnel;
    for (key, network) in [("source_v4", tunnel.source_v4), ("source_v6", tunnel.source_v6)] {
        let from = std::net::SocketAddr::new(network.addr(), 0);
        let nearest = pool.addresses.range(from..).next();
        if let Some(backend) = nearest.filter(|address| network.contains(address.ip())) {
            cx.mistake(
                at,
                format!(
                    "services.{}.forward is \"ipip\", but backend {} of pool `{}` lies in node.tunnel.{key} ({network}), and would take tunnelled packets for its own",
                    service.name,
                    backend.ip(),
                    pool.asked.pool.name
                ),
                format!("write another network for {key} under [node.tunnel]"),
            );
        }
    }
}

/// Limits per source are enforced by XDP, on TCP.
pub(super) fn check_per_source(cx: &mut Cx, node: &AskedNode, service: &AskedService<'_>) {
    let Some((_, at)) = service.per_source else { return };
    let name = &service.name;
    if node.xdp == Some(XdpMode::Off) {
        cx.mistake(
            at,
            format!("services.{name}.per_source is enforced by XDP, but node.xdp is \"off\""),
            "remove it, or write xdp = \"native\" or \"generic\" under [node]",
        );
        return;
    }
    let mut tcp = service
        .listen
        .iter()
        .filter(|asked| asked.listen.protocol == Protocol::Tcp);
    let bound = { tcp.clone() }.find(|asked| !asked.listen.is_virtual());
    if tcp.next().is_none() && service.listen_known {
        cx.mistake(
            at,
            format!(
                "services.{name}.per_source bounds TCP connections, and the service listens on UDP alone"
            ),
            "remove it, or listen on TCP",
        );
    }
    // Of an l4 service it is told already that such an address serves nothing.
    if let (Some(bound), Some((Mode::Tcp(_) | Mode::Http(_), _))) = (bound, &service.mode) {
        cx.mistake(
            bound.at,
            format!(
                "services.{name}.per_source is enforced by XDP, which does not see connections to {}",
                if bound.listen.is_transparent() {
                    bound.listen.to_string()
                } else {
                    bound.listen.addr.to_string()
                }
            ),
            "write a virtual address, or a service of its own for this one",
        );
    }
}

/// Whether services and backends fit the tables that the tunables make.
pub(super) fn check_room(cx: &mut Cx, asked: &Asked<'_, '_>, pools: &PoolsByName<'_>) {
    let room = asked.tunables.l4_services as usize;
    if asked.node.xdp != Some(XdpMode::Off) {
        let mut seen = asked
            .services
            .iter()
            .filter(|service| service.listen.iter().any(|asked| asked.listen.is_virtual()));
        if let Some(beyond) = seen.nth(room) {
            cx.mistake(
                beyond.at,
                format!(
                    "services.{} is one service more with virtual addresses than the {room} of weir.l4.services",
                    beyond.name
                ),
                "raise that tunable, or remove some",
            );
        }
    }
    check_rings(cx, asked);
    let room = asked.tunables.l4_backends as usize;
    let mut counted = BTreeSet::new();
    let mut total = 0;
    for service in asked.services {
        let (Some((Mode::L4(_), _)), Some((name, at))) = (&service.mode, service.pool) else {
            continue;
        };
        let Some(pool) = pools.get(name) else { continue };
        if !counted.insert(name) {
            continue;
        }
        let before = total;
        total += pool.asked.pool.backends.len();
        if before <= room && total > room {
            cx.mistake(
                at,
                format!(
                    "all l4 services up to services.{} have {total} backends, more than the {room} of weir.l4.backends",
                    service.name
                ),
                "raise that tunable, or remove some",
            );
        }
    }
}

/// A service has a ring for each family that it listens on.
fn check_rings(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let room = u64::from(asked.tunables.l4_ring_slots);
    let mut total = 0;
    for service in asked.services {
        let Some((Mode::L4(l4), at)) = &service.mode else {
            continue;
        };
        let v4 = service.listen.iter().any(|asked| asked.listen.addr.is_ipv4());
        let v6 = service.listen.iter().any(|asked| asked.listen.addr.is_ipv6());
        let before = total;
        total += u64::from(l4.ring_size) * (u64::from(v4) + u64::from(v6));
        if before <= room && total > room {
            cx.mistake(
                *at,
                format!(
                    "the rings of all l4 services up to services.{} have {total} slots, more than the {room} of weir.l4.ring_slots",
                    service.name
                ),
                "raise that tunable (with room for the largest ring twice), or write a smaller ring_size",
            );
        }
    }
}
