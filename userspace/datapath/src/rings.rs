//! Where rings lie in `RINGS`, and what is in them.
//!
//! Pure. Maglev itself and the rule of what a slot remembers are `weir-fastpath`'s; here they are applied to backends
//! that have names and numbers.

use std::{collections::BTreeMap, net::SocketAddr};

use weir_abi::Slot;
use weir_fastpath::{
    maglev::{self, Member},
    ring,
};

/// A range of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Area {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The slots of `RINGS`: which are in use. First fit.
#[derive(Debug)]
pub(crate) struct Space {
    size: u32,
    /// Length by offset. Areas do not overlap.
    used: BTreeMap<u32, u32>,
}

impl Space {
    /// A space of `size` slots in which these areas are in use.
    pub(crate) fn new(size: u32, used: impl IntoIterator<Item = Area>) -> Self {
        let mut space = Self {
            size,
            used: BTreeMap::new(),
        };
        for area in used {
            let len = space.used.entry(area.offset).or_default();
            *len = area.len.max(*len);
        }
        space
    }

    /// Takes `len` slots that are not in use; None when no gap is large enough.
    pub(crate) fn take(&mut self, len: u32) -> Option<Area> {
        let mut offset = 0_u32;
        for (&start, &used) in &self.used {
            if start.saturating_sub(offset) >= len {
                break;
            }
            offset = offset.max(start.checked_add(used)?);
        }
        let end = offset.checked_add(len)?;
        if end > self.size || len == 0 {
            return None;
        }
        self.used.insert(offset, len);
        Some(Area { offset, len })
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.values().copied().map(u64::from).sum()
    }
}

/// A backend that takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taker {
    pub(crate) address: SocketAddr,
    /// Its index in `BACKENDS`.
    pub(crate) index: u32,
    /// At least 1; beyond 65 535 it counts as that.
    pub(crate) weight: u32,
}

/// What a backend is to Maglev: its address alone, so that every box and every configuration gives it the same slots.
/// FNV-1a: spread, not security, which the key of the table brings.
fn identity(address: SocketAddr) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let octets = weir_abi::Addr16::from(address.ip()).octets();
    octets
        .iter()
        .chain(&address.port().to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, fnv)
}

/// Which backend each slot of a table belongs to; 0 in all if nobody takes new flows.
///
/// # Errors
/// When Maglev cannot fill a table of that size; in words.
pub(crate) fn fill(hash_key: [u64; 2], size: u32, takers: &[Taker]) -> Result<Vec<u16>, String> {
    let mut members = Vec::with_capacity(takers.len());
    for taker in takers {
        let index = u16::try_from(taker.index)
            .map_err(|_| format!("backend {} has a number that no slot can hold", taker.address))?;
        let weight = u16::try_from(taker.weight).unwrap_or(u16::MAX);
        members.push(Member::new(identity(taker.address), index, weight));
    }
    let mut table = vec![0; size as usize];
    maglev::build(hash_key, &mut members, &mut table).map_err(|e| e.to_string())?;
    Ok(table)
}

/// The slots of a table that follows `old` (empty: none), without changes that are older than `horizon` seconds. In a
/// ring that is `young` no flow is older than the change.
pub(crate) fn follow(old: &[Slot], table: &[u16], now: u32, horizon: u32, young: bool) -> Vec<Slot> {
    let mut slots = vec![Slot::default(); table.len()];
    ring::merge(old, table, now, &mut slots);
    for slot in &mut slots {
        *slot = ring::settle(*slot, now, horizon);
        if young {
            slot.previous = 0;
        }
    }
    slots
}

/// The slots of a ring whose change is older than `horizon` seconds, by position, as they are without it.
pub(crate) fn settled(slots: &[Slot], now: u32, horizon: u32) -> Vec<(u32, Slot)> {
    let settle = |(i, slot): (usize, &Slot)| {
        let after = ring::settle(*slot, now, horizon);
        (after != *slot).then_some((i as u32, after))
    };
    slots.iter().enumerate().filter_map(settle).collect()
}

