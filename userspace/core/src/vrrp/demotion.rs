//! The demotion counter of a group of routers, as in carp(4): what speaks against this box being master, added up.
//!
//! Owns the shares by their causes, and what priority follows from their sum. A cause has one share: setting it again
//! replaces it, and taking it back takes exactly what it had added. Knows nothing of why a pool or a link is what it is.
//!
//! # Eligible and preferred
//! A box without demotion is *eligible*, and announces the priority that its operator prefers it by, [`ELIGIBLE`] or more.
//! A box with demotion announces less than [`ELIGIBLE`], the less the more it is demoted. So an eligible one always wins,
//! whatever was preferred, and of two that are demoted the less demoted, also against routers that know nothing of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::wire::priority;
use crate::{
    ids::{PoolName, ServiceName},
    plan::DemoteWhat,
};

/// The least priority of an eligible box. Those below say how much a box is demoted.
pub const ELIGIBLE: u8 = 10;

/// The share of a process that stops, as relayd's.
pub const EXIT: u32 = 128;

/// The share of a box that does not hold its peers' flows yet, as pfsync's.
pub const FLOWS: u32 = 1;

/// What speaks against this box. Each cause has one share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The process has only just started: its backends are not checked yet.
    Starting,
    /// The process is stopping.
    Stopping,
    /// The process does not hold all flows that its peers have.
    Flows,
    /// An operator's word.
    Operator,
    /// A service can't serve: it has no backend that is up.
    Service(ServiceName),
    /// A pool has no backend that is up.
    Pool(PoolName),
    /// A link is down.
    Link(Arc<str>),
    /// A file that is watched is there.
    File(Arc<str>),
}

impl Cause {
    /// Its name in metrics: bounded by the configuration.
    pub fn name(&self) -> String {
        match self {
            Self::Starting => "starting".into(),
            Self::Stopping => "stopping".into(),
            Self::Flows => "flows".into(),
            Self::Operator => "operator".into(),
            Self::Service(name) => format!("service:{name}"),
            Self::Pool(name) => format!("pool:{name}"),
            Self::Link(name) => format!("link:{name}"),
            Self::File(path) => format!("file:{path}"),
        }
    }
}

impl From<DemoteWhat> for Cause {
    fn from(what: DemoteWhat) -> Self {
        match what {
            DemoteWhat::Service(name) => Self::Service(name),
            DemoteWhat::Pool(name) => Self::Pool(name),
            DemoteWhat::Link(name) => Self::Link(name),
            DemoteWhat::File(path) => Self::File(path),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Stopping => f.write_str("stopping"),
            Self::Flows => f.write_str("flows of other boxes are not held yet"),
            Self::Operator => f.write_str("set by the operator"),
            Self::Service(name) => write!(f, "no backend of service {name} is up"),
            Self::Pool(name) => write!(f, "no backend of pool {name} is up"),
            Self::Link(name) => write!(f, "link {name} is down"),
            Self::File(path) => write!(f, "file {path} is there"),
        }
    }
}

/// The counter.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Demotion(BTreeMap<Cause, u32>);

impl Demotion {
    /// Nothing speaks against the box.
    pub const NONE: Self = Self(BTreeMap::new());

    /// Sets a cause's share; 0 takes it back. Whether that changed it.
    pub fn set(&mut self, cause: Cause, share: u32) -> bool {
        let before = match share {
            0 => self.0.remove(&cause),
            _ => self.0.insert(cause, share),
        };
        before.unwrap_or(0) != share
    }

    /// All shares together; at most [`u32::MAX`].
    pub fn total(&self) -> u32 {
        self.0
            .values()
            .fold(0, |total: u32, share| total.saturating_add(*share))
    }

    /// What speaks against the box, and how much.
    pub fn shares(&self) -> impl Iterator<Item = (&Cause, u32)> {
        self.0.iter().map(|(cause, share)| (cause, *share))
    }
}

/// The priority that a box announces: what its operator prefers it by, or what is left of it.
///
/// The numbers below [`ELIGIBLE`] halve: 1 of demotion is 9, 2 and 3 are 8, 4 to 7 are 7, and so on to 1 for 256 and more.
/// carp's customary shares differ by more than that: one per lost link or empty service, [`EXIT`] for a process that stops.
pub const fn announced(preferred: u8, demotion: u32) -> u8 {
    match demotion.checked_ilog2() {
        None if preferred < ELIGIBLE => ELIGIBLE,
        None => preferred,
        Some(doubled) => {
            let doubled = if doubled > 8 { 8 } else { doubled as u8 };
            ELIGIBLE - 1 - doubled
        }
    }
}

/// Whether a priority is a demoted box's.
pub const fn is_demoted(announced: u8) -> bool {
    announced != priority::LEAVING && announced < ELIGIBLE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_cause_takes_back_exactly_its_share() {
        let mut it = Demotion::NONE;
        let link = || Cause::Link("eth0".into());
        let www = || Cause::Service(ServiceName::new("www"));
        assert!(it.set(Cause::Starting, 1));
        assert!(it.set(link(), 5));
        assert!(!it.set(link(), 5), "said twice, counted once");
        assert!(it.set(www(), 2));
        assert_eq!(it.total(), 8);
        assert!(it.set(link(), 3));
        assert_eq!(it.total(), 6);
        assert!(it.set(Cause::Starting, 0));
        assert!(!it.set(Cause::Starting, 0));
        assert!(!it.set(Cause::File("/x".into()), 0), "there was none");
        assert!(it.set(www(), 0));
        assert_eq!(it.shares().collect::<Vec<_>>(), [(&link(), 3)]);
        assert!(it.set(link(), 0));
        assert_eq!(it, Demotion::NONE);
    }

    #[test]
    fn the_total_does_not_overflow() {
        let mut it = Demotion::NONE;
        it.set(Cause::Operator, u32::MAX);
        it.set(Cause::Stopping, EXIT);
        assert_eq!(it.total(), u32::MAX);
        it.set(Cause::Operator, 0);
        assert_eq!(it.total(), EXIT);
    }

    #[test]
    fn priorities() {
        for (preferred, demotion, expected) in [
            (255, 0, 255),
            (100, 0, 100),
            (10, 0, 10),
            (3, 0, 10),
            (255, 1, 9),
            (100, 2, 8),
            (100, 3, 8),
            (100, 4, 7),
            (100, EXIT, 2),
            (100, EXIT + 127, 2),
            (100, 256, 1),
            (100, u32::MAX, 1),
        ] {
            assert_eq!(
                announced(preferred, demotion),
                expected,
                "{preferred}, {demotion}"
            );
        }
        assert!(!is_demoted(0) && is_demoted(1) && is_demoted(9) && !is_demoted(10) && !is_demoted(255));
    }

    proptest! {
        #[test]
        fn the_demoted_yield(a: u8, b: u8, demotion in 1u32.., more: u32) {
            prop_assert!(announced(a, 0) > announced(b, demotion));
            prop_assert!(announced(a, demotion) >= announced(b, demotion.saturating_add(more)));
            prop_assert!(announced(a, demotion) > priority::LEAVING);
        }
    }
}
