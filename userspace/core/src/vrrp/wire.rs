//! Adverts as they are on the wire: reading them with a reason for every refusal, and writing them.
//!
//! Owns the layout of RFC 9568 section 5.2 (and of RFC 3768 section 5.1 for reading), the length and the checksum. Whether
//! an advert that reads well concerns this box is [`super::accept`]'s, whether it is signed well [`super::auth`]'s.
//!
//! ```text
//!   0                   1                   2                   3
//!  +-------+-------+---------------+---------------+---------------+
//!  |Version| Type  | Virtual Rtr ID|   Priority    |IPvX Addr Count|
//!  +-------+-------+---------------+---------------+---------------+
//!  |(rsvd) | Max Advertise Interval|          Checksum             |   version 2: auth type, interval in seconds
//!  +-------+-------+---------------+---------------+---------------+
//!  |                      IPvX addresses                           |
//!  +---------------------------------------------------------------+
//!  |          trailer: 8 bytes of version 2, or a signature        |
//!  +---------------------------------------------------------------+
//! ```
//!
//! The checksum covers the message: header and addresses (and in version 2 the 8 bytes behind them), never a signature.
//! Over IPv6 a pseudo-header is summed too. Over IPv4 RFC 9568 section 5.2.8 says there is none; routers that follow RFC
//! 5798 by its letter have one (keepalived, unless it is told `v3_checksum_as_v2`), so both are read, and the reader says
//! which it was.

mod ip;
mod read;
pub(super) mod sum;
mod write;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::{
    ip::{Packet, packet},
    read::read,
    write::{Message, UnknownKey, write},
};
use super::{Centis, Family, Vrid, auth::Trailer};

/// The fixed part of an advert.
pub const HEADER: usize = 8;

/// What follows the addresses in version 2: a password, or zeros.
pub const V2_AUTH: usize = 8;

/// What the priority says beside its rank (RFC 9568 section 5.2.4).
pub mod priority {
    /// The sender stops being master.
    pub const LEAVING: u8 = 0;
    /// The sender owns the addresses.
    pub const OWNER: u8 = 255;
}

/// From where to where an advert goes. Both are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Over IPv4.
    V4 {
        /// The sender's own address.
        source: Ipv4Addr,
        /// The group, or a peer.
        destination: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// The sender's own address, a link-local one.
        source: Ipv6Addr,
        /// The group, or a peer.
        destination: Ipv6Addr,
    },
}

impl Ends {
    /// `None` if the families differ.
    pub const fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// The family of both.
    pub const fn family(&self) -> Family {
        match self {
            Self::V4 { .. } => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }

    /// The sender.
    pub const fn source(&self) -> IpAddr {
        match *self {
            Self::V4 { source, .. } => IpAddr::V4(source),
            Self::V6 { source, .. } => IpAddr::V6(source),
        }
    }

    /// The receiver.
    pub const fn destination(&self) -> IpAddr {
        match *self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }
}

/// How the checksum of an advert was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Checksum {
    /// As RFC 9568 says: over IPv4 the message alone, over IPv6 with a pseudo-header.
    Rfc9568,
    /// Over IPv4 with a pseudo-header, as RFC 5798 was read by many.
    Rfc5798,
}

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// RFC 3768. `auth` are the 8 bytes behind the addresses, if the authentication type is 1 (a password in clear text, RFC
    /// 2338); `None` if it is 0.
    V2 {
        /// The password, filled up with zeros.
        auth: Option<[u8; V2_AUTH]>,
    },
    /// RFC 9568.
    V3,
}

/// An advert that reads well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advert<'a> {
    /// Whose: this virtual router's.
    pub vrid: Vrid,
    /// The sender's priority; see [`priority`].
    pub priority: u8,
    /// How often the sender sends.
    pub interval: Centis,
    /// The virtual router's addresses, as the sender knows them.
    pub addresses: Addresses<'a>,
    /// The protocol's version.
    pub version: Version,
    /// How its checksum was made.
    pub checksum: Checksum,
    /// The signature. Not verified yet.
    pub trailer: Option<Trailer<'a>>,
    /// What was signed: the message, with the checksum as it came.
    pub message: &'a [u8],
}

/// Addresses within an advert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses<'a> {
    pub(super) family: Family,
    pub(super) bytes: &'a [u8],
}

impl<'a> Addresses<'a> {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let (v4, v6) = match self.family {
            Family::V4 => (self.bytes, &[][..]),
            Family::V6 => (&[][..], self.bytes),
        };
        let v4 = v4.as_chunks::<4>().0.iter().map(|o| IpAddr::V4((*o).into()));
        let v6 = v6.as_chunks::<16>().0.iter().map(|o| IpAddr::V6((*o).into()));
        v4.chain(v6)
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.bytes.len() / octets(self.family)
    }

    /// Whether there are none; an advert always has one.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Bytes of one address.
const fn octets(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// Why bytes are no advert.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Malformed {
    /// The packet ends before its IP header, or before what that says.
    Truncated,
    /// No IP header of version 4 or 6, or one that contradicts itself.
    IpHeader,
    /// The IPv4 header's checksum is wrong.
    IpChecksum,
    /// A fragment: adverts are never cut.
    Fragment,
    /// Another protocol than VRRP.
    Protocol,
    /// TTL or hop limit is not 255: it was sent from another link.
    Hops,
    /// Shorter than its header and its addresses.
    Short,
    /// Longer than its header and its addresses, and what follows is no signature.
    Long,
    /// Neither version 3, nor version 2 over IPv4.
    Version,
    /// Not of type 1, an advert.
    Type,
    /// The checksum is wrong in every way that there is.
    Checksum,
    /// Virtual router 0.
    Vrid,
    /// No address.
    NoAddress,
    /// An interval of 0.
    Interval,
    /// An authentication of version 2 other than none and a password.
    AuthType,
}

impl Malformed {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::Truncated,
        Self::IpHeader,
        Self::IpChecksum,
        Self::Fragment,
        Self::Protocol,
        Self::Hops,
        Self::Short,
        Self::Long,
        Self::Version,
        Self::Type,
        Self::Checksum,
        Self::Vrid,
        Self::NoAddress,
        Self::Interval,
        Self::AuthType,
    ];

    /// Its name in counters, logs and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::IpHeader => "ip-header",
            Self::IpChecksum => "ip-checksum",
            Self::Fragment => "fragment",
            Self::Protocol => "protocol",
            Self::Hops => "hops",
            Self::Short => "short",
            Self::Long => "long",
            Self::Version => "version",
            Self::Type => "type",
            Self::Checksum => "checksum",
            Self::Vrid => "vrid-zero",
            Self::NoAddress => "no-address",
            Self::Interval => "interval-zero",
            Self::AuthType => "auth-type",
        }
    }
}
