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

use super::{Interrupt, LINGER, Session, begin::Raw, client::Client, http, timeouts};
use crate::{
    access::RequestLine,
    fault::Fault,
    http1::{
        answer::Answer,
        body::{Decoded, Decoder},
        head::{HeadScan, Malformed},
        id::RequestId,
        response::Asked,
        rewrite::Chosen,
        version::Version,
        websocket,
    },
    phases::Phases,
    scratch::{Pending, ReadSize, Share},
    upstream::{Peer, Slot, Upstream},
    worker::{AtPool, LocalRoute},
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
    /// A `101`, or the success of `CONNECT`, was relayed: what follows is no HTTP any more.
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
    pub(super) raw: Raw,
    /// For the record.
    pub(super) line: Option<RequestLine>,
    /// The rule that holds for it, if one does.
    pub(super) rule: Option<Chosen>,
    /// Answered by a rule: `out` is the response, of this status, and this is the place in it for its `Connection`.
    pub(super) ruled: Option<(u16, u32)>,
    pub(super) id: RequestId,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    /// The client asked for the end of its connection, so it sends no more.
    pub(super) wants_end: bool,
    pub(super) method: Asked,
    /// What weir itself answers, instead of a backend.
    pub(super) answer: Option<Answer>,
    pub(super) idempotent: bool,
    /// The client waits for `100 Continue`, as far as is known.
    pub(super) expect: bool,
    /// Protocols that the client asked to switch to.
    pub(super) asked: Option<Box<[u8]>>,
    /// It is a handshake of WebSocket whose answer is looked at.
    pub(super) handshake: Option<Box<websocket::Asked>>,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) upstream: Option<Upstream>,
    /// The backend to be tried next.
    pub(super) next: Option<(usize, Rc<Peer>)>,
    /// The backend tried last.
    pub(super) backend: Option<usize>,
    /// A place for the connection to that backend.
    pub(super) slot: Option<Slot>,
    pub(super) tried: Tried,
    /// Backends that it was offered to.
    pub(super) attempts: u32,
    /// Tries after the first.
    pub(super) retries: u32,
    /// Why the try before this one failed.
    pub(super) failed: Option<Fault>,
    /// Times that its backend had not looked at it.
    pub(super) bounced: u32,
    /// Another try was due and not made.
    pub(super) denied: Option<&'static str>,
    /// Only a connection that nobody used before will do.
    pub(super) fresh_only: bool,
    pub(super) phases: Phases,
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
    _at_pool: AtPool,
}

/// Memory for an exchange, which goes from one to the next: the allocator has little at hand of this size.
#[derive(Default)]
pub(crate) struct Held(Box<Option<Exchange>>);

impl Held {
    pub(super) fn put(&mut self, exchange: Exchange) -> &mut Exchange {
        self.0.insert(exchange)
    }

    /// None: none is under way.
    pub(super) fn get(&mut self) -> Option<&mut Exchange> {
        self.0.as_mut().as_mut()
    }

    /// Drops what is in it, where it lies.
    pub(super) fn clear(&mut self) {
        *self.0 = None;
    }
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
    /// What is waited for now is more of it.
    awaits: bool,
    /// How long the client has been waited for, the present wait not counted.
    waited: Duration,
}

/// The response's side.
pub(super) struct Down {
    pub(super) stage: Stage,
    /// What came of a head that is not whole, or after an interim response.
    pub(super) part: Vec<u8>,
    /// What `part` stands for of what the worker may hold.
    pub(super) share: Option<Box<Share>>,
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
    /// A body follows the head.
    pub(super) has_body: bool,
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
    /// A `101`, or the success of `CONNECT`, was read.
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
    pub(super) fn new(route: Rc<LocalRoute>, phases: Phases) -> Self {
        Self {
            _at_pool: AtPool::new(&route.pool),
            waits_since: phases.whole(),
            phases,
            route,
            out: Vec::new(),
            head_out: 0,
            written_for: None,
            sent: 0,
            raw: Raw::Nothing,
            rule: None,
            ruled: None,
            id: RequestId::NONE,
            line: None,
            version: Version::Http11,
            keep_alive: false,
            wants_end: false,
            method: Asked::Other,
            answer: None,
            idempotent: false,
            expect: false,
            asked: None,
            handshake: None,
            up: Up::new(Decoder::NONE, false, None),
            down: Down::new(),
            upstream: None,
            next: None,
            backend: None,
            slot: None,
            tried: Tried::NONE,
            attempts: 0,
            retries: 0,
            failed: None,
            bounced: 0,
            denied: None,
            fresh_only: false,
            bytes_in: 0,
            bytes_out: 0,
            fault: None,
            armed: false,
            overtime: false,
            reused: false,
            end_announced: false,
        }
    }

    /// A rule sends it to another pool than its service's.
    pub(super) fn goes_to(&mut self, route: &Rc<LocalRoute>) {
        self._at_pool = AtPool::new(&route.pool);
        self.route = Rc::clone(route);
    }

    /// Whether the request's head is wanted again after it was written.
    pub(super) fn keeps_head(&self) -> bool {
        self.route.prepared.keeps_head && self.ruled.is_none() && self.answer.is_none()
    }

    /// Back to where nothing of a response has come.
    pub(super) fn restart(&mut self) {
        self.armed = false;
        self.phases.again();
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

    /// More of the request is to come, and all that has come went out.
    fn awaits_request(&self) -> bool {
        !self.is_read() && !self.up.abandoned && self.up.pending.is_none() && self.sent >= self.out.len()
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
            awaits: false,
            waited: Duration::ZERO,
        }
    }

