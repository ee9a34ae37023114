//! What forwarding changes in a packet's own headers: the address and port of one end or both, the checksums over them,
//! the hop limit.
//!
//! Owns which bytes change. Decides nothing: everything was checked before ([`crate::pipeline`]). The link layer, and the
//! header that `ipip` puts around a packet, are [`crate::emit`]'s; what an ICMP error quotes is [`icmp`]'s.

pub mod icmp;
#[cfg(test)]
mod tests;

use weir_abi::Addr16;

use crate::{
    checksum::Delta,
    parse::{Fragment, Packet, UDP},
    window::{Header, Window},
};

/// The IP header.
#[derive(Clone, Copy)]
enum Network<'a> {
    /// RFC 791. Options, if any, follow.
    V4(Header<'a, 20>),
    /// RFC 8200. Extension headers, if any, follow.
    V6(Header<'a, 40>),
}

/// The transport header.
#[derive(Clone, Copy)]
enum Transport<'a> {
    /// RFC 9293. Options, if any, follow.
    Tcp(Header<'a, 20>),
    /// RFC 768.
    Udp(Header<'a, 8>),
    /// ICMP, which has no ports, and the later fragments of a datagram, whose checksum lies in the first.
    None,
}

/// A parsed packet's headers, proved anew to lie in the frame: all of them or none, so that a packet is changed wholly
/// or not at all.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    network: Network<'a>,
    transport: Transport<'a>,
}

impl<'a> Headers<'a> {
    /// The headers of `packet`, which was parsed from this very frame. None only if it was not.
    #[inline(always)]
    pub fn of(frame: Window<'a>, packet: &Packet) -> Option<Self> {
        let network = frame.skip(packet.network_at as usize)?;
        let network = if packet.v4 {
            Network::V4(network.header()?)
        } else {
            Network::V6(network.header()?)
        };
        let transport = if packet.fragment == Fragment::Later || !(packet.tcp || packet.protocol() == UDP) {
            Transport::None
        } else {
            let transport = frame.skip(packet.transport_at as usize)?;
            if packet.tcp {
                Transport::Tcp(transport.header()?)
            } else {
                Transport::Udp(transport.header()?)
            }
        };
        Some(Self { network, transport })
    }
}

/// Link addresses for the way out, each as three words as they lie in the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The next hop's.
    pub destination: [u16; 3],
    /// Our own on that interface.
    pub source: [u16; 3],
}

/// An end of a flow: its address, and its port in network order; port 0 keeps the one there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The address, of the packet's family.
    pub addr: Addr16,
    /// The port.
    pub port: u16,
}

/// Gives the packet a new source, a new destination, or both, and takes one hop off. The hop limit must be above 1.
#[inline(always)]
pub fn translate(headers: &Headers<'_>, source: Option<End>, destination: Option<End>) {
    let mut delta = Delta::NONE;
    if let Some(End { addr, .. }) = source {
        match headers.network {
            Network::V4(ip) => {
                delta = delta.word(ip.get::<u32, 12>(), addr.v4_word());
                ip.set::<u32, 12>(addr.v4_word());
            }
            Network::V6(ip) => {
                delta = between(delta, ip.get::<[u32; 4], 8>(), addr.words);
                ip.set::<[u32; 4], 8>(addr.words);
            }
        }
    }
    if let Some(End { addr, .. }) = destination {
        match headers.network {
            Network::V4(ip) => {
                delta = delta.word(ip.get::<u32, 16>(), addr.v4_word());
                ip.set::<u32, 16>(addr.v4_word());
            }
            Network::V6(ip) => {
                delta = between(delta, ip.get::<[u32; 4], 24>(), addr.words);
                ip.set::<[u32; 4], 24>(addr.words);
            }
        }
    }
    hop(headers, delta);
    if let Some(End { port, .. }) = source
        && port != 0
    {
        match headers.transport {
            Transport::Tcp(tcp) => {
                delta = delta.half(tcp.get::<u16, 0>(), port);
                tcp.set::<u16, 0>(port);
            }
            Transport::Udp(udp) => {
                delta = delta.half(udp.get::<u16, 0>(), port);
                udp.set::<u16, 0>(port);
            }
            Transport::None => {}
        }
    }
    if let Some(End { port, .. }) = destination
        && port != 0
    {
        match headers.transport {
            Transport::Tcp(tcp) => {
                delta = delta.half(tcp.get::<u16, 2>(), port);
                tcp.set::<u16, 2>(port);
            }
            Transport::Udp(udp) => {
                delta = delta.half(udp.get::<u16, 2>(), port);
                udp.set::<u16, 2>(port);
            }
            Transport::None => {}
        }
    }
    transport_checksum(headers, delta);
}

/// Takes one hop off, and changes nothing else. The hop limit must be above 1.
#[inline(always)]
pub fn forward(headers: &Headers<'_>) {
    hop(headers, Delta::NONE);
}

#[inline(always)]
const fn between(delta: Delta, old: [u32; 4], new: [u32; 4]) -> Delta {
    let ([o0, o1, o2, o3], [n0, n1, n2, n3]) = (old, new);
    delta.word(o0, n0).word(o1, n1).word(o2, n2).word(o3, n3)
}

/// One hop less, and IPv4's header checksum: over the address that changed (`delta`) and the hop.
#[inline(always)]
fn hop(headers: &Headers<'_>, delta: Delta) {
    match headers.network {
        Network::V4(ip) => {
            // TTL and protocol share a word of the checksum.
            let old = ip.get::<u16, 8>();
            let [ttl, protocol] = old.to_ne_bytes();
            let new = u16::from_ne_bytes([ttl.wrapping_sub(1), protocol]);
            ip.set::<u16, 8>(new);
            ip.set::<u16, 10>(delta.half(old, new).apply(ip.get::<u16, 10>()));
        }
        Network::V6(ip) => ip.set::<u8, 7>(ip.get::<u8, 7>().wrapping_sub(1)),
    }
}

/// The transport checksum covers both addresses (in the pseudo-header) and the ports.
#[inline(always)]
fn transport_checksum(headers: &Headers<'_>, delta: Delta) {
    match headers.transport {
        Transport::Tcp(tcp) => tcp.set::<u16, 16>(delta.apply(tcp.get::<u16, 16>())),
        // Over IPv6 a UDP checksum of 0 is allowed for some tunnels (RFC 6936): it stays, too.
        Transport::Udp(udp) => udp.set::<u16, 6>(delta.apply_udp(udp.get::<u16, 6>())),
        Transport::None => {}
    }
}
