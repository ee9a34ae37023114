//! What a table promises: shares, stability, independence from order, and time.

use std::{collections::HashMap, time::Instant, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const SLOTS: usize = 65_537;

/// Identities as a caller would have them: hashes of something.
fn id(n: u16) -> u64 {
    hash2([7, 7], u64::from(n), 0)
}

fn members(weights: &[u16]) -> Vec<Member> {
    weights
        .iter()
        .zip(1..)
        .map(|(&weight, n)| Member::new(id(n), n, weight))
        .collect()
}

fn table(key: [u64; 2], mut members: Vec<Member>, slots: usize) -> Vec<u16> {
    let mut table = vec![99; slots];
    build(key, &mut members, &mut table).unwrap();
    table
}

fn shares(table: &[u16]) -> HashMap<u16, usize> {
    let mut shares = HashMap::new();
    for &backend in table {
        *shares.entry(backend).or_default() += 1;
    }
    shares
}

/// Every member has its share to within 2 % or, where that is less than a slot or two, to within two slots.
fn check_shares(table: &[u16], weights: &[u16]) {
    let sum: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    let shares = shares(table);
    for (&weight, n) in weights.iter().zip(1u16..) {
        let ideal = table.len() as f64 * f64::from(weight) / sum as f64;
        let has = shares.get(&n).copied().unwrap_or(0) as f64;
        assert!(
            (has - ideal).abs() <= f64::max(ideal * 0.02, 2.0),
            "{n}: weight {weight}, {has} slots of {ideal}"
        );
    }
    assert_eq!(shares.get(&0), None, "no slot stays empty");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(0u16..=256, 1..60), key: [u64; 2]) {
        prop_assume!(weights.iter().any(|&w| w > 0));
        check_shares(&table(key, members(&weights), SLOTS), &weights);
    }

    #[test]
    fn order_does_not_matter(weights in prop::collection::vec(0u16..=256, 1..40), seed: u64) {
        let ordered = members(&weights);
        let mut shuffled = ordered.clone();
        shuffled.sort_by_key(|m| hash2([seed, 0], m.id, 0));
        prop_assert_eq!(table(KEY, ordered, 4093), table(KEY, shuffled, 4093));
    }

    #[test]
    fn any_prime_is_filled(slots in prop::sample::select(vec![2usize, 3, 5, 7, 13, 101, 1009, 8191]),
                           weights in prop::collection::vec(1u16..=256, 1..30)) {
        prop_assert!(table(KEY, members(&weights), slots).iter().all(|&b| b != 0));
    }
}

#[test]
fn the_number_of_a_backend_does_not_matter() {
    let first = table(KEY, (1..=20).map(|n| Member::new(id(n), n, 1)).collect(), SLOTS);
    let renumbered = table(
        KEY,
        (1..=20).map(|n| Member::new(id(n), n + 100, 1)).collect(),
        SLOTS,
    );
    assert!(first.iter().zip(&renumbered).all(|(a, b)| a + 100 == *b));
}

#[test]
fn another_key_is_another_table() {
    let weights = [1; 10];
    let one = table(KEY, members(&weights), SLOTS);
    let other = table([KEY[0], KEY[1] ^ 1], members(&weights), SLOTS);
    let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
    // By chance one slot in ten is the same.
    assert!((5_800..7_300).contains(&same), "{same}");
}

#[test]
fn removal_moves_little_else() {
    for n in [2u16, 3, 10, 50, 200] {
        let full = members(&vec![10; usize::from(n)]);
        let before = table(KEY, full.clone(), SLOTS);
        for gone in [1, n / 2 + 1, n] {
            let rest = full.iter().copied().filter(|m| m.backend != gone).collect();
            let after = table(KEY, rest, SLOTS);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(b, a)| **b != gone && b != a)
                .count();
            assert!(
                moved * 100 <= SLOTS * 2,
                "{n} members, {gone} gone: {moved} slots of others moved"
            );
        }
    }
}

#[test]
fn a_small_change_of_weight_moves_little() {
    let mut weights = [100u16; 20];
    let before = table(KEY, members(&weights), SLOTS);
    weights[3] = 110;
    let after = table(KEY, members(&weights), SLOTS);
    let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
    // A tenth of a twentieth, half a percent, must move.
    assert!(moved * 100 <= SLOTS * 6, "{moved} slots moved");
}

#[test]
fn without_weight_there_is_nobody() {
    assert!(table(KEY, members(&[0, 0]), 101).iter().all(|&b| b == 0));
    assert!(table(KEY, Vec::new(), 101).iter().all(|&b| b == 0));
}

#[test]
fn only_primes() {
    for slots in [0usize, 1, 4, 9, 65_536, 65_538] {
        let mut table = vec![0; slots];
        assert_eq!(
            build(KEY, &mut members(&[1]), &mut table),
            Err(NotPrime { slots })
        );
    }
    let primes: Vec<u32> = (0..60).filter(|&n| is_prime(n)).collect();
    assert_eq!(
        primes,
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]
    );
    assert!(is_prime(65_537) && is_prime(2_147_483_647) && !is_prime(4_294_967_295));
}

/// The worst that 1 000 backends can ask: one of weight 256, all others of weight 1. Run with `--release --nocapture` to
/// see the time that matters.
#[test]
fn a_thousand_backends_are_quick() {
    for weights in [vec![1u16; 1000], (0..1000).map(|n| 1 + n % 256).collect(), {
        let mut skewed = vec![1; 1000];
        skewed[0] = 256;
        skewed
    }] {
        let mut members = members(&weights);
        let mut table = vec![0; SLOTS];
        let start = Instant::now();
        build(KEY, &mut members, &mut table).unwrap();
        let took = start.elapsed();
        std::println!("1000 backends, {SLOTS} slots: {took:?}");
        if !cfg!(debug_assertions) {
            assert!(took.as_millis() < 500, "{took:?}");
        }
        check_shares(&table, &weights);
    }
}
