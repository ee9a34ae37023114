//! What a box knows of one other, and does with what it hears from it.
//!
//! ```text
//!            hello that names a token of ours              nothing for LOST
//!  unheard ───────────────────────────────▶ there ───────────────────────▶ lost
//!                                            ▲ ▲  another process: the same     │
//!                                            └─┴────────────────────────────────┘
//! ```
//!
//! With each arrow to *there* the whole table is asked for. A box *holds* its peer's table once that has come; or once it
//! is clear that nobody has one: nobody was heard for [`ALONE`] after the start, or the peer was lost meanwhile. From then
//! on it does so for good: what is missed while the peer is lost is asked for when it is back, but a master that the others
//! lean on is not called unready for that.

mod budget;
mod queue;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::{budget::Budget, queue::Queue};
use super::{
    bulk::{Joining, Serving},
    entry::{Entries, Entry},
    wire::{self, Ask, Body, Refused, Window, Writer},
};
use crate::{health::rng::Rng, vrrp::auth::Keys};

/// How often a box says that it is there.
pub const HELLO: Duration = Duration::from_secs(1);

/// A peer that was not heard for so long is lost.
pub const LOST: Duration = Duration::from_secs(4);

/// Nobody who was not heard so long after the start is waited for.
pub const ALONE: Duration = Duration::from_secs(5);

/// Within this time each entry is told again.
pub const REFRESH: Duration = Duration::from_secs(30);

/// What was not told again for so long, while its peer was there, is no more.
pub const EXPIRES: Duration = Duration::from_secs(100);

/// A hello that names no token of ours is answered at most so often: it may be an old one that somebody plays.
const ANSWERS: Duration = Duration::from_millis(100);

/// What is the same for all peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Number of the key that signs.
    pub key: u8,
    /// Datagrams with entries per second, at least 1.
    pub rate: u32,
    /// Says nothing of the hash key but whether two are the same.
    pub mark: u64,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this to the peer.
    Send(Vec<u8>),
    /// The peer wants all entries: give them to [`Peer::fill`], then [`Peer::full`].
    Everything,
    /// Something has happened.
    Event(Event),
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The peer is there. `anew`: another process than was heard before; what came from that nobody will tell again.
    There {
        /// See above.
        anew: bool,
    },
    /// It was not heard for [`LOST`].
    Lost,
    /// Its whole table has come.
    Joined,
    /// Nobody was heard since the start.
    Alone,
}

/// How it stands with a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// When it came, if it is there.
    pub there: Option<Instant>,
    /// When it was last heard.
    pub heard: Option<Instant>,
    /// Its table, or nobody's, is held.
    pub holds: bool,
    /// Chunks that came and how many there are, while they are coming.
    pub joining: Option<(u32, Option<u32>)>,
    /// Since when the oldest entry waits to be sent.
    pub waiting: Option<Instant>,
    /// What was counted.
    pub counts: Counts,
}

/// Counters, since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Entries that were sent, those of whole tables included.
    pub sent: u64,
    /// Entries that had no room in the queue: they are told with the next refresh.
    pub dropped: u64,
    /// Entries that came.
    pub received: u64,
    /// Datagrams that were sent, of all kinds.
    pub datagrams_sent: u64,
    /// Datagrams that were taken, of all kinds.
    pub datagrams_received: u64,
}

/// The other process, as it proved to be.
#[derive(Debug)]
struct Other {
    sender: u64,
    /// What it names to be heard.
    token: u64,
    /// What it wants to be named.
    its_token: u64,
    window: Window,
    heard: Instant,
    there: Option<Instant>,
}

/// One other box.
#[derive(Debug)]
pub struct Peer {
    settings: Settings,
    sender: u64,
    rng: Rng,
    /// The token for a process that is not known yet.
    candidate: u64,
    other: Option<Other>,
    number: u64,
    started: Instant,
    hello_at: Instant,
    /// The token of a hello that is to be answered, and from when on it may be.
    answer: Option<u64>,
    answer_from: Instant,
    queue: Queue,
    budget: Budget,
    serving: Option<Serving>,
    joining: Option<Joining>,
    thanks: Option<Ask>,
    holds: bool,
    events: VecDeque<Event>,
    counts: Counts,
}

