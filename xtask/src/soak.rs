//! `cargo xtask soak`: hours of faults on both sides in minutes, and then nothing may be left of them.
//!
//! Owns the order: warm up, rest, look; soak, rest, look again. What clients do is `soak/clients.rs`, what backends do
//! `soak/backends.rs`, what is looked at `soak/watch.rs`.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use weir_harness::{Cmd, Process, Scratch, interrupt, wait::pass_time, wait_until};

use crate::{build, shell, workspace::Workspace};

mod backends;
mod clients;
mod watch;

use clients::{Crowd, Targets};
use watch::{Look, Watch};

/// How long a program may take to come up, and the relay to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two lines.
const STEP: Duration = Duration::from_secs(30);
/// Resident memory that may be more after the soak than after warming up, in KiB: what an allocator keeps by chance.
const SLACK_KIB: u64 = 8 << 10;

/// Run the relay for a while under clients and backends that break every rule, and look for what leaks.
///
/// Clients abort, stall, send half heads and garbage; backends reset, stall, lie about lengths, answer garbage, die and come
/// back. Before and after, with nobody there, descriptors, tasks, gauges and resident memory of the relay are compared: a
/// leak fails the task. Everything is on loopback, by the seed that is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long, in seconds, after a warm-up of a tenth of it (20 s at least).
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    seconds: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    let binary = match env::var_os("WEIR_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            build::object(&workspace, None)?;
            build::binary(&workspace, true)?
        }
    };
    shell::heading("soak");
    interrupt::install().context("taking signals")?;
    let scratch = Scratch::new()?;
    let [http, tcp, admin] = free_addresses()?;
    let backends = backends::start(args.seed)?;
    let mut weir = start_weir(&scratch, &binary, [http, tcp, admin], &backends)?;
    let result = soak(&args, &weir, &binary, &scratch, Targets { http, tcp }, admin);
    let log = weir.stderr();
    let ended = weir.stop(Duration::from_secs(20));
    let result = result.and_then(|()| {
        ended.context("weir did not end in order")?;
        if log.contains("panicked") {
            bail!("something panicked");
        }
        Ok(())
    });
    result.with_context(|| format!("weir's log ends with:\n{}", weir_harness::process::tail(&log)))
}

fn soak(
    args: &Args,
    weir: &Process,
    binary: &Path,
    scratch: &Scratch,
    targets: Targets,
    admin: SocketAddr,
) -> Result<()> {
    let watch = wait_until(PATIENCE, "the relay runs", || {
        Watch::find(weir.pid(), admin).map_err(|e| format!("{e:#}"))
    })?;
    wait_until(PATIENCE, "weir is ready", || {
        let status = Cmd::new(binary)
            .args(["status", "--json", "--socket"])
            .arg(scratch.join("control.sock"))
            .run();
        match status {
            Ok(output)
                if output.text().contains("\"ready\": true") || output.text().contains("\"ready\":true") =>
            {
                Ok(())
            }
            Ok(output) => Err(output.text()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    shell::note(&format!(
        "seed {}, {} clients, {} s",
        args.seed, args.clients, args.seconds
    ));
    shell::note(&Look::heading());
    let crowd = Arc::new(Crowd::default());
    let warm_up = Duration::from_secs((args.seconds / 10).max(20));
    let before = phase("warm", args, &crowd, &watch, targets, warm_up, 1)?;
    let after = phase(
        "soak",
        args,
        &crowd,
        &watch,
        targets,
        Duration::from_secs(args.seconds),
        2,
    )?;
    for (what, count) in crowd.counts() {
        shell::note(&format!("{what:<24}{count:>12}"));
    }
    if crowd.answered() == 0 {
        bail!("no request was answered: nothing was tested");
    }
    after.compare(&before, SLACK_KIB)
}

/// A crowd for this long, then rest: what is left then.
fn phase(
    name: &str,
    args: &Args,
    crowd: &Arc<Crowd>,
    watch: &Watch,
    targets: Targets,
    time: Duration,
    round: u64,
) -> Result<Look> {
    let begin = Instant::now();
    let seed = args.seed.wrapping_mul(1000).wrapping_add(round);
    let running = Crowd::start(crowd, args.clients, seed, targets);
    let mut next = STEP;
    while begin.elapsed() < time {
        pass_time(Duration::from_millis(500))?;
        if begin.elapsed() >= next {
            next += STEP;
            shell::note(
                &watch
                    .look()?
                    .row(&format!("{name} {} s", begin.elapsed().as_secs())),
            );
        }
    }
    running.stop()?;
    let rest = wait_until(PATIENCE, "the relay is at rest", || {
        let look = watch.look().map_err(|e| format!("{e:#}"))?;
        if look.is_at_rest() {
            Ok(look)
        } else {
            Err(look.row("busy"))
        }
    })?;
    shell::note(&rest.row(&format!("{name}, rest")));
    Ok(rest)
}

/// Ports of the loopback that nobody listens on. All are held until all are found.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?);
    }
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (at, listener) in found.iter_mut().zip(&held) {
        *at = listener.local_addr().context("finding a free port")?;
    }
    Ok(found)
}

/// Short times, so that every timeout happens; few connections, so that the queue does; a log, so that records are made.
fn start_weir(
    scratch: &Scratch,
    binary: &Path,
    [http, tcp, admin]: [SocketAddr; 3],
    backends: &[SocketAddr],
) -> Result<Process> {
    let list: Vec<_> = backends
        .iter()
        .map(|at| format!("{{ address = \"{at}\" }}"))
        .collect();
    let list = list.join(", ");
    let text = format!(
        r#"
[node]
name = "soak"
xdp = "off"
workers = 2
[admin]
socket = "{socket}"
http = "{admin}"
[access_log]
to = "{log}"
format = "httplog"
null = true
[pools.mixed]
backends = [{list}]
connections = {{ max = 12, queue = 16, idle_timeout = "1s", idle_min = 1 }}
retries = {{ on = ["connect", "closed", "503"], budget = 50 }}
[pools.other]
balance = "least-connections"
backends = [{list}]
connections = {{ idle_timeout = "1s" }}
check = {{ type = "tcp", interval = "300ms", timeout = "100ms" }}
[services.http]
listen = ["{http}"]
mode = "http"
pool = "mixed"
request_id = "X-Id"
request_headers = [{{ set = "X-Backend", value = "{{backend.name}}" }}]
response_headers = [{{ set = "X-Method", value = "{{request.method}}" }}]
rules = [
    {{ match = {{ path_prefix = "/other" }}, pool = "other" }},
    {{ match = {{ path = "/own" }}, respond = {{ body = "own" }} }},
]
limits = {{ connections = 40, body = "4MiB", head = "8KiB" }}
[services.http.timeouts]
connect = "300ms"
request_head = "500ms"
client = "700ms"
server = "700ms"
keep_alive = "700ms"
queue = "300ms"
tunnel = "1s"
[services.tcp]
listen = ["{tcp}"]
mode = "tcp"
pool = "mixed"
timeouts = {{ connect = "300ms", queue = "300ms", tunnel = "1s" }}
"#,
        socket = scratch.join("control.sock").display(),
        log = "/dev/null",
    );
    let config = scratch.write("weir.toml", text)?;
    let cmd = Cmd::new(binary)
        .args(["run", "-c"])
        .arg(config)
        .env("NO_COLOR", "1");
    Process::start("weir", scratch, &cmd)
}

/// A generator of numbers that nobody needs to be surprised by (SplitMix64).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound.max(1)
    }
}
