//! What each mode and feature puts into the maps.

use std::time::Duration;

use weir_core::plan::{FlowHash, OnBackendDown, QuicId, SourcePool};

use super::*;
use crate::WantedSources;

const VIP6: &str = "[2001:db8::1]:80/tcp";
const C6: &str = "web/[2001:db8:1::1]:80";

fn by(mode: Forward, keys: &[&str], backends: &[WantedBackend]) -> WantedService {
    service("www", keys, WantedForward::new(mode, 11, backends.to_vec()))
}

fn full_nat(name: &str, addresses: &[&str], ports: (u16, u16)) -> WantedService {
    let mut wish = service(
        name,
        &[],
        WantedForward::new(Forward::FullNat, 11, vec![up(A), up(C6)]),
    );
    forward(&mut wish).sources = Some(WantedSources {
        pool: PoolName::new("web"),
        ports: SourcePool {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            first: ports.0,
            last: ports.1,
        },
    });
    wish
}

fn on(keys: &[&str], mut service: WantedService) -> WantedService {
    service.keys = keys.iter().map(|text| listen(text)).collect();
    service
}

fn entry(maps: &Maps, key: &str) -> Service {
    maps.state.services[&listen(key)]
}

fn address(maps: &Maps, text: &str) -> u32 {
    let entry = maps.state.addresses[&text.parse::<IpAddr>().unwrap()];
    assert_eq!(entry.action, action::ADDRESS);
    entry.flags
}

#[test]
fn each_mode_has_its_action_and_only_nat_has_returns() {
    let modes = [
        (Forward::Nat, action::NAT),
        (Forward::Dsr, action::DSR),
        (Forward::Ipip, action::IPIP),
    ];
    // One service through all modes: the ring stays, and so does what it remembers.
    let mut maps = Maps::new();
    for (now, (mode, action)) in (100..).zip(modes) {
        maps.apply(&wanted(&[by(mode, &[VIP], &[up(A), up(B)])]), now);
        let service = entry(&maps, VIP);
        assert_eq!((service.action, service.generation), (action, 1));
        let returns = if mode == Forward::Nat { 2 } else { 0 };
        assert_eq!(maps.state.returns.len(), returns, "{mode:?}");
    }
}

#[test]
fn tunnels_end_at_backends_of_either_family() {
    let mut maps = Maps::new();
    let wish = wanted(&[by(Forward::Ipip, &[VIP, VIP6], &[up(A), up(C6)])]);
    maps.apply(&wish, 100);
    for key in [VIP, VIP6] {
        let found: BTreeSet<u16> = maps.ring(key).iter().map(|slot| slot.current).collect();
        assert_eq!(found, BTreeSet::from([maps.index(A), maps.index(C6)]));
    }
    maps.apply(&wanted(&[by(Forward::Dsr, &[VIP, VIP6], &[up(A), up(C6)])]), 200);
    assert!(maps.ring(VIP).iter().all(|slot| slot.current == maps.index(A)));
    assert!(maps.ring(VIP6).iter().all(|slot| slot.current == maps.index(C6)));
}

#[test]
fn flags_say_how_to_choose_and_what_to_do() {
    let mut wish = by(Forward::Nat, &[VIP, VIP6], &[up(A), up(C6)]);
    let mut maps = Maps::new();
    maps.apply(&wanted(std::slice::from_ref(&wish)), 100);
    assert_eq!(entry(&maps, VIP).flags, 0);

    let changed = forward(&mut wish);
    changed.hash = FlowHash::Source {
        prefix_v4: 24,
        prefix_v6: 48,
    };
    changed.on_backend_down = OnBackendDown::Reset;
    changed.mss = Some(1400);
    let ops = maps.apply(&wanted(&[wish.clone()]), 200);
    assert_eq!(kinds(&ops), ["return", "service"], "the ring is the same");
    let flags = flags::HASH_MASKED | flags::RESET | 1400 << flags::MSS_SHIFT;
    assert_eq!(
        (entry(&maps, VIP).flags, entry(&maps, VIP6).flags),
        (flags, flags)
    );
    let octets = |key| entry(&maps, key).hash_mask.map(u32::to_ne_bytes).concat();
    assert_eq!(octets(VIP), [vec![0xff; 15], vec![0]].concat());
    assert_eq!(octets(VIP6), [vec![0xff; 6], vec![0; 10]].concat());

    forward(&mut wish).hash = FlowHash::Quic { len: 8 };
    maps.apply(&wanted(&[wish]), 300);
    let found = entry(&maps, VIP);
    assert_eq!(found.hash_mask, [0; 4]);
    assert_eq!(
        found.flags & 0xf << flags::QUIC_LEN_SHIFT,
        8 << flags::QUIC_LEN_SHIFT
    );
    assert!(found.flags & flags::HASH_QUIC != 0 && found.flags & flags::HASH_MASKED == 0);
}

