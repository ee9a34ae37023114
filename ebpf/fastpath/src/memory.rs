//! [`Tables`] in ordinary memory: the kernel's maps as collections.
//!
//! Owns nothing but storage, and counts what was asked. `weir explain` keeps in it what a decision changes, so that the
//! kernel's tables stay as they are; the tests compare a decision over it with the kernel's. Never full, as the kernel's
//! tables may be.

use std::{
    boxed::Box,
    collections::{HashMap, HashSet},
    ops::Deref,
    vec,
    vec::Vec,
};

use weir_abi::{
    Addr16, Backend, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState, GroupLink,
    ListEntry, NatFlow, NatReply, NatSource, NeighborEvent, NextHop, Note, Prefix, QuicKey, REASON_COUNT,
    Reason, RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings,
    Slot, Traffic, Vlan,
    maps::{filter, limit},
};

use crate::{
    filter::{bit, place},
    parse::Packet,
    pipeline::{Nat, Parked},
    tables::{Beginning, Checked, Direction, Route, RouteQuery, Socket, Tables},
};

/// What was read, where the kernel has no counter for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// Readings of the clock.
    pub clock: u64,
    /// Readings of the exact clock.
    pub exact_clock: u64,
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
    /// `FILTER`
    pub filter: Vec<u64>,
    /// `NEXT_HOPS`; index 0 exists and means none.
    pub next_hops: Vec<NextHop>,
    /// `ROUTES`
    pub routes_to_clients: HashMap<Prefix, u32>,
    /// `VLANS`
    pub vlans: HashMap<u32, Vlan>,
    /// `NAT_FLOWS`
    pub nat_flows: HashMap<FlowKey, NatFlow>,
    /// `NAT_REPLIES`
    pub nat_replies: HashMap<FlowKey, NatReply>,
    /// `NAT_SOURCES`
    pub nat_sources: Vec<NatSource>,
    /// `NAT_CURSORS` of the one CPU there is.
    pub nat_cursors: HashMap<u32, u64>,
    /// `FRAGMENTS`
    pub fragments: HashMap<FragmentKey, FragmentState>,
    /// Entries that `FRAGMENTS` takes at most. The kernel's makes room instead; it refuses while it is busy.
    pub fragment_capacity: usize,
    /// `QUIC_IDS`
    pub quic_ids: HashMap<QuicKey, u32>,
    /// `LISTS`
    pub lists: HashMap<Prefix, ListEntry>,
    /// `CLIENTS`
    pub clients: HashMap<ClientKey, ClientState>,
    /// `SERVICE_LIMITS`, by service id.
    pub service_limits: HashMap<u32, ServiceLimits>,
    /// `RECORD_LIMIT`
    pub limits: [RecordLimit; limit::COUNT as usize],
    /// The clock: seconds.
    pub now: u32,
    /// `LEASED`
    pub leased: HashMap<Addr16, u32>,
    /// `LINKED` of the interface that frames come in by.
    pub linked: HashMap<[u16; 3], u32>,
    /// `LINKS`, by index.
    pub links: HashMap<u32, GroupLink>,
    /// What sockets there are.
    pub sockets: Box<dyn FnMut(&Packet) -> Socket + Send>,
    /// `LEASES`, by slot.
    pub leases: HashMap<u32, u64>,
    /// The exact clock: nanoseconds.
    pub clock: u64,
    /// By how much the coarse clock is behind it.
    pub coarse_behind: u64,
    /// `HEARS` of the interface that frames come in by.
    pub heard: HashSet<Addr16>,
    /// Frames that `ADVERTS` has room for.
    pub room_for_adverts: u32,
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
    /// `PARKED`
    pub parked: Option<Parked>,
    /// What the parked packet becomes by `full-nat`.
    pub parked_nat: Nat,
    /// The number of the CPU this runs on, which says whose blocks of `NAT_SOURCES` are its own.
    pub cpu: u32,
    /// Entries that `NAT_FLOWS` and `NAT_REPLIES` take at most, each.
    pub nat_capacity: usize,
    /// What another CPU writes to `NAT_FLOWS` for the very flow just before this one does: once.
    pub nat_rival: Option<NatFlow>,
    /// What [`Tables::syn_cookie`] gives.
    pub cookies: Box<dyn FnMut(&Packet) -> u64 + Send>,
    /// What [`Tables::check_cookie`] says.
    pub checks: Box<dyn FnMut(&Packet) -> Checked + Send>,
    /// What was asked.
    pub asked: Asked,
}

