//! What the engine shows of itself, for status, metrics and the command line.
//!
//! Owns the shapes. Never formats: whoever shows them does.

use std::{sync::Arc, time::Instant};

use crate::{
    engine::{Usable, member::Member},
    health::{ProbeResult, Word, machine::Cause},
    plan::{Backend, Pool},
};

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolView<'a> {
    /// As planned.
    pub pool: &'a Arc<Pool>,
    /// Backends that are up and ready, backups included.
    pub healthy: usize,
    /// Its backends, in order of the plan.
    pub backends: Vec<BackendView<'a>>,
}

/// A backend.
#[derive(Clone, Debug)]
pub struct BackendView<'a> {
    /// As planned.
    pub backend: &'a Backend,
    /// What is known and wanted.
    pub word: Word,
    /// What follows for its use.
    pub usable: Usable,
    /// Why the word is what it is.
    pub cause: &'a Cause,
    /// Since when.
    pub since: Instant,
    /// Checks passed in a row, up to now.
    pub successes: u32,
    /// Checks failed in a row, up to now.
    pub failures: u32,
    /// The check that ended last.
    pub last: Option<LastCheck<'a>>,
    /// When the next check starts; None while one is under way, or without a check.
    pub next_check: Option<Instant>,
    /// Checks passed since the backend was added.
    pub passed: u64,
    /// Checks failed since then.
    pub failed: u64,
    /// Changes of its word since then.
    pub transitions: u64,
}

/// A check that ended.
#[derive(Clone, Copy, Debug)]
pub struct LastCheck<'a> {
    /// Its result.
    pub result: &'a ProbeResult,
    /// When the result came in.
    pub at: Instant,
}

pub(super) fn last_check(member: &Member) -> Option<LastCheck<'_>> {
    member
        .last
        .as_ref()
        .map(|(result, at)| LastCheck { result, at: *at })
}
