//! A worker: one thread, one runtime, and everything that its connections share.
//!
//! ```text
//!   Relay ──commands──▶ main task ──▶ entrances (per listener) ──▶ accept tasks ──▶ one task per connection
//!                       tick task ──▶ deadlines, idle upstream connections, access log
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
    time::{Instant, SystemTime},
};

use tokio::{
    runtime::{Builder, LocalOptions, RuntimeMetrics},
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
};
use weir_core::ids::{ListenKey, Scope, ServiceName};

use crate::{
    accept,
    access::{Load, LogBuffer, Record, RecordMode},
    clock::Clock,
    http1::id::{Ids, RequestId},
    phases::Phases,
    prepared::Prepared,
    reason::Reason,
    scratch::{Memory, Scratch},
    session::Held,
    stats::{ServiceCell, WorkerCell},
    timers::{TICK, Timers},
    tls::{Buffers, Gate, Tools},
    upstream::{Bells, LocalPool, Stock, Upstreams},
    world::{Route, World},
};

mod count;
mod end;
mod entrance;

pub(crate) use count::{AtPool, Open};
pub(crate) use end::{Over, SILENCE};
pub(crate) use entrance::Entrance;

/// What a worker is told.
pub(crate) enum Command {
    /// A plan, and the complete set of this worker's listeners.
    World {
        world: Arc<World>,
        listeners: Vec<WorkerListener>,
    },
    /// Health words have changed.
    Words,
    /// Serve on, but end connections where that costs nothing; answers once those that are open now have ended, or at that
    /// moment, with how many have not.
    Ease {
        until: Instant,
        done: oneshot::Sender<u64>,
    },
    /// That is off.
    ServeOn,
    /// End in order; answers with the number of connections that were cut.
    Drain {
        until: Instant,
        done: oneshot::Sender<u64>,
    },
}

/// A listener as one worker gets it.
pub(crate) struct WorkerListener {
    pub(crate) key: ListenKey,
    pub(crate) service: ServiceName,
    pub(crate) sockets: Vec<Arc<OwnedFd>>,
}

/// What the connections of a worker share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) scratch: RefCell<Scratch>,
    /// Memory for exchanges.
    pub(crate) exchanges: RefCell<Vec<Held>>,
    /// For TLS.
    pub(crate) records: Rc<RefCell<Buffers>>,
    pub(crate) gate: Rc<Gate>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) clock: Clock,
    pub(crate) log: RefCell<Option<LogBuffer>>,
    /// Makes ids of requests.
    pub(crate) ids: RefCell<Ids>,
    upstreams: RefCell<Upstreams>,
    /// No second request on any connection.
    pub(crate) easing: Cell<bool>,
    /// The same, and no new connections.
    pub(crate) draining: Cell<bool>,
    /// Everything ends now.
    pub(crate) cutting: Cell<bool>,
    /// Connections open, and those that were cut.
    open: Cell<u64>,
    cut: Cell<u64>,
    /// Times that `easing` began; and those of the open connections that were there before the last time.
    eased: Cell<u64>,
    old: Cell<u64>,
    /// Rings when the last connection closes, or the last of the old ones.
    emptied: Notify,
    /// Wakes the tick task after it slept because there was nothing to do.
    busy: Notify,
    pub(crate) cell: Arc<WorkerCell>,
    /// Of all workers.
    cells: Arc<[Arc<WorkerCell>]>,
    /// Client connections that they may have open together.
    most: Arc<AtomicU64>,
    /// Requests of HTTP/2 that they may have under way together.
    most_streams: Arc<AtomicU64>,
    /// TLS handshakes that they may have under way together.
    pub(crate) most_handshakes: Arc<AtomicU64>,
    /// Sockets for connections in clients' names.
    pub(crate) stock: Arc<Stock>,
}

/// A service as one worker has it.
pub(crate) struct LocalRoute {
    pub(crate) route: Arc<Route>,
    pub(crate) pool: Rc<LocalPool>,
    pub(crate) cell: Arc<ServiceCell>,
    pub(crate) prepared: Rc<Prepared>,
    /// By rule of the service, the same with the pool that the rule chooses.
    by_rule: Vec<Option<Rc<Self>>>,
}

