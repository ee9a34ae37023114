//! One request and its response, both directions at once.
//!
//! The request side and the response side take turns within one poll until neither gets on. So a response may begin,
//! and end, while the request body is still coming, and interim responses pass whenever they come. Each side holds one
//! unsent remainder at the most; while it does, it does not read.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use weir_core::balance::Tried;

use super::{Interrupt, LINGER, Session, http, timeouts};
use crate::{
    fault::Fault,
    http1::{
        body::{CHUNK_END, Decoded, Decoder, LAST_CHUNK, SizeLine},
        head::{HeadLimits, HeadScan, MAX_FIELDS, Malformed, field_store},
        response::{self, ResponseBody},
        write::{self, ClientConnection, ResponseShape},
    },
    reason::Cause,
    scratch::{HEADROOM, Pending, READ_MAX, READ_START, ReadSize, Scratch},
    stream::Stream,
    upstream::{Peer, Upstream},
    worker::LocalRoute,
};

/// Interim responses that one request may get.
const INTERIM_MOST: u32 = 64;

/// Reads of one connection in a row before others get their turn.
const FAIR: u32 = 16;

/// How an exchange ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// The response was relayed whole.
    Response,
    /// A `101` was relayed: what follows is no HTTP any more.
    Upgraded,
}

/// A request on its way, and its response.
pub(super) struct Exchange {
    pub(super) route: Rc<LocalRoute>,
    /// The request as it is written: head, then what of the body came along with it.
    pub(super) out: Vec<u8>,
    /// Length of the head in `out`.
    pub(super) head_out: usize,
    /// The backend that the head was written for.
    pub(super) written_for: Option<usize>,
    /// Bytes of `out` sent on the present connection.
    pub(super) sent: usize,
    /// The head as it came, if it has to be written anew for another backend.
    pub(super) raw: Vec<u8>,
    /// Method and target, for the record.
    pub(super) line: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) minor: u8,
    pub(super) keep_alive: bool,
    pub(super) to_head: bool,
    pub(super) idempotent: bool,
    /// The client waits for `100 Continue`, as far as is known.
    pub(super) expect: bool,
    /// Protocols that the client asked to switch to.
    pub(super) asked: Option<Vec<u8>>,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) upstream: Option<Upstream>,
    /// The backend to be tried next.
    pub(super) next: Option<(usize, Rc<Peer>)>,
    /// The backend tried last.
    pub(super) backend: Option<usize>,
    pub(super) tried: Tried,
    pub(super) retries: u32,
    /// Only a connection that nobody used before will do.
    pub(super) fresh_only: bool,
    /// When the head was whole; by the clock, and by the calendar for the record.
    pub(super) started: Instant,
    pub(super) head_took: Option<Duration>,
    pub(super) connect_took: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// When the last byte of the response was handed over.
    pub(super) ended: Option<Instant>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) fault: Option<Fault>,
    /// The deadline is that of the exchange, not of what came before it.
    armed: bool,
    /// The response is over, the request is not.
    overtime: bool,
    pub(super) reused: bool,
    /// The last bytes of the response announced the end of the connection.
    pub(super) end_announced: bool,
}

/// The request body's side.
pub(super) struct Up {
    pub(super) decoder: Decoder,
    /// It goes out in chunks.
    pub(super) chunked: bool,
    most: Option<u64>,
    bytes: u64,
    pending: Option<Pending>,
    /// Bytes of the body were read that are not in `Exchange::out`: it can't be sent a second time.
    beyond: bool,
    /// The backend takes no more of it.
    abandoned: bool,
    size: ReadSize,
}

/// The response's side.
pub(super) struct Down {
    stage: Stage,
    /// What came of a head that is not whole, or after an interim response.
    part: Vec<u8>,
    scan: HeadScan,
    parsed: usize,
    /// `part` was not looked at yet.
    unread: bool,
    pub(super) pending: Option<Pending>,
    /// Anything at all came from the backend.
    any: bool,
    interim: u32,
    pub(super) status: Option<u16>,
    decoder: Decoder,
    chunked: bool,
    /// Only the end of the connection tells the client where the body ends.
    pub(super) close_delimited: bool,
    /// The backend's connection may be used again, as far as the response's head says.
    keep_upstream: bool,
    size: ReadSize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Head,
    Body,
    /// All was read; a remainder may wait to be sent.
    Done,
    /// A `101` was read.
    Upgraded,
}

