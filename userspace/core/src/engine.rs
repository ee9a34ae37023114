//! The engine: what is wanted (the plan), what is known of each backend, and what follows.
//!
//! Owns every backend's machine, schedule and operator's wish, keyed by [`BackendKey`]: a reload neither forgets nor
//! checks anew what stays. Never does anything itself: what is to be done comes out of [`Engine::poll_output`] as
//! values. The `weir` binary carries them out: probes go to the health process, pools to ring and relay, transitions to
//! the log. It feeds results and the clock back in. On waking it hands in the results it has got *before* it calls
//! [`Engine::handle_timeout`].

mod member;
mod origin;
mod usable;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    member::{Effects, Member},
    view::last_check,
};
pub use self::{
    usable::{Usable, usable},
    view::{BackendView, LastCheck, PoolView},
};
use crate::{
    health::{Admin, Failure, Outcome, ProbeResult, Word, machine::Transition, rng::Rng, schedule::Due},
    ids::{BackendKey, Interface, PoolName},
    plan::{Backend, CheckKind, Plan, Pool, Service},
    proxy::Version,
};

/// Name of one probe. Never used twice, nor (but for odds of 1 : 2^50) by two engines after one another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ProbeId(pub u64);

/// One probe to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeRequest {
    /// To be named with the result.
    pub id: ProbeId,
    /// Whose health is asked for.
    pub key: BackendKey,
    /// Where to connect to: the backend's address with the check's port.
    pub target: SocketAddr,
    /// What to ask.
    pub kind: CheckKind,
    /// What it is bound to before it connects: the first of these that the system lets it have; port 0 is the system's
    /// choice. Empty: nothing.
    pub from: Vec<SocketAddr>,
    /// The interface that it leaves by. None: as the routes say.
    pub interface: Option<Interface>,
    /// Version of the PROXY header that its connection begins with.
    pub proxy: Option<Version>,
    /// The probe fails if it takes longer.
    pub timeout: Duration,
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Run this probe and hand its result to [`Engine::probe_finished`].
    StartProbe(ProbeRequest),
    /// The result of this probe is of no use any more: stop it.
    CancelProbe(ProbeId),
    /// A backend's word changed: log it.
    Transition(Transition),
    /// What the users of this pool may do changed: write its rings, tell the relay. Comes after the transitions that
    /// led to it, once however many they are. Not for pools that left the plan.
    PoolChanged(PoolName),
}

/// No backend of this name is in the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownBackend(pub BackendKey);

impl std::fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "no backend {} is configured; `weir pools` lists them all",
            self.0
        )
    }
}

impl std::error::Error for UnknownBackend {}

/// What a control process passes on to its successor, for each backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Which backend.
    pub key: BackendKey,
    /// Its word.
    pub word: Word,
    /// Text of the cause.
    pub cause: Arc<str>,
    /// How long the word had lasted. Whoever stores this adds the time until it is restored.
    pub lasted: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    plan: Option<Arc<Plan>>,
    members: BTreeMap<BackendKey, Member>,
    /// One entry for every member that waits for something: the earliest is when the engine wants to be called.
    timers: BTreeSet<(Instant, BackendKey)>,
    effects: Effects,
    /// What each pool's users were told last.
    published: BTreeMap<PoolName, Vec<(SocketAddr, Usable)>>,
    saved: BTreeMap<BackendKey, Saved>,
}

impl Engine {
    /// An engine without a plan. The seed feeds jitter and probe ids: random in service, fixed in a replay.
    pub fn new(seed: u64) -> Self {
        Self {
            plan: None,
            members: BTreeMap::new(),
            timers: BTreeSet::new(),
            effects: Effects::new(Rng::new(seed)),
            published: BTreeMap::new(),
            saved: BTreeMap::new(),
        }
    }

    /// Takes over what a predecessor [exported](Self::export). To be called before the first [`Self::apply`]: its
    /// backends begin with these words instead of as pending, and are checked at once. Others are dropped there.
    pub fn restore(&mut self, saved: impl IntoIterator<Item = Saved>) {
        self.saved = saved.into_iter().map(|s| (s.key.clone(), s)).collect();
    }

