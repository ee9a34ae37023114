//! HTTP/2 connections of a worker to a backend: who has streams on which, and when one is made, left or closed.
//!
//! ```text
//!            dial                 SETTINGS came                    GOAWAY, idle, drain, too many
//!   (place) ──────▶ Connecting ─────────────────▶ Ready ─────────────────────────────────────▶ Leaving
//!                      │                            │                                            │
//!                      └── refused, late, no h2 ────┴── cut, silent, broken protocol ────────────┴──▶ Ended
//! ```
//!
//! A connection is driven by a task of its own (`task`); requests only ever touch their streams (`stream`). It counts as
//! connected when the backend's SETTINGS have come: then it is known that HTTP/2 is spoken there, how many streams it
//! takes, and nothing of a request is lost where it is not. Who needs a stream meanwhile waits with a place on it.
//!
//! A connection holds one of the backend's places (`slots`) until its socket is closed. It is asked for streams in the
//! order of age, so that what is too much falls idle and goes.

mod io;
pub(crate) mod message;
mod stream;
mod task;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use h2::client::SendRequest;

use self::stream::Chunk;
pub(crate) use self::{
    stream::{Frames, Tunneled},
    task::dial,
};
use crate::{reason::Trouble, stats::BackendCell, world::Backend};

/// A connection, as those see it that have streams on it.
pub(crate) struct Conn {
    backend: Arc<Backend>,
    cell: Arc<BackendCell>,
    state: Cell<State>,
    /// By which streams are begun. None: no more are.
    sender: RefCell<Option<SendRequest<Chunk>>>,
    /// Streams, and those that wait for it.
    places: Cell<u32>,
    /// Streams that were begun and have not ended.
    begun: Cell<u32>,
    /// Streams it may have, whatever the backend would take.
    most: u32,
    /// Bytes of a response that may be under way.
    window: u32,
    /// Some stream was begun on it before.
    used: Cell<bool>,
    /// Since when it has no streams; None while it has.
    idle: Cell<Option<Instant>>,
    /// It was closed because it was silent.
    silent: Cell<bool>,
    /// Those that wait until it is connected.
    wakers: RefCell<Vec<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Ready,
    /// Its streams go on; it gets no more.
    Leaving,
    /// Why, if it never was connected.
    Ended(Option<Trouble>),
}

impl Conn {
    fn new(backend: &Arc<Backend>, cell: &Arc<BackendCell>, most: u32, window: u32) -> Self {
        Self {
            backend: Arc::clone(backend),
            cell: Arc::clone(cell),
            state: Cell::new(State::Connecting),
            sender: RefCell::new(None),
            places: Cell::new(0),
            begun: Cell::new(0),
            most,
            window,
            used: Cell::new(false),
            idle: Cell::new(None),
            silent: Cell::new(false),
            wakers: RefCell::default(),
        }
    }

    /// A place for a stream, if there is one.
    pub(super) fn take_place(self: &Rc<Self>) -> Option<Place> {
        (self.places.get() < self.room()).then(|| self.place())
    }

    fn place(self: &Rc<Self>) -> Place {
        self.places.set(self.places.get() + 1);
        self.set_idle(None);
        Place {
            conn: Rc::clone(self),
            begun: false,
        }
    }

    /// Streams that it may have at once now.
    fn room(&self) -> u32 {
        match (self.state.get(), &*self.sender.borrow()) {
            (State::Connecting, _) => self.most,
            (State::Ready, Some(sender)) => u32::try_from(sender.current_max_send_streams())
                .unwrap_or(u32::MAX)
                .min(self.most),
            (State::Ready, None) | (State::Leaving | State::Ended(_), _) => 0,
        }
    }

    /// Whether another stream would find a place.
    pub(super) fn has_room(&self) -> bool {
        self.places.get() < self.room()
    }

    /// Whether it is there, and takes streams.
    pub(super) fn is_ready(&self) -> bool {
        self.state.get() == State::Ready
    }

    /// Whether it takes no more streams, and is not closed yet.
    pub(super) fn is_leaving(&self) -> bool {
        self.state.get() == State::Leaving
    }

    /// Since when it has had no streams, if it has none and takes some.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle.get()
    }

    pub(super) fn places(&self) -> u32 {
        self.places.get()
    }

    /// Begins no more streams; closes when the last has ended. One that is being made is made first.
    pub(super) fn leave(&self) {
        if self.state.get() == State::Ready {
            self.state.set(State::Leaving);
        }
        self.set_idle(None);
        // Its drop wakes the task, which closes the connection in order once there are no streams.
        let sender = self.sender.borrow_mut().take();
        drop(sender);
    }

    fn set_idle(&self, idle: Option<Instant>) {
        match (self.idle.replace(idle).is_some(), idle.is_some()) {
            (false, true) => self.cell.idle.add(1),
            (true, false) => self.cell.idle.sub(1),
            (true, true) | (false, false) => {}
        }
    }

    fn wake_all(&self) {
        for waker in self.wakers.borrow_mut().drain(..) {
            waker.wake();
        }
        self.backend.slots.call();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.set_idle(None);
    }
}

/// One stream's place on a connection. Dropping it gives the place up, and tells those that wait.
pub(crate) struct Place {
    conn: Rc<Conn>,
    begun: bool,
}

/// What became of a wait for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Joined {
    /// A stream can be begun.
    Ready,
    /// The backend takes fewer streams than came to wait, or has changed its mind.
    Full,
    /// The backend can't be had.
    Failed(Trouble),
}

impl Place {
    /// Waits until the connection is there.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<Joined> {
        let conn = &self.conn;
        Poll::Ready(match conn.state.get() {
            State::Connecting => {
                let mut wakers = conn.wakers.borrow_mut();
                if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            State::Ready if conn.begun.get() < conn.room() => Joined::Ready,
            State::Ready | State::Leaving | State::Ended(None) => Joined::Full,
            State::Ended(Some(trouble)) => Joined::Failed(trouble),
        })
    }

    /// Whether the connection has served before.
    pub(crate) fn is_used(&self) -> bool {
        self.conn.used.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.places.set(conn.places.get().saturating_sub(1));
        if self.begun {
            conn.begun.set(conn.begun.get().saturating_sub(1));
        }
        if conn.places.get() == 0 && conn.state.get() == State::Ready {
            conn.set_idle(Some(Instant::now()));
        }
        conn.backend.slots.call();
    }
}
