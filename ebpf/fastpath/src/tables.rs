//! What the decision reads and writes besides the packet, as one trait.
//!
//! Owns the trait and the words it speaks. In the kernel `weir-ebpf` implements it with maps and helpers; on the host
//! [`crate::memory`] does with ordinary collections. Neither decides anything: that is [`crate::pipeline`].

use weir_abi::{
    Addr16, Backend, FlowKey, FlowState, Note, Reason, RecordLimit, ReturnKey, ReturnTarget, ReturnVip,
    Service, ServiceKey, Settings, Slot,
};

use crate::rewrite::Link;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a client to a backend.
    In,
    /// From a backend to a client.
    Out,
}

/// A packet that a route is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteQuery {
    /// IPv4 rather than IPv6; both addresses are of that family.
    pub v4: bool,
    /// The packet's source.
    pub src: Addr16,
    /// Where it is to go: the backend, or the client.
    pub dst: Addr16,
    /// Both ports as they lie in the packet, source first.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Length of the IP packet in bytes, to compare with the MTU of the way out.
    pub total_len: u16,
    /// IPv4: TOS. IPv6: traffic class and flow label, network order.
    pub traffic_class: u32,
    /// Interface to look routes up from ([`Settings::fib_ifindex`]).
    pub from: u32,
}

/// What the kernel's routing says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Out by an interface, with these link addresses.
    Via {
        /// The interface's index.
        ifindex: u32,
        /// What to write into the Ethernet header.
        link: Link,
    },
    /// Not to be forwarded: an address of this box, or one that no route leads to.
    NotForwarded,
    /// A route that forbids it (blackhole, unreachable, prohibit), or that needs an encapsulation XDP cannot make.
    Unreachable,
    /// Forwarding is off on the interface routes are looked up from.
    Disabled,
    /// The next hop is known, its link address is not.
    NoNeighbor {
        /// The next hop.
        next_hop: Addr16,
        /// The interface it is reached through.
        ifindex: u32,
    },
    /// Larger than the MTU of the way out.
    TooBig,
    /// The look-up itself failed.
    Failed,
}

/// Everything the decision needs. Values are handed over as copies: what a table holds may change under the reader.
pub trait Tables {
    /// `SERVICES`.
    fn service(&mut self, key: &ServiceKey) -> Option<Service>;
    /// `SETTINGS`.
    fn settings(&mut self) -> Option<Settings>;
    /// `RINGS`, read whole.
    fn slot(&mut self, index: u32) -> Option<Slot>;
    /// `BACKENDS`.
    fn backend(&mut self, index: u32) -> Option<Backend>;
    /// Seconds of CLOCK_MONOTONIC.
    fn now(&mut self) -> u32;

    /// `FLOWS`.
    fn flow(&mut self, key: &FlowKey) -> Option<FlowState>;
    /// Writes `FLOWS`. False: the table refused.
    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool;
    /// This CPU's window of the recording limit.
    fn record_limit(&mut self) -> Option<&mut RecordLimit>;

    /// `RETURNS`.
    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget>;
    /// `RETURN_FLOWS`, by the reply as the backend sends it.
    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip>;
    /// Writes `RETURN_FLOWS`. False: the table refused.
    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool;

    /// Asks the routing table.
    fn route(&mut self, query: &RouteQuery) -> Route;
    /// Asks userspace to resolve a next hop. Repeats within a second may be left out.
    fn resolve_neighbor(&mut self, next_hop: &Addr16, ifindex: u32);

    /// Counts a verdict.
    fn count(&mut self, reason: Reason);
    /// Counts what happened on the way.
    fn note(&mut self, note: Note);
    /// Counts a forwarded frame for its service and its backend; `new_flow` as [`weir_abi::Traffic::flows`] says.
    fn traffic(&mut self, service: u32, backend: u32, direction: Direction, bytes: u32, new_flow: bool);
}

/// Whether one more is within the limit of this second; if so it is counted.
#[inline(always)]
pub const fn within(window: &mut RecordLimit, now: u32, limit: u32) -> bool {
    if window.second != now {
        window.second = now;
        window.count = 0;
    }
    if window.count >= limit {
        return false;
    }
    window.count += 1;
    true
}
