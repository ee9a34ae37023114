//! The relay that a control process finds: taken over, or followed by another one that has its listeners.
//!
//! | found beside (`relay-before.sock`) | found (`relay.sock`) | what becomes of them |
//! |---|---|---|
//! | nobody | nobody | one is started |
//! | nobody | one as it would be started now | it is taken over |
//! | nobody | another one | it goes on, beside, until the one that is started serves |
//! | one as it would be started now | another one, or nobody | the one beside is taken over: a successor of this control has set it aside in vain |
//! | one | one as it would be started now | the one beside drains once that serves |
//! | another one | another one, or nobody | both drain once the one that is started serves |
//!
//! Whatever listeners they have stay open.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tracing::{debug, info, warn};
use weir_core::ids::ListenKey;

use super::{
    child::{Found, Heard},
    state::Control,
};
use crate::ipc::{FromRelay, ToRelay};

/// A relay found running has this long to tell its listeners.
const TAKEOVER: Duration = Duration::from_secs(5);

impl Control {
    pub(super) async fn adopt_or_start_relay(&mut self) -> anyhow::Result<()> {
        let before = self.relay.find_before(Instant::now()).await?;
        let mut found = self.relay.find(Instant::now()).await?;
        match before {
            Some((link, Found::AsWanted)) if found != Some(Found::AsWanted) => {
                self.retiring.extend(self.relay.set_aside());
                self.relay.exchange();
                self.relay.link = Some(link);
                found = Some(Found::AsWanted);
            }
            Some((link, _)) => self.retiring.push(link),
            None => {}
        }
        // What the one has that is to serve counts more.
        let others: Vec<_> = self.retiring.iter().map(|link| link.id).collect();
        let own = self.relay.link.as_ref().map(|link| link.id);
        self.take_listeners(&others).await?;
        self.take_listeners(own.as_slice()).await?;
        if found == Some(Found::Different) {
            // The one found takes the place beside, where nobody would find these any more.
            let within_ms = self.drain_ms();
            for link in &self.retiring {
                if let Err(error) = link.send(&ToRelay::Drain { within_ms }, &[]).await {
                    debug!(pid = link.pid, error = format!("{error:#}"), "it has ended");
                }
            }
        }
        match found {
            Some(Found::AsWanted) => return Ok(()),
            Some(Found::Different) => {
                info!(
                    "the relay found running was started otherwise; a new one takes its listeners over, then it drains"
                );
                self.retiring.extend(self.relay.retire());
                self.relay_has.clear();
            }
            None => {}
        }
        self.relay.start(Instant::now()).await
    }

    /// Asks relays found running for the listeners they have, and waits for them. Those that are not bound as they would
    /// be now are left to them: they are bound anew.
    async fn take_listeners(&mut self, of: &[u64]) -> anyhow::Result<()> {
        for id in of {
            let current = self.relay.link.as_ref().filter(|link| link.id == *id);
            let is_current = current.is_some();
            let Some(link) = current.or_else(|| self.retiring.iter().find(|link| link.id == *id)) else {
                continue;
            };
            let asked = link.send(&ToRelay::Listeners, &[]).await;
            let told = match asked {
                Ok(()) => self.hear_listeners(*id, is_current).await,
                Err(error) => Err(error),
            };
            match told {
                Err(error) if !is_current => {
                    warn!(
                        error = format!("{error:#}"),
                        "a relay that has to go is gone already"
                    );
                    self.retiring.retain(|link| link.id != *id);
                }
                told => told?,
            }
        }
        Ok(())
    }

    async fn hear_listeners(&mut self, of: u64, is_current: bool) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + TAKEOVER;
        let plan = self.loaded.plan.clone();
        loop {
            let heard = tokio::time::timeout_at(end, self.relay_heard.recv())
                .await
                .context("the relay found running does not tell its listeners")?
                .context("the relay's messages ended")?;
            match heard {
                Heard::Message { link, message, fds } if link == of => match message {
                    FromRelay::Listener { key, .. } => {
                        let key = ListenKey::from(key);
                        if !fds.is_empty() && fds.iter().all(|fd| super::apply::is_bound_for(&plan, key, fd))
                        {
                            if is_current {
                                self.relay_has.insert(key);
                            }
                            self.listeners.insert(key, fds);
                        }
                    }
                    FromRelay::ListenersEnd { error: None } => return Ok(()),
                    FromRelay::ListenersEnd { error: Some(error) } => {
                        bail!("it can't hand over its listeners: {error}")
                    }
                    FromRelay::Lacks { v4, v6 } if is_current => self.give_sockets(v4, v6).await,
                    FromRelay::Hello { .. }
                    | FromRelay::Lacks { .. }
                    | FromRelay::Applied { .. }
                    | FromRelay::Refused { .. }
                    | FromRelay::Stats { .. }
                    | FromRelay::Eased { .. }
                    | FromRelay::Drained { .. } => {}
                },
                Heard::Gone { link, why } if link == of => {
                    bail!("it went away while it was taken over: {why}")
                }
                // One that is asked later says so then: it can't be sent to.
                Heard::Gone { .. } | Heard::Message { .. } => {}
            }
        }
    }
}
