//! Link addresses that virtual routers have, and the shares of those that several boxes serve at once.
//!
//! Owns what becomes of a frame to such a link address ([`group`]), and which of the boxes that all get a packet keeps it
//! ([`keep`]). Everything else, leases included, is as for any other frame: what is let pass gets the interface's own
//! link address, from which answers leave, and goes on by the short way. Who asks where an address is, is answered by the
//! stack; that its answer names the group's link address is the tc program's (`weir_leave`).
//!
//! Where a group has shares, the address of the client says which share a packet is of, and so both directions of a flow,
//! its fragments and errors about it come to one box. The client is the source of what is to an address of the group, the
//! destination of everything else, such as a backend's answer on its way through the group's link address.
//!
//! | frame to the link address | the share is this box's | it is another's |
//! |---|---|---|
//! | TCP in the middle of a connection, to a service of the relay or none | its socket's; without one dropped, if another box lives that may have it | its socket's, else dropped |
//! | an ICMP error | as everything else | to the stack, which may have the connection |
//! | ARP but a question, neighbor advertisements | to the stack, which may have asked | likewise |
//! | everything else | goes on | dropped |

use weir_abi::{
    Addr16, GroupLink, Reason,
    maps::{
        action,
        lease::SLOT_BITS,
        link::{OWN, SHARES},
        stage,
    },
};

use super::{
    Outcome, Step, Stop, done, internal,
    lease::{ADVERTISEMENT, answers, asked_for, behind, is_over},
    service,
};
use crate::{
    frame::Frame,
    hash::share_of,
    parse::{ARP, ETHERNET, ICMP, ICMPV6, IPV4, IPV6, Link, TCP, link, network, transport},
    tables::{Checked, Socket, Tables},
    window::Window,
};

/// The first four bytes of link addresses that a group may have: the virtual router's (RFC 9568 section 7.3), and the same
/// with the bits for "group" and "local".
const PREFIXES: [u32; 2] = [
    u32::from_ne_bytes([0, 0, 0x5e, 0]),
    u32::from_ne_bytes([3, 0, 0x5e, 0]),
];
/// TCP flags.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Whether a frame is to a link address such as groups have.
#[inline(always)]
pub(super) fn may_have(frame: Window<'_>) -> bool {
    let [first, second] = PREFIXES;
    frame.header::<ETHERNET>().is_some_and(|ethernet| {
        let prefix = ethernet.get::<u32, 0>();
        prefix == first || prefix == second
    })
}

/// From the beginning of the frame: one to such a link address, or a question about an address of a group that has one.
#[inline(always)]
pub fn group<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    const SHORT: Step = Step::Stage(stage::SHORT);
    let window = frame.window();
    let Ok(link) = link(window) else { return SHORT };
    let Some(l3) = window.skip(link.at) else {
        return SHORT;
    };
    if link.ether_type == ARP
        && let Some((to, asker)) = asked_for(l3)
        && let Err(reason) = answers(&to, &asker, tables)
    {
        return dropped(reason, tables);
    }
    let Some(held) = of_frame(window, &link, tables) else {
        return go_on(window, &link, tables);
    };
    if link.ether_type == ARP {
        set_destination(window, held.own);
        return SHORT;
    }
    let Some(about) = about(l3, &link, tables) else {
        // What cannot be taken apart is judged by the short way.
        return SHORT;
    };
    let (slot, others) = match slot(&held, &about.client, tables) {
        Some(slot) => (slot, held.others),
        None => return Step::Done(internal(tables)),
    };
    let over = has_none(slot, tables);
    if held.shares <= 1 {
        if over {
            return dropped(Reason::NotMaster, tables);
        }
    } else if about.kind == Kind::Middle && (over || others_live(others, tables)) {
        return Step::Stage(stage::KEEP);
    } else if about.kind == Kind::Anyone && over {
        set_destination(window, held.own);
        let (reason, egress) = (Reason::Icmp, 0);
        return done(Outcome { reason, egress }, tables);
    } else if over {
        return dropped(Reason::OtherShare, tables);
    }
    set_destination(window, held.own);
    go_on(window, &link, tables)
}

