//! Flows by L4 outlive the box that they came through: two boxes that tell each other of them, and a router that sends clients
//! to one of them at a time, as a virtual router's master would have it.
//!
//! ```text
//!   client ──────── router ─┬─ box0 10.0.0.1 ─┐
//!   198.51.100.100          └─ box1 10.0.0.2 ─┼─ bridge ── backends 10.0.0.11 …
//!                                             └── router 10.0.0.254
//! ```
//!
//! One service by `dsr`, whose flows the ring of a box that has just started would place elsewhere: the backend that they are
//! at takes no new ones. One by `full-nat`, whose source address is wherever the virtual address is.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use weir_harness::{
    Cmd, Netns, Scratch, Weir, WeirConfig,
    pair::flows::{held, wait_joined},
    peer::echo::{self, Echo},
    scratch::unique,
    wait_until,
    weir::PATIENCE,
};

const BACKENDS: usize = 3;
const FLOWS: usize = 40;
const PORT: u16 = 7;
/// Of the service by `dsr`.
const DIRECT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Of the service by `full-nat`.
const TRANSLATED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// What its backends see, and by which ports.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 5);
const PORTS: RangeInclusive<u16> = 2000..=9999;
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);

struct Pair {
    // Dropped before their namespaces.
    echoes: Vec<Echo>,
    client: Netns,
    router: Netns,
    boxes: Vec<Netns>,
    _switch: Netns,
    backends: Vec<Netns>,
    scratch: Scratch,
}

fn backend(index: usize) -> String {
    format!("10.0.0.{}", 11 + index)
}

fn inside(index: usize) -> String {
    format!("10.0.0.{}", 1 + index)
}

/// The router's address on its link to a box, and the box's.
fn link(index: usize) -> (String, String) {
    (format!("10.1.{index}.1"), format!("10.1.{index}.2"))
}

fn offload(netns: &Netns, device: &str, feature: &str, value: &str) -> Result<()> {
    let cmd = Cmd::new("ethtool").args(["-K", device, feature, value]);
    cmd.inside(netns).check().map(drop)
}

