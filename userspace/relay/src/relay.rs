//! The handle that the rest of weir holds: start, apply, health words, counters, drain.
//!
//! Owns the workers' threads, the table of listening sockets and the registry of counters and words. Does no traffic
//! itself: commands go to the workers, which answer for what happens on their threads.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use weir_core::{
    health::Word,
    ids::{BackendKey, ListenKey, ServiceName},
    plan::{Mode, Plan},
};

use crate::{
    access::{AccessLog, LogThread},
    stats::{Count, Snapshot},
    worker::{self, Command, WorkerListener},
    world::Registry,
};

/// How a relay runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads; 0 counts as 1.
    pub workers: u16,
    /// Where one record per request goes.
    pub access_log: AccessLog,
}

/// A listening socket group, handed over by whoever may bind it.
#[derive(Debug)]
pub struct Listener {
    /// Where clients reach it. Identity: a listener with the key of one already held is the same listener.
    pub key: ListenKey,
    /// The service it serves; must be one of mode `http` or `tcp`.
    pub service: ServiceName,
    /// Bound, listening, non-blocking TCP sockets: one per worker, in one SO_REUSEPORT group. Fewer are shared between
    /// workers, more are spread over them. Empty: the ones already held for this key.
    pub sockets: Vec<OwnedFd>,
}

/// Why a relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be made.
    #[error("relay worker {worker} could not start: {error}; check limits on threads and descriptors")]
    Worker {
        /// Which one, from 0.
        worker: u16,
        /// The system's words.
        error: io::Error,
    },
    /// The access log's file could not be opened.
    #[error(
        "access log {path} could not be opened: {error}; check that the directory exists and may be written"
    )]
    Log {
        /// Its path.
        path: String,
        /// The system's words.
        error: io::Error,
    },
}

/// Why a plan and its listeners could not be applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A listener names a service that the plan does not have, or one that the relay does not serve.
    #[error("listener {key} is for service {service}, which is not an http or tcp service of the plan")]
    NoService {
        /// The listener.
        key: ListenKey,
        /// The service it names.
        service: ServiceName,
    },
    /// A listener came without sockets and none are held for it.
    #[error("listener {0} came without sockets and none are held for it; hand its sockets over")]
    NoSockets(ListenKey),
    /// The same key came twice.
    #[error("listener {0} came twice")]
    Twice(ListenKey),
}

/// A running relay. Dropping it ends the workers and cuts what they carry; [`Relay::drain`] ends them in order.
pub struct Relay {
    inner: Mutex<Inner>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<thread::JoinHandle<()>>,
    accept_paused: Vec<Arc<Count>>,
    log: Option<LogThread>,
}

struct Inner {
    plan: Option<Arc<Plan>>,
    registry: Registry,
    held: HashMap<ListenKey, Held>,
    /// No listeners are taken any more.
    draining: bool,
}

struct Held {
    service: ServiceName,
    sockets: Vec<Arc<OwnedFd>>,
}

impl Relay {
    /// Starts the workers. They serve nothing until [`Self::apply`].
    pub fn start(options: Options) -> Result<Self, StartError> {
        let workers = options.workers.max(1);
        let log =
            LogThread::start(&options.access_log).map_err(|(path, error)| StartError::Log { path, error })?;
        let mut relay = Self {
            inner: Mutex::new(Inner {
                plan: None,
                registry: Registry::new(usize::from(workers)),
                held: HashMap::new(),
                draining: false,
            }),
            commands: Vec::new(),
            threads: Vec::new(),
            accept_paused: Vec::new(),
            log,
        };
        for worker in 0..workers {
            let paused = Arc::<Count>::default();
            let buffer = relay.log.as_ref().map(LogThread::buffer);
            let (commands, thread) = worker::spawn(usize::from(worker), Arc::clone(&paused), buffer)
                .map_err(|error| StartError::Worker { worker, error })?;
            relay.commands.push(commands);
            relay.threads.push(thread);
            relay.accept_paused.push(paused);
        }
        Ok(relay)
    }

