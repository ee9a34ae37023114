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
    /// The method is longer than any.
    MethodTooLong = "method-too-long",
    /// The method is `CONNECT`, which this service does not serve.
    Connect = "connect",
    /// The method is `TRACE`, which this service does not serve.
    Trace = "trace",
    /// The request target is not in a form that the method may have, or holds bytes that no target may hold.
    Target = "target",
    /// A target of `https` over a connection without TLS, and not from a trusted proxy.
    Misdirected = "misdirected",
    /// The target's host is none of the name that the client asked for in TLS, nor of a certificate of the service.
    ServerName = "server-name",
    /// The path has `.` or `..` for a segment, and the service looks at paths.
    DotSegments = "dot-segments",
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
    /// `CONNECT` with a body.
    ConnectBody = "connect-body",
    /// `Max-Forwards` of `TRACE` or `OPTIONS` is no number, or is there twice.
    MaxForwards = "max-forwards",
    /// An interim response that says it has a body.
    InterimBody = "interim-body",
    /// A chunk's size, extension or end is malformed.
    Chunk = "chunk",
    /// A trailer section is malformed, too large, or holds a field that must not stand there.
    Trailer = "trailer",
    /// A `101` that nobody asked for, or for another protocol than asked for.
    Switch = "switch",
    /// A WebSocket handshake that is none: method, key, version or what comes with it; or a `101` that does not answer its key.
    WebSocket = "websocket",
    /// A version of WebSocket other than 13.
    WebSocketVersion = "websocket-version",
    /// No subprotocol that may be had is asked for, or the `101` names one that was not.
    WebSocketProtocol = "websocket-protocol",
    /// WebSocket is asked for, and the backends speak HTTP/2.
    WebSocketOverHttp2 = "websocket-to-http2",
    /// HTTP/2: what came on the connection is no HTTP/2.
    Frame = "http2-connection",
    /// HTTP/2: the message is malformed: pseudo-fields, fields of HTTP/1.1, a length that its body does not have.
    Message = "http2-message",
    /// More interim responses than anyone needs.
    TooManyInterim = "too-many-interim",
}

/// Finds out, over successive reads, whether a head is whole; and finds broken line ends early.
///
/// Each byte is looked at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeadScan {
    // No head is longer: they lie in every connection.
    seen: u32,
    line: u32,
}

impl HeadScan {
    /// Looks at what was added to `buf` since the last call. True: the head (up to its empty line) is in `buf`.
    ///
    /// # Errors
    /// [`Malformed::LineEnd`] for a CR or LF on its own; [`Malformed::TooLarge`] for 4 GiB.
    pub fn advance(&mut self, buf: &[u8]) -> Result<bool, Malformed> {
        let (mut seen, mut line) = (self.seen as usize, self.line as usize);
        let whole = scan(buf, &mut seen, &mut line)?;
        self.seen = u32::try_from(seen).map_err(|_| Malformed::TooLarge)?;
        self.line = u32::try_from(line).map_err(|_| Malformed::TooLarge)?;
        Ok(whole)
    }

    /// Whether the first line has ended.
    pub fn past_first_line(&self) -> bool {
        self.line > 0
    }
}

fn scan(buf: &[u8], seen: &mut usize, line: &mut usize) -> Result<bool, Malformed> {
    while let Some(at) = buf.get(*seen..).and_then(|rest| memchr2(b'\r', b'\n', rest)) {
        let at = *seen + at;
        match (buf.get(at), buf.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => {
                let empty = at == *line;
                *seen = at + 2;
                *line = *seen;
                if empty {
                    return Ok(true);
                }
            }
            (Some(b'\r'), None) => {
                *seen = at;
                return Ok(false);
            }
            _ => return Err(Malformed::LineEnd),
        }
    }
    *seen = buf.len();
    Ok(false)
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

/// Makes a first line of HTTP/1.2 to 1.9 one of HTTP/1.1, as which it is to be taken (RFC 9110 section 2.5). True: it was
/// one.
#[cold]
pub fn lower_version(buf: &mut [u8]) -> bool {
    let line = memchr::memchr(b'\r', buf).unwrap_or(buf.len());
    let is_version = |at: usize| {
        let version = buf.get(at..at + 8)?;
        let (start, minor) = version.split_at_checked(7)?;
        (start == b"HTTP/1." && matches!(minor, [b'2'..=b'9'])).then_some(at + 7)
    };
    // A status line begins with it, a request line ends in it.
    let in_request = line
        .checked_sub(9)
        .filter(|at| buf.get(*at) == Some(&b' '))
        .and_then(|at| is_version(at + 1));
    let in_response = is_version(0).filter(|at| matches!(buf.get(at + 1), Some(b' ') | None));
    match in_request.or(in_response).and_then(|at| buf.get_mut(at)) {
        Some(minor) => {
            *minor = b'1';
            true
        }
        None => false,
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
