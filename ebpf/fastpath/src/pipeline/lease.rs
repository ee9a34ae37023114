//! Leases: an address of virtual routers is answered for only as long as its group's lease says.
//!
//! Owns the question, for whatever would answer: ARP, neighbor discovery, echo, services of every mode and of the relay, the
//! stack itself ([`gate`], before all else); and for answers of backends, which carry the address out ([`require`]). The lease
//! is a word that control's machine renews (`core::vrrp`) and that runs out by itself: a box that is stopped, starved or whose
//! control is dead falls silent while its programs go on. Where no virtual routers are, one bit of the settings says so, which
//! is read anyway.
//!
//! The gate also hands adverts to control where it listens ([`advert`]). What is of VRRP passes it whatever the lease: it is
//! for the machine, which must hear in order to open one.
//!
//! | packet, of an address whose lease has run out | |
//! |---|---|
//! | ARP: who has it? A probe, too, but not an announcement: that is another's word | dropped |
//! | IPv6: neighbor solicitation for it, to whatever address, behind extension headers as well ([`solicitation`]) | dropped |
//! | IP to it, whole or in fragments, with or without VLAN tags, but VRRP | dropped |
//! | by `nat`, `full-nat`: a backend's answer, ICMP errors of its side, later fragments | dropped |
//! | from it: it is another box's now | as ever |
//!
//! Where a group has a link address of its own, what is to that comes by [`group`], and so do questions who has
//! its addresses.

use weir_abi::{
    Addr16, Note, Reason, Settings,
    maps::{
        lease::{LAG, SLOT_BITS},
        settings, stage,
    },
};

use super::{Outcome, Step, done, group};
use crate::{
    frame::Frame,
    parse::{ARP, ETHERNET, Fragment, ICMPV6, IPV4, IPV6, Link, Packet, TCP, UDP, VRRP, link},
    tables::Tables,
    window::Window,
};

/// Of ARP for IPv4 on Ethernet (RFC 826): hardware and protocol type, lengths of their addresses, and a request.
const REQUEST: [u32; 2] = [0x0001_0800_u32.to_be(), 0x0604_0001_u32.to_be()];
/// Of a value of `LEASED`, the index into `LEASES`.
const SLOT: u32 = (1 << SLOT_BITS) - 1;
/// Type of a neighbor solicitation (RFC 4861 section 4.3).
const SOLICITATION: u8 = 135;
/// Type of a neighbor advertisement (section 4.4).
pub(super) const ADVERTISEMENT: u8 = 136;

/// Before the short way, where [`settings::LEASES`] is set. None: go on.
#[inline(always)]
pub fn gate<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Option<Step> {
    let window = frame.window();
    // What cannot be taken apart is judged by the short way.
    let link = link(window).ok()?;
    if link.at == ETHERNET && group::may_have(window) {
        return Some(Step::Stage(stage::GROUP));
    }
    behind(window, &link, tables)
}

/// Of a frame that is to no group's link address.
#[inline(always)]
pub(super) fn behind<T: Tables>(window: Window<'_>, link: &Link, tables: &mut T) -> Option<Step> {
    let l3 = window.skip(link.at)?;
    let (protocol, to, v4) = if link.ether_type == IPV4 {
        let ip = l3.header::<20>()?;
        (ip.get::<u8, 9>(), Addr16::from_v4_word(ip.get::<u32, 16>()), true)
    } else if link.ether_type == IPV6 {
        let ip = l3.header::<40>()?;
        let to = Addr16::from_v6_words(ip.get::<[u32; 4], 24>());
        (ip.get::<u8, 6>(), to, false)
    } else if link.ether_type == ARP {
        let (to, _) = asked_for(l3)?;
        if tables.lease(&to) >> SLOT_BITS != 0 {
            return Some(Step::Stage(stage::GROUP));
        }
        (0, to, true)
    } else {
        return None;
    };
    if protocol == VRRP {
        // With tags it is another interface's.
        let heard = link.at == ETHERNET && tables.hears(&to);
        return if heard {
            Some(Step::Stage(stage::ADVERT))
        } else {
            None
        };
    }
    if has_lapsed(&to, tables) {
        let (reason, egress) = (Reason::NotMaster, 0);
        return Some(done(Outcome { reason, egress }, tables));
    }
    // A solicitation names its address further in.
    if !v4 && protocol != TCP && protocol != UDP {
        return Some(Step::Stage(stage::EDGE));
    }
    None
}

