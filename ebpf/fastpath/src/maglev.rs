//! Maglev tables: which backend a slot belongs to (Eisenbud et al., NSDI 2016, section 3.4), weighted and keyed.
//!
//! Owns building a table. Runs in userspace only, but lives here, beside the hash that reads the table, so that control,
//! `weir explain` and the tests share it. Health and weights are `weir-core`'s; what a change of the table means for the
//! flows that exist is [`crate::ring`]'s.
//!
//! A table depends on the key and on the members' identities and weights, on nothing else: not on their order, their
//! numbers or an earlier table. Boxes with the same key and the same members build the same table.

#[cfg(test)]
mod tests;

use core::fmt;

use crate::hash::hash2;

/// A backend as a table sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    id: u64,
    backend: u16,
    weight: u16,
    /// The next slot of its order of preference.
    position: u32,
    /// From one slot of that order to the next.
    step: u32,
    /// Turns it has saved up, in parts of the greatest weight.
    credit: u32,
}

impl Member {
    /// A member. `id`: a hash of what it is (pool and address, say), the same on every box and in every configuration.
    /// `backend`: its index in `BACKENDS`, written into the table. `weight`: its share, 0 for none.
    pub const fn new(id: u64, backend: u16, weight: u16) -> Self {
        Self {
            id,
            backend,
            weight,
            position: 0,
            step: 0,
            credit: 0,
        }
    }
}

/// A table that Maglev can't fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotPrime {
    /// The number of slots that was asked for.
    pub slots: usize,
}

impl fmt::Display for NotPrime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a ring of {} slots: the number must be a prime below 2^31, such as 65537",
            self.slots
        )
    }
}

impl core::error::Error for NotPrime {}

/// Whether a ring may have that many slots.
pub const fn is_prime(n: u32) -> bool {
    if n < 2 || (n > 2 && n.is_multiple_of(2)) {
        return false;
    }
    let mut divisor = 3;
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

/// Fills `table` with the members' indices; with 0 if none has a weight. Sorts the members.
///
/// Every member walks the slots in an order of its own and takes the first that is free. The heaviest takes one in every
/// round, the others in proportion: after any number of rounds each has its exact share, rounded down.
/// About `slots × ln(slots)` steps, whatever the number of members.
///
/// # Errors
/// The number of slots is not a prime: some members could not reach every slot.
pub fn build(key: [u64; 2], members: &mut [Member], table: &mut [u16]) -> Result<(), NotPrime> {
    let not_prime = NotPrime { slots: table.len() };
    let slots = u32::try_from(table.len()).map_err(|_| not_prime)?;
    if slots >= 1 << 31 || !is_prime(slots) {
        return Err(not_prime);
    }
    table.fill(0);
    let heaviest = members.iter().map(|m| u32::from(m.weight)).max().unwrap_or(0);
    if heaviest == 0 {
        return Ok(());
    }
    // The index only breaks the tie of two members with one identity, so that even then the order does not matter.
    members.sort_unstable_by_key(|m| (m.id, m.backend));
    for member in members.iter_mut() {
        member.position = (hash2(key, member.id, 0) % u64::from(slots)) as u32;
        member.step = (hash2(key, member.id, 1) % u64::from(slots - 1)) as u32 + 1;
        member.credit = 0;
    }
    let mut free = slots;
    while free > 0 {
        for member in members.iter_mut() {
            member.credit += u32::from(member.weight);
            if member.credit < heaviest {
                continue;
            }
            member.credit -= heaviest;
            take(member, table, slots);
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// The member takes its next free slot. There must be one: the step is no multiple of the prime, so every slot is met.
fn take(member: &mut Member, table: &mut [u16], slots: u32) {
    // Only a member that holds index 0, which means "none", could find no end; its slots count as taken for it.
    for _ in 0..slots {
        let at = member.position;
        member.position += member.step;
        if member.position >= slots {
            member.position -= slots;
        }
        if let Some(slot @ 0) = table.get_mut(at as usize) {
            *slot = member.backend;
            return;
        }
    }
}
