//! `source = "client"`: backends see the address of the client, and answer it by way of the box.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use weir_e2e_tests::{Site, backend, differences, pool_of, service, start, traces, vip};
use weir_harness::{
    Weir, WeirConfig,
    lab::{CLIENT_V4, Family},
    peer::{
        curl::{self, Load, Reuse, url},
        echo::{self, Echo},
        mariadb::{self, Mariadb},
        nginx::Nginx,
    },
    wait_until,
    weir::PATIENCE,
};

/// A pool of backends that see clients as `source` says.
fn pool(family: Family, name: &str, port: u16, source: &str) -> String {
    let backends: Vec<String> = (0..2)
        .map(|i| format!("{{ address = \"{}\" }}", backend(family, i, port)))
        .collect();
    format!(
        "[pools.{}]\nbackends = [{}]\nsource = \"{source}\"\n\n",
        pool_of(family, name),
        backends.join(", ")
    )
}

/// An HTTP service at port 80 and a TCP service at port 9000 of the virtual addresses.
fn body() -> String {
    let mut body = String::new();
    for family in Family::ALL {
        body += &pool(family, "web", 80, "client");
        for (name, mode, port) in [("www", "http", 80), ("bytes", "tcp", 9000)] {
            let listen = [vip(family, port).to_string()];
            body += &service(&pool_of(family, name), mode, &listen, &pool_of(family, "web"), "");
        }
    }
    body
}

#[test]
fn backends_see_the_client() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let before = traces(&lab.router)?;
    let mut weir = start(lab, body())?;
    let mut asked = 0;
    for family in Family::ALL {
        for port in [80, 9000] {
            for _ in 0..6 {
                let to = vip(family, port);
                let answer = weir.with_log(curl::get(&lab.client, &url(to, "/"), &[]))?;
                let text = answer.text();
                let seen = text.split_whitespace().nth(1).context("an answer")?;
                assert_eq!(seen, family.client().to_string(), "{to}: {text}");
                asked += 1;
            }
        }
    }
    let lines = wait_until(PATIENCE, "nginx has logged all requests", || {
        let lines: Vec<String> = site.nginx.iter().flat_map(Nginx::access_log).collect();
        if lines.len() < asked {
            Err(lines.join("\n"))
        } else {
            Ok(lines)
        }
    })?;
    for line in &lines {
        let client = line.split_whitespace().next().unwrap_or_default();
        let is_client = Family::ALL.iter().any(|f| f.client().to_string() == client);
        assert!(is_client, "{line}");
    }
    assert_eq!(lines.len(), asked);
    assert_eq!(lab.router.read_sysctl("ipv4/ip_forward")?, "0");

    // More new connections than sockets are kept ready.
    let load = Load::start(&lab.client, vip(Family::V4, 80), Reuse::Never, 200)?;
    wait_until(Duration::from_secs(30), "600 requests are answered", || {
        let tally = load.tally();
        match tally.ok {
            600.. => Ok(()),
            ok => Err(format!("{ok}, failures {:?}", tally.failures)),
        }
    })?;
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);

    weir.stop()?;
    assert_eq!(differences(&before, &traces(&lab.router)?), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_port_is_the_clients_too_if_it_is_asked_for() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let echo = Echo::start(
        &lab.backends[0],
        "echo",
        &Family::ALL.map(|f| SocketAddr::new(f.backend(0), 7)),
    )?;
    let mut body = String::new();
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &format!(
            "[pools.{name}]\nbackends = [{{ address = \"{}\" }}]\nsource = \"client-and-port\"\n\n",
            backend(family, 0, 7)
        );
        body += &service(&name, "tcp", &[vip(family, 7).to_string()], &name, "");
    }
    // A server that speaks first, and tells who its client is.
    let db = backend(Family::V4, 0, 3306);
    let mariadb = Mariadb::start(&lab.backends[0], db.parse()?)?;
    body += &format!("[pools.db]\nbackends = [{{ address = \"{db}\" }}]\nsource = \"client-and-port\"\n\n");
    body += &service("db", "tcp", &[vip(Family::V4, 3306).to_string()], "db", "");
    let mut weir = start(lab, body)?;
    for _ in 0..5 {
        let own = "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
        let told = weir.with_log(mariadb::query(&lab.client, vip(Family::V4, 3306), own))?;
        let peer: SocketAddr = told
            .parse()
            .with_context(|| format!("{told:?}: {}", mariadb.log()))?;
        assert_eq!(peer.ip(), Family::V4.client());
    }
    let mut clients = Vec::new();
    let mut open = Vec::new();
    for family in Family::ALL {
        for _ in 0..3 {
            let mut stream = echo::connect(&lab.client, vip(family, 7))?;
            weir.with_log(echo::ping(&mut stream, b"from where I am"))?;
            clients.push(stream.local_addr()?);
            open.push(stream);
        }
    }
    let mut seen = echo.peers();
    seen.sort_unstable();
    clients.sort_unstable();
    assert_eq!(seen, clients);
    drop(open);
    weir.stop()?;
    Ok(())
}

#[test]
fn killed_control_is_missed_only_by_what_is_new() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let mut weir = start(lab, body())?;
    let ask = |family| curl::get(&lab.client, &url(vip(family, 80), "/"), &[]);
    for family in Family::ALL {
        assert_eq!(ask(family)?.status, 200);
    }
    weir.kill_control();
    // The relay goes on with the sockets that it has.
    for family in Family::ALL {
        for _ in 0..10 {
            assert_eq!(ask(family)?.status, 200);
        }
    }
    weir.start_again()?;
    // More than the relay can have had.
    for family in Family::ALL {
        let load = Load::start(&lab.client, vip(family, 80), Reuse::Never, 200)?;
        wait_until(
            Duration::from_secs(30),
            "400 requests are answered",
            || match load.tally().ok {
                400.. => Ok(()),
                ok => Err(ok.to_string()),
            },
        )?;
        let tally = load.stop();
        assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    }
    // Another relay has none at first.
    weir.kill_role("relay")?;
    for family in Family::ALL {
        let answer = weir.with_log(ask(family))?;
        let seen = answer.text();
        assert!(seen.contains(&family.client().to_string()), "{seen}");
    }
    weir.stop()?;
    Ok(())
}

#[test]
fn a_transparent_listener_and_source_hide_the_box_on_both_sides() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let far: SocketAddr = "203.0.113.5:7".parse()?;
    lab.client.ip(["route add 203.0.113.0/24 via 192.0.2.1"])?;
    lab.router.ip(["route add 203.0.113.0/24 via 10.0.0.12"])?;
    lab.backends[1].ip(["addr add 203.0.113.5/32 dev lo"])?;
    let echo = Echo::start(&lab.backends[1], "far", &[far])?;
    let body = service(
        "echo",
        "tcp",
        &["transparent:7".into()],
        "original-destination",
        "",
    ) + "[pools.original-destination]\nsource = \"client\"\n";
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    let mut stream = echo::connect(&lab.client, far)?;
    weir.with_log(echo::ping(&mut stream, b"as if nothing were between"))?;
    assert_eq!(stream.peer_addr()?, far);
    let peers = echo.peers();
    assert!(peers.iter().all(|peer| peer.ip() == CLIENT_V4), "{peers:?}");
    drop(stream);
    weir.stop()?;
    Ok(())
}
