//! The engine in a simulated world: many backends that come and go, probes that get lost, reloads, operators, a prober
//! that dies and a control process that oversleeps. Seeded, in virtual time; a failing seed is printed.
//!
//! Beside the engine runs a model that knows only the rules of the machine, and after every step the two are compared.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::{
    fixture::{check, plan, pool},
    *,
};
use crate::{
    health::{Phase, State, machine::Cause, schedule::GRACE},
    plan::Check,
};

const MS: Duration = Duration::from_millis(1);
const SEEDS: u64 = 64;
/// Virtual time of one world.
const LIFE: Duration = Duration::from_secs(60);
const POOLS: [(&str, usize); 3] = [("a", 3), ("b", 24), ("c", 7)];

/// What is to happen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Happening {
    /// A result arrives.
    Result(ProbeId, bool),
    /// A backend dies or comes back.
    Flip(BackendKey),
    /// An operator wishes something.
    Wish(BackendKey),
    /// A plan is applied: with other thresholds for a pool, another weight, a backend more or less; or the same again.
    Reload,
    /// The process that runs the probes dies: whatever it runs gives no result.
    ProberDies,
    /// The control process is started again.
    Restart,
}

/// A backend as it really is, and what the engine may know of it.
#[derive(Debug)]
struct Truth {
    alive: bool,
    /// Never flips, and none of its probes gets lost.
    steady: bool,
    /// The probe under way, and since when.
    flight: Option<(ProbeId, Instant)>,
    /// When the check under way, or the last one, started; or a disturbance from which on the waiting counts anew.
    checked: Instant,
    /// Run of equal results: positive successes, negative failures.
    run: i32,
    word: Word,
    /// From when on every check fails, while nothing else disturbs.
    failing_since: Instant,
}

impl Truth {
    fn flies(&self, id: ProbeId) -> bool {
        self.flight.is_some_and(|(flight, _)| flight == id)
    }
}

struct World {
    rng: Rng,
    engine: Engine,
    now: Instant,
    end: Instant,
    plan: Arc<Plan>,
    truths: BTreeMap<BackendKey, Truth>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    queued: u64,
    /// What the pools' users were told last.
    told: BTreeMap<PoolName, Vec<Usable>>,
    /// Late by that much: set when the control process overslept.
    overslept: Duration,
    seen: Seen,
}

/// That a world was no desert.
#[derive(Default, Debug)]
struct Seen {
    transitions: HashMap<(State, State), u32>,
    lost: u32,
    stale: u32,
    detected: u32,
}

