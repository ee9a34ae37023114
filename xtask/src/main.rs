//! The project's tasks, one file per subcommand: `cargo xtask --help`.
//!
//! Owns the command line and nothing else: each subcommand is one module with one `run`. What several of them need
//! (where things lie, how a command is run and shown, which eBPF toolchain there is) stands in `workspace`, `shell`
//! and `toolchain`. Uses none of weir's own crates but the harness, for the demo: it builds in seconds on a fresh machine.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod demo;
mod deploy;
mod elf;
mod fuzz;
mod lint;
mod setup;
mod shell;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// weir's project tasks.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    about,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Build(build::Args),
    Demo(demo::Args),
    Test(test::Args),
    Lint(lint::Args),
    Tidy(tidy::Args),
    Fuzz(fuzz::Args),
    Bench(bench::Args),
    Soak(soak::Args),
    Deploy(deploy::Args),
    /// A part of `bench failover`, on one of its boxes.
    #[command(hide = true)]
    AnswerProbes(bench::failover::answer::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(args),
        Task::Build(args) => build::run(args),
        Task::Demo(args) => demo::run(args),
        Task::Test(args) => test::run(args),
        Task::Lint(args) => lint::run(args),
        Task::Tidy(args) => tidy::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Soak(args) => soak::run(args),
        Task::Deploy(args) => deploy::run(args),
        Task::AnswerProbes(args) => bench::failover::answer::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::error(&error);
            ExitCode::FAILURE
        }
    }
}
