//! Who makes way for a successor: starts it if asked to, lets go of everything, and takes it back if that one fails.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rustix::process::Pid;
use tokio::{
    io::BufReader,
    net::UnixStream,
    process,
    sync::oneshot,
    time::{Instant as TokioInstant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{STARTED_BY, Who, is_there, pins, read_answer, write_line};
use crate::{
    admin::api::{Answer, Upgraded},
    cli::{REPLACE, RunArgs},
    context::Loaded,
    control::{
        child::{Note, wait_for_death},
        ending::Notice,
        start::InPlace,
        state::{Control, RelayPhase, Signals},
    },
    notify,
};

/// How long a process that an upgrade has started may take until it asks for this one's place: it reads files.
const ASKING: Duration = Duration::from_secs(60);
/// How long a successor may take until it serves: programs are verified, links waited for.
const SERVING: Duration = Duration::from_secs(120);
/// The same once this process was told to end. Shorter than what a service manager waits (`TimeoutStopSec` of the unit).
const ENDING: Duration = Duration::from_secs(20);
/// Who has said that it gives up has ended by itself by then.
const GIVING_UP: Duration = Duration::from_secs(2);
/// Before this process ends: whoever waits for its answer has it by then, and signals are passed on.
const ANSWER: Duration = Duration::from_millis(100);
/// How often this process tries to take back what it has let go of, and the pause between. A successor that was killed
/// may hold something for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// A process that has asked for this one's place.
pub(crate) struct Successor {
    stream: BufReader<UnixStream>,
    /// None: it is of another PID namespace, or gone.
    note: Option<Note>,
    version: String,
    /// Where its tables are pinned.
    pins: String,
}

/// What became of a successor.
enum Outcome {
    Serves(Who),
    /// It has said why not, and ends by itself.
    GivesUp(String),
    Failed(String),
}

/// How it went on.
pub(in crate::control) enum Way {
    /// The other one has this one's place.
    Over,
    /// This one has it again.
    Back(Box<Back>),
}

/// What is to be taken back.
pub(in crate::control) struct Back {
    /// The configuration to go on with.
    loaded: Loaded,
    /// Who has asked for an upgrade, and what came of it.
    reply: Option<(oneshot::Sender<Answer>, String)>,
    /// It was asked to end meanwhile.
    end: Option<Signal>,
}

impl Successor {
    /// Who has asked by this connection.
    pub(crate) fn new(stream: UnixStream, version: String, pins: String) -> Self {
        let peer = stream.peer_cred().ok().and_then(|it| it.pid());
        // 0: it is of another PID namespace.
        let pid = peer
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0);
        Self {
            stream: BufReader::new(stream),
            note: pid.map(Note::of),
            version,
            pins,
        }
    }

    fn pid(&self) -> Option<u32> {
        self.note.as_ref().map(Note::pid)
    }

    async fn answer(&mut self, answer: &Answer) {
        if let Err(error) = write_line(&mut self.stream, answer).await {
            warn!(
                error = format!("{error:#}"),
                "who asks for this one's place can't be answered"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(note) = &self.note {
            note.signal(signal);
        }
    }

    /// Waits until it serves, or has failed. A signal that asks this process to end is its to obey.
    async fn outcome(&mut self, signals: &mut Signals) -> (Outcome, Option<Signal>) {
        let mut until = TokioInstant::now() + SERVING;
        let mut end = None;
        let note = &self.note;
        let mut read = Box::pin(read_answer(&mut self.stream));
        loop {
            let outcome = tokio::select! {
                biased;
                signal = signals.asks_to_end() => {
                    end = Some(signal);
                    until = until.min(TokioInstant::now() + ENDING);
                    if let Some(note) = note {
                        note.signal(signal);
                    }
                    continue
                }
                answer = &mut read => match answer {
                    Ok(Some(Answer { ok: true, result: Some(value), .. })) => match serde_json::from_value(value) {
                        Ok(who) => Outcome::Serves(who),
                        Err(error) => Outcome::Failed(format!("it says what is no word of a successor: {error}")),
                    },
                    Ok(Some(Answer { error, .. })) => {
                        Outcome::GivesUp(error.unwrap_or_else(|| "it says nothing of why".to_owned()))
                    }
                    Ok(None) => Outcome::Failed("it has ended before it served; its log says why".to_owned()),
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                },
                () = sleep_until(until) => Outcome::Failed("it did not serve in time".to_owned()),
            };
            return (outcome, end);
        }
    }

    /// Waits for its end, if it ends by itself, and sees to it otherwise.
    async fn bury(&self, by_itself: bool) {
        let Some(note) = &self.note else { return };
        let until = Instant::now() + GIVING_UP;
        while by_itself && note.is_alive() && Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
        }
        if note.is_alive() {
            note.signal(Signal::SIGKILL);
            wait_for_death(note).await;
        }
    }
}

/// An upgrade that somebody has asked for, until the process that it starts asks for this one's place.
pub(in crate::control) struct Upgrade {
    child: process::Child,
    program: PathBuf,
    reply: oneshot::Sender<Answer>,
    until: TokioInstant,
}

impl Upgrade {
    fn fails(self, why: &str) {
        let _ = self.reply.send(Answer::error(goes_on(why)));
    }

    fn under_way(&self) -> String {
        let pid = self
            .child
            .id()
            .map_or_else(String::new, |pid| format!(" (process {pid})"));
        format!("an upgrade is under way{pid}")
    }
}

fn goes_on(why: &str) -> String {
    format!("{why}; process {} goes on as it was", std::process::id())
}

/// The program and arguments that this process was started by, without the wish to replace another: as they were written where
/// that is a path, since what it leads to may be another file by now; else the file that runs.
fn command_line() -> (PathBuf, Vec<OsString>) {
    let mut args = std::env::args_os();
    let written = args.next().map(PathBuf::from).filter(|path| path.is_absolute());
    let program = written.unwrap_or_else(|| {
        let file = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| "weir".into());
        // proc_pid_exe(5), of a file that was replaced.
        match file.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
            Some(path) => Path::new(std::ffi::OsStr::from_bytes(path)).to_owned(),
            None => file,
        }
    });
    (program, args.filter(|arg| arg != REPLACE).collect())
}

