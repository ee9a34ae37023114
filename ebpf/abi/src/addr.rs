//! The one address form of both families: 16 bytes, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`. Four words, each as it lies in the packet.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Addr16 {
    /// The 16 bytes as four native loads: word 0 holds bytes 0 to 3, and so on.
    pub words: [u32; 4],
}

/// The third word of every mapped IPv4 address: bytes `00 00 ff ff`.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr16 {
    /// The mapped form of an IPv4 address, given as the 4 bytes' native load.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// An IPv6 address from four native loads.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The IPv4 address as it lies in a packet. Meaningful only when [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut i = 0;
        while i < 4 {
            let w = self.words[i].to_ne_bytes();
            out[i * 4] = w[0];
            out[i * 4 + 1] = w[1];
            out[i * 4 + 2] = w[2];
            out[i * 4 + 3] = w[3];
            i += 1;
        }
        out
    }

    /// The address in the standard library's form.
    pub const fn to_ip(&self) -> IpAddr {
        if self.is_v4() {
            let b = self.words[3].to_ne_bytes();
            IpAddr::V4(Ipv4Addr::new(b[0], b[1], b[2], b[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from_octets(self.octets()))
        }
    }
}

impl From<IpAddr> for Addr16 {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                let w = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                Self {
                    words: [w(0), w(4), w(8), w(12)],
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in [
            "192.0.2.10",
            "0.0.0.0",
            "255.255.255.255",
            "2001:db8::10",
            "::",
            "::1",
            "fe80::1:2:3:4",
        ] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr16::from(ip);
            assert_eq!(addr.to_ip(), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
        }
    }
}
