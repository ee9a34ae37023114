//! When one backend is checked: the next start, or the end of the check under way. At most one of the two exists.
//!
//! Owns spacing, jitter, the burst at the beginning and the deadline of a probe. Never looks at a result (the machine
//! does) and never emits one (the engine does). All randomness comes from the generator handed in.
//!
//! - The interval runs from the start of one check to the start of the next, moved by the jitter to either side. A check
//!   that lasts longer than that is followed by the next at once: never two at a time.
//! - A pending backend is checked every [`BURST_SPACING`], so that it is known soon; for `rise + fall` checks at most,
//!   which decides unless the results alternate.
//! - The first check after the burst comes at a random moment of one interval: backends that began together drift
//!   apart at once and load is even from then on.
//! - A probe whose result is not in [`GRACE`] after its timeout is lost.

use std::time::{Duration, Instant};

use crate::{
    engine::ProbeId,
    health::{State, rng::Rng},
    plan::Check,
};

/// From start to start of a pending backend's checks, unless the interval is shorter still.
pub(crate) const BURST_SPACING: Duration = Duration::from_millis(100);

/// How long after a probe's timeout its result may come in. Covers the way between the processes.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// First checks of backends that appear together are this far apart; all of them within one interval.
const STAGGER: Duration = Duration::from_millis(2);

/// No wait is longer, whatever the configuration says: keeps sums of instants in range.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Sum that can't leave the range of `Instant`.
fn after(at: Instant, wait: Duration) -> Instant {
    at + wait.min(LONGEST)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing to check.
    Idle,
    /// Next check at.
    Waiting(Instant),
    /// A check is under way.
    Flying {
        id: ProbeId,
        started: Instant,
        deadline: Instant,
        extended: bool,
    },
}

/// What a timer that has run out asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Start a check.
    Start,
    /// The probe brought no result; it took that long.
    Lost(ProbeId, Duration),
}

/// The checks of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    phase: Phase,
    /// Checks that may still be made at burst spacing.
    burst: u32,
    /// Whether the backend has found its place in the interval.
    settled: bool,
}

impl Schedule {
    /// No checks.
    pub(crate) const fn idle() -> Self {
        Self {
            phase: Phase::Idle,
            burst: 0,
            settled: false,
        }
    }

    /// Begins anew: the `index`-th of `count` backends that begin at `now`. What was under way is forgotten (see
    /// [`Self::flight`]).
    pub(crate) fn begin(&mut self, check: &Check, index: u32, count: u32, now: Instant, rng: &mut Rng) {
        let count = count.max(1);
        let share = check.interval.min(LONGEST).min(STAGGER.saturating_mul(count)) / count;
        let wait = share.saturating_mul(index) + rng.within(share);
        let burst = check.rise.saturating_add(check.fall);
        *self = Self {
            phase: Phase::Waiting(after(now, wait)),
            burst,
            settled: false,
        };
    }

    /// When [`Self::expire`] has something to say.
    pub(crate) const fn timer(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => None,
            Phase::Waiting(at) => Some(at),
            Phase::Flying { deadline, .. } => Some(deadline),
        }
    }

    /// When the next check starts; None while one is under way.
    pub(crate) const fn next_check(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(at) => Some(at),
            Phase::Idle | Phase::Flying { .. } => None,
        }
    }

    /// The probe under way.
    pub(crate) const fn flight(&self) -> Option<ProbeId> {
        match self.phase {
            Phase::Flying { id, .. } => Some(id),
            Phase::Idle | Phase::Waiting(_) => None,
        }
    }

    /// What is due.
    ///
    /// If the deadline is long past, it was not the probe that was late but whoever calls this (stopped, or starved):
    /// its result may lie unread. Such a probe gets [`GRACE`] again, once.
    pub(crate) fn expire(&mut self, now: Instant) -> Due {
        match &mut self.phase {
            Phase::Idle => Due::Nothing,
            Phase::Waiting(at) if *at > now => Due::Nothing,
            Phase::Waiting(_) => Due::Start,
            Phase::Flying { deadline, .. } if *deadline > now => Due::Nothing,
            Phase::Flying {
                deadline, extended, ..
            } if !*extended && now.duration_since(*deadline) > GRACE => {
                *deadline = after(now, GRACE);
                *extended = true;
                Due::Nothing
            }
            Phase::Flying { id, started, .. } => Due::Lost(*id, now.duration_since(*started)),
        }
    }

    /// A check starts now.
    pub(crate) fn started(&mut self, id: ProbeId, check: &Check, now: Instant) {
        let deadline = after(now, check.timeout.min(LONGEST) + GRACE);
        self.phase = Phase::Flying {
            id,
            started: now,
            deadline,
            extended: false,
        };
    }

    /// The check under way has ended, which led to `state`: plans the next. Nothing if none was under way.
    pub(crate) fn ended(&mut self, check: &Check, state: State, now: Instant, rng: &mut Rng) {
        let Phase::Flying { started, .. } = self.phase else {
            return;
        };
        let interval = check.interval.min(LONGEST);
        let at = if state == State::Pending && self.burst > 1 {
            self.burst -= 1;
            after(started, interval.min(BURST_SPACING))
        } else if self.settled {
            let span = (interval / 100).saturating_mul(check.jitter.into()).min(interval);
            after(started, interval - span + rng.within(span * 2))
        } else {
            self.settled = true;
            after(started, rng.within(interval))
        };
        self.phase = Phase::Waiting(at.max(now));
    }
}

#[cfg(test)]
mod tests;
