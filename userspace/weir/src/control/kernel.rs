//! Control's hold on the kernel: the datapath's maps and links, the virtual addresses, the next hops.
//!
//! Exists only when XDP is in use. Translates between the plan's words and `weir-datapath`'s; decides nothing.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};
use weir_abi::{Traffic, Verdict};
use weir_config::tunables::Values;
use weir_core::{
    ids::{BackendKey, ListenKey, ServiceName},
    plan::{Listen, Mode, Plan},
};
use weir_datapath::{
    Capacities, Close, Datapath, How, Options, Tunables, Wanted, neighbors::Neighbors, vips::Vips,
};

use super::apply;
use crate::{admin::metrics::L4, context::Loaded};

pub(super) struct Kernel {
    datapath: Datapath,
    vips: Vips,
    /// What `vips` was last asked for.
    addresses: Vec<IpAddr>,
    /// What the next hops of L4 backends are kept resolved for.
    targets: watch::Sender<Vec<IpAddr>>,
    neighbors: JoinHandle<()>,
}

impl Kernel {
    /// Opens the datapath, new or as a predecessor left it. Attaches nothing yet.
    pub(super) fn open(loaded: &Loaded, state_dir: &Path) -> anyhow::Result<Self> {
        let node = &loaded.plan.node;
        let values = loaded.source.tunables.values();
        let options = Options {
            pins: node.pins.clone(),
            state_dir: state_dir.to_owned(),
            interfaces: node.interfaces.clone(),
            mode: node.xdp,
            hash_key: node.hash_key,
            tunables: tunables(values),
            capacities: Capacities {
                flows: values.l4_flow_entries,
                ..Capacities::default()
            },
        };
        let mut datapath = Datapath::open(options)?;
        let vips = Vips::new(state_dir).context("virtual addresses")?;
        let (targets, watched) = watch::channel(Vec::new());
        let neighbors = Neighbors::new(datapath.take_events()).context("watching next hops")?;
        let neighbors = tokio::task::spawn_local(neighbors.run(watched));
        Ok(Self {
            datapath,
            vips,
            addresses: Vec::new(),
            targets,
            neighbors,
        })
    }

    /// Whether a predecessor's tables were found.
    pub(super) fn was_found(&self) -> bool {
        self.datapath.took_over()
    }

    /// Makes the tables as they should be.
    pub(super) fn reconcile(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        self.datapath.reconcile(wanted).context("kernel tables")
    }

    /// Tells sk_lookup which socket serves which address.
    pub(super) fn steer(
        &mut self,
        plan: &Plan,
        listeners: &BTreeMap<ListenKey, Vec<OwnedFd>>,
    ) -> anyhow::Result<()> {
        let steered: Vec<_> = apply::steered_keys(plan)
            .filter_map(|key| Some((key, listeners.get(&key)?.first()?.as_fd())))
            .collect();
        self.datapath.steer(&steered).context("steering")
    }

    /// Attaches the programs, once the tables are complete.
    pub(super) fn attach(&mut self) -> anyhow::Result<()> {
        for attached in self.datapath.attach()? {
            let to = attached
                .interface
                .as_deref()
                .unwrap_or("this network namespace (sk_lookup)");
            match attached.how {
                How::New => info!(to, "program attached"),
                How::TakenOver => info!(to, "program replaced where a predecessor had attached it"),
            }
        }
        Ok(())
    }

    /// Puts virtual addresses where they belong, and keeps the next hops of L4 backends known.
    pub(super) async fn addresses(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let l4 = plan.services.iter().filter(|s| matches!(s.mode, Mode::L4(_)));
        let mut targets: Vec<_> = l4
            .filter_map(|s| plan.pool(&s.pool))
            .flat_map(|p| &p.backends)
            .map(|b| b.key.address.ip())
            .collect();
        targets.sort_unstable();
        targets.dedup();
        self.targets.send_if_modified(|present| {
            let changed = *present != targets;
            *present = targets;
            changed
        });
        let mut wanted: Vec<_> = plan
            .services
            .iter()
            .flat_map(|s| &s.listen)
            .filter(|l| l.is_virtual())
            .map(|l: &Listen| l.addr)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.vips
            .reconcile(&wanted, &plan.node.interfaces)
            .await
            .context("virtual addresses")?;
        self.addresses = wanted;
        Ok(())
    }

    pub(super) fn tune(&mut self, values: &Values) -> anyhow::Result<()> {
        self.datapath.tune(tunables(values)).context("kernel settings")
    }

    /// Takes everything away again.
    pub(super) async fn remove(self) {
        self.neighbors.abort();
        if let Err(error) = self.datapath.close(Close::Remove) {
            error!(
                error = format!("{error:#}"),
                "something of weir stays in the kernel"
            );
        }
        let mut vips = self.vips;
        if let Err(error) = vips.remove_all().await {
            error!(error = format!("{error:#}"), "virtual addresses stay");
        }
    }

    /// Leaves everything as it is, for another control process.
    pub(super) fn keep(self) {
        self.neighbors.abort();
        if let Err(error) = self.datapath.close(Close::Keep) {
            warn!(error = format!("{error:#}"), "closing the datapath");
        }
    }

    /// The virtual addresses that are kept on the interfaces.
    pub(super) fn addresses_kept(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    pub(super) fn service_flows(&self, service: &ServiceName) -> u64 {
        let traffic = self.datapath.service_traffic().unwrap_or_default();
        traffic
            .into_iter()
            .find(|(name, _)| name == service)
            .map_or(0, |(_, t)| t.flows)
    }

    pub(super) fn backend_traffic(&self) -> Vec<(BackendKey, Traffic)> {
        self.datapath.backend_traffic().unwrap_or_else(|error| {
            warn!(%error, "backend counters can't be read");
            Vec::new()
        })
    }

    /// All counters, for metrics.
    pub(super) fn counters(&self) -> L4 {
        let mut l4 = L4::default();
        match self.datapath.counters() {
            Ok(counters) => {
                for (reason, packets) in counters.reasons {
                    let verdict = match reason.verdict() {
                        Verdict::Forward => "forward",
                        Verdict::Pass => "pass",
                        Verdict::Drop => "drop",
                    };
                    l4.reasons.push((reason.name(), verdict, packets));
                }
                l4.notes = counters
                    .notes
                    .into_iter()
                    .map(|(note, times)| (note.name(), times))
                    .collect();
            }
            Err(error) => warn!(%error, "packet counters can't be read"),
        }
        let services = self.datapath.service_traffic().unwrap_or_default();
        l4.services = services
            .into_iter()
            .map(|(name, traffic)| (name.to_string(), traffic))
            .collect();
        let backends = self.backend_traffic().into_iter();
        l4.backends = backends
            .map(|(key, t)| (key.pool.to_string(), key.address.to_string(), t))
            .collect();
        l4
    }
}

fn tunables(values: &Values) -> Tunables {
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    Tunables {
        tcp_grace: seconds(values.l4_flow_tcp_grace),
        udp_grace: seconds(values.l4_flow_udp_grace),
        horizon: seconds(values.l4_flow_horizon),
        record_limit: values.l4_flow_record_limit,
    }
}
