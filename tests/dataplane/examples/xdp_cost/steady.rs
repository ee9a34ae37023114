//! Rounds that the machine did not disturb.
//!
//! A virtual machine's clock changes under a bench, by half and for seconds, and neighbours take its caches. So each round of
//! a case is put between two rounds of its floor, which is the same for all cases of a kind: it counts if both took about
//! the least time that this floor has taken in the whole run. What is left out is counted and reported, not hidden.

use std::collections::HashMap;

use anyhow::Result;
use weir_dataplane_tests::floor::Refill;

use crate::round;

/// How much longer than its least a floor may take.
const SLACK: f64 = 1.12;
/// Rounds that are enough, undisturbed.
const ENOUGH: usize = 7;
/// Rounds that are tried for it.
const TRIES: usize = 21;

/// What a floor depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) v4: bool,
    pub(crate) flows: u32,
    pub(crate) resizes: bool,
}

/// One round: the worse floor around it, the one before, and the case.
#[derive(Clone, Copy)]
struct Round {
    worse: f64,
    floor: f64,
    cost: f64,
}

/// What a case's rounds came to.
pub(crate) struct Rounds {
    pub(crate) floors: Vec<f64>,
    pub(crate) costs: Vec<f64>,
    /// The worst floor beside them.
    pub(crate) worst: f64,
    /// Rounds of the case, with those that do not count.
    pub(crate) tried: u32,
}

/// The least time of each floor, and what it was asked for.
#[derive(Default)]
pub(crate) struct Steady {
    least: HashMap<Kind, f64>,
    /// Rounds that did not count.
    pub(crate) left_out: u32,
    /// All rounds.
    pub(crate) rounds: u32,
}

impl Steady {
    /// Measures a case beside its floor.
    pub(crate) fn measure(&mut self, kind: Kind, floor: &Refill, case: &Refill) -> Result<Rounds> {
        let mut rounds: Vec<Round> = Vec::new();
        let mut before = self.floor(kind, floor)?;
        for _ in 0..TRIES {
            let cost = round(case)?;
            let after = self.floor(kind, floor)?;
            rounds.push(Round {
                worse: before.max(after),
                floor: before,
                cost,
            });
            before = after;
            if self.good(kind, &rounds) >= ENOUGH {
                break;
            }
        }
        rounds.sort_by(|a, b| a.worse.total_cmp(&b.worse));
        let tried = rounds.len();
        rounds.truncate(self.good(kind, &rounds).max(ENOUGH));
        self.rounds += tried as u32;
        self.left_out += (tried - rounds.len()) as u32;
        Ok(Rounds {
            floors: rounds.iter().map(|round| round.floor).collect(),
            costs: rounds.iter().map(|round| round.cost).collect(),
            worst: rounds.last().map_or(f64::INFINITY, |round| round.worse),
            tried: tried as u32,
        })
    }

    /// Whether rounds beside such a floor are of a disturbed machine, by all that is known by now.
    pub(crate) fn disturbed(&self, kind: Kind, worst: f64) -> bool {
        worst > self.bound(kind)
    }

    fn floor(&mut self, kind: Kind, floor: &Refill) -> Result<f64> {
        let took = round(floor)?;
        let least = self.least.entry(kind).or_insert(took);
        *least = least.min(took);
        Ok(took)
    }

    fn good(&self, kind: Kind, rounds: &[Round]) -> usize {
        let bound = self.bound(kind);
        rounds.iter().filter(|round| round.worse <= bound).count()
    }

    fn bound(&self, kind: Kind) -> f64 {
        self.least.get(&kind).copied().unwrap_or(f64::INFINITY) * SLACK
    }
}
