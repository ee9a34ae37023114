//! What is remembered of a flow by `full-nat` while it lasts, and when it has ended.
//!
//! Owns `NAT_REPLIES` entries from their making to their reuse: the times, the flags, the end. Gives no ports
//! ([`super::ports`]).
//!
//! The flags are written by both directions, which may run on two CPUs: of two that are set in the same instant one can be
//! lost. Then the port rests for the time of an open flow's silence instead of TIME_WAIT, no more.

use weir_abi::{
    FlowKey, NatReply, Note, Reason, Settings,
    maps::{
        flow,
        nat::{ANSWERED, BY_RST, COUNTED, EMBRYONIC, FIN_IN, FIN_OUT, REFRESH, TOLD},
    },
};

use super::{super::admit, ports::turned};
use crate::{parse::Packet, tables::Tables};

/// A packet towards the backend: notes its time, and what it ends. `key`: of its flow's replies. False: the entry is gone,
/// or is another flow's.
#[inline(always)]
pub(super) fn sent<T: Tables>(packet: &Packet, key: &FlowKey, now: u32, tables: &mut T) -> bool {
    let Some(reply) = tables.nat_reply(key) else {
        return false;
    };
    if !belongs(reply, packet) {
        return false;
    }
    reply.seen = now;
    let fin = if packet.tcp && packet.fin() { FIN_IN } else { 0 };
    let end = end_of(reply, fin, packet, now);
    if let Some(flow) = tables.nat_flow(&{ packet.flow }) {
        flow.seen = now;
    }
    ended(&{ packet.flow }, packet.v4, end, tables);
    true
}

/// A reply: notes its time, counts it, and notes what it ends. What it becomes.
#[inline(always)]
pub(super) fn received<T: Tables>(packet: &Packet, now: u32, tables: &mut T) -> Result<NatReply, Reason> {
    // It was there a moment ago.
    let reply = tables.nat_reply(&{ packet.flow }).ok_or(Reason::NoService)?;
    reply.packets = reply.packets.wrapping_add(1);
    reply.bytes = reply.bytes.wrapping_add(packet.frame_len as u64);
    if now.saturating_sub(reply.seen) >= REFRESH {
        reply.seen = now;
    }
    // A RST that is not of the connection's window is ignored by the backend (RFC 5961): who goes on long after it has done so.
    if packet.tcp
        && !packet.rst()
        && reply.closed != 0
        && reply.flags & BY_RST != 0
        && now.saturating_sub(reply.closed) > REFRESH
    {
        reply.closed = 0;
        reply.flags &= !BY_RST;
    }
    let fin = if packet.tcp && packet.fin() { FIN_OUT } else { 0 };
    let end = end_of(reply, fin | ANSWERED, packet, now);
    let copy = *reply;
    if end.now {
        ended(&client_key(&copy, packet.flow.proto), packet.v4, end, tables);
    }
    Ok(copy)
}

/// Ends a flow that goes on in another way, or not at all: its port rests from now on.
#[inline(always)]
pub(super) fn retire<T: Tables>(packet: &Packet, key: &FlowKey, now: u32, tables: &mut T) {
    let Some(reply) = tables.nat_reply(key) else {
        return;
    };
    if !belongs(reply, packet) || reply.closed != 0 {
        return;
    }
    reply.closed = now.max(1);
    let end = End {
        now: true,
        flags: reply.flags,
        service: reply.service,
    };
    ended(&{ packet.flow }, packet.v4, end, tables);
}

/// Whether an entry is of the flow that a packet of the client is of.
#[inline(always)]
pub(super) fn belongs(reply: &NatReply, packet: &Packet) -> bool {
    reply.client == packet.flow.src
        && reply.vip == packet.flow.dst
        && reply.ports == turned(packet.flow.ports)
}

/// The client's flow that an entry is of.
#[inline(always)]
pub(super) const fn client_key(reply: &NatReply, proto: u32) -> FlowKey {
    FlowKey {
        src: reply.client,
        dst: reply.vip,
        ports: turned(reply.ports),
        proto,
    }
}

/// Whether an entry's port may be used again. Times of silence are exact to [`REFRESH`] seconds: it is never too early.
#[inline(always)]
pub(super) const fn spent(reply: &NatReply, tcp: bool, now: u32, settings: &Settings) -> bool {
    if reply.closed != 0 {
        return now.saturating_sub(reply.closed) > settings.nat_time_wait;
    }
    let idle = if !tcp {
        settings.nat_udp_idle
    } else if reply.flags & ANSWERED == 0 {
        EMBRYONIC
    } else {
        settings.nat_tcp_idle
    };
    now.saturating_sub(reply.seen) > idle.saturating_add(REFRESH)
}

/// What ended.
struct End {
    /// Whether it did, just now.
    now: bool,
    flags: u32,
    service: u32,
}

/// Sets flags of an entry, and ends it by both FINs or a RST. What was another box's word is this one's own from here on.
#[inline(always)]
fn end_of(reply: &mut NatReply, set: u32, packet: &Packet, now: u32) -> End {
    let flags = reply.flags & !TOLD | set;
    if flags != reply.flags {
        reply.flags = flags;
    }
    let both = FIN_IN | FIN_OUT;
    let fins = flags & both == both;
    let ends = (fins || (packet.tcp && packet.rst())) && reply.closed == 0;
    if ends {
        reply.closed = now.max(1);
        // It counts no more, even if it should go on.
        reply.flags = (flags & !COUNTED) | if fins { 0 } else { BY_RST };
    }
    End {
        now: ends,
        flags,
        service: reply.service,
    }
}

/// Counts an end. `key`: the flow as the client sends it.
#[inline(always)]
fn ended<T: Tables>(key: &FlowKey, v4: bool, end: End, tables: &mut T) {
    if !end.now {
        return;
    }
    tables.note(Note::FlowClosed);
    if end.flags & COUNTED != 0 {
        admit::leave(key, v4, end.service & flow::SERVICE, tables);
    }
}
