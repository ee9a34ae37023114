//! A connection that speaks HTTP/2: takes requests from it, one task each, and decides when it ends.
//!
//! | it ends | how |
//! |---|---|
//! | idle for `timeouts.keep_alive`, or a head takes longer than `timeouts.request_head` | GOAWAY, then closed |
//! | weir drains, or its service goes | GOAWAY; requests under way are finished |
//! | connections are eased out, and nothing was asked for `SILENCE` | the same |
//! | what came of bodies and their backends have not taken is more than may be held | GOAWAY with `ENHANCE_YOUR_CALM`; requests end as `limit-memory` |
//! | more offences than allowed | GOAWAY with `ENHANCE_YOUR_CALM`; requests end as `client-flood` |
//! | a rule of HTTP/2 is broken | GOAWAY with its code, by the watch or the `h2` crate |

mod stream;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use h2::{
    FlowControl, Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use weir_core::plan::{ClientHttp2, Http};

pub(super) use self::stream::Unsent;
use self::stream::{Active, Counted, stream};
use super::{Chunk, H2, Session, io::Io};
use crate::{
    caller::{Caller, Told},
    fault::Fault,
    http1::{forwarded, head::Malformed},
    http2::{PREFACE, request::Received, upgrade, watch::Watch},
    scratch::{Pending, Share},
    session::{LINGER, begin::Bad, close::linger, http, record},
    stream::{Socket, Stream},
    timers::Deadline,
    tls::TlsFacts,
    worker::{Entrance, LocalRoute, Open, SILENCE, Worker},
};

/// Requests that are taken in a row before their tasks get their turn.
const FAIR: u32 = 32;

/// Bytes of responses that the connection holds for one stream.
const SEND_BUFFER: usize = 256 << 10;

/// Streams that were reset before anybody took them; beyond it the `h2` crate ends the connection.
const RESET_STREAMS: usize = 64;

/// The answer to an `Upgrade: h2c` that is followed.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// How a connection came to HTTP/2.
pub(in crate::session) struct Start {
    pub(in crate::session) socket: Socket,
    pub(in crate::session) open: Open,
    pub(in crate::session) caller: Caller,
    /// What is to be read first: the client's preface, or what stands for it after an upgrade.
    pub(in crate::session) ahead: Vec<u8>,
    /// Bytes of `ahead` that the client did not send: after an upgrade.
    pub(in crate::session) made: usize,
    pub(in crate::session) since: Instant,
}

/// What the streams of a connection share.
pub(super) struct Conn {
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    address: SocketAddr,
    address_text: forwarded::Client,
    /// What a proxy told of the connection.
    told: Option<Rc<Told>>,
    /// The address that the client connected to.
    pub(super) local: Option<SocketAddr>,
    /// What its TLS handshake came to.
    pub(super) tls: Option<Rc<TlsFacts>>,
    watch: Rc<RefCell<Watch>>,
    deadline: Deadline,
    /// Streams whose tasks run.
    active: Cell<u32>,
    /// A request was taken.
    asked: Cell<bool>,
    /// Pieces of responses that the client has not taken yet, of streams whose tasks have ended as well.
    unsent: Cell<u32>,
    /// Since when there is no stream, or no such piece has gone.
    since: Cell<Instant>,
    /// What ended it, if it did not end in order.
    ended: Cell<Option<Fault>>,
    /// Nothing comes or goes any more.
    closed: Cell<bool>,
    /// Of the streams whose tasks run: what has come of their bodies and was not taken.
    bodies: RefCell<HashMap<u32, FlowControl>>,
    /// All of that, as of the last look.
    held: RefCell<Option<Box<Share>>>,
    counted: Counted,
    /// Last: the connection counts as open while one of its streams runs.
    _open: Open,
}

impl Conn {
    /// What ended the connection, if it did not end in order.
    pub(super) fn ended(&self) -> Option<Fault> {
        self.ended.get()
    }

    /// Whether the client has reset a stream that has begun, or is gone altogether.
    pub(super) fn has_lost(&self, stream: h2::StreamId) -> bool {
        self.closed.get() || !self.watch.borrow().is_live(stream.as_u32())
    }

    /// A stream is reset for a fault of the client that its own task records.
    pub(super) fn blame(&self, stream: h2::StreamId) {
        self.watch.borrow_mut().blame(stream.as_u32());
    }

