//! curl: single requests, transfers of files, and a steady load whose every request is accounted for.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{command::Cmd, netns::Netns};

/// An HTTP response as curl saw it.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names as they came.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// First word of the body: the backend's name in an answer of [`Nginx`](super::nginx::Nginx).
    pub fn who(&self) -> String {
        self.text()
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// Values of the fields of that name, in order.
    pub fn field(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }
}

/// `http://ADDRESS:PORT/PATH`
pub fn url(target: SocketAddr, path: &str) -> String {
    format!("http://{target}{path}")
}

/// One GET, with more arguments of curl's if need be. It has 10 s.
///
/// # Errors
/// curl is not installed, or it failed (refused, reset, timed out): the error carries its words. A status of 4xx or 5xx
/// is no error.
pub fn get(netns: &Netns, url: &str, args: &[&str]) -> Result<Response> {
    let output = curl(netns, 10).args(["-i"]).args(args).arg(url).run()?;
    if !output.status.success() {
        bail!("curl {url}: {} ({})", output.complaint(), output.status);
    }
    parse(&output.stdout).with_context(|| format!("curl {url}: not an HTTP response"))
}

/// GETs a file. It has 60 s.
///
/// # Errors
/// As [`get`]; or the status was not 200.
pub fn download(netns: &Netns, url: &str, to: &Path) -> Result<()> {
    let status = curl(netns, 60)
        .args(["-w", "%{http_code}", "-o"])
        .arg(to)
        .arg(url)
        .check()?;
    if status != "200" {
        bail!("curl {url}: status {status}");
    }
    Ok(())
}

/// PUTs a file, with more arguments of curl's if need be. It has 60 s.
///
/// # Errors
/// As [`get`]; or the status was not 201 or 204.
pub fn upload(netns: &Netns, from: &Path, url: &str, args: &[&str]) -> Result<()> {
    let status = curl(netns, 60)
        .args(["-w", "%{http_code}", "-o", "/dev/null", "-T"])
        .arg(from)
        .args(args)
        .arg(url)
        .check()?;
    if status != "201" && status != "204" {
        bail!("curl -T {url}: status {status}");
    }
    Ok(())
}

fn curl<'a>(netns: &'a Netns, seconds: u64) -> Cmd<'a> {
    Cmd::new("curl")
        .args(["-sS", "-g", "--noproxy", "*", "--max-time", &seconds.to_string()])
        .deadline(Duration::from_secs(seconds + 5))
        .inside(netns)
}

fn parse(mut bytes: &[u8]) -> Result<Response> {
    loop {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .context("no end of the head")?;
        let (head, rest) = bytes.split_at(end + 4);
        let head = String::from_utf8_lossy(head);
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().context("no status line")?;
        let status: u16 = status_line.split(' ').nth(1).context("no status")?.parse()?;
        if (100..200).contains(&status) {
            bytes = rest;
            continue;
        }
        let fields = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .with_context(|| format!("no field: {line}"))?;
                Ok((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<Result<_>>()?;
        return Ok(Response {
            status,
            fields,
            body: rest.to_vec(),
        });
    }
}

/// What a [`Load`] has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered by a backend with 200.
    pub ok: u64,
    /// Answers by the first word of the body: the backend's name.
    pub by_backend: BTreeMap<String, u64>,
    /// Requests that were not.
    pub failures: Vec<Failed>,
}

impl Tally {
    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        for (backend, count) in &other.by_backend {
            *self.by_backend.entry(backend.clone()).or_default() += count;
        }
        self.failures.extend(other.failures.iter().cloned());
    }

    /// Failures of requests that began after this.
    pub fn failed_after(&self, moment: Instant) -> Vec<&Failed> {
        self.failures
            .iter()
            .filter(|failed| failed.began > moment)
            .collect()
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// When it began (its end as we read of it, less the time that curl says it took).
    pub began: Instant,
    /// When we read of its end.
    pub ended: Instant,
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// curl's words.
    pub error: String,
}

/// How a [`Load`] asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// A connection per request.
    Never,
    /// One connection for as long as the server keeps it.
    KeepAlive,
}

