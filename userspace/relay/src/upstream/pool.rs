//! A pool as one worker has it: who is chosen, who gets which connection, who waits.
//!
//! Where no backend has a bound on its connections nobody ever waits for one, and nothing here is shared with other
//! workers but the counters of the least loaded.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire},
    },
    time::{Duration, Instant},
};

use weir_core::{
    balance::{Balancer, Candidates, Tried},
    engine::{Usable, usable},
    health::{Admin, State},
    ids::PoolName,
    plan::{self, Connections, Pool, ProxyOut, Retries},
};

use super::{
    Link, Upstream,
    budget::Budget,
    connect::{begin_connect, poll_connected, secured},
    http2,
    lobby::Lobby,
    peer::{Connection, Leased, Peer, Terms},
    queue::Queue,
    slots::Slot,
    socket::BackendSocket,
    source::PoolSource,
};
use crate::{
    reason::{Cause, Trouble},
    stats::PoolCell,
    worker::Worker,
    world::{Route, World},
};

/// Waiters that are looked at in a row for one that can be served.
const LOOKS: usize = 16;

/// A pool with this worker's state of balancing.
pub(crate) struct LocalPool {
    pub(super) pool: Arc<Pool>,
    worker: usize,
    /// In the pool's order.
    peers: Vec<Rc<Peer>>,
    balancer: RefCell<Balancer>,
    usable: RefCell<Vec<Usable>>,
    /// The generation of health words that `usable` was derived from.
    derived: Cell<u64>,
    generation: Arc<AtomicU64>,
    /// Some backend has a bound on its connections.
    limited: bool,
    lobby: Arc<Lobby>,
    pub(super) queue: Queue,
    pub(crate) cell: Arc<PoolCell>,
    pub(crate) budget: Budget,
    /// What its services say of connections that are made for more than one request.
    bounds: Bounds,
    /// Where its connections come from. None: the system picks address and port.
    pub(super) source: Option<Arc<PoolSource>>,
}

/// What the services of a pool say of connections that are made for more than one request.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// How long connecting may take: as the most impatient has it.
    pub(super) connect: Duration,
    /// Bytes of a response's head: as the most generous has it.
    pub(super) head: u32,
}

/// A backend's connection, or the right to make one.
pub(crate) struct Lease {
    /// The backend's place in the pool.
    pub(crate) index: usize,
    pub(crate) peer: Rc<Peer>,
    pub(crate) how: Leased,
}

/// Why nothing was leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoLease {
    /// All that may be used are full, or others wait already.
    Wait,
    /// No backend that was not tried may be used now.
    Nobody,
}

impl LocalPool {
    /// None: there are no counters for this worker, which can't be.
    pub(super) fn new(
        route: &Route,
        peers: Vec<Rc<Peer>>,
        worker: usize,
        world: &World,
        bounds: Bounds,
    ) -> Option<Self> {
        let pool = Arc::clone(&route.pool);
        let lobby = Arc::clone(&route.waiting.lobby);
        let cells = &route.waiting.cells;
        Some(Self {
            worker,
            balancer: RefCell::new(Balancer::new(pool.balance, peers.len(), worker)),
            peers,
            usable: RefCell::default(),
            derived: Cell::new(u64::MAX),
            generation: Arc::clone(&world.generation),
            limited: pool.backends.iter().any(|b| pool.max_connections(b).is_some()),
            queue: Queue::new(worker, Arc::clone(&lobby)),
            lobby,
            cell: Arc::clone(cells.get(worker)?),
            budget: Budget::new(&pool.retries, cells.len(), Instant::now()),
            bounds,
            source: route.source.clone(),
            pool,
        })
    }

    /// Begins to connect to a backend. Never waits; a refusal may be known at once.
    pub(crate) fn begin_connect(&self, peer: &Peer) -> Result<BackendSocket, Cause> {
        begin_connect(
            peer.address(),
            self.pool.interface,
            self.source.as_deref(),
            &self.cell,
        )
    }

    /// Whether its backends are spoken to in HTTP/2.
    #[inline]
    pub(crate) fn is_http2(&self) -> bool {
        self.pool.protocol.is_http2()
    }

    /// What each connection begins with. It is one client's then.
    #[inline]
    pub(crate) fn proxy(&self) -> Option<&ProxyOut> {
        self.pool.proxy.as_ref()
    }

