//! Any frame through the parser and the decision, as the kernel program takes it.
//!
//! Holds: one verdict with one reason is counted; a frame that is not forwarded is not touched; one that is keeps its
//! length and payload, loses one hop, and its checksums are right if they were right before, by a plain computation over
//! the whole packet; the same frame gives the same outcome again.

use weir_abi::{
    Addr16, Backend, Reason, ReturnKey, ReturnTarget, Service, ServiceKey, Settings, Slot, Verdict,
    maps::{action, backend, port_proto, returns},
};
use weir_fastpath::{
    Route, Window, handle,
    memory::MemoryTables,
    parse::{Packet, TCP, UDP, parse},
    rewrite::Link,
};

/// Slots of each ring.
const RING: u32 = 13;

/// Checks one frame.
pub fn check(data: &[u8]) {
    let mut frame = data.to_vec();
    let before = parse(Window::new(&mut frame));
    assert_eq!(frame, data, "the parser changes nothing");

    let mut tables = tables();
    let outcome = handle(Window::new(&mut frame), &mut tables);
    assert_eq!(tables.reason(outcome.reason), 1, "the verdict is counted, once");
    let verdicts = Reason::ALL.iter().map(|r| tables.reason(*r)).sum::<u64>();
    assert_eq!(verdicts, 1, "and no other");
    match outcome.reason.verdict() {
        Verdict::Pass | Verdict::Drop => {
            assert_eq!(frame, data, "{} must not touch the frame", outcome.reason.name());
            assert_eq!(outcome.egress, 0);
        }
        Verdict::Forward => {
            let before = before.expect("what is forwarded can be taken apart");
            assert_ne!(outcome.egress, 0, "a way out");
            forwarded(data, &before, &frame);
        }
    }

    let mut again = data.to_vec();
    let repeated = handle(Window::new(&mut again), &mut self::tables());
    assert_eq!(
        (repeated.reason, repeated.egress, again),
        (outcome.reason, outcome.egress, frame)
    );
}

/// The reason that a frame's verdict has.
pub fn reason(data: &[u8]) -> Reason {
    handle(Window::new(&mut data.to_vec()), &mut tables()).reason
}

fn forwarded(data: &[u8], before: &Packet, frame: &[u8]) {
    assert_eq!(frame.len(), data.len());
    let after = parse(Window::new(&mut frame.to_vec())).expect("what leaves can be taken apart");
    assert_eq!(after.hop_limit, before.hop_limit - 1, "one hop less");
    assert_eq!(
        (after.network_at, after.transport_at),
        (before.network_at, before.transport_at)
    );
    assert_eq!(
        (after.v4, after.protocol(), after.total_len),
        (before.v4, before.protocol(), before.total_len)
    );
    assert_ne!(after.flow, before.flow, "one end of the flow is another");
    let payload = before.transport_at as usize + if before.tcp { 20 } else { 8 };
    assert_eq!(frame[payload..], data[payload..], "the payload is as it was");
    if before.v4 {
        assert_eq!(
            network_is_right(frame, &after),
            network_is_right(data, before),
            "IPv4 checksum"
        );
    }
    assert_eq!(
        transport_is_right(frame, &after),
        transport_is_right(data, before),
        "checksum of TCP or UDP"
    );
}

/// The one's complement sum of RFC 1071, all of it.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for two in part.chunks(2) {
            sum += u64::from(two[0]) << 8 | two.get(1).copied().map_or(0, u64::from);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn network_is_right(frame: &[u8], packet: &Packet) -> bool {
    let at = packet.network_at as usize;
    let len = usize::from(frame[at] & 0xf) * 4;
    sum(&[&frame[at..at + len]]) == 0xffff
}

