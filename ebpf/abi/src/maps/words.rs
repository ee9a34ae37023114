//! What the words in keys and values mean: numbers of actions, bits of flags, indices of stages, sizes that are agreed.
//!
//! Constants only; the layouts that they lie in are in `maps`.

/// Values of [`Service::action`](crate::maps::Service).
pub mod action {
    /// Up to the stack, where `weir_steer` finds the relay's socket.
    pub const RELAY: u32 = 0;
    /// Rewrite the destination and forward; the backend answers through this box.
    pub const NAT: u32 = 1;
    /// Rewrite source and destination; the backend answers this box.
    pub const FULL_NAT: u32 = 2;
    /// Rewrite link addresses alone; the backend has the VIP and answers the client.
    pub const DSR: u32 = 3;
    /// Put an IP header around the packet; the backend takes it off and answers the client.
    pub const IPIP: u32 = 4;
    /// No service but the address itself, keyed by ICMP's protocol number: echo requests to it are answered while
    /// [`service::UP`](crate::maps::service::UP) is set.
    pub const ADDRESS: u32 = 5;
}

/// Bits of [`Service::flags`](crate::maps::Service).
pub mod service {
    /// The hash takes in [`Service::hash_mask`](crate::maps::Service::hash_mask) of the source address and nothing else.
    pub const HASH_MASKED: u32 = 1;
    /// The backend is named by the server id in QUIC's connection id, where there is one.
    pub const HASH_QUIC: u32 = 1 << 1;
    /// Flows of a dead backend are reset (TCP) or refused (UDP) instead of being given to another.
    pub const RESET: u32 = 1 << 2;
    /// `SERVICE_LIMITS` has limits for it.
    pub const LIMITED: u32 = 1 << 3;
    /// Of an address: a service on it can serve.
    pub const UP: u32 = 1 << 4;
    /// Where the length of the QUIC server id in bytes begins: 4 bits.
    pub const QUIC_LEN_SHIFT: u32 = 8;
    /// Where the largest MSS for SYNs begins: 16 bits; 0: what the way's MTU leaves.
    pub const MSS_SHIFT: u32 = 16;
}

/// Bits of [`NextHop::flags`](crate::maps::NextHop).
pub mod next_hop {
    /// The frame gets the tags that the entry names, and loses its own. Without it the frame's tags stay.
    pub const SET_TAGS: u32 = 1;
    /// The backend itself: no router lies between. `dsr` needs it.
    pub const ON_LINK: u32 = 1 << 1;
}

/// Bits of [`ListEntry::flags`](crate::maps::ListEntry).
pub mod list {
    /// Packets from here are let through, whatever a shorter prefix says, and no limit per source applies.
    pub const ALLOW: u32 = 1;
    /// Made by the programs, since the network went beyond its limits.
    pub const OVERLOAD: u32 = 1 << 1;
}

/// What makes packets to addresses of others the box's own: a mark, and the kernel's rule for it.
pub mod take {
    /// The addresses are the box's own, and no listener's.
    pub const OWN: u32 = 1 << 31;
    /// Ranges of ports in [`Taken`](crate::maps::Taken).
    pub const RANGES: usize = 16;
    /// The bits of a packet's mark that are weir's.
    pub const MASK: u32 = 0xffff_0000;
    /// What they are in a packet that is taken in: `we`.
    pub const MARK: u32 = 0x7765_0000;
}

/// Bits above the service id in [`FlowState::service`](crate::maps::FlowState).
pub mod flow {
    /// The service id.
    pub const SERVICE: u32 = 0xffff;
    /// The client has ended it (FIN), or one side has broken it off (RST).
    pub const CLOSED: u32 = 1 << 16;
    /// It counts in [`ClientState::open`](crate::maps::ClientState::open).
    pub const COUNTED: u32 = 1 << 17;
    /// Another box told of it. Its own from the first packet that is counted here.
    pub const TOLD: u32 = 1 << 18;
}

/// Bits of [`NatReply::flags`](crate::maps::NatReply), and how exact its times are.
pub mod nat {
    /// The client has sent its FIN.
    pub const FIN_IN: u32 = 1;
    /// The backend has sent its FIN.
    pub const FIN_OUT: u32 = 1 << 1;
    /// The backend has answered.
    pub const ANSWERED: u32 = 1 << 2;
    /// It counts in [`ClientState::open`](crate::maps::ClientState::open).
    pub const COUNTED: u32 = 1 << 3;
    /// A RST has ended it: whether its receiver believed that, what comes after it says.
    pub const BY_RST: u32 = 1 << 4;
    /// Another box told of it, and no packet of it was looked at here since.
    pub const TOLD: u32 = 1 << 5;

