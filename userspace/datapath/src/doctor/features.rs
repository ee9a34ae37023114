//! What the kernel says about an interface's XDP: the generic netlink family `netdev` (Linux 6.3).
//!
//! Three messages by hand instead of two more crates: a family name in, a number out; an interface in, a word of bits out.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

/// `NETLINK_GENERIC`.
const GENERIC: isize = 16;
/// The family `nlctrl`, its command `CTRL_CMD_GETFAMILY` and its attributes.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// The family `netdev`: `NETDEV_CMD_DEV_GET` and attributes of `NETDEV_A_DEV_*`.
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
/// Bits of `enum netdev_xdp_act`.
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const TRANSMIT: u64 = 4;
const PIECES: u64 = 32;

/// What an interface's driver can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct XdpFeatures {
    /// Run a program.
    pub(super) native: bool,
    /// Send what it receives to another interface.
    pub(super) redirects: bool,
    /// Take frames that another interface's program sends to it.
    pub(super) is_target: bool,
    /// Receive frames that lie in several buffers.
    pub(super) pieces: bool,
}

/// Asks the kernel. `Unsupported` before Linux 6.3.
pub(super) fn of(ifindex: u32) -> io::Result<XdpFeatures> {
    let mut socket = Socket::new(GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let reply = ask(&socket, &message(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0"))?;
    let family = attribute(&reply, FAMILY_ID)
        .and_then(|v| v.first_chunk())
        .copied();
    let family = u16::from_ne_bytes(family.ok_or(io::ErrorKind::Unsupported)?);
    let reply = ask(
        &socket,
        &message(family, DEVICE_GET, DEVICE_INDEX, &ifindex.to_ne_bytes()),
    )?;
    let bits = attribute(&reply, DEVICE_FEATURES)
        .and_then(|v| v.first_chunk())
        .copied();
    let bits = u64::from_ne_bytes(bits.ok_or(io::ErrorKind::Unsupported)?);
    Ok(XdpFeatures {
        native: bits & BASIC != 0,
        redirects: bits & REDIRECT != 0,
        is_target: bits & TRANSMIT != 0,
        pieces: bits & PIECES != 0,
    })
}

/// A request: netlink header (16 bytes), generic header (4), one attribute.
fn message(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    const REQUEST: u16 = 1;
    let mut out = vec![0; 4];
    out.extend(family.to_ne_bytes());
    out.extend(REQUEST.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([command, 1, 0, 0]);
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    let len = (out.len() as u32).to_ne_bytes();
    out.splice(..4, len);
    out
}

/// Sends a request; the attributes of its answer.
fn ask(socket: &Socket, request: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(request, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    answer(&reply)
}

/// The attributes in one netlink message, or the error that it carries.
fn answer(reply: &[u8]) -> io::Result<Vec<u8>> {
    const ERROR: u16 = 2;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let word = |at: usize| {
        reply
            .get(at..at + 4)
            .and_then(|v| v.first_chunk::<4>())
            .copied()
            .ok_or_else(cut)
    };
    let len = u32::from_ne_bytes(word(0)?) as usize;
    let [kind_low, kind_high, ..] = word(4)?;
    if u16::from_ne_bytes([kind_low, kind_high]) == ERROR {
        let code = i32::from_ne_bytes(word(16)?);
        return match code {
            // The family, or the command, is unknown.
            code if code == -libc::ENOENT || code == -libc::EOPNOTSUPP => {
                Err(io::ErrorKind::Unsupported.into())
            }
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        };
    }
    reply.get(20..len).map(<[u8]>::to_vec).ok_or_else(cut)
}

/// The value of the first attribute of that kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let [len_low, len_high, kind_low, kind_high] = *header;
        let len = usize::from(u16::from_ne_bytes([len_low, len_high]));
        // The two highest bits say "nested" and "network order".
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & 0x3fff;
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_and_read_back() {
        let message = message(0x1234, 5, 2, b"netdev\0");
        assert_eq!(message.len(), 32);
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
        assert_eq!(message[4..6], 0x1234_u16.to_ne_bytes());
        let attributes = answer(&message).unwrap();
        assert_eq!(attribute(&attributes, 2), Some(&b"netdev\0"[..]));
        assert_eq!(attribute(&attributes, 3), None);
    }

    #[test]
    fn broken_answers_are_errors() {
        let mut error = message(2, 0, 0, &[]);
        error.splice(16..20, (-libc::ENOENT).to_ne_bytes());
        assert_eq!(answer(&error).unwrap_err().kind(), io::ErrorKind::Unsupported);
        error.splice(16..20, (-libc::EPERM).to_ne_bytes());
        assert_eq!(answer(&error).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let whole = message(0x1234, 5, 2, b"netdev\0");
        for len in 0..20 {
            assert!(answer(&whole[..len]).is_err(), "{len}");
        }
        assert_eq!(attribute(&[8, 0, 1, 0, 7], 1), None, "cut short");
        assert_eq!(attribute(&[0, 0, 9, 0], 1), None, "a length that goes nowhere");
    }
}
