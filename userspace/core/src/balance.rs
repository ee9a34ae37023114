//! The relay's choice of a backend, request by request.
//!
//! Owns the algorithms and their state, which each worker keeps for itself: no locks, and no allocation while it
//! chooses. Never decides who may be chosen (`engine::usable` does, by weight) and never counts what is in flight (the
//! relay does, over all workers): both are read through [`Candidates`] at the moment of the choice.

mod tried;

pub use self::tried::Tried;
use crate::plan::Balance;

/// What the choice is made from: the backends of one pool, by their place in the plan.
pub trait Candidates {
    /// How many there are.
    fn count(&self) -> usize;

    /// Share of new traffic; 0 for one that may not take any now. Called once per choice for each candidate.
    fn weight(&self, index: usize) -> u16;

    /// Requests (or connections) it has now, of all workers. Called once at the most per choice for each candidate, and
    /// only where it matters.
    fn in_flight(&self, index: usize) -> u32;

    /// Whether it can't take this one now, though it may take others before long. Unlike a weight of 0 this leaves its
    /// share as it is. Called once at the most per choice for each candidate.
    fn is_full(&self, _index: usize) -> bool {
        false
    }
}

/// One worker's state for one pool.
///
/// A pool whose backends became others by a reload wants a new one.
#[derive(Clone, Debug)]
pub struct Balancer {
    balance: Balance,
    slots: Vec<Slot>,
    /// Where ties begin to be broken: spreads the workers' first choices over the backends.
    first: usize,
}

/// What is kept for one backend.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// How far behind (positive) or ahead (negative) of its share it is. All slots sum up to 0.
    current: i64,
    /// The weight at the last choice.
    weight: u16,
    /// Whether this choice may fall on it.
    open: bool,
    /// What it had in flight when this choice began.
    in_flight: u32,
}

impl Balancer {
    /// State for a pool of `backends` backends, kept by the `worker`-th worker. Workers begin with different backends,
    /// so that a start, or a change of health, does not send the first request of each to the same one.
    pub fn new(balance: Balance, backends: usize, worker: usize) -> Self {
        Self {
            balance,
            slots: vec![Slot::default(); backends],
            first: worker.checked_rem(backends).unwrap_or(0),
        }
    }

    /// Chooses a backend with a weight that was not tried yet and is not full. None if there is none.
    ///
    /// Round-robin: the smooth weighted one that nginx published. Of any `sum of weights` choices in a row that begin
    /// after a change of weights, each backend gets exactly its weight, spread as evenly as can be.
    ///
    /// Least connections: the smallest `in flight / weight`; of several, by that round-robin among them.
    ///
    /// Linear in the number of backends.
    pub fn pick(&mut self, candidates: &impl Candidates, tried: &Tried) -> Option<usize> {
        self.look(candidates, tried);
        match self.balance {
            Balance::RoundRobin => {}
            Balance::LeastConnections => self.keep_least_loaded(candidates),
        }
        self.next_in_turn()
    }

    /// Notes who may be chosen. Changed weights begin a new round: what a backend was owed by another distribution
    /// means nothing in this one.
    fn look(&mut self, candidates: &impl Candidates, tried: &Tried) {
        let mut changed = self.slots.len() != candidates.count();
        if changed {
            self.slots.resize(candidates.count(), Slot::default());
            self.first = self.first.checked_rem(self.slots.len()).unwrap_or(0);
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let weight = candidates.weight(index);
            changed |= weight != slot.weight;
            slot.weight = weight;
            slot.open = weight > 0 && !tried.contains(index) && !candidates.is_full(index);
        }
        if changed {
            self.slots.iter_mut().for_each(|slot| slot.current = 0);
        }
    }

    /// Leaves only those open whose load is smallest.
    fn keep_least_loaded(&mut self, candidates: &impl Candidates) {
        let mut least: Option<Slot> = None;
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.open) {
            slot.in_flight = candidates.in_flight(index);
            if least.is_none_or(|least| slot.load_against(&least).is_lt()) {
                least = Some(*slot);
            }
        }
        let Some(least) = least else { return };
        for slot in &mut self.slots {
            slot.open &= slot.load_against(&least).is_le();
        }
    }

    /// Smooth weighted round-robin over the open slots: each gains its weight, the one that is owed most is chosen and
    /// pays for all of them.
    fn next_in_turn(&mut self) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        let (before, from) = self.slots.split_at_mut_checked(self.first)?;
        let offset = before.len();
        let in_turn = from.iter_mut().zip(offset..).chain(before.iter_mut().zip(0..));
        for (slot, index) in in_turn.filter(|(slot, _)| slot.open) {
            let weight = i64::from(slot.weight);
            slot.current += weight;
            total += weight;
            if best.is_none_or(|(_, owed)| slot.current > owed) {
                best = Some((index, slot.current));
            }
        }
        let (index, _) = best?;
        self.slots.get_mut(index)?.current -= total;
        Some(index)
    }
}

impl Slot {
    /// Compares `in flight / weight` without a division. Both weights are over 0 where it is asked.
    fn load_against(&self, other: &Self) -> std::cmp::Ordering {
        let mine = u64::from(self.in_flight) * u64::from(other.weight);
        let theirs = u64::from(other.in_flight) * u64::from(self.weight);
        mine.cmp(&theirs)
    }
}

#[cfg(test)]
mod tests;
