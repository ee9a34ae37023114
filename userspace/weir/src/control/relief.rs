//! `weir demote --drain`: a planned hand-over that the relay's connections are eased out before, since they can't go along.
//!
//! ```text
//!   asked ─▶ the relay eases connections out ─▶ the box is demoted, others take over ─▶ the relay serves as ever
//! ```
//!
//! What ends sooner, by itself or by another wish, is waited for no longer.

use std::time::{Duration, Instant};

use tokio::{sync::oneshot, time::Instant as TokioInstant};
use tracing::info;

use super::state::{Control, RelayPhase};
use crate::{admin::api::Answer, ipc::ToRelay};

/// How far it is.
pub(super) enum Relief {
    /// Connections are eased out.
    Easing {
        group: String,
        by: u32,
        reply: oneshot::Sender<Answer>,
        until: Instant,
        is_done: bool,
    },
    /// The box is demoted; others take over by then, if there are any.
    Leaving { group: String, until: Instant },
}

impl Control {
    /// Demotes this box once the relay's connections have ended, or `weir.relay.drain` is over. At once, if that would be in vain.
    pub(super) async fn demote_gently(&mut self, group: String, by: u32, reply: oneshot::Sender<Answer>) {
        let within = Duration::from_millis(self.drain_ms());
        let serves = matches!(self.relay_phase, RelayPhase::Applying | RelayPhase::Serving);
        let has_any = serves && !self.listeners.is_empty() && !within.is_zero();
        if by == 0 || !has_any || !self.ha.is_master_of(&group) {
            self.overtake_relief(&group).await;
            let _ = reply.send(self.demote(&group, by));
            return;
        }
        let why = if self.relief.is_some() {
            Some("a hand-over is under way; without --drain the box is demoted at once".to_owned())
        } else {
            self.waits_for_upgrade().and_then(|waits| waits.error)
        };
        if let Some(why) = why {
            let _ = reply.send(Answer::error(why));
            return;
        }
        info!(
            group,
            within_ms = within.as_millis(),
            "connections of the relay are to end before this box is demoted"
        );
        let within_ms = self.drain_ms();
        self.relay.tell(&ToRelay::Ease { within_ms }, &[]).await;
        self.relief = Some(Relief::Easing {
            group,
            by,
            reply,
            until: Instant::now() + within,
            is_done: false,
        });
    }

    /// The relay has no more connections to ease out.
    pub(super) fn relief_eased(&mut self) {
        if let Some(Relief::Easing { is_done, .. }) = &mut self.relief {
            *is_done = true;
        }
    }

    /// Another wish for the group takes the place of one that waits.
    pub(super) async fn overtake_relief(&mut self, group: &str) {
        if let Some(Relief::Easing { group: waits, .. }) = &self.relief
            && waits == group
            && let Some(Relief::Easing { reply, .. }) = self.relief.take()
        {
            let _ = reply.send(Answer::error("another `weir demote` has overtaken this one"));
            self.relay.tell(&ToRelay::ServeOn, &[]).await;
        }
    }

    /// When [`Self::relieve`] has something to do.
    pub(super) fn relief_due(&self) -> Option<TokioInstant> {
        let due = match self.relief.as_ref()? {
            Relief::Easing { is_done: true, .. } => Instant::now(),
            Relief::Easing { group, until, .. } | Relief::Leaving { group, until } => {
                match self.ha.is_master_of(group) {
                    true => *until,
                    // Others have taken over already.
                    false => Instant::now(),
                }
            }
        };
        Some(due.into())
    }

    /// Goes on with it.
    pub(super) async fn relieve(&mut self) {
        match self.relief.take() {
            Some(Relief::Easing { group, by, reply, .. }) => {
                let _ = reply.send(self.demote(&group, by));
                let until = Instant::now() + self.ha.takeover_of(&group);
                self.relief = Some(Relief::Leaving { group, until });
            }
            Some(Relief::Leaving { .. }) => self.relay.tell(&ToRelay::ServeOn, &[]).await,
            None => {}
        }
    }
}
