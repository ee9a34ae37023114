//! What a connection's frames tell before anybody decodes them: how often the client sends what is of no use, whether a
//! head is under way, which requests were refused below the relay.
//!
//! Only frame headers are looked at, in both directions, as the bytes pass. Most frames of control have their good use:
//! window updates answer data, a ping measures it. So data that is sent and requests that come earn a credit for them;
//! what goes beyond that is an offence. Offences are forgiven over time, and more than the service allows end the
//! connection. What the `h2` crate bounds by itself (`CONTINUATION` per head, a head's decoded size, tiny `DATA` frames,
//! streams that are reset before anybody takes them, resets that its errors cause) stays below these.
//!
//! Some rules are judged here, because a frame's header tells and the crate has `PROTOCOL_ERROR` for whatever is wrong: the
//! lengths that frames have, settings first, a window that can't be one, what comes on a stream behind its end. What breaks
//! one of them is not shown to the crate.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// How long it takes until as many offences as are allowed are forgiven.
const FORGIVEN: Duration = Duration::from_secs(30);

/// Frames of control that a connection may send before it has done anything.
const CREDIT: u32 = 64;

/// The most that is saved up.
const CREDIT_MOST: u32 = 4096;

/// What a frame of data that is sent, or a request that comes, is good for.
const EARNED: u32 = 2;

/// Resets of streams that weir itself makes and whose frames were not seen yet: more are forgotten.
const EXPECTED_MOST: usize = 1024;

/// Streams of which it is known that the client has ended them: of older ones the `h2` crate judges.
const ENDED: usize = 32;

/// Frame types (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Error codes (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;

/// `SETTINGS_INITIAL_WINDOW_SIZE`, and the largest window (RFC 9113 section 6.5.2).
const INITIAL_WINDOW: u16 = 4;
const WINDOW_MOST: u32 = (1 << 31) - 1;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes of a frame's header, and of a reset's code behind it.
const HEADER: usize = 9;
const CODE: usize = 4;

/// Bytes of one setting.
const SETTING: usize = 6;

/// A frame's header. `code` is a reset's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    code: u32,
}

impl Frame {
    /// Whether its length is one that its type may have (RFC 9113 section 6).
    const fn fits(self) -> bool {
        match self.kind {
            kind::PRIORITY => self.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::SETTINGS if self.flags & ACK != 0 => self.length == 0,
            kind::SETTINGS => self.length.is_multiple_of(SETTING),
            kind::PING => self.length == 8,
            kind::GOAWAY => self.length >= 8,
            _ => true,
        }
    }
}

/// What is found in bytes as they pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Frame(Frame),
    /// One of a frame's settings.
    Setting(u16, u32),
}

/// Finds frame headers, and settings, in bytes as they pass.
#[derive(Clone, Debug, Default)]
struct Scanner {
    /// Bytes to pass over: a preface, or the rest of a payload.
    skip: usize,
    /// Bytes of settings that are still to come.
    settings: usize,
    head: [u8; HEADER + CODE],
    have: usize,
}

impl Scanner {
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Seen> {
        loop {
            self.pass(bytes);
            let want = self.wants();
            if self.have == want {
                return Some(match self.settings {
                    0 => Seen::Frame(self.take()),
                    _ => self.take_setting(),
                });
            }
            if bytes.is_empty() {
                return None;
            }
            let fits = (want - self.have).min(bytes.len());
            let (now, rest) = bytes.split_at_checked(fits)?;
            self.head
                .get_mut(self.have..self.have + fits)?
                .copy_from_slice(now);
            *bytes = rest;
            self.have += fits;
        }
    }

    /// Passes over what is not looked at.
    fn pass(&mut self, bytes: &mut &[u8]) {
        let skipped = self.skip.min(bytes.len());
        *bytes = bytes.get(skipped..).unwrap_or_default();
        self.skip -= skipped;
    }

