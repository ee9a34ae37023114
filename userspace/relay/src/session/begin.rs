//! From a parsed request to an exchange with its request written: all that can be done before anything waits.

use std::{rc::Rc, time::Instant};

use weir_core::plan::Http;

use super::{Exchange, Held, Session, client::Client, exchange::Up};
use crate::{
    access::RequestLine,
    fault::Fault,
    http1::{
        answer::Answer,
        body::Decoder,
        fields,
        head::{HeadLimits, MAX_FIELDS, Malformed, field_store},
        id::RequestId,
        path,
        request::{self, Request, RequestBody},
        response::Asked,
        version::Version,
        websocket,
    },
    http2::request::Received,
    phases::Phases,
    tls::{Front, TlsFacts},
    upstream::http2::message,
    worker::LocalRoute,
};

/// A request that is refused.
pub(super) struct Bad {
    pub(super) route: Rc<LocalRoute>,
    pub(super) fault: Fault,
    pub(super) began: Option<Instant>,
    /// Bytes that were read of it.
    pub(super) bytes: u64,
    /// Where it could be read.
    pub(super) line: Option<RequestLine>,
    pub(super) to_head: bool,
    /// It is among the service's requests already.
    pub(super) counted: bool,
    /// Its id, where requests have ids.
    pub(super) id: RequestId,
}

impl<C: Client> Session<C> {
    /// From a parsed head to an exchange with its request written.
    pub(super) fn begin(
        &mut self,
        parsed: &Request<'_, '_>,
        bytes: &[u8],
        route: Rc<LocalRoute>,
        http: &Http,
        spare: &mut Vec<u8>,
        began: Option<Instant>,
    ) -> Result<Held, Box<Bad>> {
        let now = self.worker.clock.now();
        route.cell.requests.add(1);
        let line = || {
            RequestLine::new(
                parsed.method.as_bytes(),
                parsed.target.path.as_bytes(),
                parsed.version,
            )
        };
        let refused = |route: Rc<LocalRoute>, fault| {
            let makes_ids = route.prepared.makes_ids;
            Box::new(Bad {
                id: if makes_ids {
                    self.request_id(http, parsed)
                } else {
                    RequestId::NONE
                },
                route,
                fault,
                began,
                bytes: parsed.head_len as u64,
                line: Some(line()),
                to_head: parsed.method == "HEAD",
                counted: true,
            })
        };
        let node = &route.route.node;
        let secure = self.client.tls();
        if let Some(fault) = unserved(parsed, http, node, || {
            secure.is_some() || self.is_told_secure() || self.trust(http).sender
        }) {
            return Err(refused(route, fault));
        }
        if let Some(fault) = secure.and_then(|tls| misdirected(parsed, tls, &route)) {
            return Err(refused(route, fault));
        }
        let phases = Phases::request(self.since, began.unwrap_or(now), now);
        let mut held = self.worker.exchanges.borrow_mut().pop().unwrap_or_default();
        let x = held.put(Exchange::new(route, phases));
        x.version = parsed.version;
        x.keep_alive = parsed.keep_alive;
        x.wants_end = !parsed.keep_alive;
        x.method = Asked::by(parsed.method);
        x.answer = Answer::to(parsed, bytes.get(..parsed.head_len).unwrap_or(bytes));
        if x.method == Asked::Connect {
            // What follows may be meant for a tunnel that is refused: it must not be taken for a request.
            x.keep_alive = false;
        }
        x.idempotent = request::is_idempotent(parsed.method);
        x.expect = parsed.expect_continue;
        x.asked = parsed.upgrade.map(Box::from);
        x.bytes_in = parsed.head_len as u64;
        if self.worker.log.borrow().is_some() {
            x.line = Some(line());
        }
        let decoder = match (parsed.body, parsed.version) {
            (RequestBody::None, _) => Decoder::NONE,
            (RequestBody::Length(length), Version::Http10 | Version::Http11) => Decoder::Length(length),
            (RequestBody::Length(0), Version::Http2) => Decoder::NONE,
            (RequestBody::Chunked, Version::Http10 | Version::Http11) => Decoder::chunked(),
            (RequestBody::Length(_) | RequestBody::Chunked, Version::Http2) => Decoder::FRAMES,
        };
        x.up = Up::new(decoder, parsed.body == RequestBody::Chunked, http.limits.body);
        x.out = std::mem::take(spare);
        x.out.clear();
        match websocket::judge(parsed, &http.websocket) {
            Ok(asked) => x.handshake = asked.map(Box::new),
            Err(malformed) => return Err(refused(Rc::clone(&x.route), Fault::Request(malformed))),
        }
        match self.decide(x, parsed, http) {
            // It goes to no backend.
            Ok(answered) if answered || x.answer.is_some() => return Ok(held),
            Ok(_) => {}
            Err(malformed) => return Err(refused(Rc::clone(&x.route), Fault::Request(malformed))),
        }
        let pool = Rc::clone(&x.route.pool);
        if pool.is_http2() {
            // A WebSocket is asked for by extended CONNECT there (RFC 8441). No other switch is known: such an offer ends
            // here. And frames need no chunks.
            x.asked = { parsed.upgrade.filter(|protocols| names_websocket(protocols)) }
                .map(|_| message::WEBSOCKET.as_bytes().into());
            x.up.chunked = false;
        }
        x.next = self.kept_at(&pool).or_else(|| pool.choose(&x.tried));
        let index = x.next.as_ref().map(|(index, _)| *index);
        if index.is_none() && x.route.prepared.per_backend {
            // Written once there is a backend to write it for.
            return Ok(held);
        }
        match self.write_request(x, parsed, http, index) {
            Ok(()) => Ok(held),
            Err(malformed) => Err(refused(Rc::clone(&x.route), Fault::Request(malformed))),
        }
    }
}

