//! The words by which the kernel's programs know until when a group of virtual routers is answered for.
//!
//! Owns `LEASES`, `LEASED` and `HEARS`, and the bit of the settings that has the programs ask them. Decides nothing: how long
//! a lease is, is the machine's; here it is put where the programs read it. They need nobody for the rest: a word that nobody
//! renews has them drop whatever is for the group's addresses (reason `not-master`), whether this process was stopped, is
//! starved or dead.
//!
//! The maps are pinned. A process that goes leaves its leases as they are, and its successor takes them over, word by word: a
//! group is known by its addresses, whatever its number was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use weir_abi::{
    Addr16, HearKey, Settings,
    maps::{
        lease::{LAG, LAG_TICKS, SLOTS},
        settings,
    },
    names,
    spec::capacity,
};

use crate::{
    Capacities,
    capture::change_settings,
    error::{MapError, OpenError},
    object, pins,
    sys::{self, SharedWords},
    table::Table,
};

/// Groups that there can be.
pub const GROUPS: usize = SLOTS as usize - 1;

/// Addresses that there can be, of all groups together.
pub const ADDRESSES: u32 = capacity::LEASED;

/// Why leases can't be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// No tables of this version.
    #[error(
        "there are no tables of this weir in {}: virtual routers get leases once the datapath is open, with node.xdp other \
         than \"off\"", path.display()
    )]
    NoTables {
        /// The pin directory.
        path: PathBuf,
    },
    /// There is no room for another group.
    #[error(
        "there can be {GROUPS} groups of virtual routers, numbered from 0; group {group} is one too many"
    )]
    TooMany {
        /// Its number.
        group: usize,
    },
    /// There is no room for further addresses.
    #[error(
        "there is room for {ADDRESSES} addresses of virtual routers, of all groups together; write fewer into [vrrp.NAME]"
    )]
    Full,
    /// A directory or map could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A hold on the leases. Copies are of the same.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    words: SharedWords,
    /// Of each group, by number, its slot; 0: it is not registered.
    slots: Vec<AtomicU32>,
    maps: Mutex<Maps>,
}

#[derive(Debug)]
struct Maps {
    leased: Table<Addr16, u32>,
    hears: Table<HearKey, u32>,
    settings: Table<u32, Settings>,
    dir: File,
    /// Of each group that is registered, its slot and its addresses.
    wanted: BTreeMap<usize, (u32, BTreeSet<IpAddr>)>,
}

impl Leases {
    /// Opens the maps that [`Datapath::open`](crate::Datapath::open) has made or taken over under `pins`.
    ///
    /// # Errors
    /// When there are none, or they are not what they must be.
    pub fn open(pins: &Path) -> Result<Self, LeaseError> {
        let maps = maps_of(pins);
        let open = |name| open_pinned(pins, name);
        let words = SharedWords::map(open(names::LEASES)?, SLOTS as usize).map_err(|cause| MapError {
            map: names::LEASES,
            doing: "map into memory",
            cause,
        })?;
        if let Some(lag) = words.words().get(LAG as usize) {
            // Without it the programs ask the exact clock.
            lag.store(sys::coarse_tick().unwrap_or(0) * LAG_TICKS, Ordering::Release);
        }
        let tables = Maps {
            leased: Table::new(names::LEASED, open(names::LEASED)?.as_fd())?,
            hears: Table::new(names::HEARS, open(names::HEARS)?.as_fd())?,
            settings: Table::new(names::SETTINGS, open(names::SETTINGS)?.as_fd())?,
            dir: File::open(&maps).map_err(|cause| OpenError::File {
                doing: "cannot open",
                path: maps.clone(),
                cause,
            })?,
            wanted: BTreeMap::new(),
        };
        Ok(Self(Arc::new(Shared {
            words,
            slots: (0..GROUPS).map(|_| AtomicU32::new(0)).collect(),
            maps: Mutex::new(tables),
        })))
    }

