//! Everything that touches bpf(2), netlink, raw and privileged sockets.
//!
//! Owns the maps, programs and links of the L4 plane ([`Datapath`]), the listening sockets ([`listen`]), the virtual
//! addresses ([`vips`]), virtual routers on their links ([`vrrp`]), what is taken in for addresses of others ([`intake`]), ways out
//! by one interface ([`uplinks`]), the next hops ([`neighbors`], [`routing`]) and the look at the box ([`doctor`]). Decides nothing: what shall
//! be so comes in as a desired state, derived from plan and health by the binary. Never parses what a client or a backend sent.
//!
//! The calls of a control process, in order:
//!
//! ```text
//! Datapath::open(Options) -> Result<Datapath, OpenError>             maps made or taken over, programs loaded
//! reconcile(&mut self, &Wanted) -> Result<(), Error>                 the L4 tables, whenever something changes, and now
//!                                                                    and then, so that old changes of rings settle
//! steer(&mut self, &[(ListenKey, BorrowedFd)]) -> Result<(), Error>  which socket serves which listener
//! take_in(&mut self, &[(Listen, BorrowedFd)], bool)                  which socket serves addresses that are not on the box
//! set_ways(&mut self, &Ways) -> Result<(), MapError>                 what routing::Watcher found out about next hops
//! attach(&mut self) -> Result<Vec<Attached>, OpenError>              only now: packets meet complete tables
//! set_lists(&mut self, &Lists), ban(), allow(), unlist(), expire_lists()              who is let in or kept out
//! tune(&mut self, Tunables) -> Result<(), MapError>
//! set_interfaces(&mut self, Vec<String>)                             then attach() again
//! take_events(&mut self) -> Option<NeighborEvents>                   for neighbors::Neighbors
//! counters(&self), service_traffic(&self), backend_traffic(&self), tables(&self)     what was counted
//! explain(&self, &Question) -> Result<Option<Explanation>, MapError>                 what would become of a packet
//! close(self, Close::Keep | Close::Remove) -> Result<(), OpenError>
//! ```
//!
//! There is one writer: the process that holds the [`Datapath`], and in it one caller at a time.

mod assign;
mod attach;
pub mod capture;
mod changes;
mod datapath;
pub mod doctor;
mod error;
pub mod explain;
pub mod export;
pub mod flows;
mod former;
pub mod intake;
pub mod listen;
mod lists;
pub mod neighbors;
mod nexthops;
mod object;
mod options;
mod pins;
pub mod ports;
mod rings;
pub mod routing;
pub mod sweep;
pub mod sync;
mod sys;
mod sysctl;
mod table;
mod tables;
mod taken;
pub mod uplinks;
pub mod vips;
pub mod vrrp;
mod wanted;

pub use attach::{Attached, How};
pub use datapath::{Close, Counters, Datapath, ListCounts, NextHops, TableUse};
pub use error::{Error, MapError, OpenError};
pub use lists::{Listed, Origin, Rule};
pub use object::is_embedded;
pub use options::{Capacities, Options, Tunables};
pub use wanted::{Wanted, WantedAction, WantedBackend, WantedForward, WantedService, WantedSources};
pub use weir_abi::{Note, Reason, Traffic, Verdict};
