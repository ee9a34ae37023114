//! The kind, sizes and default capacity of every map: one table for the programs that declare them, the loader that may
//! resize them, and whoever verifies a pin before it is reused.

use core::mem::size_of;

use crate::{
    Backend, FlowKey, FlowState, NeighborEvent, REASON_COUNT, RecordLimit, ReturnKey, ReturnTarget,
    ReturnVip, Service, ServiceKey, Settings, Slot, Traffic, hash::fnv, maps::limit, names,
};

/// Slots of a ring unless configured otherwise: a prime, about 650 for each of 100 backends.
pub const RING_SLOTS: u32 = 65_537;

/// Map types as `enum bpf_map_type` of the kernel numbers them.
pub mod kind {
    /// `BPF_MAP_TYPE_HASH`
    pub const HASH: u32 = 1;
    /// `BPF_MAP_TYPE_ARRAY`
    pub const ARRAY: u32 = 2;
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    pub const PERCPU_ARRAY: u32 = 6;
    /// `BPF_MAP_TYPE_LRU_HASH`
    pub const LRU_HASH: u32 = 9;
    /// `BPF_MAP_TYPE_SOCKMAP`
    pub const SOCKMAP: u32 = 15;
    /// `BPF_MAP_TYPE_RINGBUF`
    pub const RINGBUF: u32 = 27;
}

/// Map flags of the kernel.
pub mod flag {
    /// `BPF_F_MMAPABLE`
    pub const MMAPABLE: u32 = 1 << 10;
}

/// Default capacities. The loader may set others, but for those that the layout fixes ([`MapSpec::resizable`]).
pub mod capacity {
    use super::RING_SLOTS;

    /// Addresses with a port and a protocol. Allocated in advance, 112 bytes each.
    pub const SERVICES: u32 = 4096;
    /// Backends of all pools, index 0 unused. At most 65 536: a slot holds the index in 16 bits.
    pub const BACKENDS: u32 = 4096;
    /// Slots of all rings, 8 bytes each: 16 rings of the default size, 8 MiB.
    pub const RINGS: u32 = 16 * RING_SLOTS;
    /// Flows remembered, the least recently used given up first. Allocated in
    /// advance, 112 bytes each: 28 MiB.
    pub const FLOWS: u32 = 262_144;
    /// Backend addresses that answer. Allocated in advance, 120 bytes each.
    pub const RETURNS: u32 = 8192;
    /// Flows of shared backends. Allocated in advance, 136 bytes each: 8.5 MiB.
    pub const RETURN_FLOWS: u32 = 65_536;
    /// Services counted.
    pub const SERVICE_TRAFFIC: u32 = 512;
    /// Addresses with a port that sk_lookup steers.
    pub const STEER: u32 = 4096;
    /// Listening sockets.
    pub const SOCKETS: u32 = 4096;
    /// Bytes of the ring of neighbor events: 2048 events.
    pub const EVENTS: u32 = 64 * 1024;
    /// Next hops whose resolution was asked for a short while ago.
    pub const NEIGHBORS: u32 = 1024;
}

/// What a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Its name ([`names`]).
    pub name: &'static str,
    /// Its type ([`kind`]).
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries by default; bytes for a ring buffer.
    pub max_entries: u32,
    /// Flags it is created with ([`flag`]).
    pub flags: u32,
    /// Whether the loader may choose another capacity.
    pub resizable: bool,
}

impl MapSpec {
    const fn new<K, V>(name: &'static str, kind: u32, max_entries: u32) -> Self {
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        Self {
            name,
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            resizable: true,
        }
    }

    const fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    const fn fixed(self) -> Self {
        Self {
            resizable: false,
            ..self
        }
    }

    /// The spec of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        MAPS.iter().find(|spec| spec.name == name)
    }
}

/// Every map of the programs, in the order in which they are created.
pub const MAPS: [MapSpec; 15] = [
    MapSpec::new::<ServiceKey, Service>(names::SERVICES, kind::HASH, capacity::SERVICES),
    MapSpec::new::<u32, Backend>(names::BACKENDS, kind::ARRAY, capacity::BACKENDS),
    MapSpec::new::<u32, Slot>(names::RINGS, kind::ARRAY, capacity::RINGS).flags(flag::MMAPABLE),
    MapSpec::new::<FlowKey, FlowState>(names::FLOWS, kind::LRU_HASH, capacity::FLOWS),
    MapSpec::new::<ReturnKey, ReturnTarget>(names::RETURNS, kind::HASH, capacity::RETURNS),
    MapSpec::new::<FlowKey, ReturnVip>(names::RETURN_FLOWS, kind::LRU_HASH, capacity::RETURN_FLOWS),
    MapSpec::new::<u32, Settings>(names::SETTINGS, kind::ARRAY, 1).fixed(),
    MapSpec::new::<u32, u64>(names::REASONS, kind::PERCPU_ARRAY, REASON_COUNT as u32).fixed(),
    MapSpec::new::<u32, Traffic>(
        names::SERVICE_TRAFFIC,
        kind::PERCPU_ARRAY,
        capacity::SERVICE_TRAFFIC,
    ),
    MapSpec::new::<u32, Traffic>(names::BACKEND_TRAFFIC, kind::PERCPU_ARRAY, capacity::BACKENDS),
    MapSpec::new::<u32, RecordLimit>(names::RECORD_LIMIT, kind::PERCPU_ARRAY, limit::COUNT).fixed(),
    MapSpec::new::<ServiceKey, u32>(names::STEER, kind::HASH, capacity::STEER),
    MapSpec::new::<u32, u32>(names::SOCKETS, kind::SOCKMAP, capacity::SOCKETS),
    MapSpec::new::<(), ()>(names::EVENTS, kind::RINGBUF, capacity::EVENTS),
    MapSpec::new::<NeighborEvent, u32>(names::NEIGHBORS, kind::LRU_HASH, capacity::NEIGHBORS),
];

pub(crate) const fn fold(mut hash: u64) -> u64 {
    let mut i = 0;
    while i < MAPS.len() {
        let MapSpec {
            name,
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
            resizable,
        } = MAPS[i];
        hash = fnv(hash, name.as_bytes());
        // A capacity that the loader may choose is no part of the layout.
        let entries = if resizable { 0 } else { max_entries };
        let words = [kind, key_size, value_size, flags, entries];
        let mut word = 0;
        while word < words.len() {
            hash = fnv(hash, &words[word].to_le_bytes());
            word += 1;
        }
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_maps_come_first_and_in_their_order() {
        for (spec, name) in MAPS.iter().zip(names::PINNED) {
            assert_eq!(spec.name, name);
        }
        let rest = &MAPS[names::PINNED.len()..];
        assert!(rest.iter().all(|spec| !names::PINNED.contains(&spec.name)));
        assert_eq!(
            MapSpec::named(names::RINGS).map(|spec| spec.flags),
            Some(flag::MMAPABLE)
        );
        assert_eq!(MapSpec::named("rings"), None);
    }
}