/// What one step of one side came to.
enum Step {
    /// It got on.
    On,
    /// It waits for a socket.
    Waits,
    /// It has nothing to do.
    Rests,
}

impl Exchange {
    pub(super) fn new(route: Rc<LocalRoute>, now: Instant) -> Self {
        Self {
            route,
            out: Vec::new(),
            head_out: 0,
            written_for: None,
            sent: 0,
            raw: Vec::new(),
            line: None,
            minor: 1,
            keep_alive: false,
            to_head: false,
            idempotent: false,
            expect: false,
            asked: None,
            up: Up::new(Decoder::NONE, false, None),
            down: Down::new(),
            upstream: None,
            next: None,
            backend: None,
            tried: Tried::NONE,
            retries: 0,
            fresh_only: false,
            started: now,
            head_took: None,
            connect_took: None,
            first_byte: None,
            ended: None,
            bytes_in: 0,
            bytes_out: 0,
            fault: None,
            armed: false,
            overtime: false,
            reused: false,
            end_announced: false,
        }
    }

    /// Whether the request may go out a second time, on a fresh connection to the same backend: the pooled one had
    /// ended, nothing came back on it, and either nothing can have been done with the request or doing it twice is the
    /// same (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
    pub(super) fn may_retry(&self, fault: Fault) -> bool {
        fault == Fault::ClosedEarly
            && self.upstream.as_ref().is_some_and(|u| u.reused)
            && !self.down.any
            && !self.up.beyond
            && (self.idempotent || self.sent == 0)
    }

    pub(super) fn prepare_retry(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.peer.cell.error(Cause::Stale);
            self.next = self.backend.map(|index| (index, Rc::clone(&upstream.peer)));
            upstream.close();
        }
        self.fresh_only = true;
        self.retries += 1;
        self.route.cell.retries.add(1);
        self.sent = 0;
        self.up.abandoned = false;
        self.armed = false;
        self.down = Down::new();
    }

    pub(super) fn end(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    pub(super) fn add_bytes(&mut self, (to_upstream, to_client): (u64, u64)) {
        self.bytes_in += to_upstream;
        self.bytes_out += to_client;
    }

    pub(super) fn take_client_pending(&mut self) -> Option<Pending> {
        self.down.pending.take()
    }

    /// The whole request was read from the client.
    pub(super) fn is_read(&self) -> bool {
        self.up.decoder.is_done()
    }

    /// The whole request was sent to the backend.
    pub(super) fn is_sent(&self) -> bool {
        self.is_read() && !self.up.abandoned && self.up.pending.is_none() && self.sent >= self.out.len()
    }

    /// A final response, or a part of one, went to the client.
    pub(super) fn is_answered(&self) -> bool {
        self.down.status.is_some()
    }

    pub(super) fn may_keep_upstream(&self) -> bool {
        self.down.keep_upstream && self.is_sent()
    }
}

impl Up {
    pub(super) fn new(decoder: Decoder, chunked: bool, most: Option<u64>) -> Self {
        Self {
            decoder,
            chunked,
            most,
            bytes: 0,
            pending: None,
            beyond: false,
            abandoned: false,
            size: ReadSize::START,
        }
    }

    /// Takes bytes of the body that were read.
    pub(super) fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, Fault> {
        let decoded = self.decoder.decode(buf).map_err(Fault::Request)?;
        self.bytes += decoded.data.len() as u64;
        match self.most {
            Some(most) if self.bytes > most => Err(Fault::BodyTooLarge),
            Some(_) | None => Ok(decoded),
        }
    }
}

impl Down {
    fn new() -> Self {
        Self {
            stage: Stage::Head,
            part: Vec::new(),
            scan: HeadScan::default(),
            parsed: 0,
            unread: false,
            pending: None,
            any: false,
            interim: 0,
            status: None,
            decoder: Decoder::NONE,
            chunked: false,
            close_delimited: false,
            keep_upstream: false,
            size: ReadSize::START,
        }
    }
}

