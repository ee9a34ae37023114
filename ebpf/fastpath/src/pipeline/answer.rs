//! Answers that XDP makes itself, out of the packet that it answers: TCP resets and ICMP errors.
//!
//! Owns what is answered ([`turn`]), how often, and the bytes of these answers. Why something is answered is decided before:
//! it does not fit through the way ([`Stop::TooBig`](super::Stop)), its TTL is used up ([`Stop::Expired`](super::Stop)), or
//! its flow's backend is dead ([`Stop::Reset`](super::Stop)). Echo requests are [`super::icmp`]'s.
//!
//! Little is gained by having weir answer another: a RST is no longer than what it refuses, an ICMP error 28 or 48 bytes
//! longer than what it quotes, at most twice as long as what it answers. And all answers together are held to
//! [`Settings::reply_limit`] (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4).
//!
//! An answer comes from the address that the packet was sent to, and goes back the way it came: link addresses are swapped,
//! VLAN tags stay.

use weir_abi::{Addr16, Reason, Settings, maps::limit};

use super::{EXPIRED, Outcome, Step, done, flow, internal, two_ports};
use crate::{
    checksum::{Sum, sum_words},
    emit::{self, OUTER_V4, OUTER_V6, Way},
    frame::Frame,
    parse::{ETHERNET, Fragment, ICMP, ICMPV6, Packet, TCP},
    rewrite::Link,
    tables::{Tables, within},
    window::{Header, Window, opaque},
};

/// TTL or hop limit of an answer.
pub(super) const HOPS: u8 = 64;
/// Bytes of an ICMP header.
const ICMP_HEADER: u32 = 8;
/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;
/// Bytes that an ICMP error quotes at most: the whole is not larger than 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTE_V4: u32 = 576 - OUTER_V4 - ICMP_HEADER;
/// The same for ICMPv6: not larger than the least MTU (RFC 4443 section 2.4).
const QUOTE_V6: u32 = 1280 - OUTER_V6 - ICMP_HEADER;
/// What is said of an MTU that is not known: what passes everywhere (RFC 791, RFC 8200 section 5).
const LEAST_MTU_V4: u32 = 576;
/// The same for IPv6.
const LEAST_MTU_V6: u32 = 1280;

const RST: u32 = 0x04;
const ACK: u32 = 0x10;

/// Answers the packet that was parked.
#[inline(always)]
pub fn answer<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let Some((mut packet, mtu)) = tables.parked().map(|parked| (parked.packet(), parked.mtu)) else {
        return Step::Done(internal(tables));
    };
    let (Ok(reason) | Err(reason)) = make(frame, &mut packet, mtu, tables);
    done(Outcome { reason, egress: 0 }, tables)
}

/// `mtu`: as in [`super::Parked`]. Errors: why there is no answer.
#[inline(always)]
fn make<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &mut Packet,
    mtu: u32,
    tables: &mut T,
) -> Result<Reason, Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let (silent, told) = match mtu {
        0 => (Reason::NoBackend, Reason::UnreachableSent),
        EXPIRED => (Reason::TtlExpired, Reason::TtlExpiredSent),
        _ => (Reason::TooBig, Reason::TooBigSent),
    };
    if mtu == 0 && packet.tcp {
        // Its flow is over, for its source's limits as well: the client that is told so sends no FIN.
        flow::close(&{ packet.flow }, packet, tables);
    }
    // A RST is never answered by one (RFC 9293 section 3.10.7.1), and a piece does not say how much it stands for.
    if mtu == 0 && packet.tcp && (packet.rst() || packet.fragment != Fragment::Whole) {
        return Err(silent);
    }
    let link = turn(frame, packet, &settings, silent, tables)?;
    if mtu != 0 {
        error(frame, packet, &link, mtu)?;
        return Ok(told);
    }
    if packet.tcp {
        reset(frame, packet, &link).ok_or(Reason::Internal)?;
        Ok(Reason::ResetSent)
    } else {
        error(frame, packet, &link, 0)?;
        Ok(told)
    }
}

