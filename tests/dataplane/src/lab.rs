//! A box with two interfaces, in a network namespace of its own: routes and neighbors for the programs to look up.
//!
//! The namespace belongs to one thread, has no name, and ends with the thread, whatever becomes of the test. Nothing is
//! attached and no packet flows. Addresses are of documentation ranges.
//!
//! ```text
//! clients 198.51.100.0/24, 2001:db8:c::/64 ── gateway ── wan0 [box] lan0 ── backends 10.9.0.0/24, 2001:db8:9::/64
//! ```

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use weir_abi::{NextHop, maps::next_hop};
use weir_fastpath::{Route, RouteQuery, rewrite::Link};

/// Index of the box's interface towards the backends, so that it is known before there is a lab.
pub const LAN: u32 = 10;
/// Index of the box's interface towards the clients.
pub const WAN: u32 = 20;
/// Link address of the box towards the backends.
pub const LAN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x09, 0x01];
/// Link address of the box towards the clients.
pub const WAN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x01, 0x01];
/// Link address of the gateway to the clients.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x01, 0xfe];

/// Link address of the backend 10.9.0.N and 2001:db8:9::N (N hexadecimal in the link address).
pub const fn backend_mac(n: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0x99, n]
}

/// Backends with a known link address: 1 to this.
pub const BACKENDS: u8 = 9;

/// The way to the backend 10.9.0.N or 2001:db8:9::N, as control would resolve it.
pub const fn backend_hop(n: u8) -> NextHop {
    NextHop {
        ifindex: LAN,
        mtu: 1500,
        destination: words(backend_mac(n)),
        source: words(LAN_MAC),
        flags: next_hop::ON_LINK,
        outer_tag: 0,
        inner_tag: 0,
    }
}

/// The way to clients, as control would resolve it.
pub const fn gateway_hop() -> NextHop {
    NextHop {
        ifindex: WAN,
        mtu: 1500,
        destination: words(GATEWAY_MAC),
        source: words(WAN_MAC),
        flags: 0,
        outer_tag: 0,
        inner_tag: 0,
    }
}

/// A link address as it lies in the frame, in words.
const fn words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}

/// The box.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    /// Index of the interface towards the backends.
    pub lan: u32,
    /// Index of the interface towards the clients.
    pub wan: u32,
}

impl Lab {
    /// Runs `test` in a lab, on one CPU so that per-CPU limits count together. Panics if the test does.
    ///
    /// # Errors
    /// The namespace can't be made (root is needed), or what the test says.
    pub fn run<R: Send>(test: impl FnOnce(Self) -> Result<R> + Send) -> Result<R> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace (root is needed)")?;
                let mut cpus = CpuSet::new();
                cpus.set(0)?;
                sched_setaffinity(Pid::from_raw(0), &cpus).context("a CPU of its own")?;
                test(Self::build()?)
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn build() -> Result<Self> {
        let mut script = String::from(
            "link set lo up\n\
             link add lan0 index 10 address 02:00:00:00:09:01 type veth peer name lan1\n\
             link add wan0 index 20 address 02:00:00:00:01:01 type veth peer name wan1\n\
             link set lan0 up\nlink set lan1 up\nlink set wan0 up\nlink set wan1 up\n\
             addr add 10.9.0.254/24 dev lan0\n\
             addr add 2001:db8:9::fe/64 dev lan0 nodad\n\
             addr add 192.0.2.1/24 dev wan0\n\
             addr add 2001:db8:2::1/64 dev wan0 nodad\n\
             neigh add 192.0.2.254 lladdr 02:00:00:00:01:fe nud permanent dev wan0\n\
             neigh add 2001:db8:2::fe lladdr 02:00:00:00:01:fe nud permanent dev wan0\n\
             route add 198.51.100.0/24 via 192.0.2.254\n\
             route add 2001:db8:c::/64 via 2001:db8:2::fe\n\
             route add 203.0.113.0/24 via 192.0.2.99\n\
             route add 2001:db8:d::/64 via 2001:db8:2::99\n\
             route add blackhole 10.66.0.0/24\n\
             route add blackhole 2001:db8:66::/64\n\
             route add unreachable 10.67.0.0/24\n\
             route add prohibit 10.68.0.0/24\n",
        );
        for n in 1..=BACKENDS {
            script += &format!(
                "neigh add 10.9.0.{n} lladdr 02:00:00:00:99:{n:02x} nud permanent dev lan0\n\
                 neigh add 2001:db8:9::{n:x} lladdr 02:00:00:00:99:{n:02x} nud permanent dev lan0\n"
            );
        }
        ip(&script)?;
        // What weir itself sets, and no more: nothing but `lo` forwards.
        forwarding(true)?;
        for family in ["ipv4", "ipv6"] {
            for device in ["all", "lan0", "wan0"] {
                let path = format!("/proc/sys/net/{family}/conf/{device}/forwarding");
                ensure!(fs::read_to_string(&path)?.trim() == "0", "{path} is not 0");
            }
        }
        for (name, expected) in [("lan0", LAN), ("wan0", WAN)] {
            let index = if_nametoindex(name).with_context(|| format!("index of {name}"))?;
            ensure!(index == expected, "{name} has index {index}");
        }
        Ok(Self { lan: LAN, wan: WAN })
    }
}

