//! The engine, scene by scene.

use super::{
    fixture::{check, key, plan, pool},
    *,
};
use crate::{
    health::{Phase, State, machine::Cause, schedule::GRACE},
    plan::HttpCheck,
};

mod probes;
mod reloads;

const MS: Duration = Duration::from_millis(1);
const UP: Word = Word {
    state: State::Up,
    admin: Admin::Ready,
};
const DOWN: Word = Word {
    state: State::Down,
    admin: Admin::Ready,
};
const PROBATION: Word = Word {
    state: State::Probation,
    admin: Admin::Ready,
};

/// An engine with a clock, and backends that answer every probe at once: those in `dead` refuse.
struct Scene {
    engine: Engine,
    now: Instant,
    dead: BTreeSet<BackendKey>,
    /// All that came out, but for probes.
    said: Vec<Output>,
    /// Keys of the probes that were started.
    probed: Vec<BackendKey>,
}

impl Scene {
    fn new(plan: Arc<Plan>) -> Self {
        let now = Instant::now();
        let (dead, said, probed) = (BTreeSet::new(), vec![], vec![]);
        let mut scene = Self {
            engine: Engine::new(1),
            now,
            dead,
            said,
            probed,
        };
        scene.engine.apply(plan, now);
        scene
    }

    /// A scene whose backends are all up, with nothing said.
    fn up(plan: Arc<Plan>) -> Self {
        let mut scene = Self::new(plan);
        scene.run(10_000 * MS);
        let all: Vec<_> = scene
            .engine
            .pools()
            .flat_map(|p| p.backends)
            .map(|b| b.word)
            .collect();
        assert!(all.iter().all(|word| *word == UP), "{all:?}");
        scene.forget();
        scene
    }

    fn forget(&mut self) {
        self.said.clear();
        self.probed.clear();
    }

    /// Hands out everything that waits. Probes are answered if `answer`, else returned.
    fn drain(&mut self, answer: bool) -> Vec<ProbeRequest> {
        let mut probes = vec![];
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::StartProbe(request) => {
                    self.probed.push(request.key.clone());
                    if answer {
                        let result = if self.dead.contains(&request.key) {
                            refused()
                        } else {
                            passed()
                        };
                        self.engine.probe_finished(request.id, result, self.now);
                    } else {
                        probes.push(request);
                    }
                }
                Output::CancelProbe(_) | Output::Transition(_) | Output::PoolChanged(_) => {
                    self.said.push(output);
                }
            }
        }
        probes
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain(true);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain(true);
        }
        self.now = end;
    }

    /// Lets time pass until probes start; they stay unanswered.
    fn until_probes(&mut self) -> Vec<ProbeRequest> {
        loop {
            let probes = self.drain(false);
            if !probes.is_empty() {
                return probes;
            }
            self.now = self.engine.poll_timeout().expect("something is checked");
            self.engine.handle_timeout(self.now);
        }
    }

    fn word(&self, pool: &str, index: usize) -> Word {
        self.engine.word(&key(pool, index)).unwrap()
    }

    /// From and to of all transitions said, with the cause's word.
    fn transitions(&self) -> Vec<(BackendKey, Word, Word, &'static str)> {
        let transition = |output: &Output| match output {
            Output::Transition(t) => Some((t.key.clone(), t.from, t.to, t.cause.word())),
            Output::StartProbe(_) | Output::CancelProbe(_) | Output::PoolChanged(_) => None,
        };
        self.said.iter().filter_map(transition).collect()
    }

    fn pools_changed(&self) -> Vec<&str> {
        let changed = |output: &'_ Output| match output {
            Output::PoolChanged(name) => Some(name.clone()),
            Output::StartProbe(_) | Output::CancelProbe(_) | Output::Transition(_) => None,
        };
        let names: Vec<_> = self.said.iter().filter_map(changed).collect();
        ["a", "b", "c"]
            .into_iter()
            .filter(|n| names.iter().any(|name| name.as_str() == *n))
            .collect()
    }
}

fn passed() -> ProbeResult {
    ProbeResult {
        outcome: Outcome::Passed,
        took: 3 * MS,
    }
}

fn refused() -> ProbeResult {
    ProbeResult {
        outcome: Outcome::Failed(Failure::Refused),
        took: MS,
    }
}