    /// Seconds within which `seen` is not written again.
    pub const REFRESH: u32 = 4;
    /// Ports that are tried for one new flow before it is refused.
    pub const TRIES: u32 = 16;
    /// Seconds after which a TCP flow that the backend has not answered gives up its port.
    pub const EMBRYONIC: u32 = 30;
}

/// A bit of [`FragmentState::action`](crate::maps::FragmentState).
pub mod fragment {
    /// From a backend to a client.
    pub const OUT: u32 = 1 << 16;
}

/// Bits of [`Settings::flags`](crate::maps::Settings).
pub mod settings {
    /// `LISTS` holds something.
    pub const LISTS: u32 = 1;
    /// SYN cookies may be made: the kernel is set to take them.
    pub const COOKIES: u32 = 1 << 1;
    /// A capture may be going on.
    pub const CAPTURE: u32 = 1 << 2;
    /// Every packet of a recorded flow is counted, at the price of a look-up.
    pub const ACCOUNTING: u32 = 1 << 3;
    /// `LEASED` or `HEARS` holds something: there are virtual routers.
    pub const LEASES: u32 = 1 << 4;
}

/// Leases of virtual routers' addresses.
pub mod lease {
    /// Entries of `LEASES`.
    pub const SLOTS: u32 = 1024;
    /// The first of them: no lease, but nanoseconds that the kernel's coarse clock is behind the other one at most. 0: it is not
    /// to be relied on.
    pub const LAG: u32 = 0;
    /// The same in ticks of the kernel. The coarse clock stands still between two of them; when the host stops the CPU that
    /// keeps it, for five more, then another CPU sets it (Linux 5.18). One and some are for the reading itself.
    pub const LAG_TICKS: u64 = 8;
    /// Bits of a value of `LEASED` that are the index into `LEASES`. Those above are an index into `LINKS`; 0: the address has
    /// its interface's own link address.
    pub const SLOT_BITS: u32 = 16;
}

/// Link addresses of virtual routers.
pub mod link {
    /// Entries of `LINKS`. Index 0 is never used.
    pub const COUNT: u32 = 1024;
    /// Shares that a group may be cut into.
    pub const SHARES: usize = 16;
    /// Bit of [`GroupLink::flags`](crate::maps::GroupLink): frames of the group are sent from its link address. Never set where
    /// several boxes share it: a switch would take the address for one box's alone.
    pub const SOURCE: u32 = 1;
    /// Bit of a value of `LINKED`: the key is the interface's own link address. XDP changes a group's into it; some drivers have
    /// judged before that whom a frame is for.
    pub const OWN: u32 = 1 << 31;
}

/// Bounds of adverts.
pub mod advert {
    /// Bytes of a frame with an advert that is handed out; what is longer is left to the sockets.
    pub const MOST: u32 = 2048;
}

/// Bounds of a capture.
pub mod capture {
    /// Bytes of a packet that can be kept at most.
    pub const SNAP: u32 = 2048;
}

