//! A worker's clock: read once per turn of a task, not once per question.
//!
//! What happens within one turn is a read and a write on either side, which takes some ten microseconds, and that is the
//! clock's resolution. A turn that moves a lot of a body forgets the time as it goes on. The calendar is what the clock
//! says, laid on the system's time as it was at the last tick: a step of the system's time shows within one.

use std::{
    cell::Cell,
    time::{Instant, SystemTime},
};

/// One worker's clock.
pub(crate) struct Clock {
    read: Cell<Option<Instant>>,
    /// One moment by both.
    pair: Cell<(Instant, SystemTime)>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            read: Cell::new(None),
            pair: Cell::new((Instant::now(), SystemTime::now())),
        }
    }

    /// A turn begins: what was read before it is old.
    #[inline]
    pub(crate) fn turn(&self) {
        self.read.set(None);
    }

    /// The time of this turn. To be asked only in a turn whose beginning was told.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.read.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.read.set(Some(now));
            now
        })
    }

    /// Looks at the calendar again.
    pub(crate) fn adjust(&self, now: Instant) {
        self.pair.set((now, SystemTime::now()));
    }

    /// A moment by the calendar.
    pub(crate) fn calendar(&self, at: Instant) -> SystemTime {
        let (instant, system) = self.pair.get();
        let later = at.checked_duration_since(instant);
        let date = match later {
            Some(later) => system.checked_add(later),
            None => system.checked_sub(instant.saturating_duration_since(at)),
        };
        date.unwrap_or(system)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stands_still_within_a_turn() {
        let clock = Clock::new();
        clock.turn();
        let first = clock.now();
        while Instant::now() <= first {}
        assert_eq!(clock.now(), first);
        clock.turn();
        assert!(clock.now() > first);
    }

    #[test]
    fn the_calendar_goes_both_ways() {
        let clock = Clock::new();
        let (instant, system) = clock.pair.get();
        let second = Duration::from_secs(1);
        assert_eq!(clock.calendar(instant + second), system + second);
        if let Some(before) = instant.checked_sub(second) {
            assert_eq!(clock.calendar(before), system - second);
        }
        clock.adjust(instant + second);
        let (_, adjusted) = clock.pair.get();
        assert_eq!(clock.calendar(instant + second * 2), adjusted + second);
    }
}
