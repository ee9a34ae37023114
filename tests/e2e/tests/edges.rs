//! The edges of forwarding between real stacks: path MTU discovery, ICMP errors, echo, MSS.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use weir_e2e_tests::{
    CHECK_TIME, QUICK, Site, backend,
    behind::{self, Behind},
    every_mode,
    modes::{CLOSED, ECHO, Farm, Mode, WEB},
    pool_of, service, start, takes_answers, tunnels, unchecked_pool, vip,
};
use weir_harness::{
    Cmd, Lab, Netns, Scratch, Weir,
    lab::{BYPASS_V4, BYPASS_V6, CLIENT_V4, CLIENT_V6, Family, INSIDE, backend_v4, backend_v6},
    peer::{
        curl::{self, url},
        echo::{self, Echo},
        nginx::Nginx,
        ping::ping,
        same_bytes, write_noise,
    },
};

/// What the narrow links of these tests carry.
const NARROW: u32 = 1400;
const SIZE: usize = 2 << 20;

fn packets(weir: &Weir<'_>, reason: &str) -> Result<f64> {
    weir.metrics()?
        .sum("weir_xdp_packets_total", &[("reason", reason)])
}

/// A file both ways through a target, byte for byte.
fn both_ways(client: &Netns, nginx: &Nginx, target: SocketAddr) -> Result<()> {
    let scratch = Scratch::new()?;
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, SIZE, 9)?;
    std::fs::copy(&sent, nginx.file("big"))?;
    curl::upload(client, &sent, &url(target, "/files/up"), &[])?;
    same_bytes(&sent, &nginx.file("up")).context("up")?;
    curl::download(client, &url(target, "/files/big"), &received)?;
    same_bytes(&sent, &received).context("down")
}

/// The MTU that a host has learned for the way to an address.
fn learned(netns: &Netns, to: IpAddr) -> Result<String> {
    Cmd::new("ip")
        .args(["route", "get", &to.to_string()])
        .inside(netns)
        .check()
}

/// A line of services whose SYNs promise more than the narrow links carry.
const UNCLAMPED: &str = "mss = 1460";

mod narrow_before_the_box {
    super::every_mode!(super::is_found_out_by_the_backend);
}

mod narrow_behind_the_box {
    super::every_mode!(super::is_told_by_the_box);
}

mod closed {
    super::every_mode!(super::is_told_to_the_client);
}

/// The first backend, at every port.
fn every_port(family: Family) -> String {
    match family {
        Family::V4 => format!("{}:*", family.backend(0)),
        Family::V6 => format!("[{}]:*", family.backend(0)),
    }
}

#[test]
fn a_narrow_link_behind_a_router_is_found_out_through_nat() -> Result<()> {
    is_found_out_by_the_client(Mode::Nat)
}

#[test]
fn a_narrow_link_behind_a_router_is_found_out_through_full_nat() -> Result<()> {
    is_found_out_by_the_client(Mode::FullNat)
}

/// The backend is behind a router with a narrow link; what that router says comes back to the box.
fn is_found_out_by_the_client(mode: Mode) -> Result<()> {
    let lab = Lab::unique(1)?;
    mode.prepare(&lab)?;
    let next_hop = [backend_v4(0).into(), backend_v6(0).into()];
    let far = Behind::new(&lab, &lab.backends[0], next_hop, NARROW)?;
    let listen = Family::ALL.map(|family| SocketAddr::new(Behind::address(family), WEB));
    let nginx = Nginx::start(&far.netns, "far", &listen)?;
    let behind = |family| [(format!("{}", SocketAddr::new(Behind::address(family), WEB)), 10)];
    let body = mode.pools_of(behind, "") + &mode.services("far", &[WEB], UNCLAMPED);
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        weir.with_log(both_ways(&lab.client, &nginx, vip(family, WEB)))
            .with_context(|| format!("{family:?}"))?;
        let route = learned(&lab.client, family.vip())?;
        ensure!(route.contains(&format!("mtu {NARROW}")), "{route}");
    }
    // Errors of the router behind the box, translated.
    ensure!(packets(&weir, "return-icmp")? >= 2.0);
    Ok(())
}

