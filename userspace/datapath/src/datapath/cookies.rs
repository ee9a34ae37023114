//! SYN cookies: the switch, in the kernel and in the programs.
//!
//! Owns that both agree. When to throw it is the caller's.

use weir_abi::{Note, maps::settings};

use super::Datapath;
use crate::{
    error::{MapError, OpenError},
    sysctl,
};

impl Datapath {
    /// Has SYNs to the relay answered by cookies, or no more. The kernel comes first, for the programs rely on it, and goes
    /// last. What the kernel was set to before comes back with it.
    ///
    /// # Errors
    /// When the kernel's switch, the record of what it was, or the settings cannot be written.
    pub fn set_syncookies(&mut self, on: bool) -> Result<(), OpenError> {
        let dir = self.options.state_dir.clone();
        if on {
            sysctl::syncookies_on(&dir)?;
            self.set_flag(settings::COOKIES, true)?;
        } else {
            self.set_flag(settings::COOKIES, false)?;
            sysctl::syncookies_off(&dir)?;
        }
        Ok(())
    }

    /// Whether SYNs to the relay are answered by cookies.
    ///
    /// # Errors
    /// When the settings cannot be read.
    pub fn syncookies(&self) -> Result<bool, MapError> {
        Ok(self.flags()? & settings::COOKIES != 0)
    }

    /// SYNs to services of the relay so far, on each CPU.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn relay_syns(&self) -> Result<Vec<u64>, MapError> {
        self.tables.reasons.get(Note::SynRelay.index())
    }
}
