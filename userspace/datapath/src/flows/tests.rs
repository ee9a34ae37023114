//! Rows from entries, filters and orders by tables.

use weir_core::ids::PoolName;

use super::*;

fn key(src: &str, dst: &str) -> FlowKey {
    let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let ([a, b], [c, d]) = (src.port().to_be_bytes(), dst.port().to_be_bytes());
    FlowKey {
        src: src.ip().into(),
        dst: dst.ip().into(),
        ports: u32::from_ne_bytes([a, b, c, d]),
        proto: 6,
    }
}

fn names() -> Names {
    let backend = |address: &str| BackendKey {
        pool: PoolName::new("web"),
        address: address.parse().unwrap(),
    };
    Names {
        services: BTreeMap::from([(1, ServiceName::new("www")), (2, ServiceName::new("dns"))]),
        backends: BTreeMap::from([(7, backend("10.0.0.7:80")), (8, backend("10.0.0.8:80"))]),
    }
}

fn state(recorded: u32, service: u32, backend: u32) -> FlowState {
    FlowState {
        recorded,
        seen: recorded,
        service,
        backend,
        ..FlowState::default()
    }
}

#[test]
fn an_entry_says_what_it_is() {
    let entry = key("198.51.100.7:40000", "192.0.2.10:80");
    let flow = |state: &FlowState| names().flow(plain(&entry, state, 1000));
    let open = flow(&state(990, 1, 7));
    assert_eq!(open.client, "198.51.100.7:40000".parse().unwrap());
    assert_eq!(open.vip, "192.0.2.10:80".parse().unwrap());
    assert_eq!((open.age, open.idle, open.stage), (10, None, FlowStage::Open));
    assert_eq!((open.packets, open.bytes), (None, None));
    assert_eq!(open.service.unwrap().as_str(), "www");
    assert_eq!(open.backend.unwrap().to_string(), "web/10.0.0.7:80");

    let counted = FlowState {
        packets: 3,
        bytes: 180,
        seen: 995,
        ..state(990, 1 | flow::CLOSED | flow::COUNTED, 9)
    };
    let closed = flow(&counted);
    assert_eq!((closed.idle, closed.stage), (Some(5), FlowStage::Closed));
    assert_eq!((closed.packets, closed.bytes), (Some(3), Some(180)));
    assert_eq!(closed.service.unwrap().as_str(), "www", "bits above the id");
    assert_eq!(closed.backend, None, "forgotten");
    // A clock that was read a tick earlier than the kernel's.
    assert_eq!(flow(&state(1001, 1, 7)).age, 0);
}

#[test]
fn a_translated_flow_stands_as_its_reply_says() {
    let entry = key("198.51.100.7:40000", "192.0.2.10:80");
    let there = NatFlow {
        source: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
        port: u32::from(20_000_u16.to_be()),
        backend: 7,
        recorded: 900,
        seen: 990,
    };
    for (flags, closed, want) in [
        (0, 0, FlowStage::Unanswered),
        (nat::ANSWERED, 0, FlowStage::Open),
        (nat::ANSWERED | nat::FIN_IN, 0, FlowStage::Closing),
        (nat::ANSWERED | nat::FIN_IN | nat::FIN_OUT, 999, FlowStage::Closed),
        (0, 999, FlowStage::Closed),
    ] {
        let back = NatReply {
            flags,
            closed,
            service: 2,
            seen: 995,
            packets: 1,
            bytes: 60,
            ..NatReply::default()
        };
        let flow = names().flow(translated(&entry, &there, Some(&back), 1000));
        assert_eq!(flow.stage, want, "{flags}, {closed}");
        assert_eq!((flow.age, flow.idle), (100, Some(5)));
        assert_eq!(flow.source, Some("10.0.0.1:20000".parse().unwrap()));
        assert_eq!(flow.service.unwrap().as_str(), "dns");
    }
    let orphan = names().flow(translated(&entry, &there, None, 1000));
    assert_eq!((orphan.stage, orphan.service), (FlowStage::Unanswered, None));
}

#[test]
fn the_reply_comes_from_the_backend_to_the_source_that_it_saw() {
    let there = NatFlow {
        source: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
        port: u32::from(20_000_u16.to_be()),
        ..NatFlow::default()
    };
    let backend = |port: u16| Backend {
        addr: "10.0.0.7".parse::<IpAddr>().unwrap().into(),
        port: u32::from(port.to_be()),
        ..Backend::default()
    };
    let entry = key("198.51.100.7:40000", "192.0.2.10:80");
    assert_eq!(
        reply_key(&entry, &there, &backend(8080)),
        key("10.0.0.7:8080", "10.0.0.1:20000")
    );
    assert_eq!(
        reply_key(&entry, &there, &backend(0)),
        key("10.0.0.7:80", "10.0.0.1:20000"),
        "the client's port was kept"
    );
}

#[test]
fn all_that_is_set_must_agree() {
    let names = names();
    let row = plain(
        &key("198.51.100.7:40000", "192.0.2.10:80"),
        &state(990, 1, 7),
        1000,
    );
    let net = |text: &str, prefix| IpNet::new(text.parse().unwrap(), prefix);
    let any = FlowFilter::default;
    for (what, filter, want) in [
        ("any", any(), true),
        (
            "service",
            FlowFilter {
                service: Some(ServiceName::new("www")),
                ..any()
            },
            true,
        ),
        (
            "other service",
            FlowFilter {
                service: Some(ServiceName::new("dns")),
                ..any()
            },
            false,
        ),
        (
            "unknown service",
            FlowFilter {
                service: Some(ServiceName::new("nobody")),
                ..any()
            },
            false,
        ),
        (
            "other backend",
            FlowFilter {
                backend: names.backends.get(&8).cloned(),
                ..any()
            },
            false,
        ),
        (
            "source",
            FlowFilter {
                source: net("198.51.100.0", 24),
                ..any()
            },
            true,
        ),
        (
            "source, but not destination",
            FlowFilter {
                source: net("198.51.100.0", 24),
                destination: net("192.0.2.11", 32),
                ..any()
            },
            false,
        ),
        (
            "closed",
            FlowFilter {
                closed: true,
                ..any()
            },
            false,
        ),
    ] {
        assert_eq!(Wanted::new(&filter, &names).takes(&row), want, "{what}");
    }
}

#[test]
fn the_first_by_each_order_however_many_there_are() {
    let key = key("198.51.100.7:40000", "192.0.2.10:80");
    for order in [FlowOrder::Newest, FlowOrder::Bytes, FlowOrder::Packets] {
        for limit in [0, 1, 10, 20_000] {
            let mut first = First::new(order, limit);
            for n in 0..10_000_u32 {
                // Each order another sequence, none sorted.
                let [a, b, c] = [7919, 104_729, 1_299_709].map(|p: u64| u64::from(n) * p % 10_000);
                let state = FlowState {
                    recorded: a as u32,
                    bytes: b,
                    packets: c,
                    ..FlowState::default()
                };
                first.push(plain(&key, &state, 10_000));
            }
            let (rows, matched) = first.finish();
            assert_eq!(matched, 10_000);
            let of = |row: &Row| match order {
                FlowOrder::Newest => u64::from(row.recorded),
                FlowOrder::Bytes => row.bytes,
                FlowOrder::Packets => row.packets,
            };
            let want: Vec<u64> = (0..10_000).rev().take(limit).collect();
            assert_eq!(
                rows.iter().map(of).collect::<Vec<_>>(),
                want,
                "{order:?}, {limit}"
            );
        }
    }
}
