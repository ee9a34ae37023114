//! What tests and the demo need around weir: network namespaces, a small network, real peers, a running weir, and
//! waiting on conditions.
//!
//! Nothing here knows weir's crates: weir is driven from outside, by its binary, its control socket and its packets.
//! Everything that is made is a value that removes itself when dropped, on success, error and panic alike. What a
//! killed run left behind is removed by the next one (see [`netns`]).
//!
//! Needs root, iproute2 and ethtool; the peers need the programs they are named after. Whatever is missing is an
//! error that says so.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod command;
pub mod interrupt;
pub mod lab;
pub mod metrics;
pub mod netns;
pub mod pair;
pub mod peer;
pub mod process;
pub mod scratch;
pub mod wait;
pub mod weir;

/// What processes and boxes can be sent.
pub use nix::sys::signal::Signal;

pub use crate::{
    command::Cmd,
    lab::Lab,
    metrics::Metrics,
    netns::Netns,
    pair::Pair,
    process::Process,
    scratch::Scratch,
    wait::{settle, wait_until},
    weir::{Weir, WeirConfig},
};