/// Runs lines of `ip -batch` in the thread's namespace.
///
/// # Errors
/// `ip` is missing or refuses; its words are in the error.
pub fn ip(lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip (Debian package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Switches forwarding of `lo`, both families, in the thread's namespace.
///
/// # Errors
/// The kernel refuses.
pub fn forwarding(on: bool) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
        fs::write(&path, if on { "1" } else { "0" }).with_context(|| path.clone())?;
    }
    Ok(())
}

/// Seconds of CLOCK_MONOTONIC.
///
/// # Errors
/// The clock can't be read.
pub fn now() -> Result<u32> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u32::try_from(time.tv_sec())?)
}

impl Lab {
    /// What the lab's routing table says, in a few lines: the host's half of a comparison with the kernel.
    pub fn route(&self, query: &RouteQuery) -> Route {
        let via = |ifindex, destination: [u8; 6], source: [u8; 6]| {
            if query.total_len > 1500 {
                return Route::TooBig { mtu: 1500 };
            }
            Route::Via {
                ifindex,
                link: Link {
                    destination: words(destination),
                    source: words(source),
                },
            }
        };
        let unresolved = |ifindex, next_hop: IpAddr| {
            if query.total_len > 1500 {
                return Route::TooBig { mtu: 1500 };
            }
            Route::NoNeighbor {
                next_hop: next_hop.into(),
                ifindex,
            }
        };
        let (net, host) = match query.dst.to_ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, host] = ip.octets();
                let net = match (a, b, c) {
                    (10, 9, 0) => "lan",
                    (192, 0, 2) => "wan",
                    (198, 51, 100) => "clients",
                    (203, 0, 113) => "unresolved clients",
                    (10, 66..=68, 0) => "refused",
                    _ => "nowhere",
                };
                // The lowest and the highest address of a network that is attached are broadcasts, or mean nothing.
                if (net == "lan" || net == "wan") && (host == 0 || host == 255) {
                    return Route::NotForwarded;
                }
                (net, u16::from(host))
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, rest @ ..] = ip.segments();
                let net = match [a, b, c, d] {
                    [0x2001, 0xdb8, 9, 0] => "lan",
                    [0x2001, 0xdb8, 2, 0] => "wan",
                    [0x2001, 0xdb8, 0xc, 0] => "clients",
                    [0x2001, 0xdb8, 0xd, 0] => "unresolved clients",
                    [0x2001, 0xdb8, 0x66, 0] => "refused",
                    _ => "nowhere",
                };
                let unknown = u16::MAX;
                (net, if let [0, 0, 0, host] = rest { host } else { unknown })
            }
        };
        match (net, host) {
            ("lan", 0xfe) | ("wan", 1) => Route::NotForwarded,
            // The subnet's anycast address is the router's own, but the box does not act as one.
            ("lan" | "wan", 0) => {
                unresolved(if net == "lan" { self.lan } else { self.wan }, query.dst.to_ip())
            }
            ("lan", n) if n <= u16::from(BACKENDS) => via(self.lan, backend_mac(n as u8), LAN_MAC),
            ("lan", _) => unresolved(self.lan, query.dst.to_ip()),
            ("wan", 0xfe) | ("clients", _) => via(self.wan, GATEWAY_MAC, WAN_MAC),
            ("wan", _) => unresolved(self.wan, query.dst.to_ip()),
            ("unresolved clients", _) => unresolved(
                self.wan,
                if query.v4 {
                    IpAddr::from([192, 0, 2, 99])
                } else {
                    IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x99])
                },
            ),
            ("refused", _) => Route::Unreachable,
            _ => Route::NotForwarded,
        }
    }
}
