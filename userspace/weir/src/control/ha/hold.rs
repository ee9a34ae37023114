//! What the real-time thread does for a state: addresses taken and given, and what the next process has to know.

use std::{sync::Arc, time::Instant};

use aws_lc_rs::hmac;
use weir_core::vrrp::auth::{Keys, MAC};
use weir_datapath::{
    vips::VipError,
    vrrp::{Addresses, Hands, Held, leases::Leases},
};

use super::memory::Memory;

/// Hands of the thread.
pub(super) struct Hold {
    pub(super) addresses: Addresses,
    pub(super) leases: Leases,
    pub(super) memory: Arc<Memory>,
}

impl Hands for Hold {
    fn own(&mut self, group: usize, held: &[Held]) {
        if held.is_empty() {
            self.leases.unregister(group);
            return;
        }
        let addresses: Vec<_> = held.iter().map(|held| held.address).collect();
        if let Err(error) = self.leases.register(group, &addresses) {
            // What has no lease is answered for as if there were none.
            tracing::error!(%error, group, "the kernel's programs do not hold this box to leases");
        }
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

/// Keys that sign adverts, by HMAC-SHA-256.
pub(super) struct Secrets(pub(super) Vec<(u8, hmac::Key)>);

impl Secrets {
    pub(super) fn key(bytes: &[u8]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, bytes)
    }
}

impl Keys for Secrets {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; MAC]> {
        let (_, key) = self.0.iter().find(|(id, _)| *id == key)?;
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_mac_is_hmac_sha_256() {
        let keys = Secrets(vec![(7, Secrets::key(b"Jefe"))]);
        let mac = keys.mac(7, &[b"what do ya want ", b"for nothing?"]).unwrap();
        assert_eq!(
            mac[..8],
            [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e],
            "{mac:02x?}"
        );
        assert_eq!(keys.mac(8, &[b""]), None);
    }
}
