//! Protection, as control sees it: the lists at run time, and the switch of SYN cookies.
//!
//! The programs do the work. Owned here: what operators may list, and when a flood has begun and ended ([`Flood`]).

use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use weir_core::plan::IpNet;
use weir_datapath::{Origin, Rule};

use super::{kernel::Kernel, state::Control};
use crate::admin::api::{Answer, ListChange, Listed, Lists};

/// How often SYNs are counted.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// A flood has ended when there were few SYNs for so long.
const CALM: Duration = Duration::from_secs(10);
/// What [`Rule`] and the answer say of a network that nobody lists.
const NONE: &str = "none";

/// Whether there is a flood of SYNs. It begins in a second with more of them on some CPU than the rate allows, and ends
/// after [`CALM`] with less than half of that.
#[derive(Debug, Default)]
pub(super) struct Flood {
    on: bool,
    /// What the CPUs had counted, and when.
    before: Option<(Instant, Vec<u64>)>,
    calm_since: Option<Instant>,
}

impl Flood {
    /// `on`: a predecessor saw one.
    pub(super) fn new(on: bool) -> Self {
        Self {
            on,
            ..Self::default()
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes in what the CPUs have counted. `rate`: SYNs per CPU and second; 0: there is no flood.
    fn observe(&mut self, now: Instant, counts: Vec<u64>, rate: u32) {
        let Some((then, before)) = self.before.replace((now, counts.clone())) else {
            return;
        };
        let millis = now.saturating_duration_since(then).as_millis().max(1);
        let most = counts.iter().zip(before);
        let most = most.map(|(count, before)| u128::from(count.saturating_sub(before)) * 1000 / millis);
        let most = most.max().unwrap_or(0);
        if rate == 0 {
            self.on = false;
        } else if most > u128::from(rate) {
            self.on = true;
        }
        if !self.on || most > u128::from(rate / 2) {
            self.calm_since = None;
        } else if now.saturating_duration_since(*self.calm_since.get_or_insert(now)) >= CALM {
            self.on = false;
            self.calm_since = None;
        }
    }
}

impl Control {
    /// Each second: has SYNs to the relay answered by cookies while there is a flood of them.
    pub(super) fn watch_syns(&mut self) {
        let rate = self.loaded.source.tunables.values().l4_syncookies_rate;
        let Some(kernel) = &mut self.kernel else { return };
        let counts = match kernel.relay_syns() {
            Ok(counts) => counts,
            Err(error) => return warn!(%error, "SYNs can't be counted"),
        };
        let before = kernel.flood.is_on();
        kernel.flood.observe(Instant::now(), counts, rate);
        let on = kernel.flood.is_on();
        if on == before {
            return;
        }
        if let Err(error) = kernel.set_syncookies(on) {
            // Tried anew in the next second.
            kernel.flood.on = before;
            error!(error = format!("{error:#}"), on, "SYN cookies can't be switched");
        } else if on {
            warn!(rate, "a flood of SYNs to the relay: they are answered by cookies");
        } else {
            info!("the flood of SYNs has ended: no more cookies");
        }
    }

    /// `weir ban`, `weir allow`
    pub(super) fn list(&mut self, networks: &[String], rule: Rule, seconds: Option<u64>) -> Answer {
        let change = |kernel: &mut Kernel, nets: &[IpNet]| {
            let time = seconds.map(Duration::from_secs);
            kernel.list(nets, rule, time)
        };
        if seconds == Some(0) {
            return Answer::error("a network is listed for 1 second at least");
        }
        self.change_lists(networks, word(rule), seconds, change)
    }

    /// `weir unlist`
    pub(super) fn unlist(&mut self, networks: &[String]) -> Answer {
        self.change_lists(networks, NONE, None, |kernel, nets| {
            nets.iter().try_for_each(|net| kernel.unlist(net))
        })
    }

    fn change_lists(
        &mut self,
        networks: &[String],
        rule: &str,
        seconds: Option<u64>,
        change: impl FnOnce(&mut Kernel, &[IpNet]) -> anyhow::Result<()>,
    ) -> Answer {
        let Some(kernel) = &mut self.kernel else {
            return no_xdp();
        };
        let nets: Result<Vec<_>, _> = networks
            .iter()
            .map(|text| weir_config::args::network(text))
            .collect();
        let nets = match nets {
            Ok(nets) if nets.is_empty() => return Answer::error("no network is named"),
            Ok(nets) => nets,
            Err(error) => return Answer::error(error),
        };
        if let Err(error) = change(kernel, &nets) {
            return Answer::error(format!("{error:#}"));
        }
        let networks: Vec<_> = nets.iter().map(ToString::to_string).collect();
        info!(
            networks = networks.join(" "),
            rule, seconds, "lists changed by an operator"
        );
        Answer::result(&ListChange {
            networks,
            rule: rule.to_owned(),
            seconds,
        })
    }

    /// `weir lists`
    pub(super) fn lists(&mut self) -> Answer {
        let Some(kernel) = &mut self.kernel else {
            return no_xdp();
        };
        let listed = match kernel.listed() {
            Ok(listed) => listed,
            Err(error) => return Answer::error(format!("{error:#}")),
        };
        let listed = listed.iter().map(|l| Listed {
            network: l.net.to_string(),
            rule: word(l.rule).to_owned(),
            origin: match l.origin {
                Origin::Configuration => "configuration",
                Origin::Operator => "operator",
                Origin::Overload => "overload",
            }
            .to_owned(),
            seconds_left: l.left.map(|left| left.as_secs()),
        });
        Answer::result(&Lists {
            lists: listed.collect(),
        })
    }
}

fn word(rule: Rule) -> &'static str {
    match rule {
        Rule::Allow => "allow",
        Rule::Ban => "ban",
    }
}

fn no_xdp() -> Answer {
    Answer::error("XDP is off (node.xdp), so no network can be listed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNs that one of two CPUs counts in each second, and whether there is a flood after it.
    fn seconds(flood: &mut Flood, start: &mut (Instant, u64), syns: &[(u64, bool)]) {
        for (second, (count, on)) in syns.iter().enumerate() {
            start.0 += EVERY;
            start.1 += count;
            flood.observe(start.0, vec![7, start.1], 1000);
            assert_eq!(flood.is_on(), *on, "second {second}");
        }
    }

    #[test]
    fn a_flood_begins_at_once_and_ends_after_a_while() {
        let mut flood = Flood::new(false);
        let mut at = (Instant::now(), 5_000_000);
        // What was counted before is no flood.
        seconds(&mut flood, &mut at, &[(0, false), (1000, false), (1001, true)]);
        // Between half and all of it keeps it going.
        seconds(&mut flood, &mut at, &[(600, true); 30]);
        seconds(&mut flood, &mut at, &[(500, true); 10]);
        seconds(&mut flood, &mut at, &[(501, true)]);
        seconds(&mut flood, &mut at, &[(0, true); 10]);
        seconds(&mut flood, &mut at, &[(0, false), (1000, false), (2000, true)]);
        flood.observe(at.0 + EVERY, vec![7, at.1 + 9000], 0);
        assert!(!flood.is_on(), "0: never");
    }

    #[test]
    fn a_predecessors_flood_ends_too() {
        let mut flood = Flood::new(true);
        let mut at = (Instant::now(), 0);
        seconds(&mut flood, &mut at, &[(0, true); 11]);
        seconds(&mut flood, &mut at, &[(0, false)]);
    }
}
