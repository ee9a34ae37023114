//! `cargo xtask fuzz`: libFuzzer over the decoders that strangers reach.
//!
//! Owns how cargo-fuzz is called. What a target does with its bytes stands in `tests/fuzz`, where `cargo test` replays
//! the committed corpus on stable Rust; only the search for new inputs needs nightly.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    setup, shell,
    workspace::{self, Workspace},
};

/// Search for inputs that break a decoder.
///
/// Needs rustup's nightly and cargo-fuzz (`cargo xtask setup --for fuzz`). The seeds in tests/fuzz/corpus are read, new
/// inputs go to target/fuzz-corpus; one that crashes is left in tests/fuzz/artifacts and its path is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets.
    #[arg(value_name = "TARGET", default_values = ["packet", "http-head", "http2-front", "first-bytes", "vrrp", "sync", "config"])]
    targets: Vec<Target>,
    /// Seconds for each.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Use the machine as it is: install nothing.
    #[arg(long)]
    no_setup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Target {
    /// A frame through parser and decision.
    Packet,
    /// Heads of HTTP requests and responses.
    HttpHead,
    /// Frames of a client of HTTP/2.
    Http2Front,
    /// A PROXY header, or a TLS ClientHello that is passed on.
    FirstBytes,
    /// A VRRP advert, and what happens to a group of virtual routers.
    Vrrp,
    /// What boxes tell each other of flows.
    Sync,
    /// weir.toml.
    Config,
}

impl Target {
    /// Its name in `tests/fuzz`.
    fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::HttpHead => "http_head",
            Self::Http2Front => "http2_front",
            Self::FirstBytes => "first_bytes",
            Self::Vrrp => "vrrp",
            Self::Sync => "sync",
            Self::Config => "config",
        }
    }

    /// The longest input that can mean anything new.
    fn longest(self) -> u32 {
        match self {
            Self::Packet | Self::Vrrp | Self::Sync => 2_048,
            Self::HttpHead | Self::Http2Front | Self::FirstBytes => 4_096,
            Self::Config => 8_192,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    if !args.no_setup {
        setup::ensure(&workspace, &[setup::Task::Fuzz], None)?;
    }
    let Some(tool) = setup::FUZZ.find(&workspace) else {
        bail!("there is no cargo-fuzz: `cargo xtask setup --for fuzz`");
    };
    require_nightly()?;
    let mut failures = Vec::new();
    for target in args.targets {
        let name = target.name();
        shell::heading(&format!("fuzz {name} for {} s", args.seconds));
        if let Err(error) = fuzz(&workspace, &tool, target, args.seconds) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    if !failures.is_empty() {
        bail!(
            "fuzzing found something (or could not run)\n  {}\nThe input and the stack are above; keep it: copy the \
             input from tests/fuzz/artifacts to tests/fuzz/corpus with the mend",
            failures.join("\n  ")
        );
    }
    Ok(())
}

fn fuzz(workspace: &Workspace, tool: &Path, target: Target, seconds: u32) -> Result<()> {
    let name = target.name();
    let found = workspace.target.join("fuzz-corpus").join(name);
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let before = entries(&found);
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly"])
        .arg(tool)
        .args(["fuzz", "run", "--features", "libfuzzer", "--fuzz-dir"]);
    command.arg(workspace.root.join("tests/fuzz"));
    command
        .arg("--target-dir")
        .arg(workspace.target.join("fuzz"))
        .arg(name);
    command
        .arg(&found)
        .arg(workspace.root.join("tests/fuzz/corpus").join(name));
    command.args([
        "--",
        &format!("-max_total_time={seconds}"),
        &format!("-max_len={}", target.longest()),
    ]);
    command.args([
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    workspace::forget_the_toolchain(&mut command);
    command.current_dir(&workspace.root);
    shell::run(&mut command)?;
    let new = entries(&found).saturating_sub(before);
    shell::note(&format!(
        "nothing broke; {new} new inputs in {}",
        workspace.shorten(&found)
    ));
    Ok(())
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// libFuzzer's instrumentation is unstable: only nightly has it.
fn require_nightly() -> Result<()> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--version"]);
    workspace::forget_the_toolchain(&mut rustc);
    let version = shell::output(&mut rustc).context(
        "searching needs rustup's nightly, for the sanitizer's instrumentation: `rustup toolchain install nightly \
         --profile minimal`. Without it, `cargo xtask test fuzz` still replays the corpus, on stable",
    )?;
    shell::note(&format!("by {}", version.trim()));
    Ok(())
}
