//! The decision over tables in memory: what the kernel can't be asked to the second, and the order of things.

use std::{boxed::Box, vec::Vec};

use weir_abi::{
    Backend, FlowState, NextHop, Note, ReturnTarget, Settings, Slot,
    maps::{action, backend::ALIVE, next_hop, service::HASH_MASKED},
};

use super::*;
use crate::{
    hash::{expand, flow_hash, slot_of},
    memory::{Asked, MemoryTables},
    parse::{TCP, UDP, parse},
    rewrite::Link,
    tables::Route,
    testing::Frame,
    window::Window,
};

const CLIENT: &str = "198.51.100.7:40000";
const VIP: &str = "192.0.2.10:80";
const CHANGED: u32 = 1000;

fn key(text: &str, protocol: u8) -> (Addr16, u32) {
    let addr: core::net::SocketAddr = text.parse().unwrap();
    (addr.ip().into(), port_proto(addr.port().to_be(), protocol))
}

/// Backends 1 to 3 alive, one slot for both protocols, every route open.
fn tables(slot: Slot) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for n in 1..=3u8 {
        let (addr, _) = key(&std::format!("10.9.0.{n}:0"), TCP);
        tables.backends.push(Backend {
            addr,
            port: u32::from(8080u16.to_be()),
            flags: ALIVE,
            ..Backend::default()
        });
    }
    for protocol in [TCP, UDP] {
        let (addr, port_proto) = key(VIP, protocol);
        let service = Service {
            id: 1,
            action: action::NAT,
            ring_len: 1,
            ..Service::default()
        };
        tables.services.insert(ServiceKey { addr, port_proto }, service);
    }
    tables.mark(&key(VIP, TCP).0);
    tables.rings.push(slot);
    tables.settings = Settings {
        hash_key: [1, 2],
        flow_key: expand([1, 2]),
        tcp_grace: 60,
        udp_grace: 120,
        horizon: 3600,
        record_limit: 100,
        fib_ifindex: 1,
        ..Settings::default()
    };
    tables.now = CHANGED;
    tables.routes = Box::new(|_| Route::Via {
        ifindex: 7,
        link: Link::default(),
    });
    tables
}

/// The backend that takes the frame.
fn taken(frame: &Frame, tables: &mut MemoryTables) -> Result<u8, Reason> {
    let mut bytes = frame.build();
    let outcome = handle(&mut bytes, tables);
    if outcome.reason == Reason::ForwardNat {
        assert_eq!(outcome.egress, 7);
        return Ok(bytes[33]);
    }
    assert_eq!(
        (outcome.egress, &bytes),
        (0, &frame.build()),
        "nothing is changed in what is not sent"
    );
    Err(outcome.reason)
}

const SLOT: Slot = Slot {
    current: 2,
    previous: 1,
    changed: CHANGED,
};

#[test]
fn graces_and_horizon_to_the_second() {
    let tcp = Frame::new(TCP, CLIENT, VIP);
    let udp = Frame::new(UDP, CLIENT, VIP);
    for (frame, grace) in [(&tcp, 60), (&udp, 120)] {
        // The clock of the kernel may lag behind the writer's: then no time has passed.
        for (age, expected) in [(-2, 1), (0, 1), (grace, 1), (grace + 1, 2), (3600, 2), (3601, 2)] {
            let mut tables = tables(SLOT);
            tables.now = CHANGED.saturating_add_signed(age);
            assert_eq!(taken(frame, &mut tables), Ok(expected), "after {age} s");
            assert_eq!(
                tables.noted(Note::FlowLookup),
                u64::from(age <= 3600),
                "after {age} s"
            );
        }
    }
    for (age, expected) in [(3600, 3), (3601, 2)] {
        let mut tables = tables(SLOT);
        tables.now = CHANGED + age;
        let mut bytes = tcp.build();
        let flow = parse(Window::new(&mut bytes)).unwrap().flow;
        tables.flows.insert(
            flow,
            FlowState {
                backend: 3,
                recorded: 1,
                ..FlowState::default()
            },
        );
        assert_eq!(taken(&tcp, &mut tables), Ok(expected), "after {age} s");
    }
}

#[test]
fn a_stable_slot_asks_for_nothing_but_itself() {
    let mut tables = tables(Slot {
        current: 2,
        previous: 0,
        changed: 0,
    });
    for protocol in [TCP, UDP] {
        assert_eq!(taken(&Frame::new(protocol, CLIENT, VIP), &mut tables), Ok(2));
    }
    assert_eq!(
        tables.asked,
        Asked {
            clock: 0,
            exact_clock: 0,
            flows: 0,
            slots: 2,
            last_slot: Some(0)
        }
    );
    assert!(tables.flows.is_empty());
}

