//! A weir takes the place of the one that runs: nothing is cut, nothing is missed; and if it does not come up, the one before
//! goes on.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use weir_e2e_tests::{
    HTTP, L4, Site, TCP, ask, config, differences, more_answers, pool, pool_of, service, traces,
    unchecked_pool, vip,
};
use weir_harness::{
    Cmd, Netns, Scratch, Weir, WeirConfig,
    certificate::{self, P256},
    lab::{Family, OUTSIDE_V4},
    peer::{
        curl::{self, Load, Reuse},
        echo::{self, Echo},
    },
    process::signal_pid,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two services in front of an echo server: by L4 at port 7, by the relay at port 8.
fn with_echo(site: &Site, mut body: String) -> Result<(Echo, String)> {
    let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 7));
    let echo = Echo::start(&site.lab.backends[0], "b1", &listen)?;
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &unchecked_pool(&name, &[(weir_e2e_tests::backend(family, 0, 7), 10)]);
        for (mode, port) in [("l4", 7), ("tcp", 8)] {
            let service_name = pool_of(family, &format!("{mode}-echo"));
            body += &service(&service_name, mode, &[vip(family, port).to_string()], &name, "");
        }
    }
    Ok((echo, body))
}

/// Connections that are open, through both planes and by both families.
fn open(client: &Netns) -> Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for family in Family::ALL {
        for port in [7, 8] {
            let mut stream = echo::connect(client, vip(family, port))?;
            echo::ping(&mut stream, b"before")?;
            open.push(stream);
        }
    }
    Ok(open)
}

/// Clients of every service, which see what fails.
fn loads(client: &Netns) -> Result<Vec<Load>> {
    let of = |family| {
        [
            (L4, Reuse::Never),
            (HTTP, Reuse::Never),
            (HTTP, Reuse::KeepAlive),
            (TCP, Reuse::Never),
        ]
        .map(|(port, reuse)| Load::start(client, vip(family, port), reuse, 50))
    };
    Family::ALL.into_iter().flat_map(of).collect()
}

fn no_failure(loads: Vec<Load>) {
    for load in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    }
}

/// A program in place of another one, as a package manager puts it there. Not written by this process: what another of its
/// threads starts meanwhile would have it open for writing for a moment, and a file that is can't be executed.
fn install(program: &Path, from: &Path) -> Result<()> {
    let new = program.with_extension("new");
    Cmd::new("cp").args([from, &new]).check()?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    Ok(std::fs::rename(&new, program)?)
}

fn install_script(program: &Path, text: &str) -> Result<()> {
    let script = program.with_extension("script");
    std::fs::write(&script, text)?;
    install(program, &script)
}

/// A program that asks for the place of a weir, gets it, and does this then.
fn usurper(weir: &Weir<'_>, then: &str) -> Result<String> {
    let pins = weir.pins().context("its pins")?;
    Ok(format!(
        "#!/usr/bin/env python3\n\
         import socket, sys, time\n\
         it = socket.socket(socket.AF_UNIX)\n\
         it.connect('{}')\n\
         it.sendall(b'{{\"command\":\"replace\",\"version\":\"9.9.9\",\"pins\":\"{}\"}}\\n')\n\
         assert b'\"ok\":true' in it.recv(4096)\n\
         {then}\n",
        weir.socket().display(),
        pins.display()
    ))
}

