//! `[pools.NAME.source]`: the addresses and ports that backends see, of `full-nat` and of the relay.
//!
//! Owns the keys and their ranges. What ties them to other pools and to services, and which plane gets which ports, is
//! `cross/sources.rs`.

use std::{collections::BTreeMap, net::IpAddr};

use weir_core::plan::PortRange;

use crate::{
    keys,
    net::{parse_ports, unusable},
    reader::{Cx, Table, Value},
    words::quoted,
};

/// First of the ports that may be given: those below belong to services.
const LEAST_PORT: u16 = 1024;
/// Ports of `full-nat` by default: those that the kernel, by its own default, gives to no connection of the box.
pub(crate) const DEFAULT_PORTS: PortRange = PortRange {
    first: LEAST_PORT,
    last: 32_767,
};

/// A source as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedSource {
    pub(crate) addresses: Vec<IpAddr>,
    /// Where each address stands; as long as `addresses`.
    pub(crate) addresses_at: Vec<usize>,
    /// `ports`, and where it stands.
    pub(crate) ports: Option<(Vec<PortRange>, usize)>,
    /// `relay_ports`, and where it stands.
    pub(crate) relay_ports: Option<(Vec<PortRange>, usize)>,
    /// Whether `close` is `reset`, and where it stands.
    pub(crate) close: Option<(bool, usize)>,
    /// Where the section stands.
    pub(crate) at: usize,
    /// Whether all of it could be read: only then anything is concluded from it.
    pub(crate) complete: bool,
}

/// None if it is no table.
pub(crate) fn read(cx: &mut Cx, value: &Value<'_>) -> Option<AskedSource> {
    let table = value.table(cx, &keys::SOURCE)?;
    let mut asked = AskedSource {
        addresses: Vec::new(),
        addresses_at: Vec::new(),
        ports: None,
        relay_ports: None,
        close: None,
        at: value.key_at,
        complete: true,
    };
    let mend = "write addresses = [\"10.0.0.5\"], free addresses of the backends' side";
    let addresses = table.require(cx, "addresses", mend);
    let items = addresses.as_ref().and_then(|value| value.array(cx));
    asked.complete &= items.is_some();
    if let (Some(value), Some(items)) = (&addresses, &items) {
        if items.is_empty() {
            value.mistake(cx, "is empty", mend);
        }
        asked.complete &= read_addresses(cx, items, &mut asked) && !items.is_empty();
    }
    (asked.ports, asked.complete) = read_ports(cx, &table, "ports", asked.complete);
    (asked.relay_ports, asked.complete) = read_ports(cx, &table, "relay_ports", asked.complete);
    if let Some(value) = table.get("close") {
        let reset = value.choice(cx, &[("fin", false), ("reset", true)], &[]);
        asked.complete &= reset.is_some();
        asked.close = reset.map(|reset| (reset, value.key_at));
    }
    Some(asked)
}

/// Whether all of them are good.
fn read_addresses(cx: &mut Cx, items: &[Value<'_>], asked: &mut AskedSource) -> bool {
    let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut good = true;
    for item in items {
        let Some(address) = read_address(cx, item) else {
            good = false;
            continue;
        };
        if let Some(&first) = seen.get(&address) {
            let line = cx.line(first);
            item.mistake(
                cx,
                format!("has {address} twice (first in line {line})"),
                "remove one",
            );
            good = false;
            continue;
        }
        seen.insert(address, item.at);
        asked.addresses.push(address);
        asked.addresses_at.push(item.at);
    }
    good
}

fn read_address(cx: &mut Cx, item: &Value<'_>) -> Option<IpAddr> {
    let text = item.string(cx)?;
    let Ok(address) = text.parse::<IpAddr>() else {
        item.mistake(
            cx,
            format!("has {}, which is no address", quoted(text)),
            "write one without port or prefix, as in 10.0.0.5 or 2001:db8::5",
        );
        return None;
    };
    let why = if address.is_unspecified() {
        Some("is every address and none")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else {
        unusable(address)
    };
    if let Some(why) = why {
        item.mistake(
            cx,
            format!("has {address}, which {why}"),
            "write a free address that backends can answer to",
        );
        return None;
    }
    Some(address)
}

/// Ports by their key, and whether all is good so far.
fn read_ports(
    cx: &mut Cx,
    table: &Table<'_>,
    key: &str,
    complete: bool,
) -> (Option<(Vec<PortRange>, usize)>, bool) {
    let Some(value) = table.get(key) else {
        return (None, complete);
    };
    // One range stands alone, several in an array.
    let items = match value.elements() {
        None => vec![value.clone()],
        Some(_) => value.array(cx).unwrap_or_default(),
    };
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty",
            "write a range, as in \"20000-29999\", or leave it out",
        );
        return (None, false);
    }
    let mut ranges: Vec<PortRange> = Vec::new();
    let mut good = true;
    for item in &items {
        let Some(range) = read_range(cx, item) else {
            good = false;
            continue;
        };
        if let Some(other) = ranges.iter().find(|other| other.overlaps(range)) {
            item.mistake(
                cx,
                format!("has {range}, which overlaps {other}"),
                "write ranges that have no port in common",
            );
            good = false;
            continue;
        }
        ranges.push(range);
    }
    ranges.sort_unstable();
    (Some((ranges, value.at)), complete && good)
}

fn read_range(cx: &mut Cx, item: &Value<'_>) -> Option<PortRange> {
    match parse_ports(item.string(cx)?) {
        Ok((first, last)) if first >= LEAST_PORT => return Some(PortRange { first, last }),
        Ok((first, _)) => item.mistake(
            cx,
            format!("begins with {first}, and ports below {LEAST_PORT} belong to services"),
            format!("write \"{DEFAULT_PORTS}\", for example"),
        ),
        Err(trouble) => item.trouble(cx, trouble),
    }
    None
}
