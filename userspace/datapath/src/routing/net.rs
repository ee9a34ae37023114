//! [`Net`]: a network of either family, in the form that a longest-prefix match of the maps has.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use weir_abi::{Addr16, Prefix};

/// Where IPv4 begins among addresses of 16 bytes: `::ffff:0.0.0.0`.
const V4: u128 = 0xffff_0000_0000;

/// Bits in front of an IPv4 address.
const V4_LEN: u8 = 96;

/// A network. IPv4 is mapped into IPv6. Ordered so that a network comes before those within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// Bits behind the prefix are 0.
    bits: u128,
    len: u8,
}

impl Net {
    /// All of IPv4. It keeps the default route of IPv6 off it.
    pub const ALL_V4: Self = Self {
        bits: V4,
        len: V4_LEN,
    };

    /// The network of an address and a prefix length of its family; None if the length is too large. Host bits are
    /// dropped.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let len = match addr {
            IpAddr::V4(_) => prefix.checked_add(V4_LEN)?,
            IpAddr::V6(_) => prefix,
        };
        (len <= 128).then(|| Self {
            bits: bits(addr) & mask(len),
            len,
        })
    }

    /// The network of an address of 16 bytes that has this length.
    pub(super) fn around(addr: IpAddr, len: u8) -> Self {
        Self {
            bits: bits(addr) & mask(len),
            len,
        }
    }

    /// Its address, host bits 0.
    pub fn addr(self) -> IpAddr {
        let addr = IpAddr::V6(Ipv6Addr::from_bits(self.bits));
        if self.is_v4() { addr.to_canonical() } else { addr }
    }

    /// Bits of 128 that count.
    pub(crate) const fn len(self) -> u8 {
        self.len
    }

    /// Whether it is a network of IPv4.
    pub fn is_v4(self) -> bool {
        Self::ALL_V4.holds(self)
    }

    /// Whether another lies in it, or is the same.
    pub fn holds(self, other: Self) -> bool {
        self.len <= other.len && (self.bits ^ other.bits) & mask(self.len) == 0
    }

    /// As it stands in a map.
    pub fn prefix(self) -> Prefix {
        Prefix {
            len: self.len.into(),
            addr: Addr16::from(IpAddr::V6(Ipv6Addr::from_bits(self.bits))),
        }
    }

    /// From how it stands in a map; None if weir never writes such a thing.
    pub(crate) fn from_prefix(prefix: &Prefix) -> Option<Self> {
        let len = u8::try_from(prefix.len).ok().filter(|len| *len <= 128)?;
        let bits = u128::from_be_bytes(prefix.addr.octets());
        (bits & !mask(len) == 0).then_some(Self { bits, len })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.is_v4() { V4_LEN } else { 0 };
        write!(f, "{}/{}", self.addr(), self.len.saturating_sub(before))
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

const fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        1..128 => u128::MAX << (128 - len),
        128.. => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        let (addr, prefix) = text.split_once('/').unwrap();
        Net::new(addr.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn networks_of_both_families_lie_in_one_tree() {
        assert!(
            net("::/0").holds(net("0.0.0.0/0")),
            "so IPv4 needs an entry of its own"
        );
        assert_eq!(net("0.0.0.0/0"), Net::ALL_V4);
        assert!(net("10.0.0.0/8").holds(net("10.1.0.0/16")) && net("10.0.0.0/8").is_v4());
        assert!(!net("10.1.0.0/16").holds(net("10.0.0.0/8")) && !net("11.0.0.0/8").holds(net("10.1.0.0/16")));
        assert!(!net("2001:db8::/32").is_v4() && !net("::/0").is_v4());
        assert_eq!(net("10.1.2.3/8"), net("10.0.0.0/8"), "host bits are dropped");
        assert_eq!(Net::new("10.0.0.0".parse().unwrap(), 33), None);
        assert_eq!(Net::new("::".parse().unwrap(), 129), None);
        let mut sorted = [
            net("10.0.0.0/24"),
            net("10.0.0.0/8"),
            net("::/0"),
            net("0.0.0.0/0"),
        ];
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                net("::/0"),
                net("0.0.0.0/0"),
                net("10.0.0.0/8"),
                net("10.0.0.0/24")
            ]
        );
    }

    #[test]
    fn the_maps_form_and_back() {
        for (text, len) in [
            ("0.0.0.0/0", 96),
            ("192.0.2.0/24", 120),
            ("192.0.2.1/32", 128),
            ("::/0", 0),
            ("2001:db8::/32", 32),
            ("2001:db8::1/128", 128),
        ] {
            let prefix = net(text).prefix();
            assert_eq!(prefix.len, len, "{text}");
            assert_eq!(Net::from_prefix(&prefix), Some(net(text)));
            assert_eq!(net(text).to_string(), text);
        }
        let host_bits = Prefix {
            len: 96,
            ..net("192.0.2.1/32").prefix()
        };
        assert_eq!(Net::from_prefix(&host_bits), None);
        let long = Prefix {
            len: 129,
            ..net("192.0.2.1/32").prefix()
        };
        assert_eq!(Net::from_prefix(&long), None);
    }
}
