//! Ways out of the box into the maps: carries out what `nexthops` plans, and finds out what an earlier process left.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::NextHop;

use super::Datapath;
use crate::{
    error::MapError,
    nexthops::{self, Held, Lack, Numbers, Room, Step},
    routing::{Net, Ways},
    sys,
    tables::Tables,
};

/// How many backends have a way that is known in advance.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NextHops {
    /// Packets to them follow it.
    pub resolved: u64,
    /// For packets to them the kernel's routes are asked.
    pub asked: u64,
}

impl Datapath {
    /// Makes these the ways that packets take. Writes only what changed; see `nexthops` for the order.
    ///
    /// # Errors
    /// When a map cannot be read or written; then the maps are read again by the next call, which carries on.
    pub fn set_ways(&mut self, ways: &Ways) -> Result<(), MapError> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.take_over(true)?,
        };
        let now = sys::monotonic_seconds();
        let held = match self.held.take() {
            Some(held) => held,
            None => read(
                &self.tables,
                state.backends.values().map(|b| b.next_hop).collect(),
                now,
            )?,
        };
        let room = Room {
            next_hops: self.tables.next_hops.shape().max_entries,
            routes: self.tables.routes.shape().max_entries,
            vlans: self.tables.vlans.shape().max_entries,
        };
        let plan = nexthops::plan(&held, ways, &state.backends, room, now);
        for step in &plan.steps {
            match step {
                Step::SetNextHop(number, way) => self.tables.next_hops.set(number, way)?,
                Step::SetVlan(index, vlan) => self.tables.vlans.set(index, vlan)?,
                Step::SetBackend(index, backend) => {
                    self.tables.backends.set(index, backend)?;
                    state.backends.insert(*index, *backend);
                }
                Step::SetRoute(net, number) => self.tables.routes.set(&net.prefix(), number)?,
                Step::DeleteRoute(net) => drop(self.tables.routes.delete(&net.prefix())?),
                Step::DeleteVlan(index) => drop(self.tables.vlans.delete(index)?),
            }
        }
        if !plan.steps.is_empty() {
            tracing::debug!(
                operations = plan.steps.len(),
                next_hops = plan.next.numbers.len(),
                backends = plan.numbers.len(),
                networks = plan.next.routes.len(),
                vlans = plan.next.vlans.len(),
                "ways out changed"
            );
        }
        if plan.next.lack != held.lack {
            complain(plan.next.lack, room);
        }
        state.next_hops = plan.numbers;
        self.state = Some(state);
        self.held = Some(plan.next);
        Ok(())
    }

    /// How many backends have a way that is known in advance.
    pub fn next_hops(&self) -> NextHops {
        let mut count = NextHops::default();
        for backend in self.state.iter().flat_map(|state| state.backends.values()) {
            if backend.next_hop == 0 {
                count.asked += 1;
            } else {
                count.resolved += 1;
            }
        }
        count
    }
}

/// Says what there is no room for. What has no entry is asked of the kernel, so it works all the same.
fn complain(lack: Lack, room: Room) {
    if lack.next_hops != 0 {
        tracing::warn!(
            without = lack.next_hops,
            room = room.next_hops,
            "more next hops than fit: the kernel is asked for the rest packet by packet, which is slower"
        );
    }
    if lack.routes != 0 {
        tracing::warn!(
            networks = lack.routes,
            room = room.routes,
            "more routes than fit: the kernel is asked for the way of each reply, which is slower"
        );
    }
    if lack.vlans != 0 {
        tracing::warn!(
            without = lack.vlans,
            room = room.vlans,
            "more VLAN devices than fit: packets that the kernel routes by the rest are lost"
        );
    }
}

/// What an earlier process has left in the maps; `named` are the numbers that backends name.
fn read(tables: &Tables, mut named: BTreeSet<u32>, now: u32) -> Result<Held, MapError> {
    let (mut routes, mut strange) = (BTreeMap::new(), Vec::new());
    tables
        .routes
        .each(|prefix, &number| match Net::from_prefix(prefix) {
            Some(net) => drop(routes.insert(net, number)),
            None => strange.push(*prefix),
        })?;
    for prefix in strange {
        tables.routes.delete(&prefix)?;
    }
    named.extend(routes.values());
    named.remove(&0);
    let mut vlans = BTreeMap::new();
    tables.vlans.each(|&index, &vlan| {
        vlans.insert(index, vlan);
    })?;
    let mut entries = Vec::new();
    for number in 1..tables.next_hops.shape().max_entries {
        let entry = tables.next_hops.get(&number)?;
        entries.extend(
            entry
                .filter(|way| *way != NextHop::default())
                .map(|way| (number, way)),
        );
    }
    Ok(Held {
        numbers: Numbers::found(entries, &named, now),
        routes,
        vlans,
        lack: Lack::default(),
    })
}
