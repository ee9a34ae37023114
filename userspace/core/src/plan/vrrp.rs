//! `[vrrp.NAME]`: virtual routers, and what makes this box a worse one.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::Plan;
use crate::{
    ids::{GroupName, PoolName, ServiceName},
    vrrp::{
        Centis, Family, Vrid,
        accept::V2,
        auth::Mode,
        machine::{Announce, Preempt},
        wire::Checksum,
    },
};

/// A group of virtual routers, which are master together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VrrpGroup {
    /// Its name.
    pub name: GroupName,
    /// Its routers, at least one. Number, link and family together name one among those of all groups.
    pub routers: Vec<VirtualRouter>,
    /// What this box is preferred by while nothing speaks against it: 10 to 254, or 255 if the addresses are its own.
    pub priority: u8,
    /// How often a master says that it lives.
    pub interval: Centis,
    /// Whether this box takes over from one that is preferred less.
    pub preempt: Preempt,
    /// How long the box answers at most without having been told anew that it may.
    pub lease: Duration,
    /// How the addresses are announced.
    pub announce: Announce,
    /// How adverts are signed. None: they are not.
    pub authentication: Option<VrrpAuthentication>,
    /// What speaks against this box, and by how much. No cause stands there twice.
    pub demote_on: Vec<DemoteOn>,
    /// The link address that goes with its addresses.
    pub mac: GroupMac,
    /// Its share of the clients, if several boxes serve the addresses at once. None: all of them.
    pub share: Option<GroupShare>,
}

/// The link address that goes with a group's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum GroupMac {
    /// The interface's own, of whichever box.
    #[default]
    Own,
    /// The virtual router's (RFC 9568 section 7.3).
    Virtual,
    /// The same with the bits for "group" and "local": switches send such frames to every box.
    Multicast,
}

/// What of a section's clients a group serves. The groups of all its shares have the same addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupShare {
    /// The section, `[vrrp.NAME]`.
    pub of: GroupName,
    /// Which share, from 0, in order of their numbers.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// The number of the first, after which the link address is called that all have.
    pub first: Vrid,
}

impl VrrpGroup {
    /// The section of the file that it comes from.
    pub const fn section(&self) -> &GroupName {
        match &self.share {
            Some(share) => &share.of,
            None => &self.name,
        }
    }

    /// The link address of one of its routers; None: the interface's own.
    pub fn mac_of(&self, router: &VirtualRouter) -> Option<[u8; 6]> {
        let id = self.share.as_ref().map_or(router.id, |share| share.first);
        match self.mac {
            GroupMac::Own => None,
            GroupMac::Virtual => Some(id.mac(router.family())),
            GroupMac::Multicast => Some(id.group_mac(router.family())),
        }
    }

    /// Whether frames may leave from that address: where it is one box's, so that switches learn where it is.
    pub const fn sends_by_mac(&self) -> bool {
        matches!(self.mac, GroupMac::Virtual) && self.share.is_none()
    }

    /// The addresses of all its routers.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.routers.iter().flat_map(|router| &router.addresses);
        all.map(|(address, _)| *address)
    }
}

/// A virtual router: on one link, of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualRouter {
    /// Its number.
    pub id: Vrid,
    /// Its link, which is one of the node's interfaces.
    pub interface: Arc<str>,
    /// Its addresses with the lengths of their prefixes: 1 to 255, all of one family, and of no other router.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Where adverts come from. None: from the link's own address.
    pub source: Option<IpAddr>,
    /// The boxes that adverts go to. None: to all on the link.
    pub peers: Vec<IpAddr>,
    /// How their checksums are made.
    pub checksum: Checksum,
    /// What is thought of adverts of version 2.
    pub v2: V2,
}

impl VirtualRouter {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        self.addresses
            .first()
            .map_or(Family::V4, |(address, _)| Family::of(*address))
    }
}

/// `[vrrp.NAME.authentication]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VrrpAuthentication {
    /// The keys' numbers, each once, and the files that hold them. What stands in them is in no plan.
    pub keys: Vec<(u8, PathBuf)>,
    /// The number of the one that signs.
    pub sign_with: u8,
    /// What becomes of adverts that are not signed as they should be.
    pub mode: Mode,
}

/// Something that speaks against this box.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DemoteOn {
    /// What.
    pub what: DemoteWhat,
    /// By how much: 1 to 255.
    pub by: u32,
}

/// What can speak against a box.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DemoteWhat {
    /// A service can't serve.
    Service(ServiceName),
    /// A pool has no backend that takes traffic.
    Pool(PoolName),
    /// An interface is down, or there is none of that name.
    Link(Arc<str>),
    /// A file is there.
    File(Arc<str>),
}

impl Plan {
    /// The group that has an address; of one with shares, the first share's.
    pub fn vrrp_group_of(&self, address: IpAddr) -> Option<&Arc<VrrpGroup>> {
        { self.vrrp.iter() }.find(|group| group.addresses().any(|it| it == address))
    }

    /// The services that are reached by an address of a group.
    pub fn services_of(&self, group: &VrrpGroup) -> impl Iterator<Item = &ServiceName> {
        let listens = |address: IpAddr| group.addresses().any(|it| it == address);
        let reached = self
            .services
            .iter()
            .filter(move |service| service.listen.iter().any(|listen| listens(listen.addr)));
        reached.map(|service| &service.name)
    }
}
