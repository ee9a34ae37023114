//! What request and response heads have in common: bounds, errors, and checks that `httparse` leaves to its user.
//!
//! `httparse` takes a bare LF for an end of line (RFC 9112 section 2.2 permits it); weir does not, because a backend
//! may see it otherwise.

use std::mem::MaybeUninit;

use memchr::{memchr2, memmem};

/// Header fields that a head may have at the very most, whatever the service's limit says.
pub const MAX_FIELDS: usize = 1024;

/// Room for the fields of a head, on the stack, uninitialised.
pub type FieldStore<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

/// An empty [`FieldStore`].
#[inline]
pub const fn field_store<'b>() -> FieldStore<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Bounds of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes, from the first line to the empty line.
    pub bytes: usize,
    /// Header fields; at most [`MAX_FIELDS`] count.
    pub fields: usize,
}

macro_rules! malformed {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// What is wrong with a message.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Malformed {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Malformed {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word for it, in access records.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

malformed! {
    /// The request line is no request line.
    RequestLine = "request-line",
    /// The method is no token.
    Method = "method",
    /// The method is `CONNECT`, which weir does not serve.
    Connect = "connect",
    /// The request target is not in a form that the method may have, or holds bytes that no target may hold.
    Target = "target",
    /// The request target does not fit the limit of the head.
    TargetTooLong = "target-too-long",
    /// The version is none that is spoken here.
    Version = "version",
    /// The status line is no status line, or its code is out of range.
    StatusLine = "status-line",
    /// CR without LF, or LF without CR.
    LineEnd = "line-end",
    /// A field name is no token: space before the colon, a folded line, a control character.
    FieldName = "field-name",
    /// A field value holds a control character.
    FieldValue = "field-value",
    /// The head does not fit the limit.
    TooLarge = "head-too-large",
    /// There are more fields than the limit.
    TooManyFields = "too-many-fields",
    /// HTTP/1.1 without `Host`.
    HostMissing = "host-missing",
    /// More than one `Host`.
    HostTwice = "host-twice",
    /// `Host` is no `host[:port]`.
    Host = "host",
    /// The target's authority is another than `Host`.
    HostMismatch = "host-mismatch",
    /// `Content-Length` is no number, or is there twice.
    ContentLength = "content-length",
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding = "length-and-coding",
    /// `Transfer-Encoding` is malformed, does not end in `chunked`, or stands in an HTTP/1.0 message.
    TransferCoding = "transfer-coding",
    /// A transfer coding that weir does not do.
    UnknownCoding = "unknown-coding",
    /// `TRACE` with a body.
    TraceBody = "trace-body",
    /// A chunk's size, extension or end is malformed.
    Chunk = "chunk",
    /// A trailer section is malformed, too large, or holds a field that must not stand there.
    Trailer = "trailer",
    /// A `101` that nobody asked for, or for another protocol than asked for.
    Switch = "switch",
    /// More interim responses than anyone needs.
    TooManyInterim = "too-many-interim",
}

/// Finds out, over successive reads, whether a head is whole; and finds broken line ends early.
///
/// Each byte is looked at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeadScan {
    seen: usize,
    line: usize,
}

impl HeadScan {
    /// Looks at what was added to `buf` since the last call. True: the head (up to its empty line) is in `buf`.
    ///
    /// # Errors
    /// [`Malformed::LineEnd`] for a CR or LF on its own.
    pub fn advance(&mut self, buf: &[u8]) -> Result<bool, Malformed> {
        while let Some(at) = buf.get(self.seen..).and_then(|rest| memchr2(b'\r', b'\n', rest)) {
            let at = self.seen + at;
            match (buf.get(at), buf.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    let empty = at == self.line;
                    self.seen = at + 2;
                    self.line = self.seen;
                    if empty {
                        return Ok(true);
                    }
                }
                (Some(b'\r'), None) => {
                    self.seen = at;
                    return Ok(false);
                }
                _ => return Err(Malformed::LineEnd),
            }
        }
        self.seen = buf.len();
        Ok(false)
    }

    /// Whether the first line has ended.
    pub fn past_first_line(&self) -> bool {
        self.line > 0
    }
}

/// Checks that every line of a head that `httparse` has accepted ends in CRLF.
///
/// `fields` are the head's fields, borrowed from `head`; what lies between a value's end and the next name can only be
/// white space and a line end, so its last two bytes tell.
#[inline]
pub(super) fn check_line_ends(head: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), Malformed> {
    let base = head.as_ptr() as usize;
    for field in fields {
        let start = (field.name.as_ptr() as usize).wrapping_sub(base);
        if !head.get(..start).is_some_and(|before| before.ends_with(b"\r\n")) {
            return Err(Malformed::LineEnd);
        }
    }
    if head.ends_with(b"\r\n\r\n") {
        Ok(())
    } else {
        Err(Malformed::LineEnd)
    }
}

/// The first line (request or status line) without its end; None if it is not whole.
pub(super) fn first_line(buf: &[u8]) -> Option<&[u8]> {
    buf.get(..memmem::find(buf, b"\r\n")?)
}

/// The fault that a parse error of `httparse` stands for.
pub(super) fn fault(error: httparse::Error, first_line: Malformed) -> Malformed {
    match error {
        httparse::Error::HeaderName => Malformed::FieldName,
        httparse::Error::HeaderValue => Malformed::FieldValue,
        httparse::Error::NewLine => Malformed::LineEnd,
        httparse::Error::Status | httparse::Error::Token => first_line,
        httparse::Error::TooManyHeaders => Malformed::TooManyFields,
        httparse::Error::Version => Malformed::Version,
    }
}

/// A set of field positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions([u64; MAX_FIELDS / 64]);

impl Positions {
    /// Adds a position below [`MAX_FIELDS`].
    #[inline]
    pub fn insert(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    /// Whether the position is in it.
    #[inline]
    pub fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}