/// Waits until the process that an upgrade has started ends without having asked for this one's place: how; or is too late with
/// it, and is ended. For ever without an upgrade.
pub(in crate::control) async fn upgrade_over(upgrade: &mut Option<Upgrade>) -> String {
    let Some(Upgrade { child, until, .. }) = upgrade else {
        return std::future::pending().await;
    };
    tokio::select! {
        ended = child.wait() => ended.map_or_else(|error| error.to_string(), |status| status.to_string()),
        () = sleep_until(*until) => {
            if let Err(error) = child.kill().await {
                warn!(%error, "a process that was started for an upgrade can't be ended");
            }
            format!("it did nothing for {} s, and was killed", ASKING.as_secs())
        }
    }
}

impl Control {
    /// `weir upgrade`: starts the program anew as it now lies where this one was started from, to take this one's place.
    pub(in crate::control) fn upgrade(&mut self, reply: oneshot::Sender<Answer>, is_ending: bool) {
        let (program, args) = command_line();
        let done = match self.why_not_replaced(is_ending) {
            Some(why) => Err(why),
            None => process::Command::new(&program)
                .args(args)
                .arg(REPLACE)
                .env(STARTED_BY, std::process::id().to_string())
                .spawn()
                .map_err(|error| format!("{} can't be started: {error}", program.display())),
        };
        match done {
            Ok(child) => {
                info!(program = %program.display(), pid = child.id(), "an upgrade: a successor is started");
                self.upgrade = Some(Upgrade {
                    child,
                    program,
                    reply,
                    until: TokioInstant::now() + ASKING,
                });
            }
            Err(why) => {
                let _ = reply.send(Answer::error(goes_on(&why)));
            }
        }
    }

