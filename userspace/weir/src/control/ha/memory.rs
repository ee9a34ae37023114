//! What a control process leaves for its successor, so that a group that it was master of goes on: when its last adverts
//! left, the numbers of signed adverts, and what an operator wished.
//!
//! One small file beside the control socket. The real-time thread writes a few bytes of it in place with every round of adverts,
//! which on the usual tmpfs of `/run` waits for nothing; the rest is written when it changes. What is torn, or of another
//! boot, is ignored: the group then begins as a backup, as after a boot.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use tracing::debug;
use weir_core::ids::GroupName;

use crate::control::saved::boot_id;

/// Groups that there is room for; `weir-config` allows no more.
pub(super) const GROUPS: usize = 64;

const MAGIC: &[u8; 8] = b"weirHA01";
const BOOT_AT: usize = 8;
const BOOT: usize = 36;
/// Whether this control process was ready: it is not as one that has only just started.
const READY_AT: usize = 44;
const HEAD: usize = 64;
const RECORD: usize = 128;
/// In a record: length of the name, the name.
const NAME: usize = 64;
const SENT_AT: usize = 72;
const OPERATOR_AT: usize = 88;

/// The file.
pub(super) struct Memory {
    path: PathBuf,
    file: File,
}

/// What was left of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Left {
    /// Its place in the file, and what the kernel's programs know it by.
    pub(super) id: usize,
    /// When the adverts left that are the longest ago. None: it was no master.
    pub(super) last_sent: Option<Instant>,
    /// The number of its last advert.
    pub(super) sequence: u64,
    /// What an operator demoted it by.
    pub(super) operator: u32,
}

/// What was left.
#[derive(Default, Debug)]
pub(super) struct Legacy {
    pub(super) was_ready: bool,
    pub(super) groups: BTreeMap<GroupName, Left>,
}

impl Memory {
    fn path(control: &Path) -> PathBuf {
        control.with_file_name("vrrp.state")
    }

    /// What a predecessor has left, if it is of this boot.
    pub(super) fn legacy(control: &Path) -> Legacy {
        let path = Self::path(control);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                debug!(path = %path.display(), %error, "no virtual routers are carried on");
                return Legacy::default();
            }
        };
        read(&bytes, boot_id().as_bytes(), (monotonic(), Instant::now())).unwrap_or_default()
    }

    /// Nobody goes on with what a predecessor has left.
    pub(super) fn discard(control: &Path) {
        if let Err(error) = std::fs::remove_file(Self::path(control)) {
            debug!(%error, "the state of virtual routers that are no more stays");
        }
    }

    /// A new file in place of the old one, with what that said of the groups that go on.
    pub(super) fn begin(control: &Path, groups: &BTreeMap<GroupName, Left>) -> anyhow::Result<Self> {
        let path = Self::path(control);
        let mut bytes = vec![0; HEAD + GROUPS * RECORD];
        let now = (monotonic(), Instant::now());
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, BOOT_AT, boot_id().as_bytes());
        for (name, left) in groups {
            let at = HEAD + left.id * RECORD;
            put(&mut bytes, at, &record_name(name));
            put(
                &mut bytes,
                at + SENT_AT,
                &words(left.last_sent, left.sequence, now),
            );
            put(&mut bytes, at + OPERATOR_AT, &left.operator.to_le_bytes());
        }
        super::super::saved::replace(&path, &bytes)?;
        let file = File::options()
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Self { path, file })
    }

    /// The group at a place has this name, and is new.
    pub(super) fn name(&self, id: usize, name: &GroupName) -> std::io::Result<()> {
        let mut record = [0; RECORD];
        put(&mut record, 0, &record_name(name));
        self.file.write_all_at(&record, place(id))
    }

    /// There is no group at a place any more.
    pub(super) fn forget(&self, id: usize) -> std::io::Result<()> {
        self.file.write_all_at(&[0; RECORD], place(id))
    }

    pub(super) fn operator(&self, id: usize, share: u32) -> std::io::Result<()> {
        self.file
            .write_all_at(&share.to_le_bytes(), place(id) + OPERATOR_AT as u64)
    }

    pub(super) fn ready(&self) -> std::io::Result<()> {
        self.file.write_all_at(&[1], READY_AT as u64)
    }

    /// Called by the real-time thread.
    pub(super) fn sent(&self, id: usize, last_sent: Option<Instant>, sequence: u64) -> std::io::Result<()> {
        let words = words(last_sent, sequence, (monotonic(), Instant::now()));
        self.file.write_all_at(&words, place(id) + SENT_AT as u64)
    }

    /// An orderly stop leaves nothing behind.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "no state of virtual routers to remove");
        }
    }
}

fn place(id: usize) -> u64 {
    (HEAD + id * RECORD) as u64
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(what) {
        *place = *byte;
    }
}

fn record_name(name: &GroupName) -> [u8; 1 + NAME] {
    let mut out = [0; 1 + NAME];
    let name = name.as_str().as_bytes();
    // Names have 64 bytes at the most.
    put(&mut out, 0, &[name.len().min(NAME) as u8]);
    put(&mut out, 1, name);
    out
}

