//! Signed adverts, between boxes of weir: who has no key can neither depose a master nor keep a backup waiting.
//!
//! Owns the trailer behind an advert, what is signed, the order in which adverts of a sender are taken, and the steps by
//! which a pair is moved to it. The MAC itself is the caller's ([`Keys`]): HMAC-SHA-256 (RFC 2104, FIPS 198-1).
//!
//! ```text
//!   0       4       8               16                              48
//!  +-------+---+---+---------------+-------------------------------+
//!  | "wrA1"|key| 0 |   sequence    |        HMAC-SHA-256           |
//!  +-------+---+---+---------------+-------------------------------+
//! ```
//!
//! Signed are both addresses of the IP packet, the message, and the trailer up to the MAC. The sequence rises with every
//! advert and from one process of the sender to the next (it begins at the wall clock's microseconds, or behind the last one
//! that was kept). A receiver takes from a sender what is newer than the newest it took, so nothing is taken twice, nor out
//! of its order. A receiver that has just started knows no newest: until the sender's next advert, one that was recorded
//! before could be played to it.
//!
//! Who knows no keys takes signed adverts as if they were not: so boxes are moved one after the other, first to
//! [`Mode::Permissive`], and once no counter shows what would be refused, to [`Mode::Enforce`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    Vrid,
    wire::{Advert, Ends},
};

/// What a trailer begins with; the last byte is its version.
const MAGIC: [u8; 4] = *b"wrA1";

/// The trailer up to the MAC.
const SIGNED: usize = 16;

/// Length of a MAC.
pub const MAC: usize = 32;

/// Length of a trailer.
pub const TRAILER: usize = SIGNED + MAC;

/// What is signed begins with this, so that a key that is used elsewhere too signs nothing that would do here.
const PURPOSE: &[u8] = b"weir vrrp advert 1\0";

/// The keys of a group of routers, by their numbers.
pub trait Keys {
    /// HMAC-SHA-256 over the parts one after the other. `None`: there is no key of that number.
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; MAC]>;
}

/// A trailer as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer<'a> {
    /// Number of the key.
    pub key: u8,
    /// Place among the sender's adverts.
    pub sequence: u64,
    signed: &'a [u8; SIGNED],
    mac: &'a [u8; MAC],
}

impl<'a> Trailer<'a> {
    /// `None` if the bytes are not exactly one trailer.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (signed, rest) = bytes.split_first_chunk::<SIGNED>()?;
        let mac: &[u8; MAC] = rest.try_into().ok()?;
        let (head, sequence) = signed.split_first_chunk::<8>()?;
        let [a, b, c, d, key, 0, 0, 0] = *head else {
            return None;
        };
        let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
        ([a, b, c, d] == MAGIC).then_some(Self {
            key,
            sequence,
            signed,
            mac,
        })
    }
}

/// How one advert is to be signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signer {
    /// With the key of this number.
    pub key: u8,
    /// See [`Sequence`].
    pub sequence: u64,
}

impl Signer {
    /// Puts a trailer behind the message. `None`, and nothing put, if there is no such key.
    pub(super) fn sign(self, message: &mut Vec<u8>, ends: &Ends, keys: &dyn Keys) -> Option<()> {
        let mut signed = [0; SIGNED];
        let (head, sequence) = signed.split_at_mut(8);
        for (place, byte) in head.iter_mut().zip(MAGIC.into_iter().chain([self.key])) {
            *place = byte;
        }
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        let mac = mac(keys, self.key, ends, message, &signed)?;
        message.extend_from_slice(&signed);
        message.extend_from_slice(&mac);
        Some(())
    }
}

fn mac(keys: &dyn Keys, key: u8, ends: &Ends, message: &[u8], signed: &[u8; SIGNED]) -> Option<[u8; MAC]> {
    let source = wide(ends.source()).octets();
    let destination = wide(ends.destination()).octets();
    keys.mac(key, &[PURPOSE, &source, &destination, message, signed])
}

const fn wide(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The numbers of a sender's adverts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Begins at the wall clock, in microseconds since 1970: ahead of every process before, which counted adverts from
    /// there on. `kept` is the last number that is known to have been used: it counts if the clock went back.
    pub fn new(wall_micros: u64, kept: Option<u64>) -> Self {
        Self(wall_micros.max(kept.unwrap_or(0)))
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.saturating_add(1);
        self.0
    }

    /// The last one that was given out, to be kept.
    pub const fn last(&self) -> u64 {
        self.0
    }
}

/// What happens to adverts that are not signed as they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// They are taken and counted: while a group of routers is moved to signatures, or to other keys.
    Permissive,
    /// They are refused.
    Enforce,
}

/// Why an advert is not signed as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Unsigned {
    /// No signature at all.
    Missing,
    /// By a key that is not known here.
    Key,
    /// The signature is not of this key and this advert.
    Wrong,
    /// Not newer than the newest that was taken of this sender.
    Replayed,
}

impl Unsigned {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Key, Self::Wrong, Self::Replayed];

    /// Its name in counters, logs and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "unsigned",
            Self::Key => "unknown-key",
            Self::Wrong => "wrong-signature",
            Self::Replayed => "replayed",
        }
    }
}

/// The newest advert that was taken, by virtual router and sender. Only who has a key gets an entry.
#[derive(Clone, Default, Debug)]
pub struct Window(BTreeMap<(Vrid, IpAddr), u64>);

impl Window {
    /// Verifies an advert's signature, and takes note of it if it is good.
    ///
    /// # Errors
    /// It is not signed as it should be; nothing is noted.
    pub fn verify(&mut self, advert: &Advert<'_>, ends: &Ends, keys: &dyn Keys) -> Result<(), Unsigned> {
        let trailer = advert.trailer.as_ref().ok_or(Unsigned::Missing)?;
        let right = mac(keys, trailer.key, ends, advert.message, trailer.signed).ok_or(Unsigned::Key)?;
        if !same(&right, trailer.mac) {
            return Err(Unsigned::Wrong);
        }
        let sender = (advert.vrid, ends.source());
        if self
            .0
            .get(&sender)
            .is_some_and(|newest| trailer.sequence <= *newest)
        {
            return Err(Unsigned::Replayed);
        }
        self.0.insert(sender, trailer.sequence);
        Ok(())
    }
}

/// Compares in a time that does not tell where they differ.
pub(crate) fn same(a: &[u8; MAC], b: &[u8; MAC]) -> bool {
    let differing = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests;
