//! A box with two uplinks, each with a router of its own and clients that are reached through it alone. The default route leads
//! by the first; what comes in by the second is answered by the second.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use weir_e2e_tests::{Site, backend, differences, pool_of, service, traces, unchecked_pool, vip};
use weir_harness::{
    Cmd, Lab, Netns, Scratch, Weir, WeirConfig,
    lab::{CLIENT_V4, CLIENT_V6, Family, INSIDE, OUTSIDE},
    peer::{
        curl::{self, url},
        echo::{self, Echo},
        nginx::Nginx,
    },
    wait_until,
    weir::PATIENCE,
};

/// The box's interface at the second uplink.
const SECOND: &str = "second";
/// How long a packet that is dropped is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// An address at the second uplink, by its last figure: of the box 1, of the router 2, virtual 10.
fn uplink(family: Family, host: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, 2, host as u8).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x22, 0, 0, 0, 0, host).into(),
    }
}

/// Behind its router: of the router 1, of the client 2.
fn behind(family: Family, host: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, host as u8).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, host).into(),
    }
}

/// An address that is nobody's, and that the second router sends to the box.
fn foreign(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 5).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 5).into(),
    }
}

/// The second uplink. The first is the lab's: its client is the router there.
struct Second {
    router: Netns,
    client: Netns,
}

impl Second {
    fn new(lab: &Lab) -> Result<Self> {
        let name = lab.router.name();
        let second = Self {
            router: Netns::new(&format!("{name}-gw"))?,
            client: Netns::new(&format!("{name}-far"))?,
        };
        second.connect(lab)?;
        second.router.sysctl("ipv4/ip_forward", "1")?;
        second.router.sysctl("ipv6/conf/all/forwarding", "1")?;
        let (router, client) = (&second.router, &second.client);
        let far = client.name();
        router.ip([format!("link add lan type veth peer name eth0 netns {far}")])?;
        router.ip(["link set lan up".to_owned()])?;
        client.ip(["link set eth0 up".to_owned()])?;
        for family in Family::ALL {
            let (width, all) = width(family);
            router.ip([format!("addr add {}/{width} dev lan nodad", behind(family, 1))])?;
            client.ip([
                format!("addr add {}/{width} dev eth0 nodad", behind(family, 2)),
                format!("route add {all} via {}", behind(family, 1)),
            ])?;
        }
        // The box's default route is the first uplink, and it knows of nobody behind the second.
        lab.router.ip([
            format!("route add default via {CLIENT_V4}"),
            format!("route add ::/0 via {CLIENT_V6}"),
        ])?;
        // As many distributions have it: no packet comes in whose way back leads elsewhere.
        lab.router.sysctl("ipv4/conf/all/rp_filter", "1")?;
        Ok(second)
    }

    /// The link to the box, which may be made again.
    fn connect(&self, lab: &Lab) -> Result<()> {
        let (router, name) = (&self.router, lab.router.name());
        for end in [router, &lab.router] {
            end.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        router.ip([format!("link add eth0 type veth peer name {SECOND} netns {name}")])?;
        router.ip(["link set eth0 up"])?;
        lab.router.ip([format!("link set {SECOND} up")])?;
        for family in Family::ALL {
            let (width, _) = width(family);
            let boxes = format!("addr add {}/{width} dev {SECOND} nodad", uplink(family, 1));
            lab.router.ip([boxes])?;
            router.ip([format!("addr add {}/{width} dev eth0 nodad", uplink(family, 2))])?;
            for to in [foreign(family), family.vip()] {
                router.ip([format!("route add {to} via {}", uplink(family, 1))])?;
            }
        }
        // What XDP redirects into a veth arrives only if its other end polls by NAPI.
        Cmd::new("ethtool")
            .args(["-K", "eth0", "gro", "on", "tx", "off"])
            .inside(router)
            .check()
            .map(drop)
    }
}

const fn width(family: Family) -> (u8, &'static str) {
    match family {
        Family::V4 => (24, "default"),
        Family::V6 => (64, "::/0"),
    }
}

/// Both routers of the second uplink, in TOML.
fn gateways() -> String {
    let one = |family| {
        let router = uplink(family, 2);
        format!("[[node.gateways]]\ninterface = \"{SECOND}\"\naddress = \"{router}\"\n\n")
    };
    Family::ALL.map(one).concat()
}

/// A service whose listeners are each of an interface.
fn by(interface: &str, name: &str, mode: &str, listen: &[String], pool: &str, more: &str) -> String {
    let entry = |address: &String| format!("{{ address = \"{address}\", interface = \"{interface}\" }}");
    let entries: Vec<_> = listen.iter().map(entry).collect();
    let listen = entries.join(", ");
    format!("[services.{name}]\nlisten = [{listen}]\nmode = \"{mode}\"\npool = \"{pool}\"\n{more}\n\n")
}

/// The virtual addresses of the second uplink with a port.
fn at(port: u16) -> Vec<String> {
    let at = |family| SocketAddr::new(uplink(family, 10), port).to_string();
    Family::ALL.map(at).to_vec()
}

fn config(body: String) -> WeirConfig {
    WeirConfig {
        interfaces: vec![OUTSIDE, INSIDE, SECOND],
        ..WeirConfig::both_planes(gateways() + &body)
    }
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

/// A certificate and its key, for anybody.
fn certificate(files: &Scratch) -> Result<String> {
    let [key, cert] = ["key.pem", "cert.pem"].map(|name| files.join(name).display().to_string());
    Cmd::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=web.test"])
        .args(["-keyout", &key, "-out", &cert])
        .check()?;
    Ok(format!("ssl_certificate {cert}; ssl_certificate_key {key}"))
}

#[test]
fn clients_are_answered_by_the_uplink_they_came_by() -> Result<()> {
    let site = Site::new(1)?;
    let lab = &site.lab;
    let second = Second::new(lab)?;
    let files = Scratch::new()?;
    let tls_at = backend(Family::V4, 0, 8443).parse()?;
    let _tls = Nginx::start_tls(&lab.backends[0], "tls", tls_at, &certificate(&files)?)?;
    let echo_at = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 7));
    let _echo = Echo::start(&lab.backends[0], "echo", &echo_at)?;
    let before = traces(&lab.router)?;

