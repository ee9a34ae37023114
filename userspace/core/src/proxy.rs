//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): the header by which a proxy tells who its
//! client is, before anything else on a connection.
//!
//! Owns reading and writing of that header. Sans-IO: a reader is given what has come so far, and says whether that is a
//! whole header, the beginning of one, or none. Reading allocates nothing; what it gives borrows from the bytes. Whose
//! header is believed, and how long it may take, is the relay's.
//!
//! ```text
//!  version 1   PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n
//!  version 2   signature (12) · version and command · family and transport · length (2) · addresses · TLVs
//! ```

mod crc32c;
mod read;
mod text;
mod tlv;
mod write;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use read::{Read, read};
pub use tlv::{Ssl, Tlvs, ssl};
pub use write::{Announced, write};

/// What version 2 begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
pub const WORD: &[u8; 6] = b"PROXY ";

/// Longest header of version 1, its line end included (section 2.1).
pub const MAX_V1: usize = 107;

/// Longest header of version 2 that is read: room for the addresses and every TLV that is known, a client's
/// certificate among them. The format itself has room for 65 551 bytes.
pub const MAX_V2: usize = 16 << 10;

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

impl Version {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A whole header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Its bytes: what comes behind them is the connection's own.
    pub len: usize,
    /// Its version.
    pub version: Version,
    /// Who the connection is from, and where it was going.
    pub origin: Origin,
    /// What else is told of it. Empty in version 1, and if the proxy speaks for itself.
    pub tlvs: Tlvs<'a>,
}

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The proxy's own: a health check of it (`LOCAL`).
    Local,
    /// A client's whose addresses are not told, or can't be (`UNKNOWN`, `UNSPEC`).
    Unknown,
    /// A client's, over TCP.
    Client {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// A client's of the proxy's own box, over a Unix socket.
    Unix,
}

/// Why bytes are no header, or none that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// They begin otherwise: there is no header.
    Missing,
    /// Version 1: the line does not end within [`MAX_V1`] bytes.
    LineTooLong,
    /// Version 1: the line does not end with CR LF.
    LineEnd,
    /// Version 1: neither `TCP4` nor `TCP6` nor `UNKNOWN`.
    Family,
    /// Version 1: too many words, or too few.
    Words,
    /// Version 1: no address of its family.
    Address,
    /// Version 1: no port.
    Port,
    /// Version 2: another version's number.
    Version,
    /// Version 2: neither `PROXY` nor `LOCAL`.
    Command,
    /// Version 2: an unknown family, or a transport that is not TCP.
    Transport,
    /// Version 2: shorter than its addresses.
    Short,
    /// Version 2: longer than [`MAX_V2`] bytes.
    TooLong,
    /// Version 2: a TLV that goes beyond the header, or is shorter than its content.
    Tlv,
    /// Version 2: a TLV of a kind that is there already.
    TlvTwice,
    /// Version 2: a unique id longer than 128 bytes.
    UniqueId,
    /// Version 2: an authority that is no host name.
    Authority,
    /// Version 2: the checksum is another.
    Checksum,
}

impl Malformed {
    /// Every one.
    pub const ALL: [Self; 17] = [
        Self::Missing,
        Self::LineTooLong,
        Self::LineEnd,
        Self::Family,
        Self::Words,
        Self::Address,
        Self::Port,
        Self::Version,
        Self::Command,
        Self::Transport,
        Self::Short,
        Self::TooLong,
        Self::Tlv,
        Self::TlvTwice,
        Self::UniqueId,
        Self::Authority,
        Self::Checksum,
    ];

    /// What is wrong, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "no PROXY header",
            Self::LineTooLong => "PROXY line too long",
            Self::LineEnd => "PROXY line without CR LF",
            Self::Family => "unknown family in PROXY line",
            Self::Words => "wrong number of words in PROXY line",
            Self::Address => "no address of the family in PROXY line",
            Self::Port => "no port in PROXY line",
            Self::Version => "unknown version of PROXY header",
            Self::Command => "unknown command in PROXY header",
            Self::Transport => "unknown family or transport in PROXY header",
            Self::Short => "PROXY header too short for its addresses",
            Self::TooLong => "PROXY header too long",
            Self::Tlv => "broken TLV in PROXY header",
            Self::TlvTwice => "TLV twice in PROXY header",
            Self::UniqueId => "unique id too long in PROXY header",
            Self::Authority => "no host name in PROXY header's authority",
            Self::Checksum => "wrong checksum of PROXY header",
        }
    }
}