#[test]
fn an_engine_without_a_plan_wants_nothing() {
    let mut engine = Engine::new(1);
    engine.handle_timeout(Instant::now());
    assert_eq!((engine.poll_timeout(), engine.poll_output()), (None, None));
    assert_eq!(engine.pools().count(), 0);
    assert!(engine.plan().is_none());
    assert!(engine.words(&PoolName::new("a")).is_none());
}

#[test]
fn backends_without_a_check_are_up_at_once() {
    let mut scene = Scene::new(plan([pool("a", 1, None)]));
    scene.drain(true);
    let transition = Transition {
        key: key("a", 0),
        from: Word::PENDING,
        to: UP,
        cause: Cause::Unchecked,
        successes: 0,
        failures: 0,
        in_state: Duration::ZERO,
    };
    let expected = [
        Output::Transition(transition),
        Output::PoolChanged(PoolName::new("a")),
    ];
    assert_eq!(scene.said, expected);
    assert_eq!(scene.engine.poll_timeout(), None);
}

#[test]
fn a_new_backend_gets_traffic_only_after_a_burst_of_checks() {
    let mut scene = Scene::new(plan([pool("a", 1, Some(check(3, 2)))]));
    let began = scene.now;
    let (name, unused) = (
        PoolName::new("a"),
        Usable {
            weight: 0,
            alive: false,
        },
    );
    for _ in 0..3 {
        assert_eq!(scene.engine.usable(&name).unwrap(), [unused]);
        let probe = scene.until_probes().remove(0);
        assert_eq!((probe.target, probe.timeout), (key("a", 0).address, 1000 * MS));
        scene.engine.probe_finished(probe.id, passed(), scene.now);
    }
    assert_eq!(
        scene.engine.usable(&name).unwrap(),
        [Usable {
            weight: 1,
            alive: true
        }]
    );
    assert!(
        scene.now - began < 300 * MS,
        "not one interval, but {:?}",
        scene.now - began
    );
    scene.drain(true);
    assert_eq!(scene.transitions(), [(key("a", 0), Word::PENDING, UP, "passed")]);
    // The pool as it was at the beginning, then as it became.
    let changed = Output::PoolChanged(name);
    assert_eq!(scene.said.iter().filter(|o| **o == changed).count(), 2);
    assert_eq!(scene.said.last(), Some(&changed));
}

#[test]
fn a_backend_that_dies_and_returns_passes_all_states() {
    let mut scene = Scene::up(plan([pool("a", 2, Some(check(2, 3)))]));
    let up_since = scene.engine.pool(&PoolName::new("a")).unwrap().backends[0].since;
    scene.dead.insert(key("a", 0));
    scene.run(10_000 * MS);
    let [Output::Transition(down), Output::PoolChanged(_)] = scene.said.as_slice() else {
        panic!("{:?}", scene.said)
    };
    assert_eq!((&down.key, down.from, down.to), (&key("a", 0), UP, DOWN));
    assert_eq!((down.successes, down.failures), (0, 3));
    assert_eq!(down.cause, Cause::Failed(Failure::Refused));
    let view = scene.engine.pool(&PoolName::new("a")).unwrap();
    assert_eq!(down.in_state, view.backends[0].since - up_since);
    assert_eq!(view.healthy, 1);
    assert_eq!(
        view.backends[0].usable,
        Usable {
            weight: 0,
            alive: false
        }
    );
    scene.forget();

    scene.dead.clear();
    scene.run(10_000 * MS);
    let steps = [
        (key("a", 0), DOWN, PROBATION, "passed"),
        (key("a", 0), PROBATION, UP, "passed"),
    ];
    assert_eq!(scene.transitions(), steps);
    // Probation changes nothing for the pool's users: said once, at the end.
    assert!(
        matches!(scene.said.as_slice(), [_, _, Output::PoolChanged(_)]),
        "{:?}",
        scene.said
    );
}

#[test]
fn pool_changes_are_said_once_and_last() {
    let mut scene = Scene::up(plan([
        pool("a", 3, Some(check(1, 1))),
        pool("b", 1, Some(check(1, 1))),
    ]));
    let now = scene.now;
    for (pool, index) in [("a", 0), ("b", 0), ("a", 1)] {
        scene
            .engine
            .set_admin(&key(pool, index), Admin::Drain, now)
            .unwrap();
    }
    scene.drain(true);
    let changes = [PoolName::new("a"), PoolName::new("b")].map(Output::PoolChanged);
    assert_eq!(scene.said[3..], changes);
    assert_eq!(scene.transitions().len(), 3);
}

