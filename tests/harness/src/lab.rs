//! The small network of the tests and the demo:
//!
//! ```text
//!   client                    box                          switch                b1 … bN
//!   192.0.2.100  eth0 ── outside      inside ── uplink   bridge   b1 … ── eth0  10.0.0.11 …
//!   2001:db8:1::100      192.0.2.1    10.0.0.1                                  2001:db8:2::11 …
//!                        2001:db8:1::1  2001:db8:2::1                           default route: the box
//! ```
//!
//! Each column is a network namespace, each line a veth pair. The virtual addresses that weir is to serve,
//! 192.0.2.10 and 2001:db8:1::10, belong to nobody here: weir brings them.
//!
//! What XDP on a veth asks of its surroundings, and this provides:
//! - a frame that XDP redirects into a veth arrives only if the device at its other end polls by NAPI: GRO is on at
//!   the client's `eth0` and at the switch's `uplink`;
//! - what XDP answers by itself (`XDP_TX`) arrives only if the device at its other end has a program, too: tests that look
//!   at answers attach one;
//! - checksums must be complete in every frame that XDP may forward: transmit offload is off at the client's and the
//!   backends' `eth0`, and at the `uplink` of the switch.
//!
//! The box forwards nothing by itself: its `ip_forward` stays as a new namespace has it, off.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::Cmd,
    netns::{self, Netns, ip_batch},
    wait::wait_until,
};

/// The client.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// The client.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100);
/// The box, towards the client.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The box, towards the client.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The box, towards the backends.
pub const INSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The box, towards the backends.
pub const INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// The client, in the backends' network, behind [`Lab::bypass`].
pub const BYPASS_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// The client, in the backends' network, behind [`Lab::bypass`].
pub const BYPASS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100);
/// The virtual address that weir serves.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The virtual address that weir serves.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// The box's interface towards the client.
pub const OUTSIDE: &str = "outside";
/// The box's interface towards the backends.
pub const INSIDE: &str = "inside";

const COLUMNS: [&str; 3] = ["client", "box", "switch"];

/// The network.
#[derive(Debug)]
pub struct Lab {
    /// Where clients are.
    pub client: Netns,
    /// Where weir runs.
    pub router: Netns,
    /// The bridge between the box and the backends.
    pub switch: Netns,
    /// Where backends are.
    pub backends: Vec<Netns>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The virtual address.
    pub const fn vip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(VIP_V4),
            Self::V6 => IpAddr::V6(VIP_V6),
        }
    }

    /// The client's address.
    pub const fn client(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(CLIENT_V4),
            Self::V6 => IpAddr::V6(CLIENT_V6),
        }
    }

    /// The address of a backend, counted from 0.
    pub const fn backend(self, index: usize) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(backend_v4(index)),
            Self::V6 => IpAddr::V6(backend_v6(index)),
        }
    }
}

/// The address of a backend, counted from 0: 10.0.0.11 and on.
pub const fn backend_v4(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + index as u8)
}

/// The address of a backend, counted from 0: 2001:db8:2::11 and on, its last group in decimal figures as in
/// [`backend_v4`].
pub const fn backend_v6(index: usize) -> Ipv6Addr {
    let number = 11 + index as u16;
    let group = ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10);
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, group)
}

impl Lab {
    /// A network with this many backends (1 to 80), in namespaces `NAME-client`, `NAME-box`, and so on. Returns when
    /// every address answers.
    ///
    /// # Errors
    /// Not root, a missing tool, a name that is taken, or addresses that do not answer.
    pub fn new(name: &str, backends: usize) -> Result<Self> {
        if !(1..=80).contains(&backends) {
            bail!("a lab has 1 to 80 backends, not {backends}");
        }
        let column = |column: &str| Netns::new(&format!("{name}-{column}"));
        let lab = Self {
            client: column("client")?,
            router: column("box")?,
            switch: column("switch")?,
            backends: (1..=backends)
                .map(|i| column(&format!("b{i}")))
                .collect::<Result<_>>()?,
        };
        lab.connect()
            .with_context(|| format!("can't build the network {name}"))?;
        lab.prove()
            .with_context(|| format!("the network {name} does not carry traffic"))?;
        Ok(lab)
    }