    let of = |port| Family::ALL.map(|family| (backend(family, 0, port), 10));
    let mut body = unchecked_pool("web", &of(80)) + &unchecked_pool("echo", &of(7));
    body += &unchecked_pool("tls", &[(backend(Family::V4, 0, 8443), 10)]);
    body += &by(SECOND, "www", "http", &at(80), "web", "");
    body += &by(SECOND, "bytes", "tcp", &at(7), "echo", "");
    let rules = "rules = [{ match = { sni = \"web.test\" }, pool = \"tls\" }]";
    body += &by(SECOND, "passed", "tcp", &at(443), "tls", rules);
    body += &by(SECOND, "out", "http", &["transparent:8080".into()], "web", "");
    // One address by both uplinks, and one that is bound to none.
    let vips = Family::ALL.map(|family| vip(family, 81));
    let both = [OUTSIDE, SECOND].map(|interface| {
        let one = |at: SocketAddr| format!("{{ address = \"{at}\", interface = \"{interface}\" }}");
        vips.map(one).join(", ")
    });
    body += &format!(
        "[services.both]\nlisten = [{}]\nmode = \"http\"\npool = \"web\"\n\n",
        both.join(", ")
    );
    body += &service("unbound", "http", &at(82), "web", "");
    let mut weir = Weir::start(&lab.router, config(body))?;

    let far = &second.client;
    for family in Family::ALL {
        let at = |port| SocketAddr::new(uplink(family, 10), port);
        for to in [at(80), SocketAddr::new(foreign(family), 8080), vip(family, 81)] {
            let answer = weir.with_log(curl::get(far, &url(to, "/"), &[]))?;
            assert_eq!((answer.status, answer.who().as_str()), (200, "b1"), "{to}");
        }
        let mut stream = weir.with_log(echo::connect(far, at(7)))?;
        echo::ping(&mut stream, b"by the second")?;
        let resolve = match family {
            Family::V4 => format!("web.test:443:{}", uplink(family, 10)),
            Family::V6 => format!("web.test:443:[{}]", uplink(family, 10)),
        };
        let answer = curl::get(far, "https://web.test/", &["-k", "--resolve", &resolve]);
        assert_eq!(weir.with_log(answer)?.who(), "tls");
        // By the first uplink there are the listeners of the first alone.
        let answer = weir.with_log(curl::get(&lab.client, &url(vip(family, 81), "/"), &[]))?;
        assert_eq!(answer.who(), "b1");
        let way = |to: IpAddr| match family {
            Family::V4 => format!("route replace {to}/32 via {}", weir_harness::lab::OUTSIDE_V4),
            Family::V6 => format!("route replace {to}/128 via {}", weir_harness::lab::OUTSIDE_V6),
        };
        lab.client.ip([way(uplink(family, 10)), way(foreign(family))])?;
        assert_eq!(
            knock(&lab.client, at(80))?,
            "refused",
            "its listener is of the second"
        );
        let to = SocketAddr::new(foreign(family), 8080);
        assert_eq!(knock(&lab.client, to)?, "silent", "nor is it taken in");
        // What is bound to no interface is answered as the routes say, which is how it was before.
        assert_eq!(knock(far, at(82))?, "silent");
        assert_eq!(knock(&lab.client, at(82))?, "open");
    }
    let refused = weir
        .metrics()?
        .sum("weir_xdp_events_total", &[("event", "steer-interface")])?;
    assert!(refused >= 2.0, "{refused}");
    assert_eq!(lab.router.read_sysctl("ipv4/ip_forward")?, "0");
    assert_eq!(
        lab.router.read_sysctl(&format!("ipv4/conf/{SECOND}/rp_filter"))?,
        "2"
    );
    doctor(&weir, lab)?;
    weir.stop()?;
    assert_eq!(differences(&before, &traces(&lab.router)?), Vec::<String>::new());
    Ok(())
}

