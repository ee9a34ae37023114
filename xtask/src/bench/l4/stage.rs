//! A client, a box and a server in network namespaces, with the box's work on a core of its own.
//!
//! ```text
//!   client                   wire            box                             server
//!   192.0.2.100  eth0 ──── near  far ──── outside 192.0.2.1   10.0.0.1 inside ──── eth0  10.0.0.11
//! ```
//!
//! Packets for 192.0.2.10 go to the box; what it does with them is the caller's matter. A veth has no interrupt of its
//! own: what it receives is dealt with by whoever sent it. So the box's interfaces poll in threads of their own
//! (threaded NAPI), and the CPU time of those is the box's, to the nanosecond. What the box sends to an end is handed
//! to the other core by the end's own thread, or by receive packet steering: without that the box's core would run the
//! server's TCP. Frames are as on a wire: the senders compute checksums and cut segments themselves, and the wire, by
//! XDP, makes of each what a driver has for the stack and for XDP: bytes in a page, not the client's socket buffer.

use std::{collections::BTreeMap, ffi::OsStr, fs, time::Duration};

use anyhow::{Context as _, Result};
use weir_harness::{Cmd, Netns, scratch, wait_until};

/// The address that clients ask for.
pub(super) const VIP: &str = "192.0.2.10";
/// The client's address.
pub(super) const CLIENT: &str = "192.0.2.100";
/// The server's address.
pub(super) const SERVER: &str = "10.0.0.11";
/// Link address of the client.
pub(super) const CLIENT_MAC: &str = "02:00:00:00:01:64";
/// Link address of the box towards the client.
pub(super) const OUTSIDE_MAC: &str = "02:00:00:00:01:01";
/// The box's interfaces.
pub(super) const INTERFACES: [&str; 2] = ["outside", "inside"];

/// The core of the box.
const BOX_CORE: &str = "1";
/// The core of everybody else, and the mask of it.
const OTHER_CORE: &str = "0";
const OTHER_MASK: &str = "1";

/// The niceness of all that takes part: others on the machine shall not come in between.
const NICE: &str = "-15";

/// A program among those that are not the box.
pub(super) fn apart(program: impl AsRef<OsStr>) -> Cmd<'static> {
    Cmd::new("nice")
        .args(["-n", NICE, "taskset", "-c", OTHER_CORE])
        .arg(program)
}

const INSIDE_MAC: &str = "02:00:00:00:02:01";
const SERVER_MAC: &str = "02:00:00:00:02:0b";

/// The interfaces of the wire, towards the client and towards the box.
pub(super) const WIRE: [&str; 2] = ["near", "far"];