impl Session {
    /// Sends the request, relays the response.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        x: &mut Exchange,
    ) -> Poll<Result<Done, Fault>> {
        let worker = Rc::clone(&self.worker);
        let mut turns = 0;
        let mut moved = false;
        loop {
            let scratch = &mut *worker.scratch.borrow_mut();
            let up = match self.step_up(cx, scratch, x) {
                Ok(step) => step,
                // Its response is whole: what it does with the rest of its request is its own affair.
                Err(_) if x.overtime => return Poll::Ready(Ok(Done::Response)),
                Err(fault) => return Poll::Ready(Err(fault)),
            };
            let down = match self.step_down(cx, scratch, x) {
                Ok(step) => step,
                Err(fault) => return Poll::Ready(Err(fault)),
            };
            if x.down.pending.is_none() {
                match x.down.stage {
                    Stage::Done if x.up.abandoned || x.is_sent() => return Poll::Ready(Ok(Done::Response)),
                    Stage::Done => self.enter_overtime(x),
                    Stage::Upgraded => return Poll::Ready(Ok(Done::Upgraded)),
                    Stage::Head | Stage::Body => {}
                }
            }
            if !matches!(up, Step::On) && !matches!(down, Step::On) {
                break;
            }
            moved = true;
            turns += 1;
            if turns >= FAIR {
                if worker.cutting.get() {
                    return Poll::Ready(Err(Fault::Drained));
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if moved || !std::mem::replace(&mut x.armed, true) {
            self.deadline.set(Instant::now(), self.patience(x).0);
        }
        match self.interrupted(cx) {
            None => Poll::Pending,
            Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            Some(Interrupt::Late) if x.overtime => Poll::Ready(Ok(Done::Response)),
            Some(Interrupt::Late) => Poll::Ready(Err(self.patience(x).1)),
        }
    }

    /// The response is over before the request is: the client is shown the end of the response, and the backend still
    /// gets what comes of the request, as long as something comes.
    fn enter_overtime(&self, x: &mut Exchange) {
        if !std::mem::replace(&mut x.overtime, true) && !x.keep_alive {
            // If it can't be shown the end, it has ended.
            let _ = self.client.finish();
        }
    }

    /// Who is waited for: how long, and what it means if it takes longer.
    fn patience(&self, x: &Exchange) -> (Duration, Fault) {
        let timeouts = timeouts(&x.route);
        if x.overtime {
            return (LINGER, Fault::ClientTimeout);
        }
        let reads_request =
            !x.up.abandoned && !x.is_read() && x.up.pending.is_none() && x.sent >= x.out.len();
        if x.down.pending.is_some() || (reads_request && !x.expect) {
            (timeouts.client, Fault::ClientTimeout)
        } else if x.is_answered() || !x.is_sent() && !x.expect {
            (timeouts.server, Fault::BackendTimeout)
        } else {
            (timeouts.server, Fault::ResponseTimeout)
        }
    }

    /// The request side: what was written, then what is left over, then more of the body.
    fn step_up(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if x.up.abandoned {
            return Ok(Step::Rests);
        }
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let cell = &upstream.peer.cell;
        if let Some(rest) = x.out.get(x.sent..).filter(|rest| !rest.is_empty()) {
            return match upstream.stream.poll_send(cx, rest) {
                Poll::Ready(Ok(n)) => {
                    x.sent += n;
                    cell.bytes_out.add(n as u64);
                    Ok(Step::On)
                }
                // The backend may have answered before it hung up: its answer counts.
                Poll::Ready(Err(_)) => {
                    x.up.abandoned = true;
                    Ok(Step::On)
                }
                Poll::Pending => Ok(Step::Waits),
            };
        }
        if let Some(pending) = &mut x.up.pending {
            let mut sent = 0;
            let polled = pending.poll(cx, &mut upstream.stream, &mut sent);
            cell.bytes_out.add(sent);
            return match polled {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = x.up.pending.take() {
                        pending.recycle(scratch);
                    }
                    Ok(Step::On)
                }
                Poll::Ready(Err(_)) => {
                    x.up.pending = None;
                    x.up.abandoned = true;
                    Ok(Step::On)
                }
                Poll::Pending if sent > 0 => Ok(Step::On),
                Poll::Pending => Ok(Step::Waits),
            };
        }
        if x.up.decoder.is_done() {
            return Ok(Step::Rests);
        }
        self.read_body(cx, scratch, x)
    }

    /// More of the request body, from the client to the backend.
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let want = x.up.decoder.at_most(x.up.size.get());
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match self.client.poll_recv(cx, room) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::ClientClosed),
            Poll::Ready(Ok(n)) => n,
            Poll::Pending => return Ok(Step::Waits),
        };
        x.expect = false;
        x.up.beyond = true;
        x.bytes_in += n as u64;
        x.route.cell.bytes_in.add(n as u64);
        let read = room.get_mut(..n).unwrap_or_default();
        let decoded = x.up.decode(read)?;
        let next = read.get(decoded.used..).unwrap_or_default();
        if !next.is_empty() {
            self.ahead.extend_from_slice(next);
            self.unread = true;
            x.bytes_in -= next.len() as u64;
        }
        let done = x.up.decoder.is_done();
        let (start, end) = (HEADROOM + decoded.data.start, HEADROOM + decoded.data.end);
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let pending = if x.up.chunked {
            let trailers = done.then(|| x.up.decoder.trailers());
            send_chunk(
                cx,
                scratch,
                &mut upstream.stream,
                &[],
                start,
                end,
                trailers,
                false,
            )
        } else {
            send_range(cx, scratch, &mut upstream.stream, start, end, false)
        };
        match pending {
            Ok(sent) => {
                upstream.peer.cell.bytes_out.add(sent.bytes);
                x.up.size.adapt(n, sent.pending.is_none());
                x.up.pending = sent.pending;
            }
            Err(_) => x.up.abandoned = true,
        }
        Ok(Step::On)
    }

    /// The response side: what is left over, then more of head or body.
    fn step_down(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if let Some(pending) = &mut x.down.pending {
            let mut sent = 0;
            let polled = pending.poll(cx, &mut self.client, &mut sent);
            x.bytes_out += sent;
            x.route.cell.bytes_out.add(sent);
            return match polled {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = x.down.pending.take() {
                        pending.recycle(scratch);
                    }
                    Ok(Step::On)
                }
                Poll::Ready(Err(_)) => Err(Fault::ClientClosed),
                Poll::Pending if sent > 0 => Ok(Step::On),
                Poll::Pending => Ok(Step::Waits),
            };
        }
        match x.down.stage {
            Stage::Head => self.read_head(cx, scratch, x),
            Stage::Body => self.read_response(cx, scratch, x),
            Stage::Done | Stage::Upgraded => Ok(Step::Rests),
        }
    }

    /// More of a response head, from the backend.
    fn read_head(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let Some(http) = http(&x.route) else {
            return Err(Fault::Drained);
        };
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let limit = (http.limits.head as usize).min(READ_MAX / 2);
        let mut have = x.down.part.len();
        if have > 0
            && let Some(room) = scratch.buf.get_mut(HEADROOM..HEADROOM + have)
        {
            room.copy_from_slice(&x.down.part);
        }
        if !std::mem::take(&mut x.down.unread) {
            let room = scratch
                .buf
                .get_mut(HEADROOM + have..HEADROOM + have + READ_START)
                .unwrap_or_default();
            match upstream.stream.poll_recv(cx, room) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::ClosedEarly),
                Poll::Ready(Ok(n)) => {
                    upstream.peer.cell.bytes_in.add(n as u64);
                    x.down.any = true;
                    have += n;
                }
                Poll::Pending => return Ok(Step::Waits),
            }
        }
        let Some(bytes) = scratch.buf.get(HEADROOM..HEADROOM + have) else {
            return Err(Fault::Response(Malformed::TooLarge));
        };
        let look = x.down.parsed == 0 || {
            let whole = x.down.scan.advance(bytes).map_err(Fault::Response)?;
            whole || have >= x.down.parsed * 2 || have >= limit
        };
        let limits = HeadLimits {
            bytes: limit,
            fields: usize::from(http.limits.headers).min(MAX_FIELDS),
        };
        let mut store = field_store();
        let parsed = if look {
            response::parse(bytes, &mut store, limits, x.to_head).map_err(Fault::Response)?
        } else {
            None
        };
        let Some(parsed) = parsed else {
            if look {
                if x.down.parsed == 0 {
                    x.down.scan.advance(bytes).map_err(Fault::Response)?;
                }
                x.down.parsed = have;
            }
            let known = x.down.part.len();
            x.down
                .part
                .extend_from_slice(bytes.get(known..).unwrap_or_default());
            return Ok(Step::On);
        };
        let head_len = parsed.head_len;
        if parsed.status < 200 && parsed.status != 101 {
            x.down.interim += 1;
            if x.down.interim > INTERIM_MOST {
                return Err(Fault::Response(Malformed::TooManyInterim));
            }
            scratch.head.clear();
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            if x.minor > 0 {
                write::interim(&mut scratch.head, &parsed);
            }
            x.expect = false;
            let rest = bytes.get(head_len..).unwrap_or_default().to_vec();
            x.down.unread = !rest.is_empty();
            x.down.part = rest;
            x.down.parsed = 0;
            x.down.scan = HeadScan::default();
            return self.send_interim(cx, scratch, x);
        }
        let now = Instant::now();
        let upgraded = parsed.status == 101;
        if upgraded {
            let asked = x.asked.as_deref().unwrap_or_default();
            if !parsed
                .upgrade
                .is_some_and(|switched| response::is_asked_for(switched, asked))
            {
                return Err(Fault::Response(Malformed::Switch));
            }
        }
        let first_byte = now.saturating_duration_since(x.started);
        x.first_byte = Some(first_byte);
        x.route.cell.first_byte.observe(first_byte);
        x.down.status = Some(parsed.status);
        x.down.chunked = write::goes_chunked(parsed.body, x.minor);
        let unframed = match parsed.body {
            ResponseBody::Chunked | ResponseBody::UntilClose => !x.down.chunked,
            ResponseBody::None | ResponseBody::Length(_) => false,
        };
        x.down.close_delimited = unframed;
        x.down.keep_upstream = parsed.keep_alive;
        x.down.decoder = match parsed.body {
            ResponseBody::None => Decoder::NONE,
            ResponseBody::Length(length) => Decoder::Length(length),
            ResponseBody::Chunked => Decoder::chunked(),
            ResponseBody::UntilClose => Decoder::UntilClose,
        };
        // A request that is still coming can't be told from the next one once its response is over.
        let ends = unframed || !x.keep_alive || !x.up.decoder.is_done() || self.is_ending();
        x.keep_alive = !ends;
        let connection = match (upgraded, ends, x.minor) {
            (true, _, _) => ClientConnection::Upgrades,
            (false, true, _) => ClientConnection::Ends,
            (false, false, 0) => ClientConnection::StaysAloud,
            (false, false, _) => ClientConnection::Stays,
        };
        scratch.head.clear();
        let vars = self.variables(&x.route, x.backend, false);
        let shape = ResponseShape {
            chunked: x.down.chunked,
            connection,
        };
        write::response(
            &mut scratch.head,
            &parsed,
            shape,
            &x.route.response_rules,
            &vars,
            SystemTime::now,
        );
        x.down.part = Vec::new();
        if upgraded {
            x.down.stage = Stage::Upgraded;
            x.down.keep_upstream = false;
            // What follows the head belongs to the other protocol already.
            let mut all = std::mem::take(&mut scratch.head);
            all.extend_from_slice(bytes.get(head_len..).unwrap_or_default());
            x.down.pending = Some(Pending::from_vec(all, 0));
            return Ok(Step::On);
        }
        x.down.stage = Stage::Body;
        self.send_body(cx, scratch, x, HEADROOM + head_len, HEADROOM + have, true)
    }

    fn send_interim(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if scratch.head.is_empty() {
            return Ok(Step::On);
        }
        let sent = match self.client.poll_send(cx, &scratch.head) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Fault::ClientClosed),
            Poll::Pending => 0,
        };
        x.bytes_out += sent as u64;
        x.route.cell.bytes_out.add(sent as u64);
        if sent < scratch.head.len() {
            x.down.pending = Some(Pending::from_vec(scratch.head.clone(), sent));
        }
        Ok(Step::On)
    }

    /// More of a response body, from the backend to the client.
    fn read_response(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let want = x.down.decoder.at_most(x.down.size.get());
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match upstream.stream.poll_recv(cx, room) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Fault::Cut),
            Poll::Pending => return Ok(Step::Waits),
        };
        upstream.peer.cell.bytes_in.add(n as u64);
        if n == 0 {
            if x.down.decoder != Decoder::UntilClose {
                return Err(Fault::Cut);
            }
            // The end of the connection is the end of the body.
            x.down.decoder = Decoder::NONE;
        }
        let step = self.send_body(cx, scratch, x, HEADROOM, HEADROOM + n, false)?;
        let sent = x.down.pending.is_none();
        x.down.size.adapt(n, sent);
        Ok(step)
    }

    /// Decodes what lies in the buffer, writes it as the client shall have it, and sends it; behind a head in
    /// `scratch.head` if there is one.
    fn send_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        start: usize,
        end: usize,
        with_head: bool,
    ) -> Result<Step, Fault> {
        let rest = scratch.buf.get_mut(start..end).unwrap_or_default();
        let decoded = x.down.decoder.decode(rest).map_err(|malformed| {
            if with_head {
                x.down.status = None
            }
            Fault::Response(malformed)
        })?;
        // More than the response: the connection is not to be trusted with another request.
        if decoded.used < rest.len() {
            x.down.keep_upstream = false;
        }
        let done = x.down.decoder.is_done();
        if done {
            x.down.stage = Stage::Done;
        }
        let last = done && self.may_announce_end(x);
        let head = if with_head {
            std::mem::take(&mut scratch.head)
        } else {
            Vec::new()
        };
        let (start, end) = (start + decoded.data.start, start + decoded.data.end);
        let sent = if x.down.chunked {
            let trailers = done.then(|| x.down.decoder.trailers());
            send_chunk(cx, scratch, &mut self.client, &head, start, end, trailers, last)
        } else {
            send_with_head(cx, scratch, &mut self.client, &head, start, end, last)
        };
        if with_head {
            scratch.head = head;
        }
        let sent = sent.map_err(|_| Fault::ClientClosed)?;
        x.bytes_out += sent.bytes;
        x.route.cell.bytes_out.add(sent.bytes);
        x.end_announced = last && sent.pending.is_none();
        x.down.pending = sent.pending;
        Ok(Step::On)
    }

    /// Whether the last bytes of the response may carry the end of the connection: the client asked for it, and nothing
    /// of what it sent is left unread.
    fn may_announce_end(&self, x: &Exchange) -> bool {
        !x.keep_alive && x.is_sent() && self.ahead.is_empty()
    }
}

