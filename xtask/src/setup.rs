//! `cargo xtask setup`: what a task needs on this machine, and getting what is missing.
//!
//! Owns the list of needs per task and the report of them. `setup/apt.rs` installs packages, `setup/bpf.rs` the eBPF
//! toolchain, `setup/cargo_tools.rs` rustup components and cargo's tools. Running it again changes nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    shell,
    toolchain::{self, Recipe, Toolchain},
    workspace::Workspace,
};

mod apt;
mod bpf;
mod cargo_tools;

pub(crate) use cargo_tools::{DENY, FUZZ};

/// Install what weir's tasks need on this machine; what is there stays as it is.
///
/// Starts from a fresh Debian or Ubuntu with rustup's stable Rust. Packages come from apt and need root; without root
/// it prints the command to run. Services that a package brings (nginx, nsd, …) are not started. What cargo builds
/// (bpf-linker, cargo-deny, cargo-fuzz) goes to target/tools and touches nothing outside the checkout.
///
/// The eBPF object needs a compiler that stable Rust has not. Two recipes have one: "debian" (rustc-web from Debian's
/// security archive) and "rustup" (nightly with rust-src). What is installed already is taken; else debian where
/// apt offers it, rustup otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit code 1 if anything is.
    #[arg(long)]
    check: bool,
    /// The tasks to set up for.
    #[arg(long = "for", value_name = "TASK", value_delimiter = ',', default_values = ["build", "test", "demo"])]
    tasks: Vec<Task>,
    /// Take this eBPF toolchain and no other.
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<Recipe>,
}

/// What one can set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Task {
    /// The eBPF object and the binary.
    Build,
    /// All rungs of the tests.
    Test,
    /// The lab with real clients and backends.
    Demo,
    /// The comparisons with HAProxy and nftables.
    Bench,
    /// The load of a build by profile.
    Profile,
    /// rustfmt, clippy, cargo-deny.
    Lint,
    /// cargo-fuzz.
    Fuzz,
}

/// A program, the package that brings it, and what it is for.
struct Program {
    /// Its name; of what is no program of its own, a file with its path.
    name: &'static str,
    package: &'static str,
    why: &'static str,
    tasks: &'static [Task],
}

impl Program {
    fn find(&self) -> Option<PathBuf> {
        let file = Path::new(self.name);
        if file.is_absolute() {
            file.is_file().then(|| file.to_path_buf())
        } else {
            shell::find(self.name)
        }
    }
}

