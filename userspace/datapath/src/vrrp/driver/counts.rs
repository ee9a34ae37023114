//! What the thread has done for a group, counted: read by others at any time without making it wait.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use weir_core::vrrp::{accept::Refused, auth::Unsigned};

/// Reasons of [`Refused::all`].
const REFUSED: usize = 27;

/// Counters of a group. They only rise.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    unsent: AtomicU64,
    taken: AtomicU64,
    refused: [AtomicU64; REFUSED],
    unsigned: [AtomicU64; Unsigned::ALL.len()],
    late: AtomicU64,
    late_micros: AtomicU64,
}

/// What [`Counts`] held at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Adverts that left.
    pub sent: u64,
    /// Adverts and announcements that did not.
    pub unsent: u64,
    /// Adverts of others that were let pass.
    pub taken: u64,
    /// Those that were refused, by reason: every reason once.
    pub refused: Vec<(Refused, u64)>,
    /// Those that were let pass and will be refused once signatures are enforced, by reason: every one once.
    pub unsigned: Vec<(Unsigned, u64)>,
    /// Times that the thread was called later than it wanted by more than half an interval.
    pub late: u64,
    /// By how much in all.
    pub late_by: Duration,
}

impl Counts {
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(super) fn unsent(&self) {
        self.unsent.fetch_add(1, Relaxed);
    }

    pub(super) fn taken(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, reason: Refused) {
        let places = Refused::all().zip(&self.refused);
        for (_, count) in places.filter(|(known, _)| *known == reason) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn unsigned(&self, reason: Unsigned) {
        let places = Unsigned::ALL.iter().zip(&self.unsigned);
        for (_, count) in places.filter(|(known, _)| **known == reason) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn late(&self, by: Duration) {
        self.late.fetch_add(1, Relaxed);
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.late_micros.fetch_add(micros, Relaxed);
    }

    /// All of them as they are now.
    pub fn read(&self) -> Counted {
        Counted {
            sent: self.sent.load(Relaxed),
            unsent: self.unsent.load(Relaxed),
            taken: self.taken.load(Relaxed),
            refused: Refused::all()
                .zip(&self.refused)
                .map(|(reason, count)| (reason, count.load(Relaxed)))
                .collect(),
            unsigned: Unsigned::ALL
                .into_iter()
                .zip(&self.unsigned)
                .map(|(reason, count)| (reason, count.load(Relaxed)))
                .collect(),
            late: self.late.load(Relaxed),
            late_by: Duration::from_micros(self.late_micros.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter() {
        let counts = Counts::default();
        assert_eq!(Refused::all().count(), REFUSED);
        for reason in Refused::all() {
            counts.refused(reason);
        }
        for reason in Unsigned::ALL {
            counts.unsigned(reason);
        }
        let read = counts.read();
        assert!(read.refused.iter().all(|(_, count)| *count == 1), "{read:?}");
        assert!(read.unsigned.iter().all(|(_, count)| *count == 1), "{read:?}");
    }
}
