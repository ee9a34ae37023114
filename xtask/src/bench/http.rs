//! The L7 plane's bench: what a request, a connection and a download cost in the relay, in HAProxy and in nginx; how long
//! a request takes; what an idle connection holds.
//!
//! Owns the parts, their targets and the report, target/bench/http.json. All proxies run one worker on one core, origin and
//! load on the other, and take turns, round by round, so that what the machine does beside hits all of them. A ratio is
//! the median over the rounds of weir's figure to that of the best peer. No threshold here: it measures and writes down.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use weir_harness::{Scratch, interrupt};

use super::{commit, median};
use crate::{shell, workspace::Workspace};

mod client;
mod cost;
mod latency;
mod load;
mod memory;
mod profile;
mod stage;

use stage::{Origin, Proxy};

/// The core of the proxy under test.
const PROXY_CORE: usize = 0;
/// The core of load and origin.
const OTHER_CORE: usize = 1;

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// CPU per small request on connections that stay.
    KeepAlive,
    /// CPU per answer of 16 KiB.
    Body,
    /// CPU per connection with one small request.
    NewConnection,
    /// CPU per small request over HTTP/2, several at once on each connection.
    Http2,
    /// CPU per small request in TCP mode.
    Tcp,
    /// CPU per download of 64 MiB.
    Download,
    /// 99th percentile of the time of a small request, at 70 % of what HAProxy can do.
    Latency,
    /// Memory per idle connection.
    Idle,
    /// What 20 000 connections leave behind.
    Churn,
}

/// Whose access logs are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Logs {
    /// Each proxy's.
    All,
    /// weir's alone: the peers are let off.
    Weir,
    /// Nobody's.
    None,
}

/// What is asked for.
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) connections: u32,
    pub(super) logs: Logs,
    pub(super) markdown: bool,
    /// Draw a flame graph for each part that measures CPU.
    pub(super) profile: bool,
}

/// A figure of each proxy, by round, and what weir's is to be.
struct Outcome {
    part: Part,
    unit: &'static str,
    /// By proxy, in the order of [`stage::Kind`]; weir's first.
    figures: Vec<(&'static str, Vec<f64>)>,
    target: Target,
    /// What else is worth to be known.
    more: Value,
}

/// What is asked of weir's figure.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Target {
    /// At most this much of the best peer's.
    Ratio(f64),
    /// At most this much.
    Most(f64),
}

impl Outcome {
    fn median(&self, name: &str) -> Option<f64> {
        let (_, rounds) = self.figures.iter().find(|(of, _)| *of == name)?;
        Some(median(rounds.iter().copied()))
    }

    /// The peer with the lowest median.
    fn best(&self) -> Option<&(&'static str, Vec<f64>)> {
        let of = |(_, rounds): &&(_, Vec<f64>)| median(rounds.iter().copied());
        let peers = self.figures.iter().skip(1);
        peers.min_by(|a, b| of(a).total_cmp(&of(b)))
    }

    /// The median over the rounds of weir's figure to the best peer's.
    fn ratio(&self) -> Option<f64> {
        let (_, weir) = self.figures.first()?;
        let (_, best) = self.best()?;
        // Of what grew by nothing there is no multiple.
        if best.iter().any(|figure| *figure <= 0.0) {
            return None;
        }
        Some(median(weir.iter().zip(best).map(|(weir, best)| weir / best)))
    }