impl Default for MemoryTables {
    /// Empty tables, no routes, no sockets that listen. Backend 0 exists and means none.
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            backends: vec![Backend::default()],
            rings: Vec::new(),
            flows: HashMap::new(),
            returns: HashMap::new(),
            return_flows: HashMap::new(),
            settings: Settings::default(),
            filter: vec![0; filter::WORDS],
            next_hops: vec![NextHop::default()],
            routes_to_clients: HashMap::new(),
            vlans: HashMap::new(),
            nat_flows: HashMap::new(),
            nat_replies: HashMap::new(),
            nat_sources: Vec::new(),
            nat_cursors: HashMap::new(),
            fragments: HashMap::new(),
            fragment_capacity: usize::MAX,
            quic_ids: HashMap::new(),
            lists: HashMap::new(),
            clients: HashMap::new(),
            service_limits: HashMap::new(),
            limits: [RecordLimit::default(); limit::COUNT as usize],
            now: 0,
            leased: HashMap::new(),
            linked: HashMap::new(),
            links: HashMap::new(),
            sockets: Box::new(|_| Socket::None),
            leases: HashMap::new(),
            clock: 0,
            coarse_behind: 0,
            heard: HashSet::new(),
            room_for_adverts: u32::MAX,
            routes: Box::new(|_| Route::NotForwarded),
            reasons: [0; REASON_COUNT],
            service_traffic: HashMap::new(),
            backend_traffic: HashMap::new(),
            events: Vec::new(),
            parked: None,
            parked_nat: Nat::default(),
            cpu: 0,
            nat_capacity: usize::MAX,
            nat_rival: None,
            cookies: Box::new(|_| 0),
            checks: Box::new(|_| Checked::Other),
            asked: Asked::default(),
        }
    }
}

impl MemoryTables {
    /// How often a verdict had this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason as usize).copied().unwrap_or(0)
    }

    /// Sets the bit of an address in `FILTER`.
    pub fn mark(&mut self, addr: &Addr16) {
        let (word, mask) = place(bit(addr));
        if let Some(word) = self.filter.get_mut(word as usize) {
            *word |= mask;
        }
    }

    /// How often this happened.
    pub fn noted(&self, note: Note) -> u64 {
        self.reasons.get(note.index() as usize).copied().unwrap_or(0)
    }
}

/// A value as it was when it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Copied<T>(pub T);

impl<T> Deref for Copied<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Adds an entry unless the key is there or the map is full. Whether it was added.
fn add<V: Copy>(map: &mut HashMap<FlowKey, V>, key: &FlowKey, value: &V, capacity: usize) -> bool {
    let adds = map.len() < capacity && !map.contains_key(key);
    if adds {
        map.insert(*key, *value);
    }
    adds
}

/// The value of the longest prefix that holds an address.
fn longest<V: Copy>(map: &HashMap<Prefix, V>, addr: &Addr16) -> Option<V> {
    let bits = u128::from_be_bytes(addr.octets());
    let holds = |prefix: &Prefix| {
        let net = u128::from_be_bytes(prefix.addr.octets());
        prefix.len == 0 || (prefix.len <= 128 && (net ^ bits) >> (128 - prefix.len) == 0)
    };
    let best = map.iter().filter(|(prefix, _)| holds(prefix));
    best.max_by_key(|(prefix, _)| prefix.len).map(|(_, value)| *value)
}

impl Tables for MemoryTables {
    type Held<T: Copy + 'static> = Copied<T>;

