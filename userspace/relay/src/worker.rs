//! A worker: one thread, one runtime, and everything that its connections share.
//!
//! ```text
//!   Relay ──commands──▶ main task ──▶ entrances (per listener) ──▶ accept tasks ──▶ one task per connection
//!                       tick task ──▶ deadlines, idle upstream connections, access log
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Instant,
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
};
use weir_core::ids::{ListenKey, ServiceName};

use crate::{
    accept,
    access::LogBuffer,
    http1::rules::Rules,
    scratch::Scratch,
    stats::{Count, ServiceCell},
    timers::{TICK, Timers},
    upstream::{LocalPool, Upstreams},
    world::{Route, World},
};

/// What a worker is told.
pub(crate) enum Command {
    /// A plan, and the complete set of this worker's listeners.
    World {
        world: Arc<World>,
        listeners: Vec<WorkerListener>,
    },
    /// Health words have changed.
    Words,
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
    pub(crate) timers: Rc<Timers>,
    pub(crate) log: RefCell<Option<LogBuffer>>,
    upstreams: RefCell<Upstreams>,
    /// No new connections, no second request on those that are open.
    pub(crate) draining: Cell<bool>,
    /// Everything ends now.
    pub(crate) cutting: Cell<bool>,
    /// Connections open, and those that were cut.
    open: Cell<u64>,
    cut: Cell<u64>,
    /// Rings when the last connection closes.
    emptied: Notify,
    /// Rings when health words or the plan have changed.
    pub(crate) changed: Notify,
    /// Wakes the tick task after it slept because there was nothing to do.
    busy: Notify,
    pub(crate) accept_paused: Arc<Count>,
}

/// What connections of one listener come in by: outlives plans, follows them.
pub(crate) struct Entrance {
    service: RefCell<ServiceName>,
    route: RefCell<Option<Rc<LocalRoute>>>,
    /// The listener is gone, or serves another service now: what has begun is finished by the last route.
    closed: Cell<bool>,
}

impl Entrance {
    /// The service as the present plan has it; for a listener that is gone, as the last plan had it. None: the service
    /// is gone.
    #[inline]
    pub(crate) fn route(&self) -> Option<Rc<LocalRoute>> {
        self.route.borrow().clone()
    }

    /// Whether its connections may not begin another request.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get() || self.route.borrow().is_none()
    }
}

/// A service as one worker has it.
pub(crate) struct LocalRoute {
    pub(crate) route: Arc<Route>,
    pub(crate) pool: Rc<LocalPool>,
    pub(crate) cell: Arc<ServiceCell>,
    pub(crate) request_rules: Rules,
    pub(crate) response_rules: Rules,
    /// Some rule wants the address that the client connected to.
    pub(crate) needs_server: bool,
}

/// Starts a worker's thread; returns when its runtime runs.
pub(crate) fn spawn(
    index: usize,
    accept_paused: Arc<Count>,
    log: Option<LogBuffer>,
) -> io::Result<(mpsc::UnboundedSender<Command>, thread::JoinHandle<()>)> {
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
                    let _ = started.send(Ok(()));
                    runtime.block_on(run(index, accept_paused, log, incoming));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
    match start.recv() {
        Ok(Ok(())) => Ok((commands, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("its thread ended at once")),
    }
}

async fn run(
    index: usize,
    accept_paused: Arc<Count>,
    log: Option<LogBuffer>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let worker = Rc::new(Worker {
        index,
        scratch: RefCell::new(Scratch::new()),
        timers: Rc::new(Timers::new(Instant::now())),
        log: RefCell::new(log),
        upstreams: RefCell::new(Upstreams::new(index)),
        draining: Cell::new(false),
        cutting: Cell::new(false),
        open: Cell::new(0),
        cut: Cell::new(0),
        emptied: Notify::new(),
        changed: Notify::new(),
        busy: Notify::new(),
        accept_paused,
    });
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    let mut held: HashMap<ListenKey, HeldListener> = HashMap::new();
    // Ends when the `Relay` is dropped; the runtime then drops every task, which closes every connection.
    while let Some(command) = commands.recv().await {
        match command {
            Command::World { world, listeners } => {
                apply(&worker, &mut held, &world, listeners);
                worker.changed.notify_waiters();
            }
            Command::Words => {
                worker.upstreams.borrow().words_changed();
                worker.changed.notify_waiters();
            }
            Command::Drain { until, done } => {
                held.clear();
                worker.draining.set(true);
                tokio::task::spawn_local(drain(Rc::clone(&worker), until, done));
            }
        }
    }
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
        let (request_rules, response_rules) = match &route.service.mode {
            weir_core::plan::Mode::Http(http) => (
                Rules::new(&http.request_headers),
                Rules::new(&http.response_headers),
            ),
            weir_core::plan::Mode::Tcp(_) | weir_core::plan::Mode::L4(_) => {
                (Rules::default(), Rules::default())
            }
        };
        let needs_server = request_rules.needs_server() || response_rules.needs_server();
        Some(LocalRoute {
            route: Arc::clone(route),
            pool,
            cell,
            request_rules,
            response_rules,
            needs_server,
        })
    }

    /// Makes sure that the tick task runs: something waits for it.
    #[inline]
    pub(crate) fn stir(&self) {
        self.busy.notify_one();
    }

    /// Whether nothing needs the clock. An open connection may set a deadline at any moment.
    fn is_idle(&self) -> bool {
        let logged = self.log.borrow().as_ref().is_none_or(LogBuffer::is_empty);
        logged && self.open.get() == 0 && self.timers.is_empty() && self.upstreams.borrow().is_idle_empty()
    }
}

/// A connection, as far as the worker counts it: open from its making to its drop.
pub(crate) struct Open {
    worker: Rc<Worker>,
    cell: Arc<ServiceCell>,
}

impl Open {
    pub(crate) fn new(worker: &Rc<Worker>, cell: &Arc<ServiceCell>) -> Self {
        if worker.open.replace(worker.open.get() + 1) == 0 {
            worker.stir();
        }
        cell.accepted.add(1);
        cell.open.add(1);
        Self {
            worker: Rc::clone(worker),
            cell: Arc::clone(cell),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cell.open.sub(1);
        let open = self.worker.open.get() - 1;
        self.worker.open.set(open);
        if self.worker.cutting.get() {
            self.worker.cut.set(self.worker.cut.get() + 1);
        }
        if open == 0 {
            self.worker.emptied.notify_waiters();
        }
    }
}

async fn tick(worker: Rc<Worker>) {
    let mut ticks = 0_u64;
    loop {
        if worker.is_idle() {
            worker.busy.notified().await;
            worker.timers.skip_to(Instant::now());
        }
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        worker.timers.turn(now);
        ticks += 1;
        // Idle upstream connections are kept for many seconds: once a second will do.
        if ticks.is_multiple_of(20) {
            worker.upstreams.borrow().expire(now);
        }
        if let Some(log) = worker.log.borrow_mut().as_mut() {
            log.flush();
        }
    }
}

async fn drain(worker: Rc<Worker>, until: Instant, done: oneshot::Sender<u64>) {
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
