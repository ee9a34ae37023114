//! Every mode of forwarding, by every family and protocol, between real stacks: curl, dig, iperf3, datagrams and segments
//! in fragments.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_e2e_tests::{
    PATIENT, ask_until_all,
    behind::{self, Behind},
    every_mode,
    modes::{DNS, ECHO, Farm, Mode, SPEED, WEB},
    pool_of, start, vip,
};
use weir_harness::{
    Cmd, Process, Scratch, Weir,
    lab::{BYPASS_V4, BYPASS_V6, CLIENT_V4, CLIENT_V6, Family},
    peer::{
        curl::{self, url},
        dns::{BIG, WHO, dig, dig_large},
        echo, same_bytes, write_noise,
    },
    wait_until,
};

const BACKENDS: usize = 2;
/// Bytes of the files that go each way.
const SIZE: usize = 10 << 20;

mod carries {
    super::every_mode!(super::carries_everything);
}

mod tcp_in_fragments {
    super::every_mode!(super::carries_segments_in_fragments);
}

fn carries_everything(mode: Mode) -> Result<()> {
    let farm = Farm::new(mode, BACKENDS)?;
    let scratch = Scratch::new()?;
    let _servers = speed_servers(&farm, &scratch)?;
    let check = format!("type = \"http\"\npath = \"/healthz\"\nport = {WEB}\n{PATIENT}");
    let mut body = mode.pools(BACKENDS, &check);
    body += &mode.services("farm", &[WEB, DNS, ECHO], "");
    // The connection that controls a test and its streams belong together.
    body += &mode.services("speed", &[SPEED], "hash = \"source\"");
    let weir = start(&farm.lab, body)?;
    for family in Family::ALL {
        files(&farm, &weir, family)?;
        questions(&farm, &weir, family)?;
        datagrams(&farm, &weir, family)?;
        streams(&farm, &weir, family)?;
        addresses(&farm, family)?;
        if let Some(tunnel) = farm.tunnels.first() {
            let outer = mode.outer(family);
            ensure!(tunnel.packets(outer, family) > 0, "{family:?} in {outer:?}");
            let all: u64 = Family::ALL.map(|o| tunnel.packets(o, family)).iter().sum();
            ensure!(
                tunnel.packets(outer, family) == all,
                "{family:?} not in {outer:?}"
            );
        }
    }
    let (there, back) = mode.packets(&weir)?;
    ensure!(there > 0.0, "nothing went by {}", mode.name());
    ensure!((back > 0.0) == mode.returns(), "{back} packets came back");
    // The kernel of the box has no part in it.
    ensure!(farm.lab.router.read_sysctl("ipv4/ip_forward")? == "0");
    Ok(())
}

/// Requests of both backends, and a file each way.
fn files(farm: &Farm, weir: &Weir<'_>, family: Family) -> Result<()> {
    let client = &farm.lab.client;
    let scratch = Scratch::new()?;
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, SIZE, 5)?;
    for nginx in &farm.nginx {
        std::fs::copy(&sent, nginx.file("big"))?;
    }
    let web = vip(family, WEB);
    weir.with_log(ask_until_all(client, web, &["b1", "b2"]))
        .with_context(|| farm.lab.xdp_counters())?;
    weir.with_log(curl::download(client, &url(web, "/files/big"), &received))?;
    same_bytes(&sent, &received).with_context(|| format!("down from {web}"))?;
    let name = pool_of(family, "up");
    let target = url(web, &format!("/files/{name}"));
    weir.with_log(curl::upload(client, &sent, &target, &[]))?;
    let mut files = farm.nginx.iter().map(|nginx| nginx.file(&name));
    let stored = files.find(|file| file.exists());
    same_bytes(&sent, &stored.context("no backend has the file")?).with_context(|| format!("up to {web}"))
}

/// DNS over UDP and TCP, and an answer larger than the MTU in one datagram.
fn questions(farm: &Farm, weir: &Weir<'_>, family: Family) -> Result<()> {
    let client = &farm.lab.client;
    for tcp in [false, true] {
        let mut seen = BTreeSet::new();
        for _ in 0..30 {
            seen.extend(weir.with_log(dig(client, family.vip(), DNS, WHO, tcp))?);
        }
        ensure!(seen.len() == BACKENDS, "{family:?}, tcp {tcp}: {seen:?}");
    }
    let large = weir.with_log(dig_large(client, family.vip(), DNS, BIG))?;
    ensure!(large.len() == 16, "{large:?}");
    Ok(())
}

/// Datagrams of up to four fragments, and their echo.
fn datagrams(farm: &Farm, weir: &Weir<'_>, family: Family) -> Result<()> {
    let target = vip(family, ECHO);
    let before = events(weir, "fragment-recorded")?;
    let mut seen = BTreeSet::new();
    let sizes: Vec<usize> = (0..20).map(|i| 1400 + i * 233).collect();
    for &len in &sizes {
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let answer = weir.with_log(echo::ask(&farm.lab.client, target, &payload));
        seen.insert(answer.with_context(|| format!("a datagram of {len} bytes to {target}"))?);
    }
    ensure!(seen.len() == BACKENDS, "{family:?}: {seen:?}");
    // One for each datagram that did not fit, and by the modes whose answers pass the box one for its answer.
    let headers = if family == Family::V4 { 28 } else { 48 };
    let large = sizes.iter().filter(|len| *len + headers > 1500).count();
    let expected = large * if farm.mode.returns() { 2 } else { 1 };
    let recorded = events(weir, "fragment-recorded")? - before;
    ensure!(
        recorded == expected as f64,
        "{recorded} first fragments, not {expected}"
    );
    Ok(())
}

