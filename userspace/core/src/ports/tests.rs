//! Ports by tables and by random steps: none has two users, none is lost, each rests as long as it has to; and what is foretold
//! comes.

use proptest::prelude::*;

use super::*;

const fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn counts(free: u64, in_use: u64, waiting: u64) -> Counts {
    Counts {
        free,
        in_use,
        waiting,
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn each_port_goes_once_before_any_goes_twice() {
    let now = Instant::now();
    for (ranges, seed) in [
        (vec![range(2000, 2009)], 0),
        (
            vec![range(2000, 2009), range(3000, 3000), range(65_535, 65_535)],
            1,
        ),
        (vec![range(1024, 65_535)], 2),
        (vec![range(5000, 5000)], 3),
    ] {
        let mut ports = Ports::new(&ranges, seed, now);
        let all: Vec<_> = std::iter::from_fn(|| ports.take(now)).collect();
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!((distinct.len(), all.len() as u32), (all.len(), total(&ranges)));
        assert!(
            all.iter()
                .all(|port| ranges.iter().any(|range| range.contains(*port)))
        );
        assert_eq!(ports.counts(now), counts(0, all.len() as u64, 0));
    }
}

/// Nobody guesses the next port from the one before, without the seed.
#[test]
fn walks_differ_by_their_seeds() {
    let now = Instant::now();
    let first = |seed| {
        let mut ports = Ports::new(&[range(10_000, 30_000)], seed, now);
        [(); 4].map(|()| ports.take(now).unwrap())
    };
    let walks: BTreeSet<_> = (0..100).map(first).collect();
    assert_eq!(walks.len(), 100);
    assert_eq!(first(7), first(7), "and not otherwise");
}

#[test]
fn only_what_ended_here_first_rests() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 2002)], 9, now);
    let [a, b, c] = [(); 3].map(|()| ports.take(now).unwrap());
    ports.give_back(a, End::Rest, now);
    ports.give_back(b, End::Free, now);
    assert_eq!(ports.counts(now), counts(1, 1, 1));
    assert_eq!(ports.take(now), Some(b));
    assert_eq!(ports.take(now), None);
    let almost = now + TIME_WAIT - Duration::from_millis(1);
    assert_eq!(ports.take(almost), None);
    assert_eq!(ports.counts(almost), counts(0, 2, 1));
    assert_eq!(ports.counts(now + TIME_WAIT), counts(1, 2, 0));
    assert_eq!(ports.take(now + TIME_WAIT), Some(a));
    // What was given back once is not given back again.
    ports.give_back(c, End::Free, now);
    ports.give_back(c, End::Free, now);
    ports.give_back(2003, End::Free, now);
    assert_eq!(ports.counts(now + TIME_WAIT), counts(1, 2, 0));
}

#[test]
fn a_refused_port_is_looked_at_again_before_long() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 2001)], 9, now);
    let [a, b] = [(); 2].map(|()| ports.take(now).unwrap());
    ports.give_back(a, End::Refused, now);
    ports.give_back(b, End::Rest, now);
    assert_eq!(ports.take(now), None);
    assert_eq!(ports.counts(now + REFUSED), counts(1, 0, 1));
    assert_eq!(ports.take(now + REFUSED), Some(a));
}

#[test]
fn those_that_rest_are_there_for_whoever_has_no_other() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 2001)], 9, now);
    assert_eq!(ports.take_resting(now), None);
    let [a, b] = [(); 2].map(|()| ports.take(now).unwrap());
    ports.give_back(a, End::Rest, now);
    ports.give_back(b, End::Rest, now + seconds(10));
    let later = now + seconds(20);
    let first = ports.take_resting(later).unwrap();
    assert_eq!(first.port, a, "the oldest");
    ports.give_back_resting(first, later);
    let second = ports.take_resting(later).unwrap();
    assert_eq!(second.port, b, "none is tried twice");
    assert_eq!(ports.take_resting(later), None);
    assert_eq!(ports.counts(later), counts(0, 1, 1));
    // It rests for as long as it would have.
    assert_eq!(ports.take(now + TIME_WAIT - Duration::from_millis(100)), None);
    assert_eq!(ports.take(now + TIME_WAIT), Some(a));
    // And what the kernel did give is in use like any other.
    ports.give_back(b, End::Free, later);
    assert_eq!(ports.take(now + TIME_WAIT), Some(b));
}

