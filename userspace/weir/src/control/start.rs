//! Starting: everything in place and in order, or nothing left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::sync::mpsc;
use tracing::{error, info};
use weir_core::{
    engine::Engine,
    plan::{LogFormat, LogTarget, Plan, XdpMode},
};
use weir_datapath::vrrp::leases::Leases;

use super::{
    certificates::Certificates,
    child::{Child, Found, Recipe, Role, socket_beside},
    exports::Exporting,
    ha::{Ha, LINKS_COME},
    kernel::{Kernel, SyncChange},
    keys::Keys,
    saved::StateFile,
    sources,
    state::{Control, RelayPhase},
    succession::Predecessor,
};
use crate::{
    admin::{http::Endpoint, socket::ControlSocket},
    cli::{self, RunArgs},
    context::Loaded,
    ipc::{ToHealth, stats::RelayStats},
    notify, privileges,
};

/// Room for events from one child before its reader waits.
const HEARD: usize = 256;
/// Room for questions from outside.
const ASKS: usize = 64;
/// Sockets of one listener travel in one message: see SCM_MAX_FD in unix(7).
pub(super) const MAX_WORKERS: u16 = 253;
/// Whoever a service manager starts waits so long for the end of the one before. Short enough for its limit of starts in a row to
/// be reached (`StartLimitIntervalSec` of the unit).
const LOCK: Duration = Duration::from_secs(4);
/// Pause between looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// In whose place a control process starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InPlace {
    /// Nobody's, or that of one that has died.
    Free,
    /// That of one that runs, if one does.
    Replaces,
    /// That of one that waits for how it goes.
    Relieved,
    /// Its own, which it had given away in vain.
    TakesBack,
}

impl InPlace {
    /// Whether somebody goes on, or tries once more, if this start fails.
    const fn is_tried_again(self) -> bool {
        matches!(self, Self::Relieved | Self::TakesBack)
    }
}

impl Control {
    /// Starts everything.
    pub(super) async fn start(args: &RunArgs, loaded: Loaded, place: InPlace) -> anyhow::Result<Self> {
        let socket = loaded.plan.admin.socket.clone();
        let dir = socket
            .parent()
            .context("admin.socket: give a path with a directory")?;
        private_dir(dir)?;
        let (mut predecessor, mut place) = (None, place);
        if place == InPlace::Replaces {
            // What can be seen to be in the way is seen before anybody lets go of anything.
            privileges::child_user(&loaded.plan.node.user)?;
            if loaded.plan.node.xdp != XdpMode::Off {
                Kernel::check_predecessor(&loaded, dir, args.discard_flows)?;
            }
            predecessor = Predecessor::relieve(&socket, &loaded.plan).await?;
            if predecessor.is_none() {
                info!(socket = %socket.display(), "no weir runs with this control socket: there is none to replace");
            }
            place = match &predecessor {
                Some(_) => InPlace::Relieved,
                None => InPlace::Free,
            };
        }
        match (Self::start_in_place(args, loaded, place).await, predecessor) {
            (Ok(control), predecessor) => Ok(Self {
                predecessor,
                ..control
            }),
            (Err(error), None) => Err(error),
            (Err(error), Some(predecessor)) => {
                error!(
                    error = format!("{error:#}"),
                    "this process can't take over; the one before goes on"
                );
                predecessor.tell(Err(&error)).await;
                Err(error)
            }
        }
    }

