//! Frames for tests, built field by field, with checksums computed plainly over the whole: an independent word on what
//! the programs compute by difference.

use std::net::{IpAddr, SocketAddr};

use crate::world::addr;

/// Link address of the client side in frames as they come in.
pub const FROM_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Link address that frames come in for.
pub const TO_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// TCP flags.
pub const FIN: u8 = 0x01;
/// TCP flags.
pub const SYN: u8 = 0x02;
/// TCP flags.
pub const RST: u8 = 0x04;
/// TCP flags.
pub const ACK: u8 = 0x10;

/// A TCP or UDP packet in an Ethernet frame, to be changed field by field and then built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Destination link address.
    pub to_mac: [u8; 6],
    /// Source link address.
    pub from_mac: [u8; 6],
    /// VLAN tags, each EtherType and TCI, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Source.
    pub src: SocketAddr,
    /// Destination; of the source's family.
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 options; a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: type of each, and its bytes, the next-header byte first (it is filled in).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// Flags of TCP. None: UDP.
    pub tcp: Option<u8>,
    /// TCP options; a multiple of 4 bytes.
    pub tcp_options: Vec<u8>,
    /// UDP with a checksum of 0, which means none.
    pub no_checksum: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    fn new(src: &str, dst: &str, tcp: Option<u8>) -> Self {
        let parse = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        Self {
            to_mac: TO_MAC,
            from_mac: FROM_MAC,
            tags: Vec::new(),
            src: parse(src),
            dst: parse(dst),
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000,
            tcp,
            tcp_options: Vec::new(),
            no_checksum: false,
            payload: b"what goes in comes out".to_vec(),
        }
    }

    /// A TCP packet. Panics if an address is none.
    pub fn tcp(src: &str, dst: &str, flags: u8) -> Self {
        Self::new(src, dst, Some(flags))
    }

    /// A UDP packet. Panics if an address is none.
    pub fn udp(src: &str, dst: &str) -> Self {
        Self::new(src, dst, None)
    }

    /// The same with another field, for chains.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        if self.tcp.is_some() { 6 } else { 17 }
    }

    /// Where the IP header begins.
    pub fn network_at(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the transport header begins.
    pub fn transport_at(&self) -> usize {
        let header = match self.src.ip() {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) => {
                40 + self
                    .extensions
                    .iter()
                    .map(|(_, bytes)| bytes.len())
                    .sum::<usize>()
            }
        };
        self.network_at() + header
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.to_mac);
        out.extend(self.from_mac);
        for (ether_type, tci) in &self.tags {
            out.extend(ether_type.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let transport = self.transport();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend(0x0800u16.to_be_bytes());
                let header_len = 20 + self.options.len();
                let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
                ip.extend(((header_len + transport.len()) as u16).to_be_bytes());
                ip.extend(0x1234u16.to_be_bytes());
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.hops, self.protocol(), 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(&self.options);
                let check = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                out.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend(0x86ddu16.to_be_bytes());
                let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
                out.extend([0x6a, 0xb1, 0x23, 0x45]);
                out.extend(((extensions + transport.len()) as u16).to_be_bytes());
                let mut kinds = self
                    .extensions
                    .iter()
                    .map(|(kind, _)| *kind)
                    .chain([self.protocol()]);
                out.extend([kinds.next().unwrap_or(59), self.hops]);
                out.extend(src.octets());
                out.extend(dst.octets());
                for (_, bytes) in &self.extensions {
                    out.push(kinds.next().unwrap_or(59));
                    out.extend(&bytes[1..]);
                }
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        }
        out.extend(transport);
        out
    }

    /// The transport header and the payload.
    fn transport(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.src.port().to_be_bytes());
        out.extend(self.dst.port().to_be_bytes());
        let checksum_at = match self.tcp {
            Some(flags) => {
                out.extend([1, 2, 3, 4, 5, 6, 7, 8]);
                out.push((((20 + self.tcp_options.len()) / 4) << 4) as u8);
                out.push(flags);
                out.extend([0xff, 0xff, 0, 0, 0, 0]);
                out.extend(&self.tcp_options);
                16
            }
            None => {
                out.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                out.extend([0, 0]);
                6
            }
        };
        out.extend(&self.payload);
        if !self.no_checksum {
            let mut pseudo = Vec::new();
            match (self.src.ip(), self.dst.ip()) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    pseudo.extend(src.octets());
                    pseudo.extend(dst.octets());
                }
                (src, dst) => {
                    for ip in [src, dst] {
                        if let IpAddr::V6(ip) = ip {
                            pseudo.extend(ip.octets());
                        }
                    }
                }
            }
            pseudo.extend((out.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, self.protocol()]);
            let mut check = checksum(&[&pseudo, &out]);
            if check == 0 && self.tcp.is_none() {
                check = 0xffff;
            }
            out[checksum_at..checksum_at + 2].copy_from_slice(&check.to_be_bytes());
        }
        out
    }
}

/// RFC 1071 over parts, of which only the last may have an odd length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A later fragment as it leaves, between these link addresses: a hop less, the IP packet's addresses replaced, and the
/// header's checksum; nothing else changes.
///
/// # Panics
/// The two ends are not of one family.
pub fn moved(frame: &Frame, ends: Option<(&str, &str)>, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut out = frame.clone().with(|f| f.hops -= 1).build();
    out[..6].copy_from_slice(&to);
    out[6..12].copy_from_slice(&from);
    let at = frame.network_at();
    if let Some((src, dst)) = ends {
        match (addr(src).ip(), addr(dst).ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out[at + 12..at + 16].copy_from_slice(&src.octets());
                out[at + 16..at + 20].copy_from_slice(&dst.octets());
                out[at + 10..at + 12].fill(0);
                let header = 20 + frame.options.len();
                let check = checksum(&[&out[at..at + header]]);
                out[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out[at + 8..at + 24].copy_from_slice(&src.octets());
                out[at + 24..at + 40].copy_from_slice(&dst.octets());
            }
            _ => panic!("two families"),
        }
    }
    out
}

/// The pieces of a datagram: the first, and a later one whose bytes look like anything. `id`: of the datagram, in IPv6.
pub fn pieces(frame: &Frame, id: u8) -> [Frame; 2] {
    if frame.src.is_ipv4() {
        let piece = |offset| frame.clone().with(|f| f.fragment = offset);
        [piece(0x2000), piece(0x2010)]
    } else {
        let piece = |offset: [u8; 2]| {
            let header = vec![0, 0, offset[0], offset[1], 0xab, 0xcd, 0, id];
            frame.clone().with(|f| f.extensions.push((44, header)))
        };
        [piece([0, 1]), piece([0, 0x80])]
    }
}
