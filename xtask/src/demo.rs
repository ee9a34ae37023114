//! `cargo xtask demo`: the balancer at work on real traffic, in network namespaces that it makes and removes itself.
//!
//! Owns the order of things: set-up, build, the lab, the story, the closing table, the cleaning up. `demo/stage.rs`
//! puts the lab together, `demo/traffic.rs` drives and counts, `demo/story.rs` lets a backend die and come back and
//! takes the measurements, `demo/screen.rs` shows them while they grow, `demo/report.rs` shows what came of it and
//! judges. Namespaces, peers and weir itself are driven by `weir-harness`, as in the tests. Every figure shown is
//! measured; what does not hold is an error.

mod report;
mod screen;
mod stage;
mod story;
mod traffic;

use std::{
    env,
    fs::{self, File, TryLockError},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use weir_harness::{Lab, Scratch, interrupt};

use crate::{build, setup, shell, workspace::Workspace};
use stage::{LAB, Stage};

/// Show weir at work on real traffic, in network namespaces that it makes and removes itself.
///
/// Sets up what is missing, builds, and starts a client, a weir box with two interfaces and three nginx backends. An
/// L4 service (XDP) and an HTTP service (relay) run side by side on one virtual address, IPv4 and IPv6, under load
/// from curl. One backend is killed and brought back. Needs root. With WEIR_BIN set, that binary is shown and nothing
/// is set up or built.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the lab up and say how to enter it.
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Remove a lab that was left up, and do nothing else.
    #[arg(long)]
    down: bool,
    /// How long the traffic runs, set-up not counted.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(9..=3600))]
    seconds: u64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "the demo makes network namespaces and loads XDP programs: run it as root, for example \
             `sudo --preserve-env=PATH,HOME cargo xtask demo`"
        );
    }
    let _only = Only::one()?;
    if args.down {
        let found = remove_leftovers()?;
        shell::note(if found {
            "the lab is gone"
        } else {
            "there is no lab"
        });
        return Ok(());
    }
    let binary = match env::var_os("WEIR_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let workspace = Workspace::locate()?;
            setup::ensure(&workspace, &[setup::Task::Build, setup::Task::Demo], None)?;
            build::object(&workspace, None)?;
            build::binary(&workspace, true)?
        }
    };
    // From here on Ctrl-C ends the story, not the process: everything made is dropped on the way out.
    interrupt::install().context("can't take over Ctrl-C")?;
    let shown = show(&args, binary);
    if interrupt::requested() {
        bail!("interrupted; the lab is gone");
    }
    shown
}

/// Builds the lab, tells the story, judges it. The lab is gone when this returns, whatever happens, unless it is to be
/// kept.
fn show(args: &Args, binary: PathBuf) -> Result<()> {
    shell::heading("a lab in network namespaces");
    if remove_leftovers()? {
        shell::note("(removed what an earlier run had left)");
    }
    let mut lab = Lab::new(LAB, stage::BACKENDS)?;
    let mut stage = Stage::set(&lab, binary)?;
    stage.describe();
    let evidence = story::tell(&lab, &mut stage, Duration::from_secs(args.seconds))?;
    report::show(&evidence);
    let verdict = stage.weir.with_log(report::judge(&evidence));
    if args.keep {
        report::how_to_enter(&stage);
        stage.keep();
        lab.keep();
        return verdict;
    }
    let stopped = stage.strike(&lab);
    report::how_to_go_on();
    verdict.and(stopped)
}

/// Removes the lab and the files of an earlier run. Returns whether there was a lab.
fn remove_leftovers() -> Result<bool> {
    let found = Lab::remove_named(LAB).context("can't remove the lab of an earlier run")?;
    for name in stage::directories() {
        Scratch::remove_named(&name)?;
    }
    Ok(found)
}

/// Keeps a second demo out while this one runs: both would use the same names.
struct Only {
    path: PathBuf,
    _lock: File,
}

impl Only {
    fn one() -> Result<Self> {
        let path = env::temp_dir().join(format!("{LAB}.lock"));
        let lock = File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("another demo is running"),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("can't lock {}", path.display())),
        }
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        // It may be gone already; it holds nothing.
        let _ = fs::remove_file(&self.path);
    }
}
