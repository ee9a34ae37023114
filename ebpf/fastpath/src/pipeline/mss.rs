//! The largest segment that TCP's ends offer each other (RFC 9293 section 3.7.1), lowered to what the ways allow.
//!
//! Owns finding the option in a SYN or SYN-ACK and changing it. Everybody puts it first, so that is what the short way
//! looks at; any other order of options goes to [`super::forward`].

use weir_abi::{Note, maps::stage};

use super::{SHORT, Stop};
use crate::{
    checksum::Delta,
    frame::Frame,
    parse::{Fragment, Packet},
    tables::Tables,
    window::{Window, forget},
};

/// TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of IPv4 and TCP headers without options.
const HEADERS_V4: u32 = 40;
/// Bytes of IPv6 and TCP headers without options.
const HEADERS_V6: u32 = 60;
/// Options that are looked at: as many as fit, one byte each.
const MAX_OPTIONS: usize = 40;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Where the option lies, from the TCP header's first byte; 0: there is none. (No `Option`: what that leaves undefined
/// without a value, LLVM copies, and the verifier refuses.)
#[derive(Clone, Copy)]
pub(super) struct At(usize);

impl At {
    /// Whether there is one.
    #[inline(always)]
    pub(super) const fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// The option of a packet that opens a connection, from either side; none in all others.
///
/// # Errors
/// In the short form: the options want a closer look.
#[inline(always)]
pub(super) fn of_opening<F: Frame, const WAY: u8>(frame: &mut F, packet: &Packet) -> Result<At, Stop> {
    let opens = packet.tcp && (packet.syn() || packet.syn_ack());
    if !opens || packet.header_len as usize <= TCP_HEADER || packet.fragment == Fragment::Later {
        return Ok(At(0));
    }
    let Some(tcp) = frame.window().skip(packet.transport_at as usize) else {
        return Ok(At(0));
    };
    if let Some(header) = tcp.header::<{ TCP_HEADER + 4 }>()
        && header.get::<u16, 20>() == u16::from_ne_bytes([MAXIMUM_SEGMENT_SIZE, 4])
    {
        return Ok(At(TCP_HEADER));
    }
    if WAY != SHORT {
        Ok(At(find(tcp, packet.header_len as usize).unwrap_or(0)))
    } else {
        Err(Stop::Stage(stage::FORWARD))
    }
}

/// Walks the options. What is malformed ends the walk: the receiver judges it.
#[inline(always)]
fn find(tcp: Window<'_>, header_len: usize) -> Option<usize> {
    let mut at = TCP_HEADER;
    for _ in 0..MAX_OPTIONS {
        if at + 2 > header_len {
            return None;
        }
        let option = tcp.skip(at)?.header::<2>()?;
        let kind = option.get::<u8, 0>();
        let len = match kind {
            END => return None,
            NO_OPERATION => 1,
            _ => option.get::<u8, 1>() as usize,
        };
        if kind == MAXIMUM_SEGMENT_SIZE {
            return (len == 4 && at + 4 <= header_len).then_some(at);
        }
        if len == 0 || (len == 1 && kind != NO_OPERATION) {
            return None;
        }
        at = forget(at + len, header_len);
    }
    None
}

/// Lowers the option to what fits through an MTU of `mtu` bytes (0: not known), and to `most` (0: any).
#[inline(always)]
pub(super) fn clamp<T: Tables>(
    frame: Window<'_>,
    packet: &Packet,
    At(at): At,
    mtu: u32,
    most: u32,
    tables: &mut T,
) {
    if at == 0 {
        return;
    }
    let headers = if packet.v4 { HEADERS_V4 } else { HEADERS_V6 };
    let mut limit = if most == 0 { u32::MAX } else { most };
    if mtu > headers {
        limit = limit.min(mtu - headers);
    }
    let Some(tcp) = frame.skip(packet.transport_at as usize) else {
        return;
    };
    let (Some(header), Some(option)) = (
        tcp.header::<TCP_HEADER>(),
        tcp.skip(at).and_then(|option| option.header::<4>()),
    ) else {
        return;
    };
    let old = option.get::<u16, 2>();
    if u16::from_be(old) as u32 <= limit {
        return;
    }
    let new = (limit as u16).to_be();
    option.set::<u16, 2>(new);
    // The checksum's words begin at even places.
    let delta = if at % 2 == 0 {
        Delta::NONE.half(old, new)
    } else {
        Delta::NONE.half(old.swap_bytes(), new.swap_bytes())
    };
    header.set::<u16, 16>(delta.apply(header.get::<u16, 16>()));
    tables.note(Note::MssClamped);
}
