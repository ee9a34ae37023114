//! WebSocket handshakes (RFC 6455 section 4), where the service wants them looked at.
//!
//! Owns what of a request makes one, what is wrong with it, which of the subprotocols it asks for may be had, and whether
//! the backend's `101` answers it. What a switch to another protocol needs in general (RFC 9110 section 7.8) is `response`'s.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};
use weir_core::plan::WebSocket;

use super::{
    fields::{self, Kind},
    head::Malformed,
    request::{Request, RequestBody},
    response::Response,
    version::Version,
};

/// What every server adds to the key (RFC 6455 section 1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const KEY: &str = "Sec-WebSocket-Key";
const VERSION: &str = "Sec-WebSocket-Version";
const ACCEPT: &str = "Sec-WebSocket-Accept";
/// Names subprotocols.
pub(super) const PROTOCOL: &str = "Sec-WebSocket-Protocol";

/// What a handshake was, for the answer to be held against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What the backend must answer the key with. None: it is not looked at.
    accept: Option<String>,
    /// The subprotocols asked for, of those that may be.
    protocols: Vec<Vec<u8>>,
}

/// Looks at a request. None: it is no handshake, or nobody wants it looked at.
///
/// # Errors
/// It is none that RFC 6455 allows ([`Malformed::WebSocket`], [`Malformed::WebSocketVersion`]), or asks for no subprotocol
/// that may be had ([`Malformed::WebSocketProtocol`]).
#[inline]
pub fn judge(request: &Request<'_, '_>, service: &WebSocket) -> Result<Option<Asked>, Malformed> {
    if !service.looks() || !is_handshake(request) {
        return Ok(None);
    }
    // By HTTP/2 the handshake is an extended CONNECT, without a key (RFC 8441 section 5).
    let accept = if service.strict && request.version != Version::Http2 {
        Some(check(request)?)
    } else {
        None
    };
    let protocols: Vec<_> = asked_for(request, service).map(<[u8]>::to_vec).collect();
    if protocols.is_empty() && values(request.fields, PROTOCOL).next().is_some() {
        return Err(Malformed::WebSocketProtocol);
    }
    Ok(Some(Asked { accept, protocols }))
}

/// Whether it asks for WebSocket, in order or not.
fn is_handshake(request: &Request<'_, '_>) -> bool {
    let upgrades = request
        .fields
        .iter()
        .filter(|f| fields::kind(f.name) == Kind::Upgrade);
    let names = |value| fields::list(value).any(|p| p.eq_ignore_ascii_case(b"websocket"));
    upgrades.map(|field| field.value).any(names)
        || request
            .upgrade
            .is_some_and(|protocols| fields::list(protocols).any(|p| p.eq_ignore_ascii_case(b"websocket")))
}

/// Checks what section 4.2.1 asks of a client, and answers with what section 4.2.2 has the server say.
fn check(request: &Request<'_, '_>) -> Result<String, Malformed> {
    // An upgrade is only taken for one by HTTP/1.1, with `Connection: Upgrade` and without a body.
    let in_order = request.method == "GET" && request.body == RequestBody::None && request.upgrade.is_some();
    let key = one(request.fields, KEY).filter(|key| is_key(key));
    let Some(key) = key.filter(|_| in_order) else {
        return Err(Malformed::WebSocket);
    };
    match one(request.fields, VERSION) {
        Some(b"13") => Ok(accept(key)),
        Some(_) => Err(Malformed::WebSocketVersion),
        None => Err(Malformed::WebSocket),
    }
}

/// Whether it is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let mut bytes = [0; 18];
    key.len() == 24 && STANDARD.decode_slice(key, &mut bytes) == Ok(16)
}

/// What answers a key (section 4.2.2).
pub(crate) fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(MAGIC);
    STANDARD.encode(hash.finalize())
}

/// The subprotocols that a request asks for and may have, in its order.
fn asked_for<'b>(request: &Request<'_, 'b>, service: &WebSocket) -> impl Iterator<Item = &'b [u8]> {
    let may = |protocol: &&[u8]| match &service.protocols {
        Some(allowed) => allowed.iter().any(|known| known.as_bytes() == *protocol),
        None => true,
    };
    values(request.fields, PROTOCOL)
        .flat_map(fields::list)
        .filter(may)
}

/// Whether the field goes, because [`write()`] writes it anew.
#[inline]
pub(super) fn replaces(request: &Request<'_, '_>, service: &WebSocket, name: &str) -> bool {
    service.protocols.is_some()
        && request.upgrade.is_some()
        && name.eq_ignore_ascii_case(PROTOCOL)
        && is_handshake(request)
}

/// Writes the subprotocols that may be had, where others were asked for too.
#[inline]
pub(super) fn write(out: &mut Vec<u8>, request: &Request<'_, '_>, service: &WebSocket) {
    if service.protocols.is_none() || request.upgrade.is_none() || !is_handshake(request) {
        return;
    }
    let mut first = true;
    for protocol in asked_for(request, service) {
        out.extend_from_slice(if first { b"Sec-WebSocket-Protocol: " } else { b", " });
        out.extend_from_slice(protocol);
        first = false;
    }
    if !first {
        out.extend_from_slice(b"\r\n");
    }
}

impl Asked {
    /// Holds a `101` against the request.
    ///
    /// # Errors
    /// [`Malformed::WebSocket`] if it does not answer the key, [`Malformed::WebSocketProtocol`] if it names a subprotocol
    /// that was not asked for.
    pub fn is_answered_by(&self, response: &Response<'_, '_>) -> Result<(), Malformed> {
        if let Some(accept) = &self.accept
            && one(response.fields, ACCEPT) != Some(accept.as_bytes())
        {
            return Err(Malformed::WebSocket);
        }
        let mut chosen = values(response.fields, PROTOCOL);
        match (chosen.next(), chosen.next()) {
            (None, _) => Ok(()),
            (Some(protocol), None) if self.protocols.iter().any(|asked| asked == protocol) => Ok(()),
            (Some(_), _) => Err(Malformed::WebSocketProtocol),
        }
    }
}

fn values<'b>(all: &[httparse::Header<'b>], name: &str) -> impl Iterator<Item = &'b [u8]> {
    all.iter()
        .filter(move |f| f.name.eq_ignore_ascii_case(name))
        .map(|f| f.value)
}

/// The value of the only field of that name.
fn one<'b>(all: &[httparse::Header<'b>], name: &str) -> Option<&'b [u8]> {
    let mut values = values(all, name);
    let first = values.next();
    first.filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_example() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn keys() {
        for (key, good) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAAAA==", true),
            // Bits behind the last byte.
            ("AAAAAAAAAAAAAAAAAAAAAB==", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZQ=", false),
            ("dGhlIHNhbXBsZSBub25jZWU=", false),
            ("dGhlIHNhbXBsZSBub25jZQ==AAAA", false),
            ("dGhlIHNhbXBsZSBub25j_Q==", false),
            ("", false),
        ] {
            assert_eq!(is_key(key.as_bytes()), good, "{key}");
        }
    }
}