    fn service(&mut self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn settings(&mut self) -> Option<Copied<Settings>> {
        Some(Copied(self.settings))
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

    fn filter(&mut self, word: u32) -> u64 {
        self.filter.get(word as usize).copied().unwrap_or(0)
    }

    fn next_hop(&mut self, index: u32) -> Option<NextHop> {
        self.next_hops.get(index as usize).copied()
    }

    fn client_route(&mut self, client: &Addr16) -> u32 {
        longest(&self.routes_to_clients, client).unwrap_or(0)
    }

    fn vlan(&mut self, ifindex: u32) -> Option<Vlan> {
        self.vlans.get(&ifindex).copied()
    }

    fn cpu(&mut self) -> u32 {
        self.cpu
    }

    fn nat_flow(&mut self, key: &FlowKey) -> Option<&mut NatFlow> {
        self.nat_flows.get_mut(key)
    }

    fn add_nat_flow(&mut self, key: &FlowKey, flow: &NatFlow) -> bool {
        if let Some(rival) = self.nat_rival.take() {
            self.nat_flows.insert(*key, rival);
        }
        add(&mut self.nat_flows, key, flow, self.nat_capacity)
    }

    fn remove_nat_flow(&mut self, key: &FlowKey) {
        self.nat_flows.remove(key);
    }

    fn nat_reply(&mut self, key: &FlowKey) -> Option<&mut NatReply> {
        self.nat_replies.get_mut(key)
    }

    fn add_nat_reply(&mut self, key: &FlowKey, reply: &NatReply) -> bool {
        add(&mut self.nat_replies, key, reply, self.nat_capacity)
    }

    fn remove_nat_reply(&mut self, key: &FlowKey) {
        self.nat_replies.remove(key);
    }

    fn nat_source(&mut self, index: u32) -> Option<NatSource> {
        self.nat_sources.get(index as usize).copied()
    }

    fn nat_cursor(&mut self, service: u32) -> Option<&mut u64> {
        Some(self.nat_cursors.entry(service).or_default())
    }

    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentState> {
        self.fragments.get(key).copied()
    }

    fn record_fragment(&mut self, key: &FragmentKey, state: &FragmentState) -> bool {
        let takes = self.fragments.len() < self.fragment_capacity || self.fragments.contains_key(key);
        if takes {
            self.fragments.insert(*key, *state);
        }
        takes
    }

    fn quic_id(&mut self, key: &QuicKey) -> Option<u32> {
        self.quic_ids.get(key).copied()
    }

    fn list(&mut self, source: &Addr16) -> Option<ListEntry> {
        longest(&self.lists, source)
    }

    fn add_to_list(&mut self, network: &Prefix, entry: &ListEntry) -> bool {
        self.lists.insert(*network, *entry);
        true
    }

    fn client(&mut self, key: &ClientKey) -> Option<&mut ClientState> {
        self.clients.get_mut(key)
    }

    fn beginning(&mut self, client: &ClientKey, flow: &FlowKey) -> Option<Beginning<'_>> {
        self.asked.flows += 1;
        Some(Beginning {
            client: self.clients.get_mut(client)?,
            flow: self.flows.get_mut(flow),
            window: self.limits.get_mut(limit::FLOWS as usize),
        })
    }

    fn record_client(&mut self, key: &ClientKey, state: &ClientState) -> bool {
        self.clients.insert(*key, *state);
        true
    }

    fn service_limits(&mut self, service: u32) -> Option<Copied<ServiceLimits>> {
        self.service_limits.get(&service).copied().map(Copied)
    }

    fn flow(&mut self, key: &FlowKey) -> Option<&mut FlowState> {
        self.asked.flows += 1;
        self.flows.get_mut(key)
    }

    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool {
        self.flows.insert(*key, *state);
        true
    }

    fn limit(&mut self, which: u32) -> Option<&mut RecordLimit> {
        self.limits.get_mut(which as usize)
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

    fn lease(&mut self, addr: &Addr16) -> u32 {
        self.leased.get(addr).copied().unwrap_or(0)
    }

    fn lease_until(&mut self, slot: u32) -> u64 {
        self.leases.get(&slot).copied().unwrap_or(0)
    }

    fn linked(&mut self, mac: &[u16; 3]) -> u32 {
        self.linked.get(mac).copied().unwrap_or(0)
    }

    fn group_link(&mut self, index: u32) -> Option<Copied<GroupLink>> {
        self.links.get(&index).copied().map(Copied)
    }

    fn socket(&mut self, packet: &Packet) -> Socket {
        (self.sockets)(packet)
    }

    fn clock(&mut self) -> u64 {
        self.asked.exact_clock += 1;
        self.clock
    }

    fn coarse_clock(&mut self) -> u64 {
        self.clock.saturating_sub(self.coarse_behind)
    }

    fn hears(&mut self, to: &Addr16) -> bool {
        self.heard.contains(to)
    }

    fn hand_out_advert(&mut self) -> bool {
        let has_room = self.room_for_adverts > 0;
        self.room_for_adverts = self.room_for_adverts.saturating_sub(1);
        has_room
    }

    fn syn_cookie(&mut self, packet: &Packet) -> u64 {
        (self.cookies)(packet)
    }

    fn check_cookie(&mut self, packet: &Packet) -> Checked {
        (self.checks)(packet)
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

    fn park(&mut self, parked: &Parked) {
        self.parked = Some(*parked);
    }

    fn parked(&mut self) -> Option<&mut Parked> {
        self.parked.as_mut()
    }

    fn parked_nat(&mut self) -> Option<&mut Nat> {
        Some(&mut self.parked_nat)
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
