//! Reading a request head of HTTP/1. What is made of it is `begin`.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll},
};

use weir_core::{plan::Http, proxy};

use super::{
    Exchange, Held, Interrupt, Session,
    begin::{Bad, Raw},
    h1::H1,
    http, timeouts,
};
use crate::{
    fault::Fault,
    http1::{
        body,
        head::{self, HeadLimits, HeadScan, MAX_FIELDS, Malformed, field_store},
        request::{self, Request},
        response::Asked,
    },
    http2::{PREFACE, upgrade},
    reason::Reason,
    scratch::{HEAD_MAX, HEADROOM, READ_START, Scratch},
    stream::Stream,
    worker::{LocalRoute, Over},
};

/// Bytes of empty lines that are skipped before a request line at once (RFC 9112 section 2.2 asks for one line).
const EMPTY_LINES: usize = 16;

/// What came of waiting for a request.
pub(super) enum Head {
    /// The connection has ended, or ends without a word, for that reason.
    Closed(Reason),
    /// A request, ready to go out.
    Request(Held),
    /// No request that could be served.
    Bad(Box<Bad>),
    /// The connection speaks HTTP/2 from here on.
    Http2(Box<Turn>),
}

/// How a connection turns to HTTP/2.
pub(super) struct Turn {
    /// What is to be read first.
    pub(super) ahead: Vec<u8>,
    /// Bytes of it that stand for the request that asked for the turn, which is to be told so. None: the client has
    /// begun with HTTP/2.
    pub(super) made: usize,
}

