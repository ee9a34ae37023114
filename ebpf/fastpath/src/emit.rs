//! The link layer of what leaves: Ethernet addresses, VLAN tags, and the IP header that `ipip` puts around a packet.
//!
//! Owns how a frame's front is made anew when its length changes. Decides nothing: [`crate::pipeline`] says by which way
//! a packet leaves. The packet's own headers are [`crate::rewrite`]'s.

use weir_abi::{Addr16, NextHop, maps::next_hop};

use crate::{
    checksum::sum_words,
    frame::Frame,
    parse::{ETHERNET, IPV4, IPV6, Packet, VLAN_TAG},
    rewrite::Link,
    window::Window,
};

/// IP protocol number of IPv4 in IP (RFC 2003).
const IPIP: u8 = 4;
/// IP protocol number of IPv6 in IP (RFC 2473).
const IPV6_IN_IP: u8 = 41;
/// Bytes of an IPv4 header without options.
pub const OUTER_V4: u32 = 20;
/// Bytes of an IPv6 header.
pub const OUTER_V6: u32 = 40;
/// TTL or hop limit of an outer header.
const OUTER_HOPS: u8 = 64;

/// A way out of the box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Index of the interface.
    pub ifindex: u32,
    /// Link addresses.
    pub link: Link,
    /// Whether the frame gets [`Self::tags`]; else it keeps its own. (No `Option`: what that leaves undefined without a
    /// value, LLVM copies, and the verifier refuses.)
    pub set_tags: bool,
    /// VLAN tags, as in [`NextHop`].
    pub tags: [u32; 2],
    /// Largest IP packet that fits; 0: not known, the kernel's routes have said that it does.
    pub mtu: u32,
}

impl From<NextHop> for Way {
    #[inline(always)]
    fn from(hop: NextHop) -> Self {
        Self {
            ifindex: hop.ifindex,
            link: Link {
                destination: hop.destination,
                source: hop.source,
            },
            set_tags: hop.flags & next_hop::SET_TAGS != 0,
            tags: [hop.outer_tag, hop.inner_tag],
            mtu: hop.mtu,
        }
    }
}

/// The header around a packet, of either family (RFC 2003, RFC 2473).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// From a network of weir's own, so that flows spread.
    pub src: Addr16,
    /// The backend.
    pub dst: Addr16,
    /// Of the flow; the IPv6 flow label is made of it (RFC 6438).
    pub hash: u32,
}

impl Outer {
    /// Bytes of the header.
    #[inline(always)]
    pub const fn len(dst: &Addr16) -> u32 {
        if dst.is_v4() { OUTER_V4 } else { OUTER_V6 }
    }
}

/// How far the IP header's place moves when the frame's front is made anew, and the tags that it has then.
#[derive(Clone, Copy)]
pub struct Front {
    tags: [u32; 2],
    len: usize,
    fresh: bool,
}

/// Bytes of an Ethernet header with these tags.
#[inline(always)]
const fn ethernet_len(tags: [u32; 2]) -> usize {
    match tags {
        [0, _] => ETHERNET,
        [_, 0] => ETHERNET + VLAN_TAG,
        _ => ETHERNET + 2 * VLAN_TAG,
    }
}

/// Makes room at the front for what is to be written: afterwards the IP header of `packet` lies where it says. None: the
/// frame can't be moved, and nothing has changed.
#[inline(always)]
pub fn make_room<F: Frame>(frame: &mut F, packet: &mut Packet, way: &Way, outer: u32) -> Option<Front> {
    let tags = if way.set_tags { way.tags } else { packet.tags };
    let len = ethernet_len(tags);
    let at = len as u32 + outer;
    let by = packet.network_at as i32 - at as i32;
    if by != 0 {
        if !frame.move_front(by) {
            return None;
        }
        packet.network_at = at;
        packet.transport_at = packet.transport_at.wrapping_sub(by as u32);
    }
    // Where nothing moves and the tags stay, the type that is there is the right one.
    let fresh = by != 0 || way.set_tags;
    Some(Front { tags, len, fresh })
}

/// Writes the Ethernet header. `v4`: the family of the IP header that follows it.
#[inline(always)]
pub fn link(frame: Window<'_>, front: &Front, link: &Link, v4: bool) -> Option<()> {
    let ether_type = if v4 { IPV4 } else { IPV6 };
    let ethernet = frame.header::<ETHERNET>()?;
    if front.fresh {
        if front.len == ETHERNET {
            ethernet.set::<u16, 12>(ether_type);
        } else if front.len == ETHERNET + VLAN_TAG {
            let tagged = frame.header::<{ ETHERNET + VLAN_TAG }>()?;
            tagged.set::<u32, 12>(front.tags[0]);
            tagged.set::<u16, 16>(ether_type);
        } else {
            let tagged = frame.header::<{ ETHERNET + 2 * VLAN_TAG }>()?;
            tagged.set::<u32, 12>(front.tags[0]);
            tagged.set::<u32, 16>(front.tags[1]);
            tagged.set::<u16, 20>(ether_type);
        }
    }
    ethernet.set::<[u16; 3], 0>(link.destination);
    ethernet.set::<[u16; 3], 6>(link.source);
    Some(())
}

/// Writes the outer IP header in front of `packet`, whose hop was taken off already.
#[inline(always)]
pub fn encapsulate(frame: Window<'_>, front: &Front, packet: &Packet, outer: &Outer) -> Option<()> {
    let at = frame.skip(front.len)?;
    let protocol = if packet.v4 { IPIP } else { IPV6_IN_IP };
    // DSCP and ECN go along (RFC 2983, RFC 6040).
    let class = if packet.v4 {
        packet.traffic_class as u8
    } else {
        let [a, b, _, _] = packet.traffic_class.to_ne_bytes();
        a << 4 | b >> 4
    };
    if outer.dst.is_v4() {
        let ip = at.header::<{ OUTER_V4 as usize }>()?;
        let total = (packet.total_len as u32 + OUTER_V4) as u16;
        // Don't fragment: what does not fit was answered before. Without fragments the identification means nothing (RFC
        // 6864).
        let words = [
            u32::to_be(0x4500_0000 | (class as u32) << 16 | total as u32),
            u32::to_be(0x0000_4000),
            u32::to_be((OUTER_HOPS as u32) << 24 | (protocol as u32) << 16),
            outer.src.v4_word(),
            outer.dst.v4_word(),
        ];
        ip.set::<u32, 0>(words[0]);
        ip.set::<u32, 4>(words[1]);
        ip.set::<u32, 8>(words[2]);
        ip.set::<u32, 12>(words[3]);
        ip.set::<u32, 16>(words[4]);
        ip.set::<u16, 10>(sum_words(&words));
    } else {
        let ip = at.header::<{ OUTER_V6 as usize }>()?;
        let label = outer.hash & 0x000f_ffff;
        ip.set::<u32, 0>(u32::to_be(0x6000_0000 | (class as u32) << 20 | label));
        let rest = (packet.total_len as u32) << 16 | (protocol as u32) << 8 | OUTER_HOPS as u32;
        ip.set::<u32, 4>(rest.to_be());
        ip.set::<[u32; 4], 8>(outer.src.words);
        ip.set::<[u32; 4], 24>(outer.dst.words);
    }
    Some(())
}
