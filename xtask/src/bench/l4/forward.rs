//! weir's `nat` against nftables with conntrack: packets forwarded per second of the box's CPU, in one run.
//!
//! Stages alike stand side by side, in one box runs weir, in the others a DNAT rule; they take turns, round by round.
//! First 64-byte UDP from XDP, as much as the box can take, into a sink of XDP at the server; then TCP streams, for which
//! the kernel is measured twice: as it is, merging segments (GRO) and forwarding up to 64 KiB at once; and packet by
//! packet.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use weir_harness::{Cmd, Netns, Process, Scratch, Weir, WeirConfig, interrupt, wait_until};

use super::median;
use super::stage::{CLIENT, CLIENT_MAC, INTERFACES, OUTSIDE_MAC, SERVER, Stage, VIP, WIRE, apart};
use crate::shell;

/// UDP flows that take turns.
const FLOWS: &str = "1024";
/// TCP streams at once.
const STREAMS: &str = "4";
const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 5201;
/// What weir must do of nftables' packets per second of CPU.
const TARGET: f64 = 3.0;
const PATIENCE: Duration = Duration::from_secs(20);

/// How much is measured.
pub(crate) struct Load {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) markdown: bool,
}

/// One round of one box.
#[derive(Clone, Copy)]
struct Round {
    packets: u64,
    /// Nanoseconds.
    cpu: u64,
    /// TCP: what the server got.
    gigabits: Option<f64>,
}

impl Round {
    /// Millions of packets per second of CPU.
    fn rate(self) -> f64 {
        self.packets as f64 * 1e3 / self.cpu as f64
    }
}

/// A stage with what forwards on it.
struct Contender<'a> {
    name: &'static str,
    stage: &'a Stage,
    udp: Vec<Round>,
    tcp: Vec<Round>,
}

/// `live_frames`: the example of the dataplane tests.
pub(crate) fn run(binary: &Path, live_frames: &Path, load: &Load) -> Result<Value> {
    shell::heading("forwarding, per second of the box's CPU");
    let cores = std::thread::available_parallelism().context("counting cores")?;
    ensure!(
        cores.get() >= 2,
        "this needs two cores: one for the box, one for client and server"
    );
    interrupt::install().context("taking signals")?;
    let stages = [Stage::new()?, Stage::new()?, Stage::new()?];
    let scratch = Scratch::new()?;
    let _weir = start_weir(&stages[0], binary)?;
    start_nftables(&stages[1])?;
    start_nftables(&stages[2])?;
    let _pass = packet_by_packet(&stages[2], live_frames, &scratch)?;
    let names = ["weir", "nftables", "nftables, no GRO"];
    let mut contenders: Vec<Contender<'_>> = names
        .iter()
        .zip(&stages)
        .map(|(name, stage)| Contender {
            name,
            stage,
            udp: Vec::new(),
            tcp: Vec::new(),
        })
        .collect();
    udp(&mut contenders[..2], live_frames, load, &scratch)?;
    tcp(&mut contenders, live_frames, load, &scratch)?;

    if load.markdown {
        shell::say("| | weir | nftables | ratio |\n|---|---|---|---|");
    }
    let [weir, nftables, single] = &contenders[..] else {
        bail!("three boxes take part");
    };
    let compare = |what, other, rounds| compare(what, weir, other, rounds, load.markdown);
    Ok(json!({
        "unit": "million packets per second of the box's CPU", "target_ratio": TARGET, "seconds": load.seconds,
        "udp": compare("64-byte UDP", nftables, |contender| &contender.udp),
        "tcp_packet_by_packet": compare("TCP streams, packet by packet", single, |contender| &contender.tcp),
        "tcp_gro": compare("TCP streams, nftables with GRO", nftables, |contender| &contender.tcp),
    }))
}

