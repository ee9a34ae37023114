//! Internet checksums, updated for what changed (RFC 1624) instead of computed anew.
//!
//! Owns the arithmetic. [`crate::rewrite`] says which words change and which checksums cover them.
//!
//! Words are taken as they lie in the packet: the one's complement sum does not care for byte order as long as all of
//! it is the same (RFC 1071, section 2 B).

/// The sum of all changes so far: `~m + m'` for every word (RFC 1624, equation 3).
#[derive(Clone, Copy, Default, Debug)]
pub struct Delta(u64);

impl Delta {
    /// Nothing changed yet.
    pub const NONE: Self = Self(0);

    /// A 4-byte word changes from `old` to `new`. Up to a few thousand changes fit before the sum could overflow.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// A 2-byte word changes from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Both together.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the changes, from the checksum before: `~(~C + ~m + m')`.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let mut sum = self.0 + !checksum as u64;
        // Below 2⁴⁸ before: three foldings leave 16 bits.
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    /// The same for UDP, where 0 on the wire means "no checksum" (RFC 768): 0 stays 0, and a checksum that comes out as
    /// 0 is sent as all ones.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The sum over words as they lie in the packet, for a checksum that is made anew (RFC 1071).
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    pub const NONE: Self = Self(0);

    /// One more word. Up to a few thousand fit before the sum could overflow.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// The four words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, words: &[u32; 4]) -> Self {
        let [a, b, c, d] = *words;
        self.word(a).word(b).word(c).word(d)
    }

    /// Both together.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum over all of it.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        Delta(self.0).apply(0xffff)
    }
}

/// The checksum over whole words, as they lie in the packet, of which the checksum's own is 0 (RFC 1071).
#[inline(always)]
pub const fn sum_words<const N: usize>(words: &[u32; N]) -> u16 {
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        sum += words[i] as u64;
        i += 1;
    }
    Delta(sum).apply(0xffff)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, plainly.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u64 = words.iter().map(|w| u64::from(*w)).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn updating_is_computing_anew(
            before in prop::collection::vec(any::<u16>(), 8..40),
            changes in prop::collection::vec((0usize..3, any::<u32>()), 1..6),
            small in prop::option::of((6usize..8, any::<u16>())),
        ) {
            // A word that never changes and is not 0, as a real header has one: without it the sum of all zeros has
            // two spellings.
            let mut words: Vec<u16> = before;
            words.push(0x4500);
            let check = full(&words);
            let mut delta = Delta::NONE;
            for (at, new) in changes {
                let old = u32::from(words[at * 2]) | u32::from(words[at * 2 + 1]) << 16;
                delta = delta.word(old, new);
                words[at * 2] = new as u16;
                words[at * 2 + 1] = (new >> 16) as u16;
            }
            if let Some((at, new)) = small {
                delta = delta.half(words[at], new);
                words[at] = new;
            }
            prop_assert_eq!(delta.apply(check), full(&words));
        }
    }

    #[test]
    fn rfc_1624_section_4() {
        // The RFC's own example: C = 0xdd2f, m = 0x5555, m' = 0x3285 gives 0x0000, where equation 2 gives 0xffff.
        assert_eq!(Delta::NONE.half(0x5555, 0x3285).apply(0xdd2f), 0);
    }

    #[test]
    fn udp_knows_no_checksum_of_zero() {
        assert_eq!(Delta::NONE.half(0x5555, 0x3285).apply_udp(0), 0);
        assert_eq!(Delta::NONE.half(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
        assert_eq!(
            Delta::NONE.half(1, 2).apply_udp(0xdd2f),
            Delta::NONE.half(1, 2).apply(0xdd2f)
        );
    }
}
