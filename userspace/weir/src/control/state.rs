//! The control loop and the state it owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing::{error, info, warn};
use weir_core::{
    engine::{Engine, Output, ProbeId},
    health::machine::Transition,
    ids::{BackendKey, ListenKey},
    plan::XdpMode,
};

use super::{
    Ask,
    child::{Child, Heard, Recipe, Role, socket_beside},
    kernel::Kernel,
    saved::StateFile,
};
use crate::{
    admin::{
        api::{Answer, Reloaded},
        http::Endpoint,
        socket::ControlSocket,
    },
    cli::RunArgs,
    context::Loaded,
    ipc::{FromHealth, FromRelay, ToHealth, ToRelay, WireProbe, stats::RelayStats},
    privileges,
};

/// Room for events from one child before its reader waits.
const HEARD: usize = 256;
/// Room for questions from outside.
const ASKS: usize = 64;
/// How often wanted and actual addresses are compared.
const TICK: Duration = Duration::from_secs(15);
/// A relay that drains gets this much longer than it was given before it is killed.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// How long the health process has to end.
const HEALTH_END: Duration = Duration::from_secs(1);
/// How long a question waits for the relay's counters before it is answered without fresh ones.
pub(super) const STATS_WAIT: Duration = Duration::from_secs(2);

/// How far the relay process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RelayPhase {
    /// Not there.
    Missing,
    /// Told a configuration, which it has not confirmed yet.
    Applying,
    /// Serving the present configuration.
    Serving,
}

/// A question that waits for the relay's counters.
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) until: Instant,
    pub(super) ask: Ask,
}

/// A reload that waits for the relay's word.
pub(super) struct PendingReload {
    pub(super) generation: u64,
    pub(super) reply: Option<oneshot::Sender<Answer>>,
    pub(super) done: Reloaded,
}

/// Everything that control knows.
pub(super) struct Control {
    pub(super) loaded: Loaded,
    pub(super) config_path: PathBuf,
    pub(super) generation: u64,
    pub(super) reload_error: Option<String>,
    pub(super) reloads_refused: u64,
    pub(super) started: Instant,
    pub(super) started_epoch: f64,
    pub(super) engine: Engine,
    pub(super) kernel: Option<Kernel>,
    pub(super) workers: u16,
    /// Every relay listener's sockets, one per worker: the relay has duplicates.
    pub(super) listeners: BTreeMap<ListenKey, Vec<OwnedFd>>,
    /// Those that the present relay process has got.
    pub(super) relay_has: BTreeSet<ListenKey>,
    pub(super) relay: Child<FromRelay>,
    pub(super) relay_phase: RelayPhase,
    pub(super) health: Child<FromHealth>,
    pub(super) stats: RelayStats,
    pub(super) next_stats: u64,
    pub(super) waiting: Vec<Waiting>,
    pub(super) pending_reload: Option<PendingReload>,
    /// Backends whose word the relay has not been told yet.
    pub(super) untold: BTreeSet<BackendKey>,
    state_file: StateFile,
    state_stale: bool,
    relay_heard: mpsc::Receiver<Heard<FromRelay>>,
    health_heard: mpsc::Receiver<Heard<FromHealth>>,
    /// Held as long as this control process lives.
    _lock: Flock<File>,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Control {
    /// Starts everything, serves until told to end, and ends everything.
    pub(super) async fn run(args: &RunArgs, loaded: Loaded) -> anyhow::Result<()> {
        let mut signals = Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        };
        let mut control = Self::start(args, loaded).await?;
        let outcome = control.serve(&mut signals).await;
        control.finish().await;
        outcome
    }

