//! The control loop and the state it owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::fcntl::Flock;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing::{error, info, warn};
use weir_core::{
    engine::{Engine, Output, ProbeId},
    health::machine::Transition,
    ids::{BackendKey, ListenKey},
};

use super::{
    Ask,
    certificates::{self, Certificates},
    child::{Child, Heard, Link},
    ending::{Easing, Notice},
    exports::Exporting,
    ha::Ha,
    kernel::Kernel,
    keys::Keys,
    protect,
    relief::Relief,
    saved::StateFile,
    start::InPlace,
    succession::{Predecessor, Successor, Upgrade, Way, upgrade_over},
};
use crate::{
    admin::{
        api::{Answer, Reloaded},
        http::Endpoint,
        socket::ControlSocket,
    },
    cli::RunArgs,
    context::Loaded,
    ipc::{FromHealth, FromRelay, ToHealth, WireProbe, stats::RelayStats},
    notify,
};

/// Events of one child that are taken in before what follows from them is carried out.
const BATCH: usize = 256;
/// Saved health is at most this old.
const STATE_DELAY: Duration = Duration::from_millis(200);
/// After so many probes without a result the health process counts as stuck.
const UNANSWERED: u32 = 5;
/// How often wanted and actual addresses are compared.
const TICK: Duration = Duration::from_secs(15);
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
    /// Told to drain. It obeys nothing else any more, so it is neither told nor asked anything.
    Draining,
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
    pub(super) exporting: Exporting,
    pub(super) ha: Ha,
    pub(super) workers: u16,
    /// Every relay listener's sockets, one per worker: the relay has duplicates.
    pub(super) listeners: BTreeMap<ListenKey, Vec<OwnedFd>>,
    /// Those that the present relay process has got.
    pub(super) relay_has: BTreeSet<ListenKey>,
    pub(super) relay: Child<FromRelay>,
    pub(super) relay_phase: RelayPhase,
    /// While it stops: since when connections are eased out.
    pub(super) easing: Option<Easing>,
    /// A hand-over that an operator has asked for.
    pub(super) relief: Option<Relief>,
    /// Until the process that it has started asks for this one's place.
    pub(super) upgrade: Option<Upgrade>,
    /// The process whose place this one has, until it is told that this one serves.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) health: Child<FromHealth>,
    pub(super) keys: Keys,
    pub(super) certificates: Certificates,
    pub(super) stats: RelayStats,
    pub(super) next_stats: u64,
    pub(super) waiting: Vec<Waiting>,
    pub(super) pending_reload: Option<PendingReload>,
    /// Backends whose word the relay has not been told yet.
    pub(super) untold: BTreeSet<BackendKey>,
    /// Relays that go on only until the present one serves, then drain.
    pub(super) retiring: Vec<Link>,
    /// Counters asked for by the tick, to see that the relay lives.
    pub(super) relay_ping: Option<u64>,
    /// Probes that ended without a result since the health process last said anything.
    pub(super) probes_unanswered: u32,
    pub(super) state_file: StateFile,
    /// When the saved health is to be written anew, if it is stale.
    pub(super) state_due: Option<Instant>,
    pub(super) relay_heard: mpsc::Receiver<Heard<FromRelay>>,
    pub(super) health_heard: mpsc::Receiver<Heard<FromHealth>>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) control_socket: ControlSocket,
    pub(super) endpoint: Option<Endpoint>,
    /// Held as long as this control process lives.
    pub(super) lock: Flock<File>,
}

/// What this process is asked by signals.
pub(super) struct Signals {
    pub(super) term: Signal,
    pub(super) int: Signal,
    hup: Signal,
}

impl Signals {
    /// Waits for one that asks this process to end.
    pub(super) async fn asks_to_end(&mut self) -> nix::sys::signal::Signal {
        tokio::select! {
            _ = self.term.recv() => nix::sys::signal::Signal::SIGTERM,
            _ = self.int.recv() => nix::sys::signal::Signal::SIGINT,
        }
    }
}

/// How the loop ends.
enum End {
    /// Nobody goes on.
    Over,
    /// Another process asks for this one's place, and gets it.
    Replaced(Successor),
    /// This one has the place of a process that died too early: nobody watches over it.
    Forsaken(anyhow::Error),
}

