//! Control's hold on the kernel: the datapath's maps and links, the virtual addresses, the next hops, what is taken in.
//!
//! Exists only when XDP is in use. Translates between the plan's words and `weir-datapath`'s; decides nothing.

mod sync;
mod take;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};
use weir_abi::Traffic;
use weir_config::tunables::Values;
use weir_core::{
    ids::{BackendKey, ListenKey, ServiceName, Shown},
    plan::{GroupMac, IpNet, Listen, Lists, Mode, Plan, Tunnel},
};
use weir_datapath::{
    Capacities, Close, Datapath, How, ListCounts, Listed, NextHops, Options, Rule, Tunables, Wanted,
    explain::{Explanation, Question},
    flows::FlowView,
    intake::{Families, Intake},
    neighbors::Neighbors,
    routing::{Watcher, Ways},
    uplinks::Uplinks,
    vips::Vips,
    vrrp::leases::Leases,
};

pub(super) use self::sync::Change as SyncChange;
use self::sync::Syncing;
use super::{apply, protect::Flood, sweeps::Sweeps};
use crate::{admin::metrics::L4, context::Loaded};

pub(super) struct Kernel {
    datapath: Datapath,
    leases: Leases,
    vips: Vips,
    intake: Intake,
    uplinks: Uplinks,
    /// What `vips` was last asked for.
    addresses: Vec<IpAddr>,
    /// The L4 backends, whose next hops are kept resolved.
    targets: watch::Sender<Vec<IpAddr>>,
    /// The ways out that the kernel's routes give; None before they were read.
    ways: watch::Receiver<Option<Ways>>,
    watching: [JoinHandle<()>; 2],
    /// The configuration's lists are not in force yet.
    lists_due: bool,
    sweeps: Sweeps,
    syncing: Syncing,
    /// Whether SYNs flood the relay.
    pub(super) flood: Flood,
}

/// The addresses that connections and flows to backends come from.
fn sources(plan: &Plan) -> impl Iterator<Item = IpAddr> {
    let sources = plan.pools.iter().filter_map(|pool| pool.source.as_ref());
    sources.flat_map(|source| source.addresses.iter().copied())
}

impl Kernel {
    /// Opens the datapath, new or as a predecessor left it. Attaches nothing yet. `discard_flows`: those of another layout
    /// may be lost. `leases`: those that virtual routers which go on hold already.
    pub(super) fn open(
        loaded: &Loaded,
        state_dir: &Path,
        discard_flows: bool,
        leases: Option<Leases>,
    ) -> anyhow::Result<Self> {
        let node = &loaded.plan.node;
        let mut datapath = Datapath::open(options(loaded, state_dir, discard_flows))?;
        let leases = match leases {
            Some(leases) => leases,
            None => Leases::open(&node.pins).context("leases of virtual routers")?,
        };
        let flood = Flood::new(datapath.syncookies().context("kernel settings")?);
        let vips = Vips::new(state_dir).context("virtual addresses")?;
        let intake = Intake::new().context("rules and routes")?;
        let uplinks = Uplinks::new(state_dir).context("rules and routes")?;
        let (targets, watched) = watch::channel(Vec::new());
        // Those that the watch over routes can't tell the next hop of.
        let (asked, asking) = watch::channel(Vec::new());
        let (found, ways) = watch::channel(None);
        let neighbors = Neighbors::new(datapath.take_events()).context("watching next hops")?;
        let watcher = Watcher::new().context("watching routes")?;
        let watching = [
            tokio::task::spawn_local(neighbors.run(asking)),
            tokio::task::spawn_local(watcher.run(watched, found, asked)),
        ];
        Ok(Self {
            datapath,
            leases,
            vips,
            intake,
            uplinks,
            addresses: Vec::new(),
            targets,
            ways,
            watching,
            lists_due: true,
            sweeps: Sweeps::default(),
            syncing: Syncing::default(),
            flood,
        })
    }

    /// Refuses what could not be gone on with of the tables of a process that still runs. Changes nothing.
    pub(super) fn check_predecessor(
        loaded: &Loaded,
        state_dir: &Path,
        discard_flows: bool,
    ) -> anyhow::Result<()> {
        Ok(Datapath::check_predecessor(&options(
            loaded,
            state_dir,
            discard_flows,
        ))?)
    }

    /// Until when addresses of virtual routers are answered for.
    pub(super) const fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Refuses what is in the way of a plan's transparent listeners and sources, and of its ways out by interfaces, before
    /// anything of it is in force.
    pub(super) async fn check_ways(&self, plan: &Plan) -> anyhow::Result<()> {
        self.intake.check(take::families(plan)).await?;
        let named = plan.named_interfaces();
        Ok(self.uplinks.check(&named, &plan.node.gateways).await?)
    }

    /// Has what is bound to an interface leave by its router, and packets come in there.
    pub(super) async fn uplinks(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let named = plan.named_interfaces();
        Ok(self.uplinks.reconcile(&named, &plan.node.gateways).await?)
    }

