//! The desired state of the L4 tables, in words of identity. The caller derives it from the plan and from health.

use weir_core::ids::{BackendKey, ListenKey, ServiceName};

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
}

/// What becomes of a service's packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WantedAction {
    /// Up to the stack, where the relay's socket is found.
    Relay,
    /// The destination is rewritten; the backend answers through this box.
    Nat(WantedNat),
}

/// A service that is forwarded by `nat`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedNat {
    /// Slots of its Maglev ring: a prime.
    pub ring_size: u32,
    /// Its backends of both families; each listen address uses those of its own family.
    pub backends: Vec<WantedBackend>,
}

/// One backend of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedBackend {
    /// Its identity.
    pub key: BackendKey,
    /// Its share of new flows; 0 takes none.
    pub weight: u32,
    /// Whether it keeps the flows it has. Flows of a backend that is not alive are given to others.
    pub alive: bool,
}
