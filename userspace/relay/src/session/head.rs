//! Reading a request head, and all that can be done with it before anything waits: parse, choose a backend, write the
//! request.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

use weir_core::plan::Http;

use super::{Exchange, Session, exchange::Up, http, timeouts};
use crate::{
    fault::Fault,
    http1::{
        body::{self, Decoder},
        head::{HeadLimits, HeadScan, MAX_FIELDS, Malformed, field_store},
        request::{self, Request, RequestBody},
        rules::Variables,
        write::{self, RequestChanges},
    },
    scratch::{HEAD_MAX, HEADROOM, READ_START, Scratch},
    stream::Stream,
    worker::LocalRoute,
};

use std::rc::Rc;

/// Bytes of empty lines that are skipped before a request line at once (RFC 9112 section 2.2 asks for one line).
const EMPTY_LINES: usize = 16;

/// What came of waiting for a request.
pub(super) enum Head {
    /// The connection has ended, or ends without a word.
    Closed,
    /// A request, ready to go out.
    Request(Box<Exchange>),
    /// No request that could be served.
    Bad(Box<Bad>),
}

/// A request that is refused.
pub(super) struct Bad {
    pub(super) route: Rc<LocalRoute>,
    pub(super) fault: Fault,
    pub(super) began: Option<Instant>,
    /// Bytes that were read of it.
    pub(super) bytes: u64,
    /// Method and target, where they could be read.
    pub(super) line: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) to_head: bool,
    /// It is among the service's requests already.
    pub(super) counted: bool,
}