const PROGRAMS: &[Program] = {
    use Task::{Bench, Build, Demo, Fuzz, Profile, Test};
    &[
        Program {
            name: "cc",
            package: "build-essential",
            why: "links Rust",
            tasks: &[Build, Test, Demo, Bench, Profile, Fuzz],
        },
        Program {
            name: "c++",
            package: "build-essential",
            why: "builds libFuzzer",
            tasks: &[Fuzz],
        },
        Program {
            name: "ip",
            package: "iproute2",
            why: "network namespaces",
            tasks: &[Test, Demo, Bench],
        },
        Program {
            name: "ethtool",
            package: "ethtool",
            why: "offloads of test links",
            tasks: &[Test, Demo, Bench],
        },
        Program {
            name: "nginx",
            package: "nginx-light",
            why: "real HTTP backends",
            tasks: &[Test, Demo, Bench, Profile],
        },
        Program {
            name: "/usr/sbin/mariadbd",
            package: "mariadb-server",
            why: "a real backend of mode tcp",
            tasks: &[Test, Bench],
        },
        Program {
            name: "curl",
            package: "curl",
            why: "real HTTP client",
            tasks: &[Test, Demo],
        },
        Program {
            name: "chromium",
            package: "chromium",
            why: "a real browser",
            tasks: &[Test],
        },
        Program {
            name: "tshark",
            package: "tshark",
            why: "reads what `weir capture` writes",
            tasks: &[Test],
        },
        Program {
            name: "nghttpd",
            package: "nghttp2-server",
            why: "backend that speaks HTTP/2",
            tasks: &[Test],
        },
        Program {
            name: "h2load",
            package: "nghttp2-client",
            why: "clients that speak HTTP/2",
            tasks: &[Test, Bench, Profile],
        },
        Program {
            name: "/usr/lib/python3/dist-packages/grpc/__init__.py",
            package: "python3-grpcio",
            why: "real gRPC client and backend",
            tasks: &[Test],
        },
        Program {
            name: "nsd",
            package: "nsd",
            why: "real DNS backend",
            tasks: &[Test],
        },
        Program {
            name: "dig",
            package: "bind9-dnsutils",
            why: "real DNS client",
            tasks: &[Test],
        },
        Program {
            name: "bird",
            package: "bird2",
            why: "real routing daemon",
            tasks: &[Test],
        },
        Program {
            name: "traceroute",
            package: "traceroute",
            why: "shows the box as a hop",
            tasks: &[Test],
        },
        Program {
            name: "arping",
            package: "iputils-arping",
            why: "counts who answers ARP",
            tasks: &[Test],
        },
        Program {
            name: "ndisc6",
            package: "ndisc6",
            why: "counts who answers neighbor discovery",
            tasks: &[Test],
        },
        Program {
            name: "promtool",
            package: "prometheus",
            why: "checks the metrics",
            tasks: &[Test],
        },
        Program {
            name: "keepalived",
            package: "keepalived",
            why: "the other of two virtual routers",
            tasks: &[Test, Bench],
        },
        Program {
            name: "haproxy",
            package: "haproxy",
            why: "to compare with",
            tasks: &[Test, Bench],
        },
        Program {
            name: "wrk",
            package: "wrk",
            why: "HTTP load",
            tasks: &[Bench, Profile],
        },
        Program {
            name: "nft",
            package: "nftables",
            why: "to compare with",
            tasks: &[Bench],
        },
        Program {
            name: "testssl",
            package: "testssl.sh",
            why: "a look at TLS as an attacker has it",
            tasks: &[Test],
        },
        Program {
            name: "/usr/lib/python3/dist-packages/websockets/__init__.py",
            package: "python3-websockets",
            why: "real WebSocket client and backend",
            tasks: &[Test],
        },
        Program {
            name: "iperf3",
            package: "iperf3",
            why: "TCP streams",
            tasks: &[Test, Bench],
        },
        Program {
            name: "perf",
            package: "linux-perf",
            why: "flame graphs",
            tasks: &[Bench],
        },
        Program {
            name: "openssl",
            package: "openssl",
            why: "makes certificates",
            tasks: &[Bench, Profile],
        },
        Program {
            name: "setpriv",
            package: "util-linux",
            why: "ends what a bench has started with it",
            tasks: &[Bench, Profile],
        },
        Program {
            name: "taskset",
            package: "util-linux",
            why: "pins to a core",
            tasks: &[Bench, Profile],
        },
    ]
};

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    if args.check {
        check(&workspace, &args.tasks, args.recipe)
    } else {
        ensure(&workspace, &args.tasks, args.recipe)
    }
}

/// Gets everything that `tasks` need.
///
/// # Errors
/// Something can't be had; the message says what, why and how to mend it.
pub(crate) fn ensure(workspace: &Workspace, tasks: &[Task], recipe: Option<Recipe>) -> Result<()> {
    let begin = Instant::now();
    shell::heading(&format!("setup for {}", names(tasks)));
    let missing = missing_programs(tasks);
    if missing.is_empty() {
        shell::note("programs: all there");
    } else {
        for program in &missing {
            shell::note(&format!(
                "missing: {} ({}), from package {}",
                program.name, program.why, program.package
            ));
        }
        apt::install(&packages(&missing))?;
        let still: Vec<_> = missing
            .iter()
            .filter(|p| p.find().is_none())
            .map(|p| p.name)
            .collect();
        if !still.is_empty() {
            bail!(
                "the packages are installed, yet there is no {}: install it by hand",
                still.join(", ")
            );
        }
    }
    if needs_kernel(tasks) {
        kernel(true)?;
    }
    if needs_object(tasks) {
        let toolchain = ebpf_toolchain(workspace, recipe)?;
        shell::note(&format!("eBPF toolchain: {toolchain}"));
        if tasks.contains(&Task::Lint) {
            bpf::clippy(workspace, &toolchain)?;
        }
        let other = toolchain.compiler.recipe.other();
        shell::note(&format!(
            "  (the other way: {}; `cargo xtask setup --recipe {}`)",
            other.what(),
            other.name()
        ));
    }
    if tasks.contains(&Task::Lint) {
        cargo_tools::lint(workspace)?;
    }
    if tasks.contains(&Task::Fuzz) {
        cargo_tools::fuzz(workspace)?;
    }
    shell::note(&format!("ready after {}", shell::took(begin.elapsed())));
    Ok(())
}

/// The eBPF toolchain, installed first if need be.
pub(crate) fn ebpf_toolchain(workspace: &Workspace, forced: Option<Recipe>) -> Result<Toolchain> {
    match Toolchain::find(&workspace.tools(), &toolchain::recipes(forced)) {
        Ok(toolchain) => Ok(toolchain),
        Err(missing) => bpf::install(workspace, &missing),
    }
}

