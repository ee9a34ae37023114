//! Counting over tables in memory: what is counted when, and that it never goes below nothing.

use std::{format, vec::Vec};

use weir_abi::{
    Addr16, Backend, ClientKey, ListEntry, Note, Prefix, Reason, Service, ServiceKey, ServiceLimits, Slot,
    maps::{action, backend::ALIVE, flow, limit, list, port_proto, service, settings},
};

use crate::{
    memory::MemoryTables,
    parse::TCP,
    pipeline::handle,
    rewrite::Link,
    tables::{Checked, Route},
    testing::Frame,
};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8:2::10]:80";
const RELAY: &str = "192.0.2.10:443";

const LIMITS: ServiceLimits = ServiceLimits {
    rate: 0,
    open: 2,
    ban: 0,
    mask_v4: u32::from_ne_bytes([255, 255, 255, 0]),
    mask_v6: [u32::MAX, u32::from_ne_bytes([255, 255, 255, 0]), 0, 0],
    prefixes: 24 | 56 << 16,
    reserved: 0,
};

fn address(text: &str) -> (Addr16, u16) {
    let addr: core::net::SocketAddr = text.parse().unwrap();
    (addr.ip().into(), addr.port().to_be())
}

fn tables(limits: ServiceLimits) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for backend in ["10.9.0.1:0", "[2001:db8:9::1]:0"] {
        tables.backends.push(Backend {
            addr: address(backend).0,
            flags: ALIVE,
            ..Backend::default()
        });
    }
    for current in [1, 2] {
        tables.rings.push(Slot {
            current,
            previous: 0,
            changed: 0,
        });
    }
    for (id, vip, action, ring_offset) in [
        (1, VIP, action::NAT, 0),
        (2, VIP6, action::NAT, 1),
        (3, RELAY, action::RELAY, 0),
    ] {
        let (addr, port) = address(vip);
        let key = ServiceKey {
            addr,
            port_proto: port_proto(port, TCP),
        };
        let service = Service {
            id,
            action,
            ring_offset,
            ring_len: u32::from(action == action::NAT),
            flags: service::LIMITED,
            ..Service::default()
        };
        tables.services.insert(key, service);
        tables.service_limits.insert(id, limits);
        tables.mark(&addr);
    }
    tables.settings.record_limit = 100;
    tables.settings.flags = settings::LISTS;
    tables.now = 1000;
    tables.routes = std::boxed::Box::new(|_| Route::Via {
        ifindex: 7,
        link: Link::default(),
    });
    tables
}

fn says(tables: &mut MemoryTables, client: &str, vip: &str, flags: u8) -> Reason {
    let mut frame = Frame::new(TCP, client, vip);
    frame.flags = flags;
    handle(&mut frame.build(), tables).reason
}

fn open(tables: &MemoryTables, net: &str, service: u32) -> Option<u32> {
    let addr = address(&format!("{net}:0")).0;
    let state = tables.clients.get(&ClientKey { addr, service });
    state.map(|state| state.open)
}

const SYN: u8 = 0x02;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[test]
fn open_connections_come_and_go() {
    let mut tables = tables(LIMITS);
    let (a, b) = ("198.51.100.1:1", "198.51.100.2:1");
    for (client, flags, expected, count) in [
        (a, FIN, Reason::ForwardNat, None),
        (a, SYN, Reason::ForwardNat, Some(1)),
        (a, SYN, Reason::ForwardNat, Some(1)),
        (b, SYN, Reason::ForwardNat, Some(2)),
        (b, SYN, Reason::ForwardNat, Some(2)),
        ("198.51.100.3:1", SYN, Reason::SourceConnections, Some(2)),
        (a, FIN, Reason::ForwardNat, Some(1)),
        (a, RST, Reason::ForwardNat, Some(1)),
        (b, RST, Reason::ForwardNat, Some(0)),
        (b, FIN, Reason::ForwardNat, Some(0)),
        // The tuple of a connection that has ended begins a new one.
        (a, SYN, Reason::ForwardNat, Some(1)),
    ] {
        assert_eq!(says(&mut tables, client, VIP, flags), expected);
        assert_eq!(open(&tables, "198.51.100.0", 1), count, "{client} {flags:#x}");
    }
    // What control has counted anew may be less than what was counted here.
    for state in tables.clients.values_mut() {
        state.open = 0;
    }
    assert_eq!(says(&mut tables, a, VIP, FIN), Reason::ForwardNat);
    assert_eq!(open(&tables, "198.51.100.0", 1), Some(0));
}

