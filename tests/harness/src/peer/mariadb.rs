//! MariaDB as a backend, and its command-line client: the protocol of MySQL, whose server speaks first and whose client says
//! goodbye and closes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// Who may log in, from everywhere, and may do nothing.
const USER: &str = "weir";
const PASSWORD: &str = "weir";

/// Who may log in without a password.
const GUEST: &str = "guest";

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
            format!("CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\nCREATE USER '{GUEST}'@'%';\n"),
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

/// One session from this thread's namespace, without a program for it: logs in as a guest, asks the server one thing, says
/// goodbye and closes. For many of them: the client above takes longer to start than to ask.
///
/// # Errors
/// The connection broke or took longer than `patience`, or the server says no.
pub fn session(at: SocketAddr, patience: Duration) -> Result<()> {
    /// Protocol of 4.1, authentication of 4.1, plugins.
    const CAPABILITIES: u32 = 1 << 9 | 1 << 15 | 1 << 19;
    const UTF8: u8 = 33;
    const METHOD: &[u8] = b"mysql_native_password\0";
    const QUERY: u8 = 3;
    const QUIT: u8 = 1;
    let mut stream = TcpStream::connect_timeout(&at, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    let greeting = receive(&mut stream)?;
    if greeting.first() != Some(&10) {
        bail!("{at} does not greet as a server of MySQL's protocol: {greeting:02x?}");
    }
    let mut login = CAPABILITIES.to_le_bytes().to_vec();
    login.extend((1_u32 << 24).to_le_bytes());
    login.push(UTF8);
    login.extend([0; 23]);
    login.extend(GUEST.as_bytes());
    // The end of the name, and an answer of no length to the server's challenge.
    login.extend([0, 0]);
    login.extend(METHOD);
    send(&mut stream, 1, &login)?;
    let answer = receive(&mut stream)?;
    if answer.first() != Some(&0) {
        bail!("{at} lets nobody in: {answer:02x?}");
    }
    send(&mut stream, 0, &[&[QUERY], b"SELECT 1".as_slice()].concat())?;
    // A column, its end, a row, its end.
    let mut ends = 0;
    while ends < 2 {
        let packet = receive(&mut stream)?;
        match packet.first() {
            Some(0xff) => bail!("{at} refuses to answer: {packet:02x?}"),
            Some(0xfe) if packet.len() < 9 => ends += 1,
            _ => {}
        }
    }
    send(&mut stream, 0, &[QUIT])
}

/// A packet: the length of what follows in three bytes, and its number.
fn send(stream: &mut TcpStream, number: u8, payload: &[u8]) -> Result<()> {
    let mut packet = u32::try_from(payload.len())?.to_le_bytes().to_vec();
    packet.truncate(3);
    packet.push(number);
    packet.extend(payload);
    Ok(stream.write_all(&packet)?)
}

fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let [a, b, c, _] = head;
    let mut payload = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}
