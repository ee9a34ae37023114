//! From a request to a connection that takes it: choose, take an idle connection or connect, else the next backend.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SendFlags};
use tokio::net::TcpStream;

use super::{Exchange, Interrupt, Session, head, http, timeouts};
use crate::{
    fault::Fault,
    reason::Cause,
    upstream::{self, Peer, Upstream},
};

/// Backends that one request is offered to.
const TRIES: u32 = 8;

impl Session {
    /// Finds a connection for the request: `x.upstream`. Waits only to connect, or for a backend to come up.
    pub(super) async fn dispatch(&mut self, x: &mut Exchange) -> Result<(), Fault> {
        let mut failed: Option<Cause> = None;
        loop {
            let chosen = match x.next.take() {
                Some(next) => Some(next),
                None => x.route.pool.choose(&mut x.tried),
            };
            let Some((index, peer)) = chosen else {
                match failed {
                    Some(cause) => return Err(Fault::Connect(cause)),
                    None => Box::pin(self.wait_for_backend(x)).await?,
                }
                continue;
            };
            self.address_to(x, index)?;
            if !x.fresh_only
                && let Some(stream) = peer.take_idle(!x.idempotent)
            {
                x.reused = true;
                x.connect_took = Some(Duration::ZERO);
                x.upstream = Some(Upstream::new(stream, peer, true));
                return Ok(());
            }
            match Box::pin(self.connect(x, &peer)).await? {
                Ok(stream) => {
                    x.reused = false;
                    x.upstream = Some(Upstream::new(stream, peer, false));
                    return Ok(());
                }
                Err(cause) => {
                    peer.cell.error(cause);
                    failed = Some(cause);
                    x.retries += 1;
                    if x.retries >= TRIES {
                        return Err(Fault::Connect(cause));
                    }
                    x.route.cell.retries.add(1);
                }
            }
        }
    }

    /// Writes the head anew if it is not the same for this backend.
    fn address_to(&self, x: &mut Exchange, index: usize) -> Result<(), Fault> {
        x.backend = Some(index);
        if x.written_for == Some(index) || x.raw.is_empty() {
            return Ok(());
        }
        let route = Rc::clone(&x.route);
        let Some(http) = http(&route) else {
            return Err(Fault::Drained);
        };
        let body = x.out.split_off(x.head_out.min(x.out.len()));
        let raw = std::mem::take(&mut x.raw);
        x.out.clear();
        let written = head::reparse(&raw, |parsed| self.write_request(x, parsed, http, Some(index)));
        x.raw = raw;
        x.out.extend_from_slice(&body);
        written.map_err(Fault::Request)
    }

    /// Connects, and sends what goes at once. `Err` inside: why this backend can't be had.
    async fn connect(&mut self, x: &mut Exchange, peer: &Peer) -> Result<Result<TcpStream, Cause>, Fault> {
        let began = Instant::now();
        self.deadline.set(began, timeouts(&x.route).connect);
        x.sent = 0;
        let connected = match upstream::begin_connect(peer.address()) {
            Err(cause) => Err(cause),
            // Where the handshake is quick it is over already, and the request can go out without waiting for it to
            // be announced.
            Ok(stream) => match rustix::net::send(&stream, &x.out, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    x.sent = n;
                    peer.cell.bytes_out.add(n as u64);
                    Ok(stream)
                }
                Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => {
                    self.connected(&stream).await?.map(|()| stream)
                }
                Err(error) => Err(upstream::connect_cause(&error.into())),
            },
        };
        x.connect_took = Some(began.elapsed());
        if connected.is_ok() {
            peer.cell.connections.add(1);
        }
        Ok(connected)
    }

    async fn connected(&self, stream: &TcpStream) -> Result<Result<(), Cause>, Fault> {
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

    /// No backend may be used now. Waits while one may come up before long; where all are down, the client is told at
    /// once.
    async fn wait_for_backend(&self, x: &Exchange) -> Result<(), Fault> {
        let worker = Rc::clone(&self.worker);
        let until = Instant::now() + timeouts(&x.route).queue;
        self.deadline.set(Instant::now(), timeouts(&x.route).queue);
        loop {
            // Listening begins before looking, so that no change is missed.
            let mut changed = pin!(worker.changed.notified());
            changed.as_mut().enable();
            if x.route.pool.is_usable() {
                return Ok(());
            }
            if !x.route.pool.may_come_up() || Instant::now() >= until {
                return Err(Fault::NoBackend);
            }
            let woken = poll_fn(|cx| match changed.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => match self.interrupted(cx) {
                    None => Poll::Pending,
                    interrupt => Poll::Ready(interrupt),
                },
            });
            match woken.await {
                None => {}
                Some(Interrupt::Late) => return Err(Fault::NoBackend),
                Some(Interrupt::Cut) => return Err(Fault::Drained),
            }
        }
    }
}
