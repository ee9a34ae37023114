//! The thread's side of the driver. What becomes of groups as they come, change and go is
//! `run/regroup.rs`; what the kernel's programs hand out comes in by `run/handed.rs`.

mod handed;
mod regroup;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{eventfd::EventFd, time::TimeSpec},
};
use weir_core::vrrp::{
    accept::{Refused, Rules, Senders, Signatures, judge},
    announce,
    auth::{Keys, Signer, Window},
    machine::{Cause, Change, Heard, Machine, Output, RouterKey, State},
    wire::{self, Ends, Message},
};

use super::{Counts, Elsewhere, Group, Hands, Order, Report, Reported, Seen, Signing, Virtual};
use crate::{
    vips::VipError,
    vrrp::{addresses::Held, link::Link, ring::Ring, watch::Watch},
};

/// An advert with 255 addresses of IPv6 and its signature, in its packet.
const LONGEST: usize = 4_352;
/// Packets of one link that are taken before the next one's turn.
const TURN: usize = 64;
/// Addresses are compared that long after something about them has changed: one look for many changes.
const SETTLE: Duration = Duration::from_millis(50);
/// Connections of a box that has handed over are not reset for that long: it may be draining them.
const DRAIN: Duration = Duration::from_secs(60);
/// What could not be done is tried again after that long.
const AGAIN: Duration = Duration::from_secs(1);

/// A router on its link.
struct Placed {
    link: Link,
    it: Virtual,
}

/// A group, while it runs.
struct Running {
    id: usize,
    routers: Vec<Placed>,
    held: Vec<Held>,
    keeps: bool,
    /// As it was told last.
    elsewhere: Elsewhere,
    /// Until when the box that was master before may have connections.
    drains: Option<Instant>,
    /// Whether each router's link can be used.
    usable: Vec<bool>,
    signing: Option<Signing>,
    window: Window,
    machine: Machine,
    counts: Arc<Counts>,
    /// What the next process was told last.
    remembered: Option<Instant>,
    /// Whether the last change of addresses failed.
    is_troubled: bool,
    /// Whether the kernel's programs hold this box to the group's leases. If not it takes no part.
    is_fenced: bool,
}

pub(super) struct Loop<H, R> {
    groups: Vec<Running>,
    /// All routers of all groups.
    known: BTreeSet<RouterKey>,
    watch: Watch,
    adverts: Option<Ring>,
    /// When addresses are to be compared.
    check: Option<Instant>,
    hands: H,
    reports: R,
    buffer: Vec<u8>,
    advert: Vec<u8>,
}

impl<H: Hands, R: Fn(Report)> Loop<H, R> {
    pub(super) fn new(groups: Vec<Group>, hands: H, reports: R, watch: Watch, adverts: Option<Ring>) -> Self {
        let mut it = Self {
            known: BTreeSet::new(),
            watch,
            adverts,
            check: None,
            groups: Vec::with_capacity(groups.len()),
            hands,
            reports,
            buffer: vec![0; LONGEST],
            advert: Vec::with_capacity(LONGEST),
        };
        for group in groups {
            it.begin(group);
        }
        it.note_known();
        it.look_at_links();
        it.hear();
        it
    }

    pub(super) fn run(&mut self, inbox: &Receiver<Order>, bell: &EventFd) {
        loop {
            // What has arrived counts before the time does: a thread that was late hears first what it missed.
            self.receive();
            if self.watch.has_news() {
                self.look_at_links();
                self.check_within(SETTLE);
            }
            loop {
                match inbox.try_recv() {
                    Ok(Order::Demote { group, total }) => {
                        if let Some(place) = self.place(group) {
                            self.demote(place, total);
                        }
                    }
                    Ok(Order::Configure { groups, done }) => {
                        self.configure(groups);
                        // Who asked may have gone away.
                        let _ = done.send(());
                    }
                    Ok(Order::Check) => self.check_within(Duration::ZERO),
                    Ok(Order::Look(answer)) => {
                        let _ = answer.send(self.groups.iter().map(Running::seen).collect());
                    }
                    Ok(Order::Leave(left)) => {
                        self.hand_on();
                        // Who asked has died, if nobody listens.
                        let _ = left.send(());
                        return;
                    }
                    Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return self.stop(),
                    Err(TryRecvError::Empty) => break,
                }
            }
            for group in 0..self.groups.len() {
                if let Some(running) = self.groups.get_mut(group) {
                    running.machine.handle_timeout(Instant::now());
                }
                self.carry_out(group);
            }
            if self.check.is_some_and(|due| due <= Instant::now()) {
                self.check = None;
                self.check_addresses();
            }
            self.wait(bell);
        }
    }

