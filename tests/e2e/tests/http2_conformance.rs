//! The cases of HTTP/2 of `tests/conformance` through whole fronts: the weir binary, to the letter; HAProxy, nginx and
//! nghttpd, by what the RFC takes, so that a case that good ones fail is looked at twice.
//!
//! How the others differ is in the table of deviations, with the reason. One that is not there fails the test; all are
//! written to a report.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_conformance_tests::http2::{
    self, Front, Link, Origin, Rigor, cases,
    deviations::{Peer, why},
    origin::BODY,
};
use weir_harness::{Cmd, Process, Scratch};

/// How long a front may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long another front is waited for without any news, before that counts as its answer.
const NEWS: Duration = Duration::from_millis(1500);
/// How often a case that went strangely is played again.
const AGAIN: usize = 2;

/// Where a front listens, and its origin if that is to count.
#[derive(Clone, Copy)]
struct At<'a>(SocketAddr, Option<&'a Origin>);

impl Front for At<'_> {
    fn connect(&self) -> io::Result<Box<dyn Link>> {
        let stream = TcpStream::connect(self.0)?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn served(&self) -> Option<u64> {
        self.1.map(Origin::served)
    }
}

/// A port that is free now.
fn free() -> Result<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(socket.local_addr()?)
}

fn start(name: &str, scratch: &Scratch, cmd: &Cmd<'_>, at: SocketAddr) -> Result<Process> {
    let mut process = Process::start(name, scratch, cmd)
        .with_context(|| format!("starting {name}; `cargo xtask setup` gets what the tests need"))?;
    process.until(PATIENCE, &format!("{name} listens"), || {
        TcpStream::connect(at)
            .map(drop)
            .map_err(|error| error.to_string())
    })?;
    Ok(process)
}

/// Plays all cases, holds the outcomes against what is known, and writes the report.
fn compare(peer: Peer, name: &str, at: At<'_>, rigor: Rigor) -> Result<()> {
    let cases = cases::all();
    // What an origin counts is to be one case's.
    let at_once = if at.1.is_some() { 1 } else { http2::AT_ONCE };
    let outcomes = http2::play_all(|| at, rigor, at_once);
    let (mut report, mut unknown) = (String::new(), String::new());
    let mut differ = 0;
    for case in &cases {
        let mut outcome = outcomes.get(case.id).cloned();
        // Once more, alone: with some, what they do hangs on what comes first.
        for _ in 0..AGAIN {
            if let Some(deviation) = &outcome
                && why(peer, case.id, &deviation.sign).is_none()
            {
                outcome = http2::play(case, &at, rigor).err();
            }
        }
        let Some(deviation) = outcome else { continue };
        differ += 1;
        let why = why(peer, case.id, &deviation.sign);
        let _ = writeln!(
            report,
            "{}: {}; {}",
            case.id,
            deviation.sign,
            why.unwrap_or("UNKNOWN")
        );
        if why.is_none() {
            let _ = write!(unknown, "\n{} {deviation}", case.id);
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("http2-{name}.txt"));
    let head = format!("{name}: {differ} of {} cases otherwise\n", cases.len());
    std::fs::write(&file, head.clone() + &report).with_context(|| format!("writing {}", file.display()))?;
    println!("{head}{report}the same in {}", file.display());
    ensure!(
        unknown.is_empty(),
        "deviations of {name} that are not in the table of deviations: look at each twice, then list it with its \
         reason{unknown}"
    );
    Ok(())
}

#[test]
fn weir_to_the_letter() -> Result<()> {
    let (scratch, origin, at) = (Scratch::new()?, Origin::start()?, free()?);
    let file = scratch.write(
        "weir.toml",
        format!(
            "[node]\nname = \"edge-1\"\nxdp = \"off\"\nworkers = 1\n\
             [admin]\nsocket = \"{}/control.sock\"\nhttp = \"{}\"\n\
             [pools.origin]\nbackends = [{{ address = \"{}\" }}]\n\
             [services.front]\nlisten = [\"{at}\"]\nmode = \"http\"\npool = \"origin\"\n",
            scratch.path().display(),
            free()?,
            origin.at(),
        ),
    )?;
    let cmd = Cmd::new(weir_harness::weir::binary()?)
        .args(["run", "-c"])
        .arg(&file)
        .args(["--access-log", "off"]);
    let mut weir = start("weir", &scratch, &cmd, at)?;
    let compared = compare(Peer::Weir, "weir", At(at, Some(&origin)), Rigor::Letter);
    // No namespace takes its children along.
    weir.stop(PATIENCE)?;
    compared
}

#[test]
fn haproxy_by_the_rfc() -> Result<()> {
    let (scratch, origin, at) = (Scratch::new()?, Origin::start()?, free()?);
    let file = scratch.write(
        "haproxy.cfg",
        format!(
            "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\nfrontend f\n  bind {at} proto h2\n  default_backend b\nbackend b\n  server s {}\n",
            origin.at(),
        ),
    )?;
    let cmd = Cmd::new("haproxy").args(["-db", "-f"]).arg(&file);
    let _haproxy = start("haproxy", &scratch, &cmd, at)?;
    compare(Peer::Haproxy, "haproxy", At(at, None), Rigor::Rfc(NEWS))
}

#[test]
fn nginx_by_the_rfc() -> Result<()> {
    let (scratch, origin, at) = (Scratch::new()?, Origin::start()?, free()?);
    let dir = scratch.path().display();
    let file = scratch.write(
        "nginx.conf",
        format!(
            "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log stderr error; events {{}}\n\
             http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ listen {at} http2; location / {{ proxy_pass http://{}; proxy_http_version 1.1;\n\
             proxy_request_buffering off; proxy_buffering off; }} }} }}\n",
            origin.at(),
        ),
    )?;
    let cmd = Cmd::new("nginx")
        .arg("-p")
        .arg(scratch.path())
        .args(["-e", "stderr", "-c"])
        .arg(&file);
    let _nginx = start("nginx", &scratch, &cmd, at)?;
    compare(Peer::Nginx, "nginx", At(at, None), Rigor::Rfc(NEWS))
}

#[test]
fn nghttpd_by_the_rfc() -> Result<()> {
    let (scratch, at) = (Scratch::new()?, free()?);
    scratch.write("index.html", BODY)?;
    let cmd = Cmd::new("nghttpd")
        .args(["--no-tls", "-a", "127.0.0.1", "-d"])
        .arg(scratch.path())
        .arg(at.port().to_string());
    let _nghttpd = start("nghttpd", &scratch, &cmd, at)?;
    compare(Peer::Nghttpd, "nghttpd", At(at, None), Rigor::Rfc(NEWS))
}