/// `weir doctor` proves the ways out.
fn doctor(weir: &Weir<'_>, lab: &Lab) -> Result<()> {
    let looked = Cmd::new(weir.binary())
        .args(["doctor", "-c"])
        .arg(weir.config_file())
        .inside(&lab.router)
        .run()?;
    let found = looked.text();
    assert!(looked.status.success(), "{found}");
    for (family, to) in Family::ALL.into_iter().zip(["203.0.113.1", "2001:db8:fffe::1"]) {
        let line = format!(
            "ok      interface {SECOND}: what is bound to it reaches {to} by {}",
            uplink(family, 2)
        );
        assert!(found.contains(&line), "{line}: {found}");
    }
    let line =
        format!("ok      interface {SECOND}: lets packets in whichever interface the way back leads by");
    assert!(found.contains(&line), "{found}");
    Ok(())
}

#[test]
fn a_pools_connections_and_checks_leave_by_its_interface() -> Result<()> {
    let site = Site::new(1)?;
    let lab = &site.lab;
    let second = Second::new(lab)?;
    let listen = Family::ALL.map(|family| SocketAddr::new(behind(family, 2), 80));
    let _far = Nginx::start(&second.client, "far", &listen)?;
    let echo_at = Family::ALL.map(|family| SocketAddr::new(behind(family, 2), 7));
    let echo = Echo::start(&second.client, "echo", &echo_at)?;
    let mut body = String::new();
    let check = "[pools.NAME.check]\ntype = \"http\"\npath = \"/healthz\"\ninterval = \"1s\"\ntimeout = \"900ms\"\n\n";
    for family in Family::ALL {
        for (name, interface) in [
            ("web", format!("interface = \"{SECOND}\"\n")),
            ("lost", String::new()),
        ] {
            let name = pool_of(family, name);
            let address = SocketAddr::new(behind(family, 2), 80);
            body += &format!("[pools.{name}]\nbackends = [{{ address = \"{address}\" }}]\n{interface}\n");
            body += &check.replace("NAME", &name);
            let port = if interface.is_empty() { 81 } else { 80 };
            body += &service(&name, "http", &[vip(family, port).to_string()], &name, "");
        }
        let (name, address) = (pool_of(family, "echo"), SocketAddr::new(behind(family, 2), 7));
        // With ports of weir's own, and from its client's address.
        let source = match family {
            Family::V4 => format!(
                "source = {{ addresses = [\"{}\"], ports = [\"10000-10999\"] }}",
                uplink(family, 1)
            ),
            Family::V6 => "source = \"client\"".to_owned(),
        };
        body += &format!(
            "[pools.{name}]\nbackends = [{{ address = \"{address}\" }}]\ninterface = \"{SECOND}\"\n{source}\n\n"
        );
        body += &service(&name, "tcp", &[vip(family, 7).to_string()], &name, "");
    }
    // The router knows the first uplink's clients, whose addresses the box connects from.
    second
        .router
        .ip([format!("route add {CLIENT_V6}/128 via {}", uplink(Family::V6, 1))])?;
    let mut weir = Weir::start(&lab.router, config(body))?;
    for family in Family::ALL {
        let address = SocketAddr::new(behind(family, 2), 80).to_string();
        weir.wait_state(&pool_of(family, "web"), &address, "up", PATIENCE)?;
        weir.wait_state(&pool_of(family, "lost"), &address, "down", PATIENCE)?;
        let answer = weir.with_log(curl::get(&lab.client, &url(vip(family, 80), "/"), &[]))?;
        assert_eq!((answer.status, answer.who().as_str()), (200, "far"));
        let mut stream = echo::connect(&lab.client, vip(family, 7))?;
        weir.with_log(echo::ping(&mut stream, b"by the pool's interface"))?;
    }
    let mut peers: Vec<_> = echo.peers().iter().map(SocketAddr::ip).collect();
    peers.sort_unstable();
    assert_eq!(peers, [uplink(Family::V4, 1), CLIENT_V6.into()]);
    // What is not there is refused by name, and what was in force stays.
    let text = std::fs::read_to_string(weir.config_file())?;
    let body = text.split_once("[[node.gateways]]").context("a body")?.1;
    let body = format!("[[node.gateways]]{body}");
    let missing = body.replace(
        &format!("interface = \"{SECOND}\"\n"),
        "interface = \"nosuch0\"\n",
    );
    weir.rewrite(missing)?;
    let refused = weir.cli(&["reload"])?;
    let told = refused.complaint() + &refused.text();
    assert!(told.contains("interface nosuch0 does not exist"), "{told}");
    weir.stop()?;
    Ok(())
}

