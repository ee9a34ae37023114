//! `weir_steer`: which of the relay's sockets takes a connection to a virtual address.
//!
//! Owns the look-up of `STEER`, `TAKEN` and `SOCKETS`. The kernel runs it for every connection (TCP) or datagram (UDP) that no
//! connected socket takes, in the namespace it is attached to. A listener of one interface takes what comes in by that one: the
//! kernel does not look at the interface that a socket is bound to, once it was chosen here. What it does not know it leaves to the kernel's own
//! look-up. What it knows but has no socket for it refuses: nothing may end up at another program's wildcard socket.

use aya_ebpf::{maps::lpm_trie::Key, programs::SkLookupContext};
use weir_abi::{
    Addr16, Note, SteerKey,
    maps::{port_proto, steer},
};

use crate::{
    kernel::bump,
    maps::{SOCKETS, STEER, TAKEN},
    take,
};

const AF_INET: u32 = 2;
/// `IPPROTO_TCP`
const TCP: u8 = 6;

/// What became of a look-up.
pub(crate) enum Steered {
    /// The relay's socket takes it.
    Socket,
    /// No L7 service has this address and port.
    NotOurs,
    /// An L7 service's, but its socket is gone, or there is none for the interface: refused.
    Refused,
}

/// `BY_INTERFACE`: the kernel says which interface the connection comes in by.
#[inline(always)]
pub(crate) fn steer<const BY_INTERFACE: bool>(ctx: &SkLookupContext) -> Steered {
    let lookup = ctx.lookup;
    // SAFETY: the kernel's context. Every field is read by a volatile load of its own, whatever the family: the verifier
    // allows a context only constant offsets, and LLVM would choose between two of them first and load once.
    // Addresses are in network order, the local port is in host order.
    let (family, v4, v6, port, protocol) = unsafe {
        (
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).local_ip4).read_volatile(),
            [
                (&raw const (*lookup).local_ip6[0]).read_volatile(),
                (&raw const (*lookup).local_ip6[1]).read_volatile(),
                (&raw const (*lookup).local_ip6[2]).read_volatile(),
                (&raw const (*lookup).local_ip6[3]).read_volatile(),
            ],
            (&raw const (*lookup).local_port).read_volatile() as u16,
            (&raw const (*lookup).protocol).read_volatile() as u8,
        )
    };
    let addr = if family == AF_INET {
        Addr16::from_v4_word(v4)
    } else {
        Addr16::from_v6_words(v6)
    };
    let ifindex = if BY_INTERFACE {
        // SAFETY: the kernel's context. Older kernels refuse a program that reads this, so theirs does not.
        unsafe { (&raw const (*lookup).ingress_ifindex).read_volatile() }
    } else {
        0
    };
    let mut key = SteerKey {
        addr,
        port_proto: port_proto(port.to_be(), protocol),
        ifindex: 0,
    };
    // SAFETY: copied at once.
    let index = match unsafe { STEER.get(key) }.copied() {
        Some(anyone) if BY_INTERFACE && anyone & steer::BY_INTERFACE != 0 => {
            key.ifindex = ifindex;
            let own = match ifindex {
                0 => None,
                // SAFETY: copied at once.
                1.. => unsafe { STEER.get(key) }.copied(),
            };
            match (own, anyone & !steer::BY_INTERFACE) {
                (Some(index), _) => index,
                (None, steer::NOBODY) => {
                    bump(Note::SteerInterface.index());
                    return Steered::Refused;
                }
                (None, index) => index,
            }
        }
        Some(index) => index,
        // To an address that is not on the box, which `weir_take` has let in.
        None if protocol == TCP => {
            let taken = TAKEN.get(Key::new(128, addr));
            let Some(index) = taken.and_then(|taken| take::listener(taken, port, ifindex)) else {
                return Steered::NotOurs;
            };
            index
        }
        None => return Steered::NotOurs,
    };
    match SOCKETS.redirect_sk_lookup(ctx, index, 0) {
        Ok(()) => {
            bump(Note::Steered.index());
            Steered::Socket
        }
        Err(_) => {
            bump(Note::SteerNoSocket.index());
            Steered::Refused
        }
    }
}
