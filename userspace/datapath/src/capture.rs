//! A capture, from a process of its own: the filter that the programs go by, and the packets they hand out.
//!
//! Owns the maps `CAPTURE` and `CAPTURED` while it lives, and the bit in `SETTINGS` that says so. Everything else in
//! `SETTINGS` is control's: both change it under one lock. Knows nothing of files: those are the binary's.
//!
//! The filter carries its end ([`CaptureFilter::until`]) and must be renewed. If whoever captures is killed, the programs
//! stop by themselves within [`HOLDS`]; the bit that is left costs the packets a look at the clock until control finds it.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData, RingBuf};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::io::{Interest, unix::AsyncFd};
use weir_abi::{CaptureFilter, CaptureRecord, Note, Reason, Settings, maps::settings, names};

use crate::{
    error::{MapError, OpenError},
    pins, sys,
    table::{PerCpu, Table},
};

/// Seconds for which a filter holds after it was renewed.
pub const HOLDS: u32 = 5;

/// Why a capture could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// No tables of this version.
    #[error(
        "there are no tables of this weir in {}: is `weir run` of the same version going, with XDP? Name its \
         configuration with --config, or its node.pins with --pins", path.display()
    )]
    NoTables {
        /// The pin directory.
        path: PathBuf,
    },
    /// Somebody captures already.
    #[error(
        "another capture is going on{}: end it first, there can be one at a time",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The process, when the system says so.
        pid: Option<i32>,
    },
    /// A directory or map could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A map could not be used.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A packet that was captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub time: u64,
    /// Bytes of the frame as it came in.
    pub frame_len: u32,
    /// Index of the interface it came in by.
    pub ifindex: u32,
    /// Index of the interface it left by; 0: it did not leave.
    pub egress: u32,
    /// What became of it.
    pub reason: Reason,
    /// The beginning of the frame as it came in.
    pub bytes: Vec<u8>,
}

/// A capture that is going on. Ends when dropped.
pub struct Capture {
    maps: PathBuf,
    maps_dir: File,
    filter: Table<u32, CaptureFilter>,
    settings: Table<u32, Settings>,
    reasons: PerCpu<u64>,
    ring: AsyncFd<RingBuf<MapData>>,
    lost_before: u64,
    _lock: Flock<File>,
}

