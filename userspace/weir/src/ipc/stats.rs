//! The relay's counters, as they travel to control.
//!
//! Reasons and causes travel by name, so that a relay of an older build can be read.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use weir_relay::{BackendCounts, Cause, Histogram, Reason, ServiceCounts, Snapshot};

/// All counters of a relay at one moment.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct RelayStats {
    pub(crate) services: Vec<ServiceStats>,
    pub(crate) backends: Vec<BackendStats>,
    pub(crate) log_dropped: u64,
    pub(crate) accept_paused: u64,
}

/// A service's. See [`ServiceCounts`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct ServiceStats {
    pub(crate) service: String,
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) refused: u64,
    pub(crate) requests: u64,
    pub(crate) responses: [u64; 5],
    pub(crate) ends: BTreeMap<String, u64>,
    pub(crate) retries: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) total: Latency,
    pub(crate) first_byte: Latency,
}

/// A backend's. See [`BackendCounts`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct BackendStats {
    pub(crate) pool: String,
    pub(crate) address: SocketAddr,
    pub(crate) connections: u64,
    pub(crate) idle: u64,
    pub(crate) requests: u64,
    pub(crate) reused: u64,
    pub(crate) in_flight: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

/// Latencies by bucket, not cumulative; bounds are [`Histogram::BOUNDS`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct Latency {
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum_us: u64,
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        Self {
            buckets: histogram.buckets.to_vec(),
            sum_us: histogram.sum_us,
        }
    }
}

impl From<&Snapshot> for RelayStats {
    fn from(snapshot: &Snapshot) -> Self {
        let Snapshot {
            services,
            backends,
            listeners: _,
            log_dropped,
            accept_paused,
        } = snapshot;
        Self {
            services: services
                .iter()
                .map(|s| service(s.service.as_str(), &s.counts))
                .collect(),
            backends: backends
                .iter()
                .map(|b| backend(b.backend.pool.as_str(), b.backend.address, &b.counts))
                .collect(),
            log_dropped: *log_dropped,
            accept_paused: *accept_paused,
        }
    }
}

fn service(name: &str, counts: &ServiceCounts) -> ServiceStats {
    let ServiceCounts {
        accepted,
        open,
        refused,
        requests,
        responses,
        ends,
        retries,
        bytes_in,
        bytes_out,
        total,
        first_byte,
    } = counts;
    ServiceStats {
        service: name.to_owned(),
        accepted: *accepted,
        open: *open,
        refused: *refused,
        requests: *requests,
        responses: *responses,
        ends: Reason::ALL
            .iter()
            .zip(ends)
            .map(|(r, n)| (r.as_str().to_owned(), *n))
            .collect(),
        retries: *retries,
        bytes_in: *bytes_in,
        bytes_out: *bytes_out,
        total: total.into(),
        first_byte: first_byte.into(),
    }
}

fn backend(pool: &str, address: SocketAddr, counts: &BackendCounts) -> BackendStats {
    let BackendCounts {
        connections,
        idle,
        requests,
        reused,
        in_flight,
        errors,
        bytes_out,
        bytes_in,
    } = counts;
    BackendStats {
        pool: pool.to_owned(),
        address,
        connections: *connections,
        idle: *idle,
        requests: *requests,
        reused: *reused,
        in_flight: *in_flight,
        errors: Cause::ALL
            .iter()
            .zip(errors)
            .map(|(c, n)| (c.as_str().to_owned(), *n))
            .collect(),
        bytes_out: *bytes_out,
        bytes_in: *bytes_in,
    }
}
