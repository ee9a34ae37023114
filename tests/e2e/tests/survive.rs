//! Processes die under load, and what need not die with them goes on. An orderly stop leaves nothing behind.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;
use weir_e2e_tests::{
    CHECK_TIME, HTTP, L4, QUICK, Site, TCP, ask, ask_until_all, backend, checked_config, config, differences,
    more_answers, pool_of, service, start, traces, unchecked_pool, vip,
};
use weir_harness::{
    Lab, Netns, Scratch, Weir,
    lab::Family,
    peer::{
        curl::{self, Load, Reuse, url},
        echo::{self, Echo},
        nginx::SLOW_RATE,
        same_bytes, write_noise,
    },
    wait_until,
};

/// An echo server on the first backend, an L4 service at port 7 and a TCP service at port 8 in front of it.
fn with_echo(lab: &Lab, mut body: String) -> Result<(Echo, String)> {
    let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 7));
    let echo = Echo::start(&lab.backends[0], "b1", &listen)?;
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &unchecked_pool(&name, &[(backend(family, 0, 7), 10)]);
        body += &service(
            &pool_of(family, "l4-echo"),
            "l4",
            &[vip(family, 7).to_string()],
            &name,
            "",
        );
        body += &service(
            &pool_of(family, "tcp-echo"),
            "tcp",
            &[vip(family, 8).to_string()],
            &name,
            "",
        );
    }
    Ok((echo, body))
}

/// A load on the L4 plane in each family.
fn l4_loads(lab: &Lab) -> Result<Vec<Load>> {
    Family::ALL
        .into_iter()
        .map(|family| Load::start(&lab.client, vip(family, L4), Reuse::Never, 100))
        .collect()
}

fn no_failure(loads: Vec<Load>) {
    for load in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    }
}

#[test]
fn the_relay_is_killed_under_load() -> Result<()> {
    let site = Site::new(2)?;
    let (_echo, body) = with_echo(&site.lab, config(&[0, 1]))?;
    let weir = start(&site.lab, body)?;
    let client = &site.lab.client;
    let loads = l4_loads(&site.lab)?;
    loads.iter().try_for_each(|load| more_answers(load, 30))?;
    let mut open = Family::ALL
        .into_iter()
        .map(|family| echo::connect(client, vip(family, 7)))
        .collect::<Result<Vec<_>>>()?;
    for round in 1..=3_u64 {
        let killed = weir.kill_role("relay")?;
        // At once: whoever comes now waits in the accept queue until the next relay takes it.
        for family in Family::ALL {
            for port in [HTTP, TCP] {
                let answers = weir.with_log(ask(client, vip(family, port), 5));
                answers.with_context(|| format!("port {port} after kill {round}"))?;
            }
        }
        let status = weir.status()?;
        let relay = status
            .processes
            .iter()
            .find(|p| p.role == "relay")
            .context("no relay")?;
        assert_ne!(relay.pid, Some(killed));
        assert_eq!(relay.restarts, round);
        for stream in &mut open {
            echo::ping(stream, b"an L4 flow does not know of the relay")?;
        }
        loads.iter().try_for_each(|load| more_answers(load, 20))?;
    }
    no_failure(loads);
    Ok(())
}

#[test]
fn the_health_process_is_killed_and_checks_go_on() -> Result<()> {
    let mut site = Site::new(2)?;
    let Site { nginx, lab } = &mut site;
    let weir = start(lab, checked_config(&[0, 1], QUICK))?;
    let loads = l4_loads(lab)?;
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    let killed = weir.kill_role("health")?;
    wait_until(
        Duration::from_secs(10),
        "another health process runs",
        || match weir.role_pid("health") {
            Ok(pid) if pid != killed => Ok(()),
            Ok(pid) => Err(format!("process {pid}, which was killed")),
            Err(e) => Err(format!("{e:#}")),
        },
    )?;
    // Its death is no news of the backends.
    for (pool, backend) in weir.pools()?.all() {
        assert_eq!(
            backend.state, "up",
            "{}/{}: {}",
            pool.name, backend.address, backend.cause
        );
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    no_failure(loads);

    nginx[1].kill();
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "down",
            CHECK_TIME,
        )?;
        for port in [L4, HTTP] {
            assert_eq!(
                ask(&lab.client, vip(family, port), 10)?
                    .into_keys()
                    .collect::<Vec<_>>(),
                ["b1"]
            );
        }
    }
    Ok(())
}

