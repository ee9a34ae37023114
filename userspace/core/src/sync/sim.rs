//! Two boxes and a network that loses, doubles and overtakes; processes that end and begin anew.
//!
//! Holds: what one box has, the other has a refresh after the network is well again, and nothing else; a box that joins holds
//! all of it before it says so; what was recorded is never taken again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Entry, Event, Output, Peer, Refused, Settings,
    peer::{ALONE, EXPIRES, HELLO, LOST, REFRESH},
};
use crate::{
    health::rng::Rng,
    ids::Protocol,
    vrrp::auth::{Keys, MAC},
};

/// Stands in for HMAC-SHA-256: key 1 is there.
struct Stand;

impl Keys for Stand {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; MAC]> {
        let bytes = parts.iter().copied().flatten();
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut mac = [0; MAC];
        for (place, byte) in mac.iter_mut().zip(hash.to_be_bytes().iter().cycle()) {
            *place = *byte;
        }
        (key == 1).then_some(mac)
    }
}

const SETTINGS: Settings = Settings {
    key: 1,
    rate: 2_000,
    mark: 42,
};

const STEP: Duration = Duration::from_millis(20);
/// Between two looks at the own table.
const SCAN: Duration = Duration::from_secs(1);

fn flow(n: u32) -> Entry {
    let [_, _, a, b] = (n / 50_000).to_be_bytes();
    Entry {
        protocol: Protocol::Tcp,
        client: ([198, 51, a, b], 1 + (n % 50_000) as u16).into(),
        vip: ([192, 0, 2, 10], 80).into(),
        backend: ([10, 0, 0, 11], 80).into(),
        age: 0,
        idle: 0,
        ended: false,
        translation: None,
    }
}

/// A process, its own flows with when each began, and those it was told of with when.
struct Node {
    peer: Peer,
    own: BTreeMap<u32, Instant>,
    told: BTreeMap<Known, Instant>,
    scanned: Instant,
    events: Vec<Event>,
    refused: Vec<Refused>,
}

/// An entry by what it is known by.
type Known = (std::net::SocketAddr, std::net::SocketAddr);

