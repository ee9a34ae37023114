//! What the demo's story happens on: three nginx backends and weir between them and the client.
//!
//! Owns the names, the configuration and the order of starting and stopping. The network is `weir_harness::Lab`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use weir_harness::{
    Lab, Scratch, Weir, WeirConfig,
    lab::{Family, VIP_V4, VIP_V6},
    peer::nginx::Nginx,
};

use crate::shell;

/// Name of the lab; its namespaces are `weir-demo-client`, `weir-demo-box`, …
pub(crate) const LAB: &str = "weir-demo";
/// How many backends there are.
pub(crate) const BACKENDS: usize = 3;
/// Their weights: the first is to take as much as the two others together.
pub(crate) const WEIGHTS: [u16; BACKENDS] = [20, 10, 10];
/// Port of the HTTP service at the virtual address.
pub(crate) const RELAY_PORT: u16 = 80;
/// Port of the L4 service at the virtual address.
pub(crate) const XDP_PORT: u16 = 8080;

const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_TIMEOUT: Duration = Duration::from_millis(450);
const CHECK_FALL: u32 = 2;
const CHECK_JITTER: u32 = 10;

/// The longest that weir may take to notice a dead backend: it dies just after a check began that it passes, every
/// interval is stretched by the whole jitter, and the last check runs into its timeout.
pub(crate) fn check_time() -> Duration {
    CHECK_INTERVAL * CHECK_FALL * (100 + CHECK_JITTER) / 100 + CHECK_TIMEOUT
}

/// Names of the directories that the demo uses.
pub(crate) fn directories() -> Vec<String> {
    let backends = (1..=BACKENDS).map(|i| format!("{LAB}-b{i}"));
    std::iter::once(format!("{LAB}-box")).chain(backends).collect()
}

/// Everything that runs in the lab but the clients.
pub(crate) struct Stage<'l> {
    pub(crate) nginx: Vec<Nginx>,
    pub(crate) weir: Weir<'l>,
}

impl<'l> Stage<'l> {
    /// Starts the backends, then weir, and waits until weir finds every backend up.
    pub(crate) fn set(lab: &'l Lab, binary: PathBuf) -> Result<Self> {
        let mut nginx = Vec::new();
        for (i, backend) in lab.backends.iter().enumerate() {
            let name = format!("b{}", i + 1);
            let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(i), 80));
            nginx.push(Nginx::start_in(
                Scratch::named(&format!("{LAB}-{name}"))?,
                backend,
                &name,
                &listen,
            )?);
        }
        let config = WeirConfig {
            binary: Some(binary),
            node: "weir-demo",
            ..WeirConfig::both_planes(configuration())
        };
        let mut weir = Weir::launch_in(Scratch::named(&format!("{LAB}-box"))?, &lab.router, config)?;
        weir.wait_ready()?;
        weir.wait_all_up()?;
        Ok(Self { nginx, weir })
    }

    /// Shows what there is.
    pub(crate) fn describe(&self) {
        let weights = WEIGHTS.map(|w| w.to_string()).join(", ");
        for line in [
            "client 192.0.2.100 ── outside │ weir │ inside ── b1, b2, b3: nginx, 10.0.0.11 to .13".to_owned(),
            "       2001:db8:1::100                           2001:db8:2::11 to ::13".to_owned(),
            format!("{VIP_V4}:{XDP_PORT} and [{VIP_V6}]:{XDP_PORT}   L4: XDP, nat"),
            format!("{VIP_V4}:{RELAY_PORT} and [{VIP_V6}]:{RELAY_PORT}       HTTP: relay"),
            format!(
                "weights {weights}; checked every {} ms, down after {CHECK_FALL} failures",
                ms(CHECK_INTERVAL)
            ),
        ] {
            shell::note(&line);
        }
    }

    /// Ends it in order: weir takes away what it has put into the kernel, and nothing of it is left.
    pub(crate) fn strike(mut self, lab: &Lab) -> Result<()> {
        self.weir.stop()?;
        let pinned = self.weir.pinned()?;
        let processes = lab.router.processes()?;
        if !pinned.is_empty() || !processes.is_empty() {
            bail!("weir's orderly stop left pins {pinned:?} and processes {processes:?}");
        }
        Ok(())
    }

    /// From now on it outlives this process.
    pub(crate) fn keep(self) {
        self.weir.keep();
        self.nginx.into_iter().for_each(Nginx::keep);
    }
}

/// Pools of one address and one port per family: what an L4 service forwards keeps its family.
pub(crate) const POOLS: [(&str, Family); 2] = [("web", Family::V4), ("web6", Family::V6)];

fn configuration() -> String {
    let mut text = String::new();
    for (pool, family) in POOLS {
        text.push_str(&format!("[pools.{pool}]\nbackends = [\n"));
        for (i, weight) in WEIGHTS.iter().enumerate() {
            let address = address(family, i);
            text.push_str(&format!(
                "  {{ address = \"{address}\", name = \"b{}\", weight = {weight} }},\n",
                i + 1
            ));
        }
        text.push_str(&format!(
            "]\n[pools.{pool}.check]\ntype = \"http\"\npath = \"/healthz\"\ninterval = \"{}ms\"\ntimeout = \"{}ms\"\n\
             rise = 2\nfall = {CHECK_FALL}\njitter = {CHECK_JITTER}\n\n",
            ms(CHECK_INTERVAL),
            ms(CHECK_TIMEOUT),
        ));
    }
    for (service, family, pool) in [("packets", Family::V4, "web"), ("packets6", Family::V6, "web6")] {
        text.push_str(&format!(
            "[services.{service}]\nlisten = [\"{}\"]\nmode = \"l4\"\nforward = \"nat\"\npool = \"{pool}\"\n\n",
            SocketAddr::new(family.vip(), XDP_PORT),
        ));
    }
    for (service, family, pool) in [("www", Family::V4, "web"), ("www6", Family::V6, "web6")] {
        text.push_str(&format!(
            "[services.{service}]\nlisten = [\"{}\"]\nmode = \"http\"\npool = \"{pool}\"\n\n",
            SocketAddr::new(family.vip(), RELAY_PORT),
        ));
    }
    text
}

/// A backend's address as the configuration and `weir pools` write it.
pub(crate) fn address(family: Family, index: usize) -> String {
    SocketAddr::new(family.backend(index), 80).to_string()
}

fn ms(time: Duration) -> u128 {
    time.as_millis()
}
