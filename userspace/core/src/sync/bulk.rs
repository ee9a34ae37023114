//! All flows in numbered chunks, for a box that joins. It asks for them, a window at a time, and anew for those that did not
//! come; so it sets the pace, and what it is told fits into its socket.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    entry::Entry,
    wire::{ASKED, Ask, BODY, CHUNK},
};

/// Who asked for chunks and got none of them for so long asks again.
const AGAIN: Duration = Duration::from_millis(300);

/// The most chunks of a transfer: more flows than a box has room for.
const MOST: u32 = 1 << 20;

/// Chunks that nobody asks for any more are thrown away.
const KEPT: Duration = Duration::from_secs(30);

/// This side has what the other asks for.
#[derive(Debug)]
pub(super) struct Serving {
    transfer: u64,
    /// Those that are whole, and the one that is being filled.
    chunks: Vec<Vec<u8>>,
    stage: Stage,
    wanted: BTreeSet<u32>,
    asked: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody has been told yet that entries are wanted.
    Wanted,
    Filling,
    Full,
}

impl Serving {
    pub(super) fn new(transfer: u64, now: Instant) -> Self {
        Self {
            transfer,
            chunks: vec![Vec::new()],
            stage: Stage::Wanted,
            wanted: BTreeSet::new(),
            asked: now,
        }
    }

    pub(super) const fn transfer(&self) -> u64 {
        self.transfer
    }

    /// Whether the entries are to be given now; says so once.
    pub(super) fn begins(&mut self) -> bool {
        let begins = self.stage == Stage::Wanted;
        if begins {
            self.stage = Stage::Filling;
        }
        begins
    }

    /// Takes in one of all entries.
    pub(super) fn fill(&mut self, entry: &Entry) {
        if self.stage != Stage::Filling {
            return;
        }
        let mut bytes = Vec::with_capacity(BODY - CHUNK);
        if !entry.write(&mut bytes) {
            return;
        }
        let room = self.chunks.len() < MOST as usize;
        match self.chunks.last_mut() {
            Some(last) if last.len() + bytes.len() <= BODY - CHUNK => last.extend_from_slice(&bytes),
            _ if room => self.chunks.push(bytes),
            _ => {}
        }
    }

    /// There are no more.
    pub(super) const fn full(&mut self) {
        self.stage = Stage::Full;
    }

    pub(super) fn asked(&mut self, ask: Ask, now: Instant) {
        self.asked = now;
        let bits = (0..ASKED).filter(|bit| ask.bits >> bit & 1 != 0);
        self.wanted = bits.filter_map(|bit| ask.first.checked_add(bit)).collect();
    }

    /// Whether there is a chunk to be sent. What is asked for past the end there is not.
    pub(super) fn has(&self) -> bool {
        let first = self.wanted.first();
        self.stage == Stage::Full && first.is_some_and(|first| (*first as usize) < self.chunks.len())
    }

    /// The next chunk to be sent: its number, how many there are, its entries.
    pub(super) fn next(&mut self) -> Option<(u32, u32, &[u8])> {
        if !self.has() {
            return None;
        }
        let index = self.wanted.pop_first()?;
        let chunk = self.chunks.get(index as usize)?;
        Some((index, self.chunks.len() as u32, chunk))
    }

    /// Until when it is kept.
    pub(super) fn until(&self) -> Instant {
        self.asked + KEPT
    }
}

/// The other side has what this one asks for.
#[derive(Debug)]
pub(super) struct Joining {
    transfer: u64,
    /// How many there are, once that is known.
    count: Option<u32>,
    /// Those that came, a bit for each.
    came: Vec<u64>,
    left: u32,
    /// All before it came.
    first: u32,
    /// What was asked for and did not come yet.
    outstanding: u32,
    ask_at: Instant,
}

impl Joining {
    pub(super) const fn new(transfer: u64, now: Instant) -> Self {
        Self {
            transfer,
            count: None,
            came: Vec::new(),
            left: 0,
            first: 0,
            outstanding: 0,
            ask_at: now,
        }
    }

    /// When it is asked next.
    pub(super) const fn due(&self) -> Instant {
        self.ask_at
    }

    /// What to ask for, if it is time.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Ask> {
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now + AGAIN;
        let bits = match self.count {
            // Not known how many there are: there is at least one.
            None => u64::MAX,
            Some(count) => (0..ASKED)
                .filter(|bit| {
                    let index = self.first.saturating_add(*bit);
                    index < count && !self.has(index)
                })
                .fold(0, |bits, bit| bits | 1 << bit),
        };
        self.outstanding = bits.count_ones();
        Some(Ask {
            transfer: self.transfer,
            first: self.first,
            bits,
        })
    }

    /// What says that all have come.
    pub(super) const fn thanks(&self) -> Ask {
        Ask {
            transfer: self.transfer,
            first: self.first,
            bits: 0,
        }
    }

    fn has(&self, index: u32) -> bool {
        let word = self.came.get(index as usize / 64).copied().unwrap_or(0);
        word >> (index % 64) & 1 != 0
    }

    /// A chunk came. Whether it is one of this transfer that did not come before.
    pub(super) fn came(&mut self, transfer: u64, index: u32, count: u32, now: Instant) -> bool {
        if transfer != self.transfer || count > MOST || index >= count {
            return false;
        }
        match self.count {
            None => {
                self.count = Some(count);
                self.left = count;
                self.came = vec![0; count as usize / 64 + 1];
                self.outstanding = self.outstanding.min(count);
            }
            Some(known) if known == count => {}
            Some(_) => return false,
        }
        if self.has(index) {
            return false;
        }
        if let Some(word) = self.came.get_mut(index as usize / 64) {
            *word |= 1 << (index % 64);
        }
        self.left = self.left.saturating_sub(1);
        self.outstanding = self.outstanding.saturating_sub(1);
        while self.first < count && self.has(self.first) {
            self.first += 1;
        }
        // All of a window came: the next one. Else what is under way may still come.
        self.ask_at = match self.outstanding {
            0 => now,
            _ => now + AGAIN,
        };
        true
    }

    pub(super) fn is_complete(&self) -> bool {
        self.count.is_some() && self.left == 0
    }

    /// Chunks that came, and how many there are.
    pub(super) fn progress(&self) -> (u32, Option<u32>) {
        let count = self.count.unwrap_or(0);
        (count - self.left, self.count)
    }
}
