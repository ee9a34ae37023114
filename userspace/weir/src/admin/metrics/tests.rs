//! The families against docs/metrics.md, and the text against its format.

use std::collections::{BTreeMap, BTreeSet};

use weir_core::sync::peer::Counts;
use weir_datapath::{
    sweep::{PortUse, Ports},
    sync::driver::PeerReport,
};

use super::*;
use crate::control::{FlowTable, PortForecast};
use crate::{
    admin::api,
    ipc::stats::{BackendStats, PoolStats, PortStats, ServiceStats},
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
        tls: String::new(),
        backends: vec![backend],
    };
    let service = api::Service {
        name: "www".into(),
        mode: "http".into(),
        listen: vec!["192.0.2.10:80/tcp".into()],
        pool: Some("web".into()),
        pools: vec![api::PoolUse {
            pool: "web".into(),
            backends_in_use: 1,
            backends: 1,
        }],
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
            xdp: Xdp {
                mode: "native".into(),
                interfaces: vec![],
                addresses: vec![],
                syncookies: true,
                listed: api::ListCounts {
                    allow: 1,
                    ban: 2,
                    overload: 3,
                },
            },
            processes: vec![process],
            services: vec![service],
            exports: vec![api::Exported {
                address: "192.0.2.10".into(),
                exported: true,
            }],
            sync: vec![],
            certificates: vec![api::TlsFile {
                service: "www".into(),
                pool: String::new(),
                file: "/etc/weir/www.pem".into(),
                subject: "CN=www.example.net".into(),
                names: vec!["www.example.net".into()],
                key: "ECDSA P-256".into(),
                not_before: 1,
                not_after: 2,
                trouble: None,
            }],
            ha: vec![api::HaGroup {
                name: "edge".into(),
                state: "master".into(),
                since_seconds: 1,
                cause: "no master was heard".into(),
                changes: 2,
                priority: 150,
                announced: 9,
                interval_ms: 1000,
                preempt: "never".into(),
                lease_ms: 100,
                signatures: "none".into(),
                demotion: 1,
                shares: vec![],
                master: None,
                rival: Some("192.0.2.2".into()),
                trouble: None,
                routers: vec![],
                services: vec![],
                share_of: None,
            }],
            unverified: vec![],
            tls_troubles: vec![],
        },
        vrrp: vec![Vrrp {
            group: "edge".into(),
            transitions: vec![("backup", "started", 1), ("master", "silence", 1)],
            shares: vec![("starting".into(), 0), ("service:www".into(), 1)],
            counted: weir_datapath::vrrp::Counts::default().read(),
        }],
        vrrp_deaths: 3,
        tls: Tls {
            signatures: Some((1, 2)),
            files: vec![("/etc/weir/www.pem".into(), 1, false)],
            lists: vec![TlsList {
                service: "www".into(),
                file: "/etc/weir/crl.pem".into(),
                next_update: 3,
            }],
        },
        pools: Pools { pools: vec![pool] },
        relay: RelayStats {
            handshakes: 1,
            most_handshakes: 2,
            services: vec![ServiceStats {
                service: "www".into(),
                ends: counts(&["ok"]),
                total: latency.clone(),
                handshakes: [1, 2, 3, 4],
                handshake: latency.clone(),
                first_byte: latency.clone(),
                ..ServiceStats::default()
            }],
            backends: vec![BackendStats {
                pool: "web".into(),
                address: "10.0.0.1:80".parse().unwrap(),
                connections: 1,
                warmed: 1,
                open: 1,
                max: Some(9),
                idle: 1,
                requests: 1,
                reused: 1,
                retries: 1,
                in_flight: 1,
                errors: counts(&["refused"]),
                bytes_out: 1,
                bytes_in: 1,
            }],
            pools: vec![PoolStats {
                pool: "web".into(),
                queue_wait: latency.clone(),
                connect: latency.clone(),
                response: latency.clone(),
                total: latency,
                ports: Some(PortStats {
                    addresses: vec![([10, 0, 0, 5].into(), [1, 2, 3])],
                    exhausted_in: Some(4.5),
                }),
                ..PoolStats::default()
            }],
            log_dropped: 0,
            accept_paused: 0,
            held: 0,
            open: 1,
            most: 100,
            streams: 2,
            most_streams: 200,
            tasks: 3,
        },
        l4: Some(L4 {
            reasons: vec![("forward-nat", "forward", 9)],
            notes: vec![("flow-recorded", 3)],
            next_hops: vec![("resolved", 2), ("asked", 1)],
            flow_tables: FlowTables {
                tables: vec![FlowTable {
                    name: "NAT_FLOWS",
                    capacity: 100,
                    entries: 7,
                    ended: 3,
                    evicted: 0,
                }],
                ports: vec![PortForecast {
                    ports: PortUse {
                        source: "10.0.0.1".parse().unwrap(),
                        ports: Ports {
                            free: 50,
                            in_use: 7,
                            waiting: 3,
                        },
                    },
                    exhausted_in: None,
                }],
            },
            services: vec![("dns".into(), traffic)],
            backends: vec![("dns".into(), "10.0.0.2:53".into(), traffic)],
        }),
        sync: Some(Sync {
            report: Report {
                peers: vec![PeerReport {
                    address: "10.0.0.2:3720".parse().unwrap(),
                    there: true,
                    heard: None,
                    holds: true,
                    joining: None,
                    lag: std::time::Duration::ZERO,
                    counts: Counts::default(),
                }],
                ..Report::default()
            },
            unfinished: false,
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
        text.contains("weir_relay_request_duration_seconds_bucket{service=\"www\",le=\"+Inf\"} 19\n"),
        "{text}"
    );
    assert!(
        text.contains("weir_relay_request_duration_seconds_sum{service=\"www\"} 2.5\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "weir_vrrp_thread_deaths_total 3
"
        ) && text.contains("weir_vrrp_demotion{group=\"edge\",cause=\"service:www\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("weir_xdp_packets_total{verdict=\"forward\",reason=\"forward-nat\"} 9\n"),
        "{text}"
    );
}
