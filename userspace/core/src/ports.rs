//! Source ports of one address towards one backend: which is free, which is in use, which rests in TIME_WAIT.
//!
//! What has to be unique is the pair of both ends, so every backend has the whole range of every source address to itself:
//! one [`Ports`] is one such range. It is a model of what the kernel knows, kept so that a port is found without trying,
//! and so that the end can be foretold ([`Outlook`]). Where the two disagree the kernel is right: [`End::Refused`].
//!
//! ```text
//!            take                  give_back
//!    FREE ──────────▶ IN USE ──────────────────▶ FREE     the other side closed first, or the end was a reset
//!      ▲                 │ ├───────────────────▶ RESTING  this side closed first: TIME_WAIT (RFC 9293 section 3.6.1)
//!      │                 │ └───────────────────▶ RESTING  the kernel would not have it; looked at again soon
//!      └──── time ───────┴─────────────────────────┘
//! ```
//!
//! Ports that were never given go first, by a walk from a random beginning with a random stride (RFC 6056 asks that they
//! can't be guessed); then those that were given back, the one that is free for longest first. So a port is left alone
//! for as long as there are others, which spares backends and firewalls that remember the connection before.
//!
//! Sans-IO: opens no socket, reads no clock, draws no random number.

mod outlook;

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

pub use outlook::Outlook;
use outlook::Rate;

use crate::{health::rng::Rng, plan::PortRange};

/// How long Linux keeps a connection in TIME_WAIT, whatever is set (`TCP_TIMEWAIT_LEN`).
pub const TIME_WAIT: Duration = Duration::from_secs(60);

/// After what time a port is looked at again that the kernel would not have. Its timers are late by up to a sixteenth of
/// their time, so what should be over may still last a little.
const REFUSED: Duration = Duration::from_secs(5);

/// Moments are counted in these from the beginning on: 8 years fit.
const TICKS_PER_SECOND: u32 = 16;

/// How a port's use ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing of it is left here: the other side closed first, or there was a reset, or nothing came about.
    Free,
    /// This side closed first: TIME_WAIT.
    Rest,
    /// The kernel would not have it: something else has the same two ends, or listens on it.
    Refused,
}

/// How many ports there are, by state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Can be taken.
    pub free: u64,
    /// Are taken.
    pub in_use: u64,
    /// Rest.
    pub waiting: u64,
}

/// A port that is used before its rest was over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resting {
    /// Which.
    pub port: u16,
    /// When it would have been over.
    over: u32,
}

/// The ports of one address towards one backend.
#[derive(Debug)]
pub struct Ports {
    ranges: Vec<PortRange>,
    total: u32,
    began: Instant,
    walk: Walk,
    /// Given before the ranges were changed to what they are, and not back yet or at rest: the walk leaves them out.
    known: BTreeSet<u16>,
    in_use: BTreeSet<u16>,
    /// The one that is free for longest first.
    free: VecDeque<u16>,
    /// In order of the moment when it is over: all rest for the same time.
    resting: VecDeque<(u32, u16)>,
    /// The same of those that rest for some other time.
    others: BTreeSet<(u32, u16)>,
    rate: Rate,
}

impl Ports {
    /// Ranges that are apart from each other; `seed` says where the walk begins.
    pub fn new(ranges: &[PortRange], seed: u64, now: Instant) -> Self {
        let total = total(ranges);
        Self {
            ranges: ranges.to_vec(),
            total,
            began: now,
            walk: Walk::new(total, seed),
            known: BTreeSet::new(),
            in_use: BTreeSet::new(),
            free: VecDeque::new(),
            resting: VecDeque::new(),
            others: BTreeSet::new(),
            rate: Rate::new(now),
        }
    }

    /// Takes other ranges. Ports that are in use or at rest are still so, as far as they are in them.
    pub fn follow(&mut self, ranges: &[PortRange], seed: u64) {
        if self.ranges == ranges {
            return;
        }
        let has = |port: u16| ranges.iter().any(|range| range.contains(port));
        self.resting.retain(|&(_, port)| has(port));
        self.others.retain(|&(_, port)| has(port));
        self.in_use.retain(|&port| has(port));
        self.free.clear();
        let resting = self.resting.iter().chain(&self.others).map(|&(_, port)| port);
        self.known = resting.chain(self.in_use.iter().copied()).collect();
        self.ranges = ranges.to_vec();
        self.total = total(ranges);
        self.walk = Walk::new(self.total, seed);
    }

    /// A free port. None: there is none.
    pub fn take(&mut self, now: Instant) -> Option<u16> {
        self.wake(now);
        let port = self.fresh().or_else(|| self.free.pop_front())?;
        self.lend(port, now);
        Some(port)
    }

