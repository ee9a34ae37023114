//! The keyed flow hash, and from it a slot of a ring.
//!
//! Flows are hashed by NH, the universal hash of UMAC (RFC 4418 section 5.2.2; Black, Halevi, Krawczyk, Krovetz, Rogaway,
//! CRYPTO 1999): the words of the flow are added to words of the key and multiplied in pairs. Whoever does not know the key
//! can't choose flows that fall on one backend: two that differ collide for one key in 2³². It costs a third of a SipHash,
//! since the products do not wait for each other. Boxes that share the key place flows alike.
//!
//! SipHash-1-3 makes the words of the key out of the one that is configured, and a backend's order of slots
//! ([`crate::maglev`]). Never reads a table: [`crate::pipeline`] asks for the slot.

use weir_abi::{Addr16, FlowKey};

/// One SipRound (Aumasson and Bernstein, section 2.4).
#[inline(always)]
const fn round(v: [u64; 4]) -> [u64; 4] {
    let [mut v0, mut v1, mut v2, mut v3] = v;
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

/// The state of a SipHash-1-3 over whole 8-byte words.
#[derive(Clone, Copy)]
struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    const fn new(key: [u64; 2]) -> Self {
        let [k0, k1] = key;
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    const fn word(self, word: u64) -> Self {
        let [v0, v1, v2, v3] = self.0;
        let [v0, v1, v2, v3] = round([v0, v1, v2, v3 ^ word]);
        Self([v0 ^ word, v1, v2, v3])
    }

    /// The hash of `words` words taken in.
    #[inline(always)]
    const fn finish(self, words: u64) -> u64 {
        let [v0, v1, v2, v3] = self.word((words * 8) << 56).0;
        let [v0, v1, v2, v3] = round(round(round([v0, v1, v2 ^ 0xff, v3])));
        v0 ^ v1 ^ v2 ^ v3
    }
}

/// Words of a key for [`flow_hash`].
pub type FlowHashKey = [u32; 10];

/// The key of the flow hash that a configured key stands for.
pub const fn expand(key: [u64; 2]) -> FlowHashKey {
    let mut words = [0; 10];
    let mut i = 0;
    while i < words.len() {
        words[i] = hash2(key, i as u64, 0x776f_6c66) as u32;
        i += 1;
    }
    words
}

/// One product of NH.
#[inline(always)]
const fn product(first: u32, second: u32, key: (u32, u32)) -> u64 {
    let first = u32::from_le(first).wrapping_add(key.0);
    let second = u32::from_le(second).wrapping_add(key.1);
    first as u64 * second as u64
}

/// The hash of a flow under a key ([`weir_abi::Settings::flow_key`]).
#[inline(always)]
pub const fn flow_hash(key: &FlowHashKey, flow: &FlowKey) -> u64 {
    let &[k0, k1, k2, k3, k4, k5, k6, k7, k8, k9] = key;
    // The protocol is a number, the rest lies as in the packet.
    let mut sum = product(flow.ports, flow.proto.to_le(), (k8, k9));
    if flow.dst.is_v4() {
        sum = sum.wrapping_add(product(flow.src.v4_word(), flow.dst.v4_word(), (k0, k1)));
    } else {
        let [s0, s1, s2, s3] = flow.src.words;
        let [d0, d1, d2, d3] = flow.dst.words;
        sum = sum.wrapping_add(product(s0, s1, (k0, k1)));
        sum = sum.wrapping_add(product(s2, s3, (k2, k3)));
        sum = sum.wrapping_add(product(d0, d1, (k4, k5)));
        sum = sum.wrapping_add(product(d2, d3, (k6, k7)));
    }
    mix(sum)
}

/// The share of `shares` that a client falls on, as boxes with the same key deal clients among themselves. Independent of
/// [`flow_hash`]: every share has flows of all slots of a ring, also where that is by the source address alone. 0 for no
/// shares.
#[inline(always)]
pub const fn share_of(key: &FlowHashKey, client: &Addr16, shares: u32) -> u32 {
    let &[k0, k1, k2, k3, k4, ..] = key;
    let [a, b, c, d] = client.words;
    let sum = if client.is_v4() {
        product(client.v4_word(), 1_u32.to_le(), (k4, k2))
    } else {
        product(a, b, (k3, k2)).wrapping_add(product(c, d, (k1, k0)))
    };
    slot_of(mix(sum), shares)
}

/// Every bit of a sum reaches the high half, which chooses, and the low one.
#[inline(always)]
const fn mix(sum: u64) -> u64 {
    let mixed = (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// SipHash-1-3 of two words: what [`crate::maglev`] derives a backend's order of slots from.
#[inline(always)]
pub(crate) const fn hash2(key: [u64; 2], first: u64, second: u64) -> u64 {
    Sip::new(key).word(first).word(second).finish(2)
}

/// The slot of a ring of `len` slots that a hash falls on: its high half times `len`, high half of the product. Even
/// to within `len` in 2³², without a division. 0 for an empty ring.
#[inline(always)]
pub const fn slot_of(hash: u64, len: u32) -> u32 {
    (((hash >> 32) * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;
    use core::net::IpAddr;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use weir_abi::Addr16;

    use super::*;

    fn flow(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, proto: u8) -> FlowKey {
        let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
        FlowKey {
            src: Addr16::from(src),
            dst: Addr16::from(dst),
            ports: u32::from_ne_bytes([a, b, c, d]),
            proto: u32::from(proto),
        }
    }

    proptest! {
        #[test]
        fn two_words_are_hashed_by_siphash_1_3(key: [u64; 2], first: u64, second: u64) {
            let mut reference = SipHasher13::new_with_keys(key[0], key[1]);
            reference.write(&first.to_le_bytes());
            reference.write(&second.to_le_bytes());
            prop_assert_eq!(hash2(key, first, second), reference.finish());
        }

        #[test]
        fn every_part_of_a_flow_counts(
            key: [u64; 2], src: u128, dst: u128, sport: u16, dport: u16, bit in 0u32..128, v4: bool
        ) {
            let ip = |bits: u128| match v4 {
                true => IpAddr::V4((bits as u32).into()),
                // ::ffff:0:0/96 on the wire is no address of IPv6 (RFC 4291); the two families do not meet.
                false => IpAddr::V6((bits | 1 << 127).into()),
            };
            let key = expand(key);
            let bit = if v4 { bit % 32 } else { bit % 127 };
            let one = flow_hash(&key, &flow(ip(src), ip(dst), sport, dport, 6));
            for other in [
                flow(ip(src ^ 1 << bit), ip(dst), sport, dport, 6),
                flow(ip(src), ip(dst ^ 1 << bit), sport, dport, 6),
                flow(ip(src), ip(dst), sport ^ 1 << (bit % 16), dport, 6),
                flow(ip(src), ip(dst), sport, dport ^ 1 << (bit % 16), 6),
                flow(ip(src), ip(dst), sport, dport, 17),
            ] {
                prop_assert_ne!(one, flow_hash(&key, &other));
            }
        }

        #[test]
        fn a_slot_lies_in_its_ring(hash: u64, len in 1u32..) {
            prop_assert!(slot_of(hash, len) < len);
        }
    }

    /// Hits of 16 slots by flows that differ as little as those of real clients do.
    fn spread(flows: impl Iterator<Item = FlowKey>, key: [u64; 2]) -> [u32; 16] {
        let key = expand(key);
        let mut hits = [0; 16];
        for flow in flows {
            hits[slot_of(flow_hash(&key, &flow), 16) as usize] += 1;
        }
        hits
    }

    #[test]
    fn flows_spread_evenly() {
        let vip = IpAddr::V4(0xc000_020a.into());
        let vip6 = IpAddr::V6((0x2001_0db8_u128 << 96 | 0x10).into());
        for key in [[1, 2], [0, 0], [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00]] {
            let clients = (0..160_000u32).map(|n| flow(IpAddr::V4(n.into()), vip, (n >> 3) as u16, 80, 6));
            let ports = (0..160_000u32)
                .map(|n| flow(IpAddr::V4((0xc633_6400 | n >> 16).into()), vip, n as u16, 80, 6));
            let subnets = (0..160_000u128).map(|n| {
                let client = 0x2001_0db8_000c_u128 << 80 | n << 64 | 1;
                flow(IpAddr::V6(client.into()), vip6, 40_000, 443, 17)
            });
            for hits in [spread(clients, key), spread(ports, key), spread(subnets, key)] {
                for count in hits {
                    // Standard deviation is 97: five of them.
                    assert!((9_500..=10_500).contains(&count), "{key:x?}: {hits:?}");
                }
            }
        }
    }

    #[test]
    fn boxes_of_one_key_agree() {
        // Written down once: a change would place every flow of a pair of boxes anew.
        let key = expand([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let v4 = flow(
            "198.51.100.7".parse().unwrap(),
            "192.0.2.10".parse().unwrap(),
            40_000,
            80,
            6,
        );
        let v6 = flow(
            "2001:db8::7".parse().unwrap(),
            "2001:db8::10".parse().unwrap(),
            40_000,
            443,
            17,
        );
        assert_eq!(
            [flow_hash(&key, &v4), flow_hash(&key, &v6)],
            [6_591_654_634_566_626_349, 12_100_074_231_079_940_737]
        );
    }

    #[test]
    fn an_empty_ring_has_no_slot_to_ask_for() {
        assert_eq!(slot_of(u64::MAX, 0), 0);
        assert_eq!(slot_of(u64::MAX, 65_537), 65_536);
        assert_eq!(slot_of(0, 65_537), 0);
    }
}
