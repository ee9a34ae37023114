//! The ways of `nat`, `dsr` and `ipip`: what becomes of a packet on its way to a backend, and of the answer by `nat`.
//!
//! Owns the order of what is done to it. Whose it is was decided before (`super::owner`); the choice of the backend is
//! [`flow`]'s, the next hop [`way`]'s, the bytes [`crate::rewrite`]'s and [`crate::emit`]'s. `full-nat` has ways of its own
//! ([`super::full_nat`]).

use weir_abi::{
    Addr16, FlowKey, Note, Reason, ReturnTarget, ReturnVip, Service, Settings,
    maps::{action, backend, fragment, returns, service, stage},
};

use super::{
    Outcome, ROUTE, Stop, enter,
    flow::{self, Chosen},
    fragments, lease, mss, protect, way,
};
use crate::{
    emit::{self, Outer, Way},
    frame::Frame,
    hash::{flow_hash, slot_of},
    parse::Packet,
    rewrite::{self, End, Headers},
    tables::{Direction, Tables},
};

/// Client to backend.
#[inline(always)]
pub(super) fn towards_backend<F: Frame, T: Tables, const WAY: u8>(
    frame: &mut F,
    packet: &mut Packet,
    service: &Service,
    already: u32,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    // A packet comes to ROUTE from another way, which has asked.
    let exempt = WAY == ROUTE || enter(packet, &settings, tables)?;
    match service.action {
        action::NAT | action::DSR | action::IPIP => {}
        action::RELAY => {
            return Err(protect::relay(packet, service, exempt, &settings, tables));
        }
        action::FULL_NAT => return Err(Stop::Stage(stage::FULL_NAT)),
        _ => return Err(Stop::Reason(Reason::Inconsistent)),
    }
    if packet.hop_limit <= 1 {
        return Err(Stop::Expired(0));
    }
    if service.ring_len == 0 {
        return Err(Stop::Reason(Reason::NoBackend));
    }
    let clamp = mss::of_opening::<_, WAY>(frame, packet)?;
    let hash = hash(packet, service, &settings);
    let chosen = if WAY == ROUTE {
        flow::again(already, tables)?
    } else {
        flow::choose(frame, packet, hash, service, exempt, &settings, tables)?
    };
    if service.action == action::IPIP {
        return through_tunnel::<_, _, WAY>(frame, packet, service, &chosen, &settings, clamp, hash, tables);
    }
    if chosen.backend.addr.is_v4() != packet.v4 {
        return Err(Stop::Reason(Reason::Inconsistent));
    }
    let (len, on_link) = (packet.total_len as u32, service.action == action::DSR);
    let way = way::to_backend::<_, WAY>(packet, &chosen, len, on_link, &settings, tables)?;
    let to = End {
        addr: chosen.backend.addr,
        port: chosen.backend.port as u16,
    };
    if service.action == action::NAT && chosen.backend.flags & backend::SHARED != 0 {
        remember_vip(packet, service, &chosen, tables)?;
    }
    if WAY == ROUTE {
        let dst = if service.action == action::NAT {
            to.addr
        } else {
            packet.flow.dst
        };
        let (src, index) = (packet.flow.src, chosen.index);
        fragments::remember(packet, src, dst, service.id, index, service.action, tables);
    }
    let front = emit::make_room(frame, packet, &way, 0).ok_or(Reason::Internal)?;
    let window = frame.window();
    let headers = Headers::of(window, packet).ok_or(Reason::Internal)?;
    let reason = if service.action == action::NAT {
        rewrite::translate(&headers, None, Some(to));
        Reason::ForwardNat
    } else {
        rewrite::forward(&headers);
        Reason::ForwardDsr
    };
    mss::clamp(
        window,
        packet,
        clamp,
        way.mtu,
        service.flags >> service::MSS_SHIFT,
        tables,
    );
    emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    sent(packet, service.id, &chosen, &way, reason, tables)
}

