//! The modes of forwarding as rows of a table, so that one test serves all of them.
//!
//! Owns what a mode asks of the network (docs/forwarding.md says it to operators), how its pools and services are written,
//! and what it is known by afterwards. `ipip` has a row for each family of the outer header; a row takes both families of
//! clients. [`every_mode!`](crate::every_mode) makes a test of each row: a new mode joins there and in this file's matches.

use std::net::SocketAddr;

use anyhow::Result;
use weir_harness::{
    Lab, Weir,
    lab::Family,
    peer::{dns::Nsd, echo::Echo, nginx::Nginx, tunnel::Tunnel},
};

use crate::{pool_of, tunnels, unchecked_pool, vip};

/// Port of HTTP: the same at the virtual address and at the backends, since not every mode translates ports.
pub const WEB: u16 = 80;
/// Port of the echo servers.
pub const ECHO: u16 = 7;
/// A second port of theirs.
pub const ECHO_TOO: u16 = 8;
/// Port of DNS.
pub const DNS: u16 = 53;
/// Port of iperf3.
pub const SPEED: u16 = 5201;
/// A port that nobody listens on.
pub const CLOSED: u16 = 99;

/// A mode of forwarding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The destination is changed.
    Nat,
    /// Both ends are changed.
    FullNat,
    /// Link addresses are changed.
    Dsr,
    /// An IPv4 header is put in front.
    Ipip4,
    /// An IPv6 header is put in front.
    Ipip6,
}

/// A test per mode, in a module of its own: `mod carries { every_mode!(super::carries); }`.
#[macro_export]
macro_rules! every_mode {
    ($check:path) => {
        $crate::every_mode! { $check: nat Nat, full_nat FullNat, dsr Dsr, ipip_over_ipv4 Ipip4, ipip_over_ipv6 Ipip6 }
    };
    ($check:path: $($name:ident $mode:ident),+) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                $check($crate::modes::Mode::$mode)
            }
        )+
    };
}

impl Mode {
    /// The value of `forward`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip4 | Self::Ipip6 => "ipip",
        }
    }

    /// The family of the backends' addresses, when clients have this one.
    pub const fn outer(self, client: Family) -> Family {
        match self {
            Self::Nat | Self::FullNat | Self::Dsr => client,
            Self::Ipip4 => Family::V4,
            Self::Ipip6 => Family::V6,
        }
    }

    /// Bytes that are put in front of a packet.
    pub const fn header(self) -> u32 {
        match self {
            Self::Nat | Self::FullNat | Self::Dsr => 0,
            Self::Ipip4 => 20,
            Self::Ipip6 => 40,
        }
    }

    /// Whether answers pass the box. Else backends have the virtual address, and their answers go past it.
    pub const fn returns(self) -> bool {
        match self {
            Self::Nat | Self::FullNat => true,
            Self::Dsr | Self::Ipip4 | Self::Ipip6 => false,
        }
    }

    /// The address of the pool's `source`, in a mode that has one.
    pub const fn source(self, family: Family) -> Option<&'static str> {
        match (self, family) {
            (Self::FullNat, Family::V4) => Some("10.0.0.5"),
            (Self::FullNat, Family::V6) => Some("2001:db8:2::5"),
            _ => None,
        }
    }

    /// Where a backend's server listens, so that clients of this family reach it.
    pub const fn served(self, family: Family, backend: usize, port: u16) -> SocketAddr {
        let address = if self.returns() {
            family.backend(backend)
        } else {
            family.vip()
        };
        SocketAddr::new(address, port)
    }

    /// A backend of a service of this family, on every port, as weir writes it.
    pub fn backend(self, family: Family, index: usize) -> String {
        match self.outer(family).backend(index) {
            std::net::IpAddr::V4(v4) => format!("{v4}:*"),
            std::net::IpAddr::V6(v6) => format!("[{v6}]:*"),
        }
    }

    /// Sets backends up as this mode needs them, and no more. What takes packets out of tunnels works until it is dropped.
    ///
    /// # Errors
    /// The network was prepared already.
    pub fn prepare(self, lab: &Lab) -> Result<Vec<Tunnel>> {
        match self {
            Self::Nat => {}
            // It needs no way back.
            Self::FullNat => {
                for backend in &lab.backends {
                    backend.ip(["route del default", "route del ::/0"])?;
                }
            }
            Self::Dsr | Self::Ipip4 | Self::Ipip6 => {
                lab.bypass()?;
                lab.backends_hold_vips()?;
            }
        }
        if self.header() == 0 {
            Ok(Vec::new())
        } else {
            tunnels(lab)
        }
    }

    /// Pools `farm` and `farm6` of the lab's first backends on every port, for services of either family. `check` are the
    /// lines of a check; empty: there is none.
    pub fn pools(self, backends: usize, check: &str) -> String {
        self.pools_of(
            |family| {
                (0..backends)
                    .map(|i| (self.backend(family, i), 10))
                    .collect::<Vec<_>>()
            },
            check,
        )
    }

    /// The same of any backends, addresses with weights.
    pub fn pools_of<B: AsRef<[(String, u16)]>>(self, backends: impl Fn(Family) -> B, check: &str) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            let name = pool_of(family, "farm");
            text += &unchecked_pool(&name, backends(family).as_ref());
            if let Some(source) = self.source(family) {
                text += &format!("[pools.{name}.source]\naddresses = [\"{source}\"]\n\n");
            }
            if !check.is_empty() {
                text += &format!("[pools.{name}.check]\n{check}\n\n");
            }
        }
        text
    }

    /// Services `NAME` and `NAME6` of the pools that [`Self::pools`] writes, TCP and UDP. `more` are further lines of the
    /// sections.
    pub fn services(self, name: &str, ports: &[u16], more: &str) -> String {
        Family::ALL
            .map(|family| {
                let listen: Vec<_> = ports
                    .iter()
                    .flat_map(|port| ["tcp", "udp"].map(|protocol| format!("{}/{protocol}", vip(family, *port))))
                    .collect();
                format!(
                    "[services.{}]\nlisten = {listen:?}\nmode = \"l4\"\nforward = \"{}\"\npool = \"{}\"\n{more}\n\n",
                    pool_of(family, name),
                    self.name(),
                    pool_of(family, "farm"),
                )
            })
            .concat()
    }

    /// Packets forwarded towards backends, and back.
    ///
    /// # Errors
    /// No metrics.
    pub fn packets(self, weir: &Weir<'_>) -> Result<(f64, f64)> {
        let metrics = weir.metrics()?;
        let of = |reason: String| metrics.sum("weir_xdp_packets_total", &[("reason", &reason)]);
        let there = of(format!("forward-{}", self.name()))?;
        let back = if self.returns() {
            of(format!("return-{}", self.name()))?
        } else {
            of("return-nat".to_owned())? + of("return-full-nat".to_owned())?
        };
        Ok((there, back))
    }
}

