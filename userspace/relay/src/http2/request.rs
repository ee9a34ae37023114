//! Requests as HTTP/2 says them, for the relay to read as it reads those of HTTP/1 (RFC 9113 section 8.3).
//!
//! What HTTP/2 forbids is malformed and ends the stream; most of it the `h2` crate finds before. What only this relay
//! refuses (a host that is none, a target of `https`) is an answer, as in HTTP/1.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, request::Parts};

use crate::http1::{
    fields,
    head::{HeadLimits, Malformed},
    request::{self, Pseudo, Request},
};

/// Bytes that a trailer section may have, and fields.
const TRAILERS: usize = 16 << 10;
const TRAILER_FIELDS: usize = 64;

/// What `:protocol` may say here (RFC 8441).
const WEBSOCKET: &str = "websocket";

/// A request's head as it came.
pub struct Received {
    parts: Parts,
    /// Several `Cookie` fields as the one that HTTP/1.1 knows (RFC 9113 section 8.2.3).
    cookie: Option<Vec<u8>>,
    /// `:protocol` of an extended `CONNECT`.
    protocol: Option<Box<str>>,
    /// `Sec-WebSocket-Key` for a backend that speaks HTTP/1.1.
    key: Option<String>,
    /// Nothing follows it.
    ended: bool,
}

impl Received {
    /// A head; `ended` if the stream ends with it. `key` makes the 16 random bytes of a WebSocket handshake.
    pub fn new(parts: Parts, ended: bool, key: impl FnOnce() -> [u8; 16]) -> Self {
        let protocol = parts.extensions.get::<h2::ext::Protocol>();
        let protocol: Option<Box<str>> = protocol.map(|protocol| protocol.as_str().into());
        let cookie = joined(&parts.headers);
        Self {
            key: protocol.as_ref().map(|_| STANDARD.encode(key())),
            parts,
            cookie,
            protocol,
            ended,
        }
    }

    /// Whether it asks for a WebSocket, by extended `CONNECT`: the key that the backend is sent, if so.
    pub fn websocket_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The method as it came.
    pub fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    /// What it asks for, for records: the path, or the authority of a `CONNECT`.
    pub fn target(&self) -> &str {
        match self.parts.uri.path_and_query() {
            Some(path) => path.as_str(),
            None => self.parts.uri.authority().map_or("", |a| a.as_str()),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it may be passed on then.
    pub fn read<T>(
        &self,
        limits: HeadLimits,
        with: impl FnOnce(&Request<'_, '_>) -> T,
    ) -> Result<T, Malformed> {
        let fields = self.fields()?;
        let uri = &self.parts.uri;
        let connect = self.parts.method == Method::CONNECT;
        let (method, upgrade) = match (&self.protocol, connect) {
            // Over HTTP/1.1 it is an `Upgrade` (RFC 8441 section 5).
            (Some(protocol), true) if protocol.eq_ignore_ascii_case(WEBSOCKET) => ("GET", Some(WEBSOCKET)),
            (Some(_), _) => return Err(Malformed::UnknownCoding),
            (None, _) => (self.parts.method.as_str(), None),
        };
        let pseudo = Pseudo {
            method,
            scheme: uri.scheme_str(),
            authority: uri.authority().map(http::uri::Authority::as_str),
            path: uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            upgrade: upgrade.map(str::as_bytes),
            ended: self.ended || upgrade.is_some() || connect,
        };
        request::of_stream(&pseudo, &fields, limits).map(|request| with(&request))
    }

    fn fields(&self) -> Result<Vec<httparse::Header<'_>>, Malformed> {
        let mut all = Vec::with_capacity(self.parts.headers.len() + 3);
        let mut cookie = self.cookie.as_deref();
        for (name, value) in &self.parts.headers {
            let name = name.as_str();
            let mut value = value.as_bytes();
            if has_blank_end(value) || is_refused(name) || !super::is_name(name) {
                return Err(Malformed::Message);
            }
            if self.cookie.is_some() && name == "cookie" {
                match cookie.take() {
                    Some(joined) => value = joined,
                    None => continue,
                }
            }
            all.push(httparse::Header { name, value });
        }
        if let Some(key) = &self.key {
            all.push(httparse::Header {
                name: "Sec-WebSocket-Key",
                value: key.as_bytes(),
            });
        }
        Ok(all)
    }
}

/// What may not stand in a head of HTTP/2. `HTTP2-Settings` is harmless, and ends here as everywhere.
fn is_refused(name: &str) -> bool {
    super::is_of_a_connection(name) && name != "http2-settings"
}

fn has_blank_end(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    blank(value.first()) || blank(value.last())
}

/// The crumbs of a cookie, if there are several.
fn joined(all: &HeaderMap) -> Option<Vec<u8>> {
    let mut crumbs = all.get_all(http::header::COOKIE).iter();
    let (first, second) = (crumbs.next()?, crumbs.next()?);
    let mut whole = first.as_bytes().to_vec();
    for crumb in [second].into_iter().chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    Some(whole)
}

/// A client's trailers as field lines.
///
/// # Errors
/// [`Malformed::Trailer`]: what may not stand there, or too much of it.
pub fn trailers(all: &HeaderMap) -> Result<Vec<u8>, Malformed> {
    if all.len() > TRAILER_FIELDS {
        return Err(Malformed::Trailer);
    }
    let mut out = Vec::new();
    for (name, value) in all {
        let name = name.as_str();
        if fields::barred_from_trailers(name) || has_blank_end(value.as_bytes()) || !super::is_name(name) {
            return Err(Malformed::Trailer);
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if out.len() > TRAILERS {
        return Err(Malformed::Trailer);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