    /// The port that has rested for longest, before its time: for when there is no free one. The kernel may let it be used,
    /// and only it can tell: Linux does for a socket that was bound to the port, if both sides of the connection before sent
    /// timestamps (RFC 7323; what is old is then known by them), and where its table of TIME_WAIT was full and has forgotten
    /// the port. None: none rests that was not tried.
    pub fn take_resting(&mut self, now: Instant) -> Option<Resting> {
        let (over, port) = self.resting.pop_front()?;
        self.lend(port, now);
        Some(Resting { port, over })
    }

    /// Takes a port back. One that is not in use any more, because the ranges have changed, is of no interest.
    pub fn give_back(&mut self, port: u16, end: End, now: Instant) {
        if !self.in_use.remove(&port) {
            return;
        }
        let over = |rest| ticks(now.saturating_duration_since(self.began) + rest, true);
        match end {
            End::Free => {
                self.rate.freed(now);
                self.free.push_back(port);
            }
            End::Rest => {
                self.rate.rested(now);
                self.resting.push_back((over(TIME_WAIT), port));
            }
            End::Refused => {
                self.rate.freed(now);
                self.others.insert((over(REFUSED), port));
            }
        }
    }

    /// Takes a port back that the kernel would not have yet. It rests on, for as long as it would have.
    pub fn give_back_resting(&mut self, resting: Resting, now: Instant) {
        let Resting { port, over } = resting;
        if self.in_use.remove(&port) {
            self.rate.freed(now);
            self.others.insert((over, port));
        }
    }

    /// How many there are now.
    pub fn counts(&mut self, now: Instant) -> Counts {
        self.wake(now);
        let (in_use, waiting) = (
            self.in_use.len() as u64,
            (self.resting.len() + self.others.len()) as u64,
        );
        Counts {
            free: u64::from(self.total).saturating_sub(in_use + waiting),
            in_use,
            waiting,
        }
    }

    /// What is to come, if it goes on like this.
    pub fn outlook(&mut self, now: Instant) -> Outlook {
        let Counts { free, .. } = self.counts(now);
        let tick = self.tick(now);
        let back = |second: u32| {
            let at = tick.saturating_add(second.saturating_mul(TICKS_PER_SECOND));
            let resting = self.resting.partition_point(|&(over, _)| over <= at);
            let others = self.others.range(..(at.saturating_add(1), 0)).count();
            (resting + others) as u64
        };
        Outlook::new(free, self.rate.look(now), back)
    }

    fn lend(&mut self, port: u16, now: Instant) {
        self.in_use.insert(port);
        self.rate.taken(now);
    }

    /// The next port of the walk.
    fn fresh(&mut self) -> Option<u16> {
        while let Some(index) = self.walk.next() {
            let Some(port) = PortRange::nth(&self.ranges, index) else {
                continue;
            };
            // A port that is left out once comes back by itself.
            if !self.known.remove(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Those whose rest is over are free.
    fn wake(&mut self, now: Instant) {
        let tick = self.tick(now);
        while let Some(&(over, port)) = self.resting.front()
            && over <= tick
        {
            self.resting.pop_front();
            self.free.push_back(port);
        }
        while let Some(&(over, port)) = self.others.first()
            && over <= tick
        {
            self.others.pop_first();
            self.free.push_back(port);
        }
    }

    fn tick(&self, now: Instant) -> u32 {
        ticks(now.saturating_duration_since(self.began), false)
    }
}

/// The end of a rest is rounded up, the present down: no rest is shorter than it should be.
fn ticks(time: Duration, up: bool) -> u32 {
    let thousandths = time.as_millis().saturating_mul(TICKS_PER_SECOND.into());
    let ticks = match up {
        true => thousandths.div_ceil(1000),
        false => thousandths / 1000,
    };
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn total(ranges: &[PortRange]) -> u32 {
    ranges.iter().map(|range| range.count()).sum()
}

/// Every number below a bound once, from a random beginning, by a random stride.
#[derive(Debug)]
struct Walk {
    bound: u32,
    at: u32,
    stride: u32,
    left: u32,
}

impl Walk {
    fn new(bound: u32, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut below = |bound: u32| u32::try_from(rng.below(bound.into())).unwrap_or(0);
        let at = below(bound);
        let mut stride = 1 + below(bound);
        // 1 is coprime to all, so this ends.
        while gcd(stride, bound) > 1 {
            stride = if stride > bound { 1 } else { stride + 1 };
        }
        Self {
            bound,
            at,
            stride,
            left: bound,
        }
    }

    fn next(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        self.at = (at + self.stride) % self.bound;
        Some(at)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests;
