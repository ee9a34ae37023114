//! Keys and values of `weir-abi` as aya wants them: plain data.

use aya::Pod;
use weir_abi::{
    Addr16, Backend, CaptureFilter, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState,
    GroupLink, HearKey, LinkKey, ListEntry, NatFlow, NatReply, NatSource, NeighborEvent, NextHop, QuicKey,
    RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings, Slot,
    SteerKey, Taken, Traffic, Vlan, maps::filter,
};

/// A key or value of `weir-abi`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw<T>(pub(super) T);

/// What a map may hold.
///
/// # Safety
/// Integers and arrays of them, without padding: every bit pattern is a value.
pub(super) unsafe trait Layout: Copy + 'static {}

macro_rules! layouts { ($($ty:ty)*) => { $(
    // SAFETY: a number, or a layout of which weir-abi asserts at compile time that it has no padding.
    unsafe impl Layout for $ty {}
)* } }
layouts! {
    u32 u64 [u64; filter::VALUE] Addr16 ServiceKey Service Backend Slot FlowKey FlowState ReturnKey ReturnTarget ReturnVip
    Settings RecordLimit Traffic NeighborEvent NextHop Vlan ListEntry NatFlow NatReply NatSource FragmentKey
    FragmentState GroupLink HearKey LinkKey QuicKey ClientKey ClientState ServiceLimits CaptureFilter Taken SteerKey
}

// SAFETY: as `Layout` promises.
unsafe impl<T: Layout> Pod for Raw<T> {}
