//! The relay's families: of services, of pools, of backends.

use super::{Families, gauge_count};
use crate::ipc::stats::{BackendStats, PoolStats, PortStats, RelayStats, ServiceStats};

pub(super) fn relay(out: &mut Families, stats: &RelayStats) {
    stats.services.iter().for_each(|s| of_service(out, s));
    stats.pools.iter().for_each(|p| of_pool(out, p));
    stats.backends.iter().for_each(|b| of_backend(out, b));
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
    gauge_count(
        out,
        "weir_relay_open",
        "Client connections open, of all services together.",
        &[],
        stats.open,
    );
    gauge_count(
        out,
        "weir_relay_open_max",
        "Client connections that may be open, of all services together.",
        &[],
        stats.most,
    );
    gauge_count(
        out,
        "weir_relay_http2_streams",
        "Requests of HTTP/2 under way, of all services.",
        &[],
        stats.streams,
    );
    gauge_count(
        out,
        "weir_relay_http2_streams_max",
        "Requests of HTTP/2 that may be under way, of all services together.",
        &[],
        stats.most_streams,
    );
    gauge_count(
        out,
        "weir_relay_tls_handshakes_open",
        "TLS handshakes under way.",
        &[],
        stats.handshakes,
    );
    gauge_count(
        out,
        "weir_relay_tls_handshakes_max",
        "TLS handshakes that may be under way.",
        &[],
        stats.most_handshakes,
    );
    gauge_count(
        out,
        "weir_relay_tasks",
        "Tasks of the relay's workers: one for each client connection, a few for each worker.",
        &[],
        stats.tasks,
    );
    gauge_count(
        out,
        "weir_relay_held_bytes",
        "Memory held for what was read and not taken by the other side yet.",
        &[],
        stats.held,
    );
}

fn of_service(out: &mut Families, s: &ServiceStats) {
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
        "Client connections refused because of a limit on connections.",
        &[base],
        s.refused,
    );
    out.counter(
        "weir_relay_connections_null_total",
        "Client connections that ended without a byte from the client.",
        &[base],
        s.null,
    );
    out.counter(
        "weir_relay_http2_connections_total",
        "Client connections that came to speak HTTP/2.",
        &[base],
        s.http2,
    );
    gauge_count(
        out,
        "weir_relay_http2_connections_open",
        "Client connections open that speak HTTP/2.",
        &[base],
        s.http2_open,
    );
    gauge_count(
        out,
        "weir_relay_http2_streams_open",
        "Requests under way on connections of HTTP/2.",
        &[base],
        s.http2_streams,
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
    let kinds = [("1.2", "no"), ("1.2", "yes"), ("1.3", "no"), ("1.3", "yes")];
    for ((version, resumed), count) in kinds.into_iter().zip(s.handshakes) {
        out.counter(
            "weir_relay_tls_handshakes_total",
            "TLS handshakes made.",
            &[base, ("version", version), ("resumed", resumed)],
            count,
        );
    }
    out.histogram(
        "weir_relay_tls_handshake_seconds",
        "From the accept to the end of the TLS handshake.",
        &[base],
        &s.handshake,
    );
}

fn of_pool(out: &mut Families, p: &PoolStats) {
    let base = [("pool", p.pool.as_str())];
    gauge_count(
        out,
        "weir_relay_pool_queued",
        "Requests (or connections) that wait for a backend or for a connection to one.",
        &base,
        p.queued,
    );
    gauge_count(
        out,
        "weir_relay_pool_active",
        "Requests (or connections) there are: waiting, and at backends.",
        &base,
        p.active,
    );
    for (name, help, latency) in [
        (
            "weir_relay_pool_duration_seconds",
            "From a request's whole head (or a connection's accept) to the end, of those that a backend was given.",
            &p.total,
        ),
        (
            "weir_relay_pool_connect_seconds",
            "To connect to a backend.",
            &p.connect,
        ),
        (
            "weir_relay_pool_response_seconds",
            "From the connection to a backend to its response's head.",
            &p.response,
        ),
    ] {
        out.histogram(name, help, &base, latency);
    }
    out.histogram(
        "weir_relay_pool_queue_seconds",
        "How long those waited that wait no longer.",
        &base,
        &p.queue_wait,
    );
    for (why, count) in [("full", p.queue_full), ("timeout", p.queue_timeouts)] {
        out.counter(
            "weir_relay_pool_queue_refused_total",
            "Requests (or connections) that the queue was too long for, or that waited in vain.",
            &[base[0], ("why", why)],
            count,
        );
    }
    out.counter(
        "weir_relay_pool_retries_total",
        "Tries after the first.",
        &base,
        p.retries,
    );
    out.counter(
        "weir_relay_pool_retries_denied_total",
        "Tries that were not made because the budget was used up.",
        &base,
        p.retries_denied,
    );
    out.counter(
        "weir_relay_pool_ports_exhausted_total",
        "Connections to backends that were not made because no source port was free.",
        &base,
        p.no_port,
    );
    if let Some(ports) = &p.ports {
        of_ports(out, base[0], p, ports);
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
fn of_ports(out: &mut Families, base: (&'static str, &str), p: &PoolStats, ports: &PortStats) {
    out.counter(
        "weir_relay_pool_ports_refused_total",
        "Source ports that the system would not have, though they were taken for free; the next was tried.",
        &[base],
        p.port_refused,
    );
    out.counter(
        "weir_relay_pool_ports_early_total",
        "Connections from a source port whose rest was not over, since none was free.",
        &[base],
        p.port_early,
    );
    for (address, counts) in &ports.addresses {
        let address = address.to_string();
        for (state, count) in ["free", "in-use", "waiting"].into_iter().zip(counts) {
            out.gauge(
                "weir_relay_pool_ports",
                "Source ports of an address towards one backend: of the backend with the fewest free.",
                &[base, ("source", &address), ("state", state)],
                *count as f64,
            );
        }
    }
    out.gauge(
        "weir_relay_pool_ports_seconds_to_exhaustion",
        "When there will be no free source port towards some backend, if it goes on like this.",
        &[base],
        ports.exhausted_in.unwrap_or(f64::INFINITY),
    );
}

fn of_backend(out: &mut Families, b: &BackendStats) {
    let address = b.address.to_string();
    let base = [("pool", b.pool.as_str()), ("backend", address.as_str())];
    out.counter(
        "weir_relay_backend_connections_total",
        "Connections established to the backend.",
        &base,
        b.connections,
    );
    out.counter(
        "weir_relay_backend_connections_warmed_total",
        "Of these, in advance.",
        &base,
        b.warmed,
    );
    gauge_count(
        out,
        "weir_relay_backend_connections_open",
        "Connections to it: used, idle and being made.",
        &base,
        b.open,
    );
    out.gauge(
        "weir_relay_backend_connections_max",
        "Connections that it may have at once.",
        &base,
        b.max.map_or(f64::INFINITY, f64::from),
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
        "Requests sent on a connection that was kept idle before.",
        &base,
        b.reused,
    );
    out.counter(
        "weir_relay_backend_retries_total",
        "Requests that came to it because another try had failed.",
        &base,
        b.retries,
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
