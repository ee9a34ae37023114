//! What the short way does not take apart: ICMP, fragments, IPv6 extension headers.
//!
//! Owns who goes on with these. It takes a frame from the beginning, and in full.

use weir_abi::maps::stage;

use super::{Outcome, Step, Stop, done, go_on, internal, ours};
use crate::{
    frame::Frame,
    parse::{Fragment, ICMP, ICMPV6, Packet, network, transport},
    tables::Tables,
};

/// Takes a frame apart in full.
#[inline(always)]
pub fn edge<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    let whole = frame.whole();
    let ours = match network(frame.window(), whole) {
        Ok(network) => ours::<_, true>(network, tables),
        Err(reason) => Err(Stop::Reason(reason)),
    };
    let parsed = match ours {
        Ok(ours) => transport::<true>(frame.window(), &ours.network),
        Err(stop) => Err(stop),
    };
    match parsed {
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
