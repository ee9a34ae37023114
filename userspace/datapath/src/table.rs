//! Maps with types: a descriptor that is known to have the sizes of its key and value.
//!
//! Knows nothing of what the values mean. Errors carry the map's name.

use std::{
    collections::BTreeSet,
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use weir_abi::{Slot, maps::filter};
use weir_fastpath::filter::place;

use crate::{
    error::MapError,
    sys::{self, MapShape, Plain, SharedWords},
    tables::Handle,
};

/// A hash or array map with one value per key.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    shape: MapShape,
    types: PhantomData<fn(K) -> V>,
}

/// A map whose values are kept per CPU.
#[derive(Debug)]
pub(crate) struct PerCpu<V> {
    table: Table<u32, V>,
    cpus: usize,
}

fn checked(
    name: &'static str,
    fd: BorrowedFd<'_>,
    key: usize,
    value: usize,
) -> Result<(OwnedFd, MapShape), MapError> {
    let fail = |doing| {
        move |cause| MapError {
            map: name,
            doing,
            cause,
        }
    };
    let shape = sys::map_shape(fd).map_err(fail("inspect"))?;
    if shape.key_size as usize != key || shape.value_size as usize != value {
        let text = format!(
            "keys of {} and values of {} bytes, not {key} and {value}: the eBPF object does not fit this binary",
            shape.key_size, shape.value_size
        );
        return Err(fail("use")(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    Ok((fd.try_clone_to_owned().map_err(fail("duplicate"))?, shape))
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// A typed handle of a map.
    ///
    /// # Errors
    /// When the map's key or value has another size than `K` or `V`.
    pub(crate) fn new(name: &'static str, fd: BorrowedFd<'_>) -> Result<Self, MapError> {
        let (fd, shape) = checked(name, fd, size_of::<K>(), size_of::<V>())?;
        Ok(Self {
            name,
            fd,
            shape,
            types: PhantomData,
        })
    }

    /// A handle of the same map with a descriptor of its own, for another thread.
    pub(crate) fn duplicate(&self) -> Result<Self, MapError> {
        Ok(Self {
            name: self.name,
            fd: self.fd.try_clone().map_err(self.fail("duplicate"))?,
            shape: self.shape,
            types: PhantomData,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn shape(&self) -> &MapShape {
        &self.shape
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn fail(&self, doing: &'static str) -> impl FnOnce(io::Error) -> MapError + use<K, V> {
        let map = self.name;
        move |cause| MapError { map, doing, cause }
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = [V::default()];
        let found = sys::map_lookup(&self.fd, key, &mut value).map_err(self.fail("look up"))?;
        Ok(found.then_some(value[0]))
    }

    pub(crate) fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        sys::map_update(&self.fd, key, std::slice::from_ref(value)).map_err(self.fail("update"))
    }

    /// Adds an entry. False: the key is there.
    pub(crate) fn add(&self, key: &K, value: &V) -> Result<bool, MapError> {
        sys::map_add(&self.fd, key, std::slice::from_ref(value)).map_err(self.fail("add to"))
    }

    /// The next entries of a walk; as [`sys::Walk::step`].
    pub(crate) fn step(
        &self,
        walk: &mut sys::Walk<K, V>,
        each: impl FnMut(&K, &V),
    ) -> Result<bool, MapError> {
        walk.step(&self.fd, each).map_err(self.fail("read"))
    }

    pub(crate) fn delete(&self, key: &K) -> Result<bool, MapError> {
        sys::map_delete(&self.fd, key).map_err(self.fail("delete from"))
    }

    /// Every entry. For hash maps.
    pub(crate) fn each(&self, each: impl FnMut(&K, &V)) -> Result<(), MapError> {
        sys::map_each(&self.fd, each).map_err(self.fail("read"))
    }

    /// Deletes the entries that `which` picks; how many there were. For hash maps.
    pub(crate) fn delete_where(&self, mut which: impl FnMut(&K, &V) -> bool) -> Result<usize, MapError> {
        let mut keys = Vec::new();
        self.each(|key, value| {
            if which(key, value) {
                keys.push(*key);
            }
        })?;
        sys::map_delete_all(&self.fd, &keys).map_err(self.fail("delete from"))?;
        Ok(keys.len())
    }

    /// The same for a map that the programs write meanwhile: reading all of it takes a while, so what was picked is read
    /// again just before it goes, and stays unless `same` finds in it (second) what was picked (first).
    pub(crate) fn delete_if_still(
        &self,
        mut which: impl FnMut(&K, &V) -> bool,
        same: impl Fn(&V, &V) -> bool,
    ) -> Result<usize, MapError> {
        let mut picked = Vec::new();
        self.each(|key, value| {
            if which(key, value) {
                picked.push((*key, *value));
            }
        })?;
        let mut gone = 0;
        for (key, value) in picked {
            if self.get(&key)?.is_some_and(|there| same(&value, &there)) {
                gone += usize::from(self.delete(&key)?);
            }
        }
        Ok(gone)
    }
}

impl<V: Plain> PerCpu<V> {
    /// A typed handle of a per-CPU array of which the machine can have `cpus` values per key.
    pub(crate) fn new(name: &'static str, fd: BorrowedFd<'_>, cpus: usize) -> Result<Self, MapError> {
        // The kernel rounds per-CPU values up to 8 bytes; all of weir's are multiples already.
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        Ok(Self {
            table: Table::new(name, fd)?,
            cpus,
        })
    }

    pub(crate) fn table(&self) -> &Table<u32, V> {
        &self.table
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus
    }

    /// The values of all CPUs at an index; empty past the end.
    pub(crate) fn get(&self, index: u32) -> Result<Vec<V>, MapError> {
        let mut values = vec![V::default(); self.cpus];
        let found =
            sys::map_lookup(&self.table.fd, &index, &mut values).map_err(self.table.fail("look up"))?;
        if !found {
            values.clear();
        }
        Ok(values)
    }

    /// Sets the values of all CPUs to zero.
    pub(crate) fn clear(&self, index: u32) -> Result<(), MapError> {
        let zero = vec![V::default(); self.cpus];
        sys::map_update(&self.table.fd, &index, &zero).map_err(self.table.fail("update"))
    }
}

/// A map whose entries userspace does not read or write by bpf(2).
#[derive(Debug)]
pub(crate) struct Opaque {
    name: &'static str,
    fd: OwnedFd,
    shape: MapShape,
}

impl Opaque {
    pub(crate) fn new(name: &'static str, fd: BorrowedFd<'_>) -> Result<Self, MapError> {
        let fail = |doing| {
            move |cause| MapError {
                map: name,
                doing,
                cause,
            }
        };
        Ok(Self {
            name,
            shape: sys::map_shape(fd).map_err(fail("inspect"))?,
            fd: fd.try_clone_to_owned().map_err(fail("duplicate"))?,
        })
    }

    pub(crate) fn handle(&self) -> Handle<'_> {
        Handle {
            name: self.name,
            fd: self.fd.as_fd(),
            shape: &self.shape,
        }
    }
}

/// The filter of addresses, mapped: words of bits.
#[derive(Debug)]
pub(crate) struct FilterMemory {
    map: Opaque,
    words: SharedWords,
}

impl FilterMemory {
    pub(crate) fn new(name: &'static str, fd: BorrowedFd<'_>) -> Result<Self, MapError> {
        let map = Opaque::new(name, fd)?;
        let words = SharedWords::map(&map.fd, filter::VALUE).map_err(|cause| MapError {
            map: name,
            doing: "map into memory",
            cause,
        })?;
        Ok(Self { map, words })
    }

    pub(crate) fn map(&self) -> &Opaque {
        &self.map
    }

    /// Sets a bit. One past the end is left out; `weir_fastpath::filter` gives none.
    pub(crate) fn set(&self, bit: u32) {
        if let Some((word, mask)) = self.place(bit) {
            word.fetch_or(mask, Ordering::Release);
        }
    }

    /// Has every CPU look services up anew: after each change of `SERVICES`.
    pub(crate) fn next_epoch(&self) {
        if let Some(epoch) = self.words.words().get(filter::EPOCH) {
            // 64 bits do not come round to 0.
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Clears a bit.
    pub(crate) fn clear(&self, bit: u32) {
        if let Some((word, mask)) = self.place(bit) {
            word.fetch_and(!mask, Ordering::Release);
        }
    }

    /// A word as it is now; 0 past the end.
    pub(crate) fn word(&self, index: u32) -> u64 {
        let word = self.words.words().get(index as usize);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The bits that are set.
    pub(crate) fn bits(&self) -> BTreeSet<u32> {
        let words = self.words.words().iter().take(filter::WORDS);
        let words = words.map(|word| word.load(Ordering::Acquire));
        let bits = (0_u32..)
            .step_by(64)
            .zip(words)
            .filter(|(_, word)| *word != 0)
            .flat_map(|(first, word)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 != 0)
                    .map(move |bit| first + bit)
            });
        bits.collect()
    }

    fn place(&self, bit: u32) -> Option<(&AtomicU64, u64)> {
        let (word, mask) = place(bit);
        Some((self.words.words().get(word as usize)?, mask))
    }
}

/// The array of ring slots, mapped. Slots are read and written whole.
#[derive(Debug)]
pub(crate) struct RingMemory {
    table: Table<u32, Slot>,
    words: SharedWords,
}

impl RingMemory {
    pub(crate) fn new(name: &'static str, fd: BorrowedFd<'_>) -> Result<Self, MapError> {
        let table = Table::<u32, Slot>::new(name, fd)?;
        if table.shape.flags & sys::F_MMAPABLE == 0 {
            let cause = io::Error::new(io::ErrorKind::InvalidData, "it lacks the flag BPF_F_MMAPABLE");
            return Err(table.fail("map into memory")(cause));
        }
        let words = SharedWords::map(&table.fd, table.shape.max_entries as usize)
            .map_err(table.fail("map into memory"))?;
        Ok(Self { table, words })
    }

    pub(crate) fn table(&self) -> &Table<u32, Slot> {
        &self.table
    }

    /// The same array, mapped once more, for another thread.
    pub(crate) fn duplicate(&self) -> Result<Self, MapError> {
        Self::new(self.table.name, self.table.as_fd())
    }

    /// A slot as it is now; None past the end.
    pub(crate) fn slot(&self, index: u32) -> Option<Slot> {
        self.words.load(index as usize).map(unpack)
    }

    /// Replaces a slot if it is still as it was read. Whoever owns the array may write it meanwhile.
    pub(crate) fn exchange(&self, index: u32, read: Slot, slot: Slot) -> bool {
        let word = self.words.words().get(index as usize);
        word.is_some_and(|word| {
            word.compare_exchange(pack(read), pack(slot), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// The slots at `offset .. offset + len`, as far as the array goes.
    pub(crate) fn read(&self, offset: u32, len: u32) -> Vec<Slot> {
        let from = offset as usize;
        (from..from.saturating_add(len as usize))
            .map_while(|i| self.words.load(i))
            .map(unpack)
            .collect()
    }

    /// Writes slots from `offset` on. What would lie past the end is left out; the planner never asks for it.
    pub(crate) fn write(&self, offset: u32, slots: &[Slot]) {
        let area = self.words.words().iter().skip(offset as usize);
        for (word, slot) in area.zip(slots) {
            word.store(pack(*slot), Ordering::Release);
        }
    }
}

/// A slot as the 8 bytes that lie in the map.
fn pack(slot: Slot) -> u64 {
    let [a, b] = slot.current.to_ne_bytes();
    let [c, d] = slot.previous.to_ne_bytes();
    let [e, f, g, h] = slot.changed.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn unpack(word: u64) -> Slot {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    Slot {
        current: u16::from_ne_bytes([a, b]),
        previous: u16::from_ne_bytes([c, d]),
        changed: u32::from_ne_bytes([e, f, g, h]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_packed_as_it_lies_in_memory() {
        let slot = Slot {
            current: 0x1122,
            previous: 0x3344,
            changed: 0x5566_7788,
        };
        let mut expected = Vec::new();
        expected.extend(slot.current.to_ne_bytes());
        expected.extend(slot.previous.to_ne_bytes());
        expected.extend(slot.changed.to_ne_bytes());
        assert_eq!(std::mem::offset_of!(Slot, current), 0);
        assert_eq!(std::mem::offset_of!(Slot, previous), 2);
        assert_eq!(std::mem::offset_of!(Slot, changed), 4);
        assert_eq!(pack(slot).to_ne_bytes().as_slice(), expected);
        assert_eq!(unpack(pack(slot)), slot);
    }
}