impl Node {
    fn new(process: u64, now: Instant) -> Self {
        Self {
            peer: Peer::new(SETTINGS, process, process ^ 0x5eed, now),
            own: BTreeMap::new(),
            told: BTreeMap::new(),
            scanned: now,
            events: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        match self.peer.receive(bytes, &Stand, now) {
            Ok(entries) => {
                for entry in entries {
                    let key = (entry.client, entry.vip);
                    if entry.ended {
                        self.told.remove(&key);
                    } else {
                        self.told.insert(key, now);
                    }
                }
            }
            Err(refused) => self.refused.push(refused),
        }
    }

    /// As the datapath does it: what is new a few times, all else once per refresh, each in its own turn.
    fn scan(&mut self, now: Instant, start: Instant) {
        if now.saturating_duration_since(self.scanned) < SCAN {
            return;
        }
        let turn = |at: Instant| at.saturating_duration_since(start).as_millis() / REFRESH.as_millis();
        for (n, began) in &self.own {
            let phase = Duration::from_millis(u64::from(n.wrapping_mul(2_654_435_761)) % 30_000);
            let hot = now.saturating_duration_since(*began) < 3 * SCAN;
            if hot || turn(self.scanned + phase) != turn(now + phase) {
                self.peer.tell(&flow(*n), now);
            }
        }
        if self
            .peer
            .status()
            .there
            .is_some_and(|since| now - since > EXPIRES)
        {
            self.told.retain(|_, at| now - *at < EXPIRES);
        }
        self.scanned = now;
    }

    fn outputs(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(output) = self.peer.poll_output(&Stand, now) {
            match output {
                Output::Send(bytes) => sent.push(bytes),
                Output::Everything => {
                    self.own.keys().for_each(|n| self.peer.fill(&flow(*n)));
                    self.peer.full();
                }
                Output::Event(event) => self.events.push(event),
            }
        }
        sent
    }

    fn has_all_of(&self, other: &Self) -> bool {
        let key = |n: &u32| (flow(*n).client, flow(*n).vip);
        other.own.keys().all(|n| self.told.contains_key(&key(n)))
    }
}

/// What the network does to each datagram, of 100.
#[derive(Clone, Copy, Debug)]
struct Weather {
    lost: u64,
    doubled: u64,
    late: u64,
}

const WELL: Weather = Weather {
    lost: 0,
    doubled: 0,
    late: 0,
};

struct World {
    start: Instant,
    now: Instant,
    nodes: [Node; 2],
    /// For whom, when, what.
    air: Vec<(usize, Instant, Vec<u8>)>,
    recorded: Vec<(usize, Vec<u8>)>,
    rng: Rng,
    weather: Weather,
    processes: u64,
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            nodes: [Node::new(1, start), Node::new(2, start)],
            air: Vec::new(),
            recorded: Vec::new(),
            rng: Rng::new(seed),
            weather,
            processes: 2,
        }
    }

    fn restart(&mut self, which: usize) {
        self.processes += 1;
        self.nodes[which] = Node::new(self.processes, self.now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let due: Vec<_> = self.air.extract_if(.., |(_, at, _)| *at <= now).collect();
        for (to, _, bytes) in due {
            self.nodes[to].receive(&bytes, now);
        }
        for which in 0..2 {
            let node = &mut self.nodes[which];
            node.scan(now, self.start);
            if node.peer.poll_timeout() <= now {
                node.peer.handle_timeout(now);
            }
            let sent = node.outputs(now);
            assert!(node.peer.poll_timeout() > now, "it would be called for ever");
            for bytes in sent {
                assert!(bytes.len() <= super::wire::LONGEST);
                if self.recorded.len() < 5_000 {
                    self.recorded.push((1 - which, bytes.clone()));
                }
                self.send(1 - which, bytes);
            }
        }
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) {
        let Weather { lost, doubled, late } = self.weather;
        if self.rng.below(100) < doubled {
            self.air.push((to, self.now + 3 * STEP, bytes.clone()));
        }
        if self.rng.below(100) < lost {
            return;
        }
        let delay = if self.rng.below(100) < late { 5 } else { 1 };
        self.air.push((to, self.now + delay * STEP, bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn tables_become_one(
        seed: u64,
        (lost, doubled, late) in (0..60_u64, 0..30_u64, 0..50_u64),
        flows in 0..1_500_u32,
        restarts in proptest::collection::vec((0..2_usize, 1..60_u64), 0..4),
    ) {
        let mut world = World::new(seed, Weather { lost, doubled, late });
        for n in 0..flows {
            world.nodes[0].own.insert(n, world.start);
            if n % 7 == 0 {
                world.nodes[1].own.insert(n + 1_000_000, world.start);
            }
        }
        for (which, after) in restarts {
            world.run(Duration::from_secs(after));
            // A box that begins anew knows nothing; what was its own it knows from its peer, and it ends with the process
            // here.
            world.restart(which);
        }
        world.run(Duration::from_secs(20));
        let gone: Vec<u32> = world.nodes[0].own.keys().copied().filter(|n| n % 3 == 0).collect();
        for n in &gone {
            world.nodes[0].own.remove(n);
            world.nodes[0].peer.tell(&Entry { ended: true, ..flow(*n) }, world.now);
        }
        world.nodes[0].own.insert(5_000_000, world.now);

        world.weather = WELL;
        world.run(LOST + REFRESH + 5 * SCAN);
        let [one, two] = &world.nodes;
        prop_assert!(one.peer.is_there() && two.peer.is_there());
        prop_assert!(one.peer.holds() && two.peer.holds());
        prop_assert!(two.has_all_of(one) && one.has_all_of(two));
        world.run(EXPIRES + REFRESH);
        let [one, two] = &world.nodes;
        prop_assert_eq!(two.told.len(), one.own.len());
        prop_assert_eq!(one.told.len(), two.own.len());
    }
}

#[test]
fn a_box_that_joins_holds_all_before_it_says_so() {
    for lost in [0, 10, 40] {
        let weather = Weather { lost, ..WELL };
        let mut world = World::new(lost, weather);
        for n in 0..20_000 {
            world.nodes[0].own.insert(n, world.start);
        }
        world.run(Duration::from_secs(10));
        world.restart(1);
        let restarted = world.now;
        while !world.nodes[1].peer.holds() {
            assert!(
                world.now - restarted < Duration::from_secs(60),
                "{lost} of 100 lost"
            );
            world.run(STEP);
        }
        assert!(world.nodes[1].has_all_of(&world.nodes[0]), "{lost} of 100 lost");
        assert!(world.nodes[1].events.contains(&Event::Joined));
        if lost == 0 {
            assert!(world.now - restarted < Duration::from_secs(3));
        }
    }
}

#[test]
fn who_hears_nobody_holds_what_there_is() {
    let mut world = World::new(1, Weather { lost: 100, ..WELL });
    world.run(ALONE - STEP);
    assert!(!world.nodes[0].peer.holds());
    world.run(2 * STEP);
    assert!(world.nodes[0].peer.holds());
    assert_eq!(world.nodes[0].events, [Event::Alone]);
    // It stays so when somebody comes.
    world.weather = WELL;
    world.run(2 * HELLO);
    let events = &world.nodes[0].events;
    assert_eq!(events[1..], [Event::There { anew: true }, Event::Joined]);
}

#[test]
fn a_peer_that_dies_while_it_tells_its_table_is_not_waited_for() {
    let mut world = World::new(1, WELL);
    world.nodes[0].own = (0..1_000_000).map(|n| (n, world.start)).collect();
    world.run(Duration::from_millis(500));
    assert!(world.nodes[1].peer.status().joining.is_some() && !world.nodes[1].peer.holds());
    world.weather.lost = 100;
    world.run(LOST + 10 * STEP);
    assert!(world.nodes[1].peer.holds());
    assert_eq!(world.nodes[1].events.last(), Some(&Event::Lost));
}

#[test]
fn a_peer_that_was_away_is_asked_for_all_again() {
    let mut world = World::new(1, WELL);
    world.run(2 * HELLO);
    world.weather.lost = 100;
    world.run(LOST + HELLO);
    // Nobody tells of it while the peer is away.
    world.nodes[0].own.insert(7, world.start);
    world.weather.lost = 0;
    world.run(2 * HELLO);
    assert!(world.nodes[1].has_all_of(&world.nodes[0]));
    let events = &world.nodes[1].events;
    let back = [Event::There { anew: false }, Event::Joined];
    assert_eq!(events[events.len() - 2..], back);
}

#[test]
fn what_was_recorded_is_not_taken_again() {
    let mut world = World::new(1, WELL);
    world.nodes[0].own = (0..50).map(|n| (n, world.start)).collect();
    world.run(Duration::from_secs(5));
    let played = |world: &mut World, which: usize| {
        let recorded: Vec<_> = world.recorded.clone();
        let taken = world.nodes[which].peer.status().counts.datagrams_received;
        let told = world.nodes[which].told.len();
        for (_, bytes) in recorded.iter().filter(|(to, _)| *to == which) {
            world.nodes[which].receive(bytes, world.now);
        }
        let after = world.nodes[which].peer.status().counts.datagrams_received;
        assert_eq!((after, world.nodes[which].told.len()), (taken, told));
    };
    // To the same process; to one that has just begun; to that once it knows the peer; and what an earlier process has sent.
    played(&mut world, 1);
    assert!(world.nodes[1].refused.contains(&Refused::Replayed));
    world.restart(1);
    played(&mut world, 1);
    assert!(world.nodes[1].refused.contains(&Refused::Stale));
    world.run(2 * HELLO);
    assert!(world.nodes[1].peer.is_there());
    world.restart(0);
    world.run(2 * HELLO);
    world.nodes[1].refused.clear();
    played(&mut world, 1);
    // It goes on with who is there.
    world.run(2 * HELLO);
    assert!(world.nodes[1].peer.is_there());
    let own = world.recorded.iter().find(|(to, _)| *to == 0).unwrap().1.clone();
    let mut sender = Node::new(2, world.now);
    sender.receive(&own, world.now);
    assert_eq!(sender.refused, [Refused::Own]);
}

#[test]
fn a_box_with_another_hash_key_is_no_peer() {
    let now = Instant::now();
    let other = Settings { mark: 43, ..SETTINGS };
    let (mut one, mut two) = (Peer::new(SETTINGS, 1, 1, now), Peer::new(other, 2, 2, now));
    let Some(Output::Send(hello)) = two.poll_output(&Stand, now) else {
        panic!("a hello");
    };
    assert_eq!(one.receive(&hello, &Stand, now).err(), Some(Refused::HashKey));
}

#[test]
fn entries_that_nobody_hears_are_not_kept() {
    let now = Instant::now();
    let mut peer = Peer::new(SETTINGS, 1, 1, now);
    peer.tell(&flow(1), now);
    assert_eq!(peer.status().waiting, None);
}

#[test]
fn a_queue_that_is_full_says_so() {
    let mut world = World::new(1, WELL);
    world.run(2 * HELLO);
    let peer = &mut world.nodes[0].peer;
    for n in 0..500_000 {
        peer.tell(&flow(n), world.now);
    }
    let status = peer.status();
    assert!(status.counts.dropped > 0 && status.waiting == Some(world.now));
    // As many datagrams per second as may be.
    let before = status.counts.datagrams_sent;
    world.run(HELLO);
    let sent = world.nodes[0].peer.status().counts.datagrams_sent - before;
    assert!((1_900..2_100).contains(&sent), "{sent}");
}
