//! Networks of addresses.
//!
//! Owns what a network holds. How one is written is `weir-config`'s.

use std::net::IpAddr;

/// A network in CIDR form. Host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IpNet {
    pub(super) addr: IpAddr,
    pub(super) prefix: u8,
}

impl IpNet {
    /// A network; None if the prefix is too long for the family or host bits are set.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let (bits, width) = to_bits(addr);
        if prefix > width {
            return None;
        }
        let host = if prefix == width {
            0
        } else {
            bits & (u128::MAX >> (128 - u32::from(width) + u32::from(prefix)))
        };
        (host == 0).then_some(Self { addr, prefix })
    }

    /// Its address, host bits zero.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Its prefix length.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it holds the address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (net, width) = to_bits(self.addr);
        let (bits, other) = to_bits(ip.to_canonical());
        width == other && (self.prefix == 0 || (net ^ bits) >> (width - self.prefix) == 0)
    }
}

impl std::fmt::Display for IpNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

fn to_bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_they_should() {
        let net = |a: &str, p| IpNet::new(a.parse().unwrap(), p);
        let ip = |a: &str| a.parse::<IpAddr>().unwrap();
        let ten = net("10.0.0.0", 8).unwrap();
        assert!(ten.contains(ip("10.255.0.1")) && ten.contains(ip("::ffff:10.1.2.3")));
        assert!(!ten.contains(ip("11.0.0.1")) && !ten.contains(ip("::1")));
        assert!(net("0.0.0.0", 0).unwrap().contains(ip("203.0.113.9")));
        assert!(!net("0.0.0.0", 0).unwrap().contains(ip("2001:db8::1")));
        assert!(net("::", 0).unwrap().contains(ip("2001:db8::1")));
        let host = net("2001:db8::1", 128).unwrap();
        assert!(host.contains(ip("2001:db8::1")) && !host.contains(ip("2001:db8::2")));
        assert_eq!(net("10.0.0.1", 8), None);
        assert_eq!(net("10.0.0.0", 33), None);
        assert_eq!(net("2001:db8::1", 64), None);
    }
}
