//! Whom the numbers in the maps stand for, in the words that boxes share: addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weir_abi::{Addr16, NatSource, maps::action};

use crate::{Wanted, WantedAction, changes::State};

/// What the maps were last made of. A flow is told and taken by it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct View {
    /// By service id.
    services: BTreeMap<u32, Members>,
    /// By backend index.
    backends: BTreeMap<u32, SocketAddr>,
    /// Where the rings are and how often each has changed, so that it shows when one does.
    rings: BTreeSet<(u32, u32, u32, u32)>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Members {
    /// Indices of its backends.
    backends: BTreeMap<SocketAddr, u32>,
    /// `full-nat`: its blocks of ports.
    sources: BTreeSet<Block>,
}

/// An entry of `NAT_SOURCES`, as it sorts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Block {
    addr: [u32; 4],
    first: u32,
    count: u32,
}

impl From<NatSource> for Block {
    fn from(NatSource { addr, first, count }: NatSource) -> Self {
        Self {
            addr: addr.words,
            first,
            count,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl View {
    pub(crate) fn new(state: &State, wanted: &Wanted, cpus: u32) -> Self {
        let mut view = Self {
            services: BTreeMap::new(),
            backends: state
                .assignment
                .backends
                .live()
                .map(|(key, index)| (index, canonical(key.address)))
                .collect(),
            rings: { state.services.values() }
                .map(|service| {
                    (
                        service.id,
                        service.ring_offset,
                        service.ring_len,
                        service.generation,
                    )
                })
                .collect(),
        };
        for service in &wanted.services {
            let (WantedAction::Forward(forward), Some(id)) =
                (&service.action, state.assignment.services.get(&service.name))
            else {
                continue;
            };
            let members = view.services.entry(id).or_default();
            let indices = &state.assignment.backends;
            members.backends = forward
                .backends
                .iter()
                .filter_map(|backend| Some((canonical(backend.key.address), indices.get(&backend.key)?)))
                .collect();
        }
        for service in state.services.values() {
            if service.action != action::FULL_NAT {
                continue;
            }
            let Some(members) = view.services.get_mut(&service.id) else {
                continue;
            };
            let len = service.source_count.saturating_mul(cpus);
            let area = service.sources..service.sources.saturating_add(len);
            let blocks = state.sources.range(area).map(|(_, source)| Block::from(*source));
            members.sources.extend(blocks);
        }
        view
    }

    /// The address of the backend with this index.
    pub(super) fn backend(&self, index: u32) -> Option<SocketAddr> {
        self.backends.get(&index).copied()
    }

    /// Whether there is a service of this id that forwards.
    pub(super) fn has(&self, service: u32) -> bool {
        self.services.contains_key(&service)
    }

    /// The index of a service's backend.
    pub(super) fn index(&self, service: u32, backend: SocketAddr) -> Option<u32> {
        let members = self.services.get(&service)?;
        members.backends.get(&canonical(backend)).copied()
    }

    /// Whether a service has an address and port as a source, whichever CPU's.
    pub(super) fn has_source(&self, service: u32, source: SocketAddr) -> bool {
        let addr = Addr16::from(source.ip().to_canonical()).words;
        let port = u32::from(source.port());
        self.services.get(&service).is_some_and(|members| {
            members.sources.iter().any(|block| {
                block.addr == addr && (block.first..block.first.saturating_add(block.count)).contains(&port)
            })
        })
    }
}
