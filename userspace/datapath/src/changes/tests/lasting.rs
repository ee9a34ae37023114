//! What is known from one plan to the next: numbers, the places of rings, what a successor finds; and what can not be.

use super::*;

#[test]
fn numbers_outlive_a_backend_and_are_reused_only_after_the_horizon() {
    let mut maps = Maps::new();
    let seven: Vec<_> = (1..=7).map(|n| up(&format!("web/10.0.0.{n}:80"))).collect();
    maps.apply(&wanted(&[nat("www", &[VIP], &seven)]), 100);
    let last = maps.index("web/10.0.0.7:80");
    maps.apply(&wanted(&[nat("www", &[VIP], &seven[..6])]), 110);
    // Back within the horizon: the old number, and nothing is forgotten.
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &seven)]), 120);
    assert_eq!(maps.index("web/10.0.0.7:80"), last);
    assert_eq!(kinds(&ops), ["filter", "backend", "return", "ring", "service"]);

    maps.apply(&wanted(&[nat("www", &[VIP], &seven[..6])]), 130);
    let mut another = seven[..6].to_vec();
    another.push(up("web/10.0.0.8:80"));
    let error = maps
        .plan(&wanted(&[nat("www", &[VIP], &another)]), 190)
        .unwrap_err();
    assert!(matches!(error, Error::Full { what: "backends", .. }), "{error}");
    assert!(
        error.to_string().contains("free again after the flow horizon"),
        "{error}"
    );
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &another)]), 191);
    assert_eq!(maps.index("web/10.0.0.8:80"), last);
    assert_eq!(ops[0], Op::ResetBackend(last.into()));
    assert_eq!(ops[1], Op::ForgetFlows(BTreeSet::from([last.into()])));
}

#[test]
fn rings_move_only_when_they_change_and_space_is_found_again() {
    let mut maps = Maps::new();
    // Rings of 11 in 100 slots: every change writes beside the ring in use and beside the one before it.
    for round in 0..50 {
        let weight = round % 3 + 1;
        let mut backends = vec![up(A), up(B)];
        backends[0].weight = weight;
        maps.apply(
            &wanted(&[
                nat("www", &[VIP], &backends),
                nat("two", &["192.0.2.2:80/tcp"], &[up(B)]),
            ]),
            round,
        );
    }
    assert_eq!(maps.state.services[&listen("192.0.2.2:80/tcp")].generation, 1);
    let areas = areas(&maps.state);
    assert_eq!(areas.len(), 2);
}

#[test]
fn old_changes_settle_in_place() {
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(B)])]), 100);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 200);
    assert_eq!(maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 260), []);
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 261);
    assert_eq!(kinds(&ops), ["settle"]);
    assert!(maps.ring(VIP).iter().all(|slot| slot.changed == 0));

    // Changes of two times settle one after the other.
    let c = "web/10.0.0.3:80";
    let both = wanted(&[nat("www", &[VIP], &[up(A), up(B), up(c)])]);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(c)])]), 300);
    maps.apply(&both, 320);
    let changed = |maps: &Maps| -> BTreeSet<u32> { maps.ring(VIP).iter().map(|slot| slot.changed).collect() };
    assert_eq!(changed(&maps), BTreeSet::from([0, 300, 320]));
    // A successor knows no more than the maps say.
    maps.state.filled.clear();
    maps.state.unsettled.clear();
    assert_eq!(maps.apply(&both, 350), []);
    assert_eq!(kinds(&maps.apply(&both, 361)), ["settle"]);
    assert_eq!(changed(&maps), BTreeSet::from([0, 320]));
    assert_eq!(maps.apply(&both, 380), []);
    assert_eq!(kinds(&maps.apply(&both, 381)), ["settle"]);
    assert_eq!(changed(&maps), BTreeSet::from([0]));
}

#[test]
fn a_successor_writes_nothing_that_is_there_already() {
    let mut maps = Maps::new();
    let all = wanted(&[nat("www", &[VIP], &[up(A), up(B)])]);
    maps.apply(&all, 100);
    // What a new process reads from the maps: everything but what rings were filled from.
    maps.state.filled.clear();
    maps.state.leaving.clear();
    assert_eq!(maps.apply(&all, 200), []);
    maps.state.filled.clear();
    let ops = maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 300);
    assert_eq!(
        kinds(&ops),
        [
            "ring",
            "service",
            "delete return",
            "clear backend",
            "clear filter"
        ]
    );
    assert!(
        maps.ring(VIP).iter().any(|slot| slot.changed == 300),
        "flows are still told old from new"
    );
}

#[test]
fn what_cannot_be_is_refused_as_a_whole() {
    let maps = Maps::new();
    let service = |name: &str, vip: &str, size: u32| {
        let mut service = nat(name, &[vip], &[up(A)]);
        forward(&mut service).ring_size = size;
        service
    };
    let cases = [
        (
            vec![service("www", VIP, 11), service("www", "192.0.2.2:80/tcp", 11)],
            "service www is given twice",
        ),
        (
            vec![service("www", VIP, 11), service("two", VIP, 11)],
            "192.0.2.1:80/tcp is given twice",
        ),
        (
            vec![service("www", VIP, 12)],
            "service www: a ring of 12 slots cannot be built",
        ),
        (
            vec![service("www", VIP, 101)],
            "ring slots do not fit: 101 needed, room for 100; take a smaller ring_size",
        ),
        (
            (0..11)
                .map(|n| service(&format!("s{n}"), &format!("192.0.2.{n}:80/tcp"), 3))
                .collect(),
            "services do not fit: 11 needed, room for 10",
        ),
    ];
    for (services, text) in cases {
        let error = maps.plan(&wanted(&services), 100).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let ports: Vec<_> = (1..=101).map(|port| format!("192.0.2.1:{port}/tcp")).collect();
    let ports: Vec<_> = ports.iter().map(String::as_str).collect();
    let error = maps
        .plan(&wanted(&[nat("www", &ports, &[up(A)])]), 100)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("listen addresses do not fit: 102 needed, room for 100"),
        "{error}"
    );
}

#[test]
fn a_young_ring_has_no_older_flows() {
    let b = "web/10.0.0.2:80";
    let mut maps = Maps::new();
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 100);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(b)])]), 101);
    let moved = |maps: &Maps| {
        maps.ring(VIP)
            .into_iter()
            .filter(|s| s.current == maps.index(b))
            .collect::<Vec<_>>()
    };
    assert!(!moved(&maps).is_empty());
    assert!(
        moved(&maps)
            .iter()
            .all(|slot| slot.previous == 0 && slot.changed == 101),
        "changed, but from nobody"
    );

    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 150);
    maps.apply(&wanted(&[nat("www", &[VIP], &[up(A), up(b)])]), 151);
    assert!(
        moved(&maps)
            .iter()
            .all(|slot| slot.previous == maps.index(A) && slot.changed == 151),
        "not young any more"
    );

    // What was taken over may be of any age.
    let mut successor = Maps {
        state: maps.state.clone(),
        slots: maps.slots.clone(),
        ..Maps::new()
    };
    successor.state.began.clear();
    successor.apply(&wanted(&[nat("www", &[VIP], &[up(A)])]), 152);
    assert!(
        successor
            .ring(VIP)
            .iter()
            .any(|slot| slot.previous == maps.index(b))
    );
}