/// The link addresses of an answer, if the packet may be answered: it has its transport header, comes from one host and was
/// sent to one (RFC 1122 section 3.2.2, RFC 4443 section 2.4), and the limit allows it. Errors: `silent`, or that it does not.
#[inline(always)]
pub(super) fn turn<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    settings: &Settings,
    silent: Reason,
    tables: &mut T,
) -> Result<Link, Reason> {
    let ethernet = frame.window().header::<ETHERNET>().ok_or(Reason::Internal)?;
    let link = Link {
        destination: ethernet.get::<[u16; 3], 6>(),
        source: ethernet.get::<[u16; 3], 0>(),
    };
    if packet.fragment == Fragment::Later || !between_hosts(&ethernet, packet) {
        return Err(silent);
    }
    let now = tables.now();
    let within = match tables.limit(limit::REPLIES) {
        Some(window) => within(window, now, settings.reply_limit),
        None => false,
    };
    if within {
        Ok(link)
    } else {
        Err(Reason::ReplyLimited)
    }
}

/// Whether a packet was sent to one link address, by an address that can be a host's: else nobody may answer it.
#[inline(always)]
pub(super) fn between_hosts(ethernet: &Header<'_, ETHERNET>, packet: &Packet) -> bool {
    ethernet.get::<u8, 0>() & 1 == 0 && one_host(&packet.flow.src, packet.v4)
}

/// Whether an address can be a host's: not "this network", loopback, a group or a broadcast.
#[inline(always)]
const fn one_host(addr: &Addr16, v4: bool) -> bool {
    let [a, b, c, d] = addr.words;
    if v4 {
        let first = u32::from_be(d) >> 24;
        first != 0 && first != 127 && first < 224
    } else {
        let unspecified = a | b | c == 0 && u32::from_be(d) <= 1;
        !unspecified && u32::from_be(a) >> 24 != 0xff
    }
}

/// Makes the packet into the RST that refuses it: an IP and a TCP header, no options, nothing behind them.
#[inline(always)]
fn reset<F: Frame>(frame: &mut F, packet: &Packet, link: &Link) -> Option<()> {
    let network_at = packet.network_at;
    let tcp = frame
        .window()
        .skip(packet.transport_at as usize)?
        .header::<20>()?;
    let theirs = u32::from_be(tcp.get::<u32, 4>());
    // Where the other side expects it, or else acknowledging all that there is.
    let (sequence, acknowledged, flags) = if packet.flags as u32 & ACK != 0 {
        (tcp.get::<u32, 8>(), 0, RST)
    } else {
        let headers = packet.transport_at - network_at + packet.header_len as u32;
        let payload = (packet.total_len as u32).wrapping_sub(headers);
        let controls = packet.syn() as u32 + packet.fin() as u32;
        let next = theirs.wrapping_add(payload).wrapping_add(controls);
        (0, next.to_be(), RST | ACK)
    };
    let words = [
        two_ports(packet.destination_port(), packet.source_port()),
        sequence,
        acknowledged,
        u32::to_be(5 << 28 | flags << 16),
    ];
    let header = if packet.v4 { OUTER_V4 } else { OUTER_V6 };
    if !frame.cut(network_at + header + TCP_HEADER) {
        return None;
    }
    let window = frame.window();
    let ethernet = window.header::<ETHERNET>()?;
    let ip = window.skip(network_at as usize)?;
    let sum = from_their_address(ip, packet, TCP, TCP_HEADER)?;
    let tcp = ip.skip(header as usize)?.header::<20>()?;
    tcp.set::<u32, 0>(words[0]);
    tcp.set::<u32, 4>(words[1]);
    tcp.set::<u32, 8>(words[2]);
    tcp.set::<u32, 12>(words[3]);
    tcp.set::<u32, 16>(0);
    let sum = sum.word(words[0]).word(words[1]).word(words[2]).word(words[3]);
    tcp.set::<u16, 16>(sum.checksum());
    ethernet.set::<[u16; 3], 0>(link.destination);
    ethernet.set::<[u16; 3], 6>(link.source);
    Some(())
}