/// A curl that asks one request after the other until it is stopped, at most 20 000.
#[derive(Debug)]
pub struct Load {
    child: Child,
    tally: Arc<Mutex<Tally>>,
    readers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts it inside a namespace. Each request has 2 s and begins at the earliest 1/`rate` s after the one before.
    ///
    /// # Errors
    /// curl is not installed.
    pub fn start(netns: &Netns, target: SocketAddr, reuse: Reuse, rate: u32) -> Result<Self> {
        // The figures go to standard error, which curl does not buffer, one line per request: so each arrives in time.
        let mut cmd = Cmd::new("curl").args(["-s", "-N", "--noproxy", "*", "--max-time", "2"]);
        cmd = cmd.args([
            "-w",
            "%{stderr}%{http_code} %{exitcode} %{time_total} %{errormsg}\\n",
        ]);
        if paced() {
            cmd = cmd.args(["--rate", &format!("{rate}/s")]);
        }
        if reuse == Reuse::Never {
            cmd = cmd.args(["-H", "Connection: close"]);
        }
        let cmd = cmd.arg(url(target, "/?request=[1-20000]")).inside(netns);
        let mut command = cmd.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = cmd.spawn(&mut command).context("the load needs curl")?;
        let tally = Arc::<Mutex<Tally>>::default();
        let mut readers = Vec::new();
        if let Some(bodies) = child.stdout.take() {
            let tally = Arc::clone(&tally);
            readers.push(thread::spawn(move || {
                for line in whole_lines(bodies) {
                    let who = line.split_whitespace().next().unwrap_or_default().to_owned();
                    *lock(&tally).by_backend.entry(who).or_default() += 1;
                }
            }));
        }
        if let Some(figures) = child.stderr.take() {
            let tally = Arc::clone(&tally);
            readers.push(thread::spawn(move || {
                for line in whole_lines(figures) {
                    let now = Instant::now();
                    match read_figures(&line, now) {
                        None => lock(&tally).ok += 1,
                        Some(failed) => lock(&tally).failures.push(failed),
                    }
                }
            }));
        }
        Ok(Self {
            child,
            tally,
            readers,
        })
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Stops it and gives back all it has seen. The request under way at that moment does not count.
    pub fn stop(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        crate::process::kill_group(self.child.id());
        let _gone = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ended = reader.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if !self.readers.is_empty() {
            self.end();
        }
    }
}

/// Lines with their ends cut off. curl writes a line in several writes, and is killed while it writes: what has no end is
/// of a request under way.
fn whole_lines(from: impl Read) -> impl Iterator<Item = String> {
    let mut from = BufReader::new(from);
    std::iter::from_fn(move || {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    })
}

/// None: answered with 200.
fn read_figures(line: &str, now: Instant) -> Option<Failed> {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (status, exit, took, error) = (word(), word(), word(), word());
    if status == "200" && exit == "0" {
        return None;
    }
    let took = took
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .unwrap_or_default();
    let status = status.parse().unwrap_or(0);
    let error = if error.is_empty() {
        format!("status {status}")
    } else {
        error.to_owned()
    };
    Some(Failed {
        began: now.checked_sub(took).unwrap_or(now),
        ended: now,
        status,
        error,
    })
}

/// Whether this curl knows `--rate` (7.84 and later). Without it the load is as fast as its answers.
fn paced() -> bool {
    static PACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PACED.get_or_init(|| {
        Cmd::new("curl")
            .args(["--help", "all"])
            .run()
            .is_ok_and(|output| output.text().contains("--rate "))
    })
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_tell_success_from_failure() {
        let now = Instant::now();
        assert!(read_figures("200 0 0.000931 ", now).is_none());
        let refused = read_figures("000 7 0.000100 Failed to connect to ::1 port 1", now).unwrap();
        assert_eq!(
            (refused.status, refused.error.as_str()),
            (0, "Failed to connect to ::1 port 1")
        );
        let unavailable = read_figures("503 0 0.5 ", now).unwrap();
        assert_eq!(
            (unavailable.status, unavailable.error.as_str()),
            (503, "status 503")
        );
        assert_eq!(now - unavailable.began, Duration::from_millis(500));
        // Cut off in the body.
        assert!(
            read_figures(
                "200 18 0.1 transfer closed with outstanding read data remaining",
                now
            )
            .is_some()
        );
    }

    #[test]
    fn a_line_cut_off_by_the_kill_is_no_failure() {
        let all = |text: &[u8]| whole_lines(std::io::Cursor::new(text.to_vec())).collect::<Vec<_>>();
        assert_eq!(all(b"200 0 0.1 \n200 0 0.2 \n20"), ["200 0 0.1 ", "200 0 0.2 "]);
        assert!(all(b"20").is_empty());
        assert!(all(b"").is_empty());
    }

    #[test]
    fn responses_are_taken_apart() {
        let response =
            parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\n\r\nb1 rest")
                .unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.field("X-A"), ["1", "2"]);
        assert_eq!(response.who(), "b1");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
