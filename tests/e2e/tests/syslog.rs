//! Access records by syslog: to a socket of the box and by UDP, in both forms, whatever becomes of the daemon.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_conformance_tests::http2::Origin;
use weir_harness::{Cmd, Process, Scratch, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A weir whose records go to `to`, with `keys` beside.
struct Setup {
    _scratch: Scratch,
    _origin: Origin,
    at: SocketAddr,
    metrics: SocketAddr,
    weir: Process,
}

impl Drop for Setup {
    /// There is no namespace that its children would go with: only an orderly end ends them too.
    fn drop(&mut self) {
        if let Err(error) = self.weir.stop(PATIENCE) {
            eprintln!("weir did not end in order: {error:#}");
        }
    }
}

fn free() -> Result<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(socket.local_addr()?)
}

impl Setup {
    fn start(scratch: Scratch, to: &str, keys: &str) -> Result<Self> {
        let (origin, at, metrics) = (Origin::start()?, free()?, free()?);
        let file = scratch.write(
            "weir.toml",
            format!(
                "[node]\nname = \"edge-1\"\nxdp = \"off\"\nworkers = 1\n\
                 [admin]\nsocket = \"{}/control.sock\"\nhttp = \"{metrics}\"\n\
                 [access_log]\nto = \"syslog:{to}\"\nformat = \"httplog\"\n{keys}\n\
                 [pools.web]\nbackends = [{{ address = \"{}\", name = \"web-a\" }}]\n\
                 [services.www]\nlisten = [\"{at}\"]\nmode = \"http\"\npool = \"web\"\n",
                scratch.path().display(),
                origin.at(),
            ),
        )?;
        let cmd = Cmd::new(weir_harness::weir::binary()?)
            .args(["run", "-c"])
            .arg(&file);
        let mut weir = Process::start("weir", &scratch, &cmd)?;
        weir.until(PATIENCE, "weir listens", || {
            TcpStream::connect(at)
                .map(drop)
                .map_err(|error| error.to_string())
        })?;
        Ok(Self {
            _scratch: scratch,
            _origin: origin,
            at,
            metrics,
            weir,
        })
    }

    fn ask(&self, path: &str) -> Result<()> {
        let answer = exchange(self.at, path)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(())
    }

    /// Records that were lost, as the metrics tell it.
    fn lost(&self) -> Result<u64> {
        let text = exchange(self.metrics, "/metrics")?;
        let line = text
            .lines()
            .find(|l| l.starts_with("weir_relay_log_dropped_total "));
        let value = line.and_then(|l| l.split(' ').nth(1)).context("no such metric")?;
        Ok(value.parse::<f64>()? as u64)
    }
}

fn exchange(at: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn daemon(at: &Path) -> Result<UnixDatagram> {
    let socket = UnixDatagram::bind(at)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // The relay is nobody.
    fs::set_permissions(at, fs::Permissions::from_mode(0o777))?;
    Ok(socket)
}

fn record(read: impl Fn(&mut [u8]) -> std::io::Result<usize>) -> Result<String> {
    let mut room = vec![0; 16 << 10];
    let length = read(&mut room).context("waiting for a record")?;
    Ok(String::from_utf8(room[..length].to_vec())?)
}

/// A datagram for each record, with the older header; a daemon that goes costs its records alone, and is found again.
#[test]
fn a_daemon_of_the_box() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("log");
    let first = daemon(&path)?;
    let to = path.display().to_string();
    let setup = Setup::start(scratch, &to, "facility = \"local3\"")?;
    for path in ["/one", "/two"] {
        setup.ask(path)?;
        let record = record(|room| first.recv(room))?;
        // local3 is 19, info 6.
        ensure!(record.starts_with("<158>"), "{record}");
        let (header, rest) = record.split_once("]: ").context(record.clone())?;
        ensure!(header.contains(" weir["), "{record}");
        ensure!(rest.starts_with("127.0.0.1:"), "{record}");
        ensure!(rest.contains("] www web/web-a "), "{record}");
        ensure!(
            rest.trim_end().ends_with(&format!("\"GET {path} HTTP/1.1\"")),
            "{record}"
        );
    }
    ensure!(setup.lost()? == 0);
    // Gone: requests are answered all the same.
    drop(first);
    fs::remove_file(&path)?;
    setup.ask("/lost")?;
    wait_until(PATIENCE, "the record is counted as lost", || {
        match setup.lost().map_err(|e| format!("{e:#}"))? {
            0 => Err("none was lost".to_owned()),
            _ => Ok(()),
        }
    })?;
    let second = daemon(&path)?;
    second.set_read_timeout(Some(Duration::from_millis(200)))?;
    wait_until(PATIENCE, "it is found again", || {
        setup.ask("/again").map_err(|e| format!("{e:#}"))?;
        let record = record(|room| second.recv(room)).map_err(|e| format!("{e:#}"))?;
        match record.contains("/again") {
            true => Ok(()),
            false => Err(record),
        }
    })?;
    drop(setup);
    Ok(())
}

/// The header of RFC 5424 by UDP, unless it is asked for otherwise.
#[test]
fn by_udp() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let to = socket.local_addr()?.to_string();
    let setup = Setup::start(Scratch::new()?, &to, "")?;
    setup.ask("/udp")?;
    let new = record(|room| socket.recv(room))?;
    let header: Vec<_> = new.split(' ').take(7).collect();
    let ["<134>1", time, _host, "weir", process, "-", "-"] = header.as_slice() else {
        anyhow::bail!("{new}");
    };
    ensure!(time.ends_with('Z') && time.len() == 27, "{new}");
    ensure!(process.parse::<u32>().is_ok(), "{new}");
    ensure!(
        new.contains(" - - 127.0.0.1:") && new.contains("\"GET /udp HTTP/1.1\""),
        "{new}"
    );
    drop(setup);

    let setup = Setup::start(Scratch::new()?, &to, "syslog_form = \"rfc3164\"")?;
    setup.ask("/old")?;
    let old = record(|room| socket.recv(room))?;
    ensure!(old.starts_with("<134>") && !old.starts_with("<134>1 "), "{old}");
    ensure!(
        old.contains(" weir[") && old.contains("\"GET /old HTTP/1.1\""),
        "{old}"
    );
    drop(setup);
    Ok(())
}
