//! The decision: what becomes of a frame, and why. Runs in XDP and, over the same rules, on the host.
//!
//! Owns the order of things (below) and both directions of `nat`. The choice of a backend is [`flow`]'s; bytes are
//! changed by [`crate::rewrite`]; tables are behind [`Tables`]. Turning an [`Outcome`] into a verdict is the caller's.
//!
//! ```text
//! parse ─▶ service? ──yes──▶ relay: pass
//!             │               nat:  hop limit ─▶ choose ─▶ route ─▶ rewrite ─▶ send
//!             no
//!             ▼
//!          return? ──yes──▶ route ─▶ to this box: pass
//!             │                  └─▶ hop limit ─▶ whose VIP? ─▶ rewrite ─▶ send
//!             no ─▶ pass
//! ```
//!
//! A frame for nobody costs the parse and two look-ups. Nothing is changed in a frame that is not sent.
//!
//! Keys are handed to tables as copies, `&{ packet.flow }`: what the kernel's helpers get a pointer to must lie on the
//! stack, and a pointer into `packet` would put all of it there instead of into registers.

mod flow;
#[cfg(test)]
mod tests;

use weir_abi::{
    FlowKey, Note, Reason, ReturnKey, ReturnVip, Service, ServiceKey,
    maps::{action, backend, port_proto, returns},
};

use crate::{
    hash::{flow_hash, slot_of},
    parse::{Packet, parse},
    rewrite::{self, Headers},
    tables::{Direction, Route, RouteQuery, Tables},
    window::Window,
};

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why; its [`verdict`](Reason::verdict) says what to do.
    pub reason: Reason,
    /// Index of the interface to send it by, when it is forwarded; else 0.
    pub egress: u32,
}

impl Outcome {
    #[inline(always)]
    const fn sent(reason: Reason, egress: u32) -> Self {
        Self { reason, egress }
    }
}

/// Decides about a frame, changes it if it is to be forwarded, and counts.
#[inline(always)]
pub fn handle<T: Tables>(frame: Window<'_>, tables: &mut T) -> Outcome {
    let outcome = match decide(frame, tables) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome { reason, egress: 0 },
    };
    tables.count(outcome.reason);
    outcome
}

/// `Err` is every way to end but sending it on.
#[inline(always)]
fn decide<T: Tables>(frame: Window<'_>, tables: &mut T) -> Result<Outcome, Reason> {
    let packet = parse(frame)?;
    let key = ServiceKey {
        addr: packet.flow.dst,
        port_proto: port_proto(packet.destination_port(), packet.protocol()),
    };
    if let Some(service) = tables.service(&key) {
        return towards_backend(frame, &packet, &service, &key, tables);
    }
    let key = ReturnKey {
        addr: packet.flow.src,
        port_proto: port_proto(packet.source_port(), packet.protocol()),
    };
    match tables.return_target(&key) {
        Some(target) => {
            let vip = ReturnVip {
                vip: target.vip,
                port: target.port,
                service: target.service,
                backend: target.backend,
            };
            towards_client(frame, &packet, vip, target.flags & returns::SHARED != 0, tables)
        }
        None => Err(Reason::NoService),
    }
}

