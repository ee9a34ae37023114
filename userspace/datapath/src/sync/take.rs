//! What a peer has told, into the maps.

use weir_abi::{
    FlowKey, FlowState, NatFlow, NatReply, Service, Settings,
    maps::{action, flow, nat},
};
use weir_core::{
    ids::Protocol,
    sync::{Entry, NotTaken, Translation},
};

use super::{Services, SyncTables, View, is_own, mss, ports, scan::reply_key};
use crate::{error::MapError, sweep::flow_of, sys::monotonic_seconds};

/// Takes entries over that came in one datagram.
#[derive(Debug)]
pub(super) struct Taker<'a> {
    tables: &'a SyncTables,
    view: &'a View,
    settings: Settings,
    now: u32,
    services: Services,
}

/// What the map says when it has no room.
fn is_full(error: &MapError) -> bool {
    matches!(
        error.cause.raw_os_error(),
        Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)
    )
}

impl<'a> Taker<'a> {
    pub(super) fn new(tables: &'a SyncTables, view: &'a View) -> Result<Self, MapError> {
        Ok(Self {
            tables,
            view,
            settings: tables.settings()?,
            now: monotonic_seconds(),
            services: Services::default(),
        })
    }

    /// Takes one.
    ///
    /// # Errors
    /// A map can't be read or written. Inside: why it is not taken.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<Result<(), NotTaken>, MapError> {
        let key = FlowKey {
            src: entry.client.ip().into(),
            dst: entry.vip.ip().into(),
            ports: ports(entry.client.port(), entry.vip.port()),
            proto: match entry.protocol {
                Protocol::Tcp | Protocol::Udp => entry.protocol.number().into(),
            },
        };
        let service = self.services.of(&key, self.tables)?;
        let Some(service) = service.filter(|service| self.view.has(service.id)) else {
            return Ok(Err(NotTaken::Service));
        };
        let fits = match (service.action, &entry.translation) {
            (action::NAT | action::DSR | action::IPIP, None) => true,
            (action::FULL_NAT, translation) => translation.is_some(),
            _ => false,
        };
        if !fits {
            return Ok(Err(NotTaken::Mode));
        }
        if service.action != action::IPIP && entry.backend.is_ipv4() != entry.client.is_ipv4() {
            return Ok(Err(NotTaken::Family));
        }
        let Some(index) = self.view.index(service.id, entry.backend) else {
            return Ok(Err(NotTaken::Backend));
        };
        let taken = match &entry.translation {
            None => self.flow(&key, entry, &service, index),
            Some(translation) => self.translated(&key, entry, translation, &service, index),
        };
        match taken {
            Err(error) if is_full(&error) => Ok(Err(NotTaken::Full)),
            other => other,
        }
    }

    fn flow(
        &self,
        key: &FlowKey,
        entry: &Entry,
        service: &Service,
        index: u32,
    ) -> Result<Result<(), NotTaken>, MapError> {
        let there = self.tables.flows.get(key)?;
        // Whoever saw it last knows, be it that it has ended: a box that comes back with its tables tells of flows that have ended
        // here meanwhile.
        if let Some(state) = there
            && is_own(&state)
            && is_later(self.now.saturating_sub(state.seen.max(state.recorded)), entry)
        {
            return Ok(Err(NotTaken::Own));
        }
        if entry.ended {
            if let Some(state) = there
                && state.backend == index
                && state.service & flow::CLOSED == 0
            {
                // The peer's word from now on, like all it says: it may say next that a new flow has begun.
                let service = state.service | flow::CLOSED | flow::TOLD;
                self.tables.flows.set(
                    key,
                    &FlowState {
                        service,
                        packets: 0,
                        seen: self.now.saturating_sub(entry.idle),
                        ..state
                    },
                )?;
            }
            return Ok(Ok(()));
        }
        let fresh = FlowState {
            packets: 0,
            bytes: 0,
            backend: index,
            recorded: self.now.saturating_sub(entry.age),
            seen: self.now,
            service: service.id & flow::SERVICE | flow::TOLD,
        };
        if there.is_some() {
            self.tables.flows.set(key, &fresh)?;
        } else if !self.tables.flows.add(key, &fresh)? {
            // It has just begun here.
            return Ok(Err(NotTaken::Own));
        }
        self.tables.mark(key, service, index, &self.settings, self.now);
        Ok(Ok(()))
    }

    fn translated(
        &self,
        key: &FlowKey,
        entry: &Entry,
        translation: &Translation,
        service: &Service,
        index: u32,
    ) -> Result<Result<(), NotTaken>, MapError> {
        let tables = self.tables;
        if translation.source.is_ipv4() != entry.client.is_ipv4() {
            return Ok(Err(NotTaken::Family));
        }
        if !self.view.has_source(service.id, translation.source) {
            return Ok(Err(NotTaken::Source));
        }
        let flow = NatFlow {
            source: translation.source.ip().into(),
            port: u32::from(translation.source.port().to_be()),
            backend: index,
            recorded: self.now.saturating_sub(entry.age),
            seen: self.now,
        };
        let reply_key = reply_key(key, &flow, entry.backend);
        let there = tables.nat_replies.get(&reply_key)?;
        let is_this = there.is_some_and(|reply| flow_of(&reply_key, &reply) == *key);
        let of_this = tables.nat_flows.get(key)?;
        // Whoever saw it last knows, be it that it has ended: a box that comes back with its tables tells of flows that have ended
        // here meanwhile.
        let knows_better = |reply: &NatReply| {
            let seen = reply.seen.max(of_this.map_or(0, |flow| flow.seen));
            reply.flags & nat::TOLD == 0 && is_later(self.now.saturating_sub(seen.max(reply.closed)), entry)
        };
        // The port is another flow's, unless that one has ended.
        let is_taken = |reply: &NatReply| !is_this && reply.flags & nat::TOLD == 0 && reply.closed == 0;
        if there.is_some_and(|reply| is_taken(&reply) || (is_this && knows_better(&reply))) {
            return Ok(Err(NotTaken::Own));
        }
        // The flow may have had another port, or another backend.
        let before = of_this.and_then(|flow| {
            let backend = self.view.backend(flow.backend)?;
            Some(self::reply_key(key, &flow, backend))
        });
        let before = before.filter(|before| *before != reply_key);
        if let Some(before) = before
            && let Some(reply) = tables.nat_replies.get(&before)?
            && flow_of(&before, &reply) == *key
        {
            if knows_better(&reply) {
                return Ok(Err(NotTaken::Own));
            }
            if !entry.ended && reply.flags & nat::TOLD != 0 {
                tables.nat_replies.delete(&before)?;
            }
        }
        if entry.ended {
            if let Some(reply) = there.filter(|reply| is_this && reply.closed == 0) {
                // The peer's word from now on, like all it says: it may say next that a new flow has begun.
                let by_rst = if translation.by_rst { nat::BY_RST } else { 0 };
                let (closed, flags) = (self.now.max(1), reply.flags | nat::TOLD | by_rst);
                tables.nat_replies.set(
                    &reply_key,
                    &NatReply {
                        closed,
                        flags,
                        ..reply
                    },
                )?;
            }
            return Ok(Ok(()));
        }
        let bit = |on, bit| if on { bit } else { 0 };
        let reply = NatReply {
            packets: 0,
            bytes: 0,
            client: key.src,
            vip: key.dst,
            ports: ports(entry.vip.port(), entry.client.port()),
            service: service.id,
            backend: index,
            seen: self.now,
            closed: 0,
            flags: nat::TOLD
                | bit(translation.client_fin, nat::FIN_IN)
                | bit(translation.backend_fin, nat::FIN_OUT)
                | bit(translation.answered, nat::ANSWERED)
                | mss(service),
        };
        // First what takes the port.
        if there.is_some() {
            tables.nat_replies.set(&reply_key, &reply)?;
        } else if !tables.nat_replies.add(&reply_key, &reply)? {
            return Ok(Err(NotTaken::Own));
        }
        if let Err(error) = tables.nat_flows.set(key, &flow) {
            tables.nat_replies.delete(&reply_key)?;
            return Err(error);
        }
        Ok(Ok(()))
    }
}

/// Whether what this box saw so many seconds ago is later than what it is told. In doubt an end holds: a flow that goes on is
/// told again.
const fn is_later(ago: u32, entry: &Entry) -> bool {
    ago < entry.idle || (ago == entry.idle && !entry.ended)
}
