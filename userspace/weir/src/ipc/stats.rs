//! The relay's counters, as they travel to control.
//!
//! Reasons and causes travel by name, so that a relay of an older build can be read.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use weir_relay::{BackendCounts, Cause, Histogram, PoolCounts, PoolPorts, Reason, ServiceCounts, Snapshot};

/// All counters of a relay at one moment.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct RelayStats {
    pub(crate) services: Vec<ServiceStats>,
    pub(crate) backends: Vec<BackendStats>,
    /// Older builds have none.
    #[serde(default)]
    pub(crate) pools: Vec<PoolStats>,
    pub(crate) log_dropped: u64,
    pub(crate) accept_paused: u64,
    #[serde(default)]
    pub(crate) held: u64,
    #[serde(default)]
    pub(crate) open: u64,
    #[serde(default)]
    pub(crate) most: u64,
    #[serde(default)]
    pub(crate) streams: u64,
    #[serde(default)]
    pub(crate) most_streams: u64,
    #[serde(default)]
    pub(crate) tasks: u64,
    #[serde(default)]
    pub(crate) handshakes: u64,
    #[serde(default)]
    pub(crate) most_handshakes: u64,
}

/// A service's. See [`ServiceCounts`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct ServiceStats {
    pub(crate) service: String,
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) refused: u64,
    pub(crate) null: u64,
    #[serde(default)]
    pub(crate) http2: u64,
    #[serde(default)]
    pub(crate) http2_open: u64,
    #[serde(default)]
    pub(crate) http2_streams: u64,
    pub(crate) requests: u64,
    pub(crate) responses: [u64; 5],
    pub(crate) ends: BTreeMap<String, u64>,
    pub(crate) retries: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) total: Latency,
    pub(crate) first_byte: Latency,
    /// Older builds have none.
    #[serde(default)]
    pub(crate) handshakes: [u64; 4],
    #[serde(default)]
    pub(crate) handshake: Latency,
}

/// A backend's. See [`BackendCounts`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct BackendStats {
    pub(crate) pool: String,
    pub(crate) address: SocketAddr,
    pub(crate) connections: u64,
    #[serde(default)]
    pub(crate) warmed: u64,
    #[serde(default)]
    pub(crate) open: u64,
    #[serde(default)]
    pub(crate) max: Option<u32>,
    pub(crate) idle: u64,
    pub(crate) requests: u64,
    pub(crate) reused: u64,
    #[serde(default)]
    pub(crate) retries: u64,
    pub(crate) in_flight: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

/// A pool's. See [`PoolCounts`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct PoolStats {
    pub(crate) pool: String,
    pub(crate) queued: u64,
    pub(crate) queue_wait: Latency,
    pub(crate) active: u64,
    pub(crate) connect: Latency,
    pub(crate) response: Latency,
    pub(crate) total: Latency,
    pub(crate) queue_full: u64,
    pub(crate) queue_timeouts: u64,
    pub(crate) retries: u64,
    pub(crate) retries_denied: u64,
    #[serde(default)]
    pub(crate) no_port: u64,
    #[serde(default)]
    pub(crate) port_refused: u64,
    #[serde(default)]
    pub(crate) port_early: u64,
    /// None: it has no source ports of its own.
    #[serde(default)]
    pub(crate) ports: Option<PortStats>,
}

/// A pool's source ports. See [`PoolPorts`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct PortStats {
    /// By address: free, in use, waiting.
    pub(crate) addresses: Vec<(IpAddr, [u64; 3])>,
    /// Seconds. None: not at this rate.
    pub(crate) exhausted_in: Option<f64>,
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
            pools,
            listeners: _,
            log_dropped,
            accept_paused,
            held,
            open,
            most,
            streams,
            most_streams,
            tasks,
            handshakes,
            most_handshakes,
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
            pools: pools
                .iter()
                .map(|p| pool(p.pool.as_str(), &p.counts, p.ports.as_ref()))
                .collect(),
            log_dropped: *log_dropped,
            accept_paused: *accept_paused,
            held: *held,
            open: *open,
            most: *most,
            streams: *streams,
            most_streams: *most_streams,
            tasks: *tasks,
            handshakes: *handshakes,
            most_handshakes: *most_handshakes,
        }
    }
}

fn service(name: &str, counts: &ServiceCounts) -> ServiceStats {
    let ServiceCounts {
        accepted,
        open,
        refused,
        null,
        http2,
        http2_open,
        http2_streams,
        requests,
        responses,
        ends,
        retries,
        bytes_in,
        bytes_out,
        total,
        first_byte,
        handshakes,
        handshake,
    } = counts;
    ServiceStats {
        service: name.to_owned(),
        accepted: *accepted,
        open: *open,
        refused: *refused,
        null: *null,
        http2: *http2,
        http2_open: *http2_open,
        http2_streams: *http2_streams,
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
        handshakes: *handshakes,
        handshake: handshake.into(),
    }
}

fn pool(name: &str, counts: &PoolCounts, ports: Option<&PoolPorts>) -> PoolStats {
    let PoolCounts {
        queued,
        queue_wait,
        active,
        connect,
        response,
        total,
        queue_full,
        queue_timeouts,
        retries,
        retries_denied,
        no_port,
        port_refused,
        port_early,
    } = counts;
    PoolStats {
        pool: name.to_owned(),
        queued: *queued,
        queue_wait: queue_wait.into(),
        active: *active,
        connect: connect.into(),
        response: response.into(),
        total: total.into(),
        queue_full: *queue_full,
        queue_timeouts: *queue_timeouts,
        retries: *retries,
        retries_denied: *retries_denied,
        no_port: *no_port,
        port_refused: *port_refused,
        port_early: *port_early,
        ports: ports.map(|ports| PortStats {
            addresses: { ports.addresses.iter() }
                .map(|(address, c)| (*address, [c.free, c.in_use, c.waiting]))
                .collect(),
            exhausted_in: ports.exhausted_in.map(|time| time.as_secs_f64()),
        }),
    }
}

fn backend(pool: &str, address: SocketAddr, counts: &BackendCounts) -> BackendStats {
    let BackendCounts {
        connections,
        warmed,
        open,
        max,
        idle,
        requests,
        reused,
        retries,
        in_flight,
        errors,
        bytes_out,
        bytes_in,
    } = counts;
    BackendStats {
        pool: pool.to_owned(),
        address,
        connections: *connections,
        warmed: *warmed,
        open: *open,
        max: *max,
        idle: *idle,
        requests: *requests,
        reused: *reused,
        retries: *retries,
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