#[test]
fn control_is_killed_under_load_and_a_new_one_takes_over() -> Result<()> {
    let mut site = Site::new(2)?;
    let scratch = Scratch::new()?;
    let sent = scratch.join("sent");
    write_noise(&sent, SLOW_RATE * 8, 11)?;
    for nginx in &site.nginx {
        std::fs::copy(&sent, nginx.file("long"))?;
    }
    let (_echo, body) = with_echo(&site.lab, checked_config(&[0, 1], QUICK))?;
    let Site { nginx, lab } = &mut site;
    let lab = &*lab;
    let before = traces(&lab.router)?;
    let mut weir = start(lab, body)?;
    let client = &lab.client;
    let relay = weir.role_pid("relay")?;
    let health = weir.role_pid("health")?;
    let generation = weir.status()?.generation;

    let loads = l4_loads(lab)?;
    loads.iter().try_for_each(|load| more_answers(load, 30))?;
    let mut open = Vec::new();
    for family in Family::ALL {
        for port in [7, 8] {
            let mut stream = echo::connect(client, vip(family, port))?;
            echo::ping(&mut stream, b"before")?;
            open.push(stream);
        }
    }
    thread::scope(|scope| -> Result<()> {
        // Eight seconds of download through the relay, in each family.
        let downloads: Vec<_> = Family::ALL
            .into_iter()
            .map(|family| {
                let to = scratch.join(format!("{family:?}"));
                scope.spawn(move || {
                    curl::download(client, &url(vip(family, HTTP), "/slow/long"), &to).map(|()| to)
                })
            })
            .collect();
        wait_until(Duration::from_secs(5), "both downloads are under way", || {
            let logged =
                Family::ALL.map(|f| std::fs::metadata(scratch.join(format!("{f:?}"))).map_or(0, |m| m.len()));
            if logged.iter().all(|len| *len > 0) {
                Ok(())
            } else {
                Err(format!("{logged:?}"))
            }
        })?;

        weir.kill_control();
        let killed = Instant::now();
        for stream in &mut open {
            echo::ping(stream, b"while nobody is in control").context("an open connection")?;
        }
        for family in Family::ALL {
            for port in [L4, HTTP, TCP] {
                ask(client, vip(family, port), 5)
                    .with_context(|| format!("{family:?} port {port}, no control"))?;
            }
        }
        loads.iter().try_for_each(|load| more_answers(load, 20))?;
        assert!(
            downloads.iter().all(|d| !d.is_finished()),
            "a download ended {:?} after the kill",
            killed.elapsed()
        );

        weir.start_again()?;
        let status = weir.status()?;
        for (role, pid) in [("relay", relay), ("health", health)] {
            let process = status
                .processes
                .iter()
                .find(|p| p.role == role)
                .context("a role is missing")?;
            assert_eq!((process.pid, process.adopted), (Some(pid), true), "{role}");
        }
        for stream in &mut open {
            echo::ping(stream, b"and after").context("an open connection")?;
        }
        for download in downloads {
            let to = download.join().map_err(|_| anyhow!("the download panicked"))??;
            same_bytes(&sent, &to).context("a download that control died during")?;
        }
        Ok(())
    })?;
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    no_failure(loads);
    for stream in open {
        assert_eq!(echo::finish(stream)?.0, "b1");
    }

    // The new control is in control: health, an operator's word, a reload, the end.
    weir.wait_all_up()?;
    nginx[1].kill();
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "down",
            CHECK_TIME,
        )?;
        for port in [L4, HTTP, TCP] {
            assert_eq!(
                ask(client, vip(family, port), 10)?
                    .into_keys()
                    .collect::<Vec<_>>(),
                ["b1"]
            );
        }
    }
    weir.rewrite(config(&[0]))?;
    weir.ask(&["reload"])?;
    assert!(weir.status()?.generation > generation, "{:?}", weir.status()?);
    assert!(weir.backend("web", &backend(Family::V4, 1, 80)).is_err());
    weir.stop()?;
    nothing_left(&weir, &lab.router, &before)
}

