//! Link addresses of virtual routers: one that goes over with the master, and one that several boxes have at once, each
//! serving its share of the clients.
//!
//! ```text
//!   client .100, .101 … ── front bridge ─┬─ edge-1 .1 ─┬─ back bridge ── backend 10.0.0.50
//!                          192.0.2.0/24  ├─ edge-2 .2 ─┤  10.0.0.0/24
//!                                        └─ edge-3 .3 ─┘
//! ```
//!
//! 192.0.2.10 and 2001:db8::10 are the services', 10.0.0.1 is the backend's gateway.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};
use weir_harness::{
    Cmd, Netns, Scratch, Weir, WeirConfig,
    peer::{
        curl::{self, url},
        nginx::Nginx,
    },
    scratch::unique,
    wait_until,
};

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const RELAY: u16 = 80;
const NAT: u16 = 81;
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of clients, of each family.
const CLIENTS: u8 = 10;

struct Site {
    // Dropped before their namespaces.
    _nginx: Nginx,
    client: Netns,
    boxes: Vec<Netns>,
    _backend: Netns,
    front: Netns,
    _back: Netns,
    _scratch: Scratch,
    key: String,
}

/// The clients' addresses.
fn clients(vip: &str) -> Vec<IpAddr> {
    (0..CLIENTS)
        .filter_map(|n| match vip.contains(':') {
            true => format!("2001:db8::1:{n:x}").parse().ok(),
            false => format!("192.0.2.{}", 100 + n).parse().ok(),
        })
        .collect()
}

impl Site {
    fn new(count: usize) -> Result<Self> {
        let name = unique();
        let netns = |column: &str| Netns::new(&format!("{name}-{column}"));
        let (front, back) = (netns("front")?, netns("back")?);
        let (client, backend) = (netns("client")?, netns("backend")?);
        let boxes: Vec<_> = { 1..=count }
            .map(|n| netns(&format!("box{n}")))
            .collect::<Result<_>>()?;
        for switch in [&front, &back] {
            switch.ip([
                "link add bridge type bridge mcast_snooping 0 forward_delay 0",
                "link set bridge up",
            ])?;
        }
        let mut ends = vec![(&client, "eth0", &front, 100), (&backend, "eth0", &back, 50)];
        for (number, netns) in (1..).zip(&boxes) {
            ends.push((netns, "eth0", &front, number));
            ends.push((netns, "eth1", &back, number));
        }
        for (netns, device, switch, number) in ends {
            let port = format!("p{number}");
            switch.ip([
                format!(
                    "link add {device} netns {} type veth peer name {port} netns {}",
                    netns.name(),
                    switch.name()
                ),
                format!("link set {port} master bridge up"),
            ])?;
            netns.ip([
                format!("link set {device} addrgenmode none"),
                format!("link set {device} up"),
                format!("addr add fe80::{number}/64 dev {device} nodad"),
            ])?;
            if std::ptr::eq(switch, &raw const front) {
                netns.ip([
                    format!("addr add 192.0.2.{number}/24 dev {device}"),
                    format!("addr add 2001:db8::{number}/64 dev {device} nodad"),
                ])?;
            } else {
                let own = if number == 50 { 50 } else { number + 10 };
                netns.ip([format!("addr add 10.0.0.{own}/24 dev {device}")])?;
            }
            // Redirected frames need whole checksums, and a peer that polls.
            for (at, device, feature, value) in [
                (netns, device, "tx", "off"),
                (switch, port.as_str(), "tx", "off"),
                (switch, port.as_str(), "gro", "on"),
            ] {
                let cmd = Cmd::new("ethtool").args(["-K", device, feature, value]);
                cmd.inside(at).check()?;
            }
        }
        backend.ip(["route add default via 10.0.0.1"])?;
        for vip in VIPS {
            for address in clients(vip) {
                let length = if address.is_ipv4() { 24 } else { 64 };
                let nodad = if address.is_ipv4() { "" } else { " nodad" };
                client.ip([format!("addr replace {address}/{length} dev eth0{nodad}")])?;
            }
        }
        let nginx = Nginx::start(&backend, "b1", &["10.0.0.50:80".parse().context("an address")?])?;
        let scratch = Scratch::new()?;
        let file = scratch.write("vrrp.key", "5f0c1d2e3b4a59687786a5b4c3d2e1f0\n")?;
        Cmd::new("chmod").arg("600").arg(&file).check()?;
        Ok(Self {
            _nginx: nginx,
            client,
            boxes,
            _backend: backend,
            front,
            _back: back,
            key: file.display().to_string(),
            _scratch: scratch,
        })
    }

