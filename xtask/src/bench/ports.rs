//! The bench of source ports: how many connections in TIME_WAIT the relay bears without one that fails for want of a port.
//!
//! Owns the figures that are asked for and the report, target/bench/ports.json. The example `ports` of the end-to-end tests
//! does it, in namespaces of its own.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::commit;
use crate::{shell, workspace::Workspace};

/// Sessions per second: as many as make it 250 000 in TIME_WAIT before the first of them are over, after 60 s.
const RATE: u32 = 4400;
/// Connections in TIME_WAIT.
const GOAL: u32 = 250_000;
/// Seconds, at the most.
const SECONDS: u32 = 90;

pub(crate) fn run(workspace: &Workspace, binary: &Path, seconds: Option<u32>) -> Result<()> {
    shell::heading("source ports");
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "weir-e2e-tests",
        "--example",
        "ports",
    ]);
    shell::run(&mut cargo).context("building the example ports")?;
    shell::note("measuring: about a minute");
    let mut command = Command::new(workspace.target.join("release/examples/ports"));
    let numbers = [RATE, GOAL, seconds.unwrap_or(SECONDS)];
    command.args(numbers.map(|number| number.to_string()));
    let text = shell::output(command.env("WEIR_BIN", binary))
        .context("measuring source ports (it makes namespaces: root is needed)")?;
    let mut report: Value = serde_json::from_str(&text).context("the report of the example ports")?;
    if let Some(report) = report.as_object_mut() {
        report.insert("commit".to_owned(), json!(commit(workspace)));
    }
    shell::say(&format!("{report:#}"));
    super::write(workspace, "ports", &report)?;
    ensure!(
        report.get("failed") == Some(&json!(0)),
        "sessions have failed; the report says how many, and how many of them for want of a port (`exhausted`)"
    );
    Ok(())
}
