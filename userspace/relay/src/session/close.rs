//! How requests and connections end: keeping the connection, responses of weir's own, lingering. What is counted and
//! written of them is `record`.

use std::{
    future::poll_fn,
    task::Poll,
    time::{Instant, SystemTime},
};

use super::{
    Exchange, Held, LINGER, LINGER_BYTES, Next, SPARE_EXCHANGES, Session, begin::Bad, client::Client, h1::H1,
    record::record_refused, rewrite, timeouts,
};
use crate::{
    fault::Fault,
    http1::{
        answer::Answer, response::Asked, template::Variables, version::Version, write::ClientConnection,
    },
    scratch::Pending,
    stream::{Socket, Stream},
    timers::Deadline,
    worker::{LocalRoute, Worker},
};

impl<C: Client> Session<C> {
    /// After a response that was relayed whole.
    pub(super) fn end_exchange(&mut self, x: &mut Exchange) -> Next {
        let now = self.worker.clock.now();
        x.phases.end(now);
        if let Some(upstream) = x.upstream.take() {
            if !x.may_keep_upstream() {
                upstream.close();
            } else if x.route.pool.is_private() {
                self.keep(x, upstream, now);
            } else {
                x.route.pool.release(upstream, now);
            }
        }
        if x.keep_alive {
            self.deadline.set(now, timeouts(&x.route).keep_alive);
            return Next::Head;
        }
        if x.down.close_delimited || x.end_announced {
            let linger = !x.end_announced && !x.is_read();
            return Next::Close { linger };
        }
        Next::Close { linger: true }
    }

    /// What weir itself answers, instead of a backend.
    pub(super) async fn answer(&mut self, x: &mut Exchange, answer: Answer) -> Next {
        let keeps = x.keep_alive && x.is_read() && !self.is_ending();
        let connection = C::told(keeps, x.version);
        let mut own = Vec::new();
        let vars = self.variables(&x.route, None, false);
        answer.write(
            &mut own,
            connection,
            SystemTime::now(),
            &x.route.prepared.response_rules,
            &vars,
        );
        self.send_answer(x, 200, own, keeps).await
    }

    /// After a fault: a response of weir's own if none has begun, else the connection breaks off, so that what the
    /// client has can't pass for the whole.
    pub(super) async fn fail(&mut self, x: &mut Exchange, fault: Fault) -> Next {
        let verdict = fault.verdict();
        x.fault = Some(fault);
        self.worker.clock.turn();
        if let Some(upstream) = x.upstream.take() {
            if let Some(cause) = verdict.cause {
                upstream.peer.cell.error(cause);
            }
            upstream.close();
        }
        let Some(status) = verdict.status.filter(|_| !x.is_answered() && C::answers(fault)) else {
            self.client
                .break_off(fault, x.is_answered() && x.down.close_delimited);
            x.phases.end(self.worker.clock.now());
            return Next::Close { linger: false };
        };
        let keeps = verdict.keep && x.keep_alive && x.is_read() && !self.is_ending();
        let connection = C::told(keeps, x.version);
        let to_head = x.method == Asked::Head;
        let own = self.own_response(&x.route, Some(x), &x.id, status, to_head, connection);
        self.send_answer(x, status, own, keeps).await
    }

    /// Sends a response of weir's own to a request that was read.
    pub(super) async fn send_answer(
        &mut self,
        x: &mut Exchange,
        status: u16,
        own: Vec<u8>,
        keeps: bool,
    ) -> Next {
        let before = x.take_client_pending();
        let sent = self.send_own(&x.route, before, own).await;
        x.bytes_out += sent.bytes;
        self.worker.clock.turn();
        let now = self.worker.clock.now();
        x.phases.end(now);
        if !sent.whole {
            return Next::Close { linger: false };
        }
        x.down.status = Some(status);
        if keeps {
            self.deadline.set(now, timeouts(&x.route).keep_alive);
            return Next::Head;
        }
        Next::Close { linger: true }
    }

    /// Says of a request that it could not be served. True: the client was told all of it.
    pub(super) async fn refuse(&mut self, bad: &Bad) -> bool {
        let route = &bad.route;
        let verdict = bad.fault.verdict();
        if !bad.counted {
            route.cell.requests.add(1);
        }
        let mut sent = OwnSent {
            bytes: 0,
            whole: false,
        };
        if let Some(status) = verdict.status.filter(|_| C::answers(bad.fault)) {
            let own = self.own_response(
                route,
                None,
                &bad.id,
                status,
                bad.to_head,
                C::told(false, Version::Http11),
            );
            self.deadline.set(Instant::now(), timeouts(route).client);
            sent = self.send_own(route, None, own).await;
        }
        if !sent.whole {
            self.client.break_off(bad.fault, false);
        }
        self.worker.clock.turn();
        let status = verdict.status.filter(|_| sent.whole);
        self.record_bad(bad, status, sent.bytes);
        sent.whole
    }

