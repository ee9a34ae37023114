//! A backend as one worker has it: its idle connections.
//!
//! ```text
//!            lease              release
//!    IDLE ──────────▶ ACTIVE ──────────▶ IDLE       closed: idle for too long, too many, ended by the backend
//!      ▲                ▲ │                         DOWN (the backend's word): idle ones are closed, none is made
//!      │ warm           │ └─▶ closed: not to be used again
//!      └─── connect ────┘
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use weir_core::plan::{Connections, Http2, HttpProtocol, Pool};

use super::{
    budget::rest_after,
    http2::{Conn, Place},
    slots::Slot,
};
use crate::{
    stats::BackendCell,
    stream::Socket,
    tls::{Secure, Tools},
    world::{Backend, Route},
};

/// A backend with this worker's idle connections to it.
pub(crate) struct Peer {
    pub(super) backend: Arc<Backend>,
    pub(crate) cell: Arc<BackendCell>,
    /// The oldest first.
    idle: RefCell<VecDeque<Idle>>,
    /// HTTP/2 connections, the oldest first, and what goes for new ones.
    conns: RefCell<Vec<Rc<Conn>>>,
    pub(super) http2: Cell<Http2>,
    protocol: Cell<HttpProtocol>,
    /// How it is spoken to over TLS.
    secure: RefCell<Option<Rc<Secure>>>,
    /// How many of them, and for how long.
    pub(super) policy: Cell<Connections>,
    /// It is in no pool any more.
    pub(super) gone: Cell<bool>,
    /// Connections that are made in advance now.
    pub(super) warming: Cell<u32>,
    /// Times in a row that making one in advance failed, and when it is tried again.
    pub(super) chill: Cell<Option<(u32, Instant)>>,
}

/// A connection to a backend, and its place among those that the backend may have.
pub(crate) struct Connection {
    pub(crate) stream: Socket,
    pub(crate) slot: Slot,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// What a request gets of a backend.
pub(crate) enum Leased {
    /// An idle connection.
    Idle(Connection),
    /// The right to make one.
    Fresh(Slot),
    /// A place for a stream on an HTTP/2 connection, which may still have to be waited for.
    Stream(Place),
}

/// What kind of connection will do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Only one that nobody used before.
    pub(crate) fresh_only: bool,
    /// What is sent can't be sent a second time: an idle connection is looked at closely before it is used.
    pub(crate) once: bool,
    /// A stream on an HTTP/2 connection.
    pub(crate) stream: bool,
}

impl Peer {
    pub(super) fn new(backend: &Arc<Backend>, worker: usize, route: &Route, tools: &Tools) -> Option<Self> {
        let pool = &route.pool;
        let address = backend.key.address.ip();
        let secure = |back| Rc::new(Secure::new(back, address, tools));
        Some(Self {
            secure: RefCell::new(route.back.as_ref().map(secure)),
            backend: Arc::clone(backend),
            cell: Arc::clone(backend.cells.get(worker)?),
            idle: RefCell::default(),
            conns: RefCell::default(),
            http2: Cell::new(pool.http2),
            protocol: Cell::new(pool.protocol),
            policy: Cell::new(pool.connections),
            gone: Cell::new(false),
            warming: Cell::new(0),
            chill: Cell::new(None),
        })
    }

    /// Takes what another plan says of its connections. Those of another protocol, or by other terms, go.
    pub(super) fn follow(&self, route: &Route, tools: &Tools) {
        let pool = &route.pool;
        self.follow_pool(pool);
        let same = match (&*self.secure.borrow(), &route.back) {
            (Some(secure), Some(back)) => secure.is_of(back),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            let secure = |back| Rc::new(Secure::new(back, self.address().ip(), tools));
            *self.secure.borrow_mut() = route.back.as_ref().map(secure);
            self.close_idle();
        }
    }

    fn follow_pool(&self, pool: &Pool) {
        self.policy.set(pool.connections);
        let protocol = self.protocol.replace(pool.protocol) == pool.protocol;
        if self.http2.replace(pool.http2) != pool.http2 || !protocol {
            self.close_idle();
        }
    }

    /// How its connections are made over TLS. None: they do without.
    pub(crate) fn secure(&self) -> Option<Rc<Secure>> {
        self.secure.borrow().as_ref().map(Rc::clone)
    }