    /// A network with a name of its own.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn unique(backends: usize) -> Result<Self> {
        Self::new(&crate::scratch::unique(), backends)
    }

    /// From now on the network outlives the value.
    pub fn keep(&mut self) {
        self.client.keep();
        self.router.keep();
        self.switch.keep();
        self.backends.iter_mut().for_each(Netns::keep);
    }

    /// Removes the network of that name with all that runs in it. Returns whether there was any of it.
    ///
    /// # Errors
    /// A part of it can't be removed.
    pub fn remove_named(name: &str) -> Result<bool> {
        let prefix = format!("{name}-");
        let mut found = false;
        for netns in netns::names(&prefix)? {
            let Some(column) = netns.strip_prefix(&prefix) else {
                continue;
            };
            let is_backend = column
                .strip_prefix('b')
                .is_some_and(|number| number.parse::<u32>().is_ok());
            if COLUMNS.contains(&column) || is_backend {
                netns::remove_named(&netns)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// What the drivers count of XDP, for an error: frames that were dropped on a redirect show here.
    pub fn xdp_counters(&self) -> String {
        let mut text = String::new();
        for (netns, interface) in [
            (&self.router, OUTSIDE),
            (&self.router, INSIDE),
            (&self.client, "eth0"),
            (&self.switch, "uplink"),
        ] {
            let counters = Cmd::new("ethtool").args(["-S", interface]).inside(netns).check();
            let counters = counters.unwrap_or_else(|e| format!("{e:#}"));
            let interesting = counters
                .lines()
                .filter(|line| line.contains("xdp") && !line.ends_with(": 0"));
            text.push_str(&format!("{} {interface}:", netns.name()));
            interesting.for_each(|line| text.push_str(&format!(" {};", line.trim())));
            text.push('\n');
        }
        text
    }

    fn connect(&self) -> Result<()> {
        let (client, router, switch) = (self.client.name(), self.router.name(), self.switch.name());
        for end in std::iter::once(&self.client).chain(&self.backends) {
            // Addresses are usable at once: nobody else is on these links.
            end.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        let mut links = vec![
            format!("link add {OUTSIDE} netns {router} type veth peer name eth0 netns {client}"),
            format!("link add {INSIDE} netns {router} type veth peer name uplink netns {switch}"),
        ];
        for (i, backend) in self.backends.iter().enumerate() {
            links.push(format!(
                "link add b{} netns {switch} type veth peer name eth0 netns {}",
                i + 1,
                backend.name()
            ));
        }
        ip_batch(None, links)?;

        self.client.ip([
            format!("addr add {CLIENT_V4}/24 dev eth0"),
            format!("addr add {CLIENT_V6}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
        ])?;
        self.router.ip([
            format!("addr add {OUTSIDE_V4}/24 dev {OUTSIDE}"),
            format!("addr add {OUTSIDE_V6}/64 dev {OUTSIDE} nodad"),
            format!("addr add {INSIDE_V4}/24 dev {INSIDE}"),
            format!("addr add {INSIDE_V6}/64 dev {INSIDE} nodad"),
            format!("link set {OUTSIDE} up"),
            format!("link set {INSIDE} up"),
        ])?;
        let mut bridge = vec![
            // No querier is on this link: snooping would only delay neighbor discovery.
            "link add bridge type bridge mcast_snooping 0 forward_delay 0".to_owned(),
            "link set bridge up".to_owned(),
            "link set uplink master bridge up".to_owned(),
        ];
        bridge.extend((1..=self.backends.len()).map(|i| format!("link set b{i} master bridge up")));
        self.switch.ip(bridge)?;
        for (i, backend) in self.backends.iter().enumerate() {
            backend.ip([
                format!("addr add {}/24 dev eth0", backend_v4(i)),
                format!("addr add {}/64 dev eth0 nodad", backend_v6(i)),
                "link set eth0 up".to_owned(),
                format!("route add default via {INSIDE_V4}"),
                format!("route add ::/0 via {INSIDE_V6}"),
            ])?;
        }

        let offload = |netns: &Netns, device: &str, feature: &str, value: &str| {
            Cmd::new("ethtool")
                .args(["-K", device, feature, value])
                .inside(netns)
                .check()
                .map(drop)
        };
        offload(&self.client, "eth0", "tx", "off")?;
        offload(&self.client, "eth0", "gro", "on")?;
        offload(&self.switch, "uplink", "tx", "off")?;
        offload(&self.switch, "uplink", "gro", "on")?;
        for backend in &self.backends {
            offload(backend, "eth0", "tx", "off")?;
        }
        Ok(())
    }

    /// A second way from the backends to the client, past the box, for the modes whose answers take one: `eth1` of the
    /// client is in the backends' network, and they reach the client's address over it. The client's way to the virtual
    /// address stays the box.
    ///
    /// # Errors
    /// There is one already.
    pub fn bypass(&self) -> Result<()> {
        let (client, switch) = (self.client.name(), self.switch.name());
        ip_batch(
            None,
            [format!(
                "link add bypass netns {switch} type veth peer name eth1 netns {client}"
            )],
        )?;
        self.switch.ip(["link set bypass master bridge up"])?;
        self.client.ip([
            format!("addr add {BYPASS_V4}/24 dev eth1"),
            format!("addr add {BYPASS_V6}/64 dev eth1 nodad"),
            "link set eth1 up".to_owned(),
        ])?;
        // Answers come from the virtual address, to which the way is another.
        for interface in ["all", "eth1"] {
            self.client
                .sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        for backend in &self.backends {
            backend.ip([
                format!("route add {CLIENT_V4}/32 via {BYPASS_V4}"),
                format!("route add {CLIENT_V6}/128 via {BYPASS_V6}"),
            ])?;
        }
        Ok(())
    }

    /// Gives every backend the virtual addresses, on `lo` and unannounced, as docs/forwarding.md says.
    ///
    /// # Errors
    /// They have them already.
    pub fn backends_hold_vips(&self) -> Result<()> {
        for backend in &self.backends {
            backend.sysctl("ipv4/conf/all/arp_ignore", "1")?;
            backend.sysctl("ipv4/conf/all/arp_announce", "2")?;
            backend.ip([
                format!("addr add {VIP_V4}/32 dev lo"),
                format!("addr add {VIP_V6}/128 dev lo nodad"),
            ])?;
        }
        Ok(())
    }

    /// The MTU of the backends' network, between the box and all of them.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn set_inside_mtu(&self, mtu: u32) -> Result<()> {
        self.router.ip([format!("link set {INSIDE} mtu {mtu}")])?;
        let mut links = vec![format!("link set uplink mtu {mtu}")];
        links.extend((1..=self.backends.len()).map(|i| format!("link set b{i} mtu {mtu}")));
        links.push(format!("link set bridge mtu {mtu}"));
        self.switch.ip(links)?;
        for backend in &self.backends {
            backend.ip([format!("link set eth0 mtu {mtu}")])?;
        }
        Ok(())
    }

    /// Waits until the box answers the client and every backend answers the box, in both families.
    fn prove(&self) -> Result<()> {
        answers(&self.client, OUTSIDE_V4.into())?;
        answers(&self.client, OUTSIDE_V6.into())?;
        for i in 0..self.backends.len() {
            for family in Family::ALL {
                answers(&self.router, family.backend(i))?;
            }
        }
        Ok(())
    }
}

/// Waits until an address answers: nobody listens on the port, so a refusal is the answer.
fn answers(from: &Netns, addr: IpAddr) -> Result<()> {
    let target = SocketAddr::new(addr, 1);
    wait_until(
        Duration::from_secs(10),
        &format!("{addr} answers {}", from.name()),
        || {
            let tried = from
                .run(|| TcpStream::connect_timeout(&target, Duration::from_millis(500)))
                .map_err(|e| format!("{e:#}"))?;
            match tried {
                Ok(_) => Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_the_same_figures_in_both_families() {
        assert_eq!(backend_v4(0).to_string(), "10.0.0.11");
        assert_eq!(backend_v6(0).to_string(), "2001:db8:2::11");
        assert_eq!(backend_v4(9).to_string(), "10.0.0.20");
        assert_eq!(backend_v6(9).to_string(), "2001:db8:2::20");
    }
}
