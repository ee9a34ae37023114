//! What goes into the machine and what comes out of it, as values.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{config::RouterKey, table::State};
use crate::vrrp::Centis;

/// An advert that was let pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// The sender.
    pub source: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// How often it sends.
    pub interval: Centis,
    /// When it arrived, not later than now.
    pub arrived: Instant,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Nobody is answered any more for the group's addresses. The first of all that is done when a master stops being it.
    Shut,
    /// In its place where a better master is heard: what is under way is gone on with until then, which is no longer than the lease
    /// was.
    Linger(Instant),
    /// Send an advert for this router, and tell by [`super::Machine::sent`] whether it left.
    Advert {
        /// Place of the router in the configuration.
        router: usize,
        /// The priority to announce.
        priority: u8,
    },
    /// The addresses are to be this box's.
    Take,
    /// The group's addresses are answered for until then, in the time of this machine.
    Lease(Instant),
    /// Tell the links where the addresses are.
    Announce,
    /// The addresses are no longer to be this box's.
    Give,
    /// The state changed: log it. The last of a change.
    Changed(Change),
    /// A rival is heard, or heard no more.
    Rival(Option<IpAddr>),
    /// The machine was called later than it wanted by so much.
    Late(Duration),
}

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// How long the state before had lasted.
    pub lasted: Duration,
}

/// Why the state is what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It has just begun.
    Started,
    /// The addresses are this box's own.
    Owner,
    /// It was master until now, and went on.
    Resumed,
    /// No master was heard.
    Silence,
    /// The master is preferred less.
    Preempts {
        /// It.
        source: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// The master left.
    Left(IpAddr),
    /// The master is demoted more than this box.
    Demoted(IpAddr),
    /// A better one is master.
    Better {
        /// It.
        source: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// One of its routers cannot take part.
    Fault(RouterKey),
    /// It was told to stop.
    Stopped,
    /// It slept, or could not send: another may be master.
    Late,
}

impl Cause {
    /// The cause as one word, for metrics: bounded.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Owner => "owner",
            Self::Resumed => "resumed",
            Self::Silence => "silence",
            Self::Preempts { .. } => "preempts",
            Self::Left(_) => "left",
            Self::Demoted(_) => "demoted",
            Self::Better { .. } => "better",
            Self::Fault(_) => "fault",
            Self::Stopped => "stopped",
            Self::Late => "late",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Owner => f.write_str("the addresses are this box's own"),
            Self::Resumed => f.write_str("was master before"),
            Self::Silence => f.write_str("no master was heard"),
            Self::Preempts { source, priority } => {
                write!(f, "{source} is master with priority {priority} only")
            }
            Self::Left(source) => write!(f, "master {source} left"),
            Self::Demoted(source) => write!(f, "master {source} is demoted more"),
            Self::Better { source, priority } => write!(f, "{source} is master with priority {priority}"),
            Self::Fault(key) => write!(f, "VRID {} on {} cannot take part", key.vrid, key.interface),
            Self::Stopped => f.write_str("told to stop"),
            Self::Late => f.write_str("woke too late, or could not send: another may be master"),
        }
    }
}
