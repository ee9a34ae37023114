//! A child process as control sees it: found running or started, greeted, listened to, replaced when it dies.
//!
//! The child holds a listening socket at a known path; whoever can connect to it is control. So a control process that
//! starts anew finds the children of its predecessor, and treats a child it has started just the same.

use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::{debug, info, warn};

use crate::ipc::{self, Channel, Greeting};

/// A child that does not say hello within this time is stuck.
const GREETING: Duration = Duration::from_secs(10);
/// A child that does not take a message within this time is stuck.
const SEND: Duration = Duration::from_secs(5);
/// Pause before the first, and before every later start in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A child that has lived this long starts the count anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Which child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Relay,
    Health,
}

impl Role {
    /// The word for it: on the command line, in logs, metrics and status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Health => "health",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) role: Role,
    /// Where its listening socket is bound.
    pub(crate) socket: PathBuf,
    /// Arguments after `weir role ROLE`.
    pub(crate) args: Vec<String>,
    /// Whom it runs as; None: as we do.
    pub(crate) user: Option<(Uid, Gid)>,
}

/// What control hears of its children. `link` tells one connection from those before it.
#[derive(Debug)]
pub(crate) enum Heard<M> {
    Message {
        link: u64,
        message: M,
        fds: Vec<OwnedFd>,
    },
    /// The connection is gone, and most likely the process.
    Gone { link: u64, why: String },
}

/// A connection to a living child.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) since: Instant,
    /// It was there before this control process.
    pub(crate) adopted: bool,
    channel: Rc<Channel>,
    reader: JoinHandle<()>,
}

impl Link {
    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The child is gone or does not read.
    pub(crate) async fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        timeout(SEND, self.channel.send(message, fds))
            .await
            .context("it does not read its messages")?
    }

    /// Ends the process without asking.
    pub(crate) fn kill(&self) {
        end(self.pid, Signal::SIGKILL);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn end(pid: u32, signal: Signal) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        debug!(pid, %error, "the process is gone already");
    }
}

/// One child: its recipe, and its link while it lives.
pub(crate) struct Child<M> {
    pub(crate) recipe: Recipe,
    pub(crate) link: Option<Link>,
    /// Started again after a death.
    pub(crate) restarts: u64,
    /// When it was last found missing.
    pub(crate) missing_since: Instant,
    /// When to try (again), while it is missing.
    pub(crate) retry_at: Instant,
    pause: Duration,
    next_link: u64,
    heard: mpsc::Sender<Heard<M>>,
}

