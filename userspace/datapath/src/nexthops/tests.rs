//! Plans carried out on maps in memory, with a look after every step at what a packet would meet.

use proptest::{collection::btree_map, prelude::*};
use weir_abi::Addr16;

use super::*;

const ROOM: Room = Room {
    next_hops: 8,
    routes: 64,
    vlans: 2,
};

fn way(n: u16) -> NextHop {
    NextHop {
        ifindex: 2,
        mtu: 1500,
        destination: [2, 0, n],
        source: [2, 1, 0],
        ..NextHop::default()
    }
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn net(bits: u8, len: u8) -> Net {
    Net::new(IpAddr::from([bits, 0, 0, 0]), len).unwrap()
}

/// What the maps hold, as steps reach them.
#[derive(Default)]
struct Maps {
    held: Held,
    next_hops: BTreeMap<u32, NextHop>,
    backends: BTreeMap<u32, Backend>,
}

impl Maps {
    fn with_backends(addresses: impl IntoIterator<Item = u8>) -> Self {
        let backends = addresses.into_iter().map(|n| {
            let addr = Addr16::from(ip(n));
            (
                u32::from(n),
                Backend {
                    addr,
                    ..Backend::default()
                },
            )
        });
        Self {
            backends: backends.collect(),
            ..Self::default()
        }
    }

    /// The longest prefix that holds an address.
    fn client(routes: &BTreeMap<Net, u32>, to: Net) -> u32 {
        let longest = routes.iter().rfind(|(net, _)| net.holds(to));
        longest.map_or(0, |(_, value)| *value)
    }

    fn apply(&mut self, ways: &Ways, now: u32) -> Vec<Step> {
        let plan = plan(&self.held, ways, &self.backends, ROOM, now);
        let before = self.held.routes.clone();
        let (mut routes, mut vlans) = (before.clone(), self.held.vlans.clone());
        for step in &plan.steps {
            match step {
                Step::SetNextHop(number, way) => {
                    let named = self.backends.values().any(|b| b.next_hop == *number)
                        || routes.values().any(|value| value == number);
                    assert!(
                        *number != 0 && *number < ROOM.next_hops && !named,
                        "{number} is named"
                    );
                    self.next_hops.insert(*number, *way);
                }
                Step::SetBackend(index, backend) => {
                    let old = self.backends.insert(*index, *backend).unwrap();
                    assert_eq!(
                        Backend { next_hop: 0, ..old },
                        Backend {
                            next_hop: 0,
                            ..*backend
                        }
                    );
                }
                Step::SetRoute(net, value) => drop(routes.insert(*net, *value)),
                Step::DeleteRoute(net) => assert!(routes.remove(net).is_some()),
                Step::SetVlan(index, vlan) => {
                    vlans.insert(*index, *vlan);
                }
                Step::DeleteVlan(index) => assert!(vlans.remove(index).is_some()),
            }
            assert!(routes.len() <= ROOM.routes as usize, "no room");
            for first in 0..=255 {
                let to = net(first, 32);
                let found = Self::client(&routes, to);
                assert!(
                    found == 0
                        || found == Self::client(&before, to)
                        || found == Self::client(&plan.next.routes, to),
                    "{to} finds {found} after {step:?} of {:?}",
                    plan.steps
                );
                assert!(found == 0 || self.next_hops.contains_key(&found));
            }
        }
        assert_eq!((&routes, &vlans), (&plan.next.routes, &plan.next.vlans));
        for backend in self.backends.values() {
            let found = self.next_hops.get(&backend.next_hop);
            let wanted = ways.backends.get(&backend.addr.to_ip());
            assert!(found == wanted || plan.next.lack.next_hops != 0 && found.is_none());
        }
        if plan.next.lack == Lack::default() {
            for (net, wanted) in &ways.clients {
                assert_eq!(self.next_hops.get(&routes[net]), wanted.as_ref());
            }
        }
        self.held = plan.next;
        let again = super::plan(&self.held, ways, &self.backends, ROOM, now);
        assert!(
            again.steps.is_empty() || self.held.lack.next_hops != 0,
            "the same again writes nothing: {:?}",
            again.steps
        );
        plan.steps
    }
}

fn backends(list: &[(u8, u16)]) -> Ways {
    Ways {
        backends: list.iter().map(|&(n, to)| (ip(n), way(to))).collect(),
        ..Ways::default()
    }
}

#[test]
fn backends_with_one_way_share_its_number() {
    let mut maps = Maps::with_backends([1, 2, 3]);
    maps.apply(&backends(&[(1, 7), (2, 7), (9, 8)]), 10);
    let named: Vec<u32> = maps.backends.values().map(|b| b.next_hop).collect();
    assert_eq!(named, [1, 1, 0]);
    assert_eq!(maps.next_hops.len(), 2, "also what no backend in the map has yet");
}

#[test]
fn a_changed_way_gets_another_number_and_the_old_one_rests() {
    let mut maps = Maps::with_backends([1]);
    let mut seen = BTreeMap::new();
    for (now, to) in [
        (10, 1),
        (10, 2),
        (11, 1),
        (11, 3),
        (12, 4),
        (12, 5),
        (12, 6),
        (13, 7),
        (14, 8),
    ] {
        maps.apply(&backends(&[(1, to)]), now);
        let number = maps.backends[&1].next_hop;
        assert_ne!(number, 0, "{now}: {to}");
        if let Some(last) = seen.insert(number, now) {
            assert!(
                now >= last + REST,
                "{number} was in use at {last}, again at {now}"
            );
        }
        let live: Vec<_> = maps.held.numbers.live.values().copied().collect();
        assert_eq!(live, [number]);
    }
    assert!(seen.len() < 9, "numbers come back");
}

#[test]
fn without_a_number_the_kernel_is_asked_and_it_is_known() {
    let mut maps = Maps::with_backends(1..=9);
    let all: Vec<_> = (1..=9).map(|n| (n, u16::from(n))).collect();
    maps.apply(&backends(&all), 10);
    assert_eq!(maps.held.lack.next_hops, 2);
    assert_eq!(maps.backends.values().filter(|b| b.next_hop == 0).count(), 2);
    // Numbers that are free rest first.
    maps.apply(&backends(&all[2..]), 10);
    assert_eq!(maps.held.lack.next_hops, 2);
    maps.apply(&backends(&all[2..]), 12);
    assert_eq!(maps.held.lack, Lack::default());
}

#[test]
fn too_many_networks_are_all_asked_for() {
    let mut maps = Maps::default();
    let clients = |count: u8| Ways {
        clients: (0..count).map(|n| (net(n, 8), Some(way(1)))).collect(),
        ..Ways::default()
    };
    maps.apply(&clients(48), 10);
    assert_eq!(maps.held.routes.len(), 48);
    maps.apply(&clients(49), 11);
    assert_eq!((maps.held.routes.len(), maps.held.lack.routes), (0, 49));
    assert_eq!(maps.held.numbers.len(), 0, "no number is held for them");
    // Forty others: old and new together have no room.
    maps.apply(&clients(48), 12);
    let others = Ways {
        clients: (100..140).map(|n| (net(n, 8), Some(way(2)))).collect(),
        ..Ways::default()
    };
    maps.apply(&others, 13);
    assert_eq!((maps.held.routes.len(), maps.held.lack), (40, Lack::default()));
}

#[test]
fn hosts_take_what_room_routes_leave() {
    let hosts = |count: u8, clients: u8| Ways {
        clients: (0..clients).map(|n| (net(n, 8), Some(way(1)))).collect(),
        hosts: (0..count)
            .map(|n| (net(200 + n, 32), way(u16::from(n) + 2)))
            .collect(),
        ..Ways::default()
    };
    let mut maps = Maps::default();
    maps.apply(&hosts(4, 40), 10);
    assert_eq!((maps.held.routes.len(), maps.held.lack), (44, Lack::default()));
    let to = |maps: &Maps, net| {
        let number = Maps::client(&maps.held.routes, net);
        maps.next_hops.get(&number).copied()
    };
    assert_eq!(to(&maps, net(203, 32)), Some(way(5)));
    assert_eq!(to(&maps, net(3, 32)), Some(way(1)));
    // Too many for the map: routes are more important.
    maps.apply(&hosts(20, 40), 20);
    assert_eq!((maps.held.routes.len(), maps.held.lack), (40, Lack::default()));
    // Too many for the numbers: the others are asked, and nothing is amiss.
    maps.apply(&hosts(20, 1), 30);
    assert_eq!((maps.held.routes.len(), maps.held.lack), (7, Lack::default()));
}

#[test]
fn vlan_devices_come_and_go() {
    let vlan = |tag| Vlan {
        ifindex: 2,
        outer_tag: tag,
        ..Vlan::default()
    };
    let ways = |list: &[(u32, u32)]| Ways {
        vlans: list.iter().map(|&(index, tag)| (index, vlan(tag))).collect(),
        ..Ways::default()
    };
    let mut maps = Maps::default();
    maps.apply(&ways(&[(5, 1), (6, 2)]), 1);
    let steps = maps.apply(&ways(&[(6, 3)]), 2);
    assert_eq!(steps, [Step::SetVlan(6, vlan(3)), Step::DeleteVlan(5)]);
    maps.apply(&ways(&[(5, 1), (6, 2), (7, 3)]), 3);
    assert_eq!((maps.held.vlans.len(), maps.held.lack.vlans), (2, 1));
}

#[test]
fn what_was_found_is_taken_over() {
    let entries = [(1, way(1)), (2, way(2)), (3, way(3)), (5, way(2))];
    let named = [2, 3, 5, 6].into();
    let mut numbers = Numbers::found(entries, &named, 100);
    assert_eq!(
        numbers.give(way(2), 8, 100),
        Some((2, false)),
        "it keeps its number"
    );
    assert_eq!(numbers.give(way(3), 8, 100), Some((3, false)));
    assert_eq!(
        numbers.give(way(9), 8, 100),
        Some((7, true)),
        "none that is named"
    );
    assert_eq!(numbers.give(way(8), 8, 100), None, "the others rest");
    assert_eq!(numbers.give(way(8), 8, 102), Some((1, true)));
    let mut empty = Numbers::found([], &BTreeSet::new(), 1);
    assert_eq!(empty.give(way(1), 8, 1), Some((1, true)), "0 is none's");
}

fn clients() -> impl Strategy<Value = BTreeMap<Net, Option<NextHop>>> {
    let lengths = prop::sample::select(vec![0_u8, 1, 2, 4, 8, 32]);
    let nets = (any::<u8>(), lengths).prop_map(|(bits, len)| net(bits, len));
    btree_map(nets, prop::option::of((0_u16..3).prop_map(way)), 0..40)
}

fn hosts() -> impl Strategy<Value = BTreeMap<Net, NextHop>> {
    let nets = any::<u8>().prop_map(|bits| net(bits, 32));
    btree_map(nets, (0_u16..6).prop_map(way), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_packet_ever_meets_a_wrong_way(
        changes in prop::collection::vec((clients(), hosts(), btree_map(1_u8..6, 0_u16..5, 0..5)), 1..5)
    ) {
        let mut maps = Maps::with_backends(1..=5);
        for (now, (clients, hosts, list)) in (10..).zip(changes) {
            let ways = Ways {
                clients,
                hosts,
                backends: list.into_iter().map(|(n, to)| (ip(n), way(to))).collect(),
                vlans: BTreeMap::new(),
                ..Ways::default()
            };
            maps.apply(&ways, now);
        }
    }
}
