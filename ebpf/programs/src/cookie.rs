//! Which socket a packet is for, and the kernel's SYN cookies: what that socket says of it.
//!
//! Owns the socket look-up and the helpers around it, which XDP alone has. What becomes of the packet is
//! the matter of `weir_fastpath::pipeline`, `cookie` and `group`.
//!
//! The helpers want headers in memory of known size: they are copied to the stack.

use core::mem::{size_of, zeroed};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
        bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use weir_fastpath::{
    parse::Packet,
    tables::{Checked, Socket},
    window::opaque,
};

/// Bytes of an IPv4 header without options.
const IPV4_HEADER: u32 = 20;
/// Bytes of an IPv6 header.
const IPV6_HEADER: u32 = 40;
/// Bytes of a TCP header at least.
const TCP_HEADER: u32 = 20;
/// … and at most.
const TCP_HEADER_MAX: u32 = 60;
/// `TCP_LISTEN`
pub(crate) const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`
pub(crate) const CURRENT_NETNS: u64 = u64::MAX;

/// A cookie for a SYN, and its MSS 32 bits above; 0: none.
#[inline(always)]
pub(crate) fn make(ctx: &XdpContext, packet: &Packet) -> u64 {
    let mut headers = Headers::NONE;
    if !headers.copy(ctx, packet) {
        return 0;
    }
    let socket = look_up(ctx, packet);
    if socket.is_null() {
        return 0;
    }
    let mut made = 0;
    // SAFETY: the socket was just looked up and is held.
    if unsafe { state(socket) } == LISTEN {
        // SAFETY: the socket, and headers of the sizes that are passed along.
        made = unsafe {
            bpf_tcp_gen_syncookie(
                socket.cast(),
                (&raw mut headers.ip).cast(),
                ip_len(packet),
                (&raw mut headers.tcp).cast(),
                tcp_len(packet),
            )
        };
    }
    // SAFETY: held since the look-up, used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    // Negative: the kernel makes none.
    u64::try_from(made).unwrap_or(0)
}

/// What an ACK is to its socket.
#[inline(always)]
pub(crate) fn check(ctx: &XdpContext, packet: &Packet) -> Checked {
    let mut headers = Headers::NONE;
    if !headers.copy(ctx, packet) {
        return Checked::Other;
    }
    let socket = look_up(ctx, packet);
    if socket.is_null() {
        return Checked::Other;
    }
    let mut checked = Checked::Other;
    // SAFETY: the socket was just looked up and is held.
    if unsafe { state(socket) } == LISTEN {
        // SAFETY: as in `make`.
        let code = unsafe {
            bpf_tcp_check_syncookie(
                socket.cast(),
                (&raw mut headers.ip).cast(),
                ip_len(packet),
                (&raw mut headers.tcp).cast(),
                tcp_len(packet),
            )
        };
        checked = if code == 0 {
            Checked::Valid
        } else {
            Checked::Invalid
        };
    }
    // SAFETY: held since the look-up, used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    checked
}

/// What socket the stack would give a packet to.
#[inline(always)]
pub(crate) fn socket(ctx: &XdpContext, packet: &Packet) -> Socket {
    let socket = look_up(ctx, packet);
    if socket.is_null() {
        return Socket::None;
    }
    // SAFETY: the socket was just looked up and is held.
    let state = unsafe { state(socket) };
    // SAFETY: held since the look-up, used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    if state == LISTEN {
        Socket::Listening
    } else {
        Socket::Connected
    }
}

/// # Safety
/// `socket` must be held.
#[inline(always)]
pub(crate) unsafe fn state(socket: *mut bpf_sock) -> u32 {
    // SAFETY: the caller's; the field is one that programs may read. Volatile: a load of just this word.
    unsafe { (&raw const (*socket).state).read_volatile() }
}

/// The socket that the stack would give the packet to, by way of `weir_steer` where that knows it; null: none. To be
/// released.
#[inline(always)]
fn look_up(ctx: &XdpContext, packet: &Packet) -> *mut bpf_sock {
    // SAFETY: a union of plain words, for which zeros are a value.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let len = if packet.v4 {
        // SAFETY: plain words, see above.
        let v4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        v4.saddr = packet.flow.src.v4_word();
        v4.daddr = packet.flow.dst.v4_word();
        v4.sport = packet.source_port();
        v4.dport = packet.destination_port();
        size_of_val(v4)
    } else {
        // SAFETY: plain words, see above.
        let v6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        v6.saddr = packet.flow.src.words;
        v6.daddr = packet.flow.dst.words;
        v6.sport = packet.source_port();
        v6.dport = packet.destination_port();
        size_of_val(v6)
    };
    const { assert!(size_of::<bpf_sock_tuple>() == 36) };
    // SAFETY: the context of this run, and a tuple of the size that is passed along.
    unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, len as u32, CURRENT_NETNS, 0) }
}

/// Copies of a packet's headers.
struct Headers {
    ip: [u64; 5],
    tcp: [u64; 8],
}

impl Headers {
    const NONE: Self = Self {
        ip: [0; 5],
        tcp: [0; 8],
    };

    /// Whether the frame has them.
    #[inline(always)]
    fn copy(&mut self, ctx: &XdpContext, packet: &Packet) -> bool {
        const {
            assert!(size_of::<[u64; 5]>() == IPV6_HEADER as usize);
            assert!(size_of::<[u64; 8]>() >= TCP_HEADER_MAX as usize);
        };
        let (ip, tcp) = ((&raw mut self.ip).cast(), (&raw mut self.tcp).cast());
        // SAFETY: the context of this run, and memory with room for the largest headers.
        unsafe {
            bpf_xdp_load_bytes(ctx.as_ptr().cast(), packet.network_at, ip, ip_len(packet)) == 0
                && bpf_xdp_load_bytes(ctx.as_ptr().cast(), packet.transport_at, tcp, tcp_len(packet)) == 0
        }
    }
}

/// Of the IP header, without options.
#[inline(always)]
fn ip_len(packet: &Packet) -> u32 {
    if packet.v4 { IPV4_HEADER } else { IPV6_HEADER }
}

/// Of the TCP header. Hidden from LLVM, which knows the bounds from before and would leave out what shows them to the
/// verifier.
#[inline(always)]
fn tcp_len(packet: &Packet) -> u32 {
    (opaque(packet.header_len.into()) as u32).clamp(TCP_HEADER, TCP_HEADER_MAX)
}
