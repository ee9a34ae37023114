//! What each backend of a pool may be used for: the one place of the backup rule and of what a weight of 0 means.
//!
//! Owns the rule. Never chooses a backend (`balance` does, and the rings) and never learns health itself: both the
//! control process, for its rings, and the relay ask here, each with the words it has.

use crate::{health::Word, plan::Pool};

/// What a backend may be used for now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Usable {
    /// Its share of new flows, connections and requests; 0: none.
    pub weight: u16,
    /// Whether what it has may stay.
    pub alive: bool,
}

/// What each backend of the pool may be used for, in order of the plan. `words` are its backends' words in that order;
/// one that is missing counts as pending.
///
/// - New traffic goes to backends that are up and ready, by their weights. A weight of 0 takes none.
/// - Backups get new traffic only while no other backend does.
/// - A backend is alive while it is up, unless it is in maintenance: also when it drains, has weight 0, or is a backup
///   that is not needed any more. What it has stays with it.
pub fn usable(pool: &Pool, words: &[Word]) -> Vec<Usable> {
    let words = words.iter().copied().chain(std::iter::repeat(Word::PENDING));
    let mut usable: Vec<_> = pool
        .backends
        .iter()
        .zip(words)
        .map(|(backend, word)| Usable {
            weight: if word.takes_new() { backend.weight } else { 0 },
            alive: word.keeps_old(),
        })
        .collect();
    let primaries = pool
        .backends
        .iter()
        .zip(&usable)
        .any(|(b, u)| !b.backup && u.weight > 0);
    if primaries {
        for (backend, usable) in pool.backends.iter().zip(&mut usable) {
            if backend.backup {
                usable.weight = 0;
            }
        }
    }
    usable
}

#[cfg(test)]
mod tests;