/// The three, and what is between the first two.
pub(super) struct Stage {
    pub(super) client: Netns,
    pub(super) wire: Netns,
    pub(super) router: Netns,
    pub(super) server: Netns,
    /// Ids of the threads that do the box's work.
    threads: Vec<u32>,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let name = scratch::unique();
        let column = |column: &str| Netns::new(&format!("{name}-{column}"));
        let mut stage = Self {
            client: column("client")?,
            wire: column("wire")?,
            router: column("box")?,
            server: column("server")?,
            threads: Vec::new(),
        };
        stage.connect().context("connecting client, box and server")?;
        for interface in INTERFACES {
            let pid = threaded(&stage.router, interface, BOX_CORE)?;
            stage.threads.push(pid);
        }
        // What its core does for others on behalf of what the box sends: the end of the wire, as with a driver.
        let core = format!("ksoftirqd/{BOX_CORE}");
        stage.threads.extend(
            threads()?
                .into_iter()
                .filter(|(_, name)| *name == core)
                .map(|(pid, _)| pid),
        );
        Ok(stage)
    }

    fn connect(&self) -> Result<()> {
        let [client, router, server] = [&self.client, &self.router, &self.server].map(Netns::name);
        self.wire
            .ip([
                format!("link add near type veth peer name eth0 address {CLIENT_MAC} netns {client}"),
                format!("link add far type veth peer name outside netns {router}"),
                "link set near up".to_owned(),
                "link set far up".to_owned(),
            ])
            .with_context(|| self.wire.name().to_owned())?;
        self.client
            .ip([
                format!("addr add {CLIENT}/24 dev eth0"),
                "link set eth0 up".to_owned(),
                format!("neigh add 192.0.2.1 lladdr {OUTSIDE_MAC} nud permanent dev eth0"),
                format!("route add {VIP}/32 via 192.0.2.1"),
            ])
            .with_context(|| client.to_owned())?;
        self.server
            .ip([
                format!("link add eth0 address {SERVER_MAC} type veth peer name inside netns {router}"),
                format!("addr add {SERVER}/24 dev eth0"),
                "link set eth0 up".to_owned(),
                format!("neigh add 10.0.0.1 lladdr {INSIDE_MAC} nud permanent dev eth0"),
                "route add default via 10.0.0.1".to_owned(),
            ])
            .with_context(|| server.to_owned())?;
        self.router.ip([
            format!("link set outside address {OUTSIDE_MAC} up"),
            format!("link set inside address {INSIDE_MAC} up"),
            "addr add 192.0.2.1/24 dev outside".to_owned(),
            "addr add 10.0.0.1/24 dev inside".to_owned(),
            format!("neigh add {CLIENT} lladdr {CLIENT_MAC} nud permanent dev outside"),
            format!("neigh add {SERVER} lladdr {SERVER_MAC} nud permanent dev inside"),
        ])?;
        for (netns, interface) in [
            (&self.client, "eth0"),
            (&self.server, "eth0"),
            (&self.router, INTERFACES[0]),
            (&self.router, INTERFACES[1]),
        ] {
            let mut features = vec!["-K", interface, "gro", "on"];
            if interface == "eth0" {
                features.extend(["tx", "off", "tso", "off"]);
            }
            Cmd::new("ethtool").args(features).inside(netns).check()?;
        }
        Ok(())
    }

    /// From now on what client, wire and server receive is dealt with on the other core. The wire's programs are there.
    pub(super) fn ends_apart(&self) -> Result<()> {
        for (netns, interface) in [
            (&self.client, "eth0"),
            (&self.wire, WIRE[0]),
            (&self.wire, WIRE[1]),
            (&self.server, "eth0"),
        ] {
            threaded(netns, interface, OTHER_CORE)?;
        }
        write_sys(&self.server, "eth0", "queues/rx-0/rps_cpus", OTHER_MASK)
    }

    /// Nanoseconds of CPU that the box has used so far.
    pub(super) fn cpu(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in &self.threads {
            let file = format!("/proc/{pid}/schedstat");
            let text = fs::read_to_string(&file).with_context(|| file.clone())?;
            let time = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
            sum += time.with_context(|| format!("{file}: {text}"))?;
        }
        Ok(sum)
    }

    /// Frames that have come to the box so far.
    pub(super) fn received(&self) -> Result<u64> {
        let mut sum = 0;
        for interface in INTERFACES {
            let text = Cmd::new("ip")
                .args(["-j", "-s", "link", "show", "dev", interface])
                .inside(&self.router)
                .check()?;
            let links: serde_json::Value = serde_json::from_str(&text)?;
            sum += links
                .pointer("/0/stats64/rx/packets")
                .and_then(serde_json::Value::as_u64)
                .with_context(|| format!("no counter in {text}"))?;
        }
        Ok(sum)
    }

    /// Frames that ended at the server's [sink](super::forward) so far.
    pub(super) fn sunk(&self) -> Result<u64> {
        let text = Cmd::new("ethtool")
            .args(["-S", "eth0"])
            .inside(&self.server)
            .check()?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("rx_queue_0_xdp_drops: "))
            .and_then(|number| number.trim().parse().ok())
            .with_context(|| format!("no counter of drops in {text}"))
    }
}

/// Lets an interface poll in a thread, on a core; the thread's id.
fn threaded(netns: &Netns, interface: &str, core: &str) -> Result<u32> {
    let before = threads()?;
    write_sys(netns, interface, "threaded", "1")?;
    let prefix = format!("napi/{interface}-");
    let what = format!("a thread polls {interface} of {}", netns.name());
    let pid = wait_until(Duration::from_secs(5), &what, || {
        let now = threads().map_err(|e| format!("{e:#}"))?;
        now.into_iter()
            .find(|(pid, name)| name.starts_with(&prefix) && !before.contains_key(pid))
            .map(|(pid, _)| pid)
            .ok_or_else(|| "none that is new".to_owned())
    })?;
    Cmd::new("taskset")
        .args(["-pc", core, &pid.to_string()])
        .check()?;
    Ok(pid)
}

/// Writes a setting of an interface.
fn write_sys(netns: &Netns, interface: &str, file: &str, value: &str) -> Result<()> {
    // `ip netns exec` has the namespace's own /sys.
    let write = format!("echo {value} > /sys/class/net/{interface}/{file}");
    Cmd::new("ip")
        .args(["netns", "exec", netns.name(), "sh", "-c", &write])
        .check()
        .map(drop)
}

/// The kernel's threads by name.
fn threads() -> Result<BTreeMap<u32, String>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        if let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
            all.insert(pid, name.trim().to_owned());
        }
    }
    Ok(all)
}
