//! The end of control, planned or not: in which order a box lets go of its connections, its addresses and itself.
//!
//! ```text
//!   SIGTERM ─▶ connections are eased out ─▶ routes go, other boxes take over ─▶ the relay drains ─▶ nothing is left
//!              (a master of virtual routers)   (Notice)
//! ```
//!
//! `state.rs` has the loop that waits for each of these; a second signal skips what is waited for.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use weir_core::vrrp::machine::LINGER;

use super::{
    child::{Heard, Link},
    kernel::Kernel,
    state::{Control, RelayPhase},
};
use crate::ipc::{ToHealth, ToRelay};

/// How long the health process has to end.
const HEALTH_END: Duration = Duration::from_secs(1);
/// A relay that drains gets this much longer than it was given before it is killed.
pub(super) const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// Time for the drain after connections were eased out, in milliseconds, however long that took.
const DRAIN_LEAST_MS: u64 = 2_000;

/// How long weir serves on before it ends.
pub(super) struct Notice {
    /// Until routers have heard of it.
    routes: tokio::time::Instant,
    /// Until other boxes have taken over, at the latest.
    others: tokio::time::Instant,
    /// Until what is under way has left, once they have.
    lingers: Option<tokio::time::Instant>,
}

impl Notice {
    pub(super) fn end(&mut self, is_master: bool) -> tokio::time::Instant {
        if is_master {
            return self.routes.max(self.others);
        }
        let lingers = *self
            .lingers
            .get_or_insert_with(|| self.others.min(tokio::time::Instant::now() + LINGER));
        self.routes.max(lingers)
    }
}

/// Connections of the relay are eased out, before other boxes are asked to take over.
pub(super) struct Easing {
    since: Instant,
    until: Instant,
    is_done: bool,
}

impl Easing {
    /// When it is over. A box that is master of nothing any more has nothing to wait for.
    pub(super) fn end(&self, is_master: bool) -> tokio::time::Instant {
        if self.is_done || !is_master {
            self.since
        } else {
            self.until
        }
        .into()
    }
}

impl Control {
    /// Begins to ease connections of the relay out, if there are other boxes to take the addresses over: connections can't go
    /// along. False: there is nothing to wait for.
    pub(super) async fn ease(&mut self) -> bool {
        // Whoever has asked for a hand-over hears that weir is stopping.
        self.relief = None;
        let within = Duration::from_millis(self.drain_ms());
        let serves = matches!(self.relay_phase, RelayPhase::Applying | RelayPhase::Serving);
        let eases = self.ha.is_master() && serves && !self.listeners.is_empty();
        if !eases || within.is_zero() {
            return false;
        }
        info!(
            within_ms = within.as_millis(),
            "connections of the relay are to end before other boxes take over"
        );
        let within_ms = self.drain_ms();
        self.relay.tell(&ToRelay::Ease { within_ms }, &[]).await;
        let since = Instant::now();
        self.easing = Some(Easing {
            since,
            until: since + within,
            is_done: false,
        });
        true
    }

    /// The relay says that connections have ended, all but some; or it has ended itself, and they with it.
    pub(super) fn eased(&mut self, left: Option<u64>) {
        if let Some(left) = left {
            info!(left, "connections of the relay have ended");
        }
        if let Some(easing) = &mut self.easing {
            easing.is_done = true;
        }
        self.relief_eased();
    }

    pub(super) fn waits_for_ease(&self, notice: &Option<Notice>, stop: Option<tokio::time::Instant>) -> bool {
        self.easing.is_some() && notice.is_none() && stop.is_none()
    }

    /// Asks other boxes to take over; if there is nothing to wait for, ends.
    pub(super) async fn give_up(
        &mut self,
        why: &str,
        again: bool,
        stop: Option<tokio::time::Instant>,
    ) -> (Option<Notice>, Option<tokio::time::Instant>) {
        match self.notice(again).await {
            Some(given) => (Some(given), stop),
            None => (None, Some(self.begin_stop(why, self.drain_left_ms(), stop).await)),
        }
    }

