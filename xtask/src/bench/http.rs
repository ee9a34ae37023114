//! CPU per HTTP request: the relay against HAProxy, before the same nginx, under the same wrk.
//!
//! Both proxies run one worker on one core, origin and load on the other; rounds alternate, so that what the machine
//! does beside hits both. CPU time is of all of a proxy's processes. No threshold here: it measures and writes down.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use weir_harness::{Cmd, Process, Scratch, interrupt, wait_until};

use super::cpu;
use crate::{shell, workspace::Workspace};

/// The core of the proxy under test.
const PROXY_CORE: &str = "0";
/// The core of wrk and nginx.
const OTHER_CORE: &str = "1";
/// Bytes of the answer's body.
const BODY: usize = 128;
/// How long a program may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much is measured.
pub(super) struct Load {
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) connections: u32,
}

/// One round of one proxy.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Round {
    requests: u64,
    errors: u64,
    /// Seconds of CPU.
    cpu: f64,
}

impl Round {
    /// Microseconds of CPU per request.
    fn cost(self) -> f64 {
        self.cpu * 1e6 / self.requests as f64
    }
}

/// A proxy under test.
struct Proxy {
    name: &'static str,
    at: SocketAddr,
    process: Process,
    rounds: Vec<Round>,
}

impl Drop for Proxy {
    /// Its children are in process groups of their own: only an orderly end ends them too.
    fn drop(&mut self) {
        if let Err(error) = self.process.stop(Duration::from_secs(5)) {
            eprintln!("   {} did not end in order: {error:#}", self.name);
        }
    }
}

pub(super) fn run(workspace: &Workspace, binary: &Path, load: &Load) -> Result<()> {
    shell::heading("HTTP, CPU per request");
    let cores = std::thread::available_parallelism().context("counting cores")?;
    if cores.get() < 2 {
        bail!("this needs two cores: one for the proxy, one for origin and load");
    }
    // So that Ctrl-C ends the proxies too.
    interrupt::install().context("taking signals")?;
    let scratch = Scratch::new()?;
    let [origin, weir, haproxy] = free_addresses()?;
    let _nginx = start_nginx(&scratch, origin)?;
    let mut proxies = [
        Proxy {
            name: "weir",
            at: weir,
            process: start_weir(&scratch, binary, weir, origin)?,
            rounds: Vec::new(),
        },
        Proxy {
            name: "haproxy",
            at: haproxy,
            process: start_haproxy(&scratch, haproxy, origin)?,
            rounds: Vec::new(),
        },
    ];
    for proxy in &mut proxies {
        wait_for(proxy)?;
        wrk(proxy.at, 1, load.connections)?;
    }
    shell::note(&format!(
        "{} connections, keep-alive, {BODY} B answers, {} rounds of {} s each",
        load.connections, load.rounds, load.seconds
    ));
    shell::note(&format!(
        "{:<9}{:>10}{:>8}{:>8}{:>12}",
        "proxy", "requests", "errors", "CPU s", "us/request"
    ));
    for _ in 0..load.rounds {
        for proxy in &mut proxies {
            if interrupt::requested() {
                bail!("interrupted");
            }
            let before = cpu::seconds(proxy.process.pid())?;
            let (requests, errors) = wrk(proxy.at, load.seconds, load.connections)?;
            let round = Round {
                requests,
                errors,
                cpu: cpu::seconds(proxy.process.pid())? - before,
            };
            if requests == 0 {
                bail!("{} answered nothing: {}", proxy.name, proxy.process.stderr());
            }
            let Round { cpu, .. } = round;
            shell::note(&format!(
                "{:<9}{requests:>10}{errors:>8}{cpu:>8.2}{:>12.2}",
                proxy.name,
                round.cost()
            ));
            proxy.rounds.push(round);
        }
    }
    let [weir, haproxy] = proxies
        .each_ref()
        .map(|p| median(p.rounds.iter().map(|r| r.cost())));
    let ratio = haproxy / weir;
    shell::note(&format!(
        "median us/request: weir {weir:.2}, haproxy {haproxy:.2}"
    ));
    shell::note(&format!(
        "requests per proxy-CPU-second, weir over haproxy: {ratio:.2}"
    ));

    let failed: u64 = proxies.iter().flat_map(|p| &p.rounds).map(|r| r.errors).sum();
    let proxies: Vec<_> = proxies.iter().map(report).collect();
    let report = json!({
        "bench": "http", "connections": load.connections, "seconds": load.seconds, "body_bytes": BODY,
        "proxies": proxies, "weir_over_haproxy": ratio,
    });
    super::write(workspace, "http", &report)?;
    if failed > 0 {
        bail!("{failed} requests failed: the figures above are not to be trusted");
    }
    Ok(())
}