/// Indices into `STAGES`: programs that go on with what is not for the short way.
pub mod stage {
    /// Takes apart what the short way does not: ICMP, fragments, IPv6 extension headers. From the beginning of the frame.
    pub const EDGE: u32 = 0;
    /// Flows by `full-nat`, towards the backend. From the packet that was parked.
    pub const FULL_NAT: u32 = 1;
    /// TCP for services of the relay while SYN cookies may be made. From the packet that was parked.
    pub const COOKIE: u32 = 2;
    /// Forwards by `nat`, `dsr` and `ipip` what was not taken apart on the short way. From the packet that was parked.
    pub const FORWARD: u32 = 3;
    /// Forwards likewise, by a way that the kernel's routes must be asked for. From the packet that was parked, and the
    /// backend that was chosen.
    pub const ROUTE: u32 = 5;
    /// Answers a packet (RST, ICMP errors) instead of forwarding it. From the packet that was parked, and the reason.
    pub const ANSWER: u32 = 4;
    /// Hands out a packet that is captured, and gives its verdict.
    pub const CAPTURE: u32 = 7;
    /// ICMP and ICMPv6: echo requests to a virtual address, and errors about flows. From the packet that was parked.
    pub const ICMP: u32 = 6;
    /// Later fragments, which follow the first. From the packet that was parked.
    pub const FRAGMENT: u32 = 8;
    /// Begins a flow by `full-nat`: chooses its backend. From the packet that was parked.
    pub const NAT_NEW: u32 = 9;
    /// Sends a packet by `full-nat`, if need be by a way that the kernel's routes are asked for. From the packet that was
    /// parked, and what it becomes.
    pub const NAT_SEND: u32 = 10;
    /// Replies by `full-nat`. From the packet that was parked.
    pub const NAT_RETURN: u32 = 11;
    /// Gives a flow by `full-nat` its source address and port. From the packet that was parked, and the backend that was
    /// chosen.
    pub const NAT_TAKE: u32 = 12;
    /// ICMP errors about flows by `full-nat`. From the packet that was parked.
    pub const NAT_ICMP: u32 = 13;
    /// Counts a connection that begins against the limits of its service. From the packet that was parked.
    pub const ADMIT: u32 = 14;
    /// Hands an advert of a virtual router to control. From the beginning of the frame.
    pub const ADVERT: u32 = 15;
    /// Frames to link addresses of virtual routers, and questions who has one. From the beginning of the frame.
    pub const GROUP: u32 = 16;
    /// TCP of a group that several boxes share, which may belong to another box. From the beginning of the frame.
    pub const KEEP: u32 = 17;
    /// The short way, behind those two. From the beginning of the frame.
    pub const SHORT: u32 = 18;
    /// Entries of the map.
    pub const COUNT: u32 = 19;
}

/// The filter of addresses (`FILTER`): one bit for each address that a service or a backend has, so that a packet for
/// nobody costs one look at memory instead of look-ups.
pub mod filter {
    /// 64-bit words of it: a power of two.
    pub const WORDS: usize = 1024;
    /// The word behind them: counts up whenever `SERVICES` changes, never 0. What a CPU remembers of an earlier count it
    /// looks up anew.
    pub const EPOCH: usize = WORDS;
    /// Words of the map's value.
    pub const VALUE: usize = WORDS + 1;
}

/// Entries of `KNOWN_SERVICES`.
pub mod known {
    /// A power of two. A service's place follows from its key; two that share one take turns.
    pub const COUNT: u32 = 256;
}

/// Keys of `RECORD_LIMIT`.
pub mod limit {
    /// New flows recorded; the limit is [`Settings::record_limit`](crate::maps::Settings::record_limit).
    pub const FLOWS: u32 = 0;
    /// Neighbor events; the limit is [`NEIGHBOR_EVENTS`].
    pub const EVENTS: u32 = 1;
    /// Answers made by XDP; the limit is [`Settings::reply_limit`](crate::maps::Settings::reply_limit).
    pub const REPLIES: u32 = 2;
    /// SYNs to services of the relay; the limit is [`Settings::cookie_rate`](crate::maps::Settings::cookie_rate).
    pub const SYNS: u32 = 3;
    /// Entries of the map.
    pub const COUNT: u32 = 4;

    /// Neighbor events per CPU and second: next hops that are asked for at once, when a box starts, say.
    pub const NEIGHBOR_EVENTS: u32 = 256;
}

/// Bits of [`Backend::flags`](crate::maps::Backend).
pub mod backend {
    /// Takes the flows it has (up, or draining). Without it its flows are remapped.
    pub const ALIVE: u32 = 1;
    /// Several VIPs share it: the flow's VIP must be remembered for the replies.
    pub const SHARED: u32 = 2;
}

/// Bits of [`ReturnTarget::flags`](crate::maps::ReturnTarget).
pub mod returns {
    /// Several VIPs share this backend address: ask `RETURN_FLOWS`.
    pub const SHARED: u32 = 1;
}

/// Bits of `STEER`'s values; the rest is an index into `SOCKETS`.
pub mod steer {
    /// There are listeners of single interfaces besides: the same key with the interface's index comes first. With the key of
    /// an interface it says nothing.
    pub const BY_INTERFACE: u32 = 1 << 31;
    /// In place of an index: no socket takes what none of those is for.
    pub const NOBODY: u32 = BY_INTERFACE - 1;
}
