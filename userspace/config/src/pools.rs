//! `[pools.NAME]`: backends and how one is chosen.
//!
//! Owns the keys, ranges and defaults of pools and backends. The check is `check.rs`, `source`, `tls` and `quic_id` have their
//! own files; what ties pools to services is `cross.rs`.

mod client;
pub(crate) mod http2;
pub(crate) mod original;
pub(crate) mod proxy;
pub(crate) mod quic;
pub(crate) mod source;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use weir_core::{
    ids::{BackendKey, PoolName, Shown},
    plan::{Backend, Balance, Pool},
};

use crate::{
    check::{self, CaFile},
    keys,
    net::{parse_backend, unusable},
    node::read_interface,
    pools::source::AskedSource,
    reader::{Cx, Table, Value},
    services::Files,
    tunables::Values,
    words::{plain, quoted},
};

/// Share of traffic of a backend that names none.
pub(crate) const DEFAULT_WEIGHT: u16 = 10;
/// Heaviest weight.
const MAX_WEIGHT: u32 = 256;
/// Longest name of a pool or a service.
const MAX_NAME: usize = 64;

/// What this version can't balance by.
const LATER_BALANCE: [&str; 7] = [
    "hash",
    "peak-ewma",
    "ewma",
    "random",
    "source",
    "consistent-hash",
    "power-of-two",
];

/// A pool as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedPool {
    pub(crate) pool: Pool,
    /// Where each backend's address stands; as long as `pool.backends`.
    pub(crate) backends_at: Vec<usize>,
    /// Whether all backends could be read: only then anything is concluded from them.
    pub(crate) complete: bool,
    /// `source`. `pool.source` follows once it is known who uses the pool.
    pub(crate) source: Option<AskedSource>,
    /// Whether `source` is written, be it wrong.
    pub(crate) has_source: bool,
    /// Where `source` stands, if it is the client.
    pub(crate) client_at: Option<usize>,
    /// Keys that concern the relay alone, and where they stand.
    pub(crate) relay_keys: Vec<(String, usize)>,
    /// Where `connections.idle_min` stands.
    pub(crate) idle_min_at: Option<usize>,
}

/// All pools of a file.
#[derive(Debug)]
pub(crate) struct AskedPools {
    /// Those that could be read, in file order.
    pub(crate) pools: Vec<AskedPool>,
    /// Names of those that could not.
    pub(crate) unread: Vec<String>,
    /// Whether all names are known: only then a pool that is not there is missed.
    pub(crate) complete: bool,
}

impl AskedPools {
    /// Bytes of the QUIC server ids of each pool whose backends have them.
    pub(crate) fn quic_lengths(&self) -> BTreeMap<String, u8> {
        let len = |asked: &AskedPool| Some(asked.pool.backends.first()?.quic_id?.len);
        let pools = self.pools.iter();
        pools
            .filter_map(|asked| Some((asked.pool.name.as_str().to_owned(), len(asked)?)))
            .collect()
    }
}

/// All pools, the files of certificates that their checks name, and those that TLS with them does.
pub(crate) fn read_pools(
    cx: &mut Cx,
    document: &Table<'_>,
    defaults: &Values,
    ca_files: &mut Vec<CaFile>,
    files: &mut Files<'_>,
) -> AskedPools {
    let mut asked = AskedPools {
        pools: Vec::new(),
        unread: Vec::new(),
        complete: !document.meant("pools"),
    };
    let Some(value) = document.get("pools") else {
        return asked;
    };
    let Some(pools) = value.names(cx) else {
        asked.complete = false;
        return asked;
    };
    for (name, value) in pools.entries() {
        let good = read_name(cx, "pool", name, &value);
        let pool = read_pool(
            cx,
            good.as_ref().unwrap_or_else(|shown| shown),
            &value,
            defaults,
            ca_files,
            files,
        );
        match (good, pool) {
            (Ok(_), Some(pool)) => asked.pools.push(pool),
            (Ok(_) | Err(_), _) => asked.unread.push(name.to_owned()),
        }
    }
    asked
}

