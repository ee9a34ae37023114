//! What the kernel programs and userspace agree on, byte by byte.
//!
//! Owns the layout of every map key and value, the names of maps and programs, and the list of reasons.
//! Holds no logic: parsing, hashing and choosing live in `weir-fastpath`. Nothing here is an enum, `bool`,
//! `Option` or padded implicitly inside a map; words that come from a packet keep network byte order
//! *in memory* (they are loaded as they lie in the packet), all other integers are native.
//!
//! Any change of layout changes [`ABI_HASH`], and with it the directory that the maps are pinned under.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
mod hash;
pub mod maps;
pub mod names;
pub mod reason;
pub mod spec;

pub use addr::Addr16;
pub use hash::ABI_HASH;
pub use maps::{
    AdvertRecord, Backend, CaptureFilter, CaptureRecord, ClientKey, ClientState, FlowKey, FlowState,
    FragmentKey, FragmentState, GroupLink, HearKey, KnownService, LinkKey, ListEntry, NatFlow, NatReply,
    NatSource, NeighborEvent, NextHop, Prefix, QuicKey, RecordLimit, ReturnKey, ReturnTarget, ReturnVip,
    Service, ServiceKey, ServiceLimits, Settings, Slot, SteerKey, Taken, Traffic, Vlan,
};
pub use reason::{Note, REASON_COUNT, Reason, Verdict};
pub use spec::{MAPS, MapSpec};
