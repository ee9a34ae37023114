//! From a desired state to map operations: what to write, and in which order.
//!
//! Pure: reads no map, no clock. [`plan`] is told what the maps hold ([`State`]) and says what to do ([`Op`]) and what
//! they hold afterwards; `tables` carries it out.
//!
//! # Order
//!
//! A packet may arrive between any two operations. So whatever is named is written before what names it, and what is
//! taken away goes in reverse:
//!
//! 1. a number that is reused: flows that still name it are forgotten, its counters start anew;
//! 2. bits of the filter: an address without its bit is nobody's;
//! 3. backends, with all flags of before and after;
//! 4. returns (a backend's `SHARED` is set before its return says so: no flow goes unrecorded), QUIC ids, sources of
//!    `full-nat`, limits;
//! 5. rings, each beside the one it replaces;
//! 6. services and addresses: from here on packets follow the new ring;
//! 7. addresses, services, then returns, QUIC ids and limits that are not wanted any more;
//! 8. backends that lose a flag, and those that are gone;
//! 9. bits of the filter that nobody needs.
//!
//! A ring that was replaced keeps its slots until the next plan, for readers that still hold its offset; so do sources.

mod check;
mod endpoints;
mod entries;
mod filter;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use weir_abi::{
    Addr16, Backend, NatSource, QuicKey, ReturnKey, ReturnTarget, Service, ServiceKey, ServiceLimits, Slot,
    maps::{action, port_proto, service},
};
use weir_core::ids::{ListenKey, ServiceName};

pub(crate) use self::sources::areas as source_areas;
use self::{
    check::{checked, fits, number},
    endpoints::{Endpoints, endpoints},
    entries::{Entries, areas},
};
use crate::{
    Wanted,
    assign::Assignment,
    error::Error,
    rings::{Area, Taker},
};

/// What the maps hold, in words of identity.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) assignment: Assignment,
    pub(crate) services: BTreeMap<ListenKey, Service>,
    /// Entries of virtual addresses as such ([`action::ADDRESS`]).
    pub(crate) addresses: BTreeMap<IpAddr, Service>,
    /// By index. Those that are all zero are left out.
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) returns: BTreeMap<ListenKey, ReturnTarget>,
    /// The number in `NEXT_HOPS` of the way to each address that has one. Not planned here: `nexthops` does, and plans
    /// take it on.
    pub(crate) next_hops: BTreeMap<IpAddr, u32>,
    pub(crate) quic_ids: BTreeMap<QuicName, u32>,
    /// By service id. Those that are all zero are left out.
    pub(crate) limits: BTreeMap<u32, ServiceLimits>,
    /// Entries of `NAT_SOURCES` that a service names.
    pub(crate) sources: BTreeMap<u32, NatSource>,
    /// Bits of `FILTER` that are set.
    pub(crate) filter: BTreeSet<u32>,
    /// What each ring was filled from, as far as this process filled it.
    pub(crate) filled: BTreeMap<(ServiceName, Family), Filled>,
    /// When the oldest change that a ring still remembers was made; no entry: it remembers none. As `filled`.
    pub(crate) unsettled: BTreeMap<(ServiceName, Family), u32>,
    /// When this process first gave a ring backends, in seconds of CLOCK_MONOTONIC. A ring taken over has no entry: it
    /// is as old as can be.
    pub(crate) began: BTreeMap<(ServiceName, Family), u32>,
    /// Areas that were replaced by the last plan.
    pub(crate) leaving: Vec<Area>,
    /// The same of `NAT_SOURCES`.
    pub(crate) sources_leaving: Vec<Area>,
}

/// A key of `QUIC_IDS`, as it sorts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct QuicName {
    pub(crate) service: u32,
    pub(crate) len: u32,
    pub(crate) id: u64,
}

impl From<QuicName> for QuicKey {
    fn from(QuicName { service, len, id }: QuicName) -> Self {
        Self { id, service, len }
    }
}

impl From<QuicKey> for QuicName {
    fn from(QuicKey { id, service, len }: QuicKey) -> Self {
        Self { service, len, id }
    }
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// For this many seconds after a ring got its first backends its slots name no previous one: backends that are checked
/// for the first time come up one after another, and no flow can be much older. Otherwise UDP would stay with the first
/// of them for the whole grace time. TCP flows of these seconds are recorded and found like any other.
const YOUNG: u32 = 5;

/// IP protocol numbers of ICMP and ICMPv6.
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP_V6: u8 = 58;

/// What a ring was filled from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filled {
    size: u32,
    takers: Vec<Taker>,
}

