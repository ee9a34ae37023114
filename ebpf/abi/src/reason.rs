//! Why a packet went where it went: one name for the counter, the log and the docs.

use crate::hash::fnv;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Sent on by XDP (`XDP_TX` or `XDP_REDIRECT`).
    Forward,
    /// Answered by XDP itself (`XDP_TX`): the frame was made into the answer.
    Reply,
    /// Up to the kernel's stack.
    Pass,
    /// Dropped.
    Drop,
}

impl Verdict {
    /// Every verdict, by number.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Reply, Self::Pass, Self::Drop];

    /// The name in metrics, logs and docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reply => "reply",
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
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
            ///
            /// Reasons are numbered by verdict, so that the programs need not go through all of them.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                const fn count(verdict: Verdict) -> u32 {
                    0 $( + (Verdict::$verdict as u32 <= verdict as u32) as u32 )*
                }
                const FORWARD: u32 = count(Verdict::Forward);
                const REPLY: u32 = count(Verdict::Reply);
                const PASS: u32 = count(Verdict::Pass);
                const { $( assert!(count(Verdict::$verdict) > $index, "reasons are numbered by verdict"); )* }
                match self as u32 {
                    0..FORWARD => Verdict::Forward,
                    FORWARD..REPLY => Verdict::Reply,
                    REPLY..PASS => Verdict::Pass,
                    _ => Verdict::Drop,
                }
            }

            /// As the list of reasons says it.
            #[cfg(test)]
            const fn listed(self) -> Verdict {
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
    /// Client to backend, by `full-nat`.
    ForwardFullNat = 2, "forward-full-nat", Forward;
    /// Backend to client, by `full-nat`.
    ReturnFullNat = 3, "return-full-nat", Forward;
    /// Client to backend, by `dsr`.
    ForwardDsr = 4, "forward-dsr", Forward;
    /// Client to backend, by `ipip`.
    ForwardIpip = 5, "forward-ipip", Forward;
    /// An ICMP error about a flow, to the flow's backend.
    ForwardIcmp = 6, "forward-icmp", Forward;
    /// An ICMP error about a flow, from the backend's side to the client.
    ReturnIcmp = 7, "return-icmp", Forward;
    /// An echo request to a virtual address, answered.
    EchoReply = 8, "echo-reply", Reply;
    /// Larger than the MTU of the way out: the sender was told so (fragmentation needed, packet too big).
    TooBigSent = 9, "too-big-sent", Reply;
    /// TTL or hop limit is used up: the sender was told so (time exceeded).
    TtlExpiredSent = 10, "ttl-expired-sent", Reply;
    /// The flow's backend is dead and the service says `reset`: a TCP RST was sent.
    ResetSent = 11, "reset-sent", Reply;
    /// The flow's backend is dead and the service says `reset`: an ICMP port unreachable was sent.
    UnreachableSent = 12, "unreachable-sent", Reply;
    /// A SYN to the relay in a flood, answered with a cookie.
    SynCookie = 13, "syn-cookie", Reply;
    /// Neither IPv4 nor IPv6 (ARP, LLDP, …).
    NotIp = 14, "not-ip", Pass;
    /// Not TCP, UDP or ICMP (VRRP, ESP, …).
    OtherProtocol = 15, "other-protocol", Pass;
    /// No service has this address and port, nor is it an answer of a flow that is known.
    NoService = 16, "no-service", Pass;
    /// For a service that the relay serves.
    Relay = 17, "relay", Pass;
    /// From a backend, but to this box itself (health checks, the relay's own connections), or to where no route leads.
    ReturnLocal = 18, "return-local", Pass;
    /// ICMP that is about no flow of ours.
    Icmp = 19, "icmp", Pass;
    /// A fragment of a datagram whose first fragment went up to the stack, or was not seen.
    Fragment = 20, "fragment", Pass;
    /// An IPv6 extension header chain that is too long to follow, or one that hides the transport.
    ExtensionHeaders = 21, "extension-headers", Pass;
    /// More than two VLAN tags.
    VlanStacked = 22, "vlan-stacked", Pass;
    /// The frame, or the IP packet in it by its own length, ends inside a header.
    Truncated = 23, "truncated", Drop;
    /// An IP header that lies: wrong version, header length under 20, a total length past the frame or short of the
    /// header, an IPv4 address in an IPv6 header (`::ffff:0:0/96`).
    MalformedIp = 24, "malformed-ip", Drop;
    /// A TCP or UDP header that lies: data offset under 20 or past the packet, a UDP length that does not fit.
    MalformedTransport = 25, "malformed-transport", Drop;
    /// An echo request to a virtual address none of whose services can serve.
    EchoDown = 26, "echo-down", Drop;
    /// From a network that is banned.
    Banned = 27, "banned", Drop;
    /// The source's network begins more connections per second than the service allows.
    SourceRate = 28, "source-rate", Drop;
    /// The source's network has as many connections open as the service allows.
    SourceConnections = 29, "source-connections", Drop;
    /// An ACK in a flood that carries no valid cookie.
    CookieInvalid = 30, "cookie-invalid", Drop;
    /// No backend may take it.
    NoBackend = 31, "no-backend", Drop;
    /// `full-nat` has no free source port towards this backend.
    PortsExhausted = 32, "ports-exhausted", Drop;
    /// The table of `full-nat` is full.
    NatTableFull = 33, "nat-table-full", Drop;
    /// TCP in the middle of a flow that `full-nat` does not know.
    NatUnknown = 34, "nat-unknown", Drop;
    /// TTL or hop limit is used up, and the sender cannot be told (a later fragment, an ICMP error).
    TtlExpired = 35, "ttl-expired", Drop;
    /// No route to the next hop, one that forbids it, or forwarding of `lo` is switched off.
    NoRoute = 36, "no-route", Drop;
    /// The next hop's link address is unknown; resolution was asked for.
    NoNeighbor = 37, "no-neighbor", Drop;
    /// Larger than the MTU of the way out, and the sender cannot be told (a later fragment, an ICMP error).
    TooBig = 38, "too-big", Drop;
    /// It would have been answered by XDP, but the limit per CPU and second was reached.
    ReplyLimited = 39, "reply-limited", Drop;
    /// A table holds what its writer never writes (an index past the end, a backend of the other family).
    Inconsistent = 40, "inconsistent", Drop;
    /// The program could not take the packet apart or change it (a kernel helper failed).
    Internal = 41, "internal", Drop;
    /// To an address of virtual routers that this box does not answer for now, or an answer from it: it is not master, or its
    /// lease has run out.
    NotMaster = 42, "not-master", Drop;
    /// An advert of a virtual router, handed to control.
    Advert = 43, "advert", Drop;
    /// Several boxes get it, and another one serves it: it is of another share, or of a connection that another box has.
    OtherShare = 44, "other-share", Drop;
}

