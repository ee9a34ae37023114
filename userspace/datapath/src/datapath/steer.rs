//! Which socket serves which listener: `STEER`, `TAKEN` and `SOCKETS`, which the sk_lookup program reads. `TAKEN` is also
//! what the tc program takes packets in by.
//!
//! One socket per listener is enough: the kernel then chooses within its SO_REUSEPORT group. The sockets stay open in
//! control, so none of them ever vanishes from the map by being closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd, BorrowedFd},
};

use weir_abi::{
    Prefix, ServiceKey, SteerKey, Taken,
    maps::{steer, take},
};
use weir_core::{ids::ListenKey, plan::Listen};

use super::{Datapath, load::says_interface};
use crate::{
    changes::service_key,
    error::{Error, MapError},
    listen,
    routing::Net,
    tables::{Tables, listen_key},
    taken::{self, Place},
};

/// A listener without the name of its interface, and the interface's index; 0: it is for all.
type Way = (ListenKey, u32);

/// The index into `SOCKETS` of every listener.
#[derive(Debug)]
pub(super) struct Steered {
    /// Of those in `STEER`.
    indices: BTreeMap<Way, u32>,
    /// What `STEER` says to what comes in by any interface: [`anyone`].
    anyone: BTreeMap<ListenKey, u32>,
    /// Of those in `TAKEN`, as they were last put there.
    places: Vec<(ListenKey, Place)>,
    /// Those that `TAKEN` had when it was found.
    found: BTreeSet<u32>,
    /// It held something then.
    pub(super) took: bool,
}

impl Steered {
    /// What an earlier process has left.
    pub(super) fn read(tables: &Tables) -> Result<Self, MapError> {
        let (mut indices, mut strange) = (BTreeMap::new(), Vec::new());
        let mut anyone = BTreeMap::new();
        tables.steer.each(|key, &value| {
            let Some(listen) = listen_key(key.addr, key.port_proto) else {
                strange.push(*key);
                return;
            };
            if key.ifindex == 0 {
                anyone.insert(listen, value);
            }
            let index = value & !steer::BY_INTERFACE;
            if index != steer::NOBODY {
                indices.insert((listen, key.ifindex), index);
            }
        })?;
        for key in strange {
            tables.steer.delete(&key)?;
        }
        let (mut found, mut took) = (BTreeSet::new(), false);
        tables.taken.each(|_, taken| {
            took = true;
            let sockets = taken.sockets.iter().take((taken.count & !take::OWN) as usize);
            found.extend(sockets.copied());
        })?;
        Ok(Self {
            indices,
            anyone,
            places: Vec::new(),
            found,
            took,
        })
    }

    /// The indices that are in use.
    fn used(&self) -> BTreeSet<u32> {
        let places = self.places.iter().map(|(_, place)| place.socket);
        { self.indices.values().copied() }
            .chain(places)
            .chain(self.found.iter().copied())
            .collect()
    }

    /// How many listeners there are.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }
}

/// The index of the interface that a listener is for; 0: it is for all. None: the interface is gone, and with it the socket's
/// use, until control has bound another.
fn interface_of(key: &ListenKey, socket: BorrowedFd<'_>) -> Result<Option<u32>, Error> {
    let Some(interface) = key.interface else {
        return Ok(Some(0));
    };
    if !says_interface() {
        return Err(Error::OldKernel { key: *key });
    }
    Ok(listen::bound_to(socket, interface))
}

/// What `STEER` says of each of these addresses to what comes in by any interface: the listener that is for all, or nobody; and
/// whether there are others.
fn anyone(mut said: BTreeMap<ListenKey, u32>, indices: &BTreeMap<Way, u32>) -> BTreeMap<ListenKey, u32> {
    for ((bare, ifindex), index) in indices {
        if let Some(value) = said.get_mut(bare) {
            *value = match ifindex {
                0 => *value & steer::BY_INTERFACE | index,
                1.. => *value | steer::BY_INTERFACE,
            };
        }
    }
    said
}

fn steer_key(key: &ListenKey, ifindex: u32) -> SteerKey {
    let ServiceKey { addr, port_proto } = service_key(key);
    SteerKey {
        addr,
        port_proto,
        ifindex,
    }
}

