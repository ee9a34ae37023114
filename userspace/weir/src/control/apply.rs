//! From one configuration to the next: what is wanted of the kernel and the relay, and the order of changes.
//!
//! A reload prepares everything that can fail before it changes anything: the file is read and checked, its changes are
//! compared with what can change while weir runs, new sockets are opened. Only then the new plan takes the old one's
//! place: engine, kernel tables, relay, addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use weir_core::{
    engine::Usable,
    ids::{ListenKey, Scope},
    plan::{FlowHash, Forward, L4, Listen, Mode, Plan, Pool, Service, XdpMode},
};
use weir_datapath::{
    Wanted, WantedAction, WantedBackend, WantedForward, WantedService, WantedSources,
    listen::{self, How, ListenOptions},
};

use super::{
    certificates::Looked,
    kernel::SyncChange,
    sources,
    state::{Control, PendingReload},
};
use crate::{
    admin::api::{Answer, Reloaded},
    context::{self, Loaded},
};

/// HTTP clients speak first: the relay is woken when they have, which saves a wake-up per connection.
const DEFER_ACCEPT: Duration = Duration::from_secs(1);

/// Whether the relay serves it.
pub(super) fn is_relayed(service: &Service) -> bool {
    !matches!(service.mode, Mode::L4(_))
}

/// Every address that the relay listens on.
pub(super) fn relayed_keys(plan: &Plan) -> BTreeSet<ListenKey> {
    plan.services
        .iter()
        .filter(|s| is_relayed(s))
        .flat_map(|s| s.listen.iter().flat_map(Listen::keys))
        .collect()
}

/// Those of them that sk_lookup brings connections for.
pub(super) fn steered_keys(plan: &Plan) -> impl Iterator<Item = ListenKey> {
    let relayed = plan.services.iter().filter(|s| is_relayed(s));
    relayed
        .flat_map(|s| &s.listen)
        .filter(|l| l.is_virtual())
        .flat_map(Listen::keys)
}

/// Whether a listener's socket is bound to its interface still: one that was taken away, and made anew, is another.
fn hears(key: ListenKey, socket: &OwnedFd) -> bool {
    key.interface
        .is_none_or(|interface| listen::bound_to(socket, interface).is_some())
}

/// Whether a socket is bound as a listener of the plan would be now.
pub(super) fn is_bound_for(plan: &Plan, key: ListenKey, socket: &OwnedFd) -> bool {
    let steered = plan.node.xdp != XdpMode::Off
        && (key.scope != Scope::Address || Listen::is_virtual_address(key.addr));
    let bound = rustix::net::getsockname(socket)
        .ok()
        .and_then(|a| std::net::SocketAddr::try_from(a).ok());
    let listens = rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    listens
        && hears(key, socket)
        && bound.is_some_and(|bound| match steered {
            true => bound.ip().is_loopback(),
            false => bound == std::net::SocketAddr::new(key.addr, key.port),
        })
}

/// An L4 service as XDP needs it. `usable` says of each backend, in order of the plan, what it may be used for.
fn forward(l4: &L4, pool: Option<&Pool>, usable: &[Usable]) -> WantedForward {
    let backends = pool.map(|p| p.backends.as_slice()).unwrap_or_default();
    let backends = backends.iter().zip(usable).map(|(b, u)| WantedBackend {
        key: b.key.clone(),
        weight: u.weight.into(),
        alive: u.alive,
        // Another hash asks for none: connections of such a service are placed by flow.
        quic_id: b.quic_id.filter(|_| matches!(l4.hash, FlowHash::Quic { .. })),
    });
    let sources = pool.filter(|_| l4.forward == Forward::FullNat).and_then(|pool| {
        Some(WantedSources {
            pool: pool.name.clone(),
            ports: pool.source.as_ref()?.nat_pool()?,
        })
    });
    WantedForward {
        mode: l4.forward,
        ring_size: l4.ring_size,
        backends: backends.collect(),
        hash: l4.hash,
        on_backend_down: l4.on_backend_down,
        mss: l4.mss,
        sources,
    }
}

