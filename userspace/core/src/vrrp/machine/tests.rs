//! What the cases in `tests/vrrp` do not show: times that are not whole milliseconds, clocks, and other configurations.

use super::*;
use crate::vrrp::{Centis, Family, Vrid};

fn router(interface: &str, own: &str) -> Router {
    let own: IpAddr = own.parse().unwrap();
    Router {
        key: RouterKey {
            interface: interface.into(),
            vrid: Vrid::new(7).unwrap(),
            family: Family::of(own),
        },
        own,
    }
}

fn config(priority: u8, centis: u16) -> Config {
    Config {
        routers: vec![router("eth0", "192.0.2.2")],
        priority,
        interval: Centis::new(centis).unwrap(),
        preempt: Preempt::Always,
        lease: Duration::from_millis(100),
        announce: Announce {
            count: 3,
            spacing: Duration::from_millis(100),
            refresh: None,
        },
    }
}

fn outputs(it: &mut Machine, now: Instant) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(output) = it.poll_output() {
        if let Output::Advert { router, .. } = output {
            it.sent(router, true, now);
        }
        all.push(output);
    }
    all
}

/// Calls it whenever it wants to be, up to then.
fn run(it: &mut Machine, until: Instant) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(due) = it.deadline().filter(|due| *due <= until) {
        it.handle_timeout(due);
        all.extend(outputs(it, due));
    }
    all
}

/// When it becomes master, if nobody is there.
fn takes_over(config: Config) -> Duration {
    let start = Instant::now();
    let mut it = Machine::new(config, start);
    it.start(None, start);
    run(&mut it, start + Duration::from_secs(200));
    assert_eq!(it.state(), State::Master);
    it.since() - start
}

#[test]
fn three_intervals_and_the_skew() {
    for (priority, centis, micros) in [
        (254, 1, 30_078),
        (100, 1, 36_093),
        (10, 1, 39_609),
        (128, 100, 3_500_000),
        (100, 100, 3_609_375),
        (100, 4095, 147_803_906),
    ] {
        let took = takes_over(config(priority, centis)).as_micros();
        assert_eq!(took, micros, "priority {priority}, {centis} cs");
    }
    assert_eq!(takes_over(config(255, 100)), Duration::ZERO);
}

#[test]
fn the_order_of_taking_and_giving() {
    let now = Instant::now();
    let mut it = Machine::new(config(255, 100), now);
    it.start(None, now);
    let taken = outputs(&mut it, now);
    let expected = [
        Output::Advert {
            router: 0,
            priority: 255,
        },
        Output::Take,
        Output::Lease(now + Duration::from_millis(100)),
        Output::Announce,
    ];
    assert_eq!(taken[..4], expected);
    assert!(matches!(&taken[4..], [Output::Changed(change)] if change.to == State::Master));
    it.stop(now);
    let given = outputs(&mut it, now);
    let expected = [
        Output::Shut,
        Output::Advert {
            router: 0,
            priority: 0,
        },
        Output::Give,
    ];
    assert_eq!(given[..3], expected);
    assert_eq!(it.deadline(), None);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let now = Instant::now() + Duration::from_secs(100);
    let mut it = Machine::new(config(255, 100), now);
    it.start(None, now);
    outputs(&mut it, now);
    it.handle_timeout(now - Duration::from_secs(50));
    assert_eq!(outputs(&mut it, now), []);
    run(&mut it, now + Duration::from_secs(10));
    assert_eq!(it.state(), State::Master);
    assert!(it.lease().unwrap() > now + Duration::from_secs(10));
}