#[test]
fn limits_are_there_before_the_service_asks_and_go_after() {
    let mut maps = Maps::new();
    for wish in [relay("www", &[VIP], true), by(Forward::Dsr, &[VIP], &[up(A)])] {
        let mut limited = wish.clone();
        limited.per_source = PerSource {
            rate: Some(5),
            connections: Some(7),
            ban: Some(Duration::from_secs(60)),
            ..PerSource::default()
        };
        maps.apply(&wanted(std::slice::from_ref(&wish)), 100);
        let ops = maps.apply(&wanted(&[limited]), 200);
        assert_eq!(kinds(&ops), ["limits", "service"]);
        assert_eq!(entry(&maps, VIP).flags, flags::LIMITED);
        let bounds = maps.state.limits[&0];
        assert_eq!((bounds.rate, bounds.open, bounds.ban), (5, 7, 60));
        assert_eq!((bounds.mask_v4, bounds.prefixes), (u32::MAX, 32 | 64 << 16));
        let ops = maps.apply(&wanted(&[wish]), 300);
        assert_eq!(kinds(&ops), ["service", "clear limits"]);
    }
}

#[test]
fn an_address_is_up_while_a_service_on_it_can_serve() {
    let (web, other) = ("192.0.2.1:443/tcp", "192.0.2.2:80/tcp");
    let mut maps = Maps::new();
    let mut check = |services: &[WantedService], expected: [u32; 2]| {
        maps.apply(&wanted(services), 100);
        let found = ["192.0.2.1", "192.0.2.2"].map(|text| address(&maps, text));
        assert_eq!(found, expected, "{services:?}");
    };
    check(
        &[nat("www", &[VIP, other], &[up(A)]), relay("web", &[web], false)],
        [flags::UP, flags::UP],
    );
    check(
        &[nat("www", &[VIP, other], &[dead(A)]), relay("web", &[web], true)],
        [flags::UP, 0],
    );
    check(
        &[
            nat("www", &[VIP, other], &[draining(A)]),
            relay("web", &[web], false),
        ],
        [0, 0],
    );
    // Of the other family alone: this one cannot be served.
    maps.apply(&wanted(&[nat("www", &[VIP, VIP6], &[up(C6)])]), 200);
    assert_eq!(address(&maps, "192.0.2.1"), 0);
    assert_eq!(address(&maps, "2001:db8::1"), flags::UP);
    let key = address_key("2001:db8::1".parse().unwrap());
    assert_eq!(key.port_proto, 58 << 16);
    maps.apply(&wanted(&[]), 300);
    assert!(maps.state.addresses.is_empty() && maps.state.filter.is_empty());
}

#[test]
fn every_port_returns_by_the_port_it_came_from() {
    let all = "192.0.2.1:0/tcp";
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("all", &[all], &[up("web/10.0.0.1:0")])]), 100);
    let target = maps.state.returns[&listen("10.0.0.1:0/tcp")];
    assert_eq!((target.port, target.flags), (0, 0));
    assert_eq!(maps.state.returns.len(), 1);

    // A port of its own beside it, by the same backend: nothing else goes there by way of the other.
    let own = nat("own", &[VIP], &[up("own/10.0.0.1:80")]);
    let every = nat("all", &[all], &[up("web/10.0.0.1:0")]);
    maps.apply(&wanted(&[every.clone(), own]), 200);
    assert_eq!(maps.state.returns[&listen("10.0.0.1:80/tcp")].flags, 0);

    // Of another address it does: replies from that port may belong to either.
    let own = nat("own", &["192.0.2.2:80/tcp"], &[up("own/10.0.0.1:80")]);
    maps.apply(&wanted(&[every, own]), 300);
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:80/tcp")].flags,
        returns::SHARED
    );
    assert_eq!(maps.state.returns[&listen("10.0.0.1:0/tcp")].flags, 0);
    assert!(
        maps.state
            .backends
            .values()
            .all(|b| b.flags & backend::SHARED != 0),
        "flows of both are remembered"
    );

    // Every port to one: which it was, the reply does not say.
    maps.apply(&wanted(&[nat("all", &[all], &[up(A)])]), 400);
    assert_eq!(
        maps.state.returns[&listen("10.0.0.1:80/tcp")].flags,
        returns::SHARED
    );
}

