//! Limits per source: how many TCP connections one network of clients may begin in a second, and have open, with one
//! service.
//!
//! Owns the counting, and the bans of networks that go beyond. The short way counts by what the tables hold already
//! ([`begin`]). A network's first connection, one beyond the limits and those of the relay are a stage's ([`admit`]): the
//! programs that forward have no room for it. UDP is not limited: its sources can be made up, so a limit would shut out
//! whom an attacker names.
//!
//! Several CPUs may count for one network at once, and a count may then be lost: the tables are plain words, since the
//! price of locked ones would be paid by every SYN. Control counts anew from time to time.

use weir_abi::{
    Addr16, ClientKey, ClientState, FlowKey, ListEntry, Note, Prefix, Reason, Service, ServiceLimits,
    Settings,
    maps::{action, flow as flow_bits, list, service, stage},
};

use super::{
    Outcome, Step, Stop, done, enter,
    flow::{self, begun, record},
    hash, internal,
};
use crate::{
    parse::Packet,
    tables::{Beginning, Tables, within},
};

/// Bits of a prefix in front of IPv4's.
const BEFORE_V4: u32 = 96;

/// Whether a packet begins a connection that is counted, unless its source is exempt.
#[inline(always)]
pub(super) const fn asks(packet: &Packet, service: &Service) -> bool {
    service.flags & service::LIMITED != 0 && packet.tcp && packet.syn()
}

