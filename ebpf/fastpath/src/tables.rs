//! What the decision reads and writes besides the packet, as one trait.
//!
//! Owns the trait and the words it speaks. In the kernel `weir-ebpf` implements it with maps and helpers; on the host
//! [`crate::memory`] does with ordinary collections. Neither decides anything: that is [`crate::pipeline`].

use core::ops::Deref;

use weir_abi::{
    Addr16, Backend, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState, GroupLink,
    ListEntry, NatFlow, NatReply, NatSource, NextHop, Note, Prefix, QuicKey, Reason, RecordLimit, ReturnKey,
    ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings, Slot, Vlan,
};

use crate::{
    parse::Packet,
    pipeline::{Nat, Parked},
    rewrite::Link,
};

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
    TooBig {
        /// That MTU; 0: the kernel did not say.
        mtu: u32,
    },
    /// The look-up itself failed.
    Failed,
}

/// What an ACK is to the socket that it is addressed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Checked {
    /// Nothing to check: its connection is known, or no socket listens.
    Other = 0,
    /// A socket listens, and the ACK brings back a cookie that the kernel has made a short while ago.
    Valid = 1,
    /// A socket listens, and the ACK means nothing to it.
    Invalid = 2,
}

/// What socket the stack would give a TCP packet to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Socket {
    /// None.
    None = 0,
    /// One that listens.
    Listening = 1,
    /// That of its connection, which may have begun a moment ago, or ended.
    Connected = 2,
}

/// What the tables hold of a connection that begins, each to be changed in place.
pub struct Beginning<'a> {
    /// What its source counts as.
    pub client: &'a mut ClientState,
    /// What is recorded of its tuple.
    pub flow: Option<&'a mut FlowState>,
    /// This CPU's window of [`weir_abi::maps::limit::FLOWS`].
    pub window: Option<&'a mut RecordLimit>,
}

/// Everything the decision needs. Values are handed over as copies where they are only read: what a table holds may
/// change under the reader. Those that come as references are changed in place, field by field, as other CPUs do.
pub trait Tables {
    /// A way to a value that is read field by field: in the kernel a pointer, since a copy would fill the stack.
    type Held<T: Copy + 'static>: Deref<Target = T> + Copy;

    /// `SERVICES`.
    fn service(&mut self, key: &ServiceKey) -> Option<Service>;
    /// `SETTINGS`.
    fn settings(&mut self) -> Option<Self::Held<Settings>>;
    /// A word of `FILTER`.
    fn filter(&mut self, word: u32) -> u64;
    /// `RINGS`, read whole.
    fn slot(&mut self, index: u32) -> Option<Slot>;
    /// `BACKENDS`.
    fn backend(&mut self, index: u32) -> Option<Backend>;
    /// `NEXT_HOPS`.
    fn next_hop(&mut self, index: u32) -> Option<NextHop>;
    /// `ROUTES`: the index of the next hop on the way to a client; 0: the kernel must be asked.
    fn client_route(&mut self, client: &Addr16) -> u32;
    /// `VLANS`.
    fn vlan(&mut self, ifindex: u32) -> Option<Vlan>;
    /// Seconds of CLOCK_MONOTONIC.
    fn now(&mut self) -> u32;
    /// This CPU's number.
    fn cpu(&mut self) -> u32;

    /// `FLOWS`.
    fn flow(&mut self, key: &FlowKey) -> Option<&mut FlowState>;
    /// Writes `FLOWS`. False: the table refused.
    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool;
    /// This CPU's window of a limit ([`weir_abi::maps::limit`]).
    fn limit(&mut self, which: u32) -> Option<&mut RecordLimit>;

    /// `RETURNS`.
    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget>;
    /// `RETURN_FLOWS`, by the reply as the backend sends it.
    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip>;
    /// Writes `RETURN_FLOWS`. False: the table refused.
    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool;

    /// `NAT_FLOWS`.
    fn nat_flow(&mut self, key: &FlowKey) -> Option<&mut NatFlow>;
    /// Writes `NAT_FLOWS` unless the key is there. False: it is, or the table refused.
    fn add_nat_flow(&mut self, key: &FlowKey, flow: &NatFlow) -> bool;
    /// Deletes from `NAT_FLOWS`.
    fn remove_nat_flow(&mut self, key: &FlowKey);
    /// `NAT_REPLIES`.
    fn nat_reply(&mut self, key: &FlowKey) -> Option<&mut NatReply>;
    /// Writes `NAT_REPLIES` unless the key is there. False: it is, or the table refused.
    fn add_nat_reply(&mut self, key: &FlowKey, reply: &NatReply) -> bool;
    /// Deletes from `NAT_REPLIES`.
    fn remove_nat_reply(&mut self, key: &FlowKey);
    /// `NAT_SOURCES`.
    fn nat_source(&mut self, index: u32) -> Option<NatSource>;
    /// `NAT_CURSORS`, of this CPU, by service id.
    fn nat_cursor(&mut self, service: u32) -> Option<&mut u64>;

