//! Fragments: the later ones of a datagram have no ports, and follow the first.
//!
//! Owns `FRAGMENTS`: [`remember`] writes down which way a first fragment went, in every mode and both directions, and
//! [`fragment`] sends the others after it. Where the first one goes is decided as for any packet ([`super::forward`],
//! [`super::full_nat`]). A fragment that overtakes its first one finds nothing here and is left to the stack.

use weir_abi::{
    Addr16, FragmentKey, FragmentState, Note, Reason,
    maps::{action, fragment::OUT},
};

use super::{Outcome, ROUTE, Step, done, enter, flow::Chosen, internal, last, lease, way};
use crate::{
    emit::{self, Outer},
    frame::Frame,
    parse::{Fragment, Packet},
    rewrite::{self, End, Headers},
    tables::{Direction, Tables},
};

/// Seconds for which a first fragment is followed: as long as Linux waits for the rest of a datagram
/// (`net.ipv4.ipfrag_time`). After that the identification may mean another one.
const MAX_AGE: u32 = 30;

/// What the fragments of the packet's datagram have in common.
#[inline(always)]
const fn key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        src: packet.flow.src,
        dst: packet.flow.dst,
        id: packet.fragment_id,
        // Behind IPv6's fragment header stands what the fragment begins with: of the first it may be an extension header
        // that was followed, so it does not tell the datagram (RFC 8200 section 4.5 names addresses and identification).
        proto: if packet.v4 { packet.flow.proto } else { 0 },
    }
}

/// Writes down the way of a first fragment; of any other packet nothing. `src`, `dst`: what its addresses become; by
/// `ipip` those of the outer header. `action`: the mode, with [`OUT`] towards a client.
#[inline(always)]
pub(super) fn remember<T: Tables>(
    packet: &Packet,
    src: Addr16,
    dst: Addr16,
    service: u32,
    backend: u32,
    action: u32,
    tables: &mut T,
) {
    if packet.fragment != Fragment::First {
        return;
    }
    let state = FragmentState {
        src,
        dst,
        service,
        backend,
        action,
        recorded: tables.now(),
    };
    let recorded = tables.record_fragment(&{ key(packet) }, &state);
    tables.note(if recorded {
        Note::FragmentRecorded
    } else {
        Note::FragmentRecordFailed
    });
}

/// Goes on with the packet that was parked: a later fragment.
#[inline(always)]
pub fn fragment<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    match follow(frame, &mut packet, tables) {
        Ok(outcome) => done(outcome, tables),
        Err(reason) => done(Outcome { reason, egress: 0 }, tables),
    }
}

#[inline(always)]
fn follow<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let state = tables.fragment(&{ key(packet) }).ok_or(Reason::Fragment)?;
    // The kernel's coarse clock may lag behind the other CPU's that wrote it.
    if tables.now().saturating_sub(state.recorded) > MAX_AGE {
        return Err(Reason::Fragment);
    }
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let out = state.action & OUT != 0;
    let mode = state.action & !OUT;
    if out {
        lease::require(&state.src, &settings, tables)?;
    } else {
        enter(packet, &settings, tables).map_err(last)?;
    }
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    let tunnel = mode == action::IPIP;
    if !tunnel && (state.src.is_v4() != packet.v4 || state.dst.is_v4() != packet.v4) {
        return Err(Reason::Inconsistent);
    }
    let outer_len = if tunnel { Outer::len(&state.dst) } else { 0 };
    let way = if out {
        // By `full-nat` the client stands in the record, not in the packet.
        packet.flow.dst = state.dst;
        way::to_client::<_, ROUTE>(packet, &settings, tables)
    } else {
        let backend = tables.backend(state.backend).ok_or(Reason::Inconsistent)?;
        // The index may have become another backend's meanwhile.
        if mode != action::DSR && backend.addr != state.dst {
            return Err(Reason::Fragment);
        }
        let chosen = Chosen {
            index: state.backend,
            backend,
            new_flow: false,
        };
        let len = packet.total_len as u32 + outer_len;
        way::to_backend::<_, ROUTE>(packet, &chosen, len, mode == action::DSR, &settings, tables)
    }
    .map_err(last)?;
    let front = emit::make_room(frame, packet, &way, outer_len).ok_or(Reason::Internal)?;
    let window = frame.window();
    let headers = Headers::of(window, packet).ok_or(Reason::Internal)?;
    if tunnel {
        rewrite::forward(&headers);
        let outer = Outer {
            src: state.src,
            dst: state.dst,
            // The hash lies in the source that was made of it, as far as the tunnel's network leaves bits for it.
            hash: state.src.words[3],
        };
        emit::encapsulate(window, &front, packet, &outer).ok_or(Reason::Internal)?;
        emit::link(window, &front, &way.link, outer.dst.is_v4()).ok_or(Reason::Internal)?;
    } else {
        let end = |addr| Some(End { addr, port: 0 });
        rewrite::translate(&headers, end(state.src), end(state.dst));
        emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    }
    let direction = if out { Direction::Out } else { Direction::In };
    tables.traffic(state.service, state.backend, direction, packet.frame_len, false);
    let reason = match (mode, out) {
        (action::IPIP, _) => Reason::ForwardIpip,
        (action::DSR, _) => Reason::ForwardDsr,
        (action::FULL_NAT, true) => Reason::ReturnFullNat,
        (action::FULL_NAT, false) => Reason::ForwardFullNat,
        (_, true) => Reason::ReturnNat,
        (_, false) => Reason::ForwardNat,
    };
    Ok(Outcome {
        reason,
        egress: way.ifindex,
    })
}
