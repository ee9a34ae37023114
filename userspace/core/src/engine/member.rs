//! What the engine keeps of one backend, and what each event does to it.
//!
//! Owns the order of things when a check ends or a wish changes: counters, machine, transition, next check. Never sets
//! a timer (`Engine::with` does, from the schedule).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use crate::{
    engine::{Output, ProbeId, ProbeRequest, Saved, origin::Origin},
    health::{
        Admin, Failure, Outcome, ProbeResult, State, Word,
        machine::{Cause, Event, Machine, Thresholds, Transition},
        rng::Rng,
        schedule::Schedule,
    },
    ids::{BackendKey, Interface, PoolName},
    plan::{Check, Pool},
};

/// What all members share.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) outputs: VecDeque<Output>,
    /// Pools whose backends may be usable otherwise than before.
    pub(super) touched: BTreeSet<PoolName>,
    /// Every probe whose result is waited for.
    pub(super) flights: BTreeMap<ProbeId, BackendKey>,
    rng: Rng,
    next_id: u64,
}

impl Effects {
    pub(super) fn new(mut rng: Rng) -> Self {
        // A random beginning: the health process may outlive the control process, and a result it still owes to the
        // one before must not pass for one of ours. 52 bits, so that a reader of JSON takes it as it is.
        let next_id = rng.next() >> 12;
        let (outputs, touched, flights) = (VecDeque::new(), BTreeSet::new(), BTreeMap::new());
        Self {
            outputs,
            touched,
            flights,
            rng,
            next_id,
        }
    }
}

/// One backend.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) machine: Machine,
    pub(super) schedule: Schedule,
    admin: Admin,
    check: Option<Check>,
    origin: Origin,
    /// The interface that its checks leave by.
    interface: Option<Interface>,
    /// Since when the word is what it is, and why.
    pub(super) since: Instant,
    pub(super) cause: Cause,
    pub(super) last: Option<(ProbeResult, Instant)>,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) transitions: u64,
}

impl Member {
    /// A backend nothing is known of.
    pub(super) const fn added(now: Instant) -> Self {
        Self {
            machine: Machine::new(State::Pending),
            schedule: Schedule::idle(),
            admin: Admin::Ready,
            check: None,
            origin: Origin::nowhere(0),
            interface: None,
            since: now,
            cause: Cause::Added,
            last: None,
            passed: 0,
            failed: 0,
            transitions: 0,
        }
    }

    /// A backend that an engine before this one knew.
    pub(super) fn restored(saved: Saved, now: Instant) -> Self {
        Self {
            machine: Machine::new(saved.word.state),
            admin: saved.word.admin,
            since: now.checked_sub(saved.lasted).unwrap_or(now),
            cause: Cause::Restored(saved.cause),
            ..Self::added(now)
        }
    }

    /// Its checks begin anywhere among their source ports: where an engine before this one was is not known.
    pub(super) fn in_turn(mut self, effects: &mut Effects) -> Self {
        self.origin = Origin::nowhere(effects.rng.next());
        self
    }

    /// Its checks come from where its pool's connections do.
    pub(super) fn follow(&mut self, pool: &Pool) {
        self.origin.follow(pool.source.as_ref());
        self.interface = pool.interface;
    }

    pub(super) const fn word(&self) -> Word {
        Word {
            state: self.machine.state(),
            admin: self.admin,
        }
    }

    /// Stops checking.
    pub(super) fn halt(&mut self, effects: &mut Effects) {
        if let Some(id) = self.schedule.flight() {
            effects.flights.remove(&id);
            effects.outputs.push_back(Output::CancelProbe(id));
        }
        self.schedule = Schedule::idle();
    }

    /// Sets how it is checked. True if checks are to [begin](Self::begin): they are new or changed.
    pub(super) fn set_check(
        &mut self,
        key: &BackendKey,
        check: Option<&Check>,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        if check.is_some() && self.check.as_ref() == check {
            return false;
        }
        self.halt(effects);
        self.check = check.cloned();
        self.machine.forget_run();
        if check.is_none() {
            self.event(key, Event::Unchecked, Cause::Unchecked, now, effects);
        }
        check.is_some()
    }

    /// Begins to check, as the `index`-th of `count`.
    pub(super) fn begin(&mut self, index: u32, count: u32, now: Instant, effects: &mut Effects) {
        if let Some(check) = &self.check {
            self.schedule.begin(check, index, count, now, &mut effects.rng);
        }
    }

    /// Starts a check now.
    pub(super) fn start(&mut self, key: &BackendKey, now: Instant, effects: &mut Effects) {
        let Some(check) = &self.check else { return };
        let id = ProbeId(effects.next_id);
        effects.next_id = effects.next_id.wrapping_add(1);
        effects.flights.insert(id, key.clone());
        self.schedule.started(id, check, now);
        let mut target = key.address;
        if let Some(port) = check.port {
            target.set_port(port);
        }
        effects.outputs.push_back(Output::StartProbe(ProbeRequest {
            id,
            key: key.clone(),
            target,
            kind: check.kind.clone(),
            from: self.origin.next(target),
            interface: self.interface,
            proxy: check.proxy,
            timeout: check.timeout,
        }));
    }

    /// The check under way has ended.
    pub(super) fn finished(
        &mut self,
        key: &BackendKey,
        result: ProbeResult,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let Some(id) = self.schedule.flight() {
            effects.flights.remove(&id);
        }
        let (event, cause) = match &result.outcome {
            Outcome::Passed => (Event::Passed, Cause::Passed),
            Outcome::Failed(failure) => (Event::Failed, Cause::Failed(failure.clone())),
        };
        match event {
            Event::Passed => self.passed += 1,
            Event::Failed => self.failed += 1,
            Event::Unchecked => {}
        }
        // A check that could not be made says nothing of the backend: its state stays, whoever looks sees why.
        let about_us = matches!(result.outcome, Outcome::Failed(Failure::Internal(_)));
        self.last = Some((result, now));
        if !about_us {
            self.event(key, event, cause, now, effects);
        }
        if let Some(check) = &self.check {
            self.schedule
                .ended(check, self.machine.state(), now, &mut effects.rng);
        }
    }

    pub(super) fn set_admin(&mut self, key: &BackendKey, admin: Admin, now: Instant, effects: &mut Effects) {
        let from = self.word();
        self.admin = admin;
        self.changed(key, from, Cause::Operator, now, effects);
    }

    fn event(&mut self, key: &BackendKey, event: Event, cause: Cause, now: Instant, effects: &mut Effects) {
        // Without a check no threshold is asked.
        let thresholds = self
            .check
            .as_ref()
            .map_or(Thresholds { rise: 1, fall: 1 }, |check| Thresholds {
                rise: check.rise,
                fall: check.fall,
            });
        let from = self.word();
        self.machine.handle(event, thresholds);
        self.changed(key, from, cause, now, effects);
    }

    /// Reports a changed word.
    fn changed(&mut self, key: &BackendKey, from: Word, cause: Cause, now: Instant, effects: &mut Effects) {
        let to = self.word();
        if from == to {
            return;
        }
        let in_state = now.saturating_duration_since(self.since);
        self.since = now;
        self.cause = cause.clone();
        self.transitions += 1;
        effects.touched.insert(key.pool.clone());
        effects.outputs.push_back(Output::Transition(Transition {
            key: key.clone(),
            from,
            to,
            cause,
            successes: self.machine.successes(),
            failures: self.machine.failures(),
            in_state,
        }));
    }
}
