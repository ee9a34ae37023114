//! Never early, at most two ticks late, and no cost for moving on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    start: Instant,
    timers: Rc<Timers>,
    counter: Arc<Counter>,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            timers: Rc::new(Timers::new(start)),
            counter: Arc::new(Counter(AtomicUsize::new(0))),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn passed(&self, deadline: &Deadline) -> bool {
        let waker = Waker::from(Arc::clone(&self.counter));
        deadline.passed(&Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.counter.0.load(Ordering::Relaxed)
    }
}

#[test]
fn fires_late_by_two_ticks_at_most_and_never_early() {
    for after in [0, 1, 49, 50, 51, 1_000, 25_599, 25_600, 60_000, 3_600_000_u64] {
        let bench = Bench::new();
        let deadline = bench.timers.deadline();
        deadline.set(bench.start, Duration::from_millis(after));
        assert!(!bench.passed(&deadline));
        let mut ms = 0;
        while !bench.passed(&deadline) {
            ms += 7;
            bench.timers.turn(bench.at(ms));
            assert!(ms <= after + 110, "{after}: not fired after {ms}");
        }
        assert!(ms >= after, "{after}: fired after {ms}");
        assert_eq!(bench.woken(), 1);
    }
}

#[test]
fn moving_on_costs_no_entry_and_coming_nearer_costs_one() {
    let bench = Bench::new();
    let deadline = bench.timers.deadline();
    deadline.set(bench.start, Duration::from_secs(1));
    for ms in 0..1_000 {
        deadline.set(bench.at(ms), Duration::from_secs(20));
    }
    assert_eq!(bench.timers.wheel.borrow().entries, 1);
    assert!(!bench.passed(&deadline));
    deadline.set(bench.at(1_000), Duration::from_millis(200));
    bench.timers.turn(bench.at(1_150));
    assert!(!bench.passed(&deadline));
    bench.timers.turn(bench.at(1_300));
    assert!(bench.passed(&deadline));
    assert_eq!(bench.woken(), 1);
}

#[test]
fn a_dropped_deadline_leaves_the_wheel_empty() {
    let bench = Bench::new();
    let dropped = bench.timers.deadline();
    dropped.set(bench.start, Duration::from_millis(100));
    drop(dropped);
    bench.timers.turn(bench.at(500));
    let later = bench.timers.deadline();
    assert!(bench.timers.is_empty());
    // It stood still for an hour; a deadline set then is kept as well.
    bench.timers.skip_to(bench.at(3_600_000));
    later.set(bench.at(3_600_000), Duration::from_millis(100));
    bench.timers.turn(bench.at(3_600_090));
    assert!(!bench.passed(&later));
    bench.timers.turn(bench.at(3_600_200));
    assert!(bench.passed(&later));
}

proptest! {
    /// Against the plain rule: it has fired when the wheel was turned two ticks past the deadline, not before it.
    #[test]
    fn keeps_the_rule(steps in proptest::collection::vec((0_u64..400, proptest::option::of(0_u64..60_000)), 1..200)) {
        let bench = Bench::new();
        let deadline = bench.timers.deadline();
        let (mut now, mut due) = (0, None);
        for (advance, set) in steps {
            now += advance;
            bench.timers.turn(bench.at(now));
            if let Some(at) = due {
                if now < at { prop_assert!(!bench.passed(&deadline)); }
                if now >= at + 102 { prop_assert!(bench.passed(&deadline)); }
            }
            if let Some(after) = set {
                deadline.set(bench.at(now), Duration::from_millis(after));
                due = Some(now + after);
            }
        }
    }
}

/// A connection's end leaves nothing in the wheel, and nothing of the task that would have been woken.
#[test]
fn an_ended_deadline_lets_go_of_its_task() {
    let bench = Bench::new();
    let deadline = bench.timers.deadline();
    deadline.set(bench.at(0), Duration::from_secs(10));
    let waker = Waker::from(Arc::clone(&bench.counter));
    assert!(!deadline.passed(&Context::from_waker(&waker)));
    drop(waker);
    assert_eq!(Arc::strong_count(&bench.counter), 2);
    drop(deadline);
    assert_eq!(Arc::strong_count(&bench.counter), 1);
    assert!(bench.timers.is_empty());
}

#[test]
fn an_extended_deadline_is_never_early() {
    let bench = Bench::new();
    let deadline = bench.timers.deadline();
    let after = Duration::from_millis(300);
    deadline.extend(after);
    // What happens later in the same turn is at most a tick later.
    let last = Instant::now();
    deadline.extend(after);
    bench.timers.turn(last + after);
    assert!(!bench.passed(&deadline));
    let mut at = last + after;
    while !bench.passed(&deadline) {
        at += TICK;
        bench.timers.turn(at);
    }
    assert!(at <= last + after + 4 * TICK);
    // One that had passed is forgotten.
    deadline.extend(after);
    assert!(!bench.passed(&deadline));
    // Another use in between counts.
    deadline.set(Instant::now(), Duration::from_secs(60));
    deadline.extend(after);
    assert!(!bench.passed(&deadline));
    bench.timers.turn(Instant::now() + Duration::from_secs(10));
    assert!(bench.passed(&deadline));
}

/// Whatever is set, moved nearer and dropped in whatever order: the wheel holds those that wait, each once, and wakes no
/// others.
#[test]
fn entries_leave_with_their_deadlines() {
    let bench = Bench::new();
    let mut deadlines: Vec<_> = (0..100).map(|_| bench.timers.deadline()).collect();
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..10_000 {
        let at = random(100) as usize;
        match random(4) {
            0 => deadlines[at] = bench.timers.deadline(),
            _ => {
                let after = Duration::from_millis(1_000 + random(60_000));
                deadlines[at].set(bench.start, after);
                assert!(!bench.passed(&deadlines[at]));
            }
        }
        let wheel = bench.timers.wheel.borrow();
        let waiting = deadlines.iter().filter(|d| d.entry.queued.get() != NEVER).count();
        assert_eq!(wheel.entries, waiting);
        assert_eq!(wheel.places.iter().map(Vec::len).sum::<usize>(), waiting);
    }
    let waker = Waker::from(Arc::clone(&bench.counter));
    let holders = Arc::strong_count(&bench.counter);
    deadlines.clear();
    assert!(bench.timers.is_empty());
    assert!(Arc::strong_count(&bench.counter) < holders, "wakers are kept");
    drop(waker);
    assert_eq!(Arc::strong_count(&bench.counter), 1);
}
