//! Responses: from bytes to what they mean, as strictly as requests.

use super::{
    fields::{self, Codings, Connection, Kind},
    head::{self, FieldStore, HeadLimits, Malformed, Positions},
    request,
    version::Version,
};

/// A parsed response head.
pub struct Response<'h, 'b> {
    /// 100 to 599.
    pub status: u16,
    /// The version that it came in.
    pub version: Version,
    /// The reason phrase, as it came.
    pub reason: &'b str,
    /// Bytes of the head, its empty line included.
    pub head_len: usize,
    /// What follows the head.
    pub body: ResponseBody,
    /// Whether the backend's connection may stay after this response.
    pub keep_alive: bool,
    /// With a `101` that is whole: the protocols switched to. With a `426`: those asked for.
    pub upgrade: Option<&'b [u8]>,
    /// What follows is a tunnel: `CONNECT` has succeeded.
    pub tunnel: bool,
    /// It has a `Date`.
    pub dated: bool,
    pub(super) fields: &'h [httparse::Header<'b>],
    pub(super) dropped: Positions,
}

impl<'b> Response<'_, 'b> {
    /// The value of the first field of that name.
    pub fn value(&self, name: &str) -> Option<&'b [u8]> {
        let field = self.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name));
        field.map(|field| field.value)
    }
}

/// What follows a response's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseBody {
    /// Nothing: the request's method or the status says so.
    None,
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection ends.
    UntilClose,
}

/// What of a request decides how its response is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asked {
    /// `HEAD`: no body, whatever the fields say.
    Head,
    /// `CONNECT`: success makes a tunnel.
    Connect,
    /// Anything else.
    #[default]
    Other,
}

impl Asked {
    /// By the method.
    pub fn by(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Parses a response head. `Ok(None)`: it is not whole yet.
///
/// # Errors
/// What is wrong with it; nothing of it may be passed on then.
pub fn parse<'h, 'b>(
    buf: &'b [u8],
    store: &'h mut FieldStore<'b>,
    limits: HeadLimits,
    asked: Asked,
) -> Result<Option<Response<'h, 'b>>, Malformed> {
    let mut parsed = httparse::Response::new(&mut []);
    let store = store
        .get_mut(..limits.fields.min(head::MAX_FIELDS))
        .unwrap_or_default();
    let config = httparse::ParserConfig::default();
    let status = match config.parse_response_with_uninit_headers(&mut parsed, buf, store) {
        Ok(status) => status,
        Err(error) => return Err(head::fault(error, Malformed::StatusLine)),
    };
    let httparse::Status::Complete(head_len) = status else {
        return if buf.len() < limits.bytes {
            Ok(None)
        } else {
            Err(Malformed::TooLarge)
        };
    };
    if head_len > limits.bytes {
        return Err(Malformed::TooLarge);
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Malformed::StatusLine);
    };
    let version = Version::of_minor(minor);
    let bytes = buf.get(..head_len).unwrap_or_default();
    let fields: &'h [httparse::Header<'b>] = parsed.headers;
    head::check_line_ends(bytes, fields)?;
    if !bytes.starts_with(b"HTTP/1.") || !(100..600).contains(&status) {
        return Err(Malformed::StatusLine);
    }
    let mut read = read_fields(fields)?;
    if read.connection.nominates {
        request::drop_nominated(fields, &mut read.dropped);
    }
    let chunked = read.codings.chunked()?;
    if chunked && read.length.is_some() {
        return Err(Malformed::LengthAndCoding);
    }
    if chunked && version == Version::Http10 {
        return Err(Malformed::TransferCoding);
    }
    let tunnel = asked == Asked::Connect && (200..300).contains(&status);
    let claims_body = chunked || read.length.is_some_and(|length| length > 0);
    // What follows could be a body that must not be, or the next head.
    if status < 200 && claims_body {
        return Err(Malformed::InterimBody);
    }
    // Where no length may be said (RFC 9110 section 8.6), it is not passed on.
    if read.length.is_some() && (status < 200 || status == 204 || tunnel) {
        read.dropped.insert(read.length_at);
    }
    // RFC 9112 section 6.3, in its order.
    let bodiless = asked == Asked::Head || status < 200 || status == 204 || status == 304 || tunnel;
    let body = match (bodiless, chunked, read.length) {
        (true, _, _) => ResponseBody::None,
        (false, true, _) => ResponseBody::Chunked,
        (false, false, Some(length)) => ResponseBody::Length(length),
        (false, false, None) => ResponseBody::UntilClose,
    };
    let keep = if version == Version::Http10 {
        read.connection.keep_alive
    } else {
        true
    } && !read.connection.close;
    Ok(Some(Response {
        status,
        version,
        reason: parsed.reason.unwrap_or_default(),
        head_len,
        body,
        // A backend that sends a body behind a 204 is not trusted with another request.
        keep_alive: keep && body != ResponseBody::UntilClose && !(status == 204 && claims_body),
        upgrade: read
            .upgrade
            .filter(|_| matches!(status, 101 | 426) && version == Version::Http11 && read.connection.upgrade),
        tunnel,
        dated: read.dated,
        fields,
        dropped: read.dropped,
    }))
}

#[derive(Default)]
struct Read<'b> {
    length: Option<u64>,
    length_at: usize,
    codings: Codings,
    connection: Connection,
    upgrade: Option<&'b [u8]>,
    dated: bool,
    dropped: Positions,
}

#[inline]
fn read_fields<'b>(all: &[httparse::Header<'b>]) -> Result<Read<'b>, Malformed> {
    let mut read = Read::default();
    for (at, field) in all.iter().enumerate() {
        match fields::kind(field.name) {
            Kind::Other => read.dated |= field.name.eq_ignore_ascii_case("date"),
            Kind::Host
            | Kind::Expect
            | Kind::XForwardedFor
            | Kind::Forwarded
            | Kind::MaxForwards
            | Kind::Via
            | Kind::Claim => {}
            Kind::ContentLength => {
                let length = fields::content_length(field.value)?;
                if read.length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
                read.length_at = at;
            }
            Kind::TransferEncoding => {
                read.codings.read(field.value);
                read.dropped.insert(at);
            }
            Kind::Connection => {
                read.connection.read(field.value);
                read.dropped.insert(at);
            }
            Kind::Upgrade => {
                // Two fields are one list; no backend of good sense sends that.
                read.upgrade = if read.upgrade.is_none() {
                    Some(field.value)
                } else {
                    Some(b"")
                };
                read.dropped.insert(at);
            }
            Kind::Te | Kind::HopByHop => read.dropped.insert(at),
        }
    }
    Ok(read)
}

/// Whether every protocol of a `101` is among those that the request asked for, and there is one.
pub fn is_asked_for(switched: &[u8], asked: &[u8]) -> bool {
    let known = |p: &[u8]| fields::list(asked).any(|a| a.eq_ignore_ascii_case(p));
    fields::list(switched).next().is_some() && fields::list(switched).all(known)
}
