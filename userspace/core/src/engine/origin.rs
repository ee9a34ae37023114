//! Where the checks of one backend come from: the ports that its pool keeps for checks, in turn.
//!
//! There are so many of them that a port has rested before its turn comes again (the plan sees to that), so nothing needs to
//! be known of how a check ended. A check is given several, far apart: should control have begun anew meanwhile, half of
//! them rest at the most.

use std::net::SocketAddr;

use crate::plan::{PortRange, Source};

/// Source addresses and ports that one check may try.
const TRIES: u64 = 8;

/// The turn of one backend's checks.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    source: Option<Source>,
    turn: u64,
}

impl Origin {
    /// Nothing is known of where checks come from. `turn` is the first.
    pub(super) const fn nowhere(turn: u64) -> Self {
        Self { source: None, turn }
    }

    /// Checks come from here from now on.
    pub(super) fn follow(&mut self, source: Option<&Source>) {
        if self.source.as_ref() != source {
            self.source = source.cloned();
        }
    }

    /// What the next check may be bound to, one after the other; port 0: the system chooses. Empty: to nothing.
    pub(super) fn next(&mut self, to: SocketAddr) -> Vec<SocketAddr> {
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        let Some((source, relay)) = self.source.as_ref().and_then(|s| Some((s, s.relay.as_ref()?))) else {
            return Vec::new();
        };
        let addresses: Vec<_> = source.of_family(to.is_ipv4()).collect();
        let ranges = relay.ports.as_ref().map(|ports| ports.checks.as_slice());
        let ports: u64 = ranges.map_or(1, |ranges| ranges.iter().map(|r| u64::from(r.count())).sum());
        let all = ports * addresses.len() as u64;
        let mut candidates = Vec::new();
        for step in 0..TRIES.min(all) {
            let at = (turn.wrapping_add(step * all / TRIES.min(all))) % all;
            let count = addresses.len() as u64;
            let address = usize::try_from(at % count)
                .ok()
                .and_then(|index| addresses.get(index));
            let port = ranges.map_or(Some(0), |ranges| nth(ranges, at / count));
            candidates.extend(
                address
                    .zip(port)
                    .map(|(address, port)| SocketAddr::new(*address, port)),
            );
        }
        candidates
    }
}

fn nth(ranges: &[PortRange], index: u64) -> Option<u16> {
    PortRange::nth(ranges, u32::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::{RelayPorts, RelaySource};

    fn source(checks: Option<&[(u16, u16)]>) -> Source {
        let range = |&(first, last): &(u16, u16)| PortRange { first, last };
        Source {
            addresses: ["10.0.0.5", "2001:db8::5", "10.0.0.6"]
                .map(|a| a.parse().unwrap())
                .to_vec(),
            nat: None,
            relay: Some(RelaySource {
                ports: checks.map(|checks| RelayPorts {
                    traffic: vec![range(&(2000, 2999))],
                    checks: checks.iter().map(range).collect(),
                }),
                reset: false,
            }),
        }
    }

    #[test]
    fn every_port_of_every_address_has_its_turn() {
        let to = "10.0.0.11:80".parse().unwrap();
        let mut origin = Origin::nowhere(u64::MAX - 3);
        assert_eq!(origin.next(to), []);
        origin.follow(Some(&source(Some(&[(3000, 3007), (4000, 4003)]))));
        let all = 2 * 12;
        let turns: Vec<_> = (0..all * 2).map(|_| origin.next(to)).collect();
        for turn in &turns {
            assert_eq!(
                turn.iter().collect::<BTreeSet<_>>().len(),
                TRIES as usize,
                "{turn:?}"
            );
            assert!(turn.iter().all(|at| at.is_ipv4()));
            let ports =
                |at: &SocketAddr| (3000..3008).contains(&at.port()) || (4000..4004).contains(&at.port());
            assert!(turn.iter().all(ports));
        }
        for round in turns.get(3..).unwrap().chunks_exact(all) {
            let first: BTreeSet<_> = round.iter().filter_map(|turn| turn.first()).collect();
            assert_eq!(first.len(), all, "none comes twice before all have come");
        }
    }

    /// Whatever half of the ports in a row rests, the others are among those that a check may try.
    #[test]
    fn half_of_them_may_rest() {
        let to = "[2001:db8::11]:80".parse().unwrap();
        let mut origin = Origin::nowhere(5);
        origin.follow(Some(&source(Some(&[(3000, 3063)]))));
        for begin in 0..64 {
            let rests = |at: &&SocketAddr| (at.port() - 3000 + 64 - begin) % 64 < 32;
            let turn = origin.next(to);
            assert!(turn.iter().filter(rests).count() <= 4, "{turn:?} {begin}");
        }
    }

    #[test]
    fn the_system_may_choose_the_port() {
        let mut origin = Origin::nowhere(0);
        origin.follow(Some(&source(None)));
        let to = "10.0.0.11:80".parse().unwrap();
        let turns: Vec<_> = (0..3).map(|_| origin.next(to)).collect();
        let [five, six] = ["10.0.0.5:0", "10.0.0.6:0"].map(|a| a.parse().unwrap());
        assert_eq!(turns, [[five, six], [six, five], [five, six]]);
        origin.follow(Some(&source(Some(&[]))));
        assert_eq!(origin.next(to), [], "a pool without checks keeps none");
    }
}
