//! ICMP and ICMPv6 of virtual addresses: echo requests to them, and errors about flows.
//!
//! Owns which ICMP is weir's business; the rest (neighbor discovery, redirects, …) is left to the stack. An error quotes the
//! packet that it is about, and the flow's other end knows that packet by other addresses than the end that reports: so
//! what the quote says is translated as the flow is ([`rewrite::icmp`]). Eight bytes of the transport header, which hold
//! the ports, are enough.
//!
//! | error | quotes | goes to | reason |
//! |---|---|---|---|
//! | to a VIP | VIP to client | the flow's backend, chosen by the flow rule | `forward-icmp` |
//! | to a client | client to backend | the client, from the VIP | `return-icmp` |

use weir_abi::{
    Addr16, FlowKey, Reason, ReturnKey, ReturnVip, Service, ServiceKey,
    maps::{action, port_proto, returns, service, stage},
};

use super::{
    Outcome, ROUTE, Step, Stop, answer, done, enter, flow, full_nat, hash, internal, last, lease,
    service as service_of, tunnel_source, way,
};
use crate::{
    checksum::Delta,
    emit::{self, Outer, Way},
    frame::Frame,
    parse::{ETHERNET, Fragment, Packet, TCP, UDP},
    rewrite::{
        self, End, Headers,
        icmp::{Ends, Quoted},
    },
    tables::{Direction, Tables},
    window::Window,
};

/// Echo request, type and code as they lie in the packet (RFC 792).
const ECHO_V4: [u8; 2] = [8, 0];
/// The same of ICMPv6 (RFC 4443).
const ECHO_V6: [u8; 2] = [128, 0];
/// IPv6's next-header number of a fragment header.
const FRAGMENT: u8 = 44;
const ECHO_REPLY_V4: [u8; 2] = [0, 0];
const ECHO_REPLY_V6: [u8; 2] = [129, 0];

/// Goes on with the packet that was parked: ICMP.
#[inline(always)]
pub fn icmp<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(mut packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    match by_type(frame, &mut packet, tables) {
        Ok(outcome) => done(outcome, tables),
        Err(Stop::Stage(stage)) => Step::Stage(stage),
        Err(stop) => {
            let reason = last(stop);
            done(Outcome { reason, egress: 0 }, tables)
        }
    }
}

#[inline(always)]
fn by_type<F: Frame, T: Tables>(frame: &mut F, packet: &mut Packet, tables: &mut T) -> Result<Outcome, Stop> {
    if packet.fragment != Fragment::Whole {
        return Err(Stop::Reason(Reason::Icmp));
    }
    let kind = frame
        .window()
        .skip(packet.transport_at as usize)
        .and_then(|icmp| icmp.header::<2>())
        .ok_or(Reason::Internal)?
        .get::<[u8; 2], 0>();
    if kind == if packet.v4 { ECHO_V4 } else { ECHO_V6 } {
        let reason = echo(frame, packet, tables)?;
        return Ok(Outcome { reason, egress: 0 });
    }
    let is_error = if packet.v4 {
        // Unreachable, time exceeded, parameter problem. Source quench is deprecated (RFC 6633).
        kind[0] == 3 || kind[0] == 11 || kind[0] == 12
    } else {
        kind[0] >= 1 && kind[0] <= 4
    };
    if !is_error {
        return Err(Stop::Reason(Reason::Icmp));
    }
    if full_nat::icmp::is_about(frame, packet, tables) {
        return Err(Stop::Stage(stage::NAT_ICMP));
    }
    Ok(about_flow(frame, packet, tables)?)
}

