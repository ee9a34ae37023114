//! What the tables hold in the tests: one description, written to the kernel's maps and to tables in memory alike.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use weir_abi::{
    Addr16, Backend, FlowKey, FlowState, HearKey, ListEntry, NatSource, NextHop, Prefix, QuicKey, ReturnKey,
    ReturnTarget, Service, ServiceKey, ServiceLimits, Settings, Slot, Vlan,
    maps::{action, backend::ALIVE, backend::SHARED, filter, lease, returns, service, settings},
};
use weir_fastpath::memory::MemoryTables;

use crate::{
    Kernel, Lab,
    kernel::{backend, prefix, return_key, service_key},
    lab,
};

/// TCP, as a number.
pub const TCP: u8 = 6;
/// UDP, as a number.
pub const UDP: u8 = 17;
/// ICMP, as a number.
pub const ICMP: u8 = 1;
/// ICMPv6, as a number.
pub const ICMP6: u8 = 58;

/// A first backend for each protocol and family, by service port 80 (TCP) and 53 (UDP), and one service for each thing
/// that can be wrong. Rings have one slot, so that who takes a packet is known.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// `SERVICES`
    pub services: Vec<(ServiceKey, Service)>,
    /// `BACKENDS`, from index 0, which means none.
    pub backends: Vec<Backend>,
    /// `RINGS`
    pub rings: Vec<Slot>,
    /// `RETURNS`
    pub returns: Vec<(ReturnKey, ReturnTarget)>,
    /// `FLOWS`
    pub flows: Vec<(FlowKey, FlowState)>,
    /// `NEXT_HOPS`, from index 0, which means that the kernel is asked.
    pub next_hops: Vec<NextHop>,
    /// `ROUTES`
    pub routes: Vec<(Prefix, u32)>,
    /// `VLANS`
    pub vlans: Vec<(u32, Vlan)>,
    /// `LISTS`
    pub lists: Vec<(Prefix, ListEntry)>,
    /// `SERVICE_LIMITS`, by service id.
    pub limits: Vec<(u32, ServiceLimits)>,
    /// `NAT_SOURCES`
    pub nat_sources: Vec<NatSource>,
    /// `QUIC_IDS`
    pub quic_ids: Vec<(QuicKey, u32)>,
    /// `LEASED`, and for each address the word of its slot in `LEASES`.
    pub leases: Vec<(Addr16, u64)>,
    /// By how much the coarse clock is said to be behind; 0: leases are compared with the exact one.
    pub lag: u64,
    /// `HEARS`, of the interface that frames come in by.
    pub heard: Vec<Addr16>,
    /// `SETTINGS`
    pub settings: Settings,
}

/// An address. Panics if it is none.
pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An address without a port. Panics if it is none.
fn host(text: &str) -> Addr16 {
    let ip: IpAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    ip.into()
}

/// Nanoseconds that the coarse clock is behind at most: more than it is on any kernel.
pub const LAG: u64 = 100_000_000;

/// The key of boxes in tests.
const HASH_KEY: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];

impl World {
    /// No service yet; settings as by default.
    pub fn new() -> Self {
        Self {
            backends: vec![Backend::default()],
            next_hops: vec![NextHop::default()],
            lag: LAG,
            settings: Settings {
                hash_key: HASH_KEY,
                flow_key: weir_fastpath::hash::expand(HASH_KEY),
                tcp_grace: 60,
                udp_grace: 120,
                horizon: 3600,
                record_limit: 10_000,
                fib_ifindex: 1,
                ..Settings::default()
            },
            ..Self::default()
        }
    }

    /// Adds a backend; its index.
    pub fn backend(&mut self, text: &str, flags: u32) -> u16 {
        self.backends.push(backend(addr(text), flags));
        (self.backends.len() - 1) as u16
    }

    /// Adds a backend that is reached by a way that was resolved in advance; its index.
    pub fn backend_via(&mut self, text: &str, flags: u32, next_hop: u32) -> u16 {
        let index = self.backend(text, flags);
        self.backends[usize::from(index)].next_hop = next_hop;
        index
    }