/// The client is behind a router with a narrow link. What that router says goes to the virtual address, in the modes whose
/// answers go past the box too, and from there to the backend that it is about.
fn is_found_out_by_the_backend(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, 2)?;
    let lab = &farm.lab;
    let home = Behind::new(lab, &lab.client, [CLIENT_V4.into(), CLIENT_V6.into()], NARROW)?;
    if !mode.returns() {
        for backend in &lab.backends {
            behind::lead(backend, [BYPASS_V4.into(), BYPASS_V6.into()])?;
        }
    }
    let weir = start(lab, mode.pools(2, "") + &mode.services("farm", &[WEB], UNCLAMPED))?;
    let scratch = Scratch::new()?;
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, SIZE, 9)?;
    for nginx in &farm.nginx {
        std::fs::copy(&sent, nginx.file("big"))?;
    }
    for family in Family::ALL {
        // The other backend's connections are of use, too: an error that comes to the wrong one ends no stall.
        for _ in 0..6 {
            let target = url(vip(family, WEB), "/files/big");
            weir.with_log(curl::download(&home.netns, &target, &received))
                .with_context(|| format!("{family:?}"))?;
            same_bytes(&sent, &received)?;
        }
        let client = match mode.source(family) {
            Some(source) => source.parse()?,
            None => Behind::address(family),
        };
        let mut heard = Vec::new();
        for backend in &lab.backends {
            heard.push(learned(backend, client)?);
        }
        let narrow = format!("mtu {NARROW}");
        ensure!(heard.iter().any(|route| route.contains(&narrow)), "{heard:?}");
    }
    ensure!(packets(&weir, "forward-icmp")? >= 2.0);
    Ok(())
}

/// The way to the backends is narrow, by its route or by the link itself: the box knows, and says what fits, outer header
/// included.
fn is_told_by_the_box(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, 1)?;
    let lab = &farm.lab;
    let _takes = takes_answers(lab)?;
    let body = mode.pools(1, "") + &mode.services("farm", &[WEB, ECHO], UNCLAMPED);
    for family in Family::ALL {
        let backend = family.backend(0);
        // Locked: else the kernel, when it is asked because a next hop is not resolved yet, passes it over.
        let route = format!("route add {backend} dev {INSIDE} mtu lock {}", NARROW + 40);
        lab.router.ip([route])?;
    }
    let mut weir = start(lab, body.clone())?;
    is_told(&farm, &weir, NARROW + 40).context("by the route")?;
    weir.stop()?;
    lab.set_inside_mtu(NARROW)?;
    is_told(&farm, &start(lab, body)?, NARROW).context("by the link")
}

/// Datagrams and files find out that packets towards the backend may have `mtu` bytes.
fn is_told(farm: &Farm, weir: &Weir<'_>, mtu: u32) -> Result<()> {
    let client = &farm.lab.client;
    let fits = mtu - farm.mode.header();
    let before = packets(weir, "too-big-sent")?;
    for family in Family::ALL {
        let target = vip(family, ECHO);
        let socket = client.run(|| UdpSocket::bind(unspecified(family)))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        // A little more than fits, and less than the client's own link takes.
        let headers = if family == Family::V4 { 28 } else { 48 };
        socket.send(&vec![7; fits as usize + 20 - headers])?;
        let told = socket.recv(&mut [0; 64]).err();
        let told = told.with_context(|| format!("{family:?}: {} bytes are answered", fits + 20))?;
        ensure!(
            told.raw_os_error() == Some(nix::libc::EMSGSIZE),
            "{family:?}: {told}"
        );
        let route = learned(client, family.vip())?;
        ensure!(route.contains(&format!("mtu {fits} ")), "{fits}: {route}");
        // What fits by a hair arrives, and so does what the client now cuts by itself.
        for more in [0, 1, 2000] {
            let payload = vec![8; fits as usize - headers + more];
            let answer = weir.with_log(echo::ask(client, target, &payload));
            answer.with_context(|| format!("{family:?}: {more} bytes more than fit"))?;
        }
        weir.with_log(both_ways(client, &farm.nginx[0], vip(family, WEB)))
            .with_context(|| format!("{family:?}"))?;
    }
    ensure!(packets(weir, "too-big-sent")? >= before + 2.0);
    Ok(())
}

