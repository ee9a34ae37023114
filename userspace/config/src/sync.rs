//! `[sync]`: boxes that tell each other of their flows.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use weir_core::plan::{Sync, XdpMode};

use crate::{
    keys,
    net::{parse_socket, unusable},
    node::{AskedNode, read_path},
    reader::{Cx, Table, Value},
    vrrp::KeyFile,
};

/// More boxes than that are a tier behind a router.
const PEERS: usize = 8;
/// More keys than that no change of keys needs.
const KEYS: usize = 8;
const RATE_LEAST: u32 = 10;
const RATE_MOST: u32 = 200_000;

/// The section, and where each of its files of keys is named; None where the file has none, or a mistake.
pub(crate) fn read(
    cx: &mut Cx,
    document: &Table<'_>,
    node: &AskedNode,
    files: &mut Vec<KeyFile>,
) -> Option<Sync> {
    let section = document
        .get("sync")
        .and_then(|value| value.table(cx, &keys::SYNC))?;
    if node.node.xdp == XdpMode::Off && node.xdp.is_some() {
        cx.mistake(
            section.at,
            "[sync] tells other boxes of flows that XDP forwards, but node.xdp is \"off\"",
            "remove it, or let XDP be on",
        );
    }
    if node.node.hash_key.is_none() && !node.has_hash_key {
        cx.mistake(
            section.at,
            "[sync] needs node.hash_key: without the same one on all boxes each places flows in its own way",
            "draw one with `openssl rand -hex 16`, and write it on all boxes",
        );
    }
    let local = section
        .require(
            cx,
            "local",
            "write local = \"10.0.0.1\", this box's address towards the others",
        )
        .and_then(|value| read_end(cx, &value, Sync::PORT));
    let peers = section
        .require(
            cx,
            "peers",
            "write peers = [\"10.0.0.2\"], the other box's address",
        )
        .map(|value| read_peers(cx, &value, local));
    let known = section
        .require(
            cx,
            "keys",
            "write keys = [{ id = 1, file = \"/etc/weir/sync.key\" }], the same key on all boxes",
        )
        .map(|value| read_keys(cx, &value, files));
    let sign_with = match section.get("sign_with") {
        Some(value) => value.integer(cx, 0..=255).and_then(|id| {
            let id = u8::try_from(id).ok()?;
            if known
                .as_ref()
                .is_some_and(|known| known.iter().all(|(it, _)| *it != id))
            {
                value.mistake(
                    cx,
                    format!("is {id}, and `keys` has none with that id"),
                    "write the id of one of them",
                );
            }
            Some(id)
        }),
        None => {
            if known.as_ref().is_some_and(|known| known.len() > 1) {
                cx.mistake(
                    section.at,
                    "[sync] has several keys, and does not say which of them signs",
                    "write sign_with = 1, the id of one that all boxes have",
                );
            }
            known.as_ref().and_then(|known| known.first()).map(|(id, _)| *id)
        }
    };
    let rate = match section.get("rate") {
        Some(value) => value.integer(cx, RATE_LEAST..=RATE_MOST),
        None => Some(Sync::RATE),
    };
    Some(Sync {
        local: local?,
        peers: peers?,
        keys: known?,
        sign_with: sign_with?,
        rate: rate?,
    })
}

/// An address with or without a port.
fn read_end(cx: &mut Cx, value: &Value<'_>, port: u16) -> Option<SocketAddr> {
    let text = value.string(cx)?;
    let end = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => match parse_socket(text) {
            Ok(end) => end,
            Err(trouble) => {
                value.trouble(cx, trouble);
                return None;
            }
        },
    };
    let why = match end.ip().is_unspecified() {
        true => Some("is every address"),
        false => unusable(end.ip()),
    };
    if let Some(why) = why {
        value.mistake(
            cx,
            format!("is {}, which {why}", end.ip()),
            "write an address that one box alone has, on a link between the boxes",
        );
        return None;
    }
    Some(end)
}

fn read_peers(cx: &mut Cx, value: &Value<'_>, local: Option<SocketAddr>) -> Vec<SocketAddr> {
    let mut peers: Vec<SocketAddr> = Vec::new();
    let items = value.array(cx).unwrap_or_default();
    if items.is_empty() && value.elements() == Some(0) {
        value.mistake(cx, "is empty", "write the other box's address into it");
    }
    if items.len() > PEERS {
        value.mistake(
            cx,
            format!("has {} boxes, more than {PEERS}", items.len()),
            "put a tier of boxes behind a router (docs/scale-out.md)",
        );
    }
    let port = local.map_or(Sync::PORT, |local| local.port());
    for item in items {
        let Some(peer) = read_end(cx, &item, port) else {
            continue;
        };
        if local.is_some_and(|local| local.is_ipv4() != peer.is_ipv4()) {
            item.mistake(
                cx,
                format!("is {}, of another family than `local`", peer.ip()),
                "write addresses of one family",
            );
        } else if local.is_some_and(|local| local.ip() == peer.ip()) {
            item.mistake(
                cx,
                format!("is {}, which is this box's own", peer.ip()),
                "write the other box's address",
            );
        } else if peers.iter().any(|other| other.ip() == peer.ip()) {
            item.mistake(
                cx,
                format!("is {}, which stands there already", peer.ip()),
                "remove one",
            );
        }
        peers.push(peer);
    }
    peers
}

fn read_keys(cx: &mut Cx, value: &Value<'_>, files: &mut Vec<KeyFile>) -> Vec<(u8, PathBuf)> {
    let mut known: Vec<(u8, PathBuf)> = Vec::new();
    let items = value.array(cx).unwrap_or_default();
    if value.elements() == Some(0) {
        value.mistake(
            cx,
            "is empty",
            "write { id = 1, file = \"/etc/weir/sync.key\" } into it",
        );
    }
    if items.len() > KEYS {
        value.mistake(
            cx,
            format!("has {} keys, more than {KEYS}", items.len()),
            "remove those that no box signs with any more",
        );
    }
    for item in items {
        let Some(table) = item.table(cx, &keys::SYNC_KEY) else {
            continue;
        };
        let id = table
            .require(cx, "id", "write id = 1, the same for this key on all boxes")
            .and_then(|value| value.integer(cx, 0..=255));
        let file = table
            .require(cx, "file", "write file = \"/etc/weir/sync.key\"")
            .and_then(|value| {
                let path = read_path(cx, &value)?;
                files.push(KeyFile {
                    path: path.clone(),
                    at: value.at,
                    key: value.path.clone(),
                });
                Some(path)
            });
        let Some(id) = id.and_then(|id| u8::try_from(id).ok()) else {
            continue;
        };
        if known.iter().any(|(it, _)| *it == id) {
            item.mistake(
                cx,
                format!("has the id {id}, which another key has"),
                "give each key an id of its own",
            );
        }
        if let Some(file) = file {
            known.push((id, file));
        }
    }
    known
}
