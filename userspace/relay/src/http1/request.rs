//! Requests: from bytes to what they mean, strictly (RFC 9110, RFC 9112).

use super::{
    fields::{self, Codings, Connection, Kind},
    head::{self, FieldStore, HeadLimits, Malformed, Positions},
    target::{self, Target},
    version::Version,
};

/// A parsed request head.
pub struct Request<'h, 'b> {
    /// The method: a token.
    pub method: &'b str,
    /// What is asked for.
    pub target: Target<'b>,
    /// The version that it came in.
    pub version: Version,
    /// Bytes of the head, its empty line included.
    pub head_len: usize,
    /// What follows the head.
    pub body: RequestBody,
    /// Whether the client's connection may stay after this request.
    pub keep_alive: bool,
    /// The client asks for `101` to one of these protocols. Never set for a request with a body, and not for `h2c`.
    pub upgrade: Option<&'b [u8]>,
    /// The client asks for HTTP/2 on this connection: `Upgrade: h2c`, and no body follows.
    pub h2c: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client takes trailer fields.
    pub te_trailers: bool,
    /// All fields.
    pub(crate) fields: &'h [httparse::Header<'b>],
    /// Fields that end here.
    pub(crate) dropped: Positions,
    /// `X-Forwarded-For` and `Forwarded` fields; what becomes of them depends on who sent them.
    pub(super) forwarded: Positions,
    /// It has a `Via`.
    pub has_via: bool,
    /// No `Host` field, as HTTP/1.0 allows.
    pub no_host: bool,
    /// `Max-Forwards` of `TRACE` and `OPTIONS`: how many more intermediaries may pass it on. At 0, weir is the last.
    pub max_forwards: Option<u64>,
}

impl Request<'_, '_> {
    /// How often it has passed by the intermediary of that name already, as `Via` says (RFC 9110 section 7.6.3).
    #[cold]
    pub fn passes_by(&self, name: &str) -> u32 {
        let vias = self.fields.iter().filter(|f| fields::kind(f.name) == Kind::Via);
        let passes = vias.flat_map(|field| fields::list(field.value)).filter(|member| {
            // The protocol, who received it (and by which port), perhaps a comment.
            let mut words = member
                .split(|b| b.is_ascii_whitespace())
                .filter(|w| !w.is_empty());
            let by = words.nth(1).unwrap_or_default();
            let host = target::split_port(by).map_or(by, |(host, _)| host);
            by.eq_ignore_ascii_case(name.as_bytes()) || host.eq_ignore_ascii_case(name.as_bytes())
        });
        u32::try_from(passes.count()).unwrap_or(u32::MAX)
    }
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

/// Bytes of a method that may still be one, when it comes to say what of a request line is too long.
const METHOD_MOST: usize = 64;

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
    let version = Version::of_minor(minor);
    let target = Target::parse(method, path)?;
    let read = read_fields(fields)?;
    check_host(&target, read.host, version)?;
    let body = body(&read, version)?;
    let mut dropped = read.dropped;
    if target.authority.is_some() && read.host.is_some() {
        // Written anew, from the target (RFC 9112 section 3.2.2).
        dropped.insert(read.host_at);
    }
    let mut max_forwards = None;
    match method {
        "TRACE" if body != RequestBody::None => return Err(Malformed::TraceBody),
        "CONNECT" if body != RequestBody::None => return Err(Malformed::ConnectBody),
        "TRACE" | "OPTIONS" if read.forwards => {
            max_forwards = Some(read_max_forwards(fields, &mut dropped)?);
        }
        _ => {}
    }
    if read.connection.nominates {
        drop_nominated(fields, &mut dropped);
    }
    let keep_alive = if version == Version::Http10 {
        read.connection.keep_alive
    } else {
        true
    } && !read.connection.close;
    let upgrade = read
        .upgrade
        .filter(|_| version == Version::Http11 && read.connection.upgrade && body == RequestBody::None);
    let h2c = upgrade.is_some_and(|asked| fields::list(asked).any(|p| p.eq_ignore_ascii_case(b"h2c")));
    let upgrade = upgrade.filter(|_| !h2c);
    Ok(Some(Request {
        method,
        target,
        version,
        head_len,
        body,
        keep_alive,
        upgrade,
        h2c,
        // Without a body to come there is nothing to wait with (RFC 9110 section 10.1.1).
        expect_continue: read.expect_continue
            && version == Version::Http11
            && !matches!(body, RequestBody::None | RequestBody::Length(0)),
        te_trailers: read.te_trailers && version == Version::Http11,
        fields,
        dropped,
        forwarded: read.forwarded,
        has_via: read.via,
        no_host: read.host.is_none(),
        max_forwards,
    }))
}

/// What HTTP/2 says in pseudo-fields where HTTP/1 has a request line (RFC 9113 section 8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pseudo<'b> {
    /// `:method`.
    pub method: &'b str,
    /// `:scheme`, as far as it is known.
    pub scheme: Option<&'b str>,
    /// `:authority`.
    pub authority: Option<&'b str>,
    /// `:path`.
    pub path: Option<&'b str>,
    /// The protocol that an extended `CONNECT` asks for, which `method` is none of then.
    pub upgrade: Option<&'b [u8]>,
    /// No body follows.
    pub ended: bool,
}

