//! The wish, checked, and the numbers that its names get.
//!
//! Nothing is given twice, nothing is more than there is room for. What is written is the others' business.

use std::collections::BTreeSet;

use weir_core::{
    ids::{BackendKey, ListenKey, ServiceName},
    plan::PerSource,
};

use super::{Limits, Op};
use crate::{Wanted, WantedAction, WantedForward, WantedService, assign::Assignment, error::Error};

/// A wanted service with its keys in the maps' form.
pub(super) struct Checked<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) keys: Vec<ListenKey>,
    pub(super) action: &'a WantedAction,
    pub(super) per_source: &'a PerSource,
}

impl<'a> Checked<'a> {
    /// What XDP forwards; None for the relay's.
    pub(super) fn forward(&self) -> Option<&'a WantedForward> {
        match self.action {
            WantedAction::Relay { .. } => None,
            WantedAction::Forward(forward) => Some(forward),
        }
    }
}

pub(super) fn checked(wanted: &Wanted) -> Result<Vec<Checked<'_>>, Error> {
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let mut out = Vec::with_capacity(wanted.services.len());
    for WantedService {
        name,
        keys: listed,
        action,
        per_source,
    } in &wanted.services
    {
        if !names.insert(name) {
            return Err(Error::Duplicate(format!("service {name}")));
        }
        let listed: Vec<_> = listed
            .iter()
            .map(|key| ListenKey {
                addr: key.addr.to_canonical(),
                ..*key
            })
            .collect();
        if let Some(twice) = listed.iter().find(|key| !keys.insert(**key)) {
            return Err(Error::Duplicate(twice.to_string()));
        }
        out.push(Checked {
            name,
            keys: listed,
            action,
            per_source,
        });
    }
    Ok(out)
}

pub(super) fn fits(what: &'static str, need: usize, room: u32, mend: &'static str) -> Result<(), Error> {
    if need as u64 > u64::from(room) {
        Err(full(what, need, room, mend))
    } else {
        Ok(())
    }
}

/// Why there may be no number although fewer are wanted than there is room for.
const RESTING: &str = "take fewer; numbers of those removed are free again after the flow horizon";

/// Gives every wanted name its number and says what must be forgotten first.
pub(super) fn number(
    old: &Assignment,
    services: &[Checked<'_>],
    limits: &Limits,
    now: u32,
    ops: &mut Vec<Op>,
) -> Result<Assignment, Error> {
    let mut next = old.clone();
    let names: BTreeSet<&ServiceName> = services.iter().map(|s| s.name).collect();
    let keys: BTreeSet<&BackendKey> = services
        .iter()
        .filter_map(Checked::forward)
        .flat_map(|forward| &forward.backends)
        .map(|b| &b.key)
        .collect();
    next.services.rest(now, |name| names.contains(name));
    next.backends.rest(now, |key| keys.contains(key));

    for &name in &names {
        let given = next.services.give(name, limits.services, now, limits.horizon);
        let given = given.ok_or_else(|| full("services", names.len(), limits.services, RESTING))?;
        if given.reused {
            ops.push(Op::ResetService(given.number));
        }
    }
    let mut reused = BTreeSet::new();
    for &key in &keys {
        let given = next.backends.give(key, limits.backends, now, limits.horizon);
        let given = given.ok_or_else(|| full("backends", keys.len() + 1, limits.backends, RESTING))?;
        if given.reused {
            reused.insert(given.number);
        }
    }
    if !reused.is_empty() {
        ops.extend(reused.iter().map(|&index| Op::ResetBackend(index)));
        ops.push(Op::ForgetFlows(reused));
    }
    Ok(next)
}

fn full(what: &'static str, need: usize, room: u32, mend: &'static str) -> Error {
    Error::Full {
        what,
        need: need as u64,
        room: room.into(),
        mend,
    }
}
