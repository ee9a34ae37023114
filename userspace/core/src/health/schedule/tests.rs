//! The schedule, step by step.

use super::*;
use crate::plan::CheckKind;

const MS: Duration = Duration::from_millis(1);

fn check(interval: Duration, timeout: Duration, jitter: u8) -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval,
        timeout,
        rise: 2,
        fall: 3,
        port: None,
        jitter,
        proxy: None,
    }
}

#[test]
fn backends_that_begin_together_are_spread_over_the_interval() {
    let now = Instant::now();
    let (check, mut rng) = (check(1000 * MS, 500 * MS, 0), Rng::new(1));
    let count = 2000;
    for index in 0..count {
        let mut it = Schedule::idle();
        it.begin(&check, index, count, now, &mut rng);
        let wait = it.timer().unwrap() - now;
        // 2000 in 1000 ms: two per millisecond.
        let (from, to) = (MS / 2 * index, MS / 2 * (index + 1));
        assert!((from..to).contains(&wait), "the {index}th after {wait:?}");
    }
}

#[test]
fn a_few_backends_begin_at_once() {
    let now = Instant::now();
    let (check, mut rng) = (check(3600 * 1000 * MS, 500 * MS, 0), Rng::new(1));
    for index in 0..3 {
        let mut it = Schedule::idle();
        it.begin(&check, index, 3, now, &mut rng);
        assert!(it.timer().unwrap() - now < 3 * STAGGER);
    }
}

/// Runs one check that takes `took`; how long after its start the next one starts.
fn next(it: &mut Schedule, check: &Check, state: State, took: Duration, rng: &mut Rng) -> Duration {
    let started = it.timer().unwrap();
    assert_eq!(it.expire(started), Due::Start);
    it.started(ProbeId(1), check, started);
    assert_eq!((it.flight(), it.next_check()), (Some(ProbeId(1)), None));
    it.ended(check, state, started + took, rng);
    assert_eq!((it.flight(), it.next_check()), (None, it.timer()));
    it.timer().unwrap() - started
}

#[test]
fn pending_backends_are_checked_in_a_burst_that_ends() {
    let (check, mut rng) = (check(10_000 * MS, 500 * MS, 0), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, 0, 1, Instant::now(), &mut rng);
    let mut step = || next(&mut it, &check, State::Pending, MS, &mut rng);
    for _ in 1..check.rise + check.fall {
        assert_eq!(step(), BURST_SPACING);
    }
    assert!(step() < check.interval, "its place in the interval is random");
    assert_eq!(step(), check.interval);
    assert_eq!(step(), check.interval);
}

#[test]
fn a_decided_backend_leaves_the_burst_for_a_random_place_in_the_interval() {
    let (check, mut rng) = (check(1000 * MS, 500 * MS, 0), Rng::new(1));
    let mut places: Vec<_> = (0..1000)
        .map(|_| {
            let mut it = Schedule::idle();
            it.begin(&check, 0, 1, Instant::now(), &mut rng);
            assert_eq!(next(&mut it, &check, State::Pending, MS, &mut rng), BURST_SPACING);
            let place = next(&mut it, &check, State::Up, MS, &mut rng);
            assert_eq!(next(&mut it, &check, State::Up, MS, &mut rng), check.interval);
            place
        })
        .collect();
    places.sort();
    assert!(places[999] < check.interval);
    for quarter in 1..4 {
        let (place, even) = (places[250 * quarter], 250 * MS * quarter as u32);
        assert!(
            place.abs_diff(even) < 50 * MS,
            "quartile {quarter} lies at {place:?}"
        );
    }
}

#[test]
fn a_short_interval_is_shorter_than_the_burst() {
    let (check, mut rng) = (check(10 * MS, 5 * MS, 0), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, 0, 1, Instant::now(), &mut rng);
    assert_eq!(next(&mut it, &check, State::Pending, MS, &mut rng), 10 * MS);
}