#[test]
fn another_takes_the_place_under_load() -> Result<()> {
    let site = Site::new(2)?;
    let (_echo, body) = with_echo(&site, config(&[0, 1]))?;
    let before = traces(&site.lab.router)?;
    let mut weir = weir_e2e_tests::start(&site.lab, body)?;
    let client = &site.lab.client;
    let pids = ["relay", "health"].map(|role| weir.role_pid(role).ok());
    let loads = loads(client)?;
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    let mut open = open(client)?;
    for round in 0..3 {
        let control = weir.control_pid();
        weir.replace()?;
        ensure!(weir.control_pid() != control, "another process");
        let status = weir.status()?;
        for (role, pid) in ["relay", "health"].into_iter().zip(pids) {
            let process = status.processes.iter().find(|process| process.role == role);
            let process = process.context("a role is missing")?;
            assert_eq!(
                (process.pid, process.adopted),
                (pid, true),
                "{role}, round {round}"
            );
        }
        for stream in &mut open {
            weir.with_log(echo::ping(stream, b"and after"))?;
        }
        loads.iter().try_for_each(|load| more_answers(load, 20))?;
    }

    // Another relay has to follow, as with another version: the one before serves those that it has.
    weir.change(|config| config.workers = 1)?;
    weir.replace()?;
    ensure!(
        Some(weir.role_pid("relay")?) != pids[0],
        "the relay is another one"
    );
    for stream in &mut open {
        weir.with_log(echo::ping(stream, b"of the relay before"))?;
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    // Nor is it disturbed by further ones, nor by a control that dies: it has nothing to do with them any more.
    weir.replace()?;
    weir.kill_control();
    weir.start_again()?;
    for stream in &mut open {
        weir.with_log(echo::ping(stream, b"still of that one"))?;
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    no_failure(loads);
    drop(open);

    // It is in control.
    let generation = weir.status()?.generation;
    weir.rewrite(config(&[0]))?;
    weir.ask(&["reload"])?;
    ensure!(weir.status()?.generation > generation, "{:?}", weir.status()?);
    weir.stop()?;
    let left = differences(&before, &traces(&site.lab.router)?);
    ensure!(left.is_empty() && weir.pinned()?.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn what_is_in_the_way_is_seen_before_anybody_lets_go() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site, config(&[0]))?;
    let mut body = WeirConfig::both_planes(body);
    // With nobody to replace it is a start as any other.
    body.args.push("--replace");
    let mut weir = Weir::start(&site.lab.router, body)?;
    weir.wait_log("there is none to replace")?;
    let file = weir.config_file();
    let was = std::fs::read_to_string(&file)?;
    let run = |weir: &Weir<'_>| {
        let cmd = Cmd::new(weir.binary())
            .args(["run", "--replace", "-c"])
            .arg(&file);
        cmd.env("NO_COLOR", "1").inside(&site.lab.router).run()
    };
    let pins = weir.pins().context("its pins")?.display().to_string();
    let tunables = weir.scratch().join("tunables.d");
    std::fs::create_dir_all(&tunables)?;
    let tunables = tunables.join("90-test.conf");
    for (broken, tuned, word) in [
        (was.replace("[admin]", "[admim]"), "", "admim"),
        // Tables of another size are not this weir's.
        (was.clone(), "weir.l4.backends = 77\n", "the pinned map BACKENDS"),
        (
            was.replace(&pins, &format!("{pins}-other")),
            "",
            "that changes with a restart only",
        ),
        (
            was.replace("[admin]", "user = \"nobody-of-that-name\"\n[admin]"),
            "",
            "nobody-of-that-name",
        ),
    ] {
        std::fs::write(&file, broken)?;
        std::fs::write(&tunables, tuned)?;
        let output = run(&weir)?;
        ensure!(!output.status.success(), "{word}: {output:?}");
        ensure!(
            output.complaint().contains(word),
            "{word}: {}",
            output.complaint()
        );
    }
    std::fs::remove_file(&tunables)?;
    std::fs::write(&file, &was)?;
    ensure!(!weir.log().contains("takes this one's place"), "{}", weir.log());
    // Who is on its way out has no place to give: a connection holds it up.
    let mut open = echo::connect(&site.lab.client, vip(Family::V4, 8))?;
    echo::ping(&mut open, b"hold")?;
    weir.signal(Signal::SIGTERM)?;
    weir.wait_log("stopping")?;
    let output = run(&weir)?;
    let said = output.complaint();
    ensure!(
        !output.status.success()
            && said.contains("does not make way: weir is stopping; it goes on as it was"),
        "{said}"
    );
    weir.signal(Signal::SIGINT)?;
    weir.wait_end(PATIENCE)?;
    Ok(())
}

#[test]
fn one_that_fails_late_leaves_all_as_it_was() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site, config(&[0]))?;
    let mut weir = weir_e2e_tests::start(&site.lab, body)?;
    let client = &site.lab.client;
    let loads = loads(client)?;
    let mut open = open(client)?;
    let (control, relay) = (weir.role_pid("control")?, weir.role_pid("relay")?);
    // It has started another relay by the time that it looks for the interface.
    weir.change(|config| {
        config.workers = 1;
        config.interfaces.push("nowhere");
    })?;
    let cmd = Cmd::new(weir.binary())
        .args(["run", "--replace", "-c"])
        .arg(weir.config_file());
    let output = cmd.env("NO_COLOR", "1").inside(&site.lab.router).run()?;
    ensure!(!output.status.success(), "{output:?}");
    let said = output.complaint();
    ensure!(said.contains("nowhere") && said.contains("role=relay"), "{said}");
    weir.wait_log("this process has taken back what it had let go of")?;
    weir.wait_ready()?;
    assert_eq!(
        (weir.role_pid("control")?, weir.role_pid("relay")?),
        (control, relay)
    );
    for stream in &mut open {
        weir.with_log(echo::ping(stream, b"still"))?;
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    no_failure(loads);
    weir.stop()
}