    fn is_met(&self) -> bool {
        match self.target {
            Target::Ratio(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Target::Most(most) => self.median("weir").is_some_and(|figure| figure <= most),
        }
    }

    fn row(&self) -> [String; 7] {
        let figure = |name| {
            self.median(name)
                .map_or_else(|| "-".to_owned(), |f| format!("{f:.2}"))
        };
        let target = match self.target {
            Target::Ratio(most) => format!("{most:.2}"),
            Target::Most(most) => format!("{most} {}", self.unit),
        };
        let ratio = self
            .ratio()
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        [
            format!("{}, {}", self.part.name(), self.unit),
            figure("weir"),
            figure("haproxy"),
            figure("nginx"),
            ratio,
            target,
            if self.is_met() { "met" } else { "not met" }.to_owned(),
        ]
    }

    fn report(&self) -> Value {
        let proxies: Vec<_> = self
            .figures
            .iter()
            .map(|(name, rounds)| json!({ "name": name, "median": median(rounds.iter().copied()), "rounds": rounds }))
            .collect();
        let target = match self.target {
            Target::Ratio(most) => json!({ "ratio": most }),
            Target::Most(most) => json!({ "most": most }),
        };
        json!({ "unit": self.unit, "proxies": proxies, "ratio": self.ratio(), "target": target, "met": self.is_met(), "more": self.more })
    }
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(super) fn run(workspace: &Workspace, binary: &Path, options: &Options) -> Result<()> {
    let cores = std::thread::available_parallelism().context("counting cores")?;
    if cores.get() < 2 {
        bail!("this needs two cores: one for the proxy, one for origin and load");
    }
    // So that Ctrl-C ends the proxies too.
    interrupt::install().context("taking signals")?;
    let scratch = Scratch::new()?;
    let origin = Origin::start(&scratch)?;
    // Idle and churn begin with proxies that have done nothing yet.
    let (fresh, warm): (Vec<Part>, Vec<Part>) = options
        .parts
        .iter()
        .partition(|part| matches!(part, Part::Idle | Part::Churn));
    let mut outcomes = Vec::new();
    if !warm.is_empty() {
        let proxies = Proxy::start_all(&scratch, binary, &origin, options.logs)?;
        for part in warm {
            shell::heading(&format!("http, {}", part.name()));
            if part == Part::Latency {
                outcomes.push(latency::run(&proxies, options)?);
                continue;
            }
            outcomes.push(cost::run(part, &proxies, options)?);
            if let (true, Some(weir)) = (options.profile, proxies.first()) {
                profile::run(workspace, &scratch, part, weir, options)?;
            }
        }
    }
    for part in fresh {
        shell::heading(&format!("http, {}", part.name()));
        outcomes.push(if part == Part::Churn {
            memory::churn(&scratch, binary, &origin, options.logs)?
        } else {
            memory::idle(&scratch, binary, &origin, options.logs)?
        });
    }
    show(&outcomes, options);
    let parts: Map<_, _> = outcomes.iter().map(|o| (o.part.name(), o.report())).collect();
    let report = json!({
        "bench": "http", "commit": commit(workspace), "rounds": options.rounds, "seconds": options.seconds,
        "connections": options.connections, "logs": options.logs.to_possible_value().map(|v| v.get_name().to_owned()),
        "versions": stage::versions(), "parts": parts,
    });
    super::write(workspace, "http", &report)
}

fn show(outcomes: &[Outcome], options: &Options) {
    const HEAD: [&str; 7] = ["", "weir", "haproxy", "nginx", "ratio", "target", ""];
    shell::heading("http, medians");
    if options.markdown {
        shell::say(&format!("| {} |", HEAD.join(" | ")));
        shell::say("|---|---|---|---|---|---|---|");
    }
    let line = |[what, weir, haproxy, nginx, ratio, target, met]: [&str; 7]| {
        format!("{what:<34}{weir:>10}{haproxy:>10}{nginx:>10}{ratio:>8}{target:>22}  {met}")
    };
    if !options.markdown {
        shell::note(&line(HEAD));
    }
    for outcome in outcomes {
        let row = outcome.row();
        if options.markdown {
            shell::say(&format!("| {} |", row.join(" | ")));
        } else {
            shell::note(&line(row.each_ref().map(String::as_str)));
        }
    }
}

/// Ends early if somebody asked for it.
fn go_on() -> Result<()> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(target: Target) -> Outcome {
        Outcome {
            part: Part::KeepAlive,
            unit: "us",
            figures: vec![
                ("weir", vec![8.0, 16.0, 9.0]),
                ("haproxy", vec![10.0, 20.0, 10.0]),
                ("nginx", vec![12.0, 12.0, 12.0]),
            ],
            target,
            more: Value::Null,
        }
    }

    #[test]
    fn ratios_are_within_rounds_and_to_the_best() {
        let outcome = outcome(Target::Ratio(0.8));
        assert_eq!(outcome.best().map(|(name, _)| *name), Some("haproxy"));
        assert!((outcome.ratio().expect("a ratio") - 0.8).abs() < 1e-9);
        assert!(outcome.is_met());
    }

    #[test]
    fn targets() {
        assert!(!outcome(Target::Ratio(0.79)).is_met());
        assert!(outcome(Target::Most(9.0)).is_met());
        assert!(!outcome(Target::Most(8.9)).is_met());
        let alone = Outcome {
            figures: vec![("weir", vec![1.0])],
            ..outcome(Target::Ratio(1.0))
        };
        assert!(alone.ratio().is_none() && !alone.is_met());
        let nothing = Outcome {
            figures: vec![("weir", vec![-156.0]), ("haproxy", vec![0.0])],
            ..outcome(Target::Most(512.0))
        };
        assert!(nothing.ratio().is_none() && nothing.is_met());
    }
}
