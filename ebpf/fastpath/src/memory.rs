//! [`Tables`] in ordinary memory: the kernel's maps as collections.
//!
//! Owns nothing but storage, and counts what was asked. `weir explain` fills it with what control has written to the
//! kernel and asks the very decision that runs there; the tests compare the two. Never evicts, as the kernel's flow table
//! does when it is full.

use std::{boxed::Box, collections::HashMap, vec, vec::Vec};

use weir_abi::{
    Addr16, Backend, FlowKey, FlowState, NeighborEvent, Note, REASON_COUNT, Reason, RecordLimit, ReturnKey,
    ReturnTarget, ReturnVip, Service, ServiceKey, Settings, Slot, Traffic,
};

use crate::tables::{Direction, Route, RouteQuery, Tables};

/// What was read, where the kernel has no counter for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// Readings of the clock.
    pub clock: u64,
    /// Look-ups in `FLOWS`.
    pub flows: u64,
    /// Slots of rings.
    pub slots: u64,
    /// Index into `RINGS` of the slot that was read last.
    pub last_slot: Option<u32>,
}

/// All tables, open to whoever fills or inspects them.
pub struct MemoryTables {
    /// `SERVICES`
    pub services: HashMap<ServiceKey, Service>,
    /// `BACKENDS`
    pub backends: Vec<Backend>,
    /// `RINGS`
    pub rings: Vec<Slot>,
    /// `FLOWS`
    pub flows: HashMap<FlowKey, FlowState>,
    /// `RETURNS`
    pub returns: HashMap<ReturnKey, ReturnTarget>,
    /// `RETURN_FLOWS`
    pub return_flows: HashMap<FlowKey, ReturnVip>,
    /// `SETTINGS`
    pub settings: Settings,
    /// `RECORD_LIMIT`
    pub record_limit: RecordLimit,
    /// The clock: seconds.
    pub now: u32,
    /// The routing table.
    pub routes: Box<dyn FnMut(&RouteQuery) -> Route + Send>,
    /// `REASONS`
    pub reasons: [u64; REASON_COUNT],
    /// `SERVICE_TRAFFIC`, by service id.
    pub service_traffic: HashMap<u32, Traffic>,
    /// `BACKEND_TRAFFIC`, by backend index.
    pub backend_traffic: HashMap<u32, Traffic>,
    /// `EVENTS`
    pub events: Vec<NeighborEvent>,
    /// What was asked.
    pub asked: Asked,
}

impl Default for MemoryTables {
    /// Empty tables and no routes. Backend 0 exists and means none.
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            backends: vec![Backend::default()],
            rings: Vec::new(),
            flows: HashMap::new(),
            returns: HashMap::new(),
            return_flows: HashMap::new(),
            settings: Settings::default(),
            record_limit: RecordLimit::default(),
            now: 0,
            routes: Box::new(|_| Route::NotForwarded),
            reasons: [0; REASON_COUNT],
            service_traffic: HashMap::new(),
            backend_traffic: HashMap::new(),
            events: Vec::new(),
            asked: Asked::default(),
        }
    }
}

impl MemoryTables {
    /// How often a verdict had this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason as usize).copied().unwrap_or(0)
    }

    /// How often this happened.
    pub fn noted(&self, note: Note) -> u64 {
        self.reasons.get(note.index() as usize).copied().unwrap_or(0)
    }
}

impl Tables for MemoryTables {
    fn service(&mut self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn settings(&mut self) -> Option<Settings> {
        Some(self.settings)
    }

    fn slot(&mut self, index: u32) -> Option<Slot> {
        self.asked.slots += 1;
        self.asked.last_slot = Some(index);
        self.rings.get(index as usize).copied()
    }

    fn backend(&mut self, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }

    fn now(&mut self) -> u32 {
        self.asked.clock += 1;
        self.now
    }

    fn flow(&mut self, key: &FlowKey) -> Option<FlowState> {
        self.asked.flows += 1;
        self.flows.get(key).copied()
    }

    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool {
        self.flows.insert(*key, *state);
        true
    }

    fn record_limit(&mut self) -> Option<&mut RecordLimit> {
        Some(&mut self.record_limit)
    }

    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget> {
        self.returns.get(key).copied()
    }

    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip> {
        self.return_flows.get(key).copied()
    }

    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool {
        self.return_flows.insert(*key, *vip);
        true
    }

    fn route(&mut self, query: &RouteQuery) -> Route {
        (self.routes)(query)
    }

    fn resolve_neighbor(&mut self, next_hop: &Addr16, ifindex: u32) {
        self.events.push(NeighborEvent {
            addr: *next_hop,
            ifindex,
            reserved: 0,
        });
    }

    fn count(&mut self, reason: Reason) {
        if let Some(counter) = self.reasons.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    fn note(&mut self, note: Note) {
        if let Some(counter) = self.reasons.get_mut(note.index() as usize) {
            *counter += 1;
        }
    }

    fn traffic(&mut self, service: u32, backend: u32, direction: Direction, bytes: u32, new_flow: bool) {
        for traffic in [
            self.service_traffic.entry(service).or_default(),
            self.backend_traffic.entry(backend).or_default(),
        ] {
            match direction {
                Direction::In => {
                    traffic.packets_in += 1;
                    traffic.bytes_in += u64::from(bytes);
                    traffic.flows += u64::from(new_flow);
                }
                Direction::Out => {
                    traffic.packets_out += 1;
                    traffic.bytes_out += u64::from(bytes);
                }
            }
        }
    }
}
