//! Two and three boxes on a link that loses, delays and parts, with processes that sleep, crash and come back, and clocks
//! that jump: thousands of seeds.
//!
//! What holds, with `D` the longest time that an advert is under way and `W` the longest that a process is late:
//!
//! - Two boxes that hear each other, and have for an interval and `2 (D + W)`, answer at the same time for no longer than
//!   `2 (D + W)`, the time in which the lesser one hears that it is, and [`LINGER`]. Sleeping processes, crashes and clocks that jump do not
//!   change that. Two faults at once do: if a master sleeps or dies in the moment in which another becomes it, its lease is
//!   added; if it does as the other's clock jumps, one and a half intervals, the most of a jump that goes unnoticed.
//! - If nothing has been wrong for as long as anybody waits, one answers, always: also while the mastership changes hands
//!   because of demotion or preference. (If it is demoted anew while adverts of that are under way, two may yield to each
//!   other; who yields says so, and the gap is a skew.)
//!
//! A box answers as long as its lease says, in its own clock, whether its process runs or not: as the kernel does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    health::rng::Rng,
    vrrp::{Centis, Vrid},
};

/// True time and spans in microseconds.
type Micros = u64;

fn span(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    /// An advert arrives.
    Arrive {
        to: usize,
        source: IpAddr,
        priority: u8,
        interval: Centis,
    },
    /// A process wanted to be called.
    Wake(usize),
}

/// A box.
struct Node {
    own: IpAddr,
    config: Config,
    /// `None`: there is no process.
    machine: Option<Machine>,
    /// What its clock is ahead of the true time; it only grows.
    ahead: Micros,
    /// When it jumped last.
    jumped: Micros,
    /// The process does not run until then.
    sleeps_until: Micros,
    /// Arrived meanwhile.
    inbox: Vec<Heard>,
    /// What the kernel knows, in the box's time.
    lease: Option<Instant>,
    /// The wake that counts.
    wake_at: Option<Micros>,
    demotion: u32,
    /// It became master because nobody was heard, not to relieve somebody.
    by_silence: bool,
}