    async fn send_own(&mut self, route: &LocalRoute, before: Option<Pending>, own: Vec<u8>) -> OwnSent {
        let patience = timeouts(route).client;
        self.deadline.set(Instant::now(), patience);
        let mut bytes = 0;
        let mut whole = true;
        let mut own = Some(own);
        let mut next = before;
        while let Some(mut pending) = next.take().or_else(|| self.begin_own(own.take()?, &mut whole)) {
            let done = poll_fn(|cx| {
                let before = bytes;
                match pending.poll(cx, &mut self.client, &mut bytes) {
                    Poll::Ready(done) => Poll::Ready(done.is_ok()),
                    Poll::Pending => {
                        if bytes > before {
                            // A client that reads a large body slowly is not silent.
                            self.deadline.set(Instant::now(), patience);
                        }
                        match self.deadline.passed(cx) || self.worker.cutting.get() {
                            true => Poll::Ready(false),
                            false => Poll::Pending,
                        }
                    }
                }
            });
            whole = done.await;
            if !whole {
                break;
            }
        }
        route.cell.bytes_out.add(bytes);
        OwnSent { bytes, whole }
    }

    /// What is to be sent of a response of weir's own. None: the client can't be told.
    fn begin_own(&mut self, own: Vec<u8>, whole: &mut bool) -> Option<Pending> {
        let begun = self.client.begin_own(own);
        *whole = begun.is_ok();
        begun.ok()
    }

    /// Ends an exchange, and gives its memory back to the worker.
    pub(super) fn give_back(&self, mut held: Held) {
        if let Some(x) = held.get() {
            let out = std::mem::take(&mut x.out);
            self.worker.scratch.borrow_mut().give_back(out);
        }
        held.clear();
        let mut exchanges = self.worker.exchanges.borrow_mut();
        if exchanges.len() < SPARE_EXCHANGES {
            exchanges.push(held);
        }
    }
}

impl Session<H1> {
    /// A request that could not be served: says so, and ends the connection.
    pub(super) async fn reject(&mut self, bad: &Bad) {
        if self.refuse(bad).await {
            self.linger().await;
        }
    }

    pub(super) async fn linger(&mut self) {
        linger(&self.worker, &self.deadline, &mut self.client.socket).await;
    }
}

/// Ends this side, and listens for the other's end for a while: closing with bytes unread would be a reset, which can
/// destroy what the client has not read yet (RFC 9112 section 9.6).
pub(crate) async fn linger(worker: &Worker, deadline: &Deadline, socket: &mut Socket) {
    if socket.finish().is_err() {
        return;
    }
    deadline.set(Instant::now(), LINGER);
    let mut left = LINGER_BYTES;
    poll_fn(|cx| {
        loop {
            let scratch = &mut *worker.scratch.borrow_mut();
            match socket.poll_recv(cx, &mut scratch.buf) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(n)) => match left.checked_sub(n) {
                    Some(rest) => left = rest,
                    None => return Poll::Ready(()),
                },
                Poll::Pending => {
                    // The deadline first: it notes whom to wake.
                    let over = deadline.passed(cx) || worker.cutting.get();
                    return if over { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        }
    })
    .await;
}

struct OwnSent {
    bytes: u64,
    whole: bool,
}

/// A connection over a limit: told so as far as that goes without waiting, and closed.
pub(crate) fn refuse(
    worker: &Worker,
    route: &LocalRoute,
    mut client: Socket,
    address: std::net::SocketAddr,
    fault: Fault,
) {
    let verdict = fault.verdict();
    let id = worker.fresh_id(route);
    let vars = Variables {
        node: &route.route.node,
        service: &route.route.service,
        pool: route.pool_name(),
        client: address,
        server: None,
        tls: None,
        told_secure: false,
        backend: None,
        id: id.as_bytes(),
        request: None,
        rest: "",
        response: None,
    };
    let status = verdict.status.unwrap_or(503);
    let rules = &route.prepared.response_rules;
    let own = rewrite::fault_response(status, false, ClientConnection::Ends, rules, &vars);
    // What the client has sent already must be read, or closing would be a reset that destroys the response.
    let sent = client.send_and_drain(&own, &mut worker.scratch.borrow_mut().buf);
    let bytes = if sent { own.len() as u64 } else { 0 };
    record_refused(worker, route, address, fault, &id, sent.then_some(status), bytes);
}
