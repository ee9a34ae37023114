//! The words by which the kernel's programs know until when a group of virtual routers is answered for.
//!
//! Owns `LEASES`, `LEASED` and `HEARS` (`LINKS` and `LINKED` are in `links.rs`), and the bit of the settings that has the programs ask them. Decides nothing: how long
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
    Addr16, GroupLink, HearKey, LinkKey, Settings,
    maps::{
        lease::{LAG, LAG_TICKS, SLOT_BITS, SLOTS},
        settings,
    },
    names,
    spec::capacity,
};

use super::{
    addresses::{Accepted, Held},
    driver::Elsewhere,
    links,
};
use crate::{
    Capacities,
    capture::change_settings,
    error::{MapError, OpenError},
    object, pins,
    sys::{self, SharedWords},
    table::Table,
};

/// Of a value of `LEASED`, the index into `LEASES`.
const SLOT: u32 = (1 << SLOT_BITS) - 1;
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
    /// An interface could not be looked at.
    #[error("cannot look up the link address of interface {interface:?}: {cause}")]
    Interface {
        /// It.
        interface: String,
        /// The kernel's reason.
        cause: io::Error,
    },
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
    /// Of each group, by number.
    groups: Vec<Own>,
    maps: Mutex<Maps>,
}

/// What is kept of a group: indices into `LEASES`, 0: there is none.
#[derive(Default, Debug)]
struct Own {
    /// Its lease.
    slot: AtomicU32,
    /// The latest of all shares of its addresses; its own, if it has no share.
    whole: AtomicU32,
    /// Until when another box counts as master of some share.
    others: AtomicU32,
    /// Until when it does of this one, as the word has it.
    elsewhere: AtomicU64,
}

/// A group that is registered.
#[derive(Debug)]
struct Wanted {
    /// As in [`Own`].
    words: [u32; 3],
    addresses: BTreeSet<IpAddr>,
    accepted: BTreeSet<Accepted>,
}

/// Words that are free.
struct Slots<'a> {
    /// Those of groups.
    others: BTreeSet<u32>,
    /// Those that a map names.
    used: &'a BTreeSet<u32>,
}

impl Slots<'_> {
    /// The one from before, if no other group has it; or a free one.
    fn take(&self, before: Option<u32>) -> Option<u32> {
        let before = before.filter(|slot| *slot != 0 && !self.others.contains(slot));
        let is_free = |slot: &u32| !self.others.contains(slot) && !self.used.contains(slot);
        before.or_else(|| (1..SLOTS).find(is_free))
    }
}

