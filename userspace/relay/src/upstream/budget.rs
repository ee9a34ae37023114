//! How many requests may be sent again: a share of all requests of the last seconds, and a few in any case.
//!
//! Retries that answer to overload make it worse. The budget keeps them a bounded part of the traffic: where it is used
//! up, the first failure is the answer. Each worker keeps its own, of its own requests, with its part of the floor.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use weir_core::plan::Retries;

/// Seconds that are looked back on.
const WINDOW: usize = 10;

/// One worker's budget for one pool.
pub(crate) struct Budget {
    began: Instant,
    /// Percent of the requests.
    percent: u64,
    /// In any case, over the window: thousandths of a retry.
    floor: u64,
    /// By second, the present one included: requests, and those of them that were sent again.
    seconds: [Cell<(u32, u32)>; WINDOW],
    /// The present second, from `began`.
    second: Cell<u64>,
}

impl Budget {
    /// `workers` share the floor.
    pub(crate) fn new(retries: &Retries, workers: usize, now: Instant) -> Self {
        let floor = u64::from(retries.floor) * WINDOW as u64 * 1000;
        Self {
            began: now,
            percent: u64::from(retries.budget),
            floor: floor / workers.max(1) as u64,
            seconds: Default::default(),
            second: Cell::new(0),
        }
    }

    /// A request has come.
    #[inline]
    pub(crate) fn request(&self, now: Instant) {
        if let Some(second) = self.turn(now) {
            let (requests, retries) = second.get();
            second.set((requests.saturating_add(1), retries));
        }
    }

    /// Whether one may be sent again now; it is counted if so.
    pub(crate) fn retry(&self, now: Instant) -> bool {
        let Some(second) = self.turn(now) else {
            return false;
        };
        let (mut all, mut again) = (0, 0);
        for (requests, retries) in self.seconds.iter().map(Cell::get) {
            all += u64::from(requests);
            again += u64::from(retries);
        }
        if (again + 1) * 1000 > self.floor + all * self.percent * 10 {
            return false;
        }
        let (requests, retries) = second.get();
        second.set((requests, retries + 1));
        true
    }

    /// The present second's place, with those that have passed since the last look emptied.
    #[inline]
    fn turn(&self, now: Instant) -> Option<&Cell<(u32, u32)>> {
        let second = now.saturating_duration_since(self.began).as_secs();
        let last = self.second.get();
        if second > last {
            for passed in last + 1..=second.min(last + WINDOW as u64) {
                self.place(passed)?.set((0, 0));
            }
            self.second.set(second);
        }
        self.place(second.max(last))
    }

    #[inline]
    fn place(&self, second: u64) -> Option<&Cell<(u32, u32)>> {
        self.seconds.get((second % WINDOW as u64) as usize)
    }
}

/// For what rests after failures: 1 s, doubled with each, up to half a minute.
pub(crate) fn rest_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, floor: u32, workers: usize) -> (Budget, Instant) {
        let now = Instant::now();
        let retries = Retries {
            budget: percent,
            floor,
            ..Retries::default()
        };
        (Budget::new(&retries, workers, now), now)
    }

    fn granted(budget: &Budget, at: Instant) -> u32 {
        (0..100_000).take_while(|_| budget.retry(at)).count() as u32
    }

    #[test]
    fn a_share_of_the_requests() {
        let (budget, now) = budget(20, 0, 1);
        assert_eq!(granted(&budget, now), 0);
        for i in 0..1000 {
            budget.request(now + Duration::from_millis(i));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(granted(&budget, later), 200);
        assert_eq!(granted(&budget, later), 0, "they are spent");
        // What is ten seconds old counts no longer, on either side.
        assert_eq!(granted(&budget, now + Duration::from_secs(10)), 0);
        budget.request(now + Duration::from_secs(11));
        assert_eq!(granted(&budget, now + Duration::from_secs(11)), 0);
        for _ in 0..4 {
            budget.request(now + Duration::from_secs(11));
        }
        assert_eq!(granted(&budget, now + Duration::from_secs(11)), 1);
    }

    #[test]
    fn the_floor_is_shared_by_workers() {
        for (floor, workers, expected) in [(10, 1, 100), (10, 8, 12), (1, 20, 0), (0, 1, 0)] {
            let (budget, now) = budget(0, floor, workers);
            assert_eq!(granted(&budget, now), expected, "{floor} of {workers}");
            // A pause of any length brings it back, no more than once.
            assert_eq!(granted(&budget, now + Duration::from_secs(1_000_000)), expected);
        }
    }

    #[test]
    fn the_clock_may_stand_still_or_go_back() {
        let (budget, now) = budget(100, 0, 1);
        budget.request(now + Duration::from_secs(5));
        budget.request(now);
        assert_eq!(granted(&budget, now), 2);
    }

    #[test]
    fn rests_grow() {
        let rests: Vec<_> = (1..9).map(|n| rest_after(n).as_secs()).collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
