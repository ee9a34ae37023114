//! Bytes both ways: TCP services, and what follows a `101`.
//!
//! One task moves both directions on the worker's buffer. Each direction ends by itself (half-close): what one side
//! ends is ended on the other once all before it was sent. A side that breaks off breaks the other off.

mod dial;

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use weir_core::{balance::Tried, plan::Mode};

use dial::Dial;

use crate::{
    accept::Accepted,
    access::RecordMode,
    caller::Caller,
    fault::Fault,
    phases::Phases,
    reason::{Cause, Reason},
    scratch::{HEADROOM, Pending, ReadSize, Scratch},
    stats::{BackendCell, ServiceCell},
    stream::{Socket, Stream},
    timers::Deadline,
    tls::TlsFacts,
    upstream::Link,
    worker::{AtPool, End, LocalRoute, Worker},
};

/// Reads of one direction in a row before others get their turn.
const FAIR: u32 = 16;

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
    /// What was read can't be kept.
    Memory,
}

impl Tunnel<'_> {
    /// Moves bytes until both directions have ended. `early` goes to the backend first, `to_client` to the client.
    /// Answers with what ended it if it did not end in order, and the bytes to the backend and to the client.
    pub(crate) async fn run(
        &self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
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
        client: &mut impl Stream,
        backend: &mut impl Stream,
        up: &mut Way,
        down: &mut Way,
    ) -> Poll<Option<Fault>> {
        let mut turns = 0;
        let mut moved = false;
        // A direction that waits is woken when it can go on: nothing that the other one does changes that.
        let (mut up_goes, mut down_goes) = (true, true);
        loop {
            let scratch = &mut *self.worker.scratch.borrow_mut();
            let (before_up, before_down) = (up.bytes, down.bytes);
            let stepped = match up_goes {
                true => up.step(cx, scratch, client, backend),
                false => Ok(false),
            };
            up_goes = match stepped {
                Ok(got_on) => got_on,
                Err(broken) => {
                    client.reset_on_drop();
                    backend.reset_on_drop();
                    return Poll::Ready(Some(match broken {
                        Broken::From => Fault::ClientClosed,
                        Broken::To => Fault::Cut,
                        Broken::Memory => Fault::Memory,
                    }));
                }
            };
            let stepped = match down_goes {
                true => down.step(cx, scratch, backend, client),
                false => Ok(false),
            };
            down_goes = match stepped {
                Ok(got_on) => got_on,
                Err(broken) => {
                    client.reset_on_drop();
                    backend.reset_on_drop();
                    return Poll::Ready(Some(match broken {
                        Broken::From => Fault::Cut,
                        Broken::To => Fault::ClientClosed,
                        Broken::Memory => Fault::Memory,
                    }));
                }
            };
            self.count(up.bytes - before_up, down.bytes - before_down);
            if up.state == State::Ended && down.state == State::Ended {
                return Poll::Ready(None);
            }
            if !up_goes && !down_goes {
                break;
            }
            moved = true;
            turns += 1;
            if turns >= FAIR {
                if self.worker.cutting.get() {
                    return Poll::Ready(Some(Fault::Drained));
                }
                // It is the others' turn. Silence counts from here, not from before what has moved.
                self.deadline.extend(self.timeout);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if moved {
            self.deadline.extend(self.timeout);
        }
        if client.poll_gone(cx) {
            backend.reset_on_drop();
            return Poll::Ready(Some(Fault::ClientClosed));
        }
        if up.state == State::Ended && backend.poll_left(cx) {
            return Poll::Ready(None);
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
                // A side that has gone already needs no end.
                if to.poll_finish(cx).is_pending() {
                    return Ok(false);
                }
                self.state = State::Ended;
                return Ok(true);
            }
            State::Ended => return Ok(false),
        }
        let most = scratch.read_size(self.size);
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + most).unwrap_or_default();
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
            let kept = scratch.keep(HEADROOM + sent, HEADROOM + n);
            self.pending = Some(kept.map_err(|_| Broken::Memory)?);
        }
        Ok(true)
    }
}

