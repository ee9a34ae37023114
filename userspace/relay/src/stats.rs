//! Counters: per worker and single-writer while they are counted, summed when they are read.
//!
//! A cell belongs to one worker. Only that worker's thread writes to it, so an update is a relaxed load and store with
//! no locked instruction. Cells are keyed by service name and backend key (see `world`) and outlive a configuration.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, ServiceName},
    ports::Counts,
};

use crate::reason::{Cause, Reason};

/// Everything counted, at one moment. Counters only grow as long as the relay lives.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Per service of the plan, in the plan's order.
    pub services: Vec<ServiceSnapshot>,
    /// Per backend of the plan, in the plan's order.
    pub backends: Vec<BackendSnapshot>,
    /// Per pool of the plan, in the plan's order.
    pub pools: Vec<PoolSnapshot>,
    /// Listeners held.
    pub listeners: Vec<ListenKey>,
    /// Access records dropped because the log could not be written as fast as they came.
    pub log_dropped: u64,
    /// Times that accepting was put off because descriptors or memory had run out.
    pub accept_paused: u64,
    /// Bytes of memory held now for what was read and not taken by the other side yet.
    pub held: u64,
    /// Client connections open now, of all services.
    pub open: u64,
    /// Requests of HTTP/2 under way now, of all services.
    pub streams: u64,
    /// Requests of HTTP/2 that may be under way at once.
    pub most_streams: u64,
    /// Client connections that may be open at once.
    pub most: u64,
    /// TLS handshakes under way now.
    pub handshakes: u64,
    /// TLS handshakes that may be under way at once.
    pub most_handshakes: u64,
    /// Tasks of the workers' runtimes: one for each client connection, a few for each worker.
    pub tasks: u64,
}

/// One service's counters.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceSnapshot {
    /// Which one.
    pub service: ServiceName,
    /// Its counters.
    pub counts: ServiceCounts,
}

/// One backend's counters.
#[derive(Clone, PartialEq, Debug)]
pub struct BackendSnapshot {
    /// Which one.
    pub backend: BackendKey,
    /// Its counters.
    pub counts: BackendCounts,
}

/// One pool's counters.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSnapshot {
    /// Which one.
    pub pool: PoolName,
    /// Its counters.
    pub counts: PoolCounts,
    /// Its source ports. None: it has none of its own.
    pub ports: Option<PoolPorts>,
}

/// How the source ports of a pool stand.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolPorts {
    /// By source address: towards the backend with the fewest free.
    pub addresses: Vec<(IpAddr, Counts)>,
    /// When there will be none for some backend, if it goes on like this. None: not at this rate.
    pub exhausted_in: Option<Duration>,
}

/// What is counted of a service.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceCounts {
    /// Client connections accepted.
    pub accepted: u64,
    /// Client connections open now.
    pub open: u64,
    /// Client connections closed at once because the service's limit was reached.
    pub refused: u64,
    /// Client connections that ended without a byte from the client.
    pub null: u64,
    /// Client connections that have come to speak HTTP/2.
    pub http2: u64,
    /// Of these, open now.
    pub http2_open: u64,
    /// Requests under way on them now.
    pub http2_streams: u64,
    /// Requests begun (a whole head was read, or was refused).
    pub requests: u64,
    /// Final responses sent, by class: index 0 for 1xx (101 only) to 4 for 5xx.
    pub responses: [u64; 5],
    /// Ends of requests (HTTP) or connections (TCP) by reason, in the order of [`Reason::ALL`].
    pub ends: [u64; Reason::COUNT],
    /// Requests sent a second time: another backend, or a fresh connection.
    pub retries: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// From a request's whole head to the response's last byte handed to the system.
    pub total: Histogram,
    /// From a request's whole head to the response's head.
    pub first_byte: Histogram,
    /// TLS handshakes made: of TLS 1.2 in full, and resumed; of TLS 1.3 in full, and resumed.
    pub handshakes: [u64; 4],
    /// From the accept to the end of the TLS handshake.
    pub handshake: Histogram,
}

/// What is counted of a backend.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BackendCounts {
    /// Connections established.
    pub connections: u64,
    /// Of these, in advance (`idle_min`).
    pub warmed: u64,
    /// Connections there are now: used, idle and being made.
    pub open: u64,
    /// Connections that there may be at once. None: any number.
    pub max: Option<u32>,
    /// Connections idle in the pools now.
    pub idle: u64,
    /// Requests (or TCP connections) sent to it.
    pub requests: u64,
    /// Of these, on a connection that was kept idle before.
    pub reused: u64,
    /// Requests (or TCP connections) that came to it because another try had failed.
    pub retries: u64,
    /// Requests (or TCP connections) it is serving now.
    pub in_flight: u64,
    /// Failures by cause, in the order of [`Cause::ALL`].
    pub errors: [u64; Cause::COUNT],
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
}

