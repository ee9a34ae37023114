//! What the XDP programs cost per packet, over a program that only returns `XDP_TX`: mode by family by flows.
//!
//! ```text
//! cargo run --release -p weir-dataplane-tests --example xdp_cost [-- --json FILE] [--markdown] [--filter TEXT]
//! ```
//!
//! Time is the thread's CPU time, which on a busy machine repeats where wall time does not. Every run gets a fresh frame
//! from a program in front, of a flow drawn at random; the floor is the same program with two instructions behind it. Each
//! round measures the floor and the case one after the other, and counts if the machine ran steadily ([`steady`]); a figure
//! is the least or the median of the rounds, net is the median less the floor's. A case whose rounds were disturbed is
//! measured once more at the end. What an object does not do is a row without figures, with the reason that it gave instead.

mod cases;
mod report;
mod steady;
mod world;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use weir_abi::{Note, Reason, names};
use weir_dataplane_tests::{
    Kernel, Lab,
    floor::{Refill, bare},
};

use crate::{
    cases::{Case, Group},
    report::{Figures, Row},
    steady::Steady,
};

/// Runs of a round.
const RUNS: u32 = 200_000;

/// What was asked for.
#[derive(Default)]
struct Args {
    json: Option<PathBuf>,
    markdown: bool,
    filter: Option<String>,
}

impl Args {
    fn parse() -> Result<Self> {
        let mut args = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => args.json = Some(words.next().context("--json FILE")?.into()),
                "--markdown" => args.markdown = true,
                "--filter" => args.filter = Some(words.next().context("--filter TEXT")?),
                other => bail!("{other}: neither --json FILE, --markdown nor --filter TEXT"),
            }
        }
        Ok(args)
    }
}

/// CPU time of this thread.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Nanoseconds per run, of one round.
fn round(program: &Refill) -> Result<f64> {
    let start = cpu_time()?;
    program.run(RUNS)?;
    Ok((cpu_time()? - start).as_nanos() as f64 / f64::from(RUNS))
}

/// Measures one case.
fn measure(kernel: &mut Kernel, floor: &OwnedFd, steady: &mut Steady, case: &Case) -> Result<Row> {
    // A table as full as this case makes it, whatever was measured before.
    kernel.clear_flows()?;
    (case.prepare)(kernel, case)?;
    let frame = case.frame.build();
    let spread = case.spread();
    let bare = Refill::load(floor.as_fd(), &frame, spread, case.resizes)?;
    let under_test = Refill::load(kernel.xdp()?.fd()?.as_fd(), &frame, spread, case.resizes)?;
    kernel.clear_counters()?;
    // Warms the caches, and shows which way the frames go.
    round(&under_test)?;
    let counters = kernel.counters()?;
    if case.records && counters.note(Note::FlowRecorded) != u64::from(RUNS) {
        let recorded = counters.note(Note::FlowRecorded);
        return Ok(Row::without_figures(
            case,
            &format!("{recorded} of {RUNS} SYNs recorded"),
        ));
    }
    if counters.reason(case.reason) != u64::from(RUNS) {
        let others = Reason::ALL
            .iter()
            .filter(|reason| counters.reason(**reason) > 0)
            .map(|reason| reason.name())
            .collect::<Vec<_>>();
        return Ok(Row::without_figures(case, &others.join(", ")));
    }
    kernel.clear_counters()?;
    let rounds = steady.measure(case.kind(), &bare, &under_test)?;
    // Every single run went the way that is measured.
    let counters = kernel.counters()?;
    let all = u64::from(RUNS) * u64::from(rounds.tried);
    ensure!(
        counters.reason(case.reason) == all,
        "{}: {counters:?}",
        case.name()
    );
    Ok(Row::new(case, Figures::of(rounds)))
}

/// Measures a group's cases, and those that were disturbed once more.
fn measure_group(
    group: &Group,
    filter: Option<&str>,
    floor: &OwnedFd,
    steady: &mut Steady,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let chosen: Vec<_> = group
        .cases
        .iter()
        .filter(|case| filter.is_none_or(|text| case.name().contains(text)))
        .collect();
    if chosen.is_empty() {
        return Ok(());
    }
    // Tables of the size that so many flows ask for, the others as they are by default: a table that fills the
    // cache is part of what is measured.
    let mut loader = aya::EbpfLoader::new();
    for map in [names::FLOWS, names::NAT_FLOWS, names::NAT_REPLIES] {
        loader.map_max_entries(map, 1 << 20);
    }
    let mut kernel = Kernel::load_with(&mut loader)?;
    (group.world)().to_kernel(&mut kernel)?;
    let first = rows.len();
    for case in &chosen {
        let mut row = measure(&mut kernel, floor, steady, case).with_context(|| case.name())?;
        row.compare(rows);
        report::line(&row, steady);
        rows.push(row);
    }
    for (at, case) in chosen.iter().enumerate() {
        if !rows[first + at].disturbed(steady) {
            continue;
        }
        let mut row = measure(&mut kernel, floor, steady, case).with_context(|| case.name())?;
        row.compare(rows);
        if row.steadier_than(&rows[first + at]) {
            report::line(&row, steady);
            rows[first + at] = row;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    let (rows, steady) = Lab::run(|_| {
        let floor = bare()?;
        let mut steady = Steady::default();
        report::head();
        let mut rows: Vec<Row> = Vec::new();
        for group in cases::groups() {
            measure_group(&group, args.filter.as_deref(), &floor, &mut steady, &mut rows)?;
        }
        report::machine(&steady, &rows);
        Ok((rows, steady))
    })?;
    ensure!(!rows.is_empty(), "no case has a name like that");
    if args.markdown {
        report::markdown(&rows);
    }
    if let Some(file) = args.json {
        std::fs::write(&file, format!("{:#}\n", report::json(&rows, &steady)))
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}
