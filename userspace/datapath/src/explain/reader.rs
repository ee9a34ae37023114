//! The maps as the decision wants them, for one packet that does not exist.
//!
//! Owns [`Reader`]: it reads the maps where the programs would, and keeps to itself what they would write. What may be
//! changed in place is copied into tables in memory first, so that the rest of the decision sees its own changes and the
//! kernel none. Decides nothing; it remembers what was asked.

use std::collections::HashSet;

use weir_abi::{
    Addr16, Backend, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState, GroupLink,
    ListEntry, NatFlow, NatReply, NatSource, NextHop, Note, Prefix, QuicKey, Reason, RecordLimit, ReturnKey,
    ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings, Slot, Vlan, maps::limit,
};
use weir_fastpath::{
    Direction, Route, RouteQuery, Tables,
    memory::{Copied, MemoryTables},
    parse::Packet,
    pipeline::{Nat, Parked},
    rewrite::Link,
    tables::{Beginning, Checked, Socket},
};

use crate::{error::MapError, sys, tables};

/// What was asked on the way, and what was answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// The service that the packet is addressed to.
    pub(super) service: Option<Service>,
    /// The slot of its ring, with its index in `RINGS`.
    pub(super) slot: Option<(u32, Slot)>,
    /// Indices of the backends that were looked at, in order.
    pub(super) backends: Vec<u32>,
    /// The flow's record, as it is in the kernel.
    pub(super) flow: Option<FlowState>,
    /// The flow's translation by `full-nat`, as it is in the kernel.
    pub(super) nat_flow: Option<NatFlow>,
    /// Whose answer it is, by the record of `RETURNS`.
    pub(super) return_target: Option<ReturnTarget>,
    /// Whose answer it is, by the table of `full-nat`.
    pub(super) nat_reply: Option<NatReply>,
    /// What the lists say of its source.
    pub(super) listed: Option<ListEntry>,
    /// The way out that was resolved in advance.
    pub(super) next_hop: Option<NextHop>,
    /// What the kernel's routes would be asked.
    pub(super) asked: Option<RouteQuery>,
    /// Whom it would be counted for: service, backend, direction.
    pub(super) traffic: Option<(u32, u32, Direction)>,
    /// What would be counted beside the reason, in order.
    pub(super) notes: Vec<Note>,
}

/// Reads the maps for one packet.
pub(super) struct Reader<'a> {
    maps: &'a tables::Tables,
    /// Whether an address is this box's own.
    is_local: &'a dyn Fn(&Addr16) -> bool,
    /// Copies of what may be changed, and what was written.
    memory: MemoryTables,
    /// What was deleted: the kernel still has it.
    gone: HashSet<FlowKey>,
    limits_read: [bool; limit::COUNT as usize],
    seen: Seen,
    failed: Option<MapError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        maps: &'a tables::Tables,
        settings: Settings,
        now: u32,
        is_local: &'a dyn Fn(&Addr16) -> bool,
    ) -> Self {
        let memory = MemoryTables {
            settings,
            now,
            // Read where it lies.
            filter: Vec::new(),
            ..MemoryTables::default()
        };
        Self {
            maps,
            is_local,
            memory,
            gone: HashSet::new(),
            limits_read: [false; limit::COUNT as usize],
            seen: Seen::default(),
            failed: None,
        }
    }

    /// What was asked, once the decision is made.
    ///
    /// # Errors
    /// When a map could not be read: then the decision means nothing.
    pub(super) fn finish(self) -> Result<Seen, MapError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.seen),
        }
    }

    /// What a map said; a failure is kept for [`Self::finish`].
    fn said<T>(&mut self, answer: Result<Option<T>, MapError>) -> Option<T> {
        answer.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            None
        })
    }
}