/// What a worker has in common with the others, and its part of it.
pub(crate) struct Shared {
    pub(crate) bells: Arc<Bells>,
    pub(crate) cells: Arc<[Arc<WorkerCell>]>,
    /// Client connections that all workers together may have open.
    pub(crate) most: Arc<AtomicU64>,
    /// Requests of HTTP/2 that all workers together may have under way.
    pub(crate) most_streams: Arc<AtomicU64>,
    /// TLS handshakes that all workers together may have under way.
    pub(crate) most_handshakes: Arc<AtomicU64>,
    /// Sockets for connections in clients' names.
    pub(crate) stock: Arc<Stock>,
    /// Its own.
    pub(crate) memory: Memory,
}

/// A worker's thread, and the ways to it.
pub(crate) struct Spawned {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) thread: thread::JoinHandle<()>,
    pub(crate) metrics: RuntimeMetrics,
}

/// Starts a worker's thread; returns when its runtime runs.
pub(crate) fn spawn(index: usize, shared: Shared, log: Option<LogBuffer>) -> io::Result<Spawned> {
    let (commands, incoming) = mpsc::unbounded_channel();
    let (started, start) = std_mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(format!("weir-relay-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(runtime.handle().metrics()));
                    runtime.block_on(run(index, shared, log, incoming));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
    match start.recv() {
        Ok(Ok(metrics)) => Ok(Spawned {
            commands,
            thread,
            metrics,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("its thread ended at once")),
    }
}

async fn run(
    index: usize,
    shared: Shared,
    log: Option<LogBuffer>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let Shared {
        bells,
        cells,
        most,
        most_streams,
        most_handshakes,
        stock,
        memory,
    } = shared;
    let tools = Tools {
        records: Rc::new(RefCell::new(Buffers::new(memory.clone()))),
        gate: Rc::default(),
    };
    let worker = Rc::new(Worker {
        index,
        cell: Arc::clone(memory.cell()),
        records: Rc::clone(&tools.records),
        gate: Rc::clone(&tools.gate),
        scratch: RefCell::new(Scratch::new(memory)),
        exchanges: RefCell::default(),
        timers: Rc::new(Timers::new(Instant::now())),
        clock: Clock::new(),
        log: RefCell::new(log),
        ids: RefCell::new(Ids::new(seed())),
        upstreams: RefCell::new(Upstreams::new(index, tools)),
        easing: Cell::new(false),
        draining: Cell::new(false),
        cutting: Cell::new(false),
        open: Cell::new(0),
        cut: Cell::new(0),
        eased: Cell::new(0),
        old: Cell::new(0),
        emptied: Notify::new(),
        busy: Notify::new(),
        cells,
        most,
        most_streams,
        most_handshakes,
        stock,
    });
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    tokio::task::spawn_local(attend(Rc::clone(&worker), bells));
    let mut held: HashMap<ListenKey, HeldListener> = HashMap::new();
    // Ends when the `Relay` is dropped; the runtime then drops every task, which closes every connection.
    while let Some(command) = commands.recv().await {
        match command {
            Command::World { world, listeners } => {
                apply(&worker, &mut held, &world, listeners);
                worker.warm();
            }
            Command::Words => {
                worker.upstreams.borrow().words_changed();
                worker.warm();
            }
            Command::Ease { until, done } => {
                if !worker.easing.replace(true) {
                    worker.eased.set(worker.eased.get() + 1);
                    worker.old.set(worker.open.get());
                }
                tokio::task::spawn_local(end::ease(Rc::clone(&worker), until, done));
            }
            Command::ServeOn => worker.easing.set(false),
            Command::Drain { until, done } => {
                held.clear();
                worker.draining.set(true);
                tokio::task::spawn_local(end::drain(Rc::clone(&worker), until, done));
            }
        }
    }
}

/// A random number of the system's.
fn seed() -> u64 {
    // The keys of a hasher come from the system's random numbers.
    RandomState::new().hash_one(0_u8)
}

/// A listener's accept tasks; they end when it is dropped.
struct HeldListener {
    entrance: Rc<Entrance>,
    sockets: Vec<Arc<OwnedFd>>,
    tasks: Vec<AbortHandle>,
}

impl HeldListener {
    fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for HeldListener {
    fn drop(&mut self) {
        self.stop();
        self.entrance.closed.set(true);
    }
}

fn apply(
    worker: &Rc<Worker>,
    held: &mut HashMap<ListenKey, HeldListener>,
    world: &World,
    listeners: Vec<WorkerListener>,
) {
    worker.upstreams.borrow_mut().apply(world);
    let mut routes: HashMap<ServiceName, Rc<LocalRoute>> = HashMap::new();
    for (name, route) in &world.routes {
        if let Some(local) = worker.local(route) {
            routes.insert(name.clone(), Rc::new(local));
        }
    }
    let mut next = HashMap::new();
    for WorkerListener {
        key,
        service,
        sockets,
    } in listeners
    {
        let route = routes.get(&service).map(Rc::clone);
        let mut listener = match held.remove(&key) {
            Some(known) if *known.entrance.service.borrow() == service => {
                *known.entrance.route.borrow_mut() = route;
                known
            }
            known => {
                // Connections of the service that the listener served before end after their present request.
                let entrance = Rc::new(Entrance {
                    service: RefCell::new(service),
                    route: RefCell::new(route),
                    closed: Cell::new(false),
                    transparent: key.scope != Scope::Address,
                });
                // The sockets are not closed in between: `known` and `sockets` hold them.
                drop(known);
                HeldListener {
                    entrance,
                    sockets: Vec::new(),
                    tasks: Vec::new(),
                }
            }
        };
        let same = listener.sockets.len() == sockets.len()
            && listener
                .sockets
                .iter()
                .zip(&sockets)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            // The aborted tasks run (and let go of their sockets) before those spawned here: the run queue is in order.
            listener.stop();
            for socket in &sockets {
                let entrance = Rc::clone(&listener.entrance);
                let task = tokio::task::spawn_local(accept::run(
                    Rc::clone(worker),
                    key,
                    entrance,
                    Arc::clone(socket),
                ));
                listener.tasks.push(task.abort_handle());
            }
            listener.sockets = sockets;
        }
        next.insert(key, listener);
    }
    *held = next;
    worker.timers.wake_all();
}

impl Worker {
    fn local(&self, route: &Arc<Route>) -> Option<LocalRoute> {
        let pool = self.upstreams.borrow().pool(&route.pool.name)?;
        let cell = Arc::clone(route.cells.get(self.index)?);
        let prepared = match &route.service.mode {
            weir_core::plan::Mode::Http(http) => Prepared::new(http),
            weir_core::plan::Mode::Tcp(_) | weir_core::plan::Mode::L4(_) => Prepared::default(),
        };
        let prepared = Rc::new(prepared);
        let by_rule = |other: &Option<Arc<Route>>| {
            let other = other.as_ref()?;
            Some(Rc::new(LocalRoute {
                route: Arc::clone(other),
                pool: self.upstreams.borrow().pool(&other.pool.name)?,
                cell: Arc::clone(&cell),
                prepared: Rc::clone(&prepared),
                by_rule: Vec::new(),
            }))
        };
        Some(LocalRoute {
            route: Arc::clone(route),
            pool,
            by_rule: route.by_rule.iter().map(by_rule).collect(),
            cell: Arc::clone(&cell),
            prepared: Rc::clone(&prepared),
        })
    }

    /// An id for what could not be read, if requests of the service have ids.
    pub(crate) fn fresh_id(&self, route: &LocalRoute) -> RequestId {
        if route.prepared.makes_ids {
            self.ids.borrow_mut().next(SystemTime::now())
        } else {
            RequestId::NONE
        }
    }

    /// Whether connections may not serve another request.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.easing.get() || self.draining.get()
    }

    /// Makes sure that the tick task runs: something waits for it.
    #[inline]
    pub(crate) fn stir(&self) {
        self.busy.notify_one();
    }

    /// Makes connections in advance, and sees to it that the tick task goes on doing so.
    fn warm(self: &Rc<Self>) {
        if !self.draining.get() {
            self.upstreams.borrow().warm(self, Instant::now());
            self.stir();
        }
    }

    /// Adds an access record, if there is a log: what is known of every end, and what `fill` adds to it.
    pub(crate) fn record<'a>(&self, end: &End<'a>, fill: impl FnOnce(&mut Record<'a>)) {
        let mut log = self.log.borrow_mut();
        let Some(log) = log.as_mut() else { return };
        let End {
            mode,
            route,
            client,
            backend,
            phases,
            reason,
            now,
        } = *end;
        let mut record = Record {
            time: self.clock.calendar(phases.began()),
            mode,
            service: route.route.service.name.as_str(),
            pool: route.pool_name(),
            backend: backend.and_then(|index| route.pool.backend(index)),
            client,
            id: None,
            sni: None,
            destination: None,
            tls: None,
            line: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            timers: phases.timers(now),
            end: reason,
            phase: phases.phase(),
            detail: None,
            retries: 0,
            moved: false,
            keep_alive: false,
            reused: false,
            load: Load::default(),
        };
        if log.tells_load() {
            record.load = self.load(route, backend, phases.ahead());
        }
        fill(&mut record);
        log.push(&record);
    }

    /// Whether connections have a record over which the client sent nothing.
    pub(crate) fn records_null(&self) -> bool {
        self.log.borrow().as_ref().is_some_and(LogBuffer::has_null)
    }

    /// Client connections open now, of all services and workers.
    fn all_open(&self) -> u64 {
        self.cells.iter().map(|c| c.open.get()).sum()
    }

    /// TLS handshakes under way now, of all workers.
    pub(crate) fn handshakes(&self) -> u64 {
        self.cells.iter().map(|c| c.handshakes.get()).sum()
    }

    /// Whether there are as many as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.all_open() >= self.most.load(Relaxed)
    }

    /// Whether as many requests of HTTP/2 are under way as may be.
    pub(crate) fn has_all_streams(&self) -> bool {
        let streams: u64 = self.cells.iter().map(|c| c.streams.get()).sum();
        streams >= self.most_streams.load(Relaxed)
    }

    fn load(&self, route: &LocalRoute, backend: Option<usize>, ahead: u32) -> Load {
        let at_backend = backend.and_then(|index| route.route.backends.get(index));
        Load {
            connections: self.all_open(),
            service: route.open(),
            pool: route.route.waiting.cells.iter().map(|c| c.active.get()).sum(),
            backend: at_backend.map_or(0, |b| b.cells.iter().map(|c| c.in_flight.get()).sum()),
            ahead,
        }
    }

    /// Whether nothing needs the clock. An open connection may set a deadline at any moment.
    fn is_idle(&self) -> bool {
        let logged = self.log.borrow().as_ref().is_none_or(LogBuffer::is_empty);
        logged && self.open.get() == 0 && self.timers.is_empty() && self.upstreams.borrow().is_at_rest()
    }
}

impl LocalRoute {
    /// The same with the pool that a rule of the service chooses, if it does.
    pub(crate) fn by_rule(&self, rule: usize) -> Option<&Rc<Self>> {
        self.by_rule.get(rule)?.as_ref()
    }

    /// The pool's name; empty if there is none.
    pub(crate) fn pool_name(&self) -> &str {
        if self.route.has_pool() {
            self.pool.name().as_str()
        } else {
            ""
        }
    }

    /// Connections of the service open now, over all workers.
    pub(crate) fn open(&self) -> u64 {
        self.route.cells.iter().map(|c| c.open.get()).sum()
    }
}

/// The end of a request, or of a connection, as every record tells it.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) mode: RecordMode,
    pub(crate) route: &'a LocalRoute,
    pub(crate) client: SocketAddr,
    /// The backend tried last: its place in the pool.
    pub(crate) backend: Option<usize>,
    pub(crate) phases: &'a Phases,
    pub(crate) reason: Reason,
    pub(crate) now: Instant,
}

async fn tick(worker: Rc<Worker>) {
    let mut ticks = 0_u64;
    loop {
        if worker.is_idle() {
            worker.busy.notified().await;
            let now = Instant::now();
            worker.timers.skip_to(now);
            worker.clock.adjust(now);
        }
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        worker.timers.turn(now);
        worker.clock.adjust(now);
        ticks += 1;
        worker.upstreams.borrow().attend();
        // Idle upstream connections are kept for many seconds: once a second will do.
        if ticks.is_multiple_of(20) {
            worker.upstreams.borrow_mut().tidy();
            worker.upstreams.borrow().expire(now);
            if !worker.draining.get() {
                worker.upstreams.borrow().warm(&worker, now);
            }
        }
        if let Some(log) = worker.log.borrow_mut().as_mut() {
            log.flush();
        }
    }
}

/// Looks after those that wait whenever a place was given up, on this worker or another.
async fn attend(worker: Rc<Worker>, bells: Arc<Bells>) {
    let Some(bell) = bells.get(worker.index) else {
        return;
    };
    loop {
        bell.notified().await;
        worker.upstreams.borrow().attend();
    }
}
