//! How long a change of a large pool takes, and what it touches. Issue 3 asks for under 50 ms in a release build.

use std::time::{Duration, Instant};

use super::*;

const SLOTS: u32 = 65_537;

#[test]
fn a_pool_of_a_thousand_backends_changes_at_once_and_alone() {
    let limits = Limits {
        service_keys: 1024,
        services: 512,
        backends: 4096,
        ring_slots: 8 * SLOTS,
        returns: 4096,
        ..LIMITS
    };
    let pool = |name: &str| -> Vec<_> {
        (0..1000)
            .map(|n| {
                up(&format!(
                    "{name}/10.{}.{}.{}:80",
                    name.len(),
                    n / 250,
                    n % 250 + 1
                ))
            })
            .collect()
    };
    let large = |name: &str, vip: &str, backends: Vec<_>| {
        service(name, &[vip], WantedForward::new(Forward::Nat, SLOTS, backends))
    };
    let (mut web, other) = (pool("web"), large("other", "192.0.2.2:80/tcp", pool("others")));
    let first = wanted(&[large("www", VIP, web.clone()), other.clone()]);
    web[7].alive = false;
    web[8].weight = 3;
    let second = wanted(&[large("www", VIP, web), other]);

    let mut slots = vec![Slot::default(); limits.ring_slots as usize];
    let mut state = State::default();
    let mut took = Duration::ZERO;
    for (now, wish) in [(100, &first), (200, &second)] {
        let begin = Instant::now();
        let ring = |area: Area| slots[area.offset as usize..][..area.len as usize].to_vec();
        let Plan { ops, next } = plan(&state, wish, &limits, ring, now).unwrap();
        let mut written = 0;
        for op in &ops {
            if let Op::WriteRing(area, new) = op {
                slots[area.offset as usize..][..area.len as usize].copy_from_slice(new);
                written += 1;
            }
        }
        took = begin.elapsed();
        assert_eq!(
            written,
            if now == 100 { 2 } else { 1 },
            "the other pool's ring stays"
        );
        state = next;
    }
    println!("change of one pool of 1000 backends, {SLOTS} slots: {took:?}");
    // Generous, for a debug build on a busy machine; it would take minutes if the cost grew with the square.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
