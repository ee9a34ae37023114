//! The maps, as `weir_abi::MAPS` describes them.
//!
//! Owns their declaration. What userspace fills has one writer, the control process; the programs write what they learn
//! from packets: flows, fragments, clients, bans for overload, events, counters. Kinds, sizes and flags stand in `weir_abi::spec`
//! a second time, as data; the tests compare the two in the object that was built.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SockMap},
};
use weir_abi::{
    Addr16, Backend, CaptureFilter, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState,
    GroupLink, HearKey, KnownService, LinkKey, ListEntry, NatFlow, NatReply, NatSource, NeighborEvent,
    NextHop, QuicKey, REASON_COUNT, RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey,
    ServiceLimits, Settings, Slot, SteerKey, Taken, Traffic, Vlan,
    maps::{filter, known, lease, limit, link, stage},
    spec::{PARKED_WORDS, SCRATCH_BYTES, capacity, flag},
};

#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(capacity::SERVICES, 0);

#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::with_max_entries(capacity::BACKENDS, 0);

/// Slots as whole words, so that one load reads a slot that is being written in one store.
#[map]
pub(crate) static RINGS: Array<Slot> = Array::with_max_entries(capacity::RINGS, flag::MMAPABLE);

#[map]
pub(crate) static FILTER: Array<[u64; filter::VALUE]> = Array::with_max_entries(1, flag::MMAPABLE);

#[map]
pub(crate) static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(capacity::NEXT_HOPS, 0);

/// By [`weir_abi::Prefix`], as `Key` has it.
#[map]
pub(crate) static ROUTES: LpmTrie<Addr16, u32> =
    LpmTrie::with_max_entries(capacity::ROUTES, flag::NO_PREALLOC);

#[map]
pub(crate) static VLANS: HashMap<u32, Vlan> = HashMap::with_max_entries(capacity::VLANS, 0);

#[map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowState> = HashMap::with_max_entries(capacity::FLOWS, 0);

#[map]
pub(crate) static RETURNS: HashMap<ReturnKey, ReturnTarget> = HashMap::with_max_entries(capacity::RETURNS, 0);

#[map]
pub(crate) static RETURN_FLOWS: LruHashMap<FlowKey, ReturnVip> =
    LruHashMap::with_max_entries(capacity::RETURN_FLOWS, 0);

#[map]
pub(crate) static NAT_FLOWS: HashMap<FlowKey, NatFlow> = HashMap::with_max_entries(capacity::NAT_FLOWS, 0);

#[map]
pub(crate) static NAT_REPLIES: HashMap<FlowKey, NatReply> = HashMap::with_max_entries(capacity::NAT_FLOWS, 0);

#[map]
pub(crate) static NAT_SOURCES: Array<NatSource> = Array::with_max_entries(capacity::NAT_SOURCES, 0);

#[map]
pub(crate) static NAT_CURSORS: PerCpuArray<u64> = PerCpuArray::with_max_entries(capacity::SERVICE_TRAFFIC, 0);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentState> =
    LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);

#[map]
pub(crate) static QUIC_IDS: HashMap<QuicKey, u32> = HashMap::with_max_entries(capacity::QUIC_IDS, 0);

/// By [`weir_abi::Prefix`], as `Key` has it.
#[map]
pub(crate) static LISTS: LpmTrie<Addr16, ListEntry> =
    LpmTrie::with_max_entries(capacity::LISTS, flag::NO_PREALLOC);

#[map]
pub(crate) static CLIENTS: LruHashMap<ClientKey, ClientState> =
    LruHashMap::with_max_entries(capacity::CLIENTS, 0);

#[map]
pub(crate) static SERVICE_LIMITS: Array<ServiceLimits> =
    Array::with_max_entries(capacity::SERVICE_TRAFFIC, 0);

#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNT as u32, 0);

#[map]
pub(crate) static SERVICE_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(capacity::SERVICE_TRAFFIC, 0);

#[map]
pub(crate) static BACKEND_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(capacity::BACKENDS, 0);

#[map]
pub(crate) static RECORD_LIMIT: PerCpuArray<RecordLimit> = PerCpuArray::with_max_entries(limit::COUNT, 0);

#[map]
pub(crate) static CAPTURE: Array<CaptureFilter> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static CAPTURED: RingBuf = RingBuf::with_byte_size(capacity::CAPTURED, 0);

#[map]
pub(crate) static STAGES: ProgramArray = ProgramArray::with_max_entries(stage::COUNT, 0);

#[map]
pub(crate) static STEER: HashMap<SteerKey, u32> = HashMap::with_max_entries(capacity::STEER, 0);

#[map]
pub(crate) static SOCKETS: SockMap = SockMap::with_max_entries(capacity::SOCKETS, 0);

/// By [`weir_abi::Prefix`], as `Key` has it.
#[map]
pub(crate) static TAKEN: LpmTrie<Addr16, Taken> =
    LpmTrie::with_max_entries(capacity::TAKEN, flag::NO_PREALLOC);

/// Words, each read and written whole.
#[map]
pub(crate) static LEASES: Array<u64> = Array::with_max_entries(lease::SLOTS, flag::MMAPABLE);

#[map]
pub(crate) static LEASED: HashMap<Addr16, u32> = HashMap::with_max_entries(capacity::LEASED, 0);

#[map]
pub(crate) static LINKS: Array<GroupLink> = Array::with_max_entries(link::COUNT, 0);

#[map]
pub(crate) static LINKED: HashMap<LinkKey, u32> = HashMap::with_max_entries(link::COUNT, 0);

#[map]
pub(crate) static HEARS: HashMap<HearKey, u32> = HashMap::with_max_entries(capacity::HEARS, 0);

#[map]
pub(crate) static ADVERTS: RingBuf = RingBuf::with_byte_size(capacity::ADVERTS, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

#[map]
pub(crate) static NEIGHBORS: LruHashMap<NeighborEvent, u32> =
    LruHashMap::with_max_entries(capacity::NEIGHBORS, 0);

#[map]
pub(crate) static SCRATCH: PerCpuArray<[u8; SCRATCH_BYTES]> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static PARKED: PerCpuArray<[u64; PARKED_WORDS]> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static KNOWN_SERVICES: PerCpuArray<KnownService> = PerCpuArray::with_max_entries(known::COUNT, 0);
