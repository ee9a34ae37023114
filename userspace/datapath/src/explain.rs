//! What would become of a packet, and why: the decision of the kernel's programs, made here over the maps as they are.
//!
//! Owns the question and the answer. The decision is `weir_fastpath::handle`, compiled for this side: the very rules that
//! run in XDP, every stage of them. [`reader`] has it read the maps and keeps what it would write; [`frame`] makes the
//! packet. The kernel is left as it is, and nothing is counted.
//!
//! Two things are not known here. Where no way out was resolved in advance the programs ask the kernel's routes; the answer
//! then says so and goes on as if they led there (addresses of this box are told apart). And limits per CPU and second are
//! judged by the fullest window, since nobody knows which CPU a packet would come to.

mod frame;
mod reader;

use std::net::SocketAddr;

use weir_abi::{
    Addr16, Note, Reason, Verdict,
    maps::{flow, lease::SLOT_BITS, list, service},
};
pub use weir_core::ids::Protocol;
use weir_core::ids::{BackendKey, ServiceName};
use weir_fastpath::{Direction, Outcome, Window, handle, parse::parse};

pub use self::frame::Shape;
pub(crate) use self::frame::build;
use self::reader::{Reader, Seen};
use crate::{error::MapError, flows::Names, sys, tables::Tables};

/// Which packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes; of the source's family.
    pub dst: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// TCP: the flow's first packet, a SYN, rather than one from the middle.
    pub first: bool,
}

/// Why this backend and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The first packet of a flow takes the slot's present backend.
    First,
    /// The slot has not changed for so long that it alone decides.
    Stable,
    /// The slot changed, and the flow table knows the flow.
    Recorded,
    /// The flow table knows the flow, but its backend is dead: the slot's present one takes it over.
    Remapped,
    /// The flow's backend is dead, and the service resets such flows.
    Reset,
    /// The slot changed a moment ago, and the flow is not known: it is taken for one that is older than the change.
    Predecessor,
    /// The slot changed, the flow is not known, and the backend before it is gone or the time for its flows is over.
    Present,
    /// The server id in the QUIC connection id names it.
    ServerId,
    /// `full-nat` has the flow in its table.
    Translated,
    /// `full-nat` would make an entry for it.
    NewTranslation,
    /// It is a backend's answer.
    Answer,
}

impl Rule {
    /// A name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first-packet",
            Self::Stable => "stable-slot",
            Self::Recorded => "recorded-flow",
            Self::Remapped => "remapped-flow",
            Self::Reset => "dead-backend",
            Self::Predecessor => "previous-backend",
            Self::Present => "present-backend",
            Self::ServerId => "quic-server-id",
            Self::Translated => "translated-flow",
            Self::NewTranslation => "new-translation",
            Self::Answer => "answer",
        }
    }
}

/// The slot of a ring that a flow falls on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotView {
    /// Where in the ring it lies, from 0.
    pub index: u32,
    /// Slots of the ring.
    pub of: u32,
    /// The backend that takes new flows.
    pub current: Option<BackendKey>,
    /// The one before the last change.
    pub previous: Option<BackendKey>,
    /// Seconds since the change; None: long ago, or never.
    pub changed: Option<u32>,
}

/// What the flow table has of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The backend it was recorded with.
    pub backend: Option<BackendKey>,
    /// Seconds since it was recorded.
    pub age: u32,
    /// It has ended.
    pub closed: bool,
}

/// What the lists say of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedAs {
    /// Let in, rather than kept out.
    pub allowed: bool,
    /// Banned by a service's limits.
    pub overload: bool,
    /// Seconds that are left; None: no end.
    pub left: Option<u32>,
}

