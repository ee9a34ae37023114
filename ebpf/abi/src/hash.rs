//! [`ABI_HASH`]: a fingerprint of everything this crate lays down.

/// One field of a shared structure: name, offset and size in bytes.
pub(crate) type Field = (&'static str, usize, usize);

/// FNV-1a over names and layouts. Not for security: it only tells layouts apart.
pub(crate) const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash ^= bytes[i] as u64;
        hash = hash.wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

pub(crate) const fn fields(mut hash: u64, name: &str, size: usize, list: &[Field]) -> u64 {
    hash = fnv(hash, name.as_bytes());
    hash = fnv(hash, &(size as u64).to_le_bytes());
    let mut i = 0;
    while i < list.len() {
        hash = fnv(hash, list[i].0.as_bytes());
        hash = fnv(hash, &(list[i].1 as u64).to_le_bytes());
        hash = fnv(hash, &(list[i].2 as u64).to_le_bytes());
        i += 1;
    }
    hash
}

/// Fingerprint of all layouts, map names and reasons. Names the pin directory (`<pins>/<hash in hex>/`), so that a
/// program never meets a map of another layout.
pub const ABI_HASH: u64 = {
    let mut h = 0xcbf2_9ce4_8422_2325;
    h = crate::maps::fold(h);
    h = crate::names::fold(h);
    h = crate::spec::fold(h);
    crate::reason::fold(h)
};