macro_rules! notes {
    ($( $(#[$meta:meta])* $variant:ident = $index:literal, $name:literal; )*) => {
        // Their indices into `REASONS` follow the reasons'.
        /// What happened on the way, counted beside the verdict, never a verdict of its own.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Note { $( $(#[$meta])* $variant = $index, )* }

        impl Note {
            /// Every note, by number.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The name in metrics, logs and docs.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }
        }
    };
}

notes! {
    /// The flow table was asked (the slot changed recently).
    FlowLookup = 0, "flow-lookup";
    /// … and knew the flow.
    FlowHit = 1, "flow-hit";
    /// A flow was recorded.
    FlowRecorded = 2, "flow-recorded";
    /// A flow was not recorded: the limit per CPU and second was reached.
    FlowRecordLimited = 3, "flow-record-limited";
    /// A flow was not recorded: the table refused (full, or busy).
    FlowRecordFailed = 4, "flow-record-failed";
    /// A flow of a dead backend was given to the ring's present one.
    FlowRemapped = 5, "flow-remapped";
    /// A recorded flow ended: FIN from the client (by `full-nat`: from both sides), or RST.
    FlowClosed = 6, "flow-closed";
    /// The backend was named by the server id in a QUIC connection id.
    QuicId = 7, "quic-id";
    /// A packet to a service that balances by QUIC connection id named no backend: the flow decided.
    QuicFallback = 8, "quic-fallback";
    /// The MSS of a SYN or SYN-ACK was lowered.
    MssClamped = 9, "mss-clamped";
    /// A first fragment's way was recorded for the others.
    FragmentRecorded = 10, "fragment-recorded";
    /// … or the table refused.
    FragmentRecordFailed = 11, "fragment-record-failed";
    /// `full-nat` gave a flow a source port.
    NatAllocated = 12, "nat-allocated";
    /// … one of a flow that had ended.
    NatReused = 13, "nat-reused";
    /// A network went beyond a service's limits and was banned.
    SourceBanned = 14, "source-banned";
    /// A connection was not counted for its network: its flow could not be recorded, or a table refused.
    SourceUncounted = 15, "source-uncounted";
    /// The kernel's routes were asked: no next hop was resolved in advance.
    RouteAsked = 16, "route-asked";
    /// A packet was not captured: the buffer was full.
    CaptureLost = 17, "capture-lost";
    /// `weir_steer` gave a connection to the relay.
    Steered = 18, "steered";
    /// `weir_steer` knew the service but its socket was gone: the connection was refused.
    SteerNoSocket = 19, "steer-no-socket";
    /// A neighbor event was not queued: the queue was full, or the limit per CPU and second was reached.
    EventLost = 20, "event-lost";
    /// A SYN to a service of the relay.
    SynRelay = 21, "syn-relay";
    /// `weir_take` took in a packet to an address that is not on the box.
    TakenIn = 22, "taken-in";
    /// An advert of a virtual router was not handed to control, since the buffer was full: it went up to the stack.
    AdvertLost = 23, "advert-lost";
    /// `weir_steer` knew the service, but none of its listeners is for the interface: the connection was refused.
    SteerInterface = 24, "steer-interface";
}

impl Note {
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
            assert_eq!(r.verdict(), r.listed(), "{}", r.name());
        }
        for (i, n) in Note::ALL.iter().enumerate() {
            assert_eq!(*n as usize, i, "{}", n.name());
        }
    }
}