    async fn start_in_place(args: &RunArgs, loaded: Loaded, place: InPlace) -> anyhow::Result<Self> {
        let plan = &loaded.plan;
        let socket = plan.admin.socket.clone();
        let dir = socket
            .parent()
            .context("admin.socket: give a path with a directory")?;
        let lock = lock(&socket, place).await?;
        let user = privileges::child_user(&plan.node.user)?;
        let workers = match plan.node.workers {
            Some(workers) => workers,
            None => u16::try_from(std::thread::available_parallelism()?.get())
                .unwrap_or(MAX_WORKERS)
                .min(MAX_WORKERS),
        };
        // Programs take seconds to load. Where groups of virtual routers can go on without, by tables of the same layout, they do
        // so first.
        let leases = match plan.node.xdp != XdpMode::Off && Ha::may_resume(&socket, plan) {
            true => Leases::open(&plan.node.pins).ok(),
            false => None,
        };
        let resumes = leases.is_some();
        // What is most likely to be in the way comes before anything is touched.
        let (ask, asks) = mpsc::channel(ASKS);
        let control_socket = ControlSocket::serve(&socket, ask.clone())?;
        let endpoint = match plan.admin.http {
            Some(addr) => Some(Endpoint::serve(addr, ask).await?),
            None => None,
        };
        let kernel = match plan.node.xdp {
            XdpMode::Native | XdpMode::Generic if !resumes => {
                Some(Kernel::open(&loaded, dir, args.discard_flows, None)?)
            }
            XdpMode::Off | XdpMode::Native | XdpMode::Generic => None,
        };

        let now = Instant::now();
        let state_file = StateFile::beside(&socket);
        let mut engine = Engine::new(seed());
        engine.restore(state_file.read());
        engine.apply(plan.clone(), now);

        let (relay_tell, relay_heard) = mpsc::channel(HEARD);
        let (health_tell, health_heard) = mpsc::channel(HEARD);
        let (keys_tell, keys_heard) = mpsc::channel(HEARD);
        let log = [
            "--log-format",
            args.log.log_format.as_str(),
            "--log-level",
            &args.log.log_level,
        ]
        .map(str::to_owned);
        let mut relay_args = vec!["--workers".to_owned(), workers.to_string()];
        relay_args.extend(access_log(args, plan)?);
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
        let keys_recipe = Recipe {
            role: Role::Keys,
            socket: socket_beside(&socket, Role::Keys),
            args: log.to_vec(),
            user,
        };
        privileges::raise_locked_memory_limit();

        let exporting = Exporting::new().context("a netlink socket for exported routes")?;
        let mut control = Self {
            config_path: args.config.clone(),
            generation: 1,
            reload_error: None,
            reloads_refused: 0,
            started: now,
            started_epoch: SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64()),
            engine,
            kernel,
            exporting,
            ha: Ha::new(&socket, leases),
            workers,
            listeners: BTreeMap::new(),
            relay_has: BTreeSet::new(),
            relay: Child::new(relay_recipe, relay_tell, now),
            relay_phase: RelayPhase::Missing,
            easing: None,
            relief: None,
            upgrade: None,
            predecessor: None,
            health: Child::new(health_recipe, health_tell, now),
            keys: Keys::new(Child::new(keys_recipe, keys_tell, now), keys_heard),
            certificates: Certificates::default(),
            stats: RelayStats::default(),
            next_stats: 0,
            waiting: Vec::new(),
            pending_reload: None,
            untold: BTreeSet::new(),
            retiring: Vec::new(),
            relay_ping: None,
            probes_unanswered: 0,
            state_file,
            state_due: Some(now),
            relay_heard,
            health_heard,
            asks,
            loaded,
            control_socket,
            endpoint,
            lock,
        };
        match control
            .bring_everything_up(place, resumes, args.discard_flows)
            .await
        {
            Ok(()) => Ok(control),
            Err(error) => {
                control.abandon(resumes, place.is_tried_again()).await;
                Err(error)
            }
        }
    }

    async fn bring_everything_up(
        &mut self,
        place: InPlace,
        resumes: bool,
        discard_flows: bool,
    ) -> anyhow::Result<()> {
        if resumes {
            self.resume_ha().await;
            let leases = self.ha.take_leases();
            let dir = self.loaded.plan.admin.socket.parent();
            let dir = dir.context("admin.socket: give a path with a directory")?;
            self.kernel = Some(Kernel::open(&self.loaded, dir, discard_flows, leases)?);
        }
        self.adopt_or_start_health().await.context("health process")?;
        self.adopt_or_start_relay().await.context("relay process")?;
        self.adopt_or_start_keys(place == InPlace::TakesBack)
            .await
            .context("keys process")?;
        self.connect_signers().await?;
        let plan = self.loaded.plan.clone();
        // What was read a while ago is looked at anew.
        if !place.is_tried_again() {
            self.certificates.taken(&plan, None);
        }
        sources::check(&plan, self.kernel.as_ref()).await?;
        let mut sync_change = SyncChange::Nothing;
        if let Some(kernel) = &mut self.kernel {
            kernel.check_ways(&plan).await?;
            sync_change = kernel.check_sync(&plan)?;
            kernel.source_addresses(&plan).await?;
            kernel.uplinks(&plan).await?;
        }
        let opened = self.open_listeners(&plan)?;
        self.listeners.extend(opened);
        self.configure_relay().await?;
        self.carry_out().await;
        let virtual_routers = self.prepare_ha(LINKS_COME).await.context("virtual routers")?;
        let wanted = self.wanted(&plan);
        if let Some(kernel) = &mut self.kernel {
            kernel.lists(&plan.lists)?;
            kernel.reconcile(&wanted)?;
            kernel.change_sync(sync_change)?;
            kernel.steer(&plan, &self.listeners)?;
            kernel.take_in(&plan, &self.listeners, false).await?;
            kernel.link_addresses(&[&plan], false)?;
            kernel.attach()?;
            kernel.addresses(&plan).await?;
        }
        self.begin_ha(virtual_routers, false)
            .await
            .context("virtual routers")?;
        self.begin_export().await
    }

    async fn adopt_or_start_health(&mut self) -> anyhow::Result<()> {
        match self.health.find(Instant::now()).await? {
            Some(Found::AsWanted) => return Ok(()),
            Some(Found::Different) => {
                // It holds nothing that its successor would need.
                self.health.tell(&ToHealth::Stop, &[]).await;
                self.health.set_aside();
            }
            None => {}
        }
        self.health.start(Instant::now()).await
    }
}