/// Client to backend, inside another packet.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "registers: a structure would lie on the stack"
)]
fn through_tunnel<F: Frame, T: Tables, const WAY: u8>(
    frame: &mut F,
    packet: &mut Packet,
    service: &Service,
    chosen: &Chosen,
    settings: &Settings,
    clamp: mss::At,
    hash: u64,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    let outer = Outer {
        src: tunnel_source(settings, &chosen.backend.addr, hash as u32),
        dst: chosen.backend.addr,
        hash: hash as u32,
    };
    let outer_len = Outer::len(&outer.dst);
    let len = packet.total_len as u32 + outer_len;
    let way = match way::to_backend::<_, WAY>(packet, chosen, len, false, settings, tables) {
        // What the sender may send is what the outer header leaves.
        Err(Stop::TooBig(mtu)) => return Err(Stop::TooBig(mtu.saturating_sub(outer_len))),
        way => way?,
    };
    if WAY == ROUTE {
        let (id, index) = (service.id, chosen.index);
        fragments::remember(packet, outer.src, outer.dst, id, index, action::IPIP, tables);
    }
    let front = emit::make_room(frame, packet, &way, outer_len).ok_or(Reason::Internal)?;
    let window = frame.window();
    let headers = Headers::of(window, packet).ok_or(Reason::Internal)?;
    rewrite::forward(&headers);
    let mtu = way.mtu.saturating_sub(outer_len);
    mss::clamp(
        window,
        packet,
        clamp,
        mtu,
        service.flags >> service::MSS_SHIFT,
        tables,
    );
    emit::encapsulate(window, &front, packet, &outer).ok_or(Reason::Internal)?;
    emit::link(window, &front, &way.link, outer.dst.is_v4()).ok_or(Reason::Internal)?;
    sent(packet, service.id, chosen, &way, Reason::ForwardIpip, tables)
}

/// The source address of an outer header: the network of the settings, its host bits the flow's hash.
#[inline(always)]
pub(super) fn tunnel_source(settings: &Settings, backend: &Addr16, hash: u32) -> Addr16 {
    if backend.is_v4() {
        return Addr16::from_v4_word(settings.tunnel_v4 | hash & settings.tunnel_v4_host);
    }
    let [a, b, c, d] = settings.tunnel_v6;
    Addr16::from_v6_words([a, b, c, d | hash & settings.tunnel_v6_host])
}

/// Counts what goes to a backend.
#[inline(always)]
fn sent<T: Tables>(
    packet: &Packet,
    service: u32,
    chosen: &Chosen,
    way: &Way,
    reason: Reason,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    tables.traffic(
        service,
        chosen.index,
        Direction::In,
        packet.frame_len,
        chosen.new_flow,
    );
    Ok(Outcome {
        reason,
        egress: way.ifindex,
    })
}

/// The hash that a packet's flow falls on its slot by.
#[inline(always)]
pub(super) fn hash(packet: &Packet, service: &Service, settings: &Settings) -> u64 {
    if service.flags & service::HASH_MASKED == 0 {
        return flow_hash(&settings.flow_key, &{ packet.flow });
    }
    flow_hash(
        &settings.flow_key,
        &masked(&{ packet.flow.src }, packet.v4, service),
    )
}

/// What of a source the hash of a service takes in that has a mask.
#[inline(always)]
fn masked(src: &Addr16, v4: bool, service: &Service) -> FlowKey {
    let [s0, s1, s2, s3] = src.words;
    let [m0, m1, m2, m3] = service.hash_mask;
    let (src, dst) = if v4 {
        (Addr16::from_v4_word(s3 & m3), Addr16::from_v4_word(0))
    } else {
        let src = Addr16::from_v6_words([s0 & m0, s1 & m1, s2 & m2, s3 & m3]);
        (src, Addr16::default())
    };
    FlowKey {
        src,
        dst,
        ports: 0,
        proto: 0,
    }
}

/// The slot that a flow falls on by its hash, as an index into `RINGS`: as [`hash`] and [`slot_index`] say it of its packets.
/// None: the service has no slots.
pub fn place(flow: &FlowKey, service: &Service, settings: &Settings) -> Option<u32> {
    let hash = match service.flags & service::HASH_MASKED {
        0 => flow_hash(&settings.flow_key, flow),
        _ => flow_hash(&settings.flow_key, &masked(&flow.src, flow.src.is_v4(), service)),
    };
    (service.ring_len != 0).then(|| slot_index(service, hash))
}

