//! Takes a frame apart: Ethernet, one VLAN tag, IPv4 or IPv6, TCP or UDP.
//!
//! Owns the rules by which a frame is one that can be balanced, or else the [`Reason`] why not. Changes nothing and looks
//! nothing up. IPv6's extension headers are followed in [`ipv6`].
//!
//! The checks run from the outside in, so the first lie decides. A header that the frame (or the IP packet in it) ends
//! inside is *truncated*; one whose own fields contradict what is there is *malformed*. Checksums are not verified: they
//! are updated by difference, so a wrong one stays wrong and the backend refuses it.

mod ipv6;
#[cfg(test)]
mod tests;

use weir_abi::{Addr16, FlowKey, Reason};

use crate::window::{Window, forget};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// 802.1Q and 802.1ad.
const C_TAG: u16 = 0x8100_u16.to_be();
const S_TAG: u16 = 0x88a8_u16.to_be();

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A frame taken apart: where its headers are and what the decision needs of them. Plain numbers, no pointers, so that it
/// may lie anywhere on the kernel's stack; [`crate::rewrite::Headers`] leads back to the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Bytes of the frame, Ethernet header included.
    pub frame_len: u32,
    /// Where the IP header begins.
    pub network_at: u32,
    /// Where the TCP or UDP header begins.
    pub transport_at: u32,
    /// IPv4 rather than IPv6.
    pub v4: bool,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// Opens a TCP connection: SYN without ACK.
    pub syn: bool,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Length of the IP packet in bytes, headers included, by its own word.
    pub total_len: u16,
    /// IPv4: the TOS byte. IPv6: traffic class and flow label as they lie in the first word, the version zeroed.
    pub traffic_class: u32,
    /// Addresses, ports and protocol.
    pub flow: FlowKey,
}

impl Packet {
    /// Source port, network order.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        let [a, b, _, _] = self.flow.ports.to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    /// Destination port, network order.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        let [_, _, a, b] = self.flow.ports.to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    /// IP protocol number, [`TCP`] or [`UDP`].
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.flow.proto as u8
    }
}

/// What an IP header, with what hangs on it, says of the packet.
struct Layer3 {
    src: Addr16,
    dst: Addr16,
    protocol: u8,
    /// Where the transport header begins, from the IP header's first byte.
    transport_at: usize,
    /// Length of the packet from the IP header's first byte; not more than the frame has.
    total_len: usize,
    hop_limit: u8,
    traffic_class: u32,
}

/// Takes a frame apart.
///
/// # Errors
/// Why the frame is not one to balance.
#[inline(always)]
pub fn parse(frame: Window<'_>) -> Result<Packet, Reason> {
    let frame_len = frame.len();
    let ethernet = frame.header::<ETHERNET>().ok_or(Reason::Truncated)?;
    let mut ether_type = ethernet.get::<u16, 12>();
    let mut network_at = ETHERNET;
    if is_tag(ether_type) {
        let tagged = frame
            .header::<{ ETHERNET + VLAN_TAG }>()
            .ok_or(Reason::Truncated)?;
        ether_type = tagged.get::<u16, 16>();
        network_at = ETHERNET + VLAN_TAG;
        if is_tag(ether_type) {
            return Err(Reason::VlanStacked);
        }
    }
    if ether_type != IPV4 && ether_type != IPV6 {
        return Err(Reason::NotIp);
    }
    let l3 = frame.skip(network_at).ok_or(Reason::Truncated)?;
    let available = frame_len - network_at;
    let v4 = ether_type == IPV4;
    let layer3 = if v4 {
        ipv4(l3, available)?
    } else {
        ipv6::parse(l3, available)?
    };
    let Layer3 {
        src,
        dst,
        protocol,
        transport_at,
        total_len,
        hop_limit,
        traffic_class,
    } = layer3;
    let l4 = l3.skip(transport_at).ok_or(Reason::ExtensionHeaders)?;
    let (ports, syn) = transport(l4, protocol, total_len - transport_at)?;
    Ok(Packet {
        frame_len: frame_len as u32,
        network_at: network_at as u32,
        transport_at: forget(network_at + transport_at, total_len) as u32,
        v4,
        tcp: protocol == TCP,
        syn,
        hop_limit,
        total_len: total_len as u16,
        traffic_class,
        flow: FlowKey {
            src,
            dst,
            ports,
            proto: protocol as u32,
        },
    })
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    ether_type == C_TAG || ether_type == S_TAG
}

/// RFC 791 section 3.1. `available`: bytes of the frame from here.
#[inline(always)]
fn ipv4(l3: Window<'_>, available: usize) -> Result<Layer3, Reason> {
    let ip = l3.header::<20>().ok_or(Reason::Truncated)?;
    let version_ihl = ip.get::<u8, 0>();
    let header_len = (version_ihl & 0x0f) as usize * 4;
    if version_ihl >> 4 != 4 || header_len < 20 {
        return Err(Reason::MalformedIp);
    }
    if header_len > available {
        return Err(Reason::Truncated);
    }
    let total_len = u16::from_be(ip.get::<u16, 2>()) as usize;
    // Shorter than the frame is fine: Ethernet pads to 60 bytes.
    if total_len < header_len || total_len > available {
        return Err(Reason::MalformedIp);
    }
    // More fragments, or an offset.
    if ip.get::<u16, 6>() & 0x3fff_u16.to_be() != 0 {
        return Err(Reason::Fragment);
    }
    Ok(Layer3 {
        src: Addr16::from_v4_word(ip.get::<u32, 12>()),
        dst: Addr16::from_v4_word(ip.get::<u32, 16>()),
        protocol: ip.get::<u8, 9>(),
        transport_at: header_len,
        total_len,
        hop_limit: ip.get::<u8, 8>(),
        traffic_class: ip.get::<u8, 1>() as u32,
    })
}

/// Both ports as one load, and whether a TCP connection opens. `len`: bytes of the packet from here, all of them in the
/// frame.
#[inline(always)]
fn transport(l4: Window<'_>, protocol: u8, len: usize) -> Result<(u32, bool), Reason> {
    if protocol == TCP {
        if len < 20 {
            return Err(Reason::Truncated);
        }
        let tcp = l4.header::<20>().ok_or(Reason::Truncated)?;
        // The data offset counts words of 4 bytes in the upper half of byte 12 (RFC 9293 section 3.1).
        let header_len = (tcp.get::<u8, 12>() >> 4) as usize * 4;
        if header_len < 20 || header_len > len {
            return Err(Reason::MalformedTransport);
        }
        Ok((tcp.get::<u32, 0>(), tcp.get::<u8, 13>() & (SYN | ACK) == SYN))
    } else if protocol == UDP {
        if len < 8 {
            return Err(Reason::Truncated);
        }
        let udp = l4.header::<8>().ok_or(Reason::Truncated)?;
        let datagram = u16::from_be(udp.get::<u16, 4>()) as usize;
        // Shorter than the packet is allowed, and the rest ignored by the receiver; 0 is only for jumbograms.
        if datagram < 8 || datagram > len {
            return Err(Reason::MalformedTransport);
        }
        Ok((udp.get::<u32, 0>(), false))
    } else {
        Err(Reason::OtherProtocol)
    }
}