    /// What a successor needs to go on: every backend's word.
    pub fn export(&self, now: Instant) -> Vec<Saved> {
        self.members
            .iter()
            .map(|(key, member)| Saved {
                key: key.clone(),
                word: member.word(),
                cause: member.cause.to_string().into(),
                lasted: now.saturating_duration_since(member.since),
            })
            .collect()
    }

    /// Puts a plan in place of the one before.
    ///
    /// Backends that stay keep state, wish, counters and schedule; if their check changed they keep the state and are
    /// checked by the new one soon. New ones are pending (or, without a check, up). Removed ones vanish, probes of
    /// theirs are cancelled.
    pub fn apply(&mut self, plan: Arc<Plan>, now: Instant) {
        let wanted: BTreeMap<&BackendKey, &Pool> = plan
            .pools
            .iter()
            .flat_map(|pool| pool.backends.iter().map(|b| (&b.key, &**pool)))
            .collect();

        let gone: Vec<_> = self
            .members
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .cloned()
            .collect();
        for key in gone {
            self.with(&key, |member, effects| member.halt(effects));
            self.members.remove(&key);
        }

        let mut begin = Vec::new();
        for (&key, pool) in &wanted {
            if !self.members.contains_key(key) {
                let member = match self.saved.remove(key) {
                    Some(saved) => Member::restored(saved, now),
                    None => Member::added(now),
                };
                let member = member.in_turn(&mut self.effects);
                self.members.insert(key.clone(), member);
            }
            let begins = self.with(key, |member, effects| {
                member.follow(pool);
                member.set_check(key, pool.check.as_ref(), now, effects)
            });
            if begins == Some(true) {
                begin.push(key);
            }
        }
        self.saved.clear();

        let count = u32::try_from(begin.len()).unwrap_or(u32::MAX);
        for (index, key) in (0..).zip(begin) {
            self.with(key, |member, effects| member.begin(index, count, now, effects));
        }

        self.published.retain(|name, _| plan.pool(name).is_some());
        self.effects.touched = plan.pools.iter().map(|p| p.name.clone()).collect();
        self.plan = Some(plan);
    }

    /// The plan in place.
    pub const fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// Sets what the operator wants of a backend. Checks go on whatever is wanted, so that its state is known when it
    /// is set ready again. Errors if the plan has no such backend.
    pub fn set_admin(&mut self, key: &BackendKey, admin: Admin, now: Instant) -> Result<(), UnknownBackend> {
        self.with(key, |member, effects| member.set_admin(key, admin, now, effects))
            .ok_or_else(|| UnknownBackend(key.clone()))
    }

    /// Takes a probe's result. Ignored if nobody waits for it any more: cancelled, lost, or asked by another engine.
    pub fn probe_finished(&mut self, id: ProbeId, result: ProbeResult, now: Instant) {
        if let Some(key) = self.effects.flights.get(&id).cloned() {
            self.with(&key, |member, effects| {
                member.finished(&key, result, now, effects)
            });
        }
    }

