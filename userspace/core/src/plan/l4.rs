//! Services that XDP forwards: how a backend is chosen, and what becomes of the packet.
//!
//! Facts only; what they do is the fast path's.

/// `mode = "l4"`
#[derive(Clone, PartialEq, Debug)]
pub struct L4 {
    /// How packets reach the backend.
    pub forward: Forward,
    /// Slots of its Maglev ring: a prime.
    pub ring_size: u32,
    /// What of a packet chooses the backend.
    pub hash: FlowHash,
    /// What becomes of the flows of a backend that goes down.
    pub on_backend_down: OnBackendDown,
    /// Largest MSS that SYNs and SYN-ACKs may carry. None: what the MTU of the way leaves.
    pub mss: Option<u16>,
}

/// What of a packet chooses the backend.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum FlowHash {
    #[default]
    /// Addresses, ports and protocol.
    Flow,
    /// The source address, or its network, alone.
    Source {
        /// Bits of an IPv4 address that count.
        prefix_v4: u8,
        /// Bits of an IPv6 address that count.
        prefix_v6: u8,
    },
    /// The server id in QUIC's connection id, of this many bytes; the flow where there is none.
    Quic {
        /// Bytes of the id, 1 to 8.
        len: u8,
    },
}

/// What becomes of the flows of a backend that goes down.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum OnBackendDown {
    #[default]
    /// They are given to another backend.
    Remap,
    /// TCP is reset, UDP refused by ICMP.
    Reset,
}

/// How packets reach the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// The destination is rewritten; the backend answers through this box.
    Nat,
    /// Source and destination are rewritten; the backend answers this box, wherever it is.
    FullNat,
    /// Link addresses are rewritten; the backend, on the same link, has the address and answers the client.
    Dsr,
    /// The packet is put into another; the backend takes it out and answers the client.
    Ipip,
}

impl Forward {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
        }
    }
}
