//! Sweeps of the real tables: what has ended goes, a full table loses its oldest, the rest stays; and the look into them.

use aya::maps::{HashMap, Map, MapData};
use nix::time::ClockId;
use weir_abi::{maps::flow, names};
use weir_core::{
    ids::{PoolName, Protocol},
    plan::{Forward, IpNet, SourcePool},
};
use weir_datapath::{
    Close, Datapath, WantedAction, WantedForward, WantedService, WantedSources,
    flows::{FlowFilter, FlowOrder, FlowStage},
};

use crate::{
    lab::{Lab, backend, bpffs, listen, nat, wanted},
    nat::vip,
};

type Flows = HashMap<MapData, [u8; 40], [u8; 32]>;

/// The key of a flow of client `n` to 192.0.2.10:80.
fn key(n: u32) -> [u8; 40] {
    let mut key = [0; 40];
    key[10..12].fill(0xff);
    key[12..14].copy_from_slice(&[198, 51]);
    key[14..16].copy_from_slice(&(n as u16).to_be_bytes());
    key[26..28].fill(0xff);
    key[28..32].copy_from_slice(&[192, 0, 2, 10]);
    key[32..36].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    key[36..40].copy_from_slice(&6_u32.to_ne_bytes());
    key
}

/// A flow to backend 1, recorded and last seen in the second `at`.
fn state(service: u32, at: u32) -> [u8; 32] {
    let mut state = [0; 32];
    for (place, word) in state[16..].chunks_exact_mut(4).zip([1, at, at, service]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    state
}

#[test]
fn what_has_ended_goes_and_a_full_table_loses_its_oldest() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let key_80 = listen("192.0.2.10", 80, Protocol::Tcp);
    let one = backend(vip("10.0.0.11", 80));
    let wish = wanted([nat("www", &[key_80], std::slice::from_ref(&one))]);
    datapath.reconcile(&wish).unwrap();

    lab.weir.run(|| {
        let maps = bpffs().join(format!("weir/{:016x}/maps", weir_abi::ABI_HASH));
        let pinned = MapData::from_pin(maps.join(names::FLOWS)).unwrap();
        let mut flows = Flows::try_from(Map::HashMap(pinned)).unwrap();
        // Of 1024: 20 that have ended long ago, 30 of a service that is gone, 900 that are open.
        for n in 0..950 {
            let service = match n {
                0..20 => flow::CLOSED,
                20..50 => 7,
                _ => 0,
            };
            // In seconds of 20 flows, the first of those that stay the first of its second; the last one is the newest.
            let at = if n == 949 { 60 } else { (n + 18) / 20 + 1 };
            flows.insert(key(n), state(service, at), 0).unwrap();
        }
    });

    let view = datapath.flow_view().unwrap();
    let listed = view.list(&FlowFilter::default(), FlowOrder::Newest, 3).unwrap();
    assert_eq!((listed.total, listed.matched, listed.flows.len()), (950, 950, 3));
    let newest = &listed.flows[0];
    assert_eq!(newest.client, "198.51.3.181:40000".parse().unwrap());
    assert_eq!(newest.vip, vip("192.0.2.10", 80));
    assert_eq!(newest.service.as_ref().unwrap().as_str(), "www");
    assert_eq!(newest.backend.as_ref(), Some(&one.key));
    let ended = FlowFilter {
        closed: true,
        source: IpNet::new("198.51.0.0".parse().unwrap(), 28),
        ..FlowFilter::default()
    };
    let listed = view.list(&ended, FlowOrder::Bytes, 100).unwrap();
    assert_eq!((listed.total, listed.matched), (950, 16));
    assert!(listed.flows.iter().all(|flow| flow.stage == FlowStage::Closed));

    let swept = datapath.sweeper().unwrap().unwrap().sweep().unwrap();
    let table = swept
        .tables
        .iter()
        .find(|table| table.name == names::FLOWS)
        .unwrap();
    assert_eq!(
        (table.capacity, table.ended, table.evicted, table.entries),
        (1024, 50, 132, 768)
    );
    // The oldest have gone, and nothing but them.
    let left = view
        .list(&FlowFilter::default(), FlowOrder::Newest, 1000)
        .unwrap();
    assert_eq!(left.total, 768);
    let oldest = left.flows.iter().map(|flow| flow.client).min();
    assert_eq!(oldest, "198.51.0.182:40000".parse().ok());

    // There is nothing left to do.
    let swept = datapath.sweeper().unwrap().unwrap().sweep().unwrap();
    assert!(
        swept.tables.iter().all(|table| table.ended + table.evicted == 0),
        "{swept:?}"
    );

    // A service that goes takes its flows along.
    datapath.reconcile(&wanted([])).unwrap();
    let swept = datapath.sweeper().unwrap().unwrap().sweep().unwrap();
    assert_eq!(swept.tables[0].ended, 768);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_sweep_leaves_alone_what_came_since_it_began() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let one = backend(vip("10.0.0.11", 80));
    let two = backend(vip("10.0.0.12", 80));
    let www = nat(
        "www",
        &[listen("192.0.2.10", 80, Protocol::Tcp)],
        std::slice::from_ref(&one),
    );
    datapath.reconcile(&wanted([www])).unwrap();
    let sweeper = datapath.sweeper().unwrap().unwrap();

    // A second backend and a second service come, and get flows, before the sweep that knows neither has read the table.
    let www = nat(
        "www",
        &[listen("192.0.2.10", 80, Protocol::Tcp)],
        &[one, two.clone()],
    );
    let mail = nat("mail", &[listen("192.0.2.10", 25, Protocol::Tcp)], &[two]);
    datapath.reconcile(&wanted([www, mail])).unwrap();
    let now = ClockId::CLOCK_MONOTONIC.now().unwrap().tv_sec() as u32;
    lab.weir.run(|| {
        let maps = bpffs().join(format!("weir/{:016x}/maps", weir_abi::ABI_HASH));
        let pinned = MapData::from_pin(maps.join(names::FLOWS)).unwrap();
        let mut flows = Flows::try_from(Map::HashMap(pinned)).unwrap();
        let mut of_two = state(0, now);
        of_two[16..20].copy_from_slice(&2_u32.to_ne_bytes());
        flows.insert(key(1), of_two, 0).unwrap();
        flows.insert(key(2), state(1, now), 0).unwrap();
    });
    let swept = sweeper.sweep().unwrap();
    assert_eq!((swept.tables[0].ended, swept.tables[0].entries), (0, 2));
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn ports_of_a_source_that_was_taken_away_are_not_counted() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let www = |addresses: &[&str]| {
        let mut forward = WantedForward::new(Forward::FullNat, 1009, vec![backend(vip("10.0.0.11", 80))]);
        forward.sources = Some(WantedSources {
            pool: PoolName::new("web"),
            ports: SourcePool {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                first: 1024,
                last: 32_767,
            },
        });
        wanted([WantedService {
            action: WantedAction::Forward(forward),
            ..nat("www", &[listen("192.0.2.10", 80, Protocol::Tcp)], &[])
        }])
    };
    for addresses in [&["10.0.0.5", "10.0.0.6"][..], &["10.0.0.6"]] {
        datapath.reconcile(&www(addresses)).unwrap();
        let swept = datapath.sweeper().unwrap().unwrap().sweep().unwrap();
        let sources: Vec<_> = swept.ports.iter().map(|ports| ports.source.to_string()).collect();
        assert_eq!(sources, addresses);
        assert!(swept.ports.iter().all(|ports| ports.ports.free > 0), "{swept:?}");
    }
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
