//! The decision: what becomes of a frame, and why. Runs in XDP and, over the same rules, on the host.
//!
//! Owns the order of things (below) and the short way. What becomes of a packet on its way is [`towards`]'s, the choice of a backend [`flow`]'s, the way out [`way`]'s, what
//! is kept out [`protect`]'s; bytes are changed by [`crate::rewrite`] and [`crate::emit`]; tables are behind [`Tables`].
//! Turning an [`Outcome`] into a verdict is the caller's.
//!
//! ```text
//! IP header ─▶ an address of ours? ──no──▶ pass
//!             │
//!             ▼
//! transport ─▶ service? ──yes──▶ lists ─▶ relay: pass
//!             │                        └▶ nat, dsr, ipip: hop limit ─▶ choose ─▶ way ─▶ rewrite ─▶ send
//!             no
//!             ▼
//!    full-nat's reply? ──yes──▶ whose? ─▶ way ─▶ rewrite ─▶ send
//!             │
//!             no
//!             ▼
//!          return? ──yes──▶ way ─▶ to this box: pass
//!             │                └─▶ hop limit ─▶ whose VIP? ─▶ rewrite ─▶ send
//!             no ─▶ pass
//! ```
//!
//! The short way takes whole TCP and UDP packets. It is a program of its own, so that what is rare costs it nothing; for
//! the rest the kernel goes on with another program ([`weir_abi::maps::stage`]):
//!
//! | stage | does |
//! |---|---|
//! | [`edge`] | takes ICMP, fragments and IPv6 extension headers apart |
//! | [`forward`] | forwards what [`edge`] has taken apart, and SYNs whose options stand in an unusual order |
//! | [`route`](forward::route) | forwards what the kernel's routes must be asked for, and first fragments |
//! | [`full_nat`](full_nat::full_nat) | flows by `full-nat`, towards the backend |
//! | [`full_nat::nat_new`], [`full_nat::nat_take`] | begin them: choose a backend, and a source address and port |
//! | [`full_nat::nat_return`] | their replies |
//! | [`full_nat::nat_send`] | sends both, by a way that the kernel's routes must be asked for |
//! | [`full_nat::nat_icmp`] | ICMP errors about them |
//! | [`icmp`] | echo requests to a virtual address, errors about flows |
//! | [`fragments`] | later fragments, behind the first one |
//! | [`admit`] | begins to count a network's connections, refuses those beyond its limits, counts the relay's |
//! | [`cookie`] | answers and checks TCP to the relay in a flood of SYNs |
//! | [`answer`] | RST and ICMP errors instead of the packet |
//! | [`lease::advert`] | adverts of virtual routers, handed to control |
//! | [`group`](group::group) | frames to a link address of virtual routers, and who answers where their addresses are |
//! | [`group::keep`] | TCP that may belong to another of the boxes which share a group |
//! | [`short`] | the short way again, behind those two |
//!
//! Where there are virtual routers, [`lease::gate`] comes before all of it.
//!
//! All but the first go on with the packet that was parked: to the verifier it is a number of unknown words, so the ways
//! that led there do not multiply with those that lead on.
//!
//! A frame for nobody costs the IP header and two bits of the filter. Nothing is changed in a frame that is not sent.
//!
//! Keys are handed to tables as copies, `&{ packet.flow }`: what the kernel's helpers get a pointer to must lie on the
//! stack, and a pointer into `packet` would put all of it there instead of into registers.

pub mod admit;
pub mod answer;
pub mod cookie;
pub mod edge;
mod flow;
pub mod forward;
pub mod fragments;
pub mod full_nat;
pub mod group;
pub mod icmp;
pub mod lease;
mod mss;
mod protect;
#[cfg(test)]
mod tests;
mod towards;
mod way;

use weir_abi::{
    Addr16, Reason, ReturnKey, ReturnTarget, Service, ServiceKey, Settings,
    maps::{list, port_proto, settings, stage},
};

pub use self::full_nat::Nat;
pub use self::towards::place;

use self::towards::{hash, slot_index, towards_backend, towards_client, tunnel_source, two_ports};
use crate::{
    filter,
    frame::Frame,
    parse::{ETHERNET, Ethernet, ICMP, ICMPV6, Network, Packet, ethernet, ip, transport},
    tables::Tables,
};

/// Values of `WAY`, by which one text makes several programs. The short way: no walk along TCP's options, next hops that are
/// resolved in advance.
const SHORT: u8 = 0;
/// The same with that walk.
const LONG: u8 = 1;
/// The same with the kernel's routes, and the record that later fragments follow; the backend was chosen before.
const ROUTE: u8 = 2;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why; its [`verdict`](Reason::verdict) says what to do.
    pub reason: Reason,
    /// Index of the interface to send it by, when it is forwarded; else 0.
    pub egress: u32,
}

