//! The box of the packet target: a service of every kind, flows in every state.
//!
//! Owns what is in its tables. What must hold of a packet is `super`'s.

use weir_abi::{
    Addr16, Backend, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState, GroupLink,
    ListEntry, NatFlow, NatReply, NatSource, Prefix, QuicKey, ReturnKey, ReturnTarget, Service, ServiceKey,
    ServiceLimits, Settings, Slot,
    maps::{action, backend, lease, link, list, port_proto, returns, service, settings},
};
use weir_fastpath::{
    Route,
    memory::MemoryTables,
    parse::{ICMP, ICMPV6, TCP, UDP},
    rewrite::Link,
    tables::{Checked, Socket},
};

/// Slots of each ring by `nat`.
const RING: u32 = 13;

fn addr(text: &str) -> Addr16 {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// Virtual routers: one VIP of services has a lease that goes on, two addresses have one that has run out, by a little or
/// for good; control takes adverts.
fn leases(tables: &mut MemoryTables, pressed: bool) {
    tables.clock = 1_000_000;
    for (slot, (address, until)) in (1..).zip([
        ("192.0.2.10", u64::MAX),
        ("192.0.2.99", 0),
        ("2001:db8::99", tables.clock - 1),
    ]) {
        tables.leased.insert(addr(address), slot);
        tables.leases.insert(slot, until);
    }
    link_address(tables);
    tables.heard.extend(["224.0.0.18", "ff02::12"].map(addr));
    tables.room_for_adverts = u32::from(!pressed);
}

/// The one VIP has a link address that several boxes share: most clients are another's.
fn link_address(tables: &mut MemoryTables) {
    let words = |mac: [[u8; 2]; 3]| mac.map(u16::from_ne_bytes);
    let mut slots = [0; link::SHARES];
    slots[0] = 1;
    let held = GroupLink {
        ifindex: 1,
        mac: words([[3, 0], [0x5e, 0], [1, 51]]),
        own: words([[2, 0], [0, 0], [0, 0x77]]),
        shares: link::SHARES as u32,
        others: 4,
        slots,
        ..GroupLink::default()
    };
    tables.linked.insert(held.mac, 1);
    tables.links.insert(1, held);
    tables
        .leased
        .insert(addr("192.0.2.10"), 1 | 1 << lease::SLOT_BITS);
    tables.leases.insert(4, u64::MAX);
    // By the source port, so that packets can have all three.
    tables.sockets = Box::new(|packet| match u16::from_be(packet.source_port()) % 3 {
        0 => Socket::None,
        1 => Socket::Listening,
        _ => Socket::Connected,
    });
}

/// One box: on each of two VIPs a TCP and a UDP service by `nat`, one for the relay, one without a backend; backends of
/// both families, one of them shared, one dead, one that the clock has just put into the rings. And services by `full-nat`
/// ([`full_nat`]) and of all other kinds ([`others`]). `pressed`: no room for another flow by `full-nat`, no more answers in
/// this second, none for adverts, and a flood of SYNs.
pub(super) fn tables(pressed: bool) -> MemoryTables {
    let mut tables = MemoryTables {
        now: 10_000,
        nat_capacity: if pressed { 1 } else { usize::MAX },
        // The kernel makes none for a SYN that ends what it begins.
        cookies: Box::new(|packet| match packet.fin() || packet.rst() {
            true => 0,
            false => 1460 << 32 | 0x1234_5678,
        }),
        // By the source port, so that packets can have all three.
        checks: Box::new(|packet| match u16::from_be(packet.source_port()) % 4 {
            0 => Checked::Valid,
            1 => Checked::Invalid,
            _ => Checked::Other,
        }),
        ..MemoryTables::default()
    };
    let flags = settings::LISTS | settings::LEASES | if pressed { settings::COOKIES } else { 0 };
    tables.settings = Settings {
        hash_key: [1, 2],
        flow_key: weir_fastpath::hash::expand([1, 2]),
        tcp_grace: 60,
        udp_grace: 60,
        horizon: 3600,
        record_limit: 100,
        fib_ifindex: 1,
        reply_limit: if pressed { 0 } else { 1 },
        flags,
        tunnel_v4: addr("172.16.0.0").v4_word(),
        tunnel_v4_host: u32::from_ne_bytes([0, 0, 0xff, 0xff]),
        tunnel_v6: addr("fd00:16::").words,
        tunnel_v6_host: u32::MAX,
        ..Settings::default()
    };
    leases(&mut tables, pressed);
    tables.routes = Box::new(|query| match query.dst.octets()[15] {
        0xf0 => Route::NotForwarded,
        0xf1 => Route::Unreachable,
        0xf2 => Route::NoNeighbor {
            next_hop: query.dst,
            ifindex: 3,
        },
        _ if query.total_len > 1500 => Route::TooBig { mtu: 1500 },
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
                ..Backend::default()
            });
        }
        tables.mark(&addr(vip));
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
                    generation: 1,
                    ..Service::default()
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
                tables.mark(&addr(text));
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
        full_nat(&mut tables, vip, backends[0], shift + 1);
    }
    for v4 in [true, false] {
        others(&mut tables, v4);
    }
    for (network, len, flags) in [
        ("203.0.113.0", 96 + 24, 0),
        ("203.0.113.5", 128, list::ALLOW),
        ("2001:db8:bad::", 48, 0),
    ] {
        let addr = addr(network);
        tables
            .lists
            .insert(Prefix { len, addr }, ListEntry { until: 0, flags });
    }
    tables
}

