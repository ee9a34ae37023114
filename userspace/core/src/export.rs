//! Which addresses this box tells routing daemons of.
//!
//! Owns the rule alone. The routes are `weir-datapath`'s, and whether a service is up is the engine's word.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::plan::{ExportWhen, Listen, Plan, Service};

/// The addresses to be exported: virtual ones of services that are `up`, by the plan's `[export]`. None without it.
pub fn exported(plan: &Plan, up: impl Fn(&Service) -> bool) -> BTreeSet<IpAddr> {
    match &plan.export {
        Some(export) => among(
            plan.services
                .iter()
                .map(|service| (&*service.listen, up(service))),
            export.when,
        ),
        None => BTreeSet::new(),
    }
}

fn among<'s>(services: impl Iterator<Item = (&'s [Listen], bool)>, when: ExportWhen) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeMap<IpAddr, bool> = BTreeMap::new();
    for (listen, up) in services {
        for listen in listen.iter().filter(|listen| listen.is_virtual()) {
            let exported = addresses.entry(listen.addr).or_insert(up);
            match when {
                ExportWhen::Any => *exported |= up,
                ExportWhen::All => *exported &= up,
            }
        }
    }
    addresses.retain(|_, exported| *exported);
    addresses.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Protocol, Scope};

    #[test]
    fn addresses_by_what_their_services_can() {
        let services = [
            (&["192.0.2.1", "192.0.2.2"][..], true),
            (&["192.0.2.1", "2001:db8::1"], false),
            (&["2001:db8::1", "127.0.0.1", "::"], true),
            (&["192.0.2.3"], false),
        ]
        .map(|(addresses, up)| {
            let listen = |address: &&str| Listen {
                addr: address.parse().unwrap(),
                first: 80,
                last: 80,
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            };
            (addresses.iter().map(listen).collect::<Vec<_>>(), up)
        });
        let run = |when| {
            let services = services.iter().map(|(listen, up)| (&**listen, *up));
            let exported = among(services, when);
            exported.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(run(ExportWhen::Any), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(run(ExportWhen::All), ["192.0.2.2"]);
    }
}
