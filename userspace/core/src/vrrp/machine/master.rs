//! What a master keeps in mind: when it sends next, how long its lease may be, and whom it hears beside itself.
//!
//! Owns these times. That the box is master at all is [`super`]'s.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::config::{Announce, Config};

/// How many intervals of silence others wait for, before they begin to take over (RFC 9568 section 6.1).
pub(super) const INTERVALS: u32 = 3;

/// For how long who yields goes on at the most with what is under way: packets on the link, answers of backends, and a new
/// master that is slow to say where the addresses are.
pub const LINGER: Duration = Duration::from_millis(50);

/// Since this box became master.
#[derive(Clone, Debug)]
pub(super) struct Mastership {
    /// When it became it.
    pub(super) since: Instant,
    /// When the next adverts are due.
    pub(super) advert: Instant,
    /// When the lease is to be renewed.
    pub(super) renew: Instant,
    /// What the lease was last.
    pub(super) lease: Option<Instant>,
    announcements: u32,
    announce: Option<Instant>,
    /// Until when a rival counts as there.
    rival: Option<Instant>,
    /// When a rival was answered last, and which.
    asserted: Option<(Instant, IpAddr)>,
}

impl Mastership {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            advert: now,
            renew: now,
            lease: None,
            announcements: 0,
            announce: None,
            rival: None,
            asserted: None,
        }
    }

    /// Begins a row of announcements, unless one is under way.
    pub(super) fn begin_announcing(&mut self, announce: Announce, now: Instant) {
        if self.announcements == 0 && announce.count > 0 {
            self.announcements = announce.count;
            self.announce = Some(now);
        }
    }

    /// Whether the addresses are to be announced now.
    pub(super) fn announces(&mut self, announce: Announce, now: Instant) -> bool {
        if self.announce.is_none_or(|due| now < due) {
            return false;
        }
        self.announcements = self.announcements.saturating_sub(1);
        self.announce = match self.announcements {
            0 => announce.refresh.map(|refresh| now + refresh),
            _ => Some(now + announce.spacing),
        };
        true
    }

    /// A rival is heard, and counts as there until then. Whether it is to be answered: at once, but the same one not more
    /// often than this box sends anyway.
    pub(super) fn rival(&mut self, source: IpAddr, until: Instant, interval: Duration, now: Instant) -> bool {
        self.rival = Some(self.rival.map_or(until, |before| before.max(until)));
        let is_due = self
            .asserted
            .is_none_or(|(last, which)| which != source || now >= last + interval);
        if is_due {
            self.asserted = Some((now, source));
        }
        is_due
    }

    /// Whether a rival is heard.
    pub(super) const fn has_rival(&self) -> bool {
        self.rival.is_some()
    }

    /// Whether the rival has now been silent for long enough.
    pub(super) fn rival_is_gone(&mut self, now: Instant) -> bool {
        self.rival.take_if(|until| now >= *until).is_some()
    }

    /// When something is due.
    pub(super) fn next(&self) -> Instant {
        [self.announce, self.rival]
            .into_iter()
            .flatten()
            .fold(self.advert.min(self.renew), Instant::min)
    }

    /// The lease that may be given now. `sent`: when the adverts that are the longest ago were sent, and the interval in
    /// them. Sets the time of the next one.
    pub(super) fn renewed(
        &mut self,
        config: &Config,
        sent: Option<(Instant, Duration)>,
        now: Instant,
    ) -> Option<Instant> {
        self.renew = now + config.lease / 3;
        let (at, interval) = sent?;
        let until = (now + config.lease).min(at + interval * INTERVALS);
        self.lease = Some(until);
        (until > now).then_some(until)
    }
}
