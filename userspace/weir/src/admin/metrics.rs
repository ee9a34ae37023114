//! Prometheus text from the counters of all parts.
//!
//! Owns names, units, help and labels. Names begin with `weir_` and are in base units; labels are bounded by the
//! configuration (`service`, `pool`, `backend`) or by a list in the code (`reason`, `cause`, `state`, …).
//! docs/metrics.md describes each family; a test holds it to that. The relay's families are `relay.rs`.

mod relay;
mod sync;
mod tls;
mod vrrp;

use std::collections::BTreeMap;

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
pub(crate) use vrrp::Vrrp;
use weir_core::health::{Admin, State};
use weir_datapath::sync::driver::Report;

use crate::{
    admin::api::{Pools, Status, TlsList, Xdp},
    control::FlowTables,
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
    pub(crate) sync: Option<Sync>,
    /// Seconds since the epoch.
    pub(crate) started: f64,
    pub(crate) reloads_refused: u64,
    pub(crate) tls: Tls,
    /// Groups of virtual routers.
    pub(crate) vrrp: Vec<Vrrp>,
    /// How often their thread has died.
    pub(crate) vrrp_deaths: u64,
    /// Seconds that the last check of each backend took, by pool and address.
    pub(crate) check_seconds: Vec<(String, String, f64)>,
}

/// What boxes tell each other of flows.
#[derive(Debug, Clone)]
pub(crate) struct Sync {
    pub(crate) report: Report,
    pub(crate) unfinished: bool,
}

/// Certificates and keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tls {
    /// Signatures made, and requests for one refused. None: there is no keys process.
    pub(crate) signatures: Option<(u64, u64)>,
    /// Files, how often the new content of each was refused, and whether what is served is not what it holds.
    pub(crate) files: Vec<(String, u64, bool)>,
    pub(crate) lists: Vec<TlsList>,
}

/// The kernel's counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct L4 {
    /// Packets by reason, with the verdict's word.
    pub(crate) reasons: Vec<(&'static str, &'static str, u64)>,
    /// What happened beside a verdict.
    pub(crate) notes: Vec<(&'static str, u64)>,
    /// Backends by how packets find the next hop.
    pub(crate) next_hops: Vec<(&'static str, u64)>,
    pub(crate) flow_tables: FlowTables,
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
    relay::relay(&mut families, &scrape.relay);
    tls::families(&mut families, scrape);
    vrrp::families(&mut families, scrape);
    if let Some(l4) = &scrape.l4 {
        packets(&mut families, l4, &scrape.status.xdp);
    }
    sync::families(&mut families, scrape);
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
    for export in &status.exports {
        out.gauge(
            "weir_address_exported",
            "1 when there is a route for routing daemons.",
            &[("address", &export.address)],
            flag(export.exported),
        );
    }
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
        for pool in &service.pools {
            let labels: Labels<'_> = &[
                ("service", &service.name),
                ("mode", &service.mode),
                ("pool", &pool.pool),
            ];
            out.gauge(
                "weir_service_backends_in_use",
                "Backends of a pool of the service that are given new traffic.",
                labels,
                f64::from(u32::try_from(pool.backends_in_use).unwrap_or(u32::MAX)),
            );
        }
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

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
fn flow_tables(out: &mut Families, seen: &FlowTables) {
    for table in &seen.tables {
        let name = table.name.to_lowercase();
        let labels: Labels<'_> = &[("table", &name)];
        out.gauge(
            "weir_xdp_flow_entries",
            "Flows that the kernel remembers, as the last sweep found them.",
            labels,
            table.entries as f64,
        );
        out.gauge(
            "weir_xdp_flow_capacity",
            "Flows that there is room for.",
            labels,
            table.capacity as f64,
        );
        for (why, count) in [("ended", table.ended), ("evicted", table.evicted)] {
            out.counter(
                "weir_xdp_flows_swept_total",
                "Flows that were taken out of a table.",
                &[("table", &name), ("why", why)],
                count,
            );
        }
    }
    for source in &seen.ports {
        let address = source.ports.source.to_string();
        let ports = &source.ports.ports;
        for (state, count) in [
            ("free", ports.free),
            ("in-use", ports.in_use),
            ("waiting", ports.waiting),
        ] {
            out.gauge(
                "weir_xdp_nat_ports",
                "Ports of a source address of full-nat that one CPU has towards one backend: those with the fewest free.",
                &[("source", &address), ("state", state)],
                count as f64,
            );
        }
        out.gauge(
            "weir_xdp_nat_seconds_to_exhaustion",
            "When some CPU will have no free port of a source address, if it goes on like this.",
            &[("source", &address)],
            source.exhausted_in.unwrap_or(f64::INFINITY),
        );
    }
}

fn packets(out: &mut Families, l4: &L4, xdp: &Xdp) {
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
    for (state, backends) in &l4.next_hops {
        gauge_count(
            out,
            "weir_xdp_next_hops",
            "Backends whose next hop is known in advance (resolved), or asked for with each packet (asked).",
            &[("state", state)],
            *backends,
        );
    }
    flow_tables(out, &l4.flow_tables);
    out.gauge(
        "weir_xdp_syncookies",
        "1 while SYNs to the relay are answered by cookies.",
        &[],
        flag(xdp.syncookies),
    );
    let listed = &xdp.listed;
    for (kind, count) in [
        ("allow", listed.allow),
        ("ban", listed.ban),
        ("overload", listed.overload),
    ] {
        gauge_count(
            out,
            "weir_xdp_list_entries",
            "Networks that are listed.",
            &[("kind", kind)],
            count as u64,
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