impl Control {
    /// What the kernel's tables should hold, from a plan and the health of its backends.
    pub(super) fn wanted(&self, plan: &Plan) -> Wanted {
        let mut services = Vec::new();
        for service in &plan.services {
            // XDP knows addresses and ports alone, whatever the interface.
            let bare = |key| ListenKey {
                interface: None,
                ..key
            };
            let keys = { service.listen.iter() }
                .filter(|l| l.is_virtual())
                .flat_map(Listen::keys)
                .map(bare);
            let keys: Vec<_> = keys.collect::<BTreeSet<_>>().into_iter().collect();
            if keys.is_empty() {
                continue;
            }
            let own = service.pool.as_ref();
            let usable = |name| self.engine.usable(name).unwrap_or_default();
            services.push(WantedService {
                name: service.name.clone(),
                keys,
                action: match &service.mode {
                    Mode::L4(l4) => {
                        let pool = own.and_then(|name| plan.pool(name));
                        let usable = own.map(usable).unwrap_or_default();
                        WantedAction::Forward(forward(l4, pool.map(|p| &**p), &usable))
                    }
                    Mode::Tcp(_) | Mode::Http(_) => WantedAction::Relay {
                        up: self.engine.serves(service),
                    },
                },
                per_source: service.per_source,
            });
        }
        Wanted { services }
    }

    /// Opens the sockets that a plan needs and that are not open yet.
    ///
    /// # Errors
    /// One of them can't be opened; none is then.
    pub(super) fn open_listeners(&self, plan: &Plan) -> anyhow::Result<BTreeMap<ListenKey, Vec<OwnedFd>>> {
        let mut opened = BTreeMap::new();
        for service in plan.services.iter().filter(|s| is_relayed(s)) {
            let defer_accept = matches!(service.mode, Mode::Http(_)).then_some(DEFER_ACCEPT);
            let options = ListenOptions {
                defer_accept,
                ..ListenOptions::default()
            };
            for entry in &service.listen {
                let steered = plan.node.xdp != XdpMode::Off && entry.is_virtual();
                let how = match (entry.is_transparent(), steered) {
                    (true, _) => How::Transparent,
                    (false, true) => How::Steered,
                    (false, false) => How::Bound,
                };
                let is_open = |key: &ListenKey| {
                    let sockets = self.listeners.get(key).and_then(|sockets| sockets.first());
                    sockets.is_some_and(|socket| hears(*key, socket))
                };
                for key in entry.keys().filter(|key| !is_open(key)) {
                    let sockets = listen::bind(key, how, self.workers, &options)
                        .map_err(|e| anyhow!("service {}: {e}", service.name))?;
                    opened.insert(key, sockets);
                }
            }
        }
        Ok(opened)
    }

    /// Reads the configuration again and applies it, answering when the relay has it too.
    pub(super) async fn reload(&mut self, mut reply: Option<oneshot::Sender<Answer>>) {
        // The process that is about to take this one's place may have read the configuration already.
        if let Some(waits) = self.waits_for_upgrade() {
            match reply {
                Some(reply) => drop(reply.send(waits)),
                None => warn!("an upgrade is under way, nothing is reloaded: ask again once it is over"),
            }
            return;
        }
        let looked = Looked::at(&self.loaded.plan);
        let read = context::reload(&self.config_path, &self.loaded).map_err(|report| anyhow!("{report}"));
        let result = match read {
            Ok(loaded) => self.put_in_force(loaded, &mut reply).await,
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.certificates.taken(&self.loaded.plan, Some(looked));
        }
        if let Err(error) = result {
            let text = format!("{error:#}");
            error!(
                error = text,
                "the configuration is refused, the one before it stays in force"
            );
            self.reloads_refused += 1;
            self.reload_error = Some(text.clone());
            if let Some(reply) = reply {
                let _ = reply.send(Answer::error(text));
            }
        }
    }