/// TCP in the middle of a connection to an address of a group with shares, from the beginning of the frame.
#[inline(always)]
pub fn keep<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let whole = frame.whole();
    let parsed = network(frame.window(), whole).map_err(Stop::Reason);
    let packet = match parsed.and_then(|network| transport::<false>(frame.window(), &network)) {
        Ok(packet) => packet,
        Err(Stop::Reason(reason)) => return dropped(reason, tables),
        // What the short form leaves to another was not sent here.
        Err(_) => return Step::Done(internal(tables)),
    };
    let window = frame.window();
    let Ok(link) = link(window) else {
        return Step::Done(internal(tables));
    };
    let Some(held) = of_frame(window, &link, tables) else {
        return Step::Done(internal(tables));
    };
    let Some(slot) = slot(&held, &packet.flow.src, tables) else {
        return Step::Done(internal(tables));
    };
    let over = has_none(slot, tables);
    let is_forwarded = service(&packet, tables).is_some_and(|service| service.action != action::RELAY);
    let is_ours = if is_forwarded {
        !over
    } else {
        match tables.socket(&packet) {
            Socket::Connected => true,
            // Its SYN was answered with a cookie.
            Socket::Listening => !over && tables.check_cookie(&packet) == Checked::Valid,
            Socket::None => false,
        }
    };
    if !is_ours {
        return dropped(Reason::OtherShare, tables);
    }
    set_destination(window, held.own);
    Step::Stage(stage::SHORT)
}

/// Of a question where an address with this link address is.
///
/// # Errors
/// Another box answers who asks.
#[inline(always)]
pub(super) fn serves<T: Tables>(link: u32, asker: &Addr16, tables: &mut T) -> Result<(), Reason> {
    let held = tables.group_link(link).ok_or(Reason::Internal)?;
    let slot = slot(&held, asker, tables).ok_or(Reason::Internal)?;
    if has_none(slot, tables) {
        return Err(if held.shares > 1 {
            Reason::OtherShare
        } else {
            Reason::NotMaster
        });
    }
    Ok(())
}

/// Whether an address is one that several boxes have.
#[inline(always)]
pub(super) fn is_shared<T: Tables>(addr: &Addr16, tables: &mut T) -> bool {
    match tables.lease(addr) >> SLOT_BITS {
        0 => false,
        link => tables.group_link(link).is_some_and(|held| held.shares > 1),
    }
}

/// The index into `LEASES` of the share that a client is of.
#[inline(always)]
fn slot<T: Tables>(held: &GroupLink, client: &Addr16, tables: &mut T) -> Option<u32> {
    if held.shares <= 1 {
        return Some(held.slots[0]);
    }
    let settings = tables.settings()?;
    let share = share_of(&settings.flow_key, client, held.shares);
    Some(held.slots[share as usize & (SHARES - 1)])
}

/// Whether this box has no lease of a share. One without a slot is nobody's.
#[inline(always)]
fn has_none<T: Tables>(slot: u32, tables: &mut T) -> bool {
    slot == 0 || is_over(slot, tables)
}

/// Whether another box counts as master of some share: it may have connections of every share.
#[inline(always)]
fn others_live<T: Tables>(word: u32, tables: &mut T) -> bool {
    word != 0 && {
        let until = tables.lease_until(word);
        until != 0 && until > tables.coarse_clock()
    }
}

/// What is known of the link address that a frame is to, if it is a group's.
#[inline(always)]
fn of_frame<T: Tables>(frame: Window<'_>, link: &Link, tables: &mut T) -> Option<T::Held<GroupLink>> {
    // With tags it is another interface's.
    if link.at != ETHERNET {
        return None;
    }
    let mac = frame.header::<ETHERNET>()?.get::<[u16; 3], 0>();
    match tables.linked(&mac) {
        0 => None,
        // An interface whose own link address looks like a group's.
        index if index & OWN != 0 => None,
        index => tables.group_link(index),
    }
}