#[test]
fn a_mended_record_is_not_limited() {
    let mut tables = tables(SLOT);
    tables.settings.record_limit = 0;
    tables.backends[1].flags = 0;
    let frame = Frame::new(TCP, CLIENT, VIP);
    let mut bytes = frame.build();
    let flow = parse(Window::new(&mut bytes)).unwrap().flow;
    tables.flows.insert(
        flow,
        FlowState {
            backend: 1,
            recorded: 1,
            ..FlowState::default()
        },
    );
    assert_eq!(taken(&frame, &mut tables), Ok(2));
    assert_eq!(
        tables.flows[&flow],
        FlowState {
            packets: 1,
            bytes: bytes.len() as u64,
            backend: 2,
            recorded: 1,
            seen: CHANGED,
            service: 0,
        }
    );
    assert_eq!(tables.noted(Note::FlowRemapped), 1);
    // From here on it is a flow of the new one, whatever becomes of the slot.
    tables.rings[0] = Slot {
        current: 3,
        previous: 2,
        changed: CHANGED,
    };
    assert_eq!(taken(&frame, &mut tables), Ok(2));
}

#[test]
fn flows_of_udp_are_counted_when_they_are_recorded() {
    let mut tables = tables(SLOT);
    for _ in 0..3 {
        assert_eq!(taken(&Frame::new(UDP, CLIENT, VIP), &mut tables), Ok(1));
    }
    assert_eq!(tables.service_traffic[&1].flows, 1);
    assert_eq!(tables.service_traffic[&1].packets_in, 3);
}

#[test]
fn the_hop_limit_is_asked_before_anything_is_remembered() {
    let mut tables = tables(SLOT);
    tables.settings.reply_limit = 0;
    let mut frame = Frame::new(TCP, CLIENT, VIP).syn();
    frame.hops = 1;
    assert_eq!(taken(&frame, &mut tables), Err(Reason::ReplyLimited));
    assert!(tables.flows.is_empty());
}

#[test]
fn a_service_comes_before_a_return() {
    let mut tables = tables(SLOT);
    // The VIP's client is a backend of another service, and uses that very port.
    let (addr, port_proto) = key(CLIENT, TCP);
    tables
        .returns
        .insert(ReturnKey { addr, port_proto }, ReturnTarget::default());
    assert_eq!(taken(&Frame::new(TCP, CLIENT, VIP).syn(), &mut tables), Ok(2));
}

#[test]
fn a_ring_is_asked_at_the_slot_of_the_flow() {
    let mut tables = tables(SLOT);
    let (addr, port_proto) = key(VIP, TCP);
    let ring_len = 101;
    let service = Service {
        id: 1,
        action: action::NAT,
        ring_offset: 1,
        ring_len,
        ..Service::default()
    };
    tables.services.insert(ServiceKey { addr, port_proto }, service);
    tables.rings.extend((0..ring_len).map(|n| Slot {
        current: 1 + (n % 3) as u16,
        previous: 0,
        changed: 0,
    }));
    let mut seen = Vec::new();
    for port in 1..200 {
        let frame = Frame::new(TCP, &std::format!("198.51.100.7:{port}"), VIP);
        let mut bytes = frame.build();
        let flow = parse(Window::new(&mut bytes)).unwrap().flow;
        let slot = slot_of(flow_hash(&expand([1, 2]), &flow), ring_len);
        assert_eq!(taken(&frame, &mut tables), Ok(1 + (slot % 3) as u8));
        assert_eq!(tables.asked.last_slot, Some(1 + slot));
        seen.push(slot);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 60, "{} slots of 101", seen.len());
}

#[test]
fn every_reason_is_counted_once() {
    let mut tables = tables(SLOT);
    handle(&mut std::vec![0; 4], &mut tables);
    handle(&mut Frame::new(TCP, CLIENT, "192.0.2.99:1").build(), &mut tables);
    handle(&mut Frame::new(TCP, CLIENT, VIP).build(), &mut tables);
    for reason in Reason::ALL {
        let expected = matches!(reason, Reason::Truncated | Reason::NoService | Reason::ForwardNat);
        assert_eq!(tables.reason(*reason), u64::from(expected), "{}", reason.name());
    }
}

#[test]
fn a_limit_is_a_limit_each_second() {
    let mut tables = tables(SLOT);
    tables.settings.record_limit = 2;
    for (now, recorded, refused) in [(1000, 2, 1), (1000, 2, 4), (1001, 4, 5), (1003, 6, 6)] {
        tables.now = now;
        for _ in 0..3 {
            assert_eq!(taken(&Frame::new(TCP, CLIENT, VIP).syn(), &mut tables), Ok(2));
        }
        let noted = (
            tables.noted(Note::FlowRecorded),
            tables.noted(Note::FlowRecordLimited),
        );
        assert_eq!(noted, (recorded, refused), "at {now}");
    }
}

