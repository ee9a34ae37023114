//! What is kept out of the relay: floods of SYNs, and connections beyond what a service grants.
//!
//! Owns the question which packets to the relay go by way of [`super::admit`] and [`super::cookie`]. Lists are asked before
//! ([`super::enter`]).

use weir_abi::{
    Note, Reason, Service, Settings,
    maps::{limit, service, settings, stage},
};

use super::{Stop, flow};
use crate::{
    parse::{Fragment, Packet},
    tables::{Tables, within},
};

/// What becomes of a packet to a service of the relay. `exempt`: its source is free of limits.
#[inline(always)]
pub(super) fn relay<T: Tables>(
    packet: &Packet,
    service: &Service,
    exempt: bool,
    settings: &Settings,
    tables: &mut T,
) -> Stop {
    if !packet.tcp || packet.fragment == Fragment::Later {
        return Stop::Reason(Reason::Relay);
    }
    let limited = service.flags & service::LIMITED != 0;
    let cookies = settings.flags & settings::COOKIES != 0;
    if packet.syn() {
        tables.note(Note::SynRelay);
        // While the kernel answers every SYN with a cookie, a connection begins with the ACK that brings it back: only
        // then is the source known to be what it says, and counted.
        return if cookies && !below_rate(settings, tables) {
            Stop::Stage(stage::COOKIE)
        } else if limited && !exempt && !cookies {
            Stop::Stage(stage::ADMIT)
        } else {
            Stop::Reason(Reason::Relay)
        };
    }
    if limited && (packet.fin() || packet.rst()) {
        flow::close(&{ packet.flow }, packet, tables);
    }
    if cookies && packet.ack() && !packet.rst() {
        return Stop::Stage(stage::COOKIE);
    }
    Stop::Reason(Reason::Relay)
}

/// Whether this SYN is one that the stack may answer itself. Counts it.
#[inline(always)]
fn below_rate<T: Tables>(settings: &Settings, tables: &mut T) -> bool {
    let now = tables.now();
    match tables.limit(limit::SYNS) {
        Some(window) => within(window, now, settings.cookie_rate),
        None => true,
    }
}
