//! How many connections a backend has, over all workers, and the bound on them.
//!
//! A bound on connections is a promise to the backend, so it holds for the box and not for each worker: one number per
//! backend, changed when a connection is made or ends, never when one is used again. Who finds it reached waits: see
//! `queue`.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::lobby::Lobby;

/// No bound.
const ANY: u32 = u32::MAX;

/// A backend's connections, counted.
pub(crate) struct Slots {
    held: AtomicU32,
    most: AtomicU32,
    lobby: Arc<Lobby>,
}

/// One connection's place among its backend's. Dropping it gives the place up, and tells those that wait.
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(lobby: Arc<Lobby>) -> Self {
        Self {
            held: AtomicU32::new(0),
            most: AtomicU32::new(ANY),
            lobby,
        }
    }

    /// Connections there are now: used, idle and being made.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }

    /// The bound; None: any number.
    pub(crate) fn most(&self) -> Option<u32> {
        Some(self.most.load(Relaxed)).filter(|most| *most != ANY)
    }

    /// Sets the bound. Connections above it are not cut.
    pub(crate) fn set_most(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(ANY), Relaxed);
    }

    /// Tells those that wait that there may be something to have.
    pub(crate) fn call(&self) {
        self.lobby.call();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.load(SeqCst) >= self.most.load(Relaxed)
    }

    /// Whether there are more than there may be, since the bound was lowered.
    pub(crate) fn is_over(&self) -> bool {
        self.held.load(SeqCst) > self.most.load(Relaxed)
    }

    /// A place for another connection; None if there are as many as there may be.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let most = self.most.load(Relaxed);
        let add = |held: u32| (held < most).then_some(held + 1);
        // In one order with what `Lobby` does: either this finds the place that was given up, or who gave it up finds
        // that somebody waits.
        self.held.fetch_update(SeqCst, SeqCst, add).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
        self.0.lobby.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound() {
        let slots = Arc::new(Slots::new(Arc::new(Lobby::new(Arc::default()))));
        let unbounded = slots.take();
        assert!(unbounded.is_some() && !slots.is_full() && slots.most().is_none());
        slots.set_most(Some(2));
        let second = slots.take();
        assert!(second.is_some() && slots.is_full() && !slots.is_over());
        assert!(slots.take().is_none());
        slots.set_most(Some(1));
        assert!(slots.is_over());
        drop(unbounded);
        assert!(slots.is_full() && !slots.is_over() && slots.take().is_none());
        drop(second);
        assert_eq!(slots.held(), 0);
        assert!(slots.take().is_some());
    }

    /// Of many threads that take and give back, no two hold the last place.
    #[test]
    fn threads_share_the_bound() {
        let slots = Arc::new(Slots::new(Arc::new(Lobby::new(Arc::default()))));
        slots.set_most(Some(3));
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(slot) = slots.take() else { continue };
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        inside.fetch_sub(1, SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!(slots.held(), 0);
    }
}