/// The directory of the sockets. Nobody else may put sockets there, so it must be root's or our own.
fn private_dir(dir: &Path) -> anyhow::Result<()> {
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
    // In a sticky directory others can add, which is noticed, but not replace.
    anyhow::ensure!(
        metadata.mode() & 0o022 == 0 || metadata.mode() & 0o1000 != 0,
        "{} may be written by others (mode {:o}); `chmod go-w` it, or set admin.socket to a path elsewhere",
        dir.display(),
        metadata.mode() & 0o7777
    );
    Ok(())
}

/// One control process per control socket. One that a service manager starts may come before the end of the one before: it
/// waits.
async fn lock(socket: &Path, place: InPlace) -> anyhow::Result<Flock<File>> {
    let path = socket.with_extension("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .with_context(|| {
            format!(
                "{}: can't be opened; set admin.socket to a path you may write to",
                path.display()
            )
        })?;
    let waits = place == InPlace::Free && notify::can_be_told();
    let until = Instant::now() + if waits { LOCK } else { Duration::ZERO };
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    info!(socket = %socket.display(), "another weir runs with this control socket: waiting for its end");
                }
                file = unlocked;
                tokio::time::sleep(LOOK).await;
            }
            Err((_, errno)) => anyhow::bail!(
                "another weir runs with admin.socket {} ({errno}); stop it, or give this one another admin.socket",
                socket.display()
            ),
        }
    }
}

/// The relay's arguments for its access log. It runs in another directory: a file's path is made absolute.
fn access_log(args: &RunArgs, plan: &Plan) -> anyhow::Result<Vec<String>> {
    let log = &plan.access_log;
    let to = match args.access_log.as_deref().map(LogTarget::from_word) {
        None => log.to.clone(),
        Some(LogTarget::File(path)) => {
            let absolute = std::path::absolute(&path);
            LogTarget::File(absolute.with_context(|| format!("--access-log {}", path.display()))?)
        }
        Some(word) => word,
    };
    if let LogTarget::File(path) = &to
        && path.to_str().is_none()
    {
        anyhow::bail!("--access-log {}: not UTF-8", path.display());
    }
    if let Some(word) = args.access_log.as_deref()
        && matches!(to, LogTarget::File(_))
        && word.starts_with("syslog")
    {
        anyhow::bail!(
            "--access-log {word} names no syslog daemon; write syslog, syslog:/PATH or syslog:ADDRESS:PORT, then ,FACILITY if \
             need be, or ./{word} for a file"
        );
    }
    let as_the_log = match args.log.log_format {
        cli::LogFormat::Human => LogFormat::Human,
        cli::LogFormat::Json => LogFormat::Json,
    };
    let format = log.format.unwrap_or(as_the_log).as_str();
    let mut told = vec![
        "--access-log".to_owned(),
        to.to_string(),
        "--access-format".to_owned(),
        format.to_owned(),
    ];
    if log.null {
        told.push("--access-null".to_owned());
    }
    Ok(told)
}

fn seed() -> u64 {
    // The standard library's hasher keys are the operating system's randomness; nothing here must be unguessable.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
