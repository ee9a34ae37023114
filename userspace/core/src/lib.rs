//! The sans-IO core of weir: what is wanted (the plan), what is happening (machines), what follows (outputs).
//!
//! Owns the plan's types, the health machine, balancing, the engine that ties them, who of several boxes is master
//! ([`vrrp`]), and what boxes tell each other of their flows ([`sync`]). Never opens a socket, reads a
//! clock, draws a random number, spawns a task or parses a file: time and randomness come in as arguments, effects go
//! out as values. `weir-config` builds the plan, `weir-datapath`, `weir-relay` and `weir-health` carry it out, the
//! `weir` binary connects them.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "a test has to begin at some instant"
    )
)]

pub mod balance;
pub mod engine;
pub mod export;
pub mod health;
pub mod ids;
pub mod plan;
pub mod ports;
pub mod proxy;
pub mod sync;
pub mod vrrp;
