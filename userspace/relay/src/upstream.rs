//! A worker's side of the backends: choosing one, connecting, keeping idle connections.
//!
//! Connections belong to a worker and are never handed to another. Idle ones are kept per backend, last in first out;
//! nothing watches them, but before one is used again it is asked whether it has ended meanwhile.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Acquire},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use weir_core::{
    balance::{Balancer, Candidates, Tried},
    engine::{Usable, usable},
    health::{Admin, State},
    ids::{BackendKey, PoolName},
    plan::{self, Pool},
};

use crate::{
    reason::Cause,
    stats::BackendCell,
    world::{Backend, Route, World},
};

/// Idle connections kept per backend and worker.
const IDLE_MOST: usize = 256;

/// How long a connection is kept idle. Below what servers commonly allow (nginx 75 s, Apache 5 s): those that end sooner
/// are noticed when they are taken out.
const IDLE: Duration = Duration::from_secs(30);

/// All pools and backends, as one worker has them.
pub(crate) struct Upstreams {
    worker: usize,
    pools: HashMap<PoolName, Rc<LocalPool>>,
    peers: HashMap<BackendKey, Rc<Peer>>,
}

/// A pool with this worker's state of balancing.
pub(crate) struct LocalPool {
    pool: Arc<Pool>,
    /// In the pool's order.
    peers: Vec<Rc<Peer>>,
    balancer: RefCell<Balancer>,
    usable: RefCell<Vec<Usable>>,
    /// The generation of health words that `usable` was derived from.
    derived: Cell<u64>,
    generation: Arc<std::sync::atomic::AtomicU64>,
}

/// A backend with this worker's idle connections to it.
pub(crate) struct Peer {
    backend: Arc<Backend>,
    pub(crate) cell: Arc<BackendCell>,
    idle: RefCell<VecDeque<Idle>>,
    /// It is in no pool any more.
    gone: Cell<bool>,
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Upstreams {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            pools: HashMap::new(),
            peers: HashMap::new(),
        }
    }

    /// Takes a new plan: keeps what is the same by identity, closes what is idle to backends that are gone.
    pub(crate) fn apply(&mut self, world: &World) {
        let mut peers = HashMap::new();
        let mut pools: HashMap<PoolName, Rc<LocalPool>> = HashMap::new();
        for route in world.routes.values() {
            if pools.contains_key(&route.pool.name) {
                continue;
            }
            let of_pool: Vec<_> = route
                .backends
                .iter()
                .filter_map(|b| self.peer(&mut peers, b))
                .collect();
            let pool = match self.pools.remove(&route.pool.name) {
                Some(known) if known.pool == route.pool => known,
                _ => Rc::new(LocalPool::new(route, of_pool, self.worker, world)),
            };
            pools.insert(route.pool.name.clone(), pool);
        }
        for (key, peer) in self.peers.drain() {
            if !peers.contains_key(&key) {
                peer.gone.set(true);
                peer.close_idle();
            }
        }
        self.pools = pools;
        self.peers = peers;
    }

    fn peer(&self, peers: &mut HashMap<BackendKey, Rc<Peer>>, backend: &Arc<Backend>) -> Option<Rc<Peer>> {
        if let Some(known) = peers.get(&backend.key) {
            return Some(Rc::clone(known));
        }
        let peer = match self.peers.get(&backend.key) {
            Some(known) => Rc::clone(known),
            None => Rc::new(Peer {
                backend: Arc::clone(backend),
                cell: Arc::clone(backend.cells.get(self.worker)?),
                idle: RefCell::default(),
                gone: Cell::new(false),
            }),
        };
        peers.insert(backend.key.clone(), Rc::clone(&peer));
        Some(peer)
    }

    pub(crate) fn pool(&self, name: &PoolName) -> Option<Rc<LocalPool>> {
        self.pools.get(name).map(Rc::clone)
    }

    /// Closes idle connections to backends that may not be used any more.
    pub(crate) fn words_changed(&self) {
        for peer in self.peers.values() {
            if !peer.backend.word().takes_new() {
                peer.close_idle();
            }
        }
    }

    /// Closes what was idle for too long, and what has ended.
    pub(crate) fn expire(&self, now: Instant) {
        for peer in self.peers.values() {
            peer.expire(now);
        }
    }

    /// Whether no connection is idle, so that nothing will have to expire.
    pub(crate) fn is_idle_empty(&self) -> bool {
        self.peers.values().all(|p| p.idle.borrow().is_empty())
    }

    /// Closes all that is idle.
    pub(crate) fn close_idle(&self) {
        for peer in self.peers.values() {
            peer.close_idle();
        }
    }
}

impl LocalPool {
    fn new(route: &Route, peers: Vec<Rc<Peer>>, worker: usize, world: &World) -> Self {
        Self {
            balancer: RefCell::new(Balancer::new(route.pool.balance, peers.len(), worker)),
            pool: Arc::clone(&route.pool),
            peers,
            usable: RefCell::default(),
            derived: Cell::new(u64::MAX),
            generation: Arc::clone(&world.generation),
        }
    }

    /// Chooses a backend that was not tried yet, and notes it as tried. None: there is none left.
    pub(crate) fn choose(&self, tried: &mut Tried) -> Option<(usize, Rc<Peer>)> {
        self.derive();
        let usable = self.usable.borrow();
        let chosen = self.balancer.borrow_mut().pick(
            &Now {
                peers: &self.peers,
                usable: &usable,
            },
            tried,
        )?;
        // No room to remember another: the request has had tries enough.
        if !tried.insert(chosen) {
            return None;
        }
        Some((chosen, Rc::clone(self.peers.get(chosen)?)))
    }