fn report(proxy: &Proxy) -> Value {
    let round = |r: &Round| json!({ "requests": r.requests, "errors": r.errors, "cpu_seconds": r.cpu, "us_per_request": r.cost() });
    json!({ "name": proxy.name, "rounds": proxy.rounds.iter().map(round).collect::<Vec<_>>() })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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

/// `program` on one core, started.
fn start(scratch: &Scratch, name: &str, core: &str, program: &Path, args: &[&str]) -> Result<Process> {
    let program = program
        .to_str()
        .and_then(shell::find)
        .unwrap_or_else(|| program.to_path_buf());
    let cmd = Cmd::new("taskset").args(["-c", core]).arg(program).args(args);
    Process::start(name, scratch, &cmd)
}

fn start_nginx(scratch: &Scratch, at: SocketAddr) -> Result<Process> {
    let dir = scratch.path().display();
    let body = "x".repeat(BODY);
    let file = scratch.write(
        "nginx.conf",
        format!(
            "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;\n\
             client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
             uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ listen {at} backlog=8192; default_type text/plain; location / {{ return 200 \"{body}\"; }} }} }}\n"
        ),
    )?;
    let (file, prefix) = (file.display().to_string(), dir.to_string());
    let args = ["-p", &prefix, "-e", "stderr", "-c", &file];
    start(scratch, "nginx", OTHER_CORE, Path::new("nginx"), &args)
}

fn start_weir(scratch: &Scratch, binary: &Path, at: SocketAddr, origin: SocketAddr) -> Result<Process> {
    let dir = scratch.path().display();
    let [http] = free_addresses()?;
    let file = scratch.write(
        "weir.toml",
        format!(
            "[node]\nname = \"bench\"\nxdp = \"off\"\nworkers = 1\n\
             [admin]\nsocket = \"{dir}/control.sock\"\nhttp = \"{http}\"\n\
             [pools.origin]\nbackends = [{{ address = \"{origin}\" }}]\n\
             [services.bench]\nlisten = [\"{at}\"]\nmode = \"http\"\npool = \"origin\"\n"
        ),
    )?;
    let file = file.display().to_string();
    // HAProxy below logs nothing either.
    start(
        scratch,
        "weir",
        PROXY_CORE,
        binary,
        &["run", "-c", &file, "--access-log", "off"],
    )
}

fn start_haproxy(scratch: &Scratch, at: SocketAddr, origin: SocketAddr) -> Result<Process> {
    let file = scratch.write(
        "haproxy.cfg",
        format!(
            "global\n  nbthread 1\n  maxconn 8192\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 25s\n  timeout server 25s\n  \
             timeout http-keep-alive 10s\n  option forwardfor\n  http-reuse always\n\
             listen bench\n  bind {at}\n  server origin {origin} check inter 2s\n"
        ),
    )?;
    let file = file.display().to_string();
    start(
        scratch,
        "haproxy",
        PROXY_CORE,
        Path::new("haproxy"),
        &["-db", "-q", "-f", &file],
    )
}

fn wait_for(proxy: &mut Proxy) -> Result<()> {
    let what = format!("{} answers on {}", proxy.name, proxy.at);
    wait_until(PATIENCE, &what, || {
        if let Ok(Some(status)) = proxy.process.ended() {
            return Err(format!("it has ended ({status}): {}", proxy.process.stderr()));
        }
        answer(proxy.at).map_err(|e| format!("{e:#}"))
    })
}

/// One request by hand: only an answer 200 counts, not an accepted connection.
fn answer(at: SocketAddr) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let line = String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    if !line.starts_with("HTTP/1.1 200") {
        bail!("it answers `{line}`");
    }
    Ok(())
}

/// Loads `at` and returns requests and errors.
fn wrk(at: SocketAddr, seconds: u32, connections: u32) -> Result<(u64, u64)> {
    let mut command = Command::new("taskset");
    command.args(["-c", OTHER_CORE, "wrk", "-t1"]);
    command.args([
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        format!("http://{at}/"),
    ]);
    let text = shell::output(&mut command)?;
    counted(&text).with_context(|| format!("reading what wrk wrote: {text}"))
}

/// Requests and errors in wrk's report.
fn counted(text: &str) -> Option<(u64, u64)> {
    let line = |part: &str| text.lines().find(|l| l.contains(part));
    let numbers = |line: &str| -> u64 {
        let words = line
            .split(|c: char| !c.is_ascii_digit())
            .filter(|w| !w.is_empty());
        words.filter_map(|w| w.parse::<u64>().ok()).sum()
    };
    let requests = line(" requests in ")?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()?;
    let sockets = line("Socket errors:").map_or(0, numbers);
    let statuses = line("Non-2xx or 3xx responses:")
        .and_then(|l| l.split(':').nth(1))
        .map_or(0, numbers);
    Some((requests, sockets + statuses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_report_is_read() {
        let good =
            "Running 5s test\n  1 threads and 64 connections\n  123456 requests in 5.00s, 20.00MB read\n";
        assert_eq!(counted(good), Some((123_456, 0)));
        let bad = format!(
            "{good}  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 30\n"
        );
        assert_eq!(counted(&bad), Some((123_456, 37)));
        assert_eq!(counted("unable to connect"), None);
    }

    #[test]
    fn costs_and_medians() {
        let round = Round {
            requests: 200_000,
            errors: 0,
            cpu: 2.0,
        };
        assert!((round.cost() - 10.0).abs() < 1e-9);
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = free_addresses().expect("free ports");
        assert!(a != b && b != c && a != c);
    }
}
