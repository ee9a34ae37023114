//! A look through the tables of flows, some entries at a time: what a peer has to be told.
//!
//! Told are, of this box's own: flows in slots that have changed, as long as the table is asked about them and says something
//! else than the ring would on the peer; and all flows by `full-nat`. What is new is told by every look of the seconds after,
//! everything else once per [`REFRESH`], each in its own turn, so that all of it is spread evenly.

use std::time::Duration;

use weir_abi::{
    FlowKey, FlowState, NatFlow, NatReply, Settings,
    maps::{action, flow, nat},
};
use weir_core::{
    ids::Protocol,
    sync::{
        Entry, Translation,
        peer::{EXPIRES, REFRESH},
    },
};

use super::{Services, SyncTables, View, end, is_own, ports, split};
use crate::{
    error::MapError,
    sys::{Walk, monotonic_seconds},
};

/// Seconds for which what has changed is told by every look.
const NEW: u32 = 3;

/// Seconds by which the peer may know of a change of a slot later than this box.
const LATER: u32 = 60;

const TCP: u32 = 6;

/// What a look is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum For {
    /// One that has begun to listen: everything, whoever's it is.
    Joining,
    /// Those that listen.
    Listening {
        /// Between these two times of the driver's clock the turn of what is told now lies.
        from: Duration,
        /// See above.
        to: Duration,
        /// What was not told for long has gone: everybody who could tell was there.
        expire: bool,
        /// What was told becomes this box's own.
        adopt: bool,
    },
}

/// A look.
#[derive(Debug)]
pub(super) struct Scan {
    what: For,
    settings: Settings,
    now: u32,
    /// What has changed since then is new.
    since: u32,
    /// None: `FLOWS` is done.
    flows: Option<Walk<FlowKey, FlowState>>,
    nat_flows: Walk<FlowKey, NatFlow>,
}

/// What is done with an entry.
enum Verdict {
    Tell,
    /// It has ended, or has not been told for long.
    Leave,
    Expire,
    Adopt,
}

impl Scan {
    /// `last`: seconds since the look before began.
    pub(super) fn new(what: For, last: u32, tables: &SyncTables) -> Result<Self, MapError> {
        let now = monotonic_seconds();
        Ok(Self {
            what,
            settings: tables.settings()?,
            now,
            since: now.saturating_sub(last.saturating_add(NEW)),
            flows: Some(Walk::new()),
            nat_flows: Walk::new(),
        })
    }

    /// Goes on with it: entries for the peers. False: that was all.
    pub(super) fn step(
        &mut self,
        tables: &SyncTables,
        view: &View,
        mut tell: impl FnMut(&Entry),
    ) -> Result<bool, MapError> {
        let mut services = Services::default();
        let mut failed = None;
        if let Some(mut walk) = self.flows.take() {
            let mut others = Vec::new();
            let more = tables.flows.step(&mut walk, |key, state| {
                match self.of_flow(key, state, tables, view, &mut services) {
                    Ok((Verdict::Tell, Some(entry))) => tell(&entry),
                    Ok((verdict @ (Verdict::Expire | Verdict::Adopt), _)) => {
                        others.push((*key, *state, verdict));
                    }
                    Ok((Verdict::Tell | Verdict::Leave, _)) => {}
                    Err(error) => failed = Some(error),
                }
            })?;
            for (key, state, verdict) in others {
                // A packet may have come since.
                if tables.flows.get(&key)? != Some(state) {
                    continue;
                }
                if matches!(verdict, Verdict::Expire) {
                    tables.flows.delete(&key)?;
                } else {
                    // Not looked up here ever: whoever has seen it knows better.
                    let adopted = FlowState {
                        service: state.service & !flow::TOLD,
                        seen: state.recorded,
                        ..state
                    };
                    tables.flows.set(&key, &adopted)?;
                }
            }
            if more {
                self.flows = Some(walk);
            }
            return failed.map_or(Ok(true), Err);
        }
        let mut picked = Vec::new();
        let mut walk = std::mem::replace(&mut self.nat_flows, Walk::new());
        let more = tables.nat_flows.step(&mut walk, |key, flow| {
            if self.looks_at(key, flow) {
                picked.push((*key, *flow));
            }
        })?;
        self.nat_flows = walk;
        for (key, flow) in picked {
            self.with_reply(&key, &flow, tables, view, &mut tell)?;
        }
        Ok(more)
    }

    /// Whether it is a key's turn.
    fn is_turn(&self, key: &FlowKey) -> bool {
        let For::Listening { from, to, .. } = self.what else {
            return true;
        };
        let span = REFRESH.as_millis();
        let [s0, s1, s2, s3] = key.src.words;
        let mixed = (s0 ^ s1 ^ s2 ^ s3)
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(key.ports)
            .wrapping_mul(0x85eb_ca6b);
        let phase = u128::from(mixed >> 8) % span;
        let turns = |at: Duration| (at.as_millis() + span - phase) / span;
        turns(from) != turns(to)
    }

