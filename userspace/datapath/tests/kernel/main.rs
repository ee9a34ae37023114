//! The datapath against the running kernel: maps, links, packets, addresses, neighbors.
//!
//! Needs root, the eBPF object, `ip`, `ethtool`, keepalived and tshark; what is missing fails with words, nothing is skipped. Every test has
//! network namespaces and a bpf file system of its own, without names: they vanish with the test, however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod doctor;
mod explain;
mod lab;
mod leases;
mod lifecycle;
mod lists;
mod nat;
mod neighbors;
mod replace;
mod scale;
mod steer;
mod sweep;
mod sync;
mod vips;
mod vrrp;
mod ways;
