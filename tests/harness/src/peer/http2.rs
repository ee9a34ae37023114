//! Peers that speak HTTP/2 and nothing else, gRPC over TLS as well: nghttpd, a gRPC server and its client; nghttp and h2load.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// The system's Python, which has the system's packages; another may come before it in the path.
const PYTHON: &str = "/usr/bin/python3";

/// A server of HTTP/2 alone. Killed when dropped.
#[derive(Debug)]
pub struct Http2 {
    process: Process,
    scratch: Scratch,
}

impl Http2 {
    /// Starts nghttpd, which gives the [files](Self::file) of a directory, with a trailer `x-trailer: nghttpd` behind each.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn nghttpd(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let scratch = Scratch::new()?;
        let cmd = Cmd::new("nghttpd")
            .args(["--no-tls", "--trailer", "x-trailer: nghttpd", "--htdocs"])
            .arg(scratch.path())
            .args(["--address", &listen.ip().to_string(), &listen.port().to_string()]);
        let why = "needs nghttpd (Debian and Ubuntu: package nghttp2-server)";
        Self::start("nghttpd", scratch, cmd, netns, listen).context(why)
    }

    /// Starts a gRPC server (see `grpc_server.py`), over TLS if it is given a certificate with its key.
    ///
    /// # Errors
    /// Python or its gRPC is not installed, or it does not come up: the error carries its own words.
    pub fn grpc(netns: &Netns, listen: SocketAddr, tls: Option<&Path>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let script = scratch.write("grpc_server.py", include_str!("grpc_server.py"))?;
        let cmd = Cmd::new(PYTHON).arg(script).arg(listen.to_string()).args(tls);
        let why = "needs gRPC of Python (Debian and Ubuntu: package python3-grpcio)";
        Self::start("grpc", scratch, cmd, netns, listen).context(why)
    }

    fn start<'a>(
        name: &str,
        scratch: Scratch,
        cmd: Cmd<'a>,
        netns: &'a Netns,
        listen: SocketAddr,
    ) -> Result<Self> {
        let process = Process::start(name, &scratch, &cmd.inside(netns))?;
        let mut server = Self { process, scratch };
        let what = format!("{name} accepts connections");
        server.process.until(Duration::from_secs(20), &what, || {
            netns
                .run(|| TcpStream::connect_timeout(&listen, Duration::from_millis(500)))
                .map_err(|e| format!("{e:#}"))?
                .map(drop)
                .map_err(|e| format!("{listen}: {e}"))
        })?;
        Ok(server)
    }

    /// Where nghttpd's `/NAME` lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }
}

/// Has a gRPC client (see `grpc_client.py`) ask the server of [`Http2::grpc`] all that it asks; over TLS if it is given a
/// certificate to trust and the name in it.
///
/// # Errors
/// Something of it failed: its own words.
pub fn grpc_client(netns: &Netns, target: SocketAddr, tls: Option<(&Path, &str)>) -> Result<()> {
    let scratch = Scratch::new()?;
    let script = scratch.write("grpc_client.py", include_str!("grpc_client.py"))?;
    let cmd = Cmd::new("timeout")
        .args(["120", PYTHON])
        .arg(script)
        .arg(target.to_string());
    let cmd = match tls {
        Some((trusted, name)) => cmd.arg(trusted).arg(name),
        None => cmd,
    };
    let output = cmd.inside(netns).run()?;
    let text = output.text();
    ensure!(
        output.status.success() && text.ends_with("all well\n"),
        "gRPC client: {} ({}), {text}",
        output.complaint(),
        output.status
    );
    Ok(())
}

/// GETs these paths by nghttp, over one connection and at once: what came, one after the other as it came. `upgrade`: begins
/// with HTTP/1.1.
///
/// # Errors
/// nghttp is not installed, or failed.
pub fn nghttp(netns: &Netns, target: SocketAddr, paths: &[&str], upgrade: bool) -> Result<String> {
    let urls = paths.iter().map(|path| format!("http://{target}{path}"));
    let cmd = Cmd::new("nghttp")
        .args(["--timeout=10"])
        .args(upgrade.then_some("--upgrade"))
        .args(urls);
    let output = cmd
        .inside(netns)
        .run()
        .context("needs nghttp (package nghttp2-client)")?;
    ensure!(
        output.status.success(),
        "nghttp: {} ({})",
        output.complaint(),
        output.status
    );
    Ok(output.text())
}

/// Has h2load make `requests` over `connections`, `streams` of each at once: how many were answered by a status of 2xx.
///
/// # Errors
/// h2load is not installed, or says nothing that can be read.
pub fn h2load(
    netns: &Netns,
    target: SocketAddr,
    requests: u32,
    connections: u32,
    streams: u32,
) -> Result<u32> {
    let (n, c, m) = (requests.to_string(), connections.to_string(), streams.to_string());
    let cmd = Cmd::new("h2load")
        .args(["--connection-inactivity-timeout=20", "-n", &n, "-c", &c, "-m", &m])
        .arg(format!("http://{target}/"));
    let output = cmd
        .inside(netns)
        .run()
        .context("needs h2load (package nghttp2-client)")?;
    let text = output.text();
    let codes = text.lines().find_map(|line| line.strip_prefix("status codes: "));
    codes
        .and_then(|codes| codes.split(' ').next()?.parse().ok())
        .with_context(|| format!("h2load: {text}"))
}
