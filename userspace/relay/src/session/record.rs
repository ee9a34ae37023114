//! What is counted and written of a request when it is over.

use std::{net::SocketAddr, time::Instant};

use weir_core::plan::Mode;

use super::{Exchange, Session, begin::Bad, client::Client, h1::H1};
use crate::{
    access::RecordMode,
    fault::Fault,
    http1::id::RequestId,
    phases::Phases,
    reason::Reason,
    worker::{End, LocalRoute, Worker},
};

impl<C: Client> Session<C> {
    /// Counts what became of a request, and writes its access record.
    pub(super) fn record(&self, x: &Exchange, keep_alive: bool) {
        let now = self.worker.clock.now();
        let took = x.phases.took(now);
        let reason = match x.fault {
            None if x.ruled.is_some() => Reason::Answered,
            None => Reason::Ok,
            Some(fault) => fault.verdict().reason,
        };
        count(&x.route, reason, x.down.status, took);
        if x.backend.is_some() {
            x.route.pool.cell.total.observe(took);
        }
        let end = End {
            mode: RecordMode::Http,
            route: &x.route,
            client: self.address,
            backend: x.backend,
            phases: &x.phases,
            reason,
            now,
        };
        self.worker.record(&end, |record| {
            record.id = x.id.as_str();
            record.destination = self.destination();
            record.tls = self.client.tls().map(|tls| &**tls);
            record.line = x.line.as_ref();
            record.status = x.down.status;
            record.bytes_in = x.bytes_in;
            record.bytes_out = x.bytes_out;
            record.detail = x.fault.and_then(Fault::detail).or(x.denied);
            record.retries = x.retries;
            record.moved = x.retries > 0 && !x.tried.is_empty();
            record.keep_alive = keep_alive;
            record.reused = x.reused;
            record.load.pool = record.load.pool.saturating_sub(1);
        });
    }

    /// The same of a request that could not be served. `status` is what the client was told.
    pub(super) fn record_bad(&self, bad: &Bad, status: Option<u16>, bytes_out: u64) {
        record_bad(&self.worker, self.address, self.since, bad, status, bytes_out);
    }
}

impl Session<H1> {
    /// A connection that ended before its client had sent anything is counted, and written if that is asked for.
    pub(super) fn record_null(&self, why: Reason) {
        if self.client.asked || self.client.began.is_some() {
            return;
        }
        if let Some(route) = self.entrance.route() {
            record_null(&self.worker, &route, self.address, self.since, why);
        }
    }
}

/// Counts a connection over which its client has sent nothing, and writes its record if that is asked for.
pub(crate) fn record_null(worker: &Worker, route: &LocalRoute, client: SocketAddr, at: Instant, why: Reason) {
    route.cell.null.add(1);
    if !worker.records_null() {
        return;
    }
    let (mode, phases) = nothing_asked(route, at);
    let end = End {
        mode,
        route,
        client,
        backend: None,
        phases: &phases,
        reason: why,
        now: Instant::now(),
    };
    worker.record(&end, |_| {});
}

/// What records say of a connection that came no further than its accept.
fn nothing_asked(route: &LocalRoute, at: Instant) -> (RecordMode, Phases) {
    match &route.route.service.mode {
        Mode::Http(_) => (RecordMode::Http, Phases::no_request(at, at)),
        Mode::Tcp(_) | Mode::L4(_) => (RecordMode::Tcp, Phases::connection(at)),
    }
}

/// Counts and writes what became of a request that could not be served, or of a connection that breaks the rules.
pub(super) fn record_bad(
    worker: &Worker,
    client: SocketAddr,
    since: Instant,
    bad: &Bad,
    status: Option<u16>,
    bytes_out: u64,
) {
    let now = worker.clock.now();
    let reason = bad.fault.verdict().reason;
    let phases = Phases::no_request(since, bad.began.unwrap_or(now));
    count(&bad.route, reason, status, phases.took(now));
    let end = End {
        mode: RecordMode::Http,
        route: &bad.route,
        client,
        backend: None,
        phases: &phases,
        reason,
        now,
    };
    worker.record(&end, |record| {
        record.id = bad.id.as_str();
        record.line = bad.line.as_ref();
        record.status = status;
        record.bytes_in = bad.bytes;
        record.bytes_out = bytes_out;
        record.detail = bad.fault.detail();
    });
}

/// Counts and writes what became of a connection whose TLS handshake failed.
pub(crate) fn record_handshake(
    worker: &Worker,
    route: &LocalRoute,
    client: SocketAddr,
    at: Instant,
    fault: Fault,
) {
    worker.clock.turn();
    let now = worker.clock.now();
    let (mode, phases) = nothing_asked(route, at);
    let reason = fault.verdict().reason;
    route.cell.end(reason);
    let end = End {
        mode,
        route,
        client,
        backend: None,
        phases: &phases,
        reason,
        now,
    };
    worker.record(&end, |record| record.detail = fault.detail());
}

/// Counts and writes what became of a connection that was one too many.
pub(super) fn record_refused(
    worker: &Worker,
    route: &LocalRoute,
    client: SocketAddr,
    fault: Fault,
    id: &RequestId,
    status: Option<u16>,
    bytes: u64,
) {
    let reason = fault.verdict().reason;
    let now = Instant::now();
    let phases = Phases::no_request(now, now);
    count(route, reason, status, phases.took(now));
    let end = End {
        mode: RecordMode::Http,
        route,
        client,
        backend: None,
        phases: &phases,
        reason,
        now,
    };
    worker.record(&end, |record| {
        record.id = id.as_str();
        record.status = status;
        record.bytes_out = bytes;
    });
}

fn count(route: &LocalRoute, reason: Reason, status: Option<u16>, took: std::time::Duration) {
    route.cell.end(reason);
    route.cell.total.observe(took);
    if let Some(status) = status {
        route.cell.response(status);
    }
}
