//! The machine of one backend: what its state becomes by a check's result.
//!
//! Owns the states' transitions and the runs of successes and failures behind them. Never reads a clock, never decides
//! when to check (`health::schedule`) and knows nothing of the operator's wish (`engine` lays it over the state).

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    health::{Failure, State, Word},
    ids::BackendKey,
};

/// What happens to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A check passed.
    Passed,
    /// A check failed.
    Failed,
    /// Its pool has no check (any more).
    Unchecked,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::Unchecked];
}

/// How many results in a row decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// State of one backend, and the run of equal results that led there.
///
/// ```text
///                  rise × passed
///      ┌─────────┐───────────────▶┌────┐◀───────────────┐
///  ───▶│ PENDING │                │ UP │                │ rise × passed in a row,
///      └─────────┘                └────┘                │ the one that left DOWN included
///           │ fall × failed          │ fall × failed    │
///           ▼                        ▼        passed    │
///         ┌────────────────────────────┐────────────▶┌───────────┐
///         │            DOWN            │             │ PROBATION │
///         └────────────────────────────┘◀────────────└───────────┘
///                                          failed
/// ```
///
/// "× passed" and "× failed" mean in a row. With `rise = 1` the success that would lead from DOWN to PROBATION leads to
/// UP at once. Whatever the state, a backend without a check is UP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    state: State,
    successes: u32,
    failures: u32,
}

impl Machine {
    /// A backend in that state, with no results counted yet.
    pub const fn new(state: State) -> Self {
        Self {
            state,
            successes: 0,
            failures: 0,
        }
    }

    /// The state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Checks passed in a row, up to now.
    pub const fn successes(&self) -> u32 {
        self.successes
    }

    /// Checks failed in a row, up to now.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Forgets the run of results, not the state: another check is another question.
    pub const fn forget_run(&mut self) {
        self.successes = 0;
        self.failures = 0;
    }

    /// Takes an event in. The state before it, if it changed.
    pub fn handle(&mut self, event: Event, thresholds: Thresholds) -> Option<State> {
        match event {
            Event::Passed => (self.successes, self.failures) = (self.successes.saturating_add(1), 0),
            Event::Failed => (self.successes, self.failures) = (0, self.failures.saturating_add(1)),
            Event::Unchecked => self.forget_run(),
        }
        let risen = self.successes >= thresholds.rise;
        let fallen = self.failures >= thresholds.fall;
        let next = match (self.state, event) {
            (State::Pending, Event::Passed) if risen => State::Up,
            (State::Pending, Event::Passed) => State::Pending,
            (State::Pending, Event::Failed) if fallen => State::Down,
            (State::Pending, Event::Failed) => State::Pending,
            (State::Pending, Event::Unchecked) => State::Up,
            (State::Up, Event::Passed) => State::Up,
            (State::Up, Event::Failed) if fallen => State::Down,
            (State::Up, Event::Failed) => State::Up,
            (State::Up, Event::Unchecked) => State::Up,
            (State::Down, Event::Passed) if risen => State::Up,
            (State::Down, Event::Passed) => State::Probation,
            (State::Down, Event::Failed) => State::Down,
            (State::Down, Event::Unchecked) => State::Up,
            (State::Probation, Event::Passed) if risen => State::Up,
            (State::Probation, Event::Passed) => State::Probation,
            (State::Probation, Event::Failed) => State::Down,
            (State::Probation, Event::Unchecked) => State::Up,
        };
        let before = std::mem::replace(&mut self.state, next);
        (before != next).then_some(before)
    }
}

/// Why a backend's word is what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It is new, nothing is known yet.
    Added,
    /// Its pool has no check: it counts as up.
    Unchecked,
    /// Its checks passed.
    Passed,
    /// Its check failed, the last time like this.
    Failed(Failure),
    /// An operator set it ready, drain or maint.
    Operator,
    /// It was so when the control process before this one ended; with the text of the cause then.
    Restored(Arc<str>),
}

impl Cause {
    /// The cause as one word, for metrics and logs: bounded.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Unchecked => "unchecked",
            Self::Passed => "passed",
            Self::Failed(failure) => failure.cause(),
            Self::Operator => "operator",
            Self::Restored(_) => "restored",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("new, not checked yet"),
            Self::Unchecked => f.write_str("no check configured"),
            Self::Passed => f.write_str("check passed"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Operator => f.write_str("set by the operator"),
            Self::Restored(text) => f.write_str(text),
        }
    }
}

/// A change of a backend's word, to be logged once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// Which backend.
    pub key: BackendKey,
    /// The word before.
    pub from: Word,
    /// The word now.
    pub to: Word,
    /// Why.
    pub cause: Cause,
    /// Checks passed in a row at that moment.
    pub successes: u32,
    /// Checks failed in a row at that moment.
    pub failures: u32,
    /// How long the word before had lasted.
    pub in_state: Duration,
}

#[cfg(test)]
mod tests;
