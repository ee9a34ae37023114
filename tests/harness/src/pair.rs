//! Two boxes that share addresses, on two links:
//!
//! ```text
//!   clients                        boxes                          backends
//!   192.0.2.100 … ── outside ──┬── .1  box 0  .2 ──┬── inside ── 10.0.0.11 …
//!                   192.0.2/24 └── .2  box 1  .3 ──┘  10.0.0/24   default route: 10.0.0.1
//! ```
//!
//! 192.0.2.10 and 10.0.0.1 belong to nobody here: whoever is master brings them. Each column is a network namespace for each
//! of its members, both links are bridges of one more. A box is cut off by taking its port of a bridge down ([`Pair::cut`]):
//! it loses its carrier, as with a cable.
//!
//! What XDP on a veth asks of its surroundings is provided, as [`crate::lab`] says.

pub mod flows;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};

use crate::{
    command::Cmd,
    lab::{INSIDE, OUTSIDE},
    netns::Netns,
    peer::ping::ping,
    scratch,
};

/// What clients ask for.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The router of the backends.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The network.
#[derive(Debug)]
pub struct Pair {
    /// Where clients are.
    pub clients: Vec<Netns>,
    /// Where the boxes are.
    pub boxes: [Netns; 2],
    /// Where backends are.
    pub backends: Vec<Netns>,
    switch: Netns,
}

/// The address of a client, counted from 0.
pub const fn client(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 100 + index as u8)
}

/// The address of a box towards the clients.
pub const fn outside(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + index as u8)
}

/// The address of a box towards the backends.
pub const fn inside(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 2 + index as u8)
}

/// The address of a backend, counted from 0.
pub const fn backend(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + index as u8)
}

/// The link address of a box towards the clients.
fn outside_mac(index: usize) -> String {
    format!("02:00:00:00:01:{:02x}", 1 + index)
}

/// The port of a box on a bridge.
fn port(interface: &str, index: usize) -> String {
    format!("{interface}{index}")
}

impl Pair {
    /// Builds it, with so many clients and backends (up to 100).
    ///
    /// # Errors
    /// Not root, or a tool is missing.
    pub fn new(clients: usize, backends: usize) -> Result<Self> {
        let name = scratch::unique();
        let netns = |column: &str| Netns::new(&format!("{name}-{column}"));
        let row = |column: &str, count: usize| {
            (0..count)
                .map(|i| netns(&format!("{column}{i}")))
                .collect::<Result<Vec<_>>>()
        };
        let pair = Self {
            clients: row("client", clients)?,
            boxes: [netns("box0")?, netns("box1")?],
            backends: row("b", backends)?,
            switch: netns("switch")?,
        };
        pair.connect().context("connecting two boxes")?;
        Ok(pair)
    }

    fn connect(&self) -> Result<()> {
        let switch = self.switch.name();
        let mut lines = Vec::new();
        for bridge in [OUTSIDE, INSIDE] {
            // No querier is on these links: snooping would only delay adverts.
            lines.push(format!(
                "link add {bridge} type bridge mcast_snooping 0 forward_delay 0"
            ));
            lines.push(format!("link set {bridge} up"));
        }
        let wired = |netns: &Netns, device: &str, port: &str, bridge: &str| {
            [
                format!(
                    "link add {device} netns {} type veth peer name {port} netns {switch}",
                    netns.name()
                ),
                format!("link set {port} master {bridge} up"),
            ]
        };
        for (i, client) in self.clients.iter().enumerate() {
            lines.extend(wired(client, "eth0", &format!("c{i}"), OUTSIDE));
        }
        for (i, node) in self.boxes.iter().enumerate() {
            for interface in [OUTSIDE, INSIDE] {
                lines.extend(wired(node, interface, &port(interface, i), interface));
            }
        }
        for (i, backend) in self.backends.iter().enumerate() {
            lines.extend(wired(backend, "eth0", &format!("b{i}"), INSIDE));
        }
        self.switch.ip(lines)?;
        for (i, node) in self.clients.iter().enumerate() {
            node.ip([
                format!("addr add {}/24 dev eth0", client(i)),
                "link set eth0 up".to_owned(),
            ])?;
            offload(node, "eth0", "tx", "off")?;
        }
        for (i, node) in self.boxes.iter().enumerate() {
            node.ip([
                format!("link set {OUTSIDE} address {}", outside_mac(i)),
                format!("addr add {}/24 dev {OUTSIDE}", outside(i)),
                format!("addr add {}/24 dev {INSIDE}", inside(i)),
                format!("link set {OUTSIDE} up"),
                format!("link set {INSIDE} up"),
            ])?;
            for interface in [OUTSIDE, INSIDE] {
                offload(&self.switch, &port(interface, i), "gro", "on")?;
                offload(&self.switch, &port(interface, i), "tx", "off")?;
            }
        }
        for (i, node) in self.backends.iter().enumerate() {
            node.ip([
                format!("addr add {}/24 dev eth0", backend(i)),
                "link set eth0 up".to_owned(),
                format!("route add default via {GATEWAY}"),
            ])?;
            offload(node, "eth0", "tx", "off")?;
        }
        Ok(())
    }

    /// A client takes the virtual address for one box's from now on, whatever the link is told: what it is answered, that
    /// box answers.
    ///
    /// # Errors
    /// There is no such client or box.
    pub fn pin(&self, client: usize, node: usize) -> Result<()> {
        let mac = outside_mac(node);
        let client = self.clients.get(client).context("no such client")?;
        client.ip([format!("neigh replace {VIP} lladdr {mac} dev eth0 nud permanent")])
    }

    /// Has every box know every client's link address, as it knows the router's where clients are elsewhere: a box that waits
    /// has no other reason to.
    ///
    /// # Errors
    /// A client does not answer.
    pub fn acquaint(&self) -> Result<()> {
        for node in &self.boxes {
            for i in 0..self.clients.len() {
                ping(node, client(i).into(), b"known", Duration::from_secs(5))?;
            }
        }
        Ok(())
    }

    /// Cuts a box off from a link ([`OUTSIDE`], [`INSIDE`]), or joins it again.
    ///
    /// # Errors
    /// There is no such link or box.
    pub fn cut(&self, node: usize, link: &str, is_cut: bool) -> Result<()> {
        let state = if is_cut { "down" } else { "up" };
        self.switch.ip([format!("link set {} {state}", port(link, node))])
    }
}

fn offload(netns: &Netns, device: &str, feature: &str, value: &str) -> Result<()> {
    let cmd = Cmd::new("ethtool").args(["-K", device, feature, value]);
    cmd.inside(netns).check().map(drop)
}
