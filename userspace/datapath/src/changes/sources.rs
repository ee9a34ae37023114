//! Source addresses of `full-nat`: which entries of `NAT_SOURCES` hold whose blocks of ports.
//!
//! Entries that a service names are never changed: other addresses or ports are other entries, beside the old ones, which
//! rest until the next plan. Whoever wants the same addresses and ports shares them. What the map holds says what is
//! there, so a successor finds it without a file.

use std::collections::BTreeSet;

use weir_abi::{Addr16, NatSource, maps::action};
use weir_core::ids::ServiceName;

use super::{Family, Limits, Op, State};
use crate::{
    WantedSources,
    error::Error,
    rings::{Area, Space},
};

/// The entries that a state's services use.
pub(crate) fn areas(state: &State, cpus: u32) -> BTreeSet<Area> {
    let services = state.services.values();
    services
        .filter(|service| service.action == action::FULL_NAT && service.source_count != 0)
        .map(|service| Area {
            offset: service.sources,
            len: service.source_count.saturating_mul(cpus),
        })
        .collect()
}

/// The sources of one plan.
pub(super) struct Sources<'a> {
    limits: &'a Limits,
    space: Space,
    /// What is there, or will be.
    known: Vec<(Vec<NatSource>, Area)>,
    pub(super) writes: Vec<Op>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(old: &State, limits: &'a Limits) -> Self {
        let used = areas(old, limits.cpus);
        let read = |area: &Area| {
            let entries = area.offset..area.offset.saturating_add(area.len);
            let entries = entries.map(|index| old.sources.get(&index).copied().unwrap_or_default());
            (entries.collect(), *area)
        };
        Self {
            limits,
            known: used.iter().map(read).collect(),
            space: Space::new(
                limits.sources,
                used.iter().copied().chain(old.sources_leaving.iter().copied()),
            ),
            writes: Vec::new(),
        }
    }

    /// The first entry for one family, and how many each CPU has.
    pub(super) fn of(
        &mut self,
        service: &ServiceName,
        wanted: Option<&WantedSources>,
        family: Family,
    ) -> Result<(u32, u32), Error> {
        let addresses: Vec<_> = wanted
            .iter()
            .flat_map(|wanted| &wanted.ports.addresses)
            .map(std::net::IpAddr::to_canonical)
            .filter(|address| Family::of(*address) == family)
            .collect();
        let (Some(wanted), false) = (wanted, addresses.is_empty()) else {
            return Err(Error::NoSource {
                service: service.clone(),
                family: family.name(),
            });
        };
        let (first, last) = (wanted.ports.first, wanted.ports.last);
        let ports = (u32::from(last) + 1).saturating_sub(first.into());
        let Limits { cpus, present, .. } = *self.limits;
        if ports < present {
            return Err(Error::FewPorts {
                pool: wanted.pool.clone(),
                first,
                last,
                cpus: present,
            });
        }
        let mut entries = Vec::new();
        for cpu in 0..cpus {
            let (start, count) = slice(first, ports, cpu, present);
            entries.extend(addresses.iter().map(|&address| NatSource {
                addr: Addr16::from(address),
                first: start,
                count,
            }));
        }
        let count = addresses.len() as u32;
        if let Some((_, area)) = self.known.iter().find(|(known, _)| *known == entries) {
            return Ok((area.offset, count));
        }
        let need = entries.len() as u32;
        let area = self.space.take(need).ok_or_else(|| Error::Full {
            what: "source addresses of full-nat, times CPUs,",
            need: self.space.used() + u64::from(need),
            room: self.limits.sources.into(),
            mend: "take fewer addresses in pools.NAME.source",
        })?;
        let places = area.offset..;
        self.writes.extend(
            places
                .zip(&entries)
                .map(|(index, entry)| Op::SetSource(index, *entry)),
        );
        self.known.push((entries, area));
        Ok((area.offset, count))
    }

    /// What the entries in these areas hold.
    pub(super) fn held(&self, areas: &BTreeSet<Area>) -> impl Iterator<Item = (u32, NatSource)> {
        let known = self.known.iter().filter(|(_, area)| areas.contains(area));
        known.flat_map(|(entries, area)| (area.offset..).zip(entries.iter().copied()))
    }
}

/// The ports of one CPU: first, and how many. The slices of the first `cpus` are disjoint and leave none out; the first
/// ones have one more where it does not come out even. The others, which are not there, have none.
fn slice(first: u16, ports: u32, cpu: u32, cpus: u32) -> (u32, u32) {
    if cpu >= cpus {
        return (u32::from(first), 0);
    }
    let (each, more) = (ports / cpus.max(1), ports % cpus.max(1));
    (
        u32::from(first) + cpu * each + cpu.min(more),
        each + u32::from(cpu < more),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_belongs_to_one_cpu() {
        for (first, last, cpus) in [
            (1024_u16, 65_535_u16, 2),
            (1024, 1033, 3),
            (40_000, 40_000, 1),
            (1024, 1087, 64),
        ] {
            let ports = u32::from(last) + 1 - u32::from(first);
            let mut next = u32::from(first);
            for cpu in 0..cpus {
                let (start, count) = slice(first, ports, cpu, cpus);
                assert_eq!(start, next, "no gap, no overlap");
                assert!(count > 0);
                next = start + count;
            }
            assert_eq!(next, u32::from(last) + 1);
            assert_eq!(slice(first, ports, cpus, cpus).1, 0, "one that is not there");
        }
    }

    #[test]
    fn cpus_that_are_not_there_keep_no_ports() {
        let limits = Limits {
            service_keys: 1,
            services: 1,
            backends: 1,
            ring_slots: 1,
            returns: 1,
            quic_ids: 1,
            sources: 16,
            cpus: 8,
            present: 2,
            horizon: 60,
            hash_key: [1, 2],
        };
        let wanted = WantedSources {
            pool: weir_core::ids::PoolName::new("web"),
            ports: weir_core::plan::SourcePool {
                addresses: vec!["10.9.0.1".parse().unwrap()],
                first: 1024,
                last: 1033,
            },
        };
        let old = State::default();
        let mut sources = Sources::new(&old, &limits);
        let name = ServiceName::new("www");
        // The area has an entry for each CPU that may come.
        assert_eq!(sources.of(&name, Some(&wanted), Family::V4).unwrap(), (0, 1));
        let counts: Vec<Option<u32>> = sources
            .writes
            .iter()
            .map(|op| {
                if let Op::SetSource(_, source) = op {
                    Some(source.count)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(counts, [5, 5, 0, 0, 0, 0, 0, 0].map(Some));
        // Two CPUs need two ports, not eight.
        let few = |last| {
            let mut wanted = wanted.clone();
            wanted.ports.last = last;
            Sources::new(&old, &limits).of(&name, Some(&wanted), Family::V4)
        };
        assert!(few(1025).is_ok() && few(1024).is_err());
    }
}