/// Makes an echo request to a virtual address into its reply.
#[inline(always)]
fn echo<F: Frame, T: Tables>(frame: &mut F, packet: &Packet, tables: &mut T) -> Result<Reason, Reason> {
    let key = ServiceKey {
        addr: packet.flow.dst,
        port_proto: port_proto(0, packet.protocol()),
    };
    let address = tables.service(&key).ok_or(Reason::Icmp)?;
    if address.action != action::ADDRESS {
        return Err(Reason::Icmp);
    }
    let settings = tables.settings().ok_or(Reason::Internal)?;
    enter(packet, &settings, tables).map_err(last)?;
    if address.flags & service::UP == 0 {
        return Err(Reason::EchoDown);
    }
    let link = answer::turn(frame, packet, &settings, Reason::Icmp, tables)?;
    let window = frame.window();
    let ethernet = window.header::<ETHERNET>().ok_or(Reason::Internal)?;
    let ip = window.skip(packet.network_at as usize).ok_or(Reason::Internal)?;
    let icmp = window
        .skip(packet.transport_at as usize)
        .and_then(|icmp| icmp.header::<4>())
        .ok_or(Reason::Internal)?;
    // The sums are over the same addresses in another order: they change by what else changes.
    let (old, new) = if packet.v4 {
        let ip = ip.header::<20>().ok_or(Reason::Internal)?;
        ip.set::<u32, 12>(packet.flow.dst.v4_word());
        ip.set::<u32, 16>(packet.flow.src.v4_word());
        let old = ip.get::<u16, 8>();
        let [_, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([answer::HOPS, protocol]);
        ip.set::<u16, 8>(new);
        ip.set::<u16, 10>(Delta::NONE.half(old, new).apply(ip.get::<u16, 10>()));
        (ECHO_V4, ECHO_REPLY_V4)
    } else {
        let ip = ip.header::<40>().ok_or(Reason::Internal)?;
        ip.set::<[u32; 4], 8>(packet.flow.dst.words);
        ip.set::<[u32; 4], 24>(packet.flow.src.words);
        ip.set::<u8, 7>(answer::HOPS);
        (ECHO_V6, ECHO_REPLY_V6)
    };
    icmp.set::<[u8; 2], 0>(new);
    let delta = Delta::NONE.half(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    let sum = delta.apply(icmp.get::<u16, 2>());
    // Both are zero in this arithmetic. Of a message that is nothing but zeros only this one is the right one, and of any
    // other both are.
    icmp.set::<u16, 2>(if sum == 0 { u16::MAX } else { sum });
    ethernet.set::<[u16; 3], 0>(link.destination);
    ethernet.set::<[u16; 3], 6>(link.source);
    Ok(Reason::EchoReply)
}

/// What an error quotes.
pub(super) struct Quote {
    /// The flow that the quoted packet answers: its ends the other way round.
    pub(super) flow: FlowKey,
    /// How it lies there.
    pub(super) quoted: Quoted,
}

/// Takes the quote apart: a whole IP header, of IPv6's extension headers only that of a first fragment (whose sender learns
/// the path's MTU by such errors), and the first 8 bytes of TCP or UDP.
#[inline(always)]
pub(super) fn quote(frame: Window<'_>, packet: &Packet) -> Option<Quote> {
    let ip = frame.skip(packet.transport_at as usize + rewrite::icmp::HEADER)?;
    let (header_len, protocol, src, dst) = if packet.v4 {
        let ip = ip.header::<20>()?;
        let first = ip.get::<u8, 0>();
        let later = ip.get::<u16, 6>() & 0x1fff_u16.to_be() != 0;
        let len = (first & 0x0f) as u32 * 4;
        if first >> 4 != 4 || len < 20 || later {
            return None;
        }
        let (src, dst) = (ip.get::<u32, 12>(), ip.get::<u32, 16>());
        let (src, dst) = (Addr16::from_v4_word(src), Addr16::from_v4_word(dst));
        (len, ip.get::<u8, 9>(), src, dst)
    } else {
        let behind = ip.skip(40)?;
        let ip = ip.header::<40>()?;
        if ip.get::<u8, 0>() >> 4 != 6 {
            return None;
        }
        let (src, dst) = (ip.get::<[u32; 4], 8>(), ip.get::<[u32; 4], 24>());
        let (src, dst) = (Addr16::from_v6_words(src), Addr16::from_v6_words(dst));
        let next = ip.get::<u8, 6>();
        if next == FRAGMENT {
            let fragment = behind.header::<8>()?;
            if fragment.get::<u16, 2>() & 0xfff8_u16.to_be() != 0 {
                return None;
            }
            (48, fragment.get::<u8, 0>(), src, dst)
        } else {
            (40, next, src, dst)
        }
    };
    let all = packet.transport_at - packet.network_at + rewrite::icmp::HEADER as u32 + header_len + 8;
    if (protocol != TCP && protocol != UDP) || all > packet.total_len as u32 {
        return None;
    }
    let ports = ip.skip(header_len as usize)?.header::<8>()?.get::<u32, 0>();
    Some(Quote {
        flow: FlowKey {
            src: dst,
            dst: src,
            ports: ports.rotate_left(16),
            proto: protocol as u32,
        },
        quoted: Quoted { header_len, protocol },
    })
}

/// An error about a packet, to the end that sent the packet.
#[inline(always)]
fn about_flow<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let Quote { flow, quoted } = quote(frame.window(), packet).ok_or(Reason::Icmp)?;
    // Errors go to whom they are about.
    if flow.dst != packet.flow.dst {
        return Err(Reason::Icmp);
    }
    let about = Packet {
        tcp: flow.proto == TCP as u32,
        flags: 0,
        flow,
        ..*packet
    };
    // Not by `owner`: what an enum leaves undefined without a value, LLVM copies here, and the verifier refuses.
    if let Some(service) = service_of(&about, tables) {
        return to_backend(frame, packet, &about, &service, quoted, tables);
    }
    let key = |port| ReturnKey {
        addr: about.flow.src,
        port_proto: port_proto(port, about.protocol()),
    };
    let target = match tables.return_target(&key(about.source_port())) {
        Some(target) => target,
        None => match tables.return_target(&key(0)) {
            Some(target) => target,
            None => return Err(Reason::Icmp),
        },
    };
    let vip = if target.flags & returns::SHARED != 0 {
        tables.return_flow(&{ about.flow }).ok_or(Reason::Icmp)?
    } else {
        ReturnVip {
            vip: target.vip,
            port: target.port,
            service: target.service,
            backend: target.backend,
        }
    };
    let ends = Ends {
        src: vip.vip,
        dst: packet.flow.dst,
        quoted_src: End {
            addr: about.flow.dst,
            port: 0,
        },
        quoted_dst: End {
            addr: vip.vip,
            port: vip.port as u16,
        },
    };
    to_client(frame, packet, &ends, quoted, vip.service, vip.backend, tables)
}

/// From the client's side, to the backend of the flow.
#[inline(always)]
fn to_backend<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    about: &Packet,
    service: &Service,
    quoted: Quoted,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let mode = service.action;
    if mode != action::NAT && mode != action::DSR && mode != action::IPIP {
        return Err(Reason::Icmp);
    }
    let settings = tables.settings().ok_or(Reason::Internal)?;
    enter(packet, &settings, tables).map_err(last)?;
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    let hash = hash(about, service, &settings);
    let chosen = flow::of(about, hash, service, &settings, tables)?;
    let backend = chosen.backend;
    let tunnel = mode == action::IPIP;
    if !tunnel && backend.addr.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let outer_len = if tunnel { Outer::len(&backend.addr) } else { 0 };
    let len = packet.total_len as u32 + outer_len;
    let way = way::to_backend::<_, ROUTE>(packet, &chosen, len, mode == action::DSR, &settings, tables)
        .map_err(last)?;
    let front = emit::make_room(frame, packet, &way, outer_len).ok_or(Reason::Internal)?;
    let window = frame.window();
    let v4 = if mode == action::NAT {
        let ends = Ends {
            src: packet.flow.src,
            dst: backend.addr,
            quoted_src: End {
                addr: backend.addr,
                port: backend.port as u16,
            },
            quoted_dst: End {
                addr: about.flow.src,
                port: 0,
            },
        };
        rewrite::icmp::translate(window, packet, quoted, &ends).ok_or(Reason::Internal)?;
        packet.v4
    } else {
        rewrite::forward(&Headers::of(window, packet).ok_or(Reason::Internal)?);
        if tunnel {
            let outer = Outer {
                src: tunnel_source(&settings, &backend.addr, hash as u32),
                dst: backend.addr,
                hash: hash as u32,
            };
            emit::encapsulate(window, &front, packet, &outer).ok_or(Reason::Internal)?;
            outer.dst.is_v4()
        } else {
            packet.v4
        }
    };
    emit::link(window, &front, &way.link, v4).ok_or(Reason::Internal)?;
    sent(packet, service.id, chosen.index, Direction::In, &way, tables)
}

/// From the backend's side, to the client.
#[inline(always)]
fn to_client<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    ends: &Ends,
    quoted: Quoted,
    service: u32,
    backend: u32,
    tables: &mut T,
) -> Result<Outcome, Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    // The way first, as for every reply: what is for this box itself must pass untouched.
    let way = way::to_client::<_, ROUTE>(packet, &settings, tables).map_err(last)?;
    lease::require(&ends.src, &settings, tables)?;
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    if ends.src.is_v4() != packet.v4 {
        return Err(Reason::Inconsistent);
    }
    let front = emit::make_room(frame, packet, &way, 0).ok_or(Reason::Internal)?;
    let window = frame.window();
    rewrite::icmp::translate(window, packet, quoted, ends).ok_or(Reason::Internal)?;
    emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    sent(packet, service, backend, Direction::Out, &way, tables)
}

#[inline(always)]
fn sent<T: Tables>(
    packet: &Packet,
    service: u32,
    backend: u32,
    direction: Direction,
    way: &Way,
    tables: &mut T,
) -> Result<Outcome, Reason> {
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