/// Whether the checksum over pseudo header and segment is right; `None` for a UDP packet without one.
fn transport_is_right(frame: &[u8], packet: &Packet) -> Option<bool> {
    let at = packet.transport_at as usize;
    let end = packet.network_at as usize + usize::from(packet.total_len);
    let mut segment = &frame[at..end];
    if packet.protocol() == UDP {
        if segment[6..8] == [0, 0] {
            return None;
        }
        segment = &segment[..usize::from(u16::from_be_bytes([segment[4], segment[5]]))];
    }
    let (src, dst) = (packet.flow.src.octets(), packet.flow.dst.octets());
    // A mapped IPv4 address adds ::ffff twice, which is nothing in this arithmetic.
    let length = (segment.len() as u32).to_be_bytes();
    Some(sum(&[&src, &dst, &length, &[0, packet.protocol()], segment]) == 0xffff)
}

fn addr(text: &str) -> Addr16 {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// One box: on each of two VIPs a TCP and a UDP service by `nat`, one for the relay, one without a backend; backends of
/// both families, one of them shared, one dead, one that the clock has just put into the rings.
fn tables() -> MemoryTables {
    let mut tables = MemoryTables {
        now: 10_000,
        ..MemoryTables::default()
    };
    tables.settings = Settings {
        hash_key: [1, 2],
        tcp_grace: 60,
        udp_grace: 60,
        horizon: 3600,
        record_limit: 100,
        fib_ifindex: 1,
        reserved: [0; 3],
    };
    tables.routes = Box::new(|query| match query.dst.octets()[15] {
        0xf0 => Route::NotForwarded,
        0xf1 => Route::Unreachable,
        0xf2 => Route::NoNeighbor {
            next_hop: query.dst,
            ifindex: 3,
        },
        _ if query.total_len > 1500 => Route::TooBig,
        last => {
            let link = Link {
                destination: [2, 0, u16::from(last)],
                source: [2, 0, 1],
            };
            Route::Via {
                ifindex: 2 + u32::from(last) % 2,
                link,
            }
        }
    });
    for (vip, backends, shift) in [
        ("192.0.2.10", ["10.0.0.11", "10.0.0.12", "10.0.0.13"], 0),
        ("2001:db8::10", ["fd00::11", "fd00::12", "fd00::13"], 3),
    ] {
        let flags = [backend::ALIVE, backend::ALIVE | backend::SHARED, 0];
        for (text, flags) in backends.iter().zip(flags) {
            let port = u32::from(8080u16.to_be());
            tables.backends.push(Backend {
                addr: addr(text),
                port,
                flags,
            });
        }
        for (port, protocol, action, ring_len) in [
            (80u16, TCP, action::NAT, RING),
            (53, UDP, action::NAT, RING),
            (443, TCP, action::RELAY, 0),
            (81, TCP, action::NAT, 0),
            (82, TCP, 99, RING),
        ] {
            let id = tables.services.len() as u32;
            let ring_offset = tables.rings.len() as u32;
            let slots = (0..ring_len).map(|i| Slot {
                current: (shift + 1 + i % 3) as u16,
                previous: if i % 5 == 0 {
                    (shift + 1 + (i + 1) % 3) as u16
                } else {
                    0
                },
                changed: if i % 5 == 0 { 9_990 } else { 0 },
            });
            tables.rings.extend(slots);
            let key = ServiceKey {
                addr: addr(vip),
                port_proto: port_proto(port.to_be(), protocol),
            };
            tables.services.insert(
                key,
                Service {
                    id,
                    action,
                    ring_offset,
                    ring_len,
                    flags: 0,
                    generation: 1,
                },
            );
            if action != action::NAT {
                continue;
            }
            for (i, text) in backends.iter().enumerate() {
                let key = ReturnKey {
                    addr: addr(text),
                    port_proto: port_proto(8080u16.to_be(), protocol),
                };
                let flags = if i == 1 { returns::SHARED } else { 0 };
                let backend = shift + 1 + i as u32;
                let port = u32::from(port.to_be());
                tables.returns.insert(
                    key,
                    ReturnTarget {
                        vip: addr(vip),
                        port,
                        service: id,
                        backend,
                        flags,
                    },
                );
            }
        }
    }
    tables
}