    fn hand_on(&mut self) {
        // The next process says anew which adverts it is to be handed.
        self.adverts = None;
        for place in 0..self.groups.len() {
            if let Some(running) = self.groups.get_mut(place) {
                running.machine.hand_on(Instant::now());
            }
            self.carry_out(place);
        }
    }

    fn stop(&mut self) {
        for place in 0..self.groups.len() {
            if let Some(running) = self.groups.get_mut(place) {
                running.machine.stop(Instant::now());
            }
            self.carry_out(place);
            // Whatever the state was: nothing is to stay.
            self.shut(place);
            self.give(place);
        }
    }

    fn place(&self, id: usize) -> Option<usize> {
        self.groups.iter().position(|group| group.id == id)
    }

    fn demote(&mut self, place: usize, total: u32) {
        if let Some(running) = self.groups.get_mut(place) {
            running.machine.set_demotion(total, Instant::now());
        }
        self.carry_out(place);
    }

    /// Until something arrives, is ordered or due.
    fn wait(&self, bell: &EventFd) {
        let links = self.groups.iter().flat_map(|group| &group.routers);
        let mut waited: Vec<_> = links
            .map(|router| PollFd::new(router.link.as_fd(), PollFlags::POLLIN))
            .collect();
        waited.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
        waited.push(PollFd::new(self.watch.as_fd(), PollFlags::POLLIN));
        if let Some(adverts) = &self.adverts {
            waited.push(PollFd::new(adverts.as_fd(), PollFlags::POLLIN));
        }
        let due = self
            .groups
            .iter()
            .filter_map(|group| group.machine.deadline())
            .chain(self.check)
            .min();
        let time = due.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        // Whatever woke it, or failed: all is looked at anyway.
        let _ = ppoll(&mut waited, time, None);
        let _ = bell.read();
    }

    fn check_within(&mut self, time: Duration) {
        let due = Instant::now() + time;
        self.check = Some(self.check.map_or(due, |before| before.min(due)));
    }

    /// Sees to it that masters have their addresses, and the others have not.
    fn check_addresses(&mut self) {
        for place in 0..self.groups.len() {
            self.fence_again(place);
            match self.groups.get(place).map(|group| group.machine.state()) {
                Some(State::Master) => self.take(place),
                Some(State::Backup | State::Init) => self.leave(place),
                None => {}
            }
        }
    }

    /// Whether the links of all routers can be used, now that something has changed.
    fn look_at_links(&mut self) {
        let mut is_other = false;
        for group in 0..self.groups.len() {
            let Some(running) = self.groups.get_mut(group) else {
                return;
            };
            let id = running.id;
            let mut is_new = false;
            let routers = running.routers.iter_mut().zip(&mut running.usable).enumerate();
            for (router, (it, before)) in routers {
                let mut is_usable = it.link.is_usable();
                // One that has vanished may be back, as another.
                if !is_usable && let Ok(link) = it.link.reopen() {
                    is_usable = link.is_usable();
                    is_new |= link.index() != it.link.index();
                    it.link = link;
                }
                if std::mem::replace(before, is_usable) != is_usable {
                    running.machine.set_usable(router, is_usable, Instant::now());
                    let what = Reported::Usable { router, is_usable };
                    (self.reports)(Report { group: id, what });
                }
            }
            if is_new {
                // Its link address, and what goes by its number.
                let held = running.held.clone();
                self.fence(group, &held, None);
            }
            is_other |= is_new;
            self.carry_out(group);
        }
        if is_other {
            self.hear();
        }
    }

    fn receive(&mut self) {
        self.receive_handed_out();
        for group in 0..self.groups.len() {
            let routers = self.groups.get(group).map_or(0, |group| group.routers.len());
            for router in 0..routers {
                for _ in 0..TURN {
                    if !self.receive_one(group, router) {
                        break;
                    }
                }
            }
        }
    }

    /// Takes one packet of a link. Whether there was one.
    fn receive_one(&mut self, group: usize, router: usize) -> bool {
        let Some(it) = self.groups.get(group).and_then(|group| group.routers.get(router)) else {
            return false;
        };
        // A link that is down says so once; what is lost meanwhile is lost.
        let Ok(Some((len, arrived))) = it.link.receive(&mut self.buffer) else {
            return false;
        };
        self.consider(group, router, len, arrived);
        true
    }

