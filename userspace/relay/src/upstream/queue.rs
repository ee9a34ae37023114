//! Waiting for a pool: one queue per pool and worker, first come, first served.
//!
//! Owns the order and the wait; what is given to whom is `pool`'s affair. Nobody overtakes on its own worker. Between
//! workers the oldest goes first as well, but for the slack that keeps connections where they are (`lobby`).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use weir_core::balance::Tried;

use super::{
    lobby::Lobby,
    peer::Terms,
    pool::{Lease, LocalPool},
};
use crate::{fault::Fault, timers::Deadline, worker::Worker};

/// How often it is looked whether a client still waits.
const GLANCE: Duration = Duration::from_secs(1);

/// Those of one worker that wait for one pool.
pub(super) struct Queue {
    worker: usize,
    lobby: Arc<Lobby>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

/// One that waits.
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) tried: Tried,
    pub(super) terms: Terms,
    queued: Cell<bool>,
    /// What it was given.
    lease: RefCell<Option<Lease>>,
    waker: RefCell<Option<Waker>>,
}

impl Queue {
    pub(super) fn new(worker: usize, lobby: Arc<Lobby>) -> Self {
        Self {
            worker,
            lobby,
            waiters: RefCell::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.borrow().is_empty()
    }

    pub(super) fn get(&self, place: usize) -> Option<Rc<Waiter>> {
        self.waiters.borrow().get(place).map(Rc::clone)
    }

    /// Gives the one at a place what it waits for.
    pub(super) fn grant(&self, place: usize, lease: Lease) {
        let Some(waiter) = self.waiters.borrow_mut().remove(place) else {
            return;
        };
        self.left(&waiter);
        *waiter.lease.borrow_mut() = Some(lease);
        waiter.wake();
    }

    /// Has all look whether waiting is any use.
    pub(super) fn wake_all(&self) {
        self.waiters.borrow().iter().for_each(|waiter| waiter.wake());
    }

    /// A waiter at the end; None if as many as may wait do already.
    fn enter(&self, most: u32, tried: Tried, terms: Terms, now: Instant) -> Option<Rc<Waiter>> {
        if !self.lobby.enter(most) {
            return None;
        }
        let waiter = Rc::new(Waiter {
            since: now,
            tried,
            terms,
            queued: Cell::new(true),
            lease: RefCell::default(),
            waker: RefCell::default(),
        });
        self.waiters.borrow_mut().push_back(Rc::clone(&waiter));
        self.announce();
        Some(waiter)
    }

    fn leave(&self, waiter: &Rc<Waiter>) {
        if waiter.queued.get() {
            self.waiters
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, waiter));
            self.left(waiter);
        }
    }

    fn left(&self, waiter: &Waiter) {
        waiter.queued.set(false);
        self.lobby.leave();
        self.announce();
    }

    /// Tells the other workers since when the oldest waits. Who has tried some backends already may have no use for
    /// what would serve others: the others must not wait for it.
    fn announce(&self) {
        let waiters = self.waiters.borrow();
        let oldest = waiters.iter().find(|w| w.tried.is_empty()).map(|w| w.since);
        self.lobby.set_oldest(self.worker, oldest);
    }
}

impl Waiter {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A place in a queue, left when it is dropped.
struct Place<'a> {
    pool: &'a LocalPool,
    waiter: Rc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.queue.leave(&self.waiter);
        self.pool.cell.queued.sub(1);
        self.pool.cell.queue_wait.observe(self.waiter.since.elapsed());
    }
}

/// What one who waits goes by.
pub(crate) struct Wait<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) deadline: &'a Deadline,
    pub(crate) most: Duration,
    pub(crate) tried: Tried,
    pub(crate) terms: Terms,
    /// How many waited already when it came to wait; None until then.
    pub(crate) ahead: Cell<Option<u32>>,
}

impl Wait<'_> {
    /// Waits for something of the pool, as long as it may and as there is hope. `gone` says that nobody waits for the
    /// answer any more.
    pub(crate) async fn run(&self, pool: &LocalPool, gone: impl Fn() -> bool) -> Result<Lease, Fault> {
        let now = Instant::now();
        if !pool.may_serve(&self.tried) {
            return Err(Fault::NoBackend);
        }
        self.ahead.set(Some(pool.queue.lobby.waiting()));
        let Some(waiter) = pool.queue.enter(pool.queue_most(), self.tried, self.terms, now) else {
            pool.cell.queue_full.add(1);
            return Err(Fault::QueueFull);
        };
        pool.cell.queued.add(1);
        let place = Place { pool, waiter };
        self.deadline.set(now, self.most.min(GLANCE));
        pool.serve();
        pool.call_idle();
        poll_fn(|cx| self.poll(cx, &place, &gone)).await
    }

    fn poll(
        &self,
        cx: &Context<'_>,
        place: &Place<'_>,
        gone: &impl Fn() -> bool,
    ) -> Poll<Result<Lease, Fault>> {
        if let Some(lease) = place.waiter.lease.borrow_mut().take() {
            return Poll::Ready(Ok(lease));
        }
        if !place.pool.may_serve(&self.tried) {
            return Poll::Ready(Err(Fault::NoBackend));
        }
        *place.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        // The deadline first: it notes whom to wake.
        let late = self.deadline.passed(cx);
        if self.worker.cutting.get() {
            return Poll::Ready(Err(Fault::Drained));
        }
        if !late {
            return Poll::Pending;
        }
        let now = Instant::now();
        let waited = now.saturating_duration_since(place.waiter.since);
        if waited >= self.most {
            if !place.pool.is_usable() {
                return Poll::Ready(Err(Fault::NoBackend));
            }
            place.pool.cell.queue_timeouts.add(1);
            return Poll::Ready(Err(Fault::QueueTimeout));
        }
        if gone() {
            return Poll::Ready(Err(Fault::ClientClosed));
        }
        self.deadline.set(now, (self.most - waited).min(GLANCE));
        // Notes the waker for the new deadline, which has not passed.
        let _ = self.deadline.passed(cx);
        Poll::Pending
    }
}
