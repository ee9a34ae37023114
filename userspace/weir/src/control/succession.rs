//! One control process in the place of another, without a gap: `weir upgrade`, `weir run --replace`.
//!
//! The successor is started beside the one that runs, and asks it for its place over the control socket. That one lets go of
//! everything at once, as if it had crashed, but with word left of what it knows, and from then on only waits. If the successor
//! ends, or says that it can't, before it serves, the one before takes back what is there and goes on, by its own configuration.
//!
//! ```text
//!   weir upgrade ─▶ control ───── starts ─────▶ successor: reads the configuration, looks at what is pinned
//!                      │ ◀── {"command":"replace"} ──┤
//!     last advert, all │                             │
//!     is let go of     ├──────── {"ok":true} ───────▶│ groups go on, programs load, the children are taken over
//!                      │                             │
//!                      │ ◀─────── {"ok":true} ───────┤ the relay serves
//!                    ends                            ▼
//! ```
//!
//! Nothing is decided by time but that a successor which never says anything is ended.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process,
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    child::{Note, end, wait_for_death},
    ending::Notice,
    state::{Control, RelayPhase, Signals},
};
use crate::{
    admin::api::{Answer, Request, Upgraded},
    cli::REPLACE,
    context::Loaded,
    notify,
};

/// How long a predecessor may take to let go: it waits for nothing.
const LETTING_GO: Duration = Duration::from_secs(10);
/// How long a successor may take until it serves: programs are verified, links waited for.
const SERVING: Duration = Duration::from_secs(120);
/// Longest word of one to the other, in bytes.
const WORD: u64 = 1 << 16;
/// A client that waits for the answer has it by then.
const ANSWER: Duration = Duration::from_millis(100);

/// What each says of itself.
#[derive(Serialize, Deserialize, Debug)]
struct Who {
    pid: u32,
    version: String,
}

impl Who {
    fn own() -> Self {
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Reads one answer. None: the other end is gone.
async fn read_answer(stream: &mut BufReader<UnixStream>) -> anyhow::Result<Option<Answer>> {
    let mut line = String::new();
    stream.take(WORD).read_line(&mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

async fn write_line(stream: &mut BufReader<UnixStream>, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    timeout(LETTING_GO, stream.write_all(&text))
        .await
        .context("it does not read")??;
    Ok(())
}

/// The process whose place this one has taken. It waits for word that this one serves.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl Predecessor {
    /// Has the control process behind a socket let go of everything. None: there is none.
    ///
    /// # Errors
    /// It refuses, and goes on as it was.
    pub(super) async fn relieve(socket: &Path) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| socket.display().to_string()),
        };
        let mut stream = BufReader::new(stream);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        write_line(&mut stream, &Request::Replace { version }).await?;
        let answer = timeout(LETTING_GO, read_answer(&mut stream))
            .await
            .context("the weir that runs does not answer; it goes on")??;
        let answer = answer.context("the weir that runs hung up, and may have ended; look at its log")?;
        match answer {
            Answer {
                ok: true,
                result: Some(value),
                ..
            } => {
                let Who { pid, version } = serde_json::from_value(value)?;
                info!(
                    pid,
                    version, "the control process before this one has let go of everything"
                );
                Ok(Some(Self { stream, pid }))
            }
            Answer { error, .. } => bail!(
                "the weir that runs does not make way: {}; it goes on as it was",
                error.unwrap_or_else(|| "it says nothing of why".to_owned())
            ),
        }
    }

    /// Tells it that this one serves, or why it does not.
    pub(super) async fn tell(mut self, outcome: Result<(), &anyhow::Error>) {
        let answer = match outcome {
            Ok(()) => Answer::result(&Who::own()),
            Err(error) => Answer::error(format!("{error:#}")),
        };
        if let Err(error) = write_line(&mut self.stream, &answer).await {
            warn!(
                pid = self.pid,
                error = format!("{error:#}"),
                "the control process before this one can't be told how it went"
            );
        }
    }
}

/// A process that has asked for this one's place.
pub(crate) struct Successor {
    stream: BufReader<UnixStream>,
    pid: Option<u32>,
    version: String,
}