    /// What is left of the time for the drain.
    pub(super) fn drain_left_ms(&self) -> u64 {
        let spent = { self.easing.as_ref() }.map_or(Duration::ZERO, |easing| easing.since.elapsed());
        let spent = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        // Who came at the last moment is not cut off at once.
        let least = self.drain_ms().min(DRAIN_LEAST_MS);
        self.drain_ms().saturating_sub(spent).max(least)
    }

    /// A signal asks for the end: how long to serve on before. A second one waits for nothing.
    pub(super) async fn notice(&mut self, asked_before: bool) -> Option<Notice> {
        if asked_before {
            return None;
        }
        let (routes, others) = (self.give_notice().await, self.leave_ha());
        let now = tokio::time::Instant::now();
        (routes.is_some() || others.is_some()).then(|| Notice {
            routes: now + routes.unwrap_or_default(),
            others: now + others.unwrap_or_default(),
            lingers: None,
        })
    }

    /// Begins to end. A second signal makes it short.
    pub(super) async fn begin_stop(
        &mut self,
        why: &str,
        within_ms: u64,
        before: Option<tokio::time::Instant>,
    ) -> tokio::time::Instant {
        let within_ms = if before.is_some() { 0 } else { within_ms };
        info!(signal = why, drain_ms = within_ms, "stopping");
        self.relay.tell(&ToRelay::Drain { within_ms }, &[]).await;
        for link in &self.retiring {
            // One that was told before goes by that.
            if let Err(error) = link.send(&ToRelay::Drain { within_ms }, &[]).await {
                debug!(pid = link.pid, error = format!("{error:#}"), "it has ended");
            }
        }
        self.relay_phase = RelayPhase::Draining;
        // Nothing is accepted any more: the relay closes its sockets, these are the last duplicates.
        self.listeners.clear();
        tokio::time::Instant::now() + Duration::from_millis(within_ms) + DRAIN_MARGIN
    }

    /// An orderly end: nothing of weir stays.
    pub(super) async fn finish(&mut self) {
        self.abandon_upgrade().await;
        for link in self.relay.set_aside().into_iter().chain(self.retiring.drain(..)) {
            link.kill();
        }
        // Others take over while this one ends.
        self.end_ha();
        self.end_health().await;
        self.end_keys().await;
        self.take_back_exports().await;
        if let Some(kernel) = self.kernel.take() {
            kernel.remove().await;
        }
        self.state_file.remove();
        self.relay.clean_up();
        self.health.clean_up();
        self.keys.child.clean_up();
        info!("weir has ended");
    }

    /// A start that failed: what was found running stays as it was, what was started ends. `resumed`: there are tables of a
    /// process before this one, which it was to go on with. `again`: that process waits, and goes on as
    /// soon as this one has ended, or this one tries once more.
    pub(super) async fn abandon(&mut self, resumed: bool, again: bool) {
        let found = |link: &Option<Link>| link.as_ref().is_some_and(|l| l.adopted);
        let relay_found = found(&self.relay.link) || !self.retiring.is_empty();
        let kernel_found = self.kernel.as_ref().map_or(resumed, Kernel::was_found);
        if !relay_found && !kernel_found && !again {
            self.finish().await;
            return;
        }
        if let Some(kernel) = self.kernel.take() {
            kernel.keep();
        }
        if again {
            self.ha.hand_on();
        }
        if !found(&self.relay.link)
            && let Some(link) = self.relay.set_aside()
        {
            link.kill();
            if !self.retiring.is_empty() {
                self.relay.reinstate();
            }
        }
        if !found(&self.health.link) {
            self.end_health().await;
        }
        if !found(&self.keys.child.link) {
            self.end_keys().await;
        }
    }

    pub(super) async fn end_health(&mut self) {
        self.health.tell(&ToHealth::Stop, &[]).await;
        let gone = async {
            while let Some(heard) = self.health_heard.recv().await {
                if matches!(heard, Heard::Gone { .. }) {
                    return;
                }
            }
        };
        if self.health.link.is_some() && tokio::time::timeout(HEALTH_END, gone).await.is_err() {
            warn!("the health process did not end in time, is killed");
            if let Some(link) = &self.health.link {
                link.kill();
            }
        }
    }

    pub(super) fn drain_ms(&self) -> u64 {
        u64::try_from(self.loaded.source.tunables.values().relay_drain.as_millis()).unwrap_or(u64::MAX)
    }
}
