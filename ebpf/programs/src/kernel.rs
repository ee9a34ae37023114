//! The kernel's side of `weir_fastpath::Tables`: maps and helpers.
//!
//! Owns every access to a map of `weir_xdp` and the route look-up. Decides nothing.
//!
//! Values are copied out of a map at once. An entry of a hash map that userspace replaces or deletes may be used again
//! for another key while a program still reads it: the copy makes that a matter of nanoseconds, and the order in which
//! userspace writes (backends, ring, service) makes either value a good one.

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_UNSUPP_LWT,
        bpf_fib_lookup as Fib,
    },
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    programs::XdpContext,
};
use weir_abi::{
    Addr16, Backend, FlowKey, FlowState, NeighborEvent, Note, Reason, RecordLimit, ReturnKey, ReturnTarget,
    ReturnVip, Service, ServiceKey, Settings, Slot, Traffic, maps::limit,
};
use weir_fastpath::{Direction, Route, RouteQuery, Tables, rewrite::Link, tables::within};

use crate::maps::{
    BACKEND_TRAFFIC, BACKENDS, EVENTS, FLOWS, NEIGHBORS, REASONS, RECORD_LIMIT, RETURN_FLOWS, RETURNS, RINGS,
    SERVICE_TRAFFIC, SERVICES, SETTINGS,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The maps, seen by one run of `weir_xdp`.
pub(crate) struct Kernel<'a> {
    ctx: &'a XdpContext,
}

impl<'a> Kernel<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

/// Adds one to `REASONS[index]` of this CPU.
#[inline(always)]
pub(crate) fn bump(index: u32) {
    if let Some(counter) = REASONS.get_ptr_mut(index) {
        // SAFETY: a value of this CPU, which no other program of ours changes at the same time: XDP and sk_lookup run
        // with bottom halves off.
        unsafe { *counter += 1 };
    }
}

/// Seconds of CLOCK_MONOTONIC, by the coarse clock: it lags by a tick, costs a fifth, and seconds are what is asked.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

#[inline(always)]
fn add(traffic: *mut Traffic, direction: Direction, bytes: u32, new_flow: bool) {
    // SAFETY: a value of this CPU's, as in `bump`.
    let traffic = unsafe { &mut *traffic };
    match direction {
        Direction::In => {
            traffic.packets_in += 1;
            traffic.bytes_in += u64::from(bytes);
            traffic.flows += u64::from(new_flow);
        }
        Direction::Out => {
            traffic.packets_out += 1;
            traffic.bytes_out += u64::from(bytes);
        }
    }
}

