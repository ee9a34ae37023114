//! The Internet checksum over bytes (RFC 1071), and the pseudo-headers that some adverts sum.

use super::{Checksum, Ends};
use crate::vrrp::PROTOCOL;

/// A sum of 16-bit words in network order. A message is below 64 KiB, so it cannot overflow.
#[derive(Clone, Copy, Debug)]
pub(in crate::vrrp) struct Sum(u64);

impl Sum {
    pub(in crate::vrrp) const NONE: Self = Self(0);

    /// More bytes. Only the last that are added may be of an odd number.
    pub(in crate::vrrp) fn bytes(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let words: u64 = pairs
            .iter()
            .map(|pair| u64::from(u16::from_be_bytes(*pair)))
            .sum();
        let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
        Self(self.0 + words + last)
    }

    /// The pseudo-header of a message of this length, if that kind of checksum has one (RFC 8200 section 8.1; for IPv4 that
    /// of RFC 9293 section 3.1).
    pub(super) fn pseudo_header(self, ends: &Ends, len: usize, checksum: Checksum) -> Self {
        // A message has at most 8 + 255 × 16 bytes.
        let tail = self.word(PROTOCOL.into()).word(len as u64);
        match (ends, checksum) {
            (Ends::V4 { .. }, Checksum::Rfc9568) => self,
            (Ends::V4 { source, destination }, Checksum::Rfc5798) => {
                tail.bytes(&source.octets()).bytes(&destination.octets())
            }
            (Ends::V6 { source, destination }, Checksum::Rfc9568 | Checksum::Rfc5798) => {
                tail.bytes(&source.octets()).bytes(&destination.octets())
            }
        }
    }

    const fn word(self, word: u64) -> Self {
        Self(self.0 + word)
    }

    /// The checksum: 0 if what was summed contains the right one.
    pub(in crate::vrrp) const fn checksum(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}
