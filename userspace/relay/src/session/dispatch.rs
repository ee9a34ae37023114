//! From a request to a connection that takes it: choose, take an idle connection or connect, else the next backend.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SendFlags};
use weir_core::balance::Tried;

use super::{Exchange, Interrupt, Session, client::Client, http, timeouts};
use crate::{
    fault::Fault,
    http1::head::Malformed,
    reason::{Cause, Trouble},
    stream::Socket,
    tls::Secure,
    upstream::{
        self, BackendSocket, Connection, Lease, Leased, Link, NoLease, Peer, Slot, Terms, Upstream, Wait,
        http2::{self, Frames, Joined, Place},
    },
};

/// Why a connection was not had.
enum NotHad {
    /// It has no room for the request after all.
    Full,
    Failed(Trouble),
}

impl<C: Client> Session<C> {
    /// Finds a connection for the request: `x.upstream`. Waits only to connect, or for a backend to come up or to have
    /// room.
    pub(super) async fn dispatch(&mut self, x: &mut Exchange) -> Result<(), Fault> {
        loop {
            let terms = Terms {
                // One that is a client's own is no other's.
                fresh_only: x.fresh_only || x.route.pool.is_private(),
                once: !x.idempotent,
                stream: x.route.pool.is_http2(),
            };
            if self.kept.is_some()
                && let Some(own) = self.take_kept(x)
            {
                let index = x.next.take().map(|(index, _)| index);
                x.attempts += 1;
                if let Some(index) = index {
                    self.address_to(x, index)?;
                }
                x.reused = true;
                x.phases.dialled(Duration::ZERO, Some(self.worker.clock.now()));
                x.upstream = Some(own);
                return Ok(());
            }
            let (leased, again) = match (x.slot.take(), x.next.take()) {
                (Some(slot), Some((index, peer))) => {
                    let how = Leased::Fresh(slot);
                    (Ok(Lease { index, peer, how }), true)
                }
                (None | Some(_), next) => {
                    x.attempts += 1;
                    (x.route.pool.lease(next, &x.tried, terms), x.failed.is_some())
                }
            };
            let lease = match leased {
                Ok(lease) => lease,
                Err(NoLease::Nobody) if x.failed.is_some() => {
                    return Err(x.failed.unwrap_or(Fault::NoBackend));
                }
                Err(NoLease::Nobody | NoLease::Wait) => Box::pin(self.wait_for_backend(x, terms)).await?,
            };
            let Lease { index, peer, how } = lease;
            self.address_to(x, index)?;
            if again {
                x.count_retry(&peer);
            }
            let failed = match how {
                Leased::Idle(connection) => {
                    x.reused = true;
                    x.phases.dialled(Duration::ZERO, Some(self.worker.clock.now()));
                    x.upstream = Some(Upstream::new(Link::Http1(connection), peer, true));
                    return Ok(());
                }
                how @ (Leased::Fresh(_) | Leased::Stream(_)) => Box::pin(self.obtain(x, peer, how)).await?,
            };
            let trouble = match failed {
                None => return Ok(()),
                // Another place, or another connection: nothing was tried.
                Some(NotHad::Full) => {
                    x.attempts -= 1;
                    continue;
                }
                Some(NotHad::Failed(trouble)) => trouble,
            };
            let retries = x.route.pool.retries();
            let tried = x.backend.is_none_or(|index| x.tried.insert(index));
            let fault = Fault::from(trouble);
            if !retries.on.connect || x.attempts >= retries.attempts || !tried {
                return Err(fault);
            }
            x.failed = Some(fault);
        }
    }

