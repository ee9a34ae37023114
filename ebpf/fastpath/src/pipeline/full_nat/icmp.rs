//! ICMP errors about flows by `full-nat`. Both ends know the quoted packet by other addresses and ports than the end that
//! reports, so all of them are translated.
//!
//! Owns which flow an error is about, and what becomes of it. How the quote is taken apart is [`super::super::icmp`]'s.
//!
//! | error | quotes | goes to | reason |
//! |---|---|---|---|
//! | to a source address of weir's | that to backend | the client, from the VIP | `return-icmp` |
//! | to a VIP | VIP to client | the backend, from the flow's source address | `forward-icmp` |

use weir_abi::{FlowKey, Reason, maps::backend::ALIVE};

use super::super::{Outcome, ROUTE, Step, done, enter, icmp::quote, internal, last, lease, way};
use crate::{
    emit,
    frame::Frame,
    parse::Packet,
    rewrite::{self, End, icmp::Ends},
    tables::{Direction, Tables},
};

/// Whether an error is about a flow by `full-nat`.
#[inline(always)]
pub(in super::super) fn is_about<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &mut T,
) -> bool {
    let Some(quote) = quote(frame.window(), packet) else {
        return false;
    };
    // Errors go to whom they are about. The quoted packet's answer is what one of the tables has as its key.
    quote.flow.dst == packet.flow.dst
        && (tables.nat_reply(&{ quote.flow }).is_some() || tables.nat_flow(&{ quote.flow }).is_some())
}

/// Goes on with the packet that was parked: an error about such a flow.
#[inline(always)]
pub fn nat_icmp<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    match translated(frame, &mut packet, tables) {
        Ok(outcome) => done(outcome, tables),
        Err(reason) => done(Outcome { reason, egress: 0 }, tables),
    }
}

#[inline(always)]
fn translated<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let quote = quote(frame.window(), packet).ok_or(Reason::Icmp)?;
    let quoted = quote.quoted;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    let (ends, service, backend, next_hop, direction);
    if let Some(reply) = tables.nat_reply(&{ quote.flow }).copied() {
        let [v0, v1, c0, c1] = reply.ports.to_ne_bytes();
        ends = Ends {
            src: reply.vip,
            dst: reply.client,
            quoted_src: End {
                addr: reply.client,
                port: u16::from_ne_bytes([c0, c1]),
            },
            quoted_dst: End {
                addr: reply.vip,
                port: u16::from_ne_bytes([v0, v1]),
            },
        };
        (service, backend) = (reply.service, reply.backend);
        next_hop = tables.client_route(&{ reply.client });
        direction = Direction::Out;
        lease::require(&ends.src, &settings, tables)?;
    } else {
        // It was there a moment ago, like the service.
        let flow = tables.nat_flow(&{ quote.flow }).copied().ok_or(Reason::Icmp)?;
        let about = Packet {
            flow: quote.flow,
            ..*packet
        };
        let of = super::service(&about, tables).ok_or(Reason::Icmp)?;
        enter(packet, &settings, tables).map_err(last)?;
        let to = tables.backend(flow.backend).ok_or(Reason::Inconsistent)?;
        if to.flags & ALIVE == 0 {
            return Err(Reason::NoBackend);
        }
        ends = Ends {
            src: flow.source,
            dst: to.addr,
            quoted_src: End {
                addr: to.addr,
                port: super::backend_port(&about, &to),
            },
            quoted_dst: End {
                addr: flow.source,
                port: flow.port as u16,
            },
        };
        (service, backend) = (of.id, flow.backend);
        next_hop = to.next_hop;
        direction = Direction::In;
    }
    if ends.src.is_v4() != packet.v4 || ends.dst.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let out = Packet {
        flow: FlowKey {
            src: ends.src,
            dst: ends.dst,
            ports: 0,
            proto: packet.flow.proto,
        },
        ..*packet
    };
    let way = way::of_nat::<_, ROUTE>(&out, next_hop, &settings, tables).map_err(last)?;
    let front = emit::make_room(frame, packet, &way, 0).ok_or(Reason::Internal)?;
    let window = frame.window();
    rewrite::icmp::translate(window, packet, quoted, &ends).ok_or(Reason::Internal)?;
    emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    tables.traffic(service, backend, direction, packet.frame_len, false);
    let reason = match direction {
        Direction::In => Reason::ForwardIcmp,
        Direction::Out => Reason::ReturnIcmp,
    };
    Ok(Outcome {
        reason,
        egress: way.ifindex,
    })
}