fn udp(contenders: &mut [Contender<'_>], live_frames: &Path, load: &Load, scratch: &Scratch) -> Result<()> {
    let mut sinks = Vec::new();
    for contender in contenders.iter() {
        let server = &contender.stage.server;
        sinks.push(attached(server, live_frames, &["sink", "eth0"], scratch)?);
        // Warms caches and tables; and shows that packets arrive at all.
        let Round { packets, .. } = udp_round(contender.stage, live_frames, 1)?;
        ensure!(packets > 0, "{} forwarded no UDP", contender.name);
    }
    for _ in 0..load.rounds {
        for contender in contenders.iter_mut() {
            let round = udp_round(contender.stage, live_frames, load.seconds)?;
            tell(contender.name, "udp", round);
            contender.udp.push(round);
        }
    }
    Ok(())
}

/// A program of a few instructions on interfaces of a namespace, for as long as the process lives.
fn attached(netns: &Netns, live_frames: &Path, args: &[&str], scratch: &Scratch) -> Result<Process> {
    let cmd = Cmd::new(live_frames).args(args).inside(netns);
    let mut process = Process::start(&format!("{}-{}", args[0], netns.name()), scratch, &cmd)?;
    wait_until(PATIENCE, &format!("`{}` is attached", args.join(" ")), || {
        if let Ok(Some(status)) = process.ended() {
            return Err(format!("it has ended ({status}): {}", process.stderr()));
        }
        match process.stdout().contains("ready") {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })?;
    Ok(process)
}

fn udp_round(stage: &Stage, live_frames: &Path, seconds: u32) -> Result<Round> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    let (sunk, cpu) = (stage.sunk()?, stage.cpu()?);
    apart(live_frames)
        .args(["source", WIRE[1], OUTSIDE_MAC, CLIENT_MAC])
        .args([format!("{CLIENT}:1"), format!("{VIP}:{UDP_PORT}")])
        .args([FLOWS, &seconds.to_string()])
        .inside(&stage.wire)
        .deadline(Duration::from_secs(u64::from(seconds) + 20))
        .check()?;
    Ok(Round {
        packets: stage.sunk()? - sunk,
        cpu: stage.cpu()? - cpu,
        gigabits: None,
    })
}

fn tcp(contenders: &mut [Contender<'_>], live_frames: &Path, load: &Load, scratch: &Scratch) -> Result<()> {
    let mut running = Vec::new();
    for contender in contenders.iter() {
        let args = ["wire", WIRE[0], WIRE[1]];
        running.push(attached(&contender.stage.wire, live_frames, &args, scratch)?);
        contender.stage.ends_apart()?;
        let cmd = apart("iperf3")
            .args(["-s", "-B", SERVER, "-p"])
            .arg(TCP_PORT.to_string())
            .inside(&contender.stage.server);
        let mut server = Process::start(
            &format!("iperf3-{}", contender.stage.server.name()),
            scratch,
            &cmd,
        )?;
        // A first run that succeeds, and warms what there is to warm: a bare connection would keep iperf3 busy.
        let what = format!("iperf3 answers behind {}", contender.name);
        wait_until(PATIENCE, &what, || {
            if let Ok(Some(status)) = server.ended() {
                return Err(format!("it has ended ({status}): {}", server.stderr()));
            }
            tcp_round(contender.stage, 1).map_err(|e| format!("{e:#}"))
        })?;
        running.push(server);
    }
    for _ in 0..load.rounds {
        for contender in contenders.iter_mut() {
            let round = tcp_round(contender.stage, load.seconds)?;
            tell(contender.name, "tcp", round);
            contender.tcp.push(round);
        }
    }
    Ok(())
}

fn tcp_round(stage: &Stage, seconds: u32) -> Result<Round> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    let (received, cpu) = (stage.received()?, stage.cpu()?);
    let text = apart("iperf3")
        .args(["-J", "-c", VIP, "-p"])
        .arg(TCP_PORT.to_string())
        .args(["-P", STREAMS, "-t", &seconds.to_string()])
        .inside(&stage.client)
        .deadline(Duration::from_secs(u64::from(seconds) + 20))
        .check()?;
    let report: Value = serde_json::from_str(&text).context("reading what iperf3 wrote")?;
    let bits = report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3 says {text}"))?;
    Ok(Round {
        packets: stage.received()? - received,
        cpu: stage.cpu()? - cpu,
        gigabits: Some(bits / 1e9),
    })
}

fn tell(name: &str, what: &str, round: Round) {
    let Round {
        packets,
        cpu,
        gigabits,
    } = round;
    let bits = gigabits.map_or_else(String::new, |g| format!("{g:>8.2} Gbit/s"));
    shell::note(&format!(
        "{what} {name:<17}{packets:>10} packets{:>8.2} s of CPU{:>8.3} million per CPU second{bits}",
        cpu as f64 / 1e9,
        round.rate()
    ));
}

/// Medians of both, and the ratio.
fn compare(
    what: &str,
    weir: &Contender<'_>,
    other: &Contender<'_>,
    rounds: for<'a> fn(&'a Contender<'a>) -> &'a Vec<Round>,
    markdown: bool,
) -> Value {
    let [ours, theirs] = [weir, other].map(|contender| {
        let rounds = rounds(contender);
        let bits = rounds.iter().filter_map(|round| round.gigabits);
        (median(rounds.iter().map(|round| round.rate())), median(bits))
    });
    // Round by round: the machine's clock is not the same in all of them.
    let pairs = rounds(weir).iter().zip(rounds(other));
    let ratio = median(pairs.map(|(ours, theirs)| ours.rate() / theirs.rate()));
    if markdown {
        shell::say(&format!(
            "| {what} | {:.2} | {:.2} | {ratio:.1} |",
            ours.0, theirs.0
        ));
    }
    let met = if ratio >= TARGET { "met" } else { "not met" };
    shell::note(&format!(
        "{what}: weir {:.3}, {} {:.3} million packets per CPU second: {ratio:.2} times (target {TARGET}: {met})",
        ours.0, other.name, theirs.0
    ));
    // No number of bits is null.
    json!({
        "weir": ours.0, "nftables": theirs.0, "ratio": ratio, "met": ratio >= TARGET,
        "weir_gbit": ours.1, "nftables_gbit": theirs.1,
    })
}

fn start_weir<'a>(stage: &'a Stage, binary: &Path) -> Result<Weir<'a>> {
    let body = format!(
        "[pools.udp]\nbackends = [{{ address = \"{SERVER}:{UDP_PORT}\" }}]\n\
         [pools.tcp]\nbackends = [{{ address = \"{SERVER}:{TCP_PORT}\" }}]\n\
         [services.udp]\nlisten = [\"{VIP}:{UDP_PORT}/udp\"]\nmode = \"l4\"\nforward = \"nat\"\npool = \"udp\"\n\
         [services.tcp]\nlisten = [\"{VIP}:{TCP_PORT}\"]\nmode = \"l4\"\nforward = \"nat\"\npool = \"tcp\"\n"
    );
    let mut config = WeirConfig::both_planes(body);
    config.binary = Some(binary.to_path_buf());
    config.interfaces = INTERFACES.to_vec();
    config.workers = 1;
    Weir::start(&stage.router, config).context("weir in the box")
}

