//! `cargo xtask bench`: the numbers that weir is judged by, measured against peers in the same run.
//!
//! Owns the choice and the builds. `bench/http.rs` compares the relay with HAProxy and nginx, `bench/l4.rs` the datapath
//! with a bare `XDP_TX` and with nftables, `bench/ports.rs` fills the relay's source ports, `bench/tls.rs` compares what TLS
//! with clients costs, `bench/failover.rs` takes boxes from clients.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::{ValueEnum, builder::PossibleValue};
use serde_json::Value;
use weir_harness::Scratch;

use crate::{build, setup, shell, workspace::Workspace};

mod client;
mod cpu;
pub(crate) mod failover;
mod http;
mod l4;
mod outcome;
mod peers;
mod ports;
mod tls;

/// Measure weir against peers in one run; figures go to target/bench/*.json.
///
/// l4 (root): what weir_xdp costs per packet over a bare XDP_TX; packets forwarded per second of CPU, of weir and of
/// nftables; memory and time at scale. http: CPU per request, latency and memory of the relay, of HAProxy and of nginx, one
/// worker each on the same core, in alternating rounds. tls: the same for TLS with clients, and (root) the memory that a field
/// test's load takes. ports (root): connections in TIME_WAIT that the relay's source ports bear, of plain sessions and of
/// MariaDB's; it takes three minutes and both cores. failover (root): time without service when a box of a pair dies, is
/// stopped, is cut off or hands over, beside a pair of keepalived's. Targets are printed beside; those of ports and failover,
/// which are no ratios, fail the run if they are missed. Elsewhere only the ratios of one run mean anything.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_name = "PLANE", default_values = ["l4", "http"])]
    planes: Vec<Plane>,
    /// Rounds per proxy or box. Default: 9 (http, tls), 5 (l4, forward), 3 (failover).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds per round. Default: 1 (http, tls), 5 (l4, forward), 90 or 120 at the most (ports).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// http, tls: connections that are kept busy.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// http: whose access logs are written.
    #[arg(long, value_enum, default_value_t = http::Logs::All)]
    logs: http::Logs,
    /// Only these parts. Default: all of the planes.
    #[arg(long = "part", value_name = "PART", value_delimiter = ',')]
    parts: Vec<Part>,
    /// http: draw a flame graph of weir for each part that measures CPU, target/bench/http-PART.svg.
    #[arg(long)]
    profile: bool,
    /// http, tls, ports, failover: measure a weir that was built by profile (`cargo xtask build --profile-guided`).
    #[arg(long)]
    profile_guided: bool,
    /// Show rows as docs/performance.md has them.
    #[arg(long)]
    markdown: bool,
    /// Use the machine as it is: install nothing.
    #[arg(long)]
    no_setup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Plane {
    /// Packets in XDP.
    L4,
    /// Requests in the relay.
    Http,
    /// Source ports of the relay.
    Ports,
    /// TLS with clients in the relay.
    Tls,
    /// Virtual routers.
    Failover,
}

/// A part of a plane's bench, by one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    L4(l4::Part),
    Http(http::Part),
    Ports(ports::Part),
    Tls(tls::Part),
    Failover(failover::Part),
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        use self::{failover::Part as F, http::Part as H, l4::Part as L, ports::Part as P, tls::Part as T};
        &[
            Self::L4(L::Packet),
            Self::L4(L::Forward),
            Self::L4(L::Scale),
            Self::Http(H::KeepAlive),
            Self::Http(H::Body),
            Self::Http(H::NewConnection),
            Self::Http(H::Http2),
            Self::Http(H::Tcp),
            Self::Http(H::Download),
            Self::Http(H::Latency),
            Self::Http(H::Idle),
            Self::Http(H::Churn),
            Self::Ports(P::Sessions),
            Self::Ports(P::Mariadb),
            Self::Tls(T::FullRsa),
            Self::Tls(T::FullP256),
            Self::Tls(T::Resumed),
            Self::Tls(T::ResumedTls12),
            Self::Tls(T::ClientCertificate),
            Self::Tls(T::KeepAlive),
            Self::Tls(T::Download),
            Self::Tls(T::Idle),
            Self::Tls(T::Field),
            Self::Failover(F::Killed),
            Self::Failover(F::Cut),
            Self::Failover(F::Stopped),
            Self::Failover(F::Backends),
            Self::Failover(F::Demoted),
            Self::Failover(F::Ended),
            Self::Failover(F::Reload),
            Self::Failover(F::Upgrade),
            Self::Failover(F::Crashed),
            Self::Failover(F::Flows),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::L4(part) => part.to_possible_value(),
            Self::Http(part) => part.to_possible_value(),
            Self::Ports(part) => part.to_possible_value(),
            Self::Tls(part) => part.to_possible_value(),
            Self::Failover(part) => part.to_possible_value(),
        }
    }
}

