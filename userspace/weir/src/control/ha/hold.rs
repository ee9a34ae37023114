//! What the real-time thread does for a state: addresses taken and given, and what the next process has to know.
//!
//! An address that several groups have, each with its share of the clients, goes with the last of them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::Context as _;
use weir_core::plan::{VirtualRouter, VrrpGroup};
use weir_datapath::{
    vips::VipError,
    vrrp::{
        Accepted, Addresses, Elsewhere, Hands, Held, HeldMac,
        leases::{LeaseError, Leases},
    },
};

use super::{memory::Memory, outside};

/// Hands of the thread.
pub(super) struct Hold {
    pub(super) addresses: Addresses,
    pub(super) leases: Leases,
    pub(super) memory: Arc<Memory>,
    /// What each group has on the box.
    pub(super) taken: BTreeMap<usize, Vec<Held>>,
}

impl Hands for Hold {
    fn own(&mut self, group: usize, held: &[Held]) -> Result<(), LeaseError> {
        if held.is_empty() {
            self.leases.unregister(group);
            return Ok(());
        }
        self.leases.register(group, held)?;
        if let Err(error) = self.addresses.accept(held) {
            tracing::error!(%error, group, "frames to the link address of virtual routers may not come in");
        }
        Ok(())
    }

    fn elsewhere(&mut self, group: usize, until: Elsewhere) {
        self.leases.set_elsewhere(group, until);
    }

    fn lease(&mut self, group: usize, until: Option<Instant>) {
        self.leases.set(group, until);
    }

    fn take(&mut self, group: usize, held: &[Held]) -> Result<(), VipError> {
        self.taken.insert(group, held.to_vec());
        self.addresses.take(held)
    }

    fn give(&mut self, group: usize, held: &[Held]) -> Result<(), VipError> {
        self.taken.remove(&group);
        let others: Vec<_> = self.taken.values().flatten().map(|it| it.address).collect();
        let own: Vec<_> = { held.iter() }
            .filter(|it| !others.contains(&it.address))
            .cloned()
            .collect();
        self.addresses.give(&own)
    }

    fn remember(&mut self, group: usize, last_sent: Option<Instant>, sequence: u64) {
        // A file that can't be written costs the next process a change of master, nothing now.
        let _ = self.memory.sent(group, last_sent, sequence);
    }
}

/// Has interfaces take frames no more to link addresses that no group has.
pub(super) fn refuse(gone: &[Accepted]) -> anyhow::Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let done = outside(|| -> anyhow::Result<()> { Ok(Addresses::new()?.refuse(gone)?) });
    done.context("link addresses of virtual routers")
}

/// The link address that goes with a router's addresses, and which clients the group has of those who send to it.
pub(super) fn mac_of(group: &VrrpGroup, router: &VirtualRouter) -> Option<HeldMac> {
    let mac = group.mac_of(router)?;
    Some(HeldMac {
        mac,
        is_source: group.sends_by_mac(),
        share: group.share.as_ref().map_or(0, |share| share.index),
        shares: group.share.as_ref().map_or(1, |share| share.count),
    })
}