/// The name, if it can be typed as `POOL/ADDRESS` and stand in a metric's label. Else a mistake, and what the name is
/// called in further messages.
pub(crate) fn read_name(cx: &mut Cx, kind: &str, name: &str, value: &Value<'_>) -> Result<String, String> {
    if is_name(name) {
        return Ok(name.to_owned());
    }
    cx.mistake(
        value.key_at,
        format!("{} can't be the name of a {kind}", quoted(name)),
        format!(
            "write 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, a letter or digit first"
        ),
    );
    Err(plain(name))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn read_pool(
    cx: &mut Cx,
    name: &str,
    value: &Value<'_>,
    defaults: &Values,
    ca_files: &mut Vec<CaFile>,
    files: &mut Files<'_>,
) -> Option<AskedPool> {
    let table = value.table(cx, &keys::POOL)?;
    let name = PoolName::new(name);
    let balance = table.get("balance").and_then(|value| {
        let words = [
            ("round-robin", Balance::RoundRobin),
            ("least-connections", Balance::LeastConnections),
        ];
        value.choice(cx, &words, &LATER_BALANCE)
    });
    let (connections, retries) = upstream::read(cx, &table, defaults);
    let idle_min = table.get("connections").and_then(|value| value.peek("idle_min"));
    let tls = tls::read(cx, &table, files);
    let (protocol, http2) = http2::read(cx, &table);
    let proxy = proxy::read(cx, &table, protocol);
    let word = table.get("source").filter(|value| value.as_string().is_some());
    let client_source = { word.as_ref() }.and_then(|value| client::read(cx, &table, value, protocol));
    let word = word.filter(|_| client_source.is_some());
    let sections = [
        "connections",
        "retries",
        "protocol",
        "http2",
        "tls",
        "proxy_protocol",
        "proxy_tlvs",
        "interface",
    ]
    .into_iter()
    .filter_map(|key| table.get(key));
    let mut asked = AskedPool {
        pool: Pool {
            name: name.clone(),
            balance: balance.unwrap_or(Balance::RoundRobin),
            backends: Vec::new(),
            check: None,
            source: None,
            connections,
            retries,
            protocol,
            http2,
            tls: tls.map(Box::new),
            proxy,
            client_source,
            interface: read_interface(cx, &table),
        },
        backends_at: Vec::new(),
        complete: false,
        source: None,
        has_source: word.is_none() && (table.get("source").is_some() || table.meant("source")),
        client_at: word.as_ref().map(|value| value.at),
        relay_keys: { sections.chain(word) }
            .map(|value| (value.path, value.key_at))
            .collect(),
        idle_min_at: idle_min.map(|value| value.at),
    };
    if asked.pool.is_original_destination() {
        original::complete(cx, &table, &mut asked);
        return Some(asked);
    }
    let mend = "write backends = [{ address = \"10.0.0.11:8080\" }]";
    if let Some(value) = table.require(cx, "backends", mend)
        && let Some(items) = value.array(cx)
    {
        if items.is_empty() {
            value.mistake(cx, "is empty", mend);
        }
        read_backends(cx, &name, items, &mut asked);
        if asked.complete {
            check_weights(cx, &value, &asked.pool.backends);
            quic::check(cx, &asked);
        }
    }
    let addresses = asked.pool.backends.iter().map(|b| b.key.address);
    let portless = { addresses }.find(|address| address.port() == 0);
    let of_pool = check::OfPool {
        protocol,
        proxy,
        tls: asked.pool.tls.clone(),
    };
    asked.pool.check = table
        .get("check")
        .and_then(|value| check::read(cx, &value, defaults, ca_files, portless, &of_pool));
    asked.source = { table.get("source") }
        .filter(|value| value.as_string().is_none())
        .and_then(|value| source::read(cx, &value));
    Some(asked)
}

fn read_backends(cx: &mut Cx, pool: &PoolName, items: Vec<Value<'_>>, asked: &mut AskedPool) {
    let mut addresses: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut names: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    asked.complete = !items.is_empty();
    for item in items {
        if let Some(value) = item.peek("max_connections") {
            asked.relay_keys.push((value.path, value.key_at));
        }
        let Some((backend, at, name_at)) = read_backend(cx, pool, &item) else {
            asked.complete = false;
            continue;
        };
        let mut once = true;
        match addresses.entry(backend.key.address) {
            Entry::Vacant(vacant) => {
                vacant.insert(at);
            }
            Entry::Occupied(first) => {
                let line = cx.line(*first.get());
                cx.mistake(
                    at,
                    format!(
                        "{} is in pool `{pool}` twice (first in line {line})",
                        Shown(backend.key.address)
                    ),
                    "remove one; a larger share of traffic is `weight`",
                );
                once = false;
            }
        }
        if once {
            match names.entry(backend.name.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(name_at);
                }
                Entry::Occupied(first) => {
                    let line = cx.line(*first.get());
                    cx.mistake(
                        name_at,
                        format!(
                            "two backends of pool `{pool}` are named `{}` (the other in line {line})",
                            backend.name
                        ),
                        "name them differently",
                    );
                    once = false;
                }
            }
        }
        asked.complete &= once;
        asked.pool.backends.push(backend);
        asked.backends_at.push(at);
    }
}

