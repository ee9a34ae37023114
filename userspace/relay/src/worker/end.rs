//! How a worker's connections end: eased out while it serves on, or drained. Who asks for it has set the flag already.

use std::{rc::Rc, time::Instant};

use tokio::sync::oneshot;

use super::Worker;

/// Waits until those that are open now have ended, or until a moment; answers with how many have not.
pub(super) async fn ease(worker: Rc<Worker>, until: Instant, done: oneshot::Sender<u64>) {
    worker.timers.wake_all();
    let gone = async {
        loop {
            let emptied = worker.emptied.notified();
            if worker.old.get() == 0 {
                return;
            }
            emptied.await;
        }
    };
    // What has not ended is counted.
    let _ = tokio::time::timeout_at(until.into(), gone).await;
    let _ = done.send(worker.old.get());
}

/// Waits until nothing is open any more, cuts at a moment what still is, and answers with how many that were.
pub(super) async fn drain(worker: Rc<Worker>, until: Instant, done: oneshot::Sender<u64>) {
    worker.upstreams.borrow().close_idle();
    worker.timers.wake_all();
    let empty = async {
        loop {
            let emptied = worker.emptied.notified();
            if worker.open.get() == 0 {
                return;
            }
            emptied.await;
        }
    };
    if tokio::time::timeout_at(until.into(), empty).await.is_err() {
        worker.cutting.set(true);
        worker.timers.wake_all();
        loop {
            let emptied = worker.emptied.notified();
            if worker.open.get() == 0 {
                break;
            }
            emptied.await;
        }
    }
    worker.upstreams.borrow().close_idle();
    if let Some(log) = worker.log.borrow_mut().as_mut() {
        log.flush();
    }
    let _ = done.send(worker.cut.get());
}
