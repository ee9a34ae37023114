//! Numbers for names: which service id and which backend index stands for whom, kept across restarts.
//!
//! Pure but for [`load`] and [`store`]. A number that was given stays with its name for as long as the name is wanted.
//! After that it rests: the flow table and the rings may still name it. A name that comes back gets its old number; only
//! when no fresh number is left does a rested one go to somebody else, and the caller is told to forget what names it.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weir_core::ids::{BackendKey, PoolName, ServiceName};

/// Numbers given to names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Numbers<K> {
    /// The lowest number that was never given.
    fresh: u32,
    live: BTreeMap<K, u32>,
    resting: BTreeMap<K, Resting>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Resting {
    number: u32,
    /// Seconds of CLOCK_MONOTONIC.
    since: u32,
}

/// A number and what must happen before it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    pub(crate) number: u32,
    /// It stood for somebody else before: what names it must be forgotten first.
    pub(crate) reused: bool,
}

impl<K: Ord + Clone> Numbers<K> {
    pub(crate) fn starting_at(first: u32) -> Self {
        Self {
            fresh: first,
            live: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// The number of a name that is wanted.
    pub(crate) fn get(&self, name: &K) -> Option<u32> {
        self.live.get(name).copied()
    }

    /// Names that are wanted, with their numbers.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&K, u32)> {
        self.live.iter().map(|(name, &number)| (name, number))
    }

    /// Every name that has a number, wanted or resting.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, u32)> {
        self.live()
            .chain(self.resting.iter().map(|(name, resting)| (name, resting.number)))
    }

    /// The number for a name: its own if it has or had one, else a fresh one below `limit`, else the longest rested
    /// one that has rested for `horizon` seconds. None when there is none.
    pub(crate) fn give(&mut self, name: &K, limit: u32, now: u32, horizon: u32) -> Option<Given> {
        let own = self
            .get(name)
            .or_else(|| self.resting.remove(name).map(|resting| resting.number));
        let given = if let Some(number) = own {
            Given {
                number,
                reused: false,
            }
        } else if self.fresh < limit {
            self.fresh += 1;
            Given {
                number: self.fresh - 1,
                reused: false,
            }
        } else {
            let (oldest, resting) = self.resting.iter().min_by_key(|(_, resting)| resting.since)?;
            if now.saturating_sub(resting.since) <= horizon {
                return None;
            }
            let (oldest, number) = (oldest.clone(), resting.number);
            self.resting.remove(&oldest);
            Given { number, reused: true }
        };
        self.live.insert(name.clone(), given.number);
        Some(given)
    }

    /// Lets the numbers of all names rest that `wanted` does not hold to.
    pub(crate) fn rest(&mut self, now: u32, wanted: impl Fn(&K) -> bool) {
        for (name, number) in self.live.extract_if(.., |name, _| !wanted(name)) {
            self.resting.insert(name, Resting { number, since: now });
        }
    }
}

/// Which number stands for whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Assignment {
    /// Service ids: indices into `SERVICE_TRAFFIC`, from 0.
    pub(crate) services: Numbers<ServiceName>,
    /// Backend indices, from 1: 0 means "no backend".
    pub(crate) backends: Numbers<BackendKey>,
}

impl Default for Assignment {
    fn default() -> Self {
        Self {
            services: Numbers::starting_at(0),
            backends: Numbers::starting_at(1),
        }
    }
}

/// The state file's form of an [`Assignment`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Layouts that the numbers were given under, in hex.
    abi: String,
    services_fresh: u32,
    services: Vec<StoredService>,
    backends_fresh: u32,
    backends: Vec<StoredBackend>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredService {
    name: String,
    id: u32,
    /// Not wanted any more, since this second of CLOCK_MONOTONIC.
    resting_since: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBackend {
    pool: String,
    address: SocketAddr,
    index: u32,
    resting_since: Option<u32>,
}

fn entries<K: Ord>(numbers: &Numbers<K>) -> impl Iterator<Item = (&K, u32, Option<u32>)> {
    let live = numbers.live.iter().map(|(name, &number)| (name, number, None));
    live.chain(
        numbers
            .resting
            .iter()
            .map(|(name, r)| (name, r.number, Some(r.since))),
    )
}

/// Puts numbers together again; None if one occurs twice, lies outside `first .. fresh`, or a name occurs twice.
fn numbers<K: Ord + Clone>(
    first: u32,
    fresh: u32,
    list: impl Iterator<Item = (K, u32, Option<u32>)>,
) -> Option<Numbers<K>> {
    let mut out = Numbers::starting_at(fresh);
    let mut seen = std::collections::BTreeSet::new();
    for (name, number, since) in list {
        if !(first..fresh).contains(&number) || !seen.insert(number) {
            return None;
        }
        let taken = out.live.contains_key(&name) || out.resting.contains_key(&name);
        match since {
            _ if taken => return None,
            None => out.live.insert(name, number).is_some(),
            Some(since) => out.resting.insert(name, Resting { number, since }).is_some(),
        };
    }
    Some(out)
}

fn file(dir: &Path) -> PathBuf {
    dir.join("assignment.json")
}

fn abi() -> String {
    format!("{:016x}", weir_abi::ABI_HASH)
}

/// Reads the state file. None when there is none, or one of another layout; an error when there is one that cannot be
/// read or makes no sense.
pub(crate) fn load(dir: &Path) -> io::Result<Option<Assignment>> {
    let text = match fs::read_to_string(file(dir)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let stored: Stored = serde_json::from_str(&text)?;
    if stored.abi != abi() {
        return Ok(None);
    }
    let services = stored
        .services
        .into_iter()
        .map(|s| (ServiceName::new(s.name), s.id, s.resting_since));
    let backends = stored.backends.into_iter().map(|b| {
        (
            BackendKey {
                pool: PoolName::new(b.pool),
                address: b.address,
            },
            b.index,
            b.resting_since,
        )
    });
    match (
        numbers(0, stored.services_fresh, services),
        numbers(1, stored.backends_fresh, backends),
    ) {
        (Some(services), Some(backends)) => Ok(Some(Assignment { services, backends })),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a number or a name occurs twice, or is out of range",
        )),
    }
}

/// Writes the state file, whole or not at all. Returns its path with an error.
pub(crate) fn store(dir: &Path, assignment: &Assignment) -> Result<(), (PathBuf, io::Error)> {
    let stored = Stored {
        abi: abi(),
        services_fresh: assignment.services.fresh,
        services: entries(&assignment.services)
            .map(|(name, id, resting_since)| StoredService {
                name: name.as_str().into(),
                id,
                resting_since,
            })
            .collect(),
        backends_fresh: assignment.backends.fresh,
        backends: entries(&assignment.backends)
            .map(|(key, index, resting_since)| StoredBackend {
                pool: key.pool.as_str().into(),
                address: key.address,
                index,
                resting_since,
            })
            .collect(),
    };
    let path = file(dir);
    let write = || -> io::Result<()> { write_atomically(&path, &serde_json::to_vec_pretty(&stored)?) };
    write().map_err(|cause| (path.clone(), cause))
}

/// Removes the state file, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(file(dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Replaces a file's contents by way of a new file beside it: a reader sees the old or the new, also after a crash.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(contents)?;
    file.sync_data()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests;
