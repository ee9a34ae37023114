//! `[pools.NAME.source]` against everything else that has an address, and which plane gets which of its ports.
//!
//! Owns these checks and their words. That a pool has the sources that its services need by `full-nat` is `l4.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use weir_core::{
    ids::{Protocol, Shown},
    plan::{Check, Forward, Mode, PortRange, RelayPorts, RelaySource, Source, XdpMode},
};

use super::Asked;
use crate::{
    pools::{AskedPool, source::AskedSource, source::DEFAULT_PORTS},
    reader::Cx,
};

/// How long a port rests at the most after a check that ended it here: TIME_WAIT, and by how much the kernel's timer may
/// be late.
const REST: Duration = Duration::from_secs(65);
/// Ports for checks that each address has at the least.
const LEAST_CHECKS: u32 = 8;

/// A range of ports of one address, and whose it is.
struct Owned<'p> {
    range: PortRange,
    pool: &'p str,
    at: usize,
}

/// Who uses a pool.
#[derive(Clone, Copy, Default)]
struct Uses {
    nat: bool,
    relay: bool,
}

/// Where connections to each pool come from, in their order; of use only if nothing is wrong anywhere.
pub(super) fn check(cx: &mut Cx, asked: &Asked<'_, '_>) -> Vec<Option<Source>> {
    let all = addresses(asked);
    let uses = uses(asked);
    let mut taken: BTreeMap<IpAddr, Vec<Owned<'_>>> = BTreeMap::new();
    let mut resolved = Vec::new();
    for pool in &asked.pools.pools {
        let Some(source) = &pool.source else {
            resolved.push(None);
            continue;
        };
        let name = pool.pool.name.as_str();
        let used = uses
            .as_ref()
            .map(|uses| uses.get(name).copied().unwrap_or_default());
        if let Some(used) = used {
            check_use(cx, name, source, used);
        }
        let plan = resolve(cx, pool, source, used);
        let ranges = ranges(&plan);
        for (&address, &at) in source.addresses.iter().zip(&source.addresses_at) {
            // Of an address that packets are steered by nobody else may have anything.
            let shares = asked.node.xdp == Some(XdpMode::Off) && used.is_some_and(|used| !used.nat);
            let free = check_elsewhere(cx, name, (address, at), &all, shares.then_some(&ranges));
            if free && source.complete {
                check_apart(cx, name, (address, at), &ranges, &mut taken);
            }
        }
        resolved.push(Some(plan));
    }
    resolved
}

/// A service, where it says that it listens, and its ports there if they are of TCP.
type Listened<'a> = (&'a str, usize, Option<PortRange>);

/// Addresses that have a meaning already.
struct Addresses<'a> {
    /// Of services.
    services: BTreeMap<IpAddr, Vec<Listened<'a>>>,
    /// Of backends, and their pools.
    backends: BTreeMap<IpAddr, &'a str>,
}

fn addresses<'a>(asked: &Asked<'a, '_>) -> Addresses<'a> {
    let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in asked.services {
        for listen in &service.listen {
            let (first, last) = (listen.listen.first, listen.listen.last);
            let ports = (listen.listen.protocol == Protocol::Tcp).then_some(PortRange { first, last });
            let entry = (service.name.as_str(), listen.at, ports);
            services.entry(listen.listen.addr).or_default().push(entry);
        }
    }
    let backends = asked
        .pools
        .pools
        .iter()
        .flat_map(|p| { p.pool.backends.iter() }.map(|b| (b.key.address.ip(), p.pool.name.as_str())));
    Addresses {
        services,
        backends: backends.collect(),
    }
}

/// What is written for a plane that does not use the pool.
fn check_use(cx: &mut Cx, name: &str, source: &AskedSource, used: Uses) {
    if !used.nat && !used.relay {
        cx.mistake(
            source.at,
            format!("pools.{name}.source has no effect: no service relays to the pool, and none forwards to it by full-nat"),
            "remove it, or write forward = \"full-nat\" in the service",
        );
        return;
    }
    match &source.relay_ports {
        Some((_, at)) if !used.relay => cx.mistake(
            *at,
            format!("pools.{name}.source.relay_ports has no effect: no service of mode \"http\" or \"tcp\" uses the pool"),
            "remove it",
        ),
        Some((_, at)) if !used.nat => cx.mistake(
            *at,
            format!("pools.{name}.source.relay_ports is for pools that full-nat uses as well, and this one is the relay's alone"),
            "write them as `ports`",
        ),
        Some(_) | None => {}
    }
    if let Some((_, at)) = source.close.filter(|_| !used.relay) {
        cx.mistake(
            at,
            format!("pools.{name}.source.close has no effect: no service of mode \"http\" or \"tcp\" uses the pool"),
            "remove it",
        );
    }
    if let Some((ranges, at)) = &source.ports
        && used.nat
        && ranges.len() > 1
    {
        cx.mistake(
            *at,
            format!(
                "pools.{name}.source.ports has {} ranges, and full-nat draws from one",
                ranges.len()
            ),
            "write one range",
        );
    }
}

