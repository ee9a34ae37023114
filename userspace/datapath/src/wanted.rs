//! The desired state of the L4 tables, in words of identity. The caller derives it from the plan and from health.

use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, ServiceName},
    plan::{FlowHash, Forward, OnBackendDown, PerSource, QuicId, SourcePool},
};

/// Everything that XDP shall do.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// All services that have a virtual address. A name or a key that occurs twice is an error.
    pub services: Vec<WantedService>,
}

/// One service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedService {
    /// Its identity: counters and numbers follow the name.
    pub name: ServiceName,
    /// What clients address.
    pub keys: Vec<ListenKey>,
    /// What becomes of its packets.
    pub action: WantedAction,
    /// What one network of clients may have of it.
    pub per_source: PerSource,
}

/// What becomes of a service's packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WantedAction {
    /// Up to the stack, where the relay's socket is found.
    Relay {
        /// Whether a backend takes new traffic: echo requests to its addresses are answered then.
        up: bool,
    },
    /// To a backend, without the stack.
    Forward(WantedForward),
}

/// A service that XDP forwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedForward {
    /// How packets reach the backend.
    pub mode: Forward,
    /// Slots of its Maglev ring: a prime.
    pub ring_size: u32,
    /// Its backends of both families. By `ipip` each listen address uses all of them, else those of its own family.
    pub backends: Vec<WantedBackend>,
    /// What of a packet chooses the backend.
    pub hash: FlowHash,
    /// What becomes of the flows of a backend that goes down.
    pub on_backend_down: OnBackendDown,
    /// Largest MSS that SYNs and SYN-ACKs may carry. None: what the way's MTU leaves.
    pub mss: Option<u16>,
    /// By `full-nat`: what the backends see as the source.
    pub sources: Option<WantedSources>,
}

impl WantedForward {
    /// A service that chooses by flow, gives a dead backend's flows to others and clamps no MSS of its own.
    pub fn new(mode: Forward, ring_size: u32, backends: Vec<WantedBackend>) -> Self {
        Self {
            mode,
            ring_size,
            backends,
            hash: FlowHash::Flow,
            on_backend_down: OnBackendDown::Remap,
            mss: None,
            sources: None,
        }
    }
}

/// The source addresses and ports of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedSources {
    /// The pool, for errors.
    pub pool: PoolName,
    /// Its addresses of both families, and its ports.
    pub ports: SourcePool,
}

/// One backend of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedBackend {
    /// Its identity.
    pub key: BackendKey,
    /// Its share of new flows; 0 takes none.
    pub weight: u32,
    /// Whether it keeps the flows it has. Flows of a backend that is not alive are given to others, or reset.
    pub alive: bool,
    /// The server id in the QUIC connection ids that it hands out.
    pub quic_id: Option<QuicId>,
}
