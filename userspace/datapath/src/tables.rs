//! The pinned maps as typed handles: carrying operations out, and finding out what they hold.
//!
//! Decides nothing: `changes` says what to write. The one judgement made here is whether the maps and the state file
//! belong together.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{Ebpf, maps::Map};
use weir_abi::{
    Addr16, Backend, CaptureFilter, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState,
    GroupLink, HearKey, LinkKey, ListEntry, NatFlow, NatReply, NatSource, NextHop, Prefix, QuicKey,
    RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings, SteerKey,
    Taken, Traffic, Vlan, maps::action, names,
};
use weir_core::ids::{ListenKey, Protocol, Scope};

use crate::{
    assign::Assignment,
    changes::{Op, State, address_key, source_areas},
    error::{MapError, OpenError},
    rings::Area,
    sys::MapShape,
    table::{FilterMemory, Opaque, PerCpu, RingMemory, Table},
};

/// Every pinned map.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) services: Table<ServiceKey, Service>,
    pub(crate) backends: Table<u32, Backend>,
    pub(crate) rings: RingMemory,
    pub(crate) filter: FilterMemory,
    pub(crate) next_hops: Table<u32, NextHop>,
    pub(crate) routes: Table<Prefix, u32>,
    pub(crate) vlans: Table<u32, Vlan>,
    pub(crate) flows: Table<FlowKey, FlowState>,
    pub(crate) returns: Table<ReturnKey, ReturnTarget>,
    pub(crate) return_flows: Table<FlowKey, ReturnVip>,
    pub(crate) nat_flows: Table<FlowKey, NatFlow>,
    pub(crate) nat_replies: Table<FlowKey, NatReply>,
    pub(crate) nat_sources: Table<u32, NatSource>,
    pub(crate) nat_cursors: PerCpu<u64>,
    pub(crate) fragments: Table<FragmentKey, FragmentState>,
    pub(crate) quic_ids: Table<QuicKey, u32>,
    pub(crate) lists: Table<Prefix, ListEntry>,
    pub(crate) clients: Table<ClientKey, ClientState>,
    pub(crate) service_limits: Table<u32, ServiceLimits>,
    pub(crate) settings: Table<u32, Settings>,
    pub(crate) reasons: PerCpu<u64>,
    pub(crate) service_traffic: PerCpu<Traffic>,
    pub(crate) backend_traffic: PerCpu<Traffic>,
    pub(crate) record_limit: PerCpu<RecordLimit>,
    pub(crate) capture: Table<u32, CaptureFilter>,
    pub(crate) captured: Opaque,
    pub(crate) stages: Table<u32, u32>,
    pub(crate) steer: Table<SteerKey, u32>,
    pub(crate) sockets: Table<u32, u32>,
    pub(crate) taken: Table<Prefix, Taken>,
    pub(crate) leases: Table<u32, u64>,
    pub(crate) leased: Table<Addr16, u32>,
    pub(crate) links: Table<u32, GroupLink>,
    pub(crate) linked: Table<LinkKey, u32>,
    pub(crate) hears: Table<HearKey, u32>,
    pub(crate) adverts: Opaque,
}

/// A handle of any map, for what does not depend on its types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle<'a> {
    pub(crate) name: &'static str,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) shape: &'a MapShape,
}

/// The descriptor of a loaded map.
fn fd<'a>(loaded: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, OpenError> {
    let map = loaded
        .map(name)
        .ok_or_else(|| OpenError::Object(format!("it has no map {name}")))?;
    // Every type of map that weir has; what is in them is checked by size, and by flags for RINGS.
    if let Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::LpmTrie(data)
    | Map::ProgramArray(data)
    | Map::RingBuf(data)
    | Map::SockMap(data) = map
    {
        Ok(data.fd().as_fd())
    } else {
        Err(OpenError::Object(format!(
            "map {name} is of a type that weir does not know: {map:?}"
        )))
    }
}

