//! The server id in a QUIC connection id, as QUIC-LB's plaintext form has it (draft-ietf-quic-load-balancers, section 4):
//! a first octet of the server's own, then the id.
//!
//! Owns where it lies in a datagram. Only ids that a server chose are looked at: in packets with a short header (RFC 9000
//! section 17.3), and in Handshake packets of version 1 and 2. Before that the client has made the id up.

use crate::window::Window;

/// Long header: the form bit.
const LONG: u8 = 0x80;
/// Versions 1 (RFC 9000) and 2 (RFC 9369), network order.
const V1: u32 = 1_u32.to_be();
const V2: u32 = 0x6b33_43cf_u32.to_be();
/// Handshake in the two type bits: 2 in version 1, 3 in version 2.
const HANDSHAKE_V1: u8 = 0x20;
const HANDSHAKE_V2: u8 = 0x30;
const TYPE: u8 = 0x30;
/// The first octet's top bits when the server could not be named (section 3.2 of the draft).
const UNROUTABLE: u8 = 0xe0;

/// The server id of `len` bytes, 1 to 8, in a UDP payload; its first byte in the lowest.
#[inline(always)]
pub fn server_id(payload: Window<'_>, len: u32) -> Option<u64> {
    let first = payload.header::<1>()?.get::<u8, 0>();
    let at = if first & LONG == 0 {
        1
    } else {
        let long = payload.header::<6>()?;
        let version = long.get::<u32, 1>();
        let handshake = if version == V1 {
            HANDSHAKE_V1
        } else if version == V2 {
            HANDSHAKE_V2
        } else {
            return None;
        };
        if first & TYPE != handshake || (long.get::<u8, 5>() as u32) < 1 + len {
            return None;
        }
        6
    };
    // A packet that is shorter than the longest id cannot be: RFC 9001 section 5.4.2 samples 16 bytes of it.
    let id = payload.skip(at)?.header::<9>()?;
    if id.get::<u8, 0>() & UNROUTABLE == UNROUTABLE {
        return None;
    }
    let bytes = u64::from_le(id.get::<u64, 1>());
    match len {
        1..=7 => Some(bytes & ((1 << (len * 8)) - 1)),
        8 => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    fn id(payload: &[u8], len: u32) -> Option<u64> {
        server_id(Window::new(&mut payload.to_vec()), len)
    }

    fn short(cid: &[u8]) -> Vec<u8> {
        [&[0x40], cid, &[9; 20]].concat()
    }

    #[test]
    fn a_short_header_has_it_behind_the_first_octets() {
        let payload = short(&[0x07, 0xaa, 0xbb, 0xcc]);
        assert_eq!(id(&payload, 1), Some(0xaa));
        assert_eq!(id(&payload, 2), Some(0xbbaa));
        assert_eq!(
            id(&short(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), 8),
            Some(0x0807_0605_0403_0201)
        );
        assert_eq!(id(&payload, 0), None);
        assert_eq!(id(&payload, 9), None);
        assert_eq!(id(&short(&[0xe7, 0xaa]), 1), None, "it names no server");
        assert_eq!(id(&payload[..9], 1), None, "too short to be QUIC");
    }

    #[test]
    fn of_long_headers_only_what_the_server_chose() {
        let long = |first: u8, version: u32, cid: &[u8]| {
            let mut out = vec![first];
            out.extend(version.to_be_bytes());
            out.push(cid.len() as u8);
            out.extend(cid);
            out.extend([0; 20]);
            out
        };
        let cid = [0x08, 0x5a, 0x11, 0x22];
        for (first, version, expected) in [
            (0xc0, 1, None),
            (0xd0, 1, None),
            (0xe0, 1, Some(0x5a)),
            (0xf0, 1, None),
            (0xe0, 0x6b33_43cf, None),
            (0xf0, 0x6b33_43cf, Some(0x5a)),
            (0xe0, 0xff00_001d, None),
        ] {
            assert_eq!(
                id(&long(first, version, &cid), 1),
                expected,
                "{first:#x} {version:#x}"
            );
        }
        assert_eq!(id(&long(0xe0, 1, &cid[..1]), 1), None, "no room for an id");
    }
}
