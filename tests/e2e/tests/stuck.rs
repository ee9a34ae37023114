//! Processes that hang, starts that fail, children that were started otherwise: traffic goes on, and weir mends itself.

use std::{net::TcpListener, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use weir_e2e_tests::{
    HTTP, L4, QUICK, Site, TCP, ask, backend, checked_config, config, pool_of, service, start,
    unchecked_pool, vip,
};
use weir_harness::{
    Lab, Weir,
    lab::Family,
    peer::echo::{self, Echo},
    wait_until,
};

/// Longer than control takes to see that a child is stuck, and to replace it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A TCP service at port 8 in front of an echo server on the first backend.
fn with_echo(lab: &Lab, mut body: String) -> Result<(Echo, String)> {
    let listen = [std::net::SocketAddr::new(Family::V4.backend(0), 7)];
    let echo = Echo::start(&lab.backends[0], "b1", &listen)?;
    let name = pool_of(Family::V4, "echo");
    body += &unchecked_pool(&name, &[(backend(Family::V4, 0, 7), 10)]);
    body += &service(
        &pool_of(Family::V4, "tcp-echo"),
        "tcp",
        &[vip(Family::V4, 8).to_string()],
        &name,
        "",
    );
    Ok((echo, body))
}

fn other_pid(weir: &Weir<'_>, role: &str, before: u32) -> Result<u32> {
    let what = format!("another {role} process runs");
    wait_until(PATIENCE, &what, || match weir.role_pid(role) {
        Ok(pid) if pid != before => Ok(pid),
        Ok(pid) => Err(format!("process {pid} still")),
        Err(e) => Err(format!("{e:#}")),
    })
}

/// How often each backend has changed its state.
fn transitions(weir: &Weir<'_>) -> Result<Vec<String>> {
    let text = weir.metrics_text()?;
    let lines = text
        .lines()
        .filter(|l| l.starts_with("weir_backend_transitions_total"));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn a_health_process_that_hangs_is_replaced_and_is_no_news_of_the_backends() -> Result<()> {
    let site = Site::new(2)?;
    let weir = start(&site.lab, checked_config(&[0, 1], QUICK))?;
    let stopped = weir.signal_role("health", Signal::SIGSTOP)?;
    let before = transitions(&weir)?;
    other_pid(&weir, "health", stopped)?;
    for (pool, backend) in weir.pools()?.all() {
        assert_eq!(
            backend.state, "up",
            "{}/{}: {}",
            pool.name, backend.address, backend.cause
        );
    }
    assert_eq!(transitions(&weir)?, before, "no backend changed its state");
    for port in [L4, HTTP] {
        ask(&site.lab.client, vip(Family::V4, port), 5)?;
    }
    Ok(())
}

#[test]
fn a_relay_that_hangs_is_replaced() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let stopped = weir.signal_role("relay", Signal::SIGSTOP)?;
    ask(&site.lab.client, vip(Family::V4, L4), 5).context("L4 knows nothing of the relay")?;
    other_pid(&weir, "relay", stopped)?;
    for port in [HTTP, TCP] {
        weir.with_log(ask(&site.lab.client, vip(Family::V4, port), 5))?;
    }
    Ok(())
}

#[test]
fn a_relay_that_hangs_while_nobody_is_in_control_is_replaced_by_the_next() -> Result<()> {
    let site = Site::new(1)?;
    let mut weir = start(&site.lab, config(&[0]))?;
    weir.kill_control();
    // Its note is the only word of it: no control can be asked.
    let note = std::fs::read_to_string(weir.scratch().join("relay.pid"))?;
    let stopped = note
        .split(' ')
        .next()
        .and_then(|pid| pid.parse::<u32>().ok())
        .context("a process id")?;
    assert!(site.lab.router.processes()?.contains(&stopped));
    weir_harness::process::signal_pid(stopped, Signal::SIGSTOP)?;
    weir.start_again()?;
    assert_ne!(weir.role_pid("relay")?, stopped);
    assert!(
        !site.lab.router.processes()?.contains(&stopped),
        "the stuck one is gone"
    );
    for port in [L4, HTTP, TCP] {
        weir.with_log(ask(&site.lab.client, vip(Family::V4, port), 5))?;
    }
    Ok(())
}

#[test]
fn a_start_that_fails_leaves_what_was_found_running() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site.lab, config(&[0]))?;
    let mut weir = start(&site.lab, body)?;
    let relay = weir.role_pid("relay")?;
    let mut tunnel = echo::connect(&site.lab.client, vip(Family::V4, 8))?;
    echo::ping(&mut tunnel, b"before")?;
    weir.kill_control();
    // Somebody takes the port of the metrics meanwhile.
    let taken = site
        .lab
        .router
        .run(|| TcpListener::bind(weir_harness::weir::ADMIN_HTTP))??;
    assert!(weir.start_again().is_err(), "a taken port is an error");
    echo::ping(&mut tunnel, b"between")?;
    for port in [L4, HTTP, TCP] {
        ask(&site.lab.client, vip(Family::V4, port), 5).context("while nobody is in control")?;
    }
    drop(taken);
    weir.start_again()?;
    assert_eq!(weir.role_pid("relay")?, relay, "the same relay, taken over");
    echo::ping(&mut tunnel, b"after")?;
    Ok(())
}

