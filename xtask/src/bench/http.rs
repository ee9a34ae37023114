//! The L7 plane's bench: what a request, a connection and a download cost in the relay, in HAProxy and in nginx; how long
//! a request takes; what an idle connection holds.
//!
//! Owns the parts, their targets and the report, target/bench/http.json. All proxies run one worker on one core, origin and
//! load on the other, and take turns, round by round, so that what the machine does beside hits all of them. A ratio is
//! the median over the rounds of weir's figure to that of the best peer. No threshold here: it measures and writes down.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Map, json};
use weir_harness::Scratch;

use super::{
    commit,
    outcome::show,
    peers::{self, Origin},
};
use crate::{shell, workspace::Workspace};

mod cost;
mod latency;
mod load;
mod memory;
mod profile;
mod stage;

use stage::Proxy;

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

impl Part {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Seconds of each load, and connections, that a build by profile is trained by.
const TRAINING: (u32, u32) = (3, 64);

/// Puts the load of the parts that measure CPU on a weir.
pub(super) fn train(scratch: &Scratch, binary: &Path, origin: &Origin) -> Result<()> {
    shell::heading("its load over HTTP");
    let weir = Proxy::start(scratch, binary, origin, Logs::All, peers::Kind::Weir)?;
    let (seconds, connections) = TRAINING;
    for part in [
        Part::KeepAlive,
        Part::Body,
        Part::NewConnection,
        Part::Http2,
        Part::Tcp,
        Part::Download,
    ] {
        peers::go_on()?;
        let requests = cost::load(part, &weir, seconds, connections)?;
        shell::note(&format!("{}: {requests} requests", part.name()));
    }
    peers::go_on()?;
    weir.end()
}

pub(super) fn run(workspace: &Workspace, binary: &Path, options: &Options) -> Result<()> {
    peers::prepare()?;
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
    show("http", &outcomes, options.markdown);
    let parts: Map<_, _> = outcomes.iter().map(|o| (o.part.clone(), o.report())).collect();
    let report = json!({
        "bench": "http", "commit": commit(workspace), "rounds": options.rounds, "seconds": options.seconds,
        "connections": options.connections, "logs": options.logs.to_possible_value().map(|v| v.get_name().to_owned()),
        "versions": peers::versions(), "parts": parts,
    });
    super::write(workspace, "http", &report)
}
