//! What benches of proxies have in common: the cores, the origin, which proxies there are, and how programs are started.
//!
//! How each proxy is set up is the matter of the bench that compares them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::chown,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use weir_harness::{Cmd, Process, Scratch, interrupt, wait_until};

use super::client;
use crate::shell;

/// The core of the proxy under test.
pub(super) const PROXY_CORE: usize = 0;
/// The core of load and origin.
pub(super) const OTHER_CORE: usize = 1;

/// What the origin has: path and size.
pub(super) const SMALL: (&str, usize) = ("/", 128);
pub(super) const MEDIUM: (&str, usize) = ("/16k", 16 << 10);
pub(super) const LARGE: (&str, usize) = ("/64m", 64 << 20);

/// How long a program may take to come up.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The user of that name, and its group.
pub(super) const NOBODY: u32 = 65_534;
/// Most open connections of a proxy, and its most descriptors: all are idle when they are that many, so that each is one
/// socket. Many machines allow no more than 20 000.
pub(super) const CONNECTIONS: u32 = 11_000;
pub(super) const DESCRIPTORS: u32 = 16_000;

/// Which proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Weir,
    Haproxy,
    Nginx,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Weir, Self::Haproxy, Self::Nginx];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// nginx, which answers all.
pub(super) struct Origin {
    pub(super) at: SocketAddr,
    _process: Process,
}

impl Origin {
    pub(super) fn start(scratch: &Scratch) -> Result<Self> {
        let [at] = free_addresses()?;
        let files = scratch.join("files");
        fs::create_dir_all(&files).context("making the origin's directory")?;
        for (path, size) in [MEDIUM, LARGE] {
            scratch.write(format!("files{path}"), vec![b'x'; size])?;
        }
        let body = "x".repeat(SMALL.1);
        let text = format!(
            "{}http {{ access_log off; sendfile on; tcp_nopush on; {}\n\
             server {{ listen {at} backlog=8192; root {}; default_type text/plain;\n\
             location = / {{ return 200 \"{body}\"; }} }} }}\n",
            nginx_main(scratch, "origin"),
            nginx_http(scratch),
            files.display(),
        );
        let process = start_nginx(scratch, "origin", OTHER_CORE, &text)?;
        wait_until(PATIENCE, "the origin answers", || {
            client::get(at, SMALL.0).map(drop).map_err(|e| format!("{e:#}"))
        })?;
        Ok(Self {
            at,
            _process: process,
        })
    }
}

/// Ports of the loopback that nobody listens on. All are held until all are found.
pub(super) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
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

/// `program` on one core, started. It is told to end when this process dies, however that comes about.
pub(super) fn start(
    scratch: &Scratch,
    name: &str,
    core: usize,
    program: &Path,
    args: &[&str],
) -> Result<Process> {
    let program = program
        .to_str()
        .and_then(shell::find)
        .unwrap_or_else(|| program.to_path_buf());
    let cmd = Cmd::new("setpriv")
        .args(["--pdeathsig", "TERM", "taskset", "-c", &core.to_string()])
        .arg(program)
        .args(args);
    Process::start(name, scratch, &cmd)
}

/// What every nginx here begins with.
pub(super) fn nginx_main(scratch: &Scratch, name: &str) -> String {
    // Its workers read files of this directory.
    let user = if shell::is_root() { "user root; " } else { "" };
    let dir = scratch.path().display();
    format!(
        "daemon off; {user}worker_processes 1; worker_rlimit_nofile {DESCRIPTORS}; pid {dir}/{name}.pid; error_log stderr warn;\n\
         events {{ worker_connections {DESCRIPTORS}; }}\n"
    )
}

pub(super) fn nginx_http(scratch: &Scratch) -> String {
    let dir = scratch.path().display();
    format!(
        "keepalive_requests 1000000000; keepalive_timeout 1h; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; \
         fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;"
    )
}

pub(super) fn start_nginx(scratch: &Scratch, name: &str, core: usize, text: &str) -> Result<Process> {
    let file = scratch.write(format!("{name}.conf"), text)?.display().to_string();
    let prefix = scratch.path().display().to_string();
    let args = ["-p", &prefix, "-e", "stderr", "-c", &file];
    start(scratch, name, core, Path::new("nginx"), &args)
}

/// Makes weir's access log: the relay, which writes it, runs as nobody if control is root.
pub(super) fn make_log(scratch: &Scratch) -> Result<()> {
    if shell::is_root() {
        let file = scratch.write("weir.log", "")?;
        chown(&file, Some(NOBODY), Some(NOBODY)).context("giving weir its log")?;
    }
    Ok(())
}

/// Sees to it that there are two cores, and that Ctrl-C ends the proxies, too.
pub(super) fn prepare() -> Result<()> {
    let cores = std::thread::available_parallelism().context("counting cores")?;
    if cores.get() < 2 {
        bail!("this needs two cores: one for the proxy, one for origin and load");
    }
    interrupt::install().context("taking signals")
}

/// Room for that many of this process' own sockets.
pub(super) fn raise_limit(need: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|most| most < need) {
        let maximum = limit.maximum.map(|most| most.max(need));
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(need),
                maximum,
            },
        )
        .with_context(|| format!("raising the limit on open files to {need}"))?;
    }
    Ok(())
}

/// Ends early if somebody asked for it.
pub(super) fn go_on() -> Result<()> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// The peers' versions, as they tell them.
pub(super) fn versions() -> Value {
    let first = |program: &str, arg: &str| {
        let path = shell::find(program)?;
        let out = Command::new(path).arg(arg).output().ok()?;
        // nginx tells it on standard error.
        let text = [out.stdout, out.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
    };
    json!({ "haproxy": first("haproxy", "-v"), "nginx": first("nginx", "-v"), "wrk": first("wrk", "-v"), "h2load": first("h2load", "--version") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = free_addresses().expect("free ports");
        assert!(a != b && b != c && a != c);
    }
}