impl Datapath {
    /// Makes these listeners, and no others, reach these sockets. Of a SO_REUSEPORT group any one socket stands for all. One of a
    /// single interface is left out while its socket is not bound to it ([`listen::bound_to`]).
    ///
    /// # Errors
    /// When there are too many, a key is given twice, or the kernel refuses a socket. The same call made again carries
    /// on.
    pub fn steer(&mut self, listeners: &[(ListenKey, BorrowedFd<'_>)]) -> Result<(), Error> {
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
            let Some(ifindex) = interface_of(key, *socket)? else {
                continue;
            };
            let bare = ListenKey {
                addr: key.addr.to_canonical(),
                interface: None,
                ..*key
            };
            if wanted.insert((bare, ifindex), *socket).is_some() {
                return Err(Error::Duplicate(key.to_string()));
            }
        }
        let present = std::mem::take(&mut self.steered.indices);
        let (known, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            { present.into_iter() }.partition(|(way, _)| wanted.contains_key(way));
        self.steered.indices = known;
        let said: BTreeMap<ListenKey, u32> = { wanted.keys() }
            .map(|(bare, _)| (*bare, steer::NOBODY))
            .collect();
        // What nobody listens on any more is no longer steered, and its sockets make room first.
        let unsaid: Vec<_> = { self.steered.anyone.keys() }
            .filter(|bare| !said.contains_key(bare))
            .copied()
            .collect();
        for bare in unsaid {
            self.tables.steer.delete(&steer_key(&bare, 0))?;
            self.steered.anyone.remove(&bare);
        }
        for ((bare, ifindex), index) in &gone {
            if *ifindex != 0 {
                self.tables.steer.delete(&steer_key(bare, *ifindex))?;
            }
            if !said.contains_key(bare) {
                self.tables.sockets.delete(index)?;
            }
        }
        let left = gone.into_iter().filter(|((bare, _), _)| said.contains_key(bare));
        let left: Vec<u32> = left.map(|(_, index)| index).collect();
        let mut used = self.steered.used();
        used.extend(&left);
        let mut fresh = 0;
        for (way, socket) in &wanted {
            let known = self.steered.indices.get(way).copied();
            let index = known.unwrap_or_else(|| {
                while !used.insert(fresh) {
                    fresh += 1;
                }
                fresh
            });
            // The socket before the key that leads to it.
            let (key, ifindex) = *way;
            self.tables
                .sockets
                .set(&index, &(socket.as_raw_fd() as u32))
                .map_err(|e| Error::Socket { key, cause: e.cause })?;
            if known.is_none() {
                if ifindex != 0 {
                    self.tables.steer.set(&steer_key(&key, ifindex), &index)?;
                }
                self.steered.indices.insert(*way, index);
            }
        }
        for (bare, value) in anyone(said, &self.steered.indices) {
            if self.steered.anyone.get(&bare) != Some(&value) {
                self.tables.steer.set(&steer_key(&bare, 0), &value)?;
                self.steered.anyone.insert(bare, value);
            }
        }
        for index in left {
            self.tables.sockets.delete(&index)?;
        }
        Ok(())
    }

    /// Makes these transparent listeners, and no others, reach these sockets, as [`Self::steer`] does with virtual addresses.
    /// `clients`: what comes back to addresses that the relay connects from in its clients' names is taken in, too. True if
    /// the tc program is due to be attached, by [`Self::attach`]. Once it is there it stays, also when nothing new is taken in
    /// any more: connections that were are open still.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses a socket. The same call made again carries on.
    pub fn take_in(&mut self, listeners: &[(Listen, BorrowedFd<'_>)], clients: bool) -> Result<bool, Error> {
        let before = std::mem::take(&mut self.steered.places);
        let mut used = self.steered.used();
        used.extend(before.iter().map(|(_, place)| place.socket));
        let mut fresh = 0;
        let mut places = Vec::new();
        for (listen, socket) in listeners {
            let weir_core::ids::Scope::Network(prefix) = listen.scope else {
                continue;
            };
            let (Some(net), Some(key)) = (Net::new(listen.addr, prefix), listen.keys().next()) else {
                continue;
            };
            let Some(ifindex) = interface_of(&key, *socket)? else {
                continue;
            };
            let known = before.iter().find(|(other, _)| *other == key);
            let index = known.map(|(_, place)| place.socket).unwrap_or_else(|| {
                while !used.insert(fresh) {
                    fresh += 1;
                }
                fresh
            });
            let room = self.options.capacities.sockets;
            if index >= room {
                self.steered.places = before;
                return Err(Error::Full {
                    what: "steered listeners",
                    need: u64::from(index) + 1,
                    room: room.into(),
                    mend: "listen on fewer addresses and ports",
                });
            }
            self.tables
                .sockets
                .set(&index, &(socket.as_raw_fd() as u32))
                .map_err(|e| Error::Socket { key, cause: e.cause })?;
            let place = Place {
                net,
                first: listen.first,
                last: listen.last,
                socket: index,
                ifindex,
            };
            places.push((key, place));
        }
        self.steered.places = places;
        let takes = clients || !listeners.is_empty() || self.takes;
        let attach_due = std::mem::replace(&mut self.takes, takes) != takes;
        self.write_taken()?;
        // What nothing names any more.
        let found = std::mem::take(&mut self.steered.found);
        let still = self.steered.used();
        for index in { found.into_iter() }
            .chain(before.into_iter().map(|(_, place)| place.socket))
            .filter(|index| !still.contains(index))
        {
            self.tables.sockets.delete(&index)?;
        }
        Ok(attach_due)
    }

    /// The transparent listeners that take in a connection to an address: those of single interfaces, then the one of all, if there
    /// is one. None for the box's own, or where nobody takes it.
    pub fn taken_by(&self, to: std::net::SocketAddr) -> Vec<ListenKey> {
        let places = &self.steered.places;
        let all: Vec<_> = places.iter().map(|(_, place)| *place).collect();
        let entries = taken::entries(&all, &self.own);
        let of = |socket| places.iter().find(|(_, place)| place.socket == socket);
        taken::takers(&entries, to.ip().to_canonical(), to.port())
            .into_iter()
            .filter_map(|(socket, _)| Some(of(socket)?.0))
            .collect()
    }

    /// Whether connections to other addresses are taken in.
    pub fn takes_in(&self) -> bool {
        self.takes
    }

    /// Tells what is this box's own, which no transparent listener gets. What is empty is not known: then what was told
    /// before holds.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn set_own(&mut self, own: &BTreeSet<Net>) -> Result<(), Error> {
        if own.is_empty() || self.own == *own {
            return Ok(());
        }
        self.own.clone_from(own);
        if self.takes { self.write_taken() } else { Ok(()) }
    }

    /// Brings `TAKEN` to what follows from the listeners and the box's own addresses. Nothing of the box's own is given to a
    /// listener in between: its entries come first and go last.
    fn write_taken(&self) -> Result<(), Error> {
        let mut wanted = BTreeMap::new();
        if self.takes {
            let places: Vec<_> = self.steered.places.iter().map(|(_, place)| *place).collect();
            wanted = taken::entries(&places, &self.own);
        }
        let room = self.tables.taken.shape().max_entries;
        if wanted.len() > room as usize {
            return Err(Error::Full {
                what: "addresses of this box's own beside transparent listeners",
                need: wanted.len() as u64,
                room: room.into(),
                mend: "have fewer addresses on this box",
            });
        }
        let mut present: BTreeMap<[u32; 5], (Prefix, Taken)> = BTreeMap::new();
        let order = |prefix: &Prefix| {
            let [a, b, c, d] = prefix.addr.words;
            [prefix.len, a, b, c, d]
        };
        self.tables.taken.each(|prefix, taken| {
            present.insert(order(prefix), (*prefix, *taken));
        })?;
        let mut set = Vec::new();
        for (net, taken) in &wanted {
            let prefix = net.prefix();
            if present.remove(&order(&prefix)).is_none_or(|(_, is)| is != *taken) {
                set.push((prefix, *taken));
            }
        }
        let has_listeners = |taken: &Taken| taken.count & !take::OWN != 0;
        set.sort_by_key(|(_, taken)| has_listeners(taken));
        let mut gone: Vec<_> = present.into_values().collect();
        gone.sort_by_key(|(_, taken)| !has_listeners(taken));
        let changed = set.len() + gone.len();
        for (prefix, taken) in set {
            self.tables.taken.set(&prefix, &taken)?;
        }
        for (prefix, _) in gone {
            self.tables.taken.delete(&prefix)?;
        }
        if changed != 0 {
            tracing::debug!(networks = wanted.len(), changed, "what is taken in changed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weir_core::ids::{Protocol, Scope};

    use super::*;

    #[test]
    fn what_comes_by_any_interface_is_told_whether_some_have_listeners_of_their_own() {
        let key = |port| ListenKey {
            addr: "192.0.2.10".parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            scope: Scope::Address,
            interface: None,
        };
        let ways = [(80, 0, 5), (81, 2, 6), (81, 3, 7), (82, 0, 8), (82, 3, 9)];
        let indices = ways.map(|(port, ifindex, index)| ((key(port), ifindex), index));
        let said = [80, 81, 82].map(|port| (key(port), steer::NOBODY));
        let found = anyone(said.into(), &indices.into());
        let expected = [
            (80, 5),
            (81, steer::BY_INTERFACE | steer::NOBODY),
            (82, steer::BY_INTERFACE | 8),
        ];
        assert_eq!(found, expected.map(|(port, value)| (key(port), value)).into());
    }
}
