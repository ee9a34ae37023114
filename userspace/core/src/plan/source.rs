//! Where connections to a pool's backends come from.

use std::net::IpAddr;

use super::SourcePool;

/// Ports from one to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl PortRange {
    /// How many there are.
    pub fn count(self) -> u32 {
        (u32::from(self.last) + 1).saturating_sub(self.first.into())
    }

    /// The `index`-th port of several ranges, from 0. None: there are not as many.
    pub fn nth(ranges: &[Self], mut index: u32) -> Option<u16> {
        for range in ranges {
            match index.checked_sub(range.count()) {
                None => return range.first.checked_add(u16::try_from(index).ok()?),
                Some(rest) => index = rest,
            }
        }
        None
    }

    /// Whether a port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl std::fmt::Display for PortRange {
    /// As in the configuration: `1024-32767`, `8080`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// `[pools.NAME.source]`: what connections to the pool's backends come from, of either plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Addresses, no twice. Of each family that a `full-nat` service of the pool has, and of each that backends of a
    /// relayed pool have, one at least.
    pub addresses: Vec<IpAddr>,
    /// Ports that `full-nat` gives to flows. None: no service forwards to the pool by it.
    pub nat: Option<PortRange>,
    /// What the relay and health checks connect from. None: the relay does not serve the pool.
    pub relay: Option<RelaySource>,
}

impl Source {
    /// What `full-nat` draws from.
    pub fn nat_pool(&self) -> Option<SourcePool> {
        let PortRange { first, last } = self.nat?;
        Some(SourcePool {
            addresses: self.addresses.clone(),
            first,
            last,
        })
    }

    /// Those of one family.
    pub fn of_family(&self, v4: bool) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |a| a.is_ipv4() == v4)
    }
}

/// What of the source addresses is the relay's. `full-nat` has none of it, on any address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelaySource {
    /// Ports of each address. None: the kernel chooses, among those that it gives out itself.
    pub ports: Option<RelayPorts>,
    /// Whether connections to backends are ended by RST where weir ends them first, so that no port rests.
    pub reset: bool,
}

/// The relay's ports of each source address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayPorts {
    /// For clients' connections: in order, apart from each other; never empty.
    pub traffic: Vec<PortRange>,
    /// For health checks alone: so many that a port has rested before its turn comes again. In order, apart from each
    /// other, and behind those for traffic; empty if the pool has no check.
    pub checks: Vec<PortRange>,
}

impl RelayPorts {
    /// Both together, as they were written.
    pub fn all(&self) -> Vec<PortRange> {
        let mut all: Vec<PortRange> = Vec::new();
        for range in self.traffic.iter().chain(&self.checks) {
            match all.last_mut() {
                Some(before) if u32::from(before.last) + 1 == range.first.into() => before.last = range.last,
                Some(_) | None => all.push(*range),
            }
        }
        all
    }
}
