//! The line of version 1 (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, MAX_V1, Malformed, Origin, Read, Tlvs, Version, WORD};

/// Reads a header that begins with [`WORD`], as far as it has come.
pub(super) fn read(bytes: &[u8]) -> Result<Read<'_>, Malformed> {
    let room = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = room.iter().position(|byte| *byte == b'\n') else {
        if room.len() == MAX_V1 {
            return Err(Malformed::LineTooLong);
        }
        let begun = room.strip_suffix(b"\r").unwrap_or(room);
        if begun.contains(&b'\r') {
            return Err(Malformed::LineEnd);
        }
        return Ok(Read::Partial);
    };
    let line = room.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line
        .filter(|line| !line.contains(&b'\r'))
        .ok_or(Malformed::LineEnd)?;
    let rest = line.get(WORD.len()..).unwrap_or_default();
    Ok(Read::Whole(Header {
        len: end + 1,
        version: Version::V1,
        origin: origin(rest)?,
        tlvs: Tlvs::NONE,
    }))
}

/// What follows the first word.
fn origin(rest: &[u8]) -> Result<Origin, Malformed> {
    let mut words = rest.split(|byte| *byte == b' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next() {
        // Whatever else such a line says is of no meaning.
        Some(b"UNKNOWN") => return Ok(Origin::Unknown),
        Some(b"TCP4") => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some(b"TCP6") => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) | None => return Err(Malformed::Family),
    };
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    ) else {
        return Err(Malformed::Words);
    };
    let address = |word| {
        let text = std::str::from_utf8(word).ok();
        text.and_then(address).ok_or(Malformed::Address)
    };
    Ok(Origin::Client {
        source: SocketAddr::new(address(from)?, port(from_port)?),
        destination: SocketAddr::new(address(to)?, port(to_port)?),
    })
}

/// A port in decimal, without leading zeros, signs and spaces.
fn port(word: &[u8]) -> Result<u16, Malformed> {
    let is_plain = word.iter().all(u8::is_ascii_digit) && (word.len() == 1 || !word.starts_with(b"0"));
    let text = std::str::from_utf8(word).ok().filter(|_| is_plain);
    text.and_then(|text| text.parse().ok()).ok_or(Malformed::Port)
}
