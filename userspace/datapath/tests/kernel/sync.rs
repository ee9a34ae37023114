//! Two boxes with real tables, and what one tells the other: flows are placed there as they were here, whatever the ring says;
//! what a box sees itself stays its own; garbage moves nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use nix::time::ClockId;
use weir_abi::{
    maps::{flow, nat as nat_flag},
    names,
};
use weir_core::{
    ids::{PoolName, Protocol},
    plan::{Forward, SourcePool},
    sync::{NotTaken, Refused, Settings},
    vrrp::auth::{Keys, MAC},
};
use weir_datapath::{
    Close, Datapath, Options, Wanted, WantedAction, WantedBackend, WantedForward, WantedService,
    WantedSources,
    explain::{Question, Rule},
    flows::{FlowFilter, FlowOrder, FlowStage},
    sync::driver::{Driver, Report, Setup},
};

use crate::{
    lab::{Lab, Space, VIP4, backend, bpffs, listen, nat, wait_for, wanted, wire},
    nat::vip,
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

/// A box: its tables, and a socket towards the other.
struct Node {
    lab: Lab,
    datapath: Datapath,
    address: SocketAddr,
    socket: UdpSocket,
    driver: Option<Driver>,
}

const ADDRESSES: [&str; 2] = ["10.9.0.1", "10.9.0.2"];

impl Node {
    fn pair() -> [Self; 2] {
        let labs = [Lab::new(), Lab::new()];
        wire(&labs[0].weir, "sync", &labs[1].weir, "sync");
        let mut n = 0;
        labs.map(|lab| {
            let address = ADDRESSES[n];
            n += 1;
            lab.weir.ip(&format!("addr add {address}/24 dev sync"));
            let options = Options {
                hash_key: Some([7, 8]),
                ..lab.options()
            };
            let datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
            let address = vip(address, 3720);
            let socket = lab.weir.run(|| UdpSocket::bind(address)).unwrap();
            Self {
                lab,
                datapath,
                address,
                socket,
                driver: None,
            }
        })
    }

    /// Begins to tell the other box, and to listen to it.
    fn start(&mut self, wish: &Wanted, peer: SocketAddr, seed: u64) {
        let setup = Setup {
            socket: self.socket.try_clone().unwrap(),
            peers: vec![peer],
            settings: Settings {
                key: 1,
                rate: 1_000,
                mark: 1,
            },
            keys: Box::new(Stand),
            seed,
            tables: self.datapath.sync_tables().unwrap(),
            view: self.datapath.sync_view(wish).unwrap(),
        };
        self.driver = Some(Driver::start(setup).unwrap());
    }

    fn report(&self) -> Report {
        self.driver.as_ref().unwrap().report()
    }

    fn flows(&self) -> Vec<weir_datapath::flows::Flow> {
        let view = self.datapath.flow_view().unwrap();
        view.list(&FlowFilter::default(), FlowOrder::Newest, 10_000)
            .unwrap()
            .flows
    }

    fn open<const K: usize, const V: usize>(&self, name: &str) -> HashMap<MapData, [u8; K], [u8; V]> {
        self.lab.weir.run(|| {
            let maps = bpffs().join(format!("weir/{:016x}/maps", weir_abi::ABI_HASH));
            let pinned = MapData::from_pin(maps.join(name)).unwrap();
            HashMap::try_from(Map::HashMap(pinned)).unwrap()
        })
    }

    /// Where the middle of a client's flow goes, and why.
    fn goes(&self, client: SocketAddr, port: u16) -> (Option<SocketAddr>, Option<Rule>) {
        let question = Question {
            src: client,
            dst: vip(VIP4, port),
            protocol: Protocol::Tcp,
            first: false,
        };
        let explained = self.datapath.explain(&question).unwrap().unwrap();
        (explained.backend.map(|key| key.address), explained.rule)
    }

    fn close(self) {
        drop(self.driver);
        let Self { lab, datapath, .. } = self;
        lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
    }
}

fn now() -> u32 {
    ClockId::CLOCK_MONOTONIC.now().unwrap().tv_sec() as u32
}

fn client(n: u16) -> SocketAddr {
    let [a, b] = n.to_be_bytes();
    SocketAddr::new([198, 51, a, b].into(), 40_000)
}

fn mapped(address: SocketAddr) -> [u8; 16] {
    let SocketAddr::V4(v4) = address else {
        panic!("IPv4")
    };
    v4.ip().to_ipv6_mapped().octets()
}

fn key(from: SocketAddr, to: SocketAddr) -> [u8; 40] {
    let mut key = [0; 40];
    key[..16].copy_from_slice(&mapped(from));
    key[16..32].copy_from_slice(&mapped(to));
    key[32..34].copy_from_slice(&from.port().to_be_bytes());
    key[34..36].copy_from_slice(&to.port().to_be_bytes());
    key[36..].copy_from_slice(&6_u32.to_ne_bytes());
    key
}

/// A value of `FLOWS`: `packets` seen, to this backend, recorded and seen at these seconds.
fn state(packets: u64, backend: u32, at: u32, service: u32) -> [u8; 32] {
    let mut state = [0; 32];
    state[..8].copy_from_slice(&packets.to_ne_bytes());
    for (place, word) in state[16..].chunks_exact_mut(4).zip([backend, at, at, service]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    state
}

fn word(value: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(value[at..at + 4].try_into().unwrap())
}

/// A service that only one of the boxes has, whose backend takes the first number there.
fn other() -> WantedService {
    nat(
        "a",
        &[listen(VIP4, 99, Protocol::Tcp)],
        &[backend(vip("10.0.0.10", 80))],
    )
}

#[test]
fn flows_that_the_ring_would_not_place_are_placed_by_the_other_box() {
    let [mut one, mut two] = Node::pair();
    let a = backend(vip("10.0.0.11", 80));
    let b = backend(vip("10.0.0.12", 80));
    let keys = [listen(VIP4, 80, Protocol::Tcp)];
    let www = |backends: &[WantedBackend]| nat("www", &keys, backends);
    let both = |backends: &[WantedBackend]| wanted([www(backends)]);
    one.datapath.reconcile(&both(std::slice::from_ref(&a))).unwrap();
    let wish = both(&[a.clone(), b.clone()]);
    one.datapath.reconcile(&wish).unwrap();
    // The other box has never seen another pool, and knows the backends by other numbers.
    let turned = wanted([www(&[a.clone(), b.clone()]), other()]);
    two.datapath.reconcile(&turned).unwrap();

    let mut flows = one.open::<40, 32>(names::FLOWS);
    const FLOWS: u16 = 60;
    for n in 0..FLOWS {
        flows
            .insert(key(client(n), vip(VIP4, 80)), state(5, 1, now(), 0), 0)
            .unwrap();
    }
    let placed = |box_: &Node| {
        (0..FLOWS)
            .filter(|n| box_.goes(client(*n), 80).0 == Some(a.key.address))
            .count()
    };
    assert_eq!(placed(&one), usize::from(FLOWS));
    let elsewhere: Vec<_> = (0..FLOWS)
        .filter(|n| two.goes(client(*n), 80).0 == Some(b.key.address))
        .collect();
    assert!(
        (5..55).contains(&elsewhere.len()),
        "by its ring alone: {elsewhere:?}"
    );

    one.start(&wish, two.address, 1);
    two.start(&turned, one.address, 2);
    wait_for("the other box holds the flows", || {
        (!two.report().is_unfinished() && !one.report().is_unfinished()).then_some(())
    });
    assert_eq!(placed(&two), usize::from(FLOWS));
    // What nobody was told of goes by the ring, on both boxes the same.
    for n in 1_000..1_010 {
        let (by_one, _) = one.goes(client(n), 81);
        assert_eq!(by_one, None, "there is no service");
        let fresh = |box_: &Node| {
            let question = Question {
                src: client(n),
                dst: vip(VIP4, 80),
                protocol: Protocol::Tcp,
                first: true,
            };
            box_.datapath.explain(&question).unwrap().unwrap().backend
        };
        assert_eq!(fresh(&one), fresh(&two));
        let (by_two, rule) = two.goes(client(n), 80);
        assert_eq!(by_two, fresh(&two).map(|key| key.address));
        assert!(matches!(rule, Some(Rule::Stable | Rule::Present)), "{rule:?}");
    }

    // A flow that begins is told within seconds, and so is one that ends; one that the other box sees itself is its own.
    let (own, ends) = (elsewhere[0], elsewhere[1]);
    let begins = (500..)
        .find(|n| two.goes(client(*n), 80).0 == Some(b.key.address))
        .unwrap();
    let mut others = two.open::<40, 32>(names::FLOWS);
    let of = |n| key(client(n), vip(VIP4, 80));
    others.insert(of(own), state(9, 1, now() + 1_000, 1), 0).unwrap();
    flows.insert(of(begins), state(1, 1, now(), 0), 0).unwrap();
    flows
        .insert(of(ends), state(6, 1, now(), flow::CLOSED), 0)
        .unwrap();
    flows.insert(of(own), state(6, 1, now(), 0), 0).unwrap();
    wait_for("what begins and ends is told", || {
        let state = |n| others.get(&of(n), 0).ok();
        let begun =
            state(begins).is_some_and(|state| word(&state, 16) == 2 && word(&state, 28) & flow::TOLD != 0);
        let ended = state(ends).is_some_and(|state| word(&state, 28) & flow::CLOSED != 0);
        let refused = two.report().not_taken.contains_key(&NotTaken::Own);
        (begun && ended && refused).then_some(())
    });
    let kept = others.get(&of(own), 0).unwrap();
    assert_eq!((word(&kept, 16), word(&kept, 0)), (1, 9), "it stays as it was");
    one.close();
    two.close();
}

/// A service by `full-nat` with these source addresses.
fn translated(backends: &[WantedBackend]) -> WantedService {
    let mut forward = WantedForward::new(Forward::FullNat, 1009, backends.to_vec());
    forward.sources = Some(WantedSources {
        pool: PoolName::new("pool"),
        ports: SourcePool {
            addresses: vec!["10.0.0.5".parse().unwrap()],
            first: 1024,
            last: 32_767,
        },
    });
    WantedService {
        action: WantedAction::Forward(forward),
        ..nat("mail", &[listen(VIP4, 25, Protocol::Tcp)], &[])
    }
}

/// A pair of entries of `full-nat`: what becomes of packets, and of replies.
fn pair(n: u16, port: u16, backend: u32, flags: u32) -> ([u8; 32], [u8; 40], [u8; 72]) {
    let source = vip("10.0.0.5", port);
    let mut flow = [0; 32];
    flow[..16].copy_from_slice(&mapped(source));
    flow[16..18].copy_from_slice(&port.to_be_bytes());
    flow[20..24].copy_from_slice(&backend.to_ne_bytes());
    flow[24..28].copy_from_slice(&now().to_ne_bytes());
    flow[28..].copy_from_slice(&now().to_ne_bytes());
    let mut reply = [0; 72];
    reply[16..32].copy_from_slice(&mapped(client(n)));
    reply[32..48].copy_from_slice(&mapped(vip(VIP4, 25)));
    reply[48..50].copy_from_slice(&25_u16.to_be_bytes());
    reply[50..52].copy_from_slice(&client(n).port().to_be_bytes());
    reply[56..60].copy_from_slice(&backend.to_ne_bytes());
    reply[60..64].copy_from_slice(&now().to_ne_bytes());
    reply[68..].copy_from_slice(&flags.to_ne_bytes());
    (flow, key(vip("10.0.0.11", 25), source), reply)
}

#[test]
fn translated_flows_take_their_ports_along() {
    let [mut one, mut two] = Node::pair();
    let a = backend(vip("10.0.0.11", 25));
    let b = backend(vip("10.0.0.12", 25));
    let both = || translated(&[a.clone(), b.clone()]);
    let (wish, turned) = (wanted([both()]), wanted([both(), other()]));
    one.datapath.reconcile(&wish).unwrap();
    two.datapath.reconcile(&turned).unwrap();
    let (mut flows, mut replies) = (
        one.open::<40, 32>(names::NAT_FLOWS),
        one.open::<40, 72>(names::NAT_REPLIES),
    );
    for n in 0..100 {
        let (flow, reply_key, reply) = pair(n, 2_000 + n, 1, nat_flag::ANSWERED);
        replies.insert(reply_key, reply, 0).unwrap();
        flows.insert(key(client(n), vip(VIP4, 25)), flow, 0).unwrap();
    }
    // The other box has given one of these ports to a flow of its own.
    let (their_flows, mut their_replies) = (
        two.open::<40, 32>(names::NAT_FLOWS),
        two.open::<40, 72>(names::NAT_REPLIES),
    );
    let (_, taken_key, mut taken) = pair(900, 2_050, 2, nat_flag::ANSWERED);
    taken[..8].copy_from_slice(&3_u64.to_ne_bytes());
    their_replies.insert(taken_key, taken, 0).unwrap();

    one.start(&wish, two.address, 1);
    two.start(&turned, one.address, 2);
    wait_for("the other box holds the flows", || {
        (!two.report().is_unfinished()).then_some(())
    });
    assert_eq!(two.flows().len(), 99);
    assert!(two.report().not_taken.contains_key(&NotTaken::Own));
    assert_eq!(their_replies.get(&taken_key, 0).unwrap(), taken);
    for n in (0..100).filter(|n| *n != 50) {
        let (goes, rule) = two.goes(client(n), 25);
        assert_eq!((goes, rule), (Some(a.key.address), Some(Rule::Translated)));
        let (_, reply_key, _) = pair(n, 2_000 + n, 2, 0);
        let reply = their_replies.get(&reply_key, 0).unwrap();
        let (backend, flags) = (word(&reply, 56), word(&reply, 68));
        assert_eq!(
            (backend, flags & 0xffff),
            (2, nat_flag::ANSWERED | nat_flag::TOLD)
        );
        assert!(their_flows.get(&key(client(n), vip(VIP4, 25)), 0).is_ok());
    }
    assert!(two.flows().iter().all(|flow| flow.stage == FlowStage::Open));
    let ports = two.datapath.sweeper().unwrap().unwrap().sweep().unwrap().ports;
    assert!(ports[0].ports.in_use > 0, "their ports are in use: {ports:?}");
    one.close();
    two.close();
}

/// A box that died and comes back has flows in its tables that have ended on the other one: they end there too, and stay ended
/// here.
#[test]
fn what_has_ended_meanwhile_ends_in_tables_of_old() {
    let [mut one, mut two] = Node::pair();
    let wish = wanted([translated(&[backend(vip("10.0.0.11", 25))])]);
    one.datapath.reconcile(&wish).unwrap();
    two.datapath.reconcile(&wish).unwrap();
    let put = |node: &Node, n: u16, [begun, silent]: [u32; 2], ended: bool| {
        let (mut flow, reply_key, mut reply) = pair(n, 2_000 + n, 1, nat_flag::ANSWERED);
        let seen = (now() - silent).to_ne_bytes();
        flow[24..28].copy_from_slice(&(now() - begun).to_ne_bytes());
        flow[28..].copy_from_slice(&seen);
        reply[60..64].copy_from_slice(&seen);
        if ended {
            reply[64..68].copy_from_slice(&seen);
        }
        node.open(names::NAT_REPLIES).insert(reply_key, reply, 0).unwrap();
        node.open(names::NAT_FLOWS)
            .insert(key(client(n), vip(VIP4, 25)), flow, 0)
            .unwrap();
    };
    // One ended here after the other box saw it last; another one went on there after it ended here, so it is a new one.
    put(&one, 1, [20, 20], false);
    put(&two, 1, [0, 5], true);
    put(&one, 2, [5, 5], false);
    put(&two, 2, [20, 20], true);
    one.start(&wish, two.address, 1);
    two.start(&wish, one.address, 2);
    let ended = |node: &Node| {
        let flows = node.flows();
        let of = |n| {
            flows
                .iter()
                .find(|flow| flow.client == client(n))
                .map(|flow| flow.stage)
        };
        [of(1), of(2)].map(|stage| stage == Some(FlowStage::Closed))
    };
    wait_for("both know the same", || {
        ([&one, &two].map(ended) == [[true, false]; 2]).then_some(())
    });
    // And then the client begins anew from the same port.
    put(&two, 1, [1, 1], false);
    wait_for("the new one is known", || {
        (ended(&one) == [false; 2]).then_some(())
    });
    one.close();
    two.close();
}

#[test]
fn garbage_is_counted_and_moves_nothing() {
    let [mut one, mut two] = Node::pair();
    let a = backend(vip("10.0.0.11", 80));
    let wish = wanted([nat(
        "www",
        &[listen(VIP4, 80, Protocol::Tcp)],
        std::slice::from_ref(&a),
    )]);
    one.datapath.reconcile(&wish).unwrap();
    two.datapath.reconcile(&wish).unwrap();
    one.start(&wish, two.address, 1);
    two.start(&wish, one.address, 2);
    wait_for("both know each other", || {
        (one.report().peers[0].there && two.report().peers[0].there).then_some(())
    });
    let taken = two.report().taken;
    let send = |space: &Space, from: &str, datagrams: &[Vec<u8>]| {
        space.run(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            for bytes in datagrams {
                socket.send_to(bytes, two.address).unwrap();
            }
        });
    };
    let mut forged = b"wrS1".to_vec();
    forged.extend([1, 2, 0, 0]);
    forged.extend([0x55; 24 + 28 + MAC]);
    let mut other_key = forged.clone();
    other_key[4] = 9;
    send(
        &one.lab.weir,
        ADDRESSES[0],
        &[vec![], vec![0; 1200], vec![0xff; 9000], forged, other_key],
    );
    one.lab.weir.ip("addr add 10.9.0.3/24 dev sync");
    send(&one.lab.weir, "10.9.0.3", &[vec![1; 100]]);
    let expected = [
        (Refused::Malformed, 3),
        (Refused::Signature, 1),
        (Refused::Key, 1),
        (Refused::Peer, 1),
    ];
    wait_for("everything is refused", || {
        let refused = two.report().refused;
        expected
            .iter()
            .all(|(why, times)| refused.get(why) == Some(times))
            .then_some(())
    });
    assert_eq!((two.report().taken, two.flows().len()), (taken, 0));
    std::thread::sleep(Duration::from_millis(10));
    assert!(two.report().peers[0].there);
    one.close();
    two.close();
}
