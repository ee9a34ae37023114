//! Prometheus text from the counters of all parts.
//!
//! Owns names, units, help and labels. Names begin with `weir_` and are in base units; labels are bounded by the
//! configuration (`service`, `pool`, `backend`) or by a list in the code (`reason`, `cause`, `state`, …).
//! docs/metrics.md describes each family; a test holds it to that.

use std::collections::BTreeMap;

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use weir_core::health::{Admin, State};

use crate::{
    admin::api::{Pools, Status},
    ipc::stats::{Latency, RelayStats},
};

/// Content type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is counted, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scrape {
    pub(crate) status: Status,
    pub(crate) pools: Pools,
    pub(crate) relay: RelayStats,
    pub(crate) l4: Option<L4>,
    /// Seconds since the epoch.
    pub(crate) started: f64,
    pub(crate) reloads_refused: u64,
    /// Seconds that the last check of each backend took, by pool and address.
    pub(crate) check_seconds: Vec<(String, String, f64)>,
}

/// The kernel's counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct L4 {
    /// Packets by reason, with the verdict's word.
    pub(crate) reasons: Vec<(&'static str, &'static str, u64)>,
    /// What happened beside a verdict.
    pub(crate) notes: Vec<(&'static str, u64)>,
    pub(crate) services: Vec<(String, weir_abi::Traffic)>,
    pub(crate) backends: Vec<(String, String, weir_abi::Traffic)>,
}

