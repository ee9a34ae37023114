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
//! 2. backends, with all flags of before and after;
//! 3. returns (a backend's `SHARED` is set before its return says so: no flow goes unrecorded);
//! 4. rings, each beside the one it replaces;
//! 5. services: from here on packets follow the new ring;
//! 6. services, then returns that are not wanted any more;
//! 7. backends that lose a flag, and those that are gone.
//!
//! A ring that was replaced keeps its slots until the next plan, for readers that still hold its offset.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weir_abi::{
    Addr16, Backend, ReturnKey, ReturnTarget, Service, ServiceKey, Slot,
    maps::{action, backend, port_proto, returns},
};
use weir_core::ids::{BackendKey, ListenKey, ServiceName};

use crate::{
    Wanted, WantedAction, WantedNat, WantedService,
    assign::{Assignment, Numbers},
    error::Error,
    rings::{self, Area, Space, Taker},
};

/// What the maps hold, in words of identity.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) assignment: Assignment,
    pub(crate) services: BTreeMap<ListenKey, Service>,
    /// By index. Those that are all zero are left out.
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) returns: BTreeMap<ListenKey, ReturnTarget>,
    /// What each ring was filled from, as far as this process filled it.
    pub(crate) filled: BTreeMap<(ServiceName, Family), Filled>,
    /// When this process first gave a ring backends, in seconds of CLOCK_MONOTONIC. A ring taken over has no entry: it
    /// is as old as can be.
    pub(crate) began: BTreeMap<(ServiceName, Family), u32>,
    /// Areas that were replaced by the last plan.
    pub(crate) leaving: Vec<Area>,
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// For this many seconds after a ring got its first backends its slots name no previous one: backends that are checked
/// for the first time come up one after another, and no flow can be much older. Otherwise UDP would stay with the first
/// of them for the whole grace time. TCP flows of these seconds are recorded and found like any other.
const YOUNG: u32 = 5;

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
    /// Seconds.
    pub(crate) horizon: u32,
    pub(crate) hash_key: [u64; 2],
}

/// One operation on the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Delete what the flow tables remember of these backends.
    ForgetFlows(BTreeSet<u32>),
    /// Set the traffic of a service id to zero.
    ResetService(u32),
    /// Set the traffic of a backend index to zero.
    ResetBackend(u32),
    SetBackend(u32, Backend),
    SetReturn(ReturnKey, ReturnTarget),
    WriteRing(Area, Vec<Slot>),
    /// Write single slots of rings in use, by index into `RINGS`: what they remember is too old to matter.
    SettleSlots(Vec<(u32, Slot)>),
    SetService(ServiceKey, Service),
    DeleteService(ServiceKey),
    DeleteReturn(ReturnKey),
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
    let mut next = State {
        assignment,
        ..State::default()
    };

    let (backends, returns) = endpoints(old, &services, &next.assignment);
    fits(
        "listen addresses",
        services.iter().map(|s| s.keys.len()).sum(),
        limits.service_keys,
        "listen on fewer addresses and ports",
    )?;
    fits(
        "backend addresses",
        returns.len(),
        limits.returns,
        "take fewer backends, or give them fixed ports",
    )?;
    next.backends = backends;
    next.returns = returns;

    let mut rings = Rings {
        old,
        space: Space::new(
            limits.ring_slots,
            areas(old).into_iter().chain(old.leaving.iter().copied()),
        ),
        limits,
        read: ring,
        now,
        writes: Vec::new(),
        filled: BTreeMap::new(),
        began: BTreeMap::new(),
    };
    for service in &services {
        let Some(id) = next.assignment.services.get(service.name) else {
            continue;
        };
        for key in &service.keys {
            let value = match service.nat {
                None => Service {
                    id,
                    action: action::RELAY,
                    ..Service::default()
                },
                Some(nat) => rings.service(
                    service.name,
                    id,
                    nat,
                    Family::of(key.addr),
                    &next.assignment.backends,
                )?,
            };
            next.services.insert(*key, value);
        }
    }
    let Rings {
        writes,
        filled,
        began,
        ..
    } = rings;
    next.began = began;
    next.filled = filled
        .into_iter()
        .map(|(key, (filled, _))| (key, filled))
        .collect();
    let kept: BTreeSet<Area> = areas(&next);
    next.leaving = areas(old)
        .into_iter()
        .filter(|area| !kept.contains(area))
        .collect();

    // From here on: the order of the module's documentation.
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
    for (key, value) in &next.returns {
        if old.returns.get(key) != Some(value) {
            ops.push(Op::SetReturn(return_key(key), *value));
        }
    }
    ops.extend(writes);
    for (key, value) in &next.services {
        if old.services.get(key) != Some(value) {
            ops.push(Op::SetService(service_key(key), *value));
        }
    }
    for key in old.services.keys().filter(|key| !next.services.contains_key(key)) {
        ops.push(Op::DeleteService(service_key(key)));
    }
    for key in old.returns.keys().filter(|key| !next.returns.contains_key(key)) {
        ops.push(Op::DeleteReturn(return_key(key)));
    }
    for (&index, before) in &old.backends {
        match next.backends.get(&index) {
            Some(value) if before.addr == value.addr && before.flags & !value.flags != 0 => {
                ops.push(Op::SetBackend(index, *value));
            }
            Some(_) => {}
            None => ops.push(Op::SetBackend(index, Backend::default())),
        }
    }
    Ok(Plan { ops, next })
}

