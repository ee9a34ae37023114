//! Transparent listeners: connections to addresses that are not on the box are taken in, and nothing else is routed.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use weir_e2e_tests::{Site, backend, differences, service, traces, unchecked_pool};
use weir_harness::{
    Cmd, Netns, Weir, WeirConfig,
    lab::{Family, INSIDE, INSIDE_V4, INSIDE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6},
    peer::{
        curl::{self, url},
        echo::{self, Echo},
        nginx::Nginx,
    },
    wait_until,
    weir::PATIENCE,
};

/// An address of the second backend's that the client reaches through the box alone.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// The same of IPv6.
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 5);

/// How long a packet that is dropped is waited for.
const SILENCE: Duration = Duration::from_secs(1);

fn far(family: Family) -> IpAddr {
    match family {
        Family::V4 => FAR_V4.into(),
        Family::V6 => FAR_V6.into(),
    }
}

/// A network beyond the box: its addresses belong to the second backend, and the client's way there is the box.
fn beyond(site: &Site) -> Result<()> {
    let lab = &site.lab;
    lab.client.ip([
        format!("route add 203.0.113.0/24 via {OUTSIDE_V4}"),
        format!("route add 2001:db8:77::/48 via {OUTSIDE_V6}"),
    ])?;
    lab.router.ip([
        format!("route add 203.0.113.0/24 via {}", Family::V4.backend(1)),
        format!("route add 2001:db8:77::/48 via {}", Family::V6.backend(1)),
    ])?;
    lab.backends[1].ip([
        format!("addr add {FAR_V4}/32 dev lo"),
        format!("addr add {FAR_V6}/128 dev lo nodad"),
    ])
}

/// Whether a connection is made, refused, or silence is the answer.
fn knock(from: &Netns, to: SocketAddr) -> Result<&'static str> {
    let tried = from.run(|| TcpStream::connect_timeout(&to, SILENCE))?;
    Ok(match tried {
        Ok(_) => "open",
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => "refused",
        Err(e) if e.kind() == ErrorKind::TimedOut => "silent",
        Err(e) => return Err(e).context(format!("{to}")),
    })
}

/// A pool of the first backend's nginx in both families.
fn web() -> String {
    let backends = Family::ALL.map(|family| (backend(family, 0, 80), 10));
    unchecked_pool("web", &backends)
}

/// The header that tells where the client was going.
const TELL: &str = "response_headers = [{ set = \"X-Wanted\", value = \"{server.address} {server.port}\" }]";

fn table_of_weir(netns: &Netns, version: &str) -> Result<(String, String)> {
    let rules = Cmd::new("ip").args([version, "rule"]).inside(netns).check()?;
    let routes = Cmd::new("ip")
        .args([version, "route", "show", "table", "all"])
        .inside(netns)
        .check()?;
    let ours = |text: &str, word: &str| {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(word)).collect();
        lines.join("\n")
    };
    Ok((ours(&rules, "30565"), ours(&routes, "table 30565")))
}

