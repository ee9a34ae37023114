//! Tables of a layout that no version of weir has, as another version might leave them pinned.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::HashMap;

const KEY: usize = 44;
const VALUE: usize = 52;

/// Puts a table with this many entries, none of which anybody can read, in the place of what is pinned here.
///
/// # Errors
/// Nothing is pinned here, or the kernel refuses.
pub fn replace(pin: &Path, entries: u32) -> Result<()> {
    let what = || format!("a foreign table at {}", pin.display());
    let mut table = HashMap::<_, [u8; KEY], [u8; VALUE]>::create(entries.max(1), 0).with_context(what)?;
    for nth in 0..entries {
        let mut key = [0; KEY];
        key[..4].copy_from_slice(&nth.to_ne_bytes());
        table.insert(key, [0xa5; VALUE], 0).with_context(what)?;
    }
    fs::remove_file(pin).with_context(what)?;
    table.pin(pin).with_context(what)
}