/// The address that an ARP request is about, and who asks. None for anything else of ARP: also for an announcement, whose sender says that
/// it has the address itself (RFC 5227 section 1.1), and from which the stack learns where that is now.
#[inline(always)]
pub(super) fn asked_for(arp: Window<'_>) -> Option<(Addr16, Addr16)> {
    let arp = arp.header::<28>()?;
    let [kind, request] = REQUEST;
    let (sender, target) = (arp.get::<u32, 14>(), arp.get::<u32, 24>());
    if arp.get::<u32, 0>() != kind || arp.get::<u32, 4>() != request || sender == target {
        return None;
    }
    Some((Addr16::from_v4_word(target), Addr16::from_v4_word(sender)))
}

/// Of a packet that was taken apart in full. (A solicitation in fragments the stack ignores, RFC 6980.)
///
/// # Errors
/// It solicits the neighbor with an address that this box does not answer for now, or not to who asks; or advertises one that other
/// boxes have as well: the stack would take that for a conflict.
#[inline(always)]
pub(super) fn solicitation<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &mut T,
) -> Result<(), Reason> {
    if packet.v4 || packet.protocol() != ICMPV6 || packet.fragment != Fragment::Whole {
        return Ok(());
    }
    let message = frame.window().skip(packet.transport_at as usize);
    let Some(message) = message.and_then(|message| message.header::<24>()) else {
        return Ok(());
    };
    let target = Addr16::from_v6_words(message.get::<[u32; 4], 8>());
    let kind = message.get::<u8, 0>();
    if kind == ADVERTISEMENT && group::is_shared(&target, tables) {
        return Err(Reason::OtherShare);
    }
    if kind != SOLICITATION {
        return Ok(());
    }
    answers(&target, &packet.flow.src, tables)
}

/// Of a question where an address is.
///
/// # Errors
/// This box does not answer for it now, or not to who asks.
#[inline(always)]
pub(super) fn answers<T: Tables>(to: &Addr16, asker: &Addr16, tables: &mut T) -> Result<(), Reason> {
    let held = tables.lease(to);
    if is_over(held & SLOT, tables) {
        return Err(Reason::NotMaster);
    }
    match held >> SLOT_BITS {
        0 => Ok(()),
        link => group::serves(link, asker, tables),
    }
}

/// Whether there are virtual routers.
#[inline(always)]
pub(super) fn are_asked<T: Tables>(tables: &mut T) -> bool {
    match tables.settings() {
        Some(settings) => settings.flags & settings::LEASES != 0,
        None => false,
    }
}

/// Of an answer that leaves from this address.
///
/// # Errors
/// It may not: the address's lease has run out.
#[inline(always)]
pub(super) fn require<T: Tables>(addr: &Addr16, settings: &Settings, tables: &mut T) -> Result<(), Reason> {
    if settings.flags & settings::LEASES != 0 && has_lapsed(addr, tables) {
        return Err(Reason::NotMaster);
    }
    Ok(())
}

/// Whether this is an address of virtual routers that the box does not answer for now.
#[inline(always)]
fn has_lapsed<T: Tables>(addr: &Addr16, tables: &mut T) -> bool {
    let slot = tables.lease(addr) & SLOT;
    is_over(slot, tables)
}

/// Whether a lease has run out. 0: none is asked for.
#[inline(always)]
pub(super) fn is_over<T: Tables>(slot: u32, tables: &mut T) -> bool {
    if slot == 0 {
        return false;
    }
    let until = tables.lease_until(slot);
    if until == 0 {
        return true;
    }
    // The exact clock costs as much as two look-ups, so it is asked only where the other one, which lags behind it, cannot tell:
    // near the end of a lease, which one of usual length is not while it is renewed.
    let lag = tables.lease_until(LAG);
    if lag != 0 && until > tables.coarse_clock().wrapping_add(lag) {
        return false;
    }
    until <= tables.clock()
}

/// Hands an advert to control, if there is room for it.
#[inline(always)]
pub fn advert<T: Tables>(tables: &mut T) -> Step {
    let reason = if tables.hand_out_advert() {
        Reason::Advert
    } else {
        tables.note(Note::AdvertLost);
        Reason::OtherProtocol
    };
    done(Outcome { reason, egress: 0 }, tables)
}
