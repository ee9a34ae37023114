//! Body framing: what of the bytes read is body, and how body is written (RFC 9112 sections 6 and 7).
//!
//! Decoding is done in place: the body bytes of one read end up next to each other. Chunks are never passed on as they
//! came; their data goes out in chunks of weir's own. Extensions end here (RFC 9112 section 7.1.1 lets them).

use std::{io::Write, ops::Range};

use super::{fields, head::Malformed};

/// Bytes that one chunk's size line may have.
const LINE: usize = 4 << 10;

/// Bytes of extensions that all chunks of a body may have together.
const EXTENSIONS: usize = 64 << 10;

/// Bytes that a trailer section may have.
const TRAILERS: usize = 16 << 10;

/// Fields that a trailer section may have.
const TRAILER_FIELDS: usize = 64;

/// Where a body ends, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoder {
    /// That many bytes are still to come; 0: it is whole.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All bytes until the connection ends.
    UntilClose,
    /// Frames of HTTP/2: the stream says when it ends, by [`Decoder::end`]. Then these are its trailers.
    Frames(Option<Box<[u8]>>),
}

/// What one [`Decoder::decode`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Where the body's bytes lie in the buffer now.
    pub data: Range<usize>,
    /// How many bytes of the buffer belong to this message. What follows belongs to the next.
    pub used: usize,
}

impl Decoder {
    /// Nothing to come.
    pub const NONE: Self = Self::Length(0);

    /// Chunks from their beginning.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks::default())
    }

    /// Frames of HTTP/2, from their beginning.
    pub const FRAMES: Self = Self::Frames(None);

    /// Whether all of it has come. Never true for [`Self::UntilClose`].
    #[inline]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Done,
            Self::UntilClose => false,
            Self::Frames(end) => end.is_some(),
        }
    }

    /// The most that a read should ask for, so that it does not take what belongs to the next message.
    #[inline]
    pub fn at_most(&self, room: usize) -> usize {
        match self {
            Self::Length(left) => usize::try_from(*left).map_or(room, |left| left.min(room)),
            Self::Chunked(_) | Self::UntilClose | Self::Frames(_) => room,
        }
    }

    /// Takes bytes that were read.
    ///
    /// # Errors
    /// [`Malformed::Chunk`] or [`Malformed::Trailer`]: where the message ends is not certain any more.
    #[inline]
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, Malformed> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                *left -= used as u64;
                Ok(Decoded { data: 0..used, used })
            }
            Self::UntilClose | Self::Frames(_) => Ok(Decoded {
                data: 0..buf.len(),
                used: buf.len(),
            }),
            Self::Chunked(chunks) => chunks.decode(buf),
        }
    }

    /// The trailer section of a body that is whole, as it is written: field lines, without the empty line.
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Chunked(chunks) => &chunks.trailers,
            Self::Frames(end) => end.as_deref().unwrap_or_default(),
            Self::Length(_) | Self::UntilClose => &[],
        }
    }

    /// The body has come to its end, with these trailers.
    pub fn end(&mut self, trailers: Vec<u8>) {
        *self = Self::Frames(Some(trailers.into_boxed_slice()));
    }
}