    /// Those of `addresses` that the box has, and that weir has not added.
    pub(super) async fn foreign(&self, addresses: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
        self.vips.foreign(addresses).await.context("source addresses")
    }

    /// Adds the source addresses that are missing, before anything connects from them. Takes none away.
    pub(super) async fn source_addresses(&mut self, plan: &Plan) -> anyhow::Result<()> {
        if sources(plan).next().is_none() {
            return Ok(());
        }
        let mut wanted = self.vips.own().await.context("source addresses")?;
        wanted.extend(sources(plan));
        self.vips
            .reconcile(&wanted, &plan.node.interfaces)
            .await
            .context("source addresses")?;
        Ok(())
    }

    /// Puts the configuration's lists in force.
    pub(super) fn lists(&mut self, lists: &Lists) -> anyhow::Result<()> {
        self.lists_due = true;
        self.datapath.set_lists(lists).context("lists")?;
        self.lists_due = false;
        Ok(())
    }

    /// Lets entries of lists go that have ended, and puts in force what could not be before.
    pub(super) fn tend_lists(&mut self, lists: &Lists) -> anyhow::Result<()> {
        if self.lists_due {
            self.lists(lists)?;
        }
        self.datapath.expire_lists().context("lists")?;
        Ok(())
    }

    /// Lets networks in or keeps them out, for a while or for good.
    pub(super) fn list(&mut self, nets: &[IpNet], rule: Rule, time: Option<Duration>) -> anyhow::Result<()> {
        match rule {
            Rule::Allow => self.datapath.allow(nets, time)?,
            Rule::Ban => self.datapath.ban(nets, time)?,
        }
        Ok(())
    }

    /// Takes back what was said of a network at run time.
    pub(super) fn unlist(&mut self, net: &IpNet) -> anyhow::Result<()> {
        if !self.datapath.unlist(net)? {
            bail!("{net} is not listed; `weir lists` shows what is");
        }
        Ok(())
    }

    pub(super) fn listed(&mut self) -> anyhow::Result<Vec<Listed>> {
        Ok(self.datapath.lists()?)
    }

    pub(super) fn list_counts(&self) -> ListCounts {
        self.datapath.list_counts()
    }

    /// SYNs to the relay so far, on each CPU.
    pub(super) fn relay_syns(&self) -> anyhow::Result<Vec<u64>> {
        Ok(self.datapath.relay_syns()?)
    }

    pub(super) fn set_syncookies(&mut self, on: bool) -> anyhow::Result<()> {
        Ok(self.datapath.set_syncookies(on)?)
    }

    /// Whether a predecessor's tables were found.
    pub(super) fn was_found(&self) -> bool {
        self.datapath.took_over()
    }

    /// Makes the tables as they should be.
    pub(super) fn reconcile(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        self.datapath.reconcile(wanted).context("kernel tables")?;
        self.follow_sync(wanted);
        Ok(())
    }

