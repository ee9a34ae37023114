//! Deadlines of connections: one coarse wheel per worker.
//!
//! Moving a deadline is a store. A connection has one entry in the wheel; when the entry's time comes and the deadline
//! has moved on meanwhile, the entry moves on as well. Only a deadline that comes nearer than the entry moves it at once.
//! So a request costs the wheel nothing. A deadline never fires early, and at most two ticks late.
//!
//! A deadline that is dropped leaves the wheel at once: its entry knows whom to wake, and that keeps the whole task of a
//! connection in memory.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

/// How often the wheel turns.
pub(crate) const TICK: Duration = Duration::from_millis(50);

const TICK_MS: u64 = 50;

/// Ticks per turn. What lies further ahead waits in the last place and is looked at once per turn.
const PLACES: u64 = 512;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// A worker's wheel.
pub(crate) struct Timers {
    start: Instant,
    wheel: RefCell<Wheel>,
}

struct Wheel {
    places: Vec<Vec<Rc<Entry>>>,
    /// The next tick to be looked at.
    next: u64,
    /// Entries in all places.
    entries: usize,
}

struct Entry {
    /// Milliseconds since the wheel's start.
    deadline: Cell<u64>,
    /// The tick of the place that it lies in, and where there.
    queued: Cell<u64>,
    at: Cell<usize>,
    /// The turn of the wheel in which it was extended last.
    extended: Cell<u64>,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One connection's deadline.
pub(crate) struct Deadline {
    entry: Rc<Entry>,
    timers: Rc<Timers>,
}

impl Timers {
    pub(crate) fn new(start: Instant) -> Self {
        let places = (0..PLACES).map(|_| Vec::new()).collect();
        Self {
            start,
            wheel: RefCell::new(Wheel {
                places,
                next: 0,
                entries: 0,
            }),
        }
    }

    /// A deadline that is not set yet.
    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let entry = Entry {
            deadline: Cell::new(NEVER),
            queued: Cell::new(NEVER),
            at: Cell::new(0),
            extended: Cell::new(NEVER),
            fired: Cell::new(false),
            waker: RefCell::new(None),
        };
        Deadline {
            entry: Rc::new(entry),
            timers: Rc::clone(self),
        }
    }

    /// Turns the wheel to `now`: wakes every connection whose deadline has passed.
    pub(crate) fn turn(&self, now: Instant) {
        let now = self.millis(now);
        let mut wheel = self.wheel.borrow_mut();
        while wheel.next * TICK_MS <= now {
            let tick = wheel.next;
            wheel.next += 1;
            let Some(place) = wheel.places.get_mut(place(tick)) else {
                return;
            };
            let entries = std::mem::take(place);
            wheel.entries = wheel.entries.saturating_sub(entries.len());
            for entry in entries {
                entry.queued.set(NEVER);
                let deadline = entry.deadline.get();
                if deadline <= now {
                    entry.fired.set(true);
                    if let Some(waker) = entry.waker.borrow().as_ref() {
                        waker.wake_by_ref();
                    }
                } else if deadline != NEVER {
                    wheel.put(entry, deadline);
                }
            }
        }
    }

    /// Wakes every connection that has a deadline, for it to look at what has changed around it.
    pub(crate) fn wake_all(&self) {
        for entry in self.wheel.borrow().places.iter().flatten() {
            if let Some(waker) = entry.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }

    /// Whether anything waits for the wheel to turn.
    pub(crate) fn is_empty(&self) -> bool {
        self.wheel.borrow().entries == 0
    }

    /// Brings the wheel up to date after it stood still because it was empty.
    pub(crate) fn skip_to(&self, now: Instant) {
        let mut wheel = self.wheel.borrow_mut();
        if wheel.entries == 0 {
            wheel.next = wheel.next.max(self.millis(now) / TICK_MS);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis())
            .unwrap_or(NEVER - 1)
            .min(NEVER - 1)
    }
}

impl Wheel {
    fn put(&mut self, entry: Rc<Entry>, deadline: u64) {
        // The tick at or after the deadline, so that nothing fires early; within one turn from now.
        let tick = deadline
            .div_ceil(TICK_MS)
            .clamp(self.next, self.next + PLACES - 1);
        self.take(&entry);
        if let Some(place) = self.places.get_mut(place(tick)) {
            entry.queued.set(tick);
            entry.at.set(place.len());
            place.push(entry);
            self.entries += 1;
        }
    }

    /// Takes an entry out of its place, if it lies in one.
    fn take(&mut self, entry: &Entry) {
        let tick = entry.queued.replace(NEVER);
        let at = entry.at.get();
        let place = self
            .places
            .get_mut(place(tick))
            .filter(|p| tick != NEVER && at < p.len());
        let Some(place) = place else { return };
        place.swap_remove(at);
        if let Some(moved) = place.get(at) {
            moved.at.set(at);
        }
        self.entries -= 1;
    }
}

fn place(tick: u64) -> usize {
    (tick % PLACES) as usize
}

impl Deadline {
    /// Sets the deadline `after` from `now`. A deadline that had passed is forgotten.
    #[inline]
    pub(crate) fn set(&self, now: Instant, after: Duration) {
        let after = u64::try_from(after.as_millis()).unwrap_or(NEVER);
        // A millisecond is cut off from `now`; it is given back, so that nothing fires early.
        let deadline = self
            .timers
            .millis(now)
            .saturating_add(after)
            .saturating_add(1)
            .min(NEVER - 1);
        self.entry.deadline.set(deadline);
        self.entry.extended.set(NEVER);
        self.entry.fired.set(false);
        let queued = self.entry.queued.get();
        if queued == NEVER || queued > deadline.div_ceil(TICK_MS) {
            self.timers
                .wheel
                .borrow_mut()
                .put(Rc::clone(&self.entry), deadline);
        }
    }

    /// Moves the deadline on, to `after` from now or a tick later. Costs next to nothing but once in a turn of the wheel:
    /// for what happens many times in one.
    #[inline]
    pub(crate) fn extend(&self, after: Duration) {
        let turn = self.timers.wheel.borrow().next;
        if self.entry.extended.get() != turn || self.entry.fired.get() {
            self.set(Instant::now(), after.saturating_add(TICK));
            self.entry.extended.set(turn);
        }
    }

    /// Whether the deadline has passed, as far as anyone was told.
    pub(crate) fn has_passed(&self) -> bool {
        self.entry.fired.get()
    }

    /// Wakes whoever waits for it, to look at what has changed.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.entry.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// True: the deadline has passed. False: the task of `cx` will be woken when it does.
    #[inline]
    pub(crate) fn passed(&self, cx: &Context<'_>) -> bool {
        if self.entry.fired.get() {
            return true;
        }
        let mut waker = self.entry.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        false
    }
}

impl Drop for Deadline {
    /// What it leaves in the wheel would keep the memory of an entry, and of the task that it would wake, until its tick
    /// comes.
    fn drop(&mut self) {
        self.timers.wheel.borrow_mut().take(&self.entry);
        // Outside of any borrow: it may be the last that holds on to a task.
        drop(self.entry.waker.take());
    }
}

#[cfg(test)]
mod tests;
