//! Which entries of the tables of flows go: pure, from an entry and the clock.
//!
//! Owns the rules. Reads and deletes nothing: that is [`super`]'s.

use std::collections::BTreeMap;

use weir_abi::{
    Addr16, ClientKey, FlowKey, FlowState, NatFlow, NatReply, ServiceLimits, Settings,
    maps::{flow, nat},
};

/// Seconds for which a flow that has ended is kept: a late packet of it still finds its backend.
pub(super) const CLOSED: u32 = 60;
/// Seconds for which half a pair is let be: the programs write one after the other. Also those for which what stands for
/// nobody is: who stands for somebody was asked when the sweep began, and a flow may be of a backend that came since.
const YOUNG: u32 = 5;

const TCP: u32 = 6;

/// Which numbers stand for somebody.
pub(super) trait Known {
    /// Whether a service has this id.
    fn service(&self, id: u32) -> bool;
    /// Whether a backend has this index.
    fn backend(&self, index: u32) -> bool;
}

/// Seconds after which a connection no longer counts as open for its network, unless a packet of it was looked at: clients
/// vanish, and nobody sees the end.
const COUNTS: u32 = 3600;

/// Seconds since a flow's last packet that was looked at.
fn silent(state: &FlowState, now: u32) -> u32 {
    now.saturating_sub(state.seen.max(state.recorded))
}

/// Whether a recorded flow is of no use any more. One whose backend is gone goes: without it the ring decides, and to the
/// same end. A connection of the relay has none (0): it is recorded to be counted, and as long as it counts.
pub(super) fn is_done(state: &FlowState, now: u32, known: &impl Known) -> bool {
    let ended = state.service & flow::CLOSED != 0 && silent(state, now) > CLOSED;
    let homeless = match state.backend {
        0 => silent(state, now) > COUNTS,
        backend => !known.backend(backend),
    };
    let of_nobody = homeless || !known.service(state.service & flow::SERVICE);
    ended || (of_nobody && silent(state, now) > YOUNG)
}

/// Whether an entry is still that of the flow that it was when it was read: a SYN on the same tuple begins another one in
/// its place, and a flow whose backend is dead goes on with another.
pub(super) fn is_same(read: &FlowState, there: &FlowState) -> bool {
    let key = |state: &FlowState| (state.recorded, state.backend, state.service);
    key(read) == key(there)
}

/// Where the oldest flows end that must go, so that a table that is over 7/8 full falls to 3/4. None: it has room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cutoff {
    /// Flows recorded before this second all go.
    pub(super) before: u32,
    /// And so many of those recorded in it.
    pub(super) within: u64,
}

impl Cutoff {
    /// From how many flows are left of each second.
    pub(super) fn new(recorded: &BTreeMap<u32, u64>, capacity: u64) -> Option<Self> {
        let entries: u64 = recorded.values().sum();
        if entries <= capacity / 8 * 7 {
            return None;
        }
        let mut excess = entries - capacity / 4 * 3;
        for (&second, &count) in recorded {
            if count >= excess {
                return Some(Self {
                    before: second,
                    within: excess,
                });
            }
            excess -= count;
        }
        None
    }

    /// Whether this flow goes; asked once for each.
    pub(super) fn takes(&mut self, state: &FlowState) -> bool {
        if state.recorded == self.before && self.within > 0 {
            self.within -= 1;
            return true;
        }
        state.recorded < self.before
    }
}

/// The flow that a reply belongs to. Key of `NAT_FLOWS`.
pub(crate) fn flow_of(reply_key: &FlowKey, reply: &NatReply) -> FlowKey {
    let [v0, v1, c0, c1] = reply.ports.to_ne_bytes();
    FlowKey {
        src: reply.client,
        dst: reply.vip,
        ports: u32::from_ne_bytes([c0, c1, v0, v1]),
        proto: reply_key.proto,
    }
}

/// Whether a pair of `full-nat` gives its port back: ended and rested, silent for too long, never answered, or of nobody.
pub(super) fn gives_back(
    key: &FlowKey,
    reply: &NatReply,
    there: Option<&NatFlow>,
    now: u32,
    settings: &Settings,
    known: &impl Known,
) -> bool {
    let seen = reply.seen.max(there.map_or(0, |flow| flow.seen));
    let silent = now.saturating_sub(seen);
    let tcp = key.proto == TCP;
    if reply.closed != 0 {
        return now.saturating_sub(reply.closed) > settings.nat_time_wait;
    }
    let patience = match (tcp, reply.flags & nat::ANSWERED != 0) {
        (true, false) => nat::EMBRYONIC,
        (true, true) => settings.nat_tcp_idle.saturating_add(nat::REFRESH),
        (false, _) => settings.nat_udp_idle.saturating_add(nat::REFRESH),
    };
    let of_nobody = !known.service(reply.service) || !known.backend(reply.backend);
    silent > patience || ((there.is_none() || of_nobody) && silent > YOUNG)
}

/// Whether a flow of `full-nat` has lost its reply.
pub(super) fn is_orphan(flow: &NatFlow, reply: Option<&NatReply>, now: u32) -> bool {
    reply.is_none() && now.saturating_sub(flow.seen.max(flow.recorded)) > YOUNG
}

/// The network of clients that a flow counts for, if it does.
pub(super) fn counts_for(
    key: &FlowKey,
    state: &FlowState,
    now: u32,
    limits: impl FnOnce(u32) -> Option<ServiceLimits>,
) -> Option<ClientKey> {
    if state.service & (flow::COUNTED | flow::CLOSED) != flow::COUNTED || silent(state, now) > COUNTS {
        return None;
    }
    let service = state.service & flow::SERVICE;
    Some(network(&key.src, service, &limits(service)?))
}

/// The same of a flow of `full-nat`.
pub(super) fn nat_counts_for(
    reply: &NatReply,
    limits: impl FnOnce(u32) -> Option<ServiceLimits>,
) -> Option<ClientKey> {
    if reply.flags & nat::COUNTED == 0 || reply.closed != 0 {
        return None;
    }
    Some(network(&reply.client, reply.service, &limits(reply.service)?))
}

/// The network that a client counts with.
fn network(client: &Addr16, service: u32, limits: &ServiceLimits) -> ClientKey {
    let addr = if client.is_v4() {
        Addr16::from_v4_word(client.v4_word() & limits.mask_v4)
    } else {
        let ([a, b, c, d], [e, f, g, h]) = (client.words, limits.mask_v6);
        Addr16::from_v6_words([a & e, b & f, c & g, d & h])
    };
    ClientKey { addr, service }
}

#[cfg(test)]
mod tests;
