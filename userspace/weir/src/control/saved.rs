//! What a control process leaves for its successor: health words, so that a restart neither forgets nor probes anew.
//!
//! One JSON file beside the control socket, replaced whole. It is a help, not a truth: a file that is missing, torn or of
//! another boot is ignored, and every backend begins as pending. However old its words are, they are what the kernel's
//! rings hold, so traffic goes on by them while the first checks run.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};
use weir_core::{
    engine::Saved,
    health::Word,
    ids::{BackendKey, PoolName},
};

#[derive(Serialize, Deserialize)]
struct File {
    /// Boot that it was written in: nothing survives a reboot.
    boot: String,
    /// Seconds since the epoch.
    written: u64,
    backends: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    pool: String,
    address: SocketAddr,
    word: u8,
    cause: String,
    lasted_ms: u64,
}

/// The file.
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(crate) fn beside(control: &Path) -> Self {
        Self {
            path: control.with_file_name("health.json"),
        }
    }

    /// Writes the words, by way of a temporary file, so that a reader never sees half of it.
    pub(crate) fn write(&self, backends: Vec<Saved>) -> anyhow::Result<()> {
        let rows = backends
            .into_iter()
            .map(
                |Saved {
                     key,
                     word,
                     cause,
                     lasted,
                 }| Row {
                    pool: key.pool.as_str().to_owned(),
                    address: key.address,
                    word: word.bits(),
                    cause: cause.to_string(),
                    lasted_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
                },
            )
            .collect();
        let file = File {
            boot: boot_id(),
            written: now_epoch(),
            backends: rows,
        };
        replace(&self.path, &serde_json::to_vec(&file)?)
    }

    /// The words of a predecessor, if there are any worth having.
    pub(crate) fn read(&self) -> Vec<Saved> {
        match self.try_read() {
            Ok(Some(saved)) => {
                info!(
                    backends = saved.len(),
                    "health is carried on from the control process before this one"
                );
                saved
            }
            Ok(None) => Vec::new(),
            Err(error) => {
                debug!(path = %self.path.display(), %error, "no saved health");
                Vec::new()
            }
        }
    }

    fn try_read(&self) -> anyhow::Result<Option<Vec<Saved>>> {
        let file: File = serde_json::from_slice(&std::fs::read(&self.path)?)?;
        let age = Duration::from_secs(now_epoch().saturating_sub(file.written));
        if file.boot != boot_id() {
            return Ok(None);
        }
        let saved = file.backends.into_iter().filter_map(|row| {
            Some(Saved {
                key: BackendKey {
                    pool: PoolName::new(row.pool),
                    address: row.address,
                },
                word: Word::from_bits(row.word)?,
                cause: row.cause.into(),
                lasted: Duration::from_millis(row.lasted_ms) + age,
            })
        });
        Ok(Some(saved.collect()))
    }

    /// An orderly stop leaves nothing behind.
    pub(crate) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "no saved health to remove");
        }
    }
}

/// Replaces a file whole: a reader sees the old or the new one. Nothing that somebody else has put there is followed.
pub(super) fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let at = || temporary.display().to_string();
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(at),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::File::create_new(&temporary).with_context(at)?;
    file.write_all(content).with_context(at)?;
    std::fs::rename(&temporary, path).with_context(|| path.display().to_string())
}

pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |s| s.trim().to_owned())
}

fn now_epoch() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use weir_core::health::{Admin, State};

    use super::*;

    #[test]
    fn words_survive_and_rubbish_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::beside(&dir.path().join("control.sock"));
        assert!(file.read().is_empty(), "nothing there yet");
        let saved = Saved {
            key: BackendKey {
                pool: PoolName::new("web"),
                address: "10.0.0.1:80".parse().unwrap(),
            },
            word: Word {
                state: State::Up,
                admin: Admin::Drain,
            },
            cause: "checks passed".into(),
            lasted: Duration::from_secs(5),
        };
        file.write(vec![saved.clone()]).unwrap();
        let read = file.read();
        assert_eq!(read.len(), 1);
        assert_eq!(
            (&read[0].key, read[0].word, &read[0].cause),
            (&saved.key, saved.word, &saved.cause)
        );
        assert!(read[0].lasted >= saved.lasted);
        std::fs::write(dir.path().join("health.json"), "{").unwrap();
        assert!(file.read().is_empty(), "torn");
    }
}
