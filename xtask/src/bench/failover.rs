//! The bench of failover: how long clients are without service, and whether ever two boxes answer, when something happens to
//! the box that is master. weir's pair beside keepalived's, both at their defaults and at their fastest.
//!
//! Owns the parts, what is asked of them and the report, target/bench/failover.json. The pairs and what is done to them are
//! `failover/boxes.rs`, the client `failover/probe.rs`, established flows `failover/flows.rs`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use weir_harness::{
    Pair, interrupt,
    pair::{VIP, backend},
    peer::nginx::Nginx,
    wait::pass_time,
};

pub(crate) mod answer;
mod boxes;
mod flows;
mod probe;

use self::{
    answer::Answerer,
    boxes::{Boxes, CHECKED, Setup},
    probe::{Prober, Seen},
};
use super::{commit, median, peers::go_on};
use crate::{shell, workspace::Workspace};

/// Of the probes.
const PORT: u16 = 7000;
/// Where probes come to the backend from, by box.
const SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 21)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 22)),
];
/// Nothing happens before an event for so long: what the machine itself makes of probes shows.
const QUIET: Duration = Duration::from_millis(500);
/// The niceness of whoever probes and answers.
const NICE: i32 = -15;

/// What happens to the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// All its processes are killed
    Killed,
    /// Its link to the clients goes down
    Cut,
    /// All its processes are stopped
    Stopped,
    /// It reaches no backend any more; of keepalived's box: what it serves dies
    Backends,
    /// weir alone: an operator hands over
    Demoted,
    /// It is told to end
    Ended,
    /// It reads its configuration anew
    Reload,
    /// Another weir takes the place of the one that runs; keepalived ends and is started again
    Upgrade,
    /// weir alone: control is killed and started again
    Crashed,
    /// weir alone: 10 000 connections are open when it is killed
    Flows,
}

impl Part {
    fn name(self) -> String {
        let name = self.to_possible_value();
        name.map_or_else(String::new, |name| name.get_name().to_owned())
    }

    /// How long is looked at what follows.
    fn tail(self, setup: Setup) -> Duration {
        let millis = match (self, setup.is_fastest()) {
            (Self::Backends, true) => 3_000,
            (_, true) => 1_000,
            (Self::Reload, false) => 2_000,
            // Checks every two seconds come before the takeover.
            (Self::Backends, false) => 9_000,
            (_, false) => 5_000,
        };
        Duration::from_millis(millis)
    }

    /// What is asked of weir.
    fn target(self, setup: Setup) -> Target {
        let most = |millis| Target {
            gap: Some(Duration::from_millis(millis)),
            alone: true,
            lost: None,
        };
        match (self, setup) {
            (_, Setup::Keepalived | Setup::KeepalivedFastest) => Target::NONE,
            (Self::Killed | Self::Cut, Setup::WeirFastest) => most(60),
            (Self::Stopped, Setup::WeirFastest) => most(100),
            (Self::Killed | Self::Cut | Self::Stopped, Setup::Weir) => most(3_700),
            (Self::Demoted | Self::Ended | Self::Reload | Self::Upgrade, _)
            | (Self::Crashed, Setup::Weir) => Target {
                lost: Some(0),
                ..Target::NONE
            },
            (Self::Backends | Self::Crashed | Self::Flows, _) => Target::NONE,
        }
    }
}

/// What is asked of a part, in every one of its rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Target {
    /// The longest time without an answer.
    gap: Option<Duration>,
    /// Never two boxes answer.
    alone: bool,
    /// Probes that may be lost.
    lost: Option<usize>,
}

impl Target {
    const NONE: Self = Self {
        gap: None,
        alone: false,
        lost: None,
    };

    fn verdict(self, rounds: &[Seen]) -> Verdict {
        if self == Self::NONE {
            return Verdict::NotAsked;
        }
        Verdict::of(rounds.iter().all(|seen| {
            let in_time = self
                .gap
                .is_none_or(|most| seen.gap.is_some_and(|gap| gap <= most));
            let alone = !self.alone || seen.both == 0 && seen.doubled == 0;
            in_time && alone && self.lost.is_none_or(|most| seen.lost <= most)
        }))
    }