fn names_websocket(protocols: &[u8]) -> bool {
    fields::list(protocols).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// What of a request that is well-formed this service does not serve.
#[inline]
fn unserved(
    parsed: &Request<'_, '_>,
    http: &Http,
    node: &str,
    is_trusted: impl Fn() -> bool,
) -> Option<Fault> {
    let over = match (parsed.body, http.limits.body) {
        (RequestBody::Length(length), Some(most)) => length > most,
        (RequestBody::Length(_) | RequestBody::None | RequestBody::Chunked, _) => false,
    };
    if over {
        return Some(Fault::BodyTooLarge);
    }
    if let (true, Some(most)) = (parsed.has_via, http.wire.loop_limit)
        && parsed.passes_by(node) > most
    {
        return Some(Fault::Loop);
    }
    match parsed.method {
        "CONNECT" if !http.wire.connect => Some(Fault::Request(Malformed::Connect)),
        "TRACE" if !http.wire.trace => Some(Fault::Request(Malformed::Trace)),
        // Only who has ended TLS may say so (RFC 9110 section 7.4).
        _ if parsed.target.is_secure() && !is_trusted() => Some(Fault::Request(Malformed::Misdirected)),
        _ => None,
    }
}

/// Whether a request is for a host that the client did not ask for in its handshake, and that no certificate of the
/// service is for (RFC 9110 section 7.4): it would come by what was agreed on for another. Who asked for no name is
/// served whatever its requests are for.
fn misdirected(parsed: &Request<'_, '_>, tls: &TlsFacts, route: &LocalRoute) -> Option<Fault> {
    let authority = path::authority(parsed);
    let host = std::str::from_utf8(path::host(authority)).unwrap_or_default();
    let asked = host.strip_suffix('.').unwrap_or(host);
    if tls.sni.is_empty() || authority.is_empty() || asked.eq_ignore_ascii_case(&tls.sni) {
        return None;
    }
    let is_for = |front: &std::sync::Arc<Front>| front.is_for(host);
    match route.route.tls.as_ref().is_some_and(is_for) {
        true => None,
        false => Some(Fault::Request(Malformed::ServerName)),
    }
}

/// A request's head as it came, for when it has to be written anew: for another backend, or for the response.
#[derive(Default)]
pub(super) enum Raw {
    /// It was not kept.
    #[default]
    Nothing,
    /// The text of HTTP/1.
    Text(Vec<u8>),
    /// The fields of HTTP/2.
    Fields(Box<Received>),
}

impl Raw {
    /// Reads it once more; None if it was not kept.
    ///
    /// # Errors
    /// None: what was accepted once is accepted again.
    pub(super) fn read<T>(&self, with: impl FnOnce(Option<&Request<'_, '_>>) -> T) -> Result<T, Malformed> {
        let limits = |bytes| HeadLimits {
            bytes,
            fields: MAX_FIELDS,
        };
        match self {
            Self::Nothing => Ok(with(None)),
            Self::Text(text) => {
                let mut store = field_store();
                match request::parse(text, &mut store, limits(text.len() + 1))? {
                    Some(parsed) => Ok(with(Some(&parsed))),
                    None => Err(Malformed::RequestLine),
                }
            }
            Self::Fields(received) => received.read(limits(usize::MAX), |parsed| with(Some(parsed))),
        }
    }
}