impl Capture {
    /// Opens the pinned maps under `pins`, within a tokio runtime. Nothing is captured before [`Self::renew`].
    ///
    /// # Errors
    /// When there are none, when another capture is going on, or when the kernel refuses.
    pub fn open(pins: &Path) -> Result<Self, CaptureError> {
        let own = pins.join(format!("{:016x}", weir_abi::ABI_HASH));
        let maps = own.join("maps");
        let lock = lock(&own, pins)?;
        let open = |name: &'static str| {
            let path = maps.join(name);
            sys::open_pin(&path).map_err(|cause| {
                if cause.kind() == io::ErrorKind::NotFound {
                    CaptureError::NoTables {
                        path: pins.to_owned(),
                    }
                } else {
                    OpenError::File {
                        doing: "cannot open the pinned map",
                        path,
                        cause,
                    }
                    .into()
                }
            })
        };
        let cpus = aya::util::nr_cpus().map_err(|(file, cause)| OpenError::File {
            doing: "cannot read",
            path: file.into(),
            cause,
        })?;
        let ring = MapData::from_pin(maps.join(names::CAPTURED))
            .and_then(|data| RingBuf::try_from(Map::RingBuf(data)))
            .map_err(|e| MapError {
                map: names::CAPTURED,
                doing: "map into memory",
                cause: io::Error::other(e),
            })?;
        // SAFETY: the ring buffer owns the map's descriptor, hands out the same one each time, and closes it when it is
        // dropped, which is after its registration here has ended.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|cause| MapError {
            map: names::CAPTURED,
            doing: "wait for",
            cause: cause.into(),
        })?;
        let mut capture = Self {
            filter: Table::new(names::CAPTURE, open(names::CAPTURE)?.as_fd())?,
            settings: Table::new(names::SETTINGS, open(names::SETTINGS)?.as_fd())?,
            reasons: PerCpu::new(names::REASONS, open(names::REASONS)?.as_fd(), cpus)?,
            ring,
            lost_before: 0,
            maps_dir: File::open(&maps).map_err(|cause| OpenError::File {
                doing: "cannot open",
                path: maps.clone(),
                cause,
            })?,
            maps,
            _lock: lock,
        };
        // What a capture before this one did not fetch.
        while capture.ring.get_mut().next().is_some() {}
        capture.lost_before = capture.lost_ever()?;
        Ok(capture)
    }

    /// Makes the filter hold for [`HOLDS`] seconds from now; its `until` is set here.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn renew(&self, filter: &CaptureFilter) -> Result<(), MapError> {
        let until = sys::monotonic_seconds().saturating_add(HOLDS);
        self.filter.set(&0, &CaptureFilter { until, ..*filter })?;
        let now = self.settings.get(&0)?.unwrap_or_default();
        if now.flags & settings::CAPTURE == 0 {
            change_settings(&self.settings, &self.maps_dir, |now| Settings {
                flags: now.flags | settings::CAPTURE,
                ..now
            })?;
        }
        Ok(())
    }

    /// Waits until there are packets, or may be: fetch them with [`Self::next_packet`] until there are none, then wait
    /// again. May be given up at any time.
    ///
    /// # Errors
    /// When the system cannot wait for the ring buffer.
    pub async fn packets(&mut self) -> io::Result<()> {
        // Readiness is edge-triggered, and the kernel raises an edge only for who has caught up: taken back before the
        // packets are fetched, not after, none is missed.
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The next packet; None when there is none now.
    pub fn next_packet(&mut self) -> Option<Captured> {
        while let Some(item) = self.ring.get_mut().next() {
            // An item that is none was written by a program of another layout: it says nothing.
            if let Some(packet) = decode(&item) {
                return Some(packet);
            }
        }
        None
    }

    /// Packets that the filter took since this capture was opened, but for which there was no room.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost(&self) -> Result<u64, MapError> {
        Ok(self.lost_ever()?.saturating_sub(self.lost_before))
    }

    fn lost_ever(&self) -> Result<u64, MapError> {
        Ok(self.reasons.get(Note::CaptureLost.index())?.iter().sum())
    }

    /// Whether weir has ended, and taken its tables away.
    pub fn is_orphaned(&self) -> bool {
        !self.maps.exists()
    }

    /// Stops the programs from capturing more. What they have captured can still be fetched.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn stop(&self) -> Result<(), MapError> {
        if !self.is_orphaned() {
            change_settings(&self.settings, &self.maps_dir, |now| Settings {
                flags: now.flags & !settings::CAPTURE,
                ..now
            })?;
        }
        self.filter.set(&0, &CaptureFilter::default())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It ends by itself soon if this fails.
        if let Err(error) = self.stop() {
            tracing::debug!(%error, "a capture could not be stopped");
        }
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("maps", &self.maps)
            .finish_non_exhaustive()
    }
}

/// The one capture at a time: a lock on this version's directory, which nobody else locks.
fn lock(own: &Path, pins: &Path) -> Result<Flock<File>, CaptureError> {
    let dir = File::open(own).map_err(|cause| {
        if cause.kind() == io::ErrorKind::NotFound {
            CaptureError::NoTables {
                path: pins.to_owned(),
            }
        } else {
            OpenError::File {
                doing: "cannot open",
                path: own.to_owned(),
                cause,
            }
            .into()
        }
    })?;
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(CaptureError::Busy {
            pid: pins::holder_of(own),
        }),
        Err((_, e)) => {
            let path = own.to_owned();
            Err(OpenError::File {
                doing: "cannot lock",
                path,
                cause: e.into(),
            }
            .into())
        }
    }
}

