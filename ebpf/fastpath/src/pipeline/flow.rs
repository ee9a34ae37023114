//! The flow rule: which backend takes a packet.
//!
//! A look-up in a big flow table is a cache miss and costs more than all the rest, so the table is asked only when it can
//! change the answer: when the flow's slot of the ring changed a short while ago. Otherwise the ring alone decides, and
//! the cost does not grow with the number of flows.
//!
//! | packet | slot never changed, or longer ago than `horizon` | changed within `horizon` |
//! |---|---|---|
//! | SYN | current, recorded | current, recorded; beyond the limit as TCP |
//! | TCP | current; no clock, no table | the flow's backend if recorded; else the previous one within `tcp_grace`; else current |
//! | UDP | current; no clock, no table | the same with `udp_grace`; a flow taken by the previous one is recorded |
//!
//! A recorded backend that is dead is replaced by the current one, in the record too; or the flow is reset
//! ([`super::answer`]), as the service says: TCP with each packet until a SYN, UDP once. Recording is limited per CPU and
//! second, so that a flood of SYNs cannot push out the flows that are real: beyond the limit flows are forwarded
//! unrecorded, and follow their slot when it changes. In a slot that has changed such a SYN goes by the rule of what is in
//! the middle of a flow, as the packets behind it will.

use weir_abi::{
    Backend, FlowKey, FlowState, Note, QuicKey, Reason, Service, Settings, Slot,
    maps::{action, backend::ALIVE, flow, limit, service, settings},
};

use super::{Stop, admit, slot_index};
use crate::{
    frame::Frame,
    parse::{Fragment, Packet, UDP},
    quic,
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

/// Bit of [`Chosen::word`] beside the index, which has 16 bits.
const NEW_FLOW: u32 = 1 << 31;

impl Chosen {
    /// The choice as a word, for a stage that goes on with it.
    #[inline(always)]
    pub(super) const fn word(&self) -> u32 {
        self.index | if self.new_flow { NEW_FLOW } else { 0 }
    }

    /// The same for the packet that a flow begins with.
    #[inline(always)]
    pub(super) const fn begins(self) -> Self {
        Self {
            new_flow: true,
            ..self
        }
    }
}

/// [`Chosen::word`] of the packet that a flow begins with, at the backend of this index.
#[inline(always)]
pub(super) const fn beginning(index: u32) -> u32 {
    index | NEW_FLOW
}

/// The choice that a stage before has made.
#[inline(always)]
pub(super) fn again<T: Tables>(word: u32, tables: &mut T) -> Result<Chosen, Stop> {
    let index = word & !NEW_FLOW;
    let backend = tables.backend(index).ok_or(Reason::Inconsistent)?;
    Ok(Chosen {
        index,
        backend,
        new_flow: word & NEW_FLOW != 0,
    })
}

/// The present backend of the slot that a hash falls on: what a flow begins with.
#[inline(always)]
pub(super) fn present<T: Tables>(hash: u64, service: &Service, tables: &mut T) -> Result<Chosen, Reason> {
    let slot = tables
        .slot(slot_index(service, hash))
        .ok_or(Reason::Inconsistent)?;
    current(slot, tables)
}

/// Chooses by the rule above, or by the server id of a QUIC connection id. `hash`: the one that falls on the slot; `exempt`:
/// the source is free of limits.
#[inline(always)]
pub(super) fn choose<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    hash: u64,
    service: &Service,
    exempt: bool,
    settings: &Settings,
    tables: &mut T,
) -> Result<Chosen, Stop> {
    if let Some(chosen) = named(frame, packet, service, tables) {
        return Ok(chosen);
    }
    let slot = tables
        .slot(slot_index(service, hash))
        .ok_or(Reason::Inconsistent)?;
    if packet.syn() {
        let chosen = current(slot, tables)?;
        let now = tables.now();
        let recorded = if !exempt && admit::asks(packet, service) {
            admit::begin::<_, false>(packet, chosen.index, service, now, settings, tables)?
        } else {
            record(packet, chosen.index, service.id, now, settings, tables)
        };
        if recorded || slot.changed == 0 {
            return Ok(chosen.begins());
        }
        // What follows it is not known to be new: it goes where that will go.
    }
    if packet.tcp && (packet.fin() || packet.rst()) {
        close(&{ packet.flow }, packet, tables);
    }
    if slot.changed == 0 {
        if settings.flags & settings::ACCOUNTING != 0 {
            account(packet, tables);
        }
        return Ok(current(slot, tables)?);
    }
    let now = tables.now();
    // The kernel's coarse clock may lag behind the one the writer read.
    let age = now.saturating_sub(slot.changed);
    if age > settings.horizon {
        return Ok(current(slot, tables)?);
    }
    tables.note(Note::FlowLookup);
    if let Some(state) = tables.flow(&{ packet.flow }) {
        state.packets = state.packets.wrapping_add(1);
        state.bytes = state.bytes.wrapping_add(packet.frame_len as u64);
        state.seen = now;
        let index = state.backend;
        tables.note(Note::FlowHit);
        if let Some(backend) = alive(index, tables) {
            return Ok(Chosen {
                index,
                backend,
                new_flow: false,
            });
        }
        if service.flags & service::RESET != 0 && !packet.syn() {
            // What a UDP client sends after the answer is a new try, and has no SYN to say so.
            if !packet.tcp
                && let Some(state) = tables.flow(&{ packet.flow })
            {
                state.backend = slot.current as u32;
            }
            return Err(Stop::Reset(index));
        }
        let chosen = current(slot, tables)?;
        // Not under the limit: only a flow that is recorded already gets here, and once per death of its backend.
        if let Some(state) = tables.flow(&{ packet.flow }) {
            state.backend = chosen.index;
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
            let new_flow = !packet.tcp && record(packet, index, service.id, now, settings, tables);
            return Ok(Chosen {
                index,
                backend,
                new_flow,
            });
        }
        // In the middle of a flow that began with the one that is dead now. UDP does not say where it is.
        if packet.tcp && !packet.syn() && index != 0 && service.flags & service::RESET != 0 {
            return Err(Stop::Reset(index));
        }
    }
    Ok(current(slot, tables)?)
}