#[test]
fn what_goes_nowhere_is_not_counted() {
    let mut tables = tables(LIMITS);
    let mut frame = Frame::new(TCP, "198.51.100.1:1", VIP).syn();
    frame.hops = 1;
    tables.settings.reply_limit = 1;
    assert_eq!(
        handle(&mut frame.build(), &mut tables).reason,
        Reason::TtlExpiredSent
    );
    for service in tables.services.values_mut() {
        service.ring_len = 0;
    }
    assert_eq!(says(&mut tables, "198.51.100.1:1", VIP, SYN), Reason::NoBackend);
    assert!(tables.clients.is_empty());
}

#[test]
fn the_network_that_goes_beyond_is_banned_for_its_time() {
    let mut tables = tables(ServiceLimits {
        rate: 1,
        open: 0,
        ban: 30,
        ..LIMITS
    });
    for (clients, vip, net, len) in [
        (["198.51.100.1:1", "198.51.100.9:1"], VIP, "198.51.100.0", 96 + 24),
        (
            ["[2001:db8:c:f00::1]:1", "[2001:db8:c:f01::9]:1"],
            VIP6,
            "[2001:db8:c:f00::]",
            56,
        ),
    ] {
        assert_eq!(says(&mut tables, clients[0], vip, SYN), Reason::ForwardNat);
        assert_eq!(says(&mut tables, clients[1], vip, SYN), Reason::SourceRate);
        let addr = address(&format!("{net}:0")).0;
        let entry = tables.lists[&Prefix { len, addr }];
        assert_eq!((entry.until, entry.flags), (1030, list::OVERLOAD));
        for now in [1000, 1030] {
            tables.now = now;
            assert_eq!(says(&mut tables, clients[0], vip, ACK), Reason::Banned);
        }
        tables.now = 1031;
        assert_eq!(says(&mut tables, clients[0], vip, SYN), Reason::ForwardNat);
        tables.now = 1000;
    }
    assert_eq!(tables.noted(Note::SourceBanned), 2);
}

/// While cookies are made a SYN proves nothing: what is counted is the ACK that brings the cookie back.
#[test]
fn with_cookies_it_is_the_ack_that_counts() {
    let mut tables = tables(ServiceLimits { open: 1, ..LIMITS });
    tables.settings.flags |= settings::COOKIES;
    tables.settings.cookie_rate = 10;
    let clients: Vec<_> = (1..4).map(|n| format!("198.51.100.{n}:1")).collect();
    for client in &clients {
        assert_eq!(says(&mut tables, client, RELAY, SYN), Reason::Relay);
    }
    assert!(tables.clients.is_empty() && tables.flows.is_empty());
    tables.checks = std::boxed::Box::new(|_| Checked::Valid);
    assert_eq!(says(&mut tables, &clients[0], RELAY, ACK), Reason::Relay);
    assert_eq!(
        says(&mut tables, &clients[1], RELAY, ACK),
        Reason::SourceConnections
    );
    assert!(
        tables
            .flows
            .values()
            .all(|state| state.service == 3 | flow::COUNTED)
    );
    // Its connection is known from here on.
    tables.checks = std::boxed::Box::new(|_| Checked::Other);
    assert_eq!(says(&mut tables, &clients[0], RELAY, ACK), Reason::Relay);
    assert_eq!(says(&mut tables, &clients[0], RELAY, FIN), Reason::Relay);
    assert_eq!(open(&tables, "198.51.100.0", 3), Some(0));
    tables.checks = std::boxed::Box::new(|_| Checked::Invalid);
    assert_eq!(says(&mut tables, &clients[1], RELAY, ACK), Reason::CookieInvalid);
    // A RST is nobody's cookie.
    assert_eq!(says(&mut tables, &clients[1], RELAY, RST), Reason::Relay);
}

/// The end of what has no record is not noticed, so it does not count as open.
#[test]
fn what_is_not_recorded_is_not_counted() {
    let mut tables = tables(LIMITS);
    tables.settings.record_limit = 1;
    for (client, uncounted) in [
        ("198.51.100.1:1", 0),
        ("198.51.100.1:2", 1),
        ("198.51.100.1:3", 2),
    ] {
        assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
        assert_eq!(open(&tables, "198.51.100.0", 1), Some(1), "{client}");
        assert_eq!(tables.noted(Note::SourceUncounted), uncounted, "{client}");
    }
}

/// A tuple's new connection takes the place of the one before, and that one's count, even where itself is not counted.
#[test]
fn a_network_that_is_exempt_meanwhile_counts_no_more() {
    let mut tables = tables(LIMITS);
    let client = "198.51.100.1:1";
    assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
    assert_eq!(open(&tables, "198.51.100.0", 1), Some(1));
    let network = Prefix {
        len: 96 + 24,
        addr: address("198.51.100.0:0").0,
    };
    let allowed = ListEntry {
        until: 0,
        flags: list::ALLOW,
    };
    tables.lists.insert(network, allowed);
    assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
    assert_eq!(open(&tables, "198.51.100.0", 1), Some(0));
    assert_eq!(says(&mut tables, client, VIP, FIN), Reason::ForwardNat);
    assert_eq!(open(&tables, "198.51.100.0", 1), Some(0));
}

