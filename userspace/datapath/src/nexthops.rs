//! From ways to map operations: `NEXT_HOPS`, `VLANS`, `ROUTES`, and what backends name of them.
//!
//! Pure: [`plan`] is told what the maps hold ([`Held`]) and what ways there are, and says what to write, in order. A
//! packet may arrive between any two operations, so:
//!
//! - an entry of `NEXT_HOPS` never changes while something names it: a new way is written under a number that nothing
//!   names, and a number that is not named any more rests for [`REST`] seconds, for packets that have just read it;
//! - a client's packet always finds the way of before, the way of afterwards, or none (then the kernel is asked): see
//!   [`routes`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use weir_abi::{Backend, NextHop, Vlan};

use crate::routing::{Net, Ways};

/// Seconds, as CLOCK_MONOTONIC counts whole ones, for which a number rests: at least one second passes.
const REST: u32 = 2;

/// Of `ROUTES` this part at most is filled, as numerator and denominator: a change needs room for the new beside the old.
const FILL: (u64, u64) = (3, 4);

/// Numbers of `NEXT_HOPS`: which stands for which way. 0 stands for none.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Numbers {
    live: HashMap<NextHop, u32>,
    /// Since when each one is not named any more, in seconds of CLOCK_MONOTONIC.
    resting: BTreeMap<u32, u32>,
    /// All from here on were never used.
    fresh: u32,
}

impl Numbers {
    /// The numbers of a map as it was found: its entries but those that are all zero, and the numbers that are named.
    pub(crate) fn found(
        entries: impl IntoIterator<Item = (u32, NextHop)>,
        named: &BTreeSet<u32>,
        now: u32,
    ) -> Self {
        let mut numbers = Self {
            fresh: named.last().map_or(1, |last| last.saturating_add(1)),
            ..Self::default()
        };
        for (number, way) in entries {
            numbers.fresh = numbers.fresh.max(number.saturating_add(1));
            if !named.contains(&number) || numbers.live.contains_key(&way) {
                numbers.resting.insert(number, now);
            } else {
                numbers.live.insert(way, number);
            }
        }
        numbers
    }

    /// The number of a way, and whether its entry is yet to be written. None when all are taken.
    fn give(&mut self, way: NextHop, room: u32, now: u32) -> Option<(u32, bool)> {
        if let Some(&number) = self.live.get(&way) {
            return Some((number, false));
        }
        let fresh = self.fresh.max(1);
        let number = if fresh < room {
            self.fresh = fresh.saturating_add(1);
            fresh
        } else {
            let rested = |since: u32| now.saturating_sub(since) >= REST;
            let (&number, _) = self.resting.iter().find(|(_, since)| rested(**since))?;
            self.resting.remove(&number);
            number
        };
        self.live.insert(way, number);
        Some((number, true))
    }

    /// Lays those to rest that are not among these.
    fn keep(&mut self, named: &BTreeSet<u32>, now: u32) {
        let resting = &mut self.resting;
        self.live.retain(|_, number| {
            let keep = named.contains(number);
            if !keep {
                resting.insert(*number, now);
            }
            keep
        });
    }

    /// How many are in use.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }
}

/// What the maps hold.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) numbers: Numbers,
    pub(crate) routes: BTreeMap<Net, u32>,
    pub(crate) vlans: BTreeMap<u32, Vlan>,
    /// What could not be done for want of room, so that it is said once.
    pub(crate) lack: Lack,
}

/// What there is no room for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Lack {
    /// Ways that have no number.
    pub(crate) next_hops: usize,
    /// Networks, if they are too many for `ROUTES`.
    pub(crate) routes: usize,
    /// VLAN devices beyond those that fit.
    pub(crate) vlans: usize,
}

/// Sizes of the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) next_hops: u32,
    pub(crate) routes: u32,
    pub(crate) vlans: u32,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    SetNextHop(u32, NextHop),
    SetVlan(u32, Vlan),
    SetBackend(u32, Backend),
    SetRoute(Net, u32),
    DeleteRoute(Net),
    DeleteVlan(u32),
}

/// What to do, and what is so afterwards.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) next: Held,
    /// The number for each backend's address that has a way.
    pub(crate) numbers: BTreeMap<IpAddr, u32>,
}