#[test]
fn an_interface_that_is_made_anew_is_listened_on_again() -> Result<()> {
    let site = Site::new(1)?;
    let lab = &site.lab;
    let second = Second::new(lab)?;
    let of = Family::ALL.map(|family| (backend(family, 0, 80), 10));
    let own = Family::ALL.map(|family| SocketAddr::new(uplink(family, 1), 80).to_string());
    let body = gateways() + &unchecked_pool("web", &of) + &by(SECOND, "www", "http", &own, "web", "");
    // No program of XDP is there: it would go with the interface.
    let mut weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    let answers = |weir: &Weir<'_>| -> Result<()> {
        for family in Family::ALL {
            let to = SocketAddr::new(uplink(family, 1), 80);
            let answer = weir.with_log(curl::get(&second.client, &url(to, "/"), &["-m", "2"]))?;
            assert_eq!(answer.who(), "b1", "{to}");
        }
        Ok(())
    };
    answers(&weir)?;
    weir.kill_control();
    answers(&weir)?;
    weir.start_again()?;
    answers(&weir)?;
    lab.router.ip([format!("link del {SECOND}")])?;
    second.connect(lab)?;
    wait_until(Duration::from_secs(30), "it is listened on again", || {
        answers(&weir).map_err(|e| format!("{e:#}"))
    })?;
    weir.stop()?;
    Ok(())
}

/// `mode = "l4"` takes no interface. There the operator's own rule does it: XDP asks the kernel by the backend's address.
#[test]
fn packets_follow_the_operators_rule() -> Result<()> {
    let site = Site::new(1)?;
    let lab = &site.lab;
    let second = Second::new(lab)?;
    let mut body = String::new();
    for family in Family::ALL {
        let pool = pool_of(family, "web");
        body += &unchecked_pool(&pool, &[(backend(family, 0, 80), 10)]);
        let listen = [SocketAddr::new(uplink(family, 10), 80).to_string()];
        body += &service(&pool_of(family, "packets"), "l4", &listen, &pool, "");
        let (version, all) = match family {
            Family::V4 => ("-4", "default"),
            Family::V6 => ("-6", "::/0"),
        };
        for line in [
            format!("rule add from {} lookup 100", family.backend(0)),
            format!("route add {all} via {} dev {SECOND} table 100", uplink(family, 2)),
        ] {
            Cmd::new("ip")
                .arg(version)
                .args(line.split(' '))
                .inside(&lab.router)
                .check()?;
        }
    }
    let config = WeirConfig {
        interfaces: vec![OUTSIDE, INSIDE, SECOND],
        ..WeirConfig::both_planes(body)
    };
    let mut weir = Weir::start(&lab.router, config)?;
    for family in Family::ALL {
        let to = SocketAddr::new(uplink(family, 10), 80);
        // The way is found once its next hop is known.
        wait_until(
            Duration::from_secs(10),
            &format!("{to} answers"),
            || match curl::get(&second.client, &url(to, "/"), &["-m", "2"]) {
                Ok(answer) if answer.who() == "b1" => Ok(()),
                Ok(answer) => Err(format!("{} of {}", answer.status, answer.who())),
                Err(e) => Err(format!("{e:#}\n{}", lab.xdp_counters())),
            },
        )?;
    }
    weir.stop()?;
    Ok(())
}