impl Tables {
    /// Typed handles of all maps of a loaded object.
    pub(crate) fn new(loaded: &Ebpf) -> Result<Self, OpenError> {
        let cpus = aya::util::nr_cpus().map_err(|(file, cause)| OpenError::File {
            doing: "cannot read",
            path: file.into(),
            cause,
        })?;
        let get = |name| Ok::<_, OpenError>((name, fd(loaded, name)?));
        macro_rules! table {
            ($name:expr) => {{
                let (name, fd) = get($name)?;
                Table::new(name, fd)?
            }};
        }
        macro_rules! per_cpu {
            ($name:expr) => {{
                let (name, fd) = get($name)?;
                PerCpu::new(name, fd, cpus)?
            }};
        }
        Ok(Self {
            services: table!(names::SERVICES),
            backends: table!(names::BACKENDS),
            rings: {
                let (name, fd) = get(names::RINGS)?;
                RingMemory::new(name, fd)?
            },
            filter: {
                let (name, fd) = get(names::FILTER)?;
                FilterMemory::new(name, fd)?
            },
            next_hops: table!(names::NEXT_HOPS),
            routes: table!(names::ROUTES),
            vlans: table!(names::VLANS),
            flows: table!(names::FLOWS),
            returns: table!(names::RETURNS),
            return_flows: table!(names::RETURN_FLOWS),
            nat_flows: table!(names::NAT_FLOWS),
            nat_replies: table!(names::NAT_REPLIES),
            nat_sources: table!(names::NAT_SOURCES),
            nat_cursors: per_cpu!(names::NAT_CURSORS),
            fragments: table!(names::FRAGMENTS),
            quic_ids: table!(names::QUIC_IDS),
            lists: table!(names::LISTS),
            clients: table!(names::CLIENTS),
            service_limits: table!(names::SERVICE_LIMITS),
            settings: table!(names::SETTINGS),
            reasons: per_cpu!(names::REASONS),
            service_traffic: per_cpu!(names::SERVICE_TRAFFIC),
            backend_traffic: per_cpu!(names::BACKEND_TRAFFIC),
            record_limit: per_cpu!(names::RECORD_LIMIT),
            capture: table!(names::CAPTURE),
            captured: {
                let (name, fd) = get(names::CAPTURED)?;
                Opaque::new(name, fd)?
            },
            stages: table!(names::STAGES),
            steer: table!(names::STEER),
            sockets: table!(names::SOCKETS),
            taken: table!(names::TAKEN),
            leases: table!(names::LEASES),
            leased: table!(names::LEASED),
            links: table!(names::LINKS),
            linked: table!(names::LINKED),
            hears: table!(names::HEARS),
            adverts: {
                let (name, fd) = get(names::ADVERTS)?;
                Opaque::new(name, fd)?
            },
        })
    }

