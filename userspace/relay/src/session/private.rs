//! Connections to backends that are one client's alone, because they begin with its PROXY header, come from its address, or
//! lead to where it wanted to go.
//!
//! Such a connection is kept by the client's session between its requests, not by the worker. As long as its backend may be
//! used the session's requests go there.

use std::{
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use super::{Exchange, Interrupt, Session, client::Client};
use crate::{
    announce::{self, Known},
    fault::Fault,
    reason::Cause,
    upstream::{self, BackendSocket, Connection, Link, LocalPool, Peer, Upstream},
};

/// A client's own connection to a backend, between two requests.
pub(super) struct Kept {
    pool: Rc<LocalPool>,
    /// The backend's place in the pool.
    index: usize,
    peer: Rc<Peer>,
    /// None: it was taken out.
    connection: Option<Connection>,
    since: Instant,
    most: Duration,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.peer.cell.idle.sub(1);
    }
}

impl<C: Client> Session<C> {
    /// The backend that the client has a connection of its own to, if it may be used for the pool.
    pub(super) fn kept_at(&self, pool: &Rc<LocalPool>) -> Option<(usize, Rc<Peer>)> {
        let kept = self.kept.as_ref().filter(|kept| Rc::ptr_eq(&kept.pool, pool))?;
        let usable = kept.peer.takes_new()
            && self.worker.clock.now().saturating_duration_since(kept.since) < kept.most;
        usable.then(|| (kept.index, Rc::clone(&kept.peer)))
    }

    /// Takes the client's own connection for a request that goes to its backend. One that is not used for this request is
    /// closed: the request may be about to wait for the very place that it holds.
    pub(super) fn take_kept(&mut self, x: &Exchange) -> Option<Upstream> {
        let usable_at = self.kept_at(&x.route.pool).map(|(index, _)| index);
        let mut kept = self.kept.take()?;
        let (index, _) = x.next.as_ref().filter(|_| !x.fresh_only && x.slot.is_none())?;
        let mut connection = kept.connection.take()?;
        let usable = usable_at == Some(*index) && connection.is_quiet(!x.idempotent);
        let peer = Rc::clone(&kept.peer);
        usable.then(|| Upstream::new(Link::Http1(connection), peer, true))
    }

    /// Keeps a connection for the client's next request.
    pub(super) fn keep(&mut self, x: &Exchange, upstream: Upstream, now: Instant) {
        let peer = Rc::clone(&upstream.peer);
        let Link::Http1(connection) = upstream.close() else {
            return;
        };
        let (Some(index), Some(most)) = (x.backend, x.route.pool.keeps_own()) else {
            return;
        };
        peer.cell.idle.add(1);
        self.kept = Some(Box::new(Kept {
            pool: Rc::clone(&x.route.pool),
            index,
            peer,
            connection: Some(connection),
            since: now,
            most,
        }));
    }

    /// Waits for the connection, and sends its header, if it begins with one, and `with_request` what goes at once of the
    /// request.
    pub(super) async fn announce(
        &self,
        x: &mut Exchange,
        peer: &Peer,
        mut stream: BackendSocket,
        with_request: bool,
    ) -> Result<Result<BackendSocket, Cause>, Fault> {
        if let Err(cause) = self.connected(&stream).await? {
            return Ok(Err(cause));
        }
        let mut bytes = self.header(x);
        let header = bytes.len();
        if with_request {
            bytes.extend_from_slice(&x.out);
        }
        let mut sent = 0;
        let begun = poll_fn(
            |cx| match upstream::poll_begun(&mut stream, cx, &bytes, &mut sent, header) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => match self.interrupted(cx) {
                    None => Poll::Pending,
                    Some(Interrupt::Late) => Poll::Ready(Ok(Err(Cause::TimeoutConnect))),
                    Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
                },
            },
        );
        let begun = begun.await?;
        peer.cell.bytes_out.add(sent as u64);
        x.sent = sent.saturating_sub(header);
        Ok(begun.map(|()| stream))
    }

    fn header(&self, x: &Exchange) -> Vec<u8> {
        let Some(out) = x.route.pool.proxy() else {
            return Vec::new();
        };
        let told = self.told.as_deref();
        let mut known = Known {
            client: self.address,
            server: self.server(),
            told,
            sni: None,
            tls: self.client.tls().map(|tls| &**tls),
            id: x.id.as_bytes(),
        };
        let fresh;
        if known.id.is_empty() && out.tlvs.unique_id {
            match told.and_then(|told| told.tlvs().unique_id) {
                Some(id) => known.id = id,
                None => {
                    fresh = self.worker.ids.borrow_mut().next(SystemTime::now());
                    known.id = fresh.as_bytes();
                }
            }
        }
        announce::header(out, &known)
    }
}
