//! The sizes that weir is made for, all at once: a million flows, 4 096 backends, 512 services, 100 000 bans.
//!
//! Asserts that it fits, and that a change of one pool of a thousand backends leaves every other service as it is. What it
//! takes (memory per entry, time of the change) is not judged here: a busy machine is no failure. It is written to the
//! file that `WEIR_SCALE_FIGURES` names, which is how `cargo xtask bench l4` gets it.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Instant,
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use serde_json::json;
use weir_abi::names;
use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, Protocol, Scope, ServiceName},
    plan::{Forward, PerSource},
};
use weir_datapath::{
    Capacities, Close, Datapath, Options, Wanted, WantedAction, WantedBackend, WantedForward, WantedService,
};

use crate::lab::{Lab, bpffs};

const FLOWS: u32 = 1_000_000;
const BACKENDS: u32 = 4_096;
const SERVICES: u32 = 512;
const BANS: u32 = 100_000;
/// Backends of the pool that changes. The other services share the rest.
const BIG: u32 = 1_000;
/// Slots of its ring: the default.
const BIG_RING: u32 = 65_537;
/// Slots of the others' rings.
const SMALL_RING: u32 = 1_009;
/// Changes that are timed.
const CHANGES: usize = 11;

/// A service's entry and key as they lie in `SERVICES`, in words.
type Services = BTreeMap<[u32; 5], [u32; 12]>;

fn options(lab: &Lab) -> Options {
    Options {
        capacities: Capacities {
            service_keys: 2 * SERVICES,
            services: SERVICES + 1,
            backends: 2 * BACKENDS,
            // A change is written beside, and the room of the last one is kept for a while.
            ring_slots: 4 * BIG_RING + SERVICES * SMALL_RING,
            flows: FLOWS,
            returns: 2 * BACKENDS,
            ..Capacities::default()
        },
        ..lab.options()
    }
}

/// The backend N, out of 10.64.0.0/10.
fn backend(pool: &str, n: u32) -> WantedBackend {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + n);
    WantedBackend {
        key: BackendKey {
            pool: PoolName::new(pool),
            address: SocketAddr::new(address.into(), 8080),
        },
        weight: 10,
        alive: true,
        quic_id: None,
    }
}

/// Service N at 192.0.2.N / 256, port 1000 and on.
fn service(n: u32, ring_size: u32, backends: Vec<WantedBackend>) -> WantedService {
    WantedService {
        name: ServiceName::new(format!("s{n}")),
        keys: vec![ListenKey {
            addr: IpAddr::from([192, 0, 2, (n % 200) as u8 + 1]),
            port: 1000 + n as u16,
            protocol: Protocol::Tcp,
            scope: Scope::Address,
            interface: None,
        }],
        action: WantedAction::Forward(WantedForward::new(Forward::Nat, ring_size, backends)),
        per_source: PerSource::default(),
    }
}

fn wanted() -> Wanted {
    let big = service(0, BIG_RING, (0..BIG).map(|n| backend("big", n)).collect());
    let others = (1..SERVICES).map(|n| {
        // Dealt out in turn.
        let own = (BIG..BACKENDS).filter(|b| b % (SERVICES - 1) == n - 1);
        service(n, SMALL_RING, own.map(|b| backend(&format!("p{n}"), b)).collect())
    });
    Wanted {
        services: std::iter::once(big).chain(others).collect(),
    }
}

/// The same with one backend of the big pool out or in.
fn turn(wanted: &mut Wanted, n: usize) {
    let Some(WantedService {
        action: WantedAction::Forward(forward),
        ..
    }) = wanted.services.first_mut()
    else {
        panic!("the first service forwards");
    };
    let backend = &mut forward.backends[n / 2 * 7];
    backend.alive = !backend.alive;
    backend.weight = if backend.alive { 10 } else { 0 };
}

fn pinned(name: &str) -> Map {
    let path: PathBuf = bpffs()
        .join("weir")
        .join(format!("{:016x}", weir_abi::ABI_HASH))
        .join("maps")
        .join(name);
    let data = MapData::from_pin(path).unwrap();
    match name {
        names::RINGS => Map::Array(data),
        names::LISTS => Map::LpmTrie(data),
        _ => Map::HashMap(data),
    }
}

fn services() -> Services {
    let map: HashMap<_, [u32; 5], [u32; 12]> = pinned(names::SERVICES).try_into().unwrap();
    map.iter().map(Result::unwrap).collect()
}