    /// `FRAGMENTS`.
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentState>;
    /// Writes `FRAGMENTS`. False: the table refused.
    fn record_fragment(&mut self, key: &FragmentKey, state: &FragmentState) -> bool;
    /// `QUIC_IDS`: the backend's index.
    fn quic_id(&mut self, key: &QuicKey) -> Option<u32>;

    /// `LISTS`: the entry of the longest prefix that holds the address.
    fn list(&mut self, source: &Addr16) -> Option<ListEntry>;
    /// Writes `LISTS`. False: the table refused.
    fn add_to_list(&mut self, network: &Prefix, entry: &ListEntry) -> bool;
    /// `CLIENTS`.
    fn client(&mut self, key: &ClientKey) -> Option<&mut ClientState>;
    /// `FLOWS`, `CLIENTS` and the limit of what is recorded, at once. None: the client is not counted yet.
    ///
    /// `FLOWS` is asked first: it is the big table, and what it makes the CPU wait for goes on beside the rest.
    fn beginning(&mut self, client: &ClientKey, flow: &FlowKey) -> Option<Beginning<'_>>;
    /// Writes `CLIENTS`. False: the table refused.
    fn record_client(&mut self, key: &ClientKey, state: &ClientState) -> bool;
    /// `SERVICE_LIMITS`.
    fn service_limits(&mut self, service: u32) -> Option<Self::Held<ServiceLimits>>;

    /// `LEASED`: the slot of the group of virtual routers that have the address, and above
    /// [`SLOT_BITS`](weir_abi::maps::lease::SLOT_BITS) the index of their link address; 0: none.
    fn lease(&mut self, addr: &Addr16) -> u32;
    /// `LEASES`: when the lease of a slot ends, in nanoseconds of CLOCK_MONOTONIC; 0: there is none.
    fn lease_until(&mut self, slot: u32) -> u64;
    /// `LINKED`: the index of this link address, on the interface that the frame came in by; 0: it is no virtual router's.
    fn linked(&mut self, mac: &[u16; 3]) -> u32;
    /// `LINKS`.
    fn group_link(&mut self, index: u32) -> Option<Self::Held<GroupLink>>;
    /// What socket of this box a TCP packet is for.
    fn socket(&mut self, packet: &Packet) -> Socket;
    /// CLOCK_MONOTONIC in nanoseconds.
    fn clock(&mut self) -> u64;
    /// The same by a clock that is cheap, and behind by as much as [`weir_abi::maps::lease::LAG`] says at most.
    fn coarse_clock(&mut self) -> u64;
    /// `HEARS`: whether control takes adverts to this address, on the interface that the frame came in by.
    fn hears(&mut self, to: &Addr16) -> bool;
    /// Copies the frame, an advert, to `ADVERTS`. False: there is no room, or the frame is too long.
    fn hand_out_advert(&mut self) -> bool;

    /// Has the kernel make a cookie for a SYN that a listening socket of this box takes: the sequence number to answer
    /// with, and the MSS to offer 32 bits above it. 0: no socket listens, or the kernel makes none.
    fn syn_cookie(&mut self, packet: &Packet) -> u64;
    /// Has the kernel check the cookie that an ACK may bring back.
    fn check_cookie(&mut self, packet: &Packet) -> Checked;

    /// Asks the routing table.
    fn route(&mut self, query: &RouteQuery) -> Route;
    /// Asks userspace to resolve a next hop. Repeats within a second may be left out.
    fn resolve_neighbor(&mut self, next_hop: &Addr16, ifindex: u32);

    /// Puts a packet down for the program that goes on with it (`PARKED`).
    fn park(&mut self, parked: &Parked);
    /// What was put down last on this CPU.
    fn parked(&mut self) -> Option<&mut Parked>;
    /// What the packet that was put down becomes by `full-nat`. It lies beside the packet: others need not write it.
    fn parked_nat(&mut self) -> Option<&mut Nat>;

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
