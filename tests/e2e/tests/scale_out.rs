//! A tier of boxes behind a router that spreads flows over them by ECMP: routes that weir exports, a real routing daemon
//! that announces them by BGP, and what becomes of flows when a box leaves, in order or not.
//!
//! ```text
//!   client ── router ─┬─ box1 ─┐
//!   198.51.100.100    ├─ box2 ─┼─ bridge ── backends 10.0.0.11 …
//!                     └─ box3 ─┘     └── router 10.0.0.254
//! ```
//!
//! Backends answer the router directly (`dsr`), so a flow needs no box to remember it: all have the same ring and hash key.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_harness::{
    Cmd, Netns, Weir, WeirConfig,
    peer::{
        bird::Bird,
        echo::{self, Echo},
    },
    scratch::unique,
    wait_until,
};

const BOXES: usize = 3;
const BACKENDS: usize = 4;
const FLOWS: usize = 48;
const PORT: u16 = 7;
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// A second one, of a service whose backends another test takes away.
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// A third, of a service that answers by itself.
const SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// The router's number in BGP, and that of all boxes.
const ROUTER_AS: u32 = 64_512;
const BOX_AS: u32 = 64_513;
/// How long routing may take: BGP's own timers are at their shortest, but it counts in seconds.
const ROUTING: Duration = Duration::from_secs(40);

struct Tier {
    // Dropped before their namespaces.
    _echoes: Vec<Echo>,
    router_bird: Bird,
    birds: Vec<Bird>,
    client: Netns,
    router: Netns,
    boxes: Vec<Netns>,
    _switch: Netns,
    _backends: Vec<Netns>,
}

fn backend(index: usize) -> String {
    format!("10.0.0.{}", 11 + index)
}

/// The router's address on its link to a box, and the box's.
fn link(index: usize) -> (String, String) {
    (format!("10.1.{index}.1"), format!("10.1.{index}.2"))
}

