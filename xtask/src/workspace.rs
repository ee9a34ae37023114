//! Where things lie: the workspace's root, the target directory, and `cargo` itself.
//!
//! Owns paths and the environment that child commands get. Never builds anything.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell;

/// The checkout this task works on.
pub(crate) struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory: `CARGO_TARGET_DIR`, a setting in cargo's configuration, or `target`.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this program was built from, or that it runs in.
    ///
    /// # Errors
    /// Cargo doesn't know a workspace here.
    pub(crate) fn locate() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = package
            .parent()
            .context("the directory of xtask has no parent")?
            .to_path_buf();
        let mut command = cargo_at(&root);
        command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
        let text = shell::output(&mut command).context("asking cargo for its target directory")?;
        let metadata: Value = serde_json::from_str(&text).context("reading what `cargo metadata` wrote")?;
        let target = metadata.get("target_directory").and_then(Value::as_str);
        let target = target
            .context("`cargo metadata` names no target directory")?
            .into();
        Ok(Self { root, target })
    }

    /// `cargo` of the toolchain that runs this task, at the workspace's root.
    ///
    /// Cargo's own variables of the run that started us are taken away, so a nested build is the same build that the
    /// user would start by hand, and both find each other's work fresh.
    pub(crate) fn cargo(&self) -> Command {
        cargo_at(&self.root)
    }

    /// The eBPF object that `build` leaves and everything else takes.
    pub(crate) fn object(&self) -> PathBuf {
        self.target.join("bpf/weir.o")
    }

    /// Where tools are installed that only this checkout uses.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A path below the root as one reads it: relative to the root when it lies there.
    pub(crate) fn shorten(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

fn cargo_at(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    forget_the_outer_cargo(&mut command);
    command
}

/// Takes away what `cargo run` tells the program it runs.
pub(crate) fn forget_the_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_the_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if of_the_package.iter().any(|p| text.starts_with(p)) || text == "CARGO_PRIMARY_PACKAGE" {
            command.env_remove(&name);
        }
    }
}

/// Takes away what ties a command to the toolchain that runs this task, for a command of another toolchain.
pub(crate) fn forget_the_toolchain(command: &mut Command) {
    forget_the_outer_cargo(command);
    for name in [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_BOOTSTRAP",
    ] {
        command.env_remove(name);
    }
    if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
        match without_toolchains(&paths) {
            Some(rest) => command.env("LD_LIBRARY_PATH", rest),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

/// A library path without the entries that rustup and cargo put in front of it.
fn without_toolchains(paths: &OsString) -> Option<OsString> {
    let foreign = |path: &PathBuf| {
        let text = path.to_string_lossy();
        !text.is_empty() && !text.contains("/toolchains/") && !text.contains("/rustlib/")
    };
    let rest: Vec<PathBuf> = env::split_paths(paths).filter(foreign).collect();
    if rest.is_empty() {
        None
    } else {
        env::join_paths(rest).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_found() {
        let workspace = Workspace::locate().expect("a workspace");
        assert!(workspace.root.join("ARCHITECTURE.md").is_file());
        assert!(workspace.target.is_absolute());
        assert_eq!(workspace.shorten(&workspace.root.join("docs/x.md")), "docs/x.md");
        assert_eq!(workspace.shorten(Path::new("/elsewhere")), "/elsewhere");
    }

    #[test]
    fn only_the_toolchains_own_libraries_go() {
        let path = OsString::from("/r/toolchains/stable/lib:/opt/mine:");
        assert_eq!(without_toolchains(&path), Some("/opt/mine".into()));
        assert_eq!(without_toolchains(&"/r/toolchains/stable/lib".into()), None);
    }
}
