//! Backends: what `BACKENDS`, `RETURNS` and `QUIC_IDS` shall hold.
//!
//! Knows which replies can be told apart by where they come from alone, and which need their flow remembered.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use weir_abi::{
    Addr16, Backend, ReturnTarget,
    maps::{backend, returns},
};
use weir_core::{
    ids::{BackendKey, ListenKey, Scope},
    plan::Forward,
};

use super::{Family, QuicName, State, canonical, check::Checked};
use crate::{
    WantedForward,
    assign::{Assignment, Numbers},
    error::Error,
};

/// What is to be written about backends.
#[derive(Default)]
pub(super) struct Endpoints {
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) returns: BTreeMap<ListenKey, ReturnTarget>,
    pub(super) quic_ids: BTreeMap<QuicName, u32>,
}

/// Who may have sent the replies from one address and port.
#[derive(Default)]
struct Owners {
    targets: Vec<ReturnTarget>,
    /// Backends of which replies may come from here by way of an every-port service.
    others: Vec<u32>,
    /// The port of the VIP cannot be told from the reply.
    unclear: bool,
}

pub(super) fn endpoints(
    old: &State,
    services: &[Checked<'_>],
    assignment: &Assignment,
) -> Result<Endpoints, Error> {
    let mut out = Endpoints::default();
    let mut owners: BTreeMap<ListenKey, Owners> = BTreeMap::new();
    for service in services {
        let (Some(forward), Some(id)) = (service.forward(), assignment.services.get(service.name)) else {
            continue;
        };
        for wanted in &forward.backends {
            let Some(index) = assignment.backends.get(&wanted.key) else {
                continue;
            };
            let address = canonical(wanted.key.address);
            let entry = out.backends.entry(index).or_insert_with(|| Backend {
                addr: Addr16::from(address.ip()),
                port: address.port().to_be().into(),
                next_hop: old.next_hops.get(&address.ip()).copied().unwrap_or_default(),
                ..Backend::default()
            });
            if wanted.alive {
                entry.flags |= backend::ALIVE;
            }
            if let Some(quic) = wanted.quic_id {
                let name = QuicName {
                    service: id,
                    len: quic.len.into(),
                    id: quic.value,
                };
                match out.quic_ids.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(index)),
                    Entry::Occupied(taken) if *taken.get() == index => {}
                    Entry::Occupied(_) => {
                        return Err(Error::QuicId {
                            service: service.name.clone(),
                        });
                    }
                }
            }
        }
        if forward.mode == Forward::Nat {
            own(&mut owners, service, forward, id, &assignment.backends);
        }
    }
    every_port(&mut owners, services);
    for (
        from,
        Owners {
            targets,
            others,
            unclear,
        },
    ) in owners
    {
        let shared = unclear || targets.len() > 1;
        if shared {
            for index in targets.iter().map(|target| target.backend).chain(others) {
                if let Some(entry) = out.backends.get_mut(&index) {
                    entry.flags |= backend::SHARED;
                }
            }
        }
        // Which of several it names means nothing to the programs; the one of before means one write less.
        let before = old
            .returns
            .get(&from)
            .map(|target| ReturnTarget { flags: 0, ..*target });
        let same = before.filter(|target| targets.contains(target));
        if let Some(target) = same.or_else(|| targets.first().copied()) {
            let flags = if shared { returns::SHARED } else { 0 };
            out.returns.insert(from, ReturnTarget { flags, ..target });
        }
    }
    Ok(out)
}

/// Notes where replies to the service's clients come from. Only those by `nat` come here to be told apart: `dsr` and
/// `ipip` answer the client themselves, and by `full-nat` the flow is remembered anyway.
fn own(
    owners: &mut BTreeMap<ListenKey, Owners>,
    service: &Checked<'_>,
    forward: &WantedForward,
    id: u32,
    numbers: &Numbers<BackendKey>,
) {
    for wanted in &forward.backends {
        let Some(index) = numbers.get(&wanted.key) else {
            continue;
        };
        let address = canonical(wanted.key.address);
        let family = Family::of(address.ip());
        for key in service.keys.iter().filter(|key| Family::of(key.addr) == family) {
            let port = if address.port() == 0 {
                key.port
            } else {
                address.port()
            };
            let target = ReturnTarget {
                vip: Addr16::from(key.addr),
                port: u32::from(key.port.to_be()) | u32::from(forward.mss.unwrap_or(0)) << 16,
                service: id,
                backend: index,
                flags: 0,
            };
            let from = ListenKey {
                addr: address.ip(),
                port,
                protocol: key.protocol,
                scope: Scope::Address,
                interface: None,
            };
            let owners = owners.entry(from).or_default();
            // Every port of the VIP leads to one of the backend: which it was, only the flow knows.
            owners.unclear |= key.port == 0 && port != 0;
            if !owners.targets.contains(&target) {
                owners.targets.push(target);
            }
        }
    }
}

/// A backend whose every port serves one VIP may serve another by a port of its own: replies from that port are found
/// under the port, though they may belong to the former.
fn every_port(owners: &mut BTreeMap<ListenKey, Owners>, services: &[Checked<'_>]) {
    let every: Vec<_> = owners
        .iter()
        .filter(|(from, _)| from.port == 0)
        .map(|(from, owners)| (*from, owners.targets.clone()))
        .collect();
    if every.is_empty() {
        return;
    }
    let listened: BTreeSet<_> = services.iter().flat_map(|service| &service.keys).collect();
    for (all, targets) in every {
        let first = ListenKey { port: 1, ..all };
        let of_address = ListenKey {
            port: u16::MAX,
            ..all
        };
        // Keys sort by address, then port, then protocol.
        for (from, owners) in owners.range_mut(first..=of_address) {
            for target in targets.iter().filter(|_| from.protocol == all.protocol) {
                let vip = ListenKey {
                    addr: target.vip.to_ip(),
                    ..*from
                };
                // A port with a service of its own is none that every-port flows go to.
                if !listened.contains(&vip) {
                    owners.unclear = true;
                    owners.others.push(target.backend);
                }
            }
        }
    }
}
