//! What the tables hold while costs are measured: every mode in both families, before the lab's nine backends.
//!
//! Rings are of the default size, and every way is resolved in advance, as control does it: nothing asks the kernel's
//! routes.

use weir_abi::{
    Addr16, ListEntry, NatSource, ServiceLimits,
    maps::{action, backend::ALIVE},
};
use weir_dataplane_tests::{
    World, lab,
    world::{TCP, UDP, addr, stable},
};

/// The virtual address.
pub(crate) const VIP: [&str; 2] = ["192.0.2.10", "[2001:db8:2::10]"];
/// An address that is neither a service's nor a backend's.
pub(crate) const NOBODY: [&str; 2] = ["192.0.2.99", "[2001:db8:2::99]"];
/// A client, in a network that leads over the gateway.
pub(crate) const CLIENT: [&str; 2] = ["198.51.100.7:40000", "[2001:db8:c::7]:40000"];
/// Ports of the virtual address, by mode.
pub(crate) mod port {
    /// `nat`
    pub(crate) const NAT: u16 = 80;
    /// `dsr`
    pub(crate) const DSR: u16 = 81;
    /// `ipip` to a backend of the packet's family.
    pub(crate) const IPIP: u16 = 82;
    /// `ipip` to a backend of the other family.
    pub(crate) const IPIP_CROSS: u16 = 83;
    /// `full-nat`
    pub(crate) const FULL_NAT: u16 = 84;
    /// No service.
    pub(crate) const CLOSED: u16 = 85;
}

/// Networks that are banned in [`protected`].
const BANS: u32 = 100_000;

/// Slots of a ring, as by default.
const SLOTS: usize = 65_537;

/// The address of the backend N.
fn backend(family: usize, n: u8) -> String {
    match family {
        0 => format!("10.9.0.{n}"),
        _ => format!("[2001:db8:9::{n:x}]"),
    }
}

/// A backend as `nat` and `full-nat` reach it.
pub(crate) fn backend_with_port(family: usize, n: u8) -> String {
    format!("{}:8080", backend(family, n))
}

/// Source addresses of `full-nat`.
const NAT_ADDRESSES: u32 = 20;

/// The source addresses of `full-nat` with a block of ports for each of two CPUs, of which one is used: enough for half a
/// million flows.
fn nat_sources(family: usize) -> Vec<NatSource> {
    const PORTS: u32 = 32_000;
    (0..2)
        .flat_map(|cpu| {
            (0..NAT_ADDRESSES).map(move |n| NatSource {
                addr: match family {
                    0 => Addr16::from(addr(&format!("10.9.1.{n}:0")).ip()),
                    _ => Addr16::from(addr(&format!("[2001:db8:9:1::{n:x}]:0")).ip()),
                },
                first: 1024 + cpu * PORTS,
                count: PORTS,
            })
        })
        .collect()
}

/// Nothing switched on but the services.
pub(crate) fn plain() -> World {
    let mut world = World::new();
    world.settings.record_limit = u32::MAX;
    world.settings.nat_tcp_idle = 3600;
    world.settings.nat_udp_idle = 3600;
    world.settings.nat_time_wait = 60;
    // Outer sources of `ipip`: a network per family, its host bits filled by the hash.
    world.settings.tunnel_v4 = u32::from_ne_bytes([10, 255, 0, 0]);
    world.settings.tunnel_v4_host = u32::from_ne_bytes([0, 0, 255, 255]);
    world.settings.tunnel_v6 = Addr16::from(addr("[2001:db8:ff::]:0").ip()).words;
    world.settings.tunnel_v6_host = u32::from_ne_bytes([0, 0, 255, 255]);

    let to_clients = world.next_hop(lab::gateway_hop());
    world.route("198.51.100.0/24", to_clients);
    world.route("2001:db8:c::/64", to_clients);
    let hops: Vec<u32> = (1..=lab::BACKENDS)
        .map(|n| world.next_hop(lab::backend_hop(n)))
        .collect();

    let mut with_port = [0, 0];
    let mut bare = [0, 0];
    for family in 0..2 {
        for (rings, text) in [(&mut with_port, ":8080"), (&mut bare, ":0")] {
            let backends: Vec<u16> = (1..)
                .zip(&hops)
                .map(|(n, hop)| world.backend_via(&format!("{}{text}", backend(family, n)), ALIVE, *hop))
                .collect();
            rings[family] = world.rings.len() as u32;
            world
                .rings
                .extend((0..SLOTS).map(|n| stable(backends[n % backends.len()])));
        }
    }
    for family in 0..2 {
        let other = 1 - family;
        world.address(&format!("{}:0", VIP[family]), true);
        for protocol in [TCP, UDP] {
            for (mode, port, ring) in [
                (action::NAT, port::NAT, with_port[family]),
                (action::DSR, port::DSR, bare[family]),
                (action::IPIP, port::IPIP, bare[family]),
                (action::IPIP, port::IPIP_CROSS, bare[other]),
                (action::FULL_NAT, port::FULL_NAT, with_port[family]),
            ] {
                let listen = format!("{}:{port}", VIP[family]);
                let id = world.service_on(mode, &listen, protocol, ring, SLOTS as u32);
                if mode == action::FULL_NAT {
                    world.sources(id, NAT_ADDRESSES, &nat_sources(family));
                }
                if mode == action::NAT {
                    for n in 1..=lab::BACKENDS {
                        let index = 1 + u16::from(n - 1) + family as u16 * 2 * u16::from(lab::BACKENDS);
                        world.answers(&backend_with_port(family, n), protocol, &listen, id, index, 0);
                    }
                }
            }
        }
    }
    world
}

/// The same with a group of virtual routers that has the addresses, and a lease that does not end here.
pub(crate) fn leased() -> World {
    let mut world = plain();
    for vip in VIP {
        let vip = vip.trim_matches(['[', ']']);
        world.lease(vip, u64::MAX / 2);
    }
    world
}

/// The same, and the exact clock is asked, as near the end of a lease.
pub(crate) fn leased_exactly() -> World {
    World { lag: 0, ..leased() }
}

/// The same, of a box that is not master.
pub(crate) fn lapsed() -> World {
    let mut world = leased();
    world.leases.iter_mut().for_each(|(_, until)| *until = 0);
    world
}

/// The same with 100 000 networks banned, and limits per source on every service that nobody reaches.
pub(crate) fn protected() -> World {
    let mut world = plain();
    let banned = ListEntry { until: 0, flags: 0 };
    for n in 0..BANS {
        let [_, a, b, c] = n.to_be_bytes();
        match n % 4 {
            0 => world.list(
                &format!("2001:db8:{:x}:{:x}::/64", 0x1000 + n / 65_536, n % 65_536),
                banned,
            ),
            _ => world.list(&format!("100.{}.{b}.{c}/32", 64 + a), banned),
        }
    }
    let ids: Vec<u32> = world
        .services
        .iter()
        .filter(|(_, service)| service.action != action::ADDRESS)
        .map(|(_, service)| service.id)
        .collect();
    for id in ids {
        world.limit(
            id,
            ServiceLimits {
                rate: 1 << 30,
                open: 1 << 30,
                mask_v4: u32::MAX,
                mask_v6: [u32::MAX, u32::MAX, 0, 0],
                prefixes: 32 | 64 << 16,
                ..ServiceLimits::default()
            },
        );
    }
    world
}