    fn of_flow(
        &self,
        key: &FlowKey,
        state: &FlowState,
        tables: &SyncTables,
        view: &View,
        services: &mut Services,
    ) -> Result<(Verdict, Option<Entry>), MapError> {
        // The relay's, which are only counted.
        if state.backend == 0 {
            return Ok((Verdict::Leave, None));
        }
        if !is_own(state)
            && let For::Listening { expire, adopt, .. } = self.what
        {
            if let Some(service) = services.of(key, tables)? {
                tables.mark(key, &service, state.backend, &self.settings, self.now);
            }
            let silent = self.now.saturating_sub(state.seen);
            return Ok((told(silent, expire, adopt), None));
        }
        let ended = state.service & flow::CLOSED != 0;
        let changed = state.recorded.max(if ended { state.seen } else { 0 });
        let Some(service) = services.of(key, tables)? else {
            return Ok((Verdict::Leave, None));
        };
        if !matches!(service.action, action::NAT | action::DSR | action::IPIP) {
            return Ok((Verdict::Leave, None));
        }
        let Some((_, slot)) = tables.slot(key, &service, &self.settings) else {
            return Ok((Verdict::Leave, None));
        };
        let age = self.now.saturating_sub(slot.changed);
        let grace = self.settings.tcp_grace.max(self.settings.udp_grace);
        let by_ring = slot.changed == 0
            || age > self.settings.horizon
            // A peer that knows of the change, too, takes what it does not know for older than that.
            || (u32::from(slot.current) == state.backend && age > grace.saturating_add(LATER));
        let is_new = changed.max(slot.changed) >= self.since;
        let wanted = match self.what {
            For::Joining => !ended,
            For::Listening { .. } => is_new || (!ended && self.is_turn(key)),
        };
        let Some(backend) = view.backend(state.backend).filter(|_| wanted && !by_ring) else {
            return Ok((Verdict::Leave, None));
        };
        let entry = Entry {
            ended,
            ..self.entry(key, backend, state.recorded, state.seen)
        };
        Ok((Verdict::Tell, Some(entry)))
    }

    fn entry(&self, key: &FlowKey, backend: std::net::SocketAddr, recorded: u32, seen: u32) -> Entry {
        let (client, vip) = split(key.ports);
        Entry {
            protocol: if key.proto == TCP {
                Protocol::Tcp
            } else {
                Protocol::Udp
            },
            client: end(key.src, client),
            vip: end(key.dst, vip),
            backend,
            age: self.now.saturating_sub(recorded),
            idle: self.now.saturating_sub(seen.max(recorded)),
            ended: false,
            translation: None,
        }
    }

    /// Whether a flow by `full-nat` is looked at: its other entry is elsewhere in memory.
    fn looks_at(&self, key: &FlowKey, flow: &NatFlow) -> bool {
        match self.what {
            For::Joining | For::Listening { adopt: true, .. } => true,
            For::Listening { .. } => flow.recorded >= self.since || self.is_turn(key),
        }
    }

    fn with_reply(
        &self,
        key: &FlowKey,
        flow: &NatFlow,
        tables: &SyncTables,
        view: &View,
        tell: &mut impl FnMut(&Entry),
    ) -> Result<(), MapError> {
        let Some(backend) = view.backend(flow.backend) else {
            return Ok(());
        };
        let reply_key = reply_key(key, flow, backend);
        let Some(reply) = tables.nat_replies.get(&reply_key)? else {
            return Ok(());
        };
        let mut verdict = Verdict::Tell;
        if let For::Listening { expire, adopt, .. } = self.what
            && reply.flags & nat::TOLD != 0
        {
            // One that has ended rests, and then the sweep takes it.
            verdict = match reply.closed {
                0 => told(self.now.saturating_sub(reply.seen), expire, adopt),
                _ => Verdict::Leave,
            };
        }
        let ended = reply.closed != 0;
        if ended && self.what == For::Joining {
            verdict = Verdict::Leave;
        }
        match verdict {
            Verdict::Leave => {}
            Verdict::Expire | Verdict::Adopt => {
                if tables.nat_replies.get(&reply_key)? != Some(reply) {
                    return Ok(());
                }
                if matches!(verdict, Verdict::Adopt) {
                    let flags = reply.flags & !nat::TOLD;
                    tables.nat_replies.set(&reply_key, &NatReply { flags, ..reply })?;
                } else {
                    // In the sweep's order.
                    tables.nat_flows.delete(key)?;
                    tables.nat_replies.delete(&reply_key)?;
                }
            }
            Verdict::Tell => tell(&Entry {
                ended,
                translation: Some(Translation {
                    source: end(flow.source, u16::from_be(flow.port as u16)),
                    client_fin: reply.flags & nat::FIN_IN != 0,
                    backend_fin: reply.flags & nat::FIN_OUT != 0,
                    answered: reply.flags & nat::ANSWERED != 0,
                    by_rst: reply.flags & nat::BY_RST != 0,
                }),
                ..self.entry(
                    key,
                    backend,
                    flow.recorded,
                    flow.seen.max(reply.seen).max(reply.closed),
                )
            }),
        }
        Ok(())
    }
}

/// What becomes of what was told, so many seconds ago.
const fn told(ago: u32, expire: bool, adopt: bool) -> Verdict {
    if adopt {
        Verdict::Adopt
    } else if expire && ago as u64 > EXPIRES.as_secs() {
        Verdict::Expire
    } else {
        Verdict::Leave
    }
}

/// The key of a flow's replies.
pub(super) fn reply_key(key: &FlowKey, flow: &NatFlow, backend: std::net::SocketAddr) -> FlowKey {
    let (_, vip) = split(key.ports);
    let port = match backend.port() {
        0 => vip,
        port => port,
    };
    FlowKey {
        src: backend.ip().into(),
        dst: flow.source,
        ports: ports(port, u16::from_be(flow.port as u16)),
        proto: key.proto,
    }
}
