//! Flows by `full-nat`: both ends of a packet are rewritten, and the backend sees an address and port of weir's own.
//!
//! Owns the way of such packets, both directions. What is remembered of a flow is [`state`]'s, how it begins [`begin`]'s,
//! the choice of its source port [`ports`]'s.
//!
//! Each flow has two entries: `NAT_FLOWS`, by the packet as the client sends it, says what it becomes; `NAT_REPLIES`, by
//! the reply as the backend sends it, says the same of replies, and whether the source port is in use. The ring decides
//! about first packets alone, so a flow stays where it is whatever becomes of its slot:
//!
//! | packet | flow known, its backend alive | its backend dead | not known |
//! |---|---|---|---|
//! | SYN | begins anew (see [`begin`]) | begins anew | begins |
//! | TCP | as known | reset if the service says so; else begins with the ring's backend, which resets it | dropped |
//! | UDP | as known | the same, ICMP for RST | begins |
//!
//! Six programs: [`full_nat`] sends what is known by next hops that are known; [`nat_new`] and [`nat_take`] begin flows;
//! [`nat_return`] is for replies; [`nat_send`] sends what the others have decided about, asks the kernel's routes, and
//! remembers first fragments; [`nat_icmp`] is for errors about these flows.
//! Between them [`Nat`] lies beside the packet that is parked.

mod begin;
pub(super) mod icmp;
mod ports;
mod state;
#[cfg(test)]
mod tests;

use weir_abi::{
    Backend, FlowKey, NatFlow, Reason, Service,
    maps::{
        action,
        backend::ALIVE,
        fragment,
        nat::REFRESH,
        service::{MSS_SHIFT, RESET},
        stage,
    },
};

pub use self::icmp::nat_icmp;

use super::{
    LONG, Outcome, ROUTE, Step, Stop, fragments, go_on_parked, internal, lease, mss, service, two_ports, way,
};
use crate::{
    emit,
    frame::Frame,
    parse::{Fragment, Packet},
    rewrite::{self, End, Headers},
    tables::{Direction, Tables},
};

/// What a packet becomes; from [`nat_new`] to [`nat_take`] without the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// The packet's flow as it leaves.
    out: FlowKey,
    /// Service id.
    service: u32,
    /// Index into `BACKENDS`.
    backend: u32,
    /// Index into `NEXT_HOPS`; 0: the kernel's routes are asked.
    next_hop: u32,
    /// The service's entries in `NAT_SOURCES`, as in [`Service`]: of a packet that begins a flow.
    sources: u32,
    source_count: u32,
    /// [`OUT`], [`FIRST`], [`REPLACES`], [`REMAPS`], [`COUNTS`], and the largest MSS from [`MSS_SHIFT`] on.
    flags: u32,
}

/// Bit of [`Nat::flags`]: it goes to the client.
const OUT: u32 = 1;
/// Bit of [`Nat::flags`]: it counts as a flow's first packet.
const FIRST: u32 = 1 << 1;
/// Bit of [`Nat::flags`]: the flow has an entry, which this one shall replace.
const REPLACES: u32 = 1 << 2;
/// Bit of [`Nat::flags`]: it goes on with another backend, since its own is dead.
const REMAPS: u32 = 1 << 3;
/// Bit of [`Nat::flags`]: it counts in the connections of its client's network.
const COUNTS: u32 = 1 << 4;
/// Bits of [`Nat::flags`] that are [`Service::flags`].
const MSS: u32 = u32::MAX << MSS_SHIFT;

/// Goes on with the packet that was parked, towards the backend.
#[inline(always)]
pub fn full_nat<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    let result = match known(&packet, tables) {
        Ok(()) => send::<_, _, LONG>(frame, &mut packet, tables),
        Err(stop) => Err(stop),
    };
    go_on_parked(result, tables)
}

/// Begins the flow of the packet that was parked.
#[inline(always)]
pub fn nat_new<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    let stop = match begin::begin(frame, &packet, tables) {
        Ok(stage) => Stop::Stage(stage),
        Err(reason) => Stop::Reason(reason),
    };
    go_on_parked(Err(stop), tables)
}

