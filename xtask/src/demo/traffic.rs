//! The clients: one curl per plane and family, all through the virtual address.
//!
//! Owns the four streams and snapshots of their figures. Knows nothing of weir: it is the client's view.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use anyhow::Result;
use weir_harness::{
    Lab,
    lab::Family,
    peer::curl::{Failed, Load, Reuse, Tally},
};

use super::stage::{BACKENDS, RELAY_PORT, XDP_PORT};

/// Requests that each stream begins in a second, at most.
const RATE: u32 = 100;

/// One plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    /// XDP. A new connection per request, for it is flows that are balanced.
    Packets,
    /// The relay. One connection for all requests, for it is requests that are balanced.
    Requests,
}

/// The four streams, in the order of the tables.
pub(crate) const STREAMS: [(Plane, Family); 4] = [
    (Plane::Packets, Family::V4),
    (Plane::Packets, Family::V6),
    (Plane::Requests, Family::V4),
    (Plane::Requests, Family::V6),
];

/// How a stream is called in the tables.
pub(crate) fn title((plane, family): (Plane, Family)) -> String {
    let plane = match plane {
        Plane::Packets => "L4  XDP nat ",
        Plane::Requests => "L7  relay   ",
    };
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    format!("{plane} {family}")
}

/// The running clients.
pub(crate) struct Traffic {
    loads: Vec<Load>,
}

/// What the clients have seen up to a moment, by stream.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) at: Instant,
    pub(crate) streams: Vec<Tally>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let load = |(plane, family): (Plane, Family)| {
            let (port, reuse) = match plane {
                Plane::Packets => (XDP_PORT, Reuse::Never),
                Plane::Requests => (RELAY_PORT, Reuse::KeepAlive),
            };
            Load::start(&lab.client, SocketAddr::new(family.vip(), port), reuse, RATE)
        };
        Ok(Self {
            loads: STREAMS.into_iter().map(load).collect::<Result<_>>()?,
        })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let at = Instant::now();
        Snapshot {
            at,
            streams: self.loads.iter().map(Load::tally).collect(),
        }
    }

    pub(crate) fn stop(self) -> Snapshot {
        let streams = self.loads.into_iter().map(Load::stop).collect();
        Snapshot {
            at: Instant::now(),
            streams,
        }
    }
}

impl Snapshot {
    /// Answers of a stream by backend since an earlier snapshot.
    pub(crate) fn answers_since(&self, earlier: &Self, stream: usize) -> [u64; BACKENDS] {
        let now = answers(self.streams.get(stream));
        let before = answers(earlier.streams.get(stream));
        std::array::from_fn(|i| now[i].saturating_sub(before[i]))
    }

    /// All failures of a stream.
    pub(crate) fn failures(&self, stream: usize) -> &[Failed] {
        self.streams
            .get(stream)
            .map(|tally| tally.failures.as_slice())
            .unwrap_or_default()
    }

    /// Answers of a stream.
    pub(crate) fn answered(&self, stream: usize) -> u64 {
        self.streams.get(stream).map(|tally| tally.ok).unwrap_or_default()
    }

    /// Answers of a stream that name no backend of ours.
    pub(crate) fn strangers(&self, stream: usize) -> u64 {
        let known: u64 = answers(self.streams.get(stream)).iter().sum();
        let all = self
            .streams
            .get(stream)
            .map(|tally| tally.by_backend.values().sum::<u64>());
        all.unwrap_or_default() - known
    }
}

fn answers(tally: Option<&Tally>) -> [u64; BACKENDS] {
    let empty = BTreeMap::new();
    let by_backend = tally.map_or(&empty, |tally| &tally.by_backend);
    std::array::from_fn(|i| {
        by_backend
            .get(&format!("b{}", i + 1))
            .copied()
            .unwrap_or_default()
    })
}