#[test]
fn a_relay_that_was_set_aside_and_forgotten_is_found() -> Result<()> {
    let site = Site::new(1)?;
    let mut weir = weir_e2e_tests::start(&site.lab, config(&[0]))?;
    let first = weir.role_pid("relay")?;
    // As a control leaves it that dies before the relay's successor serves.
    let set_aside = |weir: &mut Weir<'_>| -> Result<()> {
        weir.kill_control();
        for suffix in ["sock", "pid"] {
            let path = |name: &str| weir.scratch().join(format!("{name}.{suffix}"));
            std::fs::rename(path("relay"), path("relay-before"))?;
        }
        Ok(())
    };
    set_aside(&mut weir)?;
    weir.start_again()?;
    ensure!(weir.role_pid("relay")? == first, "it is the one that is wanted");
    set_aside(&mut weir)?;
    weir.change(|config| config.workers = 1)?;
    weir.start_again()?;
    ensure!(weir.role_pid("relay")? != first, "another one is wanted");
    wait_until(PATIENCE, "the relay before has ended", || {
        match site.lab.router.processes() {
            Ok(pids) if pids.contains(&first) => Err(format!("{pids:?}")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    ask(&site.lab.client, vip(Family::V4, HTTP), 5)?;
    weir.stop()
}

/// Without XDP a listener is at its address for good: nobody else could bind it.
#[test]
fn listeners_of_a_relay_that_was_set_aside_go_on() -> Result<()> {
    let site = Site::new(1)?;
    let at = SocketAddr::new(OUTSIDE_V4.into(), 8080);
    let body = pool("web", &[(weir_e2e_tests::backend(Family::V4, 0, 80), 1)])
        + &service("www", "http", &[at.to_string()], "web", "");
    let mut weir = Weir::start(&site.lab.router, WeirConfig::relay_only(body, None))?;
    let first = weir.role_pid("relay")?;
    weir.kill_control();
    for suffix in ["sock", "pid"] {
        let path = |name: &str| weir.scratch().join(format!("{name}.{suffix}"));
        std::fs::rename(path("relay"), path("relay-before"))?;
    }
    weir.change(|config| config.workers = 1)?;
    weir.start_again()?;
    let second = weir.role_pid("relay")?;
    ensure!(second != first, "another one is wanted");
    ask(&site.lab.client, at, 5)?;
    // And once more, by an upgrade.
    weir.change(|config| config.workers = 2)?;
    weir.replace()?;
    ensure!(weir.role_pid("relay")? != second, "another one is wanted");
    ask(&site.lab.client, at, 5)?;
    weir.stop()
}

/// Whoever is told to end while another has its place for the moment ends, and nothing stays.
#[test]
fn an_end_in_the_middle_is_an_end() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let before = traces(&site.lab.router)?;
    let program = scratch.join("bin-weir");
    let built = weir_harness::weir::binary()?;
    install(&program, &built)?;
    let mut asked = WeirConfig::both_planes(config(&[0]));
    asked.binary = Some(program.clone());
    let mut weir = Weir::start(&site.lab.router, asked)?;
    // It gets the place and does nothing with it.
    install_script(&program, &usurper(&weir, "time.sleep(600)")?)?;
    thread::scope(|scope| -> Result<()> {
        let asked = scope.spawn(|| {
            let cmd = Cmd::new(&built).args(["upgrade", "--socket"]).arg(weir.socket());
            cmd.inside(&site.lab.router).run()
        });
        weir.wait_log("another control process takes this one's place")?;
        signal_pid(weir.control_pid(), Signal::SIGTERM)?;
        let said = asked.join().map_err(|_| anyhow!("it panicked"))??.complaint();
        ensure!(said.contains("it has ended before it served"), "{said}");
        Ok(())
    })?;
    ensure!(weir.wait_end(PATIENCE)?.success(), "it has ended in order");
    let left = differences(&before, &traces(&site.lab.router)?);
    ensure!(left.is_empty() && weir.pinned()?.is_empty(), "{left:?}");
    ensure!(site.lab.router.processes()?.is_empty(), "processes stay");
    Ok(())
}

/// A relay that drains already when weir is told to end has its connections' time, too.
#[test]
fn an_end_behind_it_waits_for_the_relay_before() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site, config(&[0]))?;
    let mut weir = weir_e2e_tests::start(&site.lab, body)?;
    weir.ask(&["sysctl", "-w", "weir.relay.drain=1h"])?;
    let mut open = echo::connect(&site.lab.client, vip(Family::V4, 8))?;
    echo::ping(&mut open, b"before")?;
    let before = weir.role_pid("relay")?;
    weir.change(|config| config.workers = 1)?;
    // What was set at run time is not the new one's: it says how long the relay before has.
    let tunables = weir.scratch().join("tunables.d");
    std::fs::create_dir_all(&tunables)?;
    std::fs::write(tunables.join("90-test.conf"), "weir.relay.drain = 1h\n")?;
    weir.replace()?;
    let after = weir.role_pid("relay")?;
    weir.signal(Signal::SIGTERM)?;
    wait_until(
        PATIENCE,
        "the relay without connections has ended",
        || match site.lab.router.processes() {
            Ok(pids) if pids.contains(&after) => Err(format!("{pids:?}")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        },
    )?;
    ensure!(
        site.lab.router.processes()?.contains(&before),
        "the one with some is gone"
    );
    echo::ping(&mut open, b"still")?;
    drop(open);
    ensure!(weir.wait_end(PATIENCE)?.success(), "it has ended in order");
    ensure!(site.lab.router.processes()?.is_empty(), "processes stay");
    Ok(())
}

/// Another version has another keys process as well; the relay that has to go asks the one it knows until it does.
#[test]
fn handshakes_go_on() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let file = certificate::self_signed(&scratch, "www.pem", &["www.test"], P256)?;
    let listen = [vip(Family::V4, 443).to_string()];
    let tls = format!("\n[services.secure.tls]\ncertificates = [\"{}\"]", file.display());
    let body = config(&[0]) + &service("secure", "http", &listen, "web", &tls);
    let mut weir = weir_e2e_tests::start(&site.lab, body)?;
    let client = &site.lab.client;
    let (done, shaken) = (AtomicBool::new(false), AtomicUsize::new(0));
    let shake = || -> Result<()> {
        let resolve = format!("www.test:443:{}", vip(Family::V4, 443).ip());
        let ca = file.display().to_string();
        while !done.load(Ordering::Relaxed) {
            let args = ["--resolve", &resolve, "--cacert", &ca];
            let answer = curl::get(client, "https://www.test:443/", &args)?;
            ensure!(answer.status == 200, "{answer:?}");
            shaken.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let more = |count: usize| {
        let to = shaken.load(Ordering::Relaxed) + count;
        wait_until(PATIENCE, "handshakes go on", || {
            let now = shaken.load(Ordering::Relaxed);
            if now >= to { Ok(()) } else { Err(now) }
        })
    };
    let (relay, keys) = (weir.role_pid("relay")?, weir.role_pid("keys")?);
    thread::scope(|scope| -> Result<()> {
        let asked = scope.spawn(shake);
        let replaced = more(5)
            .and_then(|()| weir.change(|config| config.args.push("--log-level=debug")))
            .and_then(|()| weir.replace())
            .and_then(|()| more(20));
        done.store(true, Ordering::Relaxed);
        weir.with_log(asked.join().map_err(|_| anyhow!("it panicked"))?)?;
        replaced
    })?;
    ensure!(
        weir.role_pid("relay")? != relay && weir.role_pid("keys")? != keys,
        "others"
    );
    wait_until(
        PATIENCE,
        "the relay and the keys process before have ended",
        || match site.lab.router.processes() {
            Ok(pids) if pids.contains(&relay) || pids.contains(&keys) => Err(format!("{pids:?}")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        },
    )?;
    weir.stop()
}

#[test]
fn weir_upgrade_says_what_came_of_it() -> Result<()> {
    let site = Site::new(1)?;
    let (_echo, body) = with_echo(&site, config(&[0]))?;
    let before = traces(&site.lab.router)?;
    // As systemd does it.
    let scratch = Scratch::new()?;
    let program = scratch.join("bin-weir");
    let built = weir_harness::weir::binary()?;
    install(&program, &built)?;
    let manager = UnixDatagram::bind(scratch.join("notify"))?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let told = || -> Result<String> {
        let mut buffer = [0; 256];
        let len = manager
            .recv(&mut buffer)
            .context("the service manager is told nothing")?;
        Ok(String::from_utf8_lossy(&buffer[..len]).trim_end().to_owned())
    };
    let mut asked = WeirConfig::both_planes(body);
    asked.binary = Some(program.clone());
    asked
        .env
        .push(("NOTIFY_SOCKET", scratch.join("notify").into_os_string()));
    let mut weir = Weir::start(&site.lab.router, asked)?;
    ensure!(told()? == "READY=1", "it serves");
    let client = &site.lab.client;
    let loads = loads(client)?;
    let mut open = open(client)?;
    let mut all_go_on = |weir: &Weir<'_>| -> Result<()> {
        for stream in &mut open {
            weir.with_log(echo::ping(stream, b"here"))?;
        }
        loads.iter().try_for_each(|load| more_answers(load, 10))
    };
    let first = weir.control_pid();
    // What is installed there may be no weir.
    let upgrade = |weir: &Weir<'_>| {
        let cmd = Cmd::new(&built).args(["upgrade", "--socket"]).arg(weir.socket());
        cmd.inside(&site.lab.router).run()
    };
    let refused = |weir: &Weir<'_>, words: &[&str]| -> Result<()> {
        let output = upgrade(weir)?;
        let said = output.complaint();
        ensure!(!output.status.success(), "{output:?}");
        let goes_on = format!("process {first} goes on as it was");
        for word in words.iter().chain([&goes_on.as_str()]) {
            ensure!(said.contains(word), "{word:?} is not in: {said}\n{}", weir.log());
        }
        Ok(())
    };

    // One that does not start.
    install_script(&program, "#!/bin/sh\nexit 3\n")?;
    refused(
        &weir,
        &["bin-weir has ended at its start", "exit status: 3", "weir.toml"],
    )?;
    all_go_on(&weir)?;

    // Nothing else changes while an upgrade is under way.
    install_script(&program, "#!/bin/sh\nsleep 2\nexit 3\n")?;
    thread::scope(|scope| -> Result<()> {
        let asked = scope.spawn(|| upgrade(&weir));
        wait_until(PATIENCE, "the second successor is started", || {
            let count = weir.log().matches("an upgrade: a successor is started").count();
            if count == 2 { Ok(()) } else { Err(count) }
        })?;
        for command in [
            &["reload"][..],
            &["sysctl", "-w", "weir.relay.drain=5s"],
            &["upgrade"],
        ] {
            let cmd = Cmd::new(&built).args(command).arg("--socket").arg(weir.socket());
            let said = cmd.inside(&site.lab.router).run()?.complaint();
            ensure!(
                said.contains("an upgrade is under way (process "),
                "{command:?}: {said}"
            );
        }
        let asked = asked.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(asked.complaint().contains("exit status: 3"), "{asked:?}");
        Ok(())
    })?;

    // One that takes the place, and dies: the one before is back by itself.
    install_script(&program, &usurper(&weir, "sys.exit(1)")?)?;
    refused(
        &weir,
        &["bin-weir can't take over", "it has ended before it served"],
    )?;
    ensure!(told()? == "READY=1", "it serves again");
    all_go_on(&weir)?;

    // One that dies before it has read that the place is its own.
    let reads = "assert b'\"ok\":true' in it.recv(4096)";
    let hasty = usurper(&weir, "sys.exit(1)")?.replace(reads, "time.sleep(1)");
    ensure!(!hasty.contains("recv"), "{hasty}");
    install_script(&program, &hasty)?;
    refused(
        &weir,
        &["bin-weir can't take over", "it has ended before it served"],
    )?;
    ensure!(told()? == "READY=1", "it serves again");
    all_go_on(&weir)?;

    // One that takes the place and says that it can't go on.
    let gives_up = "it.sendall(b'{\"ok\":false,\"error\":\"no such interface\"}\\n'); it.recv(1)";
    install_script(&program, &usurper(&weir, gives_up)?)?;
    refused(&weir, &["bin-weir can't take over: no such interface"])?;
    ensure!(told()? == "READY=1", "it serves again");
    all_go_on(&weir)?;

    // A good one.
    install(&program, &built)?;
    weir.wait_ready()?;
    ensure!(weir.role_pid("control")? == first, "still the same process");
    let output = upgrade(&weir)?;
    ensure!(output.status.success(), "{}\n{}", output.complaint(), weir.log());
    let second = weir.role_pid("control")?;
    let said = output.text();
    for part in [format!("(process {second})"), format!("(process {first})")] {
        ensure!(said.contains(&part), "{part} is not in: {said}");
    }
    ensure!(told()? == format!("MAINPID={second}"), "the unit's main process");
    ensure!(
        weir.wait_end(PATIENCE)?.success(),
        "the one before has ended well"
    );
    all_go_on(&weir)?;
    no_failure(loads);
    drop(open);
    ask(client, vip(Family::V4, HTTP), 3)?;

    // Nobody's child any more, so the signal goes by its number.
    signal_pid(second, Signal::SIGTERM)?;
    wait_until(PATIENCE, "the second one has ended", || {
        match site.lab.router.processes() {
            Ok(pids) if pids.contains(&second) => Err(format!("{pids:?}")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    let left = differences(&before, &traces(&site.lab.router)?);
    ensure!(left.is_empty() && weir.pinned()?.is_empty(), "{left:?}");
    Ok(())
}
