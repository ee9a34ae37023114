//! SYN cookies in front of the relay (RFC 4987 section 3.6): in a flood SYNs are answered here, and what comes back is
//! checked here, so that the stack sees real connections alone.
//!
//! Owns which packets are answered, passed or dropped, and the SYN-ACK. The cookies are the kernel's: it makes and checks
//! them for the socket that listens ([`Tables::syn_cookie`], [`Tables::check_cookie`]), and makes a connection of the ACK
//! that brings one back. The kernel must be set to do so for every SYN (`net.ipv4.tcp_syncookies` = 2), which control
//! sees to. Which SYNs come here is [`super::protect`]'s.
//!
//! The SYN-ACK offers an MSS and nothing else: a cookie has no room for more.

use weir_abi::{
    Reason,
    maps::{service::LIMITED, stage},
};

use super::{Outcome, Step, answer, done, enter, internal, last, service, two_ports};
use crate::{
    checksum::sum_words,
    frame::Frame,
    parse::{ETHERNET, Fragment, Packet, TCP},
    tables::{Checked, Tables},
};

/// Bytes of a TCP header without options.
const HEADER: u32 = 20;
/// Bytes of the option that names an MSS.
const MSS_OPTION: u32 = 4;
/// IP headers with nothing behind them but TCP.
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// The window that is offered. The kernel's own stands in its first ACK; this one is less than any that it begins with.
const WINDOW: u16 = 14_600;
/// TTL or hop limit of an answer.
const HOPS: u8 = 64;

/// Goes on with the packet that was parked.
#[inline(always)]
pub fn cookie<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some(packet) = tables.parked().map(|parked| parked.packet()) else {
        return Step::Done(internal(tables));
    };
    let reason = if packet.syn() {
        syn(frame, &packet, tables)
    } else {
        match tables.check_cookie(&packet) {
            Checked::Other => Reason::Relay,
            Checked::Invalid => Reason::CookieInvalid,
            Checked::Valid => match is_limited(&packet, tables) {
                Ok(true) => return Step::Stage(stage::ADMIT),
                Ok(false) => Reason::Relay,
                Err(reason) => reason,
            },
        }
    };
    done(Outcome { reason, egress: 0 }, tables)
}

#[inline(always)]
fn syn<F: Frame, T: Tables>(frame: &mut F, packet: &Packet, tables: &mut T) -> Reason {
    let plain = if packet.v4 { IPV4_HEADER } else { IPV6_HEADER };
    let whole = packet.fragment == Fragment::Whole;
    let Some(ethernet) = frame.window().header::<ETHERNET>() else {
        return Reason::Internal;
    };
    if !answer::between_hosts(&ethernet, packet) {
        // A broadcast, or from a source that is none: the stack refuses it.
        return Reason::Relay;
    }
    if !whole || packet.transport_at.wrapping_sub(packet.network_at) != plain {
        // Rare, and the kernel answers it as well.
        return Reason::Relay;
    }
    match tables.syn_cookie(packet) {
        // No socket listens, or the kernel is not set to make cookies yet.
        0 => Reason::Relay,
        cookie => match accept(frame, packet, cookie as u32, (cookie >> 32) as u16) {
            Some(()) => Reason::SynCookie,
            None => Reason::Internal,
        },
    }
}

/// Makes the SYN into the SYN-ACK.
#[inline(always)]
fn accept<F: Frame>(frame: &mut F, packet: &Packet, cookie: u32, mss: u16) -> Option<()> {
    // A SYN without options may leave no room for one; 536 bytes are offered without it.
    let offers = packet.frame_len >= packet.transport_at + HEADER + MSS_OPTION;
    let tcp_len = if offers { HEADER + MSS_OPTION } else { HEADER };
    if !frame.cut(packet.transport_at + tcp_len) {
        return None;
    }
    let window = frame.window();
    let ethernet = window.header::<ETHERNET>()?;
    let to = ethernet.get::<[u16; 3], 0>();
    ethernet.set::<[u16; 3], 0>(ethernet.get::<[u16; 3], 6>());
    ethernet.set::<[u16; 3], 6>(to);

    let tcp = window.skip(packet.transport_at as usize)?.header::<20>()?;
    let flags = if offers { [0x60, 0x12] } else { [0x50, 0x12] };
    let [w0, w1] = WINDOW.to_be_bytes();
    let ports = two_ports(packet.destination_port(), packet.source_port());
    let acknowledged = u32::from_be(tcp.get::<u32, 4>()).wrapping_add(1).to_be();
    let third = u32::from_ne_bytes([flags[0], flags[1], w0, w1]);
    let [m0, m1] = mss.to_be_bytes();
    let option = if offers {
        u32::from_ne_bytes([2, 4, m0, m1])
    } else {
        0
    };
    tcp.set::<u32, 0>(ports);
    tcp.set::<u32, 4>(cookie.to_be());
    tcp.set::<u32, 8>(acknowledged);
    tcp.set::<u32, 12>(third);
    tcp.set::<u16, 18>(0);
    if offers {
        let at = packet.transport_at + HEADER;
        window.skip(at as usize)?.header::<4>()?.set::<u32, 0>(option);
    }

    let pseudo = u32::from_ne_bytes([0, TCP, 0, tcp_len as u8]);
    let ip = window.skip(packet.network_at as usize)?;
    let [s0, s1, s2, s3] = packet.flow.src.words;
    let [d0, d1, d2, d3] = packet.flow.dst.words;
    let addresses = if packet.v4 {
        let ip = ip.header::<20>()?;
        let first = u32::from_ne_bytes([0x45, 0, 0, (IPV4_HEADER + tcp_len) as u8]);
        // Not to be fragmented.
        let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
        let third = u32::from_ne_bytes([HOPS, TCP, 0, 0]);
        ip.set::<u32, 0>(first);
        ip.set::<u32, 4>(second);
        ip.set::<u32, 8>(third);
        ip.set::<u32, 12>(d3);
        ip.set::<u32, 16>(s3);
        ip.set::<u16, 10>(sum_words(&[first, second, third, d3, s3]));
        s3 as u64 + d3 as u64
    } else {
        let ip = ip.header::<40>()?;
        ip.set::<u32, 0>(u32::from_ne_bytes([0x60, 0, 0, 0]));
        ip.set::<u32, 4>(u32::from_ne_bytes([0, tcp_len as u8, TCP, HOPS]));
        ip.set::<[u32; 4], 8>([d0, d1, d2, d3]);
        ip.set::<[u32; 4], 24>([s0, s1, s2, s3]);
        [s0, s1, s2, s3, d0, d1, d2, d3]
            .iter()
            .fold(0, |sum, word| sum + *word as u64)
    };
    // Folded to a word and its carry: the sum does not care where its parts come from.
    let sum = sum_words(&[
        addresses as u32,
        (addresses >> 32) as u32,
        pseudo,
        ports,
        cookie.to_be(),
        acknowledged,
        third,
        option,
    ]);
    tcp.set::<u16, 16>(sum);
    Some(())
}

/// The cookie was a good one: here the connection begins, and its source is what it says. Whether it counts against limits.
#[inline(always)]
fn is_limited<T: Tables>(packet: &Packet, tables: &mut T) -> Result<bool, Reason> {
    match service(packet, tables) {
        Some(service) if service.flags & LIMITED != 0 => {
            let settings = tables.settings().ok_or(Reason::Internal)?;
            Ok(!enter(packet, &settings, tables).map_err(last)?)
        }
        _ => Ok(false),
    }
}
