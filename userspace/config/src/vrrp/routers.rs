//! `vrrp.NAME.routers`: a number on a link, and the addresses of either family that go with it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_core::{
    ids::Interface,
    plan::VirtualRouter,
    vrrp::{
        Centis, Family, Vrid,
        accept::V2,
        wire::{Checksum, V2_AUTH},
    },
};

use super::AskedRouter;
use crate::{
    keys,
    net::unusable,
    reader::{Cx, Value},
    words::{plain, quoted},
};

/// What an advert has room for.
const ADDRESSES: usize = 255;

/// An entry makes one router for each family that it has addresses of. None if anything of it is wrong. `interval`: the
/// group's, if it could be read. `has_shares`: the group has, and their numbers are its routers'.
pub(super) fn read(
    cx: &mut Cx,
    item: &Value<'_>,
    interval: Option<Centis>,
    has_shares: bool,
) -> Option<Vec<AskedRouter>> {
    let table = item.table(cx, &keys::VRRP_ROUTER)?;
    let interface = table
        .require(
            cx,
            "interface",
            "name the interface whose link it is on, as in interface = \"eth0\"",
        )
        .and_then(|value| {
            let name = value.string(cx)?;
            if Interface::new(name).is_none() {
                value.mistake(
                    cx,
                    format!("is {}, which is no interface's name", quoted(name)),
                    "write it as `ip link` shows it",
                );
                return None;
            }
            Some((Arc::<str>::from(name), value.at))
        });
    let id = match (has_shares, table.get("id")) {
        (true, Some(value)) => {
            value.mistake(
                cx,
                "stands beside shares, which have numbers of their own",
                "remove it",
            );
            None
        }
        // Each share has its own.
        (true, None) => Vrid::new(1),
        (false, _) => table
            .require(cx, "id", "write its number, the same on all boxes, as in id = 51")
            .and_then(|value| value.integer(cx, 1..=255))
            .and_then(|id| Vrid::new(u8::try_from(id).ok()?)),
    };
    let addresses = table
        .require(
            cx,
            "addresses",
            "write the addresses that it has, as in addresses = [\"192.0.2.10/24\"]",
        )
        .and_then(|value| read_addresses(cx, &value));
    let sources = match table.get("sources") {
        None => Some(Vec::new()),
        Some(value) => read_plain(cx, &value),
    };
    let peers_value = table.get("peers");
    let peers = match &peers_value {
        None => Some(Vec::new()),
        Some(value) => read_plain(cx, value),
    };
    let checksum = table.get("checksum").map(|value| {
        let words = [("rfc9568", Checksum::Rfc9568), ("rfc5798", Checksum::Rfc5798)];
        (value.choice(cx, &words, &[]), value)
    });
    let v2_value = table.get("version2");
    let v2 = match &v2_value {
        None => Some(V2::Refused),
        Some(value) => read_version2(cx, value),
    };
    let (Some((interface, interface_at)), Some(id), Some(addresses)) = (interface, id, addresses) else {
        return None;
    };
    let (sources, peers, v2) = (sources?, peers?, v2?);
    let has = |family| addresses.iter().any(|((ip, _), _)| Family::of(*ip) == family);
    let mut good = true;
    let stray = |cx: &mut Cx, at: usize, key: &str, ip: IpAddr| {
        let is_stray = !has(Family::of(ip));
        if is_stray {
            cx.mistake(
                at,
                format!(
                    "{}.{key} has {ip}, but addresses has none of its family",
                    item.path
                ),
                "remove it, or add such an address",
            );
        }
        is_stray
    };
    for (ip, at) in &sources {
        good &= !stray(cx, *at, "sources", *ip);
    }
    for (ip, at) in &peers {
        good &= !stray(cx, *at, "peers", *ip);
        if let Some((own, _)) = sources.iter().find(|(own, _)| own == ip) {
            cx.mistake(
                *at,
                format!("{}.peers has {own}, which is this box's own source", item.path),
                "write the addresses of the other boxes",
            );
            good = false;
        }
    }
    if let Some((choice, value)) = &checksum {
        good &= choice.is_some();
        if !has(Family::V4) {
            value.mistake(cx, "is for IPv4 alone: over IPv6 there is one kind", "remove it");
            good = false;
        }
    }
    // Such a router takes no adverts of another interval than its own, and counts in seconds.
    if let (V2::Taken(_), Some(value), Some(interval)) = (v2, &v2_value, interval)
        && interval.get() % 100 != 0
    {
        value.mistake(
            cx,
            format!(
                "is on, but the group's interval is {}ms, and version 2 counts in seconds",
                interval.duration().as_millis()
            ),
            "write interval = \"1s\" until the last router of version 2 is gone",
        );
        good = false;
    }
    let mut routers = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family = |(ip, at): &(IpAddr, usize)| (Family::of(*ip) == family).then_some((*ip, *at));
        let own: Vec<_> = sources.iter().filter_map(of_family).collect();
        if let [_, (second, at), ..] = own.as_slice() {
            cx.mistake(
                *at,
                format!("{}.sources has {second}, a second one of its family", item.path),
                "write one address of each family",
            );
            good = false;
        }
        let theirs: Vec<IpAddr> = peers.iter().filter_map(of_family).map(|(ip, _)| ip).collect();
        let of_this: Vec<_> = addresses
            .iter()
            .filter(|((ip, _), _)| Family::of(*ip) == family)
            .collect();
        let Some((_, first_at)) = of_this.first() else {
            continue;
        };
        if good && theirs.is_empty() && !peers.is_empty() {
            let name = family_name(family);
            cx.mistake(
                *first_at,
                format!(
                    "{}.addresses has {name}, but peers has no address of it",
                    item.path
                ),
                format!("write the other boxes' {name} addresses into peers as well, or no peers at all"),
            );
            good = false;
        }
        if of_this.len() > ADDRESSES {
            cx.mistake(
                *first_at,
                format!(
                    "{}.addresses has more than {ADDRESSES} of {}",
                    item.path,
                    family_name(family)
                ),
                "write a further router with a number of its own",
            );
            good = false;
        }
        let checksum = checksum.as_ref().and_then(|(choice, _)| *choice);
        routers.push(AskedRouter {
            at: item.at,
            interface_at,
            addresses_at: of_this.iter().map(|(_, at)| *at).collect(),
            router: VirtualRouter {
                id,
                interface: Arc::clone(&interface),
                addresses: of_this.iter().map(|(address, _)| *address).collect(),
                source: own.first().map(|(ip, _)| *ip),
                peers: theirs,
                checksum: checksum.unwrap_or(Checksum::Rfc9568),
                v2,
            },
        });
    }
    good.then_some(routers)
}