/// Reports what is missing and fails if anything is.
fn check(workspace: &Workspace, tasks: &[Task], recipe: Option<Recipe>) -> Result<()> {
    shell::heading(&format!("needed for {}", names(tasks)));
    let mut lacking = 0;
    let mut report = |name: &str, state: Result<String, String>| {
        let (word, text) = match state {
            Ok(text) => ("ok", text),
            Err(text) => {
                lacking += 1;
                ("MISSING", text)
            }
        };
        shell::note(&format!("{word:8}{name:16}{text}"));
    };
    for program in PROGRAMS
        .iter()
        .filter(|p| p.tasks.iter().any(|t| tasks.contains(t)))
    {
        let file = program.find().map(|f| f.display().to_string());
        report(
            program.name,
            file.ok_or_else(|| format!("{}: package {}", program.why, program.package)),
        );
    }
    if needs_kernel(tasks) {
        report("kernel", kernel(false).map_err(|e| e.to_string()));
    }
    if needs_object(tasks) {
        let found = Toolchain::find(&workspace.tools(), &toolchain::recipes(recipe));
        let in_words = |(recipe, why): &(Recipe, String)| format!("{}: {why}", recipe.name());
        let why = |all: Vec<_>| all.iter().map(in_words).collect::<Vec<_>>().join("; ");
        report("eBPF toolchain", found.map(|t| t.to_string()).map_err(why));
    }
    if tasks.contains(&Task::Lint) {
        for (name, state) in cargo_tools::lint_state(workspace) {
            report(name, state);
        }
    }
    if tasks.contains(&Task::Fuzz) {
        report("cargo-fuzz", cargo_tools::fuzz_state(workspace));
    }
    if lacking > 0 {
        bail!(
            "{lacking} missing: `cargo xtask setup --for {}` as root gets what can be had",
            names(tasks)
        );
    }
    Ok(())
}

fn names(tasks: &[Task]) -> String {
    let names: Vec<_> = tasks
        .iter()
        .filter_map(|t| Some(t.to_possible_value()?.get_name().to_owned()))
        .collect();
    names.join(",")
}

fn missing_programs(tasks: &[Task]) -> Vec<&'static Program> {
    let wanted = PROGRAMS
        .iter()
        .filter(|p| p.tasks.iter().any(|t| tasks.contains(t)));
    wanted.filter(|p| p.find().is_none()).collect()
}

fn packages(programs: &[&Program]) -> Vec<String> {
    let mut names: Vec<_> = programs.iter().map(|p| p.package.to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn needs_object(tasks: &[Task]) -> bool {
    tasks.iter().any(|t| {
        matches!(
            t,
            Task::Build | Task::Test | Task::Demo | Task::Bench | Task::Profile | Task::Lint
        )
    })
}

fn needs_kernel(tasks: &[Task]) -> bool {
    tasks
        .iter()
        .any(|t| matches!(t, Task::Test | Task::Demo | Task::Bench))
}

/// What tests and demo need of the running kernel: type information, and a mounted BPF file system (which `mend`
/// mounts when this is root). weir's own needs are `weir doctor`'s matter.
fn kernel(mend: bool) -> Result<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux): it must be built with CONFIG_DEBUG_INFO_BTF, as those \
             of Debian and Ubuntu are; in a container, mount /sys"
        );
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|l| l.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]);
        if !mend || !shell::is_root() {
            bail!(
                "no BPF file system is mounted: as root, `{}`",
                shell::show(&mount)
            );
        }
        shell::note("no BPF file system is mounted: mounting it");
        shell::run(&mut mount)?;
    }
    Ok("BTF, /sys/fs/bpf".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_package_is_asked_for_once() {
        let both: Vec<_> = PROGRAMS
            .iter()
            .filter(|p| p.package == "build-essential")
            .collect();
        assert_eq!(both.len(), 2);
        assert_eq!(packages(&both), ["build-essential"]);
    }

    #[test]
    fn each_task_has_its_programs() {
        for (task, name) in [
            (Task::Demo, "nginx"),
            (Task::Test, "dig"),
            (Task::Bench, "haproxy"),
            (Task::Build, "cc"),
            (Task::Profile, "wrk"),
        ] {
            assert!(
                PROGRAMS.iter().any(|p| p.name == name && p.tasks.contains(&task)),
                "{name}"
            );
        }
        assert_eq!(names(&[Task::Build, Task::Lint]), "build,lint");
    }
}
