//! How requests and connections end: keeping the connection, responses of weir's own, lingering, the access record.

use std::{
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Instant, SystemTime},
};

use super::{Exchange, Interrupt, LINGER, LINGER_BYTES, Next, Session, head::Bad, timeouts};
use crate::{
    access::Record,
    fault::{self, Fault, Verdict},
    http1::{
        rules::Variables,
        write::{self, ClientConnection, Own},
    },
    reason::Reason,
    scratch::Pending,
    stream::{Socket, Stream},
    worker::{LocalRoute, Worker},
};

impl Session {
    /// After a response that was relayed whole.
    pub(super) fn end_exchange(&mut self, x: &mut Exchange) -> Next {
        let now = Instant::now();
        x.ended = Some(now);
        if let Some(upstream) = x.upstream.take() {
            if x.may_keep_upstream() {
                upstream.release(now);
            } else {
                upstream.close();
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

    /// After a fault: a response of weir's own if none has begun, else the connection breaks off, so that what the
    /// client has can't pass for the whole.
    pub(super) async fn fail(&mut self, x: &mut Exchange, fault: Fault) -> Next {
        let verdict = fault.verdict();
        x.fault = Some(fault);
        if let Some(upstream) = x.upstream.take() {
            if let Some(cause) = verdict.cause {
                upstream.peer.cell.error(cause);
            }
            upstream.close();
        }
        if x.is_answered() {
            if x.down.close_delimited {
                self.client.reset_on_drop();
            }
            x.ended = Some(Instant::now());
            return Next::Close { linger: false };
        }
        let Some(status) = verdict.status else {
            x.ended = Some(Instant::now());
            return Next::Close { linger: false };
        };
        let keeps = verdict.keep && x.keep_alive && x.is_read() && !self.is_ending();
        let connection = match (keeps, x.minor) {
            (false, _) => ClientConnection::Ends,
            (true, 0) => ClientConnection::StaysAloud,
            (true, _) => ClientConnection::Stays,
        };
        let own = self.own_response(&x.route, status, x.to_head, connection);
        let before = x.take_client_pending();
        let sent = self.send_own(&x.route, before, own).await;
        x.bytes_out += sent.bytes;
        let now = Instant::now();
        x.ended = Some(now);
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

    /// A request that could not be served: says so, and ends the connection.
    pub(super) async fn reject(&mut self, bad: &Bad) {
        let route = &bad.route;
        let (fault, began) = (bad.fault, bad.began);
        let verdict = fault.verdict();
        let started = began.unwrap_or_else(Instant::now);
        if !bad.counted {
            route.cell.requests.add(1);
        }
        let mut sent = OwnSent {
            bytes: 0,
            whole: false,
        };
        if let Some(status) = verdict.status {
            let own = self.own_response(route, status, bad.to_head, ClientConnection::Ends);
            self.deadline.set(Instant::now(), timeouts(route).client);
            sent = self.send_own(route, None, own).await;
        }
        let status = verdict.status.filter(|_| sent.whole);
        let took = started.elapsed();
        count(route, verdict, status, took);
        if let Some(log) = self.worker.log.borrow_mut().as_mut() {
            log.push(&Record {
                time: SystemTime::now(),
                service: route.route.service.name.as_str(),
                pool: route.pool.name().as_str(),
                backend: None,
                client: self.address,
                method: bad.line.as_ref().map(|(method, _)| method.as_slice()),
                target: bad.line.as_ref().map(|(_, target)| target.as_slice()),
                status,
                bytes_in: bad.bytes,
                bytes_out: sent.bytes,
                head: began.map(|_| took),
                connect: None,
                first_byte: None,
                total: Some(took),
                end: verdict.reason,
                detail: fault.detail(),
                retries: 0,
                keep_alive: false,
                reused: false,
            });
        }
        if sent.whole {
            self.linger().await;
        }
    }

    fn own_response(
        &self,
        route: &LocalRoute,
        status: u16,
        to_head: bool,
        connection: ClientConnection,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let vars = self.variables(route, None, false);
        let phrase = fault::phrase(status);
        let own = Own {
            status,
            phrase,
            to_head,
            connection,
            now: SystemTime::now(),
        };
        write::own(&mut out, &own, &route.response_rules, &vars);
        out
    }

    async fn send_own(&mut self, route: &LocalRoute, before: Option<Pending>, own: Vec<u8>) -> OwnSent {
        self.deadline.set(Instant::now(), timeouts(route).client);
        let mut bytes = 0;
        let mut whole = true;
        for mut pending in before.into_iter().chain([Pending::from_vec(own, 0)]) {
            let done = poll_fn(|cx| match pending.poll(cx, &mut self.client, &mut bytes) {
                Poll::Ready(done) => Poll::Ready(done.is_ok()),
                Poll::Pending => match self.deadline.passed(cx) || self.worker.cutting.get() {
                    true => Poll::Ready(false),
                    false => Poll::Pending,
                },
            });
            whole = done.await;
            if !whole {
                break;
            }
        }
        route.cell.bytes_out.add(bytes);
        OwnSent { bytes, whole }
    }

    /// Ends this side, and listens for the other's end for a while: closing with bytes unread would be a reset, which
    /// can destroy what the client has not read yet (RFC 9112 section 9.6).
    pub(super) async fn linger(&mut self) {
        if self.client.finish().is_err() {
            return;
        }
        self.deadline.set(Instant::now(), LINGER);
        let worker = Rc::clone(&self.worker);
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            loop {
                let scratch = &mut *worker.scratch.borrow_mut();
                match self.client.poll_recv(cx, &mut scratch.buf) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(n)) => match left.checked_sub(n) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(()),
                    },
                    Poll::Pending => match self.interrupted(cx) {
                        None => return Poll::Pending,
                        Some(Interrupt::Late | Interrupt::Cut) => return Poll::Ready(()),
                    },
                }
            }
        })
        .await;
    }

    /// Counts what became of a request, and writes its access record.
    pub(super) fn record(&self, x: &Exchange, keep_alive: bool) {
        let ended = x.ended.unwrap_or_else(Instant::now);
        let total = ended.saturating_duration_since(x.started);
        let reason = match x.fault {
            None => Reason::Ok,
            Some(fault) => fault.verdict().reason,
        };
        x.route.cell.end(reason);
        x.route.cell.total.observe(total);
        if let Some(status) = x.down.status {
            x.route.cell.response(status);
        }
        if let Some(log) = self.worker.log.borrow_mut().as_mut() {
            let line = x.line.as_ref();
            log.push(&Record {
                time: SystemTime::now()
                    .checked_sub(total)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                service: x.route.route.service.name.as_str(),
                pool: x.route.pool.name().as_str(),
                backend: x.backend.and_then(|index| x.route.pool.backend(index)),
                client: self.address,
                method: line.map(|(method, _)| method.as_slice()),
                target: line.map(|(_, target)| target.as_slice()),
                status: x.down.status,
                bytes_in: x.bytes_in,
                bytes_out: x.bytes_out,
                head: x.head_took,
                connect: x.connect_took,
                first_byte: x.first_byte,
                total: Some(total),
                end: reason,
                detail: x.fault.and_then(Fault::detail),
                retries: x.retries,
                keep_alive,
                reused: x.reused,
            });
        }
    }

    /// Gives an exchange's buffers back to the worker.
    pub(super) fn give_back(&self, x: Box<Exchange>) {
        self.worker.scratch.borrow_mut().give_back(x.out);
    }
}

