//! Tools of cargo: rustfmt and clippy from rustup, cargo-deny and cargo-fuzz from crates.io.
//!
//! Owns their pinned versions and where they are installed (`target/tools`). What they check stands in `lint` and
//! `fuzz`.

use std::{path::PathBuf, process::Command, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

use crate::{shell, workspace, workspace::Workspace};

/// A tool that cargo builds from crates.io.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    version: &'static str,
    about: &'static str,
}

/// Licences, duplicates and sources of dependencies.
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    about: "about 2 min on two cores",
};
/// libFuzzer for Rust.
pub(crate) const FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    about: "about a minute",
};

impl Tool {
    /// Where it is: installed for this checkout, or in `PATH`.
    pub(crate) fn find(&self, workspace: &Workspace) -> Option<PathBuf> {
        let own = workspace.tools().join("bin").join(self.name);
        if own.is_file() {
            Some(own)
        } else {
            shell::find(self.name)
        }
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        if self.find(workspace).is_some() {
            return Ok(());
        }
        shell::note(&format!(
            "building {} {}: {}",
            self.name, self.version, self.about
        ));
        let begin = Instant::now();
        let mut cargo = workspace.cargo();
        cargo
            .env_remove("CARGO_TARGET_DIR")
            .args([
                "install",
                self.name,
                "--version",
                self.version,
                "--locked",
                "--quiet",
                "--root",
            ])
            .arg(workspace.tools())
            .arg("--target-dir")
            .arg(workspace.target.join("tools-build"))
            // They run for seconds: optimising them costs more than it ever saves.
            .args(["--profile", "dev"])
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        shell::run(&mut cargo).with_context(|| format!("building {} from crates.io", self.name))?;
        shell::note(&format!(
            "{} was built after {}",
            self.name,
            shell::took(begin.elapsed())
        ));
        Ok(())
    }

    fn state(&self, workspace: &Workspace) -> Result<String, String> {
        let found = self.find(workspace).map(|file| file.display().to_string());
        found.ok_or_else(|| format!("cargo install {} --version {}", self.name, self.version))
    }
}

/// The parts of the toolchain that lint runs, by rustup's names for them.
const COMPONENTS: [&str; 2] = ["rustfmt", "clippy"];

/// Gets what `lint` needs.
pub(super) fn lint(workspace: &Workspace) -> Result<()> {
    for component in COMPONENTS {
        if component_state(workspace, component).is_err() {
            shell::note(&format!("adding {component} to the toolchain"));
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", component]);
            workspace::forget_the_outer_cargo(&mut rustup);
            shell::output_within(&mut rustup, Duration::from_secs(300)).with_context(|| {
                format!(
                    "{component} can't be had: `rustup component add {component}`, or a toolchain that has it"
                )
            })?;
        }
    }
    DENY.install(workspace)
}

/// What `lint` needs, and whether it is there.
pub(super) fn lint_state(workspace: &Workspace) -> Vec<(&'static str, Result<String, String>)> {
    let components = COMPONENTS.iter().map(|c| (*c, component_state(workspace, c)));
    components.chain([(DENY.name, DENY.state(workspace))]).collect()
}

/// Gets what `fuzz` needs.
pub(super) fn fuzz(workspace: &Workspace) -> Result<()> {
    FUZZ.install(workspace)
}

/// Whether cargo-fuzz is there.
pub(super) fn fuzz_state(workspace: &Workspace) -> Result<String, String> {
    FUZZ.state(workspace)
}

fn component_state(workspace: &Workspace, component: &str) -> Result<String, String> {
    let subcommand = if component == "rustfmt" { "fmt" } else { component };
    let mut cargo = workspace.cargo();
    let version = shell::output(cargo.args([subcommand, "--version"]))
        .map_err(|_| "not in the toolchain".to_owned())?;
    Ok(version.trim().to_owned())
}
