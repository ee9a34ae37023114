//! How a flow by `full-nat` begins.
//!
//! Owns the decision whether a packet begins one, and the entries it then gets.
//!
//! A SYN is a new decision, but for two kinds of it. One that is sent again before the backend has answered keeps what the
//! first one got, or a backend that is slow would be asked from one port after the other. And where the ring still names
//! the flow's backend, an open flow's port is kept too: to the backend it is the same connection as to the client, and its
//! TCP tells a repeated SYN from a new one (RFC 9293 section 3.10.7.4). A flow that has ended leaves its port to rest.

use weir_abi::{
    FlowKey, NatFlow, Note, Reason,
    maps::{backend::ALIVE, flow as recorded, nat::ANSWERED, service::LIMITED, stage},
};

use super::{
    super::{admit, flow, hash, service},
    COUNTS, FIRST, REMAPS, REPLACES, bind, from, ports, reply_key, state,
};
use crate::{frame::Frame, parse::Packet, tables::Tables};

/// Chooses a backend for the packet's flow, or finds that it has one: the stage that goes on.
#[inline(always)]
pub(super) fn begin<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &mut T,
) -> Result<u32, Reason> {
    // It was there a moment ago.
    let service = service(packet, tables).ok_or(Reason::NoService)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    let hash = hash(packet, &service, &settings);
    let index = flow::first(frame, packet, hash, &service, tables)?.index;
    let before = before(packet, index, tables);
    if before == KEPT {
        let flow = tables
            .nat_flow(&{ packet.flow })
            .copied()
            .ok_or(Reason::NatUnknown)?;
        let backend = tables.backend(flow.backend).ok_or(Reason::Inconsistent)?;
        bind(packet, &service, &backend, flow.backend, 0, tables)?;
        from(&flow, tables)?;
        return Ok(stage::NAT_SEND);
    }
    let opens = packet.tcp && packet.syn();
    let mut flags = if before == NONE { 0 } else { REPLACES };
    if before == REMAPPED && !opens {
        flags |= REMAPS;
    }
    if opens && service.flags & LIMITED != 0 {
        let admitted = admit::by_full_nat(packet, &service, &settings, tables)?;
        if admitted & recorded::COUNTED != 0 {
            flags |= COUNTS;
        }
    }
    let backend = tables.backend(index).ok_or(Reason::Inconsistent)?;
    bind(packet, &service, &backend, index, flags, tables)?;
    Ok(stage::NAT_TAKE)
}

/// Gives the parked packet's flow a source address and a port: the stage that goes on.
///
/// What is parked is read again wherever it is needed, here and in [`ports`]: kept meanwhile, it would fill the stack.
#[inline(always)]
pub(super) fn take<T: Tables>(tables: &mut T) -> Result<u32, Reason> {
    let taken = with_port(tables);
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    if nat.flags & COUNTS != 0 && taken != Ok(stage::NAT_SEND) {
        // It did not begin.
        let service = nat.service;
        let flow = client(tables)?;
        admit::leave(&flow, flow.src.is_v4(), service, tables);
    }
    taken
}

#[inline(always)]
fn with_port<T: Tables>(tables: &mut T) -> Result<u32, Reason> {
    let now = tables.now();
    let key = ports::take(now, tables)?;
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    let flags = nat.flags;
    let fresh = NatFlow {
        source: key.dst,
        port: ports::source(&key),
        backend: nat.backend,
        recorded: now,
        seen: now,
    };
    let flow = client(tables)?;
    let replaced = flags & REPLACES != 0
        && match tables.nat_flow(&flow) {
            Some(flow) => {
                *flow = fresh;
                true
            }
            None => false,
        };
    if !replaced && !tables.add_nat_flow(&flow, &fresh) {
        tables.remove_nat_reply(&key);
        return match tables.nat_flow(&flow) {
            // Another CPU was faster: its entry counts for both.
            Some(_) => Ok(stage::FULL_NAT),
            None => Err(Reason::NatTableFull),
        };
    }
    from(&fresh, tables)?;
    if flags & REMAPS != 0 {
        tables.note(Note::FlowRemapped);
    } else if let Some(nat) = tables.parked_nat() {
        nat.flags |= FIRST;
    }
    Ok(stage::NAT_SEND)
}

/// The flow of the packet that was parked.
#[inline(always)]
pub(super) fn client<T: Tables>(tables: &mut T) -> Result<FlowKey, Reason> {
    match tables.parked() {
        Some(parked) => Ok(parked.packet.flow),
        None => Err(Reason::Internal),
    }
}

/// What the table knew of the flow: nothing.
const NONE: u32 = 0;
/// … what holds on.
const KEPT: u32 = 1;
/// … what has ended, or ends now.
const ENDED: u32 = 2;
/// … a backend that is dead.
const REMAPPED: u32 = 3;

/// Looks up what was known of the packet's flow, and ends it unless it holds on. `present`: the ring's backend.
#[inline(always)]
fn before<T: Tables>(packet: &Packet, present: u32, tables: &mut T) -> u32 {
    let Some(flow) = tables.nat_flow(&{ packet.flow }).copied() else {
        return NONE;
    };
    let Some(backend) = tables.backend(flow.backend) else {
        return ENDED;
    };
    let now = tables.now();
    let key = reply_key(packet, &flow, &backend);
    let alive = backend.flags & ALIVE != 0;
    if alive
        && let Some(reply) = tables.nat_reply(&key)
        && state::belongs(reply, packet)
        && reply.closed == 0
        && (!packet.tcp || flow.backend == present || reply.flags & ANSWERED == 0)
    {
        reply.seen = now;
        if let Some(flow) = tables.nat_flow(&{ packet.flow }) {
            flow.seen = now;
        }
        return KEPT;
    }
    state::retire(packet, &key, now, tables);
    if alive { ENDED } else { REMAPPED }
}