/// Every way for a packet to end but being sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// For this reason.
    Reason(Reason),
    /// Another program goes on with it.
    Stage(u32),
    /// The kernel's routes must be asked. The backend that was chosen, as [`Chosen::word`](flow::Chosen::word); 0: it goes to a client.
    Ask(u32),
    /// It is larger than this MTU; 0: one that is not known. The sender shall be told.
    TooBig(u32),
    /// Its TTL or hop limit is used up: the sender shall be told. (The word means nothing; see below.)
    Expired(u32),
    /// Its flow's backend, of this index, is dead, and the service resets such flows. (Every variant has a word: of one
    /// without LLVM would copy a register that was never written, which the verifier refuses.)
    Reset(u32),
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

/// What a program says of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is decided, and counted.
    Done(Outcome),
    /// The program of this stage goes on.
    Stage(u32),
}

/// Decides about a frame, changes it if it is to be forwarded, and counts: all stages, one after the other.
pub fn handle<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Outcome {
    let gated = if lease::are_asked(tables) {
        lease::gate(frame, tables)
    } else {
        None
    };
    let mut step = match gated {
        Some(step) => step,
        None => short(frame, tables),
    };
    // No more than the longest chain of stages: group, keep, short, edge, forward, admit, full_nat, nat_new, nat_take, and for the slower of two CPUs
    // full_nat and nat_new again, nat_send, answer.
    for _ in 0..13 {
        step = match step {
            Step::Done(outcome) => return outcome,
            Step::Stage(stage::EDGE) => edge::edge(frame, tables),
            Step::Stage(stage::FORWARD) => forward::forward(frame, tables),
            Step::Stage(stage::ROUTE) => forward::route(frame, tables),
            Step::Stage(stage::FULL_NAT) => full_nat::full_nat(frame, tables),
            Step::Stage(stage::NAT_NEW) => full_nat::nat_new(frame, tables),
            Step::Stage(stage::NAT_TAKE) => full_nat::nat_take(frame, tables),
            Step::Stage(stage::NAT_ICMP) => full_nat::nat_icmp(frame, tables),
            Step::Stage(stage::NAT_RETURN) => full_nat::nat_return(frame, tables),
            Step::Stage(stage::NAT_SEND) => full_nat::nat_send(frame, tables),
            Step::Stage(stage::COOKIE) => cookie::cookie(frame, tables),
            Step::Stage(stage::ADMIT) => admit::admit(tables),
            Step::Stage(stage::ANSWER) => answer::answer(frame, tables),
            Step::Stage(stage::ICMP) => icmp::icmp(frame, tables),
            Step::Stage(stage::FRAGMENT) => fragments::fragment(frame, tables),
            Step::Stage(stage::ADVERT) => lease::advert(tables),
            Step::Stage(stage::GROUP) => group::group(frame, tables),
            Step::Stage(stage::KEEP) => group::keep(frame, tables),
            Step::Stage(stage::SHORT) => short(frame, tables),
            Step::Stage(_) => break,
        };
    }
    match step {
        Step::Done(outcome) => outcome,
        Step::Stage(_) => internal(tables),
    }
}

/// The outcome of a stage that can't be reached.
#[inline(always)]
pub fn internal<T: Tables>(tables: &mut T) -> Outcome {
    tables.count(Reason::Internal);
    Outcome {
        reason: Reason::Internal,
        egress: 0,
    }
}

/// The short way.
#[inline(always)]
pub fn short<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    // One way for each family: what is constant in it need not be carried along.
    match ethernet(frame.window()) {
        Ok(ethernet) if ethernet.v4 => family::<_, _, true>(frame, &ethernet, tables),
        Ok(ethernet) => family::<_, _, false>(frame, &ethernet, tables),
        Err(reason) => done(Outcome { reason, egress: 0 }, tables),
    }
}

/// The short way of one family.
#[inline(always)]
fn family<F: Frame, T: Tables, const V4: bool>(frame: &mut F, ethernet: &Ethernet, tables: &mut T) -> Step {
    let whole = frame.whole();
    let network = match ip::<V4>(frame.window(), ethernet, whole) {
        Ok(network) => network,
        Err(reason) => return done(Outcome { reason, egress: 0 }, tables),
    };
    let ours = match ours::<_, false>(network, tables) {
        Ok(ours) => ours,
        Err(Stop::Stage(stage)) => return Step::Stage(stage),
        Err(stop) => {
            let reason = last(stop);
            return done(Outcome { reason, egress: 0 }, tables);
        }
    };
    // Nearly all packets have neither tags nor options: then every offset is known when this is compiled.
    let header_len = if V4 { 20 } else { 40 };
    if network.at == ETHERNET && network.header_len == header_len {
        let network = Network {
            at: ETHERNET,
            header_len,
            tags: [0; 2],
            ..ours.network
        };
        taken_apart(frame, &Ours { network, ..ours }, tables)
    } else {
        taken_apart(frame, &ours, tables)
    }
}