impl Session {
    /// Waits for a request head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        let Some(route) = self.entrance.route() else {
            return Poll::Ready(Head::Closed);
        };
        let Some(http) = http(&route) else {
            return Poll::Ready(Head::Closed);
        };
        let worker = Rc::clone(&self.worker);
        let scratch = &mut *worker.scratch.borrow_mut();
        let limit = (http.limits.head as usize).min(HEAD_MAX);
        let mut have = self.ahead.len();
        copy_in(scratch, &self.ahead);
        let mut empty = 0;
        loop {
            if !std::mem::take(&mut self.unread) {
                // Room for the whole head and a first piece of the body.
                let room = scratch
                    .buf
                    .get_mut(HEADROOM + have..HEADROOM + have + READ_START)
                    .unwrap_or_default();
                match self.client.poll_recv(cx, room) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(self.ended(&route, have, None)),
                    Poll::Ready(Err(error)) => return Poll::Ready(self.ended(&route, have, Some(error))),
                    Poll::Ready(Ok(n)) => {
                        route.cell.bytes_in.add(n as u64);
                        self.begin_head(&route);
                        have += n;
                    }
                    Poll::Pending => return self.wait_for_head(cx, scratch, &route, have),
                }
            } else if have > 0 {
                self.begin_head(&route);
            }
            let whole = have;
            have = self.skip_empty_lines(scratch, have);
            empty += whole - have;
            if empty > EMPTY_LINES {
                return Poll::Ready(self.bad(route, Fault::Request(Malformed::RequestLine), have));
            }
            let Some(bytes) = scratch
                .buf
                .get(HEADROOM..HEADROOM + have)
                // Half an empty line is nothing to parse yet.
                .filter(|b| !b.is_empty() && *b != b"\r")
            else {
                continue;
            };
            // What is not whole is looked at again only when its end has come, when it has doubled, or when it is too
            // large; so the work stays in proportion to the bytes.
            if self.parsed > 0 {
                match self.scan.advance(bytes) {
                    Ok(false) if have < self.parsed * 2 && have < limit => continue,
                    Ok(_) => {}
                    Err(malformed) => return Poll::Ready(self.bad(route, Fault::Request(malformed), have)),
                }
            }
            let limits = HeadLimits {
                bytes: limit,
                fields: usize::from(http.limits.headers).min(MAX_FIELDS),
            };
            let mut store = field_store();
            match request::parse(bytes, &mut store, limits) {
                Ok(Some(parsed)) => {
                    let exchange =
                        match self.begin(&parsed, bytes, Rc::clone(&route), http, &mut scratch.head) {
                            Ok(exchange) => exchange,
                            Err(bad) => return Poll::Ready(Head::Bad(bad)),
                        };
                    let head_len = parsed.head_len;
                    return Poll::Ready(self.take_body(scratch, exchange, head_len, have));
                }
                Ok(None) => {
                    if self.parsed == 0
                        && let Err(malformed) = self.scan.advance(bytes)
                    {
                        return Poll::Ready(self.bad(route, Fault::Request(malformed), have));
                    }
                    self.parsed = have;
                }
                Err(malformed) => return Poll::Ready(self.bad(route, Fault::Request(malformed), have)),
            }
        }
    }

    /// The first byte of a head has come: its time runs.
    fn begin_head(&mut self, route: &LocalRoute) {
        if self.began.is_none() {
            let now = Instant::now();
            self.began = Some(now);
            if self.requests > 0 {
                self.deadline.set(now, timeouts(route).request_head);
            }
        }
    }

    fn wait_for_head(
        &mut self,
        cx: &Context<'_>,
        scratch: &mut Scratch,
        route: &Rc<LocalRoute>,
        have: usize,
    ) -> Poll<Head> {
        if have == 0 && self.ahead.capacity() > 0 {
            // An idle connection owns no buffer.
            scratch.give_back(std::mem::take(&mut self.ahead));
        }
        if have > self.ahead.len() {
            let new = scratch
                .buf
                .get(HEADROOM + self.ahead.len()..HEADROOM + have)
                .unwrap_or_default();
            self.ahead.extend_from_slice(new);
        }
        match self.interrupted(cx) {
            // An idle connection of a service that goes, or of a weir that goes. One that has not asked anything yet has
            // its first request on the way.
            None if have == 0 && self.requests > 0 && self.is_ending() => Poll::Ready(Head::Closed),
            None => Poll::Pending,
            Some(super::Interrupt::Cut) => Poll::Ready(Head::Closed),
            // Nobody waits for an answer to nothing.
            Some(super::Interrupt::Late) if have == 0 => Poll::Ready(Head::Closed),
            Some(super::Interrupt::Late) => Poll::Ready(self.bad(Rc::clone(route), Fault::HeadTimeout, have)),
        }
    }

    /// The client has ended its side: between requests that is how connections end, within a head it is not.
    fn ended(&mut self, route: &Rc<LocalRoute>, have: usize, _error: Option<io::Error>) -> Head {
        if have == 0 {
            Head::Closed
        } else {
            self.bad(Rc::clone(route), Fault::ClientClosed, have)
        }
    }

    fn bad(&mut self, route: Rc<LocalRoute>, fault: Fault, have: usize) -> Head {
        let began = self.began.take();
        Head::Bad(Box::new(Bad {
            route,
            fault,
            began,
            bytes: have as u64,
            line: None,
            to_head: false,
            counted: false,
        }))
    }

    fn skip_empty_lines(&mut self, scratch: &mut Scratch, have: usize) -> usize {
        if self.parsed > 0 {
            return have;
        }
        let Some(bytes) = scratch.buf.get_mut(HEADROOM..HEADROOM + have) else {
            return have;
        };
        match request::skip_empty_lines(bytes) {
            0 => have,
            skipped => {
                bytes.copy_within(skipped.., 0);
                self.ahead.clear();
                self.scan = HeadScan::default();
                have - skipped
            }
        }
    }

    /// From a parsed head to an exchange with its request written.
    fn begin(
        &mut self,
        parsed: &Request<'_, '_>,
        bytes: &[u8],
        route: Rc<LocalRoute>,
        http: &Http,
        spare: &mut Vec<u8>,
    ) -> Result<Box<Exchange>, Box<Bad>> {
        let now = Instant::now();
        let began = self.began.take();
        self.requests += 1;
        route.cell.requests.add(1);
        let over = match (parsed.body, http.limits.body) {
            (RequestBody::Length(length), Some(most)) => length > most,
            (RequestBody::Length(_) | RequestBody::None | RequestBody::Chunked, _) => false,
        };
        let line = || {
            (
                parsed.method.as_bytes().to_vec(),
                parsed.target.path.as_bytes().to_vec(),
            )
        };
        if over {
            let to_head = parsed.method == "HEAD";
            let bytes = parsed.head_len as u64;
            let fault = Fault::BodyTooLarge;
            return Err(Box::new(Bad {
                route,
                fault,
                began,
                bytes,
                line: Some(line()),
                to_head,
                counted: true,
            }));
        }
        let mut x = Box::new(Exchange::new(route, now));
        x.head_took = began.map(|began| now.saturating_duration_since(began));
        x.minor = parsed.minor;
        x.keep_alive = parsed.keep_alive;
        x.wants_end = !parsed.keep_alive;
        x.to_head = parsed.method == "HEAD";
        x.idempotent = request::is_idempotent(parsed.method);
        x.expect = parsed.expect_continue;
        x.asked = parsed.upgrade.map(<[u8]>::to_vec);
        x.bytes_in = parsed.head_len as u64;
        if self.worker.log.borrow().is_some() {
            x.line = Some(line());
        }
        let decoder = match parsed.body {
            RequestBody::None => Decoder::NONE,
            RequestBody::Length(length) => Decoder::Length(length),
            RequestBody::Chunked => Decoder::chunked(),
        };
        x.up = Up::new(decoder, parsed.body == RequestBody::Chunked, http.limits.body);
        let pool = Rc::clone(&x.route.pool);
        x.next = pool.choose(&mut x.tried);
        x.out = std::mem::take(spare);
        x.out.clear();
        if x.route.request_rules.per_backend() {
            x.raw = bytes.get(..parsed.head_len).unwrap_or_default().to_vec();
        }
        let index = x.next.as_ref().map(|(index, _)| *index);
        self.write_request(&mut x, parsed, http, index);
        Ok(x)
    }

    /// Writes the request's head into `x.out`, for a backend.
    pub(super) fn write_request(
        &self,
        x: &mut Exchange,
        parsed: &Request<'_, '_>,
        http: &Http,
        index: Option<usize>,
    ) {
        let route = Rc::clone(&x.route);
        let vars = self.variables(&route, index, parsed.no_host);
        let changes = RequestChanges {
            rules: &route.request_rules,
            vars: &vars,
            forwarded: http.forwarded,
            trusted: http
                .trusted_proxies
                .iter()
                .any(|net| net.contains(self.address.ip())),
            client: &self.address_text,
        };
        write::request(&mut x.out, parsed, &changes);
        x.head_out = x.out.len();
        x.written_for = index;
    }

    /// `server` says that the address the client connected to is needed, whatever the rules say.
    pub(super) fn variables<'a>(
        &self,
        route: &'a LocalRoute,
        index: Option<usize>,
        server: bool,
    ) -> Variables<'a> {
        Variables {
            node: &route.route.node,
            service: &route.route.service,
            client: self.address,
            server: if route.needs_server || server {
                self.client.local_addr().ok()
            } else {
                None
            },
            backend: index.and_then(|index| route.pool.backend(index)),
        }
    }

    /// Takes what came of the body along with the head, and keeps what belongs to the next request.
    fn take_body(
        &mut self,
        scratch: &mut Scratch,
        mut x: Box<Exchange>,
        head_len: usize,
        have: usize,
    ) -> Head {
        // The head's vector was taken for the request; the next head gets another.
        scratch.head = scratch.vec();
        self.ahead.clear();
        self.scan = HeadScan::default();
        self.parsed = 0;
        let rest = scratch
            .buf
            .get_mut(HEADROOM + head_len..HEADROOM + have)
            .unwrap_or_default();
        if !rest.is_empty() {
            let decoded = match x.up.decode(rest) {
                Ok(decoded) => decoded,
                Err(fault) => {
                    let Exchange {
                        route, line, to_head, ..
                    } = *x;
                    return Head::Bad(Box::new(Bad {
                        route,
                        fault,
                        began: None,
                        bytes: have as u64,
                        line,
                        to_head,
                        counted: true,
                    }));
                }
            };
            x.bytes_in += decoded.used as u64;
            let data = rest.get(decoded.data).unwrap_or_default();
            if x.up.chunked {
                let done = x.up.decoder.is_done().then(|| x.up.decoder.trailers());
                body::write_chunk(&mut x.out, data, done);
            } else {
                x.out.extend_from_slice(data);
            }
            let next = rest.get(decoded.used..).unwrap_or_default();
            self.ahead.extend_from_slice(next);
            self.unread = !next.is_empty();
        }
        Head::Request(x)
    }
}

fn copy_in(scratch: &mut Scratch, ahead: &[u8]) {
    if let Some(room) = scratch.buf.get_mut(HEADROOM..HEADROOM + ahead.len()) {
        room.copy_from_slice(ahead);
    }
}

/// A request that was accepted once parses again.
pub(super) fn reparse(raw: &[u8], with: impl FnOnce(&Request<'_, '_>)) -> Result<(), Malformed> {
    let mut store = field_store();
    let limits = HeadLimits {
        bytes: raw.len() + 1,
        fields: MAX_FIELDS,
    };
    match request::parse(raw, &mut store, limits)? {
        Some(parsed) => {
            with(&parsed);
            Ok(())
        }
        None => Err(Malformed::RequestLine),
    }
}
