//! Groups as they come, change and go.
//!
//! A group that changes goes on as what it is, on the links that it has. Addresses that it has no more are given first, and
//! new ones taken last. A group whose addresses the kernel's programs can't be told of takes no part: nothing would silence this
//! box when its lease ends.

use std::{collections::BTreeMap, time::Instant};

use weir_core::vrrp::{
    auth::Window,
    machine::{Machine, State},
};

use super::{AGAIN, Elsewhere, Group, Hands, Loop, Placed, Report, Reported, Running, Signing, Virtual};
use crate::vrrp::addresses::Held;

impl<H: Hands, R: Fn(Report)> Loop<H, R> {
    /// A group takes part from now on.
    pub(super) fn begin(&mut self, mut group: Group) {
        let now = Instant::now();
        let place = |mut it: Virtual| {
            let link = it.link.take()?;
            Some(Placed { link, it })
        };
        // Whoever has none on its link takes no part.
        let Some(routers) = group.routers.into_iter().map(place).collect::<Option<Vec<_>>>() else {
            return;
        };
        for (router, placed) in group.config.routers.iter_mut().zip(&routers) {
            router.own = placed.link.own();
        }
        let mut machine = Machine::new(group.config, now);
        machine.set_demotion(group.demotion, now);
        let (place, held) = (self.groups.len(), group.held.clone());
        self.groups.push(Running {
            id: group.id,
            usable: vec![true; routers.len()],
            routers,
            held: group.held,
            keeps: group.keeps,
            elsewhere: Elsewhere::Nobody,
            drains: None,
            signing: group.signing,
            window: Window::default(),
            machine,
            counts: group.counts,
            remembered: None,
            is_troubled: false,
            is_fenced: true,
        });
        self.fence(place, &held, group.last_sent);
        if self.state(place) != Some(State::Master) {
            // What a process before may have left.
            self.shut(place);
            self.leave(place);
        }
        self.carry_out(place);
    }

    /// There are other groups from now on, or they are otherwise.
    pub(super) fn configure(&mut self, groups: Vec<Group>) {
        for place in (0..self.groups.len()).rev() {
            let stays = |it: &Running| groups.iter().any(|group| group.id == it.id);
            if self.groups.get(place).is_some_and(|it| !stays(it)) {
                self.end(place);
            }
        }
        for group in groups {
            match self.place(group.id) {
                Some(place) => self.change(place, group),
                None => self.begin(group),
            }
        }
        self.note_known();
        self.look_at_links();
        self.hear();
    }

    /// A group goes on as what it is, by another configuration.
    fn change(&mut self, place: usize, mut group: Group) {
        self.change_addresses(place, &group.held);
        let Some(running) = self.groups.get_mut(place) else {
            return;
        };
        let now = Instant::now();
        let keys = { running.machine.config().routers.iter() }.map(|router| router.key.clone());
        let usable = std::mem::take(&mut running.usable);
        let mut before: BTreeMap<_, _> = keys
            .zip(std::mem::take(&mut running.routers).into_iter().zip(usable))
            .collect();
        let asked = group.routers.into_iter().zip(&mut group.config.routers);
        for (mut it, router) in asked {
            // Adverts wait in the sockets of a link that stays.
            let (kept, usable) = before
                .remove(&router.key)
                .map_or((None, true), |(placed, usable)| (Some(placed.link), usable));
            let Some(link) = it.link.take().or(kept) else {
                continue;
            };
            router.own = link.own();
            running.usable.push(usable);
            running.routers.push(Placed { link, it });
        }
        running.counts = group.counts;
        let kept = running.signing.as_ref().map(|signing| signing.sequence);
        running.signing = group.signing.map(|signing| Signing {
            sequence: match kept {
                Some(kept) if kept.last() > signing.sequence.last() => kept,
                Some(_) | None => signing.sequence,
            },
            ..signing
        });
        running.keeps = group.keeps;
        let is_same = running.held == group.held;
        running.held = group.held;
        running.machine.set_demotion(group.demotion, now);
        running.machine.set_config(group.config, now);
        if !is_same {
            if running.machine.state() == State::Master {
                self.take(place);
                self.announce(place);
            } else {
                self.leave(place);
            }
        }
        self.carry_out(place);
    }

    /// Gives what a group is to have no more, and has the kernel's programs know of the rest. A group that goes out for that does
    /// so as it was: by its old links and addresses.
    fn change_addresses(&mut self, place: usize, held: &[Held]) {
        let Some(running) = self.groups.get(place).filter(|running| running.held != held) else {
            return;
        };
        let is_gone = |it: &&Held| !held.iter().any(|now| now.is_at(it));
        let gone: Vec<_> = running.held.iter().filter(is_gone).cloned().collect();
        if !gone.is_empty() {
            let given = self.hands.give(running.id, &gone);
            self.told_addresses(place, given);
        }
        self.fence(place, held, None);
    }

    /// Has the kernel's programs hold this box to leases for these addresses of a group. Only then it takes part.
    pub(super) fn fence(&mut self, place: usize, held: &[Held], last_sent: Option<Instant>) {
        let Some(running) = self.groups.get_mut(place) else {
            return;
        };
        let (id, now) = (running.id, Instant::now());
        let fenced = self.hands.own(id, held);
        let was_fenced = std::mem::replace(&mut running.is_fenced, fenced.is_ok());
        if fenced.is_ok() {
            running.machine.start(last_sent, now);
        } else {
            running.machine.stop(now);
            self.check_within(AGAIN);
        }
        if fenced.is_ok() != was_fenced {
            (self.reports)(Report {
                group: id,
                what: Reported::Fenced(fenced),
            });
        }
        self.carry_out(place);
    }

    /// The same, for a group that could not be before.
    pub(super) fn fence_again(&mut self, place: usize) {
        if let Some(running) = self.groups.get(place).filter(|running| !running.is_fenced) {
            let held = running.held.clone();
            self.fence(place, &held, None);
        }
    }

    fn state(&self, place: usize) -> Option<State> {
        self.groups.get(place).map(|running| running.machine.state())
    }

    /// A group is no more.
    fn end(&mut self, place: usize) {
        if let Some(running) = self.groups.get_mut(place) {
            running.machine.stop(Instant::now());
        }
        self.carry_out(place);
        self.shut(place);
        self.give(place);
        if place < self.groups.len() {
            let gone = self.groups.remove(place);
            // Without addresses there is nothing that could be refused.
            let _ = self.hands.own(gone.id, &[]);
        }
    }

    pub(super) fn note_known(&mut self) {
        let all = self
            .groups
            .iter()
            .flat_map(|group| &group.machine.config().routers);
        self.known = all.map(|router| router.key.clone()).collect();
    }
}
