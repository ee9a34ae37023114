//! When ports run out, if it goes on like this.
//!
//! While connections are begun at a rate, free ports get fewer by those that are taken and not given back at once, and
//! more by those whose rest is over. When each of those that rest now comes back is known. From the end of a whole
//! TIME_WAIT on, those that begin to rest meanwhile come back as fast as others begin: free ports then get fewer only if
//! more and more stay in use. So a rate that the ports can bear is told from one that they can't before it is
//! too late, and without a false alarm in the first minute.

use std::time::{Duration, Instant};

use super::TIME_WAIT;

/// Seconds that are looked back on.
const WINDOW: usize = 10;

/// Seconds that are looked ahead to, one by one.
const AHEAD: usize = TIME_WAIT.as_secs() as usize;

/// What is to come for some ports. Those that can stand in for each other are [added](Self::add).
#[derive(Clone, PartialEq, Debug)]
pub struct Outlook {
    free: u64,
    pace: Pace,
    /// By second from now: how many of those that rest now are free by then.
    back: Vec<u64>,
}

/// Ports per second.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Pace {
    /// Taken, less those that were given back free.
    gone: f64,
    /// Taken, less all that were given back: by how much more are in use.
    grown: f64,
}

impl Outlook {
    pub(super) fn new(free: u64, pace: Pace, back: impl Fn(u32) -> u64) -> Self {
        // Where there is enough whatever comes back, that need not be known.
        let enough = count(free) > pace.gone * count(AHEAD as u64) && pace.grown <= 0.0;
        let seconds = if enough { 0 } else { AHEAD };
        Self {
            free,
            pace,
            back: (1..).map(back).take(seconds).collect(),
        }
    }

    /// Adds ports that may be taken in place of these.
    pub fn add(&mut self, other: &Self) {
        let Pace { gone, grown } = other.pace;
        self.free += other.free;
        self.pace.gone += gone;
        self.pace.grown += grown;
        // Where it was not needed it is left out: what comes back then is taken for less than it is.
        if self.back.len() < other.back.len() {
            self.back.resize(other.back.len(), 0);
        }
        for (sum, more) in self.back.iter_mut().zip(&other.back) {
            *sum += more;
        }
    }

    /// When there is no free one any more. None: not at this rate.
    pub fn exhausted_in(&self) -> Option<Duration> {
        if self.free == 0 {
            return Some(Duration::ZERO);
        }
        let Pace { gone, grown } = self.pace;
        let mut before = count(self.free);
        for (second, &back) in (1_u32..).zip(&self.back) {
            let left = count(self.free + back) - gone * f64::from(second);
            if left <= 0.0 {
                let share = (before / (before - left)).clamp(0.0, 1.0);
                return Some(Duration::from_secs_f64(f64::from(second - 1) + share));
            }
            before = left;
        }
        if grown <= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(count(AHEAD as u64) + before / grown).ok()
    }
}

/// What was taken and given back in the last seconds.
#[derive(Debug)]
pub(super) struct Rate {
    began: Instant,
    /// The present second, from `began`.
    second: u64,
    /// By second, the present one included.
    seconds: [Second; WINDOW + 1],
}

/// Ports of one second.
#[derive(Clone, Copy, Default, Debug)]
struct Second {
    taken: u32,
    /// Given back free.
    freed: u32,
    /// Given back to rest.
    rested: u32,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            second: 0,
            seconds: [Second::default(); WINDOW + 1],
        }
    }

    pub(super) fn taken(&mut self, now: Instant) {
        self.note(now, |second| &mut second.taken);
    }

    pub(super) fn freed(&mut self, now: Instant) {
        self.note(now, |second| &mut second.freed);
    }

    pub(super) fn rested(&mut self, now: Instant) {
        self.note(now, |second| &mut second.rested);
    }

    fn note(&mut self, now: Instant, what: impl Fn(&mut Second) -> &mut u32) {
        self.turn(now);
        if let Some(second) = self.seconds.get_mut(place(self.second)) {
            *what(second) += 1;
        }
    }

    /// Over the whole seconds that are looked back on.
    pub(super) fn look(&mut self, now: Instant) -> Pace {
        self.turn(now);
        let seconds = self.second.min(WINDOW as u64);
        if seconds == 0 {
            return Pace::default();
        }
        let (mut gone, mut grown) = (0_i64, 0_i64);
        let present = place(self.second);
        for (_, second) in self.seconds.iter().enumerate().filter(|(at, _)| *at != present) {
            let Second { taken, freed, rested } = second;
            gone += i64::from(*taken) - i64::from(*freed);
            grown += i64::from(*taken) - i64::from(*freed) - i64::from(*rested);
        }
        Pace {
            gone: gone as f64 / count(seconds),
            grown: grown as f64 / count(seconds),
        }
    }

    /// Goes on to the present second, with those that have passed since the last look emptied.
    fn turn(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs();
        if second <= self.second {
            return;
        }
        for passed in (self.second + 1).max(second.saturating_sub(WINDOW as u64))..=second {
            if let Some(second) = self.seconds.get_mut(place(passed)) {
                *second = Second::default();
            }
        }
        self.second = second;
    }
}

const fn place(second: u64) -> usize {
    (second % (WINDOW as u64 + 1)) as usize
}

const fn count(number: u64) -> f64 {
    number as f64
}
