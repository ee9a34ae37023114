//! What no section can see alone: services against pools, against the node and against each other.
//!
//! Owns these checks and their words; those of packets and tables are `l4.rs`, those of source addresses `sources.rs`, those of the
//! relay's connections `upstream.rs`.
//! Concludes nothing from what could not be read: one slip gives one message.

mod clients;
mod interfaces;
mod l4;
mod overlaps;
mod sources;
mod upstream;
mod vrrp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use weir_core::{
    ids::Shown,
    plan::{MAX_TRANSPARENT, Mode, ORIGINAL_DESTINATION, Source, XdpMode},
};

use crate::{
    lists::AskedLists,
    node::{AskedAdmin, AskedNode},
    pools::{AskedPool, AskedPools},
    reader::Cx,
    services::{AskedListen, AskedService, takes},
    tunables::Values,
    vrrp::AskedGroups,
    words::{plain, quoted},
};

/// All that was read.
pub(crate) struct Asked<'a, 'd> {
    pub(crate) node: &'a AskedNode,
    pub(crate) admin: &'a AskedAdmin,
    pub(crate) lists: &'a AskedLists,
    pub(crate) pools: &'a AskedPools,
    pub(crate) services: &'a [AskedService<'d>],
    /// Whether every service is among them.
    pub(crate) services_complete: bool,
    pub(crate) vrrp: &'a AskedGroups,
    pub(crate) tunables: &'a Values,
}

/// A pool, and what services ask of it: found out once, however many services share it.
struct KnownPool<'p> {
    asked: &'p AskedPool,
    addresses: BTreeSet<SocketAddr>,
    has_v4: bool,
    has_v6: bool,
    /// A backend on loopback.
    loopback: Option<SocketAddr>,
    /// Backends that have a weight.
    weighted: usize,
    /// For each port that backends have, one of them.
    fixed_ports: BTreeMap<u16, SocketAddr>,
    /// A backend without port: packets keep theirs.
    portless: Option<SocketAddr>,
    /// Whether some backend has no QUIC server id.
    without_quic_id: bool,
}

type PoolsByName<'p> = BTreeMap<&'p str, KnownPool<'p>>;

impl<'p> KnownPool<'p> {
    fn of(asked: &'p AskedPool) -> Self {
        let addresses: BTreeSet<_> = asked.pool.backends.iter().map(|b| b.key.address).collect();
        Self {
            asked,
            has_v4: addresses.iter().any(SocketAddr::is_ipv4),
            has_v6: addresses.iter().any(SocketAddr::is_ipv6),
            loopback: addresses
                .iter()
                .find(|address| address.ip().is_loopback())
                .copied(),
            weighted: asked.pool.backends.iter().filter(|b| b.weight > 0).count(),
            fixed_ports: addresses
                .iter()
                .rev() // so that the first of each port stays
                .filter(|address| address.port() != 0)
                .map(|address| (address.port(), *address))
                .collect(),
            portless: addresses.iter().find(|address| address.port() == 0).copied(),
            without_quic_id: asked.pool.backends.iter().any(|b| b.quic_id.is_none()),
            addresses,
        }
    }
}