#[derive(Debug)]
pub(super) struct Maps {
    leased: Table<Addr16, u32>,
    pub(super) links: Table<u32, GroupLink>,
    pub(super) linked: Table<LinkKey, u32>,
    hears: Table<HearKey, u32>,
    settings: Table<u32, Settings>,
    dir: File,
    /// Of each group that is registered.
    wanted: BTreeMap<usize, Wanted>,
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
            links: Table::new(names::LINKS, open(names::LINKS)?.as_fd())?,
            linked: Table::new(names::LINKED, open(names::LINKED)?.as_fd())?,
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
            groups: (0..GROUPS).map(|_| Own::default()).collect(),
            maps: Mutex::new(tables),
        })))
    }

    /// Says which addresses a group has, and which link addresses go with them; from now on they are answered for only as
    /// [`Self::set`] says. Also where they change: [`Self::settle`] then forgets what is no more. An address that had a lease keeps
    /// it as it runs, whoever gave it; a new one has none. Groups that are shares of the same addresses have a lease each.
    ///
    /// Before the programs are attached, and before [`Self::set`] for the group.
    ///
    /// # Errors
    /// When there are too many groups or addresses, or a map cannot be read or written.
    pub fn register(&self, group: usize, all: &[Held]) -> Result<(), LeaseError> {
        let too_many = || LeaseError::TooMany { group };
        let own = self.0.groups.get(group).ok_or_else(too_many)?;
        let mut maps = self.maps();
        let held = maps.held()?;
        let links = maps.links()?;
        let share = all.iter().find_map(|it| it.mac).filter(|mac| mac.shares > 1);
        // What a process before gave its addresses.
        let found = { all.iter() }.find_map(|it| held.get(&it.address.to_canonical()).copied());
        let entry = found.and_then(|value| links.get(&(value >> SLOT_BITS)));
        let used = maps.used(&held, &links);
        let mut slots = Slots {
            others: self.taken(),
            used: &used,
        };
        let slot = match (own.slot.load(Ordering::Acquire), share) {
            (0, None) => slots.take(found.map(|value| value & SLOT)),
            (0, Some(share)) => slots.take(entry.and_then(|entry| entry.slots.get(share.share).copied())),
            (slot, _) => Some(slot),
        };
        let slot = slot.ok_or_else(too_many)?;
        // The two words that all shares have together; of groups without, the lease itself.
        let (whole, others) = match share {
            None => (slot, 0),
            Some(_) => {
                let entry = entry.filter(|entry| entry.others != 0);
                let both = entry.and_then(|entry| Some((found? & SLOT, entry.others)));
                match both {
                    Some(both) => both,
                    None => {
                        slots.others.insert(slot);
                        let whole = slots.take(None).ok_or_else(too_many)?;
                        slots.others.insert(whole);
                        (whole, slots.take(None).ok_or_else(too_many)?)
                    }
                }
            }
        };
        for word in [slot, whole, others].into_iter().filter(|word| *word != 0) {
            if !used.contains(&word)
                && let Some(word) = self.word(word)
            {
                word.store(0, Ordering::Release);
            }
        }
        let mut accepted = BTreeSet::new();
        for it in all {
            let index = match links::place(it)? {
                Some(place) => {
                    accepted.insert(place.accepted());
                    maps.link(&place, slot, others)?.ok_or_else(too_many)?
                }
                None => 0,
            };
            let value = whole | index << SLOT_BITS;
            let set = maps.leased.set(&Addr16::from(it.address.to_canonical()), &value);
            set.map_err(|error| match error.cause.raw_os_error() {
                Some(libc::E2BIG) => LeaseError::Full,
                Some(_) | None => error.into(),
            })?;
        }
        let addresses = all.iter().map(|it| it.address.to_canonical());
        let wanted = Wanted {
            words: [slot, whole, others],
            addresses: addresses.collect(),
            accepted,
        };
        maps.wanted.insert(group, wanted);
        own.whole.store(whole, Ordering::Release);
        own.others.store(others, Ordering::Release);
        own.slot.store(slot, Ordering::Release);
        Ok(maps.flag()?)
    }

    /// Until when the group is answered for, or that it is not. Made for the thread of [`Driver`](super::Driver): a store to
    /// memory or two, no system call but the clock's, no lock. Of a group that is not registered it says nothing to anybody.
    pub fn set(&self, group: usize, until: Option<Instant>) {
        let Some(own) = self.0.groups.get(group) else {
            return;
        };
        let slot = own.slot.load(Ordering::Acquire);
        if slot != 0
            && let Some(word) = self.word(slot)
        {
            word.store(until.map_or(0, in_kernel), Ordering::Release);
        }
        let whole = own.whole.load(Ordering::Acquire);
        if whole != slot {
            self.gather(
                whole,
                |it| &it.whole,
                |it| self.value(it.slot.load(Ordering::Acquire)),
            );
        }
    }

    /// Until when another box counts as master of the group, which is a share. As [`Self::set`].
    pub fn set_elsewhere(&self, group: usize, until: Elsewhere) {
        let Some(own) = self.0.groups.get(group) else {
            return;
        };
        let until = match until {
            Elsewhere::Nobody => 0,
            Elsewhere::Master => u64::MAX,
            Elsewhere::Until(until) => in_kernel(until),
        };
        own.elsewhere.store(until, Ordering::Release);
        let others = own.others.load(Ordering::Acquire);
        self.gather(others, |it| &it.others, |it| it.elsewhere.load(Ordering::Acquire));
    }

    /// Puts the latest of all groups that have a word together into it.
    fn gather(&self, word: u32, of: impl Fn(&Own) -> &AtomicU32, time: impl Fn(&Own) -> u64) {
        if word == 0 {
            return;
        }
        let together = { self.0.groups.iter() }.filter(|it| of(it).load(Ordering::Acquire) == word);
        let latest = together.map(time).max().unwrap_or(0);
        if let Some(word) = self.word(word) {
            word.store(latest, Ordering::Release);
        }
    }

    /// A group that is no more. Its addresses are fenced until [`Self::settle`].
    pub fn unregister(&self, group: usize) {
        self.set_elsewhere(group, Elsewhere::Nobody);
        let mut maps = self.maps();
        if let Some(own) = self.0.groups.get(group) {
            own.slot.store(0, Ordering::Release);
            own.whole.store(0, Ordering::Release);
            own.others.store(0, Ordering::Release);
        }
        maps.wanted.remove(&group);
    }

    /// Forgets addresses that no group has: what a process before had, or a configuration before. After the last
    /// [`Self::register`]; also where there are none. The link addresses that were forgotten along: interfaces need not take
    /// frames to them any more.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn settle(&self) -> Result<Vec<Accepted>, LeaseError> {
        let maps = self.maps();
        for (address, value) in maps.held()? {
            let mut wanted = maps.wanted.values();
            if !wanted.any(|it| it.words.contains(&(value & SLOT)) && it.addresses.contains(&address)) {
                maps.leased.delete(&address.into())?;
            }
        }
        let gone = maps.unlink()?;
        maps.flag()?;
        Ok(gone)
    }

    /// Takes everything back, at an orderly stop: no address has a lease, and none needs one. The link addresses that were
    /// forgotten along, as of [`Self::settle`].
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn remove(&self) -> Result<Vec<Accepted>, LeaseError> {
        let mut maps = self.maps();
        for own in &self.0.groups {
            own.slot.store(0, Ordering::Release);
            own.whole.store(0, Ordering::Release);
            own.others.store(0, Ordering::Release);
        }
        maps.wanted.clear();
        maps.leased.delete_where(|_, _| true)?;
        maps.hears.delete_where(|_, _| true)?;
        let gone = maps.unlink()?;
        maps.flag()?;
        Ok(gone)
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

    fn value(&self, slot: u32) -> u64 {
        let word = self.word(slot).filter(|_| slot != 0);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The words of all groups that are registered.
    fn taken(&self) -> BTreeSet<u32> {
        let all = { self.0.groups.iter() }.flat_map(|own| [&own.slot, &own.whole, &own.others]);
        all.map(|word| word.load(Ordering::Acquire))
            .filter(|word| *word != 0)
            .collect()
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

    /// Words that a map names.
    fn used(&self, held: &BTreeMap<IpAddr, u32>, links: &BTreeMap<u32, GroupLink>) -> BTreeSet<u32> {
        let named = { links.values() }.flat_map(|link| link.slots.into_iter().chain([link.others]));
        held.values()
            .map(|value| value & SLOT)
            .chain(named)
            .filter(|word| *word != 0)
            .collect()
    }

    /// The link addresses that some group wants.
    pub(super) fn accepted(&self) -> BTreeSet<Accepted> {
        let all = self.wanted.values().flat_map(|wanted| &wanted.accepted);
        all.copied().collect()
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