    /// Waits until the kernel's routes give other ways out than before.
    pub(super) async fn ways_changed(&mut self) {
        if self.ways.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Has packets take the ways that the kernel's routes give.
    pub(super) fn follow_ways(&mut self) -> anyhow::Result<()> {
        match &*self.ways.borrow_and_update() {
            Some(ways) => {
                let own = self.datapath.set_own(&ways.own);
                self.datapath
                    .set_ways(ways)
                    .context("kernel tables of next hops")?;
                own.context("transparent listeners")
            }
            None => Ok(()),
        }
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

    /// Has what leaves in the name of virtual routers bear their link addresses, as one of these plans says. `attached`: the
    /// programs are.
    pub(super) fn link_addresses(&mut self, plans: &[&Plan], attached: bool) -> anyhow::Result<()> {
        let mut groups = plans.iter().flat_map(|plan| &plan.vrrp);
        let any = groups.any(|group| group.mac != GroupMac::Own);
        if self.datapath.set_link_addresses(any) && attached {
            self.attach()?;
        }
        Ok(())
    }

    /// Puts virtual addresses where they belong, and keeps the next hops of L4 backends known.
    pub(super) async fn addresses(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let l4 = plan.services.iter().filter(|s| matches!(s.mode, Mode::L4(_)));
        let mut targets: Vec<_> = l4
            .filter_map(|s| plan.pool(s.pool.as_ref()?))
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
        // Virtual routers put theirs on the box themselves, while it is master.
        let shared: BTreeSet<_> = plan.vrrp.iter().flat_map(|group| group.addresses()).collect();
        let mut wanted: Vec<_> = plan
            .services
            .iter()
            .flat_map(|s| &s.listen)
            .filter(|l| l.is_virtual())
            .map(|l: &Listen| l.addr)
            .filter(|address| !shared.contains(address))
            .chain(sources(plan))
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

    pub(super) fn tune(&mut self, values: &Values, tunnel: Tunnel) -> anyhow::Result<()> {
        self.datapath
            .tune(tunables(values, tunnel))
            .context("kernel settings")
    }

    /// Takes everything away again.
    pub(super) async fn remove(self) {
        self.watching.iter().for_each(JoinHandle::abort);
        drop(self.syncing);
        if let Err(error) = self.datapath.close(Close::Remove) {
            error!(
                error = format!("{error:#}"),
                "something of weir stays in the kernel"
            );
        }
        if let Err(error) = self.intake.reconcile(Families::default()).await {
            error!(error = format!("{error:#}"), "rules or routes of weir's stay");
        }
        if let Err(error) = self.uplinks.reconcile(&BTreeSet::new(), &[]).await {
            error!(error = format!("{error:#}"), "rules or routes of weir's stay");
        }
        let mut vips = self.vips;
        if let Err(error) = vips.remove_all().await {
            error!(error = format!("{error:#}"), "virtual addresses stay");
        }
    }

    /// Leaves everything as it is, for another control process.
    pub(super) fn keep(self) {
        self.watching.iter().for_each(JoinHandle::abort);
        drop(self.syncing);
        if let Err(error) = self.datapath.close(Close::Keep) {
            warn!(error = format!("{error:#}"), "closing the datapath");
        }
    }

    /// The virtual addresses that are kept on the interfaces.
    pub(super) fn addresses_kept(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// When [`Self::sweep`] wants to be called.
    pub(super) fn sweep_due(&self) -> Option<Instant> {
        self.sweeps.due()
    }

    /// Keeps the tables of flows in order.
    pub(super) async fn sweep(&mut self) {
        self.sweeps.on_time(&self.datapath).await;
    }

    /// The tables of flows, for another thread.
    pub(super) fn flow_view(&self) -> anyhow::Result<FlowView> {
        self.datapath.flow_view().context("the tables of flows")
    }

    /// What would become of a packet of a flow. None when its ends are of two families.
    pub(super) fn explain(&self, question: &Question) -> anyhow::Result<Option<Explanation>> {
        self.datapath.explain(question).context("kernel tables")
    }

    /// The transparent listeners that take in a connection to an address.
    pub(super) fn taken_by(&self, to: SocketAddr) -> Vec<ListenKey> {
        self.datapath.taken_by(to)
    }

    /// Whether the lists keep a source out.
    pub(super) fn is_banned(&self, source: IpAddr) -> anyhow::Result<bool> {
        Ok(self.datapath.is_banned(source)?)
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
                    let verdict = reason.verdict().name();
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
        let NextHops { resolved, asked } = self.datapath.next_hops();
        l4.next_hops = vec![("resolved", resolved), ("asked", asked)];
        l4.flow_tables = self.sweeps.seen();
        let services = self.datapath.service_traffic().unwrap_or_default();
        l4.services = services
            .into_iter()
            .map(|(name, traffic)| (name.to_string(), traffic))
            .collect();
        let backends = self.backend_traffic().into_iter();
        l4.backends = backends
            .map(|(key, t)| (key.pool.to_string(), Shown(key.address).to_string(), t))
            .collect();
        l4
    }
}

/// What a configuration opens the datapath with.
fn options(loaded: &Loaded, state_dir: &Path, discard_flows: bool) -> Options {
    let node = &loaded.plan.node;
    let values = loaded.source.tunables.values();
    Options {
        pins: node.pins.clone(),
        state_dir: state_dir.to_owned(),
        interfaces: node.interfaces.clone(),
        mode: node.xdp,
        hash_key: node.hash_key,
        discard_flows,
        tunables: tunables(values, node.tunnel),
        capacities: Capacities {
            flows: values.l4_flow_entries,
            backends: values.l4_backends,
            // Each answers from a few ports or protocols.
            returns: values.l4_backends.saturating_mul(4),
            services: values.l4_services,
            ring_slots: values.l4_ring_slots,
            nat_flows: values.l4_nat_entries,
            fragments: values.l4_fragments_entries,
            lists: values.l4_lists_entries,
            clients: values.l4_sources_entries,
            ..Capacities::default()
        },
    }
}

fn tunables(values: &Values, tunnel: Tunnel) -> Tunables {
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    Tunables {
        tcp_grace: seconds(values.l4_flow_tcp_grace),
        udp_grace: seconds(values.l4_flow_udp_grace),
        horizon: seconds(values.l4_flow_horizon),
        record_limit: values.l4_flow_record_limit,
        accounting: values.l4_flow_accounting != 0,
        reply_limit: values.l4_reply_limit,
        cookie_rate: values.l4_syncookies_rate,
        nat_tcp_idle: seconds(values.l4_nat_tcp_idle),
        nat_udp_idle: seconds(values.l4_nat_udp_idle),
        nat_time_wait: seconds(values.l4_nat_time_wait),
        tunnel,
    }
}
