//! Many probes at once, by command.
//!
//! Owns the tasks, one per probe, and the bound on their number. Never talks to the control process: whoever does
//! ([`Command`]s in, results out) holds the other ends of the channels.
//!
//! ```text
//!  commands ──▶ run ──spawn──▶ task (Prober::probe) ──┐
//!                │  ▲──────────────── joined ─────────┘
//!                └──▶ results
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use weir_core::{
    engine::{ProbeId, ProbeRequest},
    health::{Failure, Outcome, ProbeResult},
};

use crate::{Prober, Target};

/// What a [`ProbeRunner`] is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run a probe.
    Start(Box<ProbeRequest>),
    /// Stop a probe: no result will come, unless it is on its way already. Unknown ids are ignored.
    Cancel(ProbeId),
    /// Stop all probes, as when the process that asked for them was superseded.
    CancelAll,
}

/// Runs probes concurrently. One task per probe, on the runtime it is called in; a current-thread runtime will do.
#[derive(Debug)]
pub struct ProbeRunner {
    prober: Prober,
    limit: usize,
}

impl ProbeRunner {
    /// At most `limit` probes run at once (each takes one descriptor), at least one; others wait in order of their
    /// coming. The engine takes a probe that waits longer than its timeout for failed: the limit is there to keep a
    /// mistake from taking every descriptor, and belongs well above the number of backends.
    pub fn new(prober: Prober, limit: usize) -> Self {
        Self {
            prober,
            limit: limit.max(1),
        }
    }

    /// Runs until there is nobody left to command it or to take results; then stops all probes. Neither channel can
    /// grow without bound: the engine has one probe under way per backend.
    pub async fn run(
        self,
        mut commands: UnboundedReceiver<Command>,
        results: UnboundedSender<(ProbeId, ProbeResult)>,
    ) {
        let mut probes = Probes::new(self.prober);
        loop {
            probes.fill(self.limit);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Start(request)) => probes.start(*request),
                    Some(Command::Cancel(id)) => probes.cancel(id),
                    Some(Command::CancelAll) => probes.cancel_all(),
                    None => return,
                },
                Some(joined) = probes.tasks.join_next_with_id() => {
                    if let Some(result) = probes.joined(joined)
                        && results.send(result).is_err()
                    {
                        return;
                    }
                }
                () = results.closed() => return,
            }
        }
    }
}

/// The probes waiting and running.
struct Probes {
    prober: Prober,
    waiting: VecDeque<ProbeRequest>,
    /// Exactly those whose results are wanted.
    running: BTreeMap<ProbeId, AbortHandle>,
    ids: HashMap<Id, ProbeId>,
    /// Dropping it stops them all.
    tasks: JoinSet<ProbeResult>,
}

impl Probes {
    fn new(prober: Prober) -> Self {
        let (waiting, running, ids) = (VecDeque::new(), BTreeMap::new(), HashMap::new());
        Self {
            prober,
            waiting,
            running,
            ids,
            tasks: JoinSet::new(),
        }
    }

    fn start(&mut self, request: ProbeRequest) {
        // An id names one probe. Should it come twice, the later one is meant.
        self.cancel(request.id);
        self.waiting.push_back(request);
    }

    /// Lets those run that there is room for. Tasks that were stopped but have not ended yet still take room: they may
    /// still hold a descriptor.
    fn fill(&mut self, limit: usize) {
        while self.tasks.len() < limit
            && let Some(ProbeRequest {
                id,
                key: _,
                target,
                kind,
                from,
                interface,
                proxy,
                timeout,
            }) = self.waiting.pop_front()
        {
            let prober = self.prober.clone();
            let task = self.tasks.spawn(async move {
                prober
                    .probe(
                        Target {
                            address: target,
                            from,
                            interface,
                            proxy,
                        },
                        &kind,
                        timeout,
                    )
                    .await
            });
            self.ids.insert(task.id(), id);
            self.running.insert(id, task);
        }
    }

    fn cancel(&mut self, id: ProbeId) {
        self.waiting.retain(|request| request.id != id);
        if let Some(task) = self.running.remove(&id) {
            self.ids.remove(&task.id());
            task.abort();
        }
    }

    fn cancel_all(&mut self) {
        self.waiting.clear();
        self.running.clear();
        self.ids.clear();
        self.tasks.abort_all();
    }

    /// The result of a task that ended; None if it was cancelled.
    fn joined(&mut self, joined: Result<(Id, ProbeResult), JoinError>) -> Option<(ProbeId, ProbeResult)> {
        let (task, result) = match joined {
            Ok((task, result)) => (task, result),
            Err(error) => {
                let outcome = Outcome::Failed(Failure::Internal(format!("the probe's task: {error}")));
                (
                    error.id(),
                    ProbeResult {
                        outcome,
                        took: std::time::Duration::ZERO,
                    },
                )
            }
        };
        let id = self.ids.remove(&task)?;
        self.running.remove(&id);
        Some((id, result))
    }
}

#[cfg(test)]
mod tests;