/// What is counted of a pool.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PoolCounts {
    /// Requests (or TCP connections) that wait for a backend or a connection now.
    pub queued: u64,
    /// How long those waited that wait no longer, whatever came of it.
    pub queue_wait: Histogram,
    /// Requests (or TCP connections) there are now: waiting, and at backends.
    pub active: u64,
    /// To connect to a backend: connections that were made for a request (or TCP connection).
    pub connect: Histogram,
    /// From the connection to the response's head: what the backend took.
    pub response: Histogram,
    /// From a request's whole head (or a TCP connection's accept) to the end, of those that were given to a backend.
    pub total: Histogram,
    /// Those that were refused because as many waited as may.
    pub queue_full: u64,
    /// Those that waited in vain for as long as they may.
    pub queue_timeouts: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Tries that were not made because the budget was used up.
    pub retries_denied: u64,
    /// Connections that were not made because there was no source port for them.
    pub no_port: u64,
    /// Source ports that the system would not have; the next was tried.
    pub port_refused: u64,
    /// Source ports that were used before their rest was over, since none was free.
    pub port_early: u64,
}

/// Upper bounds of the latency histogram's buckets, in seconds. One more bucket takes what is above.
const BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// The same bounds in microseconds.
const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Latencies by bucket.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Observations per bucket, not cumulative; the last one is above every bound.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Sum of all observations, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Upper bounds of all buckets but the last, in seconds.
    pub const BOUNDS: &[f64] = &BOUNDS;

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// A number with one writer.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram with one writer.
#[derive(Default)]
pub(crate) struct HistogramCell {
    buckets: [Count; BOUNDS.len() + 1],
    sum_us: Count,
}

impl HistogramCell {
    #[inline]
    pub(crate) fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US
            .iter()
            .position(|&bound| us <= bound)
            .unwrap_or(BOUNDS.len());
        if let Some(count) = self.buckets.get(bucket) {
            count.add(1);
        }
        self.sum_us.add(us);
    }

    fn sum_into(&self, into: &mut Histogram) {
        for (sum, cell) in into.buckets.iter_mut().zip(&self.buckets) {
            *sum += cell.get();
        }
        into.sum_us += self.sum_us.get();
    }
}

/// Ends by reason.
struct Ends([Count; Reason::COUNT]);

impl Default for Ends {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

/// One worker's counters of one service. Aligned so that no two workers write to one cache line.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ServiceCell {
    pub(crate) accepted: Count,
    pub(crate) open: Count,
    pub(crate) refused: Count,
    pub(crate) null: Count,
    pub(crate) http2: Count,
    pub(crate) http2_open: Count,
    pub(crate) http2_streams: Count,
    pub(crate) requests: Count,
    responses: [Count; 5],
    ends: Ends,
    pub(crate) retries: Count,
    pub(crate) bytes_in: Count,
    pub(crate) bytes_out: Count,
    pub(crate) total: HistogramCell,
    pub(crate) first_byte: HistogramCell,
    handshakes: [Count; 4],
    handshake: HistogramCell,
}

impl ServiceCell {
    /// A TLS handshake was made.
    pub(crate) fn handshake(&self, is_13: bool, resumed: bool, took: Duration) {
        if let Some(count) = self.handshakes.get(usize::from(is_13) * 2 + usize::from(resumed)) {
            count.add(1);
        }
        self.handshake.observe(took);
    }

    pub(crate) fn response(&self, status: u16) {
        if let Some(count) = usize::from(status / 100)
            .checked_sub(1)
            .and_then(|class| self.responses.get(class))
        {
            count.add(1);
        }
    }

    pub(crate) fn end(&self, reason: Reason) {
        if let Some(count) = self.ends.0.get(reason as usize) {
            count.add(1);
        }
    }
}

/// One worker's counters of one backend.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct BackendCell {
    pub(crate) connections: Count,
    pub(crate) warmed: Count,
    pub(crate) idle: Count,
    pub(crate) requests: Count,
    pub(crate) reused: Count,
    pub(crate) retries: Count,
    pub(crate) in_flight: Count,
    errors: [Count; Cause::COUNT],
    pub(crate) bytes_out: Count,
    pub(crate) bytes_in: Count,
}

impl BackendCell {
    pub(crate) fn error(&self, cause: Cause) {
        if let Some(count) = self.errors.get(cause as usize) {
            count.add(1);
        }
    }
}

/// One worker's counters of one pool.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct PoolCell {
    pub(crate) queued: Count,
    pub(crate) queue_wait: HistogramCell,
    pub(crate) active: Count,
    pub(crate) connect: HistogramCell,
    pub(crate) response: HistogramCell,
    pub(crate) total: HistogramCell,
    pub(crate) queue_full: Count,
    pub(crate) queue_timeouts: Count,
    pub(crate) retries: Count,
    pub(crate) retries_denied: Count,
    pub(crate) no_port: Count,
    pub(crate) port_refused: Count,
    pub(crate) port_early: Count,
}