    /// Puts a configuration in force. The reply is taken once it is certain that it will be.
    pub(super) async fn put_in_force(
        &mut self,
        loaded: Loaded,
        reply: &mut Option<oneshot::Sender<Answer>>,
    ) -> anyhow::Result<()> {
        let changes = weir_config::diff(&self.loaded.plan, &loaded.plan);
        let fixed: Vec<_> = changes
            .iter()
            .filter(|c| c.needs_restart())
            .map(ToString::to_string)
            .collect();
        if !fixed.is_empty() {
            bail!("these changes need a restart of weir: {}", fixed.join("; "));
        }
        let plan = Arc::clone(&loaded.plan);
        sources::check(&plan, self.kernel.as_ref()).await?;
        let mut sync_change = SyncChange::Nothing;
        if let Some(kernel) = &self.kernel {
            kernel.check_ways(&plan).await?;
            sync_change = kernel.check_sync(&plan)?;
        }
        let virtual_routers = self.ha.prepare(&plan)?;
        let opened = self.open_listeners(&plan)?;
        // Keys of both plans are held until the relay has gone over.
        if self.hold_keys(&plan).await? {
            self.connect_signers().await?;
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.source_addresses(&plan).await?;
        }

        // From here on it is in force.
        let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
        for change in &changes {
            info!(change, "reload");
        }
        // Those that take the place of others are new to the relay.
        self.relay_has.retain(|key| !opened.contains_key(key));
        self.listeners.extend(opened);
        self.generation += 1;
        self.reload_error = None;
        let before = std::mem::replace(&mut self.loaded, loaded).plan;
        self.engine.apply(Arc::clone(&plan), Instant::now());
        self.carry_out().await;
        // What goes wrong now is told, and tried again by the tick; it must not keep the rest from following.
        // Addresses that go over to virtual routers, or come from them: given first, and taken once they are free.
        let mut troubles = Vec::new();
        if let Some(kernel) = &mut self.kernel {
            // What leaves bears a link address before it is a group's, and as long as it is.
            let due = kernel.link_addresses(&[&before, &plan], true);
            troubles.extend(due.err().map(|error| format!("{error:#}")));
        }
        troubles.extend(self.follow_ha_plan(virtual_routers).await);
        troubles.extend(self.follow_in_kernel(&plan, sync_change).await);
        self.check_ha();
        troubles.extend(self.export().await.err().map(|error| format!("{error:#}")));
        self.configure_relay().await?;
        let done = Reloaded {
            generation: self.generation,
            changes,
        };
        if let Some(before) = self.pending_reload.take().and_then(|p| p.reply) {
            let _ = before.send(Answer::error("another reload has overtaken this one"));
        }
        if !troubles.is_empty() {
            let text = format!("the configuration is in force, but: {}", troubles.join("; "));
            error!(
                generation = self.generation,
                troubles = troubles.join("; "),
                "the configuration is in force, not all of it in effect"
            );
            if let Some(reply) = reply.take() {
                let _ = reply.send(Answer::error(text));
            }
            return Ok(());
        }
        info!(generation = self.generation, "configuration is in force");
        if self.relay.link.is_none() {
            warn!("the relay is not there; it will start with this configuration");
            if let Some(reply) = reply.take() {
                let _ = reply.send(Answer::result(&done));
            }
            return Ok(());
        }
        self.pending_reload = Some(PendingReload {
            generation: self.generation,
            reply: reply.take(),
            done,
        });
        Ok(())
    }

    /// Brings the kernel after the plan. What could not be done, in words.
    async fn follow_in_kernel(&mut self, plan: &Plan, sync_change: SyncChange) -> Vec<String> {
        let wanted = self.wanted(plan);
        let Some(kernel) = &mut self.kernel else {
            return Vec::new();
        };
        let done = [
            kernel.tune(self.loaded.source.tunables.values(), plan.node.tunnel),
            kernel.lists(&plan.lists),
            kernel.reconcile(&wanted),
            kernel.uplinks(plan).await,
            kernel.change_sync(sync_change),
            kernel.steer(plan, &self.listeners),
            kernel.take_in(plan, &self.listeners, true).await,
            kernel.link_addresses(&[plan], true),
            kernel.addresses(plan).await,
        ];
        done.into_iter()
            .filter_map(Result::err)
            .map(|error| format!("{error:#}"))
            .collect()
    }
}
