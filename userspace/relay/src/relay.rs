//! The handle that the rest of weir holds: start, apply, health words, counters, drain.
//!
//! Owns the workers' threads, the table of listening sockets and the registry of counters and words. Does no traffic
//! itself: commands go to the workers, which answer for what happens on their threads.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::RuntimeMetrics,
    sync::{mpsc, oneshot},
};
use weir_core::{
    health::Word,
    ids::{BackendKey, ListenKey, PoolName, ServiceName},
    plan::{Mode, Plan, Pool, Service},
};

use crate::{
    access::{AccessLog, LogThread},
    scratch::Memory,
    stats::{Snapshot, WorkerCell},
    tls::TlsEnds,
    upstream::Stock,
    worker::{self, Command, Shared, WorkerListener},
    world::Registry,
};

/// Bytes that each worker may hold for slow readers, until something else is said.
const MEMORY: u64 = 256 << 20;

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
        "access log {path} could not be opened: {error}; check that the directory exists and that the relay's user (node.user, \
         where weir is started by root) may write there"
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
    /// A service ends TLS, and nothing came to end it with.
    #[error("service {0} ends TLS, but nothing came to end it with")]
    NoFront(ServiceName),
    /// A pool's backends are spoken to over TLS, and nothing came to do it with.
    #[error("pool {0} speaks TLS with its backends, but nothing came to do it with")]
    NoBack(PoolName),
    /// The same key came twice.
    #[error("listener {0} came twice")]
    Twice(ListenKey),
}

