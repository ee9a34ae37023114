//! IPv6 and its extension headers (RFC 8200 section 4), as far as they are followed.
//!
//! Owns the walk along the chain. A chain is followed over [`MAX_HEADERS`] headers and up to
//! [`MAX_TRANSPORT_AT`](super::MAX_TRANSPORT_AT) bytes of frame; one that goes on is left to the stack, as is one that means
//! something that rewriting would break.

use weir_abi::{Addr16, Reason};

use super::{Fragment, ICMPV6, Network, Rest, TCP, UDP};
use crate::window::{Window, forget};

/// Extension headers that are followed. RFC 8200 section 4.1 recommends at most one of each, and destination options
/// twice: with those that are followed at all, that makes five.
pub(super) const MAX_HEADERS: usize = 6;

const HEADER: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// RFC 8200 section 3. Where it lies and its tags are the caller's to fill in.
#[inline(always)]
pub(super) fn header(l3: Window<'_>) -> Result<Network, Reason> {
    let ip = l3.header::<HEADER>().ok_or(Reason::Truncated)?;
    let first = ip.get::<u32, 0>();
    if ip.get::<u8, 0>() >> 4 != 6 {
        return Err(Reason::MalformedIp);
    }
    let total_len = HEADER + u16::from_be(ip.get::<u16, 4>()) as usize;
    if total_len > u16::MAX as usize {
        return Err(Reason::MalformedIp);
    }
    let src = Addr16::from_v6_words(ip.get::<[u32; 4], 8>());
    let dst = Addr16::from_v6_words(ip.get::<[u32; 4], 24>());
    // Mapped addresses name IPv4 hosts and have no place on the wire; here they would be taken for the IPv4 flow.
    if src.is_v4() || dst.is_v4() {
        return Err(Reason::MalformedIp);
    }
    Ok(Network {
        at: 0,
        header_len: HEADER,
        v4: false,
        tags: [0; 2],
        src,
        dst,
        protocol: ip.get::<u8, 6>(),
        hop_limit: ip.get::<u8, 7>(),
        fragment: 0,
        total_len,
        traffic_class: first & 0x0fff_ffff_u32.to_be(),
    })
}

/// The transport protocol, and where its header begins. A later fragment ends the walk: what follows its fragment header
/// is the middle of something.
#[inline(always)]
pub(super) fn follow(l3: Window<'_>, first: u8, total_len: usize) -> Result<Rest, Reason> {
    let mut rest = Rest {
        protocol: first,
        at: HEADER,
        fragment: Fragment::Whole,
        id: 0,
    };
    for count in 0..=MAX_HEADERS {
        let next = rest.protocol;
        if next == TCP || next == UDP || next == ICMPV6 || rest.fragment == Fragment::Later {
            return Ok(rest);
        }
        match next {
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION => {}
            // They hide what follows, or make it depend on the addresses.
            AUTHENTICATION | MOBILITY | HIP | SHIM6 => return Err(Reason::ExtensionHeaders),
            _ => return Err(Reason::OtherProtocol),
        }
        // Hop-by-hop options stand first or are an error, which the stack answers (RFC 8200 section 4.1).
        if count == MAX_HEADERS || (next == HOP_BY_HOP && count > 0) {
            return Err(Reason::ExtensionHeaders);
        }
        if rest.at + 8 > total_len {
            return Err(Reason::Truncated);
        }
        let header = l3
            .skip(rest.at)
            .ok_or(Reason::ExtensionHeaders)?
            .header::<8>()
            .ok_or(Reason::Truncated)?;
        let mut len = 8;
        if next == FRAGMENT {
            // Offset or "more". Without either it is an atomic fragment, the whole packet (RFC 6946).
            let offset = u16::from_be(header.get::<u16, 2>());
            if offset & 0xfff8 != 0 {
                rest.fragment = Fragment::Later;
            } else if offset & 1 != 0 {
                rest.fragment = Fragment::First;
            }
            rest.id = header.get::<u32, 4>();
        } else {
            // Segments left: the destination is not the last one, and the checksum is made for that (section 8.1).
            if next == ROUTING && header.get::<u8, 3>() != 0 {
                return Err(Reason::ExtensionHeaders);
            }
            len = (header.get::<u8, 1>() as usize + 1) * 8;
        }
        if rest.at + len > total_len {
            return Err(Reason::Truncated);
        }
        rest.protocol = header.get::<u8, 0>();
        rest.at = forget(rest.at + len, total_len);
    }
    Err(Reason::ExtensionHeaders)
}
