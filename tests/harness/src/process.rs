//! A process that runs beside the test: its log, its signals, its end.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{command::Cmd, scratch::Scratch, wait::wait_until};

/// A running process, leader of a process group of its own. Killed, group and all, when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    keep: bool,
}

impl Process {
    /// Starts a command. What it writes goes to `NAME.out` and `NAME.err` in `scratch`, appended.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(name: &str, scratch: &Scratch, cmd: &Cmd<'_>) -> Result<Self> {
        let stdout = scratch.join(format!("{name}.out"));
        let stderr = scratch.join(format!("{name}.err"));
        let open = |path: &PathBuf| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("can't open {}", path.display()))
        };
        let mut command = cmd.command();
        command
            .stdin(Stdio::null())
            .stdout(open(&stdout)?)
            .stderr(open(&stderr)?);
        let child = cmd.spawn(&mut command)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            keep: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on it outlives the value.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// All it has written to standard output.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// All it has written to standard error.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it is of use: until `probe` gives a value.
    ///
    /// # Errors
    /// It has ended by itself, or the deadline passed: the error carries the end of what it wrote.
    pub fn until<T>(
        &mut self,
        deadline: Duration,
        what: &str,
        mut probe: impl FnMut() -> Result<T, String>,
    ) -> Result<T> {
        let result = wait_until(deadline, what, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Err(anyhow!("{} has ended by itself ({status})", self.name))),
            Ok(None) | Err(_) => probe().map(Ok),
        });
        result
            .flatten()
            .map_err(|e| anyhow!("{e:#}\n{} wrote:\n{}", self.name, tail(&self.stderr())))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} (process {}) ends", self.name, self.pid());
        wait_until(deadline, &what, || {
            self.child
                .try_wait()
                .map_err(|e| e.to_string())?
                .ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            return Err(anyhow!(
                "{} has ended ({status}): {}",
                self.name,
                tail(&self.stderr())
            ));
        }
        kill(raw(self.pid())?, signal).with_context(|| format!("can't send {signal} to {}", self.name))
    }

    /// SIGTERM, and SIGKILL for the whole group if it is not gone at the deadline.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline).inspect_err(|_| self.kill())
    }

    /// SIGKILL for the whole group, and waits for the end of the leader.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_group(self.child.id());
            let _gone = self.child.wait();
        }
    }

    /// SIGKILL for the leader alone, and waits for its end.
    pub fn kill_leader(&mut self) {
        let _sent = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}

/// The last lines of a log, for an error.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines
        .get(lines.len().saturating_sub(15)..)
        .unwrap_or_default()
        .join("\n")
}

/// What a log has in whole lines: the last one may be in the middle of being written. One `write` is no protection, a
/// reader can see it in part, as far as the page of the file that it crosses.
pub fn whole_lines(mut log: String) -> String {
    log.truncate(log.rfind('\n').map_or(0, |at| at + 1));
    log
}

/// Sends a signal to a process. It may be gone already.
///
/// # Errors
/// The number is no process id.
pub fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let _sent = kill(raw(pid)?, signal);
    Ok(())
}

/// SIGKILL for a process group. It may be gone already.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(leader) = raw(leader) {
        let _sent = killpg(leader, Signal::SIGKILL);
    }
}

fn raw(pid: u32) -> Result<Pid> {
    // Never 0 (our own group) nor negative (every process).
    match i32::try_from(pid) {
        Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
        _ => Err(anyhow!("{pid} is no process id")),
    }
}

fn read(path: &PathBuf) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
