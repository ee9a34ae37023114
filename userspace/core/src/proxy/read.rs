//! Reading a header: which version it is, and the fixed part of version 2 (section 2.2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, MAX_V2, Malformed, Origin, SIGNATURE, Tlvs, Version, WORD, text};

/// What bytes from the start of a connection are.
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at where it is made, and a box would be an allocation"
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read<'a> {
    /// A header, whole.
    Whole(Header<'a>),
    /// The beginning of one: there has to come more.
    Partial,
}

/// Length of the fixed part of version 2.
pub(super) const FIXED: usize = 16;

/// Reads what has come since the connection began; what follows the header is not looked at.
///
/// # Errors
/// The bytes are no header, or none that is taken. That is told as soon as it shows, not only once a header would be
/// whole.
pub fn read(bytes: &[u8]) -> Result<Read<'_>, Malformed> {
    if bytes.starts_with(WORD) {
        return text::read(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes);
    }
    if WORD.starts_with(bytes) || SIGNATURE.starts_with(bytes) {
        return Ok(Read::Partial);
    }
    Err(Malformed::Missing)
}

fn binary(bytes: &[u8]) -> Result<Read<'_>, Malformed> {
    let Some([command, rest @ ..]) = bytes.get(SIGNATURE.len()..) else {
        return Ok(Read::Partial);
    };
    if command >> 4 != 2 {
        return Err(Malformed::Version);
    }
    let local = match command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(Malformed::Command),
    };
    let [family, high, low, ..] = rest else {
        return Ok(Read::Partial);
    };
    let block_len = usize::from(u16::from_be_bytes([*high, *low]));
    let len = FIXED + block_len;
    if len > MAX_V2 {
        return Err(Malformed::TooLong);
    }
    let header = |origin, tlvs| Header {
        len,
        version: Version::V2,
        origin,
        tlvs,
    };
    let Some(bytes) = bytes.get(..len) else {
        return Ok(Read::Partial);
    };
    if local {
        // Whatever else stands in such a header is to be skipped, the family included.
        return Ok(Read::Whole(header(Origin::Local, Tlvs::NONE)));
    }
    let block = bytes.get(FIXED..).unwrap_or_default();
    let (origin, rest) = addresses(*family, block)?;
    let tlvs = Tlvs::new(rest, bytes)?;
    Ok(Read::Whole(header(origin, tlvs)))
}

/// The addresses, and what follows them.
fn addresses(family: u8, block: &[u8]) -> Result<(Origin, &[u8]), Malformed> {
    const UNIX: usize = 216;
    let behind = |len: usize| block.get(len..).ok_or(Malformed::Short);
    match family {
        0x00 => Ok((Origin::Unknown, block)),
        0x11 => {
            let (ip, rest) = block.split_first_chunk::<8>().ok_or(Malformed::Short)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
            let [a, b, c, d, e, f, g, h] = *ip;
            let (from, to) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            let [source, destination] = with_ports([from.into(), to.into()], *ports);
            Ok((Origin::Client { source, destination }, rest))
        }
        0x21 => {
            let (from, rest) = block.split_first_chunk::<16>().ok_or(Malformed::Short)?;
            let (to, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Short)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
            let ips = [Ipv6Addr::from(*from).into(), Ipv6Addr::from(*to).into()];
            let [source, destination] = with_ports(ips, *ports);
            Ok((Origin::Client { source, destination }, rest))
        }
        0x31 => Ok((Origin::Unix, behind(UNIX)?)),
        // Datagrams do not come over a connection; but the combinations are valid ones, which who has no use for them is
        // to take for "unspecified" (section 2.2).
        0x12 => Ok((Origin::Unknown, behind(12)?)),
        0x22 => Ok((Origin::Unknown, behind(36)?)),
        0x32 => Ok((Origin::Unknown, behind(UNIX)?)),
        _ => Err(Malformed::Transport),
    }
}

fn with_ports([from, to]: [std::net::IpAddr; 2], [a, b, c, d]: [u8; 4]) -> [SocketAddr; 2] {
    [
        SocketAddr::new(from, u16::from_be_bytes([a, b])),
        SocketAddr::new(to, u16::from_be_bytes([c, d])),
    ]
}
