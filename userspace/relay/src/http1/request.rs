//! Requests: from bytes to what they mean, strictly (RFC 9110, RFC 9112).

use super::{
    fields::{self, Codings, Connection, Kind},
    head::{self, FieldStore, HeadLimits, Malformed, Positions},
    target::{self, Target},
};

/// A parsed request head.
pub struct Request<'h, 'b> {
    /// The method: a token.
    pub method: &'b str,
    /// What is asked for.
    pub target: Target<'b>,
    /// HTTP/1.`minor`: 0 or 1.
    pub minor: u8,
    /// Bytes of the head, its empty line included.
    pub head_len: usize,
    /// What follows the head.
    pub body: RequestBody,
    /// Whether the client's connection may stay after this request.
    pub keep_alive: bool,
    /// The client asks for `101` to one of these protocols. Never set for a request with a body, and not for `h2c`.
    pub upgrade: Option<&'b [u8]>,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client takes trailer fields.
    pub te_trailers: bool,
    /// All fields.
    pub(super) fields: &'h [httparse::Header<'b>],
    /// Fields that end here.
    pub(super) dropped: Positions,
    /// `X-Forwarded-For` and `Forwarded` fields; what becomes of them depends on who sent them.
    pub(super) forwarded: Positions,
    /// No `Host` field, as HTTP/1.0 allows.
    pub no_host: bool,
}

/// What follows a request's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestBody {
    /// Nothing, not even `Content-Length: 0`.
    None,
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Methods that may be sent a second time when the first try left no trace (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Parses a request head. `Ok(None)`: it is not whole yet.
///
/// Empty lines in front are for the caller to skip ([`skip_empty_lines`]).
///
/// # Errors
/// What is wrong with it; nothing of it may be passed on then.
pub fn parse<'h, 'b>(
    buf: &'b [u8],
    store: &'h mut FieldStore<'b>,
    limits: HeadLimits,
) -> Result<Option<Request<'h, 'b>>, Malformed> {
    let mut parsed = httparse::Request::new(&mut []);
    let store = store
        .get_mut(..limits.fields.min(head::MAX_FIELDS))
        .unwrap_or_default();
    let status = match parsed.parse_with_uninit_headers(buf, store) {
        Ok(status) => status,
        Err(httparse::Error::Version) => return Err(version_fault(buf)),
        Err(error) => return Err(head::fault(error, first_line_fault(buf))),
    };
    let httparse::Status::Complete(head_len) = status else {
        if buf.len() < limits.bytes {
            return Ok(None);
        }
        return Err(too_large(buf, limits));
    };
    if head_len > limits.bytes {
        return Err(too_large(buf, limits));
    }
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed::RequestLine);
    };
    let fields: &'h [httparse::Header<'b>] = parsed.headers;
    let bytes = buf.get(..head_len).unwrap_or_default();
    head::check_line_ends(bytes, fields)?;
    // `httparse` skips empty lines in front, bare LFs among them; the caller has done so already.
    if !bytes.starts_with(method.as_bytes()) {
        return Err(Malformed::RequestLine);
    }
    if method == "CONNECT" {
        return Err(Malformed::Connect);
    }
    let target = Target::parse(method, path)?;
    let read = read_fields(fields)?;
    check_host(&target, read.host, minor)?;
    let body = body(&read, minor)?;
    if method == "TRACE" && body != RequestBody::None {
        return Err(Malformed::TraceBody);
    }
    let mut dropped = read.dropped;
    if read.connection.nominates {
        drop_nominated(fields, &mut dropped);
    }
    let keep_alive = if minor == 0 {
        read.connection.keep_alive
    } else {
        true
    } && !read.connection.close;
    let upgrade = read.upgrade.filter(|protocols| {
        minor == 1
            && read.connection.upgrade
            && body == RequestBody::None
            && !fields::list(protocols).any(|p| p.eq_ignore_ascii_case(b"h2c"))
    });
    Ok(Some(Request {
        method,
        target,
        minor,
        head_len,
        body,
        keep_alive,
        upgrade,
        expect_continue: read.expect_continue && minor == 1 && body != RequestBody::None,
        te_trailers: read.te_trailers && minor == 1,
        fields,
        dropped,
        forwarded: read.forwarded,
        no_host: read.host.is_none(),
    }))
}

/// Bytes of empty lines in front of a request, which a server should skip (RFC 9112 section 2.2). None: the bytes so
/// far may yet become one.
pub fn skip_empty_lines(buf: &[u8]) -> usize {
    let mut skipped = 0;
    while buf.get(skipped..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        skipped += 2;
    }
    skipped
}