fn checks(rng: &mut Rng) -> Check {
    let interval = MS * (200 + rng.below(4000) as u32);
    Check {
        interval,
        // Now and then longer than the interval.
        timeout: interval.mul_f64(0.2 + rng.below(100) as f64 / 100.0),
        jitter: rng.below(51) as u8,
        proxy: None,
        ..check(1 + rng.below(4) as u32, 1 + rng.below(4) as u32)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = Instant::now();
        let plan = plan(POOLS.map(|(name, count)| pool(name, count, Some(checks(&mut rng)))));
        let mut world = Self {
            engine: Engine::new(rng.next()),
            rng,
            now,
            end: now + LIFE,
            plan,
            truths: BTreeMap::new(),
            queue: BinaryHeap::new(),
            queued: 0,
            told: BTreeMap::new(),
            overslept: Duration::ZERO,
            seen: Seen::default(),
        };
        world.apply();
        for happening in [Happening::Reload, Happening::ProberDies, Happening::Restart] {
            world.soon(happening, 60_000);
        }
        world
    }

    fn later(&mut self, wait: Duration, happening: Happening) {
        self.queued += 1;
        self.queue
            .push(Reverse((self.now + wait, self.queued, happening)));
    }

    fn soon(&mut self, happening: Happening, within_ms: u32) {
        let wait = self.rng.within(MS * within_ms);
        self.later(wait, happening);
    }

    /// Puts the plan in place and keeps the truths in step with it.
    fn apply(&mut self) {
        self.engine.apply(self.plan.clone(), self.now);
        let keys: BTreeSet<_> = self
            .plan
            .pools
            .iter()
            .flat_map(|p| p.backends.iter().map(|b| b.key.clone()))
            .collect();
        self.truths.retain(|key, _| keys.contains(key));
        self.told.retain(|name, _| self.plan.pool(name).is_some());
        for key in keys {
            if !self.truths.contains_key(&key) {
                let truth = Truth {
                    alive: self.rng.below(4) > 0,
                    steady: self.rng.below(4) == 0,
                    flight: None,
                    checked: self.now,
                    run: 0,
                    word: Word::PENDING,
                    failing_since: self.now,
                };
                if !truth.steady {
                    self.soon(Happening::Flip(key.clone()), 30_000);
                }
                self.soon(Happening::Wish(key.clone()), 200_000);
                self.truths.insert(key, truth);
            }
        }
    }

    /// The next thing that happens, or the engine's timer; results before the timer, as the engine demands.
    fn step(&mut self) {
        let timer = self.engine.poll_timeout().expect("all pools are checked");
        let next = self
            .queue
            .peek()
            .map(|Reverse((at, ..))| *at)
            .filter(|at| *at <= timer);
        // A probe that came due while others were handled at the same instant may lie at `now`, never before.
        self.now = self.now.max(next.unwrap_or(timer));
        if self.rng.below(2000) == 0 {
            self.overslept = self.rng.within(Duration::from_secs(5));
            self.now += self.overslept;
        }
        while let Some(Reverse((at, _, happening))) = self.queue.peek().cloned()
            && at <= self.now
        {
            self.queue.pop();
            self.happen(happening);
            self.drain();
        }
        self.engine.handle_timeout(self.now);
        let timer = self.engine.poll_timeout().expect("all pools are checked");
        assert!(
            timer > self.now,
            "due {:?} ago after handle_timeout",
            self.now - timer
        );
        self.drain();
        self.verify();
        if !self.overslept.is_zero() {
            // What was due meanwhile came late: count anew from here.
            self.overslept = Duration::ZERO;
            self.truths
                .values_mut()
                .for_each(|t| (t.checked, t.failing_since) = (self.now, self.now));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Result(id, passed) => self.result(id, passed),
            Happening::Flip(key) => {
                let now = self.now;
                if let Some(truth) = self.truths.get_mut(&key) {
                    truth.alive = !truth.alive;
                    truth.failing_since = now;
                    self.soon(Happening::Flip(key), 60_000);
                }
            }
            Happening::Wish(key) => {
                let admin = Admin::ALL[self.rng.below(3) as usize];
                let known = self.truths.contains_key(&key);
                assert_eq!(self.engine.set_admin(&key, admin, self.now).is_ok(), known);
                if known {
                    self.soon(Happening::Wish(key), 200_000);
                }
            }
            Happening::Reload => self.reload(),
            Happening::ProberDies => {
                self.engine.probes_lost(self.now);
                for truth in self.truths.values_mut() {
                    truth.flight = None;
                    (truth.checked, truth.failing_since) = (self.now, self.now);
                }
                self.soon(Happening::ProberDies, 120_000);
            }
            Happening::Restart => {
                let saved = self.engine.export(self.now);
                self.engine = Engine::new(self.rng.next());
                self.engine.restore(saved);
                self.engine.apply(self.plan.clone(), self.now);
                self.told.clear();
                for truth in self.truths.values_mut() {
                    (truth.flight, truth.run) = (None, 0);
                    (truth.checked, truth.failing_since) = (self.now, self.now);
                }
                self.soon(Happening::Restart, 200_000);
            }
        }
    }

    /// A result comes in; if the engine waits for it, the model counts it.
    fn result(&mut self, id: ProbeId, passed: bool) {
        let outcome = if passed {
            Outcome::Passed
        } else {
            Outcome::Failed(Failure::Timeout(Phase::Response))
        };
        self.engine
            .probe_finished(id, ProbeResult { outcome, took: MS }, self.now);
        match self.truths.values_mut().find(|t| t.flies(id)) {
            Some(truth) => {
                truth.flight = None;
                count(&mut truth.run, passed);
            }
            None => self.seen.stale += 1,
        }
    }

    fn reload(&mut self) {
        let mut pools: Vec<_> = self.plan.pools.iter().map(|p| Pool::clone(p)).collect();
        let index = self.rng.below(3) as usize;
        let changed = &mut pools[index];
        let name = changed.name.clone();
        match self.rng.below(5) {
            0 => {
                changed.check = Some(checks(&mut self.rng));
                for (key, truth) in &mut self.truths {
                    if key.pool == name {
                        (truth.run, truth.flight) = (0, None);
                        (truth.checked, truth.failing_since) = (self.now, self.now);
                    }
                }
            }
            1 => changed.backends[0].weight = self.rng.below(3) as u16,
            2 if changed.backends.len() > 2 => drop(changed.backends.pop()),
            3 => {
                let count = changed.backends.len() + 1;
                let new = pool(name.as_str(), count, None).backends.pop().unwrap();
                changed.backends.push(new);
            }
            _ => changed.backends[1].backup ^= true,
        }
        self.plan = plan(pools);
        self.apply();
        self.soon(Happening::Reload, 60_000);
    }

    /// Carries out what the engine says, and holds it against the model.
    fn drain(&mut self) {
        let mut changed = BTreeSet::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::StartProbe(request) => self.start(&request),
                Output::CancelProbe(id) => {
                    // None: its backend has left the plan, or its check changed.
                    if let Some((key, truth)) = self.truths.iter_mut().find(|(_, t)| t.flies(id)) {
                        let (_, started) = truth.flight.take().expect("it flies");
                        let check = check_of(&self.plan, key);
                        assert!(
                            self.now >= started + check.timeout + GRACE,
                            "{key}: given up too early"
                        );
                        // It says nothing of the backend; what it would have found is found later.
                        truth.failing_since = self.now;
                        self.seen.lost += 1;
                    }
                }
                Output::Transition(transition) => {
                    assert!(changed.is_empty(), "transitions come before pool changes");
                    self.transition(&transition);
                }
                Output::PoolChanged(name) => {
                    assert!(changed.insert(name.clone()), "{name} said to be changed twice");
                    let usable = self.engine.usable(&name).expect("a pool of the plan");
                    assert_ne!(
                        self.told.insert(name, usable.clone()),
                        Some(usable),
                        "said, but as before"
                    );
                }
            }
        }
    }

    fn start(&mut self, request: &ProbeRequest) {
        let check = check_of(&self.plan, &request.key);
        let truth = self
            .truths
            .get_mut(&request.key)
            .expect("probes go to backends of the plan");
        assert_eq!(
            truth.flight.replace((request.id, self.now)),
            None,
            "two probes under way for {}",
            request.key
        );
        truth.checked = self.now;
        let (alive, steady, timeout) = (truth.alive, truth.steady, check.timeout);
        // Lost; or too late, yet in the grace; or in time. And sometimes twice.
        let fate = if steady { 9 } else { self.rng.below(20) };
        let took = match fate {
            0 => return,
            1 => timeout + self.rng.within(GRACE - MS),
            _ => self.rng.within(timeout),
        };
        self.later(took, Happening::Result(request.id, alive));
        if fate == 2 {
            self.later(took + GRACE, Happening::Result(request.id, !alive));
        }
    }

    fn transition(&mut self, t: &Transition) {
        let check = check_of(&self.plan, &t.key);
        let (rise, fall) = (check.rise.cast_signed(), check.fall.cast_signed());
        let truth = self
            .truths
            .get_mut(&t.key)
            .expect("transitions are of backends of the plan");
        assert_eq!(t.from, truth.word, "{t:?}");
        assert_ne!(t.from, t.to);
        truth.word = t.to;
        if t.from.state == t.to.state {
            assert_eq!(t.cause, Cause::Operator);
            return;
        }
        assert_eq!(t.from.admin, t.to.admin);
        assert_eq!(
            i64::from(t.successes) - i64::from(t.failures),
            i64::from(truth.run),
            "{t:?}"
        );
        *self
            .seen
            .transitions
            .entry((t.from.state, t.to.state))
            .or_default() += 1;
        let allowed = match (t.from.state, t.to.state) {
            (State::Pending | State::Probation, State::Up) => truth.run >= rise,
            (State::Pending | State::Up, State::Down) => truth.run <= -fall,
            (State::Down, State::Probation) => truth.run == 1 && rise > 1,
            (State::Down, State::Up) => truth.run == 1 && rise == 1,
            (State::Probation, State::Down) => truth.run == -1,
            (State::Pending | State::Up | State::Down | State::Probation, _) => false,
        };
        assert!(allowed, "with a run of {}: {t:?}", truth.run);
        if t.to.state == State::Down {
            self.seen.detected += 1;
        }
    }

    /// What holds after every step.
    fn verify(&self) {
        for (key, truth) in &self.truths {
            assert_eq!(self.engine.word(key), Some(truth.word), "{key}");
            let check = check_of(&self.plan, key);
            let jitter = check.interval.mul_f64(f64::from(check.jitter) / 100.0) + MS;
            // How far apart two checks start, and when the last result must be in.
            let (spacing, end) = (check.interval + jitter, check.timeout + GRACE);
            let late = self.overslept;
            let starved = self
                .now
                .saturating_duration_since(truth.checked + spacing.max(end) + late);
            assert!(
                starved.is_zero(),
                "{key} is not checked since {starved:?}: {truth:?}"
            );
            if !truth.alive && truth.word.state == State::Up {
                let time = spacing.max(end) * check.fall + end + late;
                let failing = self.now.saturating_duration_since(truth.failing_since);
                assert!(
                    failing <= time,
                    "{key} is up, though failing for {failing:?}: {truth:?}"
                );
            }
            if truth.steady && truth.alive {
                let fine = matches!(truth.word.state, State::Pending | State::Up);
                assert!(fine, "{key} never failed a check: {truth:?}");
            }
        }
        // Now and then: a change that was not said stays so.
        for pool in self.plan.pools.iter().filter(|_| self.queued.is_multiple_of(8)) {
            assert_eq!(
                self.engine.usable(&pool.name).as_ref(),
                self.told.get(&pool.name),
                "{}",
                pool.name
            );
        }
    }
}

