//! Flows of one box in the tables of another: which are told, what becomes of those that were heard of.
//!
//! What goes over the wire, and when, is [`weir_core::sync`]'s. Owns its tie to the maps: [`scan`] reads the tables of flows
//! and says what a peer has to know, [`take`] writes what a peer has said, [`driver`] is the thread that does both and has
//! the socket. Works on another thread than the [`Datapath`](crate::Datapath)'s, with descriptors of its own.
//!
//! # Told and own
//! An entry that was heard of is marked ([`flow::TOLD`], [`nat::TOLD`](weir_abi::maps::nat::TOLD)) and is this box's own from the first packet that it
//! sees of it. A box tells of its own alone; so of two boxes one tells of a flow, and when that forgets it, the other does
//! too. What a process told that is gone becomes the listener's own, for there is nobody left to tell of it.
//!
//! # Slots
//! The flow table is asked only about slots that have changed. The box that hears of a flow may know of no change: it has
//! started since. So a slot that would place a flow elsewhere is marked as changed, with its present backend as the one
//! before: what the table does not know stays where it is. [`RingMemory`] has another writer, the owner of the maps; a slot
//! is exchanged only if it is as it was read; and each time that rings have changed all marks are looked after, since a box
//! may hear of flows before it knows of its backends.
//!
//! # Ports of `full-nat`
//! Both boxes have the same source addresses, which are with one of them at a time. A port is in use on a box as long as
//! `NAT_REPLIES` has an entry of it; so what is heard of takes its port, out of whichever CPU's block, and needs no
//! allocator of its own. Ports are not divided between the boxes: half of them would lie idle. What begins in the last
//! moment before a box dies nobody was told of. Its port can be given to another flow towards the same backend, which then
//! refuses a first SYN and is asked again.

pub mod driver;
mod scan;
mod take;
mod view;

use std::collections::HashMap;

use weir_abi::{
    Addr16, FlowKey, FlowState, NatFlow, NatReply, Service, ServiceKey, Settings, Slot,
    maps::{flow, port_proto, service},
};
use weir_fastpath::pipeline::place;

pub use self::view::View;
use crate::{error::MapError, table::RingMemory, table::Table, tables::Tables};

/// The maps, for one other thread.
#[derive(Debug)]
pub struct SyncTables {
    flows: Table<FlowKey, FlowState>,
    nat_flows: Table<FlowKey, NatFlow>,
    nat_replies: Table<FlowKey, NatReply>,
    services: Table<ServiceKey, Service>,
    settings: Table<u32, Settings>,
    rings: RingMemory,
}

impl SyncTables {
    pub(crate) fn new(tables: &Tables) -> Result<Self, MapError> {
        Ok(Self {
            flows: tables.flows.duplicate()?,
            nat_flows: tables.nat_flows.duplicate()?,
            nat_replies: tables.nat_replies.duplicate()?,
            services: tables.services.duplicate()?,
            settings: tables.settings.duplicate()?,
            rings: tables.rings.duplicate()?,
        })
    }

    fn settings(&self) -> Result<Settings, MapError> {
        Ok(self.settings.get(&0)?.unwrap_or_default())
    }

    /// The slot of a flow: its index and what it is now.
    fn slot(&self, key: &FlowKey, service: &Service, settings: &Settings) -> Option<(u32, Slot)> {
        let index = place(key, service, settings)?;
        Some((index, self.rings.slot(index)?))
    }

    /// Has the flow table asked about a flow's slot, if that would place it elsewhere than at this backend.
    fn mark(&self, key: &FlowKey, service: &Service, backend: u32, settings: &Settings, now: u32) {
        let Some((at, slot)) = self.slot(key, service, settings) else {
            return;
        };
        if u32::from(slot.current) != backend
            && let Some(marked) = marked(slot, now, settings)
        {
            self.rings.exchange(at, slot, marked);
        }
    }
}

/// Services as the programs find them, looked up once.
#[derive(Default, Debug)]
struct Services(HashMap<ServiceKey, Option<Service>>);

impl Services {
    /// The service of a flow: of its port, or of every port.
    fn of(&mut self, key: &FlowKey, tables: &SyncTables) -> Result<Option<Service>, MapError> {
        let [_, _, d0, d1] = key.ports.to_ne_bytes();
        let named = |port| ServiceKey {
            addr: key.dst,
            port_proto: port_proto(port, key.proto as u8),
        };
        let wanted = named(u16::from_ne_bytes([d0, d1]));
        if let Some(found) = self.0.get(&wanted) {
            return Ok(*found);
        }
        let found = match tables.services.get(&wanted)? {
            Some(found) => Some(found),
            None => tables.services.get(&named(0))?,
        };
        self.0.insert(wanted, found);
        Ok(found)
    }
}

/// Whether a recorded flow is this box's own.
const fn is_own(state: &FlowState) -> bool {
    state.service & flow::TOLD == 0 || state.packets > 0
}

/// The bits of a service's flags that `NAT_REPLIES` takes over.
const fn mss(service: &Service) -> u32 {
    service.flags & (u32::MAX << service::MSS_SHIFT)
}

/// Ports as they lie in a packet, from host order.
const fn ports(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Both ports of a key, in host order.
const fn split(ports: u32) -> (u16, u16) {
    let [a, b, c, d] = ports.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// An address and port of a key.
fn end(addr: Addr16, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(addr.to_ip(), port)
}

/// The slot, marked as changed, so that the table is asked; None: it is asked already. What the table does not know stays with
/// the present backend, and nothing is recorded for the mark's sake: it lies as far back as that takes.
fn marked(slot: Slot, now: u32, settings: &Settings) -> Option<Slot> {
    let age = now.saturating_sub(slot.changed);
    if slot.changed != 0 && age <= settings.horizon {
        return None;
    }
    let grace = settings.tcp_grace.max(settings.udp_grace).saturating_add(1);
    let back = grace.min(settings.horizon / 2);
    Some(Slot {
        current: slot.current,
        previous: slot.current,
        changed: now.saturating_sub(back).max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_marked_so_that_the_table_is_asked_and_nothing_else_changes() {
        let settings = Settings {
            tcp_grace: 60,
            udp_grace: 10,
            horizon: 3600,
            ..Settings::default()
        };
        let slot = |previous, changed| Slot {
            current: 7,
            previous,
            changed,
        };
        for (before, now, after) in [
            (slot(0, 0), 10_000, Some(slot(7, 9_939))),
            (slot(3, 6_399), 10_000, Some(slot(7, 9_939))),
            (slot(3, 6_400), 10_000, None),
            (slot(3, 9_999), 10_000, None),
            (slot(0, 0), 5, Some(slot(7, 1))),
        ] {
            assert_eq!(marked(before, now, &settings), after, "{before:?}");
        }
        let short = Settings {
            horizon: 20,
            ..settings
        };
        assert_eq!(marked(slot(0, 0), 100, &short), Some(slot(7, 90)));
    }
}