impl Tier {
    fn new() -> Result<Self> {
        let name = unique();
        let netns = |column: &str| Netns::new(&format!("{name}-{column}"));
        let (client, router, switch) = (netns("client")?, netns("router")?, netns("switch")?);
        let boxes: Vec<_> = (0..BOXES)
            .map(|i| netns(&format!("box{i}")))
            .collect::<Result<_>>()?;
        let backends: Vec<_> = (0..BACKENDS)
            .map(|i| netns(&format!("b{i}")))
            .collect::<Result<_>>()?;
        let mut links = vec![
            format!(
                "link add eth0 netns {} type veth peer name client netns {}",
                client.name(),
                router.name()
            ),
            format!(
                "link add inside netns {} type veth peer name router netns {}",
                router.name(),
                switch.name()
            ),
        ];
        for (i, node) in boxes.iter().enumerate() {
            links.push(format!(
                "link add outside netns {} type veth peer name box{i} netns {}",
                node.name(),
                router.name()
            ));
            links.push(format!(
                "link add inside netns {} type veth peer name box{i} netns {}",
                node.name(),
                switch.name()
            ));
        }
        for (i, backend) in backends.iter().enumerate() {
            links.push(format!(
                "link add eth0 netns {} type veth peer name b{i} netns {}",
                backend.name(),
                switch.name()
            ));
        }
        switch.ip(links)?;
        client.ip([
            "addr add 198.51.100.100/24 dev eth0",
            "link set eth0 up",
            "route add default via 198.51.100.1",
        ])?;
        let mut lines = vec![
            "addr add 198.51.100.1/24 dev client".to_owned(),
            "link set client up".to_owned(),
            "addr add 10.0.0.254/24 dev inside".to_owned(),
            "link set inside up".to_owned(),
        ];
        for i in 0..BOXES {
            lines.push(format!("addr add {}/30 dev box{i}", link(i).0));
            lines.push(format!("link set box{i} up"));
        }
        router.ip(lines)?;
        router.sysctl("ipv4/ip_forward", "1")?;
        // By the flow, not by its addresses alone.
        router.sysctl("ipv4/fib_multipath_hash_policy", "1")?;
        for interface in ["all", "client", "inside"] {
            router.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        let mut lines = vec![
            "link add bridge type bridge mcast_snooping 0 forward_delay 0".to_owned(),
            "link set bridge up".to_owned(),
            "link set router master bridge up".to_owned(),
        ];
        lines.extend((0..BOXES).map(|i| format!("link set box{i} master bridge up")));
        lines.extend((0..BACKENDS).map(|i| format!("link set b{i} master bridge up")));
        switch.ip(lines)?;
        for (i, node) in boxes.iter().enumerate() {
            let (router, own) = link(i);
            node.ip([
                format!("addr add {own}/30 dev outside"),
                "link set outside up".to_owned(),
                format!("addr add 10.0.0.{}/24 dev inside", 1 + i),
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
                format!("addr add {VIP}/32 dev lo"),
                format!("addr add {OTHER}/32 dev lo"),
            ])?;
        }
        // What XDP on a veth asks of its surroundings: see the harness' lab.
        let offload = |netns: &Netns, device: &str, feature: &str, value: &str| {
            let cmd = Cmd::new("ethtool").args(["-K", device, feature, value]);
            cmd.inside(netns).check().map(drop)
        };
        offload(&client, "eth0", "tx", "off")?;
        for i in 0..BOXES {
            offload(&router, &format!("box{i}"), "tx", "off")?;
            offload(&switch, &format!("box{i}"), "gro", "on")?;
            offload(&switch, &format!("box{i}"), "tx", "off")?;
        }
        let mut echoes = Vec::new();
        for (i, node) in backends.iter().enumerate() {
            offload(node, "eth0", "tx", "off")?;
            let listen = [VIP.to_string(), OTHER.to_string(), backend(i)]
                .map(|address| SocketAddr::new(address.parse().expect("an address"), PORT));
            echoes.push(Echo::start(node, &format!("b{i}"), &listen)?);
        }
        let mut sections =
            "protocol kernel { ipv4 { export all; import none; }; merge paths on; }\n".to_owned();
        for i in 0..BOXES {
            let (own, peer) = link(i);
            sections += &format!(
                "protocol bgp box{i} {{ local {own} as {ROUTER_AS}; neighbor {peer} as {BOX_AS}; hold time 3; \
                 connect retry time 1; connect delay time 1; error wait time 1, 2; startup hold time 10; \
                 ipv4 {{ import all; export none; }}; }}\n"
            );
        }
        let router_bird = Bird::start(&router, "198.51.100.1", &sections)?;
        let birds = boxes
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let (peer, own) = link(i);
                // As docs/scale-out.md has it.
                let sections = format!(
                    "ipv4 table served;\n\
                     protocol kernel weir {{ kernel table 180; learn; scan time 1; ipv4 {{ table served; import all; export none; }}; }}\n\
                     protocol bgp uplink {{ local {own} as {BOX_AS}; neighbor {peer} as {ROUTER_AS}; hold time 3; \
                     connect retry time 1; connect delay time 1; error wait time 1, 2; \
                     ipv4 {{ table served; import none; next hop self; export where proto = \"weir\"; }}; }}\n"
                );
                Bird::start(node, &own, &sections)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            _echoes: echoes,
            router_bird,
            birds,
            client,
            router,
            boxes,
            _switch: switch,
            _backends: backends,
        })
    }

    fn weir(&self, index: usize) -> Result<Weir<'_>> {
        let node = self.boxes.get(index).context("no such box")?;
        let backends: Vec<_> = (0..BACKENDS)
            .map(|i| format!("{{ address = \"{}:*\" }}", backend(i)))
            .collect();
        let backends = backends.join(", ");
        let mut body = "[export]\nnotice = \"3s\"\n\n".to_owned();
        for (name, address) in [("echo", VIP), ("other", OTHER)] {
            body += &format!(
                "[pools.{name}]\nbackends = [{backends}]\n\
                 [pools.{name}.check]\ntype = \"tcp\"\nport = {PORT}\ninterval = \"5s\"\ntimeout = \"4s\"\n\
                 [services.{name}]\nlisten = [\"{address}:{PORT}/tcp\"]\nmode = \"l4\"\nforward = \"dsr\"\npool = \"{name}\"\n\n"
            );
        }
        // One that needs no backend, of the other family.
        body += &format!(
            "[services.six]\nlisten = [\"[{SIX}]:80\"]\nmode = \"http\"\n\
             rules = [{{ respond = {{ body = \"six\" }} }}]\n"
        );
        let mut config = WeirConfig::both_planes(body);
        config.hash_key = Some("00112233445566778899aabbccddeeff");
        Weir::start(node, config)
    }

    /// Waits until the router has an address by these boxes and no others.
    fn reaches(&self, address: Ipv4Addr, boxes: &[usize]) -> Result<()> {
        let wanted: BTreeSet<_> = boxes.iter().map(|i| link(*i).1).collect();
        let result = wait_until(
            ROUTING,
            &format!("{address} is reached by the boxes {boxes:?}"),
            || {
                let shown = Cmd::new("ip")
                    .args(["route", "show", &address.to_string()])
                    .inside(&self.router)
                    .check()
                    .map_err(|e| format!("{e:#}"))?;
                let words: Vec<_> = shown.split_whitespace().collect();
                let by: BTreeSet<_> = words
                    .windows(2)
                    .filter(|pair| pair[0] == "via")
                    .map(|pair| pair[1].to_owned())
                    .collect();
                if by == wanted { Ok(()) } else { Err(shown) }
            },
        );
        result.with_context(|| {
            let boxes = self.birds.iter().map(Bird::story).collect::<Vec<_>>().join("\n");
            format!("the router: {}\nthe boxes: {boxes}", self.router_bird.story())
        })
    }

    /// The addresses that a box has exported.
    fn routes(&self, index: usize) -> Result<BTreeSet<String>> {
        let mut routes = BTreeSet::new();
        for family in ["-4", "-6"] {
            let shown = Cmd::new("ip")
                .args([family, "route", "show", "table", "180", "proto", "120"])
                .inside(self.boxes.get(index).context("no such box")?)
                .run()?
                .text();
            routes.extend(
                shown
                    .lines()
                    .filter_map(|line| Some(line.split_whitespace().next()?.to_owned())),
            );
        }
        Ok(routes)
    }

    fn flows(&self) -> Result<Vec<std::net::TcpStream>> {
        (0..FLOWS)
            .map(|i| {
                let mut stream = echo::connect(&self.client, (VIP, PORT).into())?;
                echo::ping(&mut stream, format!("flow {i}").as_bytes())?;
                Ok(stream)
            })
            .collect()
    }
}

