//! `cargo xtask lint`: everything a tool can say about the code without running it.
//!
//! Owns which tools run over what, and that warnings are errors here while they are none in daily work. The project's
//! own rules are `tidy`'s.

use std::{process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup, shell,
    toolchain::{self, Toolchain},
    workspace::{self, Workspace},
};

/// Check format, clippy, docs and dependencies; warnings are errors.
///
/// rustfmt and clippy over all crates, clippy over the kernel programs for the kernel's target where the eBPF toolchain
/// has clippy, rustdoc, and cargo-deny (licences, duplicates, sources). All checks run even if one finds something.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Use the machine as it is: install nothing.
    #[arg(long)]
    no_setup: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let begin = Instant::now();
    let workspace = Workspace::locate()?;
    if !args.no_setup {
        setup::ensure(&workspace, &[setup::Task::Lint], None)?;
    }
    let mut failures = Vec::new();
    let mut check = |what: &str, mut command: Command| {
        shell::heading(what);
        let begin = Instant::now();
        match shell::run(&mut command) {
            Ok(()) => shell::note(&format!("clean, {}", shell::took(begin.elapsed()))),
            Err(error) => failures.push(format!("{what}: {error:#}")),
        }
    };

    let cargo = |args: &[&str]| {
        let mut command = workspace.cargo();
        command.args(args);
        command
    };
    let fuzz = "tests/fuzz/Cargo.toml";
    check("format", cargo(&["fmt", "--all", "--check"]));
    check(
        "format of the fuzz crate",
        cargo(&["fmt", "--check", "--manifest-path", fuzz]),
    );
    check(
        "clippy",
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
    // Not among "all targets": it is kept out of a plain `cargo test`.
    check(
        "clippy of the datapath's kernel tests",
        cargo(&[
            "clippy",
            "--package",
            "weir-datapath",
            "--test",
            "kernel",
            "--",
            "-D",
            "warnings",
        ]),
    );
    let mut of_fuzz = cargo(&["clippy", "--all-targets", "--manifest-path", fuzz, "--target-dir"]);
    of_fuzz.arg(&workspace.target).args(["--", "-D", "warnings"]);
    check("clippy of the fuzz crate", of_fuzz);
    let mut kernel = kernel_clippy(&workspace)?;
    kernel
        .arg("--target-dir")
        .arg(workspace.target.join("bpf-build"))
        .args(["--", "-D", "warnings"]);
    check("clippy of the kernel programs", kernel);
    let mut docs = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--keep-going",
    ]);
    // These pages are for whoever changes weir: links to private items lead somewhere.
    docs.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    check("docs", docs);
    let Some(deny) = setup::DENY.find(&workspace) else {
        bail!("there is no cargo-deny: `cargo xtask setup --for lint`");
    };
    let mut deny = Command::new(deny);
    deny.current_dir(&workspace.root)
        .args(["check", "bans", "licenses", "sources"]);
    workspace::forget_the_outer_cargo(&mut deny);
    check("dependencies", deny);

    if !failures.is_empty() {
        bail!("lint found something\n  {}", failures.join("\n  "));
    }
    shell::heading(&format!("lint: all clean, {}", shell::took(begin.elapsed())));
    Ok(())
}

/// Clippy of the eBPF toolchain.
fn kernel_clippy(workspace: &Workspace) -> Result<Command> {
    let Ok(toolchain) = Toolchain::find(&workspace.tools(), &toolchain::recipes(None)) else {
        bail!("there is no eBPF toolchain: `cargo xtask setup --for lint`");
    };
    let name = toolchain.compiler.recipe.name();
    let clippy = toolchain.clippy(&workspace.root);
    clippy
        .with_context(|| format!("the eBPF toolchain ({name}) has no clippy: `cargo xtask setup --for lint`"))
}