/// When the oldest change that the slots remember was made; None if they remember none.
pub(crate) fn oldest(slots: &[Slot]) -> Option<u32> {
    slots
        .iter()
        .map(|slot| slot.changed)
        .filter(|&changed| changed != 0)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_decide_who_gets_which_slot() {
        let taker = |address: &str, index, weight| Taker {
            address: address.parse().unwrap(),
            index,
            weight,
        };
        let here = [
            taker("10.0.0.1:80", 1, 1),
            taker("10.0.0.2:80", 2, 1),
            taker("[2001:db8::1]:80", 3, 2),
        ];
        let there = [
            taker("[2001:db8::1]:80", 7, 2),
            taker("10.0.0.2:80", 9, 1),
            taker("10.0.0.1:80", 8, 1),
        ];
        let here = fill([1, 2], 251, &here).unwrap();
        let there = fill([1, 2], 251, &there).unwrap();
        let renamed: Vec<u16> = here
            .iter()
            .map(|index| [0, 8, 9, 7][usize::from(*index)])
            .collect();
        assert_eq!(renamed, there);
        assert_eq!(here.iter().filter(|index| **index == 3).count(), 126);
    }

    #[test]
    fn what_cannot_be_filled_is_said() {
        assert!(fill([1, 2], 250, &[]).unwrap_err().contains("prime"));
        let far = Taker {
            address: "10.0.0.1:80".parse().unwrap(),
            index: 1 << 16,
            weight: 1,
        };
        assert!(fill([1, 2], 251, &[far]).unwrap_err().contains("10.0.0.1:80"));
        assert_eq!(fill([1, 2], 3, &[]).unwrap(), [0, 0, 0]);
    }

    #[test]
    fn old_changes_settle_where_they_lie() {
        let slot = |changed| Slot {
            current: 2,
            previous: 1,
            changed,
        };
        let slots = [slot(0), slot(100), slot(150)];
        assert_eq!(
            settled(&slots, 170, 60),
            [(
                1,
                Slot {
                    current: 2,
                    previous: 0,
                    changed: 0
                }
            )]
        );
        assert_eq!(settled(&slots, 120, 60), []);
        assert_eq!((oldest(&slots), oldest(&slots[..1])), (Some(100), None));
    }

    #[test]
    fn the_first_gap_that_fits_is_taken() {
        let area = |offset, len| Area { offset, len };
        let cases: [(&[Area], u32, Option<Area>); 9] = [
            (&[], 10, Some(area(0, 10))),
            (&[], 100, Some(area(0, 100))),
            (&[], 101, None),
            (&[], 0, None),
            (&[area(0, 10)], 10, Some(area(10, 10))),
            (&[area(10, 10)], 10, Some(area(0, 10))),
            (&[area(5, 10)], 10, Some(area(15, 10))),
            (&[area(0, 10), area(20, 70)], 11, None),
            (&[area(0, 10), area(20, 70)], 10, Some(area(10, 10))),
        ];
        for (used, len, expected) in cases {
            assert_eq!(
                Space::new(100, used.iter().copied()).take(len),
                expected,
                "{used:?} {len}"
            );
        }
    }

    #[test]
    fn what_is_taken_never_overlaps() {
        let mut space = Space::new(
            1000,
            [Area { offset: 100, len: 50 }, Area { offset: 100, len: 50 }],
        );
        let mut taken = vec![Area { offset: 100, len: 50 }];
        for len in [70, 50, 30, 200, 7, 300] {
            let new = space.take(len).unwrap();
            for old in &taken {
                assert!(
                    new.offset + new.len <= old.offset || old.offset + old.len <= new.offset,
                    "{old:?} {new:?}"
                );
            }
            taken.push(new);
        }
        assert_eq!(space.used(), 707);
        assert_eq!(space.take(400), None);
    }
}
