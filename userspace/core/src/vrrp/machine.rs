//! The machine of a group of virtual routers: who of several boxes answers (RFC 9568 section 6), and for how long.
//!
//! Owns the state, its timers, the lease, and when adverts and announcements are sent. Sans-IO: adverts that
//! [`super::accept`] let pass, faults, wishes and the clock go in, [`Output`]s come out. It is called when [`Machine::deadline`]
//! has come, with what has arrived meanwhile *before* [`Machine::handle_timeout`]; outputs are carried out one by one, and a
//! sent advert is told by [`Machine::sent`] before the next one is asked for.
//!
//! # What weir adds to the RFC
//! *Groups.* The routers of a group are master together. A group becomes master when the master of every router is silent,
//! and stops being it by a better one on any.
//!
//! *Eligible and preferred.* See [`super::demotion`]: from a box that is demoted more this one takes over within the skew,
//! whatever the preemption policy says, and the other answers until then.
//!
//! *The lease.* A master answers only as long as its lease says (the kernel's programs read it). The machine renews it as
//! long as it runs, never beyond three intervals from adverts that really were sent: others wait longer than that. So a
//! master that is stopped, starved or cannot send is silent before another takes over because of its silence. Who relieves a
//! master that lives (it is demoted, or preferred less) does not wait for that: the two overlap until the one hears the other,
//! so that nobody misses an answer; if one of two is stopped in that very moment, until its lease ends. And who yields to a better
//! one lingers: it goes on with what is under way until its lease ends, but no longer than [`LINGER`], while the link learns
//! where the addresses are now. It does not say any more that they are here, since they are given away before.
//!
//! *Sleep.* A box that wakes later than it wanted to by more than half an interval knows nothing of the meantime. As backup
//! it listens for an interval and its skew before it takes over; as master it steps back if another may have taken over.
//!
//! *Rivals.* A master that hears a lesser one answers at once, and announces its addresses anew, then and when the other has
//! fallen silent: what the link has learned may be wrong.

mod config;
mod master;
mod output;
mod react;
mod table;
mod times;