#[test]
fn jitter_moves_to_both_sides_and_never_further() {
    let (check, mut rng) = (check(1000 * MS, 500 * MS, 20), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, 0, 1, Instant::now(), &mut rng);
    next(&mut it, &check, State::Up, MS, &mut rng);
    let waits: Vec<_> = (0..1000)
        .map(|_| next(&mut it, &check, State::Up, 300 * MS, &mut rng))
        .collect();
    let (least, most) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
    assert!((800 * MS..820 * MS).contains(&least), "{least:?}");
    assert!((1180 * MS..1200 * MS).contains(&most), "{most:?}");
    let mean = waits.iter().sum::<Duration>() / 1000;
    assert!(mean.abs_diff(check.interval) < 20 * MS, "{mean:?}");
}

#[test]
fn a_check_longer_than_the_interval_is_followed_at_once() {
    let (check, mut rng) = (check(100 * MS, 500 * MS, 10), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, 0, 1, Instant::now(), &mut rng);
    assert_eq!(next(&mut it, &check, State::Up, 400 * MS, &mut rng), 400 * MS);
}

#[test]
fn equal_seeds_give_equal_schedules() {
    let now = Instant::now();
    let check = check(1000 * MS, 500 * MS, 50);
    let times = |seed| {
        let mut rng = Rng::new(seed);
        let mut it = Schedule::idle();
        it.begin(&check, 0, 1, now, &mut rng);
        (0..50)
            .map(|_| next(&mut it, &check, State::Up, MS, &mut rng))
            .collect::<Vec<_>>()
    };
    assert_eq!(times(7), times(7));
    assert_ne!(times(7), times(8));
}

/// A probe started at the returned instant, with a timeout of 500 ms.
fn flying() -> (Schedule, Instant) {
    let now = Instant::now();
    let (check, mut rng) = (check(1000 * MS, 500 * MS, 0), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, 0, 1, now, &mut rng);
    it.started(ProbeId(7), &check, now);
    (it, now)
}

#[test]
fn a_probe_without_a_result_is_lost_after_timeout_and_grace() {
    let (mut it, started) = flying();
    let deadline = started + 500 * MS + GRACE;
    assert_eq!(it.timer(), Some(deadline));
    assert_eq!(it.expire(deadline - MS), Due::Nothing);
    assert_eq!(it.expire(deadline), Due::Lost(ProbeId(7), 500 * MS + GRACE));
}

#[test]
fn who_overslept_waits_for_the_result_once_more() {
    let (mut it, started) = flying();
    let woke = started + 500 * MS + GRACE + GRACE + MS;
    assert_eq!(it.expire(woke), Due::Nothing);
    assert_eq!(it.timer(), Some(woke + GRACE));
    let woke = woke + 3 * GRACE;
    assert_eq!(it.expire(woke), Due::Lost(ProbeId(7), woke - started));
}

#[test]
fn an_idle_schedule_asks_for_nothing() {
    let mut it = Schedule::idle();
    assert_eq!((it.timer(), it.flight(), it.next_check()), (None, None, None));
    assert_eq!(it.expire(Instant::now()), Due::Nothing);
    it.ended(&check(MS, MS, 0), State::Up, Instant::now(), &mut Rng::new(1));
    assert_eq!(it.timer(), None);
}

#[test]
fn the_largest_numbers_do_no_harm() {
    let check = Check {
        rise: u32::MAX,
        fall: u32::MAX,
        jitter: u8::MAX,
        ..check(Duration::MAX, Duration::MAX, 0)
    };
    let (now, mut rng) = (Instant::now(), Rng::new(1));
    let mut it = Schedule::idle();
    it.begin(&check, u32::MAX, u32::MAX, now, &mut rng);
    for state in [State::Pending, State::Up, State::Up, State::Up] {
        it.started(ProbeId(1), &check, now);
        assert!(it.timer().unwrap() > now);
        it.ended(&check, state, now, &mut rng);
        assert!(it.timer().unwrap() >= now);
    }
}
