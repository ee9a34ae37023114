//! Runs the health probes that the engine asks for.
//!
//! Owns what happens between a [`ProbeRequest`](weir_core::engine::ProbeRequest) and its result: connecting, TLS, the
//! HTTP exchange, deadlines, and the naming of what went wrong. Never decides what a result means for a backend, nor
//! when to probe: the engine in `weir-core` does. Knows nothing of the configuration's form, of BPF or of the process
//! it runs in: the `weir` binary brings requests and takes results away.
//!
//! - [`Prober`] runs one probe.
//! - [`ProbeRunner`] runs many, by command.
#![forbid(unsafe_code)]

mod failure;
mod http;
mod http2;
mod origin;
mod prober;
mod runner;
mod tls;

pub use prober::{Prober, Target};
pub use runner::{Command, ProbeRunner};
