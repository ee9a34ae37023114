//! One request and its response, both directions at once.
//!
//! The request side and the response side take turns within one poll until neither gets on. So a response may begin,
//! and end, while the request body is still coming, and interim responses pass whenever they come. Each side holds one
//! unsent remainder at the most; while it does, it does not read.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use weir_core::balance::Tried;

use super::{Interrupt, LINGER, Session, timeouts};
use crate::{
    fault::Fault,
    http1::{
        body::{Decoded, Decoder},
        head::{HeadScan, Malformed},
    },
    reason::Cause,
    scratch::{Pending, ReadSize},
    stream::Stream,
    upstream::{Peer, Upstream},
    worker::LocalRoute,
};

/// Interim responses that one request may get.
const INTERIM_MOST: u32 = 64;

/// Reads of one connection in a row before others get their turn.
const FAIR: u32 = 16;

/// How often a client whose request takes long is looked after: its socket may not be registered, so nobody else would
/// notice that it has broken off.
const GLANCE: Duration = Duration::from_secs(1);

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
    /// The client asked for the end of its connection, so it sends no more.
    pub(super) wants_end: bool,
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
    /// Since when nothing has moved.
    waits_since: Instant,
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
    pub(super) most: Option<u64>,
    pub(super) bytes: u64,
    pub(super) pending: Option<Pending>,
    /// Bytes of the body were read that are not in `Exchange::out`: it can't be sent a second time.
    pub(super) beyond: bool,
    /// The backend takes no more of it.
    pub(super) abandoned: bool,
    pub(super) size: ReadSize,
}

/// The response's side.
pub(super) struct Down {
    pub(super) stage: Stage,
    /// What came of a head that is not whole, or after an interim response.
    pub(super) part: Vec<u8>,
    pub(super) scan: HeadScan,
    pub(super) parsed: usize,
    /// `part` was not looked at yet.
    pub(super) unread: bool,
    pub(super) pending: Option<Pending>,
    /// Anything at all came from the backend.
    pub(super) any: bool,
    pub(super) interim: u32,
    pub(super) status: Option<u16>,
    pub(super) decoder: Decoder,
    pub(super) chunked: bool,
    /// Only the end of the connection tells the client where the body ends.
    pub(super) close_delimited: bool,
    /// The backend's connection may be used again, as far as the response's head says.
    pub(super) keep_upstream: bool,
    pub(super) size: ReadSize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Head,
    Body,
    /// All was read; a remainder may wait to be sent.
    Done,
    /// A `101` was read.
    Upgraded,
}

/// What one step of one side came to.
pub(super) enum Step {
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
            wants_end: false,
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
            waits_since: now,
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

    /// Whether what has come of a head should be parsed. What is not whole is looked at again only when its end has
    /// come, when it has doubled, or when it is too large; so the work stays in proportion to the bytes.
    pub(super) fn is_worth_a_look(&mut self, bytes: &[u8], limit: usize) -> Result<bool, Fault> {
        if self.parsed == 0 {
            return Ok(true);
        }
        let whole = self.scan.advance(bytes).map_err(Fault::Response)?;
        Ok(whole || bytes.len() >= self.parsed * 2 || bytes.len() >= limit)
    }

    /// Keeps a head that is not whole for when more of it comes.
    pub(super) fn keep_part(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.parsed == 0 {
            self.scan.advance(bytes).map_err(Fault::Response)?;
        }
        if self.parsed == 0 || bytes.len() >= self.parsed * 2 {
            self.parsed = bytes.len();
        }
        self.part
            .extend_from_slice(bytes.get(self.part.len()..).unwrap_or_default());
        Ok(())
    }

    /// An interim response was taken; what follows it is the next head.
    pub(super) fn after_interim(&mut self, rest: &[u8]) -> Result<(), Fault> {
        self.interim += 1;
        if self.interim > INTERIM_MOST {
            return Err(Fault::Response(Malformed::TooManyInterim));
        }
        self.part = rest.to_vec();
        self.unread = !rest.is_empty();
        self.parsed = 0;
        self.scan = HeadScan::default();
        Ok(())
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
                // It is the others' turn. Silence counts from here, not from before what has moved.
                self.wait_from_now(x);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let now = Instant::now();
        if moved || !std::mem::replace(&mut x.armed, true) {
            self.wait_from_now(x);
        }
        match self.interrupted(cx) {
            None => Poll::Pending,
            Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            Some(Interrupt::Late) => self.look_around(cx, x, now),
        }
    }

    fn wait_from_now(&self, x: &mut Exchange) {
        let now = Instant::now();
        x.armed = true;
        x.waits_since = now;
        self.deadline.set(now, self.patience(x).0.min(GLANCE));
    }

    /// Nothing has moved for a while: is it too long, or is the client gone for good? A client that has only ended its
    /// side still waits for its response.
    fn look_around(&self, cx: &Context<'_>, x: &Exchange, now: Instant) -> Poll<Result<Done, Fault>> {
        let (patience, fault) = self.patience(x);
        let waited = now.saturating_duration_since(x.waits_since);
        if waited >= patience {
            return Poll::Ready(if x.overtime {
                Ok(Done::Response)
            } else {
                Err(fault)
            });
        }
        if self.client.is_broken() {
            return Poll::Ready(Err(Fault::ClientClosed));
        }
        self.deadline.set(now, (patience - waited).min(GLANCE));
        // Notes the waker for the new deadline, which has not passed.
        let _ = self.deadline.passed(cx);
        Poll::Pending
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
}
