//! One flow, and its bytes.
//!
//! ```text
//!   0      1      2        4        6        8        12       16
//!  +------+------+--------+--------+--------+--------+--------+
//!  |flags |proto | client | VIP's  |backend | age    | idle   |
//!  |      |      | port   | port   | port   |        |        |
//!  +------+------+--------+--------+--------+--------+--------+
//!  | client's address (4 or 16) | VIP (4 or 16) | backend's (4 or 16) |
//!  +----------------------------+---------------+---------------------+
//!  | TRANSLATED: source port (2) | state (1) | 0 (1) | source address, of the backend's family |
//!  +-----------------------------+-----------+-------+------------------------------------------+
//! ```
//!
//! Numbers are big-endian. What is not said here is 0, and an entry that has it otherwise is refused: so that a later
//! version can say something there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ids::Protocol;

/// Client and VIP are of IPv6.
const V6: u8 = 1;
/// The backend is.
const BACKEND_V6: u8 = 1 << 1;
/// By `full-nat`: the translation follows.
const TRANSLATED: u8 = 1 << 2;
/// The flow has ended.
const ENDED: u8 = 1 << 3;
const FLAGS: u8 = V6 | BACKEND_V6 | TRANSLATED | ENDED;

const CLIENT_FIN: u8 = 1;
const BACKEND_FIN: u8 = 1 << 1;
const ANSWERED: u8 = 1 << 2;
const BY_RST: u8 = 1 << 3;
const STATES: u8 = CLIENT_FIN | BACKEND_FIN | ANSWERED | BY_RST;

/// Bytes of the longest entry.
pub const LONGEST: usize = 16 + 3 * 16 + 4 + 16;

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// What it reached: of the client's family.
    pub vip: SocketAddr,
    /// Its backend, port 0 if that takes every port.
    pub backend: SocketAddr,
    /// Seconds since it began, or since it was first noticed.
    pub age: u32,
    /// Seconds since its last packet that was looked at.
    pub idle: u32,
    /// It has ended.
    pub ended: bool,
    /// By `full-nat`: what the backend sees.
    pub translation: Option<Translation>,
}

/// What `full-nat` made of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Translation {
    /// The source that the backend sees: of its family.
    pub source: SocketAddr,
    /// The client has sent its FIN.
    pub client_fin: bool,
    /// The backend has sent its FIN.
    pub backend_fin: bool,
    /// The backend has answered.
    pub answered: bool,
    /// A RST has ended it.
    pub by_rst: bool,
}

/// Bytes that are no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoEntry;

impl Entry {
    /// Puts its bytes behind others. False, and nothing put, if its families do not fit: that it can't say.
    pub fn write(&self, out: &mut Vec<u8>) -> bool {
        let (client, vip, backend) = (
            self.client.ip().to_canonical(),
            self.vip.ip().to_canonical(),
            self.backend.ip().to_canonical(),
        );
        let translated = self
            .translation
            .map(|translation| (translation, translation.source.ip().to_canonical()));
        if client.is_ipv4() != vip.is_ipv4()
            || translated.is_some_and(|(_, source)| source.is_ipv4() != backend.is_ipv4())
        {
            return false;
        }
        let bit = |on, bit| if on { bit } else { 0 };
        out.push(
            bit(client.is_ipv6(), V6)
                | bit(backend.is_ipv6(), BACKEND_V6)
                | bit(translated.is_some(), TRANSLATED)
                | bit(self.ended, ENDED),
        );
        out.push(self.protocol.number());
        for port in [self.client.port(), self.vip.port(), self.backend.port()] {
            out.extend_from_slice(&port.to_be_bytes());
        }
        out.extend_from_slice(&self.age.to_be_bytes());
        out.extend_from_slice(&self.idle.to_be_bytes());
        for address in [client, vip, backend] {
            put(address, out);
        }
        if let Some((translation, source)) = translated {
            out.extend_from_slice(&translation.source.port().to_be_bytes());
            out.push(
                bit(translation.client_fin, CLIENT_FIN)
                    | bit(translation.backend_fin, BACKEND_FIN)
                    | bit(translation.answered, ANSWERED)
                    | bit(translation.by_rst, BY_RST),
            );
            out.push(0);
            put(source, out);
        }
        true
    }

