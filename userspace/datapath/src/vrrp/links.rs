//! Link addresses of virtual routers, as the kernel's programs know them.
//!
//! Owns `LINKS` and `LINKED`: what `weir_group`, `weir_arrive` and `weir_leave` go by. That an interface takes frames to such an address in the
//! first place is [`Addresses::accept`](super::Addresses::accept)'s; whose leases they are under is `leases.rs`'s.

use std::collections::BTreeMap;

use nix::net::if_::if_nametoindex;
use weir_abi::{GroupLink, LinkKey, maps::link};

use super::{
    addresses::{Accepted, Held, HeldMac},
    leases::{LeaseError, Maps},
    mac_of,
};
use crate::error::MapError;

/// Where a link address is, and the one that the interface has.
pub(super) struct Place {
    ifindex: u32,
    own: [u8; 6],
    it: HeldMac,
}

impl Place {
    pub(super) const fn accepted(&self) -> Accepted {
        Accepted {
            ifindex: self.ifindex,
            mac: self.it.mac,
        }
    }
}

/// None: the address has its interface's own, or there is no such interface for now.
pub(super) fn place(held: &Held) -> Result<Option<Place>, LeaseError> {
    let (Some(it), Ok(ifindex)) = (held.mac, if_nametoindex(held.interface.as_str())) else {
        return Ok(None);
    };
    let own = mac_of(&held.interface).map_err(|cause| LeaseError::Interface {
        interface: held.interface.clone(),
        cause,
    })?;
    Ok(own.map(|own| Place { ifindex, own, it }))
}

/// As it lies in a frame.
fn words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

fn key(of: Accepted) -> LinkKey {
    LinkKey {
        mac: words(of.mac),
        reserved: 0,
        ifindex: of.ifindex,
    }
}

impl Maps {
    /// What `LINKS` holds, by index.
    pub(super) fn links(&self) -> Result<BTreeMap<u32, GroupLink>, MapError> {
        let mut all = BTreeMap::new();
        for index in self.indices()?.into_values() {
            if let Some(entry) = self.links.get(&index)? {
                all.insert(index, entry);
            }
        }
        Ok(all)
    }

    fn indices(&self) -> Result<BTreeMap<Accepted, u32>, MapError> {
        let mut all = BTreeMap::new();
        self.linked.each(|key, index| {
            let [[a, b], [c, d], [e, f]] = key.mac.map(u16::to_ne_bytes);
            let at = Accepted {
                ifindex: key.ifindex,
                mac: [a, b, c, d, e, f],
            };
            if index & link::OWN == 0 {
                all.insert(at, *index);
            }
        })?;
        Ok(all)
    }

    /// Says that a group with this lease has a link address. Its index; None: there is no room.
    pub(super) fn link(&self, place: &Place, slot: u32, others: u32) -> Result<Option<u32>, MapError> {
        let at = place.accepted();
        let known = self.indices()?;
        let found = known.get(&at).copied();
        let free = || (1..link::COUNT).find(|index| !known.values().any(|used| used == index));
        let Some(index) = found.or_else(free) else {
            return Ok(None);
        };
        let before = match found {
            Some(index) => self.links.get(&index)?.unwrap_or_default(),
            None => GroupLink::default(),
        };
        let shares = u32::try_from(place.it.shares).unwrap_or(u32::MAX);
        let mut slots = before.slots;
        for (share, word) in slots.iter_mut().enumerate() {
            if share == place.it.share {
                *word = slot;
            } else if before.shares != shares {
                // They were cut otherwise: nobody's, until its group says so.
                *word = 0;
            }
        }
        let entry = GroupLink {
            ifindex: place.ifindex,
            flags: if place.it.is_source { link::SOURCE } else { 0 },
            mac: words(place.it.mac),
            own: words(place.own),
            shares,
            others,
            slots,
        };
        // The entry before the key that leads to it.
        self.links.set(&index, &entry)?;
        self.linked.set(&key(at), &index)?;
        let own = Accepted { mac: place.own, ..at };
        self.linked.set(&key(own), &link::OWN)?;
        Ok(Some(index))
    }

    /// Forgets link addresses that no group wants any more: which those were.
    pub(super) fn unlink(&self) -> Result<Vec<Accepted>, MapError> {
        let wanted = self.accepted();
        let mut gone = Vec::new();
        for (at, index) in self.indices()? {
            if !wanted.contains(&at) {
                self.linked.delete(&key(at))?;
                self.links.set(&index, &GroupLink::default())?;
                gone.push(at);
            }
        }
        let used: Vec<_> = wanted.iter().map(|at| at.ifindex).collect();
        self.linked
            .delete_where(|key, index| index & link::OWN != 0 && !used.contains(&key.ifindex))?;
        Ok(gone)
    }
}
