//! How long the machine waits, and how long nobody else can have taken over.

use std::time::{Duration, Instant};

use super::{Machine, Member, State, master::INTERVALS};

impl Machine {
    /// The adverts that are the longest ago; `None` if there is a router for which none left yet.
    pub(super) fn sent_everywhere(&self) -> Option<(Instant, Duration)> {
        let mut sent = self.members.iter().map(|member| member.sent);
        let first = sent.next()??;
        sent.try_fold(first, |oldest, sent| {
            let until = |(at, interval): (Instant, Duration)| at + interval * INTERVALS;
            let sent = sent?;
            Some(if until(sent) < until(oldest) { sent } else { oldest })
        })
    }

    /// As master: until when nobody else can have taken over.
    pub(super) fn safe_until(&self) -> Instant {
        let since = self.master.as_ref().map_or(self.now, |master| master.since);
        let (at, interval) = self
            .sent_everywhere()
            .unwrap_or_else(|| (since, self.config.interval.duration()));
        at + interval * INTERVALS
    }

    /// As backup: when it takes over, if nothing more is heard.
    pub(super) fn due(&self) -> Instant {
        let silent = |member: &Member| {
            let down = member.silent_since + member.interval * INTERVALS + self.skew(member.interval);
            self.hurry_of(member).map_or(down, |by| by.min(down))
        };
        let all = self.members.iter().map(silent).fold(self.since, Instant::max);
        self.listen_until.map_or(all, |until| until.max(all))
    }

    /// Until when it waits at the most, if it need not wait for silence.
    pub(super) fn hurry_of(&self, member: &Member) -> Option<Instant> {
        let (by, priority) = member.hurry?;
        (priority < self.priority()).then_some(by)
    }

    /// `Skew_Time` (RFC 9568 section 6.1), not cut to whole centiseconds.
    pub(super) fn skew(&self, interval: Duration) -> Duration {
        interval * (256 - u32::from(self.priority())) / 256
    }

    /// The shortest interval in which something is to be heard, or sent.
    pub(super) fn interval(&self) -> Duration {
        let own = self.config.interval.duration();
        match self.state {
            State::Init | State::Master => own,
            State::Backup => self
                .members
                .iter()
                .map(|member| member.interval)
                .fold(own, Duration::min),
        }
    }
}