    /// The configuration of a box: `keys` of its group, and of each of the group's routers.
    fn config(&self, number: usize, keys: &str, router: &str) -> WeirConfig {
        let body = format!(
            "[vrrp.edge]\npreempt = \"always\"\ninterval = \"200ms\"\n{keys}\n\
             routers = [{{ interface = \"eth0\", {router}addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"] }}, \
             {{ interface = \"eth1\", {router}addresses = [\"10.0.0.1/24\"] }}]\n\
             [vrrp.edge.authentication]\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
             [pools.web]\nbackends = [{{ address = \"10.0.0.50:80\", name = \"b1\" }}]\n\
             [pools.web.check]\ntype = \"tcp\"\ninterval = \"5s\"\ntimeout = \"4s\"\n\
             [services.www]\nlisten = [\"192.0.2.10:{RELAY}\", \"[2001:db8::10]:{RELAY}\"]\nmode = \"http\"\npool = \"web\"\n\
             response_headers = [{{ set = \"X-Box\", value = \"{{node.name}}\" }}]\n\
             timeouts = {{ keep_alive = \"10m\" }}\n\
             [services.direct]\nlisten = [\"192.0.2.10:{NAT}/tcp\"]\nmode = \"l4\"\nforward = \"nat\"\npool = \"web\"\n",
            self.key,
        );
        let mut config = WeirConfig::both_planes(body);
        config.node = ["edge-1", "edge-2", "edge-3"][number - 1];
        config.interfaces = vec!["eth0", "eth1"];
        config.hash_key = Some("00112233445566778899aabbccddeeff");
        config
    }

    /// Which box answers a client of the relay.
    fn who(&self, client: IpAddr, vip: &str) -> Result<String> {
        let target = SocketAddr::new(vip.parse().context("an address")?, RELAY);
        let from = client.to_string();
        let args = ["--max-time", "5", "--interface", &from];
        let response = curl::get(&self.client, &url(target, "/"), &args)?;
        ensure!(response.status == 200 && response.who() == "b1", "{response:?}");
        Ok(response.field("X-Box").concat())
    }

    /// How many clients each box answers, both families together.
    fn dealt(&self) -> Result<BTreeMap<String, usize>> {
        let mut dealt = BTreeMap::new();
        for vip in VIPS {
            for client in clients(vip) {
                let who = self.who(client, vip).with_context(|| format!("{client}"))?;
                *dealt.entry(who).or_default() += 1;
            }
        }
        Ok(dealt)
    }

    /// Waits until all clients are answered, by these boxes and no others.
    fn wait_dealt(&self, boxes: &[&str]) -> Result<()> {
        wait_until(PATIENCE, &format!("{boxes:?} answer"), || match self.dealt() {
            Ok(dealt) if dealt.keys().map(String::as_str).eq(boxes.iter().copied()) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// The link address that the client knows for a service's address.
    fn neighbor(&self, vip: &str) -> Result<String> {
        let shown = Cmd::new("ip")
            .args(["neigh", "show", "to", vip, "dev", "eth0"])
            .inside(&self.client)
            .check()?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).unwrap_or_default().to_owned())
    }

    /// The port of the front bridge that it has learned a link address from.
    fn port_of(&self, mac: &str) -> Result<String> {
        let shown = Cmd::new("bridge")
            .args(["fdb", "show", "br", "bridge"])
            .inside(&self.front)
            .check()?;
        let line = shown
            .lines()
            .find(|line| line.starts_with(mac))
            .unwrap_or_default();
        Ok(line.split_whitespace().nth(2).unwrap_or_default().to_owned())
    }

    fn wait_port(&self, mac: &str, port: &str) -> Result<()> {
        wait_until(PATIENCE, &format!("{mac} is behind {port}"), || {
            match self.port_of(mac) {
                Ok(found) if found == port => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// Has the client ask anew where the services' addresses are, in the name of each of these, and believe nothing but these
    /// answers.
    fn learns(&self, vip: &str, clients: &[IpAddr], mac: &str) -> Result<()> {
        for client in clients {
            self.client.ip(["neigh flush all"])?;
            self.who(*client, vip).with_context(|| format!("{client}"))?;
            let found = self.neighbor(vip)?;
            ensure!(found == mac, "{vip} is at {found}, {client} was told");
        }
        Ok(())
    }

    /// Has these clients ask where an address is, and wait for whoever else might answer: it is one box.
    fn one_answers(&self, vip: &str, clients: &[IpAddr]) -> Result<()> {
        for client in clients {
            let client = client.to_string();
            let cmd = match vip.contains(':') {
                false => {
                    Cmd::new("arping").args(["-b", "-c", "2", "-w", "3", "-I", "eth0", "-s", &client, vip])
                }
                true => Cmd::new("ndisc6").args(["-m", "-n", "-r", "1", "-s", &client, vip, "eth0"]),
            };
            let said = cmd.inside(&self.client).check().with_context(|| client.clone())?;
            let is_once = match vip.contains(':') {
                // It ends with the second answer: of two boxes that answer, behind its first question.
                false => said.contains("Sent 2 probes") && said.contains("Received 2 response(s)"),
                true => said.matches("Target link-layer address").count() == 1,
            };
            ensure!(is_once, "{client} asked for {vip}: {said}");
        }
        Ok(())
    }

    /// A connection to the relay from a client of its own, kept open.
    fn open(&self, client: IpAddr, vip: &str) -> Result<Open> {
        let to = SocketAddr::new(vip.parse().context("an address")?, RELAY);
        let stream = self.client.run(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(client, 0).into())?;
            socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket.into())
        })?;
        let mut open = Open {
            stream: stream.with_context(|| format!("from {client}"))?,
            node: String::new(),
        };
        open.node = open.ask()?;
        Ok(open)
    }
}

/// A connection that is kept.
struct Open {
    stream: TcpStream,
    /// The box that has it.
    node: String,
}

impl Open {
    /// Makes a request; the box that answered it.
    fn ask(&mut self) -> Result<String> {
        self.stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")?;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the connection ended");
            text.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let shown = String::from_utf8_lossy(&text).to_lowercase();
            let Some((head, body)) = shown.split_once("\r\n\r\n") else {
                continue;
            };
            let field = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim().to_owned())
            };
            let length: usize = match field("content-length:") {
                Some(length) => length.parse()?,
                None => bail!("no length in {head}"),
            };
            if body.len() >= length {
                return field("x-box:").context("no X-Box");
            }
        }
    }
}