/// Where connections to each pool come from, in the order of the pools; of use only if nothing is wrong.
pub(crate) fn check(cx: &mut Cx, asked: &Asked<'_, '_>) -> Vec<Option<Source>> {
    let Asked {
        node,
        admin,
        lists,
        pools,
        services,
        ..
    } = *asked;
    let by_name: PoolsByName<'_> = pools
        .pools
        .iter()
        .map(|asked| (asked.pool.name.as_str(), KnownPool::of(asked)))
        .collect();
    let unread: BTreeSet<&str> = pools.unread.iter().map(String::as_str).collect();
    check_node(cx, node);
    if let (Some(XdpMode::Off), Some(at)) = (node.xdp, lists.at) {
        cx.mistake(
            at,
            "[lists] is enforced by XDP, but node.xdp is \"off\"",
            "remove it, or write xdp = \"native\" or \"generic\" under [node]",
        );
    }
    for service in services {
        let known = |cx: &mut Cx, name: &str, at: usize, key: &str| {
            let pool = by_name.get(name);
            if pool.is_none() && pools.complete && !unread.contains(name) {
                unknown_pool(cx, key, name, at, &by_name);
            }
            pool
        };
        let own_key = format!("services.{}.pool", service.name);
        let pool = service.pool.and_then(|(name, at)| known(cx, name, at, &own_key));
        let by_rules: Vec<_> = service
            .rule_pools
            .iter()
            .filter_map(|asked| Some((known(cx, &asked.name, asked.at, &asked.key)?, asked.at)))
            .collect();
        if let Some((mode, at)) = &service.mode {
            check_mode(cx, node, service, mode, *at);
            if let Mode::L4(l4) = mode {
                l4::check_service(cx, service, l4);
            }
            match (mode, pool) {
                (Mode::L4(_), Some(pool)) if pool.asked.pool.is_original_destination() => {
                    let at = service.pool.map_or(service.at, |(_, at)| at);
                    cx.mistake(
                        at,
                        format!(
                            "services.{}.pool is \"{ORIGINAL_DESTINATION}\", which mode \"l4\" can't go to",
                            service.name
                        ),
                        "write mode = \"tcp\" or \"http\" with transparent listeners, or a pool of backends",
                    );
                }
                (Mode::L4(l4), Some(pool)) => l4::check_pool(cx, node, service, l4, pool),
                (Mode::L4(_) | Mode::Tcp(_) | Mode::Http(_), _) => {}
            }
            check_total(cx, service, mode, asked.tunables);
            if let Mode::Tcp(_) | Mode::Http(_) = mode {
                let own = pool.zip(service.pool).map(|(pool, (_, at))| (pool, at));
                for (pool, at) in own.into_iter().chain(by_rules) {
                    if pool.asked.pool.is_original_destination() {
                        check_original(cx, service, at);
                        continue;
                    }
                    check_relayed_ports(cx, service, mode, pool, at);
                    check_loops(cx, service, pool, at);
                }
            }
        }
        l4::check_per_source(cx, node, service);
    }
    l4::check_room(cx, asked, &by_name);
    clients::check(cx, asked, &by_name);
    let sources = sources::check(cx, asked);
    upstream::check(cx, asked);
    interfaces::check(cx, asked);
    vrrp::check(cx, asked, &by_name);
    check_transparent_room(cx, services);
    overlaps::check(cx, node, admin, services);
    sources
}

fn check_node(cx: &mut Cx, node: &AskedNode) {
    let word = match node.xdp {
        Some(XdpMode::Native) => "native",
        Some(XdpMode::Generic) => "generic",
        Some(XdpMode::Off) | None => return,
    };
    if !node.has_interfaces {
        cx.mistake(
            node.at,
            format!("node.xdp is {word}, but node.interfaces names no interface"),
            "write interfaces = [\"eth0\"] under [node], or xdp = \"off\" for a relay without XDP",
        );
    }
}

fn unknown_pool(cx: &mut Cx, key: &str, name: &str, at: usize, pools: &PoolsByName<'_>) {
    let mend = match cx.guess(name, pools.keys().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let shown = if name.is_empty() { "NAME" } else { name };
            format!("write a section [pools.{}]", plain(shown))
        }
    };
    cx.mistake(
        at,
        format!("{key} is {}, and there is no such pool", quoted(name)),
        mend,
    );
}

fn check_mode(cx: &mut Cx, node: &AskedNode, service: &AskedService<'_>, mode: &Mode, at: usize) {
    let name = &service.name;
    for AskedListen { listen, at } in &service.listen {
        if !takes(mode, listen.protocol) {
            cx.mistake(
                *at,
                format!(
                    "services.{name}.listen is UDP, which mode \"{}\" does not relay",
                    word(mode)
                ),
                "write mode = \"l4\", or listen on TCP",
            );
        }
        if !matches!(mode, Mode::L4(_)) && listen.is_every_port() {
            cx.mistake(
                *at,
                format!(
                    "services.{name}.listen has `*` for its port, and mode \"{}\" can't listen on every port",
                    word(mode)
                ),
                "write a port from 1 to 65535, or a range as in 8000-8010",
            );
        }
        if listen.is_transparent() {
            check_transparent(cx, node, service, mode, *at);
        } else if matches!(mode, Mode::L4(_)) && !listen.is_virtual() {
            let kind = if listen.addr.is_loopback() {
                "a loopback address"
            } else {
                "every address"
            };
            cx.mistake(
                *at,
                format!(
                    "services.{name}.listen is {}, {kind}, and packets for it never reach XDP",
                    listen.addr
                ),
                "write an address that clients reach from outside, or mode = \"tcp\"",
            );
        }
    }
    if matches!(mode, Mode::L4(_)) && node.xdp == Some(XdpMode::Off) {
        cx.mistake(
            at,
            format!("services.{name}.mode is \"l4\", but node.xdp is \"off\""),
            "write xdp = \"native\" or \"generic\" under [node], or mode = \"tcp\"",
        );
    }
}