/// Changes the settings, which two processes write: control, and whoever captures. `maps` is the directory that the map is
/// pinned in, held open: it is the same one wherever the thread sees the file system from.
///
/// # Errors
/// When the map cannot be read or written, or the directory not be locked.
pub(crate) fn change_settings(
    table: &Table<u32, Settings>,
    maps: &File,
    change: impl FnOnce(Settings) -> Settings,
) -> Result<(), MapError> {
    let fail = |cause| MapError {
        map: names::SETTINGS,
        doing: "lock",
        cause,
    };
    let dir = maps.try_clone().map_err(fail)?;
    // Held for two system calls; never across anything that waits.
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| fail(e.into()))?;
    table.set(&0, &change(table.get(&0)?.unwrap_or_default()))
}

/// Takes back the bit of a capture that was killed: its filter has ended, and nobody renews it.
///
/// # Errors
/// When a map cannot be read or written.
pub(crate) fn end_stale(
    filter: &Table<u32, CaptureFilter>,
    settings: &Table<u32, Settings>,
    maps: &File,
) -> Result<(), MapError> {
    let is_on = settings
        .get(&0)?
        .is_some_and(|now| now.flags & settings::CAPTURE != 0);
    let until = filter.get(&0)?.map_or(0, |filter| filter.until);
    if is_on && until < sys::monotonic_seconds() {
        // One that renews it at this moment finds the bit gone a second later, and sets it again.
        change_settings(settings, maps, |now| Settings {
            flags: now.flags & !settings::CAPTURE,
            ..now
        })?;
    }
    Ok(())
}

/// A packet as it lies in the buffer: the record, then the bytes.
fn decode(item: &[u8]) -> Option<Captured> {
    let (record, bytes) = item.split_first_chunk::<{ size_of::<CaptureRecord>() }>()?;
    let (time, words) = record.split_first_chunk::<8>()?;
    let mut words = words
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
    let mut next = || words.next();
    let (frame_len, captured, ifindex, egress, reason) = (next()?, next()?, next()?, next()?, next()?);
    Some(Captured {
        time: u64::from_ne_bytes(*time),
        frame_len,
        ifindex,
        egress,
        reason: *Reason::ALL.get(reason as usize)?,
        bytes: bytes.get(..captured as usize)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(reason: u32, captured: u32) -> Vec<u8> {
        let mut item = 0x0102_0304_0506_0708_u64.to_ne_bytes().to_vec();
        for word in [60, captured, 3, 0, reason, 0] {
            item.extend(u32::to_ne_bytes(word));
        }
        item.extend([7; 4]);
        item
    }

    #[test]
    fn a_packet_is_read_as_it_was_written() {
        let want = Captured {
            time: 0x0102_0304_0506_0708,
            frame_len: 60,
            ifindex: 3,
            egress: 0,
            reason: Reason::NoBackend,
            bytes: vec![7; 4],
        };
        assert_eq!(decode(&item(Reason::NoBackend as u32, 4)), Some(want));
    }

    #[test]
    fn what_is_no_packet_is_none() {
        let reason = Reason::NoBackend as u32;
        assert_eq!(decode(&item(1000, 4)), None, "a reason of another version");
        assert_eq!(decode(&item(reason, 5)), None, "fewer bytes than it says");
        assert_eq!(decode(&item(reason, 4)[..31]), None, "half a record");
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn without_tables_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = Capture::open(dir.path()).unwrap_err();
        assert!(matches!(error, CaptureError::NoTables { .. }), "{error}");
        assert!(error.to_string().contains("--pins"), "{error}");
    }

    #[test]
    fn a_second_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path(), dir.path()).unwrap();
        let error = lock(dir.path(), dir.path()).unwrap_err();
        assert!(matches!(error, CaptureError::Busy { .. }), "{error}");
        drop(first);
        assert!(lock(dir.path(), dir.path()).is_ok());
    }
}
