//! What the driver's thread tells its owner.

use std::{io, net::IpAddr, time::Duration};

use weir_core::vrrp::{accept::Refused, auth::Unsigned, machine::Change, wire::Checksum};

use super::leases::LeaseError;
use crate::vips::VipError;

/// What the owner is told.
#[derive(Debug)]
pub struct Report {
    /// Of which group.
    pub group: usize,
    /// What.
    pub what: Reported,
}

/// What the owner is told of a group.
#[derive(Debug)]
pub enum Reported {
    /// Its state changed.
    Changed(Change),
    /// A rival is heard, or heard no more.
    Rival(Option<IpAddr>),
    /// The thread was late by so much.
    Late(Duration),
    /// An advert was refused, and changed nothing.
    Refused {
        /// Who sent it, if it could be read so far.
        source: Option<IpAddr>,
        /// Why.
        reason: Refused,
    },
    /// An advert was taken that will be refused once signatures are enforced.
    Unsigned {
        /// Who sent it.
        source: IpAddr,
        /// For what it would be refused.
        reason: Unsigned,
    },
    /// An advert has another kind of checksum than this box makes: its sender may refuse those of this box.
    OtherChecksum {
        /// Who sent it.
        source: IpAddr,
        /// The kind.
        checksum: Checksum,
    },
    /// A router's link can be used again, or not any more: it is down, or the address that adverts are sent from is gone.
    Usable {
        /// Place of the router.
        router: usize,
        /// Whether it can.
        is_usable: bool,
    },
    /// Something did not leave.
    NotSent {
        /// Place of the router.
        router: usize,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// Addresses could not be taken or given (an error), or could be after all.
    Addresses(Result<(), VipError>),
    /// Nothing would end this box's answers when its lease does, so the group takes no part (an error), or does after all.
    Fenced(Result<(), LeaseError>),
}

impl Reported {
    /// Whether others can bring it about as often as they like: who is told may leave some of them out.
    pub const fn is_provoked(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Unsigned { .. }
            | Self::OtherChecksum { .. }
            | Self::NotSent { .. }
            | Self::Late(_) => true,
            Self::Changed(_)
            | Self::Rival(_)
            | Self::Usable { .. }
            | Self::Addresses(_)
            | Self::Fenced(_) => false,
        }
    }
}
