//! `cargo xtask test`: all rungs of the tests, in order, with one table at the end.
//!
//! Owns which crates belong to which rung, what each rung needs, and the environment that tests get. Nothing is
//! skipped silently: a rung that this user can't run is an error, and tests that were ignored are counted in the table.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{build, setup, shell, workspace::Workspace};

/// Run the tests: all rungs, or the ones named.
///
/// Sets up what they need (as root), builds the eBPF object and the release binary, runs each rung and ends with a
/// table. `cargo test` alone runs the first rung, without privileges and without the eBPF toolchain.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to run.
    #[arg(value_name = "RUNG", default_values = ["all"])]
    rungs: Vec<Choice>,
    /// Only tests whose name contains this.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Use the machine as it is: install nothing.
    #[arg(long)]
    no_setup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Choice {
    /// Every rung below.
    All,
    /// Tables, properties, simulations, doc tests; needs nothing.
    Unit,
    /// Recorded fuzz corpora and seeded mutations of them; needs nothing.
    Fuzz,
    /// The kernel programs under BPF_PROG_TEST_RUN, and the maps; needs root.
    Dataplane,
    /// The whole system in network namespaces with real peers; needs root.
    Netns,
}

/// One rung of the ladder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rung {
    Unit,
    Fuzz,
    Dataplane,
    Netns,
}

impl Rung {
    const ALL: [Self; 4] = [Self::Unit, Self::Fuzz, Self::Dataplane, Self::Netns];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Fuzz => "fuzz corpus",
            Self::Dataplane => "dataplane",
            Self::Netns => "netns",
        }
    }

    fn needs_root(self) -> bool {
        match self {
            Self::Unit | Self::Fuzz => false,
            Self::Dataplane | Self::Netns => true,
        }
    }

    fn is_chosen(self, choices: &[Choice]) -> bool {
        choices.iter().any(|choice| match choice {
            Choice::All => true,
            Choice::Unit => self == Self::Unit,
            Choice::Fuzz => self == Self::Fuzz,
            Choice::Dataplane => self == Self::Dataplane,
            Choice::Netns => self == Self::Netns,
        })
    }

    /// The `cargo test` calls of this rung, and the options for the test programs.
    fn calls(self, workspace: &Workspace) -> Vec<(Command, &'static [&'static str])> {
        let cargo = |args: &[&str]| {
            let mut command = workspace.cargo();
            command.arg("test").args(args);
            command
        };
        match self {
            Self::Unit => vec![(cargo(&["--no-fail-fast"]), &[])],
            Self::Fuzz => {
                // The crate is a workspace of its own; what it has in common with ours is built once.
                let mut command = cargo(&["--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"]);
                command.arg(&workspace.target);
                vec![(command, &[])]
            }
            // They share pins' directories and the kernel's memory for maps.
            Self::Dataplane => vec![
                (
                    cargo(&["--no-fail-fast", "--package", "weir-dataplane-tests"]),
                    &[],
                ),
                // Apart from the crate's other tests, which need no root and belong to the first rung.
                (
                    cargo(&["--no-fail-fast", "--package", "weir-datapath", "--test", "kernel"]),
                    &["--test-threads=2"],
                ),
            ],
            // Each test has namespaces of its own; more than two at once starve each other on a small machine.
            Self::Netns => vec![(
                cargo(&[
                    "--no-fail-fast",
                    "--package",
                    "weir-harness",
                    "--package",
                    "weir-e2e-tests",
                ]),
                &["--test-threads=2"],
            )],
        }
    }
}

/// What one rung came to.
#[derive(Default)]
struct Outcome {
    count: Count,
    failure: Option<String>,
    time: Duration,
}