#[test]
fn connections_to_other_addresses_are_taken_in_and_nothing_else_is_routed() -> Result<()> {
    let site = Site::new(2)?;
    beyond(&site)?;
    let lab = &site.lab;
    // The box's own server on the same port is no business of the listener's.
    let own = [
        SocketAddr::new(OUTSIDE_V4.into(), 80),
        SocketAddr::new(OUTSIDE_V6.into(), 80),
        SocketAddr::new(INSIDE_V4.into(), 80),
        SocketAddr::new(INSIDE_V6.into(), 80),
    ];
    let _own = Nginx::start(&lab.router, "box", &own)?;
    let before = traces(&lab.router)?;

    let mut body = web();
    body += &service("www", "http", &["transparent:80".into()], "web", TELL);
    body += &service(
        "bytes",
        "tcp",
        &[
            "transparent:203.0.113.0/24:8000-8010".into(),
            "transparent:[2001:db8:77::]/48:8000-8010".into(),
        ],
        "web",
        "",
    );
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    for family in Family::ALL {
        let to = far(family);
        for port in [80, 8000, 8010] {
            let answer = weir.with_log(curl::get(&lab.client, &url(SocketAddr::new(to, port), "/"), &[]))?;
            assert_eq!((answer.status, answer.who().as_str()), (200, "b1"), "{to}:{port}");
            let told = answer.field("X-Wanted").join("");
            assert_eq!(
                told,
                if port == 80 {
                    format!("{to} 80")
                } else {
                    String::new()
                }
            );
        }
        // Of this port nobody takes anything in, and the box routes nothing.
        assert_eq!(knock(&lab.client, SocketAddr::new(to, 8011))?, "silent");
        assert_eq!(knock(&lab.client, SocketAddr::new(to, 22))?, "silent");
    }
    for at in own {
        let answer = curl::get(&lab.client, &url(at, "/"), &[]);
        // The box's inner addresses are reached through the outer one.
        if at.ip() == IpAddr::V4(OUTSIDE_V4) || at.ip() == IpAddr::V6(OUTSIDE_V6) {
            assert_eq!(answer?.who(), "box", "{at}");
        }
    }
    for (to, listener, service) in [
        (FAR_V4.to_string() + ":80", "transparent:0.0.0.0/0:80/tcp", "www"),
        (
            FAR_V4.to_string() + ":8005",
            "transparent:203.0.113.0/24:8000/tcp",
            "bytes",
        ),
        (format!("[{FAR_V6}]:80"), "transparent:[::]/0:80/tcp", "www"),
    ] {
        let from = if to.starts_with('[') {
            "[2001:db8::7]:40000"
        } else {
            "198.51.100.7:40000"
        };
        let told = weir.ask(&["explain", "flow", from, &to, "tcp"])?;
        assert!(told.starts_with("pass, no-service"), "{told}");
        let why =
            format!("weir_take takes it in for the relay: the listener {listener} of service {service}");
        assert!(told.contains(&why), "{to}: {told}");
    }
    let own = weir.ask(&["explain", "flow", "198.51.100.7:40000", "192.0.2.1:80", "tcp"])?;
    assert!(!own.contains("weir_take"), "{own}");
    // From the box itself the routes lead there, not the listener.
    for family in Family::ALL {
        let to = SocketAddr::new(far(family), 80);
        assert_eq!(knock(&lab.router, to)?, "refused", "nothing listens there yet");
    }
    assert_eq!(lab.router.read_sysctl("ipv4/ip_forward")?, "0");
    let looked = Cmd::new(weir.binary())
        .args(["doctor", "-c"])
        .arg(weir.config_file())
        .inside(&lab.router)
        .run()?;
    let found = looked.text();
    assert!(looked.status.success(), "{found}");
    for interface in [OUTSIDE, INSIDE] {
        for (to, marked) in [
            ("203.0.113.0", "203.0.113.0:8000"),
            ("2001:db8:77::", "[2001:db8:77::]:8000"),
        ] {
            for line in [
                format!("ok      interface {interface}: a marked packet to {to} is taken in"),
                format!("ok      interface {interface}: weir_take marks a SYN to {marked}"),
            ] {
                assert!(found.contains(&line), "{line}: {found}");
            }
        }
    }
    for family in Family::ALL {
        weir.wait_record(&format!("destination={}", SocketAddr::new(far(family), 80)))?;
    }
    for version in ["-4", "-6"] {
        let (rule, route) = table_of_weir(&lab.router, version)?;
        assert!(
            rule.contains("fwmark 0x77650000/0xffff0000") && rule.lines().count() == 1,
            "{rule}"
        );
        assert!(
            route.starts_with("local default") && route.lines().count() == 1,
            "{route}"
        );
    }
    weir.stop()?;
    assert_eq!(differences(&before, &traces(&lab.router)?), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_original_destination_is_the_backend() -> Result<()> {
    let site = Site::new(2)?;
    beyond(&site)?;
    let lab = &site.lab;
    let listen = Family::ALL.map(|family| SocketAddr::new(far(family), 80));
    let distant = Nginx::start(&lab.backends[1], "far", &listen)?;
    let echo = Echo::start(
        &lab.backends[1],
        "echo",
        &Family::ALL.map(|f| SocketAddr::new(far(f), 7)),
    )?;
    let mut body = service(
        "www",
        "http",
        &["transparent:80".into()],
        "original-destination",
        "request_headers = [{ set = \"X-Backend\", value = \"{backend.address}\" }]\n\
         response_headers = [{ set = \"X-Went-To\", value = \"{backend.address}\" }]",
    );
    body += &service(
        "echo",
        "tcp",
        &["transparent:7".into()],
        "original-destination",
        "",
    );
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    for family in Family::ALL {
        let to = SocketAddr::new(far(family), 80);
        for _ in 0..2 {
            let answer = weir.with_log(curl::get(&lab.client, &url(to, "/"), &[]))?;
            let box_inside = match family {
                Family::V4 => IpAddr::V4(INSIDE_V4),
                Family::V6 => IpAddr::V6(INSIDE_V6),
            };
            assert_eq!(answer.text().trim(), format!("far {box_inside} {}:80", to.ip()));
            assert_eq!(answer.field("X-Went-To"), [to.to_string()]);
        }
        let mut stream = echo::connect(&lab.client, SocketAddr::new(far(family), 7))?;
        echo::ping(&mut stream, b"to where it was going")?;
        // Where nobody listens the client is told so, by weir.
        let nobody = Family::ALL.map(|f| match f {
            Family::V4 => "203.0.113.77".parse::<IpAddr>(),
            Family::V6 => "2001:db8:77::77".parse::<IpAddr>(),
        });
        for to in nobody.into_iter().flatten() {
            let answer = curl::get(&lab.client, &url(SocketAddr::new(to, 80), "/"), &[])?;
            assert!(matches!(answer.status, 502..=504), "{to}: {}", answer.status);
        }
    }
    assert_eq!(echo.connections(), 2);
    assert_eq!(distant.wait_logged(4)?.len(), 4);
    weir.stop()?;
    Ok(())
}

#[test]
fn killed_control_changes_nothing_and_its_successor_takes_over() -> Result<()> {
    let site = Site::new(2)?;
    beyond(&site)?;
    let lab = &site.lab;
    let echo = Echo::start(
        &lab.backends[0],
        "echo",
        &Family::ALL.map(|f| SocketAddr::new(f.backend(0), 7)),
    )?;
    let before = traces(&lab.router)?;
    let pool = unchecked_pool("echo", &Family::ALL.map(|family| (backend(family, 0, 7), 10)));
    let with = pool.clone() + &service("echo", "tcp", &["transparent:7".into()], "echo", "");
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(with))?;
    let connect = |family| echo::connect(&lab.client, SocketAddr::new(far(family), 7));
    let mut open = Family::ALL.into_iter().map(connect).collect::<Result<Vec<_>>>()?;

    weir.kill_control();
    for stream in &mut open {
        echo::ping(stream, b"the kernel and the relay go on")?;
    }
    open.extend(Family::ALL.into_iter().map(connect).collect::<Result<Vec<_>>>()?);
    weir.start_again()?;
    for stream in &mut open {
        echo::ping(stream, b"another control process")?;
    }
    for version in ["-4", "-6"] {
        let (rule, route) = table_of_weir(&lab.router, version)?;
        assert_eq!(
            (rule.lines().count(), route.lines().count()),
            (1, 1),
            "{rule} {route}"
        );
    }

    // The listener goes by a reload: what is open stays, what is new is not taken in.
    let none = pool + &service("echo", "tcp", &["127.0.0.1:7".into()], "echo", "");
    weir.rewrite(none)?;
    weir.ask(&["reload"])?;
    for stream in &mut open {
        echo::ping(stream, b"the listener is gone")?;
    }
    for family in Family::ALL {
        assert_eq!(knock(&lab.client, SocketAddr::new(far(family), 7))?, "silent");
    }
    assert_eq!(echo.connections(), 4);
    drop(open);
    weir.stop()?;
    assert_eq!(differences(&before, &traces(&lab.router)?), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_stands_in_the_way_is_told() -> Result<()> {
    let site = Site::new(1)?;
    let lab = &site.lab;
    let body = web() + &service("www", "http", &["transparent:80".into()], "web", "");
    let refused = |words: &[&str]| -> Result<()> {
        let mut weir = Weir::launch(&lab.router, WeirConfig::both_planes(body.clone()))?;
        let ended = weir.wait_end(PATIENCE)?;
        let log = weir.log();
        assert!(!ended.success(), "{log}");
        for word in words {
            assert!(log.contains(word), "{word}: {log}");
        }
        Ok(())
    };
    lab.router.sysctl("ipv4/tcp_fwmark_accept", "1")?;
    refused(&["net.ipv4.tcp_fwmark_accept", "sysctl -w"])?;
    lab.router.sysctl("ipv4/tcp_fwmark_accept", "0")?;
    lab.router
        .ip([format!("route add 198.51.100.0/24 dev {INSIDE} table 30565")])?;
    refused(&["routing table 30565", "not weir's"])?;
    lab.router
        .ip([format!("route del 198.51.100.0/24 dev {INSIDE} table 30565")])?;
    lab.router.ip([format!("rule add iif {OUTSIDE} lookup 30565")])?;
    refused(&["routing table 30565", "a rule"])?;
    lab.router.ip([format!("rule del iif {OUTSIDE} lookup 30565")])?;

    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body.clone()))?;
    weir.stop()?;
    Ok(())
}

#[test]
fn a_banned_client_is_not_taken_in() -> Result<()> {
    let site = Site::new(2)?;
    beyond(&site)?;
    let lab = &site.lab;
    let body = web() + &service("www", "http", &["transparent:80".into()], "web", "");
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    let to = SocketAddr::new(FAR_V4.into(), 80);
    assert_eq!(knock(&lab.client, to)?, "open");
    weir.ask(&["ban", "192.0.2.100"])?;
    assert_eq!(knock(&lab.client, to)?, "silent");
    assert_eq!(knock(&lab.client, SocketAddr::new(FAR_V6.into(), 80))?, "open");
    weir.ask(&["unlist", "192.0.2.100"])?;
    wait_until(Duration::from_secs(5), "it is taken in again", || {
        match knock(&lab.client, to) {
            Ok("open") => Ok(()),
            Ok(other) => Err(other.to_owned()),
            Err(e) => Err(format!("{e:#}")),
        }
    })?;
    weir.stop()?;
    Ok(())
}