/// Goes on with the packet that was parked: a SYN, or the ACK that begins a connection of the relay by a cookie. Its
/// source is on no list.
#[inline(always)]
pub fn admit<T: Tables>(tables: &mut T) -> Step {
    let Some(packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    match admitted(&packet, tables) {
        Ok(RELAY) => ends(Reason::Relay, tables),
        Ok(chosen) => {
            if let Some(parked) = tables.parked() {
                parked.chosen = chosen;
            }
            Step::Stage(stage::ROUTE)
        }
        Err(stop) => ends(super::last(stop), tables),
    }
}

/// No backend: up to the relay.
const RELAY: u32 = 0;

#[inline(always)]
fn ends<T: Tables>(reason: Reason, tables: &mut T) -> Step {
    done(Outcome { reason, egress: 0 }, tables)
}

/// The backend that takes the connection, as [`Chosen::word`](flow::Chosen::word): it is recorded. [`RELAY`] if it is not
/// forwarded.
#[inline(always)]
fn admitted<T: Tables>(packet: &Packet, tables: &mut T) -> Result<u32, Stop> {
    let service = super::service(packet, tables).ok_or(Reason::NoService)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let now = tables.now();
    if service.action == action::RELAY {
        // Recorded only so that its end is noticed: no backend.
        begin::<_, true>(packet, 0, &service, now, &settings, tables)?;
        return Ok(RELAY);
    }
    // What goes nowhere is not counted.
    let hash = hash(packet, &service, &settings);
    let index = flow::present(hash, &service, tables)?.index;
    if begin::<_, true>(packet, index, &service, now, &settings, tables)? {
        return Ok(flow::beginning(index));
    }
    // Where what follows it will go, which is not known to be new.
    Ok(flow::beginning(
        flow::of(packet, hash, &service, &settings, tables)?.index,
    ))
}

/// Counts a connection that begins, and records it. Whether it was recorded; or why it may not begin.
///
/// A SYN that is sent again, or one on a tuple whose connection was not seen to end, takes the place of the one before. What
/// can't be recorded is not counted as open: its end would not be noticed.
///
/// Without `FULL` by what the tables hold already, which is nearly always: the short way has no room for more. What needs
/// more goes on in this stage, and nothing is counted yet.
#[inline(always)]
pub(super) fn begin<T: Tables, const FULL: bool>(
    packet: &Packet,
    backend: u32,
    service: &Service,
    now: u32,
    settings: &Settings,
    tables: &mut T,
) -> Result<bool, Stop> {
    let limits = tables.service_limits(service.id).ok_or(Reason::Inconsistent)?;
    // To the relay nothing is forwarded by a record.
    let records = !FULL || backend != 0 || limits.open != 0;
    let key = client(&packet.flow.src, packet.v4, service.id, &limits);
    if FULL && tables.client(&{ key }).is_none() && !tables.record_client(&{ key }, &ClientState::default()) {
        tables.note(Note::SourceUncounted);
        return Ok(records && record(packet, backend, service.id, now, settings, tables));
    }
    let Some(Beginning { client, flow, window }) = tables.beginning(&{ key }, &{ packet.flow }) else {
        return Err(if FULL {
            Stop::Reason(Reason::Internal)
        } else {
            Stop::Stage(stage::ADMIT)
        });
    };
    let before = match &flow {
        Some(state) => state.service,
        None => 0,
    };
    let was_open = before & (flow_bits::COUNTED | flow_bits::CLOSED) == flow_bits::COUNTED;
    // The connection that it takes the place of counts for the same client.
    let same = was_open && before & flow_bits::SERVICE == service.id && limits.open != 0;
    let over = if limits.rate != 0 && client.second == now && client.started >= limits.rate {
        Some(Reason::SourceRate)
    } else if limits.open != 0 && !same && client.open >= limits.open {
        Some(Reason::SourceConnections)
    } else {
        None
    };
    if let Some(reason) = over {
        if !FULL {
            return Err(Stop::Stage(stage::ADMIT));
        }
        overload(&key, packet.v4, &limits, now, tables);
        return Err(Stop::Reason(reason));
    }
    if !FULL && was_open && !same {
        return Err(Stop::Stage(stage::ADMIT));
    }
    started(client, now);
    if !records {
        return Ok(false);
    }
    if !window.is_some_and(|window| within(window, now, settings.record_limit)) {
        tables.note(Note::FlowRecordLimited);
        if limits.open != 0 {
            tables.note(Note::SourceUncounted);
        }
        return Ok(false);
    }
    let counted = if limits.open == 0 { 0 } else { flow_bits::COUNTED };
    if counted != 0 && !same {
        client.open += 1;
    }
    let fresh = begun(packet, backend, service.id | counted, now);
    if let Some(state) = flow {
        *state = fresh;
        tables.note(Note::FlowRecorded);
        if FULL && was_open && !same {
            leave(&{ packet.flow }, packet.v4, before & flow_bits::SERVICE, tables);
        }
        return Ok(true);
    }
    if tables.record_flow(&{ packet.flow }, &fresh) {
        tables.note(Note::FlowRecorded);
        return Ok(true);
    }
    tables.note(Note::FlowRecordFailed);
    if counted != 0 {
        leave(&{ packet.flow }, packet.v4, service.id, tables);
        tables.note(Note::SourceUncounted);
    }
    Ok(false)
}

/// Whether one more connection by `full-nat` may begin, which asks for itself: only it knows which SYN begins one. The bits
/// that its record gets ([`weir_abi::maps::flow`]).
#[inline(always)]
pub(super) fn by_full_nat<T: Tables>(
    packet: &Packet,
    service: &Service,
    settings: &Settings,
    tables: &mut T,
) -> Result<u32, Reason> {
    if let Ok(true) = enter(packet, settings, tables) {
        return Ok(0);
    }
    let now = tables.now();
    let limits = tables.service_limits(service.id).ok_or(Reason::Inconsistent)?;
    let counted = if limits.open == 0 { 0 } else { flow_bits::COUNTED };
    let key = client(&packet.flow.src, packet.v4, service.id, &limits);
    let Some(state) = tables.client(&{ key }) else {
        let first = ClientState {
            second: now,
            started: 1,
            open: u32::from(counted != 0),
            reserved: 0,
        };
        if tables.record_client(&{ key }, &first) {
            return Ok(counted);
        }
        tables.note(Note::SourceUncounted);
        return Ok(0);
    };
    let over = if limits.rate != 0 && state.second == now && state.started >= limits.rate {
        Reason::SourceRate
    } else if limits.open != 0 && state.open >= limits.open {
        Reason::SourceConnections
    } else {
        started(state, now);
        state.open += u32::from(counted != 0);
        return Ok(counted);
    };
    overload(&key, packet.v4, &limits, now, tables);
    Err(over)
}

/// Counts a connection as begun in this second.
#[inline(always)]
fn started(client: &mut ClientState, now: u32) {
    if client.second != now {
        client.second = now;
        client.started = 0;
    }
    client.started += 1;
}

/// Counts a connection of a service as ended. `key`: its flow as the client sends it.
#[inline(always)]
pub(super) fn leave<T: Tables>(key: &FlowKey, v4: bool, service: u32, tables: &mut T) {
    let Some(limits) = tables.service_limits(service) else {
        return;
    };
    let client = client(&key.src, v4, service, &limits);
    if let Some(state) = tables.client(&client)
        && state.open > 0
    {
        state.open -= 1;
    }
}

/// What a source counts as.
#[inline(always)]
fn client(source: &Addr16, v4: bool, service: u32, limits: &ServiceLimits) -> ClientKey {
    let [s0, s1, s2, s3] = source.words;
    let addr = if v4 {
        Addr16::from_v4_word(s3 & limits.mask_v4)
    } else {
        let [m0, m1, m2, m3] = limits.mask_v6;
        Addr16::from_v6_words([s0 & m0, s1 & m1, s2 & m2, s3 & m3])
    };
    ClientKey { addr, service }
}

/// Bans a network that goes beyond its limits, if the service says so.
#[inline(always)]
fn overload<T: Tables>(key: &ClientKey, v4: bool, limits: &ServiceLimits, now: u32, tables: &mut T) {
    if limits.ban == 0 {
        return;
    }
    let len = if v4 {
        (limits.prefixes & 0xffff) + BEFORE_V4
    } else {
        limits.prefixes >> 16
    };
    let network = Prefix { len, addr: key.addr };
    let entry = ListEntry {
        until: now.saturating_add(limits.ban),
        flags: list::OVERLOAD,
    };
    if tables.add_to_list(&network, &entry) {
        tables.note(Note::SourceBanned);
    }
}

#[cfg(test)]
mod tests;