    fn shown(self) -> String {
        let gap = self.gap.map(|most| format!("{} ms", most.as_millis()));
        let alone = self.alone.then(|| "never two".to_owned());
        let lost = self.lost.map(|most| format!("{most} lost"));
        [gap, alone, lost]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Whether what is asked for is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    NotAsked,
    Met,
    Missed,
}

impl Verdict {
    const fn of(is_met: bool) -> Self {
        if is_met { Self::Met } else { Self::Missed }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::NotAsked => "",
            Self::Met => "met",
            Self::Missed => "missed",
        }
    }
}

/// A line of the result.
struct Row {
    part: String,
    setup: &'static str,
    figures: String,
    target: String,
    verdict: Verdict,
    /// Round by round.
    report: Vec<Value>,
}

/// What is asked for.
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    pub(super) rounds: u32,
    pub(super) markdown: bool,
}

pub(super) fn run(workspace: &Workspace, binary: &Path, options: &Options) -> Result<()> {
    shell::heading("failover");
    interrupt::install().context("taking signals")?;
    let mut rows = Vec::new();
    for setup in Setup::ALL {
        rows.extend(measure(setup, binary, options).with_context(|| format!("{} as a pair", setup.name()))?);
    }
    // Of one part side by side.
    rows.sort_by_key(|row| options.parts.iter().position(|part| part.name() == row.part));
    if options.parts.contains(&Part::Flows) {
        rows.extend(flows::run(binary, options.rounds).context("established flows")?);
    }
    show(&rows, options.markdown);
    let report: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({ "part": row.part, "of": row.setup, "figures": row.figures, "target": row.target,
                    "verdict": row.verdict.word(), "rounds": row.report })
        })
        .collect();
    let report = json!({ "bench": "failover", "commit": commit(workspace), "rows": report });
    super::write(workspace, "failover", &report)?;
    let missed: Vec<_> = { rows.iter() }
        .filter(|row| row.verdict == Verdict::Missed)
        .map(|row| format!("{} ({})", row.part, row.setup))
        .collect();
    ensure!(
        missed.is_empty(),
        "missed: {}; the report says by how much, round by round",
        missed.join(", ")
    );
    Ok(())
}

/// Does all parts to a pair, round by round.
fn measure(setup: Setup, binary: &Path, options: &Options) -> Result<Vec<Row>> {
    let asked = |part: &&Part| match part {
        Part::Flows => false,
        Part::Demoted | Part::Crashed => setup.is_weir(),
        Part::Killed
        | Part::Cut
        | Part::Stopped
        | Part::Backends
        | Part::Ended
        | Part::Reload
        | Part::Upgrade => true,
    };
    let parts: Vec<_> = options.parts.iter().filter(asked).collect();
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let pair = Pair::new(probe::LANES, 1)?;
    // The client's own ways are the link's; each of the others knows one box.
    pair.pin(1, 0)?;
    pair.pin(2, 1)?;
    let server = &pair.backends[0];
    let _checked = Nginx::start(server, "b1", &[(backend(0), CHECKED).into()])?;
    let _answers = Answerer::start(server, (backend(0), PORT).into())?;
    let mut boxes = setup.start(&pair, binary)?;
    pair.acquaint()?;
    let mut rows = Vec::new();
    for part in parts {
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            go_on()?;
            let seen =
                round(&pair, &mut *boxes, *part, setup).with_context(|| format!("part {}", part.name()))?;
            shell::note(&format!("{:<10}{:<22}{}", part.name(), setup.name(), told(&seen)));
            rounds.push(seen);
        }
        rows.push(row(*part, setup, &rounds));
    }
    Ok(rows)
}

