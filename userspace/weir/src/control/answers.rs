//! What control says of itself: answers to requests, status, pools, metrics.
//!
//! Questions that show the relay's counters wait until it has sent fresh ones, but never long: see [`STATS_WAIT`].

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weir_core::{
    engine::BackendView,
    health::{Admin, Outcome, State},
    ids::{BackendKey, Shown},
    plan::{Balance, Check, CheckKind, Mode, XdpMode},
};
use weir_datapath::{Rule, sync::driver::PeerReport};

use super::{
    Ask,
    child::Child,
    keys,
    state::{Control, RelayPhase, STATS_WAIT, Waiting},
};
use crate::{
    admin::{
        api::{
            Answer, Backend, Changed, Checks, ListCounts, Pool, PoolUse, Pools, Process, Request, Service,
            Status, SyncPeer, Traffic, Tunable, Xdp,
        },
        metrics::{Scrape, Sync, Tls},
    },
    ipc::ToRelay,
    tls,
};

/// Questions that wait at once; more are answered without fresh counters.
const MAX_WAITING: usize = 256;

impl Control {
    pub(super) async fn answer(&mut self, request: Request, reply: oneshot::Sender<Answer>, stopping: bool) {
        match request {
            Request::Backend { backend, wish } => {
                let answer = self.set_wish(&backend, &wish);
                let _ = reply.send(answer);
            }
            Request::Reload {} if stopping => {
                let _ = reply.send(Answer::error("weir is stopping"));
            }
            Request::Reload {} => self.reload(Some(reply)).await,
            Request::Sysctl { name } => {
                let _ = reply.send(self.tunables(name.as_deref()));
            }
            Request::SysctlSet { .. } if stopping => {
                let _ = reply.send(Answer::error("weir is stopping"));
            }
            Request::SysctlSet { set } => self.set_tunables(set, reply).await,
            Request::Explain {
                src,
                dst,
                protocol,
                syn,
            } => {
                let _ = reply.send(self.explain(&src, &dst, &protocol, syn));
            }
            request @ Request::Flows { .. } => self.list_flows(&request, reply),
            Request::Lists {} => {
                let _ = reply.send(self.lists());
            }
            Request::Ban { networks, seconds } => {
                let _ = reply.send(self.list(&networks, Rule::Ban, seconds));
            }
            Request::Allow { networks, seconds } => {
                let _ = reply.send(self.list(&networks, Rule::Allow, seconds));
            }
            Request::Unlist { networks } => {
                let _ = reply.send(self.unlist(&networks));
            }
            Request::Ha {} => {
                self.look_at_ha().await;
                let _ = reply.send(Answer::result(&self.ha()));
            }
            Request::Demote { .. } if stopping => {
                let _ = reply.send(Answer::error("weir is stopping"));
            }
            Request::Demote {
                group,
                by,
                drain: true,
            } => self.demote_gently(group, by, reply).await,
            Request::Demote {
                group,
                by,
                drain: false,
            } => {
                self.overtake_relief(&group).await;
                let _ = reply.send(self.demote(&group, by));
            }
            Request::Status {} | Request::Pools {} => {
                self.answer_with_counters(Ask::Request(request, reply)).await;
            }
            // They are questions of their own kind by now.
            Request::Upgrade {} | Request::Replace { .. } => {
                let _ = reply.send(Answer::error("this is asked otherwise"));
            }
        }
    }

    /// Answers once the relay has told its counters, or has not for too long.
    pub(super) async fn answer_with_counters(&mut self, ask: Ask) {
        self.look_at_ha().await;
        self.ask_relay_first(ask).await;
    }

    async fn ask_relay_first(&mut self, ask: Ask) {
        let silent = matches!(self.relay_phase, RelayPhase::Missing | RelayPhase::Draining);
        if silent || self.waiting.len() >= MAX_WAITING {
            self.answer_now(ask);
            return;
        }
        self.next_stats += 1;
        let id = self.next_stats;
        self.waiting.push(Waiting {
            id,
            until: Instant::now() + STATS_WAIT,
            ask,
        });
        self.relay.tell(&ToRelay::Stats { id }, &[]).await;
    }

