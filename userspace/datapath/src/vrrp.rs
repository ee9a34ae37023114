//! Virtual routers on real links: adverts out and in, addresses announced, the machine of [`weir_core::vrrp`] driven by a thread
//! of its own.
//!
//! Owns the sockets ([`Link`]) and what the kernel's programs hand out ([`Ring`]), whether a link can be used, until when these
//! programs answer ([`leases`]), and the thread ([`Driver`]). Decides nothing: that is the machine's. What follows for addresses
//! and for the kernel's programs is told to [`Hands`], in the order that the machine wants it.

mod addresses;
mod driver;
pub mod leases;
mod link;
mod links;
mod report;
mod ring;
mod watch;

use std::{io, net::IpAddr};

use self::link::mac_of;
pub use self::{
    addresses::{Accepted, Addresses, Held, HeldMac, MARK, shown},
    driver::{Counted, Counts, Driver, Elsewhere, Group, Hands, Seen, Signing, Virtual},
    link::Link,
    report::{Report, Reported},
    ring::Ring,
    watch::Links,
};
pub(crate) use self::{driver::REAL_TIME, link::look_at};

/// The kernel from which on an address remembers who has set it (IFA_PROTO).
const FLOOR: (u32, u32) = (5, 18);

/// Whether the kernel has what virtual routers need beyond the rest of weir.
///
/// # Errors
/// It is too old.
pub fn check_kernel() -> Result<(), LinkError> {
    match crate::doctor::release() {
        Some(release) if release < FLOOR => Err(LinkError::OldKernel {
            release,
            floor: FLOOR,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Why a virtual router can't be on a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The kernel is too old.
    #[error(
        "virtual routers need Linux {}.{} or newer, where an address says who has set it, and this is {}.{}",
        floor.0, floor.1, release.0, release.1
    )]
    OldKernel {
        /// The kernel's.
        release: (u32, u32),
        /// The first that does.
        floor: (u32, u32),
    },
    /// There is no such interface.
    #[error("interface {0:?} does not exist in this network namespace; create it, or correct the name")]
    NoInterface(String),
    /// The interface has no address to send adverts from.
    #[error(
        "interface {interface:?} has no {kind} address to send adverts from; give it one, or name the source"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// `IPv4`, or `link-local IPv6`.
        kind: &'static str,
    },
    /// The source that is asked for is not the interface's.
    #[error("interface {interface:?} does not have the address {own}, from which adverts are to be sent")]
    OtherAddress {
        /// The interface.
        interface: String,
        /// What was asked for.
        own: IpAddr,
    },
    /// The interface is not an Ethernet's.
    #[error("interface {0:?} has no Ethernet address: addresses can't be announced there")]
    NoEthernet(String),
    /// The kernel refused.
    #[error("cannot {doing} on interface {interface:?}: {cause}{mend}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's reason.
        cause: io::Error,
        /// What the operator can do, with leading punctuation; may be empty.
        mend: &'static str,
    },
}