    async fn start(args: &RunArgs, loaded: Loaded) -> anyhow::Result<Self> {
        let plan = &loaded.plan;
        let socket = plan.admin.socket.clone();
        let dir = socket
            .parent()
            .context("admin.socket: give a path with a directory")?;
        private_dir(dir)?;
        let lock = lock(&socket)?;
        let user = privileges::child_user(&plan.node.user)?;
        let workers = match plan.node.workers {
            Some(workers) => workers,
            None => u16::try_from(std::thread::available_parallelism()?.get()).unwrap_or(u16::MAX),
        };
        let kernel = match plan.node.xdp {
            XdpMode::Off => None,
            XdpMode::Native | XdpMode::Generic => Some(Kernel::open(&loaded, dir)?),
        };

        let now = Instant::now();
        let state_file = StateFile::beside(&socket);
        let mut engine = Engine::new(seed());
        engine.restore(state_file.read());
        engine.apply(plan.clone(), now);

        let (relay_tell, relay_heard) = mpsc::channel(HEARD);
        let (health_tell, health_heard) = mpsc::channel(HEARD);
        let log = [
            "--log-format",
            args.log.log_format.as_str(),
            "--log-level",
            &args.log.log_level,
        ]
        .map(str::to_owned);
        let mut relay_args = vec![
            "--workers".to_owned(),
            workers.to_string(),
            "--access-log".to_owned(),
            access_log(&args.access_log)?,
        ];
        relay_args.extend(log.clone());
        let relay_recipe = Recipe {
            role: Role::Relay,
            socket: socket_beside(&socket, Role::Relay),
            args: relay_args,
            user,
        };
        let health_recipe = Recipe {
            role: Role::Health,
            socket: socket_beside(&socket, Role::Health),
            args: log.to_vec(),
            user,
        };

        let mut control = Self {
            config_path: args.config.clone(),
            generation: 1,
            reload_error: None,
            reloads_refused: 0,
            started: now,
            started_epoch: SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64()),
            engine,
            kernel,
            workers,
            listeners: BTreeMap::new(),
            relay_has: BTreeSet::new(),
            relay: Child::new(relay_recipe, relay_tell, now),
            relay_phase: RelayPhase::Missing,
            health: Child::new(health_recipe, health_tell, now),
            stats: RelayStats::default(),
            next_stats: 0,
            waiting: Vec::new(),
            pending_reload: None,
            untold: BTreeSet::new(),
            state_file,
            state_stale: true,
            relay_heard,
            health_heard,
            loaded,
            _lock: lock,
        };
        match control.bring_everything_up().await {
            Ok(()) => Ok(control),
            Err(error) => {
                control.abandon().await;
                Err(error)
            }
        }
    }

    async fn bring_everything_up(&mut self) -> anyhow::Result<()> {
        self.health
            .bring_up(Instant::now())
            .await
            .context("health process")?;
        self.adopt_or_start_relay().await.context("relay process")?;
        let plan = self.loaded.plan.clone();
        let opened = self.open_listeners(&plan)?;
        self.listeners.extend(opened);
        self.configure_relay().await?;
        self.carry_out().await;
        let wanted = self.wanted(&plan);
        if let Some(kernel) = &mut self.kernel {
            kernel.reconcile(&wanted)?;
            kernel.steer(&plan, &self.listeners)?;
            kernel.attach()?;
            kernel.addresses(&plan).await?;
        }
        Ok(())
    }

    async fn adopt_or_start_relay(&mut self) -> anyhow::Result<()> {
        let greeting = self.relay.bring_up(Instant::now()).await?;
        let FromRelay::Hello { workers, .. } = greeting else {
            return Ok(());
        };
        if !self.relay.link.as_ref().is_some_and(|l| l.adopted) {
            return Ok(());
        }
        self.take_listeners(&mut Vec::new()).await?;
        if workers != self.workers {
            info!(
                running = workers,
                wanted = self.workers,
                "the relay found running has another number of workers; a new one takes over"
            );
            self.relay
                .tell(
                    &ToRelay::Drain {
                        within_ms: self.drain_ms(),
                    },
                    &[],
                )
                .await;
            self.relay.retire();
            self.listeners.clear();
            self.relay.bring_up(Instant::now()).await?;
        }
        Ok(())
    }

    /// Asks a relay found running for the listeners it has, and waits for them.
    async fn take_listeners(&mut self, others: &mut Vec<Heard<FromRelay>>) -> anyhow::Result<()> {
        self.relay.tell(&ToRelay::Listeners, &[]).await;
        let end = tokio::time::Instant::now() + DRAIN_MARGIN;
        loop {
            let heard = tokio::time::timeout_at(end, self.relay_heard.recv())
                .await
                .context("the relay found running does not tell its listeners")?
                .context("the relay's messages ended")?;
            match heard {
                Heard::Message {
                    message: FromRelay::Listener { key, .. },
                    fds,
                    ..
                } => {
                    let key = ListenKey::from(key);
                    if fds.len() == usize::from(self.workers) {
                        self.relay_has.insert(key);
                    }
                    self.listeners.insert(key, fds);
                }
                Heard::Message {
                    message: FromRelay::ListenersEnd,
                    ..
                } => return Ok(()),
                Heard::Gone { why, .. } => anyhow::bail!("it went away while it was taken over: {why}"),
                other => others.push(other),
            }
        }
    }

    async fn serve(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let (ask, mut asks) = mpsc::channel(ASKS);
        let _socket = ControlSocket::serve(&self.loaded.plan.admin.socket, ask.clone())?;
        let _endpoint = match self.loaded.plan.admin.http {
            Some(addr) => {
                let endpoint = Endpoint::serve(addr, ask.clone()).await?;
                info!(address = %endpoint.addr, "metrics and status page");
                Some(endpoint)
            }
            None => None,
        };
        info!(version = env!("CARGO_PKG_VERSION"), config = %self.config_path.display(), workers = self.workers, "weir runs");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop: Option<tokio::time::Instant> = None;
        loop {
            self.carry_out().await;
            if stop.is_some() && self.relay.link.is_none() {
                return Ok(());
            }
            let wake = self.next_wake(stop.is_some());
            tokio::select! {
                biased;
                _ = signals.term.recv() => stop = Some(self.begin_stop("SIGTERM", self.drain_ms(), stop).await),
                _ = signals.int.recv() => stop = Some(self.begin_stop("SIGINT", 0, stop).await),
                _ = signals.hup.recv() => if stop.is_none() { self.reload(None).await },
                Some(heard) = self.relay_heard.recv() => self.hear_relay(heard, stop.is_some()).await,
                Some(heard) = self.health_heard.recv() => self.hear_health(heard),
                Some(asked) = asks.recv() => self.answer(asked, stop.is_some()).await,
                () = sleep_until(stop), if stop.is_some() => {
                    warn!("the relay did not end in time, is killed");
                    if let Some(link) = &self.relay.link {
                        link.kill();
                    }
                    return Ok(());
                }
                () = sleep_until(wake.map(Into::into)) => self.on_time(stop.is_some()).await,
                _ = tick.tick() => self.on_tick().await,
            }
        }
    }

    /// The earliest moment that something is due.
    fn next_wake(&self, stopping: bool) -> Option<Instant> {
        let children = [
            (self.relay.link.is_none() && !stopping).then_some(self.relay.retry_at),
            self.health.link.is_none().then_some(self.health.retry_at),
        ];
        let waiting = self.waiting.iter().map(|w| w.until);
        self.engine
            .poll_timeout()
            .into_iter()
            .chain(children.into_iter().flatten())
            .chain(waiting)
            .min()
    }

    async fn on_time(&mut self, stopping: bool) {
        let now = Instant::now();
        self.engine.handle_timeout(now);
        if self.health.link.is_none() && self.health.retry_at <= now {
            match self.health.bring_up(now).await {
                // What the process before it ran is lost; it is asked anew.
                Ok(_) => self.engine.probes_lost(Instant::now()),
                Err(error) => {
                    error!(
                        error = format!("{error:#}"),
                        "the health process can't be started"
                    );
                    self.health.lost(Instant::now());
                }
            }
        }
        if self.relay.link.is_none() && !stopping && self.relay.retry_at <= now {
            self.relay_has.clear();
            let up = match self.relay.bring_up(now).await {
                Ok(_) => self.configure_relay().await,
                Err(error) => Err(error),
            };
            if let Err(error) = up {
                error!(error = format!("{error:#}"), "the relay process can't be started");
                self.relay.lost(Instant::now());
            }
        }
        self.answer_late(now);
    }

    /// Compares what is with what should be: after a failure that has passed, and because slots of rings settle with
    /// time.
    async fn on_tick(&mut self) {
        self.state_stale = true;
        let plan = self.loaded.plan.clone();
        self.reconcile_kernel();
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.addresses(&plan).await
        {
            error!(
                error = format!("{error:#}"),
                "virtual addresses can't be kept as they should be"
            );
        }
    }

    fn reconcile_kernel(&mut self) {
        let wanted = self.wanted(&self.loaded.plan);
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.reconcile(&wanted)
        {
            error!(
                error = format!("{error:#}"),
                "the kernel's tables can't be brought up to date"
            );
        }
    }

    /// Carries out what the engine says.
    pub(super) async fn carry_out(&mut self) {
        let mut pools_changed = false;
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::StartProbe(probe) => {
                    let wire = WireProbe::new(probe.id.0, probe.target, &probe.kind, probe.timeout);
                    self.health.tell(&ToHealth::Probe(wire), &[]).await;
                }
                Output::CancelProbe(ProbeId(id)) => self.health.tell(&ToHealth::Cancel { id }, &[]).await,
                Output::Transition(transition) => {
                    log_transition(&transition);
                    self.untold.insert(transition.key);
                    self.state_stale = true;
                }
                Output::PoolChanged(_) => pools_changed = true,
            }
        }
        if pools_changed {
            self.reconcile_kernel();
        }
        if !self.untold.is_empty() {
            self.tell_words().await;
        }
        if std::mem::take(&mut self.state_stale)
            && let Err(error) = self.state_file.write(self.engine.export(Instant::now()))
        {
            warn!(
                error = format!("{error:#}"),
                "health can't be saved for a successor"
            );
        }
    }

    fn hear_health(&mut self, heard: Heard<FromHealth>) {
        let now = Instant::now();
        let current = self.health.link.as_ref().map(|l| l.id);
        match heard {
            Heard::Message {
                link,
                message: FromHealth::Result(result),
                ..
            } if Some(link) == current => match result.parse() {
                Ok((id, result)) => self.engine.probe_finished(ProbeId(id), result, now),
                Err(error) => warn!(%error, "the health process sent what is no result"),
            },
            Heard::Gone { link, why } if Some(link) == current => {
                warn!(why, "the health process is gone, another starts");
                self.health.lost(now);
            }
            Heard::Message { .. } | Heard::Gone { .. } => {}
        }
    }

    /// Begins to end. A second signal makes it short.
    async fn begin_stop(
        &mut self,
        why: &str,
        within_ms: u64,
        before: Option<tokio::time::Instant>,
    ) -> tokio::time::Instant {
        let within_ms = if before.is_some() { 0 } else { within_ms };
        info!(signal = why, drain_ms = within_ms, "stopping");
        self.relay.tell(&ToRelay::Drain { within_ms }, &[]).await;
        // Nothing is accepted any more: the relay closes its sockets, these are the last duplicates.
        self.listeners.clear();
        tokio::time::Instant::now() + Duration::from_millis(within_ms) + DRAIN_MARGIN
    }

    /// An orderly end: nothing of weir stays.
    async fn finish(&mut self) {
        if let Some(link) = self.relay.link.take() {
            link.kill();
        }
        self.end_health().await;
        if let Some(kernel) = self.kernel.take() {
            kernel.remove().await;
        }
        self.state_file.remove();
        for child in [&self.relay.recipe, &self.health.recipe] {
            let _ = std::fs::remove_file(&child.socket);
        }
        info!("weir has ended");
    }

    /// A start that failed: what was found running stays as it was, what was started ends.
    async fn abandon(&mut self) {
        let adopted = self.relay.link.as_ref().is_some_and(|l| l.adopted);
        if adopted {
            if let Some(kernel) = self.kernel.take() {
                kernel.keep();
            }
            return;
        }
        self.finish().await;
    }

    async fn end_health(&mut self) {
        self.health.tell(&ToHealth::Stop, &[]).await;
        let gone = async {
            while let Some(heard) = self.health_heard.recv().await {
                if matches!(heard, Heard::Gone { .. }) {
                    return;
                }
            }
        };
        if self.health.link.is_some() && tokio::time::timeout(HEALTH_END, gone).await.is_err() {
            warn!("the health process did not end in time, is killed");
            if let Some(link) = &self.health.link {
                link.kill();
            }
        }
    }

    pub(super) fn drain_ms(&self) -> u64 {
        u64::try_from(self.loaded.source.tunables.values().relay_drain.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The directory of the sockets. Nobody else may put sockets there, so it must be root's or our own.
fn private_dir(dir: &std::path::Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| {
            format!(
                "{}: can't be made; set admin.socket to a path you may write to",
                dir.display()
            )
        })?;
    let metadata = std::fs::metadata(dir).with_context(|| dir.display().to_string())?;
    let ours = nix::unistd::Uid::effective().as_raw();
    anyhow::ensure!(
        [0, ours].contains(&metadata.uid()),
        "{} belongs to user {}; set admin.socket to a path in a directory of your own",
        dir.display(),
        metadata.uid()
    );
    Ok(())
}

/// One control process per control socket.
fn lock(socket: &std::path::Path) -> anyhow::Result<Flock<File>> {
    let path = socket.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| {
            format!(
                "{}: can't be opened; set admin.socket to a path you may write to",
                path.display()
            )
        })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::anyhow!(
            "another weir runs with admin.socket {} ({errno}); stop it, or give this one another admin.socket",
            socket.display()
        )
    })
}

/// The relay runs in another directory: a file's path is made absolute.
fn access_log(to: &str) -> anyhow::Result<String> {
    if ["off", "stdout", "stderr"].contains(&to) {
        return Ok(to.to_owned());
    }
    let path = std::path::absolute(to).with_context(|| format!("--access-log {to}"))?;
    path.into_os_string()
        .into_string()
        .map_err(|p| anyhow::anyhow!("--access-log {}: not UTF-8", p.display()))
}

fn seed() -> u64 {
    // The standard library's hasher keys are the operating system's randomness; nothing here must be unguessable.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn log_transition(transition: &Transition) {
    let Transition {
        key,
        from,
        to,
        cause,
        successes,
        failures,
        in_state,
    } = transition;
    info!(
        pool = %key.pool,
        backend = %key.address,
        from = from.state.as_str(),
        to = to.state.as_str(),
        admin = to.admin.as_str(),
        cause = %cause,
        successes,
        failures,
        lasted = format!("{:.1}s", in_state.as_secs_f64()),
        "backend"
    );
}
