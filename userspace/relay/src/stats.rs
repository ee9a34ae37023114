//! Counters: per worker and single-writer while they are counted, summed when they are read.
//!
//! A cell belongs to one worker. Only that worker's thread writes to it, so an update is a relaxed load and store with
//! no locked instruction. Cells are keyed by service name and backend key (see `world`) and outlive a configuration.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use weir_core::ids::{BackendKey, ListenKey, ServiceName};

use crate::reason::{Cause, Reason};

/// Everything counted, at one moment. Counters only grow as long as the relay lives.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Per service of the plan, in the plan's order.
    pub services: Vec<ServiceSnapshot>,
    /// Per backend of the plan, in the plan's order.
    pub backends: Vec<BackendSnapshot>,
    /// Listeners held.
    pub listeners: Vec<ListenKey>,
    /// Access records dropped because the log could not be written as fast as they came.
    pub log_dropped: u64,
    /// Times that accepting was put off because descriptors or memory had run out.
    pub accept_paused: u64,
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

/// What is counted of a service.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceCounts {
    /// Client connections accepted.
    pub accepted: u64,
    /// Client connections open now.
    pub open: u64,
    /// Client connections closed at once because the service's limit was reached.
    pub refused: u64,
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
}

/// What is counted of a backend.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BackendCounts {
    /// Connections established.
    pub connections: u64,
    /// Connections idle in the pools now.
    pub idle: u64,
    /// Requests (or TCP connections) sent to it.
    pub requests: u64,
    /// Of these, on a connection that had served before.
    pub reused: u64,
    /// Requests (or TCP connections) it is serving now.
    pub in_flight: u64,
    /// Failures by cause, in the order of [`Cause::ALL`].
    pub errors: [u64; Cause::COUNT],
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
}

/// Upper bounds of the latency histogram's buckets, in seconds. One more bucket takes what is above.
const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The same bounds in microseconds.
const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
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

/// One worker's counters of one service. Aligned so that no two workers write to one cache line.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ServiceCell {
    pub(crate) accepted: Count,
    pub(crate) open: Count,
    pub(crate) refused: Count,
    pub(crate) requests: Count,
    responses: [Count; 5],
    ends: [Count; Reason::COUNT],
    pub(crate) retries: Count,
    pub(crate) bytes_in: Count,
    pub(crate) bytes_out: Count,
    pub(crate) total: HistogramCell,
    pub(crate) first_byte: HistogramCell,
}

impl ServiceCell {
    pub(crate) fn response(&self, status: u16) {
        if let Some(count) = usize::from(status / 100)
            .checked_sub(1)
            .and_then(|class| self.responses.get(class))
        {
            count.add(1);
        }
    }

    pub(crate) fn end(&self, reason: Reason) {
        if let Some(count) = self.ends.get(reason as usize) {
            count.add(1);
        }
    }
}

/// One worker's counters of one backend.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct BackendCell {
    pub(crate) connections: Count,
    pub(crate) idle: Count,
    pub(crate) requests: Count,
    pub(crate) reused: Count,
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

/// One service's counters over all workers.
pub(crate) type ServiceCells = Vec<Arc<ServiceCell>>;

/// One backend's counters over all workers.
pub(crate) type BackendCells = Vec<Arc<BackendCell>>;

pub(crate) fn sum_service(cells: &ServiceCells) -> ServiceCounts {
    let mut sum = ServiceCounts {
        accepted: 0,
        open: 0,
        refused: 0,
        requests: 0,
        responses: [0; 5],
        ends: [0; Reason::COUNT],
        retries: 0,
        bytes_in: 0,
        bytes_out: 0,
        total: Histogram::default(),
        first_byte: Histogram::default(),
    };
    for cell in cells {
        sum.accepted += cell.accepted.get();
        sum.open += cell.open.get();
        sum.refused += cell.refused.get();
        sum.requests += cell.requests.get();
        for (sum, cell) in sum.responses.iter_mut().zip(&cell.responses) {
            *sum += cell.get();
        }
        for (sum, cell) in sum.ends.iter_mut().zip(&cell.ends) {
            *sum += cell.get();
        }
        sum.retries += cell.retries.get();
        sum.bytes_in += cell.bytes_in.get();
        sum.bytes_out += cell.bytes_out.get();
        cell.total.sum_into(&mut sum.total);
        cell.first_byte.sum_into(&mut sum.first_byte);
    }
    sum
}

pub(crate) fn sum_backend(cells: &BackendCells) -> BackendCounts {
    let mut sum = BackendCounts::default();
    for cell in cells {
        sum.connections += cell.connections.get();
        sum.idle += cell.idle.get();
        sum.requests += cell.requests.get();
        sum.reused += cell.reused.get();
        sum.in_flight += cell.in_flight.get();
        for (sum, cell) in sum.errors.iter_mut().zip(&cell.errors) {
            *sum += cell.get();
        }
        sum.bytes_out += cell.bytes_out.get();
        sum.bytes_in += cell.bytes_in.get();
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
            (sum.total.buckets[0], sum.total.buckets[1], sum.total.buckets[16]),
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