/// Sizes of the maps, how long a number rests, and what rings are keyed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) service_keys: u32,
    pub(crate) services: u32,
    pub(crate) backends: u32,
    pub(crate) ring_slots: u32,
    pub(crate) returns: u32,
    pub(crate) quic_ids: u32,
    pub(crate) sources: u32,
    /// CPUs that the machine can have.
    pub(crate) cpus: u32,
    /// Of these the first so many are there: a virtual machine may have 4 of 128.
    pub(crate) present: u32,
    /// Seconds.
    pub(crate) horizon: u32,
    pub(crate) hash_key: [u64; 2],
}

/// One operation on the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Delete what the flow tables remember of these backends.
    ForgetFlows(BTreeSet<u32>),
    /// Set bits of the filter.
    SetFilter(Vec<u32>),
    /// Set the traffic of a service id to zero and forget the clients counted for it.
    ResetService(u32),
    /// Set the traffic of a backend index to zero.
    ResetBackend(u32),
    SetBackend(u32, Backend),
    SetReturn(ReturnKey, ReturnTarget),
    SetQuic(QuicKey, u32),
    SetSource(u32, NatSource),
    SetLimits(u32, ServiceLimits),
    WriteRing(Area, Vec<Slot>),
    /// Write single slots of rings in use, by index into `RINGS`: what they remember is too old to matter.
    SettleSlots(Vec<(u32, Slot)>),
    SetService(ServiceKey, Service),
    DeleteService(ServiceKey),
    DeleteReturn(ReturnKey),
    DeleteQuic(QuicKey),
    /// Clear bits of the filter.
    ClearFilter(Vec<u32>),
}

/// What to do, and what the maps hold afterwards.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Op>,
    pub(crate) next: State,
}

/// The map's form of a listen key.
pub(crate) fn service_key(key: &ListenKey) -> ServiceKey {
    ServiceKey {
        addr: Addr16::from(key.addr),
        port_proto: port_proto(key.port.to_be(), key.protocol.number()),
    }
}

/// The key of a virtual address as such: what echo requests to it find.
pub(crate) fn address_key(address: IpAddr) -> ServiceKey {
    ServiceKey {
        addr: Addr16::from(address),
        port_proto: port_proto(0, if address.is_ipv4() { ICMP } else { ICMP_V6 }),
    }
}

fn return_key(key: &ListenKey) -> ReturnKey {
    ReturnKey {
        addr: Addr16::from(key.addr),
        port_proto: port_proto(key.port.to_be(), key.protocol.number()),
    }
}

/// A backend's address without IPv4 hidden in IPv6: the maps have one form for both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Says how the maps get from `old` to `wanted`. `ring` reads the slots of an area; `now` is in seconds of
/// CLOCK_MONOTONIC.
///
/// # Errors
/// When something is given twice, does not fit, or cannot be built. Nothing must be written then.
pub(crate) fn plan(
    old: &State,
    wanted: &Wanted,
    limits: &Limits,
    ring: impl Fn(Area) -> Vec<Slot>,
    now: u32,
) -> Result<Plan, Error> {
    let services = checked(wanted)?;
    let mut ops = Vec::new();
    let assignment = number(&old.assignment, &services, limits, now, &mut ops)?;
    let Endpoints {
        backends,
        returns,
        quic_ids,
    } = endpoints(old, &services, &assignment)?;
    let mut next = State {
        assignment,
        next_hops: old.next_hops.clone(),
        backends,
        returns,
        quic_ids,
        ..State::default()
    };

    let mut entries = Entries::new(old, limits, ring, now);
    for service in &services {
        let Some(id) = next.assignment.services.get(service.name) else {
            continue;
        };
        for key in &service.keys {
            let family = Family::of(key.addr);
            let (value, up) = entries.service(service, id, family, &next.assignment.backends)?;
            next.services.insert(*key, value);
            let address = next.addresses.entry(key.addr).or_insert_with(|| Service {
                action: action::ADDRESS,
                ..Service::default()
            });
            address.flags |= if up { service::UP } else { 0 };
        }
        let bounds = entries::limits(service.per_source);
        if bounds != ServiceLimits::default() {
            next.limits.insert(id, bounds);
        }
    }
    room(&next, limits)?;
    next.filled = entries.filled;
    next.began = entries.began;
    next.unsettled = entries.unsettled;
    let kept = areas(&next);
    next.leaving = areas(old).difference(&kept).copied().collect();
    let kept = source_areas(&next, limits.cpus);
    next.sources = entries.sources.held(&kept).collect();
    next.sources_leaving = source_areas(old, limits.cpus)
        .difference(&kept)
        .copied()
        .collect();
    next.filter = filter::bits(&next);

    ops.extend(before(old, &next));
    ops.extend(entries.sources.writes);
    ops.extend(entries.writes);
    ops.extend(turn(old, &next));
    ops.extend(after(old, &next));
    Ok(Plan { ops, next })
}