/// A new backend; its index.
fn backend_at(tables: &mut MemoryTables, text: &str, flags: u32) -> u16 {
    tables.backends.push(Backend {
        addr: addr(text),
        flags,
        ..Backend::default()
    });
    (tables.backends.len() - 1) as u16
}

/// A new service of one slot; its id.
fn service_of(
    tables: &mut MemoryTables,
    vip: Addr16,
    port: u16,
    protocol: u8,
    action: u32,
    flags: u32,
    slot: Slot,
) -> u32 {
    let id = tables.services.len() as u32;
    let service = Service {
        id,
        action,
        ring_offset: tables.rings.len() as u32,
        ring_len: u32::from(action != action::RELAY),
        flags,
        ..Service::default()
    };
    tables.rings.push(slot);
    let port_proto = port_proto(port.to_be(), protocol);
    tables.services.insert(
        ServiceKey {
            addr: vip,
            port_proto,
        },
        service,
    );
    id
}

/// On one VIP: services by `dsr`, by `ipip` to a backend of either family, by QUIC connection ids; ones that reset the flows
/// of a backend that has died; with limits per source, by `nat` and of the relay, with sources that are beyond them; echo,
/// on a second address while none can serve; and datagrams whose first fragments have gone.
fn others(tables: &mut MemoryTables, v4: bool) {
    let pick = |a, b| addr(if v4 { a } else { b });
    let (vip, silent) = (
        pick("192.0.2.10", "2001:db8::10"),
        pick("192.0.2.11", "2001:db8::11"),
    );
    let client = pick("198.51.100.7", "2001:db8:1::7");
    let text = |a: &'static str, b: &'static str| if v4 { a } else { b };
    let dsr = backend_at(tables, text("10.0.0.21", "fd00::21"), backend::ALIVE);
    let near = backend_at(tables, "10.0.0.31", backend::ALIVE);
    let far = backend_at(tables, "fd00::31", backend::ALIVE);
    let named = backend_at(tables, text("10.0.0.41", "fd00::41"), backend::ALIVE);
    let gone = backend_at(tables, text("10.0.0.51", "fd00::51"), 0);
    let stable = |current| Slot {
        current,
        ..Slot::default()
    };
    let changed = Slot {
        current: dsr,
        previous: gone,
        changed: 9_990,
    };
    let mut modes = Vec::new();
    for (protocol, limited) in [(TCP, service::LIMITED), (UDP, 0)] {
        for (port, action, slot) in [
            (3000, action::DSR, stable(dsr)),
            (3001, action::IPIP, stable(near)),
            (3002, action::IPIP, stable(far)),
        ] {
            let id = service_of(tables, vip, port, protocol, action, 0, slot);
            modes.push((id, action, slot.current));
        }
        let id = service_of(tables, vip, 6000, protocol, action::NAT, service::RESET, changed);
        let flow = FlowKey {
            src: client,
            dst: vip,
            ports: u32::from_ne_bytes([0x9c, 0x40, 0x17, 0x70]),
            proto: u32::from(protocol),
        };
        let state = FlowState {
            backend: gone.into(),
            recorded: 9_980,
            service: id,
            ..FlowState::default()
        };
        tables.flows.insert(flow, state);
        let open = stable(named);
        service_of(tables, vip, 5000, protocol, action::NAT, limited, open);
    }
    service_of(
        tables,
        vip,
        5001,
        TCP,
        action::RELAY,
        service::LIMITED,
        Slot::default(),
    );
    let quic = service::HASH_QUIC | 2 << service::QUIC_LEN_SHIFT;
    let id = service_of(tables, vip, 4433, UDP, action::NAT, quic, stable(dsr));
    for (server, index) in [
        (0xbbaa, named),
        (0xddcc, gone),
        (0xffee, if v4 { far } else { near }),
    ] {
        let key = QuicKey {
            id: server,
            service: id,
            len: 2,
        };
        tables.quic_ids.insert(key, index.into());
    }
    let icmp = if v4 { ICMP } else { ICMPV6 };
    for (address, flags) in [(vip, service::UP), (silent, 0)] {
        tables.mark(&address);
        service_of(tables, address, 0, icmp, action::ADDRESS, flags, Slot::default());
    }
    limits(tables, v4, vip);
    for (n, (service, mode, index)) in modes.into_iter().enumerate() {
        let backend = tables.backends[usize::from(index)].addr;
        let tunnel = mode == action::IPIP;
        let key = FragmentKey {
            src: client,
            dst: vip,
            id: (7 + n as u32).to_be(),
            proto: if v4 { u32::from(UDP) } else { 0 },
        };
        // As the parser has it: of IPv4 the 16 bits as they lie in the packet.
        let id = if v4 {
            u32::from((7 + n as u16).to_be())
        } else {
            key.id
        };
        let state = FragmentState {
            src: match (tunnel, backend.is_v4()) {
                (false, _) => client,
                (true, true) => addr("172.16.0.9"),
                (true, false) => addr("fd00:16::9"),
            },
            dst: if tunnel { backend } else { vip },
            service,
            backend: index.into(),
            action: mode,
            recorded: 9_999,
        };
        tables.fragments.insert(FragmentKey { id, ..key }, state);
    }
}

