//! What the tests of the kernel programs share: the object, a loaded copy of it with typed maps, frames, a namespace.
//!
//! The tests run the programs by `BPF_PROG_TEST_RUN`: a packet in, a verdict and a packet out, no traffic. They need root.
//! Routes come from a network namespace that belongs to one thread and ends with it; nothing is pinned or attached, so
//! nothing is left behind.
//!
//! What needs sockets (`weir_steer`) is tested by `weir-datapath`, which attaches it; here it is only loaded.

pub mod both;
pub mod floor;
pub mod foreign;
pub mod frame;
pub mod icmp;
pub mod kernel;
pub mod lab;
pub mod object;
mod raw;
pub mod traffic;
pub mod world;

pub use both::Both;
pub use frame::Frame;
pub use icmp::Icmp;
pub use kernel::{Kernel, Run};
pub use lab::Lab;
pub use world::World;
