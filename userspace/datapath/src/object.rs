//! The embedded eBPF object, and what its maps must be.
//!
//! `build.rs` puts it in. Loading it is `datapath::load`'s.

use weir_abi::{MapSpec, names};

use crate::{Capacities, error::OpenError, sys::MapShape};

static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.o"));

/// Whether this binary holds the eBPF object.
pub fn is_embedded() -> bool {
    !EMBEDDED.is_empty()
}

/// The object.
///
/// # Errors
/// When the binary was built without it.
pub(crate) fn bytes() -> Result<&'static [u8], OpenError> {
    if is_embedded() {
        Ok(EMBEDDED)
    } else {
        Err(OpenError::NoObject)
    }
}

/// Next hops on the way to clients that there is room for.
const CLIENT_WAYS: u32 = 1024;

/// Entries of the maps whose capacity the configuration chooses.
pub(crate) fn max_entries(capacities: &Capacities) -> [(&'static str, u32); 20] {
    let Capacities {
        service_keys,
        services,
        backends,
        ring_slots,
        flows,
        returns,
        return_flows,
        nat_flows,
        fragments,
        lists,
        clients,
        sockets,
        events,
    } = *capacities;
    // Index 0 of BACKENDS means "no backend": one more than there can be backends. Slots name them in 16 bits.
    let backends = backends.saturating_add(1).min(1 << 16);
    [
        (names::SERVICES, service_keys),
        (names::BACKENDS, backends),
        (names::RINGS, ring_slots),
        // A way that changes is a new entry beside the old one; the rest is for ways to clients.
        (
            names::NEXT_HOPS,
            backends.saturating_mul(2).saturating_add(CLIENT_WAYS),
        ),
        (names::FLOWS, flows),
        (names::RETURNS, returns),
        (names::RETURN_FLOWS, return_flows),
        (names::NAT_FLOWS, nat_flows),
        (names::NAT_REPLIES, nat_flows),
        (names::NAT_CURSORS, services),
        (names::FRAGMENTS, fragments),
        (names::QUIC_IDS, backends),
        (names::LISTS, lists),
        (names::CLIENTS, clients),
        (names::SERVICE_LIMITS, services),
        (names::SERVICE_TRAFFIC, services),
        (names::BACKEND_TRAFFIC, backends),
        // One of each address besides that of each interface.
        (names::STEER, sockets.saturating_mul(2)),
        (names::SOCKETS, sockets),
        (names::EVENTS, events),
    ]
}

/// What a map must be: its spec, with the capacity of the configuration. `id` is 0. None for a name that is no map's.
pub(crate) fn shape(name: &str, capacities: &Capacities) -> Option<MapShape> {
    let &MapSpec {
        kind,
        key_size,
        value_size,
        max_entries: by_default,
        flags,
        ..
    } = MapSpec::named(name)?;
    let chosen = max_entries(capacities).into_iter().find(|(map, _)| *map == name);
    let max_entries = chosen.map_or(by_default, |(_, entries)| entries);
    Some(MapShape {
        kind,
        id: 0,
        key_size,
        value_size,
        max_entries,
        flags,
    })
}

#[cfg(test)]
mod tests {
    use weir_abi::MAPS;

    use super::*;

    #[test]
    fn every_capacity_belongs_to_a_map_that_may_have_one() {
        let capacities = Capacities::default();
        for (name, entries) in max_entries(&capacities) {
            assert!(MapSpec::named(name).is_some_and(|spec| spec.resizable), "{name}");
            assert_eq!(
                shape(name, &capacities).map(|shape| shape.max_entries),
                Some(entries)
            );
        }
        for spec in &MAPS {
            assert!(shape(spec.name, &capacities).is_some(), "{}", spec.name);
        }
        assert_eq!(shape("RING", &capacities), None);
    }

    #[test]
    fn no_more_backends_than_a_slot_can_name() {
        let capacities = Capacities {
            backends: u32::MAX,
            ..Capacities::default()
        };
        assert_eq!(
            shape(names::BACKENDS, &capacities).map(|shape| shape.max_entries),
            Some(1 << 16)
        );
    }
}
