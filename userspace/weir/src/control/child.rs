//! A child process as control sees it: found running or started, greeted, listened to, replaced when it dies.
//!
//! The child holds a listening socket at a known path; whoever can connect to it is control. So a control process that
//! starts anew finds the children of its predecessor, and treats a child it has started just the same. What it knows of
//! a child's process id it knows from itself, or from the note that its predecessor left: never from the child.

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
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::{debug, info, warn};

use crate::ipc::{self, Channel, Greeting};

/// A child that does not say hello within this time is stuck.
const GREETING: Duration = Duration::from_secs(5);
/// A child that does not take a message within this time is stuck.
const SEND: Duration = Duration::from_secs(5);
/// A killed process is gone by then, and what it held is free.
const DEATH: Duration = Duration::from_secs(2);
/// Pause before the first, and before every later start in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A child that has lived this long starts the count anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Which child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Relay,
    Health,
    Keys,
}

impl Role {
    /// The word for it: on the command line, in logs, metrics and status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Health => "health",
            Self::Keys => "keys",
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

impl Recipe {
    /// What a process started by this recipe says of itself.
    fn identity(&self) -> String {
        let uid = self.user.map_or_else(Uid::effective, |(uid, _)| uid);
        ipc::identity(uid, &self.args)
    }
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
    /// None: it was found running, and nobody left word of its process id.
    pub(crate) pid: Option<u32>,
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
        if let Some(pid) = self.pid {
            end(pid);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// SIGKILL.
fn end(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

/// Never to ourselves, a group, or init.
fn signal(pid: u32, signal: Signal) {
    match i32::try_from(pid) {
        Ok(pid) if pid > 1 => {
            if let Err(error) = kill(Pid::from_raw(pid), signal) {
                debug!(pid, %error, "the process is gone already");
            }
        }
        Ok(_) | Err(_) => {}
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

    /// Links with a process that runs already, if there is one. One that does not answer is killed. Whether it was
    /// started as the recipe says is in the answer.
    ///
    /// # Errors
    /// Somebody else listens at its path.
    pub(crate) async fn find(&mut self, now: Instant) -> anyhow::Result<Option<Found>> {
        let Some((link, identity)) = self.find_at(&self.recipe.socket.clone(), now).await? else {
            return Ok(None);
        };
        self.link = Some(link);
        Ok(Some(self.found(&identity)))
    }

    /// Links with one that was set aside by a control process which did not live to tell it to end.
    ///
    /// # Errors
    /// Somebody else listens at its path.
    pub(crate) async fn find_before(&mut self, now: Instant) -> anyhow::Result<Option<(Link, Found)>> {
        let found = self.find_at(&self.before(), now).await?;
        Ok(found.map(|(link, identity)| (link, self.found(&identity))))
    }

    fn found(&self, identity: &str) -> Found {
        match identity == self.recipe.identity() {
            true => Found::AsWanted,
            false => Found::Different,
        }
    }

    /// A process that answers at a path, and how it was started.
    async fn find_at(&mut self, socket: &Path, now: Instant) -> anyhow::Result<Option<(Link, String)>> {
        let role = self.recipe.role;
        let noted = Note::read(&note_beside(socket))
            .filter(Note::is_alive)
            .map(|note| note.pid);
        let Some(channel) = ipc::connect(socket).context("its socket")? else {
            return Ok(None);
        };
        match greet::<M>(&channel).await {
            Ok(greeting) => {
                let identity = greeting.identity().unwrap_or_default().to_owned();
                info!(%role, pid = noted, "found running, taken over");
                Ok(Some((self.link_with(channel, noted, true, now), identity)))
            }
            Err(error) => {
                warn!(%role, pid = noted, error = format!("{error:#}"), "found running, but it does not answer: it is killed");
                if let Some(pid) = noted {
                    let note = Note::of(pid);
                    end(pid);
                    wait_for_death(&note).await;
                }
                Ok(None)
            }
        }
    }

    /// Starts it and hears its greeting.
    ///
    /// # Errors
    /// It can't be started, or does not greet as it should; then it is killed.
    pub(crate) async fn start(&mut self, now: Instant) -> anyhow::Result<()> {
        let role = self.recipe.role;
        let (channel, pid) = self.spawn()?;
        if let Err(error) = greet::<M>(&channel).await {
            end(pid);
            return Err(error).with_context(|| format!("the {role} process, just started"));
        }
        self.link = Some(self.link_with(channel, Some(pid), false, now));
        info!(%role, pid, "started");
        Ok(())
    }

    fn link_with(&mut self, channel: Channel, pid: Option<u32>, adopted: bool, now: Instant) -> Link {
        self.next_link += 1;
        let (id, channel) = (self.next_link, Rc::new(channel));
        let reader = tokio::task::spawn_local(listen(id, Rc::clone(&channel), self.heard.clone()));
        Link {
            id,
            pid,
            since: now,
            adopted,
            channel,
            reader,
        }
    }

    fn spawn(&self) -> anyhow::Result<(Channel, u32)> {
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
            // What control says to the service manager is not its children's to say.
            .env_remove("NOTIFY_SOCKET")
            .current_dir("/");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Some((uid, gid)) = user {
            std::os::unix::process::CommandExt::uid(&mut command, uid.as_raw());
            std::os::unix::process::CommandExt::gid(&mut command, gid.as_raw());
        }
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("the {role} process can't be started"))?;
        let pid = child
            .id()
            .with_context(|| format!("the {role} process ended at once"))?;
        if let Err(error) = Note::of(pid).write(&self.note()) {
            warn!(%role, error = format!("{error:#}"), "no word of its process id can be left for a successor");
        }
        let role = *role;
        tokio::task::spawn_local(async move {
            match child.wait().await {
                Ok(status) if status.success() => debug!(%role, "exited"),
                Ok(status) => warn!(%role, %status, "died"),
                Err(error) => warn!(%role, %error, "can't be waited for"),
            }
        });
        Ok((channel, pid))
    }

    fn note(&self) -> PathBuf {
        note_beside(&self.recipe.socket)
    }

    /// Where the socket of one lies that goes on until its successor serves.
    fn before(&self) -> PathBuf {
        let name = format!("{}-before.sock", self.recipe.role);
        self.recipe.socket.with_file_name(name)
    }

    /// Those set aside were told to end: nobody is to look for them.
    pub(crate) fn forget_before(&self) {
        let before = self.before();
        for path in [&before, &note_beside(&before)] {
            if let Err(error) = std::fs::remove_file(path) {
                debug!(path = %path.display(), %error, "not removed");
            }
        }
    }

    /// Takes the link out of one that goes on until its successor serves. Its socket moves aside, so that it is found there if
    /// this control process does not live to tell it to end.
    pub(crate) fn retire(&mut self) -> Option<Link> {
        rename(&self.recipe.socket, &self.before());
        self.link.take()
    }

    /// The one that was set aside and the other one change places, sockets and notes.
    pub(crate) fn exchange(&self) {
        let (socket, before) = (&self.recipe.socket, self.before());
        for (one, other) in [
            (socket.clone(), before.clone()),
            (note_beside(socket), note_beside(&before)),
        ] {
            let flags = RenameFlags::RENAME_EXCHANGE;
            if renameat2(AT_FDCWD, &other, AT_FDCWD, &one, flags).is_err()
                && let Err(error) = std::fs::rename(&other, &one)
            {
                // There was no other one.
                debug!(path = %other.display(), %error, "not moved");
            }
        }
    }

    /// The successor of the one that was retired did not come about: it is the one that is to be found again.
    pub(crate) fn reinstate(&self) {
        rename(&self.before(), &self.recipe.socket);
    }

    /// Removes what an orderly end leaves no use for.
    pub(crate) fn clean_up(&self) {
        let before = self.before();
        for path in [&self.recipe.socket, &self.note(), &before, &note_beside(&before)] {
            if let Err(error) = std::fs::remove_file(path) {
                debug!(path = %path.display(), %error, "not removed");
            }
        }
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

    /// Takes the link out: the process is of no more interest, or goes on beside another.
    pub(crate) fn set_aside(&mut self) -> Option<Link> {
        self.link.take()
    }

    /// Sends a message, if it lives. A child that can't be sent to is killed: its death is noticed and mended.
    pub(crate) async fn tell(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) {
        if let Some(link) = &self.link
            && let Err(error) = link.send(message, fds).await
        {
            warn!(
                role = %self.recipe.role,
                pid = link.pid,
                error = format!("{error:#}"),
                "can't be told anything, is killed"
            );
            link.kill();
        }
    }
}

/// How a process that runs already was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// As one would be started now.
    AsWanted,
    /// By another version, for another user, or with other arguments.
    Different,
}

async fn greet<M: DeserializeOwned + Greeting>(channel: &Channel) -> anyhow::Result<M> {
    let greeting = timeout(GREETING, channel.receive::<M>())
        .await
        .with_context(|| format!("no greeting within {} s", GREETING.as_secs()))??;
    match greeting {
        Some((message, _)) if message.identity().is_some() => Ok(message),
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

pub(super) async fn wait_for_death(note: &Note) {
    let dead = async {
        while note.is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(DEATH, dead).await.is_err() {
        warn!(pid = note.pid, "is still there");
    }
}

/// Word of a process: its id, and when it was started, since ids are used again.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Note {
    pid: u32,
    /// Field 22 of proc_pid_stat(5), in clock ticks since boot. 0: no such process.
    started: u64,
}

impl Note {
    pub(super) fn of(pid: u32) -> Self {
        Self {
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, if it is still that process.
    pub(super) fn signal(&self, what: Signal) {
        if self.is_alive() {
            signal(self.pid, what);
        }
    }

    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim_end().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        super::saved::replace(path, format!("{} {}\n", self.pid, self.started).as_bytes())
    }

    pub(super) fn is_alive(&self) -> bool {
        self.started != 0 && started(self.pid) == Some(self.started)
    }
}

fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows its last parenthesis is fields 3 and on.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // A zombie holds nothing any more.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Where the process id is noted of whoever listens at a socket.
fn note_beside(socket: &Path) -> PathBuf {
    socket.with_extension("pid")
}

/// Moves a socket with its note. One that is not there is no loss.
fn rename(from: &Path, to: &Path) {
    for (from, to) in [(from, to), (&note_beside(from), &note_beside(to))] {
        if let Err(error) = std::fs::rename(from, to) {
            debug!(path = %from.display(), %error, "not moved");
        }
    }
}

/// Path of a child's socket, beside the control socket.
pub(crate) fn socket_beside(control: &Path, role: Role) -> PathBuf {
    control.with_file_name(format!("{role}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_a_process_from_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.pid");
        let own = Note::of(std::process::id());
        own.write(&path).unwrap();
        let read = Note::read(&path).unwrap();
        assert_eq!(read, own);
        assert!(read.is_alive());
        assert!(
            !Note {
                started: own.started + 1,
                ..own
            }
            .is_alive(),
            "another process of that id"
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let note = Note::of(child.id());
        child.wait().unwrap();
        assert!(!note.is_alive());
        std::fs::write(&path, "rubbish").unwrap();
        assert!(Note::read(&path).is_none());
    }
}