struct OwnSent {
    bytes: u64,
    whole: bool,
}

fn count(route: &LocalRoute, verdict: Verdict, status: Option<u16>, took: std::time::Duration) {
    route.cell.end(verdict.reason);
    route.cell.total.observe(took);
    if let Some(status) = status {
        route.cell.response(status);
    }
}

/// A connection over the service's limit: told so as far as that goes without waiting, and closed.
pub(crate) fn refuse(worker: &Worker, route: &LocalRoute, mut client: Socket, address: std::net::SocketAddr) {
    let verdict = Fault::Limit.verdict();
    let mut own = Vec::with_capacity(256);
    let vars = Variables {
        node: &route.route.node,
        service: &route.route.service,
        client: address,
        server: None,
        backend: None,
    };
    let status = verdict.status.unwrap_or(503);
    let (phrase, rules) = (fault::phrase(status), &route.response_rules);
    let connection = ClientConnection::Ends;
    let response = Own {
        status,
        phrase,
        to_head: false,
        connection,
        now: SystemTime::now(),
    };
    write::own(&mut own, &response, rules, &vars);
    // What the client has sent already must be read, or closing would be a reset that destroys the response.
    let sent = client.send_and_drain(&own, &mut worker.scratch.borrow_mut().buf);
    count(route, verdict, sent.then_some(status), std::time::Duration::ZERO);
    if let Some(log) = worker.log.borrow_mut().as_mut() {
        log.push(&Record {
            time: SystemTime::now(),
            service: route.route.service.name.as_str(),
            pool: route.pool.name().as_str(),
            backend: None,
            client: address,
            method: None,
            target: None,
            status: sent.then_some(status),
            bytes_in: 0,
            bytes_out: if sent { own.len() as u64 } else { 0 },
            head: None,
            connect: None,
            first_byte: None,
            total: None,
            end: verdict.reason,
            detail: None,
            retries: 0,
            keep_alive: false,
            reused: false,
        });
    }
}