/// What became of a successor.
enum Outcome {
    Serves(Who),
    Failed(String),
}

impl Successor {
    /// Who has asked by this connection.
    pub(crate) fn new(stream: UnixStream, version: String) -> Self {
        let peer = stream.peer_cred().ok();
        let pid = peer
            .and_then(|it| it.pid())
            .and_then(|pid| u32::try_from(pid).ok());
        Self {
            stream: BufReader::new(stream),
            pid,
            version,
        }
    }

    async fn answer(&mut self, answer: &Answer) {
        if let Err(error) = write_line(&mut self.stream, answer).await {
            warn!(
                error = format!("{error:#}"),
                "who asks for this one's place can't be answered"
            );
        }
    }

    /// Waits until it serves, or has failed. Signals that ask this process to end are its to obey: true, if one did.
    async fn outcome(&mut self, signals: &mut Signals) -> (Outcome, bool) {
        let until = tokio::time::Instant::now() + SERVING;
        let mut is_ending = false;
        let pid = self.pid;
        let pass_on = |signal| {
            if let Some(pid) = pid {
                super::child::signal(pid, signal);
            }
        };
        let read = read_answer(&mut self.stream);
        tokio::pin!(read);
        loop {
            let outcome = tokio::select! {
                answer = &mut read => match answer {
                    Ok(Some(Answer { ok: true, result: Some(value), .. })) => match serde_json::from_value(value) {
                        Ok(who) => Outcome::Serves(who),
                        Err(error) => Outcome::Failed(format!("it says what is no word of a successor: {error}")),
                    },
                    Ok(Some(Answer { error, .. })) => Outcome::Failed(error.unwrap_or_default()),
                    Ok(None) => Outcome::Failed("it has ended before it served; its log says why".to_owned()),
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                },
                () = tokio::time::sleep_until(until) => {
                    Outcome::Failed(format!("it did not serve within {} s", SERVING.as_secs()))
                }
                _ = signals.term.recv() => { is_ending = true; pass_on(Signal::SIGTERM); continue }
                _ = signals.int.recv() => { is_ending = true; pass_on(Signal::SIGINT); continue }
            };
            return (outcome, is_ending);
        }
    }
}

/// An upgrade that somebody has asked for, until the process that it starts asks for this one's place.
pub(super) struct Upgrade {
    child: process::Child,
    program: PathBuf,
    reply: oneshot::Sender<Answer>,
}

impl Upgrade {
    fn fails(self, why: &str) {
        let _ = self.reply.send(Answer::error(format!(
            "{why}; process {} goes on as it was",
            std::process::id()
        )));
    }
}

/// The program and arguments that this process was started by, without the wish to replace another.
fn command_line() -> (PathBuf, Vec<OsString>) {
    let mut args = std::env::args_os();
    let program = args.next().map_or_else(|| "/proc/self/exe".into(), PathBuf::from);
    (program, args.filter(|arg| arg != REPLACE).collect())
}

/// Waits for the end of the process that an upgrade has started; for ever without one.
pub(super) async fn upgrade_ended(upgrade: &mut Option<Upgrade>) -> io::Result<ExitStatus> {
    match upgrade {
        Some(upgrade) => upgrade.child.wait().await,
        None => std::future::pending().await,
    }
}

/// A process that is not there, or gone.
async fn make_sure_of_death(pid: Option<u32>) {
    let Some(pid) = pid else { return };
    if Note::of(pid).is_alive() {
        end(pid);
        wait_for_death(pid).await;
    }
}