/// Client to backend.
#[inline(always)]
fn towards_backend<T: Tables>(
    frame: Window<'_>,
    packet: &Packet,
    service: &Service,
    key: &ServiceKey,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    if service.action == action::RELAY {
        return Err(Reason::Relay);
    }
    if service.action != action::NAT {
        return Err(Reason::Inconsistent);
    }
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let index = slot_of(flow_hash(settings.hash_key, &{ packet.flow }), service.ring_len);
    let slot = tables
        .slot(service.ring_offset.wrapping_add(index))
        .ok_or(Reason::Inconsistent)?;
    let chosen = flow::choose(packet, slot, &settings, tables)?;
    if chosen.backend.addr.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let query = RouteQuery {
        dst: chosen.backend.addr,
        ..query(packet, settings.fib_ifindex)
    };
    let (ifindex, link) = match tables.route(&query) {
        Route::Via { ifindex, link } => (ifindex, link),
        Route::NotForwarded | Route::Unreachable | Route::Disabled => return Err(Reason::NoRoute),
        Route::NoNeighbor { next_hop, ifindex } => {
            tables.resolve_neighbor(&next_hop, ifindex);
            return Err(Reason::NoNeighbor);
        }
        Route::TooBig => return Err(Reason::TooBig),
        Route::Failed => return Err(Reason::Internal),
    };
    let port = chosen.backend.port as u16;
    if chosen.backend.flags & backend::SHARED != 0 {
        let answers_from = if port == 0 {
            packet.destination_port()
        } else {
            port
        };
        let reply = FlowKey {
            src: chosen.backend.addr,
            dst: packet.flow.src,
            ports: reply_ports(answers_from, packet.source_port()),
            proto: packet.flow.proto,
        };
        let vip = ReturnVip {
            vip: key.addr,
            port: packet.destination_port() as u32,
            service: service.id,
            backend: chosen.index,
        };
        // Written only when it says something new: a write takes a lock of the table, a look-up none.
        if tables.return_flow(&reply) != Some(vip) && !tables.record_return_flow(&reply, &vip) {
            // Without it the replies could not be told from another VIP's: the client tries again.
            tables.note(Note::FlowRecordFailed);
            return Err(Reason::Internal);
        }
    }
    let Some(headers) = Headers::of(frame, packet) else {
        return Err(Reason::Internal);
    };
    rewrite::destination(&headers, &chosen.backend.addr, port);
    rewrite::link(&headers, &link);
    tables.traffic(
        service.id,
        chosen.index,
        Direction::In,
        packet.frame_len,
        chosen.new_flow,
    );
    Ok(Outcome::sent(Reason::ForwardNat, ifindex))
}

/// Backend to client. `known`: what the backend's address alone says; with `shared` the flow must say it.
#[inline(always)]
fn towards_client<T: Tables>(
    frame: Window<'_>,
    packet: &Packet,
    known: ReturnVip,
    shared: bool,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    // Routed first: what is for this box itself (an answer to a health check or to the relay) must pass untouched.
    let (ifindex, link) = match tables.route(&query(packet, settings.fib_ifindex)) {
        Route::Via { ifindex, link } => (ifindex, link),
        // With forwarding off nothing can be told apart; then this box's own connections must not suffer.
        Route::NotForwarded | Route::Disabled => return Err(Reason::ReturnLocal),
        Route::Unreachable => return Err(Reason::NoRoute),
        Route::NoNeighbor { next_hop, ifindex } => {
            tables.resolve_neighbor(&next_hop, ifindex);
            return Err(Reason::NoNeighbor);
        }
        Route::TooBig => return Err(Reason::TooBig),
        Route::Failed => return Err(Reason::Internal),
    };
    let vip = match shared {
        true => tables.return_flow(&{ packet.flow }).ok_or(Reason::NoService)?,
        false => known,
    };
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    if vip.vip.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let Some(headers) = Headers::of(frame, packet) else {
        return Err(Reason::Internal);
    };
    rewrite::source(&headers, &vip.vip, vip.port as u16);
    rewrite::link(&headers, &link);
    tables.traffic(vip.service, vip.backend, Direction::Out, packet.frame_len, false);
    Ok(Outcome::sent(Reason::ReturnNat, ifindex))
}

/// The query for a packet's own destination.
#[inline(always)]
fn query(packet: &Packet, from: u32) -> RouteQuery {
    RouteQuery {
        v4: packet.v4,
        src: packet.flow.src,
        dst: packet.flow.dst,
        ports: packet.flow.ports,
        protocol: packet.protocol(),
        total_len: packet.total_len,
        traffic_class: packet.traffic_class,
        from,
    }
}

/// Two ports, each as it lies in the packet, as one load from the packet gives them: source first.
#[inline(always)]
const fn reply_ports(source: u16, destination: u16) -> u32 {
    let [s0, s1] = source.to_ne_bytes();
    let [d0, d1] = destination.to_ne_bytes();
    u32::from_ne_bytes([s0, s1, d0, d1])
}
