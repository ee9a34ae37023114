//! Bytes both ways: TCP services, and what follows a `101`.
//!
//! One task moves both directions on the worker's buffer. Each direction ends by itself (half-close): what one side
//! ends is ended on the other once all before it was sent. A side that breaks off breaks the other off.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use tokio::net::TcpStream;
use weir_core::{
    balance::Tried,
    plan::{Mode, Tcp},
};

use crate::{
    access::Record,
    fault::Fault,
    reason::{Cause, Reason},
    scratch::{HEADROOM, Pending, ReadSize, Scratch},
    stats::{BackendCell, ServiceCell},
    stream::{Socket, Stream},
    timers::Deadline,
    upstream::{self, Peer},
    worker::{LocalRoute, Open, Worker},
};

/// Reads of one direction in a row before others get their turn.
const FAIR: u32 = 16;

/// Backends that one connection is offered to.
const TRIES: u32 = 8;

/// What a tunnel needs besides its two ends.
pub(crate) struct Tunnel<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) deadline: &'a Deadline,
    /// Silence in both directions that ends it.
    pub(crate) timeout: Duration,
    pub(crate) service: &'a ServiceCell,
    pub(crate) backend: &'a BackendCell,
}

/// One direction.
struct Way {
    pending: Option<Pending>,
    size: ReadSize,
    state: State,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Bytes come.
    Open,
    /// The sender has ended; the end is not passed on yet.
    Ending,
    /// The end is passed on.
    Ended,
}

/// Why a direction broke off.
enum Broken {
    From,
    To,
}

impl Tunnel<'_> {
    /// Moves bytes until both directions have ended. `early` goes to the backend first, `to_client` to the client.
    /// Answers with what ended it if it did not end in order, and the bytes to the backend and to the client.
    pub(crate) async fn run(
        &self,
        client: &mut Socket,
        backend: &mut TcpStream,
        early: Vec<u8>,
        to_client: Option<Pending>,
    ) -> (Option<Fault>, (u64, u64)) {
        let early = (!early.is_empty()).then(|| Pending::from_vec(early, 0));
        let mut up = Way {
            pending: early,
            size: ReadSize::START,
            state: State::Open,
            bytes: 0,
        };
        let mut down = Way {
            pending: to_client,
            size: ReadSize::START,
            state: State::Open,
            bytes: 0,
        };
        self.deadline.set(Instant::now(), self.timeout);
        let ended = poll_fn(|cx| self.poll(cx, client, backend, &mut up, &mut down)).await;
        (ended, (up.bytes, down.bytes))
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        client: &mut Socket,
        backend: &mut TcpStream,
        up: &mut Way,
        down: &mut Way,
    ) -> Poll<Option<Fault>> {
        let mut turns = 0;
        let mut moved = false;
        loop {
            let scratch = &mut *self.worker.scratch.borrow_mut();
            let (before_up, before_down) = (up.bytes, down.bytes);
            let got_on = match up.step(cx, scratch, client, backend) {
                Ok(got_on) => got_on,
                Err(broken) => {
                    client.reset_on_drop();
                    backend.reset_on_drop();
                    return Poll::Ready(Some(match broken {
                        Broken::From => Fault::ClientClosed,
                        Broken::To => Fault::Cut,
                    }));
                }
            };
            let also = match down.step(cx, scratch, backend, client) {
                Ok(got_on) => got_on,
                Err(broken) => {
                    client.reset_on_drop();
                    backend.reset_on_drop();
                    return Poll::Ready(Some(match broken {
                        Broken::From => Fault::Cut,
                        Broken::To => Fault::ClientClosed,
                    }));
                }
            };
            self.count(up.bytes - before_up, down.bytes - before_down);
            if up.state == State::Ended && down.state == State::Ended {
                return Poll::Ready(None);
            }
            if !got_on && !also {
                break;
            }
            moved = true;
            turns += 1;
            if turns >= FAIR {
                if self.worker.cutting.get() {
                    return Poll::Ready(Some(Fault::Drained));
                }
                // It is the others' turn. Silence counts from here, not from before what has moved.
                self.deadline.set(Instant::now(), self.timeout);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if moved {
            self.deadline.set(Instant::now(), self.timeout);
        }
        let late = self.deadline.passed(cx);
        if self.worker.cutting.get() {
            return Poll::Ready(Some(Fault::Drained));
        }
        if late {
            Poll::Ready(Some(Fault::TunnelTimeout))
        } else {
            Poll::Pending
        }
    }

    fn count(&self, up: u64, down: u64) {
        if up > 0 {
            self.backend.bytes_out.add(up);
            self.service.bytes_in.add(up);
        }
        if down > 0 {
            self.backend.bytes_in.add(down);
            self.service.bytes_out.add(down);
        }
    }
}

impl Way {
    /// One read and one write. True: it got on.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Result<bool, Broken> {
        if let Some(pending) = &mut self.pending {
            let before = self.bytes;
            return match pending.poll(cx, to, &mut self.bytes) {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = self.pending.take() {
                        pending.recycle(scratch);
                    }
                    Ok(true)
                }
                Poll::Ready(Err(_)) => Err(Broken::To),
                Poll::Pending => Ok(self.bytes > before),
            };
        }
        match self.state {
            State::Open => {}
            State::Ending => {
                self.state = State::Ended;
                // A side that has gone already needs no end.
                let _ = to.finish();
                return Ok(true);
            }
            State::Ended => return Ok(false),
        }
        let room = scratch
            .buf
            .get_mut(HEADROOM..HEADROOM + self.size.get())
            .unwrap_or_default();
        let n = match from.poll_recv(cx, room) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Broken::From),
            Poll::Pending => return Ok(false),
        };
        if n == 0 {
            self.state = State::Ending;
            return Ok(true);
        }
        let sent = match to.poll_send(cx, room.get(..n).unwrap_or_default()) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(_)) => return Err(Broken::To),
            Poll::Pending => 0,
        };
        self.bytes += sent as u64;
        self.size.adapt(n, sent == n);
        if sent < n {
            self.pending = Some(scratch.keep(HEADROOM + sent, HEADROOM + n));
        }
        Ok(true)
    }
}