fn packets(weir: &Weir<'_>, reason: &str) -> Result<f64> {
    weir.metrics()?
        .sum("weir_xdp_packets_total", &[("reason", reason)])
}

const VIRTUAL: &str = "00:00:5e:00:01:33";
const VIRTUAL_V6: &str = "00:00:5e:00:02:33";

#[test]
fn a_virtual_link_address_goes_over() -> Result<()> {
    let site = Site::new(2)?;
    let config = |number: usize, priority: u8| {
        site.config(
            number,
            &format!("mac = \"virtual\"\npriority = {priority}"),
            "id = 51, ",
        )
    };
    let one = Weir::start(&site.boxes[0], config(1, 200))?;
    one.wait_group("edge", "master")?;
    let two = Weir::start(&site.boxes[1], config(2, 100))?;
    two.wait_group("edge", "backup")?;
    site.wait_dealt(&["edge-1"])?;
    let known = || -> Result<()> {
        for (vip, mac) in VIPS.into_iter().zip([VIRTUAL, VIRTUAL_V6]) {
            let found = site.neighbor(vip)?;
            ensure!(found == mac, "{vip} is at {found}");
        }
        Ok(())
    };
    known()?;
    site.wait_port(VIRTUAL, "p1")?;
    site.wait_port(VIRTUAL_V6, "p1")?;
    for (vip, mac) in VIPS.into_iter().zip([VIRTUAL, VIRTUAL_V6]) {
        site.learns(vip, &clients(vip)[..2], mac)?;
    }
    let shown = one.ask(&["ha"])?;
    ensure!(shown.contains(VIRTUAL) && shown.contains(VIRTUAL_V6), "{shown}");
    // The client's entry is as it was, the switch's leads to the other box.
    one.ask(&["demote", "edge"])?;
    site.wait_dealt(&["edge-2"])?;
    known()?;
    site.wait_port(VIRTUAL, "p2")?;
    site.wait_port(VIRTUAL_V6, "p2")?;
    one.ask(&["demote", "edge", "0"])?;
    site.wait_dealt(&["edge-1"])?;
    // A box dies: what it had goes on by the same link address.
    site.boxes[0].kill_processes()?;
    two.wait_group("edge", "master")?;
    site.wait_dealt(&["edge-2"])?;
    known()?;
    site.wait_port(VIRTUAL, "p2")?;
    // Another one comes in its place, takes it back, and leaves nothing at its end.
    drop(one);
    let filter = |index: usize| {
        let show = Cmd::new("bridge").args(["fdb", "show", "dev", "eth0"]);
        show.inside(&site.boxes[index]).check()
    };
    let mut one = Weir::start(&site.boxes[0], config(1, 200))?;
    site.wait_dealt(&["edge-1"])?;
    ensure!(filter(0)?.contains(VIRTUAL), "{}", filter(0)?);
    one.stop()?;
    ensure!(!filter(0)?.contains("00:00:5e"), "{}", filter(0)?);
    site.wait_dealt(&["edge-2"])?;
    Ok(())
}

