//! The kind, sizes and default capacity of every map: one table for the programs that declare them, the loader that may
//! resize them, and whoever verifies a pin before it is reused.

use core::mem::size_of;

use crate::{
    Addr16, AdvertRecord, Backend, CaptureFilter, CaptureRecord, ClientKey, ClientState, FlowKey, FlowState,
    FragmentKey, FragmentState, GroupLink, HearKey, KnownService, LinkKey, ListEntry, NatFlow, NatReply,
    NatSource, NeighborEvent, NextHop, Prefix, QuicKey, REASON_COUNT, RecordLimit, ReturnKey, ReturnTarget,
    ReturnVip, Service, ServiceKey, ServiceLimits, Settings, Slot, SteerKey, Taken, Traffic, Vlan,
    hash::fnv,
    maps::{advert, capture, filter, known, lease, limit, link, stage},
    names,
};

/// Slots of a ring unless configured otherwise: a prime, about 650 for each of 100 backends.
pub const RING_SLOTS: u32 = 65_537;

/// Map types as `enum bpf_map_type` of the kernel numbers them.
pub mod kind {
    /// `BPF_MAP_TYPE_HASH`
    pub const HASH: u32 = 1;
    /// `BPF_MAP_TYPE_ARRAY`
    pub const ARRAY: u32 = 2;
    /// `BPF_MAP_TYPE_PROG_ARRAY`
    pub const PROG_ARRAY: u32 = 3;
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    pub const PERCPU_ARRAY: u32 = 6;
    /// `BPF_MAP_TYPE_LRU_HASH`
    pub const LRU_HASH: u32 = 9;
    /// `BPF_MAP_TYPE_LPM_TRIE`
    pub const LPM_TRIE: u32 = 11;
    /// `BPF_MAP_TYPE_SOCKMAP`
    pub const SOCKMAP: u32 = 15;
    /// `BPF_MAP_TYPE_RINGBUF`
    pub const RINGBUF: u32 = 27;
}

