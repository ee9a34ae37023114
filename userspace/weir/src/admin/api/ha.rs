//! Answers about virtual routers: `weir ha`, `weir demote`.

use serde::{Deserialize, Serialize};

/// Virtual routers.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ha {
    /// Why their thread does not run in real time. None: it does, or there are none.
    pub(crate) not_real_time: Option<String>,
    pub(crate) groups: Vec<HaGroup>,
}

/// A group of virtual routers, which are master together.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaGroup {
    pub(crate) name: String,
    /// `init`, `backup` or `master`.
    pub(crate) state: String,
    pub(crate) since_seconds: u64,
    /// Why it is in this state.
    pub(crate) cause: String,
    /// How often the state has changed since the start.
    pub(crate) changes: u64,
    /// As it is configured.
    pub(crate) priority: u8,
    /// As it is told the others: less than 10 while something speaks against this box.
    pub(crate) announced: u8,
    pub(crate) interval_ms: u64,
    /// `never`, `always`, or how long it is delayed.
    pub(crate) preempt: String,
    pub(crate) lease_ms: u64,
    /// `none`, `permissive` or `enforce`.
    pub(crate) signatures: String,
    /// How much speaks against this box, and what.
    pub(crate) demotion: u32,
    pub(crate) shares: Vec<HaShare>,
    /// Who was heard last as master. None: nobody, or this box is it.
    pub(crate) master: Option<HaPeer>,
    /// Another box that is master at the same time.
    pub(crate) rival: Option<String>,
    /// Why its addresses are not as they should be.
    pub(crate) trouble: Option<String>,
    pub(crate) routers: Vec<HaRouter>,
    /// Services that are reached by its addresses.
    pub(crate) services: Vec<String>,
    /// Which share of its section's clients it serves. None: all of them.
    pub(crate) share_of: Option<HaShareOf>,
}

/// A share of a section's clients.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaShareOf {
    /// `[vrrp.NAME]`
    pub(crate) section: String,
    /// Which share, from 1.
    pub(crate) number: usize,
    /// How many there are.
    pub(crate) count: usize,
}

/// Something that speaks against this box.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaShare {
    pub(crate) cause: String,
    pub(crate) share: u32,
}

/// Another box.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaPeer {
    pub(crate) address: String,
    pub(crate) priority: u8,
}

/// A virtual router.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaRouter {
    pub(crate) id: u8,
    pub(crate) interface: String,
    /// `IPv4` or `IPv6`.
    pub(crate) family: String,
    pub(crate) addresses: Vec<String>,
    /// The link address that goes with them. None: the interface's own.
    pub(crate) mac: Option<String>,
    /// Where its adverts come from.
    pub(crate) own: Option<String>,
    /// Empty: adverts go to all on the link.
    pub(crate) peers: Vec<String>,
    /// Whether its link can be used.
    pub(crate) usable: bool,
}

/// An operator's demotion was taken.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demoted {
    pub(crate) group: String,
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// With everything else that speaks against this box.
    pub(crate) total: u32,
}
