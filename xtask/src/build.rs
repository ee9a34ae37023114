//! `cargo xtask build`: the eBPF object, then the one binary with the object inside.
//!
//! Owns the order of the two builds, where the object goes and what is shown of it. Which compiler builds the object
//! is `toolchain`'s choice; that it is there is `setup`'s work. Cargo decides what is fresh. The build by profile is
//! `build/guided.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

mod guided;

use crate::{elf, setup, shell, toolchain::Recipe, workspace::Workspace};

/// Build the eBPF object and the weir binary that holds it.
///
/// The binary is left at `target/release/weir` (`target/debug/weir` without --release), the object at
/// `target/bpf/weir.o`; with CARGO_TARGET_DIR set, below that directory instead. What the eBPF toolchain lacks is
/// installed first when this runs as root, as by `cargo xtask setup --for build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised; what is meant to run on an edge box.
    #[arg(long)]
    release: bool,
    /// Only the eBPF object.
    #[arg(long, conflicts_with = "profile_guided")]
    only_object: bool,
    /// Optimised by what a first build does under load: less CPU per request. Takes three times as long, two cores, and programs
    /// for the load (nginx, wrk, h2load), which are installed first, as by `cargo xtask setup --for profile`, when this runs
    /// as root. Left at target/guided/weir.
    #[arg(long)]
    profile_guided: bool,
    /// Take this eBPF toolchain and no other.
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<Recipe>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    object(&workspace, args.recipe)?;
    if !args.only_object {
        optimised_or(&workspace, args.profile_guided, args.release, true)?;
    }
    Ok(())
}

/// Builds the binary, by profile if that is asked for, and returns where it is. With `may_install`, what is missing for the load
/// is installed.
pub(crate) fn optimised_or(
    workspace: &Workspace,
    profile_guided: bool,
    release: bool,
    may_install: bool,
) -> Result<PathBuf> {
    if profile_guided {
        return guided::binary(workspace, may_install);
    }
    binary(workspace, release)
}

/// Builds the eBPF object and returns where it is.
pub(crate) fn object(workspace: &Workspace, forced: Option<Recipe>) -> Result<PathBuf> {
    let toolchain = setup::ebpf_toolchain(workspace, forced)?;
    shell::heading("eBPF object");
    shell::note(&format!("by {toolchain}"));
    let begin = Instant::now();
    // A target directory of its own: other flags, another compiler, and no waiting for the lock of a build outside.
    let out = workspace.target.join("bpf-build");
    let mut cargo = toolchain.build(&workspace.root);
    cargo.arg("--target-dir").arg(&out);
    shell::run(&mut cargo).context("building the eBPF object")?;

    let built = out.join("bpfel-unknown-none/bpf/weir-ebpf");
    let image = fs::read(&built).with_context(|| format!("reading the built object {}", built.display()))?;
    let Some(sections) = elf::sections(&image) else {
        bail!(
            "{} is not an eBPF object: remove {} and build again",
            built.display(),
            out.display()
        );
    };
    let object = workspace.object();
    // Unchanged bytes keep their time, so that what embeds them stays fresh.
    if fs::read(&object).ok().as_ref() != Some(&image) {
        let dir = object.parent().context("the object's path has no directory")?;
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        fs::write(&object, &image).with_context(|| format!("writing {}", object.display()))?;
    }
    let shown = sections.iter().filter(|s| s.size > 0 && is_loaded(&s.name));
    let shown: Vec<_> = shown.map(|s| format!("{} {}", s.name, s.size)).collect();
    let name = workspace.shorten(&object);
    shell::note(&format!(
        "{name}: {} bytes ({}), {}",
        image.len(),
        shown.join(", "),
        shell::took(begin.elapsed())
    ));
    Ok(object)
}

/// Whether a section holds code, data or maps, not what only debuggers and linkers read.
fn is_loaded(name: &str) -> bool {
    let other = [
        ".debug",
        ".rel",
        ".symtab",
        ".strtab",
        ".shstrtab",
        ".llvm",
        ".comment",
    ];
    !name.is_empty() && !other.iter().any(|prefix| name.starts_with(prefix))
}

/// Builds the binary around the object and returns where it is.
pub(crate) fn binary(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    shell::heading(if release { "weir, optimised" } else { "weir" });
    let begin = Instant::now();
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--package", "weir"])
        .env("WEIR_EBPF_OBJECT", workspace.object());
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo).context("building the weir binary")?;
    let binary = workspace
        .target
        .join(if release { "release" } else { "debug" })
        .join("weir");
    told(workspace, &binary, begin)?;
    Ok(binary)
}

/// Tells of a binary that was built.
fn told(workspace: &Workspace, binary: &Path, begin: Instant) -> Result<()> {
    let size = fs::metadata(binary)
        .with_context(|| format!("looking for {}", binary.display()))?
        .len();
    let name = workspace.shorten(binary);
    shell::note(&format!(
        "{name}: {:.1} MiB, {}",
        size as f64 / f64::from(1 << 20),
        shell::took(begin.elapsed())
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_loaded_is_shown() {
        assert!(
            ["xdp", ".text", "maps", ".BTF", "license"]
                .into_iter()
                .all(is_loaded)
        );
        assert!(
            !["", ".debug_info", ".relxdp", ".strtab"]
                .into_iter()
                .any(is_loaded)
        );
    }
}