    /// Says which addresses a group has; from now on they are answered for only as [`Self::set`] says. Also where they change:
    /// [`Self::settle`] then forgets what is no more. An address that had a lease keeps it as it runs, whoever gave it; a new
    /// one has none.
    ///
    /// Before the programs are attached, and before [`Self::set`] for the group.
    ///
    /// # Errors
    /// When there are too many groups or addresses, or a map cannot be read or written.
    pub fn register(&self, group: usize, addresses: &[IpAddr]) -> Result<(), LeaseError> {
        let own = self.0.slots.get(group).ok_or(LeaseError::TooMany { group })?;
        let mut maps = self.maps();
        let held = maps.held()?;
        let slot = match own.load(Ordering::Acquire) {
            0 => {
                // The one that a process before gave its addresses.
                let others = self.taken();
                let mut before = addresses
                    .iter()
                    .filter_map(|address| held.get(&address.to_canonical()));
                let before = before.find(|slot| !others.contains(slot));
                let is_free = |slot: &u32| !others.contains(slot) && !held.values().any(|used| used == slot);
                let slot = before.copied().or_else(|| (1..SLOTS).find(is_free));
                slot.ok_or(LeaseError::TooMany { group })?
            }
            slot => slot,
        };
        let word = self.word(slot).ok_or(LeaseError::TooMany { group })?;
        if !held.values().any(|used| *used == slot) {
            word.store(0, Ordering::Release);
        }
        for address in addresses {
            let set = maps.leased.set(&Addr16::from(address.to_canonical()), &slot);
            set.map_err(|error| match error.cause.raw_os_error() {
                Some(libc::E2BIG) => LeaseError::Full,
                Some(_) | None => error.into(),
            })?;
        }
        let addresses = addresses.iter().map(IpAddr::to_canonical);
        maps.wanted.insert(group, (slot, addresses.collect()));
        own.store(slot, Ordering::Release);
        Ok(maps.flag()?)
    }

    /// Until when the group is answered for, or that it is not. Made for the thread of [`Driver`](super::Driver): one store to
    /// memory, no system call but the clock's, no lock. Of a group that is not registered it says nothing to anybody.
    pub fn set(&self, group: usize, until: Option<Instant>) {
        let slot = self.0.slots.get(group);
        let slot = slot.map_or(0, |slot| slot.load(Ordering::Acquire));
        if slot != 0
            && let Some(word) = self.word(slot)
        {
            word.store(until.map_or(0, in_kernel), Ordering::Release);
        }
    }

    /// A group that is no more. Its addresses are fenced until [`Self::settle`].
    pub fn unregister(&self, group: usize) {
        let mut maps = self.maps();
        if let Some(own) = self.0.slots.get(group) {
            own.store(0, Ordering::Release);
        }
        maps.wanted.remove(&group);
    }

    /// Forgets addresses that no group has: what a process before had, or a configuration before. After the last
    /// [`Self::register`]; also where there are none.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn settle(&self) -> Result<(), LeaseError> {
        let maps = self.maps();
        for (address, slot) in maps.held()? {
            let mut wanted = maps.wanted.values();
            if !wanted.any(|(own, addresses)| *own == slot && addresses.contains(&address)) {
                maps.leased.delete(&address.into())?;
            }
        }
        Ok(maps.flag()?)
    }

    /// Takes everything back, at an orderly stop: no address has a lease, and none needs one.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn remove(&self) -> Result<(), LeaseError> {
        let mut maps = self.maps();
        for slot in &self.0.slots {
            slot.store(0, Ordering::Release);
        }
        maps.wanted.clear();
        maps.leased.delete_where(|_, _| true)?;
        maps.hears.delete_where(|_, _| true)?;
        Ok(maps.flag()?)
    }

    /// Has the programs hand out what arrives for `to` on an interface: exactly there, and nowhere else.
    pub(super) fn hear(&self, places: &[(u32, IpAddr)]) -> Result<(), LeaseError> {
        let maps = self.maps();
        let wanted: Vec<HearKey> = places
            .iter()
            .map(|&(ifindex, to)| HearKey {
                addr: to.into(),
                ifindex,
            })
            .collect();
        maps.hears.delete_where(|key, _| !wanted.contains(key))?;
        for key in &wanted {
            maps.hears.set(key, &1)?;
        }
        Ok(maps.flag()?)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        // What a thread that panicked has left is read from the kernel anew.
        self.0.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        self.0.words.words().get(slot as usize)
    }

    /// The slots of all groups that are registered.
    fn taken(&self) -> BTreeSet<u32> {
        let slots = self.0.slots.iter().map(|slot| slot.load(Ordering::Acquire));
        slots.filter(|slot| *slot != 0).collect()
    }
}

