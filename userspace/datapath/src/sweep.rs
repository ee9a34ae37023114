//! Keeping the tables of flows in order: what has ended goes, and a table that fills up loses its oldest.
//!
//! Owns when and in which order entries are read and deleted; which ones is [`judge`]'s. Counts on the way what metrics
//! show: how full the tables are, how many ports `full-nat` has in use, and when they will run out. A [`Sweeper`] holds
//! descriptors of its own, since it works on another thread than the [`Datapath`](crate::Datapath)'s. It never blocks
//! packets: the programs go on reading and writing, and what they write meanwhile is left alone.

mod judge;
mod ports;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use nix::time::ClockId;
use weir_abi::{
    Backend, ClientKey, ClientState, FlowKey, FlowState, NatFlow, NatReply, NatSource, ServiceLimits,
    Settings, names,
};

pub(crate) use self::judge::flow_of;
use self::judge::{Cutoff, Known, counts_for, gives_back, is_done, is_orphan, is_same, nat_counts_for};
pub use self::ports::{PortUse, Ports};
use crate::{error::MapError, flows::reply_key, sys, table::Table, tables::Tables};

/// Share of one CPU that sweeping may take.
const SHARE: u32 = 100;
/// However little there is to do, it is done this often: whoever looks at the metrics wants fresh ones.
const SHORTEST: Duration = Duration::from_secs(5);
/// However much there is to do, no longer passes between two sweeps.
const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait after a sweep that took so much CPU time, so that sweeping takes a hundredth of one CPU.
pub fn pause(took: Duration) -> Duration {
    took.saturating_mul(SHARE).clamp(SHORTEST, LONGEST)
}

/// What a sweep found and did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Swept {
    /// Each table of flows.
    pub tables: Vec<SweptTable>,
    /// The ports of `full-nat`, by source address.
    pub ports: Vec<PortUse>,
    /// Networks of clients whose number of open connections was set right.
    pub recounted: u64,
    /// CPU time that it took.
    pub took: Duration,
}

/// A table that was swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SweptTable {
    /// Its name.
    pub name: &'static str,
    /// Entries it has room for.
    pub capacity: u64,
    /// Entries that are left.
    pub entries: u64,
    /// Entries that had ended, or were of no use.
    pub ended: u64,
    /// Entries that had to make room.
    pub evicted: u64,
}

/// Numbers that stand for somebody, and blocks of ports that services have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Live {
    pub(crate) services: HashSet<u32>,
    pub(crate) backends: HashSet<u32>,
    pub(crate) sources: Vec<NatSource>,
}

impl Known for Live {
    fn service(&self, id: u32) -> bool {
        self.services.contains(&id)
    }

    fn backend(&self, index: u32) -> bool {
        self.backends.contains(&index)
    }
}

/// The tables, ready to be swept on any thread, once.
#[derive(Debug)]
pub struct Sweeper {
    flows: Table<FlowKey, FlowState>,
    nat_flows: Table<FlowKey, NatFlow>,
    nat_replies: Table<FlowKey, NatReply>,
    clients: Table<ClientKey, ClientState>,
    limits: Table<u32, ServiceLimits>,
    backends: Table<u32, Backend>,
    settings: Table<u32, Settings>,
    live: Live,
}

impl Sweeper {
    pub(crate) fn new(tables: &Tables, live: Live) -> Result<Self, MapError> {
        Ok(Self {
            flows: tables.flows.duplicate()?,
            nat_flows: tables.nat_flows.duplicate()?,
            nat_replies: tables.nat_replies.duplicate()?,
            clients: tables.clients.duplicate()?,
            limits: tables.service_limits.duplicate()?,
            backends: tables.backends.duplicate()?,
            settings: tables.settings.duplicate()?,
            live,
        })
    }

    /// Sweeps all tables once. With a million flows this takes half a second of CPU time.
    ///
    /// # Errors
    /// When a map cannot be read or written; what was done by then stays done.
    pub fn sweep(self) -> Result<Swept, MapError> {
        let begin = cpu_time();
        let now = sys::monotonic_seconds();
        let mut limits = HashMap::new();
        for &id in &self.live.services {
            if let Some(found) = self.limits.get(&id)? {
                limits.insert(id, found);
            }
        }
        let mut open = HashMap::new();
        let flows = self.sweep_flows(now, &limits, &mut open)?;
        let (nat_flows, nat_replies, used) = self.sweep_nat(now, &limits, &mut open)?;
        let recounted = self.recount(&open)?;
        Ok(Swept {
            tables: vec![flows, nat_flows, nat_replies],
            ports: used.count(),
            recounted,
            took: cpu_time().saturating_sub(begin),
        })
    }

    /// `FLOWS`. `open` takes in how many connections of it each network of clients has open.
    fn sweep_flows(
        &self,
        now: u32,
        limits: &HashMap<u32, ServiceLimits>,
        open: &mut HashMap<ClientKey, u32>,
    ) -> Result<SweptTable, MapError> {
        let capacity = u64::from(self.flows.shape().max_entries);
        let mut recorded: BTreeMap<u32, u64> = BTreeMap::new();
        let done = |key: &FlowKey, state: &FlowState| {
            if is_done(state, now, &self.live) {
                return true;
            }
            *recorded.entry(state.recorded).or_default() += 1;
            if let Some(client) = counts_for(key, state, now, |id| limits.get(&id).copied()) {
                *open.entry(client).or_default() += 1;
            }
            false
        };
        let ended = self.flows.delete_if_still(done, is_same)?;
        let evicted = match Cutoff::new(&recorded, capacity) {
            Some(mut cutoff) => self
                .flows
                .delete_if_still(|_, state| cutoff.takes(state), is_same)?,
            None => 0,
        };
        let seen: u64 = recorded.values().sum();
        Ok(SweptTable {
            name: names::FLOWS,
            capacity,
            entries: seen.saturating_sub(evicted as u64),
            ended: ended as u64,
            evicted: evicted as u64,
        })
    }

