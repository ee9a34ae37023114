//! Plans carried out on maps in memory, with a look after every operation at what a packet would meet.

use std::{cell::RefCell, net::IpAddr};

use proptest::{collection::vec, prelude::*};
use weir_abi::maps::{backend, returns};
use weir_core::{
    ids::{BackendKey, PoolName, Protocol, Scope},
    plan::{Forward, PerSource},
};

use weir_abi::maps::service as flags;
use weir_fastpath::filter::bit;

use super::*;
use crate::{WantedAction, WantedBackend, WantedForward, WantedService};

mod lasting;
mod modes;
mod random;
mod scale;

const LIMITS: Limits = Limits {
    service_keys: 100,
    services: 10,
    backends: 8,
    ring_slots: 100,
    returns: 100,
    quic_ids: 4,
    sources: 16,
    cpus: 2,
    present: 2,
    horizon: 60,
    hash_key: [1, 2],
};

/// The maps, as far as operations reach them; checks on the way that nothing is named before it is there.
#[derive(Default)]
struct Maps {
    state: State,
    slots: RefCell<Vec<Slot>>,
    ops: Vec<Op>,
}

impl Maps {
    fn new() -> Self {
        Self {
            slots: RefCell::new(vec![Slot::default(); LIMITS.ring_slots as usize]),
            ..Self::default()
        }
    }

    fn plan(&self, wanted: &Wanted, now: u32) -> Result<Plan, Error> {
        let slots = self.slots.borrow();
        let ring = |area: Area| slots[area.offset as usize..][..area.len as usize].to_vec();
        plan(&self.state, wanted, &LIMITS, ring, now)
    }

