//! `cargo xtask bench`: the two numbers that weir is judged by, measured against a peer in the same run.
//!
//! Owns the choice and the builds. `bench/http.rs` compares the relay with HAProxy; the cost of a packet in XDP is
//! measured by the example `xdp_cost` of the dataplane tests.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{build, setup, shell, workspace::Workspace};

mod cpu;
mod http;

/// Measure weir against a peer in one run; figures go to target/bench/*.json.
///
/// l4: what weir_xdp costs per packet over a bare XDP_TX (root). http: proxy CPU per request of the relay and of
/// HAProxy, one worker each on the same core, in alternating rounds. Only the ratios of one run mean anything.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_name = "PLANE", default_values = ["l4", "http"])]
    planes: Vec<Plane>,
    /// http: rounds per proxy.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// http: seconds per round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// http: connections that are kept busy.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Use the machine as it is: install nothing.
    #[arg(long)]
    no_setup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Plane {
    /// Nanoseconds per packet in XDP.
    L4,
    /// CPU per HTTP request in the relay.
    Http,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    if !args.no_setup {
        setup::ensure(&workspace, &[setup::Task::Bench], None)?;
    }
    build::object(&workspace, None)?;
    if args.planes.contains(&Plane::L4) {
        l4(&workspace)?;
    }
    if args.planes.contains(&Plane::Http) {
        let binary = build::binary(&workspace, true)?;
        let load = http::Load {
            rounds: args.rounds,
            seconds: args.seconds,
            connections: args.connections,
        };
        http::run(&workspace, &binary, &load)?;
    }
    Ok(())
}

fn l4(workspace: &Workspace) -> Result<()> {
    shell::heading("XDP, per packet");
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "build",
            "--release",
            "--package",
            "weir-dataplane-tests",
            "--example",
            "xdp_cost",
        ])
        .env("WEIR_EBPF_OBJECT", workspace.object());
    shell::run(&mut cargo).context("building the example xdp_cost")?;
    let mut example = Command::new(workspace.target.join("release/examples/xdp_cost"));
    example.arg("--json").env("WEIR_EBPF_OBJECT", workspace.object());
    shell::note("measuring: about a quarter of a minute");
    let text =
        shell::output(&mut example).context("measuring weir_xdp (it loads eBPF programs: root is needed)")?;
    let cases: Value = serde_json::from_str(&text).context("reading what xdp_cost wrote")?;
    shell::note(&format!(
        "{:<24}{:>8}{:>8}{:>8}{:>8}",
        "ns per packet", "bare", "min", "median", "ratio"
    ));
    for case in cases.as_array().context("xdp_cost wrote no list of cases")? {
        let figure = |key: &str| case.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let name = case.get("case").and_then(Value::as_str).unwrap_or_default();
        let [bare, min, median, ratio] = ["bare_ns", "min_ns", "median_ns", "ratio"].map(figure);
        shell::note(&format!(
            "{name:<24}{bare:>8.1}{min:>8.1}{median:>8.1}{ratio:>8.2}"
        ));
    }
    write(
        workspace,
        "l4",
        &json!({ "bench": "l4", "unit": "ns per packet", "cases": cases }),
    )
}

/// Leaves a report at `target/bench/NAME.json`.
fn write(workspace: &Workspace, name: &str, report: &Value) -> Result<()> {
    let dir = workspace.target.join("bench");
    let file = dir.join(format!("{name}.json"));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&file, format!("{report:#}\n")))
        .with_context(|| format!("writing {}", file.display()))?;
    shell::note(&format!("written to {}", workspace.shorten(&file)));
    Ok(())
}