/// Gives the flow of the packet that was parked its source address and port.
#[inline(always)]
pub fn nat_take<F: Frame, T: Tables>(_frame: &mut F, tables: &mut T) -> Step {
    let stop = match begin::take(tables) {
        Ok(stage) => Stop::Stage(stage),
        Err(reason) => Stop::Reason(reason),
    };
    go_on_parked(Err(stop), tables)
}

/// Goes on with the packet that was parked, towards the client.
#[inline(always)]
pub fn nat_return<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    let result = match reply(&packet, tables) {
        Ok(()) => send::<_, _, LONG>(frame, &mut packet, tables),
        Err(stop) => Err(stop),
    };
    go_on_parked(result, tables)
}

/// Sends the packet that was parked as what was decided.
#[inline(always)]
pub fn nat_send<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    let result = send::<_, _, ROUTE>(frame, &mut packet, tables);
    go_on_parked(result, tables)
}

/// A packet of a flow that is known.
#[inline(always)]
fn known<T: Tables>(packet: &Packet, tables: &mut T) -> Result<(), Stop> {
    if packet.hop_limit <= 1 {
        return Err(Stop::Expired(0));
    }
    // It was there a moment ago.
    let service = service(packet, tables).ok_or(Reason::NoService)?;
    if packet.tcp && packet.syn() {
        return Err(Stop::Stage(stage::NAT_NEW));
    }
    let Some(flow) = tables.nat_flow(&{ packet.flow }).copied() else {
        return Err(unknown(packet));
    };
    let backend = tables.backend(flow.backend).ok_or(Reason::Inconsistent)?;
    let now = tables.now();
    if backend.flags & ALIVE == 0 {
        if service.flags & RESET == 0 {
            return Err(Stop::Stage(stage::NAT_NEW));
        }
        state::retire(packet, &reply_key(packet, &flow, &backend), now, tables);
        return Err(Stop::Reset(flow.backend));
    }
    let ends = packet.tcp && (packet.fin() || packet.rst());
    if (ends || now.saturating_sub(flow.seen) >= REFRESH)
        && !state::sent(packet, &reply_key(packet, &flow, &backend), now, tables)
    {
        // Its port was given to another flow.
        tables.remove_nat_flow(&{ packet.flow });
        return Err(unknown(packet));
    }
    bind(packet, &service, &backend, flow.backend, 0, tables)?;
    from(&flow, tables)?;
    Ok(())
}

/// What becomes of a packet of a flow that is not known.
#[inline(always)]
const fn unknown(packet: &Packet) -> Stop {
    if packet.tcp {
        Stop::Reason(Reason::NatUnknown)
    } else {
        Stop::Stage(stage::NAT_NEW)
    }
}

/// The key of a flow's replies. A backend without a port of its own has the client's destination port.
#[inline(always)]
fn reply_key(packet: &Packet, flow: &NatFlow, backend: &Backend) -> FlowKey {
    FlowKey {
        src: backend.addr,
        dst: flow.source,
        ports: two_ports(backend_port(packet, backend), flow.port as u16),
        proto: packet.flow.proto,
    }
}

/// The port at which a backend takes a flow, network order.
#[inline(always)]
fn backend_port(packet: &Packet, backend: &Backend) -> u16 {
    match backend.port as u16 {
        0 => packet.destination_port(),
        port => port,
    }
}

/// Puts down what a packet towards the backend of this index becomes, but for its source.
#[inline(always)]
fn bind<T: Tables>(
    packet: &Packet,
    service: &Service,
    backend: &Backend,
    index: u32,
    flags: u32,
    tables: &mut T,
) -> Result<(), Reason> {
    if backend.addr.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    nat.out.dst = backend.addr;
    nat.out.ports = two_ports(0, backend_port(packet, backend));
    nat.out.proto = packet.flow.proto;
    nat.service = service.id;
    nat.backend = index;
    nat.next_hop = backend.next_hop;
    nat.sources = service.sources;
    nat.source_count = service.source_count;
    nat.flags = flags | service.flags & MSS;
    Ok(())
}

