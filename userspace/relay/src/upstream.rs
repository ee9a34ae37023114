//! A worker's side of the backends: choosing one, connecting, keeping idle connections, waiting for one.
//!
//! Connections belong to a worker and are never handed to another. Idle ones are kept per backend, last in first out;
//! nothing watches them, but before one is used again it is asked whether it has ended meanwhile.
//!
//! ```text
//!   LocalPool ── choose ──▶ Peer ── idle ───────────▶ Lease ──▶ Upstream ── release ──▶ those that wait, or idle
//!       │                    └──── slots (all workers) ─┘
//!       └─ all full ──▶ Queue (this worker) ◀── bell ── Lobby (all workers) ◀── a place is given up
//! ```

mod budget;
mod connect;
mod disguise;
pub(crate) mod http2;
mod lobby;
mod peer;
mod pool;
mod queue;
mod slots;
mod socket;
mod source;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_core::{
    ids::{BackendKey, PoolName},
    plan::Mode,
};

pub use self::disguise::Stock;
use self::pool::Bounds;
pub(crate) use self::{
    connect::{connect_cause, poll_begun, poll_connected},
    http2::Frames,
    lobby::{Bells, Lobby},
    peer::{Connection, Leased, Peer, Terms},
    pool::{Lease, LocalPool, NoLease},
    queue::Wait,
    slots::{Slot, Slots},
    socket::BackendSocket,
    source::{PoolSource, Space},
};
use crate::{
    tls::Tools,
    worker::Worker,
    world::{Backend, Route, World},
};

/// All pools and backends, as one worker has them.
pub(crate) struct Upstreams {
    worker: usize,
    pools: HashMap<PoolName, Rc<LocalPool>>,
    /// Pools as older plans had them, for which some still wait.
    leaving: Vec<Rc<LocalPool>>,
    peers: HashMap<BackendKey, Rc<Peer>>,
    /// For TLS.
    tools: Tools,
}

impl Upstreams {
    pub(crate) fn new(worker: usize, tools: Tools) -> Self {
        Self {
            worker,
            tools,
            pools: HashMap::new(),
            leaving: Vec::new(),
            peers: HashMap::new(),
        }
    }

    /// Takes a new plan: keeps what is the same by identity, closes what is idle to backends that are gone.
    pub(crate) fn apply(&mut self, world: &World) {
        let mut peers = HashMap::new();
        let mut pools: HashMap<PoolName, Rc<LocalPool>> = HashMap::new();
        for route in world.routes.values().flat_map(Route::all) {
            let name = &route.pool.name;
            if pools.contains_key(name) {
                continue;
            }
            let of_pool: Vec<_> = route
                .backends
                .iter()
                .filter_map(|b| self.peer(&mut peers, route, b))
                .collect();
            let pool = match self.pools.get(name) {
                Some(known) if known.pool == route.pool => Some(Rc::clone(known)),
                _ => LocalPool::new(route, of_pool, self.worker, world, bounds(world, name)).map(Rc::new),
            };
            pools.extend(pool.map(|pool| (name.clone(), pool)));
        }
        for (key, peer) in self.peers.drain() {
            if !peers.contains_key(&key) {
                peer.gone.set(true);
                peer.close_idle();
            }
        }
        let kept = |old: &Rc<LocalPool>| pools.values().any(|pool| Rc::ptr_eq(pool, old));
        let replaced = self.pools.drain().map(|(_, pool)| pool).filter(|old| !kept(old));
        self.leaving.extend(replaced);
        self.pools = pools;
        self.peers = peers;
        self.leaving.retain(|pool| pool.has_waiters());
        self.attend();
    }

    fn peer(
        &self,
        peers: &mut HashMap<BackendKey, Rc<Peer>>,
        route: &Route,
        backend: &Arc<Backend>,
    ) -> Option<Rc<Peer>> {
        if let Some(known) = peers.get(&backend.key) {
            return Some(Rc::clone(known));
        }
        let peer = match self.peers.get(&backend.key) {
            Some(known) => {
                known.follow(route, &self.tools);
                Rc::clone(known)
            }
            None => Rc::new(Peer::new(backend, self.worker, route, &self.tools)?),
        };
        peers.insert(backend.key.clone(), Rc::clone(&peer));
        Some(peer)
    }

