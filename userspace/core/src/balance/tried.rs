//! Which backends a request was sent to already: not to be chosen again for it.
//!
//! Owns the set. A bit per backend, for pools of any size, without allocation: the first 64 backends by a mask, those
//! beyond by a short list.

/// Backends that a request has tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// Backends 0 to 63, a bit each.
    low: u64,
    /// Backends from 64 on: the first `high_len` entries.
    high: [u32; Self::HIGH],
    high_len: u8,
}

impl Tried {
    /// How many backends beyond the 64th can be remembered.
    const HIGH: usize = 8;

    /// Nothing tried yet.
    pub const NONE: Self = Self {
        low: 0,
        high: [0; Self::HIGH],
        high_len: 0,
    };

    /// Adds a backend. False if there is no room for it: the request had tries enough, the next choice might fall on
    /// the same backend again.
    #[must_use]
    pub fn insert(&mut self, index: usize) -> bool {
        if self.contains(index) {
            return true;
        }
        if index < 64 {
            self.low |= 1 << index;
            return true;
        }
        let (Ok(index), Some(place)) = (
            u32::try_from(index),
            self.high.get_mut(usize::from(self.high_len)),
        ) else {
            return false;
        };
        *place = index;
        self.high_len += 1;
        true
    }

    /// Whether a backend is in it.
    pub fn contains(&self, index: usize) -> bool {
        if index < 64 {
            return self.low & (1 << index) != 0;
        }
        self.high
            .iter()
            .take(self.high_len.into())
            .any(|&tried| usize::try_from(tried) == Ok(index))
    }

    /// Whether nothing was tried.
    pub const fn is_empty(&self) -> bool {
        self.low == 0 && self.high_len == 0
    }

    /// How many were tried.
    pub const fn len(&self) -> usize {
        self.low.count_ones() as usize + self.high_len as usize
    }
}