/// Puts down the source that a packet towards the backend gets.
#[inline(always)]
fn from<T: Tables>(flow: &NatFlow, tables: &mut T) -> Result<(), Reason> {
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    if flow.source.is_v4() != nat.out.dst.is_v4() {
        return Err(Reason::Inconsistent);
    }
    nat.out.src = flow.source;
    nat.out.ports = with_source(nat.out.ports, flow.port);
    Ok(())
}

/// Ports of a packet with another source, in network order.
#[inline(always)]
const fn with_source(ports: u32, source: u32) -> u32 {
    let [_, _, d0, d1] = ports.to_ne_bytes();
    two_ports(source as u16, u16::from_ne_bytes([d0, d1]))
}

/// A reply.
#[inline(always)]
fn reply<T: Tables>(packet: &Packet, tables: &mut T) -> Result<(), Stop> {
    if packet.hop_limit <= 1 {
        return Err(Stop::Expired(0));
    }
    let now = tables.now();
    let reply = state::received(packet, now, tables)?;
    if reply.client.is_v4() != packet.v4 || reply.vip.is_v4() != packet.v4 {
        return Err(Stop::Reason(Reason::Inconsistent));
    }
    let next_hop = tables.client_route(&{ reply.client });
    let flags = reply.flags;
    let nat = tables.parked_nat().ok_or(Reason::Internal)?;
    nat.out.src = reply.vip;
    nat.out.dst = reply.client;
    nat.out.ports = reply.ports;
    nat.out.proto = packet.flow.proto;
    nat.service = reply.service;
    nat.backend = reply.backend;
    nat.next_hop = next_hop;
    nat.flags = OUT | flags & MSS;
    Ok(())
}

/// Sends a packet as what was put down for it.
#[inline(always)]
fn send<F: Frame, T: Tables, const WAY: u8>(
    frame: &mut F,
    packet: &mut Packet,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let nat = *tables.parked_nat().ok_or(Reason::Internal)?;
    if nat.flags & OUT != 0 {
        lease::require(&nat.out.src, &settings, tables)?;
    }
    let clamp = mss::of_opening::<_, LONG>(frame, packet)?;
    if WAY != ROUTE && packet.fragment != Fragment::Whole {
        return Err(Stop::Stage(stage::NAT_SEND));
    }
    packet.flow = nat.out;
    let way = way::of_nat::<_, WAY>(packet, nat.next_hop, &settings, tables)?;
    if WAY == ROUTE && packet.fragment == Fragment::First {
        let came = Packet {
            flow: begin::client(tables)?,
            ..*packet
        };
        let mode = action::FULL_NAT | if nat.flags & OUT == 0 { 0 } else { fragment::OUT };
        let (src, dst) = (packet.flow.src, packet.flow.dst);
        fragments::remember(&came, src, dst, nat.service, nat.backend, mode, tables);
    }
    let front = emit::make_room(frame, packet, &way, 0).ok_or(Reason::Internal)?;
    let window = frame.window();
    let headers = Headers::of(window, packet).ok_or(Reason::Internal)?;
    let from = End {
        addr: packet.flow.src,
        port: packet.source_port(),
    };
    let to = End {
        addr: packet.flow.dst,
        port: packet.destination_port(),
    };
    rewrite::translate(&headers, Some(from), Some(to));
    mss::clamp(window, packet, clamp, way.mtu, nat.flags >> MSS_SHIFT, tables);
    emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    let (direction, reason) = if nat.flags & OUT == 0 {
        (Direction::In, Reason::ForwardFullNat)
    } else {
        (Direction::Out, Reason::ReturnFullNat)
    };
    tables.traffic(
        nat.service,
        nat.backend,
        direction,
        packet.frame_len,
        nat.flags & FIRST != 0,
    );
    Ok(Outcome {
        reason,
        egress: way.ifindex,
    })
}
