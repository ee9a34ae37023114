//! What the real-time thread does for a state: addresses taken and given, and what the next process has to know.

use std::{sync::Arc, time::Instant};

use weir_datapath::{
    vips::VipError,
    vrrp::{
        Addresses, Hands, Held,
        leases::{LeaseError, Leases},
    },
};

use super::memory::Memory;

/// Hands of the thread.
pub(super) struct Hold {
    pub(super) addresses: Addresses,
    pub(super) leases: Leases,
    pub(super) memory: Arc<Memory>,
}

impl Hands for Hold {
    fn own(&mut self, group: usize, held: &[Held]) -> Result<(), LeaseError> {
        if held.is_empty() {
            self.leases.unregister(group);
            return Ok(());
        }
        let addresses: Vec<_> = held.iter().map(|held| held.address).collect();
        self.leases.register(group, &addresses)
    }

    fn lease(&mut self, group: usize, until: Option<Instant>) {
        self.leases.set(group, until);
    }

    fn take(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.take(held)
    }

    fn give(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.give(held)
    }

    fn remember(&mut self, group: usize, last_sent: Option<Instant>, sequence: u64) {
        // A file that can't be written costs the next process a change of master, nothing now.
        let _ = self.memory.sent(group, last_sent, sequence);
    }
}
