//! `weir doctor`: prints what the datapath's look at the box has found, and says whether weir can run here.

use std::{path::Path, process::ExitCode};

use anyhow::anyhow;
use serde::Serialize;
use weir_core::plan::XdpMode;
use weir_datapath::doctor::{Finding, Level, Report, Uplink, inspect};

use crate::{client, context};

/// The report as JSON: an outside interface.
#[derive(Serialize)]
struct Answer<'a> {
    /// `ok`, `note` or `problem`: the gravest of the findings.
    verdict: &'static str,
    findings: &'a [Finding],
}

/// Looks, prints, and says by the exit code whether a problem was found.
///
/// # Errors
/// The configuration has mistakes, or standard output can't be written.
pub(crate) fn run(interfaces: Vec<String>, config: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let mut interfaces = interfaces;
    let mut relay_only = false;
    let mut transparent = Vec::new();
    let mut uplinks = Vec::new();
    let mut groups = Vec::new();
    if let Some(path) = config {
        let loaded = context::load(path).map_err(|report| anyhow!("{report}"))?;
        interfaces.clone_from(&loaded.plan.node.interfaces);
        transparent.extend(loaded.plan.transparent().copied());
        uplinks = Uplink::of(&loaded.plan);
        groups.clone_from(&loaded.plan.vrrp);
        relay_only = loaded.plan.node.xdp == XdpMode::Off;
    }
    let report = inspect(&interfaces, &transparent, &uplinks, &groups);
    let worst = report.worst();
    // What only the L4 plane needs is no problem for a relay.
    let can_run = worst < Level::Problem || relay_only;
    if json {
        let answer = Answer {
            verdict: worst.as_str(),
            findings: &report.findings,
        };
        client::print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
    } else {
        client::print(&text(&report, relay_only))?;
    }
    Ok(if can_run {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(report: &Report, relay_only: bool) -> String {
    let mut out: String = report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    let problems = report
        .findings
        .iter()
        .filter(|f| f.level == Level::Problem)
        .count();
    let verdict = match problems {
        0 => "weir can run here, on both planes".to_owned(),
        _ if relay_only => "weir can run here as this configuration says: as a relay, without XDP".to_owned(),
        n => format!(
            "{n} problem(s): the L4 plane will not work like this; as a relay (xdp = \"off\") weir runs anyway"
        ),
    };
    out.push_str(&format!("\n{verdict}\n"));
    out
}