/// The slot of a service's ring that a hash falls on, as an index into `RINGS`.
#[inline(always)]
pub(super) fn slot_index(service: &Service, hash: u64) -> u32 {
    service.ring_offset.wrapping_add(slot_of(hash, service.ring_len))
}

/// Notes whose VIP the replies of a shared backend become.
#[inline(always)]
fn remember_vip<T: Tables>(
    packet: &Packet,
    service: &Service,
    chosen: &Chosen,
    tables: &mut T,
) -> Result<(), Stop> {
    let port = chosen.backend.port as u16;
    let answers_from = if port == 0 {
        packet.destination_port()
    } else {
        port
    };
    let reply = FlowKey {
        src: chosen.backend.addr,
        dst: packet.flow.src,
        ports: two_ports(answers_from, packet.source_port()),
        proto: packet.flow.proto,
    };
    let vip = ReturnVip {
        vip: packet.flow.dst,
        port: packet.destination_port() as u32 | (service.flags >> service::MSS_SHIFT) << 16,
        service: service.id,
        backend: chosen.index,
    };
    // Written only when it says something new: a write takes a lock of the table, a look-up none.
    if tables.return_flow(&reply) != Some(vip) && !tables.record_return_flow(&reply, &vip) {
        // Without it the replies could not be told from another VIP's: the client tries again.
        tables.note(Note::FlowRecordFailed);
        return Err(Stop::Reason(Reason::Internal));
    }
    Ok(())
}

/// Backend to client, by `nat`.
#[inline(always)]
pub(super) fn towards_client<F: Frame, T: Tables, const WAY: u8>(
    frame: &mut F,
    packet: &mut Packet,
    target: &ReturnTarget,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    let clamp = mss::of_opening::<_, WAY>(frame, packet)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    // The way first: what is for this box itself (an answer to a health check or to the relay) must pass untouched.
    let way = way::to_client::<_, WAY>(packet, &settings, tables)?;
    let vip = if target.flags & returns::SHARED != 0 {
        tables.return_flow(&{ packet.flow }).ok_or(Reason::NoService)?
    } else {
        ReturnVip {
            vip: target.vip,
            port: target.port,
            service: target.service,
            backend: target.backend,
        }
    };
    lease::require(&vip.vip, &settings, tables)?;
    if packet.hop_limit <= 1 {
        return Err(Stop::Expired(0));
    }
    if vip.vip.is_v4() != packet.v4 {
        return Err(Stop::Reason(Reason::Inconsistent));
    }
    if packet.tcp && packet.rst() {
        let port = if vip.port as u16 == 0 {
            packet.source_port()
        } else {
            vip.port as u16
        };
        let flow = FlowKey {
            src: packet.flow.dst,
            dst: vip.vip,
            ports: two_ports(packet.destination_port(), port),
            proto: packet.flow.proto,
        };
        flow::close(&flow, packet, tables);
    }
    if WAY == ROUTE {
        let mode = action::NAT | fragment::OUT;
        let (src, dst) = (vip.vip, packet.flow.dst);
        fragments::remember(packet, src, dst, vip.service, vip.backend, mode, tables);
    }
    let front = emit::make_room(frame, packet, &way, 0).ok_or(Reason::Internal)?;
    let window = frame.window();
    let headers = Headers::of(window, packet).ok_or(Reason::Internal)?;
    let from = End {
        addr: vip.vip,
        port: vip.port as u16,
    };
    rewrite::translate(&headers, Some(from), None);
    if clamp.is_some() {
        // What the backend offers here bounds what the client will send to it.
        let mtu = way::narrower(way.mtu, vip.backend, tables);
        mss::clamp(window, packet, clamp, mtu, vip.port >> 16, tables);
    }
    emit::link(window, &front, &way.link, packet.v4).ok_or(Reason::Internal)?;
    tables.traffic(vip.service, vip.backend, Direction::Out, packet.frame_len, false);
    Ok(Outcome {
        reason: Reason::ReturnNat,
        egress: way.ifindex,
    })
}

/// Two ports, each as it lies in the packet, as one load from the packet gives them: source first.
#[inline(always)]
pub(super) const fn two_ports(source: u16, destination: u16) -> u32 {
    let [s0, s1] = source.to_ne_bytes();
    let [d0, d1] = destination.to_ne_bytes();
    u32::from_ne_bytes([s0, s1, d0, d1])
}
