//! The pin directory: who may use it, what lies in it, and whether a pinned map may be used again.
//!
//! ```text
//! <pins>/<ABI hash>/maps/SERVICES …                    the maps
//! <pins>/<ABI hash>/links/xdp-native-eth0, steer …     what keeps the programs attached
//! ```
//!
//! `STAGES` belongs to one generation of programs, which hand packets to each other in a map of their own: while links go
//! over to the next one, both run, each with its own stages. The older ones are kept beside as `STAGES-0 …` until then.
//!
//! The lock on `<pins>` (flock) goes with the process: nothing has to be cleaned up after a crash. Directories of other
//! hashes are left by other versions; their links are taken over by `attach`, which then removes them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use weir_abi::names::STAGES;

use crate::{
    error::OpenError,
    sys::{self, MapShape},
};

/// A pin directory that this process alone may use.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    own: PathBuf,
    maps_dir: File,
    /// On the pin directory and the directory of the state, held for as long as the value lives.
    _locks: [Flock<File>; 2],
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |cause| OpenError::File { doing, path, cause }
}

impl Pins {
    /// Takes the pin directory: makes what is missing, and locks it.
    ///
    /// # Errors
    /// When it is not on a bpf file system, another process has it, or somebody else may write to it.
    pub(crate) fn take(root: &Path, state_dir: &Path) -> Result<Self, OpenError> {
        require_bpffs(root)?;
        fs::create_dir_all(state_dir).map_err(file("cannot create", state_dir))?;
        fs::create_dir_all(root).map_err(file("cannot create", root))?;
        let locks = [lock(root)?, lock(state_dir)?];
        let own = own_of(root);
        for dir in [own.join("maps"), own.join("links")] {
            fs::create_dir_all(&dir).map_err(file("cannot create", &dir))?;
        }
        // On a bpf file system everybody may make directories, so somebody may have been here before.
        for dir in [root, &own] {
            require_own(dir)?;
        }
        let maps = own.join("maps");
        Ok(Self {
            root: root.to_owned(),
            own,
            maps_dir: File::open(&maps).map_err(file("cannot open", &maps))?,
            _locks: locks,
        })
    }

    /// Where the maps are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.own.join("maps")
    }

    /// The same, held open.
    pub(crate) fn maps_dir(&self) -> &File {
        &self.maps_dir
    }

    /// Where the links are pinned.
    pub(crate) fn links(&self) -> PathBuf {
        self.own.join("links")
    }

    /// Opens the pinned maps that are there and compares them with what they must be. Names of those that may be used
    /// again.
    pub(crate) fn verify(
        &self,
        shapes: impl Fn(&str) -> Option<MapShape>,
    ) -> Result<Vec<&'static str>, OpenError> {
        verify(&self.own, shapes)
    }

    /// Puts the stages of the programs that are attached aside, so that the next ones get a map of their own. Several may
    /// lie there, when a process ended before it attached.
    pub(crate) fn put_stages_aside(&self) -> Result<(), OpenError> {
        let dir = self.maps();
        let own = dir.join(STAGES);
        if !own.exists() {
            return Ok(());
        }
        let free = (0_u32..)
            .map(|nth| dir.join(format!("{STAGES}-{nth}")))
            .find(|path| !path.exists());
        free.map_or(Ok(()), |path| {
            fs::rename(&own, path).map_err(file("cannot put aside", &own))
        })
    }

    /// Removes stages that were put aside. No attached program may have them any more.
    pub(crate) fn drop_old_stages(&self) -> Result<(), OpenError> {
        let dir = self.maps();
        let mut old = Vec::new();
        for entry in fs::read_dir(&dir).map_err(file("cannot list", &dir))? {
            let path = entry.map_err(file("cannot list", &dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name
                .and_then(|name| name.strip_prefix(STAGES))
                .is_some_and(|rest| rest.starts_with('-'))
            {
                old.push(path);
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        if let Err(error) = sys::wait_for_programs() {
            // They may be running: what they go on with stays until the next start.
            tracing::debug!(%error, "stages of earlier programs are kept");
            return Ok(());
        }
        for path in old {
            fs::remove_file(&path).map_err(file("cannot remove", &path))?;
        }
        Ok(())
    }

    /// Directories of other versions.
    pub(crate) fn others(&self) -> io::Result<Vec<PathBuf>> {
        others(&self.root)
    }

    /// Removes this version's pins, and the directory if nothing else is in it. What nobody holds any more is freed.
    pub(crate) fn remove(self) -> Result<(), OpenError> {
        remove_version(&self.own).map_err(file("cannot remove", &self.own))?;
        match fs::remove_dir(&self.root) {
            // Not empty, or the operator's own mount point: it stays.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// This version's directory in a pin directory.
pub(crate) fn own_of(root: &Path) -> PathBuf {
    root.join(format!("{:016x}", weir_abi::ABI_HASH))
}

/// Directories of other versions in a pin directory.
pub(crate) fn others(root: &Path) -> io::Result<Vec<PathBuf>> {
    let own = own_of(root);
    Ok(versions(root)?.into_iter().filter(|path| *path != own).collect())
}

/// See [`Pins::verify`].
pub(crate) fn verify(
    own: &Path,
    shapes: impl Fn(&str) -> Option<MapShape>,
) -> Result<Vec<&'static str>, OpenError> {
    let dir = own.join("maps");
    let mut found = Vec::new();
    for name in weir_abi::names::PINNED {
        let path = dir.join(name);
        let map = match sys::open_pin(&path) {
            Ok(map) => map,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(file("cannot open the pinned map", &path)(e)),
        };
        let is = sys::map_shape(&map).map_err(file("cannot inspect the pinned map", &path))?;
        let Some(must) = shapes(name) else { continue };
        if let Some((what, found, expected)) = difference(&is, &must) {
            return Err(OpenError::PinMismatch {
                map: name.into(),
                dir: own.to_owned(),
                what,
                found,
                expected,
            });
        }
        found.push(name);
    }
    Ok(found)
}

/// The directories of all versions in a pin directory.
pub(crate) fn versions(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_hash = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash && path.is_dir() {
            versions.push(path);
        }
    }
    versions.sort();
    Ok(versions)
}

/// Removes one version's directory. bpffs knows no subtree removal beyond what it holds: two levels.
pub(crate) fn remove_version(dir: &Path) -> io::Result<()> {
    for sub in ["links", "maps"] {
        let sub = dir.join(sub);
        let entries = match fs::read_dir(&sub) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            fs::remove_file(entry?.path())?;
        }
        fs::remove_dir(&sub)?;
    }
    fs::remove_dir(dir)
}

/// Whether the directory, or the nearest one above it that exists, lies on a bpf file system.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|p| p.exists());
    existing.is_some_and(|p| statfs(p).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC))
}

/// Where the kernel provides for a bpf file system. systemd mounts it there; a box without systemd may leave that to
/// whoever needs it first.
const BPFFS: &str = "/sys/fs/bpf";

fn require_bpffs(root: &Path) -> Result<(), OpenError> {
    if !is_bpffs(root) && root.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        match mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700")) {
            Ok(()) => tracing::info!(at = BPFFS, "mounted a bpf file system; it stays when weir ends"),
            Err(error) => tracing::debug!(at = BPFFS, %error, "no bpf file system can be mounted"),
        }
    }
    if is_bpffs(root) {
        Ok(())
    } else {
        Err(OpenError::NoBpffs {
            path: root.to_owned(),
        })
    }
}