    /// Adds a way out; its index. The lab's are [`lab::backend_hop`] and
    /// [`lab::gateway_hop`].
    pub fn next_hop(&mut self, hop: NextHop) -> u32 {
        self.next_hops.push(hop);
        (self.next_hops.len() - 1) as u32
    }

    /// Resolves the ways to the lab's backends and clients in advance, as control does: to those that are neighbors. What
    /// else there is, the kernel's routes are asked for.
    pub fn resolve(&mut self) {
        for n in 1..=lab::BACKENDS {
            let hop = self.next_hop(lab::backend_hop(n));
            let (v4, v6) = (format!("10.9.0.{n}:0"), format!("[2001:db8:9::{n:x}]:0"));
            let here = [v4, v6].map(|text| Addr16::from(addr(&text).ip()));
            for backend in &mut self.backends {
                if here.contains(&backend.addr) {
                    backend.next_hop = hop;
                }
            }
        }
        let gateway = self.next_hop(lab::gateway_hop());
        self.route("198.51.100.0/24", gateway);
        self.route("2001:db8:c::/64", gateway);
    }

    /// Clients of a network (`ADDRESS/LENGTH`) are reached by this way.
    pub fn route(&mut self, net: &str, next_hop: u32) {
        self.routes.push((prefix(net), next_hop));
    }

    /// Adds a service of a mode ([`action`]) with these slots; its id.
    pub fn service(&mut self, mode: u32, listen: &str, protocol: u8, slots: &[Slot]) -> u32 {
        let offset = self.rings.len() as u32;
        self.rings.extend(slots);
        self.service_on(mode, listen, protocol, offset, slots.len() as u32)
    }

    /// Adds a service whose ring is there already; its id.
    pub fn service_on(&mut self, mode: u32, listen: &str, protocol: u8, offset: u32, len: u32) -> u32 {
        let id = self.services.len() as u32 + 1;
        let service = Service {
            id,
            action: mode,
            ring_offset: offset,
            ring_len: len,
            generation: 1,
            ..Service::default()
        };
        self.services.push((service_key(addr(listen), protocol), service));
        id
    }

    /// Adds a `nat` service with these slots; its id.
    pub fn nat(&mut self, listen: &str, protocol: u8, slots: &[Slot]) -> u32 {
        self.service(action::NAT, listen, protocol, slots)
    }

    /// Changes a service by its id. Panics if there is none.
    pub fn change(&mut self, id: u32, change: impl FnOnce(&mut Service)) {
        let found = self.services.iter_mut().find(|(_, service)| service.id == id);
        let Some((_, service)) = found else {
            panic!("no service {id}")
        };
        change(service);
    }

    /// Adds a virtual address itself: echo requests to it are answered while it is `up`. `vip` has any port.
    pub fn address(&mut self, vip: &str, up: bool) {
        let mut vip = addr(vip);
        vip.set_port(0);
        let protocol = if vip.is_ipv4() { ICMP } else { ICMP6 };
        let service = Service {
            action: action::ADDRESS,
            flags: if up { service::UP } else { 0 },
            ..Service::default()
        };
        self.services.push((service_key(vip, protocol), service));
    }

    /// Allows or bans a network (`ADDRESS/LENGTH`), and says in the settings that there are lists.
    pub fn list(&mut self, net: &str, entry: ListEntry) {
        self.lists.push((prefix(net), entry));
        self.settings.flags |= settings::LISTS;
    }

    /// Gives an address to a group of virtual routers of its own, whose lease ends then (nanoseconds of CLOCK_MONOTONIC; 0:
    /// there is none), and says in the settings that there are such.
    pub fn lease(&mut self, address: &str, until: u64) {
        self.leases.push((host(address), until));
        self.settings.flags |= settings::LEASES;
    }

    /// Has adverts to an address handed out, likewise.
    pub fn hear(&mut self, address: &str) {
        self.heard.push(host(address));
        self.settings.flags |= settings::LEASES;
    }

    /// Limits what one network of clients may have of a service.
    pub fn limit(&mut self, id: u32, limits: ServiceLimits) {
        self.limits.push((id, limits));
        self.change(id, |service| service.flags |= service::LIMITED);
    }