fn shares(priorities: &[u8]) -> String {
    let all = (51..).zip(priorities);
    let all: Vec<_> = all
        .map(|(id, priority)| format!("{{ id = {id}, priority = {priority} }}"))
        .collect();
    format!("mac = \"multicast\"\nshares = [{}]", all.join(", "))
}

const SHARED: &str = "03:00:5e:00:01:33";
const SHARED_V6: &str = "03:00:5e:00:02:33";

#[test]
fn two_boxes_share_their_clients() -> Result<()> {
    let site = Site::new(2)?;
    let start = |number: usize| {
        let priorities = [[200, 100], [100, 200]][number - 1];
        Weir::start(
            &site.boxes[number - 1],
            site.config(number, &shares(&priorities), ""),
        )
    };
    let mut one = start(1)?;
    site.wait_dealt(&["edge-1"])?;
    // Connections of all clients, while there is one box alone.
    let mut open = Vec::new();
    for vip in VIPS {
        for client in clients(vip) {
            open.push(site.open(client, vip)?);
        }
    }
    let mut two = start(2)?;
    two.wait_group("edge/52", "master")?;
    two.wait_group("edge/51", "backup")?;
    one.wait_group("edge/52", "backup")?;
    one.wait_group("edge/51", "master")?;
    site.wait_dealt(&["edge-1", "edge-2"])?;
    // They stay where they are.
    for it in &mut open {
        ensure!(it.node == "edge-1" && it.ask()? == "edge-1", "a connection moved");
    }
    ensure!(packets(&two, "other-share")? > 0.0, "edge-2 got them as well");
    // Whoever answers which client where the address is, names the one link address.
    for (vip, mac) in VIPS.into_iter().zip([SHARED, SHARED_V6]) {
        site.learns(vip, &clients(vip)[..6], mac)?;
        site.one_answers(vip, &clients(vip)[..6])?;
    }
    // Asked what would become of a client's packet, each box says what it does.
    for client in clients(VIPS[0]) {
        let (from, to) = (format!("{client}:40000"), format!("{}:{RELAY}", VIPS[0]));
        let said = [&one, &two].map(|weir| weir.ask(&["explain", "flow", &from, &to, "tcp", "--syn"]));
        let [one, two] = said;
        let (one, two) = (one?, two?);
        let kept = [&one, &two].map(|text| text.starts_with("pass, relay"));
        let dropped = [&one, &two].map(|text| text.starts_with("drop, other-share"));
        ensure!(
            kept[0] != kept[1] && dropped[0] != dropped[1],
            "{client}: {one}{two}"
        );
    }
    // By `nat` each takes the connections of its share, in both directions, and every one is answered.
    let before = [packets(&one, "forward-nat")?, packets(&two, "forward-nat")?];
    let target = SocketAddr::new(VIPS[0].parse()?, NAT);
    for client in clients(VIPS[0]) {
        let from = client.to_string();
        let args = ["--max-time", "5", "--interface", &from];
        let response =
            curl::get(&site.client, &url(target, "/"), &args).with_context(|| format!("{client}"))?;
        ensure!(response.status == 200 && response.who() == "b1", "{response:?}");
    }
    let after = [packets(&one, "forward-nat")?, packets(&two, "forward-nat")?];
    ensure!(
        after[0] > before[0] && after[1] > before[1],
        "{before:?}, {after:?}"
    );
    let shown = one.ask(&["ha"])?;
    ensure!(
        shown.contains("group edge/51: master") && shown.contains("share 1 of 2") && shown.contains(SHARED),
        "{shown}"
    );
    // A new control has what the one before had, at once or after the other box.
    one.kill_control();
    one.start_again()?;
    one.wait_group("edge/51", "master")?;
    site.wait_dealt(&["edge-1", "edge-2"])?;
    for it in &mut open {
        ensure!(it.ask()? == "edge-1", "a connection moved");
    }
    // A box that is demoted gives all it has, and keeps its connections.
    let mut theirs = Vec::new();
    for vip in VIPS {
        for client in clients(vip) {
            theirs.push(site.open(client, vip)?);
        }
    }
    theirs.retain(|it| it.node == "edge-2");
    ensure!(!theirs.is_empty(), "edge-2 has none");
    two.ask(&["demote", "edge"])?;
    site.wait_dealt(&["edge-1"])?;
    for it in &mut theirs {
        ensure!(it.ask()? == "edge-2", "a connection moved");
    }
    two.ask(&["demote", "edge", "0"])?;
    site.wait_dealt(&["edge-1", "edge-2"])?;
    // A box dies: the other one serves all, and says so to connections that are lost.
    site.boxes[1].kill_processes()?;
    one.wait_group("edge/52", "master")?;
    site.wait_dealt(&["edge-1"])?;
    for it in &mut theirs {
        ensure!(it.ask().is_err(), "a connection goes on without its box");
    }
    for it in &mut open {
        ensure!(it.ask()? == "edge-1", "a connection moved");
    }
    drop(two);
    // It comes back, and takes its share without a reset.
    two = start(2)?;
    two.wait_group("edge/52", "master")?;
    site.wait_dealt(&["edge-1", "edge-2"])?;
    for it in &mut open {
        ensure!(it.ask()? == "edge-1", "a connection moved");
    }
    two.stop()?;
    site.wait_dealt(&["edge-1"])?;
    Ok(())
}

#[test]
fn three_boxes_share_their_clients() -> Result<()> {
    let site = Site::new(3)?;
    let priorities: [&[u8]; 3] = [&[200, 100, 150], &[150, 200, 100], &[100, 150, 200]];
    let weirs: Vec<_> = { (1..).zip(priorities) }
        .map(|(number, priorities)| {
            Weir::start(
                &site.boxes[number - 1],
                site.config(number, &shares(priorities), ""),
            )
        })
        .collect::<Result<_>>()?;
    site.wait_dealt(&["edge-1", "edge-2", "edge-3"])?;
    for (weir, own) in weirs.iter().zip(["edge/51", "edge/52", "edge/53"]) {
        weir.wait_group(own, "master")?;
    }
    site.boxes[1].kill_processes()?;
    weirs[0].wait_group("edge/52", "backup")?;
    weirs[2].wait_group("edge/52", "master")?;
    site.wait_dealt(&["edge-1", "edge-3"])?;
    site.boxes[0].kill_processes()?;
    weirs[2].wait_group("edge/51", "master")?;
    site.wait_dealt(&["edge-3"])?;
    Ok(())
}