impl Maps {
    /// What `LEASED` holds.
    fn held(&self) -> Result<BTreeMap<IpAddr, u32>, MapError> {
        let mut held = BTreeMap::new();
        self.leased.each(|address, slot| {
            held.insert(address.to_ip(), *slot);
        })?;
        Ok(held)
    }

    /// Has the programs ask, or not, as there is something to ask for. Set behind what it is set for.
    fn flag(&self) -> Result<(), MapError> {
        let mut any = false;
        self.leased.each(|_, _| any = true)?;
        self.hears.each(|_, _| any = true)?;
        let now = self.settings.get(&0)?.unwrap_or_default();
        if (now.flags & settings::LEASES != 0) == any {
            return Ok(());
        }
        change_settings(&self.settings, &self.dir, |now| Settings {
            flags: now.flags & !settings::LEASES | if any { settings::LEASES } else { 0 },
            ..now
        })
    }
}

/// An instant as the programs count time: nanoseconds of CLOCK_MONOTONIC. A thread that is stopped between the two readings
/// makes the lease shorter, never longer.
fn in_kernel(until: Instant) -> u64 {
    let clock = sys::monotonic_nanoseconds();
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return 0;
    }
    clock.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}

/// The directory that the maps of this version are pinned in.
pub(super) fn maps_of(pins: &Path) -> PathBuf {
    pins.join(format!("{:016x}", weir_abi::ABI_HASH)).join("maps")
}

/// Opens a pinned map, and compares it with what it must be.
pub(super) fn open_pinned(pins: &Path, name: &'static str) -> Result<OwnedFd, LeaseError> {
    let maps = maps_of(pins);
    let path = maps.join(name);
    let fail = |doing| {
        let path = path.clone();
        move |cause| LeaseError::Open(OpenError::File { doing, path, cause })
    };
    let map = match sys::open_pin(&path) {
        Ok(map) => map,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = pins.to_owned();
            return Err(LeaseError::NoTables { path });
        }
        Err(error) => return Err(fail("cannot open the pinned map")(error)),
    };
    let is = sys::map_shape(&map).map_err(fail("cannot inspect the pinned map"))?;
    // None of these has a capacity that the configuration chooses.
    let must = object::shape(name, &Capacities::default());
    if let Some((what, found, expected)) = must.and_then(|must| pins::difference(&is, &must)) {
        return Err(LeaseError::Open(OpenError::PinMismatch {
            map: name.into(),
            dir: maps,
            what,
            found,
            expected,
        }));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_is_never_later_for_the_kernel() {
        let before = sys::monotonic_nanoseconds();
        let until = Instant::now() + Duration::from_millis(100);
        let word = in_kernel(until);
        // What passes between the two readings is taken off, so only the one before bounds it from below.
        let after = sys::monotonic_nanoseconds();
        assert!(word <= after + 100_000_000, "{word} for {after}");
        assert!(word >= before, "{word} for {before}");
        assert_eq!(in_kernel(Instant::now()), 0, "what is over is no lease");
    }

    #[test]
    fn without_tables_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = Leases::open(dir.path()).unwrap_err();
        assert!(matches!(error, LeaseError::NoTables { .. }), "{error}");
        assert!(error.to_string().contains("node.xdp"), "{error}");
    }
}
