//! What is counted as long as it lives: connections of clients, and requests that a pool has.

use std::{rc::Rc, sync::Arc};

use super::Worker;
use crate::{stats::ServiceCell, upstream::LocalPool};

/// A request, or a connection in TCP mode, that a pool has: from its making to its drop.
pub(crate) struct AtPool(Rc<LocalPool>);

impl AtPool {
    pub(crate) fn new(pool: &Rc<LocalPool>) -> Self {
        pool.cell.active.add(1);
        Self(Rc::clone(pool))
    }
}

impl Drop for AtPool {
    fn drop(&mut self) {
        self.0.cell.active.sub(1);
    }
}

/// A connection, as far as the worker counts it: open from its making to its drop.
pub(crate) struct Open {
    worker: Rc<Worker>,
    /// How often connections had been eased out when it was made.
    eased: u64,
    cell: Arc<ServiceCell>,
}

impl Open {
    pub(crate) fn new(worker: &Rc<Worker>, cell: &Arc<ServiceCell>) -> Self {
        if worker.open.replace(worker.open.get() + 1) == 0 {
            worker.stir();
        }
        cell.accepted.add(1);
        cell.open.add(1);
        worker.cell.open.add(1);
        Self {
            eased: worker.eased.get(),
            worker: Rc::clone(worker),
            cell: Arc::clone(cell),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cell.open.sub(1);
        self.worker.cell.open.sub(1);
        let open = self.worker.open.get() - 1;
        self.worker.open.set(open);
        if self.worker.cutting.get() {
            self.worker.cut.set(self.worker.cut.get() + 1);
        }
        let is_last_old = self.worker.easing.get() && self.eased < self.worker.eased.get() && {
            let old = self.worker.old.get().saturating_sub(1);
            self.worker.old.set(old);
            old == 0
        };
        if open == 0 || is_last_old {
            self.worker.emptied.notify_waiters();
        }
    }
}