impl Tables for Reader<'_> {
    type Held<T: Copy + 'static> = Copied<T>;

    fn service(&mut self, key: &ServiceKey) -> Option<Service> {
        let service = self.said(self.maps.services.get(key));
        self.seen.service = self.seen.service.or(service);
        service
    }

    fn settings(&mut self) -> Option<Copied<Settings>> {
        self.memory.settings()
    }

    fn filter(&mut self, word: u32) -> u64 {
        self.maps.filter.word(word)
    }

    fn slot(&mut self, index: u32) -> Option<Slot> {
        let slot = self.maps.rings.read(index, 1).first().copied()?;
        self.seen.slot = Some((index, slot));
        Some(slot)
    }

    fn backend(&mut self, index: u32) -> Option<Backend> {
        let backend = self.said(self.maps.backends.get(&index))?;
        self.seen.backends.push(index);
        Some(backend)
    }

    fn next_hop(&mut self, index: u32) -> Option<NextHop> {
        let next_hop = self.said(self.maps.next_hops.get(&index));
        self.seen.next_hop = next_hop;
        next_hop
    }

    fn client_route(&mut self, client: &Addr16) -> u32 {
        let whole = Prefix {
            len: 128,
            addr: *client,
        };
        self.said(self.maps.routes.get(&whole)).unwrap_or(0)
    }

    fn vlan(&mut self, ifindex: u32) -> Option<Vlan> {
        self.said(self.maps.vlans.get(&ifindex))
    }

    fn now(&mut self) -> u32 {
        self.memory.now
    }

    /// Which CPU a packet would come to nobody knows. It makes a difference for the port that `full-nat` gives.
    fn cpu(&mut self) -> u32 {
        0
    }

    fn flow(&mut self, key: &FlowKey) -> Option<&mut FlowState> {
        if !self.memory.flows.contains_key(key)
            && let Some(state) = self.said(self.maps.flows.get(key))
        {
            self.seen.flow = Some(state);
            self.memory.flows.insert(*key, state);
        }
        self.memory.flow(key)
    }

    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool {
        self.memory.record_flow(key, state)
    }

    /// The fullest window of all CPUs.
    fn limit(&mut self, which: u32) -> Option<&mut RecordLimit> {
        let read = self.limits_read.get_mut(which as usize)?;
        if !std::mem::replace(read, true) {
            let windows = self.said(self.maps.record_limit.get(which).map(Some))?;
            let fullest = windows
                .into_iter()
                .max_by_key(|window| (window.second, window.count));
            if let (Some(copy), Some(fullest)) = (self.memory.limits.get_mut(which as usize), fullest) {
                *copy = fullest;
            }
        }
        self.memory.limit(which)
    }

    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget> {
        let target = self.said(self.maps.returns.get(key));
        self.seen.return_target = target;
        target
    }

    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip> {
        match self.memory.return_flow(key) {
            Some(vip) => Some(vip),
            None => self.said(self.maps.return_flows.get(key)),
        }
    }

    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool {
        self.memory.record_return_flow(key, vip)
    }

    fn nat_flow(&mut self, key: &FlowKey) -> Option<&mut NatFlow> {
        if !self.memory.nat_flows.contains_key(key)
            && !self.gone.contains(key)
            && let Some(flow) = self.said(self.maps.nat_flows.get(key))
        {
            self.seen.nat_flow = Some(flow);
            self.memory.nat_flows.insert(*key, flow);
        }
        self.memory.nat_flow(key)
    }

    fn add_nat_flow(&mut self, key: &FlowKey, flow: &NatFlow) -> bool {
        self.nat_flow(key).is_none() && self.memory.add_nat_flow(key, flow)
    }

    fn remove_nat_flow(&mut self, key: &FlowKey) {
        self.gone.insert(*key);
        self.memory.remove_nat_flow(key);
    }

    fn nat_reply(&mut self, key: &FlowKey) -> Option<&mut NatReply> {
        if !self.memory.nat_replies.contains_key(key)
            && !self.gone.contains(key)
            && let Some(reply) = self.said(self.maps.nat_replies.get(key))
        {
            self.seen.nat_reply = Some(reply);
            self.memory.nat_replies.insert(*key, reply);
        }
        self.memory.nat_reply(key)
    }

    fn add_nat_reply(&mut self, key: &FlowKey, reply: &NatReply) -> bool {
        self.nat_reply(key).is_none() && self.memory.add_nat_reply(key, reply)
    }

    fn remove_nat_reply(&mut self, key: &FlowKey) {
        self.gone.insert(*key);
        self.memory.remove_nat_reply(key);
    }

    fn nat_source(&mut self, index: u32) -> Option<NatSource> {
        self.said(self.maps.nat_sources.get(&index))
    }

    /// That of the CPU that [`Self::cpu`] names.
    fn nat_cursor(&mut self, service: u32) -> Option<&mut u64> {
        if !self.memory.nat_cursors.contains_key(&service) {
            let cursors = self.said(self.maps.nat_cursors.get(service).map(Some))?;
            self.memory.nat_cursors.insert(service, *cursors.first()?);
        }
        self.memory.nat_cursor(service)
    }

    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentState> {
        self.said(self.maps.fragments.get(key))
    }

    fn record_fragment(&mut self, key: &FragmentKey, state: &FragmentState) -> bool {
        self.memory.record_fragment(key, state)
    }

    fn quic_id(&mut self, key: &QuicKey) -> Option<u32> {
        self.said(self.maps.quic_ids.get(key))
    }

    fn list(&mut self, source: &Addr16) -> Option<ListEntry> {
        let whole = Prefix {
            len: 128,
            addr: *source,
        };
        let listed = self.said(self.maps.lists.get(&whole));
        self.seen.listed = listed;
        listed
    }

    fn add_to_list(&mut self, network: &Prefix, entry: &ListEntry) -> bool {
        self.memory.add_to_list(network, entry)
    }

    fn client(&mut self, key: &ClientKey) -> Option<&mut ClientState> {
        if !self.memory.clients.contains_key(key)
            && let Some(state) = self.said(self.maps.clients.get(key))
        {
            self.memory.clients.insert(*key, state);
        }
        self.memory.client(key)
    }

    fn beginning(&mut self, client: &ClientKey, flow: &FlowKey) -> Option<Beginning<'_>> {
        // Reads what is there along.
        self.client(client)?;
        self.flow(flow);
        self.limit(limit::FLOWS);
        self.memory.beginning(client, flow)
    }

    fn record_client(&mut self, key: &ClientKey, state: &ClientState) -> bool {
        self.memory.record_client(key, state)
    }

    fn service_limits(&mut self, service: u32) -> Option<Copied<ServiceLimits>> {
        self.said(self.maps.service_limits.get(&service)).map(Copied)
    }

    fn lease(&mut self, addr: &Addr16) -> u32 {
        self.said(self.maps.leased.get(addr)).unwrap_or(0)
    }

    fn lease_until(&mut self, slot: u32) -> u64 {
        self.said(self.maps.leases.get(&slot)).unwrap_or(0)
    }

    /// On whichever interface: a packet that is asked about comes in where its group is.
    fn linked(&mut self, mac: &[u16; 3]) -> u32 {
        let mut found = 0;
        let listed = self.maps.linked.each(|key, index| {
            if key.mac == *mac {
                found = *index;
            }
        });
        self.said(listed.map(|()| Some(()))).map_or(0, |()| found)
    }

    fn group_link(&mut self, index: u32) -> Option<Copied<GroupLink>> {
        self.said(self.maps.links.get(&index)).map(Copied)
    }

    /// The packet stands for one of a connection that this box has.
    fn socket(&mut self, _packet: &Packet) -> Socket {
        Socket::Connected
    }

    fn clock(&mut self) -> u64 {
        sys::monotonic_nanoseconds()
    }

    fn coarse_clock(&mut self) -> u64 {
        self.clock()
    }

    /// An advert is none of the packets that can be asked about.
    fn hears(&mut self, _to: &Addr16) -> bool {
        false
    }

    fn hand_out_advert(&mut self) -> bool {
        false
    }

    /// The kernel's secret is its own. A stand-in, of the MSS of Ethernet: that a cookie would be sent is the answer. (None
    /// is for a SYN that ends what it begins.)
    fn syn_cookie(&mut self, packet: &Packet) -> u64 {
        if packet.fin() || packet.rst() {
            0
        } else {
            1460 << 32 | 1
        }
    }

    /// The packet stands for one of a connection that the kernel knows: such a packet brings no cookie.
    fn check_cookie(&mut self, _packet: &Packet) -> Checked {
        Checked::Other
    }

    /// The kernel's routes are not asked: only addresses of this box are told apart, for the rest a way is assumed.
    fn route(&mut self, query: &RouteQuery) -> Route {
        self.seen.asked = Some(*query);
        if (self.is_local)(&query.dst) {
            return Route::NotForwarded;
        }
        Route::Via {
            ifindex: 0,
            link: Link::default(),
        }
    }

    fn resolve_neighbor(&mut self, _next_hop: &Addr16, _ifindex: u32) {}

    fn park(&mut self, parked: &Parked) {
        self.memory.park(parked);
    }

    fn parked(&mut self) -> Option<&mut Parked> {
        self.memory.parked()
    }

    fn parked_nat(&mut self) -> Option<&mut Nat> {
        self.memory.parked_nat()
    }

    fn count(&mut self, _reason: Reason) {}

    fn note(&mut self, note: Note) {
        self.seen.notes.push(note);
    }

    fn traffic(&mut self, service: u32, backend: u32, direction: Direction, _bytes: u32, _new_flow: bool) {
        self.seen.traffic = Some((service, backend, direction));
    }
}