impl Tables for Kernel<'_> {
    #[inline(always)]
    fn service(&mut self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: copied at once, see the module.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn settings(&mut self) -> Option<Settings> {
        SETTINGS.get(0).copied()
    }

    #[inline(always)]
    fn slot(&mut self, index: u32) -> Option<Slot> {
        let slot = RINGS.get_ptr(index)?.cast::<u64>();
        // SAFETY: 8 bytes, 8-aligned: one volatile load, so that a slot is seen before or after its change, never in
        // between.
        let word = unsafe { slot.read_volatile() }.to_le();
        Some(Slot {
            current: word as u16,
            previous: (word >> 16) as u16,
            changed: (word >> 32) as u32,
        })
    }

    #[inline(always)]
    fn backend(&mut self, index: u32) -> Option<Backend> {
        BACKENDS.get(index).copied()
    }

    #[inline(always)]
    fn now(&mut self) -> u32 {
        seconds()
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey) -> Option<FlowState> {
        // SAFETY: copied at once, see the module.
        unsafe { FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool {
        FLOWS.insert(key, state, 0).is_ok()
    }

    #[inline(always)]
    fn record_limit(&mut self) -> Option<&mut RecordLimit> {
        // SAFETY: a value of this CPU, as in `bump`.
        RECORD_LIMIT
            .get_ptr_mut(limit::FLOWS)
            .map(|limit| unsafe { &mut *limit })
    }

    #[inline(always)]
    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget> {
        // SAFETY: copied at once, see the module.
        unsafe { RETURNS.get(key) }.copied()
    }

    #[inline(always)]
    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip> {
        // SAFETY: copied at once, see the module.
        unsafe { RETURN_FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool {
        RETURN_FLOWS.insert(key, vip, 0).is_ok()
    }

    #[inline(always)]
    fn route(&mut self, query: &RouteQuery) -> Route {
        // SAFETY: a structure of the kernel's ABI: integers and unions of them, for which zeros are a value.
        let mut fib: Fib = unsafe { zeroed() };
        fib.l4_protocol = query.protocol;
        let [s0, s1, d0, d1] = query.ports.to_ne_bytes();
        fib.sport = u16::from_ne_bytes([s0, s1]);
        fib.dport = u16::from_ne_bytes([d0, d1]);
        fib.__bindgen_anon_1.tot_len = query.total_len;
        // Looked up as if it came from an interface of weir's choice: the kernel asks that interface, and only that,
        // whether it forwards. So weir switches `lo` and leaves the box's own forwarding alone.
        fib.ifindex = query.from;
        if query.v4 {
            fib.family = AF_INET;
            fib.__bindgen_anon_2.tos = query.traffic_class as u8;
            fib.__bindgen_anon_3.ipv4_src = query.src.v4_word();
            fib.__bindgen_anon_4.ipv4_dst = query.dst.v4_word();
        } else {
            fib.family = AF_INET6;
            fib.__bindgen_anon_2.flowinfo = query.traffic_class;
            fib.__bindgen_anon_3.ipv6_src = query.src.words;
            fib.__bindgen_anon_4.ipv6_dst = query.dst.words;
        }
        // SAFETY: the context of this run, and a structure of the size that is passed along.
        let code = unsafe { bpf_fib_lookup(self.ctx.as_ptr(), &raw mut fib, size_of::<Fib>() as i32, 0) };
        // Negative: the look-up could not be made (no such interface, …).
        let Ok(code) = u32::try_from(code) else {
            return Route::Failed;
        };
        match code {
            BPF_FIB_LKUP_RET_SUCCESS => Route::Via {
                ifindex: fib.ifindex,
                link: Link {
                    destination: words(fib.dmac),
                    source: words(fib.smac),
                },
            },
            BPF_FIB_LKUP_RET_NOT_FWDED => Route::NotForwarded,
            BPF_FIB_LKUP_RET_FWD_DISABLED => Route::Disabled,
            BPF_FIB_LKUP_RET_BLACKHOLE
            | BPF_FIB_LKUP_RET_UNREACHABLE
            | BPF_FIB_LKUP_RET_PROHIBIT
            | BPF_FIB_LKUP_RET_UNSUPP_LWT => Route::Unreachable,
            BPF_FIB_LKUP_RET_NO_NEIGH => {
                // The kernel has put the next hop where the destination was: a gateway, of either family.
                let next_hop = if fib.family == AF_INET {
                    // SAFETY: plain words, initialised above.
                    Addr16::from_v4_word(unsafe { fib.__bindgen_anon_4.ipv4_dst })
                } else {
                    // SAFETY: as above.
                    Addr16::from_v6_words(unsafe { fib.__bindgen_anon_4.ipv6_dst })
                };
                Route::NoNeighbor {
                    next_hop,
                    ifindex: fib.ifindex,
                }
            }
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig,
            _ => Route::Failed,
        }
    }

    /// One event per next hop and second, and not more than a CPU may send in a second: a flood costs a look-up or two
    /// per packet, and userspace no more than it can do.
    #[inline(always)]
    fn resolve_neighbor(&mut self, next_hop: &Addr16, ifindex: u32) {
        let event = NeighborEvent {
            addr: *next_hop,
            ifindex,
            reserved: 0,
        };
        let now = seconds();
        // SAFETY: copied at once, see the module.
        if unsafe { NEIGHBORS.get(event) }.copied() == Some(now) {
            return;
        }
        // SAFETY: a value of this CPU, as in `bump`.
        let window = RECORD_LIMIT
            .get_ptr_mut(limit::EVENTS)
            .map(|window| unsafe { &mut *window });
        let within = window.is_some_and(|window| within(window, now, limit::NEIGHBOR_EVENTS));
        if !within || EVENTS.output::<NeighborEvent>(event, 0).is_err() {
            self.note(Note::EventLost);
            return;
        }
        // If the table refuses, the next hop is asked for once too often at worst.
        _ = NEIGHBORS.insert(event, now, 0);
    }

    #[inline(always)]
    fn count(&mut self, reason: Reason) {
        bump(reason as u32);
    }

    #[inline(always)]
    fn note(&mut self, note: Note) {
        bump(note.index());
    }

    #[inline(always)]
    fn traffic(&mut self, service: u32, backend: u32, direction: Direction, bytes: u32, new_flow: bool) {
        if let Some(traffic) = SERVICE_TRAFFIC.get_ptr_mut(service) {
            add(traffic, direction, bytes, new_flow);
        }
        if let Some(traffic) = BACKEND_TRAFFIC.get_ptr_mut(backend) {
            add(traffic, direction, bytes, new_flow);
        }
    }
}

/// A link address as three words in memory order.
#[inline(always)]
const fn words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}