#[inline(always)]
fn taken_apart<F: Frame, T: Tables>(frame: &mut F, ours: &Ours, tables: &mut T) -> Step {
    match transport::<false>(frame.window(), &ours.network).map(|packet| (packet, ours.to)) {
        Ok((mut packet, to)) => {
            // Changed only for a frame that is sent, so what is parked is as it was.
            let result = any_way::<_, _, SHORT>(frame, &mut packet, to, 0, tables);
            go_on(result, &packet, tables)
        }
        Err(Stop::Stage(stage)) => Step::Stage(stage),
        Err(Stop::Reason(reason)) => done(Outcome { reason, egress: 0 }, tables),
        // A packet that could not be taken apart was not routed.
        Err(Stop::Ask(_) | Stop::TooBig(_) | Stop::Expired(_) | Stop::Reset(_)) => {
            Step::Done(internal(tables))
        }
    }
}

/// What one stage leaves to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parked {
    packet: Packet,
    v4: u32,
    tcp: u32,
    /// For [`answer`]: the MTU that it does not fit through; 0: the answer is a reset; [`EXPIRED`]: its TTL is used up.
    pub mtu: u32,
    /// For [`forward::route`]: the backend that was chosen, as [`Chosen::word`](flow::Chosen::word); 0: none yet. What choosing did is not done
    /// again.
    pub chosen: u32,
}

impl Parked {
    #[inline(always)]
    const fn new(packet: &Packet, mtu: u32, chosen: u32) -> Self {
        Self {
            packet: *packet,
            v4: packet.v4 as u32,
            tcp: packet.tcp as u32,
            mtu,
            chosen,
        }
    }

    /// The packet, taken apart; the frame is as it came in.
    ///
    /// What is either one thing or the other comes from words that are compared whole: of a `bool` LLVM tests a bit each
    /// time anew, and the verifier does not see that it is the same one.
    #[inline(always)]
    pub const fn packet(&self) -> Packet {
        Packet {
            v4: self.v4 != 0,
            tcp: self.tcp != 0,
            ..self.packet
        }
    }
}

/// In the place of an MTU: none is meant, the packet's TTL or hop limit is used up. No packet is too big for an MTU of this
/// size.
const EXPIRED: u32 = u32::MAX;

/// Counts what is decided, and parks the packet for another stage if it is not.
#[inline(always)]
fn go_on<T: Tables>(result: Result<Outcome, Stop>, packet: &Packet, tables: &mut T) -> Step {
    let (stage, mtu, chosen) = match result {
        Ok(outcome) => return done(outcome, tables),
        Err(Stop::Reason(reason)) => return done(Outcome { reason, egress: 0 }, tables),
        Err(stop) => next_stage(stop),
    };
    tables.park(&Parked::new(packet, mtu, chosen));
    Step::Stage(stage)
}

/// The same in a stage that goes on with a packet that is parked already.
#[inline(always)]
fn go_on_parked<T: Tables>(result: Result<Outcome, Stop>, tables: &mut T) -> Step {
    let (stage, mtu, chosen) = match result {
        Ok(outcome) => return done(outcome, tables),
        Err(Stop::Reason(reason)) => return done(Outcome { reason, egress: 0 }, tables),
        Err(stop) => next_stage(stop),
    };
    if let Some(parked) = tables.parked() {
        parked.mtu = mtu;
        parked.chosen = chosen;
    }
    Step::Stage(stage)
}

/// The stage that goes on, with [`Parked::mtu`] and [`Parked::chosen`] for it.
#[inline(always)]
fn next_stage(stop: Stop) -> (u32, u32, u32) {
    match stop {
        Stop::Stage(stage) => (stage, 0, 0),
        Stop::Ask(chosen) => (stage::ROUTE, 0, chosen),
        Stop::TooBig(mtu) => (stage::ANSWER, mtu.max(1), 0),
        Stop::Expired(_) => (stage::ANSWER, EXPIRED, 0),
        Stop::Reset(_) | Stop::Reason(_) => (stage::ANSWER, 0, 0),
    }
}