#[test]
fn other_ranges_know_what_is_in_use_and_at_rest() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 2009)], 4, now);
    let all: Vec<_> = std::iter::from_fn(|| ports.take(now)).collect();
    let (used, rest): (Vec<_>, Vec<_>) = all.iter().partition(|port| **port < 2006);
    for port in &rest {
        ports.give_back(*port, End::Rest, now);
    }
    ports.give_back(2001, End::Free, now);
    ports.follow(&[range(2000, 2009)], 5);
    assert_eq!(ports.counts(now), counts(1, 5, 4), "nothing has changed");
    ports.follow(&[range(2004, 2011)], 5);
    assert_eq!(ports.counts(now), counts(2, 2, 4));
    let fresh: BTreeSet<_> = std::iter::from_fn(|| ports.take(now)).collect();
    assert_eq!(fresh, [2010, 2011].into());
    // Of no interest any more; and one that is.
    assert!(used.contains(&2000));
    ports.give_back(2000, End::Free, now);
    ports.give_back(2004, End::Free, now);
    assert_eq!(ports.counts(now), counts(1, 3, 4));
    let later = now + TIME_WAIT;
    let rest: BTreeSet<_> = std::iter::from_fn(|| ports.take(later)).collect();
    assert_eq!(rest, [2004, 2006, 2007, 2008, 2009].into());
}

/// `rate` connections begin per second, and end at once.
fn run(ports: &mut Ports, rate: u32, end: End, from: Instant, for_seconds: u64) -> Instant {
    for second in 0..for_seconds {
        let at = from + seconds(second);
        for n in 0..rate {
            let at = at + seconds(1) * n / rate;
            let Some(port) = ports.take(at) else { continue };
            ports.give_back(port, end, at);
        }
    }
    from + seconds(for_seconds)
}

#[test]
fn the_end_is_foretold_where_it_comes() {
    let now = Instant::now();
    // 100 per second rest for a minute: 6000 ports bear it, 5000 don't.
    for (count, comes) in [(6100, None), (5000, Some(50)), (3000, Some(30))] {
        let mut ports = Ports::new(&[range(2000, 2000 + (count - 1))], 4, now);
        assert_eq!(ports.outlook(now).exhausted_in(), None, "nothing happens yet");
        let mut at = now;
        for passed in 1..120 {
            at = run(&mut ports, 100, End::Rest, at, 1);
            let told = ports.outlook(at).exhausted_in();
            let Some(comes) = comes else {
                assert_eq!(told, None, "{count} after {passed} s");
                continue;
            };
            if passed >= comes {
                break;
            }
            let told = told
                .unwrap_or_else(|| panic!("{count} after {passed} s: nothing"))
                .as_secs_f64();
            let rest = (comes - passed) as f64;
            assert!(
                (told - rest).abs() <= 1.5,
                "{count} after {passed} s: {told}, and it is {rest}"
            );
        }
        let free = ports.counts(at).free;
        assert_eq!(free < 10, comes.is_some(), "{count}: {free} free");
    }
}

#[test]
fn what_ends_free_never_runs_out() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 2009)], 4, now);
    let at = run(&mut ports, 1000, End::Free, now, 100);
    assert_eq!(ports.outlook(at).exhausted_in(), None);
    assert_eq!(ports.counts(at), counts(10, 0, 0));
}

/// Connections that stay are foretold as well, beyond the minute.
#[test]
fn what_grows_runs_out() {
    let now = Instant::now();
    let mut ports = Ports::new(&[range(2000, 11_999)], 4, now);
    let mut at = now;
    for _ in 0..20 {
        for _ in 0..10 {
            ports.take(at).unwrap();
        }
        at += seconds(1);
    }
    let told = ports.outlook(at).exhausted_in().unwrap().as_secs();
    assert_eq!(told, (10_000 - 200) / 10);
    // The load is gone: so is the alarm.
    assert_eq!(ports.outlook(at + seconds(30)).exhausted_in(), None);
}

