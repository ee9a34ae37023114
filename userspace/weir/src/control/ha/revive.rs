//! The thread of virtual routers, when it has died of a panic.
//!
//! Until it is back nobody renews leases: they run out, this box answers for no virtual address, and another one takes over. It is
//! started again as a successor of control would: what `vrrp.state` says, it goes on with, as master if its last adverts are
//! not too long ago. At once, since a box may have no other; but what dies again and again is waited for in between.

use std::time::{Duration, Instant};

use tracing::{error, info};
use weir_core::vrrp::machine::State;
use weir_datapath::vrrp::Addresses;

use super::{Memory, outside};
use crate::control::state::Control;

/// Who died less than this ago is waited for before it is started again,
const OFTEN: Duration = Duration::from_secs(60);
/// for so long.
const WAIT: Duration = Duration::from_secs(5);

/// How often it has died, and whether it is dead.
#[derive(Default)]
pub(super) struct Deaths {
    count: u64,
    last: Option<Instant>,
    /// When it is to be started again, while it is dead.
    due: Option<Instant>,
}

impl Deaths {
    pub(super) const fn is_dead(&self) -> bool {
        self.due.is_some()
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// One more. How long to wait before it is started again.
    fn add(&mut self, now: Instant) -> Duration {
        self.count += 1;
        let before = self.last.replace(now);
        let is_often = before.is_some_and(|before| now.saturating_duration_since(before) < OFTEN);
        let wait = if is_often { WAIT } else { Duration::ZERO };
        self.due = Some(now + wait);
        wait
    }

    /// Waits until it is to be started again.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl Control {
    /// The thread has died: nothing of what it did is done any more.
    pub(super) async fn bury_ha(&mut self) {
        let wait = self.ha.deaths.add(Instant::now());
        error!(
            deaths = self.ha.deaths.count(),
            again_in_ms = wait.as_millis(),
            "the thread of virtual routers has died of a panic, which stands above; this box answers for none of their addresses \
             once their leases are over. It is started again; please report the panic"
        );
        self.ha.seen.clear();
        for known in self.ha.groups.values_mut() {
            (known.state, known.since) = (State::Init, Instant::now());
            "the thread of virtual routers has died".clone_into(&mut known.cause);
            known.rival = None;
        }
        self.export_or_tell().await;
    }

    /// Starts it again.
    pub(super) fn revive_ha(&mut self) {
        if let Err(error) = self.try_to_revive_ha() {
            self.ha.deaths.due = Some(Instant::now() + WAIT);
            error!(
                error = format!("{error:#}"),
                again_in_ms = WAIT.as_millis(),
                "the thread of virtual routers can't be started again"
            );
        }
    }

    fn try_to_revive_ha(&mut self) -> anyhow::Result<()> {
        let plan = self.loaded.plan.clone();
        let legacy = Memory::legacy(&self.ha.socket);
        let prepared = self.ha.prepare_with(&plan, &legacy)?;
        let mut groups: Vec<_> = prepared.0.into_iter().map(|(_, group)| group).collect();
        self.set_demotions(&mut groups);
        self.start_ha(groups, &legacy)?;
        self.ha.deaths.due = None;
        info!("the thread of virtual routers is back");
        Ok(())
    }

    /// At the end: a thread that is dead gives no addresses back.
    pub(super) fn give_for_the_dead(&mut self) {
        if self.ha.deaths.due.take().is_none() {
            return;
        }
        let given = outside(|| -> anyhow::Result<()> { Ok(Addresses::new()?.give_others(&[])?) });
        if let Err(error) = given {
            error!(error = format!("{error:#}"), "addresses of virtual routers stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dies_often_is_waited_for() {
        let (mut deaths, start) = (Deaths::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!deaths.is_dead());
        assert_eq!(deaths.add(start), Duration::ZERO);
        assert!(deaths.is_dead());
        deaths.due = None;
        assert_eq!(deaths.add(at(59)), WAIT, "counted from the last one");
        assert_eq!(deaths.add(at(118)), WAIT);
        assert_eq!(deaths.add(at(178)), Duration::ZERO);
        assert_eq!(deaths.count(), 4);
    }
}