#[test]
fn control_is_killed_and_the_relay_too_before_it_is_back() -> Result<()> {
    let site = Site::new(1)?;
    let before = traces(&site.lab.router)?;
    let mut weir = start(&site.lab, config(&[0]))?;
    let roles = ["relay", "health"].map(|role| weir.role_pid(role));
    weir.kill_control();
    for pid in roles {
        weir_harness::process::signal_pid(pid?, Signal::SIGKILL)?;
    }
    for family in Family::ALL {
        weir.with_log(ask(&site.lab.client, vip(family, L4), 5))
            .context("L4 without any process of weir's")?;
    }
    weir.start_again()?;
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            weir.with_log(ask_until_all(&site.lab.client, vip(family, port), &["b1"]))?;
        }
    }
    weir.stop()?;
    nothing_left(&weir, &site.lab.router, &before)
}

#[test]
fn an_orderly_stop_leaves_nothing_behind() -> Result<()> {
    let site = Site::new(1)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let before = traces(&site.lab.router)?;
        let mut weir = start(&site.lab, config(&[0]))?;
        for family in Family::ALL {
            for port in [L4, HTTP, TCP] {
                ask(&site.lab.client, vip(family, port), 3)?;
            }
        }
        let links = &traces(&site.lab.router)?["ip -o link"];
        assert_eq!(
            links.matches("prog/xdp").count(),
            2,
            "XDP on both interfaces: {links}"
        );
        assert!(!weir.pinned()?.is_empty());
        weir.signal(signal)?;
        let status = weir.wait_end(weir_harness::weir::PATIENCE)?;
        assert!(status.success(), "{signal}: {status}\n{}", weir.log());
        nothing_left(&weir, &site.lab.router, &before)?;
    }
    Ok(())
}

#[test]
fn a_stop_lets_transfers_end() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, SLOW_RATE * 3, 5)?;
    std::fs::copy(&sent, site.nginx[0].file("long"))?;
    let mut weir = start(&site.lab, config(&[0]))?;
    thread::scope(|scope| {
        let target = url(vip(Family::V4, HTTP), "/slow/long");
        let (client, to) = (&site.lab.client, &received);
        let download = scope.spawn(move || curl::download(client, &target, to));
        wait_until(
            Duration::from_secs(5),
            "the download is under way",
            || match std::fs::metadata(&received) {
                Ok(meta) if meta.len() > 0 => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )?;
        weir.stop()?;
        download
            .join()
            .map_err(|_| anyhow!("the download panicked"))?
            .context("a download during the stop")
    })?;
    same_bytes(&sent, &received)
}

fn nothing_left(
    weir: &Weir<'_>,
    router: &Netns,
    before: &std::collections::BTreeMap<String, String>,
) -> Result<()> {
    // A child may take a moment longer than its parent.
    wait_until(Duration::from_secs(5), "no process of weir's is left", || {
        let left = router.processes().map_err(|e| format!("{e:#}"))?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })?;
    let pinned = weir.pinned()?;
    assert!(pinned.is_empty(), "{pinned:?}");
    for name in ["control.sock", "relay.sock", "health.sock"] {
        assert!(!weir.scratch().join(name).exists(), "{name} is left");
    }
    let differences = differences(before, &traces(router)?);
    assert!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
