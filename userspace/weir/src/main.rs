//! The `weir` binary: one program for the command line, the control process and its children.
//!
//! Owns the composition: which process does what, how they speak to each other, what operators see. All policy is in
//! `weir-core`, all kernel work in `weir-datapath`, all traffic in `weir-relay`, all probing in `weir-health`,
//! all of certificates and keys in `weir-tls`.
#![forbid(unsafe_code)]

mod admin;
mod capture;
mod cli;
mod client;
mod context;
mod control;
#[cfg(test)]
mod docs;
mod doctor;
mod ipc;
mod logging;
mod notify;
mod privileges;
mod render;
mod role;
mod tls;

use std::{io::Write, path::Path, process::ExitCode};

use clap::Parser;

use crate::cli::{Cli, Command, Role};

/// Exit code for a configuration with mistakes.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => return run(&args),
        Command::Check { file, quiet } => return check(&file, quiet),
        Command::Status(args) => client::status(&args),
        Command::Pools(args) => client::pools(&args),
        Command::Backend {
            wish,
            backend,
            socket,
        } => client::backend(wish, &backend, &socket),
        Command::Ha(args) => client::ha(&args),
        Command::Demote {
            group,
            by,
            drain,
            socket,
        } => client::demote(&group, by, drain, &socket),
        Command::Reload { socket } => client::reload(&socket),
        Command::Upgrade { socket } => client::upgrade(&socket),
        Command::Ban(args) => client::list(&args, true),
        Command::Allow(args) => client::list(&args, false),
        Command::Unlist { networks, socket } => client::unlist(&networks, &socket),
        Command::Lists(args) => client::lists(&args),
        Command::Sysctl(args) => client::sysctl(&args),
        Command::Doctor {
            interfaces,
            config,
            json,
        } => {
            return doctor::run(interfaces, config.as_deref(), json).unwrap_or_else(|e| fail(&e));
        }
        Command::Flows(args) => client::flows(&args),
        Command::Explain(what) => client::explain(&what),
        Command::Capture(args) => capture::run(&args),
        Command::Role(Role::Relay { workers, access, log }) => role::relay::run(workers, &access, &log),
        Command::Role(Role::Keys { log }) => role::keys::run(&log),
        Command::Role(Role::Health { log }) => role::health::run(&log),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(args: &cli::RunArgs) -> ExitCode {
    // Mistakes in the file are shown as `weir check` shows them, not as log lines.
    let loaded = match context::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            complain(&report.to_string());
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let run = |()| {
        context::tell_untimely(&loaded);
        control::run(args, loaded)
    };
    match logging::init(&args.log, "control").and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn check(file: &Path, quiet: bool) -> ExitCode {
    match context::load(file) {
        Ok(loaded) if !loaded.untimely.is_empty() => {
            for (_, mistake) in &loaded.untimely {
                complain(&mistake.to_string());
            }
            ExitCode::from(BAD_CONFIG)
        }
        Ok(loaded) => {
            if !quiet {
                let (pools, services) = (loaded.plan.pools.len(), loaded.plan.services.len());
                let mut line = format!(
                    "{}: fine, {services} service(s), {pools} pool(s)\n",
                    file.display()
                );
                for pool in tls::unverified_pools(&loaded.plan) {
                    line.push_str(&format!("note: {}\n", tls::unverified(pool)));
                }
                // Whoever closed standard output has the exit code.
                let _ = std::io::stdout().write_all(line.as_bytes());
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            complain(&report.to_string());
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    complain(&format!("weir: {error:#}"));
    ExitCode::FAILURE
}

/// To standard error; if that is closed there is nobody left to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}