impl Session<H1> {
    /// Waits for a request head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        let Some(route) = self.entrance.route() else {
            return Poll::Ready(Head::Closed(Reason::ClientClosed));
        };
        let Some(http) = http(&route) else {
            return Poll::Ready(Head::Closed(Reason::ClientClosed));
        };
        let worker = Rc::clone(&self.worker);
        worker.clock.turn();
        let scratch = &mut *worker.scratch.borrow_mut();
        let limit = (http.limits.head as usize).min(HEAD_MAX);
        let mut have = self.client.ahead.len();
        copy_in(scratch, &self.client.ahead);
        let mut empty = 0;
        loop {
            if !std::mem::take(&mut self.client.unread) {
                // Room for the whole head and a first piece of the body.
                let room = scratch
                    .buf
                    .get_mut(HEADROOM + have..HEADROOM + have + READ_START)
                    .unwrap_or_default();
                match self.client.socket.poll_recv(cx, room) {
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
            if self.may_be_http2(bytes, http) {
                if bytes.starts_with(PREFACE) {
                    let ahead = bytes.to_vec();
                    return Poll::Ready(Head::Http2(Box::new(Turn { ahead, made: 0 })));
                }
                continue;
            }
            // What is not whole is looked at again only when its end has come, when it has doubled, or when it is too
            // large; so the work stays in proportion to the bytes.
            if self.client.parsed > 0 {
                match self.client.scan.advance(bytes) {
                    Ok(false) if have < self.client.parsed * 2 && have < limit => continue,
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
                    if parsed.h2c
                        && self.client.socket.tls().is_none()
                        && let Some(turn) = turn(&parsed, bytes, http)
                    {
                        return Poll::Ready(Head::Http2(turn));
                    }
                    let began = self.client.began.take();
                    self.client.asked = true;
                    let spare = &mut scratch.head;
                    let mut held = match self.begin(&parsed, bytes, Rc::clone(&route), http, spare, began) {
                        Ok(exchange) => exchange,
                        Err(bad) => return Poll::Ready(Head::Bad(bad)),
                    };
                    let head_len = parsed.head_len;
                    if let Some(x) = held.get().filter(|x| x.keeps_head()) {
                        x.raw = Raw::Text(bytes.get(..head_len).unwrap_or_default().to_vec());
                    }
                    return Poll::Ready(self.take_body(scratch, held, head_len, have));
                }
                Ok(None) => {
                    if self.client.parsed == 0
                        && let Err(malformed) = self.client.scan.advance(bytes)
                    {
                        return Poll::Ready(self.bad(route, Fault::Request(malformed), have));
                    }
                    self.client.parsed = have;
                }
                Err(malformed) => {
                    let to_head = bytes.starts_with(b"HEAD ");
                    let unexpected = !self.client.asked && is_proxy_header(bytes);
                    if malformed == Malformed::Version && lower_version(scratch, have) {
                        self.client.unread = true;
                        self.client.parsed = 0;
                        self.client.scan = HeadScan::default();
                        continue;
                    }
                    let fault = if unexpected {
                        Fault::ProxyUnexpected
                    } else {
                        Fault::Request(malformed)
                    };
                    return Poll::Ready(self.bad(route, fault, have).with_head(to_head));
                }
            }
        }
    }

    /// The first byte of a head has come: its time runs.
    fn begin_head(&mut self, route: &LocalRoute) {
        if self.client.began.is_none() {
            let now = self.worker.clock.now();
            self.client.began = Some(now);
            if self.client.asked {
                self.deadline.set(now, timeouts(route).request_head);
            }
        }
    }

    /// Whether a connection begins, or goes on to begin, with HTTP/2.
    #[inline]
    fn may_be_http2(&self, bytes: &[u8], http: &Http) -> bool {
        !self.client.asked
            // Over TLS it is agreed on by ALPN (RFC 9113 section 3.3).
            && self.client.socket.tls().is_none()
            && bytes.starts_with(b"PRI")
            && http.http2.enabled
            && (PREFACE.starts_with(bytes) || bytes.starts_with(PREFACE))
    }

    fn wait_for_head(
        &mut self,
        cx: &Context<'_>,
        scratch: &mut Scratch,
        route: &Rc<LocalRoute>,
        have: usize,
    ) -> Poll<Head> {
        if have == 0 && self.client.ahead.capacity() > 0 {
            // An idle connection owns no buffer.
            self.client.share = None;
            scratch.give_back(std::mem::take(&mut self.client.ahead));
        }
        if have > self.client.ahead.len() {
            let new = scratch
                .buf
                .get(HEADROOM + self.client.ahead.len()..HEADROOM + have)
                .unwrap_or_default();
            self.client.ahead.extend_from_slice(new);
            if scratch.account(&mut self.client.share, have).is_err() {
                return Poll::Ready(self.bad(Rc::clone(route), Fault::Memory, have));
            }
        }
        match self.waits_no_longer(cx, route, have) {
            None => Poll::Pending,
            Some(Over::Eased | Over::Cut) => Poll::Ready(Head::Closed(Reason::Drained)),
            // Nobody waits for an answer to nothing.
            Some(Over::Late) if have == 0 => Poll::Ready(Head::Closed(Reason::ClientTimeoutHead)),
            Some(Over::Late) => Poll::Ready(self.bad(Rc::clone(route), Fault::HeadTimeout, have)),
        }
    }

    fn waits_no_longer(&self, cx: &Context<'_>, route: &LocalRoute, have: usize) -> Option<Over> {
        let is_silent = || have == 0 && self.client.socket.is_untouched();
        if !self.client.asked {
            // Its first request may be on the way, for a moment at least.
            let within = timeouts(route).request_head;
            return self
                .worker
                .is_over(cx, &self.deadline, self.since, within, is_silent);
        }
        match self.interrupted(cx) {
            // An idle connection of a service that goes, or of a weir that goes.
            None => (self.is_ending() && is_silent()).then_some(Over::Eased),
            Some(Interrupt::Cut) => Some(Over::Cut),
            Some(Interrupt::Late) => Some(Over::Late),
        }
    }

    /// The client has ended its side: between requests that is how connections end, within a head it is not.
    fn ended(&mut self, route: &Rc<LocalRoute>, have: usize, error: Option<io::Error>) -> Head {
        if error.is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory) {
            self.bad(Rc::clone(route), Fault::Memory, have)
        } else if have == 0 {
            Head::Closed(Reason::ClientClosed)
        } else {
            self.bad(Rc::clone(route), Fault::ClientClosed, have)
        }
    }

    fn bad(&mut self, route: Rc<LocalRoute>, fault: Fault, have: usize) -> Head {
        let began = self.client.began.take();
        Head::Bad(Box::new(Bad {
            id: self.worker.fresh_id(&route),
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
        if self.client.parsed > 0 {
            return have;
        }
        let Some(bytes) = scratch.buf.get_mut(HEADROOM..HEADROOM + have) else {
            return have;
        };
        match request::skip_empty_lines(bytes) {
            0 => have,
            skipped => {
                bytes.copy_within(skipped.., 0);
                self.client.ahead.clear();
                self.client.scan = HeadScan::default();
                have - skipped
            }
        }
    }

    /// Takes what came of the body along with the head, and keeps what belongs to the next request.
    fn take_body(&mut self, scratch: &mut Scratch, mut held: Held, head_len: usize, have: usize) -> Head {
        let Some(x) = held.get() else {
            return Head::Closed(Reason::ClientClosed);
        };
        // The head's vector was taken for the request; the next head gets another.
        scratch.head = scratch.vec();
        self.client.ahead.clear();
        self.client.share = None;
        self.client.scan = HeadScan::default();
        self.client.parsed = 0;
        let rest = scratch
            .buf
            .get_mut(HEADROOM + head_len..HEADROOM + have)
            .unwrap_or_default();
        if !rest.is_empty() {
            let decoded = match x.up.decode(rest) {
                Ok(decoded) => decoded,
                Err(fault) => return Head::Bad(Box::new(broken_off(x, fault, have))),
            };
            x.bytes_in += decoded.used as u64;
            let data = rest.get(decoded.data).unwrap_or_default();
            if x.ruled.is_some() || x.answer.is_some() {
                // Nobody but weir sees it.
            } else if x.up.chunked {
                let done = x.up.decoder.is_done().then(|| x.up.decoder.trailers());
                body::write_chunk(&mut x.out, data, done);
            } else {
                x.out.extend_from_slice(data);
            }
            let next = rest.get(decoded.used..).unwrap_or_default();
            self.client.ahead.extend_from_slice(next);
            self.client.unread = !next.is_empty();
            if scratch
                .account(&mut self.client.share, self.client.ahead.len())
                .is_err()
            {
                return Head::Bad(Box::new(broken_off(x, Fault::Memory, have)));
            }
        }
        Head::Request(held)
    }
}

impl Head {
    /// Says of a request that could not be read whether it was `HEAD`, so far as that shows.
    fn with_head(mut self, to_head: bool) -> Self {
        if let Self::Bad(bad) = &mut self {
            bad.to_head = to_head;
        }
        self
    }
}

/// What is left of a request that went wrong before it was sent anywhere.
fn broken_off(x: &mut Exchange, fault: Fault, have: usize) -> Bad {
    Bad {
        route: Rc::clone(&x.route),
        fault,
        began: Some(x.phases.began()),
        bytes: have as u64,
        line: x.line.take(),
        to_head: x.method == Asked::Head,
        counted: true,
        id: x.id.clone(),
    }
}

/// How a request that asks for `h2c` turns its connection, if that is followed.
#[cold]
fn turn(parsed: &Request<'_, '_>, bytes: &[u8], http: &Http) -> Option<Box<Turn>> {
    if !http.http2.enabled || !http.http2.upgrade {
        return None;
    }
    let mut ahead = upgrade::bytes(parsed)?;
    let made = ahead.len();
    ahead.extend_from_slice(bytes.get(parsed.head_len..).unwrap_or_default());
    Some(Box::new(Turn { ahead, made }))
}

/// Whether what is no request begins as a PROXY header does; of the signature of version 2 the empty lines were skipped.
#[cold]
fn is_proxy_header(bytes: &[u8]) -> bool {
    let signature = proxy::SIGNATURE.strip_prefix(b"\r\n\r\n").unwrap_or_default();
    bytes.starts_with(proxy::WORD) || bytes.starts_with(signature)
}

/// Takes a head of HTTP/1.2 and above, in the buffer, for one of HTTP/1.1.
#[cold]
fn lower_version(scratch: &mut Scratch, have: usize) -> bool {
    let head = scratch.buf.get_mut(HEADROOM..HEADROOM + have);
    head.is_some_and(head::lower_version)
}

fn copy_in(scratch: &mut Scratch, ahead: &[u8]) {
    if let Some(room) = scratch.buf.get_mut(HEADROOM..HEADROOM + ahead.len()) {
        room.copy_from_slice(ahead);
    }
}