    /// When the connection is to be looked at, whatever happens on it.
    fn due(&self, http: &Http) -> Option<(Instant, Duration)> {
        let timeouts = &http.timeouts;
        match (self.watch.borrow().head_since(), self.active.get()) {
            (Some(since), _) => Some((since, timeouts.request_head)),
            (None, 0) if self.unsent.get() > 0 => Some((self.since.get(), timeouts.client)),
            (None, 0) if self.asked.get() => Some((self.since.get(), timeouts.keep_alive)),
            (None, 0) if self.worker.easing.get() => {
                Some((self.since.get(), timeouts.request_head.min(SILENCE)))
            }
            (None, 0) => Some((self.since.get(), timeouts.request_head)),
            (None, _) => None,
        }
    }
}

/// Serves a connection of HTTP/2 to its end.
pub(in crate::session) async fn serve(worker: Rc<Worker>, entrance: Rc<Entrance>, start: Start) {
    let Some(route) = entrance.route() else { return };
    let Some(http) = http(&route) else { return };
    let Start {
        socket,
        open,
        caller: Caller { address, told, .. },
        ahead,
        made,
        since,
    } = start;
    let now = worker.clock.now();
    let watch = Rc::new(RefCell::new(Watch::new(PREFACE.len(), http.http2.offences, now)));
    let conn = Rc::new(Conn {
        deadline: worker.timers.deadline(),
        address,
        address_text: forwarded::Client::new(address.ip()),
        told,
        local: socket.local_addr().ok(),
        tls: socket.tls().cloned(),
        watch: Rc::clone(&watch),
        active: Cell::new(0),
        unsent: Cell::new(0),
        asked: Cell::new(false),
        since: Cell::new(since),
        ended: Cell::new(None),
        closed: Cell::new(false),
        bodies: RefCell::default(),
        held: RefCell::default(),
        counted: Counted::new(&route.cell),
        worker: Rc::clone(&worker),
        entrance,
        _open: open,
    });
    let mut socket = socket;
    let ahead = match made {
        0 => Some(ahead),
        _ if conn.switch(&mut socket, http).await => conn.settle(&mut socket, http, ahead, made).await,
        _ => None,
    };
    let Some(ahead) = ahead else { return };
    let socket = Rc::new(RefCell::new(socket));
    let io = Io {
        transport: Rc::clone(&socket),
        worker,
        watch,
        ahead,
        at: 0,
    };
    let builder = builder(http);
    let mut handshake = Box::pin(builder.handshake::<_, Chunk>(io));
    let shaken = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            let within = http.timeouts.request_head;
            let is_silent = || made == 0 && socket.borrow().is_untouched();
            let over = conn.worker.is_over(cx, &conn.deadline, since, within, is_silent);
            match over {
                Some(_) => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    });
    let mut connection = match shaken.await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            conn.record_end(&error);
            return conn.linger(&socket).await;
        }
        None => return,
    };
    drop(handshake);
    // From here on a drain finds the connection, whatever it waits for.
    conn.deadline.set(conn.worker.clock.now(), FAR);
    let mut going = Going::default();
    poll_fn(|cx| conn.poll(cx, &mut connection, &mut going)).await;
    drop(connection);
    conn.closed.set(true);
    // Also after an end in order: what the client still says would destroy what it has not read yet.
    conn.linger(&socket).await;
}

fn builder(http: &Http) -> h2::server::Builder {
    let ClientHttp2 {
        streams,
        window,
        connection_window,
        ..
    } = http.http2;
    // The crate counts 32 bytes of its own for each field (RFC 9113 section 6.5.2); what is over our limit by our count
    // is answered, what is over this is not even kept.
    let list = http
        .limits
        .head
        .saturating_add(32 * u32::from(http.limits.headers));
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .initial_window_size(window)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        // Counted by `Watch`, which forgives.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(streams as usize)
        .enable_connect_protocol();
    builder
}

/// How far the end of a connection is.
#[derive(Default)]
struct Going {
    /// A GOAWAY was sent, and by when it has to be over if nothing is under way.
    away: bool,
    by: Option<Instant>,
    /// What the deadline was set to last.
    set: Option<(Instant, Duration)>,
}

