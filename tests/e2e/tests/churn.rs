//! Twenty thousand connections come and go: nothing of them stays.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use weir_e2e_tests::{service, unchecked_pool};
use weir_harness::{Netns, Weir, WeirConfig, peer::nginx::Nginx, scratch, wait_until, weir::PATIENCE};

const CONNECTIONS: usize = 20_000;
const THREADS: usize = 8;
/// What an allocator may keep by chance.
const SLACK_KIB: u64 = 4 << 10;
const RELAY: &str = "127.0.0.1:8000";

/// One connection: a request or two, ended in one of the ways in which connections end.
fn connection(at: SocketAddr, number: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let close = if number.is_multiple_of(2) {
        "Connection: close\r\n"
    } else {
        ""
    };
    write!(stream, "GET / HTTP/1.1\r\nHost: a\r\n{close}\r\n")?;
    if number % 10 == 1 {
        // Gone before the answer.
        return Ok(());
    }
    let mut buf = [0; 4096];
    let n = stream.read(&mut buf)?;
    if !buf[..n].starts_with(b"HTTP/1.1 200 ") {
        bail!("answered {:?}", String::from_utf8_lossy(&buf[..n]));
    }
    if number.is_multiple_of(2) {
        while stream.read(&mut buf)? > 0 {}
    }
    Ok(())
}

fn churn(netns: &Netns, count: usize) -> Result<()> {
    let at: SocketAddr = RELAY.parse()?;
    netns.run(|| {
        std::thread::scope(|scope| {
            let each = |thread: usize| {
                // Threads are in the namespace of the thread that starts them.
                scope.spawn(move || {
                    (0..count / THREADS).try_for_each(|i| connection(at, i * THREADS + thread))
                })
            };
            let threads: Vec<_> = (0..THREADS).map(each).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
        })
    })?
}

#[derive(Debug)]
struct Held {
    descriptors: usize,
    tasks: f64,
    rss_kib: u64,
}

/// What the relay holds once nobody is there.
fn at_rest(weir: &Weir<'_>) -> Result<Held> {
    let pid = weir.role_pid("relay")?;
    wait_until(PATIENCE, "nobody is there", || {
        let open = weir.metrics().and_then(|m| m.sum("weir_relay_open", &[]));
        match open {
            Ok(0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(Held {
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        tasks: weir.metrics()?.sum("weir_relay_tasks", &[])?,
        rss_kib: rss.split_whitespace().next().context("no number")?.parse()?,
    })
}

#[test]
fn nothing_stays_of_twenty_thousand_connections() -> Result<()> {
    let netns = Netns::new(&scratch::unique())?;
    netns.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    let _nginx = Nginx::start(&netns, "b1", &["127.0.0.1:900".parse()?])?;
    let body = unchecked_pool("web", &[("127.0.0.1:900".into(), 10)])
        + &service("www", "http", &[RELAY.into()], "web", "");
    let mut config = WeirConfig::relay_only(body, None);
    config.args = vec!["--access-log", "off"];
    let weir = Weir::start(&netns, config)?;
    // Buffers and pools are as they will be after this.
    weir.with_log(churn(&netns, 2000))?;
    let before = at_rest(&weir)?;
    weir.with_log(churn(&netns, CONNECTIONS))?;
    let after = at_rest(&weir)?;
    let accepted = weir.metrics()?.sum("weir_relay_connections_total", &[])?;
    assert_eq!(accepted, (CONNECTIONS + 2000) as f64);
    // The idle connections to the backend may be more or fewer by what was at work at once.
    assert!(
        after.descriptors <= before.descriptors + THREADS,
        "{before:?} {after:?}"
    );
    assert_eq!(after.tasks, before.tasks, "{before:?} {after:?}");
    assert!(
        after.rss_kib <= before.rss_kib + SLACK_KIB,
        "{before:?} {after:?}"
    );
    Ok(())
}