#[test]
fn a_relay_that_was_started_otherwise_is_replaced_without_a_gap() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site.lab, config(&[0]))?;
    let mut weir = start(&site.lab, body)?;
    let relay = weir.role_pid("relay")?;
    let mut tunnel = echo::connect(&site.lab.client, vip(Family::V4, 8))?;
    echo::ping(&mut tunnel, b"before")?;
    weir.kill_control();
    weir.change(|config| config.workers = 1)?;
    weir.start_again()?;
    assert_ne!(weir.role_pid("relay")?, relay);
    // The old one drains: what it has open goes on, what comes now goes to the new one.
    echo::ping(&mut tunnel, b"after")?;
    for port in [HTTP, TCP] {
        weir.with_log(ask(&site.lab.client, vip(Family::V4, port), 20))?;
    }
    drop(tunnel);
    wait_until(PATIENCE, "the relay before has ended", || {
        match site
            .lab
            .router
            .processes()
            .map_err(|e| e.to_string())?
            .contains(&relay)
        {
            false => Ok(()),
            true => Err("it runs".to_owned()),
        }
    })
}

#[test]
fn children_hold_no_capability_and_leave_signals_to_control() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    for role in ["relay", "health"] {
        let pid = weir.role_pid(role)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let line = status.lines().find(|l| l.starts_with(set)).context(set)?;
            assert!(line.ends_with("\t0000000000000000"), "{role}: {line}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{role}");
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            weir.signal_role(role, signal)?;
        }
        ask(&site.lab.client, vip(Family::V4, HTTP), 5)?;
        assert_eq!(weir.role_pid(role)?, pid, "{role} runs on");
    }
    Ok(())
}

/// A drain outlasts the looks that control takes at a relay that should answer: one that drains does not, and is let be.
#[test]
fn a_long_drain_is_not_taken_for_a_relay_that_hangs() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site.lab, config(&[0]))?;
    let mut weir = start(&site.lab, body)?;
    weir.ask(&["sysctl", "-w", "weir.relay.drain=120s"])?;
    let mut tunnel = echo::connect(&site.lab.client, vip(Family::V4, 8))?;
    echo::ping(&mut tunnel, b"before")?;
    weir.signal(Signal::SIGTERM)?;
    wait_until(PATIENCE, "weir drains", || {
        if weir.log().contains("stopping") {
            Ok(())
        } else {
            Err("it does not say so")
        }
    })?;
    // Three looks apart by 15 s: the connection lives through them all, and questions are still answered.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(40) {
        echo::ping(&mut tunnel, b"while it drains")?;
        let status = weir.status()?;
        assert!(!status.ready, "who drains is not ready");
    }
    echo::finish(tunnel)?;
    assert!(weir.wait_end(PATIENCE)?.success());
    Ok(())
}
