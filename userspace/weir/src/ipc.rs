//! What control, relay and health say to each other: one JSON message a packet, descriptors beside it.
//!
//! The child holds a listening seqpacket socket and control connects to it, so that a control started anew finds the
//! children of its predecessor. A packet holds at most [`MAX_MESSAGE`] bytes: longer texts travel in a memfd.

mod channel;
mod memfd;
pub(crate) mod stats;
mod wire;

pub(crate) use channel::{Channel, Listener, bind, borrow, connect};
pub(crate) use memfd::{read_text, text};
pub(crate) use wire::{FromHealth, FromRelay, ToHealth, ToRelay, WireProbe, WireResult, WireWord};

/// Longest message, in bytes. Below the kernel's default of 212 992 for a Unix socket's buffer.
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;

/// Spoken by both ends in the greeting; a child that speaks another is replaced.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");

/// A greeting, as far as all children give it alike.
pub(crate) trait Greeting {
    /// Version and process id, if this is a greeting.
    fn hello(&self) -> Option<(&str, u32)>;
}
