//! Control's talk with the relay: configuration, listeners, health words, counters.

use std::{os::fd::AsFd, time::Instant};

use tracing::{error, info, warn};
use weir_core::ids::ListenKey;
use weir_datapath::intake::client_sockets;

use super::{
    child::Heard,
    state::{Control, RelayPhase},
};
use crate::{
    admin::api::Answer,
    ipc::{self, FromRelay, ToRelay, WireWord, borrow},
};

/// Sockets that the relay gets of one family for one question.
const MOST_SOCKETS: usize = 1024;

/// Words in one message: well below the longest message.
const WORDS: usize = 500;

impl Control {
    /// Tells the relay the present configuration, its listeners and all health words, and to serve it.
    ///
    /// # Errors
    /// The text can't be handed over. A relay that does not listen is no error: its death is noticed elsewhere.
    pub(super) async fn configure_relay(&mut self) -> anyhow::Result<()> {
        let generation = self.generation;
        let source = ipc::text("weir-config", &serde_json::to_vec(&self.loaded.source)?)?;
        let plan = self.loaded.plan.clone();
        self.relay
            .tell(&ToRelay::Config { generation }, &[source.as_fd()])
            .await;
        for service in plan.services.iter().filter(|s| super::apply::is_relayed(s)) {
            for key in service.listen.iter().flat_map(weir_core::plan::Listen::keys) {
                let message = ToRelay::Listener {
                    key: key.into(),
                    service: service.name.as_str().to_owned(),
                };
                let sockets = match self.listeners.get(&key) {
                    Some(sockets) if !self.relay_has.contains(&key) => borrow(sockets),
                    _ => Vec::new(),
                };
                self.relay.tell(&message, &sockets).await;
            }
        }
        self.untold = plan
            .pools
            .iter()
            .flat_map(|p| &p.backends)
            .map(|b| b.key.clone())
            .collect();
        self.tell_words().await;
        self.relay.tell(&ToRelay::Apply { generation }, &[]).await;
        self.relay_phase = RelayPhase::Applying;
        Ok(())
    }

    /// Tells the relay the words that it has not been told.
    pub(super) async fn tell_words(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if self.relay_phase == RelayPhase::Draining {
            return;
        }
        let words: Vec<_> = untold
            .iter()
            .filter_map(|key| Some(WireWord::new(key, self.engine.word(key)?)))
            .collect();
        let mut words = words.into_iter();
        loop {
            let part: Vec<_> = words.by_ref().take(WORDS).collect();
            if part.is_empty() {
                return;
            }
            self.relay.tell(&ToRelay::Words(part), &[]).await;
        }
    }

    /// Asks for counters to see that the relay lives. One that has not answered since the last time is stuck.
    pub(super) async fn ping_relay(&mut self) {
        let Some(link) = &self.relay.link else { return };
        if self.relay_phase == RelayPhase::Draining {
            return;
        }
        if self.relay_ping.is_some() {
            error!(pid = link.pid, "the relay answers no more, is killed");
            link.kill();
            self.relay_ping = None;
            return;
        }
        self.next_stats += 1;
        self.relay_ping = Some(self.next_stats);
        self.relay
            .tell(&ToRelay::Stats { id: self.next_stats }, &[])
            .await;
    }

    /// Makes sockets for the relay that may have its clients' addresses.
    pub(super) async fn give_sockets(&mut self, v4: usize, v6: usize) {
        for (v6, mut lacks) in [(false, v4.min(MOST_SOCKETS)), (true, v6.min(MOST_SOCKETS))] {
            while lacks > 0 {
                let count = lacks.min(usize::from(super::start::MAX_WORKERS));
                let sockets = match client_sockets(v6, count) {
                    Ok(sockets) => sockets,
                    Err(error) => {
                        error!(%error, v6, "sockets for connections from clients' addresses can't be made");
                        return;
                    }
                };
                self.relay.tell(&ToRelay::Sockets { v6 }, &borrow(&sockets)).await;
                lacks -= count;
            }
        }
    }