struct World {
    base: Instant,
    now: Micros,
    rng: Rng,
    nodes: Vec<Node>,
    queue: BTreeMap<(Micros, u64), Happening>,
    count: u64,
    interval: Micros,
    /// Longest time under way, and longest lateness of a process.
    delay: Micros,
    late: Micros,
    /// So many of 100 adverts are lost.
    loss: u64,
    /// Boxes of different sides do not hear each other.
    side: Vec<u8>,
    /// When it began that every box hears every other, or not.
    whole_since: Micros,
    /// Since when nothing is wrong.
    calm_since: Micros,
    /// Since when these two answer at the same time, whether one of their processes did not run then, and whether one has not
    /// since.
    both: BTreeMap<(usize, usize), (Micros, bool, bool)>,
    changes: u32,
    /// When the last of them was.
    changed: Micros,
    longest_both: Micros,
    /// For who looks into a seed.
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let centis = [1, 5, 10, 100][rng.below(4) as usize];
        let interval = Micros::from(centis) * 10_000;
        let count = 2 + rng.below(2) as usize;
        let preempt = match rng.below(3) {
            0 => Preempt::Never,
            1 => Preempt::Always,
            _ => Preempt::Delayed(span(rng.below(6 * interval))),
        };
        let same = (rng.below(4) == 0).then(|| 10 + rng.below(245) as u8);
        let base = Instant::now();
        let nodes = (0..count)
            .map(|i| {
                let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + i as u8));
                let router = Router {
                    key: RouterKey {
                        interface: "eth0".into(),
                        vrid: Vrid::new(7).unwrap(),
                        family: crate::vrrp::Family::V4,
                    },
                    own,
                };
                let config = Config {
                    routers: vec![router],
                    priority: same.unwrap_or_else(|| 10 + rng.below(245) as u8),
                    interval: Centis::new(centis).unwrap(),
                    preempt,
                    lease: span(interval / 4 + rng.below(4 * interval)),
                    announce: Announce {
                        count: 2,
                        spacing: span(interval),
                        refresh: None,
                    },
                };
                Node {
                    own,
                    config,
                    machine: None,
                    ahead: 0,
                    jumped: 0,
                    sleeps_until: 0,
                    inbox: Vec::new(),
                    lease: None,
                    wake_at: None,
                    demotion: 0,
                    by_silence: true,
                }
            })
            .collect();
        let mut world = Self {
            base,
            now: 0,
            nodes,
            queue: BTreeMap::new(),
            count: 0,
            interval,
            delay: 100 + rng.below(interval / 8),
            late: 50 + rng.below(interval / 16),
            loss: 0,
            side: vec![0; count],
            whole_since: 0,
            calm_since: 0,
            both: BTreeMap::new(),
            changes: 0,
            changed: 0,
            longest_both: 0,
            trace: Vec::new(),
            rng,
        };
        for node in 0..count {
            world.begin(node, None);
        }
        world
    }

    fn local(&self, node: usize) -> Instant {
        self.base + span(self.now + self.nodes[node].ahead)
    }

    /// A process begins.
    fn begin(&mut self, node: usize, last_sent: Option<Instant>) {
        let now = self.local(node);
        let it = &mut self.nodes[node];
        let mut machine = Machine::new(it.config.clone(), now);
        machine.set_demotion(it.demotion, now);
        machine.start(last_sent, now);
        if machine.state() != State::Master {
            // What the process before has left is shut first.
            it.lease = None;
        }
        it.machine = Some(machine);
        it.inbox.clear();
        self.carry_out(node);
    }

    /// Lets a process do what it wants to, as its shell would: first what has arrived.
    fn run(&mut self, node: usize) {
        let now = self.local(node);
        let it = &mut self.nodes[node];
        let Some(machine) = &mut it.machine else {
            return;
        };
        for heard in std::mem::take(&mut it.inbox) {
            machine.handle_advert(0, &heard, now);
        }
        machine.handle_timeout(now);
        self.carry_out(node);
    }

    fn carry_out(&mut self, node: usize) {
        let now = self.local(node);
        loop {
            let it = &mut self.nodes[node];
            let Some(machine) = &mut it.machine else {
                return;
            };
            let Some(output) = machine.poll_output() else {
                it.wake_at = machine.deadline().map(|at| {
                    let local = at.saturating_duration_since(self.base).as_micros() as Micros;
                    local.saturating_sub(it.ahead).max(self.now)
                });
                if let Some(at) = it.wake_at {
                    let late = self.rng.below(self.late);
                    self.push(at + late, Happening::Wake(node));
                }
                return;
            };
            match output {
                Output::Advert { router, priority } => {
                    machine.sent(router, true, now);
                    self.send(node, priority);
                }
                Output::Lease(until) | Output::Linger(until) => it.lease = Some(until),
                Output::Shut => it.lease = None,
                Output::Changed(change) => {
                    self.changes += 1;
                    self.changed = self.now;
                    it.by_silence = !matches!(
                        change.cause,
                        Cause::Preempts { .. } | Cause::Demoted(_) | Cause::Left(_) | Cause::Resumed
                    );
                    let line = format!(
                        "{} {node}: {} → {}, {}",
                        self.now, change.from, change.to, change.cause
                    );
                    self.trace.push(line);
                }
                Output::Take | Output::Give | Output::Announce | Output::Rival(_) | Output::Late(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, priority: u8) {
        let (source, interval) = (self.nodes[from].own, self.nodes[from].config.interval);
        for to in 0..self.nodes.len() {
            let is_lost = self.rng.below(100) < self.loss;
            if to != from && self.side[to] == self.side[from] && !is_lost {
                let under_way = self.rng.below(self.delay);
                self.push(
                    self.now + under_way,
                    Happening::Arrive {
                        to,
                        source,
                        priority,
                        interval,
                    },
                );
            }
        }
    }

    fn push(&mut self, at: Micros, happening: Happening) {
        self.count += 1;
        self.queue.insert((at, self.count), happening);
    }

    /// Until when a box answers, in true time.
    fn answers_until(&self, node: usize) -> Micros {
        let it = &self.nodes[node];
        it.lease.map_or(0, |until| {
            let local = until.saturating_duration_since(self.base).as_micros() as Micros;
            local.saturating_sub(it.ahead)
        })
    }

    /// The time until `to` passes, in which nobody does anything; what holds is checked.
    fn pass(&mut self, to: Micros) {
        let from = self.now;
        if to <= from {
            // Two things at once: who answers both before and after them does so without a break.
            return;
        }
        let until: Vec<_> = (0..self.nodes.len())
            .map(|node| self.answers_until(node))
            .collect();
        let bound = 2 * (self.delay + self.late);
        for a in 0..until.len() {
            for b in a + 1..until.len() {
                let ends = until[a].min(until[b]);
                // Who sleeps as the link heals hears nothing; its lease ends.
                let both_heard = [a, b]
                    .iter()
                    .all(|node| self.runs(*node) && self.nodes[*node].sleeps_until <= self.whole_since);
                let intervals = if both_heard { 1 } else { 3 };
                let hears_since = self.whole_since + intervals * self.interval + bound;
                let from = from.max(hears_since);
                if !self.is_whole() || ends <= from || to <= from {
                    self.both.remove(&(a, b));
                    continue;
                }
                let sleeps = !self.runs(a) || !self.runs(b);
                let (since, slept_first, slept) = self.both.entry((a, b)).or_insert((from, sleeps, false));
                *slept |= sleeps;
                let bound = bound + LINGER.as_micros() as Micros;
                let both = ends.min(to) - *since;
                self.longest_both = self.longest_both.max(both);
                let relieves = !self.nodes[a].by_silence || !self.nodes[b].by_silence;
                let jumped = self.nodes[a].jumped.max(self.nodes[b].jumped);
                let bound = match *slept {
                    true if relieves || !*slept_first => bound + 3 * self.interval,
                    true if self.now < jumped + 5 * self.interval => bound + 3 * self.interval / 2,
                    true | false => bound,
                };
                assert!(
                    both <= bound,
                    "{a} and {b} answer at the same time for {both} µs until {}, {bound} is the bound",
                    ends.min(to)
                );
                if ends < to {
                    self.both.remove(&(a, b));
                }
            }
        }
        let from = from.max(self.calm_since.max(self.whole_since) + self.settled());
        let last = until.iter().copied().max().unwrap_or(0);
        let is_anybody = self.is_whole() && self.nodes.iter().any(|node| node.machine.is_some());
        assert!(
            !is_anybody || from >= to || last >= to,
            "nobody answers from {} to {to}",
            last.max(from)
        );
        self.now = to;
    }

    /// Whether there is a process, and it is awake.
    fn runs(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.machine.is_some() && self.now >= it.sleeps_until
    }

    /// Whether every box hears every other.
    fn is_whole(&self) -> bool {
        self.loss == 0 && self.side.iter().all(|side| *side == self.side[0])
    }

    /// Something is wrong until then.
    fn wrong_until(&mut self, at: Micros) {
        self.calm_since = self.calm_since.max(at);
    }

    /// As long as it takes until one answers, whatever was before: a box that woke late listens, waits for three intervals
    /// and the skew, and is late itself.
    const fn settled(&self) -> Micros {
        7 * self.interval + 2 * (self.delay + self.late)
    }

    /// Lets it run for so long.
    fn go(&mut self, micros: Micros) {
        let end = self.now + micros;
        while let Some((at, _)) = self.queue.first_key_value().map(|(key, _)| *key)
            && at <= end
        {
            self.pass(at);
            match self.queue.pop_first().unwrap().1 {
                Happening::Arrive {
                    to,
                    source,
                    priority,
                    interval,
                } => {
                    let arrived = self.local(to);
                    let it = &mut self.nodes[to];
                    if it.machine.is_none() {
                        continue;
                    }
                    it.inbox.push(Heard {
                        source,
                        priority,
                        interval,
                        arrived,
                    });
                    if at >= it.sleeps_until {
                        self.run(to);
                    }
                }
                Happening::Wake(node) => {
                    let it = &self.nodes[node];
                    if at < it.sleeps_until {
                        let sleeps_until = it.sleeps_until;
                        self.push(sleeps_until, Happening::Wake(node));
                    } else if it.wake_at.is_some_and(|wanted| wanted <= at) {
                        self.run(node);
                    }
                }
            }
        }
        self.pass(end);
    }

    /// One thing goes wrong, or right again.
    fn disturb(&mut self) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let some = |rng: &mut Rng, interval| rng.below(6 * interval);
        let kind = self.rng.below(9);
        let line = format!("{} {node}: disturbance {kind}", self.now);
        self.trace.push(line);
        match kind {
            // The process sleeps: SIGSTOP, or a CPU that others have.
            0 | 1 => {
                let sleep = some(&mut self.rng, self.interval);
                self.nodes[node].sleeps_until = self.now + sleep;
                self.wrong_until(self.now + sleep);
            }
            // The clock jumps.
            2 => {
                self.nodes[node].ahead += some(&mut self.rng, self.interval);
                self.nodes[node].jumped = self.now;
                self.push(self.now, Happening::Wake(node));
                self.nodes[node].wake_at = self.nodes[node].wake_at.map(|_| self.now);
                self.wrong_until(self.now);
            }
            // The link parts, and heals.
            3 => {
                self.side[node] ^= 1;
                self.whole_since = self.now;
            }
            4 => {
                self.loss = self.rng.below(60);
                self.whole_since = self.now;
            }
            // A crash; its lease goes on.
            5 => {
                self.nodes[node].machine = None;
                self.nodes[node].wake_at = None;
                self.wrong_until(self.now);
            }
            // Another process of the same box, which knows what the one before sent last.
            6 => {
                let before = self.nodes[node].machine.take();
                let last_sent = before.and_then(|machine| machine.last_sent());
                self.nodes[node].sleeps_until = 0;
                self.begin(node, last_sent);
                self.wrong_until(self.now);
            }
            // An orderly end.
            7 => {
                let now = self.local(node);
                if let Some(machine) = &mut self.nodes[node].machine {
                    machine.stop(now);
                    self.carry_out(node);
                    self.nodes[node].machine = None;
                    self.nodes[node].wake_at = None;
                    self.wrong_until(self.now);
                }
            }
            // Health: no disturbance of who answers at all.
            _ => {
                let demotion = [0, 0, 1, 5, 128][self.rng.below(5) as usize];
                if self.now >= self.nodes[node].sleeps_until {
                    self.demote(node, demotion);
                }
            }
        }
    }

    fn demote(&mut self, node: usize, demotion: u32) {
        if self.now < self.changed + 2 * (self.delay + self.late) {
            // Adverts of two changes cross: each of two may yield to the other, and nobody answers for a skew.
            self.wrong_until(self.now);
        }
        let now = self.local(node);
        let it = &mut self.nodes[node];
        it.demotion = demotion;
        if let Some(machine) = &mut it.machine {
            machine.set_demotion(demotion, now);
        }
        self.carry_out(node);
    }

    /// Everything is well again, and every box takes part.
    fn mend(&mut self) {
        self.loss = 0;
        self.side.fill(0);
        self.whole_since = self.now;
        self.wrong_until(self.now);
        for node in 0..self.nodes.len() {
            if self.nodes[node].machine.is_none() {
                self.begin(node, None);
            }
        }
    }

    fn masters(&self) -> Vec<usize> {
        let is_master = |node: &usize| {
            let machine = self.nodes[*node].machine.as_ref();
            machine.is_some_and(|machine| machine.state() == State::Master)
        };
        (0..self.nodes.len()).filter(is_master).collect()
    }
}

/// A seed that fails tells what it was and what happened.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what: Vec<_> = self.nodes.iter().map(|node| &node.config).collect();
            eprintln!("{what:#?}\n{}", self.trace.join("\n"));
        }
    }
}

