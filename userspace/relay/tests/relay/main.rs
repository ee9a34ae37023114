//! The relay over loopback sockets, between scripted raw clients and scripted raw backends.
//!
//! Every byte on both sides is the test's own. Ports are the system's choice; every wait has a deadline.

mod bodies;
mod control;
mod faults;
mod heads;
mod messages;
mod support;
mod tcp;
