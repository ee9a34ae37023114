//! One client of an HTTP service: of HTTP/1 a connection, request after request until it ends.
//!
//! A request and its response (`exchange`, and what it takes to get a backend for it) know nothing of how the client
//! speaks: that is the type parameter, [`client::Client`].
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

mod begin;
mod client;
mod close;
mod dispatch;
mod downward;
mod exchange;
mod frames;
mod h1;
mod h2;
mod head;
mod private;
mod record;
mod retry;
mod rewrite;
mod send;
mod upward;

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Context,
    time::{Duration, Instant},
};

use weir_core::plan::{Http, Mode, Timeouts};

use crate::{
    accept::Accepted,
    caller::{Caller, Told},
    fault::Fault,
    http1::forwarded,
    timers::Deadline,
    tunnel,
    upstream::{Link, http2::Tunneled},
    worker::{Entrance, LocalRoute, Worker},
};

use client::Client;
pub(crate) use close::{linger, refuse};
pub(crate) use exchange::Held;
use exchange::{Done, Exchange};
use h1::H1;
use head::{Head, Turn};
pub(crate) use record::{record_handshake, record_null};

/// Who asks at an HTTP service: a client connection, or one stream of it.
struct Session<C> {
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    client: C,
    address: SocketAddr,
    address_text: forwarded::Client,
    /// What a proxy told of the connection.
    told: Option<Rc<Told>>,
    /// Its own connection to a backend, between two requests.
    kept: Option<Box<private::Kept>>,
    deadline: Deadline,
    /// Since when there is no request: the end of the last response, or the accept.
    since: Instant,
}

/// Serves a connection of an HTTP service to its end.
pub(crate) fn serve(
    worker: &Rc<Worker>,
    entrance: &Rc<Entrance>,
    accepted: Accepted,
) -> impl Future<Output = ()> + use<> {
    Session::new(worker, entrance, accepted).run()
}

/// The same of a connection whose TLS handshake is done. `h2`: HTTP/2 was agreed on.
pub(crate) fn serve_tls(
    worker: &Rc<Worker>,
    entrance: &Rc<Entrance>,
    accepted: Accepted,
    h2: bool,
) -> Pin<Box<dyn Future<Output = ()>>> {
    worker.clock.turn();
    let since = worker.clock.now();
    let Accepted {
        open, socket, caller, ..
    } = accepted;
    if !h2 {
        let accepted = Accepted {
            open,
            socket,
            caller,
            at: since,
        };
        return Box::pin(serve(worker, entrance, accepted));
    }
    let start = h2::Start {
        socket,
        open,
        caller,
        ahead: Vec::new(),
        made: 0,
        since,
    };
    Box::pin(h2::serve(Rc::clone(worker), Rc::clone(entrance), start))
}

/// What wakes a waiting connection but its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Interrupt {
    /// Its deadline has passed.
    Late,
    /// The drain's time has run out.
    Cut,
}

impl Session<H1> {
    fn new(worker: &Rc<Worker>, entrance: &Rc<Entrance>, accepted: Accepted) -> Self {
        let Accepted {
            open,
            socket,
            caller: Caller { address, told, .. },
            at: now,
        } = accepted;
        let deadline = worker.timers.deadline();
        if let Some(route) = entrance.route() {
            deadline.set(now, timeouts(&route).request_head);
        }
        Self {
            worker: Rc::clone(worker),
            entrance: Rc::clone(entrance),
            client: H1::new(socket, open),
            address,
            address_text: forwarded::Client::new(address.ip()),
            told,
            kept: None,
            deadline,
            since: now,
        }
    }

    /// Serves the connection to its end.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its argument twice: as it came, and as it is used; a block uses it where it lies"
    )]
    fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let mut turns = 0_u32;
            loop {
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(FAIR) {
                    // A client that never lets this wait must not keep the others from their turn.
                    tokio::task::yield_now().await;
                }
                match std::future::poll_fn(|cx| self.poll_head(cx)).await {
                    Head::Closed(why) => return self.record_null(why),
                    Head::Request(exchange) => match self.serve(exchange).await {
                        Next::Head => {}
                        Next::Close { linger: false } => return,
                        Next::Close { linger: true } => {
                            self.kept = None;
                            return Box::pin(self.linger()).await;
                        }
                    },
                    last @ (Head::Bad(_) | Head::Http2(_)) => {
                        // What follows may last, and asks nobody in HTTP/1.
                        self.kept = None;
                        return self.leave(last).await;
                    }
                }
            }
        }
    }

    /// What ends HTTP/1 on the connection, in a future of its own.
    fn leave(&mut self, last: Head) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        match last {
            Head::Bad(bad) => Box::pin(async move { self.reject(&bad).await }),
            Head::Http2(turn) => self.turn(*turn),
            Head::Closed(_) | Head::Request(_) => Box::pin(std::future::ready(())),
        }
    }

    /// Goes on in HTTP/2, with what is the connection's own.
    fn turn(&mut self, turn: Turn) -> Pin<Box<dyn Future<Output = ()>>> {
        let Turn { ahead, made } = turn;
        let Some((socket, open)) = self.client.take_parts() else {
            return Box::pin(std::future::ready(()));
        };
        let start = h2::Start {
            socket,
            open,
            caller: Caller {
                address: self.address,
                told: self.told.clone(),
                sni: None,
            },
            ahead,
            made,
            since: self.since,
        };
        Box::pin(h2::serve(
            Rc::clone(&self.worker),
            Rc::clone(&self.entrance),
            start,
        ))
    }
}

