//! Which backend a flow gets, and what becomes of flows when backends go: source hashing, every port and port ranges,
//! maintenance, a backend that dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use weir_e2e_tests::{
    CHECK_TIME, L4, QUICK, Site, backend, every_mode,
    modes::{ECHO, ECHO_TOO, Farm, Mode, WEB},
    pool_of, service, start, takes_answers, unchecked_pool, vip,
};
use weir_harness::{
    Lab, Weir,
    lab::Family,
    peer::{
        curl::{self, url},
        echo::{self, Echo},
    },
    wait_until,
};

fn echoes(lab: &Lab, ports: &[u16]) -> Result<Vec<Echo>> {
    lab.backends
        .iter()
        .enumerate()
        .map(|(i, netns)| {
            let listen: Vec<SocketAddr> = Family::ALL
                .iter()
                .flat_map(|family| ports.iter().map(|port| SocketAddr::new(family.backend(i), *port)))
                .collect();
            Echo::start(netns, &format!("b{}", i + 1), &listen)
        })
        .collect()
}

#[test]
fn a_client_stays_with_one_backend_by_its_source() -> Result<()> {
    const CLIENTS: u8 = 24;
    let site = Site::new(2)?;
    let client = &site.lab.client;
    let addresses: Vec<String> = (0..CLIENTS)
        .flat_map(|n| [format!("192.0.2.{}", 120 + n), format!("2001:db8:1::2:{n}")])
        .collect();
    client.ip(addresses.iter().map(|address| {
        let (length, dad) = if address.contains(':') {
            (64, " nodad")
        } else {
            (24, "")
        };
        format!("addr add {address}/{length} dev eth0{dad}")
    }))?;
    let mut body = String::new();
    for family in Family::ALL {
        let name = pool_of(family, "web");
        body += &weir_e2e_tests::pool(&name, &[0, 1].map(|i| (backend(family, i, 80), 10)));
        let listen = [vip(family, L4).to_string()];
        body += &service(&name, "l4", &listen, &name, "hash = \"source\"");
    }
    let weir = start(&site.lab, body)?;
    for family in Family::ALL {
        let mut of_all = BTreeSet::new();
        for address in addresses
            .iter()
            .filter(|a| a.contains(':') == (family == Family::V6))
        {
            let mut seen = BTreeSet::new();
            for _ in 0..6 {
                let target = url(vip(family, L4), "/");
                let answer = weir.with_log(curl::get(client, &target, &["--interface", address]))?;
                ensure!(answer.text().contains(address.as_str()), "{}", answer.text());
                seen.insert(answer.who());
            }
            ensure!(seen.len() == 1, "{address} was sent to {seen:?}");
            of_all.extend(seen);
        }
        // Of 24 that all fall to the same of two: once in eight million runs.
        ensure!(of_all.len() == 2, "every client went to {of_all:?}");
    }
    Ok(())
}