/// What a stage that leaves nothing to another makes of a stop.
#[inline(always)]
const fn last(stop: Stop) -> Reason {
    match stop {
        Stop::Reason(reason) => reason,
        Stop::TooBig(_) => Reason::TooBig,
        Stop::Expired(_) => Reason::TtlExpired,
        Stop::Reset(_) => Reason::NoBackend,
        Stop::Stage(_) | Stop::Ask(_) => Reason::Internal,
    }
}

/// Counts what is decided.
#[inline(always)]
fn done<T: Tables>(outcome: Outcome, tables: &mut T) -> Step {
    tables.count(outcome.reason);
    Step::Done(outcome)
}

/// The IP header of a packet that may have an address of ours at one end.
struct Ours {
    network: Network,
    /// It is addressed to one.
    to: bool,
}

/// `FULL`: as in [`transport`].
#[inline(always)]
fn ours<T: Tables, const FULL: bool>(network: Network, tables: &mut T) -> Result<Ours, Stop> {
    let to = marked(&network.dst, tables);
    if to || marked(&network.src, tables) {
        return Ok(Ours { network, to });
    }
    // A router on the way reports in its own name: whose flow it is about, only the quote says.
    if network.protocol != if network.v4 { ICMP } else { ICMPV6 } {
        return Err(Stop::Reason(Reason::NoService));
    }
    if FULL {
        Ok(Ours { network, to })
    } else {
        Err(Stop::Stage(stage::EDGE))
    }
}

/// Whether the filter has the address's bit.
#[inline(always)]
fn marked<T: Tables>(addr: &Addr16, tables: &mut T) -> bool {
    let (word, mask) = filter::place(filter::bit(addr));
    tables.filter(word) & mask != 0
}

/// A TCP or UDP packet, by `nat`, `dsr` or `ipip`. `to`: it may be addressed to a service; `already`: [`Parked::chosen`].
#[inline(always)]
fn any_way<F: Frame, T: Tables, const WAY: u8>(
    frame: &mut F,
    packet: &mut Packet,
    to: bool,
    already: u32,
    tables: &mut T,
) -> Result<Outcome, Stop> {
    match owner(packet, to, tables)? {
        Owner::Service(service) => towards_backend::<_, _, WAY>(frame, packet, &service, already, tables),
        Owner::Return(target) => towards_client::<_, _, WAY>(frame, packet, &target, tables),
    }
}

/// Whose a packet is.
enum Owner {
    /// It is addressed to this service.
    Service(Service),
    /// It is a backend's answer.
    Return(ReturnTarget),
}

/// `to`: it may be addressed to a service.
#[inline(always)]
fn owner<T: Tables>(packet: &Packet, to: bool, tables: &mut T) -> Result<Owner, Stop> {
    if to {
        if let Some(service) = service(packet, tables) {
            return Ok(Owner::Service(service));
        }
        // Before the returns: a backend may answer to `nat` at the same port.
        if tables.nat_reply(&{ packet.flow }).is_some() {
            return Err(Stop::Stage(stage::NAT_RETURN));
        }
    }
    if (!to || marked(&packet.flow.src, tables))
        && let Some(target) = return_target(packet, tables)
    {
        return Ok(Owner::Return(target));
    }
    Err(Stop::Reason(Reason::NoService))
}

/// The service that a packet is addressed to: of its port, or of every port.
#[inline(always)]
fn service<T: Tables>(packet: &Packet, tables: &mut T) -> Option<Service> {
    let key = |port| ServiceKey {
        addr: packet.flow.dst,
        port_proto: port_proto(port, packet.protocol()),
    };
    match tables.service(&key(packet.destination_port())) {
        Some(service) => Some(service),
        None => tables.service(&key(0)),
    }
}

/// The backend that a packet comes from: at its port, or at every port.
#[inline(always)]
fn return_target<T: Tables>(packet: &Packet, tables: &mut T) -> Option<ReturnTarget> {
    let key = |port| ReturnKey {
        addr: packet.flow.src,
        port_proto: port_proto(port, packet.protocol()),
    };
    match tables.return_target(&key(packet.source_port())) {
        Some(target) => Some(target),
        None => tables.return_target(&key(0)),
    }
}

/// What comes before the choice of a backend, whatever the mode: whether the source is exempt from limits. Errors: what
/// ends here.
#[inline(always)]
fn enter<T: Tables>(packet: &Packet, settings: &Settings, tables: &mut T) -> Result<bool, Stop> {
    if settings.flags & settings::LISTS != 0
        && let Some(entry) = tables.list(&{ packet.flow.src })
        && (entry.until == 0 || tables.now() <= entry.until)
    {
        if entry.flags & list::ALLOW == 0 {
            return Err(Stop::Reason(Reason::Banned));
        }
        return Ok(true);
    }
    Ok(false)
}