    fn apply(&mut self, wanted: &Wanted, now: u32) -> Vec<Op> {
        let Plan { ops, next } = self.plan(wanted, now).unwrap();
        let mut services = self.services();
        let mut backends = self.state.backends.clone();
        let mut filter = self.state.filter.clone();
        let mut sources = self.state.sources.clone();
        let mut quic_ids = self.state.quic_ids.clone();
        let mut bounds = self.state.limits.clone();
        let mut returns: Vec<_> = self
            .state
            .returns
            .iter()
            .map(|(k, v)| (return_key(k), *v))
            .collect();
        for op in &ops {
            let mut slots = self.slots.borrow_mut();
            match op {
                Op::ForgetFlows(_) | Op::ResetService(_) | Op::ResetBackend(_) => {}
                Op::SetBackend(index, value) if *value == Backend::default() => drop(backends.remove(index)),
                Op::SetBackend(index, value) => drop(backends.insert(*index, *value)),
                Op::SetReturn(key, value) => {
                    returns.retain(|(k, _)| k != key);
                    returns.push((*key, *value));
                }
                Op::DeleteReturn(key) => returns.retain(|(k, _)| k != key),
                Op::SetFilter(bits) => filter.extend(bits),
                Op::ClearFilter(bits) => filter.retain(|bit| !bits.contains(bit)),
                Op::SetQuic(key, index) => drop(quic_ids.insert((*key).into(), *index)),
                Op::DeleteQuic(key) => drop(quic_ids.remove(&(*key).into())),
                Op::SetLimits(id, value) if *value == ServiceLimits::default() => drop(bounds.remove(id)),
                Op::SetLimits(id, value) => drop(bounds.insert(*id, *value)),
                Op::SetSource(index, value) => {
                    for (_, service) in &services {
                        let end = service.sources + service.source_count * LIMITS.cpus;
                        assert!(
                            !(service.sources..end).contains(index),
                            "a source in use is written over"
                        );
                    }
                    sources.insert(*index, *value);
                }
                Op::WriteRing(area, new) => {
                    for (_, service) in &services {
                        let end = service.ring_offset + service.ring_len;
                        assert!(
                            area.offset >= end || area.offset + area.len <= service.ring_offset,
                            "a ring in use is written over"
                        );
                    }
                    slots[area.offset as usize..][..new.len()].copy_from_slice(new);
                }
                Op::SettleSlots(list) => {
                    for (index, slot) in list {
                        assert_eq!(slots[*index as usize].current, slot.current);
                        slots[*index as usize] = *slot;
                    }
                }
                Op::SetService(key, value) => {
                    services.retain(|(k, _)| k != key);
                    services.push((*key, *value));
                }
                Op::DeleteService(key) => services.retain(|(k, _)| k != key),
            }
            // What a packet may meet now.
            for (key, service) in &services {
                assert!(
                    filter.contains(&bit(&key.addr)),
                    "an address without its bit after {op:?}"
                );
                assert!(
                    service.flags & flags::LIMITED == 0 || bounds.contains_key(&service.id),
                    "limits that are not there"
                );
                for index in 0..service.source_count * LIMITS.cpus {
                    let source = sources.get(&(service.sources + index)).expect("a source");
                    assert!(source.count > 0 && filter.contains(&bit(&source.addr)));
                }
                for slot in &slots[service.ring_offset as usize..][..service.ring_len as usize] {
                    if slot.current != 0 {
                        let backend = backends
                            .get(&u32::from(slot.current))
                            .copied()
                            .unwrap_or_default();
                        assert!(
                            backend.flags & backend::ALIVE != 0,
                            "a slot leads to a dead backend after {op:?}"
                        );
                    }
                }
            }
            for (from, target) in &returns {
                assert!(filter.contains(&bit(&from.addr)));
                let backend = backends.get(&target.backend).copied().unwrap_or_default();
                if target.flags & returns::SHARED != 0 {
                    assert!(
                        backend.flags & backend::SHARED != 0,
                        "replies ask for what is not recorded"
                    );
                }
            }
        }
        self.state = next;
        assert_eq!(
            sorted(services),
            sorted(self.services()),
            "the operations lead to the state that was said"
        );
        assert_eq!(backends, self.state.backends);
        assert_eq!(filter, self.state.filter);
        assert_eq!(quic_ids, self.state.quic_ids);
        assert_eq!(bounds, self.state.limits);
        // What no service names stays where it is.
        sources.retain(|index, _| self.state.sources.contains_key(index));
        assert_eq!(sources, self.state.sources);
        let planned: Vec<_> = self
            .state
            .returns
            .iter()
            .map(|(k, v)| (return_key(k), *v))
            .collect();
        assert_eq!(sorted(returns), sorted(planned));
        let again = self.plan(wanted, now).unwrap();
        assert_eq!(again.ops, [], "the same wish again writes nothing");
        self.ops = ops.clone();
        ops
    }

    fn services(&self) -> Vec<(ServiceKey, Service)> {
        let services = self.state.services.iter().map(|(k, v)| (service_key(k), *v));
        let addresses = self.state.addresses.iter().map(|(k, v)| (address_key(*k), *v));
        services.chain(addresses).collect()
    }

    fn ring(&self, key: &str) -> Vec<Slot> {
        let service = self.state.services[&listen(key)];
        self.slots.borrow()[service.ring_offset as usize..][..service.ring_len as usize].to_vec()
    }

    fn index(&self, backend: &str) -> u16 {
        self.state.assignment.backends.get(&key(backend)).unwrap() as u16
    }
}

fn sorted<K: std::fmt::Debug, V: std::fmt::Debug>(list: Vec<(K, V)>) -> Vec<String> {
    let mut list: Vec<_> = list.iter().map(|entry| format!("{entry:?}")).collect();
    list.sort();
    list
}