#[test]
fn every_port_and_ranges_keep_the_port_that_was_asked() -> Result<()> {
    let lab = Lab::unique(2)?;
    let ports = [ECHO, 6000, 6005, 6010, 6011, 40000];
    let _echoes = echoes(&lab, &ports)?;
    let mut body = String::new();
    let every = Ipv4Addr::new(192, 0, 2, 11);
    for family in Family::ALL {
        let name = pool_of(family, "any");
        let address = |i| match family {
            Family::V4 => format!("{}:*", family.backend(i)),
            Family::V6 => format!("[{}]:*", family.backend(i)),
        };
        let backends = [0, 1].map(|i| (address(i), 10));
        body += &unchecked_pool(&name, &backends);
        let range = match family {
            Family::V4 => format!("{}:6000-6010", family.vip()),
            Family::V6 => format!("[{}]:6000-6010", family.vip()),
        };
        let listen = ["tcp", "udp"].map(|protocol| format!("{range}/{protocol}"));
        body += &service(&pool_of(family, "range"), "l4", &listen, &name, "");
    }
    let listen = ["tcp", "udp"].map(|protocol| format!("{every}:*/{protocol}"));
    body += &service("every", "l4", &listen, "any", "");
    // A port that is named goes before: all of it to b1.
    body += &unchecked_pool("first", &[(backend(Family::V4, 0, ECHO), 10)]);
    let named = [format!("{every}:6011"), format!("{every}:6011/udp")];
    body += &service("named", "l4", &named, "first", "");
    let weir = start(&lab, body)?;

    let who = |target: SocketAddr| -> Result<[String; 2]> {
        let tcp = weir.with_log(echo::connect(&lab.client, target).and_then(echo::finish))?;
        let udp = weir.with_log(echo::ask(&lab.client, target, b"hello"))?;
        Ok([tcp.0, udp])
    };
    for family in Family::ALL {
        for port in [6000, 6005, 6010] {
            who(vip(family, port))?;
        }
        let outside = echo::connect(&lab.client, vip(family, 6011));
        ensure!(outside.is_err(), "6011 is behind the range");
    }
    for port in [ECHO, 6000, 40000] {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.extend(who(SocketAddr::new(every.into(), port))?);
        }
        ensure!(seen.len() == 2, "{port}: {seen:?}");
    }
    for _ in 0..20 {
        let seen = who(SocketAddr::new(every.into(), 6011))?;
        ensure!(seen == ["b1", "b1"], "{seen:?}");
    }
    Ok(())
}

/// Connections to an echo service by which backend has them.
fn open(lab: &Lab, weir: &Weir<'_>, target: SocketAddr, echoes: &[Echo]) -> Result<[Vec<TcpStream>; 2]> {
    let mut open = [Vec::new(), Vec::new()];
    while open.iter().any(|of| of.len() < 3) {
        ensure!(
            open.iter().map(Vec::len).sum::<usize>() < 100,
            "one backend gets no connection"
        );
        let before = echoes[0].connections();
        let mut stream = weir.with_log(echo::connect(&lab.client, target))?;
        weir.with_log(echo::ping(&mut stream, b"hello"))?;
        open[usize::from(echoes[0].connections() == before)].push(stream);
    }
    Ok(open)
}

/// Sends until the connection breaks; how long it took.
fn breaks(stream: &mut TcpStream, within: Duration) -> Result<Duration> {
    let begin = Instant::now();
    stream.set_read_timeout(Some(within))?;
    let broken = stream
        .write_all(b"anybody there?")
        .and_then(|()| stream.read(&mut [0; 64]));
    match broken {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(begin.elapsed()),
        other => bail!("not reset, but {other:?} after {:?}", begin.elapsed()),
    }
}

mod maintenance {
    super::every_mode!(super::flows_are_moved_at_once);
}

fn flows_are_moved_at_once(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, 2)?;
    let lab = &farm.lab;
    let weir = start(lab, mode.pools(2, "") + &mode.services("farm", &[ECHO], ""))?;
    for family in Family::ALL {
        let [mut first, mut second] = open(lab, &weir, vip(family, ECHO), &farm.echoes)?;
        let datagrams = flows(lab, vip(family, ECHO))?;
        let name = format!("{}/{}", pool_of(family, "farm"), mode.backend(family, 0));
        weir.ask(&["backend", "maint", &name])?;
        for stream in &mut second {
            weir.with_log(echo::ping(stream, b"still there"))?;
        }
        // b2 gets their packets now, knows nothing of them, and says so.
        for stream in &mut first {
            breaks(stream, Duration::from_secs(5))?;
        }
        for (socket, before) in &datagrams {
            let now = weir.with_log(name_of(socket))?;
            ensure!(now == "b2", "a flow of {before}'s is with {now}");
        }
        weir.ask(&["backend", "ready", &name])?;
    }
    Ok(())
}