/// The slots of a service's ring, offset and length being words 2 and 3 of its entry.
fn ring(rings: &Array<MapData, u64>, service: &[u32; 12]) -> Vec<u64> {
    (service[2]..service[2] + service[3])
        .map(|index| rings.get(&index, 0).unwrap())
        .collect()
}

fn fill_flows() {
    let mut flows: HashMap<_, [u32; 10], [u64; 4]> = pinned(names::FLOWS).try_into().unwrap();
    for n in 0..FLOWS {
        let mut key = [0; 10];
        key[2] = 0xffff_0000;
        key[3] = n;
        key[8] = n;
        key[9] = 6;
        flows.insert(key, [0; 4], 0).unwrap();
    }
}

fn fill_lists() {
    let mut lists: LpmTrie<_, [u32; 4], u64> = pinned(names::LISTS).try_into().unwrap();
    for n in 0..BANS {
        let host = u32::from(Ipv4Addr::new(100, 64, 0, 0)) + n;
        lists
            .insert(&Key::new(128, [0, 0, 0xffff_0000, host.to_be()]), 0, 0)
            .unwrap();
    }
}

#[test]
fn a_million_flows_and_four_thousand_backends() {
    let lab = Lab::new();
    let figures = lab.weir.run(|| {
        let mut datapath = Datapath::open(options(&lab)).unwrap();
        let mut wanted = wanted();
        let begin = Instant::now();
        datapath.reconcile(&wanted).unwrap();
        let first = begin.elapsed();
        fill_flows();
        fill_lists();

        let forwarding = |services: &Services| services.values().filter(|entry| entry[3] > 0).count();
        let before = services();
        assert_eq!(forwarding(&before), SERVICES as usize);
        let rings: Array<_, u64> = pinned(names::RINGS).try_into().unwrap();
        let big = |entry: &&[u32; 12]| entry[3] == BIG_RING;
        let others: Vec<Vec<u64>> = before
            .values()
            .filter(|entry| !big(entry))
            .map(|entry| ring(&rings, entry))
            .collect();

        let mut times = Vec::new();
        for n in 0..CHANGES {
            turn(&mut wanted, n);
            let begin = Instant::now();
            datapath.reconcile(&wanted).unwrap();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }

        let after = services();
        for ((key, old), (new_key, new)) in before.iter().zip(&after) {
            assert_eq!(key, new_key);
            // The ring that changed lies elsewhere now; no other service's entry was touched.
            assert_eq!(old != new, big(&old), "{key:x?}");
        }
        let untouched: Vec<Vec<u64>> = after
            .values()
            .filter(|entry| !big(entry))
            .map(|entry| ring(&rings, entry))
            .collect();
        assert!(others == untouched, "rings of other services were changed");
        let (Some(old), Some(new)) = (before.values().find(big), after.values().find(big)) else {
            panic!("the big service is there");
        };
        assert_ne!(old[2], new[2], "written beside the old one");

        // A table that is full keeps what it has and takes no more.
        let mut flows: HashMap<_, [u32; 10], [u64; 4]> = pinned(names::FLOWS).try_into().unwrap();
        assert!(flows.insert([7; 10], [0; 4], 0).is_err());

        times.sort_by(f64::total_cmp);
        let tables = datapath.tables();
        let memory: Vec<_> = tables
            .iter()
            // Rings of bytes have no entries.
            .filter(|table| ![names::CAPTURED, names::EVENTS].contains(&table.name))
            .filter_map(|table| Some((table.name, table.capacity, table.bytes?)))
            // What is allocated as needed holds what was put in; all else was allocated with the map.
            .map(|(name, capacity, bytes)| match name {
                names::LISTS => (name, BANS.into(), bytes),
                _ => (name, capacity, bytes),
            })
            .map(|(name, entries, bytes)| json!({ "name": name, "entries": entries, "bytes": bytes }))
            .collect();
        let figures = json!({
            "flows": FLOWS, "backends": BACKENDS, "services": SERVICES, "bans": BANS, "pool": BIG,
            "ring_slots": BIG_RING, "first_ms": first.as_secs_f64() * 1e3,
            "update_ms": { "min": times[0], "median": times[CHANGES / 2], "max": times[CHANGES - 1] },
            "maps": memory,
        });
        datapath.close(Close::Remove).unwrap();
        figures
    });
    if let Some(file) = env::var_os("WEIR_SCALE_FIGURES") {
        fs::write(file, format!("{figures:#}\n")).unwrap();
    }
}