/// `192.0.2.1:80/tcp`
fn listen(text: &str) -> ListenKey {
    let (address, protocol) = text.rsplit_once('/').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let protocol = if protocol == "tcp" {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    ListenKey {
        addr: address.ip(),
        port: address.port(),
        protocol,
        scope: Scope::Address,
        interface: None,
    }
}

/// `pool/10.0.0.1:80`
fn key(text: &str) -> BackendKey {
    let (pool, address) = text.split_once('/').unwrap();
    BackendKey {
        pool: PoolName::new(pool),
        address: address.parse().unwrap(),
    }
}

fn up(text: &str) -> WantedBackend {
    WantedBackend {
        key: key(text),
        weight: 1,
        alive: true,
        quic_id: None,
    }
}

fn draining(text: &str) -> WantedBackend {
    WantedBackend {
        weight: 0,
        ..up(text)
    }
}

fn dead(text: &str) -> WantedBackend {
    WantedBackend {
        alive: false,
        ..up(text)
    }
}

fn nat(name: &str, keys: &[&str], backends: &[WantedBackend]) -> WantedService {
    service(
        name,
        keys,
        WantedForward::new(Forward::Nat, 11, backends.to_vec()),
    )
}

fn service(name: &str, keys: &[&str], forward: WantedForward) -> WantedService {
    WantedService {
        name: ServiceName::new(name),
        keys: keys.iter().map(|text| listen(text)).collect(),
        action: WantedAction::Forward(forward),
        per_source: PerSource::default(),
    }
}

fn forward(service: &mut WantedService) -> &mut WantedForward {
    match &mut service.action {
        WantedAction::Forward(forward) => forward,
        WantedAction::Relay { .. } => unreachable!(),
    }
}

fn relay(name: &str, keys: &[&str], up: bool) -> WantedService {
    WantedService {
        action: WantedAction::Relay { up },
        ..nat(name, keys, &[])
    }
}

fn wanted(services: &[WantedService]) -> Wanted {
    Wanted {
        services: services.to_vec(),
    }
}

/// The kinds of operations, in order, without repeats.
fn kinds(ops: &[Op]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = ops
        .iter()
        .map(|op| match op {
            Op::ForgetFlows(_) => "forget",
            Op::ResetService(_) => "reset service",
            Op::ResetBackend(_) => "reset backend",
            Op::SetBackend(_, value) if *value == Backend::default() => "clear backend",
            Op::SetBackend(..) => "backend",
            Op::SetReturn(..) => "return",
            Op::SetQuic(..) => "quic",
            Op::SetSource(..) => "source",
            Op::SetLimits(_, value) if *value == ServiceLimits::default() => "clear limits",
            Op::SetLimits(..) => "limits",
            Op::SetFilter(_) => "filter",
            Op::ClearFilter(_) => "clear filter",
            Op::DeleteQuic(_) => "delete quic",
            Op::WriteRing(..) => "ring",
            Op::SettleSlots(_) => "settle",
            Op::SetService(..) => "service",
            Op::DeleteService(_) => "delete service",
            Op::DeleteReturn(_) => "delete return",
        })
        .collect();
    kinds.dedup();
    kinds
}

const VIP: &str = "192.0.2.1:80/tcp";
const A: &str = "web/10.0.0.1:80";
const B: &str = "web/10.0.0.2:80";

#[test]
fn a_service_is_written_from_the_inside_out_and_deleted_in_reverse() {
    let mut maps = Maps::new();
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(B)])]), 100);
    assert_eq!(kinds(&ops), ["filter", "backend", "return", "ring", "service"]);
    let ring = maps.ring(VIP);
    assert_eq!(ring.len(), 11);
    assert!(
        ring.iter().all(|slot| slot.changed == 0 && slot.previous == 0),
        "no flow is older"
    );
    assert!(ring.iter().any(|slot| slot.current == maps.index(A)));
    assert!(ring.iter().any(|slot| slot.current == maps.index(B)));

    let ops = maps.apply(&wanted(&[]), 200);
    assert_eq!(
        kinds(&ops),
        ["delete service", "delete return", "clear backend", "clear filter"]
    );
    assert_eq!(
        maps.state.services.len() + maps.state.backends.len() + maps.state.returns.len(),
        0
    );
}

