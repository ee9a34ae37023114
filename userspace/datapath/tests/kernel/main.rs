//! The datapath against the running kernel: maps, links, packets, addresses, neighbors.
//!
//! Needs root, the eBPF object, `ip` and `ethtool`; what is missing fails with words, nothing is skipped. Every test has
//! network namespaces and a bpf file system of its own, without names: they vanish with the test, however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod doctor;
mod lab;
mod lifecycle;
mod nat;
mod neighbors;
mod steer;
mod vips;