/// What went out, and what did not.
struct Sent {
    bytes: u64,
    pending: Option<Pending>,
}

/// Sends a part of the buffer.
fn send_range(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    start: usize,
    end: usize,
    last: bool,
) -> std::io::Result<Sent> {
    let bytes = scratch.buf.get(start..end).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Sent {
            bytes: 0,
            pending: None,
        });
    }
    let polled = if last {
        to.poll_send_last(cx, bytes)
    } else {
        to.poll_send(cx, bytes)
    };
    let n = match polled {
        Poll::Ready(Ok(n)) => n,
        Poll::Ready(Err(error)) => return Err(error),
        Poll::Pending => 0,
    };
    let pending = (n < end - start).then(|| scratch.keep(start + n, end));
    Ok(Sent {
        bytes: n as u64,
        pending,
    })
}

/// Sends a vector.
fn send_vec(cx: &mut Context<'_>, to: &mut impl Stream, all: Vec<u8>) -> std::io::Result<Sent> {
    let n = match to.poll_send(cx, &all) {
        Poll::Ready(Ok(n)) => n,
        Poll::Ready(Err(error)) => return Err(error),
        Poll::Pending => 0,
    };
    let pending = (n < all.len()).then(|| Pending::from_vec(all, n));
    Ok(Sent {
        bytes: n as u64,
        pending,
    })
}