impl<C: Client> Session<C> {
    /// One request, from its parsed head to its end and its record.
    async fn serve(&mut self, mut exchange: Held) -> Next {
        let Some(x) = exchange.get() else {
            return Next::Close { linger: false };
        };
        if let Some(answer) = x.answer.take() {
            let next = Box::pin(self.answer(x, answer)).await;
            self.record(x, next == Next::Head);
            self.give_back(exchange);
            return next;
        }
        if x.ruled.is_some() {
            let next = Box::pin(self.answer_by_rule(x)).await;
            self.record(x, next == Next::Head);
            self.give_back(exchange);
            return next;
        }
        x.route.pool.budget.request(x.phases.whole());
        let done = loop {
            if let Err(fault) = self.dispatch(x).await {
                break Err(fault);
            }
            match std::future::poll_fn(|cx| self.poll_exchange(cx, x)).await {
                Err(fault) if self.tries_again(x, fault) => {}
                done => break done,
            }
        };
        let next = match done {
            Ok(Done::Response) => self.end_exchange(x),
            Ok(Done::Upgraded) => {
                let ended = Box::pin(self.tunnel(x)).await;
                self.worker.clock.turn();
                x.end(ended);
                Next::Close { linger: false }
            }
            Err(fault) => Box::pin(self.fail(x, fault)).await,
        };
        self.record(x, next == Next::Head);
        self.since = self.worker.clock.now();
        self.give_back(exchange);
        next
    }

    /// After a `101`, or the success of `CONNECT`: bytes both ways.
    async fn tunnel(&mut self, x: &mut Exchange) -> Option<Fault> {
        let upstream = x.upstream.take()?;
        let peer = Rc::clone(&upstream.peer);
        let timeout = timeouts(&x.route).tunnel;
        let tunnel = tunnel::Tunnel {
            worker: &self.worker,
            deadline: &self.deadline,
            timeout,
            service: &x.route.cell,
            backend: &peer.cell,
        };
        let early = self.client.take_ahead();
        let to_client = x.down.pending.take();
        let (link, client) = (upstream.close(), &mut self.client);
        let (ended, bytes) = match link {
            Link::Http1(mut connection) => tunnel.run(client, &mut connection.stream, early, to_client).await,
            Link::Http2(frames) => {
                let memory = self.worker.scratch.borrow().memory().clone();
                let mut tunneled = Tunneled { frames, memory };
                tunnel.run(client, &mut tunneled, early, to_client).await
            }
        };
        x.add_bytes(bytes);
        ended
    }

    /// Where the client connected to, as far as weir is told.
    fn server(&self) -> Option<SocketAddr> {
        let told = self.told.as_ref().and_then(|told| told.server);
        told.or_else(|| self.client.local_addr().ok())
    }

    /// Where the client's connection was going, if a transparent listener took it in.
    fn destination(&self) -> Option<SocketAddr> {
        self.told.as_ref()?.destination
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
        self.worker.is_ending() || self.entrance.is_closed()
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

/// Exchanges whose memory a worker keeps for the next.
const SPARE_EXCHANGES: usize = 64;

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

pub(crate) fn timeouts(route: &LocalRoute) -> Timeouts {
    match &route.route.service.mode {
        Mode::Http(http) => http.timeouts,
        Mode::Tcp(tcp) => tcp.timeouts,
        Mode::L4(_) => Timeouts {
            handshake: Duration::ZERO,
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

    fn size<F: Future>(_: impl FnOnce(Session<H1>) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle connection is its task: it must stay small (no buffer, no copy of the session in a nested future).
    #[test]
    fn a_connection_is_small() {
        let bytes = size(Session::run);
        assert!(bytes <= 488, "{bytes} bytes per connection");
    }
}