/// The backend of a flow that something else is about (an ICMP error), by the rule above; but nothing is recorded, and no
/// limit asked. A QUIC connection id is not there to be read.
#[inline(always)]
pub(super) fn of<T: Tables>(
    packet: &Packet,
    hash: u64,
    service: &Service,
    settings: &Settings,
    tables: &mut T,
) -> Result<Chosen, Reason> {
    let slot = tables
        .slot(slot_index(service, hash))
        .ok_or(Reason::Inconsistent)?;
    if slot.changed == 0 {
        return current(slot, tables);
    }
    let age = tables.now().saturating_sub(slot.changed);
    let grace = if packet.tcp {
        settings.tcp_grace
    } else {
        settings.udp_grace
    };
    let mut index = 0;
    if age <= settings.horizon {
        index = match tables.flow(&{ packet.flow }) {
            Some(state) => state.backend,
            None if age <= grace => slot.previous as u32,
            None => 0,
        };
    }
    match alive(index, tables) {
        Some(backend) => Ok(Chosen {
            index,
            backend,
            new_flow: false,
        }),
        None => current(slot, tables),
    }
}

/// Chooses for the first packet of a flow that this table does not record: `full-nat` has its own.
#[inline(always)]
pub(super) fn first<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    hash: u64,
    service: &Service,
    tables: &mut T,
) -> Result<Chosen, Reason> {
    match named(frame, packet, service, tables) {
        Some(chosen) => Ok(chosen),
        None => present(hash, service, tables),
    }
}

/// The backend that a packet itself names, to a service where packets do.
#[inline(always)]
fn named<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    service: &Service,
    tables: &mut T,
) -> Option<Chosen> {
    if service.flags & service::HASH_QUIC == 0 || packet.protocol() != UDP {
        return None;
    }
    let chosen = by_server_id(frame, packet, service, tables);
    tables.note(match chosen {
        Some(_) => Note::QuicId,
        None => Note::QuicFallback,
    });
    chosen
}

