//! The maps, as `weir_abi::MAPS` describes them.
//!
//! Owns their declaration. The first seven that userspace fills have one writer, the control process; the programs write
//! `FLOWS`, `RETURN_FLOWS`, `EVENTS`, `NEIGHBORS` and the per-CPU ones. Kinds, sizes and flags stand in `weir_abi::spec`
//! a second time, as data; the tests compare the two in the object that was built.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap},
};
use weir_abi::{
    Backend, FlowKey, FlowState, NeighborEvent, REASON_COUNT, RecordLimit, ReturnKey, ReturnTarget,
    ReturnVip, Service, ServiceKey, Settings, Slot, Traffic,
    maps::limit,
    spec::{capacity, flag},
};

#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(capacity::SERVICES, 0);

#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::with_max_entries(capacity::BACKENDS, 0);

/// Slots as whole words, so that one load reads a slot that is being written in one store.
#[map]
pub(crate) static RINGS: Array<Slot> = Array::with_max_entries(capacity::RINGS, flag::MMAPABLE);

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(capacity::FLOWS, 0);

#[map]
pub(crate) static RETURNS: HashMap<ReturnKey, ReturnTarget> = HashMap::with_max_entries(capacity::RETURNS, 0);

#[map]
pub(crate) static RETURN_FLOWS: LruHashMap<FlowKey, ReturnVip> =
    LruHashMap::with_max_entries(capacity::RETURN_FLOWS, 0);

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
pub(crate) static STEER: HashMap<ServiceKey, u32> = HashMap::with_max_entries(capacity::STEER, 0);

#[map]
pub(crate) static SOCKETS: SockMap = SockMap::with_max_entries(capacity::SOCKETS, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

#[map]
pub(crate) static NEIGHBORS: LruHashMap<NeighborEvent, u32> =
    LruHashMap::with_max_entries(capacity::NEIGHBORS, 0);
