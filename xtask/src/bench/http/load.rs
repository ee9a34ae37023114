//! wrk and h2load: starting them, and reading what they write.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, bail};

use super::super::peers::OTHER_CORE;
use crate::shell;

/// Loads `http://at/path`. Answers with the requests that were served.
///
/// # Errors
/// Some failed: figures with failures in them mean nothing.
pub(super) fn wrk(
    at: SocketAddr,
    path: &str,
    seconds: u32,
    connections: u32,
    header: Option<&str>,
) -> Result<u64> {
    let mut command = Command::new("taskset");
    command.args(["-c", &OTHER_CORE.to_string(), "wrk", "-t1"]);
    command.args([format!("-c{connections}"), format!("-d{seconds}s")]);
    if let Some(header) = header {
        command.args(["-H", header]);
    }
    command.arg(format!("http://{at}{path}"));
    let text = shell::output(&mut command)?;
    match counted(&text).with_context(|| format!("reading what wrk wrote: {text}"))? {
        (0, _) => bail!("nothing was answered: {text}"),
        (requests, 0) => Ok(requests),
        (requests, errors) => bail!("{errors} of {requests} requests failed: {text}"),
    }
}

/// Streams that are open at once on a connection of HTTP/2.
const STREAMS: u32 = 4;

/// Loads `http://at/path` over HTTP/2, with as many requests under way as [`wrk()`] has with as many connections. Answers
/// with the requests that were served.
///
/// # Errors
/// Some failed: figures with failures in them mean nothing.
pub(super) fn h2load(at: SocketAddr, path: &str, seconds: u32, connections: u32) -> Result<u64> {
    let mut command = Command::new("taskset");
    command.args(["-c", &OTHER_CORE.to_string(), "h2load", "-t1"]);
    let clients = connections.div_ceil(STREAMS);
    command.args([
        format!("-c{clients}"),
        format!("-m{STREAMS}"),
        format!("-D{seconds}"),
    ]);
    command.arg(format!("http://{at}{path}"));
    let text = shell::output(&mut command)?;
    match counted_h2(&text).with_context(|| format!("reading what h2load wrote: {text}"))? {
        (0, _) => bail!("nothing was answered: {text}"),
        (requests, 0) => Ok(requests),
        (requests, errors) => bail!("{errors} of {requests} requests failed: {text}"),
    }
}

/// Requests that were served, and that were not, in h2load's report.
fn counted_h2(text: &str) -> Option<(u64, u64)> {
    let line = |start: &str| text.lines().find_map(|l| l.trim().strip_prefix(start));
    let count = |line: &str, what: &str| {
        line.split(',')
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    let requests = line("requests:")?;
    let done = count(requests, "done")?;
    // Of requests that were under way at the end some have their status and are not done.
    let good = count(line("status codes:")?, "2xx")?;
    Some((done, done.saturating_sub(good) + count(requests, "failed")?))
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
    fn h2loads_report_is_read() {
        let report = |failed: u32, good: u32| {
            format!(
                "finished in 1.00s, 4000.00 req/s, 1.00MB/s\n\
                 requests: 4010 total, 4010 started, 4000 done, 4000 succeeded, {failed} failed, {failed} errored, 0 timeout\n\
                 status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx\n"
            )
        };
        assert_eq!(counted_h2(&report(0, 4000)), Some((4000, 0)));
        assert_eq!(counted_h2(&report(0, 4001)), Some((4000, 0)));
        assert_eq!(counted_h2(&report(3, 3990)), Some((4000, 13)));
        assert_eq!(counted_h2("could not connect"), None);
    }
}
