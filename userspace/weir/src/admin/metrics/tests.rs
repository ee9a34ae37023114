//! The families against docs/metrics.md, and the text against its format.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    admin::api,
    ipc::stats::{BackendStats, ServiceStats},
};

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md"));

fn full_scrape() -> Scrape {
    let latency = Latency {
        buckets: vec![1; weir_relay::Histogram::BOUNDS.len() + 1],
        sum_us: 2_500_000,
    };
    let counts = |names: &[&str]| {
        names
            .iter()
            .map(|n| ((*n).to_owned(), 1))
            .collect::<BTreeMap<_, _>>()
    };
    let traffic = weir_abi::Traffic {
        packets_in: 1,
        bytes_in: 2,
        packets_out: 3,
        bytes_out: 4,
        flows: 5,
    };
    let backend = api::Backend {
        address: "10.0.0.1:80".into(),
        name: "a".into(),
        weight: 10,
        backup: false,
        state: "up".into(),
        admin: "ready".into(),
        in_use: true,
        cause: "checks passed".into(),
        since_seconds: 1,
        checks: api::Checks {
            passed: 7,
            failed: 1,
            transitions: 1,
            last: None,
            last_took_ms: None,
        },
        traffic: api::Traffic::default(),
    };
    let pool = api::Pool {
        name: "web".into(),
        balance: "round-robin".into(),
        check: "tcp every 2s".into(),
        backends: vec![backend],
    };
    let service = api::Service {
        name: "www".into(),
        mode: "http".into(),
        listen: vec!["192.0.2.10:80/tcp".into()],
        pool: "web".into(),
        state: "up".into(),
        backends_in_use: 1,
        backends: 1,
        connections: 1,
        requests: 1,
    };
    let process = api::Process {
        role: "relay".into(),
        pid: Some(1),
        state: "running".into(),
        since_seconds: 1,
        restarts: 2,
        adopted: false,
    };
    Scrape {
        status: Status {
            version: "1.2.3".into(),
            node: "a \"quoted\" node\n".into(),
            config: "weir.toml".into(),
            generation: 1,
            reload_error: None,
            ready: true,
            waiting_for: vec![],
            uptime_seconds: 1,
            xdp: api::Xdp {
                mode: "native".into(),
                interfaces: vec![],
                addresses: vec![],
            },
            processes: vec![process],
            services: vec![service],
        },
        pools: Pools { pools: vec![pool] },
        relay: RelayStats {
            services: vec![ServiceStats {
                service: "www".into(),
                ends: counts(&["ok"]),
                total: latency.clone(),
                first_byte: latency,
                ..ServiceStats::default()
            }],
            backends: vec![BackendStats {
                pool: "web".into(),
                address: "10.0.0.1:80".parse().unwrap(),
                connections: 1,
                idle: 1,
                requests: 1,
                reused: 1,
                in_flight: 1,
                errors: counts(&["refused"]),
                bytes_out: 1,
                bytes_in: 1,
            }],
            log_dropped: 0,
            accept_paused: 0,
        },
        l4: Some(L4 {
            reasons: vec![("forward-nat", "forward", 9)],
            notes: vec![("flow-recorded", 3)],
            services: vec![("dns".into(), traffic)],
            backends: vec![("dns".into(), "10.0.0.2:53".into(), traffic)],
        }),
        started: 1e9,
        reloads_refused: 0,
        check_seconds: vec![("web".into(), "10.0.0.1:80".into(), 0.002)],
    }
}

fn families(text: &str) -> BTreeMap<String, String> {
    let line = |l: &str| {
        l.strip_prefix("# TYPE ")
            .and_then(|l| l.split_once(' '))
            .map(|(n, t)| (n.to_owned(), t.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn every_family_is_documented_with_its_type_and_no_other_is() {
    let text = render(&full_scrape()).unwrap();
    let rendered = families(&text);
    let documented: BTreeMap<String, String> = DOCS
        .lines()
        .filter_map(|l| {
            let mut cells = l.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().trim_matches('`').to_owned();
            Some((name, cells.next()?.trim().to_owned()))
        })
        .collect();
    assert_eq!(rendered, documented);
}

#[test]
fn names_and_values_keep_prometheus_conventions() {
    let text = render(&full_scrape()).unwrap();
    for (name, kind) in families(&text) {
        assert!(name.starts_with("weir_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    let series: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.rsplit_once(' '))
        .collect();
    let unique: BTreeSet<_> = series.iter().map(|(name, _)| name).collect();
    assert_eq!(unique.len(), series.len(), "a series stands twice");
    assert!(
        text.contains("weir_relay_request_duration_seconds_bucket{service=\"www\",le=\"+Inf\"} 17\n"),
        "{text}"
    );
    assert!(
        text.contains("weir_relay_request_duration_seconds_sum{service=\"www\"} 2.5\n"),
        "{text}"
    );
    assert!(
        text.contains("weir_xdp_packets_total{verdict=\"forward\",reason=\"forward-nat\"} 9\n"),
        "{text}"
    );
}