/// What a seed has seen, so that it can be told whether the seeds see enough.
fn play(seed: u64) -> (u32, Micros) {
    let mut world = World::new(seed);
    let interval = world.interval;
    for _ in 0..4 {
        for _ in 0..1 + world.rng.below(5) {
            world.disturb();
            let pause = world.rng.below(5 * interval);
            world.go(pause);
        }
        // Links as they are, with all that is wrong: what is bounded is bounded.
        world.mend();
        let wait = world.calm_since - world.now + world.settled();
        world.go(wait + 4 * interval);
        if world.masters().len() > 1 {
            // It changes hands just now.
            world.go(2 * (world.delay + world.late));
        }
        let masters = world.masters();
        assert_eq!(masters.len(), 1, "masters at {}: {masters:?}", world.now);
        // Of those that could be better: who is demoted more is not master.
        let least = world.nodes.iter().map(|node| announced(10, node.demotion)).max();
        let master = &world.nodes[masters[0]];
        assert_eq!(
            Some(announced(10, master.demotion)),
            least,
            "{} is demoted",
            masters[0]
        );
        // Health alone moves the mastership without anybody missing it.
        for _ in 0..world.rng.below(3) {
            let node = world.rng.below(world.nodes.len() as u64) as usize;
            let demotion = world.rng.below(3) as u32;
            world.demote(node, demotion);
            let pause = world.rng.below(6 * interval);
            world.go(pause);
        }
    }
    (world.changes, world.longest_both)
}

fn play_all(seeds: std::ops::Range<u64>) -> (u32, u32) {
    let (mut changes, mut overlaps) = (0, 0);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        let Ok((seen, both)) = played else {
            panic!("seed {seed}");
        };
        changes += seen;
        overlaps += u32::from(both > 0);
    }
    (changes, overlaps)
}

#[test]
fn thousands_of_seeds() {
    let (changes, overlaps) = play_all(0..3_000);
    assert!(
        changes > 30_000,
        "only {changes} changes: the seeds see too little"
    );
    assert!(
        overlaps > 300,
        "only {overlaps} seeds in which a master handed over by overlapping"
    );
}