impl Conn {
    fn poll(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        connection: &mut Connection<Io<Socket>, Chunk>,
        going: &mut Going,
    ) -> Poll<()> {
        self.worker.clock.turn();
        let mut taken = 0;
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.begin(request, respond);
                    taken += 1;
                    if taken >= FAIR {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.record_unseen();
                    self.record_end(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    self.record_unseen();
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
        }
        self.record_unseen();
        let now = self.worker.clock.now();
        let full = self.account().is_err();
        if let Some((fault, reason)) = self.offence(full) {
            self.end(fault);
            self.watch.borrow_mut().forgive();
            connection.abrupt_shutdown(reason);
            going.away = true;
            going.by = Some(now + LINGER);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.worker.cutting.get() {
            return Poll::Ready(());
        }
        self.poll_time(cx, connection, going, now)
    }

    /// Has what came of bodies and was not taken count as held by the worker. It is looked at whenever the connection's task
    /// runs: that is when data comes, and when the client is told that it may send as much again as was taken.
    ///
    /// # Errors
    /// As [`Scratch::account`](crate::scratch::Scratch::account).
    fn account(&self) -> io::Result<()> {
        let came = self.watch.borrow_mut().take_data();
        let held = &mut *self.held.borrow_mut();
        if !came && held.is_none() {
            return Ok(());
        }
        let bodies = self.bodies.borrow();
        let bytes = bodies.values().map(FlowControl::used_capacity).sum();
        self.worker.scratch.borrow().account(held, bytes)
    }

    /// That much of a body was taken, or is not wanted any more.
    pub(super) fn holds_less(&self, bytes: usize) {
        if let Some(held) = &mut *self.held.borrow_mut() {
            held.lower(bytes);
        }
    }

    /// What the client's frames are to end the connection for; `full`: or what they bring, which may not be held.
    fn offence(&self, full: bool) -> Option<(Fault, Reason)> {
        let watch = self.watch.borrow();
        match (self.ended.get(), watch.broken()) {
            (Some(_), _) => None,
            (None, Some(code)) => Some((Fault::Request(Malformed::Frame), Reason::from(code))),
            (None, None) if watch.is_over() => Some((Fault::Flood, Reason::ENHANCE_YOUR_CALM)),
            (None, None) => full.then_some((Fault::Memory, Reason::ENHANCE_YOUR_CALM)),
        }
    }

    /// What is due by the clock.
    fn poll_time(
        &self,
        cx: &mut Context<'_>,
        connection: &mut Connection<Io<Socket>, Chunk>,
        going: &mut Going,
        now: Instant,
    ) -> Poll<()> {
        let route = self.entrance.route();
        let http = route.as_deref().and_then(http);
        let is_ending = self.worker.is_ending() || self.entrance.is_closed() || http.is_none();
        // One that has not asked anything yet may have its first request on the way.
        let waits = self.active.get() == 0 && !self.asked.get() && http.is_some() && !self.was_eased(now);
        if is_ending && !waits && !std::mem::replace(&mut going.away, true) {
            connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        let due = match (going.away, http) {
            (true, Some(http))
                if self.active.get() == 0 && self.unsent.get() > 0 && self.ended.get().is_none() =>
            {
                going.by = None;
                Some((self.since.get(), http.timeouts.client))
            }
            // A client that does not say goodbye is not waited for.
            (true, _) if self.active.get() == 0 => {
                let by = *going.by.get_or_insert(now + LINGER);
                Some((by, Duration::ZERO))
            }
            (true, _) => {
                if self.ended.get().is_none() {
                    going.by = None;
                }
                None
            }
            (false, None) => None,
            (false, Some(http)) => self.due(http),
        };
        if due != going.set {
            going.set = due;
            let (from, after) = due.unwrap_or((now, FAR));
            let at = from + after;
            self.deadline.set(now, at.saturating_duration_since(now));
        }
        if !self.deadline.passed(cx) {
            return Poll::Pending;
        }
        going.set = None;
        cx.waker().wake_by_ref();
        if due.is_none() {
            return Poll::Pending;
        }
        if going.away {
            return Poll::Ready(());
        }
        going.away = true;
        if self.watch.borrow().head_since().is_some() || !self.asked.get() {
            self.end(Fault::HeadTimeout);
            connection.abrupt_shutdown(Reason::NO_ERROR);
        } else {
            connection.graceful_shutdown();
        }
        Poll::Pending
    }

    /// Whether the time for a first request is over because connections are eased out.
    fn was_eased(&self, now: Instant) -> bool {
        let spent = now.saturating_duration_since(self.since.get());
        self.worker.easing.get() && spent >= SILENCE && self.watch.borrow().head_since().is_none()
    }

    /// Tells the client that its connection turns.
    async fn switch(&self, socket: &mut Socket, http: &Http) -> bool {
        let mut pending = Pending::from_vec(SWITCH.to_vec(), 0);
        poll_fn(|cx| match pending.poll(cx, socket, &mut 0) {
            Poll::Ready(done) => Poll::Ready(done.is_ok()),
            Poll::Pending => match self.is_late(cx, http) || self.worker.cutting.get() {
                true => Poll::Ready(false),
                false => Poll::Pending,
            },
        })
        .await
    }

    /// Waits for the client's own preface and settings after a switch, and answers with what is to be read in place of
    /// all of it. There must be one frame of settings, because each is acknowledged, and the client has sent one.
    async fn settle(
        &self,
        socket: &mut Socket,
        http: &Http,
        mut ahead: Vec<u8>,
        made: usize,
    ) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            loop {
                let own = ahead.get(made..).unwrap_or_default();
                match upgrade::joined(ahead.get(..made).unwrap_or_default(), own) {
                    Ok(Some(joined)) => return Poll::Ready(Some(joined)),
                    Ok(None) => {}
                    Err(upgrade::NoPreface) => {
                        self.end(Fault::Request(Malformed::Frame));
                        return Poll::Ready(None);
                    }
                }
                let mut room = [0; 1024];
                match socket.poll_recv(cx, &mut room) {
                    Poll::Ready(Ok(n)) if n > 0 => ahead.extend_from_slice(room.get(..n).unwrap_or_default()),
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending => match self.is_late(cx, http) || self.worker.cutting.get() {
                        true => return Poll::Ready(None),
                        false => return Poll::Pending,
                    },
                }
            }
        })
        .await
    }

