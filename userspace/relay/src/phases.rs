//! The phases of a request, or of a relayed connection, and how long each took.
//!
//! The one place that says where a phase begins and ends. The timers are HAProxy's (its configuration manual, section
//! 8.4), so that who knows those can read them; the names are our own:
//!
//! ```text
//!   end of the last response,   first byte   head whole   place   connected   response head    last byte
//!   or accept
//!     |---- idle (Ti) ----|---- head (TR) ---|- queue (Tw) -|- connect (Tc) -|- response (Tr) -|- (Td) -|
//!                         |-------------------------------- total (Ta) --------------------------------|
//!                                            |---------- first byte (ours) ----------|
//! ```
//!
//! In TCP mode there is no head and no response, and the total (Tt) runs from the accept on.

use std::time::{Duration, Instant};

use crate::reason::words;

words! {
    /// What a request, or a relayed connection, was waiting for when it ended.
    Phase {
        /// The request's head was not whole, or was refused.
        Request = "request",
        /// Waiting for a backend to come up, or for a connection to become free.
        Queue = "queue",
        /// A backend was looked for, or was being connected to.
        Connect = "connect",
        /// The request went to a backend; its response head was not whole.
        Response = "response",
        /// The response's head was on its way, or bytes both ways.
        Data = "data",
        /// The backend was done; the client did not have all yet.
        Last = "last",
    }
}

/// What is known of the phases of one request, or of one connection in TCP mode.
#[derive(Clone, Debug)]
pub(crate) struct Phases {
    phase: Phase,
    idle: Option<Duration>,
    /// The first byte; in TCP mode the accept.
    began: Instant,
    /// The whole head; in TCP mode the accept.
    whole: Instant,
    has_head: bool,
    /// All waits together.
    queued: Option<Duration>,
    /// How many waited already when it came to wait.
    ahead: u32,
    /// All tries to connect together.
    dialled: Option<Duration>,
    connected: Option<Instant>,
    answered: Option<Instant>,
    ended: Option<Instant>,
}

/// How long each phase took. None: it was not reached, or not passed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Timers {
    pub(crate) idle: Option<Duration>,
    pub(crate) head: Option<Duration>,
    pub(crate) queue: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    pub(crate) response: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) total: Duration,
}

impl Phases {
    /// A request whose head is whole. `since` is where the idle time begins.
    pub(crate) fn request(since: Instant, began: Instant, whole: Instant) -> Self {
        Self {
            idle: Some(began.saturating_duration_since(since)),
            has_head: true,
            ..Self::connection_at(began, whole, Phase::Connect)
        }
    }

    /// A request whose head is not whole, or is refused.
    pub(crate) fn no_request(since: Instant, began: Instant) -> Self {
        Self {
            idle: Some(began.saturating_duration_since(since)),
            ..Self::connection_at(began, began, Phase::Request)
        }
    }

    /// A connection in TCP mode.
    pub(crate) fn connection(accepted: Instant) -> Self {
        Self::connection_at(accepted, accepted, Phase::Connect)
    }

    fn connection_at(began: Instant, whole: Instant, phase: Phase) -> Self {
        Self {
            phase,
            idle: None,
            began,
            whole,
            has_head: false,
            queued: None,
            ahead: 0,
            dialled: None,
            connected: None,
            answered: None,
            ended: None,
        }
    }

    /// It has waited for so long, behind so many. If it got nothing, that is where it ended.
    pub(crate) fn waited(&mut self, took: Duration, ahead: u32, got: bool) {
        self.queued = Some(self.queued.unwrap_or_default() + took);
        self.ahead = self.ahead.saturating_add(ahead);
        self.phase = if got { Phase::Connect } else { Phase::Queue };
    }

    /// A try to connect took so long; `connected` is when it succeeded. A connection that is used again took no time.
    #[inline]
    pub(crate) fn dialled(&mut self, took: Duration, connected: Option<Instant>) {
        self.dialled = Some(self.dialled.unwrap_or_default() + took);
        self.connected = connected;
        self.phase = match (connected, self.has_head) {
            (None, _) => Phase::Connect,
            (Some(_), true) => Phase::Response,
            (Some(_), false) => Phase::Data,
        };
    }

    /// The request goes out again: back to where there was no connection.
    pub(crate) fn again(&mut self) {
        self.connected = None;
        self.phase = Phase::Connect;
    }

    /// The final response's head is whole. Answers with the times since the request's head, and since the connection
    /// was there.
    #[inline]
    pub(crate) fn answered(&mut self, now: Instant) -> (Duration, Option<Duration>) {
        self.answered = Some(now);
        self.phase = Phase::Data;
        let response = self.connected.map(|at| now.saturating_duration_since(at));
        (now.saturating_duration_since(self.whole), response)
    }