impl<M: DeserializeOwned + Greeting + 'static> Child<M> {
    pub(crate) fn new(recipe: Recipe, heard: mpsc::Sender<Heard<M>>, now: Instant) -> Self {
        let pause = BACKOFF.0;
        Self {
            recipe,
            link: None,
            restarts: 0,
            missing_since: now,
            retry_at: now,
            pause,
            next_link: 0,
            heard,
        }
    }

    /// Finds the child running or starts it, and hears its greeting, which is returned.
    ///
    /// # Errors
    /// It can't be started, or does not greet as it should.
    pub(crate) async fn bring_up(&mut self, now: Instant) -> anyhow::Result<M> {
        let role = self.recipe.role;
        if let Some(channel) = ipc::connect(&self.recipe.socket).context("its socket")? {
            match greet::<M>(&channel).await {
                Ok(greeting)
                    if greeting
                        .hello()
                        .is_some_and(|(version, _)| version == ipc::VERSION) =>
                {
                    return Ok(self.attach(channel, greeting, true, now));
                }
                Ok(greeting) => {
                    let (version, pid) = greeting.hello().map_or(("?", 0), |(v, pid)| (v, pid));
                    info!(%role, pid, version, "a running process of another version is told to end, a new one starts");
                    // It drains and exits on its own; its listening socket gives way to the new one's.
                    end(pid, Signal::SIGTERM);
                }
                Err(error) => {
                    warn!(%role, %error, "a running process does not answer; a new one starts in its place")
                }
            }
        }
        let channel = self.spawn()?;
        let greeting = greet::<M>(&channel)
            .await
            .with_context(|| format!("the {role} process, just started"))?;
        Ok(self.attach(channel, greeting, false, now))
    }

    fn attach(&mut self, channel: Channel, greeting: M, adopted: bool, now: Instant) -> M {
        let role = self.recipe.role;
        let pid = greeting.hello().map_or(0, |(_, pid)| pid);
        self.next_link += 1;
        let (id, channel) = (self.next_link, Rc::new(channel));
        let reader = tokio::task::spawn_local(listen(id, Rc::clone(&channel), self.heard.clone()));
        self.link = Some(Link {
            id,
            pid,
            since: now,
            adopted,
            channel,
            reader,
        });
        if adopted {
            info!(%role, pid, "found running, taken over");
        } else {
            info!(%role, pid, "started");
        }
        greeting
    }

    fn spawn(&self) -> anyhow::Result<Channel> {
        let Recipe {
            role,
            socket,
            args,
            user,
        } = &self.recipe;
        let listener = ipc::bind(socket)?;
        // Connected before the child exists: the greeting waits in the backlog, and nobody can come between.
        let channel =
            ipc::connect(socket)?.with_context(|| format!("{}: nobody listens", socket.display()))?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg("role")
            .arg(role.as_str())
            .args(args)
            .stdin(Stdio::from(listener))
            .current_dir("/");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Some((uid, gid)) = user {
            std::os::unix::process::CommandExt::uid(&mut command, uid.as_raw());
            std::os::unix::process::CommandExt::gid(&mut command, gid.as_raw());
        }
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("the {role} process can't be started"))?;
        let role = *role;
        tokio::task::spawn_local(async move {
            match child.wait().await {
                Ok(status) if status.success() => debug!(%role, "exited"),
                Ok(status) => warn!(%role, %status, "died"),
                Err(error) => warn!(%role, %error, "can't be waited for"),
            }
        });
        Ok(channel)
    }

    /// The link is gone. When to bring it up again is in `retry_at`.
    pub(crate) fn lost(&mut self, now: Instant) {
        if let Some(link) = self.link.take() {
            self.pause = if now.duration_since(link.since) >= SETTLED {
                BACKOFF.0
            } else {
                self.pause
            };
            self.restarts += 1;
        }
        self.missing_since = now;
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(BACKOFF.1);
    }

    /// It is told to end and of no more interest; another may be brought up beside it.
    pub(crate) fn retire(&mut self) {
        self.link = None;
    }

    /// Sends a message, if it lives. A child that can't be sent to is killed: its death is noticed and mended.
    pub(crate) async fn tell(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) {
        if let Some(link) = &self.link
            && let Err(error) = link.send(message, fds).await
        {
            warn!(role = %self.recipe.role, pid = link.pid, %error, "can't be told anything, is killed");
            link.kill();
        }
    }
}

async fn greet<M: DeserializeOwned + Greeting>(channel: &Channel) -> anyhow::Result<M> {
    let greeting = timeout(GREETING, channel.receive::<M>())
        .await
        .with_context(|| format!("no greeting within {} s", GREETING.as_secs()))??;
    match greeting {
        Some((message, _)) if message.hello().is_some() => Ok(message),
        Some(_) => bail!("its first message is no greeting"),
        None => bail!("it hung up before its greeting"),
    }
}

async fn listen<M: DeserializeOwned>(link: u64, channel: Rc<Channel>, heard: mpsc::Sender<Heard<M>>) {
    loop {
        let item = match channel.receive::<M>().await {
            Ok(Some((message, fds))) => Heard::Message { link, message, fds },
            Ok(None) => Heard::Gone {
                link,
                why: "it hung up".to_owned(),
            },
            Err(error) => Heard::Gone {
                link,
                why: format!("{error:#}"),
            },
        };
        let last = matches!(item, Heard::Gone { .. });
        if heard.send(item).await.is_err() || last {
            return;
        }
    }
}

/// Path of a child's socket, beside the control socket.
pub(crate) fn socket_beside(control: &Path, role: Role) -> PathBuf {
    control.with_file_name(format!("{role}.sock"))
}