/// Only the relay takes in connections to addresses that are not on the box, and the kernel brings it none by itself.
fn check_transparent(cx: &mut Cx, node: &AskedNode, service: &AskedService<'_>, mode: &Mode, at: usize) {
    let name = &service.name;
    if matches!(mode, Mode::L4(_)) {
        cx.mistake(
            at,
            format!("services.{name}.listen is transparent, which mode \"l4\" can't be"),
            "write mode = \"tcp\" or \"http\", or an address of this box",
        );
    } else if node.xdp == Some(XdpMode::Off) {
        cx.mistake(
            at,
            format!(
                "services.{name}.listen is transparent, which takes eBPF programs and routes of weir's own, but node.xdp is \"off\""
            ),
            "write xdp = \"native\" or \"generic\" under [node], and start weir as root",
        );
    }
}

/// What is the box's own address is no destination to go on to.
fn check_original(cx: &mut Cx, service: &AskedService<'_>, at: usize) {
    let own = { service.listen.iter() }.find(|asked| !asked.listen.is_transparent());
    if let Some(own) = own {
        cx.mistake(
            at,
            format!(
                "services.{} goes to \"{ORIGINAL_DESTINATION}\", but also listens on {}, which is where its clients want to go then",
                service.name, own.listen
            ),
            "listen transparently alone, or write a service of its own for that address",
        );
    }
}

/// The kernel's table holds so many listeners for one network of addresses.
fn check_transparent_room(cx: &mut Cx, services: &[AskedService<'_>]) {
    for v4 in [true, false] {
        let asked = services.iter().flat_map(|service| &service.listen);
        let mut of_family =
            asked.filter(|asked| asked.listen.is_transparent() && asked.listen.addr.is_ipv4() == v4);
        if let Some(beyond) = of_family.nth(MAX_TRANSPARENT) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            cx.mistake(
                beyond.at,
                format!("{} is one transparent listener more for {family} than the {MAX_TRANSPARENT} there may be", beyond.listen),
                "write ranges of ports, or wider networks",
            );
        }
    }
}

const fn word(mode: &Mode) -> &'static str {
    match mode {
        Mode::L4(_) => "l4",
        Mode::Tcp(_) => "tcp",
        Mode::Http(_) => "http",
    }
}

/// A service can't have more connections than all services together.
fn check_total(cx: &mut Cx, service: &AskedService<'_>, mode: &Mode, tunables: &Values) {
    let connections = match mode {
        Mode::Http(http) => http.limits.connections,
        Mode::Tcp(tcp) => tcp.connections,
        Mode::L4(_) => return,
    };
    let total = tunables.relay_limit_connections_total;
    if let Some(at) = service.connections_at.filter(|_| connections > total) {
        cx.mistake(
            at,
            format!(
                "services.{}.limits.connections is {connections}, more than the {total} of weir.relay.limit.connections_total",
                service.name
            ),
            "raise that tunable, or lower it",
        );
    }
}

/// The relay connects to backends, and knows no port but theirs.
fn check_relayed_ports(
    cx: &mut Cx,
    service: &AskedService<'_>,
    mode: &Mode,
    pool: &KnownPool<'_>,
    at: usize,
) {
    if let Some(portless) = pool.portless {
        cx.mistake(
            at,
            format!(
                "services.{}.mode is \"{}\", but pool `{}` has {}, without a port to connect to",
                service.name,
                word(mode),
                pool.asked.pool.name,
                Shown(portless)
            ),
            "write its port in the pool, or a pool of its own for this service",
        );
    }
}

/// A backend that is the service's own address would send everything round and round.
fn check_loops(cx: &mut Cx, service: &AskedService<'_>, pool: &KnownPool<'_>, at: usize) {
    // What is not on the box is not listened on by itself: the relay's own connections leave by the routes.
    let listens = { service.listen.iter() }.filter(|asked| !asked.listen.is_transparent());
    let own = { listens }.find_map(|AskedListen { listen, .. }| {
        let addr = match listen.addr {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => listen.addr,
        };
        let last = if listen.is_every_port() {
            u16::MAX
        } else {
            listen.last
        };
        let range = SocketAddr::new(addr, listen.first)..=SocketAddr::new(addr, last);
        // A backend that keeps the client's port is met at each of them.
        let keeps = pool.addresses.get(&SocketAddr::new(addr, 0));
        keeps.or_else(|| pool.addresses.range(range).next())
    });
    if let Some(backend) = own {
        cx.mistake(
            at,
            format!(
                "services.{} listens on {}, which is a backend of its own pool `{}`",
                service.name,
                Shown(*backend),
                pool.asked.pool.name
            ),
            "write the backend's own address and port",
        );
    }
}