/// iperf3 on every backend, at each address that it is reached at: UDP answers from that one.
fn speed_servers(farm: &Farm, scratch: &Scratch) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for (i, netns) in farm.lab.backends.iter().enumerate() {
        for family in Family::ALL {
            let at = farm.mode.served(family, i, SPEED);
            let args = ["-s", "-B", &at.ip().to_string(), "-p", &at.port().to_string()];
            let cmd = Cmd::new("iperf3").args(args).inside(netns);
            let server = Process::start(&format!("iperf3-{i}-{family:?}"), scratch, &cmd);
            servers.push(server.context("Debian and Ubuntu: package iperf3")?);
        }
    }
    Ok(servers)
}

/// iperf3 over TCP and UDP, up and down.
fn streams(farm: &Farm, weir: &Weir<'_>, family: Family) -> Result<()> {
    for more in [
        ["-n", "20M"].as_slice(),
        &["-n", "20M", "-R"],
        &["-u", "-b", "20M", "-n", "2M", "-l", "1200"],
        &["-u", "-b", "20M", "-n", "2M", "-l", "1200", "-R"],
    ] {
        let run = || {
            let (target, port) = (family.vip().to_string(), SPEED.to_string());
            let text = Cmd::new("iperf3")
                .args(["-c", &target, "-p", &port, "-J"])
                .args(more)
                .inside(&farm.lab.client)
                .check()?;
            let report: serde_json::Value = serde_json::from_str(&text).context("not JSON")?;
            // With -J it may fail and still end as if it had not.
            ensure!(report["error"].is_null(), "{}", report["error"]);
            Ok(report)
        };
        // The server takes one test after the other, and is not at once ready for the next.
        let report = weir.with_log(wait_until(Duration::from_secs(20), "iperf3 runs", run))?;
        let bytes = report["end"]["sum_received"]["bytes"].as_u64();
        let bytes = bytes.with_context(|| format!("no bytes in {report}"))?;
        ensure!(bytes >= 1 << 20, "{family:?} {more:?}: {report}");
    }
    Ok(())
}

/// Which addresses the backend has for the two ends.
fn addresses(farm: &Farm, family: Family) -> Result<()> {
    let text = curl::get(&farm.lab.client, &url(vip(family, WEB), "/"), &[])?.text();
    let mut words = text.split_whitespace().skip(1);
    let (client, server) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let expected = match farm.mode.source(family) {
        Some(source) => source.to_owned(),
        None => family.client().to_string(),
    };
    ensure!(client == expected, "{client} and not {expected}");
    // As nginx writes it: without brackets.
    let own = (0..BACKENDS).map(|i| format!("{}:{WEB}", farm.mode.served(family, i, WEB).ip()));
    ensure!(own.into_iter().any(|own| own == server), "{server}");
    Ok(())
}

/// A host that does not look for the path's MTU, behind a router that cuts its segments: IPv4 alone has such.
fn carries_segments_in_fragments(mode: Mode) -> Result<()> {
    const NARROW: u32 = 1400;
    const SEGMENTS: usize = 200;
    let farm = Farm::new(mode, 1)?;
    let lab = &farm.lab;
    let home = Behind::new(lab, &lab.client, [CLIENT_V4.into(), CLIENT_V6.into()], 1500)?;
    if !mode.returns() {
        behind::lead(&lab.backends[0], [BYPASS_V4.into(), BYPASS_V6.into()])?;
    }
    home.netns.sysctl("ipv4/ip_no_pmtu_disc", "1")?;
    // A router heeds the MTU of a route only if it is locked.
    let vip = Family::V4.vip();
    lab.client
        .ip([format!("route add {vip}/32 dev eth0 mtu lock {NARROW}")])?;
    let mut body = mode.pools(1, "");
    body += &mode.services("farm", &[WEB], "");
    let weir = start(lab, body)?;
    let scratch = Scratch::new()?;
    let sent = scratch.join("sent");
    write_noise(&sent, SEGMENTS * 1448, 4)?;
    let target = url(SocketAddr::new(vip, WEB), "/files/up");
    weir.with_log(curl::upload(&home.netns, &sent, &target, &[]))?;
    same_bytes(&sent, &farm.nginx[0].file("up"))?;
    let recorded = events(&weir, "fragment-recorded")?;
    ensure!(
        recorded >= SEGMENTS as f64 / 2.0,
        "{recorded} segments in fragments"
    );
    Ok(())
}

fn events(weir: &Weir<'_>, event: &str) -> Result<f64> {
    weir.metrics()?.sum("weir_xdp_events_total", &[("event", event)])
}
