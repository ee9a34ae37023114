//! Takes a frame apart: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP, UDP or ICMP.
//!
//! Owns the rules by which a frame is one that can be balanced, or else the [`Reason`] why not. Changes nothing and looks
//! nothing up. Two steps, so that a packet for nobody can be let go between them: [`network`] reads the IP header,
//! [`transport`] what is behind it. IPv6's extension headers are followed in [`ipv6`].
//!
//! Both come in two forms. The short one (`FULL` false) takes whole TCP and UDP packets, and leaves fragments, ICMP and
//! IPv6 extension headers to the long one, in a program of its own.
//!
//! The checks run from the outside in, so the first lie decides. A header that the frame (or the IP packet in it) ends
//! inside is *truncated*; one whose own fields contradict what is there is *malformed*. Checksums are not verified: they
//! are updated by difference, so a wrong one stays wrong and the backend refuses it.

mod ipv6;
#[cfg(test)]
mod tests;

use weir_abi::{Addr16, FlowKey, Reason, maps::stage};

use crate::{
    pipeline::Stop,
    window::{Window, forget},
};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of VRRP.
pub const VRRP: u8 = 112;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;
/// Ethernet's type of IPv4, network order.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// Ethernet's type of IPv6, network order.
pub const IPV6: u16 = 0x86dd_u16.to_be();
/// Ethernet's type of ARP, network order.
pub const ARP: u16 = 0x0806_u16.to_be();
/// 802.1Q and 802.1ad.
const C_TAG: u16 = 0x8100_u16.to_be();
const S_TAG: u16 = 0x88a8_u16.to_be();

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How far into a frame the transport header may begin: beyond it nothing is followed. 14 bytes of Ethernet, 40 of IPv6,
/// and 457 for VLAN tags and extension headers; what weir puts in front still leaves it within
/// [`MAX_OFFSET`](crate::window::MAX_OFFSET).
pub const MAX_TRANSPORT_AT: usize = 0x1ff;

/// Of a datagram in pieces, which piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// The whole.
    Whole,
    /// The first piece, which has the transport header.
    First,
    /// A later one.
    Later,
}

/// An IP header taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Where it begins.
    pub at: usize,
    /// Its length; of IPv6 without extension headers.
    pub header_len: usize,
    /// IPv4 rather than IPv6.
    pub v4: bool,
    /// VLAN tags as they lie in the frame, TPID and TCI, the outer one first; 0: none.
    pub tags: [u32; 2],
    /// Source address.
    pub src: Addr16,
    /// Destination address.
    pub dst: Addr16,
    /// Protocol, or the first of IPv6's next headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4: flags and fragment offset, as they lie in the packet.
    pub fragment: u16,
    /// Length of the packet in bytes, headers included, by its own word; the frame has as many.
    pub total_len: usize,
    /// IPv4: the TOS byte. IPv6: traffic class and flow label as they lie in the first word, the version zeroed.
    pub traffic_class: u32,
}

/// A packet taken apart: where its headers are and what the decision needs of them. Plain numbers, no pointers, so that it
/// may lie anywhere on the kernel's stack; [`crate::rewrite::Headers`] leads back to the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Bytes of the frame, Ethernet header included.
    pub frame_len: u32,
    /// Where the IP header begins.
    pub network_at: u32,
    /// Where the transport header begins. Means nothing in a later fragment.
    pub transport_at: u32,
    /// IPv4 rather than IPv6.
    pub v4: bool,
    /// TCP rather than UDP or ICMP.
    pub tcp: bool,
    /// TCP: the flags.
    pub flags: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Which piece of a datagram.
    pub fragment: Fragment,
    /// Of a fragment: the identification, as it lies in the packet.
    pub fragment_id: u32,
    /// Length of the IP packet in bytes, headers included, by its own word.
    pub total_len: u16,
    /// TCP: length of the header in bytes, options included.
    pub header_len: u16,
    /// As in [`Network`].
    pub traffic_class: u32,
    /// As in [`Network`].
    pub tags: [u32; 2],
    /// Addresses, ports and protocol. ICMP and later fragments have no ports: 0.
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

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.flow.proto as u8
    }

    /// Whether it opens a TCP connection: SYN without ACK.
    #[inline(always)]
    pub const fn syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether it accepts a TCP connection: SYN with ACK.
    #[inline(always)]
    pub const fn syn_ack(&self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// Whether it ends a TCP connection from this side: FIN.
    #[inline(always)]
    pub const fn fin(&self) -> bool {
        self.flags & FIN != 0
    }

    /// Whether it acknowledges something: ACK.
    #[inline(always)]
    pub const fn ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// Whether it breaks a TCP connection off: RST.
    #[inline(always)]
    pub const fn rst(&self) -> bool {
        self.flags & RST != 0
    }
}

