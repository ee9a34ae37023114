//! Why a packet went where it went: one name for the counter, the log and the docs.

use crate::hash::fnv;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Sent on by XDP (`XDP_TX` or `XDP_REDIRECT`).
    Forward,
    /// Up to the kernel's stack.
    Pass,
    /// Dropped.
    Drop,
}

macro_rules! reasons {
    ($( $(#[$meta:meta])* $variant:ident = $index:literal, $name:literal, $verdict:ident; )*) => {
        /// The reason of a verdict; its number is the index into `REASONS`.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $( $(#[$meta])* $variant = $index, )* }

        impl Reason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The name in metrics, logs and docs.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// What it means for the packet.
            pub const fn verdict(self) -> Verdict {
                match self { $( Self::$variant => Verdict::$verdict, )* }
            }
        }

        pub(crate) const fn fold(mut hash: u64) -> u64 {
            $( hash = fnv(hash, $name.as_bytes()); )*
            hash
        }
    };
}

reasons! {
    /// Client to backend, by `nat`.
    ForwardNat = 0, "forward-nat", Forward;
    /// Backend to client, by `nat`.
    ReturnNat = 1, "return-nat", Forward;
    /// Neither IPv4 nor IPv6 (ARP, LLDP, …).
    NotIp = 2, "not-ip", Pass;
    /// Not TCP or UDP (ICMP, VRRP, …).
    OtherProtocol = 3, "other-protocol", Pass;
    /// No service has this address and port, nor is it an answer of a flow that is known.
    NoService = 4, "no-service", Pass;
    /// For a service that the relay serves.
    Relay = 5, "relay", Pass;
    /// From a backend, but to this box itself (health checks, the relay's own connections), or to where no route leads.
    ReturnLocal = 6, "return-local", Pass;
    /// A fragment: ports are unknown, the stack reassembles.
    Fragment = 7, "fragment", Pass;
    /// An IPv6 extension header chain that is too long to follow, or one that hides the transport.
    ExtensionHeaders = 8, "extension-headers", Pass;
    /// The frame, or the IP packet in it by its own length, ends inside a header.
    Truncated = 9, "truncated", Drop;
    /// An IP header that lies: wrong version, header length under 20, a total length past the frame or short of the
    /// header, an IPv4 address in an IPv6 header (`::ffff:0:0/96`).
    MalformedIp = 10, "malformed-ip", Drop;
    /// A TCP or UDP header that lies: data offset under 20 or past the packet, a UDP length that does not fit.
    MalformedTransport = 11, "malformed-transport", Drop;
    /// No backend may take it.
    NoBackend = 12, "no-backend", Drop;
    /// TTL or hop limit is used up.
    TtlExpired = 13, "ttl-expired", Drop;
    /// No route to the next hop, one that forbids it, or forwarding of `lo` is switched off.
    NoRoute = 14, "no-route", Drop;
    /// The next hop's link address is unknown; resolution was asked for.
    NoNeighbor = 15, "no-neighbor", Drop;
    /// Larger than the MTU of the way out.
    TooBig = 16, "too-big", Drop;
    /// A table holds what its writer never writes (an index past the end, a backend of the other family).
    Inconsistent = 17, "inconsistent", Drop;
    /// More than one VLAN tag.
    VlanStacked = 18, "vlan-stacked", Pass;
    /// The program could not take the packet apart or change it (a kernel helper failed).
    Internal = 19, "internal", Drop;
}

// Counted beside a verdict, never a verdict of its own; their indices follow the reasons'.
/// What happened on the way, counted beside the verdict.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Note {
    /// The flow table was asked (the slot changed recently).
    FlowLookup = 0,
    /// … and knew the flow.
    FlowHit = 1,
    /// A flow was recorded.
    FlowRecorded = 2,
    /// A flow was not recorded: the limit per CPU and second was reached.
    FlowRecordLimited = 3,
    /// A flow was not recorded: the table refused (full, or busy).
    FlowRecordFailed = 4,
    /// A flow of a dead backend was given to the ring's present one.
    FlowRemapped = 5,
    /// `weir_steer` gave a connection to the relay.
    Steered = 6,
    /// `weir_steer` knew the service but its socket was gone: the connection was refused.
    SteerNoSocket = 7,
    /// A neighbor event was not queued: the queue was full, or the limit per CPU and second was reached.
    EventLost = 8,
}

impl Note {
    /// Every note, by number.
    pub const ALL: &'static [Self] = &[
        Self::FlowLookup,
        Self::FlowHit,
        Self::FlowRecorded,
        Self::FlowRecordLimited,
        Self::FlowRecordFailed,
        Self::FlowRemapped,
        Self::Steered,
        Self::SteerNoSocket,
        Self::EventLost,
    ];

    /// The name in metrics, logs and docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlowLookup => "flow-lookup",
            Self::FlowHit => "flow-hit",
            Self::FlowRecorded => "flow-recorded",
            Self::FlowRecordLimited => "flow-record-limited",
            Self::FlowRecordFailed => "flow-record-failed",
            Self::FlowRemapped => "flow-remapped",
            Self::Steered => "steered",
            Self::SteerNoSocket => "steer-no-socket",
            Self::EventLost => "event-lost",
        }
    }

    /// Its index into `REASONS`.
    pub const fn index(self) -> u32 {
        Reason::ALL.len() as u32 + self as u32
    }
}

/// Entries of `REASONS`: all reasons, then all notes.
pub const REASON_COUNT: usize = Reason::ALL.len() + Note::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i, "{}", r.name());
        }
        for (i, n) in Note::ALL.iter().enumerate() {
            assert_eq!(*n as usize, i, "{}", n.name());
        }
    }
}
