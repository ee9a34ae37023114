//! The embedded eBPF object: its bytes, and what maps it asks for.
//!
//! `build.rs` puts it in. Loading it is `datapath`'s.

use std::collections::BTreeMap;

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

/// How many entries each map shall have that the configuration sizes.
pub(crate) fn max_entries(capacities: &Capacities) -> [(&'static str, u32); 12] {
    use weir_abi::names;
    let Capacities {
        service_keys,
        services,
        backends,
        ring_slots,
        flows,
        returns,
        return_flows,
        sockets,
        events,
    } = *capacities;
    // Index 0 of BACKENDS means "no backend": one more than there can be backends. Slots name them in 16 bits.
    let backends = backends.saturating_add(1).min(1 << 16);
    [
        (names::SERVICES, service_keys),
        (names::BACKENDS, backends),
        (names::RINGS, ring_slots),
        (names::FLOWS, flows),
        (names::RETURNS, returns),
        (names::RETURN_FLOWS, return_flows),
        (names::SERVICE_TRAFFIC, services),
        (names::BACKEND_TRAFFIC, backends),
        (names::STEER, sockets),
        (names::SOCKETS, sockets),
        (names::EVENTS, events),
        (names::REASONS, weir_abi::REASON_COUNT as u32),
    ]
}

/// What each map must be: as the object declares it, with the sizes of the configuration. `id` is 0 in all.
///
/// # Errors
/// When the object cannot be read, or lacks a map.
pub(crate) fn shapes(
    object: &[u8],
    capacities: &Capacities,
) -> Result<BTreeMap<String, MapShape>, OpenError> {
    let parsed = aya_obj::Object::parse(object).map_err(|e| OpenError::Object(e.to_string()))?;
    let mut shapes: BTreeMap<String, MapShape> = parsed
        .maps
        .iter()
        .map(|(name, map)| {
            let shape = MapShape {
                kind: map.map_type(),
                id: 0,
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: map.max_entries(),
                flags: map.map_flags(),
            };
            (name.clone(), shape)
        })
        .collect();
    for (name, entries) in max_entries(capacities) {
        let shape = shapes
            .get_mut(name)
            .ok_or_else(|| OpenError::Object(format!("it has no map {name}")))?;
        shape.max_entries = entries;
    }
    for name in weir_abi::names::PINNED {
        if !shapes.contains_key(name) {
            return Err(OpenError::Object(format!("it has no map {name}")));
        }
    }
    Ok(shapes)
}