#[test]
fn sources_are_cut_by_cpu_shared_and_found_again() {
    let keys = [VIP, VIP6];
    let wish = on(
        &keys,
        full_nat("www", &["10.9.0.1", "10.9.0.2", "2001:db8:9::1"], (1024, 1034)),
    );
    let mut maps = Maps::new();
    let ops = maps.apply(&wanted(std::slice::from_ref(&wish)), 100);
    assert_eq!(kinds(&ops), ["filter", "backend", "source", "ring", "service"]);
    assert!(maps.state.returns.is_empty());
    let v4 = entry(&maps, VIP);
    assert_eq!((v4.action, v4.source_count), (action::FULL_NAT, 2));
    let at = |n: u32| maps.state.sources[&(v4.sources + n)];
    let block = |text: &str, first, count| NatSource {
        addr: text.parse::<IpAddr>().unwrap().into(),
        first,
        count,
    };
    assert_eq!(at(0), block("10.9.0.1", 1024, 6));
    assert_eq!(at(1), block("10.9.0.2", 1024, 6));
    assert_eq!(at(2), block("10.9.0.1", 1030, 5));
    assert_eq!(at(3), block("10.9.0.2", 1030, 5));
    assert_eq!(entry(&maps, VIP6).source_count, 1);

    // Another service of the pool has the same.
    let two = on(
        &["192.0.2.2:80/tcp"],
        WantedService {
            name: ServiceName::new("two"),
            ..wish.clone()
        },
    );
    let ops = maps.apply(&wanted(&[wish.clone(), two]), 200);
    assert!(!kinds(&ops).contains(&"source"), "{ops:?}");
    assert_eq!(entry(&maps, "192.0.2.2:80/tcp").sources, v4.sources);

    // Other ports are written beside those in use; then there is room again.
    for now in 300..310 {
        let other = on(
            &[VIP],
            full_nat("www", &["10.9.0.1", "10.9.0.2"], (2000, 3000 + now as u16)),
        );
        let before = entry(&maps, VIP).sources;
        maps.apply(&wanted(&[other]), now);
        assert_ne!(entry(&maps, VIP).sources, before);
    }
    let ops = maps.apply(&wanted(&[]), 400);
    assert_eq!(kinds(&ops).last(), Some(&"clear filter"));
    assert!(maps.state.sources.is_empty() && maps.state.filter.is_empty());
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let maps = Maps::new();
    let refused = |service| maps.plan(&wanted(&[service]), 100).unwrap_err().to_string();
    let text = refused(on(&[VIP6], full_nat("www", &["10.9.0.1"], (1024, 2048))));
    assert!(
        text.contains("service www: no IPv6 address") && text.contains("source.addresses"),
        "{text}"
    );
    let text = refused(on(&[VIP], full_nat("www", &["10.9.0.1"], (1024, 1024))));
    assert!(
        text.contains("pool web: source ports 1024 to 1024 are fewer than the 2 CPUs"),
        "{text}"
    );
    let many: Vec<_> = (1..=9).map(|n| format!("10.9.0.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let text = refused(on(&[VIP], full_nat("www", &many, (1024, 2048))));
    assert!(text.contains("18 needed, room for 16"), "{text}");
}

#[test]
fn quic_ids_lead_to_backends_and_go_with_them() {
    let named = |text: &str, value| WantedBackend {
        quic_id: Some(QuicId { value, len: 4 }),
        ..up(text)
    };
    let quic = |backends: &[WantedBackend]| {
        let mut wish = by(Forward::Nat, &["192.0.2.1:443/udp"], backends);
        forward(&mut wish).hash = FlowHash::Quic { len: 4 };
        wanted(&[wish])
    };
    let mut maps = Maps::new();
    let ops = maps.apply(&quic(&[named(A, 7), named(B, 8)]), 100);
    assert_eq!(
        kinds(&ops),
        ["filter", "backend", "return", "quic", "ring", "service"]
    );
    let name = |id| QuicName {
        service: 0,
        len: 4,
        id,
    };
    assert_eq!(maps.state.quic_ids[&name(7)], u32::from(maps.index(A)));
    let ops = maps.apply(&quic(&[named(A, 8)]), 200);
    assert_eq!(
        kinds(&ops),
        [
            "quic",
            "ring",
            "service",
            "delete return",
            "delete quic",
            "clear backend",
            "clear filter"
        ]
    );
    assert_eq!(maps.state.quic_ids[&name(8)], u32::from(maps.index(A)));

    let text = maps
        .plan(&quic(&[named(A, 1), named(B, 1)]), 300)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("service www: two of its backends have the same quic_id"),
        "{text}"
    );
    let five: Vec<_> = (1..=5).map(|n| named(&format!("web/10.0.0.{n}:80"), n)).collect();
    let text = maps.plan(&quic(&five), 300).unwrap_err().to_string();
    assert!(
        text.contains("QUIC server ids do not fit: 5 needed, room for 4"),
        "{text}"
    );
}
