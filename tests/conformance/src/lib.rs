//! HTTP/1.x on the wire, case by case: bytes from the client, bytes that the origin must see, bytes back.
//!
//! Owns the table of cases, the driver that plays one of them through a proxy over loopback sockets, and what is known of
//! how other proxies differ. Knows nothing of weir's crates: a proxy is an address. `tests/relay.rs` plays the cases
//! through a relay in its own process, and `tests/e2e` through the weir binary, HAProxy and nginx.
//!
//! weir is held to the bytes. Another proxy may write the same message in another way, so there the [`meaning`]
//! is compared; where that differs too, [`deviations`] must know it and say why.
//!
//! [`http2`] has the cases of HTTP/2, and a driver of its own.
#![forbid(unsafe_code)]

pub mod case;
pub mod cases;
pub mod deviations;
pub mod drive;
pub mod http2;
pub mod meaning;
mod own;

pub use case::{Case, Setting, Step};
pub use drive::{Drive, Proxy, Rigor};