/// Serves one connection of a TCP service.
pub(crate) async fn serve(worker: Rc<Worker>, route: Rc<LocalRoute>, accepted: Accepted) {
    let Accepted {
        open: _open,
        socket: mut client,
        caller,
        at,
    } = accepted;

    let Mode::Tcp(tcp) = &route.route.service.mode else {
        return;
    };
    let _at_pool = AtPool::new(&route.pool);
    let deadline = worker.timers.deadline();
    route.cell.requests.add(1);
    let mut dial = Dial {
        worker: &worker,
        client: &client,
        caller: &caller,
        route: &route,
        tcp,
        deadline: &deadline,
        backend: None,
        retries: 0,
        tried: Tried::NONE,
        phases: Phases::connection(at),
    };
    let dialled = dial.run().await;
    let Dial {
        backend,
        retries,
        tried,
        phases,
        ..
    } = dial;
    let (ended, bytes) = match dialled {
        Ok(upstream) => {
            let peer = Rc::clone(&upstream.peer);
            let tunnel = Tunnel {
                worker: &worker,
                deadline: &deadline,
                timeout: tcp.timeouts.tunnel,
                service: &route.cell,
                backend: &peer.cell,
            };
            let (ended, bytes) = match upstream.link {
                Link::Http1(mut connection) => {
                    tunnel
                        .run(&mut client, &mut connection.stream, Vec::new(), None)
                        .await
                }
                Link::Http2(_) => (None, (0, 0)),
            };
            peer.cell.in_flight.sub(1);
            if ended == Some(Fault::Cut) {
                peer.cell.error(Cause::Closed);
            }
            (ended, bytes)
        }
        Err(fault) => {
            // No bytes of a TCP service can say what is wrong: a reset says that something is.
            client.reset_on_drop();
            (Some(fault), (0, 0))
        }
    };
    let ended = Ended {
        backend,
        bytes,
        phases,
        reason: ended.map_or(Reason::Ok, |fault| fault.verdict().reason),
        detail: ended.and_then(Fault::detail),
        retries,
        moved: retries > 0 && !tried.is_empty(),
        tls: client.tls().cloned(),
    };
    record(&worker, &route, &caller, &ended);
}

/// A connection over a limit: reset, since no bytes of a TCP service can say what is wrong.
pub(crate) fn refuse(
    worker: &Rc<Worker>,
    route: &LocalRoute,
    mut client: Socket,
    address: SocketAddr,
    fault: Fault,
) {
    client.reset_on_drop();
    let ended = Ended {
        backend: None,
        bytes: (0, 0),
        phases: Phases::connection(Instant::now()),
        reason: fault.verdict().reason,
        detail: None,
        retries: 0,
        moved: false,
        tls: None,
    };
    route.cell.end(ended.reason);
    write(worker, route, &Caller::direct(address), &ended, Instant::now(), 0);
    // Who sees the reset finds it counted.
    drop(client);
}

/// A connection that no backend was asked for: counts it, and writes its record.
pub(crate) fn record_refused(
    worker: &Worker,
    route: &LocalRoute,
    client: &Caller,
    at: Instant,
    fault: Fault,
    bytes_out: u64,
) {
    let ended = Ended {
        backend: None,
        bytes: (0, bytes_out),
        phases: Phases::connection(at),
        reason: fault.verdict().reason,
        detail: fault.detail(),
        retries: 0,
        moved: false,
        tls: None,
    };
    record(worker, route, client, &ended);
}

struct Ended {
    backend: Option<usize>,
    /// From the client, and to it.
    bytes: (u64, u64),
    phases: Phases,
    reason: Reason,
    detail: Option<&'static str>,
    retries: u32,
    moved: bool,
    tls: Option<Rc<TlsFacts>>,
}

fn record(worker: &Worker, route: &LocalRoute, client: &Caller, ended: &Ended) {
    let now = Instant::now();
    let total = ended.phases.took(now);
    route.cell.end(ended.reason);
    route.cell.total.observe(total);
    if ended.backend.is_some() {
        route.pool.cell.total.observe(total);
    }
    let is_null = ended.bytes == (0, 0) && matches!(ended.reason, Reason::Ok | Reason::ClientClosed);
    if is_null {
        route.cell.null.add(1);
    }
    if !is_null || worker.records_null() {
        write(worker, route, client, ended, now, 1);
    }
}

/// `own` is what of the pool's load is its own.
fn write(worker: &Worker, route: &LocalRoute, client: &Caller, ended: &Ended, now: Instant, own: u64) {
    let end = End {
        mode: RecordMode::Tcp,
        route,
        client: client.address,
        backend: ended.backend,
        phases: &ended.phases,
        reason: ended.reason,
        now,
    };
    worker.record(&end, |record| {
        (record.bytes_in, record.bytes_out) = ended.bytes;
        record.sni = client.sni.as_deref();
        record.destination = client.destination();
        record.tls = ended.tls.as_deref();
        record.detail = ended.detail;
        record.retries = ended.retries;
        record.moved = ended.moved;
        record.load.pool = record.load.pool.saturating_sub(own);
    });
}