/// Backends `b1` and on behind a mode, with HTTP, DNS and echo. Servers are dropped before the network.
#[derive(Debug)]
pub struct Farm {
    /// The row.
    pub mode: Mode,
    /// HTTP at [`WEB`]; in every mode at the backends' own addresses too, for checks.
    pub nginx: Vec<Nginx>,
    /// DNS at [`DNS`].
    pub nsd: Vec<Nsd>,
    /// Echo at [`ECHO`] and [`ECHO_TOO`].
    pub echoes: Vec<Echo>,
    /// The far ends of tunnels, if there are any.
    pub tunnels: Vec<Tunnel>,
    /// The network.
    pub lab: Lab,
}

impl Farm {
    /// Builds it, with room for an outer header in the backends' network.
    ///
    /// # Errors
    /// A program is missing, or the network can't be built.
    pub fn new(mode: Mode, backends: usize) -> Result<Self> {
        let lab = Lab::unique(backends)?;
        let tunnels = mode.prepare(&lab)?;
        if mode.header() > 0 {
            lab.set_inside_mtu(1500 + 100)?;
            lab.client.ip(["link set eth1 mtu 1600"])?;
            lab.switch.ip(["link set bypass mtu 1600"])?;
        }
        let (mut nginx, mut nsd, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for (i, netns) in lab.backends.iter().enumerate() {
            let name = format!("b{}", i + 1);
            let on = |port| Family::ALL.map(|family| mode.served(family, i, port));
            let mut web = on(WEB).to_vec();
            if !mode.returns() {
                web.extend(Family::ALL.map(|family| SocketAddr::new(family.backend(i), WEB)));
            }
            nginx.push(Nginx::start(netns, &name, &web)?);
            nsd.push(Nsd::start(netns, &name, &on(DNS).map(|at| at.ip()))?);
            echoes.push(Echo::start(netns, &name, &[on(ECHO), on(ECHO_TOO)].concat())?);
        }
        Ok(Self {
            mode,
            nginx,
            nsd,
            echoes,
            tunnels,
            lab,
        })
    }
}
