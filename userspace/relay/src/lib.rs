//! The L7 relay: takes connections from listening sockets it is handed, relays HTTP/1.1 and TCP to backends.
//!
//! Owns what happens between a client's socket and a backend's: parsing, rewriting, body framing, upstream connections,
//! phase timeouts, the access log, counters. Never reads a configuration, creates a listening socket, checks a
//! backend's health or touches BPF: the plan, the sockets and the health words come from whoever holds a [`Relay`].
//!
//! One thread per worker, each with its own single-threaded runtime, its own listening socket, its own upstream
//! connections and its own counters. Workers share nothing on the request path but the plan behind an `Arc` and atomic
//! words.
//!
//! ```text
//! Relay ── commands ──▶ worker ── accept ──▶ session (HTTP: head → choose → exchange → next head; TCP: choose → tunnel)
//! ```
#![forbid(unsafe_code)]

mod accept;
mod access;
mod announce;
mod caller;
mod clock;
mod fault;
pub mod hello;
pub mod http1;
pub mod http2;
mod passthrough;
mod phases;
mod prelude;
mod prepared;
mod reason;
mod relay;
mod scratch;
mod session;
mod stats;
mod stream;
mod timers;
mod tls;
mod tunnel;
mod upstream;
mod worker;
mod world;

pub use access::AccessLog;
pub use fault::Blame;
pub use phases::Phase;
pub use reason::{Cause, Layer, Reason, Side};
pub use relay::{ApplyError, Listener, Options, Relay, StartError};
pub use stats::{
    BackendCounts, BackendSnapshot, Histogram, PoolCounts, PoolPorts, PoolSnapshot, ServiceCounts,
    ServiceSnapshot, Snapshot,
};
pub use tls::{Back, Front, TlsEnds, TlsFacts};
pub use upstream::Stock;