#[test]
fn a_backend_that_dies_leaves_the_ring_before_it_loses_its_flows() {
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(B)])]), 100);
    let before = maps.ring(VIP);
    let generation = maps.state.services[&listen(VIP)].generation;
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), dead(B)])]), 200);
    assert_eq!(kinds(&ops), ["ring", "service", "backend"]);
    let (a, b) = (maps.index(A), maps.index(B));
    for (old, new) in before.iter().zip(maps.ring(VIP)) {
        let expected = if old.current == b {
            Slot {
                current: a,
                previous: b,
                changed: 200,
            }
        } else {
            Slot {
                current: a,
                previous: 0,
                changed: 0,
            }
        };
        assert_eq!(new, expected);
    }
    assert_eq!(maps.state.services[&listen(VIP)].generation, generation + 1);
    assert!(
        maps.state.returns.contains_key(&listen("10.0.0.2:80/tcp")),
        "its last replies still find their way"
    );
}

#[test]
fn draining_keeps_flows_and_takes_none() {
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(B)])]), 100);
    maps.apply(&wanted(&[nat("www", &[VIP], &[draining(A), draining(B)])]), 200);
    let ring = maps.ring(VIP);
    assert!(
        ring.iter()
            .all(|slot| slot.current == 0 && slot.previous != 0 && slot.changed == 200),
        "{ring:?}"
    );
    assert!(maps.state.backends.values().all(|b| b.flags == backend::ALIVE));
}

#[test]
fn a_service_whose_backends_never_lived_needs_no_ring() {
    let mut maps = Maps::new();
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &[dead(A)])]), 100);
    assert_eq!(kinds(&ops), ["filter", "backend", "return", "service"]);
    assert_eq!(maps.state.services[&listen(VIP)].ring_len, 0);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 200);
    assert!(
        maps.ring(VIP)
            .iter()
            .all(|slot| slot.current == maps.index(A) && slot.changed == 0)
    );
}

#[test]
fn each_family_rings_its_own_backends() {
    let v6 = "[2001:db8::1]:80/tcp";
    let c = "web/[2001:db8:1::1]:80";
    let mut maps = Maps::new();
    let ops = maps.apply(&wanted(&[nat("www", &[VIP, v6], &[up(A), up(c)])]), 100);
    assert_eq!(ops.iter().filter(|op| matches!(op, Op::WriteRing(..))).count(), 2);
    assert!(maps.ring(VIP).iter().all(|slot| slot.current == maps.index(A)));
    assert!(maps.ring(v6).iter().all(|slot| slot.current == maps.index(c)));
    assert_eq!(maps.state.returns.len(), 2);
    // A pool without backends of a family serves none of its packets.
    maps.apply(&wanted(&[nat("www", &[VIP, v6], &[up(A)])]), 200);
    assert_eq!(maps.state.services[&listen(v6)].ring_len, 0);
}

#[test]
fn backends_name_the_way_to_their_address_and_plans_take_it_on() {
    let mut maps = Maps::new();
    maps.state.next_hops = [(key(A).address.ip(), 7)].into();
    for now in [100, 200] {
        maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(B)])]), now);
        let named = |maps: &Maps, name| {
            let index = maps.state.assignment.backends.get(&key(name)).unwrap();
            maps.state.backends[&index].next_hop
        };
        assert_eq!((named(&maps, A), named(&maps, B)), (7, 0));
    }
}

#[test]
fn keys_of_one_family_share_a_ring() {
    let more = "192.0.2.1:81/tcp";
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 100);
    let ops = maps.apply(&wanted(&[nat("www", &[VIP, more], &[up(A)])]), 200);
    assert_eq!(
        kinds(&ops),
        ["backend", "return", "service"],
        "the ring is there already"
    );
    assert_eq!(
        maps.state.services[&listen(VIP)],
        maps.state.services[&listen(more)]
    );
}