fn round(pair: &Pair, boxes: &mut dyn Boxes, part: Part, setup: Setup) -> Result<Seen> {
    let master = boxes.master()?;
    let prober = Prober::start(&pair.clients, SocketAddr::new(VIP.into(), PORT))?;
    pass_time(QUIET)?;
    let event = Instant::now();
    boxes.strike(part, master)?;
    pass_time(part.tail(setup))?;
    let seen = prober.finish(event)?;
    boxes.mend(part, master)?;
    Ok(seen)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn told(seen: &Seen) -> String {
    let gap = seen.gap.map_or_else(
        || "no answer any more".to_owned(),
        |gap| format!("{:>7.1} ms", millis(gap)),
    );
    format!(
        "gap {gap} (before: {:.1} ms), lost {:>5}, two would have answered {:>4}, did {}",
        millis(seen.quiet),
        seen.lost,
        seen.both,
        seen.doubled
    )
}

fn row(part: Part, setup: Setup, rounds: &[Seen]) -> Row {
    // Where nobody answers any more the gap has no end.
    let gap = |seen: &Seen| seen.gap.map_or(f64::INFINITY, millis);
    let most = |of: fn(&Seen) -> usize| rounds.iter().map(of).max().unwrap_or_default();
    let target = part.target(setup);
    Row {
        part: part.name(),
        setup: setup.name(),
        figures: format!(
            "gap {:.0} ms, at most {:.0}; lost at most {}; two at most {}",
            median(rounds.iter().map(gap)),
            rounds.iter().map(gap).fold(0.0, f64::max),
            most(|seen| seen.lost),
            most(|seen| seen.both.max(seen.doubled)),
        ),
        target: target.shown(),
        verdict: target.verdict(rounds),
        report: { rounds.iter() }
            .map(|seen| {
                json!({ "gap_ms": seen.gap.map(millis), "quiet_ms": millis(seen.quiet), "lost": seen.lost,
                        "both": seen.both, "doubled": seen.doubled })
            })
            .collect(),
    }
}

/// One line a part and pair.
fn show(rows: &[Row], markdown: bool) {
    shell::heading("failover, medians and worst of the rounds");
    if markdown {
        shell::say("| what | pair | figures | target | |\n|---|---|---|---|---|");
    }
    for row in rows {
        let Row {
            part,
            setup,
            figures,
            target,
            verdict,
            report: _,
        } = row;
        let word = verdict.word();
        if markdown {
            shell::say(&format!("| {part} | {setup} | {figures} | {target} | {word} |"));
        } else {
            shell::note(&format!("{part:<16}{setup:<22}{figures:<60}{target:<20}{word}"));
        }
    }
}

/// Has the calling thread go before most others.
fn before_others() {
    // Who may not is measured as it is; the quiet time before an event shows what that costs.
    let _done = rustix::process::setpriority_process(None, NICE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_hold_in_every_round() {
        let good = Seen {
            gap: Some(Duration::from_millis(40)),
            quiet: Duration::ZERO,
            lost: 40,
            both: 0,
            doubled: 0,
        };
        let killed = Part::Killed.target(Setup::WeirFastest);
        let is = |target: Target, seen: Seen| target.verdict(&[good, seen]);
        assert_eq!(is(killed, good), Verdict::Met);
        let late = Some(Duration::from_millis(61));
        assert_eq!(is(killed, Seen { gap: late, ..good }), Verdict::Missed);
        assert_eq!(is(killed, Seen { gap: None, ..good }), Verdict::Missed);
        assert_eq!(is(killed, Seen { both: 1, ..good }), Verdict::Missed);
        let ended = Part::Ended.target(Setup::Weir);
        assert_eq!(ended.verdict(&[good]), Verdict::Missed);
        assert_eq!(ended.verdict(&[Seen { lost: 0, ..good }]), Verdict::Met);
        let peer = Part::Killed.target(Setup::Keepalived);
        assert_eq!(peer.verdict(&[Seen { gap: None, ..good }]), Verdict::NotAsked);
    }
}
