//! What is looked at: the relay's descriptors, tasks, gauges and resident memory.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use weir_harness::metrics::Metrics;

/// A relay process, and where its counters are.
pub(super) struct Watch {
    relay: u32,
    admin: SocketAddr,
}

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Look {
    relay: u32,
    requests: u64,
    descriptors: u64,
    rss_kib: u64,
    threads: u64,
    tasks: u64,
    /// By gauge; all are 0 at rest.
    gauges: Vec<(&'static str, u64)>,
}

/// What must be 0 when nobody is there. Connections in advance (`idle_min`) are idle, and closed as soon as they age.
const GAUGES: [&str; 6] = [
    "weir_relay_connections_open",
    "weir_relay_open",
    "weir_relay_pool_active",
    "weir_relay_pool_queued",
    "weir_relay_backend_in_flight",
    "weir_relay_held_bytes",
];

impl Watch {
    /// The relay that belongs to this control process.
    pub(super) fn find(control: u32, admin: SocketAddr) -> Result<Self> {
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).collect();
            let is_relay = words.windows(2).any(|w| w == [b"role".as_slice(), b"relay"]);
            if is_relay && number(&status, "PPid:") == Some(u64::from(control)) {
                return Ok(Self { relay: pid, admin });
            }
        }
        bail!("no relay process of {control} was found")
    }

    pub(super) fn look(&self) -> Result<Look> {
        let directory = format!("/proc/{}", self.relay);
        let gone = || anyhow!("the relay has died: process {} is gone", self.relay);
        let status = fs::read_to_string(format!("{directory}/status")).map_err(|_| gone())?;
        let descriptors = fs::read_dir(format!("{directory}/fd"))
            .map_err(|_| gone())?
            .count() as u64;
        let metrics = Metrics::parse(&scrape(self.admin)?)?;
        let sum = |name| metrics.sum(name, &[]).map(|value| value as u64);
        let mut gauges = Vec::new();
        for name in GAUGES {
            gauges.push((name, sum(name)?));
        }
        Ok(Look {
            relay: self.relay,
            requests: sum("weir_relay_requests_total")?,
            descriptors,
            rss_kib: number(&status, "VmRSS:").context("no VmRSS")?,
            threads: number(&status, "Threads:").context("no Threads")?,
            tasks: sum("weir_relay_tasks")?,
            gauges,
        })
    }
}

impl Look {
    pub(super) fn heading() -> String {
        format!(
            "{:<14}{:>10}{:>8}{:>8}{:>9}{:>10}{:>12}",
            "", "requests", "open", "tasks", "fds", "RSS KiB", "held bytes"
        )
    }

    pub(super) fn row(&self, name: &str) -> String {
        let Self {
            requests,
            descriptors,
            rss_kib,
            tasks,
            ..
        } = self;
        let gauge = |name| {
            self.gauges
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(0, |(_, value)| *value)
        };
        format!(
            "{name:<14}{requests:>10}{:>8}{tasks:>8}{descriptors:>9}{rss_kib:>10}{:>12}",
            gauge("weir_relay_open"),
            gauge("weir_relay_held_bytes")
        )
    }

    /// Whether nobody is there any more.
    pub(super) fn is_at_rest(&self) -> bool {
        self.gauges.iter().all(|(_, value)| *value == 0)
    }

    /// Holds it against an earlier one, both at rest.
    pub(super) fn compare(&self, before: &Self, slack_kib: u64) -> Result<()> {
        let mut leaks = Vec::new();
        let mut must_not_grow = |what: &str, before: u64, after: u64, slack: u64| {
            if after > before + slack {
                leaks.push(format!("{what}: {before} before, {after} after"));
            }
        };
        // Connections that are kept ready come and go: as many as there are backends and workers, at most.
        must_not_grow("descriptors", before.descriptors, self.descriptors, 16);
        must_not_grow("tasks", before.tasks, self.tasks, 8);
        must_not_grow("threads", before.threads, self.threads, 0);
        must_not_grow("resident KiB", before.rss_kib, self.rss_kib, slack_kib);
        if before.relay != self.relay {
            leaks.push("the relay is another process".to_owned());
        }
        if leaks.is_empty() {
            Ok(())
        } else {
            bail!("something is left behind:\n{}", leaks.join("\n"))
        }
    }
}

fn number(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn scrape(admin: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(admin).context("asking for metrics")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading metrics")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("metrics without a head")?;
    if !head.contains(" 200 ") {
        bail!("metrics were answered {head}");
    }
    Ok(body.to_owned())
}
