//! What forwarding changes in an ICMP error: the addresses around it, those of the packet that it quotes and its ports, and
//! every checksum over them.
//!
//! Owns which bytes change. What they become is [`crate::pipeline::icmp`]'s. Checksums are updated by difference, those in
//! the quote too: whoever gets the error may look at them.

use weir_abi::Addr16;

use super::{End, Headers, between};
use crate::{
    checksum::Delta,
    parse::{Packet, TCP},
    window::Window,
};

/// Bytes in front of the quote.
pub const HEADER: usize = 8;

/// What the ends become: of the error, and of the packet that it quotes. A port of 0 stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source of the error.
    pub src: Addr16,
    /// Destination of the error.
    pub dst: Addr16,
    /// Source of the quoted packet.
    pub quoted_src: End,
    /// Destination of the quoted packet.
    pub quoted_dst: End,
}

/// What an error quotes: an IP header, and the first 8 bytes at least of what it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Bytes of the IP header; of IPv6 with a fragment header.
    pub header_len: u32,
    /// Protocol behind it.
    pub protocol: u8,
}

/// Gives an ICMP error other ends, and takes one hop off. None, and nothing has changed: what it quotes is not there.
#[inline(always)]
pub fn translate(frame: Window<'_>, packet: &Packet, quoted: Quoted, ends: &Ends) -> Option<()> {
    let Quoted { header_len, protocol } = quoted;
    let outer = Headers::of(frame, packet)?;
    let icmp = frame.skip(packet.transport_at as usize)?;
    let quote = icmp.skip(HEADER)?;
    let icmp = icmp.header::<HEADER>()?;
    let transport = quote.skip(header_len as usize)?;
    let ports = transport.header::<8>()?;

    // Everything that changes in the quote is covered by the error's checksum. Where a checksum there changes along with
    // what it covers, the two do not cancel out when it is UDP's: it may be absent, or have been 0.
    let mut delta = Delta::NONE;
    let addresses;
    if packet.v4 {
        let ip = quote.header::<20>()?;
        let (src, dst) = (ends.quoted_src.addr.v4_word(), ends.quoted_dst.addr.v4_word());
        addresses = Delta::NONE
            .word(ip.get::<u32, 12>(), src)
            .word(ip.get::<u32, 16>(), dst);
        let old = ip.get::<u16, 10>();
        let new = addresses.apply(old);
        delta = delta.half(old, new);
        ip.set::<u32, 12>(src);
        ip.set::<u32, 16>(dst);
        ip.set::<u16, 10>(new);
    } else {
        let ip = quote.header::<40>()?;
        let (src, dst) = (ends.quoted_src.addr.words, ends.quoted_dst.addr.words);
        addresses = between(
            between(Delta::NONE, ip.get::<[u32; 4], 8>(), src),
            ip.get::<[u32; 4], 24>(),
            dst,
        );
        ip.set::<[u32; 4], 8>(src);
        ip.set::<[u32; 4], 24>(dst);
        // ICMPv6's checksum covers the addresses around it, too.
        delta = between(delta, packet.flow.src.words, ends.src.words);
        delta = between(delta, packet.flow.dst.words, ends.dst.words);
    }
    let mut covered = addresses;
    let (src, dst) = (ends.quoted_src.port, ends.quoted_dst.port);
    if src != 0 {
        covered = covered.half(ports.get::<u16, 0>(), src);
        delta = delta.half(ports.get::<u16, 0>(), src);
        ports.set::<u16, 0>(src);
    }
    if dst != 0 {
        covered = covered.half(ports.get::<u16, 2>(), dst);
        delta = delta.half(ports.get::<u16, 2>(), dst);
        ports.set::<u16, 2>(dst);
    }
    delta = delta.and(addresses);
    if protocol == TCP {
        // As far as the quote reaches.
        let until = packet.transport_at - packet.network_at + HEADER as u32 + header_len + 18;
        if until <= packet.total_len as u32
            && let Some(tcp) = transport.header::<18>()
        {
            let old = tcp.get::<u16, 16>();
            let new = covered.apply(old);
            tcp.set::<u16, 16>(new);
            delta = delta.half(old, new);
        }
    } else {
        let old = ports.get::<u16, 6>();
        let new = covered.apply_udp(old);
        ports.set::<u16, 6>(new);
        delta = delta.half(old, new);
    }
    icmp.set::<u16, 2>(delta.apply(icmp.get::<u16, 2>()));
    let end = |addr| Some(End { addr, port: 0 });
    super::translate(&outer, end(ends.src), end(ends.dst));
    Some(())
}