    /// Connects, or waits for a connection that others wait for as well.
    async fn obtain(
        &mut self,
        x: &mut Exchange,
        peer: Rc<Peer>,
        how: Leased,
    ) -> Result<Option<NotHad>, Fault> {
        match how {
            Leased::Fresh(slot) if x.route.pool.is_http2() => {
                let place = http2::dial(&x.route.pool, &peer, slot, false);
                self.join(x, peer, place).await
            }
            Leased::Fresh(slot) => self.connect(x, peer, slot).await,
            Leased::Stream(place) => self.join(x, peer, place).await,
            // It needs nothing more.
            Leased::Idle(connection) => {
                x.upstream = Some(Upstream::new(Link::Http1(connection), peer, true));
                Ok(None)
            }
        }
    }

    /// Writes the head anew if it is not the same for this backend.
    fn address_to(&self, x: &mut Exchange, index: usize) -> Result<(), Fault> {
        x.backend = Some(index);
        if x.written_for == Some(index) || !x.route.prepared.per_backend {
            return Ok(());
        }
        let route = Rc::clone(&x.route);
        let Some(http) = http(&route) else {
            return Err(Fault::Drained);
        };
        let body = x.out.split_off(x.head_out.min(x.out.len()));
        let raw = std::mem::take(&mut x.raw);
        x.out.clear();
        let written = raw.read(|parsed| match parsed {
            Some(parsed) => self.write_request(x, parsed, http, Some(index)),
            None => Err(Malformed::RequestLine),
        });
        x.raw = raw;
        x.out.extend_from_slice(&body);
        written.and_then(|written| written).map_err(Fault::Request)
    }

