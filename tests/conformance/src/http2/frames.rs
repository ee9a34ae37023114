//! Frames of HTTP/2 as bytes, well made or not, and the little of HPACK that the cases need. Judges nothing.

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub mod kind {
    #![expect(missing_docs, reason = "they are the RFC's names")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// Nobody's.
    pub const UNKNOWN: u8 = 0x16;
}

/// Flags (RFC 9113 section 6).
pub mod flag {
    #![expect(missing_docs, reason = "they are the RFC's names")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 section 6.5.2).
pub mod setting {
    #![expect(missing_docs, reason = "they are the RFC's names")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// Nobody's.
    pub const UNKNOWN: u16 = 0xff;
}

/// Error codes (RFC 9113 section 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u32);

impl Code {
    #![expect(missing_docs, reason = "they are the RFC's names")]
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// Nobody's.
    pub const UNKNOWN: Self = Self(0xff);

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0 => "NO_ERROR",
            1 => "PROTOCOL_ERROR",
            2 => "INTERNAL_ERROR",
            3 => "FLOW_CONTROL_ERROR",
            4 => "SETTINGS_TIMEOUT",
            5 => "STREAM_CLOSED",
            6 => "FRAME_SIZE_ERROR",
            7 => "REFUSED_STREAM",
            8 => "CANCEL",
            9 => "COMPRESSION_ERROR",
            10 => "CONNECT_ERROR",
            11 => "ENHANCE_YOUR_CALM",
            12 => "INADEQUATE_SECURITY",
            13 => "HTTP_1_1_REQUIRED",
            _ => "an unknown code",
        }
    }
}

/// A frame that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether it is of that type and has that flag.
    pub fn is(&self, kind: u8, flag: u8) -> bool {
        self.kind == kind && self.flags & flag == flag
    }

    /// The code of a reset or of a GOAWAY.
    pub fn code(&self) -> Option<Code> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(Code(u32::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// The settings in it.
    pub fn settings(&self) -> impl Iterator<Item = (u16, u32)> {
        self.payload.chunks_exact(6).filter_map(|one| {
            let (id, value) = one.split_at_checked(2)?;
            Some((
                u16::from_be_bytes(id.try_into().ok()?),
                u32::from_be_bytes(value.try_into().ok()?),
            ))
        })
    }

    /// The status of a response's head, where it is one that HPACK has a short form for, or a literal in plain digits or
    /// Huffman's; None: it is not.
    pub fn status(&self) -> Option<u16> {
        let mut block = self.payload.as_slice();
        // A change of the table's size may come first (RFC 7541 section 6.3); ours are below 31.
        while let [0x20..=0x3e, rest @ ..] = block {
            block = rest;
        }
        if let [0x3f, rest @ ..] = block {
            let end = rest.iter().position(|b| b & 0x80 == 0)?;
            block = rest.get(end + 1..)?;
        }
        match block {
            [0x88, ..] => Some(200),
            [0x89, ..] => Some(204),
            [0x8a, ..] => Some(206),
            [0x8b, ..] => Some(304),
            [0x8c, ..] => Some(400),
            [0x8d, ..] => Some(404),
            [0x8e, ..] => Some(500),
            [0x08 | 0x18 | 0x48, 3, a, b, c, ..] => digits([*a, *b, *c]),
            [0x08 | 0x18 | 0x48, 0x82, a, b, ..] => huffman(u16::from_be_bytes([*a, *b])),
            [0x08 | 0x18 | 0x48, 0x83, a, b, c, ..] => huffman_long(u32::from_be_bytes([0, *a, *b, *c])),
            _ => None,
        }
    }
}

fn digits(text: [u8; 3]) -> Option<u16> {
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Digits by Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn huffman_bits(bits: u32, length: u32) -> Option<u16> {
    let mut at = length;
    let mut number = 0;
    for _ in 0..3 {
        let five = bits >> at.checked_sub(5)? & 0x1f;
        if five <= 2 {
            at -= 5;
            number = number * 10 + five as u16;
        } else {
            at = at.checked_sub(6)?;
            // '3' is 011001 and the rest follow it.
            number = number * 10 + u16::try_from((bits >> at & 0x3f).checked_sub(0x19)?).ok()? + 3;
        }
    }
    Some(number)
}

fn huffman(bits: u16) -> Option<u16> {
    huffman_bits(u32::from(bits), 16)
}

fn huffman_long(bits: u32) -> Option<u16> {
    huffman_bits(bits, 24)
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    framed(payload.len(), kind, flags, stream, payload)
}

/// The same, of a frame that says another length.
pub fn framed(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = length.get(1..).unwrap_or_default().to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// HEADERS that are whole.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// HEADERS that are all of a request.
pub fn request(stream: u32, block: &[u8]) -> Vec<u8> {
    headers(stream, flag::END_STREAM, block)
}

/// HEADERS with a priority (RFC 9113 section 6.2).
pub fn headers_with_priority(stream: u32, depends: u32, block: &[u8]) -> Vec<u8> {
    let payload = [&depends.to_be_bytes()[..], &[255], block].concat();
    request_with(stream, flag::PRIORITY, &payload)
}

/// HEADERS that are all of a request, with flags of their own.
pub fn request_with(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    headers(stream, flag::END_STREAM | flags, payload)
}

/// CONTINUATION.
pub fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// DATA.
pub fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

/// PRIORITY.
pub fn priority(stream: u32, depends: u32, weight: u8) -> Vec<u8> {
    frame(
        kind::PRIORITY,
        0,
        stream,
        &[&depends.to_be_bytes()[..], &[weight]].concat(),
    )
}

/// RST_STREAM.
pub fn reset(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

/// SETTINGS.
pub fn settings(all: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in all {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// PING.
pub fn ping(flags: u8, data: [u8; 8]) -> Vec<u8> {
    frame(kind::PING, flags, 0, &data)
}

/// GOAWAY.
pub fn goaway(code: Code) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[&[0; 4][..], &code.0.to_be_bytes()].concat())
}

/// WINDOW_UPDATE.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// Fields as literals that are not indexed (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name.as_bytes(), value.as_bytes()] {
            out.extend(integer(0, 7, text.len()));
            out.extend(text);
        }
    }
    out
}

/// An integer behind a first byte's `bits` (RFC 7541 section 5.1).
pub fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut out = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// The pseudo-fields of a request for `/`.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "origin.example"),
];

/// A request for `/` with that method, and fields behind.
pub fn asks(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = GET.to_vec();
    if let Some(first) = all.first_mut() {
        first.1 = method;
    }
    all.extend(fields);
    block(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let check = |block: &[u8], expected| {
            let frame = Frame {
                kind: kind::HEADERS,
                flags: 0,
                stream: 1,
                payload: block.to_vec(),
            };
            assert_eq!(frame.status(), expected, "{block:x?}");
        };
        check(&[0x88], Some(200));
        check(&[0x20, 0x3f, 0xe1, 0x1f, 0x8d], Some(404));
        check(b"\x08\x03431", Some(431));
        // RFC 7541 appendix C.6: 302 and 307.
        check(&[0x48, 0x82, 0x64, 0x02], Some(302));
        check(&[0x48, 0x83, 0x64, 0x0e, 0xff], Some(307));
        check(&[0x82], None);
        check(&[], None);
    }

    #[test]
    fn integers() {
        // RFC 7541 appendix C.1.
        assert_eq!(integer(0, 5, 10), [0b01010]);
        assert_eq!(integer(0, 5, 1337), [0b11111, 0b1001_1010, 0b1010]);
        assert_eq!(integer(0, 8, 42), [42]);
    }
}