    /// The backend is done.
    #[inline]
    pub(crate) fn last(&mut self) {
        self.phase = Phase::Last;
    }

    /// The end. The first one counts.
    #[inline]
    pub(crate) fn end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// How many waited already when it came to wait.
    pub(crate) const fn ahead(&self) -> u32 {
        self.ahead
    }

    /// When the head was whole; in TCP mode, when the connection was accepted.
    #[inline]
    pub(crate) const fn whole(&self) -> Instant {
        self.whole
    }

    /// The first byte; in TCP mode the accept.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// From the whole head to the end, or to `now` if there was none.
    #[inline]
    pub(crate) fn took(&self, now: Instant) -> Duration {
        self.ended.unwrap_or(now).saturating_duration_since(self.whole)
    }

    /// How long each phase took, as of the end, or of `now` if there was none.
    pub(crate) fn timers(&self, now: Instant) -> Timers {
        let span = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let reached = self.dialled.map(|_| Duration::ZERO);
        Timers {
            idle: self.idle,
            head: self.has_head.then(|| span(self.began, self.whole)),
            queue: self.queued.or(reached),
            connect: self.connected.and(self.dialled),
            response: self.connected.zip(self.answered).map(|(from, to)| span(from, to)),
            first_byte: self.answered.map(|at| span(self.whole, at)),
            total: span(self.began, self.ended.unwrap_or(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ms(n: u32) -> Option<Duration> {
        Some(MS * n)
    }

    #[test]
    fn a_request_passes_all_phases() {
        let start = Instant::now();
        let at = |n: u32| start + MS * n;
        let mut phases = Phases::request(start, at(10), at(12));
        assert_eq!(phases.phase(), Phase::Connect);
        phases.waited(MS * 20, 3, true);
        phases.dialled(MS * 4, None);
        assert_eq!(phases.phase(), Phase::Connect);
        phases.dialled(MS * 5, Some(at(41)));
        assert_eq!(phases.phase(), Phase::Response);
        assert_eq!(phases.answered(at(90)), (MS * 78, ms(49)));
        assert_eq!(phases.phase(), Phase::Data);
        phases.last();
        phases.end(at(100));
        phases.end(at(200));
        assert_eq!((phases.phase(), phases.ahead()), (Phase::Last, 3));
        let timers = Timers {
            idle: ms(10),
            head: ms(2),
            queue: ms(20),
            connect: ms(9),
            response: ms(49),
            first_byte: ms(78),
            total: MS * 90,
        };
        assert_eq!(phases.timers(at(999)), timers);
        assert_eq!(phases.took(at(999)), MS * 88);
    }

    #[test]
    fn what_was_not_reached_has_no_time() {
        let start = Instant::now();
        let none = Timers::default();
        let total = MS * 7;
        let bad = Phases::no_request(start, start);
        assert_eq!(
            bad.timers(start + total),
            Timers {
                idle: ms(0),
                total,
                ..none
            }
        );
        let mut full = Phases::request(start, start, start);
        full.waited(MS, 9, false);
        assert_eq!(full.phase(), Phase::Queue);
        let waited = Timers {
            idle: ms(0),
            head: ms(0),
            queue: ms(1),
            total,
            ..none
        };
        assert_eq!(full.timers(start + total), waited);
        let mut refused = Phases::request(start, start, start);
        refused.dialled(MS, None);
        let timers = refused.timers(start + total);
        assert_eq!((timers.queue, timers.connect), (ms(0), None));
    }

    #[test]
    fn a_request_that_goes_out_again_has_no_connection() {
        let start = Instant::now();
        let mut phases = Phases::request(start, start, start);
        phases.dialled(Duration::ZERO, Some(start));
        phases.again();
        phases.dialled(MS, None);
        assert_eq!(phases.timers(start).connect, None);
        phases.dialled(MS, Some(start + MS * 2));
        assert_eq!(phases.timers(start).connect, ms(2));
    }

    #[test]
    fn a_relayed_connection_has_no_head_and_no_response() {
        let start = Instant::now();
        let mut phases = Phases::connection(start);
        phases.dialled(MS, Some(start + MS));
        assert_eq!(phases.phase(), Phase::Data);
        let timers = Timers {
            queue: ms(0),
            connect: ms(1),
            total: MS * 3,
            ..Timers::default()
        };
        assert_eq!(phases.timers(start + MS * 3), timers);
    }
}
