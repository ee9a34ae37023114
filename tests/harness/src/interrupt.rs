//! Ctrl-C and SIGTERM: noted in a flag, so that whatever runs comes to its end by itself and cleans up.
//!
//! Nothing is done in the signal handler but setting the flag. Everything that waits looks at it, cleaning up excepted.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Default::default);

/// From now on SIGINT, SIGTERM and SIGHUP only set the flag.
///
/// # Errors
/// The system refused to install a handler.
pub fn install() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&REQUESTED))?;
    }
    Ok(())
}

/// Whether a signal came that this thread is to heed now.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed) && HELD.get() == 0
}

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, its thread heeds no signal: what cleans up is not to be cut short.
#[derive(Debug)]
pub struct Hold(());

/// From now on this thread heeds no signal, until the value is dropped.
pub fn hold() -> Hold {
    HELD.set(HELD.get() + 1);
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}
