//! What speaks against this box as master, kept up; and what the thread tells, taken in and logged.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};
use weir_core::{
    health,
    ids::PoolName,
    plan::{DemoteOn, DemoteWhat, VrrpGroup},
    vrrp::{
        accept::Refused,
        auth::Unsigned,
        demotion::{Cause, Demotion, EXIT, FLOWS},
        machine::State,
        wire::{Checksum, Malformed},
    },
};
use weir_datapath::vrrp::{Links, Report, Reported};

use super::events::Event;
use crate::control::{kernel::Kernel, state::Control};

/// The same is said of adverts at most so often.
const QUIET: Duration = Duration::from_secs(60);

/// What was said of what others can bring about, by group and reason: when, and how often it came about since.
#[derive(Default)]
pub(super) struct Said(BTreeMap<(usize, &'static str), (Instant, u64)>);

impl Said {
    /// Whether to say it now, and how often it was not said since the last time.
    fn again(&mut self, group: usize, what: &'static str) -> Option<u64> {
        let now = Instant::now();
        match self.0.get_mut(&(group, what)) {
            Some((last, unsaid)) if now.saturating_duration_since(*last) < QUIET => {
                *unsaid += 1;
                None
            }
            Some((last, unsaid)) => {
                *last = now;
                Some(std::mem::take(unsaid))
            }
            None => {
                self.0.insert((group, what), (now, 0));
                Some(0)
            }
        }
    }
}

impl Control {
    /// Looks at links and files.
    pub(super) fn look_at_inputs(&mut self) {
        match Links::up() {
            Ok(up) => self.ha.up = up,
            // What they were counts.
            Err(error) => warn!(%error, "the links of this box can't be listed"),
        }
        let asked = { self.ha.groups.values() }.flat_map(|known| &known.plan.demote_on);
        let files = asked.filter_map(|on| match &on.what {
            DemoteWhat::File(path) => Some(Arc::clone(path)),
            DemoteWhat::Service(_) | DemoteWhat::Pool(_) | DemoteWhat::Link(_) => None,
        });
        self.ha.files = files.filter(|path| Path::new(&**path).exists()).collect();
    }

    /// Ends the time in which this box counts as starting, once everything is in place.
    pub(in crate::control) fn settle_ha(&mut self) {
        if self.ha.is_starting && self.ha.running.is_some() && self.ha.is_due() {
            self.follow_ha();
        }
    }

    /// Once a second.
    pub(in crate::control) fn watch_ha(&mut self) {
        if self.ha.running.is_some() {
            self.look_at_inputs();
            self.follow_ha();
        }
    }

    /// Has the groups follow what speaks against this box.
    pub(in crate::control) fn follow_ha(&mut self) {
        let Some(running) = &self.ha.running else {
            return;
        };
        if self.ha.is_starting && self.waiting_for().is_empty() {
            self.ha.is_starting = false;
            if let Err(error) = running.memory.ready() {
                warn!(%error, "the state of virtual routers can't be kept for a successor");
            }
        }
        self.ha.needs_flows &= self.ha.is_starting || self.lacks_flows();
        for (id, total) in self.weigh_ha() {
            if let Some(running) = &self.ha.running {
                running.driver.demote(id, total);
            }
        }
    }

    /// Weighs anew what speaks against this box. The groups for which that has changed, and how much it is.
    pub(super) fn weigh_ha(&mut self) -> Vec<(usize, u32)> {
        let weighed: Vec<_> = { self.ha.groups.values() }
            .map(|known| self.demotion(&known.plan, known.operator))
            .collect();
        let mut changed = Vec::new();
        for (known, demotion) in self.ha.groups.values_mut().zip(weighed) {
            if demotion == known.demotion {
                continue;
            }
            let (before, total) = (known.demotion.total(), demotion.total());
            let causes: Vec<_> = { demotion.shares() }
                .map(|(cause, share)| format!("{cause} ({share})"))
                .collect();
            info!(
                group = %known.plan.name,
                from = before,
                to = total,
                causes = causes.join(", "),
                "virtual routers: demotion"
            );
            known.demotion = demotion;
            changed.push((known.id, total));
        }
        changed
    }

    fn demotion(&self, group: &VrrpGroup, operator: u32) -> Demotion {
        let mut demotion = Demotion::NONE;
        if self.ha.is_starting {
            demotion.set(Cause::Starting, EXIT);
        }
        if self.ha.is_stopping {
            demotion.set(Cause::Stopping, EXIT);
        }
        if self.ha.needs_flows && self.lacks_flows() {
            demotion.set(Cause::Flows, FLOWS);
        }
        demotion.set(Cause::Operator, operator);
        for DemoteOn { what, by } in &group.demote_on {
            if self.is_against(what) {
                demotion.set(what.clone().into(), *by);
            }
        }
        demotion
    }

    /// Whether a peer may have flows that this box does not know of.
    fn lacks_flows(&self) -> bool {
        self.kernel.as_ref().is_some_and(Kernel::sync_unfinished)
    }

    fn is_against(&self, what: &DemoteWhat) -> bool {
        match what {
            DemoteWhat::Service(name) => {
                let service = self.loaded.plan.service(name);
                service.is_some_and(|service| {
                    let unknown = service.pools().into_iter().any(|pool| self.is_unchecked(pool));
                    !self.engine.serves(service) && !unknown
                })
            }
            DemoteWhat::Pool(name) => {
                let usable = self.engine.usable(name);
                let is_empty = usable.is_some_and(|all| all.iter().all(|backend| backend.weight == 0));
                is_empty && !self.is_unchecked(name)
            }
            DemoteWhat::Link(name) => !self.ha.up.contains(&**name),
            DemoteWhat::File(path) => self.ha.files.contains(path),
        }
    }

    /// Whether some backend of a pool was not checked yet: such as a reload has added, and nothing is known of.
    fn is_unchecked(&self, pool: &PoolName) -> bool {
        let mut pools = self.engine.pools();
        let view = pools.find(|view| view.pool.name == *pool);
        view.is_some_and(|view| {
            { view.backends.iter() }.any(|backend| backend.word.state == health::State::Pending)
        })
    }

    /// Takes in what has happened.
    pub(in crate::control) async fn hear_ha(&mut self, event: Event) {
        match event {
            Event::Links => {
                self.look_at_inputs();
                self.follow_ha();
            }
            Event::Report(report) => {
                if self.hear_report(report) {
                    self.export_or_tell().await;
                }
            }
            Event::Died => self.bury_ha().await,
            Event::Revive => self.revive_ha(),
        }
    }

    /// Takes in all that the thread has told.
    pub(super) async fn hear_all_of_ha(&mut self) {
        let mut is_other = false;
        while let Ok(report) = self.ha.reports.try_recv() {
            is_other |= self.hear_report(report);
        }
        if is_other {
            self.export_or_tell().await;
        }
    }

    /// Whether the box became master of a group, or is it no more.
    fn hear_report(&mut self, Report { group, what }: Report) -> bool {
        if what.is_provoked() {
            self.ha.provoked.fetch_sub(1, Ordering::Relaxed);
        }
        let said = &mut self.ha.said;
        // One that a reload has taken away meanwhile.
        let Some(known) = self.ha.groups.values_mut().find(|known| known.id == group) else {
            return false;
        };
        let name = &known.plan.name;
        match what {
            Reported::Changed(change) => {
                info!(
                    group = %name,
                    from = change.from.as_str(),
                    to = change.to.as_str(),
                    cause = %change.cause,
                    lasted = format!("{:.1}s", change.lasted.as_secs_f64()),
                    "virtual routers"
                );
                (known.state, known.since) = (change.to, Instant::now());
                known.cause = change.cause.to_string();
                let key = (change.to.as_str(), change.cause.word());
                *known.transitions.entry(key).or_default() += 1;
                return [change.from, change.to].contains(&State::Master);
            }
            Reported::Rival(Some(rival)) => {
                warn!(group = %name, %rival, "another box is master as well, and is answered");
                known.rival = Some(rival);
            }
            Reported::Rival(None) => {
                info!(group = %name, "no other box is master any more");
                known.rival = None;
            }
            Reported::Usable { router, is_usable } => {
                let router = known.plan.routers.get(router);
                let (id, interface) = router.map_or((0, ""), |router| (router.id.get(), &*router.interface));
                if is_usable {
                    info!(group = %name, vrid = id, interface, "this link can be used again");
                } else {
                    warn!(
                        group = %name,
                        vrid = id,
                        interface,
                        "this link can't be used: it is down, or the address that adverts come from is gone"
                    );
                }
            }
            Reported::Addresses(Ok(())) => {
                info!(group = %name, "addresses are as they should be again");
                known.trouble = None;
            }
            Reported::Addresses(Err(error)) => {
                error!(group = %name, %error, "addresses can't be kept as they should be; it is tried again");
                known.trouble = Some(error.to_string());
            }
            Reported::Fenced(Ok(())) => {
                info!(group = %name, "this box takes part in the group again");
                known.unfenced = None;
            }
            Reported::Fenced(Err(error)) => {
                error!(
                    group = %name,
                    %error,
                    "this box stays out of the group, since nothing would silence it when its lease ends; it is tried again every second"
                );
                known.unfenced = Some(format!("this box stays out of the group: {error}"));
            }
            Reported::Refused { source, reason } => {
                if let Some(unsaid) = said.again(group, reason.name()) {
                    let source = shown(source);
                    let hint = hint(reason);
                    warn!(group = %name, source, reason = reason.name(), unsaid, hint, "an advert is refused");
                }
            }
            Reported::Unsigned { source, reason } => {
                if let Some(unsaid) = said.again(group, reason.name()) {
                    let what = "an advert is taken that mode = \"enforce\" would refuse";
                    warn!(group = %name, %source, reason = reason.name(), unsaid, "{what}");
                }
            }
            Reported::OtherChecksum { source, checksum } => {
                if let Some(unsaid) = said.again(group, "other-checksum") {
                    let theirs = match checksum {
                        Checksum::Rfc9568 => "rfc9568",
                        Checksum::Rfc5798 => "rfc5798",
                    };
                    warn!(
                        group = %name,
                        %source,
                        unsaid,
                        "this box makes checksums of another kind, and may be refused for it; write checksum = \"{theirs}\""
                    );
                }
            }
            Reported::NotSent { router, cause } => {
                if let Some(unsaid) = said.again(group, "not-sent") {
                    let router = known.plan.routers.get(router);
                    let interface = router.map_or("", |router| &*router.interface);
                    warn!(group = %name, interface, error = %cause, unsaid, "an advert or announcement did not leave");
                }
            }
            Reported::Late(by) => {
                if let Some(unsaid) = said.again(group, "late") {
                    warn!(
                        group = %name,
                        late_ms = by.as_millis(),
                        unsaid,
                        "the thread of virtual routers was late; the box is too busy, or slept"
                    );
                }
            }
        }
        false
    }
}

fn shown(source: Option<IpAddr>) -> String {
    source.map_or_else(|| "?".into(), |source| source.to_string())
}

/// What an operator can do about adverts that are refused.
const fn hint(reason: Refused) -> &'static str {
    match reason {
        Refused::OtherAddresses => {
            "write the same addresses into the group on all boxes, and reload all of them"
        }
        Refused::UnknownVrid => "another pair on this link, or the id is not the same on all boxes",
        Refused::OwnAddress => "another box has this box's own address",
        Refused::Destination => "write peers on all boxes of the group, or on none",
        Refused::Stranger => "add the box to peers, if it is one of this group's",
        Refused::OldVersion => "have it send version 3, or write version2 = true while it is being replaced",
        Refused::Password => "write its password into version2",
        Refused::OtherInterval => "write the interval that it has",
        Refused::Unsigned(Unsigned::Missing | Unsigned::Key) => {
            "have all boxes have the same keys; mode = \"permissive\" takes such adverts meanwhile"
        }
        Refused::Unsigned(Unsigned::Wrong) => "the key files of the boxes differ, or somebody forges adverts",
        Refused::Unsigned(Unsigned::Replayed) => {
            "somebody plays recorded adverts, or a clock was set back while its box restarted"
        }
        Refused::Malformed(Malformed::Hops) => {
            "it was not sent on this link, or its sender does not set the TTL (keepalived with peers over IPv6)"
        }
        Refused::Malformed(_) => "capture it: tcpdump -n 'ip proto 112 or ip6 proto 112'",
    }
}