    /// Bytes of the present frame, or setting, that are looked at.
    fn wants(&self) -> usize {
        if self.settings > 0 {
            return SETTING;
        }
        let is_reset = self.head.get(3) == Some(&kind::RST_STREAM);
        match self.have >= HEADER && is_reset && self.length() >= CODE {
            true => HEADER + CODE,
            false => HEADER,
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    fn take(&mut self) -> Frame {
        let [_, _, _, kind, flags, s0, s1, s2, s3, c0, c1, c2, c3] = self.head;
        let length = self.length();
        self.skip = length - (self.have - HEADER);
        self.have = 0;
        let frame = Frame {
            length,
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            code: u32::from_be_bytes([c0, c1, c2, c3]),
        };
        if frame.kind == kind::SETTINGS && frame.fits() {
            self.settings = std::mem::take(&mut self.skip);
        }
        frame
    }

    fn take_setting(&mut self) -> Seen {
        let [a, b, c, d, e, f, ..] = self.head;
        self.settings = self.settings.saturating_sub(SETTING);
        self.have = 0;
        Seen::Setting(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
    }
}

/// What is known of one connection's frames.
#[derive(Debug)]
pub struct Watch {
    read: Scanner,
    written: Scanner,
    allowed: u32,
    offences: u32,
    credit: u32,
    /// Since when offences were not forgiven.
    since: Instant,
    /// Since when a head has been under way.
    head_since: Option<Instant>,
    /// The client has sent its first settings.
    settled: bool,
    /// Streams that requests were taken from and that are not over.
    live: HashSet<u32>,
    /// The last of them.
    last: u32,
    /// Streams that weir resets for a fault of the client: their frames are still to come.
    expected: HashSet<u32>,
    /// Data came.
    data: bool,
    /// Requests that were malformed, and that nobody else has seen.
    unseen: u32,
    /// The highest stream that a head came on.
    highest: u32,
    ended: Ended,
    /// The code for the rule that was broken.
    broken: Option<u32>,
}

/// The streams that the client has ended last, by the end of its message or by a reset.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    streams: [u32; ENDED],
    /// Bit by bit: it was a reset.
    resets: u32,
    at: usize,
}

impl Ended {
    fn note(&mut self, stream: u32, reset: bool) {
        if let Some(place) = self.streams.get_mut(self.at) {
            *place = stream;
        }
        self.resets = self.resets & !(1 << self.at) | u32::from(reset) << self.at;
        self.at = (self.at + 1) % ENDED;
    }

    /// How it was ended: by a reset? None: it is not known to have been.
    fn how(&self, stream: u32) -> Option<bool> {
        // Places that nobody has been noted in hold 0, which is no stream.
        let at = self.streams.iter().position(|s| *s == stream && stream != 0)?;
        Some(self.resets >> at & 1 == 1)
    }
}

impl Watch {
    /// For a connection that begins with `preface` bytes of no frame.
    pub fn new(preface: usize, allowed: u32, now: Instant) -> Self {
        Self {
            read: Scanner {
                skip: preface,
                ..Scanner::default()
            },
            written: Scanner::default(),
            allowed,
            offences: 0,
            credit: CREDIT,
            since: now,
            head_since: None,
            settled: false,
            live: HashSet::new(),
            last: 0,
            expected: HashSet::new(),
            data: false,
            unseen: 0,
            highest: 0,
            ended: Ended::default(),
            broken: None,
        }
    }

    /// Bytes came from the client: answers with how many of them, from the first on, break no rule that is judged here.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> usize {
        let all = bytes.len();
        loop {
            self.read.pass(&mut bytes);
            let sound = all - bytes.len();
            let Some(seen) = self.read.next(&mut bytes) else {
                return all;
            };
            self.broken = match seen {
                Seen::Frame(frame) => self.breaks(frame),
                Seen::Setting(INITIAL_WINDOW, size) if size > WINDOW_MOST => Some(FLOW_CONTROL_ERROR),
                Seen::Setting(..) => None,
            };
            match (self.broken, seen) {
                (Some(_), _) => return sound,
                (None, Seen::Frame(frame)) => self.judge(frame, now),
                (None, Seen::Setting(..)) => {}
            }
        }
    }

    /// The code (RFC 9113 section 7) for what the client has done against a rule that is judged here. Nothing that comes
    /// after it means anything.
    pub fn broken(&self) -> Option<u32> {
        self.broken
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, mut bytes: &[u8], now: Instant) {
        while let Some(seen) = self.written.next(&mut bytes) {
            match seen {
                Seen::Frame(frame) if frame.kind == kind::DATA => self.earn(),
                Seen::Frame(frame) if frame.kind == kind::RST_STREAM => self.reset(frame, now),
                Seen::Frame(_) | Seen::Setting(..) => {}
            }
        }
    }

    /// A request was taken from a stream.
    pub fn begin(&mut self, stream: u32) {
        self.live.insert(stream);
        self.last = self.last.max(stream);
    }

    /// Whether a request is under way on it that the client has not taken back.
    pub fn is_live(&self, stream: u32) -> bool {
        self.live.contains(&stream)
    }

    /// It is over.
    pub fn end(&mut self, stream: u32) {
        self.live.remove(&stream);
    }

    /// It was, or is going to be, reset for a fault of the client that is on record.
    pub fn blame(&mut self, stream: u32) {
        if self.expected.len() < EXPECTED_MOST {
            self.expected.insert(stream);
        }
    }

    /// What was held against the connection is done with: it is ended for it.
    pub fn forgive(&mut self) {
        self.offences = 0;
    }

    /// Whether there were more offences than are allowed.
    pub fn is_over(&self) -> bool {
        self.offences > self.allowed
    }

    /// Since when a head has been under way, if one is.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Whether data came since this was asked last.
    pub fn take_data(&mut self) -> bool {
        std::mem::take(&mut self.data)
    }

    /// Malformed requests that were reset before anybody else has seen them, since this was asked last.
    pub fn take_unseen(&mut self) -> u32 {
        std::mem::take(&mut self.unseen)
    }

    /// The rule that it breaks, by its code.
    fn breaks(&mut self, frame: Frame) -> Option<u32> {
        if !frame.fits() {
            return Some(FRAME_SIZE_ERROR);
        }
        if !self.settled && (frame.kind != kind::SETTINGS || frame.flags & ACK != 0) {
            return Some(PROTOCOL_ERROR);
        }
        match frame.kind {
            kind::HEADERS if frame.stream > self.highest => self.highest = frame.stream,
            // A client that has ended a stream knows so: nothing here is a race.
            kind::HEADERS if self.ended.how(frame.stream).is_some() => return Some(STREAM_CLOSED),
            kind::DATA if self.ended.how(frame.stream) == Some(false) => return Some(STREAM_CLOSED),
            kind::RST_STREAM if frame.stream <= self.highest => self.ended.note(frame.stream, true),
            _ => {}
        }
        if matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & END_STREAM != 0 {
            self.ended.note(frame.stream, false);
        }
        None
    }

    fn judge(&mut self, frame: Frame, now: Instant) {
        if matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) {
            self.head_since = match frame.flags & END_HEADERS == 0 {
                true => Some(self.head_since.unwrap_or(now)),
                false => None,
            };
        }
        match frame.kind {
            kind::DATA if frame.length == 0 && frame.flags & END_STREAM == 0 => self.offend(now),
            kind::DATA => self.data = true,
            kind::GOAWAY => {}
            kind::HEADERS => self.earn(),
            kind::CONTINUATION if frame.length == 0 => self.offend(now),
            kind::CONTINUATION => {}
            kind::SETTINGS if frame.flags & ACK != 0 => {}
            kind::SETTINGS if !std::mem::replace(&mut self.settled, true) => {}
            kind::SETTINGS => self.offend(now),
            kind::PING if frame.flags & ACK != 0 => {}
            // What is over can't be made to cost anything.
            kind::RST_STREAM if frame.stream <= self.last && !self.live.remove(&frame.stream) => {}
            kind::RST_STREAM => self.offend(now),
            // PING, WINDOW_UPDATE, PRIORITY, and what later RFCs have added.
            _ => match self.credit.checked_sub(1) {
                Some(left) => self.credit = left,
                None => self.offend(now),
            },
        }
    }

    /// A stream is reset. What the client has brought about is its offence: it is as cheap a way to have work done for
    /// nothing as resets of its own.
    fn reset(&mut self, frame: Frame, now: Instant) {
        // PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM.
        if !matches!(frame.code, PROTOCOL_ERROR | 3 | 5 | 6 | 7) {
            return;
        }
        self.offend(now);
        let known = self.expected.remove(&frame.stream) || self.live.contains(&frame.stream);
        if frame.code == PROTOCOL_ERROR && !known {
            self.unseen = self.unseen.saturating_add(1);
        }
    }

    fn earn(&mut self) {
        self.credit = (self.credit + EARNED).min(CREDIT_MOST);
    }

    fn offend(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let share = u128::from(self.allowed) * passed.as_millis() / FORGIVEN.as_millis();
        if share > 0 {
            self.offences = self
                .offences
                .saturating_sub(u32::try_from(share).unwrap_or(u32::MAX));
            self.since = now;
        }
        self.offences = self.offences.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
