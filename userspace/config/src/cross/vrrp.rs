//! Virtual routers against each other, the node, services and pools.

use std::{collections::BTreeMap, net::IpAddr};

use weir_core::plan::{DemoteOn, DemoteWhat, XdpMode};

use super::{Asked, PoolsByName, unknown_pool};
use crate::{
    reader::Cx,
    vrrp::{AskedGroup, routers::family_name},
    words::{plain, quoted},
};

/// Groups that there may be: as many as the kernel's programs keep leases for.
const GROUPS: usize = 64;

/// Bytes of the name of a group with shares: a name has 64, and theirs say a slash and a number more.
const SHARED_NAME: usize = 60;

pub(super) fn check(cx: &mut Cx, asked: &Asked<'_, '_>, pools: &PoolsByName<'_>) {
    let groups = &asked.vrrp.groups;
    let Some(first) = groups.first() else {
        check_own(cx, asked);
        return;
    };
    if asked.node.xdp == Some(XdpMode::Off) {
        cx.mistake(
            first.at,
            format!("[vrrp.{}] needs XDP, but node.xdp is \"off\"", first.name),
            "write xdp = \"native\" or \"generic\" under [node], and start weir as root",
        );
        return;
    }
    let mut count = 0;
    for group in groups {
        count += group.shares.len().max(1);
        if count > GROUPS {
            cx.mistake(
                group.at,
                format!(
                    "[vrrp.{}] makes {count} groups and shares, more than the {GROUPS} there may be",
                    group.name
                ),
                "have routers that go together be one group, or write fewer shares",
            );
            break;
        }
    }
    check_shares(cx, asked);
    check_routers(cx, groups);
    check_interfaces(cx, asked);
    let owners = check_addresses(cx, groups);
    check_sources(cx, asked, &owners);
    check_covered(cx, asked, &owners);
    for group in groups {
        for (on, at) in group.demote_on.iter().flatten() {
            check_demotion(cx, asked, pools, group, on, *at);
        }
    }
    check_own(cx, asked);
}

/// Boxes that deal clients among themselves must do it alike.
fn check_shares(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let Some(group) = { asked.vrrp.groups.iter() }.find(|group| !group.shares.is_empty()) else {
        return;
    };
    for group in { asked.vrrp.groups.iter() }.filter(|group| !group.shares.is_empty()) {
        if group.name.as_str().len() > SHARED_NAME {
            cx.mistake(
                group.at,
                format!(
                    "[vrrp.{}] has shares, which are called after it, and its name has more than {SHARED_NAME} bytes",
                    group.name
                ),
                "give it a shorter one",
            );
        }
    }
    if asked.node.node.hash_key.is_none() && !asked.node.has_hash_key {
        cx.mistake(
            group.at,
            format!(
                "[vrrp.{}] has shares, but there is no node.hash_key: without the same one on all boxes, some clients would have two boxes, and others none",
                group.name
            ),
            "draw one with `openssl rand -hex 16`, and write it on all boxes",
        );
    }
}

/// A number names one router on a link, of a family.
fn check_routers(cx: &mut Cx, groups: &[AskedGroup]) {
    let mut known = BTreeMap::new();
    for group in groups {
        for asked in &group.routers {
            let it = &asked.router;
            let own = [(it.id, asked.at)];
            let dealt: Vec<_> = { group.shares.iter() }
                .map(|share| (share.id, share.at))
                .collect();
            for &(id, at) in if dealt.is_empty() { &own[..] } else { &dealt } {
                let key = (it.interface.clone(), id, it.family());
                if let Some((other, first)) = known.insert(key, (&group.name, at)) {
                    let line = cx.line(first);
                    let (name, interface) = (&group.name, plain(&it.interface));
                    let (kind, family) = (
                        if dealt.is_empty() { "routers" } else { "shares" },
                        family_name(it.family()),
                    );
                    cx.mistake(
                        at,
                        format!(
                            "vrrp.{name}.{kind} has number {id} on {interface} over {family}, as vrrp.{other} in line {line}"
                        ),
                        "give one of them another id, or put the addresses of both into one",
                    );
                }
            }
        }
    }
}

/// Where XDP is not attached it could not silence a box that lost its lease.
fn check_interfaces(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let known = &asked.node.node.interfaces;
    if known.is_empty() {
        return;
    }
    let mut told = Vec::new();
    for group in &asked.vrrp.groups {
        for router in &group.routers {
            let interface = &*router.router.interface;
            if known.iter().any(|name| name == interface) || told.contains(&router.interface_at) {
                continue;
            }
            // One entry makes a router for each family.
            told.push(router.interface_at);
            let mend = match cx.guess(interface, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "add it there: XDP silences a box that may not answer any more".into(),
            };
            cx.mistake(
                router.interface_at,
                format!(
                    "vrrp.{}.routers.interface is {}, which is not among node.interfaces",
                    group.name,
                    quoted(interface)
                ),
                mend,
            );
        }
    }
}

type Owners<'g> = BTreeMap<IpAddr, &'g AskedGroup>;

