//! Keys and values of the maps.

mod words;

use core::mem::{offset_of, size_of};

pub use self::words::{
    action, advert, backend, capture, filter, flow, fragment, known, lease, limit, link, list, nat, next_hop,
    returns, service, settings, stage, steer, take,
};
use crate::{
    addr::Addr16,
    hash::{Field, fields},
};

/// Declares a `repr(C)` structure, refuses implicit padding at compile time and lists its fields for the ABI hash.
macro_rules! shared {
    ($( $(#[$meta:meta])* $name:ident($size:literal) { $( $(#[$fmeta:meta])* $field:ident : $ty:ty, )* } )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
            pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

            const _: () = {
                assert!(size_of::<$name>() == $size, "size as declared");
                assert!(0 $(+ size_of::<$ty>())* == $size, "no implicit padding");
            };

            impl $name {
                const FIELDS: &'static [Field] =
                    &[$( (stringify!($field), offset_of!($name, $field), size_of::<$ty>()), )*];
            }
        )*
        pub(crate) const fn fold(mut hash: u64) -> u64 {
            $( hash = fields(hash, stringify!($name), $size, $name::FIELDS); )*
            hash
        }
    };
}

shared! {
    /// What a client addresses. Key of `SERVICES`.
    ///
    /// Port 0 stands for every port of the address. With an ICMP protocol number and port 0 it is the address itself:
    /// see [`action::ADDRESS`].
    ServiceKey(20) {
        /// The virtual address.
        addr: Addr16,
        /// [`port_proto`] of the port and the IP protocol number.
        port_proto: u32,
    }

    /// What a client of the relay addresses, and by which interface it comes. Key of `STEER`.
    SteerKey(24) {
        /// The virtual address.
        addr: Addr16,
        /// [`port_proto`] of the port and the IP protocol number.
        port_proto: u32,
        /// Index of the interface; 0: whichever, unless the value says [`steer::BY_INTERFACE`].
        ifindex: u32,
    }

    /// A service as XDP sees it. Replaced whole, by one map update: a reader sees the old or the new one.
    Service(48) {
        /// Index into `SERVICE_TRAFFIC` and `SERVICE_LIMITS`, from 0.
        id: u32,
        /// One of [`action`].
        action: u32,
        /// First slot of its ring in `RINGS`.
        ring_offset: u32,
        /// Slots of its ring; 0 when no backend may take traffic.
        ring_len: u32,
        /// Bits of [`service`].
        flags: u32,
        /// Counts up with each change of the ring.
        generation: u32,
        /// What of the source address the hash takes in, when [`service::HASH_MASKED`] is set: a mask, as it lies in
        /// [`Addr16`].
        hash_mask: [u32; 4],
        /// `full-nat`: first of its entries in `NAT_SOURCES`.
        sources: u32,
        /// `full-nat`: its entries per CPU. CPU `n` owns those from `sources + n * source_count` on.
        source_count: u32,
    }

    /// An entry of `SERVICES` that a CPU has met. A look-up in a hash map is a quarter of what a forwarded packet costs.
    KnownService(80) {
        /// [`filter::EPOCH`] before the entry was looked up; 0: there is none.
        epoch: u64,
        /// Its key, as three words in memory order, the last half empty.
        key: [u64; 3],
        /// It.
        service: Service,
    }

    /// One slot of a Maglev ring; 8 bytes, 8-aligned, so that it is read and written whole.
    Slot(8) {
        /// Index into `BACKENDS` of the backend that takes new flows; 0: none.
        current: u16,
        /// The backend before the last change; 0: none.
        previous: u16,
        /// When `current` last changed: seconds of CLOCK_MONOTONIC, at least 1. 0: never, or so long ago that no flow
        /// can be older.
        changed: u32,
    }

    /// A backend. Key: its index.
    Backend(32) {
        /// Its address; of the same family as the VIP, but for `ipip`, where it is the tunnel's end.
        addr: Addr16,
        /// Its port, network order in the low 16 bits; 0: the client's destination port is kept.
        port: u32,
        /// Bits of [`backend`].
        flags: u32,
        /// Index into `NEXT_HOPS` of the way there; 0: the kernel's routes are asked for each packet.
        next_hop: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// A way out of the box, as control resolved it. Key: its index; 0 is never used. Never changed while something
    /// names it: a new way is a new entry.
    NextHop(32) {
        /// Index of the interface to send by, one that XDP can send by: for a VLAN device the one below it.
        ifindex: u32,
        /// Largest IP packet in bytes.
        mtu: u32,
        /// Link address of the next hop, as it lies in the frame.
        destination: [u16; 3],
        /// Link address of the interface.
        source: [u16; 3],
        /// Bits of [`next_hop`].
        flags: u32,
        /// Outer VLAN tag, TPID and TCI as they lie in the frame; 0: none. Counts with [`next_hop::SET_TAGS`].
        outer_tag: u32,
        /// Inner VLAN tag likewise.
        inner_tag: u32,
    }

    /// What a VLAN device stands for. Key of `VLANS`: its index.
    Vlan(16) {
        /// Index of the interface below, the one that XDP can send by.
        ifindex: u32,
        /// Outer tag, as in [`NextHop`].
        outer_tag: u32,
        /// Inner tag; 0: there is one only.
        inner_tag: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// A network, as a longest-prefix match wants it. Key of `ROUTES` and `LISTS`.
    Prefix(20) {
        /// Bits that count, of 128: for IPv4 the prefix length and 96.
        len: u32,
        /// The network's address.
        addr: Addr16,
    }

    /// An entry of `LISTS`: what is done with packets from a network.
    ListEntry(8) {
        /// When it ends: seconds of CLOCK_MONOTONIC; 0: never.
        until: u32,
        /// Bits of [`list`].
        flags: u32,
    }

    /// Who takes in connections to the addresses of a network. Value of `TAKEN`.
    Taken(196) {
        /// How many of the ranges count; or [`take::OWN`].
        count: u32,
        /// Ranges of TCP ports, host order: the first in the low half, the last in the high half. The first range that
        /// holds a port and is for the interface decides.
        ports: [u32; take::RANGES],
        /// Of each range, the index into `SOCKETS`.
        sockets: [u32; take::RANGES],
        /// Of each range, the index of the interface that it is for; 0: whichever.
        interfaces: [u32; take::RANGES],
    }

    /// A flow as it arrives: source, destination, ports, protocol.
    FlowKey(40) {
        /// Source address.
        src: Addr16,
        /// Destination address.
        dst: Addr16,
        /// Both ports as one load from the packet: source first.
        ports: u32,
        /// IP protocol number (6 or 17).
        proto: u32,
    }

    /// What the flow table remembers.
    FlowState(32) {
        /// Packets towards the backend, as far as the flow was looked up: all of them with [`settings::ACCOUNTING`].
        packets: u64,
        /// Bytes of them, Ethernet header included.
        bytes: u64,
        /// Index into `BACKENDS`.
        backend: u32,
        /// When it was recorded: seconds of CLOCK_MONOTONIC.
        recorded: u32,
        /// When it was last looked up.
        seen: u32,
        /// Service id, and bits of [`flow`] above it.
        service: u32,
    }

    /// `full-nat`: what becomes of the packets of a client's flow. Value of `NAT_FLOWS`.
    NatFlow(32) {
        /// The source address that the backend sees.
        source: Addr16,
        /// The source port that the backend sees, network order in the low 16 bits.
        port: u32,
        /// Index into `BACKENDS`.
        backend: u32,
        /// When it was made: seconds of CLOCK_MONOTONIC.
        recorded: u32,
        /// When a packet towards the backend was last seen, to within [`nat::REFRESH`] seconds.
        seen: u32,
    }

    /// `full-nat`: what becomes of the replies. Value of `NAT_REPLIES`, keyed by the reply as the backend sends it.
    NatReply(72) {
        /// Packets towards the client.
        packets: u64,
        /// Bytes of them, Ethernet header included.
        bytes: u64,
        /// The client.
        client: Addr16,
        /// The address it reached.
        vip: Addr16,
        /// Ports that the reply gets: the VIP's, then the client's, as they lie in the packet.
        ports: u32,
        /// Service id.
        service: u32,
        /// Index into `BACKENDS`.
        backend: u32,
        /// When a packet of either direction was last seen, to within [`nat::REFRESH`] seconds.
        seen: u32,
        /// When it ended (both FINs, or a RST): seconds of CLOCK_MONOTONIC; 0: it has not.
        closed: u32,
        /// Bits of [`nat`], and in the high 16 bits the service's largest MSS; 0: what the way's MTU leaves.
        flags: u32,
    }

    /// `full-nat`: a source address and a block of its ports that one CPU owns.
    NatSource(24) {
        /// The address.
        addr: Addr16,
        /// First port of the block, host order.
        first: u32,
        /// Ports in it.
        count: u32,
    }

    /// What the fragments of one datagram have in common. Key of `FRAGMENTS`.
    FragmentKey(40) {
        /// Source address.
        src: Addr16,
        /// Destination address.
        dst: Addr16,
        /// Identification, as it lies in the packet.
        id: u32,
        /// IP protocol number.
        proto: u32,
    }

    /// What the first fragment's way says of the others.
    FragmentState(48) {
        /// What the source address becomes.
        src: Addr16,
        /// What the destination address becomes.
        dst: Addr16,
        /// Service id.
        service: u32,
        /// Index into `BACKENDS`.
        backend: u32,
        /// One of [`action`], and [`fragment::OUT`].
        action: u32,
        /// When the first fragment came: seconds of CLOCK_MONOTONIC.
        recorded: u32,
    }

    /// Source of a reply. Key of `RETURNS`. Port 0: every port of the address.
    ReturnKey(20) {
        /// The backend's address.
        addr: Addr16,
        /// [`port_proto`] of the backend's port and the protocol.
        port_proto: u32,
    }

    /// What the source of a reply becomes.
    ReturnTarget(32) {
        /// The VIP. Meaningless with [`returns::SHARED`].
        vip: Addr16,
        /// The VIP's port, network order in the low 16 bits; 0: the reply's own is kept. In the high 16 the largest MSS for
        /// SYN-ACKs; 0: what the way's MTU leaves.
        port: u32,
        /// Service id, for its traffic.
        service: u32,
        /// Backend index, for its traffic.
        backend: u32,
        /// Bits of [`returns`].
        flags: u32,
    }

    /// What the source of one flow's replies becomes, for a backend that several VIPs share.
    ReturnVip(28) {
        /// The VIP.
        vip: Addr16,
        /// The VIP's port, and the MSS, as in [`ReturnTarget`].
        port: u32,
        /// Service id, for its traffic.
        service: u32,
        /// Backend index, for its traffic.
        backend: u32,
    }

    /// A QUIC server id. Key of `QUIC_IDS`; its value is the backend's index.
    QuicKey(16) {
        /// The id's bytes, the first in the lowest.
        id: u64,
        /// Service id.
        service: u32,
        /// Bytes of the id, 1 to 8.
        len: u32,
    }

    /// A network of clients, as one service counts it. Key of `CLIENTS`.
    ClientKey(20) {
        /// The network's address.
        addr: Addr16,
        /// Service id.
        service: u32,
    }

    /// What one network of clients has open with one service.
    ClientState(16) {
        /// The second that `started` belongs to.
        second: u32,
        /// Connections begun in it.
        started: u32,
        /// Connections open, as far as their ends were seen; control counts anew from time to time.
        open: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// What one network of clients may have of one service. Index: the service's id.
    ServiceLimits(40) {
        /// New connections per second; 0: any number.
        rate: u32,
        /// Open connections; 0: any number.
        open: u32,
        /// Seconds that a network which goes beyond is banned for; 0: what is too much is dropped, no more.
        ban: u32,
        /// What of an IPv4 source names the network: a mask, as it lies in the packet.
        mask_v4: u32,
        /// The same for IPv6.
        mask_v6: [u32; 4],
        /// Prefix length that [`Self::mask_v4`] stands for, in the low 16 bits, and that of [`Self::mask_v6`] above.
        prefixes: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// What an operator may tune without new code. Written whole.
    Settings(128) {
        /// The key that [`Self::flow_key`] and the rings are made of, two little-endian words. Boxes that share it place
        /// flows alike.
        hash_key: [u64; 2],
        /// Seconds after a slot's change during which an unrecorded TCP flow is taken for an older one.
        tcp_grace: u32,
        /// The same for UDP, which has no first packet to tell: longer than the silence inside a flow.
        udp_grace: u32,
        /// Seconds after a slot's change during which the flow table is asked at all.
        horizon: u32,
        /// New flows recorded per CPU and second; beyond it flows are forwarded unrecorded.
        record_limit: u32,
        /// Interface index that routes are looked up from: `lo`, whose forwarding switch weir sets.
        fib_ifindex: u32,
        /// Bits of [`settings`].
        flags: u32,
        /// SYNs per CPU and second to services of the relay, beyond which they are answered by cookies; counts with
        /// [`settings::COOKIES`].
        cookie_rate: u32,
        /// Answers that XDP makes itself (echo, RST, ICMP errors) per CPU and second.
        reply_limit: u32,
        /// `ipip`: network that IPv4 outer sources are taken from, as it lies in the packet.
        tunnel_v4: u32,
        /// Bits of it that the flow's hash fills.
        tunnel_v4_host: u32,
        /// The same for IPv6; the hash fills the last word under [`Self::tunnel_v6_host`].
        tunnel_v6: [u32; 4],
        /// Bits of the last word of [`Self::tunnel_v6`] that the flow's hash fills.
        tunnel_v6_host: u32,
        /// `full-nat`: seconds of silence after which an open TCP flow's port may be used again.
        nat_tcp_idle: u32,
        /// `full-nat`: the same for UDP.
        nat_udp_idle: u32,
        /// `full-nat`: seconds for which the port of a TCP flow that ended rests (TIME_WAIT).
        nat_time_wait: u32,
        /// Key of the flow hash: `weir_fastpath::hash::expand` of [`Self::hash_key`].
        flow_key: [u32; 10],
    }

    /// A per-CPU limit per second. Key: one of [`limit`].
    RecordLimit(8) {
        /// The second that `count` belongs to.
        second: u32,
        /// What was let through in it.
        count: u32,
    }

    /// Traffic of a service or a backend, per CPU.
    Traffic(40) {
        /// Packets towards the backend.
        packets_in: u64,
        /// Bytes towards the backend, Ethernet header included.
        bytes_in: u64,
        /// Packets towards the client.
        packets_out: u64,
        /// Bytes towards the client, Ethernet header included.
        bytes_out: u64,
        /// New flows: SYNs for TCP; for UDP, flows first recorded.
        flows: u64,
    }

    /// A packet could not be sent because the next hop's link address is unknown: userspace resolves it.
    NeighborEvent(24) {
        /// The next hop.
        addr: Addr16,
        /// The interface it is reached through.
        ifindex: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// Where adverts of virtual routers arrive. Key of `HEARS`.
    HearKey(20) {
        /// What they are addressed to: the group, or the box's own address.
        addr: Addr16,
        /// The interface, without VLAN tags.
        ifindex: u32,
    }

    /// A link address that a group of virtual routers has. Key of `LINKED`.
    LinkKey(12) {
        /// It, as it lies in a frame.
        mac: [u16; 3],
        /// Reserved, 0.
        reserved: u16,
        /// The interface, without VLAN tags.
        ifindex: u32,
    }

    /// What is known of it. Value of `LINKS`, whose index is the value of `LINKED`.
    GroupLink(92) {
        /// The interface.
        ifindex: u32,
        /// Bits of [`link`].
        flags: u32,
        /// The link address, as it lies in a frame.
        mac: [u16; 3],
        /// The interface's own: what the stack wants to see in frames to it.
        own: [u16; 3],
        /// Shares that clients are dealt to; 1: one box serves all of them.
        shares: u32,
        /// Of a group with several shares, the index into `LEASES` of the word that says until when another box counts as master of
        /// one; else 0.
        others: u32,
        /// Of each share, the index into `LEASES`.
        slots: [u32; link::SHARES],
    }

    /// What stands before an advert's frame in `ADVERTS`.
    AdvertRecord(16) {
        /// When it arrived: CLOCK_MONOTONIC in nanoseconds.
        time: u64,
        /// The interface it came in by.
        ifindex: u32,
        /// Bytes of the frame that follow: all of them.
        len: u32,
    }

    /// Which packets are captured. All that is set must agree.
    CaptureFilter(64) {
        /// An address that must be the packet's source or destination, under [`Self::mask`].
        addr: Addr16,
        /// Bits of [`Self::addr`] that count; all zero: any address.
        mask: Addr16,
        /// A port that must be the packet's source or destination, network order in the low 16 bits; 0: any.
        port: u32,
        /// IP protocol number; 0: any.
        proto: u32,
        /// Number of a reason, and 1 more; 0: any.
        reason: u32,
        /// A verdict ([`crate::Verdict`]'s number), and 1 more; 0: any.
        verdict: u32,
        /// When the capture ends by itself: seconds of CLOCK_MONOTONIC. Whoever captures renews it.
        until: u32,
        /// Bytes of a packet that are kept, at most [`capture::SNAP`].
        snap: u32,
        /// One of this many packets is kept; 0 and 1: every one.
        sample: u32,
        /// Reserved, 0.
        reserved: u32,
    }

    /// What stands before a captured packet's bytes in `CAPTURED`.
    CaptureRecord(32) {
        /// CLOCK_MONOTONIC in nanoseconds.
        time: u64,
        /// Bytes of the frame as it came in.
        frame_len: u32,
        /// Bytes of it that follow.
        captured: u32,
        /// The interface it came in by.
        ifindex: u32,
        /// The interface it left by; 0 if it did not.
        egress: u32,
        /// Number of the reason.
        reason: u32,
        /// Reserved, 0.
        reserved: u32,
    }
}

const _: () = assert!(align_of::<Traffic>() == 8);

/// Port and protocol as one key word: the port's two bytes as they lie in the packet, then the protocol, then 0.
#[inline(always)]
pub const fn port_proto(port_network_order: u16, protocol: u8) -> u32 {
    port_network_order as u32 | (protocol as u32) << 16
}