    /// Judges the packet in the buffer, which a router has received.
    fn consider(&mut self, group: usize, router: usize, len: usize, arrived: Instant) {
        let Some(running) = self.groups.get_mut(group) else {
            return;
        };
        let Some(it) = running.routers.get(router) else {
            return;
        };
        let bytes = self.buffer.get(..len).unwrap_or_default();
        let (id, counts) = (running.id, &running.counts);
        let told = |what| (self.reports)(Report { group: id, what });
        let refused = |source, reason| {
            counts.refused(reason);
            told(Reported::Refused { source, reason });
        };
        let packet = match wire::packet(bytes) {
            Ok(packet) => packet,
            Err(reason) => {
                refused(None, reason.into());
                return;
            }
        };
        let source = packet.ends.source();
        let advert = match wire::read(&packet) {
            Ok(advert) => advert,
            Err(reason) => {
                refused(Some(source), reason.into());
                return;
            }
        };
        let Some(config) = running.machine.config().routers.get(router) else {
            return;
        };
        if advert.vrid != config.key.vrid {
            // Each of several routers on a link hears all; the first one speaks for them.
            let on_link =
                |key: &&RouterKey| key.interface == config.key.interface && key.family == config.key.family;
            let mut others = self.known.iter().filter(on_link);
            let speaks = others.clone().next() == Some(&config.key);
            if speaks && !others.any(|key| key.vrid == advert.vrid) {
                refused(Some(source), Refused::UnknownVrid);
            }
            return;
        }
        let rules = Rules {
            own: it.link.own(),
            addresses: &it.it.addresses,
            interval: running.machine.config().interval,
            senders: if it.it.peers.is_empty() {
                Senders::Group
            } else {
                Senders::Peers(&it.it.peers)
            },
            v2: it.it.v2,
        };
        let signatures = running.signing.as_ref().map(|signing| Signatures {
            keys: &*signing.keys,
            mode: signing.mode,
            window: &mut running.window,
        });
        match judge(&rules, &packet.ends, &advert, signatures) {
            Ok(None) => {}
            Ok(Some(reason)) => {
                counts.unsigned(reason);
                told(Reported::Unsigned { source, reason });
            }
            Err(reason) => {
                refused(Some(source), reason);
                return;
            }
        }
        if advert.checksum != it.it.checksum
            && packet.ends.source().is_ipv4()
            && advert.version == wire::Version::V3
        {
            told(Reported::OtherChecksum {
                source,
                checksum: advert.checksum,
            });
        }
        counts.taken();
        let heard = Heard {
            source,
            priority: advert.priority,
            interval: advert.interval,
            arrived,
        };
        running.machine.handle_advert(router, &heard, Instant::now());
        self.carry_out(group);
    }

    fn carry_out(&mut self, group: usize) {
        let Some(running) = self.groups.get_mut(group) else {
            return;
        };
        let id = running.id;
        while let Some(running) = self.groups.get_mut(group)
            && let Some(output) = running.machine.poll_output()
        {
            let told = |what| (self.reports)(Report { group: id, what });
            match output {
                Output::Shut => self.hands.lease(id, None),
                Output::Lease(until) | Output::Linger(until) => self.hands.lease(id, Some(until)),
                Output::Take => self.take(group),
                Output::Give => self.leave(group),
                Output::Advert { router, priority } => {
                    let sent = running.send(router, priority, &mut self.advert);
                    running.machine.sent(router, sent.is_ok(), Instant::now());
                    if let Err(cause) = sent {
                        running.counts.unsent();
                        told(Reported::NotSent { router, cause });
                    }
                }
                Output::Announce => self.announce(group),
                Output::Changed(change) => {
                    running.notice_hand_over(&change);
                    told(Reported::Changed(change));
                }
                Output::Rival(rival) => told(Reported::Rival(rival)),
                Output::Late(by) => {
                    running.counts.late(by);
                    told(Reported::Late(by));
                }
            }
        }
        let Some(running) = self.groups.get_mut(group) else {
            return;
        };
        if let Some(elsewhere) = running.elsewhere_now() {
            self.hands.elsewhere(id, elsewhere);
        }
        let last_sent = running.machine.last_sent();
        if last_sent != running.remembered {
            running.remembered = last_sent;
            let sequence = { running.signing.as_ref() }.map_or(0, |signing| signing.sequence.last());
            self.hands.remember(id, last_sent, sequence);
        }
    }

    fn announce(&mut self, place: usize) {
        let Some(running) = self.groups.get(place) else {
            return;
        };
        for (router, Placed { link, it }) in running.routers.iter().enumerate() {
            for ip in &it.addresses {
                let (mac, source) = match it.mac {
                    None => (link.mac(), link.mac()),
                    Some((mac, true)) => (mac, mac),
                    Some((mac, false)) => (mac, link.mac()),
                };
                let frame = announce::frame(source, mac, *ip, it.is_router);
                if let Err(cause) = link.announce(&frame) {
                    running.counts.unsent();
                    let what = Reported::NotSent { router, cause };
                    (self.reports)(Report {
                        group: running.id,
                        what,
                    });
                }
            }
        }
    }

