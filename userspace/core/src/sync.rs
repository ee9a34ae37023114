//! What one box tells another of its flows, so that they go on there when it dies.
//!
//! Boxes that share the hash key place flows alike, so most flows need nothing. Told are those that the ring alone would
//! not place: flows that stay with another backend than their slot's present one, and flows by `full-nat`, which have a
//! port. Owns what goes over the wire ([`wire`], [`entry`]) and what each side does with it ([`peer`]). Sans-IO: datagrams,
//! entries and the clock go in, datagrams and events come out. Which entries there are, and what becomes of received ones,
//! is `weir-datapath`'s.
//!
//! # Nothing depends on a datagram
//! A change is told a few times in the seconds after it. Each entry is told again within [`peer::REFRESH`], and who has not
//! heard of one for [`peer::EXPIRES`] while its peer was there drops it. So whatever is lost is made up for, and nothing
//! is acknowledged. Only who joins asks: it pulls the whole table in numbered chunks, and asks again for those that did
//! not come.
//!
//! # Names, not numbers
//! Entries name the service by the address that the client reached, and the backend by its own: what number either has is
//! different on each box.
//!
//! # Who is heard
//! Datagrams are signed with a key that the boxes share. Each names the receiver's present *token*, a random number that
//! the receiver gave this sender's process in a hello; so what was recorded from an earlier process, of either side, is
//! not taken, whatever the clocks say. Within one such pair numbers rise, and a window lets each pass once.

mod bulk;
pub mod entry;
pub mod peer;
#[cfg(test)]
mod sim;
pub mod wire;

pub use self::{
    entry::{Entry, Translation},
    peer::{Event, Output, Peer, Settings},
    wire::Refused,
};

/// Why a box does not take an entry over that was told well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum NotTaken {
    /// No service here has that address.
    Service,
    /// The service forwards in another way here.
    Mode,
    /// The service has no such backend here.
    Backend,
    /// The families do not fit each other.
    Family,
    /// `full-nat`: the service here has no such source address or port.
    Source,
    /// This box sees the flow, or uses its port, itself.
    Own,
    /// The table is full.
    Full,
}

impl NotTaken {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Service,
        Self::Mode,
        Self::Backend,
        Self::Family,
        Self::Source,
        Self::Own,
        Self::Full,
    ];

    /// Its name in counters and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "unknown-service",
            Self::Mode => "other-mode",
            Self::Backend => "unknown-backend",
            Self::Family => "family",
            Self::Source => "unknown-source",
            Self::Own => "own",
            Self::Full => "table-full",
        }
    }
}