    /// Sets right how many connections the networks of clients have open: an end that no program saw is not taken off.
    fn recount(&self, open: &HashMap<ClientKey, u32>) -> Result<u64, MapError> {
        let mut wrong = Vec::new();
        self.clients.each(|key, state| {
            // Of a service that came since, nothing was counted.
            let counted = self.live.services.contains(&key.service);
            if counted && open.get(key).copied().unwrap_or(0) != state.open {
                wrong.push(*key);
            }
        })?;
        let mut set = 0;
        for key in wrong {
            // Read anew: a connection that began since is in `started`, and is not to be lost from there.
            let Some(state) = self.clients.get(&key)? else {
                continue;
            };
            let open = open.get(&key).copied().unwrap_or(0);
            self.clients.set(&key, &ClientState { open, ..state })?;
            set += 1;
        }
        Ok(set)
    }

    /// `NAT_FLOWS` and `NAT_REPLIES`; also what is left of the replies. `open` as in [`Self::sweep_flows`].
    fn sweep_nat(
        &self,
        now: u32,
        limits: &HashMap<u32, ServiceLimits>,
        open: &mut HashMap<ClientKey, u32>,
    ) -> Result<(SweptTable, SweptTable, ports::Used), MapError> {
        let settings = self.settings.get(&0)?.unwrap_or_default();
        let mut used = ports::Used::new(self.live.sources.clone());
        let mut done = Vec::new();
        let mut failed = None;
        let (mut flows, mut replies) = (0_u64, 0_u64);
        self.nat_replies.each(|key, reply| {
            replies += 1;
            let flow = flow_of(key, reply);
            match self.nat_flows.get(&flow) {
                Ok(there) => {
                    // A flow that was given another port since has left this reply behind.
                    let there = there.filter(|there| self.leads_to(&flow, there, key));
                    if gives_back(key, reply, there.as_ref(), now, &settings, &self.live) {
                        done.push((*key, *reply, there.is_some()));
                    } else {
                        used.add(key, reply.closed != 0);
                        if let Some(client) = nat_counts_for(reply, |id| limits.get(&id).copied()) {
                            *open.entry(client).or_default() += 1;
                        }
                    }
                }
                Err(e) => failed = Some(e),
            }
        })?;
        let (mut flows_gone, mut replies_gone) = (0, 0);
        for (key, reply, paired) in done {
            // The programs may have given the port to another flow since it was read: that one is theirs.
            if self.nat_replies.get(&key)? != Some(reply) {
                continue;
            }
            // The flow first: without it the programs make a new pair, without the reply alone they would lose answers.
            // A tuple that was used again meanwhile leads to another port by now, and has begun.
            let flow = flow_of(&key, &reply);
            if paired
                && self
                    .nat_flows
                    .get(&flow)?
                    .is_some_and(|there| self.leads_to(&flow, &there, &key))
            {
                flows_gone += u64::from(self.nat_flows.delete(&flow)?);
            }
            replies_gone += u64::from(self.nat_replies.delete(&key)?);
        }
        let mut orphans = Vec::new();
        self.nat_flows.each(|key, flow| {
            flows += 1;
            match self.reply_of(key, flow) {
                Ok(reply) if is_orphan(flow, reply.as_ref(), now) => orphans.push((*key, *flow)),
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
        })?;
        for (key, flow) in orphans {
            if self.nat_flows.get(&key)? == Some(flow) && self.nat_flows.delete(&key)? {
                flows_gone += 1;
                flows -= 1;
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let table = |name, capacity: u32, entries, ended| SweptTable {
            name,
            capacity: capacity.into(),
            entries,
            ended,
            evicted: 0,
        };
        let room = |table: &sys::MapShape| table.max_entries;
        Ok((
            table(names::NAT_FLOWS, room(self.nat_flows.shape()), flows, flows_gone),
            table(
                names::NAT_REPLIES,
                room(self.nat_replies.shape()),
                replies.saturating_sub(replies_gone),
                replies_gone,
            ),
            used,
        ))
    }

    fn reply_of(&self, key: &FlowKey, flow: &NatFlow) -> Result<Option<NatReply>, MapError> {
        match self.backends.get(&flow.backend)? {
            Some(backend) => self.nat_replies.get(&reply_key(key, flow, &backend)),
            None => Ok(None),
        }
    }

    /// Whether a flow's port is that of this reply. A backend whose index stands for another address since has none.
    fn leads_to(&self, key: &FlowKey, flow: &NatFlow, reply: &FlowKey) -> bool {
        let backend = self.backends.get(&flow.backend).ok().flatten();
        backend.is_some_and(|backend| reply_key(key, flow, &backend) == *reply)
    }
}

/// CPU time of this thread.
pub(crate) fn cpu_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID
        .now()
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeping_takes_a_hundredth_of_one_cpu() {
        for (took_ms, want_ms) in [
            (0, 5_000),
            (10, 5_000),
            (50, 5_000),
            (300, 30_000),
            (1_000, 100_000),
            (60_000, 300_000),
        ] {
            let took = Duration::from_millis(took_ms);
            assert_eq!(pause(took), Duration::from_millis(want_ms), "{took_ms} ms");
        }
    }
}