#[test]
fn outlooks_add_up() {
    let now = Instant::now();
    let of = |count: u16, rate| {
        let mut ports = Ports::new(&[range(2000, 1999 + count)], 4, now);
        let at = run(&mut ports, rate, End::Rest, now, 10);
        ports.outlook(at)
    };
    let mut sum = of(2000, 100);
    assert_eq!(sum.exhausted_in().unwrap().as_secs_f64().round(), 10.0);
    sum.add(&of(4000, 50));
    assert_eq!(
        sum.exhausted_in().unwrap().as_secs_f64().round(),
        30.0,
        "4500 free, 150 per second"
    );
    sum.add(&of(10_000, 0));
    assert_eq!(sum.exhausted_in(), None, "15 000 and more bear 150 per second");
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    TakeEarly,
    Back(usize, End),
    Wait(u64),
    Follow(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![Just(End::Free), Just(End::Rest), Just(End::Refused)];
    prop_oneof![
        4 => Just(Step::Take),
        1 => Just(Step::TakeEarly),
        4 => (any::<usize>(), end).prop_map(|(which, end)| Step::Back(which, end)),
        1 => (0_u64..90_000).prop_map(Step::Wait),
        1 => (0_u16..8).prop_map(Step::Follow),
    ]
}

proptest! {
    /// Whatever happens: no port has two users, none is lost, and none is free before its rest is over.
    #[test]
    fn ports_are_neither_lost_nor_doubled(steps in proptest::collection::vec(step(), 0..200), seed: u64) {
        let began = Instant::now();
        let mut now = began;
        let mut ports = Ports::new(&[range(2000, 2007)], seed, now);
        let mut last = 2007;
        let mut held: Vec<(u16, Option<Resting>)> = Vec::new();
        let mut rests: std::collections::BTreeMap<u16, Instant> = std::collections::BTreeMap::new();
        for step in steps {
            match step {
                Step::Take => {
                    if let Some(port) = ports.take(now) {
                        prop_assert!((2000..=last).contains(&port));
                        prop_assert!(held.iter().all(|(other, _)| *other != port));
                        prop_assert!(rests.remove(&port).is_none_or(|until| until <= now));
                        held.push((port, None));
                    }
                }
                Step::TakeEarly => {
                    if let Some(resting) = ports.take_resting(now) {
                        prop_assert!(held.iter().all(|(other, _)| *other != resting.port));
                        held.push((resting.port, Some(resting)));
                    }
                }
                Step::Back(which, end) if !held.is_empty() => {
                    let (port, early) = held.swap_remove(which % held.len());
                    match (end, early) {
                        (End::Refused, Some(resting)) => ports.give_back_resting(resting, now),
                        (end, _) => {
                            ports.give_back(port, end, now);
                            rests.remove(&port);
                            if end == End::Rest && port <= last {
                                rests.insert(port, now + TIME_WAIT);
                            }
                        }
                    }
                }
                Step::Back(..) => {}
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Follow(more) => {
                    last = 2003 + more;
                    ports.follow(&[range(2000, last)], seed ^ u64::from(more));
                    rests.retain(|port, _| *port <= last);
                    // What is out of the ranges is forgotten, and may be new when it comes back.
                    held.retain(|(port, _)| *port <= last);
                }
            }
            let Counts { free, in_use, waiting } = ports.counts(now);
            prop_assert_eq!(free + in_use + waiting, u64::from(last - 1999));
            prop_assert_eq!(in_use, held.len() as u64);
            let _ = ports.outlook(now);
        }
        for (port, _) in held {
            ports.give_back(port, End::Free, now);
        }
        now += 2 * TIME_WAIT;
        prop_assert_eq!(std::iter::from_fn(|| ports.take(now)).count(), usize::from(last - 1999));
    }
}
