//! What an operator wants of a group of virtual routers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::vrrp::{Centis, Family, Vrid};

/// A group of virtual routers that are master together, on one box or another. A single one is a group too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its routers. Each key stands there once.
    pub routers: Vec<Router>,
    /// The priority while this box is eligible: [`super::super::demotion::ELIGIBLE`] to 254, or 255 if the addresses are its
    /// own.
    pub priority: u8,
    /// How often a master says that it lives.
    pub interval: Centis,
    /// Whether this box takes over from one that is eligible, but preferred less.
    pub preempt: Preempt,
    /// How long this box answers without the machine having said so anew. Whatever it is, a lease ends three intervals
    /// after the last adverts: earlier than anybody else can take over.
    pub lease: Duration,
    /// How the addresses are announced.
    pub announce: Announce,
}

/// One virtual router: on one link, of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    /// What it is known by.
    pub key: RouterKey,
    /// This box's own address on the link. Of two masters of one priority the one with the greater address stays.
    pub own: IpAddr,
}

/// What a virtual router is known by, whatever else changes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RouterKey {
    /// Its link.
    pub interface: Arc<str>,
    /// Its number there.
    pub vrid: Vrid,
    /// Its family.
    pub family: Family,
}

/// Whether a box takes over from one that is eligible, but preferred less. From one that is demoted more it always does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preempt {
    /// No: who is master stays it.
    Never,
    /// Once it could have for so long.
    Delayed(Duration),
    /// Yes, after the three intervals that it listens first.
    Always,
}

/// How often addresses are announced: on taking them, as long as a rival is heard, and once it is heard no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announce {
    /// How often in a row. The first is at once.
    pub count: u32,
    /// How long after one another.
    pub spacing: Duration,
    /// Once more each time this has passed. `None`: never.
    pub refresh: Option<Duration>,
}
