//! Source ports of the relay: backends see what is listed and nothing else; what closes first here rests; the end is foretold,
//! has its own reason, and leaves checks alone.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_e2e_tests::{differences, pool_of, service, traces, vip};
use weir_harness::{
    Lab, Netns, Weir, WeirConfig,
    lab::{Family, INSIDE, OUTSIDE_V4},
    peer::{
        curl::{self, url},
        echo::{self, Echo},
        mariadb::{self, Mariadb},
    },
    wait::pass_time,
    wait_until,
    weir::PATIENCE,
};

const SOURCES: [&str; 2] = ["10.0.0.5", "10.0.0.6"];
const PORT: u16 = 3306;
/// Where clients reach the pool by TCP, and by HTTP.
const TCP: u16 = 9000;
const HTTP: u16 = 8000;
/// Of state TIME_WAIT, in `/proc/net/tcp`.
const TIME_WAIT: &str = "06";

/// A server that greets, and ends when it is told goodbye or the other side ends. Stops when dropped.
struct Greeter {
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Greeter {
    /// With `obeys` it ends by itself when it is told goodbye, as MySQL does.
    fn start(netns: &Netns, address: SocketAddr, obeys: bool) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind(address))??;
        let (peers, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        for _ in 0..4 {
            let listener = listener.try_clone()?;
            let (peers, stop) = (Arc::clone(&peers), Arc::clone(&stop));
            threads.push(thread::spawn(move || {
                while let Ok((stream, peer)) = listener.accept() {
                    if stop.load(Relaxed) {
                        return;
                    }
                    peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                    // A connection that breaks is the client's to complain of.
                    let _ = greet(stream, obeys);
                }
            }));
        }
        Ok(Self {
            peers,
            stop,
            address,
            threads,
        })
    }

    /// Who has connected, in order.
    fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(mut self, netns: &Netns) -> Result<()> {
        self.stop.store(true, Relaxed);
        for _ in &self.threads {
            drop(netns.run(|| TcpStream::connect(self.address))??);
        }
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the server panicked"))?;
        }
        Ok(())
    }
}

fn greet(mut stream: TcpStream, obeys: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hi")?;
    let mut buf = [0; 16];
    while stream.read(&mut buf)? > 0 && !obeys {}
    Ok(())
}

/// A session whose client closes first. False: it was reset before it was greeted.
fn session(at: SocketAddr) -> Result<bool> {
    let mut stream = match TcpStream::connect_timeout(&at, PATIENCE) {
        // The reset was quicker than the look at what became of the handshake.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
        stream => stream?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = [0; 2];
    if stream.read_exact(&mut greeting).is_err() {
        return Ok(false);
    }
    ensure!(&greeting == b"hi", "greeted by {greeting:?}");
    stream.write_all(b"bye")?;
    Ok(true)
}

/// So many of them, one after the other: how many were greeted.
fn sessions(client: &Netns, count: usize) -> Result<usize> {
    let at = SocketAddr::new(OUTSIDE_V4.into(), TCP);
    client.run(|| {
        let mut greeted = 0;
        for _ in 0..count {
            greeted += usize::from(session(at)?);
        }
        Ok(greeted)
    })?
}

/// A network with the source addresses on the box. Without timestamps of the backend the kernel gives a port in TIME_WAIT to
/// nobody.
fn lab(timestamps: bool) -> Result<Lab> {
    let lab = Lab::unique(1)?;
    lab.backends[0].sysctl("ipv4/tcp_timestamps", if timestamps { "1" } else { "0" })?;
    lab.router
        .ip(SOURCES.map(|address| format!("addr add {address}/24 dev {INSIDE}")))?;
    Ok(lab)
}

fn backend() -> SocketAddr {
    SocketAddr::new(Family::V4.backend(0), PORT)
}

/// A TCP and an HTTP service to one backend from a source with these keys.
fn config(source: &str, check: &str) -> String {
    let listen = |port: u16| [SocketAddr::new(OUTSIDE_V4.into(), port).to_string()];
    format!(
        "[pools.db]\nbackends = [{{ address = \"{}\" }}]\n{check}\n[pools.db.source]\naddresses = {SOURCES:?}\n{source}\n\n",
        backend()
    ) + &service("db", "tcp", &listen(TCP), "db", "")
        + &service("web", "http", &listen(HTTP), "db", "")
}

fn start(lab: &Lab, body: String) -> Result<Weir<'_>> {
    let weir = Weir::start(&lab.router, WeirConfig::relay_only(body, Some((65534, 65534))))?;
    weir.wait_all_up()?;
    Ok(weir)
}

