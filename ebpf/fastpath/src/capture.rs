//! Which packets a capture keeps: the filter, and what of a packet it looks at.
//!
//! Owns the match ([`matches()`]) and a tolerant look at a copy of the frame ([`Facts::of`]): what it cannot read is absent,
//! never an error, since frames that are dropped for being malformed are captured too. Decides nothing about a packet,
//! and is never run unless a capture is going on. Copying the frame and handing it to userspace is `weir-ebpf`'s.

use weir_abi::{Addr16, CaptureFilter, maps::capture::SNAP};

use crate::window::opaque;

/// Bytes of the copy: a power of two, so that a masked offset lies in it.
const BYTES: usize = SNAP as usize;
const MASK: usize = BYTES - 1;
const _: () = assert!(BYTES.is_power_of_two());

const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// More fragments, and the offset, of IPv4's flags word.
const OFFSET: u16 = 0x1fff;

/// A copy of a frame's beginning.
#[derive(Clone, Copy)]
struct Copied<'a> {
    bytes: &'a [u8; BYTES],
    /// Bytes that belong to this frame; behind them lie those of older ones.
    len: usize,
}

impl Copied<'_> {
    /// The offset is masked in the same breath, by a number that LLVM knows nothing of: the verifier sees the bound.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.bytes[opaque(at) & MASK]
    }

    #[inline(always)]
    fn short(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    /// Four bytes as they lie in memory.
    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([
            self.byte(at),
            self.byte(at + 1),
            self.byte(at + 2),
            self.byte(at + 3),
        ])
    }

    /// Whether the address at `at` is the filter's, under its mask. Word by word, in a loop that LLVM must not unroll: else
    /// it loads everything first and needs more of the stack than the kernel gives.
    #[inline(always)]
    fn is_within(&self, at: usize, v4: bool, filter: &CaptureFilter) -> bool {
        let mapped = Addr16::from_v4_word(0).words;
        let mut i = 0;
        while opaque(i) < 4 {
            let word = if !v4 {
                self.word(at + i * 4)
            } else if i < 3 {
                mapped[i & 3]
            } else {
                self.word(at)
            };
            if (word ^ filter.addr.words[i & 3]) & filter.mask.words[i & 3] != 0 {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// What the filter looks at. What a packet has not, or what the copy is too short for, is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Where the source address lies in the copy, the destination behind it; 0: the packet has none.
    addresses_at: u32,
    /// They are IPv4's.
    v4: bool,
    /// IP protocol number: the first behind the base header.
    protocol: u32,
    /// Both ports as one load from the packet, source first.
    ports: u32,
}

impl Facts {
    /// Of the first `len` bytes of a frame: Ethernet, up to two tags, the base header of either IP, and the ports of TCP
    /// or UDP behind it, unless a later fragment carries something else there.
    #[inline(always)]
    pub fn of(bytes: &[u8; BYTES], len: usize) -> Self {
        let copied = Copied { bytes, len };
        let mut at = ETHERNET;
        if copied.len < at {
            return Self::default();
        }
        let mut ether_type = copied.short(12);
        for _ in 0..2 {
            if (ether_type == C_TAG || ether_type == S_TAG) && copied.len >= at + TAG {
                ether_type = copied.short(at + 2);
                at += TAG;
            }
        }
        match ether_type {
            IPV4 => Self::v4(copied, at),
            IPV6 => Self::v6(copied, at),
            _ => Self::default(),
        }
    }

    #[inline(always)]
    fn v4(copied: Copied<'_>, at: usize) -> Self {
        if copied.len < at + 20 {
            return Self::default();
        }
        let protocol = copied.byte(at + 9);
        let header = usize::from(copied.byte(at) & 0xf) * 4;
        let first = copied.short(at + 6) & OFFSET == 0;
        Self {
            addresses_at: at as u32 + 12,
            v4: true,
            protocol: u32::from(protocol),
            ports: if first {
                ports(copied, at + header, protocol)
            } else {
                0
            },
        }
    }

    #[inline(always)]
    fn v6(copied: Copied<'_>, at: usize) -> Self {
        if copied.len < at + 40 {
            return Self::default();
        }
        let protocol = copied.byte(at + 6);
        Self {
            addresses_at: at as u32 + 8,
            v4: false,
            protocol: u32::from(protocol),
            ports: ports(copied, at + 40, protocol),
        }
    }
}

#[inline(always)]
fn ports(copied: Copied<'_>, at: usize, protocol: u8) -> u32 {
    if (protocol == TCP || protocol == UDP) && copied.len >= at + 4 {
        copied.word(at)
    } else {
        0
    }
}

/// Whether the filter takes this reason and its verdict, both by number: what can be said before the packet is looked at.
#[inline(always)]
pub const fn wants(filter: &CaptureFilter, reason: u32, verdict: u32) -> bool {
    (filter.reason == 0 || filter.reason == reason.wrapping_add(1))
        && (filter.verdict == 0 || filter.verdict == verdict.wrapping_add(1))
}

/// Whether the filter takes the packet whose beginning, `len` bytes, was copied to `bytes`. Either end may be the one
/// that is named.
#[inline(always)]
pub fn matches(filter: &CaptureFilter, bytes: &[u8; BYTES], len: usize) -> bool {
    let facts = Facts::of(bytes, len);
    if filter.proto != 0 && filter.proto != facts.protocol {
        return false;
    }
    if filter.port != 0 {
        let [s0, s1, d0, d1] = facts.ports.to_ne_bytes();
        let (source, destination) = (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([d0, d1]));
        let port = filter.port as u16;
        if port != source && port != destination {
            return false;
        }
    }
    let [m0, m1, m2, m3] = filter.mask.words;
    if m0 | m1 | m2 | m3 == 0 {
        return true;
    }
    let at = facts.addresses_at as usize;
    if at == 0 {
        return false;
    }
    let (copied, width) = (Copied { bytes, len }, if facts.v4 { 4 } else { 16 });
    let mut end = 0;
    while opaque(end) < 2 {
        if copied.is_within(at + end * width, facts.v4, filter) {
            return true;
        }
        end += 1;
    }
    false
}

/// Whether this packet is one of the sample, given any random number.
#[inline(always)]
pub const fn sampled(filter: &CaptureFilter, random: u32) -> bool {
    filter.sample <= 1 || random.is_multiple_of(filter.sample)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, vec, vec::Vec};

    use weir_abi::Reason;

    use super::*;

    fn facts(frame: &[u8]) -> Facts {
        // What lies behind the frame is not part of it.
        let mut bytes = [0xa5; BYTES];
        bytes[..frame.len()].copy_from_slice(frame);
        Facts::of(&bytes, frame.len())
    }

    fn addr(text: &str) -> Addr16 {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn ports(source: u16, destination: u16) -> u32 {
        let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    fn ethernet(tags: &[u16], ether_type: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ether_type.to_be_bytes());
        frame
    }

    fn v4(tags: &[u16], protocol: u8, options: usize, offset: u16) -> Vec<u8> {
        let mut frame = ethernet(tags, IPV4);
        frame.extend([0x45 + (options / 4) as u8, 0, 0, 40, 1, 2]);
        frame.extend(offset.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10]);
        frame.extend(vec![1; options]);
        frame.extend([0x9c, 0x40, 0, 80]);
        frame
    }

    fn v6(protocol: u8) -> Vec<u8> {
        let mut frame = ethernet(&[], IPV6);
        frame.extend([0x60, 0, 0, 0, 0, 20, protocol, 64]);
        frame.extend(addr("2001:db8::7").octets());
        frame.extend(addr("2001:db8::10").octets());
        frame.extend([0x9c, 0x40, 0, 80]);
        frame
    }

    #[test]
    fn what_is_there_is_read_and_nothing_else() {
        let known = Facts {
            addresses_at: 26,
            v4: true,
            protocol: 6,
            ports: ports(40_000, 80),
        };
        let at = |addresses_at| Facts {
            addresses_at,
            ..known
        };
        let without_ports = Facts { ports: 0, ..known };
        for (name, frame, want) in [
            ("TCP", v4(&[], 6, 0, 0), known),
            ("don't fragment", v4(&[], 6, 0, 0x4000), known),
            ("first fragment", v4(&[], 6, 0, 0x2000), known),
            ("later fragment", v4(&[], 6, 0, 0x2005), without_ports),
            ("options", v4(&[], 6, 40, 0), known),
            ("one tag", v4(&[C_TAG], 6, 0, 0), at(30)),
            ("two tags", v4(&[S_TAG, C_TAG], 6, 0, 0), at(34)),
            (
                "UDP",
                v4(&[], 17, 0, 0),
                Facts {
                    protocol: 17,
                    ..known
                },
            ),
            (
                "ICMP",
                v4(&[], 1, 0, 0),
                Facts {
                    protocol: 1,
                    ..without_ports
                },
            ),
            (
                "IPv6",
                v6(6),
                Facts {
                    addresses_at: 22,
                    v4: false,
                    ..known
                },
            ),
            (
                "IPv6 extension header",
                v6(0),
                Facts {
                    addresses_at: 22,
                    v4: false,
                    protocol: 0,
                    ..without_ports
                },
            ),
            (
                "three tags",
                v4(&[S_TAG, S_TAG, C_TAG], 6, 0, 0),
                Facts::default(),
            ),
            ("ARP", ethernet(&[], 0x0806), Facts::default()),
            ("half a frame", vec![2; 13], Facts::default()),
            ("nothing", vec![], Facts::default()),
        ] {
            assert_eq!(facts(&frame), want, "{name}");
        }
        let whole = v4(&[], 6, 0, 0);
        assert_eq!(facts(&whole[..whole.len() - 1]), without_ports, "ports cut off");
        assert_eq!(facts(&whole[..33]), Facts::default(), "header cut off");
    }

    fn net(text: &str, v4_bits: u32) -> CaptureFilter {
        let mask = u32::from_ne_bytes((!0_u32 << (32 - v4_bits)).to_be_bytes());
        CaptureFilter {
            addr: addr(text),
            mask: Addr16::from_v6_words([!0, !0, !0, mask]),
            ..CaptureFilter::default()
        }
    }

    #[test]
    fn all_that_is_set_must_agree() {
        let take = |filter: &CaptureFilter, frame: &[u8]| {
            let mut bytes = [0xa5; BYTES];
            bytes[..frame.len()].copy_from_slice(frame);
            matches(filter, &bytes, frame.len())
        };
        let port = |port: u16| CaptureFilter {
            port: port.to_be().into(),
            ..CaptureFilter::default()
        };
        let proto = |proto| CaptureFilter {
            proto,
            ..CaptureFilter::default()
        };
        for (name, filter, want) in [
            ("any", CaptureFilter::default(), true),
            ("source", net("198.51.100.7", 32), true),
            ("destination", net("192.0.2.10", 32), true),
            ("neighbour", net("192.0.2.11", 32), false),
            ("network", net("192.0.2.0", 24), true),
            ("other network", net("192.0.3.0", 24), false),
            ("source port", port(40_000), true),
            ("destination port", port(80), true),
            ("other port", port(81), false),
            ("protocol", proto(6), true),
            ("other protocol", proto(17), false),
            (
                "address but not port",
                CaptureFilter {
                    port: 81_u16.to_be().into(),
                    ..net("192.0.2.10", 32)
                },
                false,
            ),
        ] {
            assert_eq!(take(&filter, &v4(&[], 6, 0, 0)), want, "{name}");
        }
        let arp = ethernet(&[], 0x0806);
        assert!(take(&CaptureFilter::default(), &arp), "ARP, by no filter");
        assert!(!take(&net("0.0.0.0", 1), &arp), "an address that is not there");
        assert!(!take(&port(80), &arp));

        let six = |addr: &str, mask: [u32; 4]| CaptureFilter {
            addr: self::addr(addr),
            mask: Addr16::from_v6_words(mask),
            ..CaptureFilter::default()
        };
        for (name, filter, want) in [
            ("source", six("2001:db8::7", [!0; 4]), true),
            ("destination", six("2001:db8::10", [!0; 4]), true),
            ("neighbour", six("2001:db8::11", [!0; 4]), false),
            ("network", six("2001:db8::", [!0, 0, 0, 0]), true),
            ("other network", six("2001:db9::", [!0, 0, 0, 0]), false),
            ("of IPv4", net("192.0.2.10", 32), false),
        ] {
            assert_eq!(take(&filter, &v6(6)), want, "IPv6 {name}");
        }
    }

    #[test]
    fn reason_and_verdict_come_first() {
        let filter = |reason, verdict| CaptureFilter {
            reason,
            verdict,
            ..CaptureFilter::default()
        };
        let drop = Reason::NoBackend;
        for (name, filter, want) in [
            ("any", filter(0, 0), true),
            ("reason", filter(drop as u32 + 1, 0), true),
            ("reason 0", filter(1, 0), false),
            ("verdict", filter(0, drop.verdict() as u32 + 1), true),
            ("verdict 0", filter(0, 1), false),
            ("both", filter(drop as u32 + 1, drop.verdict() as u32 + 1), true),
            ("one of both", filter(1, drop.verdict() as u32 + 1), false),
        ] {
            assert_eq!(wants(&filter, drop as u32, drop.verdict() as u32), want, "{name}");
        }
    }

    #[test]
    fn a_sample_is_one_of_so_many() {
        for (sample, taken) in [(0, 100), (1, 100), (2, 50), (10, 10)] {
            let filter = CaptureFilter {
                sample,
                ..CaptureFilter::default()
            };
            let count = (0..100).filter(|&random| sampled(&filter, random)).count();
            assert_eq!(count, taken, "one of {sample}");
        }
    }
}
