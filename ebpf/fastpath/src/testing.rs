//! Frames for this crate's own tests, with checksums computed plainly over the whole.

use std::{net::SocketAddr, vec, vec::Vec};

/// RFC 1071, over any number of bytes.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet frame with an IP packet in it.
pub(crate) struct Frame {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) hops: u8,
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(protocol: u8, src: &str, dst: &str) -> Self {
        Self {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            flags: 0x10,
            hops: 64,
            options: vec![],
            payload: b"payload".to_vec(),
        }
    }

    pub(crate) fn syn(mut self) -> Self {
        self.flags = 0x02;
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut l4 = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let check_at = if self.protocol == 6 {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            l4.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        };
        l4.extend(&self.payload);
        let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        let (mut ip, addresses) = match (self.src, self.dst) {
            (SocketAddr::V4(src), SocketAddr::V4(dst)) => {
                out.extend([8, 0]);
                let header = 20 + self.options.len();
                let [a, b] = ((header + l4.len()) as u16).to_be_bytes();
                let mut ip = vec![
                    0x40 | (header / 4) as u8,
                    0,
                    a,
                    b,
                    0,
                    9,
                    0x40,
                    0,
                    self.hops,
                    self.protocol,
                    0,
                    0,
                ];
                let addresses = [src.ip().octets(), dst.ip().octets()].concat();
                ip.extend(&addresses);
                ip.extend(&self.options);
                let check = fold(sum(&ip));
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                (ip, addresses)
            }
            (src, dst) => {
                let (SocketAddr::V6(src), SocketAddr::V6(dst)) = (src, dst) else {
                    panic!("two families")
                };
                out.extend([0x86, 0xdd]);
                let [a, b] = (l4.len() as u16).to_be_bytes();
                let addresses = [src.ip().octets(), dst.ip().octets()].concat();
                (
                    [&[0x60, 0, 0, 0, a, b, self.protocol, self.hops], &addresses[..]].concat(),
                    addresses,
                )
            }
        };
        let check = fold(sum(&addresses) + l4.len() as u64 + u64::from(self.protocol) + sum(&l4));
        let check = if check == 0 && self.protocol == 17 {
            0xffff
        } else {
            check
        };
        l4[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        out.append(&mut ip);
        out.append(&mut l4);
        out
    }
}
