//! What the property test's box serves: services of every mode and protocol, with QUIC connection ids, with limits, and of the
//! relay; whom the backends of each are, by chance.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weir_core::{
    ids::{BackendKey, PoolName, Protocol, ServiceName},
    plan::{FlowHash, Forward, OnBackendDown, PerSource, QuicId, SourcePool},
};
use weir_datapath::{Wanted, WantedAction, WantedBackend, WantedForward, WantedService, WantedSources};

use super::{Chance, all_addresses};
use crate::lab::{VIP4, VIP6, listen};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// Port of the service by QUIC connection ids.
pub(super) const QUIC: u16 = 1040;
/// Ports of the services of the relay, over TCP; the first has limits.
pub(super) const RELAY: [u16; 2] = [1060, 1061];
/// Ports of the services with limits, over TCP: by `nat` with bans, by `full-nat`, of the relay.
pub(super) const LIMITED: [u16; 3] = [1050, 1030, RELAY[0]];
/// All services.
pub(super) const SERVICES: [(u16, Protocol); 12] = [
    (1000, TCP),
    (1001, UDP),
    (1010, TCP),
    (1011, UDP),
    (1020, TCP),
    (1021, UDP),
    (1030, TCP),
    (1031, UDP),
    (QUIC, UDP),
    (LIMITED[0], TCP),
    (RELAY[0], TCP),
    (RELAY[1], TCP),
];

/// The mode of the service at a port; None: the relay's.
const fn mode(port: u16) -> Option<(Forward, &'static str)> {
    match port {
        1000 | 1001 => Some((Forward::Nat, "nat")),
        1010 | 1011 => Some((Forward::Dsr, "dsr")),
        1020 | 1021 => Some((Forward::Ipip, "ipip")),
        1030 | 1031 => Some((Forward::FullNat, "full-nat")),
        QUIC => Some((Forward::Nat, "quic")),
        // At the same backends and ports as `nat`, so that replies are told apart by flow.
        1050 => Some((Forward::Nat, "limited")),
        _ => None,
    }
}

/// The server id of the backend at an address.
pub(super) fn quic_id(address: &IpAddr) -> QuicId {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    QuicId {
        value: u64::from(last) | u64::from(address.is_ipv4()) << 16,
        len: 3,
    }
}

/// Few enough for a burst to go beyond, in whatever time.
fn limits(port: u16, chance: &mut Chance) -> PerSource {
    if !LIMITED.contains(&port) {
        return PerSource::default();
    }
    let rate = chance.one_in(2).then_some(4);
    PerSource {
        rate,
        connections: (rate.is_none() || chance.one_in(2)).then_some(3),
        prefix_v4: 32,
        prefix_v6: 128,
        ban: (port == LIMITED[0] && chance.one_in(2)).then_some(Duration::from_secs(1)),
    }
}

/// `all`: every backend, alive.
pub(super) fn wish(chance: &mut Chance, all: bool) -> Wanted {
    let services = SERVICES.map(|(port, protocol)| {
        let (name, action) = match mode(port) {
            None => ("relay", WantedAction::Relay { up: true }),
            Some((mode, name)) => {
                let forward = forward(chance, all, (port, protocol), mode, name);
                (name, WantedAction::Forward(forward))
            }
        };
        WantedService {
            name: ServiceName::new(format!("{name}-{port}")),
            keys: vec![listen(VIP4, port, protocol), listen(VIP6, port, protocol)],
            action,
            per_source: limits(port, chance),
        }
    });
    Wanted {
        services: services.into(),
    }
}

fn forward(
    chance: &mut Chance,
    all: bool,
    (port, protocol): (u16, Protocol),
    mode: Forward,
    name: &str,
) -> WantedForward {
    let mut backends = Vec::new();
    for address in all_addresses() {
        if !all && chance.one_in(6) {
            continue;
        }
        let alive = all || !chance.one_in(6);
        let port = match mode {
            // The packet itself arrives.
            Forward::Dsr | Forward::Ipip => 0,
            Forward::Nat | Forward::FullNat if port == QUIC => 8443,
            Forward::Nat | Forward::FullNat => 8080,
        };
        backends.push(WantedBackend {
            key: BackendKey {
                pool: PoolName::new(name),
                address: SocketAddr::new(address, port),
            },
            weight: if alive { chance.below(4) as u32 } else { 0 },
            alive,
            quic_id: (name == "quic").then(|| quic_id(&address)),
        });
    }
    let mut forward = WantedForward::new(mode, 251, backends);
    if port == QUIC {
        forward.hash = FlowHash::Quic { len: 3 };
    }
    if mode == Forward::Nat && protocol == TCP {
        forward.on_backend_down = OnBackendDown::Reset;
    }
    if mode == Forward::FullNat {
        let addresses = vec!["10.0.0.200".parse().unwrap(), "2001:db8:b::200".parse().unwrap()];
        let ports = SourcePool {
            addresses,
            first: 1024,
            last: 65_535,
        };
        forward.sources = Some(WantedSources {
            pool: PoolName::new(name),
            ports,
        });
    }
    forward
}
