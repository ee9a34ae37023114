//! The load of a field test: 5000 new TLS connections a minute with headers rewritten, while 110 000 L4 flows stand in the
//! table, and the memory of all of weir's processes meanwhile.
//!
//! Owns the figures that are asked for, and how they are shown. The example `field` of the end-to-end tests does it, in
//! namespaces of its own.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::load::Loader;
use crate::{shell, workspace::Workspace};

/// Connections a minute.
const PER_MINUTE: u32 = 5_000;
/// Flows of the L4 plane.
const FLOWS: u32 = 110_000;
const SECONDS: u32 = 60;
/// Megabytes that all processes may have resident together, a page that several share counted once.
const MOST: f64 = 40.0;

pub(super) fn run(workspace: &Workspace, binary: &Path, loader: &Loader) -> Result<Value> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "weir-e2e-tests",
        "--example",
        "field",
    ]);
    shell::run(&mut cargo).context("building the example field")?;
    shell::note("measuring: about two minutes");
    let mut command = Command::new(workspace.target.join("release/examples/field"));
    command
        .arg(loader.program())
        .args([PER_MINUTE, FLOWS, SECONDS].map(|number| number.to_string()))
        .env("WEIR_BIN", binary);
    let text = shell::output(&mut command)
        .context("measuring (it makes namespaces and loads programs: root is needed)")?;
    let report: Value = serde_json::from_str(&text).context("the report of the example field")?;
    show(&report);
    let failed = report.pointer("/load/failed").and_then(Value::as_u64);
    ensure!(failed == Some(0), "connections have failed: {report:#}");
    Ok(report)
}

fn show(report: &Value) {
    let number = |at: &str| report.pointer(at).and_then(Value::as_f64).unwrap_or(f64::NAN);
    shell::note(&format!(
        "{} connections in {:.0} s beside {} flows; milliseconds to the whole answer: median {}, 99 % {}",
        number("/load/requests"),
        number("/load/seconds"),
        number("/flows"),
        number("/load/milliseconds/p50"),
        number("/load/milliseconds/p99"),
    ));
    let processes = report.get("processes").and_then(Value::as_array);
    for process in processes.into_iter().flatten() {
        let mb = |what: &str| process.get(what).and_then(Value::as_f64).unwrap_or(f64::NAN) / 1e6;
        shell::note(&format!(
            "{:<8} {:>6.1} MB resident, {:>6.1} with what is shared divided, {:>6.1} of it its own data",
            process.get("role").and_then(Value::as_str).unwrap_or_default(),
            mb("rss"),
            mb("pss"),
            mb("anonymous"),
        ));
    }
    let pss = number("/most/pss") / 1e6;
    shell::note(&format!(
        "all      {:>6.1} MB resident at the most, {pss:.1} with what is shared counted once (target: {MOST}): {}; maps in the \
         kernel beside: {:.0} MB",
        number("/most/rss") / 1e6,
        if pss <= MOST { "met" } else { "not met" },
        number("/maps") / 1e6
    ));
}
