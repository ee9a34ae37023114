//! Source addresses and ports for flows by `full-nat`.
//!
//! Owns which one a new flow gets, and when one is used again. The blocks are control's: each CPU has its own, so no two
//! CPUs ever want the same one, and nothing is locked.
//!
//! A CPU goes round its blocks, one address after the other and then the next port of each, and begins where it ended: a
//! port is used again as late as can be. What is taken is the pair of the port and the backend's address and port, so each
//! backend has all ports to itself, and one that is busy towards this backend may be free towards the next.

use weir_abi::{
    Addr16, FlowKey, NatReply, Note, Reason,
    maps::nat::{COUNTED, TRIES},
};

use super::{super::admit, COUNTS, MSS, begin, state};
use crate::{parse::TCP, tables::Tables};

/// Takes one for the flow of the parked packet, and records what becomes of the replies. Their key, which has the source
/// that was taken as its destination.
#[inline(always)]
pub(super) fn take<T: Tables>(now: u32, tables: &mut T) -> Result<FlowKey, Reason> {
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    let mut key = FlowKey {
        src: nat.out.dst,
        dst: Addr16::default(),
        ports: turned(nat.out.ports),
        proto: nat.out.proto,
    };
    let found = search(&mut key, now, tables)?;
    if found == BUSY {
        return Err(Reason::PortsExhausted);
    }
    if key.dst.is_v4() != key.src.is_v4() {
        return Err(Reason::Inconsistent);
    }
    if found == SPENT {
        give_up(&key, tables);
    }
    if !record(&key, now, tables)? {
        return Err(Reason::NatTableFull);
    }
    tables.note(Note::NatAllocated);
    if found == SPENT {
        tables.note(Note::NatReused);
    }
    Ok(key)
}

/// Searches for a port that no flow to this backend has. What was found, and is now the destination of `key`.
#[inline(always)]
fn search<T: Tables>(key: &mut FlowKey, now: u32, tables: &mut T) -> Result<u32, Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let cpu = tables.cpu();
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    let (service, count) = (nat.service, nat.source_count);
    let first = nat.sources.wrapping_add(cpu.wrapping_mul(count));
    let cursor = *tables.nat_cursor(service).ok_or(Reason::Inconsistent)?;
    let mut tried = 0;
    // Neither free nor to be had, until one is found.
    let mut found = BUSY;
    while tried < TRIES {
        let n = cursor.wrapping_add(tried as u64);
        tried += 1;
        if !candidate(first, count, n, key, tables) {
            continue;
        }
        found = match tables.nat_reply(key) {
            None => FREE,
            Some(reply) if state::spent(reply, key.proto == TCP as u32, now, &settings) => SPENT,
            Some(_) => BUSY,
        };
        if found != BUSY {
            break;
        }
    }
    if let Some(cursor) = tables.nat_cursor(service) {
        *cursor = cursor.wrapping_add(tried as u64);
    }
    Ok(found)
}

/// Records what becomes of the replies. False: the table refused.
#[inline(always)]
fn record<T: Tables>(key: &FlowKey, now: u32, tables: &mut T) -> Result<bool, Reason> {
    let flow = begin::client(tables)?;
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    let fresh = NatReply {
        packets: 0,
        bytes: 0,
        client: flow.src,
        vip: flow.dst,
        ports: turned(flow.ports),
        service: nat.service,
        backend: nat.backend,
        seen: now,
        closed: 0,
        flags: nat.flags & MSS | if nat.flags & COUNTS == 0 { 0 } else { COUNTED },
    };
    Ok(match tables.nat_reply(key) {
        Some(reply) => {
            *reply = fresh;
            true
        }
        None => tables.add_nat_reply(key, &fresh),
    })
}

/// The source port that the replies of a key are for, network order.
#[inline(always)]
pub(super) const fn source(key: &FlowKey) -> u32 {
    let [_, _, a, b] = key.ports.to_ne_bytes();
    u16::from_ne_bytes([a, b]) as u32
}

/// Ports of the other direction.
#[inline(always)]
pub(super) const fn turned(ports: u32) -> u32 {
    let [a, b, c, d] = ports.to_ne_bytes();
    u32::from_ne_bytes([c, d, a, b])
}

/// What a candidate is.
const BUSY: u32 = 0;
const FREE: u32 = 1;
const SPENT: u32 = 2;

/// Makes the `n`th of all addresses and ports of a CPU the destination of a reply. False: there are none in that block.
#[inline(always)]
fn candidate<T: Tables>(first: u32, count: u32, n: u64, key: &mut FlowKey, tables: &mut T) -> bool {
    let (Some(block), Some(turn)) = (n.checked_rem(count as u64), n.checked_div(count as u64)) else {
        return false;
    };
    let Some(source) = tables.nat_source(first.wrapping_add(block as u32)) else {
        return false;
    };
    let Some(port) = turn.checked_rem(source.count as u64) else {
        return false;
    };
    key.dst = source.addr;
    let [s0, s1, _, _] = key.ports.to_ne_bytes();
    let [d0, d1] = (source.first.wrapping_add(port as u32) as u16).to_be_bytes();
    key.ports = u32::from_ne_bytes([s0, s1, d0, d1]);
    true
}

/// Ends what is left of the flow whose port is used again: from here on the client's packets must not go by it.
#[inline(always)]
fn give_up<T: Tables>(key: &FlowKey, tables: &mut T) {
    let Some(old) = tables.nat_reply(key).copied() else {
        return;
    };
    let client = state::client_key(&old, key.proto);
    // The client's flow may have gone on by another port long since.
    let is_this = tables.nat_flow(&client).is_some_and(|flow| {
        flow.source == key.dst && flow.port == source(key) && flow.backend == old.backend
    });
    if is_this {
        tables.remove_nat_flow(&client);
    }
    if old.closed == 0 && old.flags & COUNTED != 0 {
        admit::leave(&client, client.src.is_v4(), old.service, tables);
    }
}
