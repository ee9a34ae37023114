//! Heads and trailers between the form that the relay works on (HTTP/1.1 text, as it writes and judges it) and HTTP/2's
//! (RFC 9113 section 8).
//!
//! What a backend says is judged twice: what HTTP/2 forbids here and in the `h2` crate, the rest where every response is
//! (`http1::response`), since the text made here goes there. Pure; never touches a stream.

use std::io::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, uri};

use crate::{
    http1::{
        fields,
        head::{MAX_FIELDS, Malformed, field_store},
        response::Asked,
        status, websocket,
    },
    http2::is_name,
};

/// A WebSocket's key, and its answer.
const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// Bytes that a trailer section may have, and fields.
const TRAILERS: usize = 16 << 10;
const TRAILER_FIELDS: usize = 64;

/// A request head that the relay has written, as HTTP/2 says it; `secure` over TLS.
///
/// # Errors
/// [`Malformed::Target`]: the target has bytes that no URI may have; HTTP/1.1 servers may know what to do with them.
pub(crate) fn request(head: &[u8], secure: bool) -> Result<Request<()>, Malformed> {
    let mut parsed = httparse::Request::new(&mut []);
    let mut store = field_store();
    match parsed.parse_with_uninit_headers(head, store.get_mut(..MAX_FIELDS).unwrap_or_default()) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::RequestLine),
    }
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Method)?;
    let mut host: &[u8] = b"";
    let mut all = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = field.name;
        if name.eq_ignore_ascii_case("host") {
            host = field.value;
        } else if !is_of_a_connection(name) {
            add(&mut all, name, field.value)?;
        }
    }
    let uri = uri(&method, target, host, secure)?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    // A request without a host has no `:authority`, which the crate allows where a request comes from HTTP/1.
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = all;
    Ok(request)
}

/// What a WebSocket is asked for by, in HTTP/1.1 as in HTTP/2.
pub(crate) const WEBSOCKET: &str = "websocket";

/// The head of a WebSocket's handshake as extended CONNECT asks for it (RFC 8441 section 5): without the key, whose place
/// `:protocol` takes.
///
/// # Errors
/// As [`request`]; and a request without a host, which is for nobody.
pub(crate) fn websocket(head: &[u8], secure: bool) -> Result<Request<()>, Malformed> {
    let mut request = request(head, secure)?;
    if request.uri().authority().is_none() {
        return Err(Malformed::HostMissing);
    }
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(KEY);
    request
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static(WEBSOCKET));
    Ok(request)
}

/// Adds the `101` that stands for the success of that to `out`. `asked` is the request's head as it was written: who has
/// asked for the switch in HTTP/1.1 wants its key answered (RFC 6455 section 4.2.2).
///
/// # Errors
/// What HTTP/2 forbids, and the crate does not look at.
pub(crate) fn switched(out: &mut Vec<u8>, all: &HeaderMap, asked: &[u8]) -> Result<(), Malformed> {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n",
    );
    if let Some(key) = request(asked, false)?.headers().get(KEY) {
        out.extend_from_slice(b"sec-websocket-accept: ");
        out.extend_from_slice(websocket::accept(key.as_bytes()).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in all {
        // Of a body that there is not (RFC 9110 section 9.3.6), and of the key that was not sent.
        if name != http::header::CONTENT_LENGTH && name != ACCEPT {
            field(out, name, value)?;
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn add(all: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), Malformed> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Malformed::FieldName)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Malformed::FieldValue)?;
    match all.try_append(name, value) {
        Ok(_) => Ok(()),
        Err(_) => Err(Malformed::TooManyFields),
    }
}

/// What HTTP/2 has other means for, or none (RFC 9113 section 8.2.2). `TE: trailers` stays: nothing else is written.
fn is_of_a_connection(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
}

/// What becomes `:scheme`, `:authority` and `:path`.
fn uri(method: &Method, target: &str, host: &[u8], secure: bool) -> Result<Uri, Malformed> {
    let mut parts = uri::Parts::default();
    let exact = |path: &uri::PathAndQuery| path.as_str() == target;
    if method == Method::CONNECT {
        parts.authority = Some(target.parse().map_err(|_| Malformed::Target)?);
    } else {
        parts.path_and_query = Some(target.parse().ok().filter(exact).ok_or(Malformed::Target)?);
        if !host.is_empty() {
            parts.authority = Some(uri::Authority::try_from(host).map_err(|_| Malformed::Host)?);
            parts.scheme = Some(match secure {
                true => uri::Scheme::HTTPS,
                false => uri::Scheme::HTTP,
            });
        }
    }
    Uri::from_parts(parts).map_err(|_| Malformed::Target)
}

/// Adds a response head to `out`. `ended`: nothing follows it. A body of no known length goes by the name of chunks,
/// as does one that trailers are announced for, since only chunks can carry them on.
///
/// # Errors
/// What HTTP/2 forbids, and the crate does not look at.
pub(crate) fn response(
    out: &mut Vec<u8>,
    status: StatusCode,
    all: &HeaderMap,
    asked: Asked,
    ended: bool,
) -> Result<(), Malformed> {
    let code = status.as_u16();
    // Writing to a Vec can't fail.
    let _ = write!(out, "HTTP/1.1 {code} {}\r\n", status::phrase(code));
    let interim = code < 200;
    let announced = !ended && all.contains_key(http::header::TRAILER);
    let bodiless = interim
        || matches!(code, 204 | 304)
        || asked == Asked::Head
        || asked == Asked::Connect && status.is_success();
    let mut length = false;
    for (name, value) in all {
        let is_length = name == http::header::CONTENT_LENGTH;
        if is_length && announced && !bodiless {
            continue;
        }
        length |= is_length;
        field(out, name, value)?;
    }
    if !bodiless && !length {
        out.extend_from_slice(if ended {
            b"content-length: 0\r\n"
        } else {
            b"transfer-encoding: chunked\r\n"
        });
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
    let value = value.as_bytes();
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return Err(Malformed::FieldValue);
    }
    if is_of_a_connection(name.as_str()) || !is_name(name.as_str()) {
        return Err(Malformed::FieldName);
    }
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// A backend's trailers as field lines.
///
/// # Errors
/// [`Malformed::Trailer`]: what may not stand there, or too much of it.
pub(crate) fn trailers(all: &HeaderMap) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    if all.len() > TRAILER_FIELDS {
        return Err(Malformed::Trailer);
    }
    for (name, value) in all {
        if fields::barred_from_trailers(name.as_str()) {
            return Err(Malformed::Trailer);
        }
        field(&mut out, name, value)?;
    }
    if out.len() > TRAILERS {
        return Err(Malformed::Trailer);
    }
    Ok(out)
}

/// Field lines as HTTP/2's trailers.
///
/// # Errors
/// They are none; those that the relay has read are.
pub(crate) fn trailer_map(lines: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut section = lines.to_vec();
    section.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let mut all = HeaderMap::new();
    match httparse::parse_headers(&section, &mut room) {
        Ok(httparse::Status::Complete((_, parsed))) => {
            for field in parsed {
                add(&mut all, field.name, field.value)?;
            }
            Ok(all)
        }
        Ok(httparse::Status::Partial) | Err(_) => Err(Malformed::Trailer),
    }
}

#[cfg(test)]
mod tests;