impl Control {
    /// `weir upgrade`: starts the program anew as it now lies where this one was started from, to take this one's place.
    pub(super) fn upgrade(&mut self, reply: oneshot::Sender<Answer>, is_ending: bool) {
        let (program, args) = command_line();
        let done = match self.why_not_replaced(is_ending) {
            Some(why) => Err(why),
            None if !notify::can_change_main_process() => Err(
                "weir was started by a unit of systemd without Type=notify, which would take the change of its main process for \
                 its end; install the present unit (config/systemd/weir.service in the sources), and restart weir once"
                    .to_owned(),
            ),
            None => process::Command::new(&program)
                .args(args)
                .arg(REPLACE)
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
                });
            }
            Err(why) => {
                let _ = reply.send(Answer::error(why));
            }
        }
    }

    /// The process that an upgrade has started ended before it asked for this one's place.
    pub(super) fn upgrade_failed(&mut self, ended: io::Result<ExitStatus>) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        error!(
            program = %upgrade.program.display(),
            how,
            "the successor has ended at its start; this process goes on as it was"
        );
        let program = upgrade.program.display().to_string();
        let config = self.config_path.display();
        upgrade.fails(&format!(
            "{program} has ended at its start ({how}); weir's log says why, and `{program} check {config}` whether it likes the \
             configuration"
        ));
    }

    /// Why this process may not be replaced now.
    fn why_not_replaced(&self, is_ending: bool) -> Option<String> {
        if is_ending {
            Some("weir is stopping".to_owned())
        } else if self.upgrade.is_some() {
            Some("an upgrade is under way".to_owned())
        } else if self.relay_phase != RelayPhase::Serving || self.pending_reload.is_some() {
            Some("the relay does not serve the present configuration yet; ask again in a moment".to_owned())
        } else {
            None
        }
    }

    /// Somebody asks for this one's place. None: it is refused.
    pub(super) async fn may_be_replaced(
        &mut self,
        mut successor: Successor,
        is_ending: bool,
    ) -> Option<Successor> {
        let upgrade = self.upgrade.take();
        let is_it = { upgrade.as_ref() }.is_some_and(|it| it.child.id() == successor.pid);
        let why = match (&upgrade, is_it) {
            (Some(_), false) => Some("an upgrade is under way".to_owned()),
            (Some(_), true) | (None, _) => self.why_not_replaced(is_ending),
        };
        self.upgrade = upgrade;
        match why {
            Some(why) => {
                successor.answer(&Answer::error(why)).await;
                None
            }
            None => Some(successor),
        }
    }

    /// Whether some end is on its way.
    pub(super) const fn is_ending(
        &self,
        stop: Option<tokio::time::Instant>,
        notice: Option<&Notice>,
    ) -> bool {
        stop.is_some() || notice.is_some() || self.easing.is_some()
    }

    /// Tells whoever waits for it that this process serves, once it does.
    pub(super) async fn tell_of_service(&mut self, is_ending: bool) {
        if self.is_announced || !(is_ending || self.relay_phase == RelayPhase::Serving) {
            return;
        }
        self.is_announced = true;
        match self.predecessor.take() {
            // What is told to end now is this one.
            Some(predecessor) => predecessor.tell(Ok(())).await,
            None => notify::ready(),
        }
    }

    /// Makes way for a successor. The configuration to go on with, if that one fails; None: this process ends.
    pub(super) async fn make_way(
        mut self,
        mut successor: Successor,
        signals: &mut Signals,
    ) -> Option<Loaded> {
        info!(
            pid = successor.pid,
            version = successor.version,
            "another control process takes this one's place"
        );
        let upgrade = self.upgrade.take();
        let since = Instant::now();
        let loaded = self.let_go().await;
        successor.answer(&Answer::result(&Who::own())).await;
        let (outcome, is_ending) = successor.outcome(signals).await;
        let why = match outcome {
            Outcome::Serves(to) => {
                notify::main_process(to.pid);
                info!(
                    pid = to.pid,
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
                        to_pid: to.pid,
                    }));
                    sleep(ANSWER).await;
                }
                return None;
            }
            Outcome::Failed(why) => why,
        };
        make_sure_of_death(successor.pid).await;
        if is_ending {
            // It was told to end, and so was this one.
            return None;
        }
        error!(why, "the other one has failed; this process goes on");
        if let Some(upgrade) = upgrade {
            let program = upgrade.program.display().to_string();
            upgrade.fails(&format!("{program} can't take over: {why}"));
        }
        Some(loaded)
    }

    /// Lets go of everything: nothing ends, and a process that starts now finds what it needs.
    async fn let_go(self) -> Loaded {
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
