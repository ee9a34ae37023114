//! Reading whole hash maps and tries, in batches.

use std::{io, os::fd::AsFd};

use super::{BatchAttr, Plain, address, address_mut, bpf, cmd, number};

/// A walk over a hash map (plain or LRU) or a trie, some entries at a time. Entries that come or go meanwhile may be missed or
/// seen twice.
#[derive(Debug)]
pub(crate) struct Walk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel keeps its position here: a u32 for hash maps, a key for tries. Larger than any it may want.
    position: [u64; 8],
    begun: bool,
}

impl<K: Plain, V: Plain> Walk<K, V> {
    pub(crate) fn new() -> Self {
        const { assert!(size_of::<K>() <= size_of::<[u64; 8]>()) };
        // A batch must hold the largest bucket, or the kernel answers ENOSPC: then it is doubled.
        let size = 1024;
        Self {
            keys: vec![K::default(); size],
            values: vec![V::default(); size],
            position: [0; 8],
            begun: false,
        }
    }

    /// The next entries. False: there were no more after them; behind that it begins anew.
    pub(crate) fn step(&mut self, map: impl AsFd, mut each: impl FnMut(&K, &V)) -> io::Result<bool> {
        loop {
            let mut next = [0_u64; 8];
            let size = self.keys.len();
            let mut attr = BatchAttr {
                in_batch: if self.begun { address(&self.position) } else { 0 },
                out_batch: address_mut(&mut next),
                keys: address_mut(self.keys.as_mut_slice()),
                values: address_mut(self.values.as_mut_slice()),
                count: size as u32,
                map_fd: number(&map),
                ..BatchAttr::default()
            };
            // SAFETY: BatchAttr is the batch member; keys and values hold `count` elements of the map's sizes (checked by
            // `table`), the positions are larger than a hash map's 4 bytes and (checked in `new`) than any key.
            let last = match unsafe { bpf(cmd::MAP_LOOKUP_BATCH, &mut attr) } {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                    self.keys.resize(size * 2, K::default());
                    self.values.resize(size * 2, V::default());
                    continue;
                }
                Err(e) => return Err(e),
            };
            for (key, value) in self.keys.iter().zip(&self.values).take(attr.count as usize) {
                each(key, value);
            }
            self.position = next;
            self.begun = !last;
            return Ok(!last);
        }
    }
}

/// Calls `each` for every entry of a hash map (plain or LRU) or a trie. Entries that come or go meanwhile may be missed or seen
/// twice.
pub(crate) fn map_each<K: Plain, V: Plain>(map: impl AsFd, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut walk = Walk::new();
    while walk.step(&map, &mut each)? {}
    Ok(())
}