/// Says how the maps get to these ways. `backends` is what `BACKENDS` holds; `now` is in seconds of CLOCK_MONOTONIC.
pub(crate) fn plan(
    held: &Held,
    ways: &Ways,
    backends: &BTreeMap<u32, Backend>,
    room: Room,
    now: u32,
) -> Plan {
    let mut numbers = held.numbers.clone();
    let mut steps = Vec::new();
    let mut lack = Lack::default();
    let mut number = |way: &NextHop| match numbers.give(*way, room.next_hops, now) {
        Some((number, written)) => {
            if written {
                steps.push(Step::SetNextHop(number, *way));
            }
            number
        }
        None => {
            lack.next_hops += 1;
            0
        }
    };
    let mut to_backends: BTreeMap<IpAddr, u32> =
        ways.backends.iter().map(|(to, way)| (*to, number(way))).collect();
    to_backends.retain(|_, number| *number != 0);

    let most = u64::from(room.routes) * FILL.0 / FILL.1;
    let fits = ways.clients.len() as u64 <= most;
    let mut to_clients: BTreeMap<Net, u32> = if fits {
        let number = |way: &Option<NextHop>| way.as_ref().map_or(0, &mut number);
        let numbers = ways.clients.values().map(number);
        ways.clients.keys().copied().zip(numbers).collect()
    } else {
        BTreeMap::new()
    };
    if !fits {
        lack.routes = ways.clients.len();
    } else if (ways.clients.len() + ways.hosts.len()) as u64 <= most {
        // The last to get numbers: a link with very many hosts takes none from routes. What a route says of the very host
        // goes before.
        for (net, way) in ways
            .hosts
            .iter()
            .filter(|(net, _)| !ways.clients.contains_key(net))
        {
            let Some((number, written)) = numbers.give(*way, room.next_hops, now) else {
                continue;
            };
            if written {
                steps.push(Step::SetNextHop(number, *way));
            }
            to_clients.insert(*net, number);
        }
    }
    let vlans: BTreeMap<u32, Vlan> = ways
        .vlans
        .iter()
        .take(room.vlans as usize)
        .map(|(&index, &vlan)| (index, vlan))
        .collect();
    lack.vlans = ways.vlans.len().saturating_sub(vlans.len());

    for (&index, &vlan) in &vlans {
        if held.vlans.get(&index) != Some(&vlan) {
            steps.push(Step::SetVlan(index, vlan));
        }
    }
    for (&index, &backend) in backends {
        let next_hop = to_backends
            .get(&backend.addr.to_ip())
            .copied()
            .unwrap_or_default();
        if backend.next_hop != next_hop {
            steps.push(Step::SetBackend(index, Backend { next_hop, ..backend }));
        }
    }
    routes(&held.routes, &to_clients, room.routes, &mut steps);
    for &index in held.vlans.keys().filter(|index| !vlans.contains_key(index)) {
        steps.push(Step::DeleteVlan(index));
    }

    let named = to_backends.values().chain(to_clients.values()).copied().collect();
    numbers.keep(&named, now);
    Plan {
        steps,
        next: Held {
            numbers,
            routes: to_clients,
            vlans,
            lack,
        },
        numbers: to_backends,
    }
}

/// The way from one set of routes to another, such that every address finds its answer of before, its answer of
/// afterwards, or 0 at each moment:
///
/// 1. unless nothing is deleted, entries that change or go become 0: their networks are asked for;
/// 2. new networks are added as 0;
/// 3. what goes is deleted. All networks of afterwards are there, so what then answers other than 0 answers afterwards
///    too, with the same value;
/// 4. values are written.
fn routes(old: &BTreeMap<Net, u32>, new: &BTreeMap<Net, u32>, room: u32, steps: &mut Vec<Step>) {
    let added = || new.keys().filter(|net| !old.contains_key(net));
    if old.len() + added().count() > room as usize {
        // Not enough room for both: by way of nothing.
        routes(old, &BTreeMap::new(), u32::MAX, steps);
        routes(&BTreeMap::new(), new, u32::MAX, steps);
        return;
    }
    let gone: Vec<_> = old.keys().filter(|net| !new.contains_key(net)).collect();
    // What the entries are while the steps are gone through.
    let mut now = old.clone();
    if !gone.is_empty() {
        for (net, value) in &mut now {
            if *value != 0 && new.get(net) != Some(value) {
                *value = 0;
                steps.push(Step::SetRoute(*net, 0));
            }
        }
    }
    for net in added() {
        now.insert(*net, 0);
        steps.push(Step::SetRoute(*net, 0));
    }
    steps.extend(gone.into_iter().map(|net| Step::DeleteRoute(*net)));
    for (net, value) in new {
        if now.get(net) != Some(value) {
            steps.push(Step::SetRoute(*net, *value));
        }
    }
}

#[cfg(test)]
mod tests;