#[test]
fn what_does_not_fit_into_a_tunnel_is_told_to_the_client() -> Result<()> {
    let lab = Lab::unique(1)?;
    lab.bypass()?;
    lab.backends_hold_vips()?;
    let _tunnels = tunnels(&lab)?;
    let _takes = takes_answers(&lab)?;
    let mut listen = Vec::new();
    let mut body = String::new();
    for outer in Family::ALL {
        let port = if outer == Family::V4 { 80 } else { 81 };
        let name = pool_of(outer, "web");
        body += &unchecked_pool(&name, &[(every_port(outer), 10)]);
        let vips = Family::ALL.map(|inner| vip(inner, port).to_string());
        body += &service(&name, "l4", &vips, &name, "").replace("\"nat\"", "\"ipip\"");
        listen.extend(Family::ALL.map(|inner| vip(inner, port)));
    }
    let nginx = Nginx::start(&lab.backends[0], "b1", &listen)?;
    let weir = start(&lab, body)?;
    for (port, header) in [(80, 20), (81, 40)] {
        for inner in Family::ALL {
            weir.with_log(both_ways(&lab.client, &nginx, vip(inner, port)))
                .with_context(|| format!("{inner:?} at {port}"))?;
            let route = learned(&lab.client, inner.vip())?;
            ensure!(route.contains(&format!("mtu {}", 1500 - header)), "{route}");
        }
    }
    ensure!(packets(&weir, "too-big-sent")? >= 2.0);
    Ok(())
}

/// A port that nobody listens on: UDP is answered by an ICMP error, TCP by a RST. In both the client is told of the address
/// and port that it asked.
fn is_told_to_the_client(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, 1)?;
    let client = &farm.lab.client;
    let weir = start(
        &farm.lab,
        mode.pools(1, "") + &mode.services("closed", &[CLOSED], ""),
    )?;
    for family in Family::ALL {
        let target = vip(family, CLOSED);
        let socket = client.run(|| UdpSocket::bind(unspecified(family)))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send(b"anybody there?")?;
        let udp = socket.recv(&mut [0; 64]).expect_err("nobody listens");
        let tcp = client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?;
        for refused in [udp, tcp.err().context("nobody listens")?] {
            ensure!(
                refused.kind() == ErrorKind::ConnectionRefused,
                "{family:?}: {refused}"
            );
        }
    }
    let errors = packets(&weir, "return-icmp")?;
    ensure!(errors == if mode.returns() { 2.0 } else { 0.0 }, "{errors}");
    Ok(())
}

/// Any port of any address of a family.
fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[test]
fn traceroute_shows_the_box_and_then_the_backend() -> Result<()> {
    let lab = Lab::unique(1)?;
    let _takes = takes_answers(&lab)?;
    let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 80));
    let _nginx = Nginx::start(&lab.backends[0], "b1", &listen)?;
    let mut body = String::new();
    for family in Family::ALL {
        let name = pool_of(family, "traced");
        body += &unchecked_pool(&name, &[(every_port(family), 10)]);
        let listen = [vip(family, 80).to_string(), format!("{}/udp", vip(family, 99))];
        body += &service(&name, "l4", &listen, &name, "");
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        let to = family.vip().to_string();
        // By SYNs, which nginx answers; and by datagrams to a port that nobody listens at.
        for (how, port) in [("-T", "80"), ("-U", "99")] {
            let args = [how, "-p", port, "-n", "-q", "1", "-N", "1", "-m", "4", &to];
            let text = weir.with_log(Cmd::new("traceroute").args(args).inside(&lab.client).check())?;
            // The first line repeats the question.
            let hops: Vec<_> = text.lines().skip(1).map(hop).collect();
            // Whatever comes from behind the address comes in its name.
            ensure!(hops == [Some(&*to); 2], "{text}");
        }
    }
    // By XDP, not by the box's kernel, and once for each walk.
    ensure!(packets(&weir, "ttl-expired-sent")? == 4.0);
    ensure!(packets(&weir, "return-icmp")? == 2.0);
    Ok(())
}