/// Takes a frame apart, both steps in their long form.
///
/// # Errors
/// Why the frame is not one to balance.
pub fn parse(frame: Window<'_>) -> Result<Packet, Reason> {
    let whole = frame.len();
    let network = network(frame, || whole)?;
    match transport::<true>(frame, &network) {
        Ok(packet) => Ok(packet),
        Err(Stop::Reason(reason)) => Err(reason),
        // The long form leaves nothing to another.
        Err(_) => Err(Reason::Internal),
    }
}

/// An Ethernet header taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Where the IP header begins.
    pub at: usize,
    /// IPv4 rather than IPv6.
    pub v4: bool,
    /// As in [`Network`].
    pub tags: [u32; 2],
}

/// Takes apart Ethernet and the IP header. `whole` gives the frame's length if its first buffer does not hold all of it.
///
/// # Errors
/// Why the frame is not one to balance.
#[inline(always)]
pub fn network(frame: Window<'_>, whole: impl Fn() -> usize) -> Result<Network, Reason> {
    let ethernet = ethernet(frame)?;
    if ethernet.v4 {
        ip::<true>(frame, &ethernet, whole)
    } else {
        ip::<false>(frame, &ethernet, whole)
    }
}

/// What stands before a packet of any protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Where the packet begins.
    pub at: usize,
    /// Its EtherType, network order.
    pub ether_type: u16,
    /// As in [`Network`].
    pub tags: [u32; 2],
}

/// Takes apart Ethernet, with its VLAN tags.
///
/// # Errors
/// What is behind it is no IP, or too many tags are before it.
#[inline(always)]
pub fn ethernet(frame: Window<'_>) -> Result<Ethernet, Reason> {
    let Link { at, ether_type, tags } = link(frame)?;
    if ether_type != IPV4 && ether_type != IPV6 {
        return Err(Reason::NotIp);
    }
    Ok(Ethernet {
        at,
        v4: ether_type == IPV4,
        tags,
    })
}

/// The same whatever is behind it.
///
/// # Errors
/// The frame ends in it, or it has too many tags.
#[inline(always)]
pub fn link(frame: Window<'_>) -> Result<Link, Reason> {
    let ethernet = frame.header::<ETHERNET>().ok_or(Reason::Truncated)?;
    let mut ether_type = ethernet.get::<u16, 12>();
    let mut at = ETHERNET;
    let mut tags = [0; 2];
    if is_tag(ether_type) {
        let tagged = frame
            .header::<{ ETHERNET + VLAN_TAG }>()
            .ok_or(Reason::Truncated)?;
        tags[0] = tagged.get::<u32, 12>();
        ether_type = tagged.get::<u16, 16>();
        at = ETHERNET + VLAN_TAG;
        if is_tag(ether_type) {
            let tagged = frame
                .header::<{ ETHERNET + 2 * VLAN_TAG }>()
                .ok_or(Reason::Truncated)?;
            tags[1] = tagged.get::<u32, 16>();
            ether_type = tagged.get::<u16, 20>();
            at = ETHERNET + 2 * VLAN_TAG;
            if is_tag(ether_type) {
                return Err(Reason::VlanStacked);
            }
        }
    }
    Ok(Link { at, ether_type, tags })
}