    /// Whether each connection is one client's alone: it begins with that client's PROXY header, comes from its address, or
    /// leads to where it wanted to go.
    #[inline]
    pub(crate) fn is_private(&self) -> bool {
        self.proxy().is_some() || self.pool.client_source.is_some() || self.pool.is_original_destination()
    }

    /// For how long a client's own connection may be kept between its requests. None: it may not, for others may be in
    /// want of its place.
    pub(crate) fn keeps_own(&self) -> Option<Duration> {
        let Connections {
            idle_max,
            idle_timeout,
            ..
        } = self.pool.connections;
        (!self.limited && idle_max > 0).then_some(idle_timeout)
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Chooses a backend that was not tried yet and is not full. None: there is none.
    pub(crate) fn choose(&self, tried: &Tried) -> Option<(usize, Rc<Peer>)> {
        self.derive();
        let usable = self.usable.borrow();
        let now = Now {
            peers: &self.peers,
            usable: &usable,
            limited: self.limited,
        };
        let chosen = self.balancer.borrow_mut().pick(&now, tried)?;
        Some((chosen, Rc::clone(self.peers.get(chosen)?)))
    }

    /// A connection or the right to make one: of the backend chosen before if there is one, else of another.
    #[inline]
    pub(crate) fn lease(
        &self,
        chosen: Option<(usize, Rc<Peer>)>,
        tried: &Tried,
        terms: Terms,
    ) -> Result<Lease, NoLease> {
        if self.limited && !self.lobby.is_empty() && self.has_untried(tried) {
            return Err(NoLease::Wait);
        }
        self.lease_now(chosen, tried, terms)
    }

    /// The same, before those that wait.
    #[inline]
    fn lease_now(
        &self,
        mut chosen: Option<(usize, Rc<Peer>)>,
        tried: &Tried,
        terms: Terms,
    ) -> Result<Lease, NoLease> {
        // Another worker may take the last place of a backend that was just chosen: then the next, but not for ever.
        for _ in 0..=self.peers.len() {
            let Some((index, peer)) = chosen.take().or_else(|| self.choose(tried)) else {
                break;
            };
            if let Some(how) = peer.lease(terms) {
                return Ok(Lease { index, peer, how });
            }
        }
        Err(match self.has_untried(tried) {
            true => NoLease::Wait,
            false => NoLease::Nobody,
        })
    }

    /// Takes a connection back that may serve again: for those that wait, or to be kept.
    #[inline]
    pub(crate) fn release(&self, upstream: Upstream, now: Instant) {
        let Upstream { link, peer, .. } = upstream;
        peer.cell.in_flight.sub(1);
        match link {
            Link::Http1(connection) => peer.put_idle(connection, now),
            Link::Http2(frames) => drop(frames),
        }
        if self.limited && !self.lobby.is_empty() {
            self.serve();
        }
    }

    /// Gives what is to be had to those that wait, in their order. Where the oldest of all waits on another worker, or
    /// all of them do, an idle connection that is in their way is closed.
    pub(super) fn serve(&self) {
        let mut place = 0;
        while let Some(waiter) = self.queue.get(place).filter(|_| place < LOOKS) {
            if !self.lobby.may_go(waiter.since) {
                break;
            }
            match self.lease_now(None, &waiter.tried, waiter.terms) {
                Ok(lease) => self.queue.grant(place, lease),
                // Who has tried nothing would take anything: so there is nothing.
                Err(_) if waiter.tried.is_empty() => return,
                Err(_) => place += 1,
            }
        }
        if place == 0 && !self.lobby.is_empty() {
            self.make_room();
        }
    }

    /// Closes one idle connection of a backend that has as many as it may have.
    fn make_room(&self) {
        self.derive();
        let usable = self.usable.borrow();
        let used = self.peers.iter().zip(usable.iter()).filter(|(_, u)| u.weight > 0);
        let busy = !self.lobby.may_go(Instant::now());
        // The place that it gives up calls whoever waits.
        let _ = { used }
            .filter(|(peer, _)| peer.backend.slots.is_full())
            .any(|(peer, _)| peer.make_room(busy));
    }

    /// Asks the other workers for idle connections, since all places are taken.
    pub(super) fn call_idle(&self) {
        if !self.limited || self.queue.is_empty() {
            return;
        }
        let workers = self.peers.first().map_or(0, |p| p.backend.cells.len());
        for worker in (0..workers).filter(|worker| *worker != self.worker) {
            if self.peers.iter().any(|p| p.is_idle_at(worker)) {
                self.lobby.ring(worker);
            }
        }
    }

    /// What the clock or a change gives occasion to: those that wait are served, or told that there is no hope.
    pub(super) fn attend(&self) {
        if self.lobby.is_empty() {
            return;
        }
        self.serve();
        if !self.queue.is_empty() && !self.may_serve(&Tried::NONE) {
            self.queue.wake_all();
        }
    }

    /// Whether any of this worker wait.
    pub(super) fn has_waiters(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many may wait.
    pub(super) fn queue_most(&self) -> u32 {
        self.pool.connections.queue
    }

    /// Whether any backend may be used now.
    pub(crate) fn is_usable(&self) -> bool {
        self.has_untried(&Tried::NONE)
    }

    /// Whether a backend that was not tried may be used now, be it full.
    pub(crate) fn has_untried(&self, tried: &Tried) -> bool {
        self.derive();
        let usable = self.usable.borrow();
        let mut all = usable.iter().enumerate();
        all.any(|(index, usable)| usable.weight > 0 && !tried.contains(index))
    }

    /// Whether waiting may be of use.
    pub(super) fn may_serve(&self, tried: &Tried) -> bool {
        self.has_untried(tried) || tried.is_empty() && self.may_come_up()
    }

    /// Whether a backend that may not be used yet may come up before long: its first checks or its probation run.
    fn may_come_up(&self) -> bool {
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

    pub(crate) fn retries(&self) -> &Retries {
        &self.pool.retries
    }

    /// Makes connections in advance where fewer are idle than shall be.
    pub(super) fn warm(self: &Rc<Self>, worker: &Rc<Worker>, now: Instant) {
        let min = self.pool.connections.idle_min;
        // Whoever waits has a better use for a place.
        if min == 0 || !self.lobby.is_empty() {
            return;
        }
        self.derive();
        let usable = self.usable.borrow();
        for (peer, _) in self.peers.iter().zip(usable.iter()).filter(|(_, u)| u.weight > 0) {
            if peer.chill.get().is_some_and(|(_, until)| now < until) {
                continue;
            }
            if self.is_http2() {
                self.warm_http2(peer, min);
                continue;
            }
            let has = u32::try_from(peer.idle()).unwrap_or(u32::MAX);
            let lacks = min.saturating_sub(has.saturating_add(peer.warming.get()));
            for _ in 0..lacks {
                let Some(slot) = peer.backend.slots.take() else {
                    break;
                };
                peer.warming.set(peer.warming.get() + 1);
                let (pool, worker, peer) = (Rc::clone(self), Rc::clone(worker), Rc::clone(peer));
                tokio::task::spawn_local(async move { pool.make_one(&worker, &peer, slot).await });
            }
        }
    }

    fn warm_http2(self: &Rc<Self>, peer: &Rc<Peer>, min: u32) {
        let has = u32::try_from(peer.idle()).unwrap_or(u32::MAX);
        for _ in 0..min.saturating_sub(has) {
            let Some(slot) = peer.backend.slots.take() else {
                break;
            };
            drop(http2::dial(self, peer, slot, true));
        }
    }

    async fn make_one(&self, worker: &Worker, peer: &Peer, slot: Slot) {
        let connected = async {
            let stream = self.begin_connect(peer)?;
            let connected = std::future::poll_fn(|cx| poll_connected(&stream, cx));
            match tokio::time::timeout(self.bounds.connect, connected).await {
                Ok(done) => done?,
                Err(_) => return Err(Cause::TimeoutConnect.into()),
            }
            secured(peer.secure(), stream, self.bounds.connect).await
        };
        let connected = connected.await;
        peer.warming.set(peer.warming.get().saturating_sub(1));
        let now = Instant::now();
        match connected {
            Ok(stream) => {
                peer.chill.set(None);
                peer.cell.connections.add(1);
                if !worker.draining.get() {
                    peer.cell.warmed.add(1);
                    peer.put_idle(Connection { stream, slot }, now);
                    self.attend();
                }
            }
            Err(Trouble { cause, .. }) => {
                peer.cell.error(cause);
                peer.failed(now);
            }
        }
    }

    /// Whether connections shall be made in advance.
    pub(super) fn warms(&self) -> bool {
        self.pool.connections.idle_min > 0
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
    limited: bool,
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

    fn is_full(&self, index: usize) -> bool {
        self.limited && self.peers.get(index).is_some_and(|p| p.is_full())
    }
}
