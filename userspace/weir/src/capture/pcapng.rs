//! A capture as a file: pcapng (draft-ietf-opsawg-pcapng), as much of it as a capture needs.
//!
//! Owns the three kinds of block that are written: the section's header, an interface, a packet with a comment. All are
//! little-endian, times in nanoseconds. Reads nothing. Where the bytes go is the caller's.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Says in which byte order the section is.
const MAGIC: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// A length that is not known.
const UNKNOWN: u64 = u64::MAX;

/// Codes of options.
mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    /// Of the section: the program that wrote it.
    pub(super) const APPLICATION: u16 = 4;
    /// Of an interface.
    pub(super) const NAME: u16 = 2;
    /// Of an interface: times count in ten to the power of minus this.
    pub(super) const RESOLUTION: u16 = 9;
}
const NANOSECONDS: u8 = 9;

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The interface's number, in the order in which they were written.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Bytes of it on the wire.
    pub(super) len: u32,
    /// The first of them.
    pub(super) bytes: &'a [u8],
    pub(super) comment: &'a str,
}

/// Writes one section.
#[derive(Debug)]
pub(super) struct Writer<W> {
    to: W,
    interfaces: u32,
}

impl<W: Write> Writer<W> {
    /// Begins the section.
    ///
    /// # Errors
    /// As the sink has them, here and below.
    pub(super) fn new(mut to: W, application: &str) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(MAGIC.to_le_bytes());
        // Version 1.0.
        body.extend([1, 0, 0, 0]);
        body.extend(UNKNOWN.to_le_bytes());
        options(&mut body, &[(option::APPLICATION, application.as_bytes())]);
        block(&mut to, SECTION, &body)?;
        Ok(Self { to, interfaces: 0 })
    }

    /// Describes an interface; its number.
    pub(super) fn interface(&mut self, name: &str, snap: u32) -> io::Result<u32> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend([0, 0]);
        body.extend(snap.to_le_bytes());
        let resolution = [NANOSECONDS];
        options(
            &mut body,
            &[(option::NAME, name.as_bytes()), (option::RESOLUTION, &resolution)],
        );
        block(&mut self.to, INTERFACE, &body)?;
        let number = self.interfaces;
        self.interfaces += 1;
        Ok(number)
    }

    /// Writes a packet.
    pub(super) fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.bytes.len() + 96);
        body.extend(packet.interface.to_le_bytes());
        body.extend(((packet.time >> 32) as u32).to_le_bytes());
        body.extend((packet.time as u32).to_le_bytes());
        body.extend((packet.bytes.len() as u32).to_le_bytes());
        body.extend(packet.len.to_le_bytes());
        padded(&mut body, packet.bytes);
        options(&mut body, &[(option::COMMENT, packet.comment.as_bytes())]);
        block(&mut self.to, PACKET, &body)
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A block: its kind, its length, the body, the length again.
fn block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    to.write_all(&kind.to_le_bytes())?;
    to.write_all(&len)?;
    to.write_all(body)?;
    to.write_all(&len)
}

/// Options and their end. A value longer than an option can hold is cut.
fn options(body: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    for (code, value) in options {
        let value = value
            .get(..value.len().min(usize::from(u16::MAX)))
            .unwrap_or_default();
        body.extend(code.to_le_bytes());
        body.extend((value.len() as u16).to_le_bytes());
        padded(body, value);
    }
    body.extend(option::END.to_le_bytes());
    body.extend([0, 0]);
}

/// Bytes, filled up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_as_the_draft_has_them() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, "weir").unwrap();
        assert_eq!(writer.interface("eth0", 96).unwrap(), 0);
        assert_eq!(writer.interface("eth1", 96).unwrap(), 1);
        writer
            .packet(&Packet {
                interface: 1,
                time: 0x0102_0304_0506_0708,
                len: 60,
                bytes: &[9, 8, 7],
                comment: "ab",
            })
            .unwrap();
        writer.flush().unwrap();

        let mut rest = bytes.as_slice();
        let mut next = || {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let (kind, len) = (word(0), word(4) as usize);
            assert_eq!(len % 4, 0);
            assert_eq!(word(len - 4) as usize, len, "the length stands at both ends");
            let body = rest[8..len - 4].to_vec();
            rest = &rest[len..];
            (kind, body)
        };
        let (kind, body) = next();
        assert_eq!(kind, SECTION);
        assert_eq!(body[..8], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]);
        assert_eq!(body[16..], [4, 0, 4, 0, b'w', b'e', b'i', b'r', 0, 0, 0, 0]);
        let (kind, body) = next();
        assert_eq!((kind, &body[..8]), (INTERFACE, &[1, 0, 0, 0, 96, 0, 0, 0][..]));
        assert_eq!(body[8..16], [2, 0, 4, 0, b'e', b't', b'h', b'0']);
        assert_eq!(body[16..], [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(next().0, INTERFACE);
        let (kind, body) = next();
        assert_eq!(kind, PACKET);
        assert_eq!(body[..4], [1, 0, 0, 0], "the second interface");
        assert_eq!(
            body[4..12],
            [4, 3, 2, 1, 8, 7, 6, 5],
            "the time, upper half first"
        );
        assert_eq!(body[12..20], [3, 0, 0, 0, 60, 0, 0, 0]);
        assert_eq!(body[20..24], [9, 8, 7, 0]);
        assert_eq!(body[24..], [1, 0, 2, 0, b'a', b'b', 0, 0, 0, 0, 0, 0]);
        assert!(rest.is_empty());
    }
}