/// The same by the kernel's own means.
fn start_nftables(stage: &Stage) -> Result<()> {
    stage.router.sysctl("ipv4/ip_forward", "1")?;
    let rules = format!(
        "table ip bench {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {VIP} udp dport {UDP_PORT} dnat to {SERVER}:{UDP_PORT}\n    \
         ip daddr {VIP} tcp dport {TCP_PORT} dnat to {SERVER}:{TCP_PORT}\n  }}\n}}\n"
    );
    Cmd::new("nft")
        .args(["-f", "-"])
        .stdin(rules)
        .inside(&stage.router)
        .check()
        .context("a DNAT rule")?;
    // A network card verifies checksums; a veth does not, and conntrack would in its place.
    stage.router.sysctl("netfilter/nf_conntrack_checksum", "0")
}

/// Packets are not merged. A veth without GRO polls, and takes frames of the wire, only while it has an XDP program: one
/// that passes everything.
fn packet_by_packet(stage: &Stage, live_frames: &Path, scratch: &Scratch) -> Result<Process> {
    let args = ["pass", INTERFACES[0], INTERFACES[1]];
    let process = attached(&stage.router, live_frames, &args, scratch)?;
    for interface in INTERFACES {
        Cmd::new("ethtool")
            .args(["-K", interface, "gro", "off"])
            .inside(&stage.router)
            .check()?;
    }
    Ok(process)
}