/// A wanted service with its keys in the maps' form.
struct Checked<'a> {
    name: &'a ServiceName,
    keys: Vec<ListenKey>,
    nat: Option<&'a WantedNat>,
}

fn checked(wanted: &Wanted) -> Result<Vec<Checked<'_>>, Error> {
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let mut out = Vec::with_capacity(wanted.services.len());
    for WantedService {
        name,
        keys: listed,
        action,
    } in &wanted.services
    {
        if !names.insert(name) {
            return Err(Error::Duplicate(format!("service {name}")));
        }
        let listed: Vec<_> = listed
            .iter()
            .map(|key| ListenKey {
                addr: key.addr.to_canonical(),
                ..*key
            })
            .collect();
        if let Some(twice) = listed.iter().find(|key| !keys.insert(**key)) {
            return Err(Error::Duplicate(twice.to_string()));
        }
        let nat = match action {
            WantedAction::Relay => None,
            WantedAction::Nat(nat) => Some(nat),
        };
        out.push(Checked {
            name,
            keys: listed,
            nat,
        });
    }
    Ok(out)
}

fn fits(what: &'static str, need: usize, room: u32, mend: &'static str) -> Result<(), Error> {
    let (need, room) = (need as u64, u64::from(room));
    if need > room {
        Err(Error::Full {
            what,
            need,
            room,
            mend,
        })
    } else {
        Ok(())
    }
}

/// Why there may be no number although fewer are wanted than there is room for.
const RESTING: &str = "take fewer; numbers of those removed are free again after the flow horizon";