/// What is counted of a worker itself.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct WorkerCell {
    /// Client connections open.
    pub(crate) open: Count,
    /// Requests of HTTP/2 under way.
    pub(crate) streams: Count,
    pub(crate) accept_paused: Count,
    /// Bytes that were read for somebody who has not taken them yet.
    pub(crate) held: Count,
    /// TLS handshakes under way.
    pub(crate) handshakes: Count,
}

/// One service's counters over all workers.
pub(crate) type ServiceCells = Vec<Arc<ServiceCell>>;

/// One backend's counters over all workers.
pub(crate) type BackendCells = Vec<Arc<BackendCell>>;

/// One pool's counters over all workers.
pub(crate) type PoolCells = Vec<Arc<PoolCell>>;

pub(crate) fn sum_service(cells: &ServiceCells) -> ServiceCounts {
    let mut sum = ServiceCounts {
        accepted: 0,
        open: 0,
        refused: 0,
        null: 0,
        http2: 0,
        http2_open: 0,
        http2_streams: 0,
        requests: 0,
        responses: [0; 5],
        ends: [0; Reason::COUNT],
        retries: 0,
        bytes_in: 0,
        bytes_out: 0,
        total: Histogram::default(),
        first_byte: Histogram::default(),
        handshakes: [0; 4],
        handshake: Histogram::default(),
    };
    for cell in cells {
        sum.accepted += cell.accepted.get();
        sum.open += cell.open.get();
        sum.refused += cell.refused.get();
        sum.null += cell.null.get();
        sum.http2 += cell.http2.get();
        sum.http2_open += cell.http2_open.get();
        sum.http2_streams += cell.http2_streams.get();
        sum.requests += cell.requests.get();
        for (sum, cell) in sum.responses.iter_mut().zip(&cell.responses) {
            *sum += cell.get();
        }
        for (sum, cell) in sum.ends.iter_mut().zip(&cell.ends.0) {
            *sum += cell.get();
        }
        sum.retries += cell.retries.get();
        sum.bytes_in += cell.bytes_in.get();
        sum.bytes_out += cell.bytes_out.get();
        cell.total.sum_into(&mut sum.total);
        cell.first_byte.sum_into(&mut sum.first_byte);
        for (sum, cell) in sum.handshakes.iter_mut().zip(&cell.handshakes) {
            *sum += cell.get();
        }
        cell.handshake.sum_into(&mut sum.handshake);
    }
    sum
}

pub(crate) fn sum_backend(cells: &BackendCells) -> BackendCounts {
    let mut sum = BackendCounts::default();
    for cell in cells {
        sum.connections += cell.connections.get();
        sum.warmed += cell.warmed.get();
        sum.idle += cell.idle.get();
        sum.requests += cell.requests.get();
        sum.reused += cell.reused.get();
        sum.retries += cell.retries.get();
        sum.in_flight += cell.in_flight.get();
        for (sum, cell) in sum.errors.iter_mut().zip(&cell.errors) {
            *sum += cell.get();
        }
        sum.bytes_out += cell.bytes_out.get();
        sum.bytes_in += cell.bytes_in.get();
    }
    sum
}

pub(crate) fn sum_pool(cells: &PoolCells) -> PoolCounts {
    let mut sum = PoolCounts::default();
    for cell in cells {
        sum.queued += cell.queued.get();
        cell.queue_wait.sum_into(&mut sum.queue_wait);
        sum.active += cell.active.get();
        cell.connect.sum_into(&mut sum.connect);
        cell.response.sum_into(&mut sum.response);
        cell.total.sum_into(&mut sum.total);
        sum.queue_full += cell.queue_full.get();
        sum.queue_timeouts += cell.queue_timeouts.get();
        sum.retries += cell.retries.get();
        sum.retries_denied += cell.retries_denied.get();
        sum.no_port += cell.no_port.get();
        sum.port_refused += cell.port_refused.get();
        sum.port_early += cell.port_early.get();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_add_up() {
        let cells: ServiceCells = vec![Arc::default(), Arc::default()];
        cells[0].requests.add(2);
        cells[1].requests.add(3);
        cells[0].response(204);
        cells[1].response(503);
        cells[1].response(99);
        cells[1].response(700);
        cells[0].end(Reason::NoBackend);
        cells[0].total.observe(Duration::from_micros(500));
        cells[1].total.observe(Duration::from_micros(501));
        cells[1].total.observe(Duration::from_secs(3600));
        let sum = sum_service(&cells);
        assert_eq!(sum.requests, 5);
        assert_eq!(sum.responses, [0, 1, 0, 0, 1]);
        assert_eq!(sum.ends[Reason::NoBackend as usize], 1);
        assert_eq!(
            (sum.total.buckets[2], sum.total.buckets[3], sum.total.buckets[18]),
            (1, 1, 1)
        );
        assert_eq!(sum.total.count(), 3);
        assert_eq!(sum.total.sum_us, 3_600_001_001);
    }

    #[test]
    fn bounds_agree() {
        for (seconds, us) in BOUNDS.iter().zip(BOUNDS_US) {
            assert_eq!((seconds * 1e6).round() as u64, us);
        }
    }
}
