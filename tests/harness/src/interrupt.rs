//! Ctrl-C and SIGTERM: noted in a flag, so that whatever runs comes to its end by itself and cleans up.
//!
//! Nothing is done in the signal handler but setting the flag. Everything that waits looks at it.

use std::{
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

/// Whether a signal came.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