/// Sockets of UDP flows with the backend that has each: some of either.
fn flows(lab: &Lab, target: SocketAddr) -> Result<Vec<(UdpSocket, String)>> {
    let local: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let mut flows = Vec::new();
    let mut counts = BTreeMap::<String, usize>::new();
    while counts.len() < 2 || counts.values().any(|count| *count < 2) {
        ensure!(flows.len() < 100, "one backend gets no flow");
        let socket = lab.client.run(|| UdpSocket::bind(local))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let name = name_of(&socket)?;
        *counts.entry(name.clone()).or_default() += 1;
        flows.push((socket, name));
    }
    Ok(flows)
}

fn name_of(socket: &UdpSocket) -> Result<String> {
    socket.send(b"who")?;
    let mut answer = [0; 64];
    let len = socket.recv(&mut answer).context("no datagram back")?;
    let answer = String::from_utf8_lossy(answer.get(..len).unwrap_or_default()).into_owned();
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

mod dead {
    super::every_mode!(super::flows_are_reset_at_once_or_given_to_another);
}

/// What becomes of the flows of a backend that dies without a word: `on_backend_down` says.
fn flows_are_reset_at_once_or_given_to_another(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, 2)?;
    let lab = &farm.lab;
    let echoes = &farm.echoes;
    let check = format!("type = \"tcp\"\nport = {WEB}\n{QUICK}");
    let mut body = mode.pools(2, &check);
    let (reset, remap) = (ECHO, ECHO_TOO);
    for (name, port) in [("reset", reset), ("remap", remap)] {
        body += &mode.services(name, &[port], &format!("on_backend_down = \"{name}\""));
    }
    let _takes = takes_answers(lab)?;
    let weir = start(lab, body)?;
    let begun = Instant::now();
    let mut opened = Vec::new();
    for family in Family::ALL {
        for (port, resets) in [(reset, true), (remap, false)] {
            let tcp = open(lab, &weir, vip(family, port), echoes)?;
            let udp = flows(lab, vip(family, port))?;
            opened.push((family, resets, tcp, udp));
        }
    }
    // Of a ring that has just got its first backends, weir takes no flow for an older one: for 5 s.
    wait_until(Duration::from_secs(10), "the rings have settled", || {
        let age = begun.elapsed();
        if age > Duration::from_secs(6) {
            Ok(())
        } else {
            Err(format!("{age:?} old"))
        }
    })?;
    // A flow of UDP has no beginning that would be recorded: it is known from the first change of the ring that it outlives.
    let address = |family| mode.backend(family, 0);
    for family in Family::ALL {
        let first = format!("{}/{}", pool_of(family, "farm"), address(family));
        weir.ask(&["backend", "drain", &first])?;
    }
    for (socket, name) in opened.iter().flat_map(|(_, _, _, udp)| udp) {
        ensure!(weir.with_log(name_of(socket))? == *name);
    }
    // As if its cable had been cut: nobody resets anything.
    lab.switch.ip(["link set b1 down"])?;
    for family in Family::ALL {
        weir.wait_state(&pool_of(family, "farm"), &address(family), "down", CHECK_TIME)?;
    }
    for (family, resets, [mut first, mut second], udp) in opened {
        for stream in &mut first {
            // To another backend as it is: that one knows nothing of the connection, and says so.
            let took = weir.with_log(breaks(stream, Duration::from_secs(2)))?;
            // Not by a retransmission that found another backend: those begin after 200 ms.
            ensure!(
                !resets || took < Duration::from_millis(150),
                "{family:?}: reset after {took:?}"
            );
        }
        for stream in &mut second {
            weir.with_log(echo::ping(stream, b"still there"))?;
        }
        for (socket, name) in udp {
            let now = name_of(&socket);
            if name == "b2" || !resets {
                ensure!(weir.with_log(now)? == "b2");
                continue;
            }
            let refused = match now {
                Ok(other) => bail!("{family:?}: {other} answered on a flow of the dead"),
                Err(e) => e.downcast::<std::io::Error>()?,
            };
            ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
        }
    }
    let metrics = weir.metrics()?;
    for reason in ["reset-sent", "unreachable-sent"] {
        ensure!(
            metrics.sum("weir_xdp_packets_total", &[("reason", reason)])? > 0.0,
            "{reason}"
        );
    }
    Ok(())
}
