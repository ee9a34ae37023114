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
mod report;
mod ring;
mod watch;

use std::io;

pub use self::{
    addresses::{Addresses, Held, MARK},
    driver::{Driver, Group, Hands, Signing, Virtual},
    link::Link,
    report::{Report, Reported},
    ring::Ring,
};

/// Why a virtual router can't be on a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
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
        own: std::net::IpAddr,
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
