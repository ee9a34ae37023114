//! How many datagrams may be sent.

use std::time::{Duration, Instant};

/// What was not used for so long is lost.
const BURST: Duration = Duration::from_millis(20);

/// So many per second, a few at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Between two.
    gap: Duration,
    /// When the next one would have been due, had all been sent in time.
    at: Instant,
}

impl Budget {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self {
            gap: Duration::from_secs(1) / rate.max(1),
            at: now,
        }
    }

    /// When the next one may be sent.
    pub(super) const fn next(&self) -> Instant {
        self.at
    }

    /// Whether one may be sent now; it is.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now < self.at {
            return false;
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.at = self.at.max(earliest) + self.gap;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_per_second_and_a_few_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(1000, start);
        let mut sent = 0;
        for ms in 0..1000 {
            while budget.take(start + Duration::from_millis(ms)) {
                sent += 1;
            }
        }
        assert!((1000..=1021).contains(&sent), "{sent}");
        let later = start + Duration::from_secs(100);
        let burst = (0..1000).filter(|_| budget.take(later)).count();
        assert!((20..=22).contains(&burst), "{burst}");
        let mut slow = Budget::new(0, start);
        assert!(slow.take(start) && !slow.take(start + Duration::from_millis(999)));
        assert_eq!(slow.next(), start + Duration::from_secs(1));
        assert!(slow.take(slow.next()));
    }
}
