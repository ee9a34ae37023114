//! Embeds the eBPF object.
//!
//! Takes the file named by `WEIR_EBPF_OBJECT`, else `<target directory>/bpf/weir.o`, where `cargo xtask build` leaves
//! it. Never builds it. Without one the crate builds all the same, with an empty object: opening the datapath then says
//! what is missing.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The file that the crate includes.
const EMBEDDED: &str = "weir.o";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEIR_EBPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let object = match env::var_os("WEIR_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(format!(
                    "WEIR_EBPF_OBJECT={} must be an absolute path",
                    path.display()
                ));
            }
            println!("cargo::rerun-if-changed={}", path.display());
            Some(
                fs::read(&path)
                    .map_err(|e| format!("cannot read WEIR_EBPF_OBJECT={}: {e}", path.display()))?,
            )
        }
        None => default_object(&out)?,
    };
    fs::write(out.join(EMBEDDED), object.unwrap_or_default())
        .map_err(|e| format!("cannot write the object to {}: {e}", out.display()))
}

/// The object where `cargo xtask build` leaves it, if it has.
fn default_object(out: &Path) -> Result<Option<Vec<u8>>, String> {
    // Cargo marks the root of its target directory with this file.
    let Some(target) = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()) else {
        return Ok(None);
    };
    let dir = target.join("bpf");
    // Cargo takes a missing file for one that always changes, so the directory is watched: it holds nothing else, and
    // changes when the object comes, goes or is replaced.
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    println!("cargo::rerun-if-changed={}", dir.display());
    let object = dir.join("weir.o");
    match fs::read(&object) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("cannot read {}: {e}", object.display())),
    }
}
