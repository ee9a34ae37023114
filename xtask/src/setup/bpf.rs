//! Getting an eBPF toolchain: a compiler with `core` for the kernel's target, and `bpf-linker`.
//!
//! Owns the choice between the two recipes and their installation. What a complete toolchain is, `toolchain` knows.

use std::{process::Command, time::Duration, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::apt;
use crate::{
    shell,
    toolchain::{self, Compiler, LINKER_VERSION, Recipe, Toolchain},
    workspace::{self, Workspace},
};

/// Debian's compiler, and the package whose presence in the archive decides.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", DEBIAN_CORE];
const DEBIAN_CORE: &str = "libstd-rust-web-dev-bpf";
/// The LLVM versions that the pinned bpf-linker can be built with.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// How long rustup may be silent: a server that can't be reached is not noticed otherwise.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// Installs the first recipe that this machine can have; `missing` names those to try and what each lacks now.
pub(super) fn install(workspace: &Workspace, missing: &[(Recipe, String)]) -> Result<Toolchain> {
    shell::note("the eBPF toolchain is not complete:");
    for (recipe, why) in missing {
        shell::note(&format!("  {}: {why}", recipe.name()));
    }
    let mut failures = Vec::new();
    for (recipe, _) in missing {
        match install_one(workspace, *recipe) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => {
                shell::note(&format!("{} can't be had: {error:#}", recipe.name()));
                failures.push(format!("{}: {error:#}", recipe.name()));
            }
        }
    }
    Err(anyhow!(
        "no compiler for the eBPF programs:\n  {}\nEither is enough. By hand: `rustup toolchain install nightly \
         --component rust-src` and a bpf-linker {LINKER_VERSION} in PATH (`cargo binstall bpf-linker`), or on Debian \
         `apt-get install {}` and the same",
        failures.join("\n  "),
        DEBIAN.join(" "),
    ))
}

fn install_one(workspace: &Workspace, recipe: Recipe) -> Result<Toolchain> {
    let compiler = match toolchain::compiler(recipe) {
        Ok(compiler) => compiler,
        Err(_) => {
            shell::note(&format!("trying {}: {}", recipe.name(), recipe.what()));
            match recipe {
                Recipe::Debian => install_debian()?,
                Recipe::Rustup => install_nightly()?,
            }
            toolchain::compiler(recipe)
                .map_err(|e| anyhow!(e))
                .context("it is installed, but does not work")?
        }
    };
    if toolchain::linker(&workspace.tools(), compiler.llvm).is_err() {
        install_linker(workspace, &compiler)?;
    }
    Toolchain::find(&workspace.tools(), &[recipe]).map_err(|missing| {
        anyhow!(
            missing
                .into_iter()
                .map(|(_, why)| why)
                .collect::<Vec<_>>()
                .join("; ")
        )
    })
}

fn install_debian() -> Result<()> {
    if !apt::here() {
        bail!("this machine has no apt");
    }
    if apt::candidate(DEBIAN_CORE).is_none() {
        apt::update()?;
    }
    let Some(version) = apt::candidate(DEBIAN_CORE) else {
        bail!("apt does not offer {DEBIAN_CORE} (Debian 12 has it in bookworm-security)");
    };
    shell::note(&format!("Debian's Rust {version}: about 30 s"));
    apt::install(&DEBIAN.map(str::to_owned))
}

fn install_nightly() -> Result<()> {
    if shell::find("rustup").is_none() {
        bail!("there is no rustup (https://rustup.rs)");
    }
    let mut list = Command::new("rustup");
    list.args(["toolchain", "list"]);
    let has_nightly = shell::output(&mut list)?
        .lines()
        .any(|l| l.starts_with("nightly-") || l == "nightly");
    let mut command = Command::new("rustup");
    if has_nightly {
        command.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        command.args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]);
    }
    workspace::forget_the_toolchain(&mut command);
    shell::note(&format!(
        "$ {} (at most {})",
        shell::show(&command),
        shell::took(RUSTUP_LIMIT)
    ));
    let begin = Instant::now();
    shell::output_within(&mut command, RUSTUP_LIMIT).context("rustup can't fetch it")?;
    shell::note(&format!("rustup was done after {}", shell::took(begin.elapsed())));
    Ok(())
}