/// The backend that the server id in the packet's connection id names, if it is alive and can take it.
#[inline(always)]
fn by_server_id<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    service: &Service,
    tables: &mut T,
) -> Option<Chosen> {
    if packet.fragment == Fragment::Later {
        return None;
    }
    let len = service.flags >> service::QUIC_LEN_SHIFT & 0xf;
    let payload = frame.window().skip(packet.transport_at as usize + 8)?;
    let id = quic::server_id(payload, len)?;
    let key = QuicKey {
        id,
        service: service.id,
        len,
    };
    let index = tables.quic_id(&key)?;
    let backend = alive(index, tables)?;
    // Who writes the packet writes the id: only through a tunnel can it name a backend of the other family.
    if service.action != action::IPIP && backend.addr.is_v4() != packet.v4 {
        return None;
    }
    Some(Chosen {
        index,
        backend,
        new_flow: false,
    })
}

/// Counts a packet for its flow, if that is recorded.
#[inline(always)]
fn account<T: Tables>(packet: &Packet, tables: &mut T) {
    let now = tables.now();
    if let Some(state) = tables.flow(&{ packet.flow }) {
        state.packets = state.packets.wrapping_add(1);
        state.bytes = state.bytes.wrapping_add(packet.frame_len as u64);
        state.seen = now;
    }
}

/// Marks a recorded flow as ended: by the client's FIN, or by a RST of either side. `key`: as the client sends it.
#[inline(always)]
pub(super) fn close<T: Tables>(key: &FlowKey, packet: &Packet, tables: &mut T) {
    let now = tables.now();
    let Some(state) = tables.flow(key) else { return };
    let before = state.service;
    if before & flow::CLOSED != 0 {
        return;
    }
    state.service = before | flow::CLOSED;
    state.seen = now;
    tables.note(Note::FlowClosed);
    if before & flow::COUNTED != 0 {
        admit::leave(key, packet.v4, before & flow::SERVICE, tables);
    }
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

/// What is recorded of a flow that begins. `service`: its id, and bits of [`flow`].
#[inline(always)]
pub(super) const fn begun(packet: &Packet, backend: u32, service: u32, now: u32) -> FlowState {
    FlowState {
        packets: 1,
        bytes: packet.frame_len as u64,
        backend,
        recorded: now,
        seen: now,
        service,
    }
}

/// Records a flow, within the limit. Whether it was recorded. `service`: its id, and bits of [`flow`].
///
/// The connection that had the tuple before is over, and counts no more for its network; nor does one that could not be
/// recorded.
#[inline(always)]
pub(super) fn record<T: Tables>(
    packet: &Packet,
    backend: u32,
    service: u32,
    now: u32,
    settings: &Settings,
    tables: &mut T,
) -> bool {
    let within = match tables.limit(limit::FLOWS) {
        Some(window) => within(window, now, settings.record_limit),
        None => false,
    };
    let fresh = begun(packet, backend, service, now);
    let mut over = service;
    let note = if !within {
        Note::FlowRecordLimited
    } else if let Some(state) = tables.flow(&{ packet.flow }) {
        // A tuple that is used again is written in place: a fraction of what a new entry costs.
        over = state.service;
        *state = fresh;
        Note::FlowRecorded
    } else if tables.record_flow(&{ packet.flow }, &fresh) {
        over = 0;
        Note::FlowRecorded
    } else {
        Note::FlowRecordFailed
    };
    tables.note(note);
    if over & (flow::COUNTED | flow::CLOSED) == flow::COUNTED {
        admit::leave(&{ packet.flow }, packet.v4, over & flow::SERVICE, tables);
        if note != Note::FlowRecorded {
            tables.note(Note::SourceUncounted);
        }
    }
    note == Note::FlowRecorded
}