/// Serves one connection of a TCP service.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    route: Rc<LocalRoute>,
    _open: Open,
    mut client: Socket,
    address: SocketAddr,
) {
    let Mode::Tcp(tcp) = &route.route.service.mode else {
        return;
    };
    let started = Instant::now();
    let deadline = worker.timers.deadline();
    route.cell.requests.add(1);
    let mut dial = Dial {
        worker: &worker,
        route: &route,
        tcp,
        deadline: &deadline,
        backend: None,
        retries: 0,
    };
    let (ended, bytes, connect) = match dial.run().await {
        Ok((mut stream, peer)) => {
            let connect = started.elapsed();
            peer.cell.requests.add(1);
            peer.cell.in_flight.add(1);
            let tunnel = Tunnel {
                worker: &worker,
                deadline: &deadline,
                timeout: tcp.timeouts.tunnel,
                service: &route.cell,
                backend: &peer.cell,
            };
            let (ended, bytes) = tunnel.run(&mut client, &mut stream, Vec::new(), None).await;
            peer.cell.in_flight.sub(1);
            if ended == Some(Fault::Cut) {
                peer.cell.error(Cause::Closed);
            }
            (ended, bytes, Some(connect))
        }
        Err(fault) => {
            // No bytes of a TCP service can say what is wrong: a reset says that something is.
            client.reset_on_drop();
            (Some(fault), (0, 0), None)
        }
    };
    let (backend, retries) = (dial.backend, dial.retries);
    let total = started.elapsed();
    let reason = ended.map_or(Reason::Ok, |fault| fault.verdict().reason);
    route.cell.end(reason);
    route.cell.total.observe(total);
    record(
        &worker,
        &route,
        address,
        &Ended {
            backend,
            bytes,
            connect,
            total,
            reason,
            retries,
        },
    );
}