    pub(crate) fn pool(&self, name: &PoolName) -> Option<Rc<LocalPool>> {
        self.pools.get(name).map(Rc::clone)
    }

    /// Closes idle connections to backends that may not be used any more, and serves those that wait from others.
    pub(crate) fn words_changed(&self) {
        for peer in self.peers.values() {
            if !peer.backend.word().takes_new() {
                peer.close_idle();
                peer.chill.set(None);
            }
        }
        self.attend();
    }

    /// Looks after those that wait: of this worker, and of others that this one's idle connections are in the way of.
    pub(crate) fn attend(&self) {
        self.pools
            .values()
            .chain(&self.leaving)
            .for_each(|pool| pool.attend());
    }

    /// Lets go of pools of older plans that nobody waits for any more.
    pub(crate) fn tidy(&mut self) {
        self.leaving.retain(|pool| pool.has_waiters());
    }

    /// Closes what was idle for too long, and what has ended.
    pub(crate) fn expire(&self, now: Instant) {
        for peer in self.peers.values() {
            peer.expire(now);
        }
    }

    /// Makes connections in advance where too few are idle.
    pub(crate) fn warm(&self, worker: &Rc<Worker>, now: Instant) {
        self.pools.values().for_each(|pool| pool.warm(worker, now));
    }

    /// Whether nothing needs the clock: no connection is idle, none is to be made.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.peers.values().all(|p| p.idle() == 0) && !self.pools.values().any(|p| p.warms())
    }

    /// Closes all that is idle.
    pub(crate) fn close_idle(&self) {
        for peer in self.peers.values() {
            peer.close_idle();
        }
    }
}

/// What the services of the pool say of connections that are made for more than one request.
fn bounds(world: &World, pool: &PoolName) -> Bounds {
    let mut connect = None;
    let mut head = 0;
    let all = world.routes.values().flat_map(Route::all);
    for route in all.filter(|route| route.pool.name == *pool) {
        let timeout = match &route.service.mode {
            Mode::Http(http) => {
                // HTTP/2 counts 32 bytes besides for each field (RFC 9113 section 6.5.2).
                let fields = u32::from(http.limits.headers).saturating_mul(32);
                head = http.limits.head.saturating_add(fields).max(head);
                http.timeouts.connect
            }
            Mode::Tcp(tcp) => tcp.timeouts.connect,
            Mode::L4(_) => continue,
        };
        connect = Some(connect.map_or(timeout, |least: Duration| least.min(timeout)));
    }
    Bounds {
        connect: connect.unwrap_or(Duration::from_secs(1)),
        head,
    }
}

/// A connection to a backend while it is used.
pub(crate) struct Upstream {
    pub(crate) link: Link,
    pub(crate) peer: Rc<Peer>,
    /// It had served before.
    pub(crate) reused: bool,
}

/// What a request and its response go over: the one place where the relay's exchange depends on the backend's protocol.
pub(crate) enum Link {
    /// A connection of its own: bytes, framed as HTTP/1.1 says.
    Http1(Connection),
    /// A stream on a connection that others use too.
    Http2(Box<Frames>),
}

impl Upstream {
    pub(crate) fn new(link: Link, peer: Rc<Peer>, reused: bool) -> Self {
        peer.cell.requests.add(1);
        peer.cell.in_flight.add(1);
        if reused {
            peer.cell.reused.add(1);
        }
        Self { link, peer, reused }
    }

    #[inline]
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.link, Link::Http2(_))
    }

    /// It serves no request any more. Dropping what it went over ends that.
    pub(crate) fn close(self) -> Link {
        self.peer.cell.in_flight.sub(1);
        self.link
    }

    /// Ends the connection, and keeps its place for another, if it has one of its own.
    pub(crate) fn into_slot(self) -> Option<Slot> {
        self.peer.cell.in_flight.sub(1);
        match self.link {
            Link::Http1(connection) => Some(connection.slot),
            Link::Http2(_) => None,
        }
    }
}