    /// Whether its connections are made over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure.borrow().is_some()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.key.address
    }

    /// Whether it has nothing to give to a request now.
    pub(super) fn is_full(&self) -> bool {
        self.idle.borrow().is_empty()
            && self.backend.slots.is_full()
            && !self.conns.borrow().iter().any(|conn| conn.has_room())
    }

    /// An idle connection, or a place for a new one; for whoever needs a new one, an idle one makes room.
    #[inline]
    pub(super) fn lease(&self, terms: Terms) -> Option<Leased> {
        if terms.stream {
            if let Some(place) = self.take_place() {
                return Some(Leased::Stream(place));
            }
        } else if !terms.fresh_only
            && let Some(connection) = self.take_idle(terms.once)
        {
            return Some(Leased::Idle(connection));
        }
        self.backend
            .slots
            .take()
            .or_else(|| Some(self.take_oldest()?.slot))
            .map(Leased::Fresh)
    }

    /// An idle connection that has not ended, as far as the runtime knows; with `ask`, as far as the system knows, at
    /// the price of a call.
    #[inline]
    fn take_idle(&self, ask: bool) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, .. }) = idle.pop_back() {
            self.cell.idle.sub(1);
            if connection.is_quiet(ask) {
                return Some(connection);
            }
        }
        None
    }

    /// A stream's place on a connection: on one that is there, else on one that is being made.
    fn take_place(&self) -> Option<Place> {
        let conns = self.conns.borrow();
        let ready = conns.iter().filter(|conn| conn.is_ready());
        { ready }
            .find_map(Conn::take_place)
            .or_else(|| conns.iter().find_map(Conn::take_place))
    }

    pub(super) fn add_conn(&self, conn: &Rc<Conn>) {
        self.conns.borrow_mut().push(Rc::clone(conn));
    }

    pub(super) fn remove_conn(&self, conn: &Rc<Conn>) {
        self.conns.borrow_mut().retain(|other| !Rc::ptr_eq(other, conn));
    }

    /// Whether connections to it may be begun and kept.
    pub(crate) fn takes_new(&self) -> bool {
        !self.gone.get() && self.backend.word().takes_new()
    }

    /// One that was made in advance, or for several, could not be made: the next in advance waits.
    pub(super) fn failed(&self, now: Instant) {
        let failures = match self.chill.get() {
            // Those begun together fail together: that is one failure.
            Some((failures, until)) if now < until => failures,
            Some((failures, _)) => failures.saturating_add(1),
            None => 1,
        };
        self.chill.set(Some((failures, now + rest_after(failures))));
    }

    /// Makes room for a connection of another worker, as far as that is possible without a request's harm: an idle one
    /// is closed; with `busy`, one of HTTP/2 gets no more streams, unless one is going already.
    pub(super) fn make_room(&self, busy: bool) -> bool {
        if self.take_oldest().is_some() {
            return true;
        }
        let chosen = {
            let conns = self.conns.borrow();
            if conns.iter().any(|conn| conn.is_leaving()) {
                return true;
            }
            let ready = conns.iter().filter(|conn| conn.is_ready());
            let least = ready.min_by_key(|conn| conn.places());
            least.filter(|conn| busy || conn.places() == 0).map(Rc::clone)
        };
        chosen.inspect(|conn| conn.leave()).is_some()
    }

    /// The connection that has been idle for longest.
    pub(super) fn take_oldest(&self) -> Option<Connection> {
        let Idle { connection, .. } = self.idle.borrow_mut().pop_front()?;
        self.cell.idle.sub(1);
        Some(connection)
    }

    /// Takes a connection that may serve again.
    #[inline]
    pub(super) fn put_idle(&self, connection: Connection, now: Instant) {
        if self.gone.get() || !self.backend.word().takes_new() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.policy.get().idle_max as usize {
            idle.push_back(Idle {
                connection,
                since: now,
            });
            self.cell.idle.add(1);
        }
    }

    /// Connections that a request would find without waiting or making one.
    pub(super) fn idle(&self) -> usize {
        let streams = self.conns.borrow().iter().filter(|conn| conn.has_room()).count();
        self.idle.borrow().len() + streams
    }

    /// Whether this worker, or another, has idle ones.
    pub(super) fn is_idle_at(&self, worker: usize) -> bool {
        self.backend.cells.get(worker).is_some_and(|c| c.idle.get() > 0)
    }

    /// Closes what was idle for too long, what has ended, and what a lowered bound has no room for.
    pub(super) fn expire(&self, now: Instant) {
        let policy = self.policy.get();
        {
            let mut idle = self.idle.borrow_mut();
            let before = idle.len();
            let young = |i: &Idle| now.saturating_duration_since(i.since) < policy.idle_timeout;
            idle.retain_mut(|i| young(i) && i.connection.stream.is_quiet());
            while idle.len() > policy.idle_max as usize || !idle.is_empty() && self.backend.slots.is_over() {
                idle.pop_front();
            }
            self.cell.idle.sub((before - idle.len()) as u64);
        }
        self.expire_conns(now);
    }

    fn expire_conns(&self, now: Instant) {
        if self.conns.borrow().is_empty() {
            return;
        }
        let policy = self.policy.get();
        let all: Vec<_> = self.conns.borrow().iter().map(Rc::clone).collect();
        let mut kept = 0;
        for conn in all {
            let Some(since) = conn.idle_since() else { continue };
            let old = now.saturating_duration_since(since) >= policy.idle_timeout;
            if old || kept >= policy.idle_max || self.backend.slots.is_over() {
                conn.leave();
            } else {
                kept += 1;
            }
        }
    }

    /// Closes what is idle; connections of HTTP/2 get no more streams, and close with their last.
    pub(super) fn close_idle(&self) {
        {
            let mut idle = self.idle.borrow_mut();
            self.cell.idle.sub(idle.len() as u64);
            idle.clear();
        }
        let all: Vec<_> = self.conns.borrow().iter().map(Rc::clone).collect();
        all.iter().for_each(|conn| conn.leave());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close_idle();
    }
}

impl Connection {
    /// Whether it has neither ended nor said anything while it was idle, which it has no right to; with `ask`, as far as
    /// the system knows, at the price of a call.
    #[inline]
    pub(crate) fn is_quiet(&mut self, ask: bool) -> bool {
        self.stream.is_quiet() && (!ask || self.stream.is_silent())
    }
}