#[inline(always)]
fn set_destination(frame: Window<'_>, mac: [u16; 3]) {
    if let Some(ethernet) = frame.header::<ETHERNET>() {
        ethernet.set::<[u16; 3], 0>(mac);
    }
}

#[inline(always)]
fn go_on<T: Tables>(frame: Window<'_>, link: &Link, tables: &mut T) -> Step {
    if link.ether_type == ARP {
        return Step::Stage(stage::SHORT);
    }
    match behind(frame, link, tables) {
        Some(step) => step,
        None => Step::Stage(stage::SHORT),
    }
}

#[inline(always)]
fn dropped<T: Tables>(reason: Reason, tables: &mut T) -> Step {
    done(Outcome { reason, egress: 0 }, tables)
}

/// What a packet is to the boxes that share a group.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    /// The share decides.
    Plain = 0,
    /// TCP of a connection that has begun, to an address of the group.
    Middle = 1,
    /// Any of them may wait for it.
    Anyone = 2,
}

/// Whose a packet is.
struct About {
    client: Addr16,
    kind: Kind,
}

/// Takes a packet apart as far as its client. None if it ends before.
#[inline(always)]
fn about<T: Tables>(l3: Window<'_>, link: &Link, tables: &mut T) -> Option<About> {
    if link.ether_type == IPV4 {
        let ip = l3.header::<20>()?;
        let src = Addr16::from_v4_word(ip.get::<u32, 12>());
        let dst = Addr16::from_v4_word(ip.get::<u32, 16>());
        let is_ours = tables.lease(&dst) != 0;
        let mut about = About::new(is_ours, src, dst);
        // Behind options, or in a fragment, the share alone decides.
        let is_plain = ip.get::<u8, 0>() == 0x45 && ip.get::<u16, 6>() & 0x3fff_u16.to_be() == 0;
        if is_ours && is_plain {
            let l4 = l3.skip(20)?;
            if ip.get::<u8, 9>() == TCP {
                about.kind = middle(l4);
            } else if ip.get::<u8, 9>() == ICMP
                && let Some(icmp) = l4.header::<28>()
                && matches!(icmp.get::<u8, 0>(), 3 | 11 | 12)
            {
                // It quotes a packet to the client.
                about.kind = Kind::Anyone;
                about.client = Addr16::from_v4_word(icmp.get::<u32, 24>());
            }
        }
        return Some(about);
    }
    if link.ether_type != IPV6 {
        return None;
    }
    let ip = l3.header::<40>()?;
    let src = Addr16::from_v6_words(ip.get::<[u32; 4], 8>());
    let dst = Addr16::from_v6_words(ip.get::<[u32; 4], 24>());
    let is_ours = tables.lease(&dst) != 0;
    let mut about = About::new(is_ours, src, dst);
    if is_ours {
        let l4 = l3.skip(40)?;
        if ip.get::<u8, 6>() == TCP {
            about.kind = middle(l4);
        } else if ip.get::<u8, 6>() == ICMPV6 {
            let kind = l4.header::<1>()?.get::<u8, 0>();
            if kind == ADVERTISEMENT {
                about.kind = Kind::Anyone;
            } else if matches!(kind, 1..=4)
                && let Some(icmp) = l4.header::<48>()
            {
                about.kind = Kind::Anyone;
                about.client = Addr16::from_v6_words(icmp.get::<[u32; 4], 32>());
            }
        }
    }
    Some(about)
}

impl About {
    #[inline(always)]
    const fn new(is_ours: bool, src: Addr16, dst: Addr16) -> Self {
        Self {
            client: if is_ours { src } else { dst },
            kind: Kind::Plain,
        }
    }
}

/// Of TCP to an address of the group.
#[inline(always)]
fn middle(tcp: Window<'_>) -> Kind {
    match tcp.header::<14>() {
        Some(tcp) if tcp.get::<u8, 13>() & (SYN | ACK) != SYN => Kind::Middle,
        Some(_) | None => Kind::Plain,
    }
}