/// Connections of the box in TIME_WAIT that come from the source addresses.
fn time_waits(router: &Netns) -> Result<usize> {
    let table = router.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let sources: Vec<String> = SOURCES
        .iter()
        .map(|address| {
            let IpAddr::V4(address) = address.parse()? else {
                anyhow::bail!("{address} is no IPv4");
            };
            Ok(format!("{:08X}:", u32::from_ne_bytes(address.octets())))
        })
        .collect::<Result<_>>()?;
    let rests = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        fields.nth(1) == Some(TIME_WAIT) && sources.iter().any(|source| local.starts_with(source))
    };
    Ok(table.lines().filter(rests).count())
}

fn ports(weir: &Weir<'_>, state: &str) -> Result<f64> {
    weir.metrics()?
        .sum("weir_relay_pool_ports", &[("pool", "db"), ("state", state)])
}

fn checks_passed(weir: &Weir<'_>) -> Result<f64> {
    weir.metrics()?.sum(
        "weir_backend_checks_total",
        &[("pool", "db"), ("result", "passed")],
    )
}

fn ends(weir: &Weir<'_>, service: &str) -> Result<f64> {
    weir.metrics()?.sum(
        "weir_relay_ends_total",
        &[("service", service), ("reason", "ports-exhausted")],
    )
}

const CHECK: &str =
    "check = { type = \"tcp\", interval = \"1s\", timeout = \"900ms\", jitter = 0, rise = 2, fall = 2 }";
/// Ports of each address that such checks keep: 65 rest at once at the most, and four; twice that, on two addresses.
const KEPT: usize = 69;

