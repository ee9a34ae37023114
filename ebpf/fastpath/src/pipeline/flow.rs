//! The flow rule: which backend takes a packet.
//!
//! A look-up in a big flow table is a cache miss and costs more than all the rest, so the table is asked only when it can
//! change the answer: when the flow's slot of the ring changed a short while ago. Otherwise the ring alone decides, and
//! the cost does not grow with the number of flows.
//!
//! | packet | slot never changed, or longer ago than `horizon` | changed within `horizon` |
//! |---|---|---|
//! | SYN | current, recorded | current, recorded |
//! | TCP | current; no clock, no table | the flow's backend if recorded; else the previous one within `tcp_grace`; else current |
//! | UDP | current; no clock, no table | the same with `udp_grace`; a flow taken by the previous one is recorded |
//!
//! A recorded backend that is dead is replaced by the current one, in the record too. Recording is limited per CPU and
//! second, so that a flood of SYNs cannot push out the flows that are real: beyond the limit flows are forwarded
//! unrecorded, and follow their slot when it changes.

use weir_abi::{Backend, FlowState, Note, Reason, Settings, Slot, maps::backend::ALIVE};

use crate::{
    parse::Packet,
    tables::{Tables, within},
};

/// The backend that takes a packet.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    /// Its index.
    pub(super) index: u32,
    /// It itself, alive.
    pub(super) backend: Backend,
    /// Counts as a flow's first packet.
    pub(super) new_flow: bool,
}

/// Chooses by the rule above.
#[inline(always)]
pub(super) fn choose<T: Tables>(
    packet: &Packet,
    slot: Slot,
    settings: &Settings,
    tables: &mut T,
) -> Result<Chosen, Reason> {
    if packet.syn {
        let chosen = current(slot, tables)?;
        let now = tables.now();
        record(packet, chosen.index, now, settings, tables);
        return Ok(Chosen {
            new_flow: true,
            ..chosen
        });
    }
    if slot.changed == 0 {
        return current(slot, tables);
    }
    let now = tables.now();
    // The kernel's coarse clock may lag behind the one the writer read.
    let age = now.saturating_sub(slot.changed);
    if age > settings.horizon {
        return current(slot, tables);
    }
    tables.note(Note::FlowLookup);
    if let Some(state) = tables.flow(&{ packet.flow }) {
        tables.note(Note::FlowHit);
        if let Some(backend) = alive(state.backend, tables) {
            return Ok(Chosen {
                index: state.backend,
                backend,
                new_flow: false,
            });
        }
        let chosen = current(slot, tables)?;
        let state = FlowState {
            backend: chosen.index,
            recorded: now,
        };
        // Not under the limit: only a flow that is recorded already gets here, and once per death of its backend.
        if !tables.record_flow(&{ packet.flow }, &state) {
            tables.note(Note::FlowRecordFailed);
        }
        tables.note(Note::FlowRemapped);
        return Ok(chosen);
    }
    let grace = if packet.tcp {
        settings.tcp_grace
    } else {
        settings.udp_grace
    };
    if age <= grace {
        let index = slot.previous as u32;
        if let Some(backend) = alive(index, tables) {
            // UDP has no first packet that would have been recorded: from here on the flow is known to be an old one.
            let new_flow = !packet.tcp && record(packet, index, now, settings, tables);
            return Ok(Chosen {
                index,
                backend,
                new_flow,
            });
        }
    }
    current(slot, tables)
}

/// The slot's present backend. It may be dead for the moment between its death and the ring's change: then the packet is
/// lost rather than sent to it.
#[inline(always)]
fn current<T: Tables>(slot: Slot, tables: &mut T) -> Result<Chosen, Reason> {
    let index = slot.current as u32;
    match alive(index, tables) {
        Some(backend) => Ok(Chosen {
            index,
            backend,
            new_flow: false,
        }),
        None => Err(Reason::NoBackend),
    }
}

/// The backend, if there is one and it takes the flows it has.
#[inline(always)]
fn alive<T: Tables>(index: u32, tables: &mut T) -> Option<Backend> {
    if index == 0 {
        return None;
    }
    let backend = tables.backend(index)?;
    if backend.flags & ALIVE == 0 {
        return None;
    }
    Some(backend)
}

/// Records a flow, within the limit. Whether it was recorded.
#[inline(always)]
fn record<T: Tables>(packet: &Packet, backend: u32, now: u32, settings: &Settings, tables: &mut T) -> bool {
    let within = match tables.record_limit() {
        Some(window) => within(window, now, settings.record_limit),
        None => false,
    };
    if !within {
        tables.note(Note::FlowRecordLimited);
        return false;
    }
    if !tables.record_flow(
        &{ packet.flow },
        &FlowState {
            backend,
            recorded: now,
        },
    ) {
        tables.note(Note::FlowRecordFailed);
        return false;
    }
    tables.note(Note::FlowRecorded);
    true
}