/// A running relay. Dropping it ends the workers and cuts what they carry; [`Relay::drain`] ends them in order.
pub struct Relay {
    inner: Mutex<Inner>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<thread::JoinHandle<()>>,
    runtimes: Vec<RuntimeMetrics>,
    /// By worker.
    cells: Arc<[Arc<WorkerCell>]>,
    /// Bytes that each worker may hold for slow readers.
    memory: Arc<AtomicU64>,
    /// Client connections that all workers together may have open.
    most: Arc<AtomicU64>,
    /// Requests of HTTP/2 that all workers together may have under way.
    most_streams: Arc<AtomicU64>,
    /// TLS handshakes that all workers together may have under way.
    most_handshakes: Arc<AtomicU64>,
    stock: Arc<Stock>,
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
        let registry = Registry::new(usize::from(workers));
        let bells = registry.bells();
        let mut relay = Self {
            inner: Mutex::new(Inner {
                plan: None,
                registry,
                held: HashMap::new(),
                draining: false,
            }),
            commands: Vec::new(),
            threads: Vec::new(),
            runtimes: Vec::new(),
            cells: (0..workers).map(|_| Arc::default()).collect(),
            memory: Arc::new(AtomicU64::new(MEMORY)),
            most: Arc::new(AtomicU64::new(u64::MAX)),
            most_streams: Arc::new(AtomicU64::new(u64::MAX)),
            most_handshakes: Arc::new(AtomicU64::new(u64::MAX)),
            stock: Arc::default(),
            log,
        };
        for (worker, cell) in (0..workers).zip(&*relay.cells) {
            let shared = Shared {
                bells: Arc::clone(&bells),
                cells: Arc::clone(&relay.cells),
                most: Arc::clone(&relay.most),
                most_streams: Arc::clone(&relay.most_streams),
                most_handshakes: Arc::clone(&relay.most_handshakes),
                stock: Arc::clone(&relay.stock),
                memory: Memory::new(Arc::clone(&relay.memory), Arc::clone(cell)),
            };
            let buffer = relay.log.as_ref().map(LogThread::buffer);
            let spawned = worker::spawn(usize::from(worker), shared, buffer)
                .map_err(|error| StartError::Worker { worker, error })?;
            relay.commands.push(spawned.commands);
            relay.threads.push(spawned.thread);
            relay.runtimes.push(spawned.metrics);
        }
        Ok(relay)
    }

    /// Takes a plan and the complete set of listeners that shall be served.
    ///
    /// A listener with a known key goes on accepting without a gap, for another service too. Listeners that are no
    /// longer among `listeners` stop. Open connections use the new plan from their next request on; where their
    /// listener or its service is gone, they end after the present request. A relay that drains takes nothing any more.
    /// The access log's file is opened anew, should it have been moved away.
    pub fn apply(&self, plan: Arc<Plan>, listeners: Vec<Listener>) -> Result<(), ApplyError> {
        self.apply_with(plan, listeners, &TlsEnds::default())
    }

    /// The same of a plan with services or pools that end TLS: what each of them ends it with. Handshakes made from here on
    /// go by it.
    pub fn apply_with(
        &self,
        plan: Arc<Plan>,
        listeners: Vec<Listener>,
        ends: &TlsEnds,
    ) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        check(&inner, &plan, &listeners)?;
        let missing = |s: &&Arc<Service>| s.tls.is_some() && !ends.fronts.contains_key(&s.name);
        if let Some(service) = plan.services.iter().find(missing) {
            return Err(ApplyError::NoFront(service.name.clone()));
        }
        let missing = |p: &&Arc<Pool>| p.tls.is_some() && !ends.backs.contains_key(&p.name);
        if let Some(pool) = plan.pools.iter().find(missing) {
            return Err(ApplyError::NoBack(pool.name.clone()));
        }
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
        if let Some(log) = self.log.as_ref().filter(|_| inner.plan.is_some()) {
            log.reopen();
        }
        let (v4, v6) = plan.client_sources();
        self.stock.want(v4, v6);
        let world = Arc::new(inner.registry.world(&plan, ends));
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

    /// Sets how many bytes each worker may hold for those that don't take what was read for them. Beyond half of it reads
    /// are small; a connection that would need more than there is left is closed. 256 MiB at the start.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Relaxed);
    }

    /// Sets how many client connections may be open at once, of all services and workers together. One too many is
    /// refused as by the limit of its service; those that are open stay. Any number at the start. Workers accept side by
    /// side, so there may be one more for each of them.
    pub fn set_connections(&self, most: u64) {
        self.most.store(most, Relaxed);
    }

    /// Sets how many requests of HTTP/2 may be under way at once, of all services and workers together. One too many is
    /// answered 503; its connection stays. Any number at the start.
    pub fn set_streams(&self, most: u64) {
        self.most_streams.store(most, Relaxed);
    }

    /// Sets how many TLS handshakes may be under way at once, of all services and workers together. Who comes beyond is
    /// reset. Any number at the start.
    pub fn set_handshakes(&self, most: u64) {
        self.most_handshakes.store(most, Relaxed);
    }

    /// The sockets for connections in clients' names. Whoever holds the relay fills it; which families it wants follows from
    /// the plan.
    pub fn stock(&self) -> Arc<Stock> {
        Arc::clone(&self.stock)
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
            pools: inner.registry.sum_pools(plan),
            listeners,
            log_dropped: self.log.as_ref().map_or(0, LogThread::dropped),
            accept_paused: self.cells.iter().map(|c| c.accept_paused.get()).sum(),
            held: self.cells.iter().map(|c| c.held.get()).sum(),
            open: self.cells.iter().map(|c| c.open.get()).sum(),
            most: self.most.load(Relaxed),
            streams: self.cells.iter().map(|c| c.streams.get()).sum(),
            most_streams: self.most_streams.load(Relaxed),
            handshakes: self.cells.iter().map(|c| c.handshakes.get()).sum(),
            most_handshakes: self.most_handshakes.load(Relaxed),
            tasks: self.runtimes.iter().map(|r| r.num_alive_tasks() as u64).sum(),
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

    /// Serves on, but has connections end where that costs their clients nothing: idle ones now, others behind the response that
    /// is under way (`Connection: close`, GOAWAY). For when the addresses are about to move to another box, which connections
    /// can't. Resolves when all that are open now have ended, or after `within`, with the number of those that have not.
    pub fn ease(&self, within: Duration) -> impl Future<Output = u64> + use<> {
        let until = Instant::now() + within;
        let mut waits = Vec::new();
        for commands in &self.commands {
            let (done, wait) = oneshot::channel();
            if commands.send(Command::Ease { until, done }).is_ok() {
                waits.push(wait);
            }
        }
        async move {
            let mut left = 0;
            for wait in waits {
                left += wait.await.unwrap_or(0);
            }
            left
        }
    }

    /// Takes [`Self::ease`] back: connections are kept again.
    pub fn serve_on(&self) {
        for commands in &self.commands {
            // A worker that is gone serves nobody.
            let _ = commands.send(Command::ServeOn);
        }
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