/// The backend, where its address stands, and where its name does.
fn read_backend(cx: &mut Cx, pool: &PoolName, item: &Value<'_>) -> Option<(Backend, usize, usize)> {
    if let Some(text) = item.as_string() {
        item.mistake(
            cx,
            "has a string for a backend",
            format!("write {{ address = \"{}\" }}", plain(text)),
        );
        return None;
    }
    if !item.is_table() {
        item.mistake(
            cx,
            "has a backend that is no table",
            "write { address = \"10.0.0.11:8080\" }",
        );
        return None;
    }
    let table = item.table(cx, &keys::BACKEND)?;
    let weight = match table.get("weight") {
        None => Some(DEFAULT_WEIGHT),
        Some(value) => value
            .integer(cx, 0..=MAX_WEIGHT)
            .and_then(|n| u16::try_from(n).ok()),
    };
    let backup = match table.get("backup") {
        None => Some(false),
        Some(value) => value.boolean(cx),
    };
    let max_connections = table
        .get("max_connections")
        .map(|value| value.integer(cx, 1..=upstream::MAX_CONNECTIONS));
    let name_value = table.get("name");
    let name = name_value.as_ref().map(|value| {
        let name = value.string(cx)?;
        let good = is_name(name);
        if !good {
            value.mistake(
                cx,
                format!("is {}", quoted(name)),
                format!("write 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, a letter or digit first"),
            );
        }
        good.then_some(name)
    });
    let Some(value) = table.get("address") else {
        if !table.meant("address") {
            let what = format!("a backend of pool `{pool}` has no `address`");
            cx.mistake(item.at, what, "write address = \"10.0.0.11:8080\"");
        }
        return None;
    };
    let address = read_address(cx, &value)?;
    let quic_id = table.get("quic_id").map(|value| quic::read(cx, &value));
    let name_at = name_value.map_or(value.at, |value| value.at);
    let name: Arc<str> = match name {
        None => Shown(address).to_string().into(),
        Some(name) => name?.into(),
    };
    let key = BackendKey {
        pool: pool.clone(),
        address,
    };
    Some((
        Backend {
            key,
            name,
            weight: weight?,
            backup: backup?,
            max_connections: match max_connections {
                None => None,
                Some(max) => Some(max?),
            },
            quic_id: match quic_id {
                None => None,
                Some(id) => Some(id?),
            },
        },
        value.at,
        name_at,
    ))
}

fn read_address(cx: &mut Cx, value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.string(cx)?;
    let address = match parse_backend(text) {
        Ok(address) => address,
        Err(trouble) => {
            value.trouble(cx, trouble);
            return None;
        }
    };
    if address.ip().is_unspecified() {
        value.mistake(
            cx,
            format!("has {}, which is every address and none", address.ip()),
            "write the backend's own address; 127.0.0.1 or [::1] for this box",
        );
        return None;
    }
    if let Some(why) = unusable(address.ip()) {
        let mend = match address.ip().to_canonical() {
            canonical if canonical != address.ip() => {
                format!("write {}", Shown(SocketAddr::new(canonical, address.port())))
            }
            _ => "write the backend's own, global address".into(),
        };
        value.mistake(cx, format!("has {}, which {why}", address.ip()), mend);
        return None;
    }
    Some(address)
}

fn check_weights(cx: &mut Cx, value: &Value<'_>, backends: &[Backend]) {
    if backends.iter().all(|b| b.backup) {
        value.mistake(
            cx,
            "has nothing but backups",
            "remove `backup` from those that serve ordinarily",
        );
    } else if backends.iter().filter(|b| !b.backup).all(|b| b.weight == 0) {
        value.mistake(
            cx,
            "gives weight 0 to every backend that is no backup",
            "give one a weight; `weir backend drain` takes a backend out for a while",
        );
    }
}
