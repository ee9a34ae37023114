//! What the datapath is opened with. Values only: nothing here touches the kernel.

use std::path::PathBuf;

use weir_core::plan::XdpMode;

/// What [`Datapath::open`](crate::Datapath::open) needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a bpf file system; maps and links are pinned in `<pins>/<ABI hash>/`.
    pub pins: PathBuf,
    /// Directory for what must outlive the process but not a reboot, such as `/run/weir`.
    pub state_dir: PathBuf,
    /// Interfaces that XDP attaches to.
    pub interfaces: Vec<String>,
    /// How XDP attaches. [`XdpMode::Off`] is refused: then there is no datapath to open.
    pub mode: XdpMode,
    /// Key of the flow hash; boxes that share it place flows alike. None: the key kept with the pins, or, the first
    /// time, one drawn at random.
    pub hash_key: Option<[u64; 2]>,
    /// What may change while the maps live.
    pub tunables: Tunables,
    /// Sizes of the maps. They are fixed once the maps are pinned.
    pub capacities: Capacities,
}

/// Behaviour that may change while the maps live. See [`weir_abi::Settings`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunables {
    /// Seconds after a slot's change during which an unrecorded TCP flow is taken for an older one.
    pub tcp_grace: u32,
    /// The same for UDP, in seconds: longer than the silence inside a flow.
    pub udp_grace: u32,
    /// Seconds after a slot's change during which the flow table is asked at all. Also how long the index of a backend
    /// that is gone stays unused.
    pub horizon: u32,
    /// New flows recorded per CPU and second; flows beyond it are forwarded unrecorded.
    pub record_limit: u32,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            tcp_grace: 60,
            udp_grace: 10,
            horizon: 3600,
            record_limit: 50_000,
        }
    }
}

/// How much the maps hold. The kernel allocates most of it when the maps are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacities {
    /// Addresses with port and protocol that clients reach.
    pub service_keys: u32,
    /// Services, for their counters.
    pub services: u32,
    /// Backends; at most 65 535, because a ring slot names one in 16 bits.
    pub backends: u32,
    /// Ring slots of all services together, 8 bytes each. A ring that changes needs its size twice for a moment.
    pub ring_slots: u32,
    /// Flows remembered, least recently used first out.
    pub flows: u32,
    /// Addresses of backends with port and protocol that replies come from.
    pub returns: u32,
    /// Flows of backends that several VIPs share.
    pub return_flows: u32,
    /// Addresses with port and protocol that are steered to a listening socket.
    pub sockets: u32,
    /// Bytes of the ring buffer for neighbor events; a power of two, at least a page.
    pub events: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            service_keys: 16_384,
            services: 1_024,
            backends: 4_096,
            ring_slots: 4 << 20,
            flows: 512 << 10,
            returns: 16_384,
            return_flows: 128 << 10,
            sockets: 16_384,
            events: 64 << 10,
        }
    }
}