/// In a slot that has changed, the packets behind a SYN that is not recorded stay with the backend before.
#[test]
fn beyond_the_record_limit_a_syn_goes_where_its_flow_will() {
    let mut tables = tables(LIMITS);
    tables.settings.record_limit = 0;
    (tables.settings.horizon, tables.settings.tcp_grace) = (3600, 60);
    tables.backends.push(tables.backends[1]);
    let after = tables.backends.len() as u16 - 1;
    tables.rings[0] = Slot {
        current: after,
        previous: 1,
        changed: 990,
    };
    for (now, expected) in [(1000, 1), (1050, 1), (1051, u32::from(after))] {
        tables.now = now;
        for flags in [SYN, ACK] {
            tables.backend_traffic.clear();
            assert_eq!(
                says(&mut tables, "198.51.100.1:1", VIP, flags),
                Reason::ForwardNat
            );
            let went: Vec<u32> = tables.backend_traffic.keys().copied().collect();
            assert_eq!(went, [expected], "{now} {flags:#x}");
        }
    }
}

/// The record that a SYN takes the place of may count for another service, or for a limit that is no more: that count is
/// given back, whether the network was counted before (short way, then the stage) or not (the stage alone).
#[test]
fn what_a_tuple_counted_for_before_is_given_back() {
    let (net, client) = ("198.51.100.0", "198.51.100.1:1");
    for (limit, known, own) in [
        (2, true, Some(1)),
        (2, false, Some(1)),
        (0, true, Some(0)),
        (0, false, Some(0)),
    ] {
        let mut tables = tables(LIMITS);
        assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
        for state in tables.flows.values_mut() {
            state.service = 7 | flow::COUNTED;
        }
        let addr = address(&format!("{net}:0")).0;
        let mine = ClientKey { addr, service: 1 };
        let other = ClientKey { addr, service: 7 };
        tables.service_limits.insert(7, LIMITS);
        tables.service_limits.get_mut(&1).unwrap().open = limit;
        let mut count = tables.clients.remove(&mine).unwrap();
        tables.clients.insert(other, count);
        if known {
            count.open = 0;
            tables.clients.insert(mine, count);
        }
        assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
        assert_eq!(open(&tables, net, 7), Some(0), "{limit} {known}");
        assert_eq!(open(&tables, net, 1), own, "{limit} {known}");
        assert_eq!(tables.clients[&mine].started, 1 + u32::from(known));
    }
}

/// Beyond a limit the short way leaves nothing counted behind for the stage to count again.
#[test]
fn each_connection_is_counted_once() {
    let mut tables = tables(ServiceLimits {
        rate: 3,
        open: 0,
        ..LIMITS
    });
    let key = ClientKey {
        addr: address("198.51.100.0:0").0,
        service: 1,
    };
    for (port, expected, started) in [
        (1, Reason::ForwardNat, 1),
        (2, Reason::ForwardNat, 2),
        (3, Reason::ForwardNat, 3),
        (4, Reason::SourceRate, 3),
        (5, Reason::SourceRate, 3),
    ] {
        let client = format!("198.51.100.1:{port}");
        assert_eq!(says(&mut tables, &client, VIP, SYN), expected);
        assert_eq!(tables.clients[&key].started, started, "{port}");
    }
    assert_eq!(tables.limits[limit::FLOWS as usize].count, 3);
    tables.now += 1;
    assert_eq!(says(&mut tables, "198.51.100.1:4", VIP, SYN), Reason::ForwardNat);
    assert_eq!(tables.clients[&key].started, 1);
}

/// Who is told by a RST that the backend is dead sends no FIN.
#[test]
fn a_flow_that_is_reset_counts_no_more() {
    let mut tables = tables(LIMITS);
    tables.settings.reply_limit = 10;
    (tables.settings.horizon, tables.settings.tcp_grace) = (3600, 60);
    for service in tables.services.values_mut() {
        service.flags |= service::RESET;
    }
    let client = "198.51.100.1:1";
    assert_eq!(says(&mut tables, client, VIP, SYN), Reason::ForwardNat);
    assert_eq!(open(&tables, "198.51.100.0", 1), Some(1));
    tables.backends.push(tables.backends[1]);
    let after = tables.backends.len() as u16 - 1;
    tables.backends[1].flags = 0;
    tables.rings[0] = Slot {
        current: after,
        previous: 1,
        changed: 1000,
    };
    for _ in 0..2 {
        assert_eq!(says(&mut tables, client, VIP, ACK), Reason::ResetSent);
        assert_eq!(open(&tables, "198.51.100.0", 1), Some(0));
    }
}
