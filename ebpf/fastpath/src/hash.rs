//! The keyed flow hash, and from it a slot of a ring.
//!
//! SipHash-1-3 over the flow as it lies in the packet: source address, destination address, source port, destination
//! port, protocol and three zero bytes; 16 bytes for IPv4, 40 for IPv6. Keyed, so that nobody outside can choose flows
//! that all fall on one backend; boxes that share the key place flows alike.
//! Never reads a table: [`crate::pipeline`] asks for the slot.

use weir_abi::FlowKey;

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

/// Two words of a packet as one little-endian word of the hash's input.
#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    u32::from_le(first) as u64 | (u32::from_le(second) as u64) << 32
}

/// The last word of the input: ports as they lie in the packet, protocol, zeros.
#[inline(always)]
const fn tail(flow: &FlowKey) -> u64 {
    u32::from_le(flow.ports) as u64 | (flow.proto as u64) << 32
}

/// The hash of a flow under `key` ([`weir_abi::Settings::hash_key`]).
#[inline(always)]
pub const fn flow_hash(key: [u64; 2], flow: &FlowKey) -> u64 {
    let sip = Sip::new(key);
    if flow.dst.is_v4() {
        return sip
            .word(pair(flow.src.v4_word(), flow.dst.v4_word()))
            .word(tail(flow))
            .finish(2);
    }
    let [s0, s1, s2, s3] = flow.src.words;
    let [d0, d1, d2, d3] = flow.dst.words;
    sip.word(pair(s0, s1))
        .word(pair(s2, s3))
        .word(pair(d0, d1))
        .word(pair(d2, d3))
        .word(tail(flow))
        .finish(5)
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
    use std::vec::Vec;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use weir_abi::Addr16;

    use super::*;

    fn flow(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, proto: u8) -> (FlowKey, Vec<u8>) {
        let mut ports = [0; 4];
        ports[..2].copy_from_slice(&sport.to_be_bytes());
        ports[2..].copy_from_slice(&dport.to_be_bytes());
        let mut bytes = Vec::new();
        for ip in [src, dst] {
            match ip {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend(ports);
        bytes.extend([proto, 0, 0, 0]);
        let key = FlowKey {
            src: Addr16::from(src),
            dst: Addr16::from(dst),
            ports: u32::from_ne_bytes(ports),
            proto: u32::from(proto),
        };
        (key, bytes)
    }

    proptest! {
        #[test]
        fn it_is_siphash_1_3_of_the_flow_as_it_lies_in_the_packet(
            key: [u64; 2], src: u32, dst: u32, src6: u128, dst6: u128, sport: u16, dport: u16, proto: u8
        ) {
            // ::ffff:0:0/96 on the wire is no address of IPv6 (RFC 4291); the two families do not meet.
            let dst6 = dst6 | 1 << 127;
            let pairs = [
                (IpAddr::V4(src.into()), IpAddr::V4(dst.into())),
                (IpAddr::V6(src6.into()), IpAddr::V6(dst6.into())),
            ];
            for (src, dst) in pairs {
                let (flow, bytes) = flow(src, dst, sport, dport, proto);
                let mut reference = SipHasher13::new_with_keys(key[0], key[1]);
                reference.write(&bytes);
                prop_assert_eq!(flow_hash(key, &flow), reference.finish());
            }
        }

        #[test]
        fn a_slot_lies_in_its_ring(hash: u64, len in 1u32..) {
            prop_assert!(slot_of(hash, len) < len);
        }
    }

    #[test]
    fn flows_spread_evenly() {
        let mut hits = [0u32; 16];
        for n in 0..160_000u32 {
            let (flow, _) = flow(
                IpAddr::V4(n.into()),
                IpAddr::V4(0xc000_020a.into()),
                (n >> 3) as u16,
                80,
                6,
            );
            hits[slot_of(flow_hash([1, 2], &flow), 16) as usize] += 1;
        }
        for count in hits {
            // Standard deviation is 97: five of them.
            assert!((9_500..=10_500).contains(&count), "{hits:?}");
        }
    }

    #[test]
    fn an_empty_ring_has_no_slot_to_ask_for() {
        assert_eq!(slot_of(u64::MAX, 0), 0);
        assert_eq!(slot_of(u64::MAX, 65_537), 65_536);
        assert_eq!(slot_of(0, 65_537), 0);
    }
}