/// Takes apart the IP header of a family.
///
/// # Errors
/// It lies, or is not all there.
#[inline(always)]
pub fn ip<const V4: bool>(
    frame: Window<'_>,
    ethernet: &Ethernet,
    whole: impl Fn() -> usize,
) -> Result<Network, Reason> {
    let &Ethernet { at, tags, .. } = ethernet;
    let l3 = frame.skip(at).ok_or(Reason::Truncated)?;
    let network = if V4 { ipv4(l3)? } else { ipv6::header(l3)? };
    // Shorter than the frame is fine: Ethernet pads to 60 bytes.
    if network.total_len > frame.len() - at && network.total_len + at > whole() {
        return Err(Reason::MalformedIp);
    }
    Ok(Network {
        at,
        tags,
        v4: V4,
        ..network
    })
}

/// Takes apart what is behind the IP header.
///
/// # Errors
/// Why the packet is not one to balance; in the short form also that it is for the long one.
#[inline(always)]
pub fn transport<const FULL: bool>(frame: Window<'_>, network: &Network) -> Result<Packet, Stop> {
    let &Network {
        at,
        header_len,
        v4,
        tags,
        src,
        dst,
        protocol,
        hop_limit,
        fragment,
        total_len,
        traffic_class,
    } = network;
    let l3 = frame.skip(at).ok_or(Reason::Truncated)?;
    let rest = if FULL {
        if v4 {
            ipv4_rest(l3, protocol, header_len, fragment)?
        } else {
            ipv6::follow(l3, protocol, total_len)?
        }
    } else {
        // More fragments, or an offset.
        if v4 && fragment & 0x3fff_u16.to_be() != 0 {
            return Err(Stop::Stage(stage::EDGE));
        }
        Rest {
            protocol,
            at: header_len,
            fragment: Fragment::Whole,
            id: 0,
        }
    };
    if FULL && at + rest.at > MAX_TRANSPORT_AT {
        return Err(Stop::Reason(Reason::ExtensionHeaders));
    }
    let l4 = l3.skip(rest.at).ok_or(Reason::ExtensionHeaders)?;
    let protocol = rest.protocol;
    let Transport {
        ports,
        flags,
        header_len,
    } = if rest.fragment == Fragment::Later {
        Transport::default()
    } else if protocol == TCP {
        tcp(l4, total_len - rest.at)?
    } else if protocol == UDP {
        udp(l4, total_len - rest.at, rest.fragment)?
    } else if !FULL {
        let other = v4 && protocol != ICMP;
        return Err(if other {
            Stop::Reason(Reason::OtherProtocol)
        } else {
            Stop::Stage(stage::EDGE)
        });
    } else if protocol == if v4 { ICMP } else { ICMPV6 } {
        icmp(l4, total_len - rest.at)?
    } else {
        return Err(Stop::Reason(Reason::OtherProtocol));
    };
    let transport_at = if FULL {
        forget(at + rest.at, total_len)
    } else {
        at + rest.at
    };
    Ok(Packet {
        frame_len: (frame.len() as u32).max((at + total_len) as u32),
        network_at: at as u32,
        transport_at: transport_at as u32,
        v4,
        tcp: protocol == TCP,
        flags,
        hop_limit,
        fragment: rest.fragment,
        fragment_id: rest.id,
        total_len: total_len as u16,
        header_len,
        traffic_class,
        tags,
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

/// What is found behind the IP header and its extensions.
struct Rest {
    protocol: u8,
    /// From the IP header's first byte.
    at: usize,
    fragment: Fragment,
    id: u32,
}

/// What the decision needs of a transport header.
#[derive(Default)]
struct Transport {
    ports: u32,
    flags: u8,
    header_len: u16,
}

/// RFC 791 section 3.1. Where it lies, its tags and family are the caller's to fill in.
#[inline(always)]
fn ipv4(l3: Window<'_>) -> Result<Network, Reason> {
    let ip = l3.header::<20>().ok_or(Reason::Truncated)?;
    let version_ihl = ip.get::<u8, 0>();
    let header_len = (version_ihl & 0x0f) as usize * 4;
    if version_ihl >> 4 != 4 || header_len < 20 {
        return Err(Reason::MalformedIp);
    }
    if header_len > l3.len() {
        return Err(Reason::Truncated);
    }
    let total_len = u16::from_be(ip.get::<u16, 2>()) as usize;
    if total_len < header_len {
        return Err(Reason::MalformedIp);
    }
    Ok(Network {
        at: 0,
        header_len,
        v4: true,
        tags: [0; 2],
        src: Addr16::from_v4_word(ip.get::<u32, 12>()),
        dst: Addr16::from_v4_word(ip.get::<u32, 16>()),
        protocol: ip.get::<u8, 9>(),
        hop_limit: ip.get::<u8, 8>(),
        fragment: ip.get::<u16, 6>(),
        total_len,
        traffic_class: ip.get::<u8, 1>() as u32,
    })
}

/// The same for what the short form does not take.
#[inline(always)]
fn ipv4_rest(l3: Window<'_>, protocol: u8, at: usize, fragment: u16) -> Result<Rest, Reason> {
    let fragment = u16::from_be(fragment);
    let (fragment, id) = if fragment & 0x3fff == 0 {
        (Fragment::Whole, 0)
    } else {
        let ip = l3.header::<20>().ok_or(Reason::Truncated)?;
        let id = u32::from_ne_bytes([ip.get::<u8, 4>(), ip.get::<u8, 5>(), 0, 0]);
        let first = fragment & 0x1fff == 0;
        (if first { Fragment::First } else { Fragment::Later }, id)
    };
    Ok(Rest {
        protocol,
        at,
        fragment,
        id,
    })
}

/// RFC 9293 section 3.1. `len`: bytes of the packet from here.
#[inline(always)]
fn tcp(l4: Window<'_>, len: usize) -> Result<Transport, Reason> {
    if len < 20 {
        return Err(Reason::Truncated);
    }
    let tcp = l4.header::<20>().ok_or(Reason::Truncated)?;
    // The data offset counts words of 4 bytes in the upper half of byte 12.
    let header_len = (tcp.get::<u8, 12>() >> 4) as usize * 4;
    if header_len < 20 || header_len > len {
        return Err(Reason::MalformedTransport);
    }
    Ok(Transport {
        ports: tcp.get::<u32, 0>(),
        flags: tcp.get::<u8, 13>(),
        header_len: header_len as u16,
    })
}

/// RFC 768. Of a first fragment the length is that of the whole datagram.
#[inline(always)]
fn udp(l4: Window<'_>, len: usize, fragment: Fragment) -> Result<Transport, Reason> {
    if len < 8 {
        return Err(Reason::Truncated);
    }
    let udp = l4.header::<8>().ok_or(Reason::Truncated)?;
    let datagram = u16::from_be(udp.get::<u16, 4>()) as usize;
    // Shorter than the packet is allowed, and the rest ignored by the receiver; 0 is only for jumbograms.
    if datagram < 8 || (datagram > len && fragment == Fragment::Whole) {
        return Err(Reason::MalformedTransport);
    }
    Ok(Transport {
        ports: udp.get::<u32, 0>(),
        ..Transport::default()
    })
}

/// RFC 792 and RFC 4443: 8 bytes at least.
#[inline(always)]
fn icmp(l4: Window<'_>, len: usize) -> Result<Transport, Reason> {
    if len < 8 || l4.header::<8>().is_none() {
        return Err(Reason::Truncated);
    }
    Ok(Transport::default())
}
