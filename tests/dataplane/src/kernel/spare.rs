//! Loaded programs that a test has done with, for the next one of its process: the verifier needs seconds for them, emptying
//! their maps takes a hundredth of that.

use std::{
    ops::{Deref, DerefMut},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{Ebpf, maps::RingBuf, util::nr_cpus};
use weir_abi::{MAPS, spec::kind};

use super::map_data;
use crate::raw;

static SPARE: Mutex<Vec<Ebpf>> = Mutex::new(Vec::new());

/// The object, loaded. Dropped, it goes to the spare ones, if it is such a one.
pub(super) struct Lent {
    /// There until it is dropped.
    ebpf: Option<Ebpf>,
    is_ordinary: bool,
}

impl Lent {
    /// One whose like others want too: [`Self::spare`] has it once it is dropped.
    pub(super) fn ordinary(ebpf: Ebpf) -> Self {
        Self {
            ebpf: Some(ebpf),
            is_ordinary: true,
        }
    }

    /// One of its own kind.
    pub(super) fn special(ebpf: Ebpf) -> Self {
        Self {
            ebpf: Some(ebpf),
            is_ordinary: false,
        }
    }

    /// One that was dropped, its maps as if it had just been loaded.
    pub(super) fn spare() -> Option<Self> {
        let ebpf = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Self::ordinary(ebpf))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut ebpf) = self.ebpf.take() else { return };
        // A test that failed may have left anything.
        if !self.is_ordinary || thread::panicking() {
            return;
        }
        match clear(&mut ebpf) {
            Ok(()) => SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(ebpf),
            Err(e) => eprintln!("the next test loads the programs anew: {e:#}"),
        }
    }
}

impl Deref for Lent {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        self.ebpf.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Ebpf {
        self.ebpf.as_mut().expect("it is there until it is dropped")
    }
}

/// Empties all maps but the one of the stages.
fn clear(ebpf: &mut Ebpf) -> Result<()> {
    let cpus = nr_cpus().map_err(|(file, e)| anyhow!("{file}: {e}"))?;
    for spec in MAPS {
        let map = ebpf.map_mut(spec.name).context(spec.name)?;
        if spec.kind == kind::PROG_ARRAY {
            continue;
        }
        if spec.kind == kind::RINGBUF {
            let mut ring = RingBuf::try_from(map)?;
            while ring.next().is_some() {}
            continue;
        }
        let data = map_data(map)?;
        let fd: BorrowedFd<'_> = data.fd().as_fd();
        match spec.kind {
            kind::ARRAY => raw::zero(fd, data.info()?.max_entries(), spec.value_size as usize),
            kind::PERCPU_ARRAY => {
                let size = (spec.value_size as usize).next_multiple_of(8) * cpus;
                raw::zero(fd, data.info()?.max_entries(), size)
            }
            _ => raw::delete_all(fd, spec.key_size as usize),
        }
        .context(spec.name)?;
    }
    Ok(())
}
