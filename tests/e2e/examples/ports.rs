//! How many connections in TIME_WAIT the relay's source ports bear: for `cargo xtask bench ports`.
//!
//! A client, the box and a backend in namespaces. Sessions whose client closes first come at a steady rate to a service of
//! mode `tcp`, by four source addresses, until the box has so many connections in TIME_WAIT. A line per second goes to standard
//! error, a report as JSON to standard output.
//!
//! Arguments: RATE (sessions per second; more than can be: as fast as it goes), GOAL (connections in TIME_WAIT), SECONDS (at the
//! most), and `mariadb` if the backend is that, and each session logs in, asks one thing and says goodbye.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use weir_e2e_tests::service;
use weir_harness::{
    Lab, Netns, Weir, WeirConfig,
    lab::{Family, INSIDE, OUTSIDE_V4},
    peer::mariadb::{self, Mariadb},
    wait::pass_time,
};

const SOURCES: [&str; 4] = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"];
const BACKEND_PORT: u16 = 3306;
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(OUTSIDE_V4), 9000);
/// Sessions at once, at the most.
const THREADS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(20);
const POOL: (&str, &str) = ("pool", "db");

/// What the clients have seen, of all threads.
#[derive(Default)]
struct Tally {
    begun: AtomicU64,
    greeted: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |name: &str| -> Result<u64> {
        let text = args
            .next()
            .with_context(|| format!("no {name}: write RATE GOAL SECONDS"))?;
        text.parse()
            .with_context(|| format!("{name} is no number: {text}"))
    };
    let (rate, goal, seconds) = (number("RATE")?, number("GOAL")?, number("SECONDS")?);
    let real = match args.next().as_deref() {
        None => false,
        Some("mariadb") => true,
        Some(other) => bail!("the backend is `mariadb` or nothing, not {other}"),
    };
    let lab = Lab::unique(1)?;
    prepare(&lab)?;
    let backend = SocketAddr::new(Family::V4.backend(0), BACKEND_PORT);
    let mariadb = real
        .then(|| Mariadb::start(&lab.backends[0], backend))
        .transpose()?;
    let listener = match real {
        true => None,
        false => Some(lab.backends[0].run(|| TcpListener::bind(backend))??),
    };
    let (stop, tally) = (AtomicBool::new(false), Tally::default());
    let report = thread::scope(|scope| {
        for listener in listener.iter().flat_map(|listener| [listener; THREADS]) {
            scope.spawn(|| serve(listener, &stop));
        }
        let weir = Weir::start(
            &lab.router,
            WeirConfig::relay_only(config(backend), Some((65534, 65534))),
        )?;
        weir.wait_all_up()?;
        let began = Instant::now();
        for _ in 0..THREADS {
            let (client, tally) = (&lab.client, &tally);
            scope.spawn(move || client.run(|| ask(rate, began, tally, real)));
        }
        let report = watch(
            &lab.router,
            &weir,
            &tally,
            goal,
            began,
            Duration::from_secs(seconds),
        );
        tally.stop.store(true, Relaxed);
        stop.store(true, Relaxed);
        for _ in listener.iter().flat_map(|listener| [listener; THREADS]) {
            // Wakes a thread that waits for a connection.
            let _ = lab.backends[0].run(|| TcpStream::connect(backend));
        }
        weir.with_log(report)
    })?;
    drop(mariadb);
    println!("{report:#}");
    Ok(())
}

/// All ports but the first kibi are weir's; the tables have room.
fn prepare(lab: &Lab) -> Result<()> {
    lab.router
        .ip(SOURCES.map(|address| format!("addr add {address}/24 dev {INSIDE}")))?;
    lab.router.sysctl("ipv4/ip_local_port_range", "1024 2047")?;
    lab.router.sysctl("ipv4/tcp_max_tw_buckets", "400000")?;
    // The client closes first, too: what it has in TIME_WAIT is of no interest here and would use its own ports up.
    lab.client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    lab.client.sysctl("ipv4/tcp_max_tw_buckets", "4096")?;
    for end in [&lab.router, &lab.backends[0]] {
        end.sysctl("core/somaxconn", "4096")?;
    }
    // Without timestamps of the backend the kernel gives a port in TIME_WAIT to nobody: what is borne is borne by free ones.
    lab.backends[0].sysctl("ipv4/tcp_timestamps", "0")
}

