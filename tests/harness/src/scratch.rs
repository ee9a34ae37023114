//! Directories of a run: configurations, sockets, logs, files of peers, and a bpf file system of its own for pins.
//!
//! They lie under the system's directory for temporary files as `weir-PID-N`. What a killed run left there is removed
//! by the next one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Prefix of everything that a run names, before its process id.
pub const PREFIX: &str = "weir-";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A name no other run, and nothing else in this run, has: `weir-PID-N`.
pub fn unique() -> String {
    format!(
        "{PREFIX}{}-{}",
        process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The process id in a name that [`unique`] made, if it is one.
pub(crate) fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether a process of that id exists.
pub(crate) fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// A directory that goes with its value, all that lies in it included.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new directory.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new() -> Result<Self> {
        Self::named(&unique())
    }

    /// A new directory of that name; one that is there already is emptied.
    ///
    /// # Errors
    /// It can't be emptied or made.
    pub fn named(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(name);
        remove(&path)?;
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }

    /// Mounts a bpf file system of its own in it, for pins. It goes with the directory.
    ///
    /// # Errors
    /// Not root, or no bpf file system in this kernel.
    pub fn mount_bpf(&self) -> Result<PathBuf> {
        let path = self.join("bpf");
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .with_context(|| {
            format!(
                "can't mount a bpf file system at {} (this needs root)",
                path.display()
            )
        })?;
        Ok(path)
    }

    /// Gives the directory and what is in it so far to a user.
    ///
    /// # Errors
    /// Not allowed.
    pub fn give_to(&self, uid: u32, gid: u32) -> Result<()> {
        let give = |path: &Path| {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("can't give {} to user {uid}", path.display()))
        };
        give(&self.path)?;
        for entry in fs::read_dir(&self.path)? {
            give(&entry?.path())?;
        }
        Ok(())
    }

    /// Removes a directory that an earlier run left under that name.
    ///
    /// # Errors
    /// It is there and can't be removed.
    pub fn remove_named(name: &str) -> Result<()> {
        remove(&env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.path) {
            eprintln!("harness: {e:#}");
        }
    }
}

/// Removes directories of runs whose process is gone.
pub(crate) fn remove_stale() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_str()
            .and_then(owner)
            .is_some_and(|pid| !alive(pid))
        {
            // Another run may be removing it at this moment; what stays is tried again next time.
            let _removed = remove(&entry.path());
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    // EINVAL: not a mount point. ENOENT: not there. Both are fine: only what is mounted must go.
    let _unmounted = umount2(&path.join("bpf"), MntFlags::MNT_DETACH);
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("can't remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_with_its_value() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.write("deep/down/file", "text").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner(&unique()), Some(process::id()));
        assert_eq!(owner("weir-demo-client"), None);
        assert_eq!(owner("someone-1-2"), None);
    }
}