    /// Reads the entry that bytes begin with, and leaves those behind it; after an error it is not said what is left.
    ///
    /// # Errors
    /// They begin with none.
    pub fn read(bytes: &mut &[u8]) -> Result<Self, NoEntry> {
        let [flags] = take(bytes)?;
        let [protocol] = take(bytes)?;
        let protocol = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|known| known.number() == protocol)
            .ok_or(NoEntry)?;
        if flags & !FLAGS != 0 {
            return Err(NoEntry);
        }
        let mut port = || take(bytes).map(u16::from_be_bytes);
        let (client_port, vip_port, backend_port) = (port()?, port()?, port()?);
        let age = u32::from_be_bytes(take(bytes)?);
        let idle = u32::from_be_bytes(take(bytes)?);
        let mut address = |v6| take_address(bytes, v6);
        let client = address(flags & V6 != 0)?;
        let vip = address(flags & V6 != 0)?;
        let backend = address(flags & BACKEND_V6 != 0)?;
        // A client's port and the VIP's are never 0, and neither is an address that nobody has.
        if client_port == 0 || vip_port == 0 || [client, vip, backend].iter().any(IpAddr::is_unspecified) {
            return Err(NoEntry);
        }
        let translation = match flags & TRANSLATED {
            0 => None,
            _ => Some(Translation::read(bytes, flags & BACKEND_V6 != 0)?),
        };
        Ok(Self {
            protocol,
            client: SocketAddr::new(client, client_port),
            vip: SocketAddr::new(vip, vip_port),
            backend: SocketAddr::new(backend, backend_port),
            age,
            idle,
            ended: flags & ENDED != 0,
            translation,
        })
    }
}

impl Translation {
    fn read(bytes: &mut &[u8], v6: bool) -> Result<Self, NoEntry> {
        let port = u16::from_be_bytes(take(bytes)?);
        let [state, 0] = take(bytes)? else {
            return Err(NoEntry);
        };
        let source = take_address(bytes, v6)?;
        if port == 0 || state & !STATES != 0 || source.is_unspecified() {
            return Err(NoEntry);
        }
        Ok(Self {
            source: SocketAddr::new(source, port),
            client_fin: state & CLIENT_FIN != 0,
            backend_fin: state & BACKEND_FIN != 0,
            answered: state & ANSWERED != 0,
            by_rst: state & BY_RST != 0,
        })
    }
}

fn put(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NoEntry> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(NoEntry)?;
    *bytes = rest;
    Ok(*first)
}

fn take_address(bytes: &mut &[u8], v6: bool) -> Result<IpAddr, NoEntry> {
    if !v6 {
        return Ok(Ipv4Addr::from(take::<4>(bytes)?).into());
    }
    let address = Ipv6Addr::from(take::<16>(bytes)?);
    match address.to_ipv4_mapped() {
        // There is one way to write an address.
        Some(_) => Err(NoEntry),
        None => Ok(address.into()),
    }
}