    fn shut(&mut self, place: usize) {
        if let Some(running) = self.groups.get(place) {
            self.hands.lease(running.id, None);
        }
    }

    fn take(&mut self, place: usize) {
        if let Some(running) = self.groups.get(place) {
            let taken = self.hands.take(running.id, &running.held);
            self.told_addresses(place, taken);
        }
    }

    /// Of a group that is not master: whether the box has its addresses nevertheless.
    fn leave(&mut self, place: usize) {
        if self.groups.get(place).is_some_and(|group| group.keeps) {
            self.take(place);
        } else {
            self.give(place);
        }
    }

    fn give(&mut self, place: usize) {
        if let Some(running) = self.groups.get(place) {
            let given = self.hands.give(running.id, &running.held);
            self.told_addresses(place, given);
        }
    }

    /// Says so when a change of addresses fails, and when it does no more.
    fn told_addresses(&mut self, place: usize, done: Result<(), VipError>) {
        let Some(running) = self.groups.get_mut(place) else {
            return;
        };
        let was_troubled = std::mem::replace(&mut running.is_troubled, done.is_err());
        let (id, failed) = (running.id, done.is_err());
        if failed != was_troubled {
            let what = Reported::Addresses(done);
            (self.reports)(Report { group: id, what });
        }
        if failed {
            self.check_within(AGAIN);
        }
    }
}

impl Running {
    /// Who hands over while it lives may have connections still; who falls silent has none.
    fn notice_hand_over(&mut self, change: &Change) {
        if !self.keeps || change.to != State::Master {
            return;
        }
        self.drains = match change.cause {
            Cause::Demoted(_) | Cause::Preempts { .. } => Some(Instant::now() + DRAIN),
            Cause::Started
            | Cause::Owner
            | Cause::Resumed
            | Cause::Silence
            | Cause::Left(_)
            | Cause::Better { .. }
            | Cause::Fault(_)
            | Cause::Stopped
            | Cause::Late => None,
        };
    }

    /// Whether another box counts as one that may have connections, if that is to be told.
    fn elsewhere_now(&mut self) -> Option<Elsewhere> {
        let now = match (self.machine.state(), self.machine.heard(), self.drains) {
            (State::Backup, Some(_), _) => Elsewhere::Master,
            (State::Master, _, Some(until)) => Elsewhere::Until(until),
            (State::Init | State::Backup | State::Master, _, _) => Elsewhere::Nobody,
        };
        let is_other = self.keeps && now != self.elsewhere;
        self.elsewhere = now;
        is_other.then_some(now)
    }

    fn seen(&self) -> Seen {
        Seen {
            group: self.id,
            state: self.machine.state(),
            since: self.machine.since(),
            priority: self.machine.priority(),
            heard: self.machine.heard(),
            has_rival: self.machine.has_rival(),
            lease: self.machine.lease(),
            routers: { self.routers.iter().zip(&self.usable) }
                .map(|(router, usable)| (*usable, router.link.own()))
                .collect(),
        }
    }

    /// Sends an advert of one router, to the group or to every peer. That it left for one of them is enough for the others
    /// to be told of a failure, not for the lease.
    fn send(&mut self, router: usize, priority: u8, advert: &mut Vec<u8>) -> io::Result<()> {
        let gone = || io::Error::other("no such router");
        let Placed { link, it } = self.routers.get(router).ok_or_else(gone)?;
        let config = self.machine.config();
        let key = &config.routers.get(router).ok_or_else(gone)?.key;
        let message = Message {
            vrid: key.vrid,
            priority,
            interval: config.interval,
            addresses: &it.addresses,
            checksum: it.checksum,
        };
        let group = [key.family.group()];
        let receivers: &[IpAddr] = if it.peers.is_empty() { &group } else { &it.peers };
        let mut sent = Ok(());
        for to in receivers {
            let ends = Ends::new(link.own(), *to).ok_or_else(gone)?;
            let signer = self.signing.as_mut().map(|signing| {
                let sequence = signing.sequence.next();
                let signer = Signer {
                    key: signing.key,
                    sequence,
                };
                (signer, &*signing.keys as &dyn Keys)
            });
            wire::write(advert, &message, &ends, signer).map_err(io::Error::other)?;
            // One that does not get it may take over: that is what the lease is for.
            match link.send(advert, *to) {
                Ok(()) => self.counts.sent(),
                Err(cause) => sent = Err(cause),
            }
        }
        sent
    }
}
