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
    Backend, FlowKey, FlowState, RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey,
    Settings, Traffic, maps::action, names,
};
use weir_core::ids::{ListenKey, Protocol};

use crate::{
    assign::Assignment,
    changes::{Op, State},
    error::{MapError, OpenError},
    rings::Area,
    sys::MapShape,
    table::{PerCpu, RingMemory, Table},
};

/// Every pinned map.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) services: Table<ServiceKey, Service>,
    pub(crate) backends: Table<u32, Backend>,
    pub(crate) rings: RingMemory,
    pub(crate) flows: Table<FlowKey, FlowState>,
    pub(crate) returns: Table<ReturnKey, ReturnTarget>,
    pub(crate) return_flows: Table<FlowKey, ReturnVip>,
    pub(crate) settings: Table<u32, Settings>,
    pub(crate) reasons: PerCpu<u64>,
    pub(crate) service_traffic: PerCpu<Traffic>,
    pub(crate) backend_traffic: PerCpu<Traffic>,
    pub(crate) record_limit: PerCpu<RecordLimit>,
    pub(crate) steer: Table<ServiceKey, u32>,
    pub(crate) sockets: Table<u32, u32>,
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
            flows: table!(names::FLOWS),
            returns: table!(names::RETURNS),
            return_flows: table!(names::RETURN_FLOWS),
            settings: table!(names::SETTINGS),
            reasons: per_cpu!(names::REASONS),
            service_traffic: per_cpu!(names::SERVICE_TRAFFIC),
            backend_traffic: per_cpu!(names::BACKEND_TRAFFIC),
            record_limit: per_cpu!(names::RECORD_LIMIT),
            steer: table!(names::STEER),
            sockets: table!(names::SOCKETS),
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
            of(&self.flows),
            of(&self.returns),
            of(&self.return_flows),
            of(&self.settings),
            of(self.reasons.table()),
            of(self.service_traffic.table()),
            of(self.backend_traffic.table()),
            of(self.record_limit.table()),
            of(&self.steer),
            of(&self.sockets),
        ]
    }

    /// Carries one operation out.
    pub(crate) fn perform(&self, op: &Op) -> Result<(), MapError> {
        match op {
            Op::ForgetFlows(indices) => {
                self.flows
                    .delete_where(|_, state| indices.contains(&state.backend))?;
                self.return_flows
                    .delete_where(|_, vip| indices.contains(&vip.backend))?;
            }
            Op::ResetService(id) => self.service_traffic.clear(*id)?,
            Op::ResetBackend(index) => self.backend_traffic.clear(*index)?,
            Op::SetBackend(index, value) => self.backends.set(index, value)?,
            Op::SetReturn(key, value) => self.returns.set(key, value)?,
            Op::WriteRing(area, slots) => self.rings.write(area.offset, slots),
            Op::SettleSlots(slots) => {
                for (index, slot) in slots {
                    self.rings.write(*index, std::slice::from_ref(slot));
                }
            }
            Op::SetService(key, value) => self.services.set(key, value)?,
            Op::DeleteService(key) => drop(self.services.delete(key)?),
            Op::DeleteReturn(key) => drop(self.returns.delete(key)?),
        }
        Ok(())
    }

    /// What the maps hold, read through the numbers that the state file says were given. None if they do not belong
    /// together: then nobody can tell which backend a number stands for.
    pub(crate) fn read(&self, assignment: Assignment) -> Result<Option<State>, MapError> {
        let mut state = State {
            assignment,
            ..State::default()
        };
        let mut strange = false;
        self.services
            .each(|key, value| match listen_key(key.addr, key.port_proto) {
                Some(listen) => drop(state.services.insert(listen, *value)),
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
                state.backends.insert(index, value);
            }
        }
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
                && (service.action == action::RELAY || service.action == action::NAT)
                && end.is_some_and(|end| end <= slots)
        });
        backends
            && returns
            && services
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
        self.returns.delete_where(|_, _| true)?;
        self.flows.delete_where(|_, _| true)?;
        self.return_flows.delete_where(|_, _| true)?;
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
pub(crate) fn listen_key(addr: weir_abi::Addr16, port_proto: u32) -> Option<ListenKey> {
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
                for port in [1, 53, 8080, u16::MAX] {
                    let key = ListenKey {
                        addr: addr.parse().unwrap(),
                        port,
                        protocol,
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
