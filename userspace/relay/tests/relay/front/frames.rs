//! HTTP/2 frame by frame: what no well-behaved client would send.

use std::net::SocketAddr;

use crate::support::Raw;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The codes of RFC 9113 section 7.
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const ENHANCE_YOUR_CALM: u32 = 0xb;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The code of a reset or of a GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Fields as literals that are not indexed.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "{text}");
            out.push(u8::try_from(text.len()).unwrap());
            out.extend(text.as_bytes());
        }
    }
    out
}

pub(super) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.example"),
    (":path", "/"),
];

/// The head of a GET that is all of its request.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

pub(super) struct Frames(pub(super) Raw);

impl Frames {
    /// A connection whose settings are exchanged.
    pub(super) fn connect(at: SocketAddr) -> Self {
        let mut frames = Self(Raw::connect(at));
        frames.0.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        let first = frames.next().unwrap();
        assert_eq!((first.kind, first.flags), (SETTINGS, 0));
        frames
    }

    pub(super) fn send(&mut self, frame: impl AsRef<[u8]>) {
        self.0.send(frame);
    }

    /// Sends as far as the connection takes it.
    pub(super) fn try_send(&mut self, frame: &[u8]) -> bool {
        use std::io::Write;
        self.0.stream.write_all(frame).is_ok()
    }

    /// The next frame; None at the end.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let head = self.0.try_exactly(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff,
            payload: self.0.exactly(length),
        })
    }

    /// The next frame of that kind.
    pub(super) fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self
                .next()
                .unwrap_or_else(|| panic!("ended before a frame of {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The code of the reset of that stream, or of the GOAWAY that ends the connection instead.
    pub(super) fn refused(&mut self) -> (u8, u32) {
        loop {
            let frame = self.next().expect("a reset or a GOAWAY");
            if matches!(frame.kind, RST_STREAM | GOAWAY) {
                return (frame.kind, frame.code());
            }
        }
    }
}