/// Sends a head and a part of the buffer in one go: the head is put in front of the part.
fn send_with_head(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    head: &[u8],
    start: usize,
    end: usize,
    last: bool,
) -> std::io::Result<Sent> {
    if head.is_empty() {
        return send_range(cx, scratch, to, start, end, last);
    }
    let front = start.checked_sub(head.len());
    match front.and_then(|front| Some((front, scratch.buf.get_mut(front..start)?))) {
        Some((front, room)) => {
            room.copy_from_slice(head);
            send_range(cx, scratch, to, front, end, last)
        }
        None => {
            let mut all = head.to_vec();
            all.extend_from_slice(scratch.buf.get(start..end).unwrap_or_default());
            send_vec(cx, to, all)
        }
    }
}

/// Sends a part of the buffer as a chunk, behind a head if there is one, and the last chunk after it if `trailers` is
/// given. The chunk's frame is put around the part where it lies.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one message, in their order"
)]
fn send_chunk(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    head: &[u8],
    start: usize,
    end: usize,
    trailers: Option<&[u8]>,
    last: bool,
) -> std::io::Result<Sent> {
    let (mut front, mut back) = (start, end);
    if trailers.is_some_and(|t| !t.is_empty()) {
        let mut all = head.to_vec();
        crate::http1::body::write_chunk(
            &mut all,
            scratch.buf.get(start..end).unwrap_or_default(),
            trailers,
        );
        return send_vec(cx, to, all);
    }
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(room) = scratch.buf.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    };
    if start < end {
        let size = SizeLine::new(end - start);
        front -= size.as_bytes().len();
        put(front, size.as_bytes());
        put(back, CHUNK_END);
        back += CHUNK_END.len();
    }
    if trailers.is_some() {
        put(back, LAST_CHUNK);
        back += LAST_CHUNK.len();
    }
    send_with_head(cx, scratch, to, head, front, back, last)
}