/// The families, in the order in which they were first named.
#[derive(Default)]
struct Families {
    list: Vec<MetricFamily>,
    index: BTreeMap<&'static str, usize>,
}

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        labels: Labels<'_>,
        fill: impl FnOnce(&mut Metric),
    ) {
        let index = *self.index.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            self.list.push(family);
            self.list.len() - 1
        });
        let mut metric = Metric::default();
        metric.set_label(
            labels
                .iter()
                .map(|(name, value)| {
                    let mut pair = LabelPair::default();
                    pair.set_name((*name).to_owned());
                    pair.set_value((*value).to_owned());
                    pair
                })
                .collect(),
        );
        fill(&mut metric);
        if let Some(family) = self.list.get_mut(index) {
            family.mut_metric().push(metric);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
    fn counter(&mut self, name: &'static str, help: &'static str, labels: Labels<'_>, value: u64) {
        self.add(name, help, MetricType::COUNTER, labels, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels<'_>, value: f64) {
        self.add(name, help, MetricType::GAUGE, labels, |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
    fn histogram(&mut self, name: &'static str, help: &'static str, labels: Labels<'_>, latency: &Latency) {
        self.add(name, help, MetricType::HISTOGRAM, labels, |metric| {
            let mut histogram = Histogram::default();
            let mut cumulative = 0;
            let mut buckets = Vec::new();
            for (bound, count) in weir_relay::Histogram::BOUNDS.iter().zip(&latency.buckets) {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                buckets.push(bucket);
            }
            histogram.set_bucket(buckets);
            histogram.set_sample_count(latency.buckets.iter().sum());
            histogram.set_sample_sum(latency.sum_us as f64 / 1e6);
            metric.set_histogram(histogram);
        });
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The text of a scrape.
///
/// # Errors
/// The encoder refuses: a family without a metric, or a name that is none. A defect of ours.
pub(crate) fn render(scrape: &Scrape) -> anyhow::Result<String> {
    let mut families = Families::default();
    node(&mut families, scrape);
    backends(&mut families, scrape);
    relay(&mut families, &scrape.relay);
    if let Some(l4) = &scrape.l4 {
        packets(&mut families, l4);
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&families.list, &mut text)?;
    Ok(String::from_utf8(text)?)
}

fn node(out: &mut Families, scrape: &Scrape) {
    let Scrape {
        status,
        started,
        reloads_refused,
        ..
    } = scrape;
    out.gauge(
        "weir_build_info",
        "Version of this weir; always 1.",
        &[("version", &status.version)],
        1.0,
    );
    out.gauge(
        "weir_start_time_seconds",
        "When the control process started, since the epoch.",
        &[],
        *started,
    );
    out.gauge(
        "weir_ready",
        "1 when every part is in place and every backend was checked once.",
        &[],
        flag(status.ready),
    );
    out.counter(
        "weir_config_applied_total",
        "Configurations applied, the first included.",
        &[],
        status.generation,
    );
    out.counter(
        "weir_config_refused_total",
        "Reloads refused because of mistakes.",
        &[],
        *reloads_refused,
    );
    out.gauge(
        "weir_config_last_reload_successful",
        "0 when the last reload was refused.",
        &[],
        flag(status.reload_error.is_none()),
    );
    for process in &status.processes {
        let labels: Labels<'_> = &[("role", &process.role)];
        out.gauge(
            "weir_process_running",
            "1 when the process runs.",
            labels,
            flag(process.pid.is_some()),
        );
        out.counter(
            "weir_process_restarts_total",
            "Times a process that died was started again.",
            labels,
            process.restarts,
        );
    }
    for service in &status.services {
        let labels: Labels<'_> = &[
            ("service", &service.name),
            ("mode", &service.mode),
            ("pool", &service.pool),
        ];
        out.gauge(
            "weir_service_backends_in_use",
            "Backends of the service's pool that are given new traffic.",
            labels,
            f64::from(u32::try_from(service.backends_in_use).unwrap_or(u32::MAX)),
        );
    }
}

fn backends(out: &mut Families, scrape: &Scrape) {
    for pool in &scrape.pools.pools {
        for b in &pool.backends {
            let base = [("pool", pool.name.as_str()), ("backend", b.address.as_str())];
            for state in State::ALL.map(State::as_str) {
                let labels = [base[0], base[1], ("state", state)];
                out.gauge(
                    "weir_backend_state",
                    "1 for the state the backend is in.",
                    &labels,
                    flag(b.state == state),
                );
            }
            for admin in Admin::ALL.map(Admin::as_str) {
                let labels = [base[0], base[1], ("admin", admin)];
                out.gauge(
                    "weir_backend_admin",
                    "1 for what the operator wants of it.",
                    &labels,
                    flag(b.admin == admin),
                );
            }
            out.gauge(
                "weir_backend_in_use",
                "1 when the backend is given new traffic.",
                &base,
                flag(b.in_use),
            );
            out.gauge(
                "weir_backend_weight",
                "Configured weight.",
                &base,
                f64::from(b.weight),
            );
            for (result, count) in [("passed", b.checks.passed), ("failed", b.checks.failed)] {
                let labels = [base[0], base[1], ("result", result)];
                out.counter(
                    "weir_backend_checks_total",
                    "Health checks ended.",
                    &labels,
                    count,
                );
            }
            out.counter(
                "weir_backend_transitions_total",
                "Changes of state or wish.",
                &base,
                b.checks.transitions,
            );
        }
    }
    for (pool, backend, seconds) in &scrape.check_seconds {
        let labels: Labels<'_> = &[("pool", pool), ("backend", backend)];
        out.gauge(
            "weir_backend_last_check_seconds",
            "How long the last health check took.",
            labels,
            *seconds,
        );
    }
}

fn relay(out: &mut Families, stats: &RelayStats) {
    for s in &stats.services {
        let base = ("service", s.service.as_str());
        out.counter(
            "weir_relay_connections_total",
            "Client connections accepted.",
            &[base],
            s.accepted,
        );
        gauge_count(
            out,
            "weir_relay_connections_open",
            "Client connections open.",
            &[base],
            s.open,
        );
        out.counter(
            "weir_relay_connections_refused_total",
            "Client connections closed at once because of the service's limit.",
            &[base],
            s.refused,
        );
        out.counter(
            "weir_relay_requests_total",
            "Requests begun.",
            &[base],
            s.requests,
        );
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(s.responses) {
            out.counter(
                "weir_relay_responses_total",
                "Final responses, by class.",
                &[base, ("code", class)],
                count,
            );
        }
        for (reason, count) in &s.ends {
            let labels = [base, ("reason", reason.as_str())];
            out.counter(
                "weir_relay_ends_total",
                "Ends of requests and relayed connections.",
                &labels,
                *count,
            );
        }
        out.counter(
            "weir_relay_retries_total",
            "Requests sent a second time.",
            &[base],
            s.retries,
        );
        for (direction, bytes) in [("in", s.bytes_in), ("out", s.bytes_out)] {
            let labels = [base, ("direction", direction)];
            out.counter(
                "weir_relay_client_bytes_total",
                "Bytes from (in) and to (out) clients.",
                &labels,
                bytes,
            );
        }
        out.histogram(
            "weir_relay_request_duration_seconds",
            "From a request's whole head to its response's last byte.",
            &[base],
            &s.total,
        );
        out.histogram(
            "weir_relay_response_head_seconds",
            "From a request's whole head to its response's head.",
            &[base],
            &s.first_byte,
        );
    }
    for b in &stats.backends {
        let address = b.address.to_string();
        let base = [("pool", b.pool.as_str()), ("backend", address.as_str())];
        out.counter(
            "weir_relay_backend_connections_total",
            "Connections established to the backend.",
            &base,
            b.connections,
        );
        gauge_count(
            out,
            "weir_relay_backend_connections_idle",
            "Idle connections kept for reuse.",
            &base,
            b.idle,
        );
        out.counter(
            "weir_relay_backend_requests_total",
            "Requests (or connections) sent to it.",
            &base,
            b.requests,
        );
        out.counter(
            "weir_relay_backend_reused_total",
            "Requests sent on a connection used before.",
            &base,
            b.reused,
        );
        gauge_count(
            out,
            "weir_relay_backend_in_flight",
            "Requests (or connections) it is serving.",
            &base,
            b.in_flight,
        );
        for (cause, count) in &b.errors {
            let labels = [base[0], base[1], ("cause", cause.as_str())];
            out.counter(
                "weir_relay_backend_errors_total",
                "Tries that failed.",
                &labels,
                *count,
            );
        }
        for (direction, bytes) in [("in", b.bytes_in), ("out", b.bytes_out)] {
            let labels = [base[0], base[1], ("direction", direction)];
            out.counter(
                "weir_relay_backend_bytes_total",
                "Bytes from (in) and to (out) the backend.",
                &labels,
                bytes,
            );
        }
    }
    out.counter(
        "weir_relay_log_dropped_total",
        "Access records lost because the log could not keep up.",
        &[],
        stats.log_dropped,
    );
    out.counter(
        "weir_relay_accept_paused_total",
        "Times that accepting paused because descriptors or memory had run out.",
        &[],
        stats.accept_paused,
    );
}

fn packets(out: &mut Families, l4: &L4) {
    for (reason, verdict, count) in &l4.reasons {
        let labels: Labels<'_> = &[("verdict", verdict), ("reason", reason)];
        out.counter(
            "weir_xdp_packets_total",
            "Packets seen by XDP, by what became of them and why.",
            labels,
            *count,
        );
    }
    for (note, count) in &l4.notes {
        out.counter(
            "weir_xdp_events_total",
            "What happened beside a verdict.",
            &[("event", note)],
            *count,
        );
    }
    for (service, traffic) in &l4.services {
        traffic_of(out, &SERVICE_TRAFFIC, &[("service", service)], traffic);
    }
    for (pool, backend, traffic) in &l4.backends {
        traffic_of(
            out,
            &BACKEND_TRAFFIC,
            &[("pool", pool), ("backend", backend)],
            traffic,
        );
    }
}

/// Names of the three families that one kind of owner has.
struct TrafficNames {
    packets: &'static str,
    bytes: &'static str,
    flows: &'static str,
}

const SERVICE_TRAFFIC: TrafficNames = TrafficNames {
    packets: "weir_l4_service_packets_total",
    bytes: "weir_l4_service_bytes_total",
    flows: "weir_l4_service_flows_total",
};

const BACKEND_TRAFFIC: TrafficNames = TrafficNames {
    packets: "weir_l4_backend_packets_total",
    bytes: "weir_l4_backend_bytes_total",
    flows: "weir_l4_backend_flows_total",
};

fn traffic_of(out: &mut Families, names: &TrafficNames, owner: Labels<'_>, traffic: &weir_abi::Traffic) {
    let weir_abi::Traffic {
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        flows,
    } = *traffic;
    for (direction, packets, bytes) in [("in", packets_in, bytes_in), ("out", packets_out, bytes_out)] {
        let mut labels = owner.to_vec();
        labels.push(("direction", direction));
        out.counter(
            names.packets,
            "Packets forwarded by XDP, to the backend (in) and back (out).",
            &labels,
            packets,
        );
        out.counter(
            names.bytes,
            "Bytes forwarded by XDP, Ethernet headers included.",
            &labels,
            bytes,
        );
    }
    out.counter(
        names.flows,
        "New flows forwarded by XDP: TCP SYNs, and UDP flows recorded.",
        owner,
        flows,
    );
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
fn gauge_count(out: &mut Families, name: &'static str, help: &'static str, labels: Labels<'_>, value: u64) {
    out.gauge(name, help, labels, value as f64);
}

#[cfg(test)]
mod tests;
