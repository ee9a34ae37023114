//! Telling the link where an address is now: gratuitous ARP (RFC 826, RFC 5227 section 2.3) and unsolicited neighbour
//! advertisements (RFC 4861 section 7.2.6).
//!
//! Owns the frames, from their Ethernet header on. When and how often they are sent is the machine's matter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{HOPS, wire::sum::Sum};

/// A frame that announces an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// For an IPv4 address.
    Arp([u8; ARP]),
    /// For an IPv6 address.
    Na([u8; NA]),
}

impl Frame {
    /// Its bytes.
    pub const fn bytes(&self) -> &[u8] {
        match self {
            Self::Arp(bytes) => bytes,
            Self::Na(bytes) => bytes,
        }
    }
}

/// An ARP request in an Ethernet frame, without padding.
pub const ARP: usize = 42;

/// A neighbour advertisement with one option in an Ethernet frame.
pub const NA: usize = 14 + 40 + 32;

/// The frame from `source` that says that `ip` is at `mac`. `is_router` is for IPv6 only: whether hosts may take the box for a router;
/// who did and is told otherwise stops (RFC 4861 section 7.2.5).
pub fn frame(source: [u8; 6], mac: [u8; 6], ip: IpAddr, is_router: bool) -> Frame {
    match ip {
        IpAddr::V4(v4) => Frame::Arp(arp(source, mac, v4)),
        IpAddr::V6(v6) => Frame::Na(na(source, mac, v6, is_router)),
    }
}

/// An ARP announcement: a request for the address by its owner, which every host with an entry of it heeds.
fn arp(source: [u8; 6], mac: [u8; 6], ip: Ipv4Addr) -> [u8; ARP] {
    let ip = ip.octets();
    concat(&[
        &[0xff; 6],
        &source,
        &[0x08, 0x06],
        // Ethernet, IPv4, lengths of their addresses, request.
        &[0, 1, 0x08, 0x00, 6, 4, 0, 1],
        &mac,
        &ip,
        &[0; 6],
        &ip,
    ])
}

fn na(source: [u8; 6], mac: [u8; 6], ip: Ipv6Addr, is_router: bool) -> [u8; NA] {
    const ALL_NODES: [u8; 16] = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    let ip = ip.octets();
    // Router, not solicited, override: what is cached is to be replaced (RFC 4861 section 4.4).
    let flags = if is_router { 0xa0 } else { 0x20 };
    let icmp = |sum: u16| -> [u8; 32] {
        concat(&[
            &[136, 0],
            &sum.to_be_bytes(),
            &[flags, 0, 0, 0],
            &ip,
            // Option: target link-layer address, of one unit of 8 bytes.
            &[2, 1],
            &mac,
        ])
    };
    let sum = Sum::NONE
        .bytes(&ip)
        .bytes(&ALL_NODES)
        .bytes(&[0, 32, 0, 58])
        .bytes(&icmp(0))
        .checksum();
    concat(&[
        &[0x33, 0x33, 0, 0, 0, 1],
        &source,
        &[0x86, 0xdd],
        // Version 6, length, ICMPv6.
        &[0x60, 0, 0, 0, 0, 32, 58, HOPS],
        &ip,
        &ALL_NODES,
        &icmp(sum),
    ])
}

/// The parts one after the other. They fill the frame: a test holds them to it.
fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in out.iter_mut().zip(bytes) {
        *place = *byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: [u8; 6] = [2, 0, 0, 0x11, 0x22, 0x33];
    const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 0xcc];

    #[test]
    fn an_arp_announcement() {
        let frame = frame(SOURCE, MAC, "192.0.2.10".parse().unwrap(), true);
        assert_eq!(
            frame.bytes(),
            [
                &[0xff; 6][..],
                &SOURCE,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                &MAC,
                &[192, 0, 2, 10],
                &[0; 6],
                &[192, 0, 2, 10],
            ]
            .concat()
        );
    }

    #[test]
    fn an_unsolicited_neighbour_advertisement() {
        for (is_router, flags) in [(true, 0xa0), (false, 0x20)] {
            let ip: Ipv6Addr = "2001:db8::10".parse().unwrap();
            let frame = frame(SOURCE, MAC, ip.into(), is_router);
            let bytes = frame.bytes();
            assert_eq!(bytes.len(), NA);
            assert_eq!(bytes[..6], [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(bytes[6..12], SOURCE);
            assert_eq!(bytes[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
            assert_eq!(bytes[22..38], ip.octets());
            assert_eq!(bytes[54..56], [136, 0]);
            assert_eq!(bytes[58], flags);
            assert_eq!(bytes[62..78], ip.octets());
            assert_eq!(bytes[78..], [&[2, 1][..], &MAC].concat());
            // What is summed with the right checksum in it sums to nothing.
            let sum = Sum::NONE.bytes(&bytes[22..54]).bytes(&[0, 32, 0, 58]);
            assert_eq!(sum.bytes(&bytes[54..]).checksum(), 0);
        }
    }
}
