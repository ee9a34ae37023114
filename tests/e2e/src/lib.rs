//! End-to-end tests: weir's binary in network namespaces, between real clients and real backends.
//!
//! The tests lie in `tests/`, one file per theme; what they share lies here. All need root, `WEIR_BIN` (or
//! `target/release/weir`) and the peers' packages. What is missing is a failure that says so, never a skipped test.
#![forbid(unsafe_code)]

pub mod behind;
pub mod modes;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use weir_dataplane_tests::traffic::Simple;
use weir_harness::{
    Cmd, Lab, Netns, Weir, WeirConfig,
    lab::Family,
    peer::{
        curl::{self, Load, url},
        nginx::Nginx,
        tunnel::Tunnel,
    },
    wait_until,
};

/// Port of the L4 service of [`config`].
pub const L4: u16 = 8080;
/// Port of the HTTP service of [`config`].
pub const HTTP: u16 = 80;
/// Port of the TCP service of [`config`].
pub const TCP: u16 = 9000;

/// Keys of a check that a busy machine does not fail: for tests in which no backend dies.
pub const PATIENT: &str = "interval = \"5s\"\ntimeout = \"4s\"\nrise = 2\nfall = 3\njitter = 10\n";
/// Keys of a check that notices a dead backend soon.
pub const QUICK: &str = "interval = \"1s\"\ntimeout = \"950ms\"\nrise = 2\nfall = 2\njitter = 10\n";

/// From the death of a backend with a [`QUICK`] check to weir's word, at most: two intervals with their jitter, one
/// timeout, and as much again for a busy machine.
pub const CHECK_TIME: Duration = Duration::from_millis(2 * (2 * 1100 + 950));

/// A lab with nginx on every backend, port 80, named `b1` and on.
#[derive(Debug)]
pub struct Site {
    /// The backends. Dropped before their namespaces.
    pub nginx: Vec<Nginx>,
    /// The network.
    pub lab: Lab,
}

impl Site {
    /// Builds it.
    ///
    /// # Errors
    /// As [`Lab::unique`] and [`Nginx::start`].
    pub fn new(backends: usize) -> Result<Self> {
        let lab = Lab::unique(backends)?;
        let nginx = (0..backends)
            .map(|i| {
                let netns = lab.backends.get(i).context("no such backend")?;
                let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(i), 80));
                Nginx::start(netns, &format!("b{}", i + 1), &listen)
            })
            .collect::<Result<_>>()?;
        Ok(Self { nginx, lab })
    }

    /// Kills a backend, counted from 0.
    ///
    /// # Panics
    /// There is none of that number.
    pub fn kill(&mut self, backend: usize) {
        self.nginx[backend].kill();
    }

    /// Starts a killed backend again.
    ///
    /// # Errors
    /// As [`Nginx::restart`].
    ///
    /// # Panics
    /// There is none of that number.
    pub fn restart(&mut self, backend: usize) -> Result<()> {
        self.nginx[backend].restart(&self.lab.backends[backend])
    }
}

/// Programs that pass everything, at the far ends of the box's two links. A veth sends what XDP answers (`XDP_TX`, unlike
/// what it redirects) only towards an interface that has a program itself; see [`weir_harness::lab`].
///
/// # Errors
/// No privilege, or another program is there.
pub fn takes_answers(lab: &Lab) -> Result<[Simple; 2]> {
    Ok([
        lab.client.run(|| Simple::pass("eth0"))??,
        lab.switch.run(|| Simple::pass("uplink"))??,
    ])
}

/// The far ends of tunnels, one at each backend.
///
/// # Errors
/// As [`Tunnel::start`], or no ethtool.
pub fn tunnels(lab: &Lab) -> Result<Vec<Tunnel>> {
    for i in 1..=lab.backends.len() {
        // GRO at the uplink puts segments together inside their tunnels, too; a raw socket must see them as they came.
        Cmd::new("ethtool")
            .args(["-K", &format!("b{i}"), "tx", "off", "gso", "off", "tso", "off"])
            .args(["tx-ipxip4-segmentation", "off", "tx-ipxip6-segmentation", "off"])
            .inside(&lab.switch)
            .check()?;
    }
    lab.backends.iter().map(Tunnel::start).collect()
}

/// The virtual address of a family with a port.
pub fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.vip(), port)
}

/// A backend's address and port as weir writes it; the backend counted from 0.
pub fn backend(family: Family, index: usize, port: u16) -> String {
    SocketAddr::new(family.backend(index), port).to_string()
}

/// The name of the pool for a family: `web` and `web6`, and so on.
pub fn pool_of(family: Family, name: &str) -> String {
    match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("{name}6"),
    }
}

/// A pool in TOML with a [`PATIENT`] check; `backends` are addresses with weights.
pub fn pool(name: &str, backends: &[(String, u16)]) -> String {
    checked_pool(name, backends, PATIENT)
}

/// A pool in TOML, checked by HTTP as these keys say.
pub fn checked_pool(name: &str, backends: &[(String, u16)], check: &str) -> String {
    let pool = unchecked_pool(name, backends);
    format!("{pool}[pools.{name}.check]\ntype = \"http\"\npath = \"/healthz\"\n{check}\n")
}

/// A pool in TOML without a check.
pub fn unchecked_pool(name: &str, backends: &[(String, u16)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}"))
        .collect();
    format!("[pools.{name}]\nbackends = [{}]\n\n", backends.join(", "))
}

