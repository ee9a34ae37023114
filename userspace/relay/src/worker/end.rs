//! How a worker's connections end: eased out while it serves on, or drained. Who asks for it has set the flag already.
//!
//! Those with a request under way, or idle behind one, see to it themselves whenever they are woken (`Worker::is_ending`). Here is
//! until when one is kept that has not asked anything yet.

use std::{
    rc::Rc,
    task::Context,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::Worker;
use crate::timers::Deadline;

/// While connections are eased out, one that has asked nothing is kept until it is so old, from its accept or from the end
/// of its handshake. A first request follows within a round trip or two, or about a second later if its segment was lost
/// (RFC 6298 section 2 begins with that); whoever has opened a connection in advance may never ask.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// Why the first words of a client that speaks first are waited for no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// Their time is over.
    Late,
    /// Nothing has come, and connections are eased out.
    Eased,
    /// The drain's time has run out.
    Cut,
}

impl Worker {
    /// To be asked whenever the socket would block: whether a client's first words, for which there is so much time since
    /// then, are waited for no longer. If they still are, the task is woken when that may have changed.
    ///
    /// `is_silent`: whether nothing of them has come, by the system too, which may have what the runtime was not told of yet:
    /// who has begun to speak is heard.
    pub(crate) fn is_over(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
        since: Instant,
        within: Duration,
        is_silent: impl FnOnce() -> bool,
    ) -> Option<Over> {
        // Before the flag is looked at: a flag that is set later wakes whom the deadline knows.
        let _ = deadline.passed(cx);
        if self.cutting.get() {
            return Some(Over::Cut);
        }
        let now = Instant::now();
        let spent = now.saturating_duration_since(since);
        if spent >= within {
            return Some(Over::Late);
        }
        let eases = self.easing.get() && is_silent();
        if eases && spent >= SILENCE {
            return Some(Over::Eased);
        }
        // Set anew each time: connections may be eased out since the last time, or no longer, or something may have come.
        let within = if eases { within.min(SILENCE) } else { within };
        deadline.set(now, within.saturating_sub(spent));
        let _ = deadline.passed(cx);
        None
    }
}

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