    /// The process that an upgrade has started is no more, and has not asked for this one's place.
    pub(in crate::control) fn upgrade_failed(&mut self, how: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let program = upgrade.program.display().to_string();
        error!(
            program,
            how, "the successor has ended at its start; this process goes on as it was"
        );
        let config = self.config_path.display();
        upgrade.fails(&format!(
            "{program} has ended at its start ({how}); weir's log says why, and `{program} check {config}` whether it likes the \
             configuration"
        ));
    }

    /// This process ends: what an upgrade has started is not to come after it.
    pub(in crate::control) async fn abandon_upgrade(&mut self) {
        let Some(mut upgrade) = self.upgrade.take() else {
            return;
        };
        if let Err(error) = upgrade.child.kill().await {
            warn!(%error, "a process that was started for an upgrade can't be ended");
        }
        let _ = upgrade.reply.send(Answer::error("weir is stopping"));
    }

    /// What an upgrade under way is in the way of, if one is.
    pub(in crate::control) fn waits_for_upgrade(&self) -> Option<Answer> {
        let upgrade = self.upgrade.as_ref()?;
        Some(Answer::error(format!(
            "{}; ask again once it is over",
            upgrade.under_way()
        )))
    }

    /// Why this process may not be replaced now.
    fn why_not_replaced(&self, is_ending: bool) -> Option<String> {
        if is_ending {
            Some("weir is stopping".to_owned())
        } else if let Some(upgrade) = &self.upgrade {
            Some(upgrade.under_way())
        } else if self.relief.is_some() {
            Some("a hand-over is under way (`weir demote --drain`); ask again once it is over".to_owned())
        } else if rustix::process::getpid() == Pid::INIT {
            Some(
                "weir is the first process of its PID namespace, which ends with it; start another container in its place"
                    .to_owned(),
            )
        } else if !notify::can_change_main_process() {
            Some(
                "weir was started by a unit of systemd without Type=notify, which would take the change of its main process for \
                 its end; install the present unit (config/systemd/weir.service in the sources), and restart weir once"
                    .to_owned(),
            )
        } else if self.relay_phase != RelayPhase::Serving || self.pending_reload.is_some() {
            Some("the relay does not serve the present configuration yet; ask again in a moment".to_owned())
        } else {
            None
        }
    }

    /// Somebody asks for this one's place. None: it is refused.
    pub(in crate::control) async fn may_be_replaced(
        &mut self,
        mut successor: Successor,
        is_ending: bool,
    ) -> Option<Successor> {
        let upgrade = self.upgrade.take();
        let is_it = { upgrade.as_ref() }.is_some_and(|it| it.child.id() == successor.pid());
        let own = pins(&self.loaded.plan);
        let why = match &upgrade {
            Some(upgrade) if !is_it => Some(upgrade.under_way()),
            Some(_) | None if own != successor.pins => {
                let told = |pins: &str| match pins {
                    "" => "no XDP".to_owned(),
                    pins => format!("XDP with node.pins {pins}"),
                };
                Some(format!(
                    "it has {}, this one {}: that changes with a restart only",
                    told(&successor.pins),
                    told(&own)
                ))
            }
            None if notify::can_be_told() => Some(
                "a service manager watches over this one, and would not watch over the other: use `weir upgrade`".to_owned(),
            ),
            Some(_) | None => self.why_not_replaced(is_ending),
        };
        match why {
            Some(why) => {
                successor.answer(&Answer::error(&*why)).await;
                match upgrade {
                    Some(upgrade) if is_it => {
                        let program = upgrade.program.display().to_string();
                        upgrade.fails(&format!("{program} can't take over: {why}"));
                    }
                    other => self.upgrade = other,
                }
                None
            }
            // Whoever has given up waiting would leave this place empty.
            None if !is_there(&successor.stream) => {
                self.upgrade = upgrade;
                None
            }
            None => {
                self.upgrade = upgrade;
                Some(successor)
            }
        }
    }

