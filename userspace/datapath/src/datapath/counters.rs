//! Reading: what the programs counted, and how full the maps are.

use std::{fs, os::fd::AsRawFd};

use weir_abi::{Note, Reason, Traffic, names};
use weir_core::ids::{BackendKey, ServiceName};

use super::Datapath;
use crate::{
    Wanted, capture,
    error::MapError,
    flows::{FlowView, Names},
    sweep::{Live, Sweeper},
    sync::{SyncTables, View},
    tables::Handle,
};

/// Packets by reason, and what was noted on the way, summed over all CPUs, since the maps were made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// One per reason: why a packet went where it went.
    pub reasons: Vec<(Reason, u64)>,
    /// One per note, counted beside the reasons.
    pub notes: Vec<(Note, u64)>,
}

/// How large and how full a map is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableUse {
    /// Its name.
    pub name: &'static str,
    /// Entries it has room for.
    pub capacity: u64,
    /// Entries in use, where that is known without reading the whole map.
    pub entries: Option<u64>,
    /// Bytes the kernel holds for it, where the kernel says so.
    pub bytes: Option<u64>,
}

impl Datapath {
    /// Packets by reason, and notes.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters, MapError> {
        let sum = |index| Ok::<u64, MapError>(self.tables.reasons.get(index)?.iter().sum());
        Ok(Counters {
            reasons: Reason::ALL
                .iter()
                .map(|&r| Ok((r, sum(r as u32)?)))
                .collect::<Result<_, MapError>>()?,
            notes: Note::ALL
                .iter()
                .map(|&n| Ok((n, sum(n.index())?)))
                .collect::<Result<_, MapError>>()?,
        })
    }

    /// Traffic of every service in the tables, summed over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn service_traffic(&self) -> Result<Vec<(ServiceName, Traffic)>, MapError> {
        let Some(state) = &self.state else {
            return Ok(Vec::new());
        };
        let services = state.assignment.services.live();
        services
            .map(|(name, id)| Ok((name.clone(), total(&self.tables.service_traffic.get(id)?))))
            .collect()
    }

    /// Traffic of every L4 backend in the tables, summed over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn backend_traffic(&self) -> Result<Vec<(BackendKey, Traffic)>, MapError> {
        let Some(state) = &self.state else {
            return Ok(Vec::new());
        };
        let backends = state.assignment.backends.live();
        backends
            .map(|(key, index)| Ok((key.clone(), total(&self.tables.backend_traffic.get(index)?))))
            .collect()
    }

    /// A look into the tables of flows, for another thread.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn flow_view(&self) -> Result<FlowView, MapError> {
        FlowView::new(&self.tables, self.names())
    }

    /// Whom the numbers in the maps stand for, those of the gone too as long as something may name them.
    pub(crate) fn names(&self) -> Names {
        self.state.as_ref().map_or_else(Names::default, |state| Names {
            services: state
                .assignment
                .services
                .all()
                .map(|(name, id)| (id, name.clone()))
                .collect(),
            backends: state
                .assignment
                .backends
                .all()
                .map(|(key, index)| (index, key.clone()))
                .collect(),
        })
    }

    /// One sweep of the tables of flows, to be made on another thread. None while it is not known what the maps hold. Also
    /// takes back what a capture that was killed has left.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated, or a map not be read.
    pub fn sweeper(&self) -> Result<Option<Sweeper>, MapError> {
        capture::end_stale(&self.tables.capture, &self.tables.settings, self.pins.maps_dir())?;
        let Some(state) = &self.state else {
            return Ok(None);
        };
        let live = Live {
            services: state.assignment.services.live().map(|(_, id)| id).collect(),
            backends: state.assignment.backends.live().map(|(_, index)| index).collect(),
            sources: state.sources.values().copied().collect(),
        };
        Sweeper::new(&self.tables, live).map(Some)
    }

    /// The tables of flows, for the thread that tells other boxes of them.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated, or the rings not be mapped.
    pub fn sync_tables(&self) -> Result<SyncTables, MapError> {
        SyncTables::new(&self.tables)
    }

    /// Whom the numbers in the maps stand for, after [`Self::reconcile`] with this desired state. None while it is not known
    /// what the maps hold.
    pub fn sync_view(&self, wanted: &Wanted) -> Option<View> {
        let state = self.state.as_ref()?;
        Some(View::new(state, wanted, self.limits.cpus))
    }

    /// Size and use of every map.
    pub fn tables(&self) -> Vec<TableUse> {
        self.tables
            .handles()
            .into_iter()
            .map(|handle| self.table_use(handle))
            .collect()
    }

    fn table_use(&self, Handle { name, fd, shape }: Handle<'_>) -> TableUse {
        let held = self.held.as_ref().and_then(|held| match name {
            names::NEXT_HOPS => Some(held.numbers.len() as u64),
            names::ROUTES => Some(held.routes.len() as u64),
            names::VLANS => Some(held.vlans.len() as u64),
            _ => None,
        });
        let entries = self.state.as_ref().and_then(|state| match name {
            names::SERVICES => Some((state.services.len() + state.addresses.len()) as u64),
            names::QUIC_IDS => Some(state.quic_ids.len() as u64),
            names::NAT_SOURCES => Some(state.sources.len() as u64),
            names::BACKENDS => Some(state.backends.len() as u64),
            names::RETURNS => Some(state.returns.len() as u64),
            names::RINGS => Some(crate::changes::slots_in_use(state)),
            names::STEER | names::SOCKETS => Some(self.steered.len() as u64),
            _ => None,
        });
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let bytes = info.ok().and_then(|text| memory(&text));
        TableUse {
            name,
            capacity: shape.max_entries.into(),
            entries: entries.or(held),
            bytes,
        }
    }
}

/// The line `memlock:\t1234` of a map's fdinfo.
fn memory(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

fn total(per_cpu: &[Traffic]) -> Traffic {
    per_cpu.iter().fold(Traffic::default(), |sum, one| Traffic {
        packets_in: sum.packets_in.wrapping_add(one.packets_in),
        bytes_in: sum.bytes_in.wrapping_add(one.bytes_in),
        packets_out: sum.packets_out.wrapping_add(one.packets_out),
        bytes_out: sum.bytes_out.wrapping_add(one.bytes_out),
        flows: sum.flows.wrapping_add(one.flows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_fdinfo() {
        assert_eq!(
            memory("pos:\t0\nmap_type:\t2\nmemlock:\t33558528\nmap_id:\t4\n"),
            Some(33_558_528)
        );
        assert_eq!(memory("pos:\t0\n"), None);
    }

    #[test]
    fn traffic_is_summed_over_cpus() {
        let one = Traffic {
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: 4,
            flows: 5,
        };
        let two = Traffic {
            packets_in: 10,
            bytes_in: 20,
            packets_out: 30,
            bytes_out: 40,
            flows: 50,
        };
        let sum = Traffic {
            packets_in: 11,
            bytes_in: 22,
            packets_out: 33,
            bytes_out: 44,
            flows: 55,
        };
        assert_eq!(total(&[one, two]), sum);
        assert_eq!(total(&[]), Traffic::default());
    }
}
