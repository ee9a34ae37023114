//! Wishes at random: what a packet meets while they are carried out, and that a successor finds all as it was.

use super::*;

/// A wish for one service: which of its addresses, and of each backend its weight and whether it is alive.
type Wish = Option<(Vec<bool>, Vec<Option<(u32, bool)>>)>;

const BACKENDS: [&str; 7] = [
    A,
    B,
    "web/10.0.0.3:0",
    "two/10.0.0.1:80",
    "two/10.0.0.4:53",
    "web/[2001:db8::1]:80",
    "two/[2001:db8::2]:0",
];

fn wishes() -> impl Strategy<Value = Vec<(u32, Vec<Wish>)>> {
    let backend = proptest::option::of((0_u32..3, any::<bool>()));
    let service = proptest::option::of((vec(any::<bool>(), 3), vec(backend, BACKENDS.len())));
    vec((0_u32..100, vec(service, 3)), 1..15)
}

fn granted(wishes: &[Wish]) -> Wanted {
    let mut services = Vec::new();
    for (n, wish) in wishes.iter().enumerate() {
        let Some((keys, backends)) = wish else { continue };
        let all = [
            format!("192.0.2.{n}:80/tcp"),
            format!("192.0.2.{n}:53/udp"),
            format!("[2001:db8:a::{n}]:80/tcp"),
        ];
        let keys: Vec<_> = all
            .iter()
            .zip(keys)
            .filter(|(_, on)| **on)
            .map(|(key, _)| key.as_str())
            .collect();
        let backends: Vec<_> = BACKENDS
            .iter()
            .zip(backends)
            .filter_map(|(text, wish)| {
                wish.map(|(weight, alive)| WantedBackend {
                    key: key(text),
                    weight,
                    alive,
                    quic_id: None,
                })
            })
            .collect();
        let mut service = nat(&format!("s{n}"), &keys, &backends);
        forward(&mut service).ring_size = 7;
        services.push(service);
    }
    Wanted { services }
}

proptest! {
    /// Whatever is wanted after whatever: no packet on the way meets a half-written table ([`Maps::apply`] looks after
    /// every operation), and a ring holds those that may take new flows and nobody else.
    #[test]
    fn any_sequence_of_wishes_is_carried_out_in_order(steps in wishes()) {
        let mut maps = Maps::new();
        let mut now = 1000;
        for (passed, wishes) in steps {
            now += passed;
            let wanted = granted(&wishes);
            // One that takes over knows no more than the maps say.
            if passed % 7 == 0 {
                maps.state.filled.clear();
                maps.state.began.clear();
                maps.state.leaving.clear();
            }
            maps.apply(&wanted, now);
            for service in &wanted.services {
                let WantedAction::Forward(nat) = &service.action else { unreachable!() };
                for listen in &service.keys {
                    let entry = maps.state.services[listen];
                    let ring = &maps.slots.borrow()[entry.ring_offset as usize..][..entry.ring_len as usize];
                    let takers: BTreeSet<u16> = nat
                        .backends
                        .iter()
                        .filter(|b| b.alive && b.weight > 0 && b.key.address.is_ipv4() == listen.addr.is_ipv4())
                        .map(|b| maps.state.assignment.backends.get(&b.key).unwrap() as u16)
                        .collect();
                    let found: BTreeSet<u16> = ring.iter().map(|slot| slot.current).filter(|i| *i != 0).collect();
                    prop_assert!(found.is_subset(&takers), "{found:?} {takers:?}");
                    prop_assert_eq!(found.is_empty(), takers.is_empty());
                    prop_assert!(ring.iter().all(|slot| slot.current != 0) || takers.is_empty());
                }
            }
        }
    }
}
