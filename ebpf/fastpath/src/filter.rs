//! The filter of addresses: which bit of `FILTER` stands for an address.
//!
//! Owns the choice of the bit. Whoever writes the bits is `weir-datapath`; who asks is [`crate::pipeline`]. Most packets of
//! a box that does other things too are for nobody here, and two bits say so without a look-up. A bit may stand for several
//! addresses: then the look-ups are made in vain, no more.

use weir_abi::{Addr16, maps::filter::WORDS};

/// Bits of the filter.
pub const BITS: u32 = WORDS as u32 * 64;

/// The bit that stands for an address.
#[inline(always)]
pub const fn bit(addr: &Addr16) -> u32 {
    let [a, b, c, d] = addr.words;
    // As numbers, so that what varies most is lowest: a product's high bits depend on all below.
    let high = (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64;
    let low = (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64;
    ((high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 48) as u32
}

/// The word of the filter that a bit lies in, and its mask there.
#[inline(always)]
pub const fn place(bit: u32) -> (u32, u64) {
    (bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_spread_over_the_filter() {
        for base in [0xc000_0200_u32, 0x0a00_0000] {
            let bits: BTreeSet<u32> = (0..4096)
                .map(|n| bit(&Addr16::from_v4_word((base + n).to_be())))
                .collect();
            assert!(bits.len() > 3600, "{} of 4096", bits.len());
        }
        let bits: BTreeSet<u32> = (0..4096u32)
            .map(|n| {
                bit(&Addr16::from_v6_words([
                    0x2001_0db8_u32.to_be(),
                    0,
                    n.to_be(),
                    n.to_be(),
                ]))
            })
            .collect();
        assert!(bits.len() > 3600, "{} of 4096", bits.len());
    }

    #[test]
    fn every_bit_has_its_place() {
        assert_eq!(BITS, 1 << 16);
        assert_eq!(place(0), (0, 1));
        assert_eq!(place(BITS - 1), (WORDS as u32 - 1, 1 << 63));
    }
}