#[test]
fn a_pool_that_is_as_before_did_not_change() {
    let mut scene = Scene::up(plan([pool("a", 2, Some(check(1, 1)))]));
    for admin in [Admin::Maint, Admin::Ready] {
        scene.engine.set_admin(&key("a", 0), admin, scene.now).unwrap();
    }
    scene.drain(true);
    assert_eq!((scene.transitions().len(), scene.pools_changed()), (2, vec![]));
}

#[test]
fn operators_wishes() {
    let mut scene = Scene::up(plan([pool("a", 1, Some(check(1, 1)))]));
    let name = PoolName::new("a");
    let drain = Word {
        admin: Admin::Drain,
        ..UP
    };
    for (admin, word, usable) in [
        (
            Admin::Drain,
            drain,
            Usable {
                weight: 0,
                alive: true,
            },
        ),
        (
            Admin::Maint,
            Word {
                admin: Admin::Maint,
                ..UP
            },
            Usable {
                weight: 0,
                alive: false,
            },
        ),
        (
            Admin::Ready,
            UP,
            Usable {
                weight: 1,
                alive: true,
            },
        ),
    ] {
        scene.forget();
        scene.engine.set_admin(&key("a", 0), admin, scene.now).unwrap();
        scene.engine.set_admin(&key("a", 0), admin, scene.now).unwrap();
        scene.drain(true);
        assert_eq!(scene.word("a", 0), word);
        assert_eq!(scene.engine.usable(&name).unwrap(), [usable]);
        assert_eq!(scene.transitions().len(), 1, "wishing twice is wishing once");
        assert_eq!(scene.transitions()[0].3, "operator");
    }

    // A wish does not hide the state, nor the state the wish.
    scene
        .engine
        .set_admin(&key("a", 0), Admin::Drain, scene.now)
        .unwrap();
    scene.dead.insert(key("a", 0));
    scene.run(10_000 * MS);
    assert_eq!(
        scene.word("a", 0),
        Word {
            admin: Admin::Drain,
            ..DOWN
        }
    );
    scene.dead.clear();
    scene.run(10_000 * MS);
    assert_eq!(scene.word("a", 0), drain);
}

#[test]
fn wishes_for_unknown_backends_are_refused() {
    let mut scene = Scene::up(plan([pool("a", 1, None)]));
    let error = scene
        .engine
        .set_admin(&key("b", 0), Admin::Maint, scene.now)
        .unwrap_err();
    assert_eq!(error, UnknownBackend(key("b", 0)));
    assert_eq!(
        error.to_string(),
        "no backend b/10.0.0.1:80 is configured; `weir pools` lists them all"
    );
    assert_eq!(scene.engine.poll_output(), None);
}

#[test]
fn one_address_in_two_pools_is_two_backends() {
    let mut scene = Scene::up(plan([
        pool("a", 1, Some(check(1, 1))),
        pool("b", 1, Some(check(1, 1))),
    ]));
    scene.dead.insert(key("a", 0));
    scene.run(10_000 * MS);
    assert_eq!((scene.word("a", 0), scene.word("b", 0)), (DOWN, UP));
    assert_eq!(scene.pools_changed(), ["a"]);
}

#[test]
fn backups_step_in() {
    let mut a = pool("a", 2, Some(check(1, 1)));
    a.backends[1].backup = true;
    let mut scene = Scene::up(plan([a]));
    let weights = |scene: &Scene| {
        scene
            .engine
            .usable(&PoolName::new("a"))
            .unwrap()
            .iter()
            .map(|u| u.weight)
            .collect::<Vec<_>>()
    };
    assert_eq!(weights(&scene), [1, 0]);
    scene.dead.insert(key("a", 0));
    scene.run(10_000 * MS);
    assert_eq!(weights(&scene), [0, 1]);
    assert_eq!(scene.engine.healthy(&PoolName::new("a")), 1);
}

