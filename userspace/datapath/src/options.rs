//! What the datapath is opened with. Values only: nothing here touches the kernel.

use std::path::PathBuf;

use weir_core::plan::{Tunnel, XdpMode};

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
    /// Whether flows that a weir of another layout forwards may be lost. Otherwise [`Datapath::open`](crate::Datapath::open)
    /// refuses while there are any.
    pub discard_flows: bool,
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
    /// Whether every packet of a recorded flow is counted, at the price of a look-up.
    pub accounting: bool,
    /// Answers that XDP makes itself (echo, RST, ICMP errors) per CPU and second.
    pub reply_limit: u32,
    /// SYNs per CPU and second to services of the relay, beyond which they are answered by cookies, once
    /// [`weir_abi::maps::settings::COOKIES`] is set.
    pub cookie_rate: u32,
    /// Seconds of silence after which the port of an open TCP flow by `full-nat` may be used again.
    pub nat_tcp_idle: u32,
    /// The same for UDP, in seconds.
    pub nat_udp_idle: u32,
    /// Seconds for which the port of a TCP flow by `full-nat` that ended rests.
    pub nat_time_wait: u32,
    /// Networks that the outer source addresses of `ipip` are taken from.
    pub tunnel: Tunnel,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            tcp_grace: 60,
            udp_grace: 10,
            horizon: 3600,
            record_limit: 50_000,
            accounting: false,
            reply_limit: 1_000,
            cookie_rate: 20_000,
            nat_tcp_idle: 7_200,
            nat_udp_idle: 180,
            nat_time_wait: 60,
            tunnel: Tunnel::default(),
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
    /// Flows remembered. Beyond them flows are placed by their hash alone.
    pub flows: u32,
    /// Addresses of backends with port and protocol that replies come from.
    pub returns: u32,
    /// Flows of backends that several VIPs share.
    pub return_flows: u32,
    /// Flows by `full-nat`, in each of its two tables.
    pub nat_flows: u32,
    /// Datagrams in fragments that are under way.
    pub fragments: u32,
    /// Networks that are allowed or banned. Allocated as needed.
    pub lists: u32,
    /// Networks of clients that are counted, for limits per source.
    pub clients: u32,
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
            nat_flows: 128 << 10,
            fragments: 8_192,
            lists: 256 << 10,
            clients: 64 << 10,
            sockets: 16_384,
            events: 64 << 10,
        }
    }
}