    /// Lets the client read why the connection ends.
    async fn linger(&self, socket: &RefCell<Socket>) {
        let mut socket = socket.replace(Socket::Lost);
        linger(&self.worker, &self.deadline, &mut socket).await;
    }

    /// Whether the time for the client's settings is over.
    fn is_late(&self, cx: &Context<'_>, http: &Http) -> bool {
        if self.deadline.has_passed() {
            return true;
        }
        let (since, now) = (self.since.get(), self.worker.clock.now());
        let at = since + http.timeouts.request_head;
        self.deadline.set(now, at.saturating_duration_since(now));
        self.deadline.passed(cx)
    }

    /// A request came: it gets a task of its own.
    fn begin(self: &Rc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Chunk>) {
        let id = respond.stream_id().as_u32();
        self.watch.borrow_mut().begin(id);
        let Some(route) = self.entrance.route() else {
            respond.send_reset(Reason::REFUSED_STREAM);
            self.watch.borrow_mut().end(id);
            return;
        };
        self.asked.set(true);
        if self.worker.has_all_streams() {
            self.watch.borrow_mut().end(id);
            route.cell.requests.add(1);
            self.record_fault(&route, Fault::LimitTotal);
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            // A client that is gone does not need it.
            let _ = respond.send_response(head, true);
            return;
        }
        let (parts, mut body) = request.into_parts();
        let active = Active::new(self, id, &mut body);
        let ids = &self.worker.ids;
        let received = Received::new(parts, body.is_end_stream(), || ids.borrow_mut().bytes());
        let memory = self.worker.scratch.borrow().memory().clone();
        let key = received.websocket_key().map(str::to_owned);
        let session = Session {
            worker: Rc::clone(&self.worker),
            entrance: Rc::clone(&self.entrance),
            client: H2::new(self, memory, body, respond, key),
            address: self.address,
            address_text: self.address_text.clone(),
            told: self.told.clone(),
            kept: None,
            deadline: self.worker.timers.deadline(),
            since: self.worker.clock.now(),
        };
        tokio::task::spawn_local(stream(session, active, route, received));
    }

    /// Notes what ends the connection. The first counts.
    fn end(&self, fault: Fault) {
        if self.ended.get().is_none() {
            self.ended.set(Some(fault));
            if let Some(route) = self.entrance.route() {
                self.record_fault(&route, fault);
            }
        }
    }

    /// The connection has ended with an error of HTTP/2, or of its transport.
    fn record_end(&self, error: &h2::Error) {
        if error.is_library() {
            self.end(match error.reason() {
                Some(Reason::ENHANCE_YOUR_CALM) => Fault::Flood,
                _ => Fault::Request(Malformed::Frame),
            });
        }
    }

    /// Requests that the `h2` crate has refused.
    fn record_unseen(&self) {
        let unseen = self.watch.borrow_mut().take_unseen();
        let Some(route) = self.entrance.route().filter(|_| unseen > 0) else {
            return;
        };
        for _ in 0..unseen {
            route.cell.requests.add(1);
            self.record_fault(&route, Fault::Request(Malformed::Message));
        }
    }

    fn record_fault(&self, route: &Rc<LocalRoute>, fault: Fault) {
        let bad = Bad {
            route: Rc::clone(route),
            fault,
            began: None,
            bytes: 0,
            line: None,
            to_head: false,
            counted: true,
            id: self.worker.fresh_id(route),
        };
        let now = self.worker.clock.now();
        record::record_bad(&self.worker, self.address, now, &bad, None, 0);
    }
}

/// As good as never.
const FAR: Duration = Duration::from_secs(86_400);