/// An address is one router's.
fn check_addresses<'g>(cx: &mut Cx, groups: &'g [AskedGroup]) -> Owners<'g> {
    let mut owners: BTreeMap<IpAddr, (&AskedGroup, usize)> = BTreeMap::new();
    for group in groups {
        for router in &group.routers {
            for ((address, _), at) in router.router.addresses.iter().zip(&router.addresses_at) {
                if let Some((other, first)) = owners.insert(*address, (group, *at)) {
                    let line = cx.line(first);
                    cx.mistake(
                        *at,
                        format!(
                            "vrrp.{}.routers.addresses has {address}, as vrrp.{} in line {line}",
                            group.name, other.name
                        ),
                        "remove it from one of them",
                    );
                }
            }
        }
    }
    owners
        .into_iter()
        .map(|(address, (group, _))| (address, group))
        .collect()
}

/// What a box uses of its own can't come and go with a virtual router.
fn check_sources(cx: &mut Cx, asked: &Asked<'_, '_>, owners: &Owners<'_>) {
    for pool in &asked.pools.pools {
        let Some(source) = &pool.source else { continue };
        for (address, at) in source.addresses.iter().zip(&source.addresses_at) {
            let Some(group) = owners.get(address) else {
                continue;
            };
            cx.mistake(
                *at,
                format!(
                    "pools.{}.source has {address}, an address of vrrp.{}, which this box does not always have",
                    pool.pool.name, group.name
                ),
                "write addresses of this box alone, others on each box",
            );
        }
    }
    if let Some(http) = asked.admin.admin.http
        && let Some(group) = owners.get(&http.ip())
    {
        cx.mistake(
            asked.admin.http_at.unwrap_or(0),
            format!(
                "admin.http is {http}, an address of vrrp.{}, which this box does not always have",
                group.name
            ),
            "write an address of this box alone",
        );
    }
    for group in &asked.vrrp.groups {
        for router in &group.routers {
            let Some(own) = router.router.source else { continue };
            if owners.contains_key(&own) {
                cx.mistake(
                    router.at,
                    format!(
                        "vrrp.{}.routers.sources has {own}, which is itself a virtual router's",
                        group.name
                    ),
                    "write the box's own address on that link",
                );
            }
        }
    }
}

/// Both boxes would have the address of a service at the same time.
fn check_covered(cx: &mut Cx, asked: &Asked<'_, '_>, owners: &Owners<'_>) {
    if !asked.vrrp.complete {
        return;
    }
    let sources = { asked.vrrp.groups.iter() }.flat_map(|group| &group.routers);
    let own: Vec<_> = sources
        .filter_map(|router| router.router.source)
        .chain(asked.node.node.own_addresses.iter().copied())
        .collect();
    for service in asked.services {
        for asked in service.listen.iter().filter(|asked| asked.listen.is_virtual()) {
            let address = asked.listen.addr;
            if owners.contains_key(&address) || own.contains(&address) {
                continue;
            }
            cx.mistake(
                asked.at,
                format!(
                    "services.{}.listen has {address}, which is no virtual router's: all boxes with this service would have it at once",
                    service.name
                ),
                format!(
                    "add it to the addresses of a router in [vrrp.NAME], or, if it is this box's alone, write own_addresses = [\"{address}\"] under [node]"
                ),
            );
        }
    }
}

fn check_demotion(
    cx: &mut Cx,
    asked: &Asked<'_, '_>,
    pools: &PoolsByName<'_>,
    group: &AskedGroup,
    on: &DemoteOn,
    at: usize,
) {
    match &on.what {
        DemoteWhat::Pool(name) => {
            let unread = asked.pools.unread.iter().any(|unread| unread == name.as_str());
            if !pools.contains_key(name.as_str()) && asked.pools.complete && !unread {
                let key = format!("vrrp.{}.demote_on.pool", group.name);
                unknown_pool(cx, &key, name.as_str(), at, pools);
            }
        }
        DemoteWhat::Service(name) => {
            let is_known = { asked.services.iter() }.any(|service| service.name == *name);
            if is_known || !asked.services_complete {
                return;
            }
            let known = asked.services.iter().map(|service| service.name.as_str());
            let mend = match cx.guess(name.as_str(), known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a service of this file".into(),
            };
            cx.mistake(
                at,
                format!(
                    "vrrp.{}.demote_on.service is {}, and there is no such service",
                    group.name,
                    quoted(name.as_str())
                ),
                mend,
            );
        }
        DemoteWhat::Link(_) | DemoteWhat::File(_) => {}
    }
}

/// What is this box's alone is no router's.
fn check_own(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let Some(at) = asked.node.own_addresses_at else {
        return;
    };
    if asked.vrrp.groups.is_empty() && asked.vrrp.complete {
        cx.mistake(
            at,
            "node.own_addresses says which addresses are no virtual router's, but there is no [vrrp.NAME]",
            "remove it: without virtual routers all addresses are this box's alone",
        );
    }
    for own in &asked.node.node.own_addresses {
        let owner = { asked.vrrp.groups.iter() }.find(|group| {
            let mut all = group.routers.iter().flat_map(|router| &router.router.addresses);
            all.any(|(address, _)| address == own)
        });
        if let Some(group) = owner {
            cx.mistake(
                at,
                format!("node.own_addresses has {own}, an address of vrrp.{}", group.name),
                "remove it from one of them",
            );
        }
    }
}