#[test]
fn a_backend_of_several_vips_is_shared_and_one_of_several_protocols_is_not() {
    let dns = |vips: &[&str]| wanted(&[nat("dns", vips, &[up("dns/10.0.0.1:53")])]);
    let mut maps = Maps::new();
    maps.apply(&dns(&["192.0.2.1:53/udp", "192.0.2.1:53/tcp"]), 100);
    assert_eq!(maps.state.returns.len(), 2);
    assert!(maps.state.returns.values().all(|target| target.flags == 0));
    assert_eq!(maps.state.backends[&1].flags, backend::ALIVE);

    let ops = maps.apply(
        &dns(&["192.0.2.1:53/udp", "192.0.2.1:53/tcp", "192.0.2.2:53/udp"]),
        200,
    );
    assert_eq!(
        kinds(&ops),
        ["filter", "backend", "return", "service"],
        "flows are recorded before replies ask"
    );
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:53/udp")].flags,
        returns::SHARED
    );
    assert_eq!(maps.state.returns[&listen("10.0.0.1:53/tcp")].flags, 0);
    assert_eq!(maps.state.backends[&1].flags, backend::ALIVE | backend::SHARED);

    let ops = maps.apply(&dns(&["192.0.2.2:53/udp"]), 300);
    assert_eq!(
        kinds(&ops),
        [
            "return",
            "delete service",
            "delete return",
            "backend",
            "clear filter"
        ]
    );
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:53/udp")].vip.to_ip(),
        "192.0.2.2".parse::<IpAddr>().unwrap()
    );
}

#[test]
fn one_address_in_two_pools_is_shared() {
    let mut maps = Maps::new();
    let other = nat("other", &["192.0.2.2:80/tcp"], &[up("two/10.0.0.1:80")]);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)]), other]), 100);
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:80/tcp")].flags,
        returns::SHARED
    );
    assert!(
        maps.state
            .backends
            .values()
            .all(|b| b.flags == backend::ALIVE | backend::SHARED)
    );
    assert_ne!(maps.index(A), maps.index("two/10.0.0.1:80"));
}

#[test]
fn port_zero_keeps_the_port_that_the_client_chose() {
    let mut maps = Maps::new();
    maps.apply(
        &wanted(&[nat("www", &[VIP, "192.0.2.1:443/tcp"], &[up("web/10.0.0.1:0")])]),
        100,
    );
    assert_eq!(maps.state.backends[&1].port, 0);
    let from: Vec<_> = maps.state.returns.keys().map(|key| key.port).collect();
    assert_eq!(from, [80, 443]);
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:443/tcp")].port,
        u32::from(443_u16.to_be())
    );
}

#[test]
fn relayed_services_pass() {
    let mut maps = Maps::new();
    let ops = maps.apply(&wanted(&[relay("www", &[VIP], false)]), 100);
    let address = Service {
        action: action::ADDRESS,
        ..Service::default()
    };
    let vip = listen(VIP);
    assert_eq!(
        ops,
        [
            Op::SetFilter(vec![bit(&vip.addr.into())]),
            Op::SetService(service_key(&vip), Service::default()),
            Op::SetService(address_key(vip.addr), address)
        ]
    );
    // It may become an L4 service and go back.
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 200);
    assert_eq!(maps.state.services[&listen(VIP)].action, action::NAT);
}

#[test]
fn mapped_addresses_are_ipv4() {
    let mut maps = Maps::new();
    maps.apply(
        &wanted(&[nat(
            "www",
            &["[::ffff:192.0.2.1]:80/tcp"],
            &[up("web/[::ffff:10.0.0.1]:80")],
        )]),
        100,
    );
    assert!(maps.ring(VIP).iter().all(|slot| slot.current == 1));
    assert!(maps.state.returns.contains_key(&listen("10.0.0.1:80/tcp")));
}
