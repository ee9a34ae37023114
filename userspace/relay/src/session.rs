//! One client connection of an HTTP service: request after request until it ends.
//!
//! ```text
//!  read head ──▶ dispatch ──▶ exchange ──▶ (kept) read head …
//!     │ bad        │ no backend  │ fault       (not kept) close
//!     ▼            ▼             ▼
//!   refuse ◀───────┴─────────────┘  own response, if nothing was sent yet
//! ```
//!
//! What is not on the path of every request is boxed where it is awaited, so that an idle connection's task does not
//! hold room for it.
//!
//! One task does all of it, on the worker's buffers. Reading a request, choosing a backend, writing the request and
//! trying the backend's answer happen within one poll wherever nothing blocks.

mod close;
mod dispatch;
mod downward;
mod exchange;
mod head;
mod send;
mod upward;

use std::{
    net::SocketAddr,
    rc::Rc,
    task::Context,
    time::{Duration, Instant},
};

use weir_core::plan::{Http, Mode, Timeouts};

use crate::{
    fault::Fault,
    http1::{forwarded::Client, head::HeadScan},
    stream::Socket,
    timers::Deadline,
    tunnel,
    worker::{Entrance, LocalRoute, Open, Worker},
};

pub(crate) use close::refuse;
use exchange::{Done, Exchange};
use head::Head;

/// A client connection of an HTTP service.
pub(crate) struct Session {
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    client: Socket,
    address: SocketAddr,
    address_text: Client,
    deadline: Deadline,
    /// Bytes of the next request that came already: pipelined, or a head that is not whole.
    ahead: Vec<u8>,
    /// How far `ahead` was looked through for the end of a head.
    scan: HeadScan,
    /// `ahead` up to here was parsed in vain.
    parsed: usize,
    /// `ahead` was not looked at yet.
    unread: bool,
    /// When the first byte of the present head came.
    began: Option<Instant>,
    /// Requests begun on this connection.
    requests: u64,
    _open: Open,
}

/// What wakes a waiting connection but its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Interrupt {
    /// Its deadline has passed.
    Late,
    /// The drain's time has run out.
    Cut,
}

impl Session {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        entrance: &Rc<Entrance>,
        open: Open,
        client: Socket,
        address: SocketAddr,
        now: Instant,
    ) -> Self {
        let deadline = worker.timers.deadline();
        if let Some(route) = entrance.route() {
            deadline.set(now, timeouts(&route).request_head);
        }
        Self {
            worker: Rc::clone(worker),
            entrance: Rc::clone(entrance),
            client,
            address,
            address_text: Client::new(address.ip()),
            deadline,
            ahead: Vec::new(),
            scan: HeadScan::default(),
            parsed: 0,
            unread: false,
            began: None,
            requests: 0,
            _open: open,
        }
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(mut self) {
        let mut turns = 0_u32;
        loop {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(FAIR) {
                // A client that never lets this wait must not keep the others from their turn.
                tokio::task::yield_now().await;
            }
            match std::future::poll_fn(|cx| self.poll_head(cx)).await {
                Head::Closed => return,
                Head::Request(exchange) => match self.serve(exchange).await {
                    Next::Head => {}
                    Next::Close { linger: false } => return,
                    Next::Close { linger: true } => return Box::pin(self.linger()).await,
                },
                Head::Bad(bad) => return Box::pin(self.reject(&bad)).await,
            }
        }
    }

    /// One request, from its parsed head to its end and its record.
    async fn serve(&mut self, mut exchange: Box<Exchange>) -> Next {
        let x = &mut *exchange;
        let done = loop {
            if let Err(fault) = self.dispatch(x).await {
                break Err(fault);
            }
            match std::future::poll_fn(|cx| self.poll_exchange(cx, x)).await {
                Err(fault) if x.may_retry(fault) => x.prepare_retry(),
                done => break done,
            }
        };
        let next = match done {
            Ok(Done::Response) => self.end_exchange(x),
            Ok(Done::Upgraded) => {
                let ended = Box::pin(self.tunnel(x)).await;
                x.end(ended);
                Next::Close { linger: false }
            }
            Err(fault) => Box::pin(self.fail(x, fault)).await,
        };
        self.record(x, next == Next::Head);
        self.give_back(exchange);
        next
    }

    /// After a `101`: bytes both ways.
    async fn tunnel(&mut self, x: &mut Exchange) -> Option<Fault> {
        let upstream = x.upstream.take()?;
        let timeout = timeouts(&x.route).tunnel;
        let tunnel = tunnel::Tunnel {
            worker: &self.worker,
            deadline: &self.deadline,
            timeout,
            service: &x.route.cell,
            backend: &upstream.peer.cell,
        };
        let early = std::mem::take(&mut self.ahead);
        let to_client = x.down.pending.take();
        let mut stream = upstream.stream;
        let (ended, bytes) = tunnel.run(&mut self.client, &mut stream, early, to_client).await;
        upstream.peer.cell.in_flight.sub(1);
        x.add_bytes(bytes);
        ended
    }

    /// To be asked whenever a socket would block: true for a reason to stop waiting. If false, the task is woken when
    /// that changes.
    fn interrupted(&self, cx: &Context<'_>) -> Option<Interrupt> {
        // The deadline first: it notes whom to wake.
        let late = self.deadline.passed(cx);
        if self.worker.cutting.get() {
            return Some(Interrupt::Cut);
        }
        late.then_some(Interrupt::Late)
    }

    /// Whether the connection may not serve another request.
    fn is_ending(&self) -> bool {
        self.worker.draining.get() || self.entrance.is_closed()
    }
}

/// What follows a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// The next request.
    Head,
    /// The end. With `linger`, the client may still be sending: an abrupt end could destroy what it was sent.
    Close { linger: bool },
}

/// Requests of one connection that are served without a look at the others.
const FAIR: u32 = 16;

/// How long a connection that is ending is still listened to, and for how many bytes, so that the client gets to read
/// what it was sent.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// The HTTP part of a service. A session is only ever made for an HTTP service, and stays with its name; should the
/// service have become another mode since, its connections end.
fn http(route: &LocalRoute) -> Option<&Http> {
    match &route.route.service.mode {
        Mode::Http(http) => Some(http),
        Mode::Tcp(_) | Mode::L4(_) => None,
    }
}

fn timeouts(route: &LocalRoute) -> Timeouts {
    match &route.route.service.mode {
        Mode::Http(http) => http.timeouts,
        Mode::Tcp(tcp) => tcp.timeouts,
        Mode::L4(_) => Timeouts {
            connect: Duration::ZERO,
            request_head: Duration::ZERO,
            client: Duration::ZERO,
            server: Duration::ZERO,
            keep_alive: Duration::ZERO,
            queue: Duration::ZERO,
            tunnel: Duration::ZERO,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: impl FnOnce(Session) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle connection is its task: it must stay small (no buffer, no copy of the session in a nested future).
    #[test]
    fn a_connection_is_small() {
        let bytes = size(Session::run);
        assert!(bytes <= 704, "{bytes} bytes per connection");
    }
}
