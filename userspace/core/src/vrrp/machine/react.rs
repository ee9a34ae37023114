//! What an event brings about: the table's reactions, carried out on timers and outputs.

use std::time::Instant;

use super::{
    Cause, Change, Heard, Lesser, Machine, Output, State, Step,
    master::{INTERVALS, LINGER, Mastership},
    table::{Event, Reaction, transition},
};
use crate::vrrp::wire::priority::LEAVING;

impl Machine {
    /// One event: the table says what becomes of the state, this carries it out.
    pub(super) fn step(&mut self, event: Event, cause: Cause, heard: Option<(usize, &Heard)>, now: Instant) {
        let from = self.state;
        let (to, reaction) = transition(from, event);
        self.state = to;
        match reaction {
            Reaction::Nothing => {}
            Reaction::Wait => self.wait(heard, now),
            Reaction::Follow => self.follow(heard),
            Reaction::Hurry => self.hurry(heard, &cause),
            Reaction::Listen => self.listen_until = Some(now + self.interval() + self.skew(self.interval())),
            Reaction::Take => self.take(now),
            Reaction::Yield => {
                self.leave(None);
                self.wait(heard, now);
            }
            Reaction::HandOver => {
                let lease = self.lease().map(|until| until.min(now + LINGER));
                self.leave(lease.filter(|until| *until > now));
                self.wait(heard, now);
            }
            Reaction::Leave => self.leave(None),
            Reaction::Assert => self.assert(heard, now),
            Reaction::Repeat => self.advertise_if_master(now),
        }
        if to != State::Master && self.master.take().is_some_and(|master| master.has_rival()) {
            self.put(Output::Rival(None));
        }
        if from != to {
            self.lesser = None;
            let lasted = now.saturating_duration_since(std::mem::replace(&mut self.since, now));
            self.put(Output::Changed(Change {
                from,
                to,
                cause,
                lasted,
            }));
        }
    }

    /// Is master no more; until then it goes on with what is under way.
    fn leave(&mut self, lingers: Option<Instant>) {
        self.put(lingers.map_or(Output::Shut, Output::Linger));
        // Said also to who is better: adverts may have crossed, and it may wait for this one meanwhile.
        self.advertise(LEAVING);
        self.put(Output::Give);
    }

    /// Waits for a master on every link; on one of them it may be known already.
    fn wait(&mut self, heard: Option<(usize, &Heard)>, now: Instant) {
        let interval = self.config.interval.duration();
        for member in &mut self.members {
            (member.silent_since, member.interval) = (now, interval);
            (member.hurry, member.master) = (None, None);
        }
        self.hurried_by = None;
        self.heard = heard.map(|(_, heard)| (heard.source, heard.priority));
        self.follow(heard);
    }

    fn follow(&mut self, heard: Option<(usize, &Heard)>) {
        let Some((router, heard)) = heard else {
            return;
        };
        self.hurried_by = None;
        if let Some(member) = self.members.get_mut(router) {
            member.silent_since = heard.arrived.min(self.now);
            member.master = Some(heard.source);
            member.interval = heard.interval.duration();
            member.hurry = None;
        }
    }

    fn hurry(&mut self, heard: Option<(usize, &Heard)>, cause: &Cause) {
        let Some((router, heard)) = heard else {
            return;
        };
        let skew = self.skew(heard.interval.duration());
        if let Some(member) = self.members.get_mut(router) {
            let by = heard.arrived + skew;
            let by = member.hurry.map_or(by, |(before, _)| before.min(by));
            member.hurry = Some((by, heard.priority));
            self.hurried_by = Some(cause.clone());
        }
    }

    /// Nothing was heard that is waited for: of nobody, or because who is heard is to be relieved.
    pub(super) fn silence(&self, now: Instant) -> Cause {
        match self.lesser.filter(|lesser| now < lesser.until) {
            Some(Lesser { source, priority, .. }) => Cause::Preempts { source, priority },
            None => Cause::Silence,
        }
    }

    fn take(&mut self, now: Instant) {
        let mut master = Mastership::new(now);
        master.advert = now + self.config.interval.duration();
        master.begin_announcing(self.config.announce, now);
        let announces = master.announces(self.config.announce, now);
        self.master = Some(master);
        (self.heard, self.listen_until, self.hurried_by) = (None, None, None);
        for member in &mut self.members {
            member.sent = None;
        }
        self.advertise(self.priority());
        self.put(Output::Take);
        self.outputs.push_back(Step::Renew);
        if announces {
            self.put(Output::Announce);
        }
    }

    /// A rival is heard: it is answered, and what the link has learned from it corrected.
    fn assert(&mut self, heard: Option<(usize, &Heard)>, now: Instant) {
        let (Some((_, heard)), Some(master)) = (heard, &mut self.master) else {
            return;
        };
        let is_new = !master.has_rival();
        let quiet = heard.interval.duration() * (INTERVALS + 1);
        let is_due = master.rival(heard.source, now + quiet, self.config.interval.duration(), now);
        if is_new {
            self.put(Output::Rival(Some(heard.source)));
        }
        if is_due {
            self.advertise_if_master(now);
            self.announce_anew(now);
        }
    }

    fn announce_anew(&mut self, now: Instant) {
        let announce = self.config.announce;
        let Some(master) = &mut self.master else {
            return;
        };
        master.begin_announcing(announce, now);
        if master.announces(announce, now) {
            self.put(Output::Announce);
        }
    }

    /// What a master does as time passes.
    pub(super) fn tend(&mut self, now: Instant) {
        if now >= self.safe_until() {
            // Nothing has left for so long that another may be master.
            self.step(Event::Late, Cause::Late, None, now);
            return;
        }
        let announce = self.config.announce;
        let Some(master) = &mut self.master else {
            return;
        };
        let (advertises, renews) = (now >= master.advert, now >= master.renew);
        let is_healed = master.rival_is_gone(now);
        if is_healed {
            master.begin_announcing(announce, now);
        }
        let announces = master.announces(announce, now);
        if advertises {
            self.advertise_if_master(now);
        } else if renews {
            self.outputs.push_back(Step::Renew);
        }
        if announces {
            self.put(Output::Announce);
        }
        if is_healed {
            self.put(Output::Rival(None));
        }
    }

    pub(super) fn advertise_if_master(&mut self, now: Instant) {
        let interval = self.config.interval.duration();
        if let Some(master) = &mut self.master {
            master.advert = now + interval;
            self.advertise(self.priority());
            self.outputs.push_back(Step::Renew);
        }
    }

    fn advertise(&mut self, priority: u8) {
        for router in 0..self.members.len() {
            self.put(Output::Advert { router, priority });
        }
    }

    pub(super) fn put(&mut self, output: Output) {
        self.outputs.push_back(Step::Output(output));
    }
}