#[test]
fn a_reload_moves_nothing() {
    let now = Instant::now();
    let mut it = Machine::new(config(255, 100), now);
    it.start(None, now);
    outputs(&mut it, now);
    // Nothing changed: what a master says anyway.
    it.set_config(config(255, 100), now);
    let all = outputs(&mut it, now);
    assert!(
        matches!(all[..], [Output::Advert { .. }, Output::Lease(_)]),
        "{all:?}"
    );
    // One more router: its addresses are taken too.
    let mut more = config(200, 10);
    more.routers.push(router("eth0", "fe80::2"));
    it.set_config(more, now);
    let all = outputs(&mut it, now);
    let adverts = |priority| [0, 1].map(|router| Output::Advert { router, priority });
    assert_eq!(all[0], Output::Take);
    assert_eq!(all[1..3], adverts(200));
    assert_eq!(it.state(), State::Master);
    // And away again; what is known of the one that stays, stays.
    let mut fewer = config(200, 10);
    fewer.routers = vec![router("eth0", "fe80::2")];
    it.set_config(fewer, now);
    assert_eq!(outputs(&mut it, now)[0], Output::Take);
    assert_eq!((it.state(), it.last_sent()), (State::Master, Some(now)));
}

#[test]
fn who_hands_on_advertises_and_its_successor_goes_on() {
    let start = Instant::now();
    let mut it = Machine::new(config(200, 1), start);
    it.start(None, start);
    outputs(&mut it, start);
    it.hand_on(start);
    assert_eq!(outputs(&mut it, start), [], "a backup has nothing to say");
    let mut it = Machine::new(config(255, 1), start);
    it.start(None, start);
    outputs(&mut it, start);
    let now = start + Duration::from_millis(9);
    it.hand_on(now);
    let all = outputs(&mut it, now);
    let advert = Output::Advert {
        router: 0,
        priority: 255,
    };
    assert!(
        matches!(&all[..], [first, Output::Lease(_)] if *first == advert),
        "{all:?}"
    );
    assert_eq!(it.last_sent(), Some(now));
    // Within three intervals of that.
    for (after, state) in [(29, State::Master), (30, State::Backup)] {
        let mut next = Machine::new(config(200, 1), start);
        next.start(it.last_sent(), now + Duration::from_millis(after));
        assert_eq!(next.state(), state, "{after} ms later");
    }
}

/// The others wait by the interval that they heard: a longer one is no reason for a longer lease before they have.
#[test]
fn a_longer_interval_makes_no_longer_lease_before_it_is_told() {
    let start = Instant::now();
    let mut wanted = config(255, 1);
    wanted.lease = Duration::from_secs(10);
    let mut it = Machine::new(wanted.clone(), start);
    it.start(None, start);
    outputs(&mut it, start);
    assert_eq!(it.lease(), Some(start + Duration::from_millis(30)));
    wanted.interval = Centis::new(100).unwrap();
    let now = start + Duration::from_millis(4);
    it.set_config(wanted, now);
    // The adverts do not leave.
    let all: Vec<_> = std::iter::from_fn(|| it.poll_output()).collect();
    assert!(
        matches!(all[..], [Output::Advert { .. }, Output::Lease(until)] if until == start + Duration::from_millis(30)),
        "{all:?}"
    );
    it.sent(0, true, now);
    run(&mut it, now + Duration::from_secs(1));
    assert!(it.lease().unwrap() > now + Duration::from_secs(3));
}

#[test]
fn causes_have_words_of_their_own() {
    let source: IpAddr = "192.0.2.1".parse().unwrap();
    let key = router("eth0", "192.0.2.2").key;
    let all = [
        Cause::Started,
        Cause::Owner,
        Cause::Resumed,
        Cause::Silence,
        Cause::Preempts { source, priority: 50 },
        Cause::Left(source),
        Cause::Demoted(source),
        Cause::Better {
            source,
            priority: 200,
        },
        Cause::Fault(key),
        Cause::Stopped,
        Cause::Late,
    ];
    let words: std::collections::BTreeSet<_> = all.iter().map(Cause::word).collect();
    assert_eq!(words.len(), all.len());
    assert_eq!(all[8].to_string(), "VRID 7 on eth0 cannot take part");
}
