//! Seeded mutations of an input, for the replay on stable Rust: a poor man's libFuzzer without coverage.
//!
//! The same seed gives the same mutations on every machine.

/// A small generator of numbers (SplitMix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, 0 if `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.number() % end as u64) as usize
        }
    }
}

/// Bytes at which parsers turn: ends of ranges, line ends, quotes, separators.
const TELLING: &[u8] = b"\x00\x01\x05\x06\x11\x2c\x3b\x3c\x40\x45\x60\x7f\x80\xff\r\n \t:;,=\"'\\[]{}#.-/%";

/// `input` with one to four changes; `other` lends parts of itself.
pub fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 => flip(&mut bytes, at, random),
            1 => set(&mut bytes, at, random.number() as u8),
            2 => set(&mut bytes, at, telling(random)),
            3 => bytes.insert(at, telling(random)),
            4 => drop(bytes.drain(at.min(end)..end)),
            5 => bytes.truncate(at),
            6 => {
                let part = bytes.get(at.min(end)..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let from = random.below(other.len() + 1);
                let to = (from + 1 + random.below(32)).min(other.len());
                bytes.splice(
                    at..at,
                    other.get(from.min(to)..to).unwrap_or_default().iter().copied(),
                );
            }
        }
    }
    bytes
}

fn telling(random: &mut Random) -> u8 {
    TELLING[random.below(TELLING.len())]
}

fn set(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_mutations() {
        let all = |seed| {
            let mut random = Random::new(seed);
            (0..50)
                .map(|_| mutate(b"GET / HTTP/1.1\r\n", b"[node]\n", &mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        assert!(all(7).iter().filter(|m| *m != b"GET / HTTP/1.1\r\n").count() > 40);
    }
}
