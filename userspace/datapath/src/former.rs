//! What another version has left under the pin directory, in tables of another layout, and what of it can be kept.
//!
//! Its links are taken over without a gap: that is `attach`'s. Its tables cannot be read, but for the key of the flow hash:
//! with that key flows find the backends that they had, as long as those are the same. Flows that need an entry of their
//! own would be lost, so the start is refused while there are any, unless the operator says that they may be.

use std::{fs, io, path::Path};

use weir_abi::{Settings, names};

use crate::{
    error::OpenError,
    pins::{self, Pins},
    sys,
};

// The settings of every version begin with the hash key.
const _: () = assert!(std::mem::offset_of!(Settings, hash_key) == 0);

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |cause| OpenError::File { doing, path, cause }
}

/// Refuses when another version forwards flows that an entry of its tables says where to.
///
/// # Errors
/// Then, unless they may be lost; and when it cannot be told.
pub(crate) fn require_nothing_to_lose(root: &Path, discard: bool) -> Result<(), OpenError> {
    for dir in pins::others(root).map_err(file("cannot list", root))? {
        if !is_attached(&dir.join("links"))? {
            continue;
        }
        let translated = entries(&dir, names::NAT_FLOWS)?;
        let flows = entries(&dir, names::FLOWS)?.saturating_add(translated);
        if flows == 0 {
            continue;
        }
        if !discard {
            return Err(OpenError::OtherLayout {
                dir,
                flows,
                translated,
            });
        }
        tracing::warn!(
            directory = %dir.display(),
            flows,
            translated,
            "flows recorded by another version are discarded, as --discard-flows says"
        );
    }
    Ok(())
}

/// Whether another version forwards, as far as can be told: what it needs of the system has to stay.
pub(crate) fn forwards(root: &Path) -> bool {
    let others = pins::others(root).unwrap_or_default();
    others
        .iter()
        .any(|dir| is_attached(&dir.join("links")).unwrap_or(true))
}

/// The key of the flow hash that another version uses. None if there is none.
///
/// # Errors
/// When its settings are there and cannot be read.
pub(crate) fn hash_key(pins: &Pins) -> Result<Option<[u64; 2]>, OpenError> {
    let others = pins.others().map_err(file("cannot list", &pins.links()))?;
    for dir in others {
        let path = dir.join("maps").join(names::SETTINGS);
        let map = match sys::open_pin(&path) {
            Ok(map) => map,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(file("cannot open the pinned map", &path)(e)),
        };
        let value = sys::map_first(&map).map_err(file("cannot read the pinned map", &path))?;
        let word = |at: usize| {
            let bytes = value.get(at..)?.first_chunk()?;
            Some(u64::from_ne_bytes(*bytes))
        };
        if let (Some(first), Some(second)) = (word(0), word(size_of::<u64>()))
            && [first, second] != [0, 0]
        {
            return Ok(Some([first, second]));
        }
    }
    Ok(None)
}

/// Whether a link in this directory leads anywhere.
fn is_attached(links: &Path) -> Result<bool, OpenError> {
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(file("cannot list", links)(e)),
    };
    for entry in entries {
        let path = entry.map_err(file("cannot list", links))?.path();
        let link = sys::open_pin(&path).map_err(file("cannot open the pinned link", &path))?;
        let shape = sys::link_shape(&link).map_err(file("cannot inspect the pinned link", &path))?;
        if shape.target != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Entries of another version's map; 0 if it has none of that name.
fn entries(dir: &Path, name: &str) -> Result<u64, OpenError> {
    let path = dir.join("maps").join(name);
    match sys::open_pin(&path) {
        Ok(map) => sys::map_count(map).map_err(file("cannot count the pinned map", &path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(file("cannot open the pinned map", &path)(e)),
    }
}