    /// Takes bytes of the body that were read.
    pub(super) fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, Fault> {
        let decoded = self.decoder.decode(buf).map_err(Fault::Request)?;
        self.count(decoded.data.len() as u64).map(|()| decoded)
    }

    /// That many bytes of the body have come.
    pub(super) fn count(&mut self, bytes: u64) -> Result<(), Fault> {
        self.bytes += bytes;
        match self.most {
            Some(most) if self.bytes > most => Err(Fault::BodyTooLarge),
            Some(_) | None => Ok(()),
        }
    }
}

impl Down {
    fn new() -> Self {
        Self {
            stage: Stage::Head,
            part: Vec::new(),
            share: None,
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
            has_body: false,
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
        self.again(rest);
        Ok(())
    }

    /// These bytes are what has come of a head; they were not looked at yet.
    pub(super) fn again(&mut self, bytes: &[u8]) {
        self.part = bytes.to_vec();
        self.unread = !bytes.is_empty();
        self.parsed = 0;
        self.scan = HeadScan::default();
    }
}

impl<C: Client> Session<C> {
    /// Sends the request, relays the response.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        x: &mut Exchange,
    ) -> Poll<Result<Done, Fault>> {
        let worker = Rc::clone(&self.worker);
        if x.armed {
            worker.clock.turn();
        }
        let mut turns = 0;
        let mut moved = false;
        // A side that waits for a socket will be woken: what the other one does makes it worth no other look before, but for
        // the end of a response (below).
        let (mut up, mut down) = (Step::On, Step::On);
        loop {
            let scratch = &mut *worker.scratch.borrow_mut();
            let stepped = match up {
                Step::Waits => Ok(Step::Waits),
                Step::On | Step::Rests => self.step_up(cx, scratch, x),
            };
            up = match stepped {
                Ok(step) => step,
                // Its response is whole: what it does with the rest of its request is its own affair.
                Err(_) if x.overtime => return Poll::Ready(Ok(Done::Response)),
                Err(fault) => return Poll::Ready(Err(fault)),
            };
            if !matches!(down, Step::Waits) {
                down = match self.step_down(cx, scratch, x) {
                    Ok(step) => step,
                    Err(fault) => return Poll::Ready(Err(fault)),
                };
            }
            if x.down.pending.is_none() {
                match x.down.stage {
                    Stage::Done if x.up.abandoned || x.is_sent() => return Poll::Ready(Ok(Done::Response)),
                    Stage::Done => {
                        self.enter_overtime(x);
                        // The client was shown an end perhaps, and TLS may wait to write what says so: that is seen to by
                        // whoever reads from it.
                        if matches!(up, Step::Waits) {
                            up = Step::Rests;
                        }
                    }
                    Stage::Upgraded => return Poll::Ready(Ok(Done::Upgraded)),
                    Stage::Head | Stage::Body => {}
                }
            }
            if !matches!(up, Step::On) && !matches!(down, Step::On) {
                break;
            }
            moved = true;
            turns += 1;
            if turns > 1 {
                // A body moves: that takes its time.
                worker.clock.turn();
            }
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
        let now = worker.clock.now();
        if moved || !std::mem::replace(&mut x.armed, true) {
            self.wait_from_now(x);
            if x.up.awaits && is_too_slow(x) {
                return Poll::Ready(Err(Fault::ClientTimeout));
            }
        }
        if self.client.poll_gone(cx) {
            return Poll::Ready(if x.overtime {
                Ok(Done::Response)
            } else {
                Err(self.client.gone())
            });
        }
        match self.interrupted(cx) {
            None => Poll::Pending,
            Some(Interrupt::Cut) => Poll::Ready(Err(Fault::Drained)),
            Some(Interrupt::Late) => self.look_around(cx, x, now),
        }
    }

    fn wait_from_now(&self, x: &mut Exchange) {
        let now = self.worker.clock.now();
        if x.up.awaits {
            x.up.waited += now.saturating_duration_since(x.waits_since);
        }
        x.armed = true;
        x.waits_since = now;
        x.up.awaits = x.awaits_request() && !x.expect;
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
    fn enter_overtime(&mut self, x: &mut Exchange) {
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
        if x.down.pending.is_some() || (x.awaits_request() && !x.expect) {
            (timeouts.client, Fault::ClientTimeout)
        } else if x.is_answered() || !x.is_sent() && !x.expect {
            (timeouts.server, Fault::BackendTimeout)
        } else {
            (timeouts.server, Fault::ResponseTimeout)
        }
    }
}

/// Whether the request body comes so slowly that it is an attack (RFC 9110 has no word for it): a byte now and then is
/// never silence for long. Only time spent waiting for the client counts, and a response that has begun ends it: what
/// goes on then may be a conversation.
fn is_too_slow(x: &Exchange) -> bool {
    let Some(http) = http(&x.route) else { return false };
    let Some(rate) = http.limits.body_rate.filter(|_| !x.is_answered()) else {
        return false;
    };
    let fair = Duration::from_secs(x.up.bytes.checked_div(u64::from(rate)).unwrap_or(u64::MAX));
    x.up.waited > http.timeouts.client.saturating_add(fair)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is made anew for each request and moved to where it stays, and a worker keeps the memory of some.
    #[test]
    fn an_exchange_is_small() {
        let bytes = size_of::<Option<Exchange>>();
        let parts = [
            size_of::<Up>(),
            size_of::<Down>(),
            size_of::<Phases>(),
            size_of::<Tried>(),
            size_of::<Pending>(),
            size_of::<Decoder>(),
        ];
        assert!(bytes <= 1032, "{bytes} bytes per request, of them {parts:?}");
    }
}
