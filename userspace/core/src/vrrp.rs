//! The Virtual Router Redundancy Protocol, version 3 (RFC 9568), of both families: which of several boxes answers for an
//! address.
//!
//! Owns what an advert looks like ([`wire`]), who may have sent it ([`auth`], [`accept`]), the machine that decides
//! ([`machine`]), what speaks against a box ([`demotion`]), and the frames by which a new master tells the link where its
//! addresses are ([`announce`]). Sans-IO: bytes, values and the clock go in, values or bytes come out.
//!
//! Version 2 (RFC 3768) is read, for the time in which routers are replaced one by one, and never written.

pub mod accept;
pub mod announce;
pub mod auth;
pub mod demotion;
pub mod machine;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
    time::Duration,
};

/// The IP protocol (RFC 9568 section 5.1.1.4).
pub const PROTOCOL: u8 = 112;

/// Where adverts of IPv4 go (section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Where adverts of IPv6 go (section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// TTL or hop limit of an advert: what has another was sent from another link (sections 5.1.1.3, 5.1.2.3).
pub const HOPS: u8 = 255;

/// A virtual router's number, 1 to 255. It names one per link and family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vrid(NonZeroU8);

impl Vrid {
    /// `None` if it is 0.
    pub const fn new(number: u8) -> Option<Self> {
        match NonZeroU8::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// The virtual router's link address, `00-00-5E-00-01-VRID` or `00-00-5E-00-02-VRID` (section 7.3).
    pub const fn mac(self, family: Family) -> [u8; 6] {
        let block = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        [0, 0, 0x5e, 0, block, self.get()]
    }

    /// The same as a group's address of local meaning, `03-00-5E-00-01-VRID` or `03-00-5E-00-02-VRID`: for frames that all of
    /// several boxes are to get. As carp, weir sets the bit for "group" in the virtual router's address; and the one for "local"
    /// as well, so that switches which track groups of IP (`01-00-5E`, `33-33`) flood it.
    pub const fn group_mac(self, family: Family) -> [u8; 6] {
        let [_, b, c, d, e, f] = self.mac(family);
        [3, b, c, d, e, f]
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual router has addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address's.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Where adverts go that go to all.
    pub const fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GROUP_V4),
            Self::V6 => IpAddr::V6(GROUP_V6),
        }
    }
}

/// The time between two adverts: whole centiseconds, 1 to 4 095, as there are on the wire (section 5.2.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Centis(u16);

impl Centis {
    /// Ten milliseconds.
    pub const MIN: Self = Self(1);
    /// A little less than 41 seconds.
    pub const MAX: Self = Self(0xfff);

    /// `None` if it is not within [`Self::MIN`] and [`Self::MAX`].
    pub const fn new(centiseconds: u16) -> Option<Self> {
        if centiseconds < Self::MIN.0 || centiseconds > Self::MAX.0 {
            return None;
        }
        Some(Self(centiseconds))
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The same as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}
