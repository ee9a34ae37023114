//! The relay over loopback sockets, between scripted raw clients and scripted raw backends.
//!
//! Every byte on both sides is the test's own. Ports are the system's choice; every wait has a deadline.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so does what it calls"
)]

mod bodies;
mod control;
mod easing;
mod faults;
mod front;
mod h2;
mod heads;
mod http2;
mod limits;
mod messages;
mod passthrough;
mod proxy;
mod records;
mod retries;
mod rewriting;
mod routing;
mod support;
mod tcp;
mod tls;
mod websocket;
