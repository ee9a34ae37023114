//! The ports of `full-nat`: how many are in use, and when they will run out.
//!
//! Pure. A source address and port may be in use towards every backend at once, and each CPU has ports of its own: what
//! runs out is one CPU's block of one address towards one backend, so the block with the fewest free is the one that counts.
//! A network card with one queue keeps one CPU busy, and that CPU's share of the ports is all there is.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use weir_abi::{Addr16, FlowKey, NatSource};

/// Ports in use of each block, towards each backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Used {
    /// Sorted by address and first port; they do not overlap.
    blocks: Vec<NatSource>,
    /// In use and at rest, by place of the block, address and port of the backend.
    ports: HashMap<(usize, Addr16, u16), (u64, u64)>,
}

impl Used {
    /// None yet, of these blocks.
    pub(super) fn new(mut blocks: Vec<NatSource>) -> Self {
        blocks.retain(|block| block.count > 0);
        blocks.sort_unstable_by_key(|block| (block.addr.to_ip(), block.first));
        blocks.dedup();
        Self {
            blocks,
            ports: HashMap::new(),
        }
    }

    /// A port that is in use by this reply, or rests after it. Of no block: it was taken away, and nobody gets it.
    pub(super) fn add(&mut self, reply: &FlowKey, rests: bool) {
        let [p0, p1, s0, s1] = reply.ports.to_ne_bytes();
        let port = u32::from(u16::from_be_bytes([s0, s1]));
        let source = (reply.dst.to_ip(), port);
        let behind = self
            .blocks
            .partition_point(|block| (block.addr.to_ip(), block.first) <= source);
        let Some(place) = behind.checked_sub(1) else {
            return;
        };
        let Some(block) = self.blocks.get(place) else {
            return;
        };
        if block.addr != reply.dst || port - block.first >= block.count {
            return;
        }
        let towards = (place, reply.src, u16::from_be_bytes([p0, p1]));
        let (in_use, waiting) = self.ports.entry(towards).or_default();
        *(if rests { waiting } else { in_use }) += 1;
    }

    /// By source address: of its blocks the one with the fewest free ports.
    pub(super) fn count(&self) -> Vec<PortUse> {
        let mut most = vec![(0, 0); self.blocks.len()];
        for (&(place, ..), &(in_use, waiting)) in &self.ports {
            if let Some(entry) = most.get_mut(place)
                && in_use + waiting > entry.0 + entry.1
            {
                *entry = (in_use, waiting);
            }
        }
        let mut tightest: BTreeMap<IpAddr, Ports> = BTreeMap::new();
        for (block, (in_use, waiting)) in self.blocks.iter().zip(most) {
            let ports = Ports {
                free: u64::from(block.count).saturating_sub(in_use + waiting),
                in_use,
                waiting,
            };
            let entry = tightest.entry(block.addr.to_ip()).or_insert(ports);
            if ports.free < entry.free {
                *entry = ports;
            }
        }
        let of = |(source, ports)| PortUse { source, ports };
        tightest.into_iter().map(of).collect()
    }
}

/// The ports of one source address that one CPU owns, towards one backend: of the CPU and the backend that have the fewest
/// left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortUse {
    /// The address.
    pub source: IpAddr,
    /// What these ports are.
    pub ports: Ports,
}

/// How many ports are what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ports {
    /// May be given to a flow.
    pub free: u64,
    /// Belong to a flow.
    pub in_use: u64,
    /// Rest after a flow that has ended (TIME_WAIT).
    pub waiting: u64,
}

impl PortUse {
    /// Seconds until no port is free, if it goes on as it did since `before`, `passed` ago. None: they do not get fewer.
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    pub fn exhausted_in(&self, before: &[Self], passed: Duration) -> Option<f64> {
        let before = before.iter().find(|before| before.source == self.source)?;
        let lost = before
            .ports
            .free
            .checked_sub(self.ports.free)
            .filter(|&lost| lost > 0)?;
        Some(self.ports.free as f64 / lost as f64 * passed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn block(source: &str, first: u32, count: u32) -> NatSource {
        NatSource {
            addr: addr(source).into(),
            first,
            count,
        }
    }

    fn reply(backend: &str, source: &str, port: u16) -> FlowKey {
        let [p0, p1] = port.to_be_bytes();
        FlowKey {
            src: addr(backend).into(),
            dst: addr(source).into(),
            ports: u32::from_ne_bytes([0, 80, p0, p1]),
            proto: 6,
        }
    }

    #[test]
    fn the_busiest_backend_of_the_busiest_cpu_counts() {
        let blocks = vec![
            block("10.0.0.2", 1024, 9),
            block("10.0.0.1", 1030, 6),
            block("10.0.0.1", 1024, 6),
            block("10.0.0.3", 1024, 5),
            // Shared by two services; and of a CPU that is not there.
            block("10.0.0.3", 1024, 5),
            block("10.0.0.1", 1036, 0),
        ];
        let ports = |source: &str, free, in_use, waiting| PortUse {
            source: addr(source),
            ports: Ports {
                free,
                in_use,
                waiting,
            },
        };
        let mut used = Used::new(blocks);
        let all_free = [
            ports("10.0.0.1", 6, 0, 0),
            ports("10.0.0.2", 9, 0, 0),
            ports("10.0.0.3", 5, 0, 0),
        ];
        assert_eq!(used.count(), all_free);
        // What is in use of an address or block that was taken away.
        for (source, port) in [
            ("10.0.0.9", 1024),
            ("10.0.0.0", 1024),
            ("10.0.0.1", 1023),
            ("10.0.0.1", 1036),
        ] {
            used.add(&reply("10.0.0.7", source, port), false);
        }
        assert_eq!(used.count(), all_free);
        for port in 1024..1027 {
            used.add(&reply("10.0.0.7", "10.0.0.1", port), false);
        }
        used.add(&reply("10.0.0.8", "10.0.0.1", 1030), false);
        for port in 1031..1035 {
            used.add(&reply("10.0.0.8", "10.0.0.1", port), true);
        }
        used.add(&reply("10.0.0.8", "10.0.0.3", 1028), true);
        assert_eq!(
            used.count(),
            [
                ports("10.0.0.1", 1, 1, 4),
                ports("10.0.0.2", 9, 0, 0),
                ports("10.0.0.3", 4, 0, 1)
            ]
        );
        assert_eq!(Used::new(Vec::new()).count(), []);
    }

    #[test]
    fn the_end_is_foreseen_while_they_get_fewer() {
        let with = |free| PortUse {
            source: addr("10.0.0.1"),
            ports: Ports {
                free,
                ..Ports::default()
            },
        };
        let in_ten = |before: &[PortUse], free| with(free).exhausted_in(before, Duration::from_secs(10));
        assert_eq!(in_ten(&[with(200)], 100), Some(10.0));
        assert_eq!(in_ten(&[with(110)], 100), Some(100.0));
        assert_eq!(in_ten(&[with(100)], 0), Some(0.0));
        assert_eq!(in_ten(&[with(100)], 100), None);
        assert_eq!(in_ten(&[with(90)], 100), None);
        assert_eq!(in_ten(&[], 100), None, "not seen before");
    }
}
