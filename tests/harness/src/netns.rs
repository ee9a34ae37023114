//! Named network namespaces.
//!
//! A namespace belongs to who made it: when its value is dropped, every process that still runs in it is killed and
//! its name is removed. Names are `weir-PID-N-…`; those of runs whose process is gone are removed, with the
//! processes in them, when a run makes its first namespace.
//!
//! Commands are started *from a thread inside* the namespace, not by `ip netns exec`: that one mounts a fresh /sys
//! and so hides the bpf file system.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Once,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use crate::{command::Cmd, interrupt, scratch, wait::wait_until};

const DIRECTORY: &str = "/run/netns";

/// A network namespace under a name.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    keep: bool,
}

impl Netns {
    /// A new namespace with its loopback up.
    ///
    /// # Errors
    /// Not root, no iproute2, or the name is taken.
    pub fn new(name: &str) -> Result<Self> {
        static STALE: Once = Once::new();
        if !Uid::effective().is_root() {
            return Err(anyhow!("network namespaces need root: run this as root"));
        }
        STALE.call_once(remove_stale);
        Cmd::new("ip").args(["netns", "add", name]).check()?;
        let netns = Self::open(name, false)?;
        netns.ip(["link set lo up"])?;
        Ok(netns)
    }

    /// A namespace that is there, left as it is when the value is dropped.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn existing(name: &str) -> Result<Self> {
        Self::open(name, true)
    }

    fn open(name: &str, keep: bool) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path)
            .with_context(|| format!("can't open the network namespace {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file,
            keep,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as for `nsenter --net=FILE`.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// From now on the namespace, and what runs in it, outlives the value.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Calls a function on a thread inside the namespace. Sockets opened there stay in it wherever they are used.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("can't enter the network namespace {}", self.name))?;
                Ok(f())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs lines of `ip -batch` inside it.
    ///
    /// # Errors
    /// A line failed: the error carries all lines and the complaint.
    pub fn ip<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) -> Result<()> {
        ip_batch(Some(self), lines)
    }

    /// Writes a sysctl of this namespace, by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// There is none, or the value was refused.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(path);
        self.run(|| fs::write(&file, value))?
            .with_context(|| format!("can't write {value} to {} in {}", file.display(), self.name))
    }

    /// Reads a sysctl of this namespace, by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// There is none.
    pub fn read_sysctl(&self, path: &str) -> Result<String> {
        let file = Path::new("/proc/sys/net").join(path);
        let text = self
            .run(|| fs::read_to_string(&file))?
            .with_context(|| format!("can't read {} in {}", file.display(), self.name))?;
        Ok(text.trim().to_owned())
    }

    /// Ids of the processes that run in it (zombies excepted).
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let inode = self.file.metadata()?.ino();
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            // A process that ends while we look has no namespace any more.
            if fs::metadata(entry.path().join("ns/net")).is_ok_and(|meta| meta.ino() == inode) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// Kills what runs in it and waits until it is gone.
    ///
    /// # Errors
    /// Something does not go.
    pub fn kill_processes(&self) -> Result<()> {
        wait_until(
            Duration::from_secs(10),
            &format!("nothing runs in {}", self.name),
            || {
                let pids = self.processes().map_err(|e| format!("{e:#}"))?;
                for pid in &pids {
                    if let Ok(pid) = i32::try_from(*pid) {
                        // It may end by itself before the signal comes.
                        let _sent = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                if pids.is_empty() {
                    Ok(())
                } else {
                    Err(format!("processes {pids:?}"))
                }
            },
        )
    }

    /// Removes it: processes first, then the name.
    fn remove(&self) -> Result<()> {
        let _uncut = interrupt::hold();
        let killed = self.kill_processes();
        Cmd::new("ip").args(["netns", "del", &self.name]).check()?;
        killed
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep
            && let Err(e) = self.remove()
        {
            eprintln!("harness: namespace {}: {e:#}", self.name);
        }
    }
}

/// Removes the namespace of that name, and kills what runs in it. None of that name is fine.
///
/// # Errors
/// It is there and can't be removed.
pub fn remove_named(name: &str) -> Result<()> {
    if !Path::new(DIRECTORY).join(name).exists() {
        return Ok(());
    }
    Netns::existing(name)?.remove()
}

/// Names of the namespaces that begin so.
///
/// # Errors
/// The directory of namespaces can't be read.
pub fn names(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("can't read {DIRECTORY}")),
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect())
}

/// Runs lines of `ip -batch`, inside a namespace or out here.
pub(crate) fn ip_batch<S: AsRef<str>>(
    netns: Option<&Netns>,
    lines: impl IntoIterator<Item = S>,
) -> Result<()> {
    let mut batch = String::new();
    for line in lines {
        batch.push_str(line.as_ref());
        batch.push('\n');
    }
    let mut cmd = Cmd::new("ip");
    if let Some(netns) = netns {
        cmd = cmd.inside(netns);
    }
    cmd.args(["-batch", "-"])
        .stdin(batch.clone())
        .check()
        .map(drop)
        .with_context(|| format!("among:\n{batch}"))
}

fn remove_stale() {
    for name in names(scratch::PREFIX).unwrap_or_default() {
        if scratch::owner(&name).is_some_and(|pid| !scratch::alive(pid)) {
            // Another run may be removing it at this moment; what stays is tried again next time.
            let _removed = remove_named(&name);
        }
    }
    scratch::remove_stale();
}