/// The request of a stream of HTTP/2, from its pseudo-fields and its fields.
///
/// # Errors
/// As [`parse`]; [`Malformed::Message`] for what HTTP/2 calls malformed.
pub fn of_stream<'h, 'b>(
    pseudo: &Pseudo<'b>,
    fields: &'h [httparse::Header<'b>],
    limits: HeadLimits,
) -> Result<Request<'h, 'b>, Malformed> {
    let version = Version::Http2;
    let path = match (pseudo.method, pseudo.path, pseudo.authority) {
        ("CONNECT", None, Some(authority)) => authority,
        ("CONNECT", _, _) | (_, None, _) => return Err(Malformed::Message),
        (_, Some(path), _) => path,
    };
    // As much as the same head has in HTTP/1.1.
    let line = pseudo.method.len() + path.len() + " HTTP/1.1".len() + 3;
    let lines = fields
        .iter()
        .map(|f| f.name.len() + f.value.len() + 4)
        .sum::<usize>();
    let head_len = line + pseudo.authority.map_or(0, |a| a.len() + 8) + lines + 2;
    if line > limits.bytes {
        return Err(Malformed::TargetTooLong);
    }
    if head_len > limits.bytes {
        return Err(Malformed::TooLarge);
    }
    if fields.len() > limits.fields.min(head::MAX_FIELDS) {
        return Err(Malformed::TooManyFields);
    }
    let target = Target::of_stream(pseudo.method, path, pseudo.scheme, pseudo.authority)?;
    let read = read_fields(fields)?;
    if read.coded || read.connection != Connection::default() || read.upgrade.is_some() {
        return Err(Malformed::Message);
    }
    match read.host {
        Some(_) => check_host(&target, read.host, version)?,
        None if target.authority.is_none() => return Err(Malformed::HostMissing),
        None => {}
    }
    let body = match (pseudo.ended, read.length) {
        (true, None | Some(0)) if read.length.is_none() => RequestBody::None,
        (true, Some(length)) if length > 0 && pseudo.method != "CONNECT" => return Err(Malformed::Message),
        (_, Some(length)) => RequestBody::Length(length),
        (_, None) => RequestBody::Chunked,
    };
    let mut dropped = read.dropped;
    if target.authority.is_some() && read.host.is_some() {
        dropped.insert(read.host_at);
    }
    let mut max_forwards = None;
    match pseudo.method {
        "TRACE" if body != RequestBody::None => return Err(Malformed::TraceBody),
        "CONNECT" if body != RequestBody::None => return Err(Malformed::ConnectBody),
        "TRACE" | "OPTIONS" if read.forwards => {
            max_forwards = Some(read_max_forwards(fields, &mut dropped)?);
        }
        _ => {}
    }
    Ok(Request {
        method: pseudo.method,
        target,
        version,
        head_len,
        body,
        keep_alive: true,
        upgrade: pseudo.upgrade,
        h2c: false,
        has_via: read.via,
        expect_continue: read.expect_continue && !matches!(body, RequestBody::None | RequestBody::Length(0)),
        te_trailers: read.te_trailers,
        fields,
        dropped,
        forwarded: read.forwarded,
        no_host: read.host.is_none(),
        max_forwards,
    })
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
    host_at: usize,
    length: Option<u64>,
    codings: Codings,
    coded: bool,
    connection: Connection,
    upgrade: Option<&'b [u8]>,
    expect_continue: bool,
    te_trailers: bool,
    /// There is a `Max-Forwards`.
    forwards: bool,
    via: bool,
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
                read.host_at = at;
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
            Kind::MaxForwards => read.forwards = true,
            Kind::Via => read.via = true,
            Kind::XForwardedFor | Kind::Forwarded | Kind::Claim => read.forwarded.insert(at),
            Kind::HopByHop => read.dropped.insert(at),
        }
    }
    read.upgrade = read
        .upgrade
        .filter(|protocols| fields::list(protocols).next().is_some());
    Ok(read)
}

fn check_host(target: &Target<'_>, host: Option<&[u8]>, version: Version) -> Result<(), Malformed> {
    let Some(host) = host else {
        return if version == Version::Http10 {
            Ok(())
        } else {
            Err(Malformed::HostMissing)
        };
    };
    target::check_host(host)?;
    if target.agrees_with(host) {
        Ok(())
    } else {
        Err(Malformed::HostMismatch)
    }
}

/// Reads the one `Max-Forwards`, and takes it out: it is written anew, one less.
#[cold]
fn read_max_forwards(fields: &[httparse::Header<'_>], dropped: &mut Positions) -> Result<u64, Malformed> {
    let mut read = None;
    for (at, field) in fields.iter().enumerate() {
        if fields::kind(field.name) == Kind::MaxForwards
            && read.replace(fields::max_forwards(field.value)?).is_some()
        {
            return Err(Malformed::MaxForwards);
        }
        if fields::kind(field.name) == Kind::MaxForwards {
            dropped.insert(at);
        }
    }
    read.ok_or(Malformed::MaxForwards)
}

fn body(read: &Read<'_>, version: Version) -> Result<RequestBody, Malformed> {
    if !read.coded {
        return Ok(read.length.map_or(RequestBody::None, RequestBody::Length));
    }
    if read.length.is_some() {
        return Err(Malformed::LengthAndCoding);
    }
    if version == Version::Http10 {
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
        // Nobody has such a method (RFC 9112 section 3).
        Some(_) | None if memchr::memchr(b' ', buf).is_none_or(|at| at > METHOD_MOST) => {
            Malformed::MethodTooLong
        }
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