    /// Counters have come: whatever waited for them, or for earlier ones, is answered.
    pub(super) fn answer_waiting(&mut self, id: u64) {
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.id <= id {
                self.answer_now(waiting.ask)
            } else {
                self.waiting.push(waiting)
            }
        }
    }

    /// Whoever has waited long enough is answered with the counters there are.
    pub(super) fn answer_late(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.until <= now {
                self.answer_now(waiting.ask)
            } else {
                self.waiting.push(waiting)
            }
        }
    }

    /// A question whose asker has gone away is nobody's loss.
    fn answer_now(&mut self, ask: Ask) {
        match ask {
            Ask::Request(Request::Status {}, reply) => {
                let _ = reply.send(Answer::result(&self.status()));
            }
            Ask::Request(Request::Pools {}, reply) => {
                let _ = reply.send(Answer::result(&self.pools()));
            }
            Ask::View(reply) => {
                let _ = reply.send((self.status(), self.pools()));
            }
            Ask::Scrape(reply) => {
                let _ = reply.send(self.scrape());
            }
            Ask::Request(_, reply) | Ask::Upgrade(reply) => {
                let _ = reply.send(Answer::error("this request needs no counters"));
            }
            // Its end of the connection says that nobody answers.
            Ask::Replace(_) => {}
        }
    }

    fn set_wish(&mut self, name: &str, wish: &str) -> Answer {
        let Some(admin) = Admin::ALL.into_iter().find(|a| a.as_str() == wish) else {
            return Answer::error(format!("there is no wish \"{wish}\"; use ready, drain or maint"));
        };
        let Some(key) = self.find_backend(name) else {
            return Answer::error(format!(
                "there is no backend {name}; write POOL/ADDRESS as `weir pools` shows them"
            ));
        };
        let from = self.engine.word(&key).map_or(Admin::Ready, |w| w.admin);
        match self.engine.set_admin(&key, admin, Instant::now()) {
            Ok(()) => Answer::result(&Changed {
                backend: key.to_string(),
                from: from.as_str().to_owned(),
                to: admin.as_str().to_owned(),
            }),
            Err(error) => Answer::error(error.to_string()),
        }
    }

    /// A backend by POOL/ADDRESS or POOL/NAME.
    pub(super) fn find_backend(&self, name: &str) -> Option<BackendKey> {
        let (pool, rest) = name.split_once('/')?;
        let pool = self.loaded.plan.pools.iter().find(|p| p.name.as_str() == pool)?;
        let address = rest.parse().ok();
        let found = pool.backends.iter().find(|b| {
            let typed = Some(b.key.address) == address || Shown(b.key.address).to_string() == rest;
            typed || *b.name == *rest
        })?;
        Some(found.key.clone())
    }

    fn tunables(&self, name: Option<&str>) -> Answer {
        let tunables: Vec<_> = self
            .loaded
            .source
            .tunables
            .iter()
            .filter(|s| name.is_none_or(|name| s.tunable.name == name))
            .map(|s| tunable(&s))
            .collect();
        match name {
            Some(name) if tunables.is_empty() => Answer::error(format!(
                "there is no tunable {name}; `weir sysctl -a` lists them all"
            )),
            _ => Answer::result(&tunables),
        }
    }

    async fn set_tunables(&mut self, set: Vec<(String, String)>, reply: oneshot::Sender<Answer>) {
        let answer = match self.waits_for_upgrade() {
            Some(waits) => waits,
            None => match self.try_set_tunables(&set).await {
                Ok(tunables) => Answer::result(&tunables),
                Err(error) => Answer::error(format!("{error:#}")),
            },
        };
        let _ = reply.send(answer);
    }

    async fn try_set_tunables(&mut self, set: &[(String, String)]) -> anyhow::Result<Vec<Tunable>> {
        let loaded = crate::context::with_tunables(&self.loaded, set)?;
        let shown = set
            .iter()
            .filter_map(|(name, _)| loaded.source.tunables.get(name))
            .map(|s| tunable(&s))
            .collect();
        self.put_in_force(loaded, &mut None).await?;
        Ok(shown)
    }

    fn status(&self) -> Status {
        let plan = &self.loaded.plan;
        let waiting_for = self.waiting_for();
        let control = Process {
            role: "control".to_owned(),
            pid: Some(std::process::id()),
            state: "running".to_owned(),
            since_seconds: self.started.elapsed().as_secs(),
            restarts: 0,
            adopted: false,
        };
        let mut processes = vec![control, process(&self.relay), process(&self.health)];
        if keys::wanted(plan) {
            processes.push(process(&self.keys.child));
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: plan.node.name.to_string(),
            config: self.config_path.display().to_string(),
            generation: self.generation,
            reload_error: self.reload_error.clone(),
            ready: waiting_for.is_empty(),
            waiting_for,
            uptime_seconds: self.started.elapsed().as_secs(),
            xdp: Xdp {
                mode: match plan.node.xdp {
                    XdpMode::Native => "native",
                    XdpMode::Generic => "generic",
                    XdpMode::Off => "off",
                }
                .to_owned(),
                interfaces: plan.node.interfaces.clone(),
                addresses: self
                    .kernel
                    .as_ref()
                    .map(super::kernel::Kernel::addresses_kept)
                    .unwrap_or_default(),
                syncookies: self.kernel.as_ref().is_some_and(|k| k.flood.is_on()),
                listed: self.kernel.as_ref().map_or_else(ListCounts::default, |k| {
                    let weir_datapath::ListCounts { allow, ban, overload } = k.list_counts();
                    ListCounts { allow, ban, overload }
                }),
            },
            processes,
            services: plan.services.iter().map(|s| self.service(s)).collect(),
            exports: self.exports(),
            sync: self.sync_peers(),
            ha: self.ha_groups(),
            unverified: tls::unverified_pools(&self.loaded.plan)
                .map(str::to_owned)
                .collect(),
            certificates: self.tls_files().0,
            tls_troubles: self.tls_troubles(),
        }
    }

    /// Other boxes that are told of flows.
    fn sync_peers(&self) -> Vec<SyncPeer> {
        let report = self.kernel.as_ref().and_then(super::kernel::Kernel::sync_report);
        let peers = report.map(|report| report.peers).unwrap_or_default();
        let shown = |peer: PeerReport| SyncPeer {
            address: peer.address.ip().to_string(),
            state: match (
                peer.there,
                peer.joining.is_some(),
                peer.heard.is_some(),
                peer.holds,
            ) {
                (true, true, _, _) => "joining",
                (true, false, _, _) => "joined",
                (false, _, true, _) => "lost",
                (false, _, false, true) => "alone",
                (false, _, false, false) => "waiting",
            }
            .to_owned(),
            heard_seconds: peer.heard.map(|ago| ago.as_secs()),
            parts: peer.joining,
            told: peer.counts.sent,
            heard_of: peer.counts.received,
        };
        peers.into_iter().map(shown).collect()
    }

    /// What is not in place yet.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.relay_phase != RelayPhase::Serving {
            list.push("the relay".to_owned());
        }
        if self.health.link.is_none() {
            list.push("the health process".to_owned());
        }
        if self.keys.child.link.is_none() && keys::wanted(&self.loaded.plan) {
            list.push("the keys process".to_owned());
        }
        let pending = self
            .engine
            .pools()
            .flat_map(|p| p.backends)
            .filter(|b| b.word.state == State::Pending)
            .count();
        if pending > 0 {
            list.push(format!("the first checks of {pending} backend(s)"));
        }
        list
    }

    fn service(&self, service: &weir_core::plan::Service) -> Service {
        let pools: Vec<_> = service
            .pools()
            .into_iter()
            .map(|name| {
                let usable = self.engine.usable(name).unwrap_or_default();
                PoolUse {
                    pool: name.to_string(),
                    backends_in_use: usable.iter().filter(|u| u.weight > 0).count(),
                    backends: usable.len(),
                }
            })
            .collect();
        let in_use = pools.iter().map(|p| p.backends_in_use).sum();
        let counted = self
            .stats
            .services
            .iter()
            .find(|s| s.service == service.name.as_str());
        let (mode, connections, requests) = match &service.mode {
            Mode::L4(_) => (
                "l4",
                self.kernel.as_ref().map_or(0, |k| k.service_flows(&service.name)),
                0,
            ),
            Mode::Tcp(_) => ("tcp", counted.map_or(0, |c| c.accepted), 0),
            Mode::Http(_) => (
                "http",
                counted.map_or(0, |c| c.accepted),
                counted.map_or(0, |c| c.requests),
            ),
        };
        Service {
            name: service.name.to_string(),
            mode: mode.to_owned(),
            listen: service.listen.iter().map(ToString::to_string).collect(),
            pool: service.pool.as_ref().map(ToString::to_string),
            state: if in_use > 0 || pools.is_empty() {
                "up"
            } else {
                "down"
            }
            .to_owned(),
            backends_in_use: in_use,
            backends: pools.iter().map(|p| p.backends).sum(),
            pools,
            connections,
            requests,
        }
    }

    fn pools(&self) -> Pools {
        let now = Instant::now();
        let traffic = self
            .kernel
            .as_ref()
            .map(super::kernel::Kernel::backend_traffic)
            .unwrap_or_default();
        let pools = self.engine.pools().map(|view| Pool {
            name: view.pool.name.to_string(),
            balance: match view.pool.balance {
                Balance::RoundRobin => "round-robin",
                Balance::LeastConnections => "least-connections",
            }
            .to_owned(),
            check: view
                .pool
                .check
                .as_ref()
                .map_or_else(|| "none".to_owned(), describe),
            tls: view.pool.tls.as_deref().map_or_else(String::new, tls::describe),
            backends: view
                .backends
                .iter()
                .map(|b| {
                    let mut shown = self.relay_traffic(&b.backend.key);
                    if let Some((_, l4)) = traffic.iter().find(|(key, _)| *key == b.backend.key) {
                        shown.l4_flows = l4.flows;
                        shown.l4_packets_in = l4.packets_in;
                        shown.l4_packets_out = l4.packets_out;
                        shown.l4_bytes_in = l4.bytes_in;
                        shown.l4_bytes_out = l4.bytes_out;
                    }
                    backend(b, shown, now)
                })
                .collect(),
        });
        Pools {
            pools: pools.collect(),
        }
    }

    fn relay_traffic(&self, key: &BackendKey) -> Traffic {
        let counted = self
            .stats
            .backends
            .iter()
            .find(|b| b.address == key.address && b.pool == key.pool.as_str());
        counted.map_or_else(Traffic::default, |b| Traffic {
            relay_connections: b.connections,
            relay_requests: b.requests,
            relay_in_flight: b.in_flight,
            relay_bytes_in: b.bytes_in,
            relay_bytes_out: b.bytes_out,
            ..Traffic::default()
        })
    }

    fn scrape(&self) -> Scrape {
        let check_seconds = self
            .engine
            .pools()
            .flat_map(|p| p.backends)
            .filter_map(|b| {
                let last = b.last?;
                let key = &b.backend.key;
                Some((
                    key.pool.to_string(),
                    Shown(key.address).to_string(),
                    last.result.took.as_secs_f64(),
                ))
            })
            .collect();
        Scrape {
            status: self.status(),
            pools: self.pools(),
            relay: self.stats.clone(),
            l4: self.kernel.as_ref().map(super::kernel::Kernel::counters),
            sync: self.kernel.as_ref().and_then(|kernel| {
                Some(Sync {
                    report: kernel.sync_report()?,
                    unfinished: kernel.sync_unfinished(),
                })
            }),
            started: self.started_epoch,
            reloads_refused: self.reloads_refused,
            vrrp: self.ha_counts(),
            vrrp_deaths: self.ha_deaths(),
            tls: Tls {
                signatures: keys::wanted(&self.loaded.plan).then_some((self.keys.signed, self.keys.refused)),
                files: self.certificates.files().collect(),
                lists: self.tls_files().1,
            },
            check_seconds,
        }
    }
}