    /// Every map.
    pub(crate) fn handles(&self) -> [Handle<'_>; names::PINNED.len()] {
        fn of<K: crate::sys::Plain, V: crate::sys::Plain>(table: &Table<K, V>) -> Handle<'_> {
            Handle {
                name: table.name(),
                fd: table.as_fd(),
                shape: table.shape(),
            }
        }
        [
            of(&self.services),
            of(&self.backends),
            of(self.rings.table()),
            self.filter.map().handle(),
            of(&self.next_hops),
            of(&self.routes),
            of(&self.vlans),
            of(&self.flows),
            of(&self.returns),
            of(&self.return_flows),
            of(&self.nat_flows),
            of(&self.nat_replies),
            of(&self.nat_sources),
            of(self.nat_cursors.table()),
            of(&self.fragments),
            of(&self.quic_ids),
            of(&self.lists),
            of(&self.clients),
            of(&self.service_limits),
            of(&self.settings),
            of(self.reasons.table()),
            of(self.service_traffic.table()),
            of(self.backend_traffic.table()),
            of(self.record_limit.table()),
            of(&self.capture),
            self.captured.handle(),
            of(&self.stages),
            of(&self.steer),
            of(&self.sockets),
            of(&self.taken),
            of(&self.leases),
            of(&self.leased),
            of(&self.links),
            of(&self.linked),
            of(&self.hears),
            self.adverts.handle(),
        ]
    }

    /// CPUs that the machine can have.
    pub(crate) fn cpus(&self) -> u32 {
        u32::try_from(self.reasons.cpus()).unwrap_or(u32::MAX)
    }

    /// Carries one operation out.
    pub(crate) fn perform(&self, op: &Op) -> Result<(), MapError> {
        match op {
            Op::ForgetFlows(indices) => {
                self.flows
                    .delete_where(|_, state| indices.contains(&state.backend))?;
                self.return_flows
                    .delete_where(|_, vip| indices.contains(&vip.backend))?;
                self.nat_flows
                    .delete_where(|_, flow| indices.contains(&flow.backend))?;
                self.nat_replies
                    .delete_where(|_, reply| indices.contains(&reply.backend))?;
                self.fragments
                    .delete_where(|_, state| indices.contains(&state.backend))?;
            }
            Op::SetFilter(bits) => bits.iter().for_each(|&bit| self.filter.set(bit)),
            Op::ClearFilter(bits) => bits.iter().for_each(|&bit| self.filter.clear(bit)),
            Op::ResetService(id) => {
                self.service_traffic.clear(*id)?;
                self.clients.delete_where(|key, _| key.service == *id)?;
            }
            Op::ResetBackend(index) => self.backend_traffic.clear(*index)?,
            Op::SetBackend(index, value) => self.backends.set(index, value)?,
            Op::SetReturn(key, value) => self.returns.set(key, value)?,
            Op::SetQuic(key, index) => self.quic_ids.set(key, index)?,
            Op::SetSource(index, value) => self.nat_sources.set(index, value)?,
            Op::SetLimits(id, value) => self.service_limits.set(id, value)?,
            Op::WriteRing(area, slots) => self.rings.write(area.offset, slots),
            Op::SettleSlots(slots) => {
                for (index, slot) in slots {
                    self.rings.write(*index, std::slice::from_ref(slot));
                }
            }
            Op::SetService(key, value) => {
                self.services.set(key, value)?;
                self.filter.next_epoch();
            }
            Op::DeleteService(key) => {
                self.services.delete(key)?;
                self.filter.next_epoch();
            }
            Op::DeleteReturn(key) => drop(self.returns.delete(key)?),
            Op::DeleteQuic(key) => drop(self.quic_ids.delete(key)?),
        }
        Ok(())
    }

    /// What the maps hold, read through the numbers that the state file says were given. None if they do not belong
    /// together: then nobody can tell which backend a number stands for.
    pub(crate) fn read(&self, assignment: Assignment, cpus: u32) -> Result<Option<State>, MapError> {
        let mut state = State {
            assignment,
            ..State::default()
        };
        let mut strange = false;
        self.services
            .each(|key, value| match listen_key(key.addr, key.port_proto) {
                Some(listen) => drop(state.services.insert(listen, *value)),
                None if *key == address_key(key.addr.to_ip()) => {
                    state.addresses.insert(key.addr.to_ip(), *value);
                }
                None => strange = true,
            })?;
        self.returns
            .each(|key, value| match listen_key(key.addr, key.port_proto) {
                Some(from) => drop(state.returns.insert(from, *value)),
                None => strange = true,
            })?;
        for index in 0..self.backends.shape().max_entries {
            if let Some(value) = self
                .backends
                .get(&index)?
                .filter(|value| *value != Backend::default())
            {
                if value.next_hop != 0 {
                    state.next_hops.insert(value.addr.to_ip(), value.next_hop);
                }
                state.backends.insert(index, value);
            }
        }
        self.quic_ids.each(|key, index| {
            state.quic_ids.insert((*key).into(), *index);
        })?;
        for id in 0..self.service_limits.shape().max_entries {
            let limits = self.service_limits.get(&id)?;
            if let Some(limits) = limits.filter(|limits| *limits != ServiceLimits::default()) {
                state.limits.insert(id, limits);
            }
        }
        for area in source_areas(&state, cpus) {
            for index in area.offset..area.offset.saturating_add(area.len) {
                if let Some(source) = self.nat_sources.get(&index)? {
                    state.sources.insert(index, source);
                }
            }
        }
        state.filter = self.filter.bits();
        Ok((!strange && self.belong_together(&state)).then_some(state))
    }

    fn belong_together(&self, state: &State) -> bool {
        let ids: BTreeMap<u32, _> = state
            .assignment
            .services
            .all()
            .map(|(name, id)| (id, name))
            .collect();
        let indices: BTreeMap<u32, _> = state
            .assignment
            .backends
            .all()
            .map(|(key, index)| (index, key))
            .collect();
        let is_index = |index: u32| index == 0 || indices.contains_key(&index);

        let backends = state.backends.iter().all(|(index, value)| {
            indices
                .get(index)
                .is_some_and(|key| key.address.ip().to_canonical() == value.addr.to_ip())
        });
        let returns = state
            .returns
            .values()
            .all(|target| ids.contains_key(&target.service) && is_index(target.backend));
        let slots = self.rings.table().shape().max_entries;
        let mut areas = std::collections::BTreeSet::new();
        let services = state.services.values().all(|service| {
            areas.insert(Area {
                offset: service.ring_offset,
                len: service.ring_len,
            });
            let end = service.ring_offset.checked_add(service.ring_len);
            ids.contains_key(&service.id)
                && service.action <= action::IPIP
                && end.is_some_and(|end| end <= slots)
        });
        let addresses = state
            .addresses
            .values()
            .all(|entry| entry.action == action::ADDRESS);
        let quic_ids = state
            .quic_ids
            .iter()
            .all(|(name, index)| ids.contains_key(&name.service) && indices.contains_key(index));
        backends
            && returns
            && services
            && addresses
            && quic_ids
            && areas.iter().all(|area| {
                let ring = self.rings.read(area.offset, area.len);
                ring.iter()
                    .all(|slot| is_index(slot.current.into()) && is_index(slot.previous.into()))
            })
    }

    /// Empties everything that names a number. Services go first: packets then pass to the stack instead of meeting
    /// half a table.
    pub(crate) fn clear(&self) -> Result<(), MapError> {
        self.services.delete_where(|_, _| true)?;
        self.filter.next_epoch();
        self.returns.delete_where(|_, _| true)?;
        self.quic_ids.delete_where(|_, _| true)?;
        self.flows.delete_where(|_, _| true)?;
        self.return_flows.delete_where(|_, _| true)?;
        self.nat_flows.delete_where(|_, _| true)?;
        self.nat_replies.delete_where(|_, _| true)?;
        self.fragments.delete_where(|_, _| true)?;
        self.clients.delete_where(|_, _| true)?;
        self.filter
            .bits()
            .into_iter()
            .for_each(|bit| self.filter.clear(bit));
        for id in 0..self.service_limits.shape().max_entries {
            self.service_limits.set(&id, &ServiceLimits::default())?;
        }
        for index in 0..self.backends.shape().max_entries {
            if self
                .backends
                .get(&index)?
                .is_some_and(|value| value != Backend::default())
            {
                self.backends.set(&index, &Backend::default())?;
            }
        }
        for index in 0..self.backend_traffic.table().shape().max_entries {
            self.backend_traffic.clear(index)?;
        }
        for id in 0..self.service_traffic.table().shape().max_entries {
            self.service_traffic.clear(id)?;
        }
        Ok(())
    }
}