fn config(backend: SocketAddr) -> String {
    let listen = [SERVICE.to_string()];
    format!(
        "[pools.db]\nbackends = [{{ address = \"{backend}\" }}]\n\
         check = {{ type = \"tcp\", interval = \"2s\", timeout = \"1900ms\" }}\n\
         [pools.db.source]\naddresses = {SOURCES:?}\nports = \"2048-65535\"\n\n"
    ) + &service("db", "tcp", &listen, "db", "")
}

/// Greets, and ends when the other side has ended.
fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Relaxed) {
            return;
        }
        // A connection that breaks is the client's to count.
        let _ = (|| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"hi")?;
            while stream.read(&mut [0; 16])? > 0 {}
            std::io::Result::Ok(())
        })();
    }
}

/// Sessions at their times, until it is told to stop.
fn ask(rate: u64, began: Instant, tally: &Tally, real: bool) {
    while !tally.stop.load(Relaxed) {
        let number = tally.begun.fetch_add(1, Relaxed);
        let due = began + Duration::from_secs(1).mul_f64(number as f64 / rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let done = match real {
            true => mariadb::session(SERVICE, PATIENCE),
            false => session().map_err(Into::into),
        };
        match done {
            Ok(()) => tally.greeted.fetch_add(1, Relaxed),
            Err(error) => {
                eprintln!("a session failed: {error:#}");
                tally.failed.fetch_add(1, Relaxed)
            }
        };
    }
}

fn session() -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SERVICE, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(b"bye")
}

/// Connections in TIME_WAIT of a namespace.
fn time_waits(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/sockstat"))??;
    let tcp = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))
        .context("no TCP")?;
    let mut words = tcp.split_whitespace().skip_while(|word| *word != "tw").skip(1);
    Ok(words.next().context("no tw")?.parse()?)
}

/// Looks once a second until the goal is reached, something has failed, or the time is over.
fn watch(
    router: &Netns,
    weir: &Weir<'_>,
    tally: &Tally,
    goal: u64,
    began: Instant,
    most: Duration,
) -> Result<serde_json::Value> {
    let (mut highest, mut foretold) = (0, None);
    loop {
        pass_time(Duration::from_secs(1))?;
        let metrics = weir.metrics()?;
        let seconds = began.elapsed().as_secs_f64();
        let sum = |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&[POOL], more].concat());
        let resting = time_waits(router)?;
        highest = highest.max(resting);
        let (greeted, failed) = (tally.greeted.load(Relaxed), tally.failed.load(Relaxed));
        let free = sum("weir_relay_pool_ports", &[("state", "free")])?;
        let left = sum("weir_relay_pool_ports_seconds_to_exhaustion", &[])?;
        eprintln!(
            "{seconds:6.1} s  {greeted:7} sessions  {failed} failed  {resting:6} in TIME_WAIT  {free:6} free  {left:.0} s left"
        );
        if left.is_finite() && foretold.is_none() {
            foretold = Some(json!({ "at_s": seconds, "left_s": left, "free": free }));
        }
        if resting >= goal || failed > 0 || began.elapsed() >= most {
            return Ok(json!({
                "sessions": greeted,
                "failed": failed,
                "seconds": seconds,
                "per_second": greeted as f64 / seconds,
                "time_wait": highest,
                "free": free,
                "waiting": sum("weir_relay_pool_ports", &[("state", "waiting")])?,
                "refused": sum("weir_relay_pool_ports_refused_total", &[])?,
                "early": sum("weir_relay_pool_ports_early_total", &[])?,
                "exhausted": sum("weir_relay_pool_ports_exhausted_total", &[])?,
                "left_s": left.is_finite().then_some(left),
                "first_foretold": foretold,
                "checks_failed": sum("weir_backend_checks_total", &[("result", "failed")])?,
            }));
        }
    }
}
