//! Finds the built object. A missing object is a failure with the mend in it, never a reason to skip.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// Names the object to test instead of the one in the target directory.
pub const VARIABLE: &str = "WEIR_EBPF_OBJECT";

/// The bytes of the object.
///
/// # Errors
/// It was not built, or can't be read.
pub fn bytes() -> Result<Vec<u8>> {
    let path = path()?;
    fs::read(&path).with_context(|| format!("cannot read the eBPF object {}", path.display()))
}

/// Where the object lies: at `$WEIR_EBPF_OBJECT`, or at `bpf/weir.o` of the target directory this program was built in.
///
/// # Errors
/// It was not built.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let exe = env::current_exe().context("where this program lies")?;
    let Some(found) = exe
        .ancestors()
        .map(|dir| dir.join("bpf/weir.o"))
        .find(|path| path.is_file())
    else {
        bail!(
            "there is no bpf/weir.o in the target directory of {}: build it with `cargo xtask build`, or name another by \
             {VARIABLE}",
            exe.display()
        );
    };
    Ok(found)
}
