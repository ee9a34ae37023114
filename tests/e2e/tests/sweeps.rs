//! What the kernel remembers of flows that real clients have ended, or left, is given back: entries, source ports, and the
//! places of a limit.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use weir_e2e_tests::{
    modes::{ECHO, ECHO_TOO, Farm, Mode},
    start, vip,
};
use weir_harness::{Weir, lab::Family, peer::echo, wait_until};

/// Source ports of each pool.
const PORTS: f64 = 64.0;
/// Connections that one client may have open.
const OPEN: usize = 4;
/// Short connections of a round. More than the limit: each gives its place back by itself.
const SHORT: usize = 20;

fn entries(weir: &Weir<'_>, table: &str) -> Result<f64> {
    weir.metrics()?.sum("weir_xdp_flow_entries", &[("table", table)])
}

fn swept(weir: &Weir<'_>, table: &str) -> Result<f64> {
    let labels = [("table", table), ("why", "ended")];
    weir.metrics()?.sum("weir_xdp_flows_swept_total", &labels)
}

fn listed(weir: &Weir<'_>) -> Result<u64> {
    let flows: serde_json::Value = serde_json::from_str(&weir.ask(&["flows", "--json"])?)?;
    flows["total"].as_u64().context("a total")
}

/// Waits until nothing of `full-nat` is remembered, and every port of every source address is free.
fn nothing_left(weir: &Weir<'_>, mode: Mode, deadline: Duration) -> Result<()> {
    let left = || -> Result<Vec<String>> {
        let mut left = Vec::new();
        for table in ["nat_flows", "nat_replies"] {
            match entries(weir, table)? {
                0.0 => {}
                some => left.push(format!("{some} in {table}")),
            }
        }
        let metrics = weir.metrics()?;
        for source in Family::ALL.iter().filter_map(|family| mode.source(*family)) {
            let ports = |state| metrics.sum("weir_xdp_nat_ports", &[("source", source), ("state", state)]);
            let (free, taken) = (ports("free")?, ports("in-use")? + ports("waiting")?);
            // Of one CPU's share: how many CPUs there are is the machine's affair.
            if taken != 0.0 || free == 0.0 || free > PORTS {
                left.push(format!("{taken} ports of {source} are taken, {free} free"));
            }
        }
        match listed(weir)? {
            0 => {}
            some => left.push(format!("{some} are listed")),
        }
        Ok(left)
    };
    let result = wait_until(deadline, "everything is given back", || match left() {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(left.join(", ")),
        Err(e) => Err(format!("{e:#}")),
    });
    weir.with_log(result)
}

/// A connection and its end, in order.
fn short(farm: &Farm, target: SocketAddr) -> Result<()> {
    let mut stream = echo::connect(&farm.lab.client, target)?;
    echo::ping(&mut stream, b"hello")?;
    echo::finish(stream).map(drop)
}

/// As if the client had lost its power: nothing is sent when the socket goes.
fn vanish(stream: TcpStream) -> Result<()> {
    setsockopt(&stream, TcpRepair, &1).context("TCP_REPAIR")?;
    drop(stream);
    Ok(())
}

#[test]
fn full_nat_has_its_entries_and_ports_back() -> Result<()> {
    let mode = Mode::FullNat;
    let farm = Farm::new(mode, 2)?;
    let ports = format!("ports = \"20000-{}\"\naddresses", 20000 + PORTS as u32 - 1);
    let mut body = mode.pools(2, "").replace("addresses", &ports);
    body += &mode.services("limited", &[ECHO], "");
    for name in ["limited", "limited6"] {
        body += &format!("[services.{name}.per_source]\nconnections = {OPEN}\n\n");
    }
    body += &mode.services("free", &[ECHO_TOO], "");
    let weir = start(&farm.lab, body)?;
    for setting in [
        "weir.l4.nat.time_wait=1s",
        "weir.l4.nat.udp_idle=1s",
        "weir.l4.nat.tcp_idle=60s",
    ] {
        weir.ask(&["sysctl", "-w", setting])?;
    }
    for family in Family::ALL {
        for nth in 0..SHORT {
            weir.with_log(short(&farm, vip(family, ECHO)))
                .with_context(|| format!("{family:?}: connection {nth}"))?;
            weir.with_log(echo::ask(&farm.lab.client, vip(family, ECHO_TOO), b"hello"))?;
        }
    }
    ensure!(listed(&weir)? > 0, "flows that have ended rest for a while");
    nothing_left(&weir, mode, Duration::from_secs(60))?;
    for table in ["nat_flows", "nat_replies"] {
        // Ports that have rested may be taken by the next flow before the sweep comes by. What the sweep took away is gone
        // at once, but counted only when its whole pass is over.
        let counted = wait_until(
            Duration::from_secs(60),
            "the sweep's pass is counted",
            || match swept(&weir, table) {
                Ok(some) if some > 0.0 => Ok(()),
                Ok(none) => Err(format!("{none} of {table}")),
                Err(e) => Err(format!("{e:#}")),
            },
        );
        weir.with_log(counted)?;
    }

    for family in Family::ALL {
        let target = vip(family, ECHO);
        let mut open = Vec::new();
        for _ in 0..OPEN {
            let mut stream = weir.with_log(echo::connect(&farm.lab.client, target))?;
            weir.with_log(echo::ping(&mut stream, b"hello"))?;
            open.push(stream);
        }
        open.into_iter().try_for_each(vanish)?;
        let connect = || TcpStream::connect_timeout(&target, Duration::from_millis(500));
        let more = farm.lab.client.run(connect)?;
        ensure!(more.is_err(), "{family:?}: one more than the limit was let in");
    }
    let refused = weir
        .metrics()?
        .sum("weir_xdp_packets_total", &[("reason", "source-connections")])?;
    ensure!(refused >= 2.0, "{refused} refused by the limit");
    // Nobody has ended them: silence does, after `tcp_idle`.
    nothing_left(&weir, mode, Duration::from_secs(120))?;
    for family in Family::ALL {
        for _ in 0..OPEN {
            weir.with_log(short(&farm, vip(family, ECHO)))
                .with_context(|| format!("{family:?}: the places of those who vanished"))?;
        }
    }
    Ok(())
}

#[test]
fn flows_that_have_ended_go() -> Result<()> {
    let mode = Mode::Nat;
    let farm = Farm::new(mode, 2)?;
    let weir = start(&farm.lab, mode.pools(2, "") + &mode.services("farm", &[ECHO], ""))?;
    let mut stays = weir.with_log(echo::connect(&farm.lab.client, vip(Family::V4, ECHO)))?;
    for family in Family::ALL {
        for _ in 0..SHORT {
            weir.with_log(short(&farm, vip(family, ECHO)))?;
        }
    }
    ensure!(listed(&weir)? == 2 * SHORT as u64 + 1);
    // They rest for a minute, since a late packet of theirs should still find its backend.
    let gone = wait_until(Duration::from_secs(120), "those that have ended go", || {
        match (entries(&weir, "flows"), listed(&weir)) {
            (Ok(1.0), Ok(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    weir.with_log(gone)?;
    ensure!(swept(&weir, "flows")? == 2.0 * SHORT as f64);
    weir.with_log(echo::ping(&mut stays, b"still there"))
}