use std::{
    cmp::Ordering,
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

pub use self::{
    config::{Announce, Config, Preempt, Router, RouterKey},
    master::LINGER,
    output::{Cause, Change, Heard, Output},
    table::State,
};
use self::{
    master::{INTERVALS, Mastership},
    table::Event,
};
use super::{
    demotion::{announced, is_demoted},
    wire::priority::{LEAVING, OWNER},
};

/// One router, as far as the machine knows.
#[derive(Clone, Debug)]
struct Member {
    router: Router,
    is_usable: bool,
    /// How often its master sends.
    interval: Duration,
    /// Since when nothing was heard that is to be waited for.
    silent_since: Instant,
    /// Not to be waited for longer than this, as long as this box is more than a master of that priority.
    hurry: Option<(Instant, u8)>,
    /// Whom it waits for.
    master: Option<IpAddr>,
    /// When its last advert left, and the interval in it.
    sent: Option<(Instant, Duration)>,
}

/// A master that is less than this box, and eligible.
#[derive(Clone, Copy, Debug)]
struct Lesser {
    source: IpAddr,
    priority: u8,
    /// Since when it is known.
    since: Instant,
    /// Until when it counts as there.
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    members: Vec<Member>,
    state: State,
    since: Instant,
    started: bool,
    demotion: u32,
    master: Option<Mastership>,
    /// Nothing is taken before.
    listen_until: Option<Instant>,
    /// A master that is less than this box.
    lesser: Option<Lesser>,
    /// The last that was heard of a master.
    heard: Option<(IpAddr, u8)>,
    /// Why the wait is short.
    hurried_by: Option<Cause>,
    /// The latest that it was.
    now: Instant,
    outputs: VecDeque<Step>,
}

/// What is to be put out; a lease is made only when its turn has come.
#[derive(Debug)]
enum Step {
    Output(Output),
    Renew,
}

impl Machine {
    /// A machine that takes no part before [`Self::start`]. All routers count as usable.
    pub fn new(config: Config, now: Instant) -> Self {
        let members = config
            .routers
            .iter()
            .map(|router| member(router, &config, now))
            .collect();
        Self {
            config,
            members,
            state: State::Init,
            since: now,
            started: false,
            demotion: 0,
            master: None,
            listen_until: None,
            lesser: None,
            heard: None,
            hurried_by: None,
            now,
            outputs: VecDeque::with_capacity(64),
        }
    }

    /// Takes part from now on. `last_sent`: the process before this one was master, and its adverts that are the longest ago
    /// left then; if nobody can have taken over since, this one goes on as master. If it does not, whoever calls this shuts the
    /// lease that the one before may have left.
    pub fn start(&mut self, last_sent: Option<Instant>, now: Instant) {
        let now = self.wake(now);
        if self.started {
            return;
        }
        self.started = true;
        self.take_part(goes_on(last_sent, self.interval(), now), now);
    }

    /// A router can take part, or cannot: its link is down, or this box has no address there.
    pub fn set_usable(&mut self, router: usize, is_usable: bool, now: Instant) {
        let now = self.wake(now);
        let Some(member) = self.members.get_mut(router) else {
            return;
        };
        if std::mem::replace(&mut member.is_usable, is_usable) == is_usable {
            return;
        }
        if is_usable {
            self.take_part(false, now);
        } else {
            let key = member.router.key.clone();
            self.step(Event::Fault, Cause::Fault(key), None, now);
        }
    }

    /// How much speaks against this box. A master says so at once.
    pub fn set_demotion(&mut self, total: u32, now: Instant) {
        let now = self.wake(now);
        let before = self.priority();
        self.demotion = total;
        if self.priority() != before {
            self.lesser = None;
            self.advertise_if_master(now);
        }
    }

    /// Another configuration. Routers keep what is known of them by their keys; a state is kept.
    pub fn set_config(&mut self, config: Config, now: Instant) {
        let now = self.wake(now);
        let mut before = std::mem::take(&mut self.members);
        let same_keys = before.len() == config.routers.len();
        self.members = config
            .routers
            .iter()
            .map(|router| {
                let known = before.iter().position(|member| member.router.key == router.key);
                match known.map(|at| before.swap_remove(at)) {
                    Some(member) => Member {
                        router: router.clone(),
                        ..member
                    },
                    None => member(router, &config, now),
                }
            })
            .collect();
        let is_same = same_keys && before.is_empty();
        self.config = config;
        if self.state == State::Master {
            if !is_same {
                self.put(Output::Take);
            }
            self.advertise_if_master(now);
        }
        self.take_part(false, now);
    }

    /// Stops at once: a master says that it leaves. To hand over without a gap, demote first and wait for
    /// [`State::Backup`].
    pub fn stop(&mut self, now: Instant) {
        let now = self.wake(now);
        self.started = false;
        self.step(Event::Stop, Cause::Stopped, None, now);
    }

    /// Another process is about to go on with what this one is ([`Self::start`]). A master advertises once more, so that the other
    /// has as long as can be before somebody takes over.
    pub fn hand_on(&mut self, now: Instant) {
        let now = self.wake(now);
        self.advertise_if_master(now);
    }

    /// An advert came, and was let pass.
    pub fn handle_advert(&mut self, router: usize, heard: &Heard, now: Instant) {
        let now = self.wake(now);
        let Some(member) = self.members.get(router) else {
            return;
        };
        let (own, master) = (member.router.own, member.master);
        let event = self.classify(own, master, heard, now);
        let cause = match event {
            Event::Leaving => Cause::Left(heard.source),
            Event::Demoted => Cause::Demoted(heard.source),
            Event::Better
            | Event::Tolerated
            | Event::Worse
            | Event::Ready
            | Event::Claim
            | Event::Fault
            | Event::Stop
            | Event::Due
            | Event::Late => Cause::Better {
                source: heard.source,
                priority: heard.priority,
            },
        };
        if self.state == State::Backup {
            self.heard = Some((heard.source, heard.priority));
        }
        self.step(event, cause, Some((router, heard)), now);
    }

    /// Whether an advert left that was put out for this router, and when.
    pub fn sent(&mut self, router: usize, has_left: bool, now: Instant) {
        let interval = self.config.interval.duration();
        if let Some(member) = self.members.get_mut(router)
            && has_left
        {
            member.sent = Some((now, interval));
        }
    }

    /// Time has passed: call it when [`Self::deadline`] has come. Earlier or later does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.wake(now);
        match self.state {
            State::Init => {}
            State::Backup => {
                if now >= self.due() {
                    let is_hurried = self.members.iter().any(|member| self.hurry_of(member).is_some());
                    let hurried_by = self.hurried_by.clone().filter(|_| is_hurried);
                    let cause = hurried_by.unwrap_or_else(|| self.silence(now));
                    self.step(Event::Due, cause, None, now);
                }
            }
            State::Master => self.tend(now),
        }
    }

    /// When [`Self::handle_timeout`] wants to be called. `None`: not until something else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.state, &self.master) {
            (State::Init, _) => None,
            // Often enough to notice that the box slept.
            (State::Backup, _) => Some(self.due().min(self.now + self.interval())),
            (State::Master, Some(master)) => Some(master.next()),
            (State::Master, None) => Some(self.now),
        }
    }

    /// What is to be done next. To be carried out before it is asked again.
    pub fn poll_output(&mut self) -> Option<Output> {
        while let Some(step) = self.outputs.pop_front() {
            match step {
                // Nobody is called here before somebody answers.
                Step::Output(Output::Announce) if self.lease().is_none() => {}
                Step::Output(output) => return Some(output),
                Step::Renew => {
                    let sent = self.sent_everywhere();
                    let lease = self
                        .master
                        .as_mut()
                        .and_then(|master| master.renewed(&self.config, sent, self.now));
                    if let Some(until) = lease {
                        return Some(Output::Lease(until));
                    }
                }
            }
        }
        None
    }

    /// The state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Since when it lasts.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// The priority that this box announces, or would.
    pub const fn priority(&self) -> u8 {
        announced(self.config.priority, self.demotion)
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Who was heard last as master, and its priority. `None` while this box is master, and before any was heard.
    pub const fn heard(&self) -> Option<(IpAddr, u8)> {
        self.heard
    }

    /// Whether a rival is heard beside this box as master.
    pub fn has_rival(&self) -> bool {
        self.master.as_ref().is_some_and(Mastership::has_rival)
    }

    /// Until when the addresses are answered for, as it was last put out.
    pub fn lease(&self) -> Option<Instant> {
        self.master.as_ref().and_then(|master| master.lease)
    }

    /// When the adverts that are the longest ago were sent, over all routers, if this box is master: what
    /// [`Self::start`] of the next process wants to know.
    pub fn last_sent(&self) -> Option<Instant> {
        let sent = self.sent_everywhere().map(|(at, _)| at);
        sent.filter(|_| self.state == State::Master)
    }

    /// Takes note of the time, and of having slept. A clock that goes back stands still here.
    fn wake(&mut self, now: Instant) -> Instant {
        let wanted = self.deadline();
        let now = now.max(self.now);
        if let Some(wanted) = wanted
            && now > wanted + self.interval() / 2
        {
            self.put(Output::Late(now - wanted));
            let may_be_another = match self.state {
                State::Init => false,
                State::Backup => true,
                State::Master => now >= self.safe_until(),
            };
            if may_be_another {
                self.step(Event::Late, Cause::Late, None, now);
            }
        }
        self.now = now;
        now
    }

    /// What an advert means to this box, whose address is `own`, and which waits for `master`.
    fn classify(&mut self, own: IpAddr, master: Option<IpAddr>, heard: &Heard, now: Instant) -> Event {
        let ours = self.priority();
        // What a second master says of itself says nothing of the one that lives.
        let is_another = self.state == State::Backup && master.is_some_and(|master| master != heard.source);
        if heard.priority == LEAVING {
            return if is_another { Event::Worse } else { Event::Leaving };
        }
        let is_better = match (heard.priority.cmp(&ours), self.state) {
            (Ordering::Greater, State::Init | State::Backup | State::Master) => true,
            (Ordering::Less, State::Init | State::Backup | State::Master) => false,
            (Ordering::Equal, State::Init | State::Backup) => true,
            (Ordering::Equal, State::Master) => heard.source > own,
        };
        if is_better {
            self.lesser = None;
            return Event::Better;
        }
        if is_demoted(heard.priority) {
            return if is_another { Event::Worse } else { Event::Demoted };
        }
        let since = self.lesser.map_or(now, |before| before.since);
        self.lesser = Some(Lesser {
            source: heard.source,
            priority: heard.priority,
            since,
            until: heard.arrived + heard.interval.duration() * INTERVALS,
        });
        match self.config.preempt {
            Preempt::Never => Event::Tolerated,
            Preempt::Delayed(delay) if now - since < delay => Event::Tolerated,
            Preempt::Delayed(_) | Preempt::Always => Event::Worse,
        }
    }

    /// Takes part if nothing is against it (any more).
    fn take_part(&mut self, goes_on: bool, now: Instant) {
        if !self.started {
            return;
        }
        if let Some(member) = self.members.iter().find(|member| !member.is_usable) {
            let key = member.router.key.clone();
            self.step(Event::Fault, Cause::Fault(key), None, now);
            return;
        }
        let (event, cause) = if goes_on {
            (Event::Claim, Cause::Resumed)
        } else if self.priority() == OWNER {
            (Event::Claim, Cause::Owner)
        } else {
            (Event::Ready, Cause::Started)
        };
        self.step(event, cause, None, now);
    }
}

/// Whether a process after one that was master goes on as master, if its adverts that are the longest ago left then: nobody
/// can have taken over since.
pub fn goes_on(last_sent: Option<Instant>, interval: Duration, now: Instant) -> bool {
    last_sent.is_some_and(|at| now < at + interval * INTERVALS)
}

fn member(router: &Router, config: &Config, now: Instant) -> Member {
    Member {
        router: router.clone(),
        is_usable: true,
        interval: config.interval.duration(),
        silent_since: now,
        hurry: None,
        master: None,
        sent: None,
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