#[test]
fn a_successor_goes_on() {
    let pools = || plan([pool("a", 4, Some(check(2, 2))), pool("b", 1, None)]);
    let mut first = Scene::up(pools());
    first.dead.insert(key("a", 1));
    first.run(20_000 * MS);
    first
        .engine
        .set_admin(&key("a", 2), Admin::Drain, first.now)
        .unwrap();
    let mut saved = first.engine.export(first.now + 5000 * MS);
    assert_eq!(saved.len(), 5);
    assert_eq!(saved[1].cause.as_ref(), "connection refused");
    assert_eq!(saved[2].lasted, 5000 * MS);
    // One that was lost on the way, and one that nobody knows any more.
    saved.remove(3);
    saved.push(Saved {
        key: key("z", 0),
        word: UP,
        cause: "x".into(),
        lasted: MS,
    });

    let mut next = Scene {
        engine: Engine::new(2),
        ..Scene::new(pools())
    };
    next.now = first.now + 60_000 * MS;
    next.engine.restore(saved.clone());
    next.engine.apply(pools(), next.now);
    next.drain(true);
    assert_eq!(next.engine.words(&PoolName::new("a")), {
        let mut words = first.engine.words(&PoolName::new("a")).unwrap();
        words[3] = Word::PENDING;
        Some(words)
    });
    assert_eq!(next.transitions(), [], "nothing changed");
    assert_eq!(
        next.pools_changed(),
        ["a", "b"],
        "but the pools are news to this process"
    );
    let view = next.engine.pool(&PoolName::new("a")).unwrap();
    assert_eq!(
        (view.backends[1].cause.word(), view.backends[1].cause.to_string()),
        ("restored", "connection refused".into())
    );
    assert_eq!(view.backends[2].since, next.now - 5000 * MS);

    // All are checked at once, not after an interval.
    next.run(10 * MS);
    next.probed.sort();
    assert_eq!(next.probed, [0, 1, 2, 3].map(|i| key("a", i)));
    next.run(20_000 * MS);
    assert_eq!(next.word("a", 1), UP, "it had come back meanwhile");

    // What was not in the first plan is forgotten, not kept for later ones.
    next.engine
        .apply(plan([pool("z", 1, Some(check(1, 1)))]), next.now);
    assert_eq!(next.word("z", 0), Word::PENDING);
}

#[test]
fn views_count() {
    let mut scene = Scene::new(plan([pool("a", 1, Some(check(2, 2)))]));
    let name = PoolName::new("a");
    for (count, result) in (1_u64..).zip([passed(), passed(), refused(), refused(), refused()]) {
        let probe = scene.until_probes().remove(0);
        assert_eq!(scene.engine.pool(&name).unwrap().backends[0].next_check, None);
        scene.now += 5 * MS;
        scene.engine.probe_finished(probe.id, result.clone(), scene.now);
        let view = scene.engine.pool(&name).unwrap();
        let backend = &view.backends[0];
        assert_eq!(backend.passed + backend.failed, count);
        let last = backend.last.unwrap();
        assert_eq!((last.result, last.at), (&result, scene.now));
        assert_eq!(backend.next_check, scene.engine.poll_timeout());
    }
    let view = scene.engine.pools().next().unwrap();
    let backend = &view.backends[0];
    assert_eq!((backend.passed, backend.failed, backend.transitions), (2, 3, 2));
    assert_eq!((backend.successes, backend.failures), (0, 3));
    assert_eq!(
        (backend.word, view.healthy, view.pool.name.as_str()),
        (DOWN, 0, "a")
    );
}

#[test]
fn equal_seeds_give_equal_lives() {
    let life = |seed| {
        let now = Instant::now();
        let mut engine = Engine::new(seed);
        engine.apply(plan([pool("a", 20, Some(check(2, 2)))]), now);
        let mut outputs = vec![];
        for _ in 0..500 {
            let at = engine.poll_timeout().unwrap();
            engine.handle_timeout(at);
            while let Some(output) = engine.poll_output() {
                if let Output::StartProbe(p) = &output {
                    let phase = Outcome::Failed(Failure::Timeout(Phase::Connect));
                    let outcome = if p.id.0 % 3 == 0 { phase } else { Outcome::Passed };
                    engine.probe_finished(p.id, ProbeResult { outcome, took: MS }, at);
                }
                outputs.push((at - now, output));
            }
        }
        outputs
    };
    assert_eq!(life(5), life(5));
    assert_ne!(life(5), life(6));
}

#[test]
fn ids_of_two_engines_do_not_meet() {
    let ids = |seed| {
        let mut scene = Scene {
            engine: Engine::new(seed),
            ..Scene::new(plan([]))
        };
        scene
            .engine
            .apply(plan([pool("a", 10, Some(check(2, 2)))]), scene.now);
        let first = scene.until_probes().remove(0).id.0;
        assert!(first < 1 << 53, "exact in JSON");
        first
    };
    assert!(ids(1).abs_diff(ids(2)) > 1 << 32);
}