    /// Gives a `full-nat` service source addresses, each with a block of ports, for every CPU the same number of them.
    pub fn sources(&mut self, id: u32, per_cpu: u32, sources: &[NatSource]) {
        let first = self.nat_sources.len() as u32;
        self.nat_sources.extend(sources);
        self.change(id, |service| {
            service.sources = first;
            service.source_count = per_cpu;
        });
    }

    /// The bits of `FILTER`: of everything that packets may be addressed to, or come from.
    pub fn filter(&self) -> [u64; filter::WORDS] {
        let mut words = [0; filter::WORDS];
        let services = self.services.iter().map(|(key, _)| key.addr);
        let returns = self.returns.iter().map(|(key, _)| key.addr);
        let sources = self.nat_sources.iter().map(|source| source.addr);
        for addr in services.chain(returns).chain(sources) {
            let (word, mask) = weir_fastpath::filter::place(weir_fastpath::filter::bit(&addr));
            words[word as usize] |= mask;
        }
        words
    }

    /// Adds the way back from a backend.
    pub fn answers(&mut self, from: &str, protocol: u8, vip: &str, service: u32, backend: u16, flags: u32) {
        let vip = addr(vip);
        self.returns.push((
            return_key(addr(from), protocol),
            ReturnTarget {
                vip: vip.ip().into(),
                port: u32::from(vip.port().to_be()),
                service,
                backend: u32::from(backend),
                flags,
            },
        ));
    }

    /// The world of most tests.
    pub fn standard() -> Self {
        let mut world = Self::new();
        for (backend, vip, protocol) in [
            ("10.9.0.1:8080", "192.0.2.10:80", TCP),
            ("[2001:db8:9::2]:8080", "[2001:db8:2::10]:80", TCP),
            ("10.9.0.3:5353", "192.0.2.10:53", UDP),
            ("[2001:db8:9::4]:5353", "[2001:db8:2::10]:53", UDP),
        ] {
            let index = world.backend(backend, ALIVE);
            let id = world.nat(vip, protocol, &[stable(index)]);
            world.answers(backend, protocol, vip, id, index, 0);
        }

        // Two VIPs share one backend, in both families.
        for (backend, vips) in [
            ("10.9.0.6:8080", ["192.0.2.10:84", "192.0.2.11:8084"]),
            (
                "[2001:db8:9::6]:8080",
                ["[2001:db8:2::10]:84", "[2001:db8:2::11]:8084"],
            ),
        ] {
            let index = world.backend(backend, ALIVE | SHARED);
            for vip in vips {
                world.nat(vip, TCP, &[stable(index)]);
            }
            world.answers(backend, TCP, vips[0], 0, index, returns::SHARED);
        }

        // The client's port is kept.
        let keeps = world.backend("10.9.0.5:0", ALIVE);
        let id = world.nat("192.0.2.10:83", TCP, &[stable(keeps)]);
        world.answers("10.9.0.5:83", TCP, "192.0.2.10:83", id, keeps, 0);

        world.services.push((
            service_key(addr("192.0.2.10:443"), TCP),
            Service {
                id: 400,
                action: action::RELAY,
                ..Service::default()
            },
        ));
        world.services.push((
            service_key(addr("192.0.2.10:94"), TCP),
            Service {
                id: 401,
                action: 7,
                ring_len: 1,
                ..Service::default()
            },
        ));
        world.nat("192.0.2.10:81", TCP, &[]);
        world.nat("192.0.2.10:82", TCP, &[stable(0)]);
        for (port, to) in [
            (85, "10.9.0.77:80"),
            (86, "10.66.0.1:80"),
            (87, "10.67.0.1:80"),
            (88, "10.68.0.1:80"),
            (89, "172.16.0.1:80"),
            (90, "10.9.0.254:80"),
            (91, "[2001:db8:9::1]:80"),
        ] {
            let index = world.backend(to, ALIVE);
            world.nat(&format!("192.0.2.10:{port}"), TCP, &[stable(index)]);
        }
        for (port, to) in [
            (85, "[2001:db8:9::77]:80"),
            (86, "[2001:db8:66::1]:80"),
            (89, "[fd00::1]:80"),
            (91, "10.9.0.1:80"),
        ] {
            let index = world.backend(to, ALIVE);
            world.nat(&format!("[2001:db8:2::10]:{port}"), TCP, &[stable(index)]);
        }
        let dead = world.backend("10.9.0.9:80", 0);
        world.nat("192.0.2.10:95", TCP, &[stable(dead)]);
        world.nat("192.0.2.10:93", TCP, &[stable(60_000)]);
        world.services.push((
            service_key(addr("192.0.2.10:92"), TCP),
            Service {
                id: 402,
                action: action::NAT,
                ring_offset: 4_000_000,
                ring_len: 5,
                ..Service::default()
            },
        ));
        // An answer whose VIP is of the other family.
        world.answers("10.9.0.8:80", TCP, "[2001:db8:2::10]:80", 1, 1, 0);
        world.resolve();
        world
    }