/// Others must not be able to replace what is pinned. A sticky directory lets them add, which harms nobody.
fn require_own(dir: &Path) -> Result<(), OpenError> {
    let meta = fs::metadata(dir).map_err(file("cannot inspect", dir))?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let ours = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    let closed = mode & 0o022 == 0 || mode & 0o1000 != 0;
    if ours && closed {
        Ok(())
    } else {
        Err(OpenError::Unsafe {
            path: dir.to_owned(),
            owner,
            mode,
        })
    }
}

fn lock(root: &Path) -> Result<Flock<File>, OpenError> {
    let dir = File::open(root).map_err(file("cannot open", root))?;
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((dir, Errno::EWOULDBLOCK)) => Err(OpenError::Locked {
            path: root.to_owned(),
            pid: holder(&dir),
        }),
        Err((_, e)) => Err(file("cannot lock", root)(e.into())),
    }
}

/// The process that has a pin directory, as far as /proc tells.
pub(crate) fn holder_of(root: &Path) -> Option<i32> {
    holder(&File::open(root).ok()?)
}

/// The process that holds the lock, as far as /proc tells.
fn holder(dir: &File) -> Option<i32> {
    let meta = dir.metadata().ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    find_holder(
        &fs::read_to_string("/proc/locks").ok()?,
        &format!("{major:02x}:{minor:02x}:{}", meta.ino()),
    )
}

/// Finds the process in the lines of /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 00:2f:123 0 EOF`.
fn find_holder(locks: &str, file: &str) -> Option<i32> {
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, _, pid, at, ..] if *at == file => pid.parse().ok().filter(|&pid| pid > 0),
            _ => None,
        }
    })
}

/// The first thing in which a pinned map is not what it must be: what, found, expected.
pub(crate) fn difference(is: &MapShape, must: &MapShape) -> Option<(&'static str, String, String)> {
    let fields = [
        ("type", is.kind, must.kind),
        ("key size", is.key_size, must.key_size),
        ("value size", is.value_size, must.value_size),
        ("max_entries", is.max_entries, must.max_entries),
        ("flags", is.flags, must.flags),
    ];
    let (what, found, expected) = fields
        .into_iter()
        .find(|(_, found, expected)| found != expected)?;
    Some((what, found.to_string(), expected.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:2f:123 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 00:2f:123 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 00:2f:123 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 00:2f:9 0 EOF\n";
        assert_eq!(find_holder(locks, "00:2f:123"), Some(4711));
        assert_eq!(find_holder(locks, "00:2f:9"), None);
        assert_eq!(find_holder(locks, "00:2f:8"), None);
    }

    #[test]
    fn every_difference_is_named() {
        let must = MapShape {
            kind: 1,
            id: 0,
            key_size: 20,
            value_size: 24,
            max_entries: 64,
            flags: 1024,
        };
        assert_eq!(difference(&MapShape { id: 7, ..must }, &must), None);
        let cases = [
            (MapShape { kind: 2, ..must }, "type"),
            (MapShape { key_size: 4, ..must }, "key size"),
            (
                MapShape {
                    value_size: 4,
                    ..must
                },
                "value size",
            ),
            (
                MapShape {
                    max_entries: 65,
                    ..must
                },
                "max_entries",
            ),
            (MapShape { flags: 0, ..must }, "flags"),
        ];
        for (is, what) in cases {
            assert_eq!(difference(&is, &must).map(|d| d.0), Some(what));
        }
        let difference = difference(
            &MapShape {
                max_entries: 65,
                ..must
            },
            &must,
        );
        assert_eq!(difference, Some(("max_entries", "65".into(), "64".into())));
    }

    #[test]
    fn an_ordinary_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Pins::take(&dir.path().join("weir"), dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::NoBpffs { .. }));
        assert!(
            error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"),
            "{error}"
        );
        assert!(
            !dir.path().join("weir").exists(),
            "nothing is made where nothing can be pinned"
        );
    }
}