/// What of `parts` belongs to one plane; all of the plane's if nothing was asked for.
fn of_plane<P: ValueEnum + Clone>(parts: &[Part], of: impl Fn(Part) -> Option<P>) -> Vec<P> {
    if parts.is_empty() {
        return P::value_variants().to_vec();
    }
    parts.iter().filter_map(|part| of(*part)).collect()
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    if !args.no_setup {
        setup::ensure(&workspace, &[setup::Task::Bench], None)?;
    }
    let l4_parts = of_plane(&args.parts, |part| match part {
        Part::L4(part) => Some(part),
        Part::Http(_) | Part::Ports(_) | Part::Tls(_) | Part::Failover(_) => None,
    });
    let http_parts = of_plane(&args.parts, |part| match part {
        Part::Http(part) => Some(part),
        Part::L4(_) | Part::Ports(_) | Part::Tls(_) | Part::Failover(_) => None,
    });
    let tls_parts = of_plane(&args.parts, |part| match part {
        Part::Tls(part) => Some(part),
        Part::L4(_) | Part::Http(_) | Part::Ports(_) | Part::Failover(_) => None,
    });
    let ports_parts = of_plane(&args.parts, |part| match part {
        Part::Ports(part) => Some(part),
        Part::L4(_) | Part::Http(_) | Part::Tls(_) | Part::Failover(_) => None,
    });
    let failover_parts = of_plane(&args.parts, |part| match part {
        Part::Failover(part) => Some(part),
        Part::L4(_) | Part::Http(_) | Part::Ports(_) | Part::Tls(_) => None,
    });
    let given = env::var_os("WEIR_BIN");
    if args.profile_guided && given.is_some() {
        bail!("WEIR_BIN names the binary to measure: --profile-guided would build another one");
    }
    let l4 = args.planes.contains(&Plane::L4) && !l4_parts.is_empty();
    if l4 || given.is_none() {
        build::object(&workspace, None)?;
    }
    if l4 {
        let options = l4::Options {
            parts: l4_parts,
            rounds: args.rounds.unwrap_or(5),
            seconds: args.seconds.unwrap_or(5),
            markdown: args.markdown,
        };
        l4::run(&workspace, &options)?;
    }
    let binary = || match &given {
        Some(binary) => Ok(PathBuf::from(binary)),
        None => build::optimised_or(&workspace, args.profile_guided, true, !args.no_setup),
    };
    if args.planes.contains(&Plane::Ports) && !ports_parts.is_empty() {
        ports::run(&workspace, &binary()?, &ports_parts, args.seconds)?;
    }
    if args.planes.contains(&Plane::Http) && !http_parts.is_empty() {
        let binary = binary()?;
        let options = http::Options {
            parts: http_parts,
            rounds: args.rounds.unwrap_or(9),
            seconds: args.seconds.unwrap_or(1),
            connections: args.connections,
            logs: args.logs,
            markdown: args.markdown,
            profile: args.profile,
        };
        http::run(&workspace, &binary, &options)?;
    }
    if args.planes.contains(&Plane::Tls) && !tls_parts.is_empty() {
        let binary = binary()?;
        let options = tls::Options {
            parts: tls_parts,
            rounds: args.rounds.unwrap_or(9),
            seconds: args.seconds.unwrap_or(1),
            connections: args.connections,
            markdown: args.markdown,
        };
        tls::run(&workspace, &binary, &options)?;
    }
    if args.planes.contains(&Plane::Failover) && !failover_parts.is_empty() {
        let options = failover::Options {
            parts: failover_parts,
            rounds: args.rounds.unwrap_or(3),
            markdown: args.markdown,
        };
        failover::run(&workspace, &binary()?, &options)?;
    }
    Ok(())
}

/// What [`train`] needs of the machine.
pub(crate) fn may_train() -> Result<()> {
    peers::prepare()
}

/// Puts load on a weir, of the kinds that are measured here, for a build by profile.
pub(crate) fn train(workspace: &Workspace, scratch: &Scratch, binary: &Path) -> Result<()> {
    let origin = peers::Origin::start(scratch)?;
    http::train(scratch, binary, &origin)?;
    tls::train(workspace, scratch, binary, &origin)
}

/// The middle one; of an even number the upper.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What the working tree was made from, with a mark if it was changed since.
fn commit(workspace: &Workspace) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"])
        .current_dir(&workspace.root);
    Some(shell::output(&mut git).ok()?.trim().to_owned())
}

/// Leaves a report at `target/bench/NAME.json`.
fn write(workspace: &Workspace, name: &str, report: &Value) -> Result<()> {
    let dir = workspace.target.join("bench");
    let file = dir.join(format!("{name}.json"));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&file, format!("{report:#}\n")))
        .with_context(|| format!("writing {}", file.display()))?;
    shell::note(&format!("written to {}", workspace.shorten(&file)));
    Ok(())
}
