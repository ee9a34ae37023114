//! The planned end of a master, while it still waits for its relay's connections to end: what cuts that short, and that it goes
//! on in order all the same. A tunnel that nobody ends has it wait for as long as a test likes; a connection that has asked nothing
//! does not.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    process::ExitStatus,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use weir_harness::{
    Cmd, Pair, Scratch, Weir, WeirConfig,
    lab::OUTSIDE,
    pair::{VIP, backend},
    peer::echo::{self, Echo},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// An echo server's.
const PORT: u16 = 7;

const EASES: &str = "connections of the relay are to end before other boxes take over";
const ASKS: &str = "other boxes are asked to take over";
const STOPS: &str = "stopping signal=";
const CUTS: &str = "drain_ms=0";
const ENDED: &str = "weir has ended";

/// Two boxes in front of an echo server.
struct Site {
    // Stopped before its namespace goes.
    _echo: Echo,
    pair: Pair,
    keys: Scratch,
}

impl Site {
    fn new() -> Result<Self> {
        let (pair, keys) = (Pair::new(1, 1)?, Scratch::new()?);
        let file = keys.write("vrrp.key", "5f0c1d2e3b4a59687786a5b4c3d2e1f0\n")?;
        Cmd::new("chmod").arg("600").arg(&file).check()?;
        let listen = SocketAddr::new(backend(0).into(), PORT);
        let echo = Echo::start(&pair.backends[0], "b1", &[listen])?;
        Ok(Self {
            _echo: echo,
            pair,
            keys,
        })
    }