#[test]
fn a_tcp_flow_is_recorded_by_its_syn_alone() {
    let mut tables = tables(SLOT);
    assert_eq!(taken(&Frame::new(TCP, CLIENT, VIP), &mut tables), Ok(1));
    assert!(tables.flows.is_empty());
    assert_eq!(tables.service_traffic[&1].flows, 0);
    assert_eq!(taken(&Frame::new(TCP, CLIENT, VIP).syn(), &mut tables), Ok(2));
    assert_eq!(tables.flows.len(), 1);
    assert_eq!(tables.service_traffic[&1].flows, 1);
}

/// By `dsr` a packet keeps its destination: a router would send it back.
#[test]
fn a_backend_of_dsr_behind_a_router_is_not_sent_to() {
    for (mode, flags, expected) in [
        (action::DSR, next_hop::ON_LINK, Reason::ForwardDsr),
        (action::DSR, 0, Reason::NoRoute),
        (action::NAT, 0, Reason::ForwardNat),
    ] {
        let mut tables = tables(Slot {
            current: 1,
            previous: 0,
            changed: 0,
        });
        for service in tables.services.values_mut() {
            service.action = mode;
        }
        tables.next_hops.push(NextHop {
            ifindex: 7,
            mtu: 1500,
            flags,
            ..NextHop::default()
        });
        tables.backends[1].next_hop = tables.next_hops.len() as u32 - 1;
        let mut frame = Frame::new(UDP, CLIENT, VIP).build();
        assert_eq!(handle(&mut frame, &mut tables).reason, expected, "{mode} {flags}");
    }
}

/// The MSS in a SYN-ACK bounds what the client sends to the backend, so the way there counts as well.
#[test]
fn a_syn_ack_offers_what_fits_both_ways() {
    for (to_backend, expected) in [(1400, 1360), (1500, 1410), (9000, 1410)] {
        let mut tables = tables(Slot {
            current: 1,
            previous: 0,
            changed: 0,
        });
        for mtu in [to_backend, 1450] {
            tables.next_hops.push(NextHop {
                ifindex: 7,
                mtu,
                ..NextHop::default()
            });
        }
        let last = tables.next_hops.len() as u32 - 1;
        tables.backends[1].next_hop = last - 1;
        let (client, _) = key(CLIENT, TCP);
        tables.routes_to_clients.insert(
            weir_abi::Prefix {
                len: 128,
                addr: client,
            },
            last,
        );
        let (addr, port_proto) = key("10.9.0.1:8080", TCP);
        let (vip, _) = key(VIP, TCP);
        let target = ReturnTarget {
            vip,
            port: u32::from(80u16.to_be()),
            service: 1,
            backend: 1,
            flags: 0,
        };
        tables.mark(&addr);
        tables.returns.insert(ReturnKey { addr, port_proto }, target);
        let mut frame = Frame::new(TCP, "10.9.0.1:8080", CLIENT);
        frame.flags = 0x12;
        // The option stands where the payload did.
        frame.payload = [&[2, 4][..], &8960u16.to_be_bytes()].concat();
        let mut bytes = frame.build();
        bytes[14 + 20 + 12] = 0x60;
        assert_eq!(handle(&mut bytes, &mut tables).reason, Reason::ReturnNat);
        let option = &bytes[14 + 20 + 20..][..4];
        assert_eq!(
            u16::from_be_bytes([option[2], option[3]]),
            expected,
            "{to_backend}"
        );
    }
}

/// Whoever looks at a flow without a packet finds the slot that its packets fall on.
#[test]
fn a_flow_is_placed_where_its_packets_are() {
    let mut service = Service {
        ring_offset: 1000,
        ring_len: 1009,
        ..Service::default()
    };
    let settings = tables(Slot::default()).settings;
    let ends = [
        ("198.51.100.7:40000", "192.0.2.10:80"),
        ("[2001:db8::7]:40000", "[2001:db8::10]:80"),
    ];
    for masked in [false, true] {
        if masked {
            service.flags = HASH_MASKED;
            service.hash_mask = [u32::from_ne_bytes([0xff, 0xff, 0xff, 0]); 4];
        }
        for (from, to) in ends {
            for protocol in [TCP, UDP] {
                let mut bytes = Frame::new(protocol, from, to).build();
                let packet = parse(Window::new(&mut bytes)).unwrap();
                let expected = slot_index(&service, hash(&packet, &service, &settings));
                assert_eq!(place(&{ packet.flow }, &service, &settings), Some(expected));
            }
        }
    }
    service.ring_len = 0;
    let mut bytes = Frame::new(TCP, ends[0].0, ends[0].1).build();
    let packet = parse(Window::new(&mut bytes)).unwrap();
    assert_eq!(place(&{ packet.flow }, &service, &settings), None);
}