fn check_of<'a>(plan: &'a Plan, key: &BackendKey) -> &'a Check {
    plan.pool(&key.pool)
        .and_then(|pool| pool.check.as_ref())
        .expect("every pool is checked")
}

fn count(run: &mut i32, passed: bool) {
    *run = if passed {
        (*run).max(0) + 1
    } else {
        (*run).min(0) - 1
    };
}

/// Runs one world to its end.
fn live(seed: u64) -> Seen {
    let mut world = World::new(seed);
    world.drain();
    while world.now < world.end {
        world.step();
    }
    world.seen
}

#[test]
fn many_worlds() {
    let mut sum = Seen::default();
    for seed in 0..SEEDS {
        match std::panic::catch_unwind(|| live(seed)) {
            Ok(seen) => {
                sum.lost += seen.lost;
                sum.stale += seen.stale;
                sum.detected += seen.detected;
                for (pair, times) in seen.transitions {
                    *sum.transitions.entry(pair).or_default() += times;
                }
            }
            Err(panic) => {
                eprintln!("the seed that failed: {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // Every transition there is was seen, and every mishap.
    let edges = [
        (State::Pending, State::Up),
        (State::Pending, State::Down),
        (State::Up, State::Down),
        (State::Down, State::Up),
        (State::Down, State::Probation),
        (State::Probation, State::Up),
        (State::Probation, State::Down),
    ];
    assert!(
        edges
            .iter()
            .all(|edge| sum.transitions.get(edge).is_some_and(|n| *n > 50)),
        "{sum:?}"
    );
    assert!(sum.lost > 500 && sum.stale > 500 && sum.detected > 500, "{sum:?}");
}