/// Limits of the services that have some, and networks that have gone beyond.
fn limits(tables: &mut MemoryTables, v4: bool, vip: Addr16) {
    for port in [5000u16, 5001] {
        let key = ServiceKey {
            addr: vip,
            port_proto: port_proto(port.to_be(), TCP),
        };
        let service = tables.services[&key].id;
        tables.service_limits.insert(
            service,
            ServiceLimits {
                rate: 5,
                open: 9,
                ban: if port == 5000 { 60 } else { 0 },
                mask_v4: u32::MAX,
                mask_v6: [u32::MAX, u32::MAX, 0, 0],
                prefixes: 32 | 64 << 16,
                ..ServiceLimits::default()
            },
        );
        for (last, started, open) in [(1, 5, 0), (2, 0, 9)] {
            let text = if v4 {
                format!("198.51.101.{last}")
            } else {
                format!("2001:db8:2:{last}::")
            };
            let key = ClientKey {
                addr: addr(&text),
                service,
            };
            let state = ClientState {
                second: tables.now,
                started,
                open,
                reserved: 0,
            };
            tables.clients.insert(key, state);
        }
    }
}

/// On one VIP a TCP and a UDP service by `full-nat` to one backend, with a flow each that has begun, and one service without
/// ports.
fn full_nat(tables: &mut MemoryTables, vip: &str, backend: &str, index: u32) {
    let source = if vip.contains(':') {
        "fd00::1:1"
    } else {
        "10.0.1.1"
    };
    let client = if vip.contains(':') {
        "2001:db8:c::7"
    } else {
        "198.51.100.7"
    };
    let sources = tables.nat_sources.len() as u32;
    tables.nat_sources.push(NatSource {
        addr: addr(source),
        first: 20_000,
        count: 4,
    });
    tables.mark(&addr(source));
    for (port, protocol, source_count) in [(2000u16, TCP, 1), (2000, UDP, 1), (2001, UDP, 0)] {
        let id = tables.services.len() as u32;
        let ring_offset = tables.rings.len() as u32;
        tables.rings.push(Slot {
            current: index as u16,
            previous: 0,
            changed: 0,
        });
        let key = ServiceKey {
            addr: addr(vip),
            port_proto: port_proto(port.to_be(), protocol),
        };
        tables.services.insert(
            key,
            Service {
                id,
                action: action::FULL_NAT,
                ring_offset,
                ring_len: 1,
                sources,
                source_count,
                ..Service::default()
            },
        );
        let ports = |from: u16, to: u16| {
            let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
            u32::from_ne_bytes([a, b, c, d])
        };
        if source_count == 0 {
            continue;
        }
        let flow = FlowKey {
            src: addr(client),
            dst: addr(vip),
            ports: ports(40_000, port),
            proto: u32::from(protocol),
        };
        tables.nat_flows.insert(
            flow,
            NatFlow {
                source: addr(source),
                port: u32::from(20_000u16.to_be()),
                backend: index,
                recorded: tables.now,
                seen: tables.now,
            },
        );
        let reply = FlowKey {
            src: addr(backend),
            dst: addr(source),
            ports: ports(8080, 20_000),
            proto: u32::from(protocol),
        };
        tables.nat_replies.insert(
            reply,
            NatReply {
                client: addr(client),
                vip: addr(vip),
                ports: ports(port, 40_000),
                service: id,
                backend: index,
                seen: tables.now,
                ..NatReply::default()
            },
        );
    }
}
