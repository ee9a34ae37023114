//! Keys of services that XDP forwards, and `per_source`, which XDP enforces for every mode.
//!
//! Owns their ranges and defaults, and which of them go together. What they ask of pools, listeners and the node is
//! `cross/l4.rs`.

use std::time::Duration;

use weir_core::plan::{FlowHash, Forward, L4, OnBackendDown, PerSource};

use crate::{
    keys, primes,
    reader::{Cx, Table},
    tunables::Values,
};

/// Keys of L4 services alone.
pub(super) const KEYS: [&str; 7] = [
    "forward",
    "hash",
    "hash_prefix_v4",
    "hash_prefix_v6",
    "on_backend_down",
    "mss",
    "ring_size",
];
/// What `forward` may say.
const WAYS: [Forward; 4] = [Forward::Nat, Forward::FullNat, Forward::Dsr, Forward::Ipip];
/// What this version can't forward by.
const LATER_FORWARD: [&str; 5] = ["gre", "gue", "vxlan", "geneve", "tunnel"];
/// Bits of the source's network by default, with hash = "source-network": /24, and /56 as sites commonly get.
const DEFAULT_NETWORK: (u8, u8) = (24, 56);
/// Most connections, open or per second, that a network can be bound to.
const MOST: u32 = 10_000_000;

const SECOND: Duration = Duration::from_secs(1);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

#[derive(Clone, Copy)]
enum Hash {
    Flow,
    Source,
    Network,
    Quic,
}

/// Whether `forward` is one of its words, or left open.
pub(super) fn knows_forward(table: &Table<'_>) -> bool {
    match table.get("forward") {
        None => !table.meant("forward"),
        Some(value) => value
            .as_string()
            .is_some_and(|word| WAYS.iter().any(|way| way.as_str() == word)),
    }
}

pub(super) fn read(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> L4 {
    let forward = table
        .get("forward")
        .and_then(|value| value.choice(cx, &WAYS.map(|way| (way.as_str(), way)), &LATER_FORWARD));
    let on_backend_down = table.get("on_backend_down").and_then(|value| {
        let words = [("remap", OnBackendDown::Remap), ("reset", OnBackendDown::Reset)];
        value.choice(cx, &words, &[])
    });
    let mss = table.get("mss").and_then(|value| value.integer(cx, 88..=9000));
    let ring_size = table.get("ring_size").and_then(|value| {
        let size = value.integer(cx, 251..=655_373)?;
        if primes::is_prime(size) {
            return Some(size);
        }
        value.trouble(cx, primes::trouble(size));
        None
    });
    L4 {
        forward: forward.unwrap_or(Forward::Nat),
        ring_size: ring_size.unwrap_or(defaults.l4_ring_size),
        hash: read_hash(cx, table),
        on_backend_down: on_backend_down.unwrap_or_default(),
        mss: mss.and_then(|mss| u16::try_from(mss).ok()),
    }
}

/// The length of QUIC server ids is the pool's: it is filled in when all is resolved.
fn read_hash(cx: &mut Cx, table: &Table<'_>) -> FlowHash {
    let value = table.get("hash");
    let hash = match &value {
        None if table.meant("hash") => None,
        None => Some(Hash::Flow),
        Some(value) => {
            let words = [
                ("flow", Hash::Flow),
                ("source", Hash::Source),
                ("source-network", Hash::Network),
                ("quic", Hash::Quic),
            ];
            value.choice(cx, &words, &[])
        }
    };
    let word = match hash {
        // Nothing is concluded from a word that could not be read.
        None | Some(Hash::Network) => None,
        Some(Hash::Flow) => Some("flow"),
        Some(Hash::Source) => Some("source"),
        Some(Hash::Quic) => Some("quic"),
    };
    if let Some(word) = word {
        table.refuse(
            cx,
            &["hash_prefix_v4", "hash_prefix_v6"],
            &format!("does not apply with hash = \"{word}\""),
            "remove it, or write hash = \"source-network\"",
        );
    }
    let mut prefix = |key, longest, default| {
        let value = table.get(key);
        let bits = value.and_then(|value| value.integer(cx, 1..=longest));
        bits.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(default)
    };
    match hash {
        None | Some(Hash::Flow) => FlowHash::Flow,
        Some(Hash::Source) => FlowHash::Source {
            prefix_v4: 32,
            prefix_v6: 128,
        },
        Some(Hash::Network) => FlowHash::Source {
            prefix_v4: prefix("hash_prefix_v4", 32, DEFAULT_NETWORK.0),
            prefix_v6: prefix("hash_prefix_v6", 128, DEFAULT_NETWORK.1),
        },
        Some(Hash::Quic) => FlowHash::Quic { len: 0 },
    }
}

/// Limits per source, and where the section stands.
pub(super) fn read_per_source(cx: &mut Cx, table: &Table<'_>) -> Option<(PerSource, usize)> {
    let value = table.get("per_source")?;
    let section = value.table(cx, &keys::PER_SOURCE)?;
    let default = PerSource::default();
    let limits = ["rate", "connections"];
    let mut integer = |key, range| section.get(key).and_then(|value| value.integer(cx, range));
    let rate = integer("rate", 1..=MOST);
    let connections = integer("connections", 1..=MOST);
    let prefix_v4 = integer("prefix_v4", 1..=32).and_then(|bits| u8::try_from(bits).ok());
    let prefix_v6 = integer("prefix_v6", 1..=128).and_then(|bits| u8::try_from(bits).ok());
    let ban = section.get("ban").and_then(|value| {
        let ban = value.duration(cx, SECOND..=MONTH)?;
        if ban.subsec_nanos() == 0 {
            return Some(ban);
        }
        let up = ban.as_secs() + 1;
        value.mistake(cx, "is not in whole seconds", format!("write \"{up}s\""));
        None
    });
    if !limits
        .iter()
        .any(|key| section.get(key).is_some() || section.meant(key))
    {
        cx.mistake(
            section.at,
            format!("[{}] limits nothing", section.path),
            "write rate = 100 for new connections per second, connections = 1000 for open ones, or remove it",
        );
    }
    Some((
        PerSource {
            rate,
            connections,
            prefix_v4: prefix_v4.unwrap_or(default.prefix_v4),
            prefix_v6: prefix_v6.unwrap_or(default.prefix_v6),
            ban,
        },
        value.key_at,
    ))
}