/// Which plane gets which ports.
fn resolve(cx: &mut Cx, pool: &AskedPool, source: &AskedSource, used: Option<Uses>) -> Source {
    let used = used.unwrap_or_default();
    let name = pool.pool.name.as_str();
    let own = source.ports.as_ref();
    let nat = used.nat.then(|| {
        let first = own.and_then(|(ranges, _)| ranges.first());
        first.copied().unwrap_or(DEFAULT_PORTS)
    });
    let relayed = match used.nat {
        true => source.relay_ports.as_ref(),
        false => own,
    };
    if let (Some(nat), Some((ranges, at))) = (nat, relayed)
        && let Some(both) = ranges.iter().find(|range| range.overlaps(nat))
    {
        cx.mistake(
            *at,
            format!("pools.{name}.source.relay_ports has {both}, and {nat} are those of full-nat"),
            "write ports that full-nat does not have, or other ones for it as `ports`",
        );
    }
    if used.relay && source.complete && pool.complete {
        check_families(cx, pool, source);
    }
    Source {
        addresses: source.addresses.clone(),
        nat,
        relay: used.relay.then(|| RelaySource {
            ports: relayed.map(|(ranges, at)| split(cx, pool, source, ranges, *at)),
            reset: source.close.is_some_and(|(reset, _)| reset),
        }),
    }
}

/// The relay needs an address of each family that its backends have.
fn check_families(cx: &mut Cx, pool: &AskedPool, source: &AskedSource) {
    let name = &pool.pool.name;
    let mut told = BTreeSet::new();
    for (backend, &at) in pool.pool.backends.iter().zip(&pool.backends_at) {
        let v4 = backend.key.address.is_ipv4();
        let has = source.addresses.iter().any(|a| a.is_ipv4() == v4);
        if !has && told.insert(v4) {
            let family = super::l4::family(v4);
            cx.mistake(
                at,
                format!(
                    "pool `{name}` has {}, but its source has no {family} address",
                    Shown(backend.key.address)
                ),
                format!("add an {family} address to pools.{name}.source.addresses"),
            );
        }
    }
}

/// The relay's ports: the last of them are for checks, so many that each has rested before its turn comes again.
fn split(cx: &mut Cx, pool: &AskedPool, source: &AskedSource, ranges: &[PortRange], at: usize) -> RelayPorts {
    let all: u32 = ranges.iter().map(|range| range.count()).sum();
    let fewest = [true, false]
        .map(|v4| source.addresses.iter().filter(|a| a.is_ipv4() == v4).count())
        .into_iter()
        .filter(|count| *count > 0)
        .min();
    let addresses = u32::try_from(fewest.unwrap_or(1)).unwrap_or(1);
    let need = pool
        .pool
        .check
        .as_ref()
        .map_or(0, |check| ports_of(check, addresses));
    if source.complete && all <= need {
        let name = &pool.pool.name;
        cx.mistake(
            at,
            format!(
                "pools.{name}.source has {all} ports of each address, and checks alone need {need} of them"
            ),
            "write more ports or addresses, or a longer interval between checks",
        );
    }
    let (mut traffic, mut checks) = (ranges.to_vec(), Vec::new());
    let mut lacks = need.min(all.saturating_sub(1));
    while lacks > 0
        && let Some(range) = traffic.pop()
    {
        let taken = lacks.min(range.count());
        lacks -= taken;
        // A range is as long as what is taken of it, or longer.
        let cut = u16::try_from(taken - 1).unwrap_or(u16::MAX);
        let first = range.last.saturating_sub(cut);
        checks.insert(0, PortRange { first, ..range });
        if first > range.first {
            traffic.push(PortRange {
                last: first - 1,
                ..range
            });
        }
    }
    RelayPorts { traffic, checks }
}