    fn body(&self, node: usize, preempt: &str) -> String {
        let priority = [100, 200][node];
        format!(
            "[vrrp.edge]\npriority = {priority}\npreempt = \"{preempt}\"\ninterval = \"500ms\"\n\
             routers = [{{ interface = \"{OUTSIDE}\", id = 51, addresses = [\"{VIP}/24\"] }}]\n\
             [vrrp.edge.authentication]\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
             [pools.echo]\nbackends = [{{ address = \"{}:{PORT}\" }}]\n\
             [services.echo]\nlisten = [\"{VIP}:{PORT}\"]\nmode = \"tcp\"\npool = \"echo\"\n\
             [services.www]\nlisten = [\"{VIP}:80\"]\nmode = \"http\"\npool = \"echo\"\n\
             timeouts = {{ request_head = \"1h\" }}\n",
            self.keys.join("vrrp.key").display(),
            backend(0),
        )
    }

    fn start(&self, node: usize) -> Result<Weir<'_>> {
        let mut config = WeirConfig::both_planes(self.body(node, "never"));
        config.node = ["edge-1", "edge-2"][node];
        config.hash_key = Some("00112233445566778899aabbccddeeff");
        config.workers = 1;
        Weir::start(&self.pair.boxes[node], config)
    }

    /// The first box, which is master and told to end, and waits for a tunnel's end; and the second one, which stands by.
    fn easing(&self) -> Result<(Weir<'_>, Weir<'_>, TcpStream)> {
        let mut one = self.start(0)?;
        one.wait_group("edge", "master")?;
        let two = self.start(1)?;
        two.wait_group("edge", "backup")?;
        one.ask(&["sysctl", "-w", "weir.relay.drain=1h"])?;
        let tunnel = self.tunnel()?;
        one.signal(Signal::SIGTERM)?;
        one.wait_log(EASES)?;
        let log = one.log();
        ensure!(
            !log.contains(ASKS) && !log.contains(STOPS),
            "it does not wait: {log}"
        );
        Ok((one, two, tunnel))
    }

    /// A client's connection through the master, which has been used.
    fn tunnel(&self) -> Result<TcpStream> {
        let mut stream = echo::connect(&self.pair.clients[0], SocketAddr::new(VIP.into(), PORT))?;
        echo::ping(&mut stream, b"hello")?;
        Ok(stream)
    }

    /// Whether a box has the address.
    fn holds(&self, node: usize) -> Result<bool> {
        let show = Cmd::new("ip").args(["-o", "addr"]).inside(&self.pair.boxes[node]);
        Ok(show.check()?.contains(&format!(" {VIP}/")))
    }

    /// The first box has ended in order, and the second one serves.
    fn handed_over(&self, one: &Weir<'_>, two: &Weir<'_>, status: ExitStatus) -> Result<()> {
        one.with_log((|| {
            ensure!(status.success(), "{status}");
            ensure!(one.log().contains(ENDED), "not in order");
            ensure!(!self.holds(0)?, "the address stays");
            Ok(())
        })())?;
        two.wait_group("edge", "master")?;
        two.with_log(self.tunnel().map(drop))
    }
}

/// Waits until something is said, and answers with what was said before.
fn until_line(weir: &Weir<'_>, what: &str) -> Result<String> {
    let log = weir.wait_log(what)?;
    let before = log.split(what).next().unwrap_or_default();
    Ok(before.to_owned())
}

#[test]
fn an_interrupt_waits_for_nothing() -> Result<()> {
    let site = Site::new()?;
    let (mut one, two, mut tunnel) = site.easing()?;
    echo::ping(&mut tunnel, b"still here")?;
    one.signal(Signal::SIGINT)?;
    let status = one.wait_end(PATIENCE)?;
    let log = one.log();
    ensure!(!log.contains(ASKS), "it has waited for other boxes: {log}");
    ensure!(log.contains("stopping signal=\"SIGINT\" drain_ms=0"), "{log}");
    match tunnel.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => bail!("the tunnel goes on: {other:?}"),
    }
    site.handed_over(&one, &two, status)
}

/// And a third one what follows it.
#[test]
fn a_second_signal_skips_what_is_waited_for() -> Result<()> {
    let site = Site::new()?;
    let (mut one, two, _tunnel) = site.easing()?;
    one.signal(Signal::SIGTERM)?;
    two.wait_group("edge", "master")?;
    let before = until_line(&one, STOPS)?;
    ensure!(before.contains(ASKS), "the other box was not asked: {before}");
    ensure!(
        !before.contains("have ended left="),
        "nothing has ended: {before}"
    );
    let log = one.log();
    ensure!(
        !log.contains(CUTS),
        "connections have the rest of their time: {log}"
    );
    one.signal(Signal::SIGTERM)?;
    let status = one.wait_end(PATIENCE)?;
    ensure!(one.log().contains(CUTS), "{}", one.log());
    site.handed_over(&one, &two, status)
}

#[test]
fn the_relay_dies_meanwhile() -> Result<()> {
    let site = Site::new()?;
    let (mut one, two, _tunnel) = site.easing()?;
    one.kill_role("relay")?;
    // Its connections have ended with it; the rest goes on.
    let status = one.wait_end(PATIENCE)?;
    let log = one.log();
    let place = |what: &str| log.find(what).with_context(|| format!("{what:?} in {log}"));
    ensure!(
        place("the relay is gone")? < place(ASKS)? && place(ASKS)? < place(STOPS)?,
        "{log}"
    );
    site.handed_over(&one, &two, status)
}

/// The addresses are gone, and clients with them: there is nobody to wait for, and nobody to ask.
#[test]
fn another_box_takes_over_meanwhile() -> Result<()> {
    let site = Site::new()?;
    let (mut one, mut two, _tunnel) = site.easing()?;
    two.rewrite(site.body(1, "always"))?;
    two.ask(&["reload"])?;
    two.wait_group("edge", "master")?;
    let before = until_line(&one, STOPS)?;
    ensure!(
        !before.contains(ASKS) && !before.contains("have ended left="),
        "{before}"
    );
    one.signal(Signal::SIGTERM)?;
    let status = one.wait_end(PATIENCE)?;
    ensure!(one.log().contains(CUTS), "{}", one.log());
    site.handed_over(&one, &two, status)
}

/// One that a browser has opened in advance, and whose own time is as long as the drain's.
#[test]
fn who_has_asked_nothing_is_not_waited_for() -> Result<()> {
    let site = Site::new()?;
    let mut one = site.start(0)?;
    one.wait_group("edge", "master")?;
    let two = site.start(1)?;
    two.wait_group("edge", "backup")?;
    one.ask(&["sysctl", "-w", "weir.relay.drain=1h"])?;
    let mut silent = echo::connect(&site.pair.clients[0], SocketAddr::new(VIP.into(), 80))?;
    silent.set_read_timeout(Some(PATIENCE))?;
    // Without a byte of it the kernel keeps it back for a moment (TCP_DEFER_ACCEPT).
    wait_until(PATIENCE, "the relay has it", || {
        let metrics = one.metrics().map_err(|e| format!("{e:#}"))?;
        let open = metrics.sum("weir_relay_connections_open", &[("service", "www")]);
        let open = open.map_err(|e| format!("{e:#}"))?;
        if open > 0.5 {
            Ok(())
        } else {
            Err(format!("{open}"))
        }
    })?;
    one.signal(Signal::SIGTERM)?;
    ensure!(silent.read(&mut [0; 16])? == 0, "something was said");
    let status = one.wait_end(PATIENCE)?;
    let before = until_line(&one, ASKS)?;
    ensure!(
        before.contains("connections of the relay have ended left=0"),
        "{before}"
    );
    site.handed_over(&one, &two, status)
}

/// By an operator's wish, and back.
#[test]
fn a_demotion_that_drains_waits_for_connections() -> Result<()> {
    const WAITS: &str = "connections of the relay are to end before this box is demoted";
    const SERVES_ON: &str = "connections are to end no more";
    let site = Site::new()?;
    let one = site.start(0)?;
    one.wait_group("edge", "master")?;
    let two = site.start(1)?;
    two.wait_group("edge", "backup")?;
    one.ask(&["sysctl", "-w", "weir.relay.drain=1h"])?;
    let mut tunnel = site.tunnel()?;
    let said = |what: &str, times: usize| {
        wait_until(PATIENCE, &format!("{what:?} is said {times} times"), || match one
            .log()
            .matches(what)
            .count()
        {
            count if count == times => Ok(()),
            count => Err(count),
        })
    };
    let drain = || {
        Cmd::new(one.binary())
            .args(["demote", "edge", "--drain", "--socket"])
            .arg(one.socket())
            .run()
    };

    // Called off, either way: nothing has changed.
    for (times, off) in [
        (1, &["demote", "edge", "0"][..]),
        (2, &["demote", "edge", "0", "--drain"]),
    ] {
        thread::scope(|scope| -> Result<()> {
            let asked = scope.spawn(drain);
            said(WAITS, times)?;
            let twice = one.cli(&["demote", "edge", "--drain"])?.complaint();
            ensure!(twice.contains("a hand-over is under way"), "{twice}");
            one.ask(off)?;
            let asked = asked.join().map_err(|_| anyhow!("it panicked"))??;
            ensure!(asked.complaint().contains("has overtaken this one"), "{asked:?}");
            said(SERVES_ON, times)
        })?;
    }
    echo::ping(&mut tunnel, b"still here")?;
    ensure!(one.group("edge")?.state == "master", "{:?}", one.group("edge")?);

    // Waited for: the other box takes over once the tunnel has ended.
    thread::scope(|scope| -> Result<()> {
        let asked = scope.spawn(drain);
        said(WAITS, 3)?;
        echo::ping(&mut tunnel, b"and still")?;
        ensure!(
            !asked.is_finished() && one.group("edge")?.state == "master",
            "it does not wait"
        );
        drop(tunnel);
        let asked = asked.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(asked.text() == "edge: this box is demoted by 128\n", "{asked:?}");
        Ok(())
    })?;
    two.wait_group("edge", "master")?;
    one.wait_group("edge", "backup")?;
    said(SERVES_ON, 3)?;
    two.with_log(site.tunnel().map(drop))?;
    // Where it is not master there is nothing to wait for.
    let told = one.ask(&["demote", "edge", "0", "--drain"])?;
    ensure!(
        told == "edge: nothing speaks against this box any more\n",
        "{told}"
    );
    let told = one.ask(&["demote", "edge", "--drain"])?;
    ensure!(told == "edge: this box is demoted by 128\n", "{told}");
    Ok(())
}