    /// Whether some end is on its way.
    pub(in crate::control) const fn is_ending(
        &self,
        stop: Option<TokioInstant>,
        notice: Option<&Notice>,
    ) -> bool {
        stop.is_some() || notice.is_some() || self.easing.is_some()
    }

    /// Makes way for a successor, and waits for what comes of it.
    pub(in crate::control) async fn make_way(
        mut self,
        mut successor: Successor,
        signals: &mut Signals,
    ) -> Way {
        info!(
            pid = successor.pid(),
            version = successor.version,
            "another control process takes this one's place"
        );
        let upgrade = self.upgrade.take();
        let since = Instant::now();
        let loaded = self.let_go().await;
        successor.answer(&Answer::result(&Who::own())).await;
        let (outcome, end) = successor.outcome(signals).await;
        let (why, by_itself) = match outcome {
            Outcome::Serves(to) => {
                let to_pid = successor.pid().unwrap_or(to.pid);
                notify::main_process(to_pid);
                info!(
                    pid = to_pid,
                    version = to.version,
                    within_ms = since.elapsed().as_millis(),
                    "the other one serves; this process ends"
                );
                if let Some(Upgrade { reply, .. }) = upgrade {
                    let from = Who::own();
                    let _ = reply.send(Answer::result(&Upgraded {
                        from: from.version,
                        from_pid: from.pid,
                        to: to.version,
                        to_pid,
                    }));
                }
                let until = TokioInstant::now() + ANSWER;
                loop {
                    tokio::select! {
                        biased;
                        signal = signals.asks_to_end() => successor.signal(signal),
                        () = sleep_until(until) => return Way::Over,
                    }
                }
            }
            Outcome::GivesUp(why) => (why, true),
            Outcome::Failed(why) => (why, false),
        };
        error!(
            why,
            "the other one has failed; this process takes its place again"
        );
        successor.bury(by_itself).await;
        let reply = upgrade.map(|Upgrade { program, reply, .. }| {
            let why = format!("{} can't take over: {why}", program.display());
            (reply, goes_on(&why))
        });
        Way::Back(Box::new(Back { loaded, reply, end }))
    }

    /// Takes back what was let go of, and tells who has asked for it what came of the upgrade.
    ///
    /// # Errors
    /// It can't be had, after some tries.
    pub(in crate::control) async fn take_back(args: &RunArgs, back: Back) -> anyhow::Result<Self> {
        let Back { loaded, reply, end } = back;
        let mut tries = 1;
        let control = loop {
            match Self::start(args, loaded.clone(), InPlace::TakesBack).await {
                Ok(control) => break control,
                Err(error) if tries < TRIES => {
                    warn!(error = format!("{error:#}"), "it is tried again");
                    tries += 1;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        info!("this process has taken back what it had let go of");
        if let Some((reply, told)) = reply {
            let _ = reply.send(Answer::error(told));
        }
        if let Some(signal) = end {
            // As if it came now.
            nix::sys::signal::raise(signal)?;
        }
        Ok(control)
    }

    /// Lets go of everything: nothing ends, and a process that starts now finds what it needs.
    pub(in crate::control) async fn let_go(self) -> Loaded {
        let Self {
            loaded,
            mut ha,
            kernel,
            endpoint,
            engine,
            state_file,
            relay,
            health,
            keys,
            control_socket,
            lock,
            ..
        } = self;
        if let Err(error) = state_file.write(engine.export(Instant::now())) {
            warn!(
                error = format!("{error:#}"),
                "health can't be saved for a successor"
            );
        }
        if let Some(kernel) = kernel {
            kernel.keep();
        }
        if let Some(endpoint) = endpoint {
            endpoint.close().await;
        }
        drop((relay, health, keys, control_socket, lock));
        // At the very last: from the last advert on the time runs.
        ha.hand_on();
        loaded
    }
}
