//! The L4 plane's bench: what a packet costs in XDP, what forwarding costs end to end, and what scale costs.
//!
//! Owns the order and the report, target/bench/l4.json. Packets are measured by the example `xdp_cost` of the dataplane
//! tests, since xtask does not speak bpf(2). `l4/forward.rs` compares with nftables, `l4/scale.rs` runs the test of scale.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::{build, shell, workspace::Workspace};

mod forward;
mod scale;
mod stage;

use super::{commit, median};

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// Nanoseconds per packet in XDP.
    Packet,
    /// Packets per second of CPU, against nftables.
    Forward,
    /// Memory per entry and time of an update, with a million flows.
    Scale,
}

/// What is asked for.
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) markdown: bool,
}

pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut report = Map::new();
    report.insert("bench".to_owned(), json!("l4"));
    report.insert("commit".to_owned(), json!(commit(workspace)));
    if options.parts.contains(&Part::Packet) {
        shell::heading("XDP, per packet");
        let example = example(workspace, "xdp_cost")?;
        shell::note("measuring: about a minute");
        let cases = packets(workspace, &example, options.markdown)?;
        report.insert("packet".to_owned(), cases);
    }
    if options.parts.contains(&Part::Forward) {
        let live_frames = example(workspace, "live_frames")?;
        let binary = match env::var_os("WEIR_BIN") {
            Some(binary) => binary.into(),
            None => build::binary(workspace, true)?,
        };
        let load = forward::Load {
            rounds: options.rounds,
            seconds: options.seconds,
            markdown: options.markdown,
        };
        report.insert("forward".to_owned(), forward::run(&binary, &live_frames, &load)?);
    }
    if options.parts.contains(&Part::Scale) {
        shell::heading("scale");
        let figures = scale::run(workspace)?;
        scale::show(&figures, options.markdown);
        report.insert("scale".to_owned(), figures);
    }
    super::write(workspace, "l4", &Value::Object(report))
}

/// An example of the dataplane tests, built.
fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "build",
            "--release",
            "--package",
            "weir-dataplane-tests",
            "--example",
            name,
        ])
        .env("WEIR_EBPF_OBJECT", workspace.object());
    shell::run(&mut cargo).with_context(|| format!("building the example {name}"))?;
    Ok(workspace.target.join("release/examples").join(name))
}

/// Runs the example that measures packets; it shows its figures itself and leaves them in a file.
fn packets(workspace: &Workspace, example: &Path, markdown: bool) -> Result<Value> {
    figures(workspace, |file| {
        let mut command = Command::new(example);
        command
            .arg("--json")
            .arg(file)
            .args(markdown.then_some("--markdown"))
            .env("WEIR_EBPF_OBJECT", workspace.object());
        shell::run(&mut command).context("measuring weir_xdp (it loads eBPF programs: root is needed)")
    })
}

/// What a program that is given the name of a file leaves there.
fn figures(workspace: &Workspace, measure: impl FnOnce(&Path) -> Result<()>) -> Result<Value> {
    let dir = workspace.target.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let file = dir.join("part.json");
    measure(&file)?;
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
}
