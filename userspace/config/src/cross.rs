//! What no section can see alone: services against pools, against the node and against each other.
//!
//! Owns these checks and their words. Concludes nothing from what could not be read: one slip gives one message.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use weir_core::{
    ids::Protocol,
    plan::{L4, Listen, Mode, XdpMode},
};

use crate::{
    node::{AskedAdmin, AskedNode},
    pools::{AskedPool, AskedPools},
    reader::Cx,
    services::{AskedListen, AskedService, takes},
    words::{plain, quoted},
};

/// Backends that the kernel's tables can number.
const MAX_L4_BACKENDS: usize = 65_535;

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
            addresses,
        }
    }
}

pub(crate) fn check(
    cx: &mut Cx,
    node: &AskedNode,
    admin: &AskedAdmin,
    pools: &AskedPools,
    services: &[AskedService<'_>],
) {
    let by_name: PoolsByName<'_> = pools
        .pools
        .iter()
        .map(|asked| (asked.pool.name.as_str(), KnownPool::of(asked)))
        .collect();
    let unread: BTreeSet<&str> = pools.unread.iter().map(String::as_str).collect();
    check_node(cx, node);
    for service in services {
        let pool = service.pool.and_then(|(name, at)| {
            let pool = by_name.get(name);
            if pool.is_none() && pools.complete && !unread.contains(name) {
                unknown_pool(cx, service, name, at, &by_name);
            }
            pool
        });
        if let Some((mode, at)) = &service.mode {
            check_mode(cx, node, service, mode, *at);
            match (mode, pool) {
                (Mode::L4(l4), Some(pool)) => check_l4_pool(cx, service, l4, pool),
                (Mode::Tcp(_) | Mode::Http(_), Some(pool)) => check_loops(cx, service, pool),
                (_, None) => {}
            }
        }
    }
    check_l4_backends(cx, services, &by_name);
    check_overlaps(cx, node, admin, services);
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

fn unknown_pool(cx: &mut Cx, service: &AskedService<'_>, name: &str, at: usize, pools: &PoolsByName<'_>) {
    let mend = match cx.guess(name, pools.keys().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let shown = if name.is_empty() { "NAME" } else { name };
            format!("write a section [pools.{}]", plain(shown))
        }
    };
    cx.mistake(
        at,
        format!(
            "services.{}.pool is {}, and there is no such pool",
            service.name,
            quoted(name)
        ),
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
        if matches!(mode, Mode::L4(_)) && !listen.is_virtual() {
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

const fn word(mode: &Mode) -> &'static str {
    match mode {
        Mode::L4(_) => "l4",
        Mode::Tcp(_) => "tcp",
        Mode::Http(_) => "http",
    }
}

fn check_l4_pool(cx: &mut Cx, service: &AskedService<'_>, l4: &L4, pool: &KnownPool<'_>) {
    if !pool.asked.complete {
        return;
    }
    let (name, pool_name) = (&service.name, &pool.asked.pool.name);
    let mut told = BTreeSet::new();
    for AskedListen { listen, at } in &service.listen {
        let v4 = listen.addr.is_ipv4();
        let served = if v4 { pool.has_v4 } else { pool.has_v6 };
        if listen.is_virtual() && !served && told.insert(v4) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            cx.mistake(
                *at,
                format!(
                    "services.{name}.listen is {family}, but pool `{pool_name}` has no {family} backend, and nat keeps the family"
                ),
                format!("add an {family} backend, or remove this address"),
            );
        }
    }
    if let Some(loopback) = pool.loopback {
        cx.mistake(
            service.pool.map_or(service.at, |(_, at)| at),
            format!(
                "services.{name} is l4, but pool `{pool_name}` has {loopback}, and packets can't be forwarded to loopback"
            ),
            "write the backend's outside address, or mode = \"tcp\"",
        );
    }
    if pool.weighted > l4.ring_size as usize {
        cx.mistake(
            service.pool.map_or(service.at, |(_, at)| at),
            format!(
                "services.{name} has a ring of {} slots for {} backends",
                l4.ring_size, pool.weighted
            ),
            "write a ring_size of at least a hundred times the backends",
        );
    }
    check_loops(cx, service, pool);
}

/// A backend that is the service's own address would send everything round and round.
fn check_loops(cx: &mut Cx, service: &AskedService<'_>, pool: &KnownPool<'_>) {
    let own = service.listen.iter().find_map(|AskedListen { listen, .. }| {
        let addr = match listen.addr {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => listen.addr,
        };
        let range = SocketAddr::new(addr, listen.first)..=SocketAddr::new(addr, listen.last);
        pool.addresses.range(range).next()
    });
    if let Some(backend) = own {
        cx.mistake(
            service.pool.map_or(service.at, |(_, at)| at),
            format!(
                "services.{} listens on {backend}, which is a backend of its own pool `{}`",
                service.name, pool.asked.pool.name
            ),
            "write the backend's own address and port",
        );
    }
}

fn check_l4_backends(cx: &mut Cx, services: &[AskedService<'_>], pools: &PoolsByName<'_>) {
    let mut counted = BTreeSet::new();
    let mut total = 0;
    for service in services {
        let (Some((Mode::L4(_), _)), Some((name, at))) = (&service.mode, service.pool) else {
            continue;
        };
        let Some(pool) = pools.get(name) else { continue };
        if !counted.insert(name) {
            continue;
        }
        let before = total;
        total += pool.asked.pool.backends.len();
        if before <= MAX_L4_BACKENDS && total > MAX_L4_BACKENDS {
            cx.mistake(
                at,
                format!(
                    "all l4 services up to services.{} have {total} backends, more than {MAX_L4_BACKENDS}",
                    service.name
                ),
                "remove some",
            );
        }
    }
}

/// Who listens on a range of ports of one address.
#[derive(Clone, Copy)]
struct Claim<'s> {
    last: u16,
    /// The service; None for admin.http.
    service: Option<&'s str>,
    listen: Listen,
    /// Where it stands. None: it is a default.
    at: Option<usize>,
}

/// Ranges that are taken, by protocol and address, then by first port. Those of one address never overlap.
type Taken<'s> = BTreeMap<(Protocol, IpAddr), BTreeMap<u16, Claim<'s>>>;

/// Two claims to one address, port and protocol; and, among sockets that are really bound, a wildcard and an address
/// that it covers.
fn check_overlaps(cx: &mut Cx, node: &AskedNode, admin: &AskedAdmin, services: &[AskedService<'_>]) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for service in services {
        claims.extend(service.listen.iter().map(|&AskedListen { listen, at }| Claim {
            last: listen.last,
            service: Some(service.name.as_str()),
            listen,
            at: Some(at),
        }));
    }
    if let Some(http) = admin.admin.http {
        let listen = Listen {
            addr: http.ip(),
            first: http.port(),
            last: http.port(),
            protocol: Protocol::Tcp,
        };
        claims.push(Claim {
            last: listen.last,
            service: None,
            listen,
            at: admin.http_at,
        });
    }
    let mut taken: Taken<'_> = BTreeMap::new();
    let mut kept = Vec::with_capacity(claims.len());
    for claim in claims {
        let ranges = taken
            .entry((claim.listen.protocol, claim.listen.addr))
            .or_default();
        if let Some(first) = overlapping(ranges, &claim.listen) {
            conflict(cx, &claim, &first, false);
        } else {
            ranges.insert(claim.listen.first, claim);
            kept.push(claim);
        }
    }
    for claim in kept {
        let bound = node.xdp == Some(XdpMode::Off) || claim.service.is_none() || !claim.listen.is_virtual();
        if !bound || claim.listen.addr.is_unspecified() {
            continue;
        }
        let wildcard: IpAddr = match claim.listen.addr {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let covering = taken.get(&(claim.listen.protocol, wildcard));
        if let Some(wide) = covering.and_then(|ranges| overlapping(ranges, &claim.listen)) {
            conflict(cx, &claim, &wide, true);
        }
    }
}

/// A range that shares a port with the listener.
fn overlapping<'s>(ranges: &BTreeMap<u16, Claim<'s>>, listen: &Listen) -> Option<Claim<'s>> {
    let (_, nearest) = ranges.range(..=listen.last).next_back()?;
    (nearest.last >= listen.first).then_some(*nearest)
}

fn conflict(cx: &mut Cx, claim: &Claim<'_>, other: &Claim<'_>, covers: bool) {
    let who = |claim: &Claim<'_>| match claim.service {
        Some(service) => format!("services.{service}"),
        None => "admin.http".to_owned(),
    };
    let port = claim.listen.first.max(other.listen.first);
    let proto = claim.listen.protocol.as_str();
    let address = SocketAddr::new(claim.listen.addr, port);
    let place = |cx: &Cx, at: Option<usize>| {
        at.map_or_else(|| "by default".into(), |at| format!("in line {}", cx.line(at)))
    };
    // A default has no place of its own: then the other one is told.
    let (at, teller, told) = match (claim.at, other.at) {
        (Some(at), _) => (at, claim, other),
        (None, Some(at)) => (at, other, claim),
        (None, None) => (0, claim, other),
    };
    let elsewhere = place(cx, told.at);
    let what = if covers {
        let wide = |claim: &Claim<'_>| SocketAddr::new(claim.listen.addr, port);
        format!(
            "{} listens on {}/{proto}, and {} {elsewhere} on {}/{proto}: one of them is every address",
            who(teller),
            wide(teller),
            who(told),
            wide(told)
        )
    } else if claim.service == other.service {
        format!(
            "{} listens on {address}/{proto} twice (also {elsewhere})",
            who(teller)
        )
    } else {
        format!(
            "{} listens on {address}/{proto}, as {} {elsewhere} does",
            who(teller),
            who(told)
        )
    };
    cx.mistake(at, what, "give one of them another address or port");
}
