//! The bench of source ports: how many connections in TIME_WAIT the relay bears without one that fails for want of a port.
//!
//! Owns the figures that are asked for and the report, target/bench/ports.json. The example `ports` of the end-to-end tests
//! does it, in namespaces of its own.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::commit;
use crate::{shell, workspace::Workspace};

/// Sessions per second: as many as make it 250 000 in TIME_WAIT before the first of them are over, after 60 s.
const RATE: u32 = 4400;
/// Connections in TIME_WAIT.
const GOAL: u32 = 250_000;
/// Seconds, at the most.
const SECONDS: u32 = 90;
/// MariaDB's sessions come as fast as the machine makes them; so many per second it can't.
const UNBOUNDED: u32 = 100_000;
/// Seconds, at the most: twice the time that a port rests, so the second half is what goes on.
const MARIADB_SECONDS: u32 = 120;

/// What the backend is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// A few bytes each way, at a steady rate
    Sessions,
    /// MariaDB: each session logs in, asks one thing and says goodbye
    Mariadb,
}

pub(crate) fn run(workspace: &Workspace, binary: &Path, parts: &[Part], seconds: Option<u32>) -> Result<()> {
    let mut reports = serde_json::Map::new();
    for part in parts {
        let (name, report) = measure(workspace, binary, *part, seconds)?;
        reports.insert(name.to_owned(), report);
    }
    let failed = |report: &Value| report.get("failed") != Some(&json!(0));
    let any = reports.values().any(failed);
    reports.insert("commit".to_owned(), json!(commit(workspace)));
    super::write(workspace, "ports", &Value::Object(reports))?;
    ensure!(
        !any,
        "sessions have failed; the report says how many, and how many of them for want of a port (`exhausted`)"
    );
    Ok(())
}

fn measure(
    workspace: &Workspace,
    binary: &Path,
    part: Part,
    seconds: Option<u32>,
) -> Result<(&'static str, Value)> {
    let (name, rate, most) = match part {
        Part::Sessions => ("sessions", RATE, SECONDS),
        Part::Mariadb => ("mariadb", UNBOUNDED, MARIADB_SECONDS),
    };
    shell::heading(&format!("source ports: {name}"));
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
    let seconds = seconds.unwrap_or(most);
    shell::note(&format!("measuring: {seconds} seconds at the most"));
    let mut command = Command::new(workspace.target.join("release/examples/ports"));
    command.args([rate, GOAL, seconds].map(|number| number.to_string()));
    if part == Part::Mariadb {
        command.arg(name);
    }
    let text = shell::output(command.env("WEIR_BIN", binary))
        .context("measuring source ports (it makes namespaces: root is needed)")?;
    let report: Value = serde_json::from_str(&text).context("the report of the example ports")?;
    shell::say(&format!("{report:#}"));
    Ok((name, report))
}
