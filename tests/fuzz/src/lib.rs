//! What each fuzz target does with its bytes, as plain functions: libFuzzer calls them from `fuzz_targets/`, and
//! `tests/replay.rs` calls them on stable Rust with the committed corpus and seeded mutations of it.
//!
//! Each `check` panics when a property does not hold; that nothing panics by itself is the least of them. Generates no
//! inputs and reads no files.
#![forbid(unsafe_code)]

pub mod config;
pub mod first_bytes;
pub mod http2_front;
pub mod http_head;
pub mod mutate;
pub mod packet;
pub mod sync;
pub mod vrrp;