/// Tests by how they ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let begin = Instant::now();
    let rungs: Vec<_> = Rung::ALL
        .into_iter()
        .filter(|r| r.is_chosen(&args.rungs))
        .collect();
    let privileged: Vec<_> = rungs
        .iter()
        .filter(|r| r.needs_root())
        .map(|r| r.name())
        .collect();
    if !privileged.is_empty() && !shell::is_root() {
        bail!(
            "the rungs {} need root (namespaces, bpf(2)). As root: `cargo xtask test`; without: `cargo xtask test unit \
             fuzz`",
            privileged.join(" and ")
        );
    }
    let workspace = Workspace::locate()?;
    let mut rows = Vec::new();
    let mut binary = None;
    if !privileged.is_empty() {
        let begin = Instant::now();
        if !args.no_setup {
            setup::ensure(&workspace, &[setup::Task::Test], None)?;
        }
        build::object(&workspace, None)?;
        binary = Some(build::binary(&workspace, true)?);
        rows.push((
            "setup and build",
            Outcome {
                time: begin.elapsed(),
                ..Outcome::default()
            },
        ));
    }
    for rung in rungs {
        shell::heading(&format!("{} tests", rung.name()));
        rows.push((
            rung.name(),
            climb(&workspace, rung, binary.as_ref(), args.filter.as_deref())?,
        ));
    }
    table(&rows);
    shell::note(&format!("total {}", shell::took(begin.elapsed())));
    let failed: Vec<_> = rows
        .iter()
        .filter_map(|(n, o)| Some(format!("{n}: {}", o.failure.as_ref()?)))
        .collect();
    if !failed.is_empty() {
        bail!("tests failed\n  {}", failed.join("\n  "));
    }
    if args.filter.is_some() && rows.iter().all(|(_, o)| o.count == Count::default()) {
        bail!("no test has a name like that");
    }
    Ok(())
}

fn climb(
    workspace: &Workspace,
    rung: Rung,
    binary: Option<&PathBuf>,
    filter: Option<&str>,
) -> Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome::default();
    for (mut command, options) in rung.calls(workspace) {
        if let Some(binary) = binary {
            command
                .env("WEIR_BIN", binary)
                .env("WEIR_EBPF_OBJECT", workspace.object());
        }
        command.arg("--").args(options).args(filter);
        let mut called = Count::default();
        let streamed = shell::stream(&mut command, |line| {
            if let Some(count) = count(line) {
                called.add(count);
            }
        })?;
        outcome.count.add(called);
        if !streamed.ok {
            outcome.failure = Some(match called.failed {
                0 => format!("`{}` failed ({})", shell::show(&command), streamed.status),
                failed => format!("{failed} of {} tests, above", called.passed + failed),
            });
        } else if called == Count::default() && filter.is_none() {
            outcome.failure = Some("no test ran".into());
        }
    }
    outcome.time = begin.elapsed();
    Ok(outcome)
}

/// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn count(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut count = Count::default();
    for part in rest.split("; ") {
        let Some((number, word)) = part.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match word {
            "passed" => count.passed = number,
            "failed" => count.failed = number,
            "ignored" => count.ignored = number,
            _ => {}
        }
    }
    Some(count)
}

fn table(rows: &[(&str, Outcome)]) {
    shell::heading("summary");
    shell::note(&format!(
        "{:<16} {:>7} {:>7} {:>8}   {:>12}",
        "rung", "passed", "failed", "ignored", "time"
    ));
    for (name, Outcome { count, failure, time }) in rows {
        let Count {
            passed,
            failed,
            ignored,
        } = count;
        let mark = if failure.is_some() { "FAILED" } else { "" };
        let time = shell::took(*time);
        shell::note(
            format!("{name:<16} {passed:>7} {failed:>7} {ignored:>8}   {time:>12}  {mark}").trim_end(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 19 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.64s";
        assert_eq!(
            count(line),
            Some(Count {
                passed: 19,
                failed: 2,
                ignored: 1
            })
        );
        assert_eq!(count("test elf::tests::x ... ok"), None);
        assert_eq!(count("running 3 tests"), None);
    }

    #[test]
    fn all_means_each() {
        assert!(Rung::ALL.iter().all(|r| r.is_chosen(&[Choice::All])));
        let chosen = |choice| {
            Rung::ALL
                .into_iter()
                .filter(move |r| r.is_chosen(&[choice]))
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(Choice::Unit), [Rung::Unit]);
        assert_eq!(chosen(Choice::Fuzz), [Rung::Fuzz]);
        assert_eq!(chosen(Choice::Dataplane), [Rung::Dataplane]);
        assert_eq!(chosen(Choice::Netns), [Rung::Netns]);
    }
}