/// The entries that bytes consist of.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// # Errors
    /// They do not consist of entries alone.
    pub fn new(bytes: &'a [u8]) -> Result<Self, NoEntry> {
        let mut rest = bytes;
        while !rest.is_empty() {
            Entry::read(&mut rest)?;
        }
        Ok(Self(bytes))
    }

    /// None.
    pub const NONE: Self = Self(&[]);
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        Entry::read(&mut self.0).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(v6: bool, n: u32) -> IpAddr {
        match v6 {
            false => Ipv4Addr::from_bits(0x0a00_0000 | n & 0xff_ffff | 1).into(),
            true => Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n) | 1).into(),
        }
    }

    prop_compose! {
        pub(in crate::sync) fn entries()(
            (v6, backend_v6, translated, ended, udp) in any::<(bool, bool, bool, bool, bool)>(),
            (client, vip, backend, source) in any::<(u32, u32, u32, u32)>(),
            (client_port, vip_port, source_port) in (1..=u16::MAX, 1..=u16::MAX, 1..=u16::MAX),
            (backend_port, age, idle, state) in (any::<u16>(), any::<u32>(), any::<u32>(), 0..16_u8),
        ) -> Entry {
            Entry {
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                client: SocketAddr::new(address(v6, client), client_port),
                vip: SocketAddr::new(address(v6, vip), vip_port),
                backend: SocketAddr::new(address(backend_v6, backend), backend_port),
                age,
                idle,
                ended,
                translation: translated.then(|| Translation {
                    source: SocketAddr::new(address(backend_v6, source), source_port),
                    client_fin: state & 1 != 0,
                    backend_fin: state & 2 != 0,
                    answered: state & 4 != 0,
                    by_rst: state & 8 != 0,
                }),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(all in proptest::collection::vec(entries(), 0..9)) {
            let mut bytes = Vec::new();
            for entry in &all {
                let before = bytes.len();
                prop_assert!(entry.write(&mut bytes));
                prop_assert!(bytes.len() - before <= LONGEST);
            }
            prop_assert_eq!(Entries::new(&bytes).unwrap().collect::<Vec<_>>(), all);
        }

        #[test]
        fn what_is_read_is_written_as_the_same(mut bytes in proptest::collection::vec(any::<u8>(), 24..90)) {
            bytes[0] &= FLAGS;
            bytes[1] = if bytes[1] & 1 == 0 { 6 } else { 17 };
            let mut rest = &bytes[..];
            if let Ok(entry) = Entry::read(&mut rest) {
                let mut again = Vec::new();
                prop_assert!(entry.write(&mut again));
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }

    #[test]
    fn what_is_no_entry() {
        let entry = Entry {
            protocol: Protocol::Tcp,
            client: "198.51.100.7:40000".parse().unwrap(),
            vip: "192.0.2.10:80".parse().unwrap(),
            backend: "10.0.0.11:8080".parse().unwrap(),
            age: 5,
            idle: 1,
            ended: false,
            translation: Some(Translation {
                source: "10.0.0.5:1024".parse().unwrap(),
                client_fin: false,
                backend_fin: false,
                answered: true,
                by_rst: false,
            }),
        };
        let mut bytes = Vec::new();
        assert!(entry.write(&mut bytes));
        assert_eq!(bytes.len(), 36);
        assert_eq!(
            bytes,
            [
                4, 6, 0x9c, 0x40, 0, 80, 0x1f, 0x90, 0, 0, 0, 5, 0, 0, 0, 1, 198, 51, 100, 7, 192, 0, 2, 10,
                10, 0, 0, 11, 4, 0, 4, 0, 10, 0, 0, 5
            ]
        );
        for len in 0..bytes.len() {
            assert_eq!(Entry::read(&mut &bytes[..len]), Err(NoEntry), "{len} bytes");
        }
        for (place, value, what) in [
            (0, 0x14, "a flag that is none"),
            (1, 1, "a protocol without ports"),
            (30, 0x14, "a state that is none"),
            (31, 1, "what is 0"),
        ] {
            let mut other = bytes.clone();
            other[place] = value;
            assert!(Entries::new(&other).is_err(), "{what}");
        }
        for range in [2..4, 4..6, 16..20, 20..24, 24..28, 28..30, 32..36] {
            let mut other = bytes.clone();
            other[range.clone()].fill(0);
            assert!(Entries::new(&other).is_err(), "{range:?}");
        }
        // A backend on every port has none.
        bytes[6..8].fill(0);
        assert_eq!(Entries::new(&bytes).unwrap().count(), 1);
        let mixed = Entry {
            vip: "[2001:db8::10]:80".parse().unwrap(),
            ..entry
        };
        let mut out = Vec::new();
        assert!(!mixed.write(&mut out) && out.is_empty());
    }
}