/// Who answered, in a line of traceroute's: its number comes first.
fn hop(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)
}

#[test]
fn an_address_answers_ping_while_it_serves() -> Result<()> {
    let mut site = Site::new(1)?;
    let body = weir_e2e_tests::checked_config(&[0], QUICK);
    let lab = &site.lab;
    let _takes = takes_answers(lab)?;
    let weir = start(lab, body)?;
    let wait = Duration::from_secs(2);
    for family in Family::ALL {
        for payload in [0, 1, 56, 1400] {
            let payload: Vec<u8> = (0..payload).map(|n| n as u8).collect();
            weir.with_log(ping(&lab.client, family.vip(), &payload, wait))?;
        }
    }
    // By XDP, not by the box's kernel.
    ensure!(packets(&weir, "echo-reply")? == 8.0);
    site.nginx[0].kill();
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 0, 80),
            "down",
            CHECK_TIME,
        )?;
        let silent = ping(&lab.client, family.vip(), b"hello", Duration::from_millis(300));
        ensure!(silent.is_err(), "{family:?} answers with nobody up");
    }
    ensure!(packets(&weir, "echo-down")? == 2.0);
    site.nginx[0].restart(&lab.backends[0])?;
    weir.wait_all_up()?;
    for family in Family::ALL {
        weir.with_log(ping(&lab.client, family.vip(), b"hello", wait))?;
    }
    Ok(())
}

#[test]
fn the_mss_is_lowered_for_both_ends() -> Result<()> {
    const MSS: u32 = 1000;
    let lab = Lab::unique(1)?;
    let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 7));
    let _echo = Echo::start(&lab.backends[0], "b1", &listen)?;
    let mut body = String::new();
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &unchecked_pool(&name, &[(backend(family, 0, 7), 10)]);
        let more = format!("mss = {MSS}");
        body += &service(&name, "l4", &[vip(family, 7).to_string()], &name, &more);
        body += &service(
            &pool_of(family, "plain"),
            "l4",
            &[vip(family, 8).to_string()],
            &name,
            "",
        );
    }
    let weir = start(&lab, body)?;
    // Timestamps take 12 bytes of it.
    let lowered = MSS - 12;
    for family in Family::ALL {
        let mut stream = weir.with_log(echo::connect(&lab.client, vip(family, 7)))?;
        weir.with_log(echo::ping(&mut stream, &[7; 20_000]))?;
        let text = Cmd::new("ss")
            .args(["-tinH", "state", "established", "sport = :7"])
            .inside(&lab.backends[0])
            .check()?;
        ensure!(
            text.contains(&format!(" mss:{lowered} ")),
            "{family:?}: the backend sends otherwise: {text}"
        );
        let of_client = SockRef::from(&stream).tcp_mss()?;
        ensure!(of_client <= MSS, "{family:?}: the client sends {of_client}");
        let plain = weir.with_log(echo::connect(&lab.client, vip(family, 8)))?;
        let of_plain = SockRef::from(&plain).tcp_mss()?;
        ensure!(of_plain > 1400, "{family:?}: {of_plain} without a limit");
        echo::finish(stream)?;
        echo::finish(plain)?;
    }
    Ok(())
}
