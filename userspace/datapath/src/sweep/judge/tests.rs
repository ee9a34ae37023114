//! The rules by tables.

use std::net::IpAddr;

use super::*;

/// Services and backends 1 to 9 are known.
struct Nine;

impl Known for Nine {
    fn service(&self, id: u32) -> bool {
        (1..=9).contains(&id)
    }

    fn backend(&self, index: u32) -> bool {
        (1..=9).contains(&index)
    }
}

fn addr(text: &str) -> Addr16 {
    text.parse::<IpAddr>().unwrap().into()
}

fn ports(a: u16, b: u16) -> u32 {
    let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[test]
fn flows_go_when_they_are_of_no_use() {
    let now = 10_000;
    for (name, service, backend, seen, want) in [
        ("open and old", 1, 1, 1, false),
        ("just closed", 1 | flow::CLOSED, 1, now, false),
        ("closed a minute ago", 1 | flow::CLOSED, 1, now - CLOSED, false),
        ("closed before that", 1 | flow::CLOSED, 1, now - CLOSED - 1, true),
        ("counted", 1 | flow::COUNTED, 1, 1, false),
        ("of a service that is gone", 10, 1, now - YOUNG - 1, true),
        ("of a backend that is gone", 1, 10, now - YOUNG - 1, true),
        ("of a service that came since", 10, 1, now, false),
        ("of a backend that came since", 1, 10, now, false),
        (
            "of the relay, which counts",
            1 | flow::COUNTED,
            0,
            now - COUNTS,
            false,
        ),
        (
            "of the relay, and counts no more",
            1 | flow::COUNTED,
            0,
            now - COUNTS - 1,
            true,
        ),
        ("of the clock's next second", 1 | flow::CLOSED, 1, now + 1, false),
    ] {
        let state = FlowState {
            service,
            backend,
            recorded: 1,
            seen,
            ..FlowState::default()
        };
        assert_eq!(is_done(&state, now, &Nine), want, "{name}");
    }
}

#[test]
fn a_tuple_that_is_used_again_is_another_flow() {
    let read = FlowState {
        service: 1 | flow::CLOSED,
        backend: 1,
        recorded: 100,
        seen: 200,
        ..FlowState::default()
    };
    let late = FlowState {
        packets: 1,
        seen: 300,
        ..read
    };
    assert!(is_same(&read, &late), "a late packet of the same flow");
    for other in [
        FlowState {
            recorded: 300,
            ..read
        },
        FlowState { service: 1, ..read },
        FlowState { backend: 2, ..read },
    ] {
        assert!(!is_same(&read, &other), "{other:?}");
    }
}

#[test]
fn a_full_table_loses_its_oldest() {
    // Capacity 800: over 700 is too full, down to 600.
    for (counts, want) in [
        (&[(1, 700)][..], None),
        (&[], None),
        (&[(1, 701)], Some((1, 101))),
        (&[(1, 50), (2, 51), (3, 600)], Some((2, 51))),
        (&[(1, 50), (2, 100), (3, 650)], Some((3, 50))),
        (&[(5, 800)], Some((5, 200))),
    ] {
        let recorded: BTreeMap<u32, u64> = counts.iter().copied().collect();
        let cutoff = Cutoff::new(&recorded, 800);
        assert_eq!(cutoff.map(|c| (c.before, c.within)), want, "{counts:?}");
        let Some(mut cutoff) = cutoff else { continue };
        let mut left = 0;
        for (&second, &count) in &recorded {
            for _ in 0..count {
                let state = FlowState {
                    recorded: second,
                    ..FlowState::default()
                };
                left += u32::from(!cutoff.takes(&state));
            }
        }
        assert_eq!(left, 600, "{counts:?}");
    }
}

#[test]
fn ports_come_back_when_their_flows_are_over() {
    let settings = Settings {
        nat_tcp_idle: 600,
        nat_udp_idle: 30,
        nat_time_wait: 60,
        ..Settings::default()
    };
    let now = 10_000;
    let there = NatFlow {
        seen: 1,
        ..NatFlow::default()
    };
    let answered = nat::ANSWERED;
    for (name, proto, seen, closed, flags, want) in [
        ("open", 6, now - 600, 0, answered, false),
        (
            "open, to within a refresh",
            6,
            now - 600 - nat::REFRESH,
            0,
            answered,
            false,
        ),
        ("silent", 6, now - 601 - nat::REFRESH, 0, answered, true),
        ("unanswered", 6, now - nat::EMBRYONIC, 0, 0, false),
        ("never answered", 6, now - nat::EMBRYONIC - 1, 0, 0, true),
        ("ended", 6, now, now - 60, answered, false),
        ("ended and rested", 6, now, now - 61, answered, true),
        ("UDP", 17, now - 30, 0, 0, false),
        ("silent UDP", 17, now - 31 - nat::REFRESH, 0, answered, true),
    ] {
        let key = FlowKey {
            proto,
            ..FlowKey::default()
        };
        let reply = NatReply {
            seen,
            closed,
            flags,
            service: 1,
            backend: 1,
            ..NatReply::default()
        };
        let verdict = |reply: &NatReply, there| gives_back(&key, reply, there, now, &settings, &Nine);
        assert_eq!(verdict(&reply, Some(&there)), want, "{name}");
        if !want && closed == 0 {
            let gone = NatReply { backend: 10, ..reply };
            assert!(verdict(&gone, Some(&there)), "{name}: backend gone");
            let came_since = NatReply { seen: now, ..gone };
            assert!(!verdict(&came_since, Some(&there)), "{name}: backend come");
            assert_eq!(verdict(&reply, None), now - seen > YOUNG, "{name}: an orphan");
        }
    }
    // The client's packets count as well as the backend's.
    let key = FlowKey {
        proto: 17,
        ..FlowKey::default()
    };
    let reply = NatReply {
        seen: 1,
        service: 1,
        backend: 1,
        ..NatReply::default()
    };
    let lively = NatFlow {
        seen: now,
        ..NatFlow::default()
    };
    assert!(!gives_back(&key, &reply, Some(&lively), now, &settings, &Nine));
}

#[test]
fn half_a_pair_is_let_be_while_it_is_young() {
    let flow = |seen| NatFlow {
        recorded: 1,
        seen,
        ..NatFlow::default()
    };
    assert!(!is_orphan(&flow(100), None, 100));
    assert!(is_orphan(&flow(100), None, 101 + YOUNG));
    assert!(!is_orphan(&flow(1), Some(&NatReply::default()), 1000));
}

#[test]
fn a_reply_knows_its_flow() {
    let reply = NatReply {
        client: addr("198.51.100.7"),
        vip: addr("192.0.2.10"),
        ports: ports(80, 40_000),
        ..NatReply::default()
    };
    let key = FlowKey {
        proto: 6,
        ..FlowKey::default()
    };
    let want = FlowKey {
        src: addr("198.51.100.7"),
        dst: addr("192.0.2.10"),
        ports: ports(40_000, 80),
        proto: 6,
    };
    assert_eq!(flow_of(&key, &reply), want);
}

#[test]
fn a_flow_counts_for_its_network_while_it_is_open() {
    let limits = ServiceLimits {
        mask_v4: u32::from_ne_bytes([255, 255, 255, 0]),
        mask_v6: [!0, !0, 0, 0],
        ..ServiceLimits::default()
    };
    for (src, service, want) in [
        ("198.51.100.7", 3 | flow::COUNTED, Some("198.51.100.0")),
        ("2001:db8:1:2:3::4", 3 | flow::COUNTED, Some("2001:db8:1:2::")),
        ("198.51.100.7", 3, None),
        ("198.51.100.7", 3 | flow::COUNTED | flow::CLOSED, None),
    ] {
        let key = FlowKey {
            src: addr(src),
            ..FlowKey::default()
        };
        let state = FlowState {
            service,
            ..FlowState::default()
        };
        let counted = counts_for(&key, &state, COUNTS, |id| (id == 3).then_some(limits));
        let want = want.map(|net| ClientKey {
            addr: addr(net),
            service: 3,
        });
        assert_eq!(counted, want, "{src}, {service:x}");
        let later = counts_for(&key, &state, COUNTS + 1, |_| Some(limits));
        assert_eq!(later, None, "it may have ended unseen");
    }
    for (flags, closed, want) in [(nat::COUNTED, 0, true), (0, 0, false), (nat::COUNTED, 9, false)] {
        let reply = NatReply {
            client: addr("198.51.100.7"),
            service: 3,
            flags: flags | nat::ANSWERED,
            closed,
            ..NatReply::default()
        };
        let counted = nat_counts_for(&reply, |id| (id == 3).then_some(limits));
        let net = ClientKey {
            addr: addr("198.51.100.0"),
            service: 3,
        };
        assert_eq!(counted, want.then_some(net), "full-nat: {flags:x}, {closed}");
    }
    let state = FlowState {
        service: 4 | flow::COUNTED,
        ..FlowState::default()
    };
    assert_eq!(
        counts_for(&FlowKey::default(), &state, 0, |_| None),
        None,
        "no limits any more"
    );
}