/// Gets clippy for the kernel programs.
pub(super) fn clippy(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    if toolchain.clippy(&workspace.root).is_some() {
        return Ok(());
    }
    match toolchain.compiler.recipe {
        Recipe::Debian => apt::install(&["rust-web-clippy".to_owned()]),
        Recipe::Rustup => {
            let mut command = Command::new("rustup");
            command.args(["component", "add", "clippy", "--toolchain", "nightly"]);
            workspace::forget_the_toolchain(&mut command);
            shell::output_within(&mut command, RUSTUP_LIMIT)
                .context("rustup can't fetch nightly's clippy")?;
            Ok(())
        }
    }
}

/// Builds bpf-linker against the machine's LLVM; where the distribution has none that is new enough, takes upstream's
/// own binary, which brings its LLVM along.
fn install_linker(workspace: &Workspace, compiler: &Compiler) -> Result<()> {
    let wanted = (*LINKER_LLVM.start()).max(compiler.llvm)..=*LINKER_LLVM.end();
    if wanted.is_empty() {
        bail!(
            "rustc {} has LLVM {}, bpf-linker {LINKER_VERSION} knows LLVM up to {}",
            compiler.version,
            compiler.llvm,
            LINKER_LLVM.end()
        );
    }
    let offered = |llvm: &u32| apt::candidate(&format!("llvm-{llvm}-dev")).is_some();
    let packaged = apt::here().then(|| wanted.clone().find(offered)).flatten();
    match packaged {
        Some(llvm) => build_linker(workspace, llvm),
        None => download_linker(workspace).with_context(|| {
            format!("no package llvm-N-dev with N in {wanted:?} to build bpf-linker with, and")
        }),
    }
}

fn build_linker(workspace: &Workspace, llvm: u32) -> Result<()> {
    let packages = ["zlib1g-dev", "libzstd-dev", "libxml2-dev"].map(str::to_owned);
    let llvm_packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    apt::install(&[&packages[..], &llvm_packages[..]].concat())?;
    shell::note(&format!(
        "building bpf-linker {LINKER_VERSION} with LLVM {llvm}: about a minute"
    ));
    let begin = Instant::now();
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut cargo = workspace.cargo();
    cargo.env_remove("CARGO_TARGET_DIR").env("LLVM_PREFIX", &prefix);
    // llvm-sys takes its variable's name from its own version, which numbers LLVM's minor release too.
    for minor in [0, 1] {
        cargo.env(format!("LLVM_SYS_{llvm}{minor}_PREFIX"), &prefix);
    }
    cargo
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(workspace.tools())
        .arg("--target-dir")
        .arg(workspace.target.join("tools-build"));
    shell::run(&mut cargo).context("building bpf-linker")?;
    shell::note(&format!(
        "bpf-linker was built after {}",
        shell::took(begin.elapsed())
    ));
    Ok(())
}

fn download_linker(workspace: &Workspace) -> Result<()> {
    let machine = std::env::consts::ARCH;
    if !["x86_64", "aarch64"].contains(&machine) {
        bail!("upstream has no bpf-linker for {machine}: build it (its BUILDING.md) and put it in PATH");
    }
    if apt::here() {
        apt::install(&["ca-certificates", "curl", "tar", "zstd"].map(str::to_owned))?;
    }
    let bin = workspace.tools().join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
    let archive = bin.join("bpf-linker.tar.zst");
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER_VERSION}/bpf-linker-{machine}-unknown-linux-musl.tar.zst"
    );
    let mut curl = Command::new("curl");
    curl.args([
        "--fail",
        "--silent",
        "--show-error",
        "--location",
        "--proto",
        "=https",
        "--connect-timeout",
        "15",
    ]);
    curl.args(["--max-time", "300", "--output"])
        .arg(&archive)
        .arg(&url);
    shell::run(&mut curl).context("upstream's bpf-linker can't be fetched")?;
    let mut tar = Command::new("tar");
    tar.arg("--zstd")
        .arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&bin);
    shell::run(&mut tar)?;
    std::fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))
}