    pub(super) async fn hear_relay(&mut self, heard: Heard<FromRelay>, stopping: bool) {
        let current = self.relay.link.as_ref().map(|l| l.id);
        match heard {
            Heard::Message { link, message, fds } if Some(link) == current => match message {
                FromRelay::Applied { generation } if generation == self.generation => {
                    self.relay_serves().await
                }
                FromRelay::Applied { generation } => {
                    warn!(generation, "the relay applied another configuration")
                }
                FromRelay::Refused { generation, error } if generation == self.generation => {
                    // Control has read it by the same code: what refuses is this process, not the configuration.
                    error!(
                        generation,
                        error, "the relay refused the configuration, another takes its place"
                    );
                    self.reloads_refused += 1;
                    self.reload_error = Some(error.clone());
                    if let Some(reply) = self.pending_reload.take().and_then(|p| p.reply) {
                        let _ = reply.send(Answer::error(error));
                    }
                    if let Some(link) = &self.relay.link {
                        link.kill();
                    }
                }
                FromRelay::Refused { generation, error } => {
                    warn!(
                        generation,
                        error, "the relay refused a configuration that is overtaken"
                    );
                }
                FromRelay::Stats { id } => match fds.into_iter().next().map(ipc::read_text) {
                    Some(Ok(text)) => match serde_json::from_str(&text) {
                        Ok(stats) => {
                            self.stats = stats;
                            self.relay_ping = None;
                            self.answer_waiting(id);
                        }
                        Err(error) => warn!(%error, "the relay's counters can't be read"),
                    },
                    Some(Err(error)) => warn!(%error, "the relay's counters can't be read"),
                    None => warn!("the relay's counters came without their text"),
                },
                FromRelay::Lacks { v4, v6 } => self.give_sockets(v4, v6).await,
                FromRelay::Eased { left } => self.eased(Some(left)),
                FromRelay::Drained { cut } => info!(cut, "the relay has drained"),
                FromRelay::Hello { .. } | FromRelay::Listener { .. } | FromRelay::ListenersEnd { .. } => {
                    warn!("the relay said what was not asked");
                }
            },
            Heard::Gone { link, why } if Some(link) == current => {
                self.eased(None);
                if stopping {
                    self.relay.set_aside();
                } else {
                    warn!(
                        why,
                        "the relay is gone, another starts; its listening sockets stay open meanwhile"
                    );
                    self.relay.lost(Instant::now());
                }
                self.relay_phase = RelayPhase::Missing;
                self.relay_ping = None;
                self.relay_has.clear();
            }
            Heard::Gone { link, .. } => self.retiring.retain(|l| l.id != link),
            Heard::Message { .. } => {}
        }
    }

    /// The relay has confirmed the present configuration.
    async fn relay_serves(&mut self) {
        if self.relay_phase == RelayPhase::Draining {
            return;
        }
        self.relay_phase = RelayPhase::Serving;
        self.settle_keys().await;
        for link in &self.retiring {
            let drain = ToRelay::Drain {
                within_ms: self.drain_ms(),
            };
            if let Err(error) = link.send(&drain, &[]).await {
                warn!(
                    pid = link.pid,
                    error = format!("{error:#}"),
                    "the relay before can't be told to drain, is killed"
                );
                link.kill();
            }
        }
        if !self.retiring.is_empty() {
            self.relay.forget_before();
        }
        // What the plan no longer names is closed only now that the relay has let go of it.
        let wanted = super::apply::relayed_keys(&self.loaded.plan);
        self.listeners.retain(|key: &ListenKey, _| wanted.contains(key));
        self.relay_has = wanted;
        if let Some(pending) = self.pending_reload.take_if(|p| p.generation <= self.generation)
            && let Some(reply) = pending.reply
        {
            let _ = reply.send(Answer::result(&pending.done));
        }
    }
}