/// The way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WayOut {
    /// It was resolved in advance.
    Resolved {
        /// Index of the interface that it is sent by.
        ifindex: u32,
        /// Link address of the next hop.
        link: [u8; 6],
        /// Largest IP packet in bytes.
        mtu: u32,
    },
    /// The programs ask the kernel's routes. What follows holds if they lead there.
    Asked,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Why it goes where it goes; its verdict says what becomes of it.
    pub reason: Reason,
    /// What happens on the way, in order.
    pub notes: Vec<Note>,
    /// The service that it is for, or an answer of.
    pub service: Option<ServiceName>,
    /// The slot of its ring; None when none was looked at.
    pub slot: Option<SlotView>,
    /// The backend that takes it, or that it comes from.
    pub backend: Option<BackendKey>,
    /// Why that one.
    pub rule: Option<Rule>,
    /// What the flow table has of it, where it was asked.
    pub record: Option<Record>,
    /// The entry of the lists that holds its source.
    pub listed: Option<ListedAs>,
    /// The way out.
    pub way: Option<WayOut>,
    /// What is sent instead of it, when something is.
    pub becomes: Option<Shape>,
    /// Index of the interface that it is sent by; 0: none, or one that the kernel's routes name.
    pub egress: u32,
}

/// Has the decision made about a frame, which becomes what is sent.
///
/// # Errors
/// When a map cannot be read.
pub(crate) fn explain(maps: &Tables, names: &Names, frame: &mut Vec<u8>) -> Result<Explanation, MapError> {
    let now = sys::monotonic_seconds();
    let settings = maps.settings.get(&0)?.unwrap_or_default();
    address_to_group(maps, frame)?;
    let mut reader = Reader::new(maps, settings, now, &is_local);
    let outcome = handle(frame, &mut reader);
    Ok(answer(outcome, &reader.finish()?, frame, now, names))
}

/// Has the frame be to the link address of the virtual router whose address it is to, as a neighbor would send it.
fn address_to_group(maps: &Tables, frame: &mut [u8]) -> Result<(), MapError> {
    let Ok(packet) = parse(Window::new(frame)) else {
        return Ok(());
    };
    let held = maps.leased.get(&packet.flow.dst)?.unwrap_or(0);
    let link = match held >> SLOT_BITS {
        0 => None,
        index => maps.links.get(&index)?,
    };
    if let (Some(link), Some(to)) = (link, frame.first_chunk_mut::<6>()) {
        let [[a, b], [c, d], [e, f]] = link.mac.map(u16::to_ne_bytes);
        *to = [a, b, c, d, e, f];
    }
    Ok(())
}

/// Whether an address is this box's own, as far as interfaces carry it.
fn is_local(addr: &Addr16) -> bool {
    let addr = addr.to_ip();
    addr.is_loopback()
        || nix::ifaddrs::getifaddrs().is_ok_and(|mut all| {
            all.any(|one| {
                let address = one.address.as_ref();
                let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|a| a.ip().into());
                let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|a| a.ip().into());
                v4.or(v6) == Some(addr)
            })
        })
}