/// Nanoseconds of the monotonic clock, which goes on from one process to the next.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Two words; the moment 0 is none.
fn words(last_sent: Option<Instant>, sequence: u64, (clock, now): (u64, Instant)) -> [u8; 16] {
    let at = last_sent.map_or(0, |at| {
        let ago = u64::try_from(now.saturating_duration_since(at).as_nanos()).unwrap_or(u64::MAX);
        clock.saturating_sub(ago)
    });
    let mut out = [0; 16];
    put(&mut out, 0, &at.to_le_bytes());
    put(&mut out, 8, &sequence.to_le_bytes());
    out
}

/// None: it is no such file, or of another boot.
fn read(bytes: &[u8], boot: &[u8], (clock, now): (u64, Instant)) -> Option<Legacy> {
    let head = bytes.get(..HEAD)?;
    if head.get(..BOOT_AT)? != MAGIC || head.get(BOOT_AT..BOOT_AT + BOOT)? != boot {
        return None;
    }
    let mut legacy = Legacy {
        was_ready: head.get(READY_AT) == Some(&1),
        groups: BTreeMap::new(),
    };
    for (id, record) in bytes.get(HEAD..)?.chunks_exact(RECORD).take(GROUPS).enumerate() {
        let len = usize::from(*record.first()?);
        let name = record.get(1..1 + len.min(NAME))?;
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.is_empty()) else {
            continue;
        };
        let word = |at: usize| Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?));
        let operator = record.get(OPERATOR_AT..OPERATOR_AT + 4)?.try_into().ok()?;
        let ago = match word(SENT_AT)? {
            0 => None,
            at => clock.checked_sub(at).map(Duration::from_nanos),
        };
        let left = Left {
            id,
            last_sent: ago.and_then(|ago| now.checked_sub(ago)),
            sequence: word(SENT_AT + 8)?,
            operator: u32::from_le_bytes(operator),
        };
        legacy.groups.insert(GroupName::new(name), left);
    }
    Some(legacy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_what_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control.sock");
        let edge = GroupName::new("edge");
        let other = GroupName::new("x".repeat(64));
        assert!(Memory::legacy(&control).groups.is_empty(), "nothing there yet");
        let memory = Memory::begin(&control, &BTreeMap::new()).unwrap();
        memory.name(0, &edge).unwrap();
        memory.name(63, &other).unwrap();
        let sent = Instant::now() - Duration::from_millis(250);
        memory.sent(63, Some(sent), 77).unwrap();
        memory.operator(63, 5).unwrap();
        let legacy = Memory::legacy(&control);
        assert!(!legacy.was_ready);
        memory.ready().unwrap();
        let legacy_ready = Memory::legacy(&control);
        assert!(legacy_ready.was_ready);
        assert_eq!(
            legacy.groups.get(&edge),
            Some(&Left {
                id: 0,
                last_sent: None,
                sequence: 0,
                operator: 0
            })
        );
        let left = &legacy.groups[&other];
        assert_eq!((left.id, left.sequence, left.operator), (63, 77, 5));
        let differ = |a: Instant, b: Instant| a.max(b) - a.min(b);
        assert!(
            differ(left.last_sent.unwrap(), sent) < Duration::from_millis(20),
            "{left:?}"
        );

        // What goes on is in the next file from the beginning; nothing else is.
        let stays = BTreeMap::from([(other.clone(), left.clone())]);
        let next = Memory::begin(&control, &stays).unwrap();
        let again = Memory::legacy(&control);
        assert!(!again.was_ready);
        assert_eq!(again.groups.keys().collect::<Vec<_>>(), [&other]);
        assert!(differ(again.groups[&other].last_sent.unwrap(), sent) < Duration::from_millis(20));
        next.forget(63).unwrap();
        assert!(Memory::legacy(&control).groups.is_empty());
        next.remove();
        assert!(!dir.path().join("vrrp.state").exists());
    }

    #[test]
    fn what_is_torn_or_of_another_boot_is_ignored() {
        let now = (1_000_000, Instant::now());
        let boot = [b'b'; BOOT];
        let mut bytes = vec![0; HEAD + RECORD];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, BOOT_AT, &boot);
        put(&mut bytes, HEAD, &record_name(&GroupName::new("a")));
        // Of a clock that had got further than this one.
        put(&mut bytes, HEAD + SENT_AT, &2_000_000_u64.to_le_bytes());
        let legacy = read(&bytes, &boot, now).unwrap();
        assert_eq!(legacy.groups[&GroupName::new("a")].last_sent, None);
        assert!(read(&bytes, &[b'c'; BOOT], now).is_none());
        assert!(read(&bytes[..HEAD - 1], &boot, now).is_none());
        let torn = read(&bytes[..HEAD + RECORD - 1], &boot, now).unwrap();
        assert!(torn.groups.is_empty());
        bytes[0] = 0;
        assert!(read(&bytes, &boot, now).is_none());
    }
}
