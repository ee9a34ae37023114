//! Writing a header, of either version.

use std::{
    io::Write,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{
    SIGNATURE, Ssl, Version,
    crc32c::Crc32c,
    read::FIXED,
    tlv::{AUTHORITY_MAX, UNIQUE_ID_MAX, kind, ssl},
};

/// What a backend is told.
#[derive(Clone, Copy, Default, Debug)]
pub struct Announced<'a> {
    /// The client, and where it connected to. None: the connection is weir's own (`LOCAL`; in version 1 `UNKNOWN`).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// See [`super::Tlvs::alpn`]. Version 2, as all that follows.
    pub alpn: Option<&'a [u8]>,
    /// See [`super::Tlvs::authority`].
    pub authority: Option<&'a [u8]>,
    /// See [`super::Tlvs::unique_id`].
    pub unique_id: Option<&'a [u8]>,
    /// See [`super::Tlvs::ssl`].
    pub ssl: Option<Ssl<'a>>,
    /// With a checksum.
    pub crc32c: bool,
}

/// Adds a header to `out`. Addresses of two families are both written as IPv6, the one of IPv4 mapped. A value that is
/// longer than its kind allows is left out.
pub fn write(out: &mut Vec<u8>, version: Version, announced: &Announced<'_>) {
    let addresses = announced.addresses.map(|(from, to)| same_family(from, to));
    match version {
        Version::V1 => text(out, addresses),
        Version::V2 => binary(out, addresses, announced),
    }
}

fn text(out: &mut Vec<u8>, addresses: Option<(SocketAddr, SocketAddr)>) {
    // Writing to a Vec can't fail.
    let _ = match addresses {
        None => out.write_all(b"PROXY UNKNOWN\r\n"),
        Some((from, to)) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source, destination) = (from.ip(), to.ip());
            let (from, to) = (from.port(), to.port());
            write!(out, "PROXY {family} {source} {destination} {from} {to}\r\n")
        }
    };
}

fn binary(out: &mut Vec<u8>, addresses: Option<(SocketAddr, SocketAddr)>, announced: &Announced<'_>) {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    let (command, family) = match addresses {
        None => (0x20, 0x00),
        Some((from, _)) if from.is_ipv4() => (0x21, 0x11),
        Some(_) => (0x21, 0x21),
    };
    out.extend_from_slice(&[command, family, 0, 0]);
    if let Some((from, to)) = addresses {
        octets(out, from.ip());
        octets(out, to.ip());
        out.extend_from_slice(&from.port().to_be_bytes());
        out.extend_from_slice(&to.port().to_be_bytes());
    }
    tlv(out, kind::ALPN, announced.alpn, AUTHORITY_MAX);
    tlv(out, kind::AUTHORITY, announced.authority, AUTHORITY_MAX);
    tlv(out, kind::UNIQUE_ID, announced.unique_id, UNIQUE_ID_MAX);
    if let Some(told) = &announced.ssl {
        let mut block = vec![told.client];
        block.extend_from_slice(&told.verify.to_be_bytes());
        tlv(&mut block, ssl::VERSION, told.version, VALUE_MAX);
        tlv(&mut block, ssl::CN, told.cn, VALUE_MAX);
        tlv(&mut block, ssl::CIPHER, told.cipher, VALUE_MAX);
        tlv(&mut block, ssl::SIG_ALG, told.sig_alg, VALUE_MAX);
        tlv(&mut block, ssl::KEY_ALG, told.key_alg, VALUE_MAX);
        tlv(out, kind::SSL, Some(&block), usize::from(u16::MAX));
    }
    let sum = announced.crc32c.then(|| {
        tlv(out, kind::CRC32C, Some(&[0; 4]), 4);
        out.len() - 4
    });
    // All together is some thousand bytes at the most, by the bounds above.
    let block = u16::try_from(out.len() - start - FIXED).unwrap_or(u16::MAX);
    put(out, start + FIXED - 2, &block.to_be_bytes());
    if let Some(at) = sum {
        let crc = Crc32c::NEW.add(out.get(start..).unwrap_or_default()).finish();
        put(out, at, &crc.to_be_bytes());
    }
}

/// Longest value within the TLV `SSL` that is written.
const VALUE_MAX: usize = 1024;

fn tlv(out: &mut Vec<u8>, kind: u8, value: Option<&[u8]>, most: usize) {
    let Some(value) = value.filter(|value| value.len() <= most) else {
        return;
    };
    let Ok(len) = u16::try_from(value.len()) else {
        return;
    };
    out.push(kind);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value);
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn octets(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Both in the family that has room for both.
fn same_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (from.ip().to_canonical(), to.ip().to_canonical());
    let wide = |ip: IpAddr| -> Ipv6Addr {
        match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        }
    };
    let (source, destination) = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (source, destination),
        (source, destination) => (wide(source).into(), wide(destination).into()),
    };
    (
        SocketAddr::new(source, from.port()),
        SocketAddr::new(destination, to.port()),
    )
}