    /// Whether any backend may be used now.
    pub(crate) fn is_usable(&self) -> bool {
        self.derive();
        self.usable.borrow().iter().any(|u| u.weight > 0)
    }

    /// Whether a backend that may not be used yet may come up before long: its first checks or its probation run.
    pub(crate) fn may_come_up(&self) -> bool {
        let soon = |(peer, backend): (&Rc<Peer>, &plan::Backend)| {
            let word = peer.backend.word();
            let state = match word.state {
                State::Pending | State::Probation => true,
                State::Up | State::Down => false,
            };
            state && word.admin == Admin::Ready && backend.weight > 0
        };
        self.peers.iter().zip(&self.pool.backends).any(soon)
    }

    /// What the plan says of a backend of this pool.
    pub(crate) fn backend(&self, index: usize) -> Option<&plan::Backend> {
        self.pool.backends.get(index)
    }

    pub(crate) fn name(&self) -> &PoolName {
        &self.pool.name
    }

    fn derive(&self) {
        let generation = self.generation.load(Acquire);
        if self.derived.replace(generation) != generation {
            let words: Vec<_> = self.peers.iter().map(|p| p.backend.word()).collect();
            *self.usable.borrow_mut() = usable(&self.pool, &words);
        }
    }
}

/// The pool at the moment of a choice.
struct Now<'a> {
    peers: &'a [Rc<Peer>],
    usable: &'a [Usable],
}

impl Candidates for Now<'_> {
    fn count(&self) -> usize {
        self.peers.len()
    }

    fn weight(&self, index: usize) -> u16 {
        self.usable.get(index).map_or(0, |u| u.weight)
    }

    fn in_flight(&self, index: usize) -> u32 {
        let of_all = |p: &Rc<Peer>| p.backend.cells.iter().map(|c| c.in_flight.get()).sum::<u64>();
        self.peers
            .get(index)
            .map_or(0, |p| u32::try_from(of_all(p)).unwrap_or(u32::MAX))
    }
}

impl Peer {
    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.key.address
    }

    /// An idle connection that has not ended, as far as the runtime knows; with `ask`, as far as the system knows, at
    /// the price of a call: for requests that can't be sent a second time.
    #[inline]
    pub(crate) fn take_idle(&self, ask: bool) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { stream, .. }) = idle.pop_back() {
            self.cell.idle.sub(1);
            if is_quiet(&stream) && (!ask || is_silent(&stream)) {
                return Some(stream);
            }
        }
        None
    }

    /// Takes a connection that may serve again.
    #[inline]
    pub(crate) fn put_idle(&self, stream: TcpStream, now: Instant) {
        if self.gone.get() || !self.backend.word().takes_new() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MOST {
            idle.push_back(Idle { stream, since: now });
            self.cell.idle.add(1);
        }
    }

    fn expire(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|i| now.saturating_duration_since(i.since) < IDLE && is_quiet(&i.stream));
        self.cell.idle.sub((before - idle.len()) as u64);
    }

    fn close_idle(&self) {
        let mut idle = self.idle.borrow_mut();
        self.cell.idle.sub(idle.len() as u64);
        idle.clear();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close_idle();
    }
}

/// Whether an idle connection has neither ended nor said anything, which it has no right to. Costs no system call as
/// long as the runtime has seen no event for it.
#[inline]
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// As [`is_quiet`], but asks the system.
fn is_silent(stream: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0];
    recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(rustix::io::Errno::AGAIN)
}

/// A connection to a backend while it is used.
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) peer: Rc<Peer>,
    /// It had served before.
    pub(crate) reused: bool,
}

impl Upstream {
    pub(crate) fn new(stream: TcpStream, peer: Rc<Peer>, reused: bool) -> Self {
        peer.cell.requests.add(1);
        peer.cell.in_flight.add(1);
        if reused {
            peer.cell.reused.add(1);
        }
        Self { stream, peer, reused }
    }

    /// Gives the connection back for others to use.
    #[inline]
    pub(crate) fn release(self, now: Instant) {
        self.peer.cell.in_flight.sub(1);
        self.peer.put_idle(self.stream, now);
    }

    /// Ends the connection.
    pub(crate) fn close(self) {
        self.peer.cell.in_flight.sub(1);
    }
}

/// Begins to connect. Never waits; a refusal may be known at once.
pub(crate) fn begin_connect(address: SocketAddr) -> Result<TcpStream, Cause> {
    let connect = || -> io::Result<TcpStream> {
        use socket2::{Domain, Protocol, Socket, Type};
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        TcpStream::from_std(socket.into())
    };
    connect().map_err(|error| connect_cause(&error))
}

/// Waits until a connection is established.
pub(crate) fn poll_connected(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
    if let Err(error) = ready!(stream.poll_write_ready(cx)) {
        return Poll::Ready(Err(connect_cause(&error)));
    }
    match stream.take_error() {
        Ok(None) => Poll::Ready(Ok(())),
        Ok(Some(error)) | Err(error) => Poll::Ready(Err(connect_cause(&error))),
    }
}

/// What a failure to connect is due to.
pub(crate) fn connect_cause(error: &io::Error) -> Cause {
    use io::ErrorKind as Kind;
    let is = |kinds: &[Kind]| kinds.contains(&error.kind());
    // Only what says something about the backend or the way there is laid to its charge.
    if is(&[
        Kind::ConnectionRefused,
        Kind::ConnectionReset,
        Kind::ConnectionAborted,
        Kind::BrokenPipe,
    ]) {
        Cause::Refused
    } else if is(&[Kind::HostUnreachable, Kind::NetworkUnreachable, Kind::NetworkDown]) {
        Cause::Unreachable
    } else if is(&[Kind::TimedOut]) {
        Cause::TimeoutConnect
    } else {
        Cause::Local
    }
}