fn room(next: &State, limits: &Limits) -> Result<(), Error> {
    fits(
        "listen addresses",
        // One entry for each address as such.
        next.services.len() + next.addresses.len(),
        limits.service_keys,
        "listen on fewer addresses and ports",
    )?;
    fits(
        "backend addresses",
        next.returns.len(),
        limits.returns,
        "take fewer backends, or give them fixed ports",
    )?;
    fits(
        "QUIC server ids",
        next.quic_ids.len(),
        limits.quic_ids,
        "take fewer backends with a quic_id",
    )
}

/// What is named, before it is.
fn before(old: &State, next: &State) -> Vec<Op> {
    let mut ops = Vec::new();
    let bits: Vec<u32> = next.filter.difference(&old.filter).copied().collect();
    if !bits.is_empty() {
        ops.push(Op::SetFilter(bits));
    }
    for (&index, value) in &next.backends {
        let before = old.backends.get(&index).copied().unwrap_or_default();
        let flags = if before.addr == value.addr {
            before.flags | value.flags
        } else {
            value.flags
        };
        let value = Backend { flags, ..*value };
        if before != value {
            ops.push(Op::SetBackend(index, value));
        }
    }
    for (key, value) in changed(&old.returns, &next.returns) {
        ops.push(Op::SetReturn(return_key(key), *value));
    }
    for (name, index) in changed(&old.quic_ids, &next.quic_ids) {
        ops.push(Op::SetQuic((*name).into(), *index));
    }
    for (id, value) in changed(&old.limits, &next.limits) {
        ops.push(Op::SetLimits(*id, *value));
    }
    ops
}

/// The services.
fn turn(old: &State, next: &State) -> Vec<Op> {
    let services = changed(&old.services, &next.services).map(|(key, value)| (service_key(key), value));
    let addresses = changed(&old.addresses, &next.addresses).map(|(key, value)| (address_key(*key), value));
    let set = services.chain(addresses);
    let mut ops: Vec<_> = set.map(|(key, value)| Op::SetService(key, *value)).collect();
    let services = gone(&old.services, &next.services).map(service_key);
    let addresses = gone(&old.addresses, &next.addresses).map(|address| address_key(*address));
    ops.extend(addresses.chain(services).map(Op::DeleteService));
    ops
}

/// What is not named any more.
fn after(old: &State, next: &State) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(gone(&old.returns, &next.returns).map(|key| Op::DeleteReturn(return_key(key))));
    ops.extend(gone(&old.quic_ids, &next.quic_ids).map(|name| Op::DeleteQuic((*name).into())));
    ops.extend(gone(&old.limits, &next.limits).map(|id| Op::SetLimits(*id, ServiceLimits::default())));
    for (&index, before) in &old.backends {
        match next.backends.get(&index) {
            Some(value) if before.addr == value.addr && before.flags & !value.flags != 0 => {
                ops.push(Op::SetBackend(index, *value));
            }
            Some(_) => {}
            None => ops.push(Op::SetBackend(index, Backend::default())),
        }
    }
    let bits: Vec<u32> = old.filter.difference(&next.filter).copied().collect();
    if !bits.is_empty() {
        ops.push(Op::ClearFilter(bits));
    }
    ops
}

/// Entries that are new or different.
fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    next: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    next.iter().filter(|(key, value)| old.get(key) != Some(value))
}

/// Keys of entries that are not wanted any more.
fn gone<'a, K: Ord, V>(old: &'a BTreeMap<K, V>, next: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !next.contains_key(key))
}

/// Slots of all rings that a state's services use.
pub(crate) fn slots_in_use(state: &State) -> u64 {
    areas(state).iter().map(|area| u64::from(area.len)).sum()
}

#[cfg(test)]
mod tests;
