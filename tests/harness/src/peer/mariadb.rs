//! MariaDB as a backend, and its command-line client: the protocol of MySQL, whose server speaks first and whose client says
//! goodbye and closes.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// Who may log in, from everywhere, and may do nothing.
const USER: &str = "weir";
const PASSWORD: &str = "weir";

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Mariadb {
    process: Process,
    _scratch: Scratch,
}

impl Mariadb {
    /// Starts it inside a namespace with a data directory of its own, and waits until it accepts connections.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let scratch = Scratch::new()?;
        let data = scratch.join("data");
        Cmd::new("mariadb-install-db")
            .args([
                "--no-defaults",
                "--user=root",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ])
            .arg(format!("--datadir={}", data.display()))
            .deadline(Duration::from_secs(60))
            .check()
            .context("a peer needs MariaDB (Debian and Ubuntu: package mariadb-server)")?;
        let users = scratch.write(
            "users.sql",
            format!("CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"),
        )?;
        let cmd = Cmd::new("mariadbd")
            .args([
                "--no-defaults",
                "--user=root",
                "--skip-name-resolve",
                "--skip-log-bin",
            ])
            .args([
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=8M",
                "--max-connections=500",
            ])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--init-file={}", users.display()))
            .arg(format!("--socket={}", scratch.join("mariadb.sock").display()))
            .arg(format!("--pid-file={}", scratch.join("mariadb.pid").display()))
            .arg(format!("--bind-address={}", listen.ip()))
            .arg(format!("--port={}", listen.port()));
        let mut process = Process::start("mariadbd", &scratch, &cmd.inside(netns))?;
        process.until(Duration::from_secs(60), "mariadbd accepts connections", || {
            netns
                .run(|| TcpStream::connect_timeout(&listen, Duration::from_millis(500)))
                .map_err(|e| format!("{e:#}"))?
                .map(drop)
                .map_err(|e| format!("{listen}: {e}"))
        })?;
        Ok(Self {
            process,
            _scratch: scratch,
        })
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

/// Logs in at an address from inside a namespace, asks the server one thing, and says goodbye. What it has answered.
///
/// # Errors
/// The client's words.
pub fn query(netns: &Netns, at: SocketAddr, statement: &str) -> Result<String> {
    let output = Cmd::new("mariadb")
        .args([
            "--no-defaults",
            "--protocol=tcp",
            "--batch",
            "--skip-column-names",
            "--connect-timeout=10",
        ])
        .arg(format!("--host={}", at.ip()))
        .arg(format!("--port={}", at.port()))
        .arg(format!("--user={USER}"))
        .arg(format!("--password={PASSWORD}"))
        .args(["--execute", statement])
        .inside(netns)
        .deadline(Duration::from_secs(30))
        .run()?;
    if !output.status.success() {
        bail!("mariadb at {at}: {}", output.complaint());
    }
    Ok(output.text().trim().to_owned())
}
