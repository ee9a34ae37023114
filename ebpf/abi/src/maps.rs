//! Keys and values of the maps.

use core::mem::{offset_of, size_of};

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
    /// What a client addresses. Key of `SERVICES` and `STEER`.
    ServiceKey(20) {
        /// The virtual address.
        addr: Addr16,
        /// [`port_proto`] of the port and the IP protocol number.
        port_proto: u32,
    }

    /// A service as XDP sees it. Replaced whole, by one map update: a reader sees the old or the new one.
    Service(24) {
        /// Index into `SERVICE_TRAFFIC`, from 0.
        id: u32,
        /// [`action::RELAY`] or [`action::NAT`].
        action: u32,
        /// First slot of its ring in `RINGS`.
        ring_offset: u32,
        /// Slots of its ring; 0 when no backend may take traffic.
        ring_len: u32,
        /// Reserved, 0.
        flags: u32,
        /// Counts up with each change of the ring.
        generation: u32,
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
    Backend(24) {
        /// Its address, of the same family as the VIP in `nat`.
        addr: Addr16,
        /// Its port, network order in the low 16 bits; 0: the client's destination port is kept.
        port: u32,
        /// Bits of [`backend`].
        flags: u32,
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
    FlowState(8) {
        /// Index into `BACKENDS`.
        backend: u32,
        /// When it was recorded: seconds of CLOCK_MONOTONIC.
        recorded: u32,
    }

    /// Source of a reply. Key of `RETURNS`.
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
        /// The VIP's port, network order in the low 16 bits.
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
        /// The VIP's port, network order in the low 16 bits.
        port: u32,
        /// Service id, for its traffic.
        service: u32,
        /// Backend index, for its traffic.
        backend: u32,
    }

    /// What an operator may tune without new code. Written whole.
    Settings(48) {
        /// Key of the flow hash (SipHash-1-3), two little-endian words. Boxes that share it place flows alike.
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
        /// Reserved, 0.
        reserved: [u32; 3],
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
}

const _: () = assert!(align_of::<Traffic>() == 8);

/// Port and protocol as one key word: the port's two bytes as they lie in the packet, then the protocol, then 0.
#[inline(always)]
pub const fn port_proto(port_network_order: u16, protocol: u8) -> u32 {
    port_network_order as u32 | (protocol as u32) << 16
}

/// Values of [`Service::action`].
pub mod action {
    /// Up to the stack, where `weir_steer` finds the relay's socket.
    pub const RELAY: u32 = 0;
    /// Rewrite the destination and forward; the backend answers through this box.
    pub const NAT: u32 = 1;
}

/// Keys of `RECORD_LIMIT`.
pub mod limit {
    /// New flows recorded; the limit is [`Settings::record_limit`](super::Settings::record_limit).
    pub const FLOWS: u32 = 0;
    /// Neighbor events; the limit is [`NEIGHBOR_EVENTS`].
    pub const EVENTS: u32 = 1;
    /// Entries of the map.
    pub const COUNT: u32 = 2;

    /// Neighbor events per CPU and second: next hops that are asked for at once, when a box starts, say.
    pub const NEIGHBOR_EVENTS: u32 = 256;
}

/// Bits of [`Backend::flags`](super::maps::Backend).
pub mod backend {
    /// Takes the flows it has (up, or draining). Without it its flows are remapped.
    pub const ALIVE: u32 = 1;
    /// Several VIPs share it: the flow's VIP must be remembered for the replies.
    pub const SHARED: u32 = 2;
}

/// Bits of [`ReturnTarget::flags`](super::maps::ReturnTarget).
pub mod returns {
    /// Several VIPs share this backend address: ask `RETURN_FLOWS`.
    pub const SHARED: u32 = 1;
}