/// A connection over the service's limit: just closed.
pub(crate) fn refuse(worker: &Rc<Worker>, route: &LocalRoute, address: SocketAddr) {
    let reason = Fault::Limit.verdict().reason;
    route.cell.end(reason);
    let ended = Ended {
        backend: None,
        bytes: (0, 0),
        connect: None,
        total: Duration::ZERO,
        reason,
        retries: 0,
    };
    record(worker, route, address, &ended);
}

struct Ended {
    backend: Option<usize>,
    bytes: (u64, u64),
    connect: Option<Duration>,
    total: Duration,
    reason: Reason,
    retries: u32,
}

fn record(worker: &Worker, route: &LocalRoute, client: SocketAddr, ended: &Ended) {
    if let Some(log) = worker.log.borrow_mut().as_mut() {
        log.push(&Record {
            time: SystemTime::now()
                .checked_sub(ended.total)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            service: route.route.service.name.as_str(),
            pool: route.pool.name().as_str(),
            backend: ended.backend.and_then(|index| route.pool.backend(index)),
            client,
            method: None,
            target: None,
            status: None,
            bytes_in: ended.bytes.0,
            bytes_out: ended.bytes.1,
            head: None,
            connect: ended.connect,
            first_byte: None,
            total: Some(ended.total),
            end: ended.reason,
            detail: None,
            retries: ended.retries,
            keep_alive: false,
            reused: false,
        });
    }
}

/// Finding a backend for a TCP connection.
struct Dial<'a> {
    worker: &'a Rc<Worker>,
    route: &'a LocalRoute,
    tcp: &'a Tcp,
    deadline: &'a Deadline,
    backend: Option<usize>,
    retries: u32,
}

impl Dial<'_> {
    async fn run(&mut self) -> Result<(TcpStream, Rc<Peer>), Fault> {
        let mut tried = Tried::NONE;
        let mut failed = None;
        loop {
            let Some((index, peer)) = self.route.pool.choose(&mut tried) else {
                match failed {
                    Some(cause) => return Err(Fault::Connect(cause)),
                    None => self.wait_for_backend().await?,
                }
                continue;
            };
            self.backend = Some(index);
            match self.connect(&peer).await? {
                Ok(stream) => {
                    peer.cell.connections.add(1);
                    return Ok((stream, peer));
                }
                Err(cause) => {
                    peer.cell.error(cause);
                    failed = Some(cause);
                    self.retries += 1;
                    if self.retries >= TRIES {
                        return Err(Fault::Connect(cause));
                    }
                    self.route.cell.retries.add(1);
                }
            }
        }
    }

    async fn connect(&self, peer: &Peer) -> Result<Result<TcpStream, Cause>, Fault> {
        self.deadline.set(Instant::now(), self.tcp.timeouts.connect);
        let stream = match upstream::begin_connect(peer.address()) {
            Ok(stream) => stream,
            Err(cause) => return Ok(Err(cause)),
        };
        let connected = poll_fn(|cx| match upstream::poll_connected(&stream, cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => {
                let late = self.deadline.passed(cx);
                if self.worker.cutting.get() {
                    Poll::Ready(Err(Fault::Drained))
                } else if late {
                    Poll::Ready(Ok(Err(Cause::TimeoutConnect)))
                } else {
                    Poll::Pending
                }
            }
        });
        Ok(connected.await?.map(|()| stream))
    }

    async fn wait_for_backend(&self) -> Result<(), Fault> {
        self.deadline.set(Instant::now(), self.tcp.timeouts.queue);
        loop {
            // Listening begins before looking, so that no change is missed.
            let mut changed = pin!(self.worker.changed.notified());
            changed.as_mut().enable();
            if self.route.pool.is_usable() {
                return Ok(());
            }
            if !self.route.pool.may_come_up() {
                return Err(Fault::NoBackend);
            }
            poll_fn(|cx| {
                if changed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                let late = self.deadline.passed(cx);
                if self.worker.cutting.get() {
                    return Poll::Ready(Err(Fault::Drained));
                }
                if late {
                    Poll::Ready(Err(Fault::NoBackend))
                } else {
                    Poll::Pending
                }
            })
            .await?;
        }
    }
}
