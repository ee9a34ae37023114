//! Rings: Maglev tables with a memory of their last change.
//!
//! Owns what a new table means for the flows that exist: a slot remembers who had it before and since when not, so that
//! the flow rule ([`crate::pipeline`]) can keep older flows where they are. Builds no table ([`crate::maglev`]) and writes
//! no map (`weir-datapath`).

use weir_abi::Slot;

/// The slots of a new table that follows `old`, into `out` (as long as the table).
///
/// Where the backend changes, the old one becomes the previous one and `now` (seconds of CLOCK_MONOTONIC) the time of
/// the change. Where it does not, the slot stays as it was. Without an old ring no flow is older than the table: nothing
/// has changed. From an old ring of another length each slot inherits the one that took the same flows.
pub fn merge(old: &[Slot], table: &[u16], now: u32, out: &mut [Slot]) {
    let now = now.max(1);
    for (i, (&current, slot)) in table.iter().zip(out).enumerate() {
        *slot = match inherited(old, i, table.len()) {
            None => Slot {
                current,
                previous: 0,
                changed: 0,
            },
            Some(before) if before.current == current => before,
            Some(before) => Slot {
                current,
                previous: before.current,
                changed: now,
            },
        };
    }
}

/// The slot without a change that is older than `horizon` seconds: its packets then read no clock any more.
pub const fn settle(slot: Slot, now: u32, horizon: u32) -> Slot {
    if slot.changed != 0 && now.saturating_sub(slot.changed) > horizon {
        Slot {
            current: slot.current,
            previous: 0,
            changed: 0,
        }
    } else {
        slot
    }
}

/// The slot of `old` that the middle of slot `i` of `len` falls on: hashes are mapped to slots in order
/// ([`crate::hash::slot_of`]).
fn inherited(old: &[Slot], i: usize, len: usize) -> Option<Slot> {
    if old.len() == len {
        return old.get(i).copied();
    }
    let middle = (2 * i as u64 + 1) * old.len() as u64 / (2 * len as u64);
    old.get(middle as usize).copied()
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;
    use crate::hash::slot_of;

    fn slot(current: u16, previous: u16, changed: u32) -> Slot {
        Slot {
            current,
            previous,
            changed,
        }
    }

    fn merged(old: &[Slot], table: &[u16], now: u32) -> Vec<Slot> {
        let mut out = vec![slot(9, 9, 9); table.len()];
        merge(old, table, now, &mut out);
        out
    }

    #[test]
    fn a_first_ring_has_no_history() {
        assert_eq!(
            merged(&[], &[1, 2, 0], 7),
            [slot(1, 0, 0), slot(2, 0, 0), slot(0, 0, 0)]
        );
    }

    #[test]
    fn only_what_changes_is_marked() {
        let old = [
            slot(1, 0, 0),
            slot(1, 3, 50),
            slot(2, 0, 0),
            slot(2, 1, 50),
            slot(0, 2, 50),
        ];
        assert_eq!(
            merged(&old, &[1, 1, 1, 3, 2], 60),
            [
                slot(1, 0, 0),
                slot(1, 3, 50),
                slot(1, 2, 60),
                slot(3, 2, 60),
                slot(2, 0, 60)
            ]
        );
    }

    #[test]
    fn the_last_backend_gone_is_remembered_and_comes_back() {
        let empty = merged(&[slot(1, 0, 0)], &[0], 60);
        assert_eq!(empty, [slot(0, 1, 60)]);
        assert_eq!(merged(&empty, &[1], 61), [slot(1, 0, 61)]);
    }

    #[test]
    fn a_change_at_boot_is_still_a_change() {
        assert_eq!(merged(&[slot(1, 0, 0)], &[2], 0), [slot(2, 1, 1)]);
    }

    #[test]
    fn old_changes_settle() {
        assert_eq!(settle(slot(2, 1, 100), 160, 60), slot(2, 1, 100));
        assert_eq!(settle(slot(2, 1, 100), 161, 60), slot(2, 0, 0));
        assert_eq!(settle(slot(2, 1, 100), 50, 60), slot(2, 1, 100));
        assert_eq!(settle(slot(2, 0, 0), 1000, 60), slot(2, 0, 0));
    }

    #[test]
    fn a_ring_of_another_length_inherits_by_hash() {
        let old: Vec<Slot> = (0..101).map(|i| slot(i + 1, 0, 0)).collect();
        let new = merged(&old, &[500; 1009], 60);
        let hits = (0..100_000u64)
            .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .filter(|&hash| {
                let before = old[slot_of(hash, 101) as usize].current;
                new[slot_of(hash, 1009) as usize] == slot(500, before, 60)
            })
            .count();
        // A new slot lies across the border of two old ones in one case of ten, and is then right for half.
        assert!(hits > 93_000, "{hits}");
    }
}
