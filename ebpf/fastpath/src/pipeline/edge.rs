//! What the short way does not take apart: ICMP, fragments, IPv6 extension headers.
//!
//! Owns who goes on with these. It takes a frame from the beginning, and in full. Where there are virtual routers, all of
//! IPv6 but TCP and UDP comes here: a neighbor solicitation may be about an address of theirs.

use weir_abi::{Reason, maps::stage};

use super::{Outcome, Step, Stop, done, go_on, internal, lease, ours};
use crate::{
    frame::Frame,
    parse::{Fragment, ICMP, ICMPV6, Packet, network, transport},
    tables::Tables,
};

/// Takes a frame apart in full.
#[inline(always)]
pub fn edge<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let whole = frame.whole();
    let network = match network(frame.window(), whole) {
        Ok(network) => network,
        Err(reason) => return done(Outcome { reason, egress: 0 }, tables),
    };
    let is_ours = ours::<_, true>(network, tables).is_ok();
    let solicits = !network.v4 && lease::are_asked(tables);
    if !is_ours && !solicits {
        let reason = Reason::NoService;
        return done(Outcome { reason, egress: 0 }, tables);
    }
    let parsed = transport::<true>(frame.window(), &network);
    if solicits
        && let Ok(packet) = &parsed
        && let Err(reason) = lease::solicitation(frame, packet, tables)
    {
        return done(Outcome { reason, egress: 0 }, tables);
    }
    match parsed {
        _ if !is_ours => {
            let reason = Reason::NoService;
            done(Outcome { reason, egress: 0 }, tables)
        }
        Ok(packet) => {
            let stop = beyond(&packet);
            go_on(Err(stop), &packet, tables)
        }
        Err(Stop::Reason(reason)) => done(Outcome { reason, egress: 0 }, tables),
        // The long form leaves nothing to another.
        Err(_) => Step::Done(internal(tables)),
    }
}

/// The stage that goes on with a packet.
#[inline(always)]
fn beyond(packet: &Packet) -> Stop {
    if packet.fragment == Fragment::Later {
        return Stop::Stage(stage::FRAGMENT);
    }
    if packet.protocol() == ICMP || packet.protocol() == ICMPV6 {
        return Stop::Stage(stage::ICMP);
    }
    Stop::Stage(stage::FORWARD)
}
