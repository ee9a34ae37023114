//! What control, relay, health and keys say to each other: one JSON message a packet, descriptors beside it.
//!
//! The child holds a listening seqpacket socket and control connects to it, so that a control started anew finds the
//! children of its predecessor. A packet holds at most [`MAX_MESSAGE`] bytes: longer texts travel in a memfd.

use nix::unistd::Uid;

mod channel;
mod memfd;
pub(crate) mod stats;
mod wire;

pub(crate) use channel::{Channel, Listener, bind, borrow, connect};
pub(crate) use memfd::{read_secret, read_text, secret, text};
pub(crate) use wire::{
    FromHealth, FromKeys, FromRelay, ToHealth, ToKeys, ToRelay, WireProbe, WireResult, WireWord,
};

/// Longest message, in bytes. Below the kernel's default of 212 992 for a Unix socket's buffer.
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;

/// Version of weir and of the messages.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/3");

/// How a child was started: version, user, arguments after the role. Said in its greeting; a child found running that
/// was started otherwise than it would be now is replaced.
pub(crate) fn identity(user: Uid, args: &[String]) -> String {
    format!("{VERSION} uid {user} {}", args.join(" "))
}

/// A greeting, as far as all children give it alike.
pub(crate) trait Greeting {
    /// What the child says of itself, if this is a greeting. See [`identity`].
    fn identity(&self) -> Option<&str>;
}
