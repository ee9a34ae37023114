//! Everything that touches bpf(2), netlink, raw and privileged sockets.
//!
//! Owns the maps, programs and links of the L4 plane ([`Datapath`]), the listening sockets ([`listen`]), the virtual
//! addresses ([`vips`]), the next hops ([`neighbors`]) and the look at the box ([`doctor`]). Decides nothing: what shall
//! be so comes in as a desired state, derived from plan and health by the binary. Never parses what a client or a backend sent.
//!
//! The calls of a control process, in order:
//!
//! ```text
//! Datapath::open(Options) -> Result<Datapath, OpenError>             maps made or taken over, programs loaded
//! reconcile(&mut self, &Wanted) -> Result<(), Error>                 the L4 tables, whenever something changes, and now
//!                                                                    and then, so that old changes of rings settle
//! steer(&mut self, &[(ListenKey, BorrowedFd)]) -> Result<(), Error>  which socket serves which listener
//! attach(&mut self) -> Result<Vec<Attached>, OpenError>              only now: packets meet complete tables
//! tune(&mut self, Tunables) -> Result<(), MapError>
//! set_interfaces(&mut self, Vec<String>)                             then attach() again
//! take_events(&mut self) -> Option<NeighborEvents>                   for neighbors::Neighbors
//! counters(&self), service_traffic(&self), backend_traffic(&self), tables(&self)     what was counted
//! close(self, Close::Keep | Close::Remove) -> Result<(), OpenError>
//! ```
//!
//! There is one writer: the process that holds the [`Datapath`], and in it one caller at a time.

mod assign;
mod attach;
mod changes;
mod datapath;
pub mod doctor;
mod error;
pub mod listen;
pub mod neighbors;
mod object;
mod options;
mod pins;
mod rings;
mod sys;
mod sysctl;
mod table;
mod tables;
pub mod vips;
mod wanted;

pub use attach::{Attached, How};
pub use datapath::{Close, Counters, Datapath, TableUse};
pub use error::{Error, MapError, OpenError};
pub use object::is_embedded;
pub use options::{Capacities, Options, Tunables};
pub use wanted::{Wanted, WantedAction, WantedBackend, WantedNat, WantedService};
pub use weir_abi::{Note, Reason, Traffic, Verdict};
