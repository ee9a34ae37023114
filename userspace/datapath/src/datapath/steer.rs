//! Which socket serves which listener: `STEER` and `SOCKETS`, which the sk_lookup program reads.
//!
//! One socket per listener is enough: the kernel then chooses within its SO_REUSEPORT group. The sockets stay open in
//! control, so none of them ever vanishes from the map by being closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd, BorrowedFd},
};

use weir_core::ids::ListenKey;

use super::Datapath;
use crate::{
    changes::service_key,
    error::{Error, MapError},
    tables::{Tables, listen_key},
};

/// The index into `SOCKETS` of every listener in `STEER`.
#[derive(Debug)]
pub(super) struct Steered {
    indices: BTreeMap<ListenKey, u32>,
}

impl Steered {
    /// What an earlier process has left.
    pub(super) fn read(tables: &Tables) -> Result<Self, MapError> {
        let (mut indices, mut strange) = (BTreeMap::new(), Vec::new());
        tables
            .steer
            .each(|key, &index| match listen_key(key.addr, key.port_proto) {
                Some(listen) => drop(indices.insert(listen, index)),
                None => strange.push(*key),
            })?;
        for key in strange {
            tables.steer.delete(&key)?;
        }
        Ok(Self { indices })
    }

    /// How many listeners there are.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }
}

impl Datapath {
    /// Makes these listeners, and no others, reach these sockets. Of a SO_REUSEPORT group any one socket stands for all.
    ///
    /// # Errors
    /// When there are too many, a key is given twice, or the kernel refuses a socket. The same call made again carries
    /// on.
    pub fn steer(&mut self, listeners: &[(ListenKey, BorrowedFd<'_>)]) -> Result<(), Error> {
        let canonical = |key: &ListenKey| ListenKey {
            addr: key.addr.to_canonical(),
            ..*key
        };
        let room = self.options.capacities.sockets;
        if listeners.len() > room as usize {
            let need = listeners.len() as u64;
            return Err(Error::Full {
                what: "steered listeners",
                need,
                room: room.into(),
                mend: "listen on fewer addresses and ports",
            });
        }
        let mut wanted = BTreeMap::new();
        for (key, socket) in listeners {
            if wanted.insert(canonical(key), *socket).is_some() {
                return Err(Error::Duplicate(key.to_string()));
            }
        }
        // Those that go make room first; connections to them are then no longer steered.
        let gone: Vec<_> = self
            .steered
            .indices
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.tables.steer.delete(&service_key(&key))?;
            if let Some(index) = self.steered.indices.remove(&key) {
                self.tables.sockets.delete(&index)?;
            }
        }
        let mut used: BTreeSet<u32> = self.steered.indices.values().copied().collect();
        let mut fresh = 0;
        for (key, socket) in wanted {
            let known = self.steered.indices.get(&key).copied();
            let index = known.unwrap_or_else(|| {
                while !used.insert(fresh) {
                    fresh += 1;
                }
                fresh
            });
            // The socket before the key that leads to it.
            self.tables
                .sockets
                .set(&index, &(socket.as_raw_fd() as u32))
                .map_err(|e| Error::Socket { key, cause: e.cause })?;
            if known.is_none() {
                self.tables.steer.set(&service_key(&key), &index)?;
                self.steered.indices.insert(key, index);
            }
        }
        Ok(())
    }
}