fn process<M>(child: &Child<M>) -> Process {
    let (pid, state, since, adopted) = match &child.link {
        Some(link) => (link.pid, "running", link.since, link.adopted),
        None => (None, "starting", child.missing_since, false),
    };
    Process {
        role: child.recipe.role.as_str().to_owned(),
        pid,
        state: state.to_owned(),
        since_seconds: since.elapsed().as_secs(),
        restarts: child.restarts,
        adopted,
    }
}

fn tunable(setting: &weir_config::tunables::Setting<'_>) -> Tunable {
    let defaults = weir_config::Tunables::default();
    Tunable {
        name: setting.tunable.name.to_owned(),
        value: setting.value.to_string(),
        default: defaults
            .get(setting.tunable.name)
            .map(|s| s.value.to_string())
            .unwrap_or_default(),
        origin: setting.origin.to_string(),
        live: setting.tunable.applies == weir_config::tunables::Applies::Live,
        range: setting.tunable.kind.to_string(),
        description: setting.tunable.description.to_owned(),
    }
}

fn describe(check: &Check) -> String {
    let what = match &check.kind {
        CheckKind::Tcp => "tcp".to_owned(),
        CheckKind::Http(http) => {
            format!(
                "{} {} {}",
                if http.tls.is_some() { "https" } else { "http" },
                http.method,
                http.path
            )
        }
    };
    format!("{what} every {}", seconds(check.interval))
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

fn backend(view: &BackendView<'_>, traffic: Traffic, now: Instant) -> Backend {
    let last = view.last.map(|last| match &last.result.outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed(failure) => failure.to_string(),
    });
    Backend {
        address: Shown(view.backend.key.address).to_string(),
        name: view.backend.name.to_string(),
        weight: view.backend.weight,
        backup: view.backend.backup,
        state: view.word.state.as_str().to_owned(),
        admin: view.word.admin.as_str().to_owned(),
        in_use: view.usable.weight > 0,
        cause: view.cause.to_string(),
        since_seconds: now.saturating_duration_since(view.since).as_secs(),
        checks: Checks {
            passed: view.passed,
            failed: view.failed,
            transitions: view.transitions,
            last,
            last_took_ms: view.last.map(|last| last.result.took.as_secs_f64() * 1e3),
        },
        traffic,
    }
}