/// Flows that a box has forwarded to backends.
fn forwarded(weir: &Weir<'_>) -> Result<f64> {
    weir.metrics()?
        .sum("weir_xdp_packets_total", &[("reason", "forward-dsr")])
}

#[test]
fn a_tier_of_boxes_behind_a_router() -> Result<()> {
    let tier = Tier::new()?;
    let mut weirs: Vec<_> = (0..BOXES).map(|i| tier.weir(i)).collect::<Result<_>>()?;
    for weir in &weirs {
        weir.wait_all_up()?;
    }
    for address in [VIP, OTHER] {
        tier.reaches(address, &[0, 1, 2])?;
    }
    let routes = [VIP.to_string(), OTHER.to_string(), SIX.to_string()];
    for i in 0..BOXES {
        ensure!(
            tier.routes(i)? == BTreeSet::from(routes.clone()),
            "{:?}",
            tier.routes(i)?
        );
    }
    let mut flows = tier.flows()?;
    for (i, weir) in weirs.iter().enumerate() {
        ensure!(forwarded(weir)? > 0.0, "box {i} has no flow of {FLOWS}");
    }

    // An address whose service has no backend left is withdrawn, on this box and for this address alone.
    for i in 0..BACKENDS {
        weirs[0].ask(&["backend", "maint", &format!("other/{}:*", backend(i))])?;
    }
    tier.reaches(OTHER, &[1, 2])?;
    tier.reaches(VIP, &[0, 1, 2])?;
    let shown = weirs[0].ask(&["status"])?;
    ensure!(shown.contains(&format!("{VIP}, {OTHER} (withdrawn)")), "{shown}");
    for i in 0..BACKENDS {
        weirs[0].ask(&["backend", "ready", &format!("other/{}:*", backend(i))])?;
    }
    tier.reaches(OTHER, &[0, 1, 2])?;

    // Control is killed: what it has exported stays, and its successor finds it.
    weirs[1].kill_control();
    for flow in &mut flows {
        echo::ping(flow, b"while control is away")?;
    }
    weirs[1].start_again()?;
    tier.reaches(VIP, &[0, 1, 2])?;

    // A box leaves in order: nothing is lost, neither flows that it has nor new ones.
    let over = AtomicBool::new(false);
    let left = std::thread::scope(|scope| {
        let prober = scope.spawn(|| -> Result<u32> {
            let mut probes = 0;
            while !over.load(Ordering::Relaxed) {
                let mut stream = echo::connect(&tier.client, (VIP, PORT).into())?;
                echo::ping(&mut stream, b"a probe")?;
                probes += 1;
            }
            Ok(probes)
        });
        let stopped = weirs[0].stop().and_then(|()| tier.reaches(VIP, &[1, 2]));
        over.store(true, Ordering::Relaxed);
        let probes = prober.join().expect("the prober does not panic");
        stopped.and(probes)
    })
    .context("a box leaves in order")?;
    ensure!(left > 0, "nobody probed");
    for flow in &mut flows {
        echo::ping(flow, b"after a box has left")?;
    }
    ensure!(tier.routes(0)?.is_empty(), "routes stay: {:?}", tier.routes(0)?);

    // Another dies: its flows land on the same backends through the box that is left. Their clients only send again.
    tier.boxes[1].ip(["link set outside down"])?;
    weirs[1].signal_role("relay", Signal::SIGKILL)?;
    tier.reaches(VIP, &[2])?;
    for (i, flow) in flows.iter_mut().enumerate() {
        echo::ping(flow, b"after a box has died").with_context(|| format!("flow {i}"))?;
    }
    Ok(())
}