impl Control {
    /// Starts everything, serves until told to end, and ends everything.
    pub(super) async fn run(args: &RunArgs, loaded: Loaded) -> anyhow::Result<()> {
        let mut signals = Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        };
        let place = match args.replace {
            true => InPlace::Replaces,
            false => InPlace::Free,
        };
        let mut control = Self::start(args, loaded, place).await?;
        loop {
            if control.predecessor.is_none() || notify::is_main_process() {
                notify::ready();
            }
            match control.serve(&mut signals).await {
                Ok(End::Replaced(successor)) => match control.make_way(successor, &mut signals).await {
                    Way::Over => return Ok(()),
                    Way::Back(back) => control = Self::take_back(args, *back).await?,
                },
                Ok(End::Forsaken(why)) => {
                    control.let_go().await;
                    return Err(why);
                }
                other => {
                    control.finish().await;
                    return other.map(drop);
                }
            }
        }
    }

    async fn serve(&mut self, signals: &mut Signals) -> anyhow::Result<End> {
        if let Some(endpoint) = &self.endpoint {
            info!(address = %endpoint.addr, "metrics and status page");
        }
        let (mut from_relay, mut from_health) = (Vec::new(), Vec::new());
        let mut from_keys = Vec::new();
        info!(version = env!("CARGO_PKG_VERSION"), config = %self.config_path.display(), workers = self.workers, "weir runs");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seconds = tokio::time::interval(protect::EVERY);
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut files = tokio::time::interval(certificates::EVERY);
        files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop: Option<tokio::time::Instant> = None;
        // Routes are withdrawn, other boxes asked to take over; the end begins then.
        let mut notice: Option<Notice> = None;
        loop {
            self.carry_out().await;
            self.settle_ha();
            let is_ending = self.is_ending(stop, notice.as_ref());
            if let Err(error) = self.tell_of_service(is_ending).await {
                return Ok(End::Forsaken(error));
            }
            if stop.is_some() && self.relay.link.is_none() && self.retiring.is_empty() {
                return Ok(End::Over);
            }
            let (wake, relief) = (self.next_wake(stop.is_some()), self.relief_due());
            tokio::select! {
                biased;
                _ = signals.term.recv() => {
                    // A second one skips what is waited for.
                    let again = stop.is_some() || notice.is_some();
                    if again || self.easing.is_some() || !self.ease().await {
                        (notice, stop) = self.give_up("SIGTERM", again, stop).await;
                    }
                }
                () = sleep_until(self.easing.as_ref().map(|easing| easing.end(self.ha.is_master()))),
                    if self.waits_for_ease(&notice, stop) =>
                {
                    (notice, stop) = self.give_up("SIGTERM", false, stop).await;
                }
                () = sleep_until(notice.as_mut().map(|notice| notice.end(self.ha.is_master()))), if notice.is_some() => {
                    notice = None;
                    stop = Some(self.begin_stop("SIGTERM", self.drain_left_ms(), stop).await);
                }
                _ = signals.int.recv() => {
                    notice = None;
                    stop = Some(self.begin_stop("SIGINT", 0, stop).await);
                }
                _ = signals.hup.recv() => if stop.is_none() { self.reload(None).await },
                _ = self.relay_heard.recv_many(&mut from_relay, BATCH) => {
                    for heard in from_relay.drain(..) {
                        self.hear_relay(heard, stop.is_some()).await;
                    }
                }
                _ = self.health_heard.recv_many(&mut from_health, BATCH) => {
                    for heard in from_health.drain(..) {
                        self.hear_health(heard);
                    }
                }
                _ = self.keys.heard.recv_many(&mut from_keys, BATCH) => {
                    for heard in from_keys.drain(..) {
                        self.hear_keys(heard);
                    }
                }
                Some(asked) = self.asks.recv() => match asked {
                    Ask::Replace(successor) => {
                        if let Some(successor) = self.may_be_replaced(successor, is_ending).await {
                            return Ok(End::Replaced(successor));
                        }
                    }
                    Ask::Upgrade(reply) => self.upgrade(reply, is_ending),
                    Ask::Request(request, reply) => self.answer(request, reply, stop.is_some()).await,
                    Ask::View(_) | Ask::Scrape(_) => self.answer_with_counters(asked).await,
                },
                () = sleep_until(relief), if relief.is_some() => self.relieve().await,
                how = upgrade_over(&mut self.upgrade) => self.upgrade_failed(&how),
                () = ways_changed(&mut self.kernel) => {
                    self.follow_ways();
                    self.mind_interfaces().await;
                }
                event = self.ha.changed() => self.hear_ha(event).await,
                () = sleep_until(stop), if stop.is_some() => {
                    warn!("the relay did not end in time, is killed");
                    if let Some(link) = &self.relay.link {
                        link.kill();
                    }
                    return Ok(End::Over);
                }
                () = sleep_until(wake.map(Into::into)) => self.on_time(stop.is_some()).await,
                _ = tick.tick() => self.on_tick().await,
                _ = seconds.tick() => {
                    self.watch_syns();
                    self.watch_ha();
                }
                _ = files.tick(), if stop.is_none() => self.watch_certificates().await,
            }
        }
    }

    /// The earliest moment that something is due.
    fn next_wake(&self, stopping: bool) -> Option<Instant> {
        let children = [
            (self.relay.link.is_none() && !stopping).then_some(self.relay.retry_at),
            self.health.link.is_none().then_some(self.health.retry_at),
            self.keys_due().filter(|_| !stopping),
        ];
        let sweep = self.kernel.as_ref().and_then(Kernel::sweep_due);
        let waiting = self
            .waiting
            .iter()
            .map(|w| w.until)
            .chain(self.state_due)
            .chain(sweep);
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
        // What the engine gives up now are probes that nobody answered in time.
        self.carry_out_noting(true).await;
        if self.probes_unanswered >= UNANSWERED
            && let Some(link) = &self.health.link
        {
            error!(
                pid = link.pid,
                probes = self.probes_unanswered,
                "the health process answers no more, is killed"
            );
            link.kill();
            self.probes_unanswered = 0;
            self.health.lost(now);
        }
        if self.health.link.is_none() && self.health.retry_at <= now {
            match self.health.start(now).await {
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
        if !stopping {
            self.mind_keys(now).await;
        }
        if self.relay.link.is_none() && !stopping && self.relay.retry_at <= now {
            self.relay_has.clear();
            let up = match self.relay.start(now).await {
                Ok(_) => match self.connect_signers().await {
                    Ok(()) => self.configure_relay().await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = up {
                error!(error = format!("{error:#}"), "the relay process can't be started");
                self.relay.lost(Instant::now());
            }
        }
        self.answer_late(now);
        if let Some(kernel) = &mut self.kernel {
            kernel.sweep().await;
        }
        if self.state_due.is_some_and(|due| due <= now) {
            self.state_due = None;
            if let Err(error) = self.state_file.write(self.engine.export(now)) {
                warn!(
                    error = format!("{error:#}"),
                    "health can't be saved for a successor"
                );
            }
        }
    }

    /// Compares what is with what should be: after a failure that has passed, and because slots of rings settle with
    /// time.
    async fn on_tick(&mut self) {
        self.ping_relay().await;
        self.ping_keys().await;
        if let Some(kernel) = &mut self.kernel {
            kernel.sweep().await;
        }
        let plan = self.loaded.plan.clone();
        self.reconcile_kernel();
        self.follow_ways();
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.tend_lists(&plan.lists)
        {
            error!(
                error = format!("{error:#}"),
                "the lists can't be brought up to date"
            );
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.steer(&plan, &self.listeners)
        {
            error!(
                error = format!("{error:#}"),
                "steering can't be brought up to date"
            );
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.addresses(&plan).await
        {
            error!(
                error = format!("{error:#}"),
                "virtual addresses can't be kept as they should be"
            );
        }
        self.export_anew().await;
        self.mind_interfaces().await;
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

    fn follow_ways(&mut self) {
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.follow_ways()
        {
            error!(
                error = format!("{error:#}"),
                "next hops can't be brought up to date"
            );
        }
    }

    /// Carries out what the engine says.
    pub(super) async fn carry_out(&mut self) {
        self.carry_out_noting(false).await;
    }

    /// The same; `overdue`: probes that are cancelled now are cancelled because no result came.
    async fn carry_out_noting(&mut self, overdue: bool) {
        let mut pools_changed = false;
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::StartProbe(probe) => {
                    let wire = WireProbe::new(&probe);
                    self.health.tell(&ToHealth::Probe(Box::new(wire)), &[]).await;
                }
                Output::CancelProbe(ProbeId(id)) => {
                    self.probes_unanswered += u32::from(overdue);
                    self.health.tell(&ToHealth::Cancel { id }, &[]).await;
                }
                Output::Transition(transition) => {
                    log_transition(&transition);
                    self.untold.insert(transition.key);
                    self.state_due.get_or_insert_with(|| Instant::now() + STATE_DELAY);
                }
                Output::PoolChanged(_) => pools_changed = true,
            }
        }
        if pools_changed {
            self.reconcile_kernel();
            self.follow_ha();
            self.export_or_tell().await;
        }
        if !self.untold.is_empty() {
            self.tell_words().await;
        }
    }

    fn hear_health(&mut self, heard: Heard<FromHealth>) {
        let now = Instant::now();
        let current = self.health.link.as_ref().map(|l| l.id);
        self.probes_unanswered = 0;
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
}

/// Waits until the kernel's routes give other ways out; for ever without a datapath.
async fn ways_changed(kernel: &mut Option<Kernel>) {
    match kernel {
        Some(kernel) => kernel.ways_changed().await,
        None => std::future::pending().await,
    }
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
