//! Names of programs and maps, as the kernel and `bpftool` show them.

use crate::hash::fnv;

/// The XDP program, attached to every interface of `node.interfaces`.
pub const XDP_PROGRAM: &str = "weir_xdp";
/// The sk_lookup program, attached to the network namespace.
pub const STEER_PROGRAM: &str = "weir_steer";

/// HASH [`ServiceKey`](crate::ServiceKey) → [`Service`](crate::Service).
pub const SERVICES: &str = "SERVICES";
/// ARRAY backend index → [`Backend`](crate::Backend). Index 0 is never used: it means "no backend".
pub const BACKENDS: &str = "BACKENDS";
/// ARRAY (mmapable) of [`Slot`](crate::Slot): every service's ring lies in it at `ring_offset .. + ring_len`.
pub const RINGS: &str = "RINGS";
/// LRU_HASH [`FlowKey`](crate::FlowKey) → [`FlowState`](crate::FlowState).
pub const FLOWS: &str = "FLOWS";
/// HASH [`ReturnKey`](crate::ReturnKey) → [`ReturnTarget`](crate::ReturnTarget): the reverse direction of `nat`.
pub const RETURNS: &str = "RETURNS";
/// LRU_HASH [`FlowKey`](crate::FlowKey) of the reply → [`ReturnVip`](crate::ReturnVip), used only for backends that
/// several VIPs share.
pub const RETURN_FLOWS: &str = "RETURN_FLOWS";
/// ARRAY of one [`Settings`](crate::Settings).
pub const SETTINGS: &str = "SETTINGS";
/// PERCPU_ARRAY of `u64` packets, indexed by [`Reason`](crate::Reason).
pub const REASONS: &str = "REASONS";
/// PERCPU_ARRAY of [`Traffic`](crate::Traffic) by service id.
pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// PERCPU_ARRAY of [`Traffic`](crate::Traffic) by backend index.
pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
/// PERCPU_ARRAY of [`RecordLimit`](crate::RecordLimit), by [`limit`](crate::maps::limit).
pub const RECORD_LIMIT: &str = "RECORD_LIMIT";
/// RINGBUF of [`NeighborEvent`](crate::NeighborEvent).
pub const EVENTS: &str = "EVENTS";
/// LRU_HASH [`NeighborEvent`](crate::NeighborEvent) → `u32`, the second it was last sent in: so that a next hop is asked
/// for once a second. The programs' own; not pinned.
pub const NEIGHBORS: &str = "NEIGHBORS";
/// HASH [`ServiceKey`](crate::ServiceKey) → `u32` index into [`SOCKETS`].
pub const STEER: &str = "STEER";
/// SOCKMAP index → listening socket.
pub const SOCKETS: &str = "SOCKETS";

/// Every map that is pinned, in the order in which they are created.
pub const PINNED: [&str; 13] = [
    SERVICES,
    BACKENDS,
    RINGS,
    FLOWS,
    RETURNS,
    RETURN_FLOWS,
    SETTINGS,
    REASONS,
    SERVICE_TRAFFIC,
    BACKEND_TRAFFIC,
    RECORD_LIMIT,
    STEER,
    SOCKETS,
];

pub(crate) const fn fold(mut hash: u64) -> u64 {
    let mut i = 0;
    while i < PINNED.len() {
        hash = fnv(hash, PINNED[i].as_bytes());
        i += 1;
    }
    hash
}
