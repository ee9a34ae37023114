//! The kernel's side of `weir_fastpath::Tables`: maps and helpers.
//!
//! Owns every access to a map of `weir_xdp` and the route look-up. Decides nothing.
//!
//! Values are copied out of a map at once. An entry of a hash map that userspace replaces or deletes may be used again
//! for another key while a program still reads it: the copy makes that a matter of nanoseconds, and the order in which
//! userspace writes (backends, ring, service) makes either value a good one.

mod groups;
mod keys;

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_NOEXIST,
        bpf_fib_lookup as Fib,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    },
    maps::{HashMap, lpm_trie::Key},
    programs::XdpContext,
};
use weir_abi::{
    Addr16, Backend, ClientKey, ClientState, FlowKey, FlowState, FragmentKey, FragmentState, GroupLink,
    HearKey, KnownService, ListEntry, NatFlow, NatReply, NatSource, NeighborEvent, NextHop, Note, Prefix,
    QuicKey, Reason, RecordLimit, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits,
    Settings, Slot, Traffic, Vlan,
    maps::{filter, known, limit},
    spec::{PARKED_NAT_AT, PARKED_RECORD_AT, PARKED_WORDS},
};
use weir_fastpath::{
    Direction, Route, RouteQuery, Tables,
    parse::Packet,
    pipeline::{Nat, Parked},
    rewrite::Link,
    tables::{Beginning, Checked, Socket, within},
};