/// Makes the packet into the ICMP error about it, in which its beginning is quoted: "fragmentation needed" or "packet too
/// big"; "port unreachable" if `mtu` is 0, "time exceeded" if it is [`EXPIRED`]; 1: it does not fit through one that is not
/// known.
#[inline(always)]
fn error<F: Frame>(frame: &mut F, packet: &mut Packet, link: &Link, mtu: u32) -> Result<(), Reason> {
    let (header, most, least) = if packet.v4 {
        (OUTER_V4, QUOTE_V4, LEAST_MTU_V4)
    } else {
        (OUTER_V6, QUOTE_V6, LEAST_MTU_V6)
    };
    // Type and code as they lie in the packet (RFC 792, RFC 4443).
    let kind = match (packet.v4, mtu) {
        (true, 0) => [3, 3],
        (true, EXPIRED) => [11, 0],
        (true, _) => [3, 4],
        (false, 0) => [1, 4],
        (false, EXPIRED) => [3, 0],
        (false, _) => [2, 0],
    };
    let mtu = match mtu {
        1 => least,
        EXPIRED => 0,
        mtu => mtu,
    };
    let mtu = if packet.v4 { mtu & 0xffff } else { mtu };
    // Whole words, which keeps the transport's first 8 bytes; and of a frame in several buffers what the first holds.
    // (Opaque, or LLVM subtracts halves of pointers, which the verifier forbids.)
    let here = (opaque(frame.window().len()) as u32).wrapping_sub(packet.network_at);
    let quote = (packet.total_len as u32).min(most).min(here) & !3;
    if !frame.cut(packet.network_at + quote) {
        return Err(Reason::Internal);
    }
    let way = Way {
        ifindex: 0,
        link: *link,
        set_tags: false,
        tags: [0; 2],
        mtu: 0,
    };
    let front = emit::make_room(frame, packet, &way, header + ICMP_HEADER).ok_or(Reason::Internal)?;
    write_error(frame, packet, &way, &front, kind, mtu, quote).ok_or(Reason::Internal)
}

#[inline(always)]
fn write_error<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    way: &Way,
    front: &emit::Front,
    kind: [u8; 2],
    mtu: u32,
    quote: u32,
) -> Option<()> {
    let window = frame.window();
    let mut quoted = window.skip(packet.network_at as usize)?;
    let mut sum = Sum::NONE;
    let mut left = quote;
    for _ in 0..QUOTE_V6 / 4 {
        if left < 4 {
            break;
        }
        sum = sum.word(quoted.header::<4>()?.get::<u32, 0>());
        quoted = quoted.skip(4)?;
        left -= 4;
    }
    let (header, protocol) = if packet.v4 {
        (OUTER_V4, ICMP)
    } else {
        (OUTER_V6, ICMPV6)
    };
    let at = packet.network_at.wrapping_sub(header + ICMP_HEADER);
    let ip = window.skip(at as usize)?;
    let pseudo = from_their_address(ip, packet, protocol, ICMP_HEADER + quote)?;
    // Only ICMPv6's checksum covers the addresses.
    if !packet.v4 {
        sum = sum.and(pseudo);
    }
    let icmp = ip.skip(header as usize)?.header::<8>()?;
    let first = u32::from_ne_bytes([kind[0], kind[1], 0, 0]);
    icmp.set::<u32, 0>(first);
    icmp.set::<u32, 4>(mtu.to_be());
    icmp.set::<u16, 2>(sum.word(first).word(mtu.to_be()).checksum());
    emit::link(window, front, &way.link, packet.v4)
}

/// Writes an IP header from the address that the packet was sent to, to the one it came from, with `len` bytes behind it. The
/// sum of the pseudo-header that goes with it.
#[inline(always)]
fn from_their_address(at: Window<'_>, packet: &Packet, protocol: u8, len: u32) -> Option<Sum> {
    let (src, dst) = (packet.flow.dst, packet.flow.src);
    let sum = Sum::NONE.word(u32::to_be((protocol as u32) << 16 | len));
    if packet.v4 {
        let ip = at.header::<{ OUTER_V4 as usize }>()?;
        // Whole, so the identification means nothing (RFC 6864).
        let words = [
            u32::to_be(0x4500_0000 | (OUTER_V4 + len)),
            u32::to_be(0x0000_4000),
            u32::to_be((HOPS as u32) << 24 | (protocol as u32) << 16),
            src.v4_word(),
            dst.v4_word(),
        ];
        ip.set::<u32, 0>(words[0]);
        ip.set::<u32, 4>(words[1]);
        ip.set::<u32, 8>(words[2]);
        ip.set::<u32, 12>(words[3]);
        ip.set::<u32, 16>(words[4]);
        ip.set::<u16, 10>(sum_words(&words));
        Some(sum.word(words[3]).word(words[4]))
    } else {
        let ip = at.header::<{ OUTER_V6 as usize }>()?;
        ip.set::<u32, 0>(u32::to_be(0x6000_0000));
        ip.set::<u32, 4>(u32::to_be(len << 16 | (protocol as u32) << 8 | HOPS as u32));
        ip.set::<[u32; 4], 8>(src.words);
        ip.set::<[u32; 4], 24>(dst.words);
        Some(sum.words(&src.words).words(&dst.words))
    }
}
