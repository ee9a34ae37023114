//! Everything that is done to a packet, once, for the kernel and for the host.
//!
//! Owns: taking a frame apart ([`parse`]), the keyed flow hash ([`hash`]), Maglev tables and rings ([`maglev`], [`ring`]),
//! checksums and rewrites ([`checksum`], [`rewrite`]) and the decision itself ([`pipeline`]), generic over the tables it
//! reads ([`tables`]).
//!
//! Never does: allocate (but in [`memory`], with the feature `std`), panic, read a clock, or know what a BPF map is.
//! `weir-ebpf` gives it the kernel's maps and turns its outcome into a verdict; `weir-core` fills rings with it; `weir
//! explain` and the tests run the very same decision over tables in memory.
//!
//! # Writing for the verifier
//!
//! What is inlined into the XDP program follows three rules: no slices and no indexing (a bounds check that can panic is
//! a program that can't be loaded), every offset that is computed at run time goes through [`window::Window::skip`], and
//! nothing of the packet is changed before everything was decided.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch, core_intrinsics),
    allow(internal_features, reason = "the compiler is one that this was tested with")
)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod capture;
pub mod checksum;
pub mod emit;
pub mod filter;
pub mod frame;
pub mod hash;
pub mod maglev;
#[cfg(any(test, feature = "std"))]
pub mod memory;
pub mod parse;
pub mod pipeline;
pub mod quic;
pub mod rewrite;
pub mod ring;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod window;

pub use frame::Frame;
pub use pipeline::{Outcome, Step, Stop, handle};
pub use tables::{Direction, Route, RouteQuery, Tables};
pub use window::Window;
