//! TLS as an operator means it: certificates judged, policies made into rustls configurations, keys that only sign.
//!
//! Owns what config, relay, control and the keys process must see alike: what a file of certificates or a key holds and
//! what is wrong with it ([`Certificate`], [`PrivateKey`], [`Mistake`]), which policy means which versions, suites and
//! groups ([`Policy`]), which certificate a client gets ([`Front`]), what a client's certificate says ([`Peer`]), how
//! backends are spoken to ([`Back`]), and how a process that has no key gets a signature ([`KeySource`]). Never opens a
//! file, a connection or a clock: it is given contents, descriptors and the time. The exception is [`Roots::of_system`].
#![forbid(unsafe_code)]

mod back;
mod certificate;
mod client;
mod front;
mod key;
mod keys;
mod message;
mod mistake;
mod names;
mod ocsp;
mod peer;
mod policy;
mod remote;
mod roots;
mod secret;
mod served;
mod signing;
mod tickets;

pub use back::{Back, for_server};
pub use certificate::Certificate;
pub use client::{ClientAuth, Unverified, Wanted};
pub use front::Front;
pub use key::{KeyId, KeyKind, PrivateKey};
pub use keys::{KeySource, LocalKeys};
pub use mistake::{Mistake, Moment};
pub use names::Pattern;
pub use peer::{Peer, is_oid};
pub use policy::Policy;
pub use remote::{NoSignature, RemoteKeys};
pub use roots::{Anybody, Roots};
pub use rustls;
pub use secret::Secret;
pub use served::Served;
pub use signing::Signing;
pub use tickets::{TicketKeys, Tickets};

/// The cryptography that everything here uses: aws-lc, with all it has.
pub(crate) fn provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(test)]
mod fixture;