impl Peer {
    /// `sender`: drawn by this process, the same for all its peers. `seed`: drawn for this one.
    pub fn new(settings: Settings, sender: u64, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            settings,
            sender,
            candidate: token(&mut rng),
            rng,
            other: None,
            number: 0,
            started: now,
            hello_at: now,
            answer: None,
            answer_from: now,
            queue: Queue::default(),
            budget: Budget::new(settings.rate, now),
            serving: None,
            joining: None,
            thanks: None,
            holds: false,
            events: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes a datagram in: the entries that it brings.
    ///
    /// # Errors
    /// It is not taken; nothing has changed.
    pub fn receive<'a>(
        &mut self,
        bytes: &'a [u8],
        keys: &dyn Keys,
        now: Instant,
    ) -> Result<Entries<'a>, Refused> {
        let datagram = wire::read(bytes, keys)?;
        if datagram.sender == self.sender {
            return Err(Refused::Own);
        }
        if let Body::Hello { mark, .. } = datagram.body
            && mark != self.settings.mark
        {
            return Err(Refused::HashKey);
        }
        let known = self
            .other
            .as_mut()
            .filter(|other| other.sender == datagram.sender && other.token == datagram.token);
        match (known, datagram.body) {
            (Some(other), _) => {
                if !other.window.take(datagram.number) {
                    return Err(Refused::Replayed);
                }
            }
            (None, Body::Hello { token, .. }) if datagram.token == self.candidate => {
                self.meets(datagram.sender, token, datagram.number, now);
            }
            (None, Body::Hello { token, .. }) => {
                // Whether it is of now shows when it names the token that it is told.
                self.answer = Some(token);
                return Ok(Entries::NONE);
            }
            (None, Body::Entries(_) | Body::Ask(_) | Body::Chunk { .. }) => return Err(Refused::Stale),
        }
        self.counts.datagrams_received += 1;
        self.hears(now);
        Ok(self.understand(datagram.body, now))
    }

    /// A process has proved to be the peer's.
    fn meets(&mut self, sender: u64, its_token: u64, number: u64, now: Instant) {
        let mut window = Window::default();
        window.take(number);
        self.other = Some(Other {
            sender,
            token: self.candidate,
            its_token,
            window,
            heard: now,
            there: None,
        });
        self.candidate = token(&mut self.rng);
        // It may not know that yet, and what it asked for before is not what this process asks for.
        self.hello_at = now;
        self.serving = None;
        self.events.push_back(Event::There { anew: true });
        self.join(now);
    }

    fn hears(&mut self, now: Instant) {
        let Some(other) = &mut self.other else {
            return;
        };
        other.heard = now;
        let back = other.there.is_none();
        other.there.get_or_insert(now);
        // A process that has only just been met was said to be there.
        if back && self.joining.is_none() {
            self.events.push_back(Event::There { anew: false });
            self.join(now);
        }
    }

    fn join(&mut self, now: Instant) {
        self.joining = Some(Joining::new(self.rng.next(), now));
        self.thanks = None;
    }

    fn understand<'a>(&mut self, body: Body<'a>, now: Instant) -> Entries<'a> {
        let entries = match body {
            Body::Hello { token, .. } => {
                if let Some(other) = &mut self.other {
                    other.its_token = token;
                }
                return Entries::NONE;
            }
            Body::Ask(ask) => {
                self.asked(ask, now);
                return Entries::NONE;
            }
            Body::Entries(entries) => entries,
            Body::Chunk {
                transfer,
                index,
                count,
                entries,
            } => {
                let Some(joining) = &mut self.joining else {
                    return Entries::NONE;
                };
                if !joining.came(transfer, index, count, now) {
                    return Entries::NONE;
                }
                if joining.is_complete() {
                    self.thanks = Some(joining.thanks());
                    self.joining = None;
                    self.holds = true;
                    self.events.push_back(Event::Joined);
                }
                entries
            }
        };
        self.counts.received += entries.count() as u64;
        entries
    }

    fn asked(&mut self, ask: Ask, now: Instant) {
        let same = self
            .serving
            .as_ref()
            .is_some_and(|it| it.transfer() == ask.transfer);
        if ask.bits == 0 {
            if same {
                self.serving = None;
            }
            return;
        }
        if !same {
            self.serving = Some(Serving::new(ask.transfer, now));
        }
        if let Some(serving) = &mut self.serving {
            serving.asked(ask, now);
        }
    }

    /// Tells the peer of a flow, if it is there.
    pub fn tell(&mut self, entry: &Entry, now: Instant) {
        if self.is_there() && !self.queue.push(entry, now) {
            self.counts.dropped += 1;
        }
    }

    /// One of all entries, after [`Output::Everything`].
    pub fn fill(&mut self, entry: &Entry) {
        if let Some(serving) = &mut self.serving {
            serving.fill(entry);
        }
    }

    /// That were all of them.
    pub const fn full(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.full();
        }
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.other.as_ref().is_some_and(|other| other.there.is_some())
    }

    /// Whether its table, or nobody's, is held.
    pub const fn holds(&self) -> bool {
        self.holds
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        Status {
            there: self.other.as_ref().and_then(|other| other.there),
            heard: self.other.as_ref().map(|other| other.heard),
            holds: self.holds,
            joining: self.joining.as_ref().map(Joining::progress),
            waiting: self.queue.since(),
            counts: self.counts,
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self, keys: &dyn Keys, now: Instant) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        if self.serving.as_mut().is_some_and(Serving::begins) {
            return Some(Output::Everything);
        }
        let bytes = self.next_datagram(keys, now)?;
        self.counts.datagrams_sent += 1;
        Some(Output::Send(bytes))
    }

    fn next_datagram(&mut self, keys: &dyn Keys, now: Instant) -> Option<Vec<u8>> {
        let mark = self.settings.mark;
        if now >= self.answer_from
            && let Some(its_token) = self.answer.take()
        {
            self.answer_from = now + ANSWERS;
            let candidate = self.candidate;
            return self.writer(keys, its_token).hello(candidate, mark);
        }
        if now >= self.hello_at {
            self.hello_at = now + HELLO;
            let (its_token, token) = match &self.other {
                Some(other) => (other.its_token, other.token),
                None => (0, self.candidate),
            };
            return self.writer(keys, its_token).hello(token, mark);
        }
        let other = self.other.as_ref().filter(|other| other.there.is_some())?;
        let its_token = other.its_token;
        if let Some(thanks) = self.thanks.take() {
            return self.writer(keys, its_token).ask(thanks);
        }
        if let Some(ask) = self.joining.as_mut().and_then(|joining| joining.ask(now)) {
            return self.writer(keys, its_token).ask(ask);
        }
        self.next_entries(keys, its_token, now)
    }

    /// What is bound by the rate.
    fn next_entries(&mut self, keys: &dyn Keys, its_token: u64, now: Instant) -> Option<Vec<u8>> {
        let serves = self.serving.as_ref().is_some_and(Serving::has);
        if !(serves || self.queue.is_ready(now)) || !self.budget.take(now) {
            return None;
        }
        let writer = self.writer(keys, its_token);
        // Who joins is waited for; but what changes meanwhile is not held up by it.
        if serves && (self.number.is_multiple_of(2) || !self.queue.is_ready(now)) {
            let serving = self.serving.as_mut()?;
            let transfer = serving.transfer();
            let (index, count, entries) = serving.next()?;
            self.counts.sent += Entries::new(entries).map_or(0, |all| all.count() as u64);
            return writer.chunk(transfer, index, count, entries);
        }
        let (entries, count) = self.queue.pop()?;
        self.counts.sent += count;
        writer.entries(&entries)
    }

    const fn writer<'k>(&mut self, keys: &'k dyn Keys, its_token: u64) -> Writer<'k> {
        self.number += 1;
        Writer {
            keys,
            key: self.settings.key,
            sender: self.sender,
            token: its_token,
            number: self.number,
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, and [`Self::poll_output`] behind it.
    pub fn poll_timeout(&self) -> Instant {
        let there = self.other.as_ref().filter(|other| other.there.is_some());
        let lost = there.map(|other| other.heard + LOST);
        let alone = (!self.holds && there.is_none()).then_some(self.started + ALONE);
        let answer = self.answer.map(|_| self.answer_from);
        let ask = self
            .joining
            .as_ref()
            .filter(|_| there.is_some())
            .map(Joining::due);
        let kept = self.serving.as_ref().map(Serving::until);
        let chunk = self
            .serving
            .as_ref()
            .filter(|it| it.has())
            .map(|_| self.budget.next());
        let entries = self.queue.due().map(|due| due.max(self.budget.next()));
        [lost, alone, answer, ask, kept, chunk, entries]
            .into_iter()
            .flatten()
            .fold(self.hello_at, Instant::min)
    }

    /// What follows from the time alone.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(other) = &mut self.other
            && other.there.is_some()
            && now.saturating_duration_since(other.heard) >= LOST
        {
            other.there = None;
            self.queue = Queue::default();
            self.serving = None;
            self.joining = None;
            self.thanks = None;
            // Nobody is left who could have told more.
            self.holds = true;
            self.events.push_back(Event::Lost);
        }
        if !self.holds && !self.is_there() && now.saturating_duration_since(self.started) >= ALONE {
            self.holds = true;
            self.events.push_back(Event::Alone);
        }
        if self.serving.as_ref().is_some_and(|it| now >= it.until()) {
            self.serving = None;
        }
    }
}

/// A token: any number but the one that says that there is none.
const fn token(rng: &mut Rng) -> u64 {
    let drawn = rng.next();
    if drawn == 0 { 1 } else { drawn }
}