    /// Takes a plan and the complete set of listeners that shall be served.
    ///
    /// A listener with a known key goes on accepting without a gap, for another service too. Listeners that are no
    /// longer among `listeners` stop. Open connections use the new plan from their next request on; where their
    /// listener or its service is gone, they end after the present request. A relay that drains takes nothing any more.
    pub fn apply(&self, plan: Arc<Plan>, listeners: Vec<Listener>) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        check(&inner, &plan, &listeners)?;
        let mut held = HashMap::new();
        for Listener {
            key,
            service,
            sockets,
        } in listeners
        {
            let kept = inner.held.remove(&key).map(|h| h.sockets).unwrap_or_default();
            let sockets = if sockets.is_empty() || same(&kept, &sockets) {
                kept
            } else {
                sockets
                    .into_iter()
                    .map(|socket| Arc::new(prepared(socket, &key)))
                    .collect()
            };
            held.insert(key, Held { service, sockets });
        }
        inner.held = held;
        let world = Arc::new(inner.registry.world(&plan));
        inner.plan = Some(plan);
        if inner.draining {
            return Ok(());
        }
        let workers = self.commands.len();
        for (worker, commands) in self.commands.iter().enumerate() {
            let listeners = inner.held.iter().map(|(key, held)| WorkerListener {
                key: *key,
                service: held.service.clone(),
                sockets: share(&held.sockets, worker, workers),
            });
            let command = Command::World {
                world: Arc::clone(&world),
                listeners: listeners.collect(),
            };
            // A worker that has ended is one whose drain is over: nothing to tell it.
            let _ = commands.send(command);
        }
        Ok(())
    }

    /// Takes health words. They hold from the next request on and survive [`Self::apply`] by key.
    pub fn set_words(&self, words: &[(BackendKey, Word)]) {
        self.lock().registry.set_words(words);
        for commands in &self.commands {
            let _ = commands.send(Command::Words);
        }
    }

    /// All counters, summed over the workers.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let Some(plan) = &inner.plan else {
            return Snapshot::default();
        };
        let mut listeners: Vec<_> = inner.held.keys().copied().collect();
        listeners.sort_unstable();
        Snapshot {
            services: inner.registry.sum_services(plan),
            backends: inner.registry.sum_backends(plan),
            listeners,
            log_dropped: self.log.as_ref().map_or(0, LogThread::dropped),
            accept_paused: self.accept_paused.iter().map(|c| c.get()).sum(),
        }
    }

    /// Duplicates of all listening sockets held, for a control process that takes over.
    ///
    /// # Errors
    /// A descriptor could not be duplicated: none left.
    pub fn listeners(&self) -> io::Result<Vec<(ListenKey, ServiceName, Vec<OwnedFd>)>> {
        let inner = self.lock();
        let mut all = Vec::new();
        for (key, held) in &inner.held {
            let sockets = held
                .sockets
                .iter()
                .map(|s| s.try_clone())
                .collect::<io::Result<_>>()?;
            all.push((*key, held.service.clone(), sockets));
        }
        all.sort_by_key(|(key, ..)| *key);
        Ok(all)
    }

    /// Ends in order: stops accepting, closes idle connections, lets requests finish (with `Connection: close`), and
    /// cuts what is left, tunnels included, after `within`. Resolves when nothing is open any more, with the number of
    /// connections that were cut.
    pub async fn drain(&self, within: Duration) -> u64 {
        {
            let mut inner = self.lock();
            inner.draining = true;
            inner.held.clear();
        }
        let until = Instant::now() + within;
        let mut waits = Vec::new();
        for commands in &self.commands {
            let (done, wait) = oneshot::channel();
            if commands.send(Command::Drain { until, done }).is_ok() {
                waits.push(wait);
            }
        }
        let mut cut = 0;
        for wait in waits {
            cut += wait.await.unwrap_or(0);
        }
        cut
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock leaves it half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.commands.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn check(inner: &Inner, plan: &Plan, listeners: &[Listener]) -> Result<(), ApplyError> {
    let mut seen = std::collections::HashSet::new();
    for Listener {
        key,
        service,
        sockets,
    } in listeners
    {
        let relayed = plan
            .service(service)
            .is_some_and(|s| !matches!(s.mode, Mode::L4(_)));
        if !relayed {
            return Err(ApplyError::NoService {
                key: *key,
                service: service.clone(),
            });
        }
        if sockets.is_empty() && !inner.held.contains_key(key) {
            return Err(ApplyError::NoSockets(*key));
        }
        if !seen.insert(*key) {
            return Err(ApplyError::Twice(*key));
        }
    }
    Ok(())
}

/// Makes sure of what the workers rely on: accepting never blocks, and what is accepted sends at once (inherited).
fn prepared(socket: OwnedFd, key: &ListenKey) -> OwnedFd {
    let set = rustix::io::ioctl_fionbio(&socket, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_nodelay(&socket, true));
    if let Err(error) = set {
        tracing::warn!(listener = %key, error = %io::Error::from(error), "a listening socket's options can't be set");
    }
    socket
}

/// Whether these are duplicates of the sockets held.
fn same(held: &[Arc<OwnedFd>], sockets: &[OwnedFd]) -> bool {
    use rustix::net::sockopt::socket_cookie;
    held.len() == sockets.len()
        && held
            .iter()
            .zip(sockets)
            .all(|(a, b)| matches!((socket_cookie(a), socket_cookie(b)), (Ok(a), Ok(b)) if a == b))
}

/// The sockets that one worker accepts from. Every socket has a worker, every worker has a socket.
fn share(sockets: &[Arc<OwnedFd>], worker: usize, workers: usize) -> Vec<Arc<OwnedFd>> {
    if sockets.len() < workers {
        return sockets
            .iter()
            .cycle()
            .skip(worker)
            .take(1)
            .map(Arc::clone)
            .collect();
    }
    sockets
        .iter()
        .skip(worker)
        .step_by(workers)
        .map(Arc::clone)
        .collect()
}