/// The name of an interface; of one that is gone its number.
pub fn interface(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex);
    name.map_or_else(
        |_| format!("interface {ifindex}"),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn answer(outcome: Outcome, seen: &Seen, frame: &[u8], now: u32, names: &Names) -> Explanation {
    let backend = |index: u32| names.backends.get(&index).cloned();
    let since = |second: u32| now.saturating_sub(second);
    let sent = matches!(outcome.reason.verdict(), Verdict::Forward | Verdict::Reply);
    let slot = seen
        .slot
        .zip(seen.service)
        .map(|((index, slot), service)| SlotView {
            index: index.wrapping_sub(service.ring_offset),
            of: service.ring_len,
            current: backend(slot.current.into()),
            previous: backend(slot.previous.into()),
            changed: (slot.changed != 0).then(|| since(slot.changed)),
        });
    let service = match (seen.traffic, seen.service, seen.return_target, seen.nat_reply) {
        (Some((id, ..)), ..) => Some(id),
        (_, Some(service), ..) => Some(service.id),
        (_, _, Some(target), _) => Some(target.service),
        (_, _, _, Some(reply)) => Some(reply.service),
        _ => None,
    };
    let chosen = chosen(seen);
    let ask = match (seen.asked, seen.next_hop) {
        (Some(_), _) => Some(WayOut::Asked),
        (None, Some(way)) => Some(WayOut::Resolved {
            ifindex: way.ifindex,
            link: link(way.destination),
            mtu: way.mtu,
        }),
        (None, None) => None,
    };
    Explanation {
        reason: outcome.reason,
        notes: seen.notes.clone(),
        service: service.and_then(|id| names.services.get(&id).cloned()),
        slot,
        backend: chosen.and_then(backend),
        rule: rule(outcome, seen, chosen),
        record: seen.flow.map(|state| Record {
            backend: backend(state.backend),
            age: since(state.recorded),
            closed: state.service & flow::CLOSED != 0,
        }),
        listed: seen
            .listed
            .filter(|entry| entry.until == 0 || now <= entry.until)
            .map(|entry| ListedAs {
                allowed: entry.flags & list::ALLOW != 0,
                overload: entry.flags & list::OVERLOAD != 0,
                left: (entry.until != 0).then(|| entry.until.saturating_sub(now)),
            }),
        way: ask,
        becomes: if sent { frame::shape(frame) } else { None },
        egress: outcome.egress,
    }
}

/// The backend that was chosen, or that the packet comes from: the one it is counted for. A packet that does not get so
/// far has the one that was looked at last.
fn chosen(seen: &Seen) -> Option<u32> {
    match (seen.traffic, seen.return_target, seen.nat_reply) {
        (Some((_, backend, _)), ..) => Some(backend),
        (None, Some(target), _) if seen.service.is_none() => Some(target.backend),
        (None, None, Some(reply)) if seen.service.is_none() => Some(reply.backend),
        (None, ..) => seen.backends.last().copied(),
    }
}

/// By which rule it was chosen. None: no backend was.
fn rule(outcome: Outcome, seen: &Seen, chosen: Option<u32>) -> Option<Rule> {
    let noted = |note| seen.notes.contains(&note);
    let answer = matches!(seen.traffic, Some((_, _, Direction::Out)))
        || seen.service.is_none() && (seen.return_target.is_some() || seen.nat_reply.is_some());
    if answer {
        return Some(Rule::Answer);
    }
    let chosen = chosen?;
    if noted(Note::NatAllocated) || noted(Note::NatReused) {
        return Some(Rule::NewTranslation);
    }
    if seen.nat_flow.is_some() {
        return Some(Rule::Translated);
    }
    if noted(Note::QuicId) {
        return Some(Rule::ServerId);
    }
    if noted(Note::FlowRemapped) {
        return Some(Rule::Remapped);
    }
    let (_, slot) = seen.slot?;
    let resets = seen.service.is_some_and(|of| of.flags & service::RESET != 0);
    let reset = [Reason::ResetSent, Reason::UnreachableSent, Reason::ReplyLimited];
    if resets && reset.contains(&outcome.reason) {
        return Some(Rule::Reset);
    }
    if noted(Note::FlowHit) {
        return Some(Rule::Recorded);
    }
    if noted(Note::FlowLookup) {
        let previous = chosen != u32::from(slot.current) && chosen == u32::from(slot.previous);
        return Some(if previous {
            Rule::Predecessor
        } else {
            Rule::Present
        });
    }
    let recorded = [
        Note::FlowRecorded,
        Note::FlowRecordLimited,
        Note::FlowRecordFailed,
    ];
    Some(if recorded.into_iter().any(noted) {
        Rule::First
    } else {
        Rule::Stable
    })
}

fn link(words: [u16; 3]) -> [u8; 6] {
    let [[a, b], [c, d], [e, f]] = words.map(u16::to_ne_bytes);
    [a, b, c, d, e, f]
}