#[derive(Default)]
struct Read<'b> {
    host: Option<&'b [u8]>,
    length: Option<u64>,
    codings: Codings,
    coded: bool,
    connection: Connection,
    upgrade: Option<&'b [u8]>,
    expect_continue: bool,
    te_trailers: bool,
    dropped: Positions,
    forwarded: Positions,
}

#[inline]
fn read_fields<'b>(all: &[httparse::Header<'b>]) -> Result<Read<'b>, Malformed> {
    let mut read = Read::default();
    for (at, field) in all.iter().enumerate() {
        match fields::kind(field.name) {
            Kind::Other => {}
            Kind::Host => {
                if read.host.replace(field.value).is_some() {
                    return Err(Malformed::HostTwice);
                }
            }
            Kind::ContentLength => {
                let length = fields::content_length(field.value)?;
                if read.length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
            }
            Kind::TransferEncoding => {
                read.coded = true;
                read.codings.read(field.value);
                read.dropped.insert(at);
            }
            Kind::Connection => {
                read.connection.read(field.value);
                read.dropped.insert(at);
            }
            Kind::Te => {
                read.te_trailers |= fields::list(field.value).any(|t| t.eq_ignore_ascii_case(b"trailers"));
                read.dropped.insert(at);
            }
            Kind::Upgrade => {
                // Two fields are one list; whoever sends two gets no upgrade.
                read.upgrade = if read.upgrade.is_none() {
                    Some(field.value)
                } else {
                    Some(b"")
                };
                read.dropped.insert(at);
            }
            Kind::Expect => {
                if field.value.eq_ignore_ascii_case(b"100-continue") {
                    read.expect_continue = true;
                    // Written anew where it means something.
                    read.dropped.insert(at);
                }
            }
            Kind::XForwardedFor | Kind::Forwarded | Kind::Claim => read.forwarded.insert(at),
            Kind::HopByHop => read.dropped.insert(at),
        }
    }
    read.upgrade = read
        .upgrade
        .filter(|protocols| fields::list(protocols).next().is_some());
    Ok(read)
}

fn check_host(target: &Target<'_>, host: Option<&[u8]>, minor: u8) -> Result<(), Malformed> {
    let Some(host) = host else {
        return if minor == 0 {
            Ok(())
        } else {
            Err(Malformed::HostMissing)
        };
    };
    target::check_host(host)?;
    match target.authority {
        Some(authority) if !target::same_host(authority.as_bytes(), host) => Err(Malformed::HostMismatch),
        Some(_) | None => Ok(()),
    }
}

fn body(read: &Read<'_>, minor: u8) -> Result<RequestBody, Malformed> {
    if !read.coded {
        return Ok(read.length.map_or(RequestBody::None, RequestBody::Length));
    }
    if read.length.is_some() {
        return Err(Malformed::LengthAndCoding);
    }
    if minor == 0 {
        return Err(Malformed::TransferCoding);
    }
    read.codings.chunked().map(|_| RequestBody::Chunked)
}

/// Drops the fields that `Connection` names, but those that nobody may take out.
#[cold]
pub(super) fn drop_nominated(all: &[httparse::Header<'_>], dropped: &mut Positions) {
    for (at, field) in all.iter().enumerate() {
        if !fields::protected(field.name.as_bytes()) && fields::nominated(all, field.name) {
            dropped.insert(at);
        }
    }
}

/// Whether it is the request line already that does not fit.
#[cold]
fn too_large(buf: &[u8], limits: HeadLimits) -> Malformed {
    match head::first_line(buf) {
        Some(line) if line.len() < limits.bytes => Malformed::TooLarge,
        Some(_) | None => Malformed::TargetTooLong,
    }
}

/// A version that is well-formed but not spoken here is another matter than no version at all.
#[cold]
fn version_fault(buf: &[u8]) -> Malformed {
    let line = head::first_line(buf).unwrap_or(buf);
    let mut parts = line.split(|b| *b == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    if method.is_none() || target.is_none_or(<[u8]>::is_empty) || parts.next().is_some() {
        return Malformed::RequestLine;
    }
    match version.unwrap_or_default() {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Malformed::Version
        }
        _ => Malformed::RequestLine,
    }
}

/// What is wrong with a request line that `httparse` gave up on.
#[cold]
fn first_line_fault(buf: &[u8]) -> Malformed {
    let whole = head::first_line(buf);
    let mut parts = whole.unwrap_or(buf).split(|b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    if method.is_empty() || !method.iter().all(|b| fields::is_token(*b)) {
        return Malformed::Method;
    }
    // A line that has ended needs three parts.
    match (parts.next(), parts.next(), whole) {
        (Some(_), Some(_), _) | (Some(_), None, None) => Malformed::Target,
        _ => Malformed::RequestLine,
    }
}