    /// Connects, and sends what goes at once. `Some`: why this backend can't be had.
    async fn connect(
        &mut self,
        x: &mut Exchange,
        peer: Rc<Peer>,
        slot: Slot,
    ) -> Result<Option<NotHad>, Fault> {
        let began = Instant::now();
        self.deadline.set(began, timeouts(&x.route).connect);
        x.sent = 0;
        let secure = peer.secure();
        let connected = match self.begin_connect(x, &peer).await? {
            Err(cause) => Err(cause.into()),
            Ok(stream) if secure.is_some() || x.route.pool.proxy().is_some() => {
                match self.announce(x, &peer, stream, secure.is_none()).await? {
                    Ok(stream) => Box::pin(self.secured(x, secure, stream)).await?,
                    Err(cause) => Err(cause.into()),
                }
            }
            // Where the handshake is quick it is over already, and the request can go out without waiting for it to
            // be announced.
            Ok(stream) => match rustix::net::send(&stream, &x.out, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    x.sent = n;
                    peer.cell.bytes_out.add(n as u64);
                    Ok(Socket::Backend(stream))
                }
                Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => {
                    let connected = self.connected(&stream).await?;
                    connected.map(|()| Socket::Backend(stream)).map_err(Trouble::from)
                }
                Err(error) => Err(upstream::connect_cause(&error.into()).into()),
            },
        };
        self.worker.clock.turn();
        let now = self.worker.clock.now();
        let took = now.saturating_duration_since(began);
        x.phases.dialled(took, connected.is_ok().then_some(now));
        if connected.is_ok() {
            x.route.pool.cell.connect.observe(took);
        }
        Ok(match connected {
            Ok(stream) => {
                peer.cell.connections.add(1);
                x.reused = false;
                let link = Link::Http1(Connection { stream, slot });
                x.upstream = Some(Upstream::new(link, peer, false));
                None
            }
            Err(trouble) => {
                peer.cell.error(trouble.cause);
                Some(NotHad::Failed(trouble))
            }
        })
    }

    /// Begins to connect, as the pool says.
    async fn begin_connect(&self, x: &Exchange, peer: &Peer) -> Result<Result<BackendSocket, Cause>, Fault> {
        let ends = (self.address, self.destination());
        let stop = |cx: &Context<'_>| match self.interrupted(cx)? {
            Interrupt::Late => Some(Ok(Cause::Local)),
            Interrupt::Cut => Some(Err(Fault::Drained)),
        };
        let pool = &x.route.pool;
        pool.begin_for(&self.worker.stock, peer, ends, stop).await
    }

    /// Waits until the connection that the request has a place on is there.
    async fn join(
        &mut self,
        x: &mut Exchange,
        peer: Rc<Peer>,
        place: Place,
    ) -> Result<Option<NotHad>, Fault> {
        let began = Instant::now();
        let connect = timeouts(&x.route).connect;
        // What takes too long is said by the connection's task: connecting, the TLS handshake, or the first SETTINGS.
        let most = match peer.is_secure() {
            true => connect.saturating_mul(3),
            false => connect,
        };
        self.deadline.set(began, most);
        x.sent = 0;
        let joined = poll_fn(|cx| match place.poll_ready(cx) {
            Poll::Ready(joined) => Poll::Ready(Ok(joined)),
            Poll::Pending => match self.interrupted(cx) {
                None => Poll::Pending,
                Some(Interrupt::Late) => Poll::Ready(Ok(Joined::Failed(Cause::TimeoutConnect.into()))),
                Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            },
        })
        .await?;
        self.worker.clock.turn();
        let now = self.worker.clock.now();
        let ready = joined == Joined::Ready;
        x.phases
            .dialled(now.saturating_duration_since(began), ready.then_some(now));
        Ok(match joined {
            Joined::Ready => {
                x.reused = place.is_used();
                let link = Link::Http2(Box::new(Frames::new(place)));
                x.upstream = Some(Upstream::new(link, peer, x.reused));
                None
            }
            Joined::Full => Some(NotHad::Full),
            // The connection's task has counted it.
            Joined::Failed(trouble) => Some(NotHad::Failed(trouble)),
        })
    }

    pub(super) async fn connected(&self, stream: &BackendSocket) -> Result<Result<(), Cause>, Fault> {
        poll_fn(|cx| match upstream::poll_connected(stream, cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => match self.interrupted(cx) {
                None => Poll::Pending,
                Some(Interrupt::Late) => Poll::Ready(Ok(Err(Cause::TimeoutConnect))),
                Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            },
        })
        .await
    }

    /// Makes the TLS handshake, if there is to be one.
    async fn secured(
        &self,
        x: &Exchange,
        secure: Option<Rc<Secure>>,
        stream: BackendSocket,
    ) -> Result<Result<Socket, Trouble>, Fault> {
        let Some(secure) = secure else {
            return Ok(Ok(Socket::Backend(stream)));
        };
        self.deadline.set(Instant::now(), timeouts(&x.route).connect);
        let mut securing = match secure.begin(stream) {
            Ok(securing) => securing,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let done = poll_fn(|cx| match securing.poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => match self.interrupted(cx) {
                None => Poll::Pending,
                Some(Interrupt::Late) => Poll::Ready(Ok(Err(Cause::TimeoutTls.into()))),
                Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            },
        });
        Ok(done.await?.map(|()| securing.into_socket()))
    }

    /// No backend may be used now, or all that may are full. Waits while one may come up before long or have room;
    /// where all are down, the client is told at once.
    async fn wait_for_backend(&mut self, x: &mut Exchange, terms: Terms) -> Result<Lease, Fault> {
        let wait = Wait {
            worker: &self.worker,
            deadline: &self.deadline,
            most: timeouts(&x.route).queue,
            tried: x.tried,
            terms,
            ahead: Cell::new(None),
        };
        let began = Instant::now();
        let pool = Rc::clone(&x.route.pool);
        let ended = wait.run(&pool, || self.client.is_broken()).await;
        self.worker.clock.turn();
        if let Some(ahead) = wait.ahead.get() {
            x.phases.waited(began.elapsed(), ahead, ended.is_ok());
        }
        match (ended, x.failed) {
            // What made it look for another says more than that there was none.
            (Err(Fault::NoBackend), Some(failed)) if x.tried != Tried::NONE => Err(failed),
            (ended, _) => ended,
        }
    }
}
