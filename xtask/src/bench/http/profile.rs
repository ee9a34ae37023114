//! Where the time of weir's processes goes: `perf` watches them under a part's load, and a flame graph shows it.
//!
//! Apart from the measurement: what is watched is dearer.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use inferno::{
    collapse::{Collapse as _, perf::Folder},
    flamegraph,
};
use weir_harness::Scratch;

use super::{Options, Part, cost, stage::Proxy};
use crate::{shell, workspace::Workspace};

/// Seconds of load.
const SECONDS: u32 = 5;
/// Samples per second of CPU: no multiple of any clock.
const FREQUENCY: &str = "997";

/// Watches weir under the load of `part`, and leaves target/bench/http-PART.svg.
pub(super) fn run(
    workspace: &Workspace,
    scratch: &Scratch,
    part: Part,
    weir: &Proxy,
    options: &Options,
) -> Result<()> {
    let data = scratch.join(format!("{}.perf", part.name()));
    let pids: Vec<_> = weir.tree()?.ids().iter().map(u32::to_string).collect();
    // By unwinding tables, which the release binary has: frame pointers it has not.
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY])
        .args(["--call-graph", "dwarf,16384", "--pid", &pids.join(",")])
        .arg("--output")
        .arg(&data)
        .args(["--", "sleep", &SECONDS.to_string()]);
    let mut watching = perf
        .spawn()
        .context("perf (Debian: package linux-perf, `cargo xtask setup --for bench`)")?;
    // A second more, so that there is load as long as it watches.
    let loaded = cost::load(part, weir, SECONDS + 1, options.connections);
    let watched = watching.wait().context("perf")?;
    loaded?;
    if !watched.success() {
        bail!(
            "perf record failed ({watched}): may this user watch processes? See kernel.perf_event_paranoid"
        );
    }

    let text = scratch.join("script");
    let mut script = Command::new("perf");
    script
        .args(["script", "--no-inline", "--force", "--input"])
        .arg(&data)
        .stdout(File::create(&text)?);
    shell::run(&mut script)?;
    let folded = scratch.join("folded");
    Folder::default()
        .collapse(
            BufReader::new(File::open(&text)?),
            BufWriter::new(File::create(&folded)?),
        )
        .context("reading what perf wrote")?;
    let dir = workspace.target.join("bench");
    fs::create_dir_all(&dir)?;
    let svg = dir.join(format!("http-{}.svg", part.name()));
    let mut looks = flamegraph::Options::default();
    looks.title = format!("weir, {}", part.name());
    looks.count_name = "samples".into();
    flamegraph::from_files(&mut looks, &[folded], BufWriter::new(File::create(&svg)?))
        .with_context(|| format!("drawing {}", svg.display()))?;
    shell::note(&format!("flame graph in {}", workspace.shorten(&svg)));
    Ok(())
}
