//! What the tests of adverts share: IP packets around a payload, and a MAC that is good enough to tell messages apart.

use std::net::IpAddr;

use super::{
    HOPS, PROTOCOL,
    auth::{Keys, MAC},
    wire::{Ends, sum::Sum},
};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ends(source: &str, destination: &str) -> Ends {
    Ends::new(ip(source), ip(destination)).unwrap()
}

/// The payload in an IP packet with a right header.
pub(super) fn around(payload: &[u8], ends: &Ends) -> Vec<u8> {
    let mut out = Vec::new();
    match ends {
        Ends::V4 { source, destination } => {
            out.extend([0x45, 0xc0]);
            out.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
            out.extend([0, 0, 0x40, 0, HOPS, PROTOCOL, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
            seal(&mut out);
        }
        Ends::V6 { source, destination } => {
            out.extend([0x60, 0, 0, 0]);
            out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            out.extend([PROTOCOL, HOPS]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
    }
    out.extend(payload);
    out
}

/// Makes the checksum of an IPv4 header of 20 bytes right.
pub(super) fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = Sum::NONE.bytes(&header[..20]).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Stands in for HMAC-SHA-256: keys 1 and 2 are there.
pub(crate) struct Stand;

impl Keys for Stand {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; MAC]> {
        if !matches!(key, 1 | 2) {
            return None;
        }
        let mut out = [0; MAC];
        for (i, place) in out.iter_mut().enumerate() {
            // FNV-1a, seeded by key and place.
            let seed = 0xcbf2_9ce4_8422_2325 ^ (u64::from(key) << 32) ^ i as u64;
            let hash = parts.concat().iter().fold(seed, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
            let mixed = (hash ^ hash >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
            *place = (mixed >> 56) as u8;
        }
        Some(out)
    }
}