/// A key's meaning; None if weir never writes such a key.
pub(crate) fn listen_key(addr: Addr16, port_proto: u32) -> Option<ListenKey> {
    // The inverse of `port_proto`: the port as loaded from the packet in the low half, the protocol above it.
    let port = u16::from_be(port_proto as u16);
    let protocol = match port_proto >> 16 {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(ListenKey {
        addr: addr.to_ip(),
        port,
        protocol,
        scope: Scope::Address,
        interface: None,
    })
}

#[cfg(test)]
mod tests {
    use weir_abi::Addr16;

    use super::*;
    use crate::changes::service_key;

    #[test]
    fn keys_survive_the_way_into_the_map_and_back() {
        for addr in ["192.0.2.10", "2001:db8::10"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for port in [0, 1, 53, 8080, u16::MAX] {
                    let key = ListenKey {
                        addr: addr.parse().unwrap(),
                        port,
                        protocol,
                        scope: Scope::Address,
                        interface: None,
                    };
                    let raw = service_key(&key);
                    assert_eq!(listen_key(raw.addr, raw.port_proto), Some(key));
                }
            }
        }
        assert_eq!(listen_key(Addr16::default(), 1), None, "no protocol");
        assert_eq!(
            listen_key(Addr16::default(), 6 << 16 | 1 << 24),
            None,
            "rest not zero"
        );
    }
}