    /// The process that ran the probes is gone, and what it ran with it: all that was under way starts again, at once,
    /// with new ids, for the process started in its place. Says nothing about the backends.
    pub fn probes_lost(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.effects.flights).into_values() {
            self.with(&key, |member, effects| member.start(&key, now, effects));
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Ends: whatever is started or put off is due later than `now`.
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            let known = self.with(&key, |member, effects| match member.schedule.expire(now) {
                Due::Nothing => {}
                Due::Start => member.start(&key, now, effects),
                Due::Lost(id, took) => {
                    effects.outputs.push_back(Output::CancelProbe(id));
                    let outcome = Outcome::Failed(Failure::Internal("no result".into()));
                    member.finished(&key, ProbeResult { outcome, took }, now, effects);
                }
            });
            debug_assert!(known.is_some(), "a timer without a member");
            if known.is_none() {
                self.timers.pop_first();
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called next. None: not before something else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What is to be done next. To be called until None after every call that takes `&mut self`.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.effects.outputs.pop_front() {
            return Some(output);
        }
        while let Some(name) = self.effects.touched.pop_first() {
            let Some(pool) = self.plan.as_ref().and_then(|plan| plan.pool(&name)) else {
                continue;
            };
            let now: Vec<_> = pool
                .backends
                .iter()
                .map(|b| b.key.address)
                .zip(self.usable_of(pool))
                .collect();
            if self.published.get(&name) != Some(&now) {
                self.published.insert(name.clone(), now);
                return Some(Output::PoolChanged(name));
            }
        }
        None
    }

    /// The word of a backend. None if the plan has no such backend.
    pub fn word(&self, key: &BackendKey) -> Option<Word> {
        self.members.get(key).map(Member::word)
    }

    /// The words of a pool's backends, in order of the plan. None if the plan has no such pool.
    pub fn words(&self, pool: &PoolName) -> Option<Vec<Word>> {
        Some(self.words_of(self.plan.as_ref()?.pool(pool)?))
    }

    /// What each backend of a pool may be used for, in order of the plan: see [`usable()`]. None if the plan has no such
    /// pool.
    pub fn usable(&self, pool: &PoolName) -> Option<Vec<Usable>> {
        Some(self.usable_of(self.plan.as_ref()?.pool(pool)?))
    }

    /// Whether a service can serve: a backend of a pool that its traffic may go to takes new traffic. One whose rules
    /// answer everything needs none.
    pub fn serves(&self, service: &Service) -> bool {
        let pools = service.pools();
        let takes = |usable: &[Usable]| usable.iter().any(|u| u.alive && u.weight > 0);
        pools.is_empty()
            || pools
                .into_iter()
                .any(|pool| self.usable(pool).is_some_and(|usable| takes(&usable)))
    }

    /// How many backends of a pool are up and ready, backups included. 0 if the plan has no such pool.
    pub fn healthy(&self, pool: &PoolName) -> usize {
        self.words(pool)
            .map_or(0, |words| words.iter().filter(|w| w.takes_new()).count())
    }

    /// All pools, in order of the plan, for status and metrics.
    pub fn pools(&self) -> impl Iterator<Item = PoolView<'_>> {
        self.plan
            .iter()
            .flat_map(|plan| &plan.pools)
            .map(|pool| self.view(pool))
    }

    /// One pool. None if the plan has no such pool.
    pub fn pool(&self, name: &PoolName) -> Option<PoolView<'_>> {
        Some(self.view(self.plan.as_ref()?.pool(name)?))
    }

    fn view<'a>(&'a self, pool: &'a Arc<Pool>) -> PoolView<'a> {
        let usable = self.usable_of(pool);
        let view = |(backend, usable): (&'a Backend, Usable)| {
            let member = self.members.get(&backend.key)?;
            Some(BackendView {
                backend,
                word: member.word(),
                usable,
                cause: &member.cause,
                since: member.since,
                successes: member.machine.successes(),
                failures: member.machine.failures(),
                last: last_check(member),
                next_check: member.schedule.next_check(),
                passed: member.passed,
                failed: member.failed,
                transitions: member.transitions,
            })
        };
        let backends: Vec<_> = pool.backends.iter().zip(usable).filter_map(view).collect();
        let healthy = backends.iter().filter(|b| b.word.takes_new()).count();
        PoolView {
            pool,
            healthy,
            backends,
        }
    }

    fn words_of(&self, pool: &Pool) -> Vec<Word> {
        pool.backends
            .iter()
            .map(|b| self.word(&b.key).unwrap_or(Word::PENDING))
            .collect()
    }

    fn usable_of(&self, pool: &Pool) -> Vec<Usable> {
        usable(pool, &self.words_of(pool))
    }

    /// Works on one member and keeps its timer in step: the only way to change a schedule.
    fn with<R>(&mut self, key: &BackendKey, work: impl FnOnce(&mut Member, &mut Effects) -> R) -> Option<R> {
        let member = self.members.get_mut(key)?;
        let before = member.schedule.timer();
        let result = work(member, &mut self.effects);
        let after = member.schedule.timer();
        if before != after {
            if let Some(at) = before {
                self.timers.remove(&(at, key.clone()));
            }
            if let Some(at) = after {
                self.timers.insert((at, key.clone()));
            }
        }
        Some(result)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