/// Gives every wanted name its number and says what must be forgotten first.
fn number(
    old: &Assignment,
    services: &[Checked<'_>],
    limits: &Limits,
    now: u32,
    ops: &mut Vec<Op>,
) -> Result<Assignment, Error> {
    let mut next = old.clone();
    let names: BTreeSet<&ServiceName> = services.iter().map(|s| s.name).collect();
    let keys: BTreeSet<&BackendKey> = services
        .iter()
        .filter_map(|s| s.nat)
        .flat_map(|nat| &nat.backends)
        .map(|b| &b.key)
        .collect();
    next.services.rest(now, |name| names.contains(name));
    next.backends.rest(now, |key| keys.contains(key));

    for &name in &names {
        let given = next.services.give(name, limits.services, now, limits.horizon);
        let given = given.ok_or_else(|| full("services", names.len(), limits.services, RESTING))?;
        if given.reused {
            ops.push(Op::ResetService(given.number));
        }
    }
    let mut reused = BTreeSet::new();
    for &key in &keys {
        let given = next.backends.give(key, limits.backends, now, limits.horizon);
        let given = given.ok_or_else(|| full("backends", keys.len() + 1, limits.backends, RESTING))?;
        if given.reused {
            reused.insert(given.number);
        }
    }
    if !reused.is_empty() {
        ops.extend(reused.iter().map(|&index| Op::ResetBackend(index)));
        ops.push(Op::ForgetFlows(reused));
    }
    Ok(next)
}

fn full(what: &'static str, need: usize, room: u32, mend: &'static str) -> Error {
    Error::Full {
        what,
        need: need as u64,
        room: room.into(),
        mend,
    }
}

/// What `BACKENDS` and `RETURNS` shall hold.
fn endpoints(
    old: &State,
    services: &[Checked<'_>],
    assignment: &Assignment,
) -> (BTreeMap<u32, Backend>, BTreeMap<ListenKey, ReturnTarget>) {
    let mut backends: BTreeMap<u32, Backend> = BTreeMap::new();
    let mut owners: BTreeMap<ListenKey, Vec<ReturnTarget>> = BTreeMap::new();
    for service in services {
        let (Some(nat), Some(id)) = (service.nat, assignment.services.get(service.name)) else {
            continue;
        };
        for wanted in &nat.backends {
            let Some(index) = assignment.backends.get(&wanted.key) else {
                continue;
            };
            let address = canonical(wanted.key.address);
            let entry = backends.entry(index).or_insert_with(|| Backend {
                addr: Addr16::from(address.ip()),
                port: address.port().to_be().into(),
                flags: 0,
            });
            if wanted.alive {
                entry.flags |= backend::ALIVE;
            }
            for key in service
                .keys
                .iter()
                .filter(|key| Family::of(key.addr) == Family::of(address.ip()))
            {
                let port = if address.port() == 0 {
                    key.port
                } else {
                    address.port()
                };
                let target = ReturnTarget {
                    vip: Addr16::from(key.addr),
                    port: key.port.to_be().into(),
                    service: id,
                    backend: index,
                    flags: 0,
                };
                let from = ListenKey {
                    addr: address.ip(),
                    port,
                    protocol: key.protocol,
                };
                let list = owners.entry(from).or_default();
                if !list.contains(&target) {
                    list.push(target);
                }
            }
        }
    }
    let mut returns = BTreeMap::new();
    for (from, list) in owners {
        let shared = list.len() > 1;
        if shared {
            for target in &list {
                if let Some(entry) = backends.get_mut(&target.backend) {
                    entry.flags |= backend::SHARED;
                }
            }
        }
        // Which of several it names means nothing to the programs; the one of before means one write less.
        let before = old
            .returns
            .get(&from)
            .map(|target| ReturnTarget { flags: 0, ..*target });
        let same = before.filter(|target| list.contains(target));
        if let Some(target) = same.or_else(|| list.first().copied()) {
            let flags = if shared { returns::SHARED } else { 0 };
            returns.insert(from, ReturnTarget { flags, ..target });
        }
    }
    (backends, returns)
}

/// The areas that a state's services use.
fn areas(state: &State) -> BTreeSet<Area> {
    let rings = state.services.values().filter(|s| s.ring_len != 0);
    rings
        .map(|s| Area {
            offset: s.ring_offset,
            len: s.ring_len,
        })
        .collect()
}

/// Slots of all rings that a state's services use.
pub(crate) fn slots_in_use(state: &State) -> u64 {
    areas(state).iter().map(|area| u64::from(area.len)).sum()
}

/// The rings of one plan.
struct Rings<'a, R> {
    old: &'a State,
    space: Space,
    limits: &'a Limits,
    read: R,
    now: u32,
    writes: Vec<Op>,
    /// Done already in this plan, with the service entry that follows.
    filled: BTreeMap<(ServiceName, Family), (Filled, Service)>,
    began: BTreeMap<(ServiceName, Family), u32>,
}

impl<R: Fn(Area) -> Vec<Slot>> Rings<'_, R> {
    /// The entry of a `nat` service for one family; all its keys of that family share it.
    fn service(
        &mut self,
        name: &ServiceName,
        id: u32,
        nat: &WantedNat,
        family: Family,
        numbers: &Numbers<BackendKey>,
    ) -> Result<Service, Error> {
        let key = (name.clone(), family);
        if let Some((_, service)) = self.filled.get(&key) {
            return Ok(*service);
        }
        let before = self.old.services.iter().find(|(listen, service)| {
            service.id == id && service.action == action::NAT && Family::of(listen.addr) == family
        });
        let before = before.map(|(_, service)| *service).unwrap_or_default();
        let old_area = (before.ring_len != 0).then_some(Area {
            offset: before.ring_offset,
            len: before.ring_len,
        });

        let mut none_of_this_family = true;
        let mut takers = Vec::new();
        for wanted in &nat.backends {
            let address = canonical(wanted.key.address);
            if Family::of(address.ip()) != family {
                continue;
            }
            none_of_this_family = false;
            if let (true, 1.., Some(index)) = (wanted.alive, wanted.weight, numbers.get(&wanted.key)) {
                takers.push(Taker {
                    address,
                    index,
                    weight: wanted.weight,
                });
            }
        }
        // So that the order of the file makes no difference.
        takers.sort_unstable_by_key(|taker| (taker.address, taker.index));
        let filled = Filled {
            size: nat.ring_size,
            takers,
        };

        let service = Service {
            id,
            action: action::NAT,
            generation: before.generation,
            ..Service::default()
        };
        let with = |area: Area, generation| Service {
            ring_offset: area.offset,
            ring_len: area.len,
            generation,
            ..service
        };
        let began = match (self.old.began.get(&key), old_area) {
            (Some(&began), _) => Some(began),
            (None, None) => (!filled.takers.is_empty()).then_some(self.now),
            (None, Some(_)) => None,
        };
        self.began.extend(began.map(|began| (key.clone(), began)));
        let done = match old_area {
            _ if none_of_this_family => service,
            Some(area) if area.len == nat.ring_size && self.old.filled.get(&key) == Some(&filled) => {
                self.settle(area);
                with(area, before.generation)
            }
            // Nobody takes new flows and nobody ever did: no ring is needed to say so.
            None if filled.takers.is_empty() => service,
            _ => {
                let ring = |cause| Error::Ring {
                    service: name.clone(),
                    size: nat.ring_size,
                    cause,
                };
                let current =
                    rings::fill(self.limits.hash_key, nat.ring_size, &filled.takers).map_err(ring)?;
                let old_slots = old_area.map(|area| (self.read)(area)).unwrap_or_default();
                let young = began.is_some_and(|began| self.now.saturating_sub(began) < YOUNG);
                let slots = rings::follow(&old_slots, &current, self.now, self.limits.horizon, young);
                match old_area {
                    Some(area) if old_slots == slots => with(area, before.generation),
                    _ => {
                        let area = self.space.take(nat.ring_size).ok_or_else(|| Error::Full {
                            what: "ring slots",
                            need: self.space.used() + u64::from(nat.ring_size),
                            room: self.limits.ring_slots.into(),
                            mend: "take a smaller ring_size, or fewer L4 services",
                        })?;
                        self.writes.push(Op::WriteRing(area, slots));
                        with(area, before.generation.wrapping_add(1))
                    }
                }
            }
        };
        self.filled.insert(key, (filled, done));
        Ok(done)
    }

    /// Lets old changes go, so that packets of their slots read no clock any more.
    fn settle(&mut self, area: Area) {
        let settled = rings::settled(&(self.read)(area), self.now, self.limits.horizon);
        if !settled.is_empty() {
            let place = |(i, slot)| (area.offset.saturating_add(i), slot);
            self.writes
                .push(Op::SettleSlots(settled.into_iter().map(place).collect()));
        }
    }
}

#[cfg(test)]
mod tests;
