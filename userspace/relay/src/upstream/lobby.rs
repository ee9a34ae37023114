//! Who waits for a pool, over all workers: how many, and on which worker the oldest.
//!
//! Owns what workers know of each other's queues; the queues themselves are each worker's own (`queue`). Touched only
//! by those that wait, and by connections that end while somebody does.
//!
//! A connection lives and dies with its worker, so a place that is given up on one worker must be able to reach one who
//! waits on another. [`Lobby::call`] rings the bell of the worker where the oldest waits; that worker takes the place.
//! No call is relied upon: workers with waiters also look at every tick.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// How much younger than the oldest one may be who is served before it, because a connection became free where it
/// waits. Within it connections stay with their worker, beyond it they are closed for the other worker's sake.
const SLACK_MS: u64 = 100;

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

/// One bell per worker. A worker that hears its own looks after its queues.
pub(crate) type Bells = Vec<Notify>;

/// The waiting of one pool. Outlives plans.
pub(crate) struct Lobby {
    began: Instant,
    waiting: AtomicU32,
    /// By worker: since when its oldest waits that has tried nothing yet, in milliseconds from `began`.
    oldest: Vec<AtomicU64>,
    bells: Arc<Bells>,
}

impl Lobby {
    pub(crate) fn new(bells: Arc<Bells>) -> Self {
        Self {
            began: Instant::now(),
            waiting: AtomicU32::new(0),
            oldest: bells.iter().map(|_| AtomicU64::new(NOBODY)).collect(),
            bells,
        }
    }

    /// Whether nobody waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(SeqCst) == 0
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// One more waits, if there are fewer than `most`.
    #[must_use]
    pub(super) fn enter(&self, most: u32) -> bool {
        let add = |waiting: u32| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, add).is_ok()
    }

    /// One waits no longer.
    pub(super) fn leave(&self) {
        self.waiting.fetch_sub(1, SeqCst);
    }

    /// Says since when the oldest of a worker waits.
    pub(super) fn set_oldest(&self, worker: usize, since: Option<Instant>) {
        if let Some(oldest) = self.oldest.get(worker) {
            oldest.store(since.map_or(NOBODY, |since| self.millis(since)), SeqCst);
        }
    }

    /// Whether one who waits since then may be served before the oldest of all.
    pub(super) fn may_go(&self, since: Instant) -> bool {
        let oldest = self.oldest.iter().map(|o| o.load(Relaxed)).min();
        oldest.is_none_or(|oldest| self.millis(since) <= oldest.saturating_add(SLACK_MS))
    }

    /// Rings where the oldest waits; everywhere, if all that wait have tried something already.
    pub(crate) fn call(&self) {
        if self.is_empty() {
            return;
        }
        let seats = self.oldest.iter().map(|o| o.load(SeqCst)).zip(self.bells.iter());
        match seats.min_by_key(|(since, _)| *since) {
            Some((NOBODY, _)) => self.bells.iter().for_each(Notify::notify_one),
            Some((_, bell)) => bell.notify_one(),
            None => {}
        }
    }

    /// Rings at one worker.
    pub(super) fn ring(&self, worker: usize) {
        if let Some(bell) = self.bells.get(worker) {
            bell.notify_one();
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.min(Duration::from_secs(u64::from(u32::MAX))).as_millis()).unwrap_or(NOBODY - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_wait() {
        let lobby = Lobby::new(Arc::default());
        assert!(lobby.is_empty() && !lobby.enter(0));
        assert!(lobby.enter(2) && lobby.enter(2) && !lobby.enter(2));
        lobby.leave();
        assert!(lobby.enter(2));
    }

    #[test]
    fn who_waits_long_goes_first() {
        let lobby = Lobby::new(Arc::new(vec![Notify::new(), Notify::new()]));
        let ms = |n| lobby.began + Duration::from_millis(n);
        assert!(lobby.may_go(ms(0)), "nobody waits");
        lobby.set_oldest(0, Some(ms(50)));
        lobby.set_oldest(1, Some(ms(150)));
        assert!(lobby.may_go(ms(50)) && lobby.may_go(ms(150)) && !lobby.may_go(ms(151)));
        lobby.set_oldest(0, None);
        assert!(lobby.may_go(ms(250)) && !lobby.may_go(ms(251)));
    }

    #[test]
    fn the_bell_rings_where_the_oldest_waits() {
        use std::future::Future;
        let lobby = Lobby::new(Arc::new(vec![Notify::new(), Notify::new()]));
        let rung = |worker: usize| {
            let mut heard = std::pin::pin!(lobby.bells[worker].notified());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            heard.as_mut().poll(&mut cx).is_ready()
        };
        lobby.call();
        assert!(!rung(0) && !rung(1), "nobody waits");
        assert!(lobby.enter(1));
        lobby.set_oldest(1, Some(lobby.began));
        lobby.call();
        assert!(!rung(0) && rung(1));
        // All have tried something: each may have use for what another has not.
        lobby.set_oldest(1, None);
        lobby.call();
        assert!(rung(0) && rung(1));
    }
}