/// Whether its adverts may be of version 2.
pub(super) const fn takes_version2(router: &VirtualRouter) -> bool {
    matches!(router.v2, V2::Taken(_))
}

pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

type Placed<T> = Vec<(T, usize)>;

/// Addresses with the lengths of their prefixes, no twice. None if one is wrong.
fn read_addresses(cx: &mut Cx, value: &Value<'_>) -> Option<Placed<(IpAddr, u8)>> {
    let items = value.array(cx)?;
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty",
            "write an address into it, as in \"192.0.2.10/24\"",
        );
        return None;
    }
    let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut all = Some(Vec::new());
    for item in items {
        let address = read_address(cx, &item).filter(|(ip, _)| {
            let first = seen.insert(*ip, item.at);
            if let Some(first) = first {
                let line = cx.line(first);
                item.mistake(cx, format!("has {ip} twice (first in line {line})"), "remove one");
            }
            first.is_none()
        });
        match (address, &mut all) {
            (Some(address), Some(list)) => list.push((address, item.at)),
            (Some(_), None) => {}
            (None, _) => all = None,
        }
    }
    all
}

fn read_address(cx: &mut Cx, item: &Value<'_>) -> Option<(IpAddr, u8)> {
    let text = item.string(cx)?;
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        item.mistake(
            cx,
            format!("has {}, which is no address", quoted(text)),
            "write one with the length of its network's prefix, as in 192.0.2.10/24 or 2001:db8::10/64",
        );
        return None;
    };
    let width: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix else {
        item.mistake(
            cx,
            format!("has {ip}, without the length of its prefix"),
            format!(
                "write {ip}/{} if its network is on that link, or {ip}/{width}",
                if ip.is_ipv4() { 24 } else { 64 }
            ),
        );
        return None;
    };
    let good = prefix
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| prefix.parse::<u8>().ok())
        .flatten();
    let Some(prefix) = good.filter(|prefix| (1..=width).contains(prefix)) else {
        item.mistake(
            cx,
            format!("has {} for the length of a prefix", quoted(prefix)),
            format!(
                "write a number from 1 to {width}, as in {}/{width}",
                plain(address)
            ),
        );
        return None;
    };
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let why = match unusable(ip) {
        _ if ip.is_loopback() => Some("is a loopback address"),
        _ if ip.is_unspecified() => Some("is every address"),
        // Hosts may have it for their router.
        Some(_) if link_local => None,
        why => why,
    };
    if let Some(why) = why {
        item.mistake(
            cx,
            format!("has {ip}, which {why}"),
            "write an address that hosts on the link, or behind their routers, send to",
        );
        return None;
    }
    Some((ip, prefix))
}

/// Addresses of boxes, no twice. None if one is wrong.
fn read_plain(cx: &mut Cx, value: &Value<'_>) -> Option<Placed<IpAddr>> {
    let mut all: Option<Placed<IpAddr>> = Some(Vec::new());
    for item in value.array(cx)? {
        let ip = item.string(cx).and_then(|text| match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() => {
                item.mistake(
                    cx,
                    format!("has {ip}, which no other box can be reached by"),
                    "write an address that a box has on that link",
                );
                None
            }
            Ok(ip) => Some(ip),
            Err(_) => {
                item.mistake(
                    cx,
                    format!("has {}, which is no address", quoted(text)),
                    "write addresses without prefix, as in 192.0.2.2 or fe80::2",
                );
                None
            }
        });
        match (ip, &mut all) {
            (Some(ip), Some(list)) if list.iter().any(|(before, _)| *before == ip) => {
                item.mistake(cx, format!("has {ip} twice"), "remove one");
                all = None;
            }
            (Some(ip), Some(list)) => list.push((ip, item.at)),
            (Some(_), None) => {}
            (None, _) => all = None,
        }
    }
    all
}

fn read_version2(cx: &mut Cx, value: &Value<'_>) -> Option<V2> {
    if !value.is_table() {
        return value.boolean(cx).map(|taken| match taken {
            true => V2::Taken(None),
            false => V2::Refused,
        });
    }
    let table = value.table(cx, &keys::VRRP_VERSION2)?;
    let password = table.require(
        cx,
        "password",
        "write version2 = true for routers without a password",
    )?;
    let text = password.string(cx)?;
    let mut filled = [0; V2_AUTH];
    if text.is_empty() || text.len() > V2_AUTH {
        // It is not repeated: it is meant to be a secret.
        password.mistake(
            cx,
            format!("has {} bytes", text.len()),
            format!("write 1 to {V2_AUTH}, as of the other routers (keepalived: auth_pass)"),
        );
        return None;
    }
    for (place, byte) in filled.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    Some(V2::Taken(Some(filled)))
}
