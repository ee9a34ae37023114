//! When a request is sent again, and where.
//!
//! Three rules, from the safest:
//!
//! - A connection could not be made: nothing was sent, so any request goes to the next backend (`dispatch`).
//! - A kept connection had ended as it was used: a fresh one to the same backend, if nothing was taken of the request,
//!   or doing it twice is the same (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
//! - The backend failed to answer, or answered what the pool does not take for an answer: another backend, if the
//!   request is idempotent or none of it was sent, and as far as the budget goes. What an HTTP/2 backend says it has not
//!   looked at (`REFUSED_STREAM`, streams that its GOAWAY leaves out; RFC 9113 section 8.7) counts as not sent.
//!
//! Nothing is sent again whose body is not at hand any more, or whose response has begun.

use std::{rc::Rc, time::Instant};

use super::{Exchange, Session, client::Client};
use crate::{fault::Fault, http1::head::Malformed, reason::Cause, upstream::Peer};

/// How often a request goes back to a backend that says it has not looked at it.
const BOUNCES: u32 = 2;

/// In access records: another try was due, but the budget was used up.
const DENIED: &str = "retry budget used up";

impl<C: Client> Session<C> {
    /// Whether the request shall go out again because of a fault; it is made ready for that if so.
    pub(super) fn tries_again(&self, x: &mut Exchange, fault: Fault) -> bool {
        if x.may_go_to_the_same(fault) {
            x.go_to_the_same(Cause::Stale, fault);
            return true;
        }
        let on = &x.route.pool.retries().on;
        let wanted = match fault {
            Fault::Unprocessed => return self.was_not_processed(x),
            Fault::ClosedEarly
            | Fault::BackendAlert(_)
            | Fault::Reset(_)
            | Fault::Response(Malformed::Frame) => on.closed && !x.down.any,
            Fault::ResponseTimeout => on.timeout && !x.down.any,
            // It was asked for already: see `wants_another`.
            Fault::Status(_) => {
                x.go_to_another(fault);
                return true;
            }
            Fault::Request(_)
            | Fault::HeadTimeout
            | Fault::ClientTimeout
            | Fault::ClientClosed
            | Fault::BodyTooLarge
            | Fault::Flood
            | Fault::Proxy(_)
            | Fault::ProxyCut
            | Fault::ProxyTimeout
            | Fault::ProxyUnexpected
            | Fault::Hello(_)
            | Fault::HelloCut
            | Fault::HelloTimeout
            | Fault::HelloUnrouted
            | Fault::Limit
            | Fault::LimitTotal
            | Fault::Memory
            | Fault::Loop
            | Fault::NoBackend
            | Fault::QueueFull
            | Fault::QueueTimeout
            | Fault::Connect(..)
            | Fault::BackendTimeout
            | Fault::Cut
            | Fault::Response(_)
            | Fault::TunnelTimeout
            | Fault::Tls(..)
            | Fault::Drained => false,
        };
        let again = wanted && self.may_go_to_another(x);
        if again {
            x.go_to_another(fault);
        }
        again
    }

    /// The backend says that it has not looked at the request, so it goes out again whatever it asks for: to another
    /// backend if there is one, else to the same, on another connection.
    fn was_not_processed(&self, x: &mut Exchange) -> bool {
        if x.down.any || x.up.beyond || self.is_cut() {
            return false;
        }
        x.sent = 0;
        if self.may_go_to_another(x) {
            x.go_to_another(Fault::Unprocessed);
            return true;
        }
        x.bounced += 1;
        let again = x.bounced <= BOUNCES;
        if again {
            x.go_to_the_same(Cause::Reset, Fault::Unprocessed);
        }
        again
    }

    /// Whether a response with this status shall not be relayed: the request then goes to another backend.
    #[inline]
    pub(super) fn wants_another(&self, x: &mut Exchange, status: u16) -> bool {
        let statuses = &x.route.pool.retries().on.statuses;
        statuses.contains(&status) && x.down.interim == 0 && self.may_go_to_another(x)
    }

    /// Whether another backend may get the request; the budget is charged if so.
    fn may_go_to_another(&self, x: &mut Exchange) -> bool {
        let route = Rc::clone(&x.route);
        let pool = &route.pool;
        let mut tried = x.tried;
        let room = x.backend.is_none_or(|index| tried.insert(index));
        if !room || x.up.beyond || !(x.idempotent || x.sent == 0) || self.is_cut() {
            return false;
        }
        if x.attempts >= pool.retries().attempts || !pool.has_untried(&tried) {
            return false;
        }
        // What was not sent costs no backend anything.
        if x.sent == 0 || pool.budget.retry(Instant::now()) {
            return true;
        }
        pool.cell.retries_denied.add(1);
        x.denied = Some(DENIED);
        false
    }

    fn is_cut(&self) -> bool {
        self.worker.cutting.get()
    }
}

impl Exchange {
    /// Whether a fresh connection to the same backend will do.
    fn may_go_to_the_same(&self, fault: Fault) -> bool {
        fault == Fault::ClosedEarly
            && self.upstream.as_ref().is_some_and(|u| u.reused)
            && !self.down.any
            && !self.up.beyond
            && (self.idempotent || self.sent == 0)
    }

    fn go_to_the_same(&mut self, cause: Cause, fault: Fault) {
        if let Some(upstream) = self.upstream.take() {
            upstream.peer.cell.error(cause);
            self.next = self.backend.map(|index| (index, Rc::clone(&upstream.peer)));
            // Its place is kept: those that wait have been waiting for others.
            self.slot = upstream.into_slot();
        }
        if self.slot.is_none() {
            // It has to find a place like any other; if there is none, this is why.
            self.failed = Some(fault);
        }
        self.fresh_only = true;
        self.begin_again();
    }

    fn go_to_another(&mut self, fault: Fault) {
        if let Some(upstream) = self.upstream.take() {
            if let Some(cause) = fault.verdict().cause {
                upstream.peer.cell.error(cause);
            }
            upstream.close();
        }
        if let Some(index) = self.backend {
            // There is room: `may_go_to_another` has seen it.
            let _ = self.tried.insert(index);
        }
        self.fresh_only = false;
        self.failed = Some(fault);
        self.begin_again();
    }

    fn begin_again(&mut self) {
        self.sent = 0;
        self.up.abandoned = false;
        self.restart();
    }

    /// One more try than one.
    pub(super) fn count_retry(&mut self, peer: &Peer) {
        self.retries += 1;
        peer.cell.retries.add(1);
        self.route.cell.retries.add(1);
        self.route.pool.cell.retries.add(1);
    }
}
