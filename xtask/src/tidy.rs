//! `cargo xtask tidy`: the project's own rules, those that no other tool knows.
//!
//! Owns the run over the checkout and the report. `tidy/rooms.rs` holds the crates to ARCHITECTURE.md, `tidy/files.rs`
//! each file to its form. Format, clippy and licences are `lint`'s; that docs and code have the same names is tested beside
//! the code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{shell, workspace::Workspace};

mod files;
mod rooms;

/// Check the project's own rules: rooms and files.
///
/// Rooms: which crate may use which, as the table in ARCHITECTURE.md says. Files: each Rust file opens with `//!`, has
/// at most 600 lines without its tests, no mod.rs, nothing built, no path of somebody's machine, no dead link.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A rule that is broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    /// The file, with its line where there is one, or the crate.
    place: String,
    /// What is wrong, and the mend.
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

pub(crate) fn run(_args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    shell::heading("tidy");
    let paths = tracked(&workspace)?;
    let mut findings = Vec::new();
    for path in &paths {
        let file = workspace.root.join(path);
        // A file that is deleted and not yet committed is still listed.
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        findings.extend(files::check(path, &bytes));
        findings.extend(files::dead_links(path, &bytes, |target| {
            workspace.root.join(target).exists()
        }));
    }
    findings.extend(rooms::check(
        &read(&workspace, "ARCHITECTURE.md")?,
        &metadata(&workspace, "Cargo.toml")?,
    ));
    metadata(&workspace, "tests/fuzz/Cargo.toml")?;
    for root in rooms::SAFE_ROOTS {
        findings.extend(rooms::forbids_unsafe(root, &read(&workspace, root)?));
    }

    findings.sort();
    for Finding { place, what } in &findings {
        shell::note(&format!("{place}: {what}"));
    }
    match findings.len() {
        0 => {
            shell::note(&format!("{} files, all in order", paths.len()));
            Ok(())
        }
        n => bail!("{n} rule(s) broken, above"),
    }
}

fn read(workspace: &Workspace, path: &str) -> Result<String> {
    fs::read_to_string(workspace.root.join(path)).with_context(|| format!("reading {path}"))
}

/// What belongs to the project: files that git has or would take, relative to the root.
fn tracked(workspace: &Workspace) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(&workspace.root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    // An unpacked archive has no git: then it is every file but what builds leave.
    let listed = workspace.root.join(".git").exists();
    let mut paths: Vec<String> = if listed {
        shell::output(&mut git)?
            .split('\0')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        let mut found = Vec::new();
        walk(&workspace.root, &mut |file| found.push(workspace.shorten(file)))?;
        found
    };
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}

/// Shows every file below `dir` to `each`, leaving out what builds leave.
fn walk(dir: &Path, each: &mut impl FnMut(&Path)) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default();
        if path.is_symlink() {
            continue;
        }
        if path.is_file() {
            each(&path);
        } else if !["target", "artifacts", "coverage"]
            .iter()
            .any(|built| name == *built)
        {
            walk(&path, each)?;
        }
    }
    Ok(())
}

/// Cargo's description of the workspace of `manifest`; fails when its `Cargo.lock` is behind.
fn metadata(workspace: &Workspace, manifest: &str) -> Result<Value> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--manifest-path",
        manifest,
    ]);
    let text = shell::output(&mut cargo).with_context(|| {
        format!("the Cargo.lock beside {manifest} must fit: run `cargo check`, commit it")
    })?;
    serde_json::from_str(&text).context("reading what `cargo metadata` wrote")
}
