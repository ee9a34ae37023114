//! Pools whose backends see the client's address, against the services that use them.

use weir_core::{
    ids::{Scope, Shown},
    plan::{Forward, IpNet, L4, Mode, XdpMode},
};

use super::{Asked, KnownPool, PoolsByName};
use crate::{
    reader::Cx,
    services::{AskedListen, AskedService},
};

pub(super) fn check(cx: &mut Cx, asked: &Asked<'_, '_>, pools: &PoolsByName<'_>) {
    for pool in pools.values() {
        let Some(at) = pool.asked.client_at else { continue };
        let name = &pool.asked.pool.name;
        if asked.node.xdp == Some(XdpMode::Off) {
            cx.mistake(
                at,
                format!(
                    "pools.{name}.source is the client's address, and it takes eBPF programs and routes of weir's own to get the answers, but node.xdp is \"off\""
                ),
                "write xdp = \"native\" or \"generic\" under [node], and start weir as root",
            );
            continue;
        }
        let original = pool.asked.pool.is_original_destination();
        if !original && pool.has_v4 && pool.has_v6 {
            cx.mistake(
                at,
                format!("pools.{name}.source is the client's address, and the pool has backends of both families: a client has one"),
                "write a pool for each family, and a service for each",
            );
            continue;
        }
        for service in asked.services {
            match &service.mode {
                Some((Mode::Tcp(_) | Mode::Http(_), _)) if !original => {
                    check_family(cx, service, pool);
                }
                Some((Mode::L4(l4), _)) if !original => check_shared(cx, service, l4, pool, pools, at),
                Some((Mode::Tcp(_) | Mode::Http(_), _)) if uses(service, pool) => {
                    check_taken(cx, asked, service, pools);
                }
                _ => {}
            }
        }
    }
}

fn uses(service: &AskedService<'_>, pool: &KnownPool<'_>) -> bool {
    let name = pool.asked.pool.name.as_str();
    service.pool.is_some_and(|(own, _)| own == name)
        || service.rule_pools.iter().any(|asked| asked.name == name)
}

/// A connection has one family at both of its ends.
fn check_family(cx: &mut Cx, service: &AskedService<'_>, pool: &KnownPool<'_>) {
    if !uses(service, pool) || !pool.asked.complete {
        return;
    }
    let family = |v4| if v4 { "IPv4" } else { "IPv6" };
    let other = { service.listen.iter() }.find(|asked| asked.listen.addr.is_ipv4() != pool.has_v4);
    if let Some(AskedListen { listen, at }) = other {
        cx.mistake(
            *at,
            format!(
                "services.{} listens on {listen}, which {} clients reach, and pool `{}` connects from their addresses to {} backends",
                service.name,
                family(listen.addr.is_ipv4()),
                pool.asked.pool.name,
                family(pool.has_v4)
            ),
            "write a pool for each family, and a service for each",
        );
    }
}

/// What a backend of `nat` answers XDP gives to the clients of that service, before anything else.
fn check_shared(
    cx: &mut Cx,
    service: &AskedService<'_>,
    l4: &L4,
    pool: &KnownPool<'_>,
    pools: &PoolsByName<'_>,
    at: usize,
) {
    let Some(packets) = service.pool.and_then(|(name, _)| pools.get(name)) else {
        return;
    };
    if l4.forward != Forward::Nat {
        return;
    }
    let same = |backend: &&std::net::SocketAddr| {
        let every_port = std::net::SocketAddr::new(backend.ip(), 0);
        packets.addresses.contains(*backend) || packets.addresses.contains(&every_port)
    };
    if let Some(shared) = pool.addresses.iter().find(same) {
        cx.mistake(
            at,
            format!(
                "pools.{}.source is the client's address, but {} is also a backend of services.{}, whose clients XDP takes its answers for",
                pool.asked.pool.name,
                Shown(*shared),
                service.name
            ),
            "let the backend listen on another port for one of them, or write forward = \"full-nat\" there",
        );
    }
}

/// Where clients want to go may be such a backend, too.
fn check_taken(cx: &mut Cx, asked: &Asked<'_, '_>, service: &AskedService<'_>, pools: &PoolsByName<'_>) {
    let nat = asked.services.iter().filter_map(|packets| match &packets.mode {
        Some((Mode::L4(l4), _)) if l4.forward == Forward::Nat => {
            let (name, _) = packets.pool?;
            Some((packets, pools.get(name)?))
        }
        _ => None,
    });
    let backends: Vec<_> = nat
        .flat_map(|(packets, pool)| pool.addresses.iter().map(move |backend| (packets, *backend)))
        .collect();
    for AskedListen { listen, at } in &service.listen {
        let Scope::Network(prefix) = listen.scope else {
            continue;
        };
        let Some(net) = IpNet::new(listen.addr, prefix) else {
            continue;
        };
        let is_taken = |(_, backend): &&(&AskedService<'_>, std::net::SocketAddr)| {
            let every_port = backend.port() == 0;
            net.contains(backend.ip())
                && (every_port || (listen.first..=listen.last).contains(&backend.port()))
        };
        if let Some((packets, backend)) = backends.iter().find(is_taken) {
            cx.mistake(
                *at,
                format!(
                    "services.{} goes to where its clients want from their own addresses, and {listen} has {}, a backend of services.{}, whose clients XDP takes its answers for",
                    service.name,
                    Shown(*backend),
                    packets.name
                ),
                "write networks without it, let the backend listen on another port, or write forward = \"full-nat\" there",
            );
        }
    }
}