#[test]
fn the_end_is_foretold_and_leaves_checks_alone() -> Result<()> {
    let lab = lab(false)?;
    let greeter = Greeter::start(&lab.backends[0], backend(), false)?;
    let weir = start(&lab, config("ports = [\"20000-20399\", \"30000-30099\"]", CHECK))?;
    let room = 2 * (500 - KEPT);
    assert_eq!(ports(&weir, "free")?, room as f64);

    // Nothing fails while there is a port, and the gauge says when there will be none.
    let mut foretold = None;
    let mut done = 0;
    while done < room {
        let now = (room - done).min(50);
        assert_eq!(weir.with_log(sessions(&lab.client, now))?, now, "after {done}");
        done += now;
        let metrics = weir.metrics()?;
        let left = metrics.sum("weir_relay_pool_ports_seconds_to_exhaustion", &[("pool", "db")])?;
        if left.is_finite() && done < room * 3 / 4 {
            foretold.get_or_insert((done, left));
        }
        // The first whole seconds of a load have to pass before it has a rate: here 4 until three quarters are taken, however
        // fast the machine is.
        pass_time(Duration::from_millis(300))?;
    }
    let (at, left) = foretold.context("nothing was foretold while a quarter of the ports was free")?;
    assert!(left > 0.0 && left < 60.0, "{left} s foretold after {at}");
    wait_until(PATIENCE, "no port is free or in use", || {
        match (ports(&weir, "free"), ports(&weir, "in-use")) {
            (Ok(0.0), Ok(0.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    assert_eq!(ports(&weir, "waiting")?, room as f64);
    // Those of checks leave none.
    assert_eq!(time_waits(&lab.router)?, room, "the model and the system agree");

    // The end has its name.
    assert_eq!(sessions(&lab.client, 5)?, 0);
    let response = curl::get(
        &lab.client,
        &url(SocketAddr::new(OUTSIDE_V4.into(), HTTP), "/"),
        &[],
    )?;
    assert_eq!(response.status, 503);
    assert_eq!((ends(&weir, "db")?, ends(&weir, "web")?), (5.0, 1.0));
    let metrics = weir.metrics()?;
    assert_eq!(
        metrics.sum("weir_relay_pool_ports_exhausted_total", &[("pool", "db")])?,
        6.0
    );
    assert_eq!(
        metrics.sum("weir_relay_pool_ports_seconds_to_exhaustion", &[("pool", "db")])?,
        0.0
    );
    assert!(metrics.sum("weir_relay_pool_ports_refused_total", &[("pool", "db")])? > 0.0);
    weir.wait_record("ports-exhausted")?;

    // Checks go on, by ports of their own.
    let before = checks_passed(&weir)?;
    wait_until(PATIENCE, "three more checks pass", || {
        match checks_passed(&weir) {
            Ok(passed) if passed >= before + 3.0 => Ok(()),
            other => Err(format!("{other:?}, before {before}")),
        }
    })?;
    let failed = [("pool", "db"), ("result", "failed")];
    assert_eq!(weir.metrics()?.sum("weir_backend_checks_total", &failed)?, 0.0);

    // What the backend saw: each address and port of the ranges once, those of checks apart.
    let peers = greeter.peers();
    let sources: BTreeSet<IpAddr> = SOURCES.iter().map(|a| Ok(a.parse()?)).collect::<Result<_>>()?;
    assert!(peers.iter().all(|peer| sources.contains(&peer.ip())), "{peers:?}");
    let (checks, traffic): (Vec<SocketAddr>, Vec<SocketAddr>) =
        { peers.iter().copied() }.partition(|peer| (30_100 - KEPT as u16..30_100).contains(&peer.port()));
    let distinct: BTreeSet<_> = traffic.iter().collect();
    assert_eq!((distinct.len(), traffic.len()), (room, room));
    let listed = |port| (20_000..20_400).contains(&port) || (30_000..30_100 - KEPT as u16).contains(&port);
    assert!(traffic.iter().all(|peer| listed(peer.port())), "{traffic:?}");
    assert!(checks.len() >= 5, "{checks:?}");
    drop(weir);
    greeter.stop(&lab.backends[0])
}

/// With timestamps on both sides the system lets a port be used again that rests.
#[test]
fn ports_are_used_before_their_time_where_that_is_safe() -> Result<()> {
    let lab = lab(true)?;
    let greeter = Greeter::start(&lab.backends[0], backend(), false)?;
    let weir = start(&lab, config("ports = \"20000-20019\"", ""))?;
    assert_eq!(weir.with_log(sessions(&lab.client, 200))?, 200);
    let metrics = weir.metrics()?;
    let early = metrics.sum("weir_relay_pool_ports_early_total", &[("pool", "db")])?;
    assert_eq!(early, 160.0, "40 were free");
    assert_eq!(
        metrics.sum("weir_relay_pool_ports_exhausted_total", &[("pool", "db")])?,
        0.0
    );
    drop(weir);
    greeter.stop(&lab.backends[0])
}

/// A relay that is started anew finds its way between what the one before it has left.
#[test]
fn another_relay_pays_with_tries() -> Result<()> {
    let lab = lab(false)?;
    let greeter = Greeter::start(&lab.backends[0], backend(), false)?;
    let weir = start(&lab, config("ports = \"20000-20499\"", ""))?;
    assert_eq!(weir.with_log(sessions(&lab.client, 600))?, 600);
    let before = weir.kill_role("relay")?;
    wait_until(PATIENCE, "another relay serves", || {
        match weir.role_pid("relay") {
            Ok(pid) if pid != before => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    assert_eq!(weir.with_log(sessions(&lab.client, 300))?, 300);
    let refused = weir
        .metrics()?
        .sum("weir_relay_pool_ports_refused_total", &[("pool", "db")])?;
    assert!(refused > 0.0, "600 of 1000 rest, and none was met");
    drop(weir);
    greeter.stop(&lab.backends[0])
}

#[test]
fn a_reset_leaves_nothing() -> Result<()> {
    for obeys in [true, false] {
        let lab = lab(true)?;
        let greeter = Greeter::start(&lab.backends[0], backend(), obeys)?;
        let weir = start(&lab, config("ports = \"20000-20019\"\nclose = \"reset\"", ""))?;
        // As many as there are ports, many times over; those that the backend does not end last a second.
        let count = if obeys { 400 } else { 40 };
        assert_eq!(weir.with_log(sessions(&lab.client, count))?, count, "{obeys}");
        wait_until(PATIENCE, "every port is free", || match ports(&weir, "free") {
            Ok(40.0) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        assert_eq!(time_waits(&lab.router)?, 0, "{obeys}");
        drop(weir);
        greeter.stop(&lab.backends[0])?;
    }
    Ok(())
}

#[test]
fn the_kernel_may_choose_the_port() -> Result<()> {
    let lab = lab(true)?;
    lab.router.sysctl("ipv4/ip_local_port_range", "40000 40099")?;
    let greeter = Greeter::start(&lab.backends[0], backend(), false)?;
    let weir = start(&lab, config("", CHECK))?;
    // Each address has all of them towards the backend.
    assert_eq!(weir.with_log(sessions(&lab.client, 150))?, 150);
    let peers = greeter.peers();
    let sources: BTreeSet<_> = peers.iter().map(|peer| peer.ip().to_string()).collect();
    assert_eq!(sources, SOURCES.map(str::to_owned).into());
    assert!(
        peers.iter().all(|peer| (40_000..40_100).contains(&peer.port())),
        "{peers:?}"
    );
    assert!(
        weir.metrics()?.sum("weir_relay_pool_ports", &[]).is_err(),
        "it has no gauges"
    );
    drop(weir);
    greeter.stop(&lab.backends[0])
}

/// Both planes draw from one source, each from ports of its own, IPv4 and IPv6: weir adds the addresses, answers come to whom
/// they are for though XDP sees all of them first, and the addresses go with it.
#[test]
fn both_planes_share_the_addresses_of_either_family() -> Result<()> {
    let lab = Lab::unique(1)?;
    let at = Family::ALL.map(|family| SocketAddr::new(family.backend(0), PORT));
    let echo = Echo::start(&lab.backends[0], "echo", &at)?;
    let before = traces(&lab.router)?;
    let sources = ["10.0.0.5", "10.0.0.6", "2001:db8:2::5", "2001:db8:2::6"];
    let backends = at.map(|at| format!("{{ address = \"{at}\" }}")).join(", ");
    let mut body = format!(
        "[pools.db]\nbackends = [{backends}]\n{CHECK}\n[pools.db.source]\naddresses = {sources:?}\n\
         ports = \"20000-20999\"\nrelay_ports = [\"30000-30099\", \"31000-31099\"]\n\n"
    );
    let listen = |port| Family::ALL.map(|family| vip(family, port).to_string());
    body += &service("packets", "l4", &listen(PORT), "db", "").replace("\"nat\"", "\"full-nat\"");
    // One of each family, so that both are dialled.
    for family in Family::ALL {
        let address = SocketAddr::new(family.backend(0), PORT);
        let name = pool_of(family, "one");
        let own = sources.map(|s| s.parse::<IpAddr>());
        let own: Vec<_> = { own.into_iter().flatten() }
            .filter(|a| a.is_ipv4() == address.is_ipv4())
            .map(|a| a.to_string())
            .collect();
        body += &format!(
            "[pools.{name}]\nbackends = [{{ address = \"{address}\" }}]\n[pools.{name}.source]\naddresses = {own:?}\n\
             ports = \"40000-40009\"\n\n"
        );
        body += &service(&name, "tcp", &[vip(family, TCP).to_string()], &name, "");
    }
    body += &service("bytes", "tcp", &listen(HTTP), "db", "");
    lab.router.sysctl("ipv4/ip_local_port_range", "50000 60000")?;
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    weir.wait_all_up()?;
    let checks = echo.peers().len();
    let sources: BTreeSet<IpAddr> = { sources.iter() }
        .map(|a| Ok(a.parse()?))
        .collect::<Result<_>>()?;
    for family in Family::ALL {
        for (port, count, ranges) in [
            (PORT, 6, [20_000..21_000, 0..0]),
            (HTTP, 6, [30_000..30_100, 31_000..31_100]),
            // All that there are of both addresses.
            (TCP, 20, [40_000..40_010, 0..0]),
        ] {
            let seen = echo.peers().len();
            let mut open = Vec::new();
            for _ in 0..count {
                let mut stream = weir.with_log(echo::connect(&lab.client, vip(family, port)))?;
                weir.with_log(echo::ping(&mut stream, b"who am I"))?;
                open.push(stream);
            }
            let peers: Vec<_> = echo.peers().split_off(seen);
            let of_service = |peer: &&SocketAddr| ranges.iter().any(|range| range.contains(&peer.port()));
            let (mine, checks): (Vec<&SocketAddr>, Vec<_>) = peers.iter().partition(of_service);
            ensure!(
                mine.len() == count,
                "{family:?} {port}: {mine:?} beside {checks:?}"
            );
            ensure!(
                mine.iter().all(|peer| sources.contains(&peer.ip())),
                "{family:?} {port}: {mine:?}"
            );
            if port == TCP {
                let distinct: BTreeSet<_> = mine.iter().collect();
                ensure!(distinct.len() == count, "{mine:?}");
                let none = [("pool", pool_of(family, "one")), ("state", "free".to_owned())];
                let none = none.each_ref().map(|(key, value)| (*key, value.as_str()));
                ensure!(weir.metrics()?.sum("weir_relay_pool_ports", &none)? == 0.0);
            }
        }
    }
    let of_checks = |peer: &&SocketAddr| (30_000..31_100).contains(&peer.port());
    ensure!(echo.peers().iter().take(checks).all(|peer| of_checks(&peer)));
    weir.stop()?;
    lab.router.sysctl("ipv4/ip_local_port_range", "32768 60999")?;
    let left = differences(&before, &traces(&lab.router)?);
    ensure!(
        left.iter().all(|line| line.contains("ip_local_port_range")),
        "{left:?}"
    );
    Ok(())
}

#[test]
fn what_the_box_has_no_room_for_is_refused() -> Result<()> {
    let lab = lab(true)?;
    let _listener = lab.router.run(|| TcpListener::bind("0.0.0.0:20100"))??;
    let absent = config("", "").replace("10.0.0.6", "10.0.0.99");
    for (body, words) in [
        (
            config("ports = \"30000-40000\"", ""),
            "pool db: the relay's source ports 30000-40000 overlap those that the kernel gives out itself",
        ),
        (
            config("ports = \"20000-20999\"", ""),
            "pool db: something on this box listens on 0.0.0.0:20100, and port 20100 of 10.0.0.5",
        ),
        (absent, "pool db: the source address 10.0.0.99 can't be used"),
    ] {
        let mut weir = Weir::launch(&lab.router, WeirConfig::relay_only(body, None))?;
        let status = weir.wait_end(PATIENCE)?;
        assert!(!status.success());
        assert!(weir.log().contains(words), "{words}: {}", weir.log());
    }
    // Cut round the listener it is fine.
    let weir = start(&lab, config("ports = [\"20000-20099\", \"20101-20999\"]", ""))?;
    drop(weir);
    Ok(())
}

/// A real server whose clients say goodbye and close: the database sees listed addresses and ports, and no fewer rest than the
/// system says. They may be more: the server resets a connection that it has closed as well, if the end of it comes after
/// that, and nobody tells weir, which has let go of its side by then.
#[test]
fn sessions_of_mariadb_come_from_what_is_listed() -> Result<()> {
    let own = "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
    for (keys, count) in [
        ("ports = \"20000-20099\"", 40),
        // More sessions than ports, and no timestamps that would let them be used before their time.
        ("ports = \"20000-20004\"\nclose = \"reset\"", 40),
    ] {
        let lab = lab(false)?;
        let server = Mariadb::start(&lab.backends[0], backend())?;
        let weir = start(&lab, config(keys, ""))?;
        let at = SocketAddr::new(OUTSIDE_V4.into(), TCP);
        for _ in 0..count {
            let peer = weir.with_log(mariadb::query(&lab.client, at, own))?;
            let peer: SocketAddr = peer
                .parse()
                .with_context(|| format!("{peer:?}: {}", server.log()))?;
            ensure!(SOURCES.contains(&peer.ip().to_string().as_str()), "{peer}");
            ensure!((20_000..20_100).contains(&peer.port()), "{peer}");
        }
        let resets = keys.contains("reset");
        wait_until(PATIENCE, "no fewer rest than the system says", || {
            let (waiting, in_use) = (ports(&weir, "waiting"), ports(&weir, "in-use"));
            let resting = time_waits(&lab.router).map_err(|e| format!("{e:#}"))?;
            match (waiting, in_use) {
                (Ok(0.0), Ok(0.0)) if resets && resting == 0 => Ok(()),
                (Ok(waiting), Ok(0.0))
                    if !resets && (resting as f64..=f64::from(count)).contains(&waiting) =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}, and {resting} of the system, {keys}")),
            }
        })?;
        let refused = weir
            .metrics()?
            .sum("weir_relay_pool_ports_refused_total", &[("pool", "db")])?;
        assert_eq!(refused, 0.0, "{keys}");
        let log = server.log();
        let aborted = |line: &&str| {
            line.contains("Aborted connection") && SOURCES.iter().any(|source| line.contains(source))
        };
        assert_eq!(log.lines().find(aborted), None, "{keys}");
    }
    Ok(())
}