    /// Writes it to the kernel's maps, in the order that control keeps: what names something comes after it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn to_kernel(&self, kernel: &mut Kernel) -> Result<()> {
        for (index, hop) in (0..).zip(&self.next_hops) {
            kernel.next_hop(index, *hop)?;
        }
        for (net, hop) in &self.routes {
            kernel.route(*net, *hop)?;
        }
        for (ifindex, vlan) in &self.vlans {
            kernel.vlan(*ifindex, *vlan)?;
        }
        for (index, backend) in (0..).zip(&self.backends) {
            kernel.backend(index, *backend)?;
        }
        kernel.ring(0, &self.rings)?;
        for (index, source) in (0..).zip(&self.nat_sources) {
            kernel.nat_source(index, *source)?;
        }
        for (key, index) in &self.quic_ids {
            kernel.quic_id(*key, *index)?;
        }
        for (id, limits) in &self.limits {
            kernel.service_limits(*id, *limits)?;
        }
        for (net, entry) in &self.lists {
            kernel.list(*net, *entry)?;
        }
        kernel.lease(lease::LAG, self.lag)?;
        for (slot, (address, until)) in (1..).zip(&self.leases) {
            kernel.lease(slot, *until)?;
            kernel.leased(*address, slot)?;
        }
        for addr in &self.heard {
            // By `lo`, unless a test says otherwise.
            let key = HearKey {
                addr: *addr,
                ifindex: 1,
            };
            kernel.hear(key, 1)?;
        }
        kernel.filter(&self.filter())?;
        for (key, service) in &self.services {
            kernel.service(*key, *service)?;
        }
        for (key, target) in &self.returns {
            kernel.return_target(*key, *target)?;
        }
        for (key, state) in &self.flows {
            kernel.record_flow(*key, *state)?;
        }
        kernel.settings(self.settings)
    }

    /// The same in memory, with the lab's routes.
    pub fn to_memory(&self, lab: Lab, now: u32) -> MemoryTables {
        let mut tables = MemoryTables {
            backends: self.backends.clone(),
            rings: self.rings.clone(),
            next_hops: self.next_hops.clone(),
            nat_sources: self.nat_sources.clone(),
            filter: self.filter().to_vec(),
            ..Default::default()
        };
        tables.routes_to_clients.extend(self.routes.iter().copied());
        tables.vlans.extend(self.vlans.iter().copied());
        tables.quic_ids.extend(self.quic_ids.iter().copied());
        tables.service_limits.extend(self.limits.iter().copied());
        tables.lists.extend(self.lists.iter().copied());
        tables.services.extend(self.services.iter().copied());
        tables.returns.extend(self.returns.iter().copied());
        tables.flows.extend(self.flows.iter().copied());
        tables.leases.insert(lease::LAG, self.lag);
        for (slot, (address, until)) in (1..).zip(&self.leases) {
            tables.leases.insert(slot, *until);
            tables.leased.insert(*address, slot);
        }
        tables.heard.extend(self.heard.iter().copied());
        tables.clock = u64::from(now) * 1_000_000_000;
        tables.settings = self.settings;
        tables.now = now;
        tables.routes = Box::new(move |query| lab.route(query));
        tables
    }
}

/// A slot that never changed.
pub const fn stable(backend: u16) -> Slot {
    Slot {
        current: backend,
        previous: 0,
        changed: 0,
    }
}
