//! ICMP and ICMPv6 for tests, built field by field, with checksums computed plainly over the whole.

use std::net::{IpAddr, SocketAddr};

use crate::{
    Frame,
    frame::{FROM_MAC, TO_MAC, checksum},
};

/// An ICMP message in an Ethernet frame, to be changed field by field and then built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// Destination link address.
    pub to_mac: [u8; 6],
    /// Source link address.
    pub from_mac: [u8; 6],
    /// VLAN tags, each EtherType and TCI, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Source.
    pub src: IpAddr,
    /// Destination; of the source's family, which says whether it is ICMP or ICMPv6.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4: TOS; and identification.
    pub tos_and_id: (u8, u16),
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv6: the first word but for the version.
    pub flow: [u8; 4],
    /// IPv4 options.
    pub options: Vec<u8>,
    /// Type and code.
    pub kind: [u8; 2],
    /// The second word of the header.
    pub rest: [u8; 4],
    /// What is behind the header.
    pub body: Vec<u8>,
}

impl Icmp {
    /// A message. Panics if an address is none.
    pub fn new(src: &str, dst: &str, kind: [u8; 2], body: &[u8]) -> Self {
        let parse = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        Self {
            to_mac: TO_MAC,
            from_mac: FROM_MAC,
            tags: Vec::new(),
            src: parse(src),
            dst: parse(dst),
            hops: 64,
            tos_and_id: (0xc0, 0x4321),
            fragment: 0,
            flow: [0x6b, 0xa1, 0x23, 0x45],
            options: Vec::new(),
            kind,
            rest: [0; 4],
            body: body.to_vec(),
        }
    }

    /// An answer of weir's own, as XDP makes it out of a frame: between the same hosts, the other way.
    pub fn answers(frame: &Frame, kind: [u8; 2], rest: [u8; 4], quoted: usize) -> Self {
        Self {
            to_mac: frame.from_mac,
            from_mac: frame.to_mac,
            tags: frame.tags.clone(),
            tos_and_id: (0, 0),
            fragment: 0x4000,
            flow: [0x60, 0, 0, 0],
            rest,
            ..Self::new(
                &frame.dst.ip().to_string(),
                &frame.src.ip().to_string(),
                kind,
                &quote(frame, quoted),
            )
        }
    }

    /// The same with another field, for chains.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same as it leaves, with one hop less, by link addresses.
    #[must_use]
    pub fn leaves(self, to: [u8; 6], from: [u8; 6]) -> Self {
        self.with(|icmp| {
            icmp.hops -= 1;
            icmp.to_mac = to;
            icmp.from_mac = from;
        })
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut out = [self.to_mac, self.from_mac].concat();
        for (ether_type, tci) in &self.tags {
            out.extend(ether_type.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let mut icmp = vec![self.kind[0], self.kind[1], 0, 0];
        icmp.extend(self.rest);
        icmp.extend(&self.body);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let check = checksum(&[&icmp]);
                icmp[2..4].copy_from_slice(&check.to_be_bytes());
                let header_len = 20 + self.options.len();
                let (tos, id) = self.tos_and_id;
                let mut ip = vec![0x40 | (header_len / 4) as u8, tos];
                ip.extend(((header_len + icmp.len()) as u16).to_be_bytes());
                ip.extend(id.to_be_bytes());
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.hops, 1, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(&self.options);
                let check = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                out.extend([8, 0]);
                out.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut pseudo = [src.octets(), dst.octets()].concat();
                pseudo.extend((icmp.len() as u32).to_be_bytes());
                pseudo.extend([0, 0, 0, 58]);
                let check = checksum(&[&pseudo, &icmp]);
                icmp[2..4].copy_from_slice(&check.to_be_bytes());
                out.extend([0x86, 0xdd]);
                out.extend(self.flow);
                out.extend((icmp.len() as u16).to_be_bytes());
                out.extend([58, self.hops]);
                out.extend(src.octets());
                out.extend(dst.octets());
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        }
        out.extend(icmp);
        out
    }
}

/// The first bytes of a frame's IP packet, as an ICMP error quotes them: at most `most`.
pub fn quote(frame: &Frame, most: usize) -> Vec<u8> {
    let built = frame.build();
    let packet = &built[frame.network_at()..];
    packet[..most.min(packet.len())].to_vec()
}

/// The frame with other ends: what a quoted packet becomes.
pub fn between(frame: &Frame, src: &str, dst: &str) -> Frame {
    let parse = |text: &str| {
        text.parse::<SocketAddr>()
            .unwrap_or_else(|e| panic!("{text}: {e}"))
    };
    frame.clone().with(|f| {
        f.src = parse(src);
        f.dst = parse(dst);
    })
}