/// Ports of each address that the checks of one backend need: twice as many as may rest at once, since control begins
/// anew when it is started again.
fn ports_of(check: &Check, addresses: u32) -> u32 {
    let shortest = check
        .interval
        .mul_f64(1.0 - f64::from(check.jitter.min(50)) / 100.0);
    let resting = REST.as_millis().div_ceil(shortest.as_millis().max(1));
    let resting = u32::try_from(resting).unwrap_or(u32::MAX);
    let all = resting.saturating_add(check.rise).saturating_add(check.fall);
    all.saturating_mul(2).div_ceil(addresses.max(1)).max(LEAST_CHECKS)
}

/// The ports that it has of each address.
fn ranges(source: &Source) -> Vec<PortRange> {
    let relay = source.relay.iter().filter_map(|relay| relay.ports.as_ref());
    let relay = relay.flat_map(|ports| ports.traffic.iter().chain(&ports.checks));
    source.nat.iter().chain(relay).copied().collect()
}

/// Whether an address serves nothing else; where it may be shared, none of these ports.
fn check_elsewhere(
    cx: &mut Cx,
    name: &str,
    (address, at): (IpAddr, usize),
    all: &Addresses<'_>,
    shared: Option<&Vec<PortRange>>,
) -> bool {
    let services = all.services.get(&address).map(Vec::as_slice).unwrap_or_default();
    let mine = |ports: &Option<PortRange>| match (shared, ports) {
        (None, _) => true,
        (Some(ranges), Some(ports)) => ranges.iter().any(|range| range.overlaps(*ports)),
        (Some(_), None) => false,
    };
    let everywhere: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let wild = all.services.get(&everywhere).into_iter().flatten();
    let mut wild = wild.filter(|(_, _, ports)| shared.is_some() && mine(ports));
    let else_where = if let Some((service, at, _)) = services.iter().find(|(_, _, ports)| mine(ports)) {
        Some(format!(
            "on which services.{service} listens (line {})",
            cx.line(*at)
        ))
    } else if let Some((service, at, ports)) = wild.next() {
        let ports = ports.map_or_else(String::new, |ports| ports.to_string());
        Some(format!(
            "and services.{service} listens on {ports} of every address (line {}), which is among its ports",
            cx.line(*at)
        ))
    } else {
        { all.backends.get(&address) }.map(|other| format!("which is a backend of pool `{other}`"))
    };
    let Some(else_where) = else_where else { return true };
    let mend = match shared {
        None => "write an address that serves nothing else",
        Some(_) => "write another address, or other ports",
    };
    cx.mistake(
        at,
        format!("pools.{name}.source.addresses has {address}, {else_where}"),
        mend,
    );
    false
}

/// No port of an address has two owners.
fn check_apart<'p>(
    cx: &mut Cx,
    name: &'p str,
    (address, at): (IpAddr, usize),
    ranges: &[PortRange],
    taken: &mut BTreeMap<IpAddr, Vec<Owned<'p>>>,
) {
    let owned = taken.entry(address).or_default();
    let both = ranges.iter().find_map(|range| {
        let others = owned.iter().filter(|other| other.pool != name);
        { others }
            .find(|other| other.range.overlaps(*range))
            .map(|other| (*range, other))
    });
    if let Some((range, other)) = both {
        let line = cx.line(other.at);
        cx.mistake(
            at,
            format!(
                "pools.{name}.source has ports {range} of {address}, and pool `{}` has {} (line {line})",
                other.pool, other.range
            ),
            "write another address, or ports that no other pool has",
        );
        return;
    }
    owned.extend(ranges.iter().map(|&range| Owned {
        range,
        pool: name,
        at,
    }));
}

/// Who uses which pools. None if a service could not be read.
fn uses<'d>(asked: &Asked<'d, 'd>) -> Option<BTreeMap<&'d str, Uses>> {
    let mut uses: BTreeMap<&str, Uses> = BTreeMap::new();
    if !asked.services_complete {
        return None;
    }
    for service in asked.services {
        let (mode, _) = service.mode.as_ref()?;
        let own = service.pool.map(|(name, _)| name);
        if own.is_none() && !service.pool_optional {
            return None;
        }
        match mode {
            Mode::L4(_) if !service.forward_known => return None,
            Mode::L4(l4) if l4.forward == Forward::FullNat => {
                own.into_iter()
                    .for_each(|name| uses.entry(name).or_default().nat = true);
            }
            Mode::L4(_) => {}
            Mode::Tcp(_) | Mode::Http(_) => {
                let by_rules = service.rule_pools.iter().map(|asked| asked.name.as_str());
                own.into_iter()
                    .chain(by_rules)
                    .for_each(|name| uses.entry(name).or_default().relay = true);
            }
        }
    }
    Some(uses)
}