/// Map flags of the kernel.
pub mod flag {
    /// `BPF_F_NO_PREALLOC`
    pub const NO_PREALLOC: u32 = 1;
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
    /// Ways out of the box, index 0 unused.
    pub const NEXT_HOPS: u32 = 8192;
    /// Networks that clients are reached through.
    pub const ROUTES: u32 = 16_384;
    /// VLAN devices.
    pub const VLANS: u32 = 4096;
    /// Flows remembered. Allocated in advance, 128 bytes each: 32 MiB.
    pub const FLOWS: u32 = 262_144;
    /// Flows by `full-nat`, in each of the two tables. Allocated in advance, 128 and 168 bytes.
    pub const NAT_FLOWS: u32 = 65_536;
    /// Source addresses of `full-nat`, times CPUs.
    pub const NAT_SOURCES: u32 = 4096;
    /// Datagrams in fragments that are under way.
    pub const FRAGMENTS: u32 = 8192;
    /// QUIC server ids.
    pub const QUIC_IDS: u32 = 4096;
    /// Networks that are allowed or banned. Allocated as needed.
    pub const LISTS: u32 = 262_144;
    /// Networks of clients that are counted.
    pub const CLIENTS: u32 = 65_536;
    /// Bytes of the ring of captured packets.
    pub const CAPTURED: u32 = 4 << 20;
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
    /// Networks that connections are taken in for, and addresses of the box's own. Allocated as needed.
    pub const TAKEN: u32 = 16_384;
    /// Addresses of virtual routers.
    pub const LEASED: u32 = 4096;
    /// Interfaces with virtual routers, times the addresses that adverts come to there: the group's of both families, and own
    /// ones.
    pub const HEARS: u32 = 4096;
    /// Bytes of the ring of adverts: about 600 with one address each.
    pub const ADVERTS: u32 = 64 * 1024;
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

/// Bytes of `SCRATCH`: a captured packet with its record, and an advert with its own behind it.
pub const SCRATCH_BYTES: usize = SCRATCH_ADVERT_AT + size_of::<AdvertRecord>() + advert::MOST as usize;
/// The first of those bytes that are an advert's.
pub const SCRATCH_ADVERT_AT: usize = size_of::<CaptureRecord>() + capture::SNAP as usize;

/// Words of `PARKED`: for the packet, for a record that a program with a full stack writes to another map, and for what the
/// packet becomes by `full-nat`.
pub const PARKED_WORDS: usize = PARKED_NAT_AT + 8;
/// The first of those words that are for a record.
pub const PARKED_RECORD_AT: usize = 16;
/// The first of those words that are `full-nat`'s.
pub const PARKED_NAT_AT: usize = 32;

/// Every map of the programs, in the order in which they are created.
pub const MAPS: [MapSpec; 41] = [
    MapSpec::new::<ServiceKey, Service>(names::SERVICES, kind::HASH, capacity::SERVICES),
    MapSpec::new::<u32, Backend>(names::BACKENDS, kind::ARRAY, capacity::BACKENDS),
    MapSpec::new::<u32, Slot>(names::RINGS, kind::ARRAY, capacity::RINGS).flags(flag::MMAPABLE),
    MapSpec::new::<u32, [u64; filter::VALUE]>(names::FILTER, kind::ARRAY, 1)
        .flags(flag::MMAPABLE)
        .fixed(),
    MapSpec::new::<u32, NextHop>(names::NEXT_HOPS, kind::ARRAY, capacity::NEXT_HOPS),
    MapSpec::new::<Prefix, u32>(names::ROUTES, kind::LPM_TRIE, capacity::ROUTES).flags(flag::NO_PREALLOC),
    MapSpec::new::<u32, Vlan>(names::VLANS, kind::HASH, capacity::VLANS),
    MapSpec::new::<FlowKey, FlowState>(names::FLOWS, kind::HASH, capacity::FLOWS),
    MapSpec::new::<ReturnKey, ReturnTarget>(names::RETURNS, kind::HASH, capacity::RETURNS),
    MapSpec::new::<FlowKey, ReturnVip>(names::RETURN_FLOWS, kind::LRU_HASH, capacity::RETURN_FLOWS),
    MapSpec::new::<FlowKey, NatFlow>(names::NAT_FLOWS, kind::HASH, capacity::NAT_FLOWS),
    MapSpec::new::<FlowKey, NatReply>(names::NAT_REPLIES, kind::HASH, capacity::NAT_FLOWS),
    MapSpec::new::<u32, NatSource>(names::NAT_SOURCES, kind::ARRAY, capacity::NAT_SOURCES),
    MapSpec::new::<u32, u64>(names::NAT_CURSORS, kind::PERCPU_ARRAY, capacity::SERVICE_TRAFFIC),
    MapSpec::new::<FragmentKey, FragmentState>(names::FRAGMENTS, kind::LRU_HASH, capacity::FRAGMENTS),
    MapSpec::new::<QuicKey, u32>(names::QUIC_IDS, kind::HASH, capacity::QUIC_IDS),
    MapSpec::new::<Prefix, ListEntry>(names::LISTS, kind::LPM_TRIE, capacity::LISTS).flags(flag::NO_PREALLOC),
    MapSpec::new::<ClientKey, ClientState>(names::CLIENTS, kind::LRU_HASH, capacity::CLIENTS),
    MapSpec::new::<u32, ServiceLimits>(names::SERVICE_LIMITS, kind::ARRAY, capacity::SERVICE_TRAFFIC),
    MapSpec::new::<u32, Settings>(names::SETTINGS, kind::ARRAY, 1).fixed(),
    MapSpec::new::<u32, u64>(names::REASONS, kind::PERCPU_ARRAY, REASON_COUNT as u32).fixed(),
    MapSpec::new::<u32, Traffic>(
        names::SERVICE_TRAFFIC,
        kind::PERCPU_ARRAY,
        capacity::SERVICE_TRAFFIC,
    ),
    MapSpec::new::<u32, Traffic>(names::BACKEND_TRAFFIC, kind::PERCPU_ARRAY, capacity::BACKENDS),
    MapSpec::new::<u32, RecordLimit>(names::RECORD_LIMIT, kind::PERCPU_ARRAY, limit::COUNT).fixed(),
    MapSpec::new::<u32, CaptureFilter>(names::CAPTURE, kind::ARRAY, 1).fixed(),
    MapSpec::new::<(), ()>(names::CAPTURED, kind::RINGBUF, capacity::CAPTURED),
    MapSpec::new::<u32, u32>(names::STAGES, kind::PROG_ARRAY, stage::COUNT).fixed(),
    MapSpec::new::<SteerKey, u32>(names::STEER, kind::HASH, capacity::STEER),
    MapSpec::new::<u32, u32>(names::SOCKETS, kind::SOCKMAP, capacity::SOCKETS),
    MapSpec::new::<Prefix, Taken>(names::TAKEN, kind::LPM_TRIE, capacity::TAKEN).flags(flag::NO_PREALLOC),
    MapSpec::new::<u32, u64>(names::LEASES, kind::ARRAY, lease::SLOTS)
        .flags(flag::MMAPABLE)
        .fixed(),
    MapSpec::new::<Addr16, u32>(names::LEASED, kind::HASH, capacity::LEASED).fixed(),
    MapSpec::new::<u32, GroupLink>(names::LINKS, kind::ARRAY, link::COUNT).fixed(),
    MapSpec::new::<LinkKey, u32>(names::LINKED, kind::HASH, link::COUNT).fixed(),
    MapSpec::new::<HearKey, u32>(names::HEARS, kind::HASH, capacity::HEARS).fixed(),
    MapSpec::new::<(), ()>(names::ADVERTS, kind::RINGBUF, capacity::ADVERTS).fixed(),
    MapSpec::new::<(), ()>(names::EVENTS, kind::RINGBUF, capacity::EVENTS),
    MapSpec::new::<NeighborEvent, u32>(names::NEIGHBORS, kind::LRU_HASH, capacity::NEIGHBORS),
    MapSpec::new::<u32, [u8; SCRATCH_BYTES]>(names::SCRATCH, kind::PERCPU_ARRAY, 1).fixed(),
    MapSpec::new::<u32, [u64; PARKED_WORDS]>(names::PARKED, kind::PERCPU_ARRAY, 1).fixed(),
    MapSpec::new::<u32, KnownService>(names::KNOWN_SERVICES, kind::PERCPU_ARRAY, known::COUNT).fixed(),
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
