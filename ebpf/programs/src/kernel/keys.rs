//! Keys of hash maps, in the form that costs a look-up least.

use weir_abi::{Addr16, ClientKey, FlowKey, HearKey, LinkKey, ReturnKey, ServiceKey};

/// Keys as whole 8-byte words. The kernel compares keys 8 bytes at a time: a load that had to gather its bytes from two
/// stores of a moment ago would wait for them, for longer than the look-up takes.
pub(super) trait Words {
    /// As many as the key fills.
    type Words;
    fn words(&self) -> Self::Words;
}

#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

#[inline(always)]
fn addr_and(addr: &Addr16, last: u32) -> [u64; 3] {
    let [a, b, c, d] = addr.words;
    [pair(a, b), pair(c, d), last as u64]
}

impl Words for ServiceKey {
    type Words = [u64; 3];

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        addr_and(&self.addr, self.port_proto)
    }
}

impl Words for HearKey {
    type Words = [u64; 3];

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        addr_and(&self.addr, self.ifindex)
    }
}

impl Words for LinkKey {
    type Words = [u64; 2];

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let [a, b, c] = self.mac;
        let mac = a as u64 | (b as u64) << 16 | (c as u64) << 32 | (self.reserved as u64) << 48;
        [mac, self.ifindex as u64]
    }
}

impl Words for Addr16 {
    type Words = [u64; 2];

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let [a, b, c, d] = self.words;
        [pair(a, b), pair(c, d)]
    }
}

impl Words for ReturnKey {
    type Words = [u64; 3];

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        addr_and(&self.addr, self.port_proto)
    }
}

impl Words for ClientKey {
    type Words = [u64; 3];

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        addr_and(&self.addr, self.service)
    }
}

impl Words for FlowKey {
    type Words = [u64; 5];

    #[inline(always)]
    fn words(&self) -> [u64; 5] {
        let ([a, b, c, d], [e, f, g, h]) = (self.src.words, self.dst.words);
        [
            pair(a, b),
            pair(c, d),
            pair(e, f),
            pair(g, h),
            pair(self.ports, self.proto),
        ]
    }
}

/// Whether two keys are the same. (`==` of arrays becomes a call that compares byte by byte.)
#[inline(always)]
pub(super) const fn same([a, b, c]: [u64; 3], [x, y, z]: [u64; 3]) -> bool {
    (a ^ x) | (b ^ y) | (c ^ z) == 0
}

/// The key that lies in these words. On the little-endian machine that weir runs on they hold its bytes in order.
#[inline(always)]
pub(super) fn key_in<K: Words>(words: &K::Words) -> &K {
    const { assert!(size_of::<K>() <= size_of::<K::Words>() && align_of::<K>() <= align_of::<u64>()) };
    // SAFETY: as large and as aligned as a key at least, all of it written; a key is integers without padding.
    unsafe { &*(&raw const *words).cast::<K>() }
}
