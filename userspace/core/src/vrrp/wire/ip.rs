//! The IP packet around an advert: as far as it has to be judged, no further.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Ends, Malformed, sum::Sum};
use crate::vrrp::PROTOCOL;

/// What an IP packet of protocol 112 says of the message in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// From where to where.
    pub ends: Ends,
    /// TTL or hop limit.
    pub hops: u8,
    /// What the IP packet carries.
    pub payload: &'a [u8],
}

/// Takes an IP packet apart. What lies behind its end (padding of a short frame) is left out.
///
/// # Errors
/// It is not one whole packet of protocol 112. Extension headers of IPv6 are none of an advert's.
pub fn packet(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(bytes),
        Some(6) => v6(bytes),
        Some(_) => Err(Malformed::IpHeader),
        None => Err(Malformed::Truncated),
    }
}

fn v4(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (fixed, _) = bytes.split_first_chunk::<20>().ok_or(Malformed::Truncated)?;
    let [
        first,
        _tos,
        total_0,
        total_1,
        _id_0,
        _id_1,
        cut_0,
        cut_1,
        hops,
        protocol,
        ..,
    ] = *fixed;
    let header_len = usize::from(first & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([total_0, total_1]));
    if header_len < fixed.len() || total < header_len {
        return Err(Malformed::IpHeader);
    }
    let whole = bytes.get(..total).ok_or(Malformed::Truncated)?;
    let (header, payload) = whole.split_at_checked(header_len).ok_or(Malformed::IpHeader)?;
    if Sum::NONE.bytes(header).checksum() != 0 {
        return Err(Malformed::IpChecksum);
    }
    // More fragments, or an offset (RFC 791 section 3.1).
    if u16::from_be_bytes([cut_0, cut_1]) & 0x3fff != 0 {
        return Err(Malformed::Fragment);
    }
    if protocol != PROTOCOL {
        return Err(Malformed::Protocol);
    }
    let [.., a, b, c, d, e, f, g, h] = *fixed;
    Ok(Packet {
        ends: Ends::V4 {
            source: Ipv4Addr::new(a, b, c, d),
            destination: Ipv4Addr::new(e, f, g, h),
        },
        hops,
        payload,
    })
}

fn v6(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (fixed, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
    let [_, _, _, _, len_0, len_1, next_header, hops] = *fixed;
    let (source, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let (destination, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let len = usize::from(u16::from_be_bytes([len_0, len_1]));
    let payload = rest.get(..len).ok_or(Malformed::Truncated)?;
    match next_header {
        PROTOCOL => {}
        // RFC 8200 section 4.5.
        44 => return Err(Malformed::Fragment),
        _ => return Err(Malformed::Protocol),
    }
    Ok(Packet {
        ends: Ends::V6 {
            source: Ipv6Addr::from(*source),
            destination: Ipv6Addr::from(*destination),
        },
        hops,
        payload,
    })
}