impl Pair {
    fn new() -> Result<Self> {
        let name = unique();
        let netns = |column: &str| Netns::new(&format!("{name}-{column}"));
        let (client, router, switch) = (netns("client")?, netns("router")?, netns("switch")?);
        let boxes: Vec<_> = (0..2).map(|i| netns(&format!("box{i}"))).collect::<Result<_>>()?;
        let backends: Vec<_> = (0..BACKENDS)
            .map(|i| netns(&format!("b{i}")))
            .collect::<Result<_>>()?;
        let wire = |one: &Netns, left: &str, other: &Netns, right: &str| {
            let (one, other) = (one.name(), other.name());
            format!("link add {left} netns {one} type veth peer name {right} netns {other}")
        };
        let mut links = vec![
            wire(&client, "eth0", &router, "client"),
            wire(&router, "inside", &switch, "router"),
        ];
        for (i, node) in boxes.iter().enumerate() {
            links.push(wire(node, "outside", &router, &format!("box{i}")));
            links.push(wire(node, "inside", &switch, &format!("box{i}")));
        }
        for (i, node) in backends.iter().enumerate() {
            links.push(wire(node, "eth0", &switch, &format!("b{i}")));
        }
        switch.ip(links)?;
        client.ip([
            &*format!("addr add {CLIENT}/24 dev eth0"),
            "link set eth0 up",
            "route add default via 198.51.100.1",
        ])?;
        let mut lines = vec![
            "addr add 198.51.100.1/24 dev client".to_owned(),
            "link set client up".to_owned(),
            "addr add 10.0.0.254/24 dev inside".to_owned(),
            "link set inside up".to_owned(),
        ];
        for i in 0..boxes.len() {
            lines.push(format!("addr add {}/30 dev box{i}", link(i).0));
            lines.push(format!("link set box{i} up"));
        }
        router.ip(lines)?;
        router.sysctl("ipv4/ip_forward", "1")?;
        for interface in ["all", "client", "inside", "box0", "box1"] {
            router.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        let mut lines = vec![
            "link add bridge type bridge mcast_snooping 0 forward_delay 0".to_owned(),
            "link set bridge up".to_owned(),
            "link set router master bridge up".to_owned(),
        ];
        lines.extend((0..boxes.len()).map(|i| format!("link set box{i} master bridge up")));
        lines.extend((0..BACKENDS).map(|i| format!("link set b{i} master bridge up")));
        switch.ip(lines)?;
        for (i, node) in boxes.iter().enumerate() {
            let (router, own) = link(i);
            node.ip([
                format!("addr add {own}/30 dev outside"),
                "link set outside up".to_owned(),
                format!("addr add {}/24 dev inside", inside(i)),
                "link set inside up".to_owned(),
                format!("route add default via {router}"),
                "link set lo up".to_owned(),
            ])?;
        }
        for (i, node) in backends.iter().enumerate() {
            node.sysctl("ipv4/conf/all/arp_ignore", "1")?;
            node.sysctl("ipv4/conf/all/arp_announce", "2")?;
            node.ip([
                format!("addr add {}/24 dev eth0", backend(i)),
                "link set eth0 up".to_owned(),
                "link set lo up".to_owned(),
                "route add default via 10.0.0.254".to_owned(),
                format!("addr add {DIRECT}/32 dev lo"),
            ])?;
        }
        // What XDP on a veth asks of its surroundings: see the harness' lab.
        offload(&client, "eth0", "tx", "off")?;
        for i in 0..boxes.len() {
            for (netns, device) in [(&router, format!("box{i}")), (&switch, format!("box{i}"))] {
                offload(netns, &device, "gro", "on")?;
                offload(netns, &device, "tx", "off")?;
            }
        }
        let mut echoes = Vec::new();
        for (i, node) in backends.iter().enumerate() {
            offload(node, "eth0", "tx", "off")?;
            let listen = [DIRECT.to_string(), backend(i)]
                .map(|address| SocketAddr::new(address.parse().expect("an address"), PORT));
            echoes.push(Echo::start(node, &format!("b{i}"), &listen)?);
        }
        Ok(Self {
            echoes,
            client,
            router,
            boxes,
            _switch: switch,
            backends,
            scratch: Scratch::new()?,
        })
    }

    /// A file with a key.
    fn key(&self, name: &str, key: &str) -> Result<PathBuf> {
        let path = self.scratch.write(name, key)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// The configuration of a box; `old`: the weight of the first backend by `dsr`, where others have 10.
    fn body(&self, index: usize, old: u16, key: &Path) -> String {
        let weight = |i| if i == 0 { old } else { 10 };
        let direct: Vec<_> = (0..BACKENDS)
            .map(|i| format!("{{ address = \"{}:*\", weight = {} }}", backend(i), weight(i)))
            .collect();
        let translated: Vec<_> = (0..BACKENDS)
            .map(|i| format!("{{ address = \"{}:{PORT}\" }}", backend(i)))
            .collect();
        let check = format!("type = \"tcp\"\nport = {PORT}\ninterval = \"5s\"\ntimeout = \"4s\"\n");
        format!(
            "[sync]\nlocal = \"{}\"\npeers = [\"{}\"]\nkeys = [{{ id = 3, file = \"{}\" }}]\n\n\
             [pools.direct]\nbackends = [{}]\n[pools.direct.check]\n{check}\n\
             [services.direct]\nlisten = [\"{DIRECT}:{PORT}/tcp\"]\nmode = \"l4\"\nforward = \"dsr\"\npool = \"direct\"\n\n\
             [pools.translated]\nbackends = [{}]\nsource = {{ addresses = [\"{SOURCE}\"], ports = \"{}-{}\" }}\n\
             [pools.translated.check]\n{check}\n\
             [services.translated]\nlisten = [\"{TRANSLATED}:{PORT}/tcp\"]\nmode = \"l4\"\nforward = \"full-nat\"\npool = \"translated\"\n",
            inside(index),
            inside(1 - index),
            key.display(),
            direct.join(", "),
            translated.join(", "),
            PORTS.start(),
            PORTS.end(),
        )
    }

    fn weir(&self, index: usize, old: u16, key: &Path) -> Result<Weir<'_>> {
        let node = self.boxes.get(index).context("no such box")?;
        let mut config = WeirConfig::both_planes(self.body(index, old, key));
        config.hash_key = Some("00112233445566778899aabbccddeeff");
        Weir::start(node, config)
    }

    /// Sends everything of the virtual addresses to one box.
    fn turn_to(&self, index: usize) -> Result<()> {
        let (_, next) = link(index);
        let route = |address: Ipv4Addr| format!("route replace {address}/32 via {next}");
        self.router.ip([DIRECT, TRANSLATED].map(route))?;
        // What comes in by an interface of the box does not leave by the same one: that would be XDP_TX (see the lab).
        let source = format!("route replace {SOURCE}/32 via {}", inside(index));
        self.backends.iter().try_for_each(|backend| backend.ip([&source]))
    }

    fn flows(&self, to: Ipv4Addr, count: usize) -> Result<Vec<TcpStream>> {
        (0..count)
            .map(|i| {
                let mut stream = echo::connect(&self.client, (to, PORT).into())?;
                echo::ping(&mut stream, format!("flow {i}").as_bytes())?;
                Ok(stream)
            })
            .collect()
    }

    /// Connections of clients that each backend has accepted. Those of checks, which come when they like, have other ports than
    /// flows by `full-nat`.
    fn accepted(&self) -> Vec<usize> {
        let is_clients = |peer: &SocketAddr| {
            let from = peer.ip();
            from == IpAddr::V4(CLIENT) || from == IpAddr::V4(SOURCE) && PORTS.contains(&peer.port())
        };
        let of = |echo: &Echo| echo.peers().iter().filter(|peer| is_clients(peer)).count();
        self.echoes.iter().map(of).collect()
    }
}

/// Waits until a box has looked through its tables after it has got its backends: what it was told before is then in force.
fn looks_again(weir: &Weir<'_>) -> Result<()> {
    let looks = || weir.metrics()?.sum("weir_sync_looks_total", &[]);
    let before = looks()?;
    // The one that may be going on, and the one behind it.
    wait_until(PATIENCE, "two looks through the tables", || match looks() {
        Ok(now) if now >= before + 2.0 => Ok(()),
        other => Err(format!("{other:?}, before {before}")),
    })
}

fn go_on(flows: &mut [TcpStream], what: &str) -> Result<()> {
    let mut lost = Vec::new();
    for (i, flow) in flows.iter_mut().enumerate() {
        if let Err(error) = echo::ping(flow, what.as_bytes()) {
            lost.push(format!("flow {i}: {error:#}"));
        }
    }
    ensure!(
        lost.is_empty(),
        "{}: {} of {} flows are lost: {lost:#?}",
        what,
        lost.len(),
        flows.len()
    );
    Ok(())
}

#[test]
fn flows_outlive_their_box() -> Result<()> {
    let pair = Pair::new()?;
    let key = pair.key("sync.key", "0123456789abcdef0123456789abcdef")?;
    let mut one = pair.weir(0, 10, &key)?;
    one.wait_all_up()?;
    pair.turn_to(0)?;
    let mut direct = pair.flows(DIRECT, FLOWS)?;
    let mut translated = pair.flows(TRANSLATED, FLOWS / 2)?;
    // Those that are at the first backend now stay there, and it takes no new ones.
    one.rewrite(pair.body(0, 0, &key))?;
    one.ask(&["reload"])?;
    go_on(&mut direct, "after the pool has changed")?;

    // The other box starts only now: its ring has never had that backend.
    let two = pair.weir(1, 0, &key)?;
    two.wait_all_up()?;
    wait_joined(&two)?;
    wait_joined(&one)?;
    looks_again(&two)?;
    let moved = held(&two, "direct")?;
    ensure!(
        moved > 0,
        "no flow stays with a backend that the ring does not name"
    );
    ensure!(held(&two, "translated")? == FLOWS as u64 / 2);
    let shown = two.ask(&["status"])?;
    ensure!(shown.contains("10.0.0.1: joined"), "{shown}");
    // And what begins meanwhile is told within seconds.
    translated.extend(pair.flows(TRANSLATED, FLOWS / 2)?);
    wait_until(PATIENCE, "flows that have begun are told", || {
        match held(&two, "translated") {
            Ok(n) if n == FLOWS as u64 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;

    // Garbage from whoever reaches the port, and from the peer's address, moves nothing.
    let port = SocketAddr::new(inside(1).parse()?, 3720);
    pair.boxes[0].ip(["addr add 10.0.0.99/24 dev inside"])?;
    for from in [format!("{}:0", inside(0)), "10.0.0.99:0".to_owned()] {
        let socket = pair.boxes[0].run(|| UdpSocket::bind(&from))??;
        for len in [0, 1, 31, 64, 500, 1_200, 8_000] {
            socket.send_to(&vec![0x77; len], port)?;
        }
    }
    wait_until(PATIENCE, "garbage is counted", || {
        let metrics = two.metrics().map_err(|e| format!("{e:#}"))?;
        let refused = |reason| {
            let labels = [("reason", reason)];
            metrics
                .sum("weir_sync_datagrams_refused_total", &labels)
                .unwrap_or(0.0)
        };
        match (refused("malformed"), refused("unknown-peer")) {
            (7.0, 7.0) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })?;
    ensure!(held(&two, "direct")? == moved && held(&two, "translated")? == FLOWS as u64);

    // The box dies. The router has noticed; clients only send again.
    let accepted = pair.accepted();
    ensure!(accepted.iter().sum::<usize>() == 2 * FLOWS, "{accepted:?}");
    pair.boxes[0].ip(["link set outside down", "link set inside down"])?;
    one.kill_control();
    pair.turn_to(1)?;
    two.with_log(go_on(&mut direct, "through the other box"))?;
    two.with_log(go_on(&mut translated, "through the other box, translated"))?;
    ensure!(pair.accepted() == accepted, "a backend was connected to anew");
    let mut late = pair.flows(TRANSLATED, 5)?;
    translated
        .drain(..5)
        .try_for_each(|flow| echo::finish(flow).map(drop))?;

    // It comes back, is told what has begun meanwhile, and takes over again.
    pair.boxes[0].ip([
        "link set outside up".to_owned(),
        "link set inside up".to_owned(),
        format!("route replace default via {}", link(0).0),
    ])?;
    one.start_again()?;
    one.wait_all_up()?;
    wait_joined(&one)?;
    looks_again(&one)?;
    pair.turn_to(0)?;
    one.with_log(go_on(&mut direct, "and back"))?;
    one.with_log(go_on(&mut translated, "and back, translated"))?;
    one.with_log(go_on(&mut late, "and back, begun at the other box"))?;
    Ok(())
}

#[test]
fn boxes_with_different_keys_tell_each_other_nothing() -> Result<()> {
    let pair = Pair::new()?;
    let keys = [
        pair.key("one", "0123456789abcdef0123456789abcdef")?,
        pair.key("two", "another key, which signs otherwise")?,
    ];
    let one = pair.weir(0, 10, &keys[0])?;
    let mut two = pair.weir(1, 10, &keys[1])?;
    one.wait_all_up()?;
    pair.turn_to(0)?;
    let _flows = pair.flows(TRANSLATED, 3)?;
    wait_until(PATIENCE, "the other box is on its own", || {
        let metrics = two.metrics().map_err(|e| format!("{e:#}"))?;
        let refused = metrics.sum(
            "weir_sync_datagrams_refused_total",
            &[("reason", "wrong-signature")],
        );
        let unfinished = metrics.sum("weir_sync_unfinished", &[]);
        match (refused.unwrap_or(0.0) >= 2.0, unfinished.unwrap_or(1.0)) {
            (true, 0.0) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })?;
    ensure!(held(&two, "translated")? == 0);
    // With the key it is a peer, without a restart.
    two.rewrite(pair.body(1, 10, &keys[0]))?;
    two.ask(&["reload"])?;
    wait_joined(&two)?;
    ensure!(held(&two, "translated")? == 3);
    Ok(())
}
