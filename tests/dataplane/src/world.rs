//! What the tables hold in the tests: one description, written to the kernel's maps and to tables in memory alike.

use std::net::SocketAddr;

use anyhow::Result;
use weir_abi::{
    Backend, FlowKey, FlowState, ReturnKey, ReturnTarget, Service, ServiceKey, Settings, Slot,
    maps::{action, backend::ALIVE, backend::SHARED, returns},
};
use weir_fastpath::memory::MemoryTables;

use crate::{
    Kernel, Lab,
    kernel::{backend, return_key, service_key},
};

/// TCP, as a number.
pub const TCP: u8 = 6;
/// UDP, as a number.
pub const UDP: u8 = 17;

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
    /// `SETTINGS`
    pub settings: Settings,
}

/// An address. Panics if it is none.
pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl World {
    /// No service yet; settings as by default.
    pub fn new() -> Self {
        Self {
            backends: vec![Backend::default()],
            settings: Settings {
                hash_key: [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00],
                tcp_grace: 60,
                udp_grace: 120,
                horizon: 3600,
                record_limit: 10_000,
                fib_ifindex: 1,
                reserved: [0; 3],
            },
            ..Self::default()
        }
    }

    /// Adds a backend; its index.
    pub fn backend(&mut self, text: &str, flags: u32) -> u16 {
        self.backends.push(backend(addr(text), flags));
        (self.backends.len() - 1) as u16
    }

    /// Adds a `nat` service with these slots; its id.
    pub fn nat(&mut self, listen: &str, protocol: u8, slots: &[Slot]) -> u32 {
        let id = self.services.len() as u32 + 1;
        let service = Service {
            id,
            action: action::NAT,
            ring_offset: self.rings.len() as u32,
            ring_len: slots.len() as u32,
            flags: 0,
            generation: 1,
        };
        self.rings.extend(slots);
        self.services.push((service_key(addr(listen), protocol), service));
        id
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
        world
    }

    /// Writes it to the kernel's maps.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn to_kernel(&self, kernel: &mut Kernel) -> Result<()> {
        for (index, backend) in (0..).zip(&self.backends) {
            kernel.backend(index, *backend)?;
        }
        kernel.ring(0, &self.rings)?;
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
            ..Default::default()
        };
        tables.services.extend(self.services.iter().copied());
        tables.returns.extend(self.returns.iter().copied());
        tables.flows.extend(self.flows.iter().copied());
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