/// How far a chunked body is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Bytes of the present size line, or of the trailer section.
    line: usize,
    /// Bytes of all extensions.
    extensions: usize,
    /// The trailer section so far; at the end without its empty line.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In the size: its value so far, and whether there is a digit yet.
    Size(u64, bool),
    /// In an extension.
    Extension(u64, Extension),
    /// After the CR of the size line.
    SizeLf(u64),
    /// In the data: that many bytes to come.
    Data(u64),
    /// After the data.
    DataCr,
    /// After the CR after the data.
    DataLf,
    /// In the trailer section: at the start of a line, in a line, after a CR (and whether the line is empty).
    Trailer(Line),
    /// After the last byte.
    Done,
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (RFC 9112 section 7.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extension {
    /// After white space behind size, name or value: the white space leads to `;`, or after a name to `=`.
    Blank,
    BlankAfterName,
    BeforeName,
    Name,
    BeforeValue,
    Value,
    /// In a quoted string, after a backslash in it, and behind it.
    Quoted,
    Escape,
    Unquoted,
}

impl Extension {
    /// What follows by that byte: a part, or the CR that ends the line (`Some(None)`). None: it must not stand here.
    fn step(self, byte: u8) -> Option<Option<Self>> {
        let blank = matches!(byte, b' ' | b'\t');
        let next = match (self, byte) {
            (Self::Name | Self::Value | Self::Unquoted, b'\r') => return Some(None),
            (Self::Blank | Self::BlankAfterName | Self::Name | Self::Value | Self::Unquoted, b';') => {
                Self::BeforeName
            }
            (Self::Name | Self::BlankAfterName, b'=') => Self::BeforeValue,
            (Self::Name | Self::BlankAfterName, _) if blank => Self::BlankAfterName,
            (Self::Value | Self::Unquoted | Self::Blank, _) if blank => Self::Blank,
            (Self::BeforeName | Self::BeforeValue, _) if blank => self,
            (Self::BeforeName | Self::Name, _) if fields::is_token(byte) => Self::Name,
            (Self::BeforeValue | Self::Value, _) if fields::is_token(byte) => Self::Value,
            (Self::BeforeValue, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Unquoted,
            (Self::Quoted, b'\\') => Self::Escape,
            (Self::Quoted | Self::Escape, b'\t' | b' '..=b'~' | 0x80..=0xff) => Self::Quoted,
            _ => return None,
        };
        Some(Some(next))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Start,
    Within,
    Cr { empty: bool },
}

impl Default for State {
    fn default() -> Self {
        Self::Size(0, false)
    }
}

impl Chunks {
    fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, Malformed> {
        let mut data = 0..0;
        let mut at = 0;
        while at < buf.len() {
            match self.state {
                State::Data(left) => {
                    let here = usize::try_from(left).map_or(buf.len() - at, |left| left.min(buf.len() - at));
                    if data.is_empty() {
                        data = at..at + here;
                    } else {
                        buf.copy_within(at..at + here, data.end);
                        data.end += here;
                    }
                    at += here;
                    let left = left - here as u64;
                    self.state = if left == 0 {
                        State::DataCr
                    } else {
                        State::Data(left)
                    };
                }
                State::Done => break,
                state @ (State::Size(..)
                | State::Extension(..)
                | State::SizeLf(_)
                | State::DataCr
                | State::DataLf
                | State::Trailer(_)) => {
                    let Some(&byte) = buf.get(at) else { break };
                    at += 1;
                    self.state = self.step(state, byte)?;
                    if self.state == State::Done {
                        self.end_trailers()?;
                    }
                }
            }
        }
        Ok(Decoded { data, used: at })
    }

    /// One byte of everything but data.
    fn step(&mut self, state: State, byte: u8) -> Result<State, Malformed> {
        let bad = Err(Malformed::Chunk);
        match state {
            State::Size(size, any) => {
                self.line += 1;
                match (char::from(byte).to_digit(16), byte) {
                    // 15 digits: what no one sends, and what no arithmetic trips over.
                    (Some(digit), _) if self.line <= 15 => {
                        Ok(State::Size(size << 4 | u64::from(digit), true))
                    }
                    (None, b'\r') if any => Ok(State::SizeLf(size)),
                    (None, b';') if any => Ok(State::Extension(size, Extension::BeforeName)),
                    (None, b' ' | b'\t') if any => Ok(State::Extension(size, Extension::Blank)),
                    _ => bad,
                }
            }
            State::Extension(size, part) => {
                self.line += 1;
                self.extensions += 1;
                if self.line > LINE || self.extensions > EXTENSIONS {
                    return bad;
                }
                match part.step(byte) {
                    Some(None) => Ok(State::SizeLf(size)),
                    Some(Some(part)) => Ok(State::Extension(size, part)),
                    None => bad,
                }
            }
            State::SizeLf(size) => {
                self.line = 0;
                match (byte, size) {
                    (b'\n', 0) => Ok(State::Trailer(Line::Start)),
                    (b'\n', _) => Ok(State::Data(size)),
                    _ => bad,
                }
            }
            State::DataCr => {
                if byte == b'\r' {
                    Ok(State::DataLf)
                } else {
                    bad
                }
            }
            State::DataLf => {
                if byte == b'\n' {
                    Ok(State::default())
                } else {
                    bad
                }
            }
            State::Trailer(line) => {
                self.line += 1;
                if self.line > TRAILERS {
                    return Err(Malformed::Trailer);
                }
                self.trailers.push(byte);
                match (line, byte) {
                    (Line::Cr { empty: true }, b'\n') => Ok(State::Done),
                    (Line::Cr { empty: false }, b'\n') => Ok(State::Trailer(Line::Start)),
                    (Line::Cr { .. }, _) | (Line::Start | Line::Within, b'\n') => Err(Malformed::Trailer),
                    (Line::Start, b'\r') => Ok(State::Trailer(Line::Cr { empty: true })),
                    (Line::Within, b'\r') => Ok(State::Trailer(Line::Cr { empty: false })),
                    (Line::Start | Line::Within, _) => Ok(State::Trailer(Line::Within)),
                }
            }
            // Data is taken in `decode`; nothing follows the end.
            State::Data(_) | State::Done => bad,
        }
    }

    /// Writes the trailer section anew from its parsed fields.
    fn end_trailers(&mut self) -> Result<(), Malformed> {
        let section = std::mem::take(&mut self.trailers);
        if section == b"\r\n" {
            return Ok(());
        }
        let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
        match httparse::parse_headers(&section, &mut room) {
            Ok(httparse::Status::Complete((used, all))) if used == section.len() => {
                for field in all {
                    if fields::barred_from_trailers(field.name) {
                        return Err(Malformed::Trailer);
                    }
                    self.trailers.extend_from_slice(field.name.as_bytes());
                    self.trailers.extend_from_slice(b": ");
                    self.trailers.extend_from_slice(field.value);
                    self.trailers.extend_from_slice(b"\r\n");
                }
                Ok(())
            }
            Ok(_) | Err(_) => Err(Malformed::Trailer),
        }
    }
}

/// A chunk's size line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeLine {
    text: [u8; 18],
    start: usize,
}

impl SizeLine {
    /// For a chunk of `size` bytes.
    #[inline]
    pub fn new(size: usize) -> Self {
        let mut line = Self {
            text: *b"                \r\n",
            start: 16,
        };
        let mut left = size;
        for place in line.text.iter_mut().take(16).rev() {
            let digit = (left & 0xf) as u8;
            *place = if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            };
            left >>= 4;
            line.start -= 1;
            if left == 0 {
                break;
            }
        }
        line
    }

    /// Its bytes, line end included.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }
}

/// The end of a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk and an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Adds data as one chunk, and the last chunk with trailers if `trailers` is given. For bodies that lie in vectors;
/// those in a worker's buffer are wrapped where they are.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8], trailers: Option<&[u8]>) {
    if !data.is_empty() {
        // Writing to a Vec can't fail.
        let _ = write!(out, "{:x}\r\n", data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
    if let Some(trailers) = trailers {
        out.extend_from_slice(b"0\r\n");
        out.extend_from_slice(trailers);
        out.extend_from_slice(CHUNK_END);
    }
}
