//! What operators are shown of virtual routers, and what they may say of them.

use std::time::Instant;

use tracing::{info, warn};
use weir_core::{
    plan::{VirtualRouter, VrrpGroup},
    vrrp::{Family, auth::Mode, demotion::Cause, machine::Preempt},
};
use weir_datapath::vrrp::{Seen, shown};

use super::{Known, PATIENCE};
use crate::{
    admin::{
        api::{Answer, Demoted, Ha, HaGroup, HaPeer, HaRouter, HaShare, HaShareOf},
        metrics::Vrrp,
    },
    control::state::Control,
};

impl Control {
    /// Asks the thread how the groups are.
    pub(in crate::control) async fn look_at_ha(&mut self) {
        let Some(running) = &self.ha.running else {
            self.ha.seen.clear();
            return;
        };
        if self.ha.deaths.is_dead() {
            return;
        }
        match tokio::time::timeout(PATIENCE, running.driver.look()).await {
            Ok(Ok(seen)) => {
                self.ha.seen = seen;
                // What has led to it was told before.
                self.hear_all_of_ha().await;
            }
            Ok(Err(_)) | Err(_) => warn!("the thread of virtual routers does not answer"),
        }
    }

    /// As of [`Self::look_at_ha`].
    pub(in crate::control) fn ha(&self) -> Ha {
        let running = self.ha.running.as_ref();
        Ha {
            not_real_time: running
                .and_then(|running| running.driver.is_real_time().err().map(ToString::to_string)),
            groups: self.ha_groups(),
        }
    }

    pub(in crate::control) fn ha_groups(&self) -> Vec<HaGroup> {
        // In order of the file.
        let known = { self.loaded.plan.vrrp.iter() }.filter_map(|group| self.ha.groups.get(&group.name));
        known.map(|known| self.ha_group(known)).collect()
    }

    fn ha_group(&self, known: &Known) -> HaGroup {
        let seen = self.ha.seen.iter().find(|seen| seen.group == known.id);
        let plan = &known.plan;
        let state = seen.map_or(known.state, |seen| seen.state);
        let since = seen.map_or(known.since, |seen| seen.since);
        HaGroup {
            name: plan.name.to_string(),
            state: state.as_str().to_owned(),
            since_seconds: Instant::now().saturating_duration_since(since).as_secs(),
            cause: known.cause.clone(),
            changes: known.transitions.values().sum(),
            priority: plan.priority,
            announced: seen.map_or(0, |seen| seen.priority),
            interval_ms: u64::from(plan.interval.get()) * 10,
            preempt: match plan.preempt {
                Preempt::Never => "never".to_owned(),
                Preempt::Always => "always".to_owned(),
                Preempt::Delayed(delay) => format!("delayed by {}ms", delay.as_millis()),
            },
            lease_ms: u64::try_from(plan.lease.as_millis()).unwrap_or(u64::MAX),
            signatures: match &plan.authentication {
                None => "none",
                Some(authentication) => match authentication.mode {
                    Mode::Enforce => "enforce",
                    Mode::Permissive => "permissive",
                },
            }
            .to_owned(),
            demotion: known.demotion.total(),
            shares: { known.demotion.shares() }
                .map(|(cause, share)| HaShare {
                    cause: cause.to_string(),
                    share,
                })
                .collect(),
            master: seen
                .and_then(|seen| seen.heard)
                .map(|(address, priority)| HaPeer {
                    address: address.to_string(),
                    priority,
                }),
            rival: known.rival.map(|rival| rival.to_string()),
            trouble: known.unfenced.clone().or_else(|| known.trouble.clone()),
            routers: routers(plan, seen),
            services: { self.loaded.plan.services_of(plan) }
                .map(ToString::to_string)
                .collect(),
            share_of: plan.share.as_ref().map(|share| HaShareOf {
                section: share.of.to_string(),
                number: share.index + 1,
                count: share.count,
            }),
        }
    }

    /// Sets what an operator holds against this box as master of a group; 0 takes it back.
    pub(in crate::control) fn demote(&mut self, group: &str, by: u32) -> Answer {
        let Some(running) = &self.ha.running else {
            return Answer::error("there are no virtual routers; write [vrrp.NAME] into the configuration");
        };
        let is_meant = |known: &&mut Known| known.is_called(group);
        let mut from = None;
        for known in self.ha.groups.values_mut().filter(is_meant) {
            let before = std::mem::replace(&mut known.operator, by);
            from = from.max(Some(before));
            if let Err(error) = running.memory.operator(known.id, by) {
                warn!(%error, "the operator's demotion can't be kept for a successor");
            }
            info!(group = %known.plan.name, from = before, to = by, "virtual routers: demotion by an operator");
        }
        let Some(from) = from else {
            return Answer::error(format!("there is no group {group}; `weir ha` shows them"));
        };
        self.follow_ha();
        let meant = self.ha.groups.values_mut().filter(is_meant);
        let total = meant.map(|known| known.demotion.total()).max().unwrap_or(0);
        Answer::result(&Demoted {
            group: group.to_owned(),
            from,
            to: by,
            total,
        })
    }

    /// How often the thread has died.
    pub(in crate::control) const fn ha_deaths(&self) -> u64 {
        self.ha.deaths.count()
    }

    /// What metrics show beside the groups.
    pub(in crate::control) fn ha_counts(&self) -> Vec<Vrrp> {
        let known = { self.loaded.plan.vrrp.iter() }.filter_map(|group| self.ha.groups.get(&group.name));
        known
            .map(|known| Vrrp {
                group: known.plan.name.to_string(),
                transitions: { known.transitions.iter() }
                    .map(|((to, cause), count)| (*to, *cause, *count))
                    .collect(),
                shares: shares(known),
                counted: known.counts.read(),
            })
            .collect()
    }
}

/// Every cause that there may be, with what it adds now.
fn shares(known: &Known) -> Vec<(String, u32)> {
    let possible = known.plan.demote_on.iter().map(|on| Cause::from(on.what.clone()));
    let all = [Cause::Starting, Cause::Stopping, Cause::Flows, Cause::Operator]
        .into_iter()
        .chain(possible);
    all.map(|cause| {
        let share = { known.demotion.shares() }.find(|(it, _)| **it == cause);
        (cause.name(), share.map_or(0, |(_, share)| share))
    })
    .collect()
}

fn routers(plan: &VrrpGroup, seen: Option<&Seen>) -> Vec<HaRouter> {
    let router = |(place, router): (usize, &VirtualRouter)| {
        let found = seen.and_then(|seen| seen.routers.get(place));
        HaRouter {
            id: router.id.get(),
            interface: router.interface.to_string(),
            family: match router.family() {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            }
            .to_owned(),
            addresses: { router.addresses.iter() }
                .map(|(address, prefix)| format!("{address}/{prefix}"))
                .collect(),
            mac: plan.mac_of(router).map(shown),
            own: found.map(|(_, own)| own.to_string()),
            peers: router.peers.iter().map(ToString::to_string).collect(),
            usable: found.is_some_and(|(usable, _)| *usable),
        }
    };
    plan.routers.iter().enumerate().map(router).collect()
}