/// A service in TOML. `listen` entries are as in the file; `more` are further lines of the section.
pub fn service(name: &str, mode: &str, listen: &[String], pool: &str, more: &str) -> String {
    let forward = if mode == "l4" { "forward = \"nat\"\n" } else { "" };
    format!(
        "[services.{name}]\nlisten = {listen:?}\nmode = \"{mode}\"\n{forward}pool = \"{pool}\"\n{more}\n\n"
    )
}

/// Pools `web` and `web6` of nginx on these backends (counted from 0) with one weight, and, in both families, an L4
/// service at port [`L4`], an HTTP service at [`HTTP`] and a TCP service at [`TCP`]. The check is [`PATIENT`].
pub fn config(backends: &[usize]) -> String {
    checked_config(backends, PATIENT)
}

/// As [`config`], checked as these keys say.
pub fn checked_config(backends: &[usize], check: &str) -> String {
    let mut text = String::new();
    for family in Family::ALL {
        let web = pool_of(family, "web");
        let addresses: Vec<(String, u16)> = backends.iter().map(|i| (backend(family, *i, 80), 10)).collect();
        text.push_str(&checked_pool(&web, &addresses, check));
        for (name, mode, port) in [
            ("packets", "l4", L4),
            ("www", "http", HTTP),
            ("bytes", "tcp", TCP),
        ] {
            let listen = [vip(family, port).to_string()];
            text.push_str(&service(&pool_of(family, name), mode, &listen, &web, ""));
        }
    }
    text
}

/// weir on the box of a lab with [`config`], every backend up.
///
/// # Errors
/// As [`Weir::start`], or a backend does not come up.
pub fn start(lab: &Lab, body: impl Into<String>) -> Result<Weir<'_>> {
    let weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    weir.wait_all_up()?;
    Ok(weir)
}

/// Asks a target so many times over new connections: answers by backend.
///
/// # Errors
/// A request failed or was not answered with 200.
pub fn ask(client: &Netns, target: SocketAddr, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        let response = curl::get(client, &url(target, "/"), &[])?;
        anyhow::ensure!(response.status == 200, "{target} answered {}", response.status);
        *answers.entry(response.who()).or_default() += 1;
    }
    Ok(answers)
}

/// Asks a target until exactly these backends have answered.
///
/// # Errors
/// A request failed, another backend answered, or one of these never does.
pub fn ask_until_all(client: &Netns, target: SocketAddr, backends: &[&str]) -> Result<()> {
    let mut missing: Vec<&str> = backends.to_vec();
    wait_until(
        Duration::from_secs(20),
        &format!("{backends:?} answer at {target}"),
        || {
            let answers = match ask(client, target, 5) {
                Ok(answers) => answers,
                Err(e) => return Ok(Err(e)),
            };
            if let Some(stranger) = answers.keys().find(|who| !backends.contains(&who.as_str())) {
                return Ok(Err(anyhow::anyhow!(
                    "{stranger:?} answered at {target}; expected {backends:?}"
                )));
            }
            missing.retain(|who| !answers.contains_key(*who));
            if missing.is_empty() {
                Ok(Ok(()))
            } else {
                Err(format!("{missing:?} have not answered"))
            }
        },
    )?
}

/// Waits until a load has had this many more requests answered.
///
/// # Errors
/// It has not, in time.
pub fn more_answers(load: &Load, count: u64) -> Result<()> {
    let before = load.tally().ok;
    wait_until(
        Duration::from_secs(20),
        &format!("{count} more requests are answered"),
        || {
            let tally = load.tally();
            let more = tally.ok - before;
            if more >= count {
                Ok(())
            } else {
                Err(format!("{more} answered, failures {:?}", tally.failures))
            }
        },
    )
}

/// A state of the box's kernel configuration that weir may change: addresses, routes, rules, XDP, sysctls.
///
/// # Errors
/// It can't be read.
pub fn traces(router: &Netns) -> Result<BTreeMap<String, String>> {
    let mut traces = BTreeMap::new();
    for args in [
        ["-4", "-o", "addr"].as_slice(),
        &["-6", "-o", "addr"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["-4", "rule"],
        &["-6", "rule"],
        // Shows programs that are attached.
        &["-o", "link"],
    ] {
        let text = Cmd::new("ip").args(args).inside(router).check()?;
        // Addresses and routes of the link's own come when they like, and say nothing of weir.
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|l| !l.contains("fe80::") && !l.contains("ff00::"))
            .map(str::trim)
            .collect();
        lines.sort_unstable();
        traces.insert(format!("ip {}", args.join(" ")), lines.join("\n"));
    }
    let sysctls = router.run(|| {
        let mut found = Vec::new();
        let mut open = vec![
            std::path::PathBuf::from("/proc/sys/net/ipv4"),
            "/proc/sys/net/ipv6".into(),
        ];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir)?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if let Ok(value) = std::fs::read_to_string(&path) {
                    // Some can only be written.
                    found.push((path.display().to_string(), value));
                }
            }
        }
        Ok::<_, std::io::Error>(found)
    })??;
    // The key of TCP fast open is drawn at its first use.
    traces.extend(
        sysctls
            .into_iter()
            .filter(|(path, _)| !path.contains("fastopen_key")),
    );
    Ok(traces)
}

/// What differs between two states, for an assertion that it is nothing.
pub fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            format!(
                "{name}: before {:?}, after {:?}",
                before.get(name),
                after.get(name)
            )
        })
        .collect()
}