pub(crate) use self::groups::{leased, linked};
use self::keys::{Words, key_in, same};
use crate::maps::{
    BACKEND_TRAFFIC, BACKENDS, CLIENTS, EVENTS, FILTER, FLOWS, FRAGMENTS, HEARS, KNOWN_SERVICES, LEASES,
    LINKS, LISTS, NAT_CURSORS, NAT_FLOWS, NAT_REPLIES, NAT_SOURCES, NEIGHBORS, NEXT_HOPS, PARKED, QUIC_IDS,
    REASONS, RECORD_LIMIT, RETURN_FLOWS, RETURNS, RINGS, ROUTES, SERVICE_LIMITS, SERVICE_TRAFFIC, SERVICES,
    SETTINGS, VLANS,
};
use crate::{advert, cookie};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A record of a first fragment, as it lies in `PARKED` behind the packet when it is written: the programs that write it
/// have no stack to spare.
#[repr(C)]
struct Remembered {
    packet: [u64; PARKED_RECORD_AT],
    key: FragmentKey,
    state: FragmentState,
}

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
pub(crate) fn seconds() -> u32 {
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
    type Held<T: Copy + 'static> = &'static T;

    #[inline(always)]
    fn service(&mut self, key: &ServiceKey) -> Option<Service> {
        let words = key.words();
        let [_, low, port] = words;
        // Read before the entry is: if it changes in between, what is remembered is of an epoch that is over.
        let epoch = FILTER.get_ptr(0)?.cast::<u64>();
        // SAFETY: the word lies in the value; it is loaded whole.
        let epoch = unsafe { epoch.add(filter::EPOCH).read_volatile() };
        // The host's part of the address and the port's low byte, which is where services differ.
        let place = (low >> 56) ^ (port >> 8) ^ (port << 4);
        let known = KNOWN_SERVICES.get_ptr_mut(place as u32 & (known::COUNT - 1))?;
        // SAFETY: a value of this CPU, as in `bump`.
        let known = unsafe { &mut *known };
        if epoch != 0 && known.epoch == epoch && same(known.key, words) {
            return Some(known.service);
        }
        // SAFETY: copied at once, see the module.
        let service = unsafe { SERVICES.get(key_in(&words)) }.copied()?;
        if epoch != 0 {
            *known = KnownService {
                epoch,
                key: words,
                service,
            };
        }
        Some(service)
    }

    #[inline(always)]
    fn settings(&mut self) -> Option<&'static Settings> {
        let settings = SETTINGS.get_ptr(0)?;
        // SAFETY: a value of an array, which lives as long as the program. Userspace may write it meanwhile: then some
        // fields are read before and some after, and no invariant ties them together.
        Some(unsafe { &*settings })
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
    fn filter(&mut self, word: u32) -> u64 {
        let Some(words) = FILTER.get_ptr(0) else { return 0 };
        let word = word as usize & (filter::WORDS - 1);
        // SAFETY: the index lies in the array; a word is loaded whole.
        unsafe { words.cast::<u64>().add(word).read_volatile() }
    }

    #[inline(always)]
    fn next_hop(&mut self, index: u32) -> Option<NextHop> {
        NEXT_HOPS.get(index).copied()
    }

    #[inline(always)]
    fn client_route(&mut self, client: &Addr16) -> u32 {
        ROUTES.get(Key::new(128, *client)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn vlan(&mut self, ifindex: u32) -> Option<Vlan> {
        // SAFETY: copied at once, see the module.
        unsafe { VLANS.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn cpu(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn nat_flow(&mut self, key: &FlowKey) -> Option<&mut NatFlow> {
        // SAFETY: see `in_place`.
        in_place(&NAT_FLOWS, key).map(|value| unsafe { &mut *value })
    }

    #[inline(always)]
    fn add_nat_flow(&mut self, key: &FlowKey, flow: &NatFlow) -> bool {
        NAT_FLOWS
            .insert(key_in(&key.words()), flow, BPF_NOEXIST.into())
            .is_ok()
    }

    #[inline(always)]
    fn remove_nat_flow(&mut self, key: &FlowKey) {
        // What is not there any more need not go.
        _ = NAT_FLOWS.remove(key);
    }

    #[inline(always)]
    fn nat_reply(&mut self, key: &FlowKey) -> Option<&mut NatReply> {
        // SAFETY: see `in_place`.
        in_place(&NAT_REPLIES, key).map(|value| unsafe { &mut *value })
    }

    #[inline(always)]
    fn add_nat_reply(&mut self, key: &FlowKey, reply: &NatReply) -> bool {
        NAT_REPLIES
            .insert(key_in(&key.words()), reply, BPF_NOEXIST.into())
            .is_ok()
    }

    #[inline(always)]
    fn remove_nat_reply(&mut self, key: &FlowKey) {
        // As above.
        _ = NAT_REPLIES.remove(key);
    }

    #[inline(always)]
    fn nat_source(&mut self, index: u32) -> Option<NatSource> {
        NAT_SOURCES.get(index).copied()
    }

    #[inline(always)]
    fn nat_cursor(&mut self, service: u32) -> Option<&mut u64> {
        // SAFETY: a value of this CPU, as in `bump`.
        NAT_CURSORS
            .get_ptr_mut(service)
            .map(|cursor| unsafe { &mut *cursor })
    }

    #[inline(always)]
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentState> {
        // SAFETY: copied at once, see the module.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn record_fragment(&mut self, key: &FragmentKey, state: &FragmentState) -> bool {
        const { assert!(size_of::<Remembered>() <= size_of::<[u64; PARKED_NAT_AT]>()) };
        let Some(place) = PARKED.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: the value has room for it, is aligned to 8 bytes, holds numbers only and belongs to this CPU.
        let place = unsafe { &mut *place.cast::<Remembered>() };
        place.key = *key;
        place.state = *state;
        let (key, state) = (&place.key, &place.state);
        FRAGMENTS.insert(key, state, 0).is_ok()
    }

    #[inline(always)]
    fn quic_id(&mut self, key: &QuicKey) -> Option<u32> {
        // SAFETY: copied at once, see the module.
        unsafe { QUIC_IDS.get(key) }.copied()
    }

    #[inline(always)]
    fn list(&mut self, source: &Addr16) -> Option<ListEntry> {
        LISTS.get(Key::new(128, *source)).copied()
    }

    #[inline(always)]
    fn add_to_list(&mut self, network: &Prefix, entry: &ListEntry) -> bool {
        LISTS
            .insert(Key::new(network.len, network.addr), entry, 0)
            .is_ok()
    }

    #[inline(always)]
    fn client(&mut self, key: &ClientKey) -> Option<&mut ClientState> {
        let state = CLIENTS.get_ptr_mut(key_in(&key.words()))?;
        // SAFETY: as in `in_place`.
        Some(unsafe { &mut *state })
    }

    #[inline(always)]
    fn beginning(&mut self, client: &ClientKey, flow: &FlowKey) -> Option<Beginning<'_>> {
        let flow = in_place(&FLOWS, flow);
        let client = CLIENTS.get_ptr_mut(key_in(&client.words()))?;
        let window = RECORD_LIMIT.get_ptr_mut(limit::FLOWS);
        // SAFETY: as in `in_place`; the window as in `bump`.
        unsafe {
            Some(Beginning {
                client: &mut *client,
                flow: flow.map(|flow| &mut *flow),
                window: window.map(|window| &mut *window),
            })
        }
    }

    #[inline(always)]
    fn record_client(&mut self, key: &ClientKey, state: &ClientState) -> bool {
        CLIENTS.insert(key_in(&key.words()), state, 0).is_ok()
    }

    #[inline(always)]
    fn service_limits(&mut self, service: u32) -> Option<&'static ServiceLimits> {
        let limits = SERVICE_LIMITS.get_ptr(service)?;
        // SAFETY: as in `settings`.
        Some(unsafe { &*limits })
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey) -> Option<&mut FlowState> {
        // SAFETY: see `in_place`.
        in_place(&FLOWS, key).map(|value| unsafe { &mut *value })
    }

    #[inline(always)]
    fn record_flow(&mut self, key: &FlowKey, state: &FlowState) -> bool {
        FLOWS.insert(key_in(&key.words()), state, 0).is_ok()
    }

    #[inline(always)]
    fn limit(&mut self, which: u32) -> Option<&mut RecordLimit> {
        // SAFETY: a value of this CPU, as in `bump`.
        RECORD_LIMIT
            .get_ptr_mut(which)
            .map(|limit| unsafe { &mut *limit })
    }

    #[inline(always)]
    fn return_target(&mut self, key: &ReturnKey) -> Option<ReturnTarget> {
        // SAFETY: copied at once, see the module.
        unsafe { RETURNS.get(key_in(&key.words())) }.copied()
    }

    #[inline(always)]
    fn return_flow(&mut self, key: &FlowKey) -> Option<ReturnVip> {
        // SAFETY: copied at once, see the module.
        unsafe { RETURN_FLOWS.get(key_in(&key.words())) }.copied()
    }

    #[inline(always)]
    fn record_return_flow(&mut self, key: &FlowKey, vip: &ReturnVip) -> bool {
        RETURN_FLOWS.insert(key_in(&key.words()), vip, 0).is_ok()
    }

    #[inline(always)]
    fn lease(&mut self, addr: &Addr16) -> u32 {
        leased(addr)
    }

    #[inline(always)]
    fn lease_until(&mut self, slot: u32) -> u64 {
        // SAFETY: a value of an array: one volatile load of a whole word, which userspace stores whole.
        LEASES
            .get_ptr(slot)
            .map_or(0, |word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn linked(&mut self, mac: &[u16; 3]) -> u32 {
        linked(*mac, self.ctx.ingress_ifindex() as u32)
    }

    #[inline(always)]
    fn group_link(&mut self, index: u32) -> Option<&'static GroupLink> {
        let link = LINKS.get_ptr(index)?;
        // SAFETY: as in `settings`. The slots of an entry do not move while programs are attached that know its group.
        Some(unsafe { &*link })
    }

    #[inline(always)]
    fn socket(&mut self, packet: &Packet) -> Socket {
        cookie::socket(self.ctx, packet)
    }

    #[inline(always)]
    fn clock(&mut self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn coarse_clock(&mut self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn hears(&mut self, to: &Addr16) -> bool {
        let key = HearKey {
            addr: *to,
            ifindex: self.ctx.ingress_ifindex() as u32,
        };
        // SAFETY: nothing is read of it.
        unsafe { HEARS.get(key_in(&key.words())) }.is_some()
    }

    #[inline(always)]
    fn hand_out_advert(&mut self) -> bool {
        advert::hand_out(self.ctx)
    }

    #[inline(always)]
    fn syn_cookie(&mut self, packet: &Packet) -> u64 {
        cookie::make(self.ctx, packet)
    }

    #[inline(always)]
    fn check_cookie(&mut self, packet: &Packet) -> Checked {
        cookie::check(self.ctx, packet)
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
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig {
                // SAFETY: plain words; for this answer the kernel has put the MTU where the length was.
                mtu: unsafe { fib.__bindgen_anon_1.mtu_result }.into(),
            },
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
    fn park(&mut self, parked: &Parked) {
        const { assert!(size_of::<Parked>() <= size_of::<[u64; PARKED_RECORD_AT]>() && align_of::<Parked>() <= 8) };
        if let Some(place) = PARKED.get_ptr_mut(0) {
            // SAFETY: the value has room for it and belongs to this CPU.
            unsafe { place.cast::<Parked>().write(*parked) };
        }
    }

    #[inline(always)]
    fn parked(&mut self) -> Option<&mut Parked> {
        let place = PARKED.get_ptr_mut(0)?.cast::<Parked>();
        // SAFETY: nothing else is ever put there, and a program that picks it up runs right behind one that put it down,
        // on the same CPU.
        Some(unsafe { &mut *place })
    }

    #[inline(always)]
    fn parked_nat(&mut self) -> Option<&mut Nat> {
        const {
            assert!(
                size_of::<Nat>() <= size_of::<[u64; PARKED_WORDS - PARKED_NAT_AT]>()
                    && align_of::<Nat>() <= 8
            )
        };
        let words = PARKED.get_ptr_mut(0)?.cast::<u64>();
        // SAFETY: the value has room for it behind the packet. Plain words, of which any are a value; nothing else is ever
        // put there.
        Some(unsafe { &mut *words.add(PARKED_NAT_AT).cast::<Nat>() })
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

/// A value of a hash map, to be changed where it lies.
///
/// What it points to is an element of a preallocated map: the memory stays a value of this map for as long as the program
/// runs, even if the key is deleted meanwhile. Other CPUs may change it too: the fields are words of their own, and no
/// invariant ties them together.
#[inline(always)]
fn in_place<K: Words, V>(map: &HashMap<K, V>, key: &K) -> Option<*mut V> {
    map.get_ptr_mut(key_in::<K>(&key.words()))
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
