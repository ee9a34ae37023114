//! `weir_take`: which packets to addresses of others the box takes in.
//!
//! Owns the question, at the ingress of an interface; the answer is a mark in the packet, which a rule of the kernel's
//! (installed by `weir-datapath`) turns into delivery on this box. Without it such a packet would be routed on, or dropped
//! where `ip_forward` is off. What is taken in is TCP to an address and port of a transparent listener (`TAKEN`), and what
//! belongs to a connection that the box has with the address of somebody else: the relay's, in a client's name. What then
//! becomes of a new connection is `weir_steer`'s.
//!
//! The headers are copied: a packet in several buffers has them anywhere. Fragments and packets with extension headers are
//! not taken in.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{bpf_hdr_start_off, bpf_sock_tuple},
    helpers::generated::{bpf_sk_release, bpf_skb_load_bytes_relative, bpf_skc_lookup_tcp},
    maps::lpm_trie::Key,
    programs::TcContext,
};
use weir_abi::{
    Addr16, Note, Reason, Taken,
    maps::{list, settings, take},
};

use crate::{
    cookie::{CURRENT_NETNS, LISTEN, state},
    kernel::{bump, seconds},
    maps::{LISTS, SETTINGS, TAKEN},
};

/// Ethertypes, as they lie in a packet.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// TCP flags.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What becomes of a packet.
pub(crate) enum Take {
    /// It goes its way, marked or not.
    Pass,
    /// Its source is banned.
    Drop,
}

/// A TCP packet, as far as it is looked at.
struct Segment {
    src: Addr16,
    dst: Addr16,
    /// Both ports as they lie in the packet.
    ports: u32,
    /// Whether it begins a connection.
    begins: bool,
}

#[inline(always)]
pub(crate) fn take(ctx: &TcContext) -> Take {
    let Some(segment) = segment(ctx) else {
        return Take::Pass;
    };
    let destination = u16::from_be((segment.ports >> 16) as u16);
    if let Some(taken) = TAKEN.get(Key::new(128, segment.dst)) {
        if taken.count == take::OWN {
            // The box's own address: the kernel takes it in by itself.
            return Take::Pass;
        }
        // SAFETY: the context of this run.
        let ifindex = unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() };
        if listener(taken, destination, ifindex).is_some() {
            if is_banned(&segment.src) {
                bump(Reason::Banned as u32);
                return Take::Drop;
            }
            mark(ctx);
            return Take::Pass;
        }
    }
    // A SYN of a peer belongs to no connection that there is.
    if !segment.begins && has_socket(ctx, &segment) {
        mark(ctx);
    }
    Take::Pass
}

/// Of the listener for a port (host order) and the interface it is met at, the index into `SOCKETS`.
#[inline(always)]
pub(crate) fn listener(taken: &Taken, port: u16, ifindex: u32) -> Option<u32> {
    let port = u32::from(port);
    let count = taken.count & !take::OWN;
    for i in 0..take::RANGES {
        if i as u32 >= count {
            break;
        }
        let range = taken.ports[i];
        let interface = taken.interfaces[i];
        if (range & 0xffff..=range >> 16).contains(&port) && (interface == 0 || interface == ifindex) {
            return Some(taken.sockets[i]);
        }
    }
    None
}

#[inline(always)]
fn mark(ctx: &TcContext) {
    // SAFETY: the context of this run, whose mark a program may read and write. Volatile: the verifier allows the word as a
    // whole, and LLVM would store the half that changes.
    unsafe {
        let mark = &raw mut (*ctx.skb.skb).mark;
        mark.write_volatile(mark.read_volatile() & !take::MASK | take::MARK);
    }
    bump(Note::TakenIn.index());
}

/// Whether a list keeps the source out.
#[inline(always)]
fn is_banned(source: &Addr16) -> bool {
    let listed = SETTINGS.get(0).is_some_and(|s| s.flags & settings::LISTS != 0);
    let entry = if listed {
        LISTS.get(Key::new(128, *source)).copied()
    } else {
        None
    };
    entry
        .is_some_and(|entry| entry.flags & list::ALLOW == 0 && (entry.until == 0 || seconds() <= entry.until))
}

/// Whether a connection of the box's own has these ends.
#[inline(always)]
fn has_socket(ctx: &TcContext, segment: &Segment) -> bool {
    let Segment { src, dst, ports, .. } = segment;
    // As `bpf_sock_tuple` has it: source, destination, ports.
    let mut tuple = [0_u32; 9];
    let len = if dst.is_v4() {
        (tuple[0], tuple[1], tuple[2]) = (src.v4_word(), dst.v4_word(), *ports);
        12
    } else {
        tuple[..4].copy_from_slice(&src.words);
        tuple[4..8].copy_from_slice(&dst.words);
        tuple[8] = *ports;
        36
    };
    const { assert!(size_of::<bpf_sock_tuple>() == size_of::<[u32; 9]>()) };
    let tuple = (&raw mut tuple).cast::<bpf_sock_tuple>();
    // SAFETY: the context of this run, and a tuple with room for the size that is passed along.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.skb.skb.cast(), tuple, len, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket was just looked up and is held.
    let found = unsafe { state(socket) } != LISTEN;
    // SAFETY: held since the look-up, used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    found
}

/// Takes a packet apart. None: it is none that could be taken in.
#[inline(always)]
fn segment(ctx: &TcContext) -> Option<Segment> {
    // SAFETY: the context of this run.
    let protocol = unsafe { (&raw const (*ctx.skb.skb).protocol).read_volatile() };
    let (src, dst, transport_at) = if protocol == IPV4 {
        let mut header = [0_u32; 5];
        load(ctx, 0, &mut header)?;
        let [first, fragment, second, src, dst] = header;
        let [version, ..] = first.to_ne_bytes();
        let [_, _, high, low] = fragment.to_ne_bytes();
        let [_, protocol, ..] = second.to_ne_bytes();
        let header_len = u32::from(version & 0xf) * 4;
        // Neither a fragment that others follow, nor one that follows.
        let whole = u16::from_be_bytes([high, low]) & 0x3fff == 0;
        if version >> 4 != 4 || header_len < 20 || protocol != TCP || !whole {
            return None;
        }
        (Addr16::from_v4_word(src), Addr16::from_v4_word(dst), header_len)
    } else if protocol == IPV6 {
        let mut header = [0_u32; 10];
        load(ctx, 0, &mut header)?;
        let [_, second, s0, s1, s2, s3, d0, d1, d2, d3] = header;
        let [_, _, next, _] = second.to_ne_bytes();
        if next != TCP {
            return None;
        }
        (
            Addr16::from_v6_words([s0, s1, s2, s3]),
            Addr16::from_v6_words([d0, d1, d2, d3]),
            40,
        )
    } else {
        return None;
    };
    let mut header = [0_u32; 4];
    load(ctx, transport_at, &mut header)?;
    let [ports, _, _, rest] = header;
    let [_, flags, ..] = rest.to_ne_bytes();
    Some(Segment {
        src,
        dst,
        ports,
        begins: flags & (SYN | ACK) == SYN,
    })
}

/// Copies words of the packet, `at` bytes behind the beginning of its network header. None if it is shorter.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, at: u32, words: &mut [u32; N]) -> Option<()> {
    let len = size_of::<[u32; N]>() as u32;
    // SAFETY: the context of this run, and memory of the size that is passed along.
    let done = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            at,
            (&raw mut *words).cast(),
            len,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        )
    };
    (done == 0).then_some(())
}
