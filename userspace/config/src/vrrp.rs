//! `[vrrp.NAME]`: groups of virtual routers.
//!
//! Owns their keys, ranges and defaults; those of single routers are `routers.rs`, those of the files of keys `secrets.rs`.
//! What ties them to services, interfaces and each other is `cross/vrrp.rs`.

pub(crate) mod routers;
mod shares;

use std::{path::PathBuf, sync::Arc, time::Duration};

use weir_core::{
    ids::{GroupName, Interface, PoolName, ServiceName},
    plan::{DemoteOn, DemoteWhat, GroupMac, VirtualRouter, VrrpAuthentication, VrrpGroup},
    vrrp::{
        Centis,
        auth::Mode,
        demotion::ELIGIBLE,
        machine::{Announce, Preempt},
    },
};

use self::shares::AskedShare;
use crate::{
    keys,
    node::read_path,
    pools::read_name,
    reader::{Cx, Table, Value},
    words::quoted,
};

/// The priority where the file is silent.
const PRIORITY: u8 = 100;
/// The interval where it is.
const INTERVAL: Duration = Duration::from_secs(1);
/// The lease where it is, and its range.
const LEASE: Duration = Duration::from_millis(100);
const LEASE_LEAST: Duration = Duration::from_millis(30);
const LEASE_MOST: Duration = Duration::from_secs(10);
/// How addresses are announced where it is.
const ANNOUNCE: Announce = Announce {
    count: 5,
    spacing: Duration::from_millis(200),
    refresh: None,
};
/// Longest wait of `preempt`.
const DELAY_MOST: Duration = Duration::from_secs(24 * 3600);
/// As carp's demotion counter.
const MOST: u32 = 255;

/// A group as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedGroup {
    pub(crate) name: GroupName,
    /// Where the section begins.
    pub(crate) at: usize,
    /// Its routers, each with where it stands, and where each of its addresses does.
    pub(crate) routers: Vec<AskedRouter>,
    /// What speaks against the box, and where it stands. None: the group's services, each by 1.
    pub(crate) demote_on: Option<Vec<(DemoteOn, usize)>>,
    pub(crate) key_files: Vec<KeyFile>,
    /// The link address that goes with its addresses.
    pub(crate) mac: GroupMac,
    /// Its shares, in order of their numbers. Empty: it has none.
    pub(crate) shares: Vec<AskedShare>,
    priority: u8,
    interval: Centis,
    preempt: Preempt,
    lease: Duration,
    announce: Announce,
    authentication: Option<VrrpAuthentication>,
}

/// A file of a key that signs adverts.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    /// Where it is named.
    pub(crate) at: usize,
    /// The name of that in messages.
    pub(crate) key: String,
}

/// A router, and where it stands.
#[derive(Debug)]
pub(crate) struct AskedRouter {
    pub(crate) router: VirtualRouter,
    /// Where its table begins.
    pub(crate) at: usize,
    /// Where its interface is named.
    pub(crate) interface_at: usize,
    /// Where each of its addresses stands.
    pub(crate) addresses_at: Vec<usize>,
}

/// All groups of a file.
#[derive(Debug, Default)]
pub(crate) struct AskedGroups {
    pub(crate) groups: Vec<AskedGroup>,
    /// Whether everything of all groups could be read: only then a service is missed in them.
    pub(crate) complete: bool,
}

impl AskedGroup {
    /// The group, or one for each share, if nothing is wrong with it. `services` are those that it has the addresses of.
    pub(crate) fn resolve(self, services: Vec<ServiceName>) -> Vec<VrrpGroup> {
        let by_itself = |name| DemoteOn {
            what: DemoteWhat::Service(name),
            by: 1,
        };
        let demote_on = match self.demote_on {
            Some(asked) => asked.into_iter().map(|(on, _)| on).collect(),
            None => services.into_iter().map(by_itself).collect(),
        };
        let whole = VrrpGroup {
            name: self.name,
            routers: self.routers.into_iter().map(|asked| asked.router).collect(),
            priority: self.priority,
            interval: self.interval,
            preempt: self.preempt,
            lease: self.lease,
            announce: self.announce,
            authentication: self.authentication,
            demote_on,
            mac: self.mac,
            share: None,
        };
        match self.shares.as_slice() {
            [] => vec![whole],
            shares => shares::deal(&whole, shares),
        }
    }
}

pub(crate) fn read_groups(cx: &mut Cx, document: &Table<'_>) -> AskedGroups {
    let mut asked = AskedGroups {
        groups: Vec::new(),
        complete: !document.meant("vrrp"),
    };
    let Some(value) = document.get("vrrp") else {
        return asked;
    };
    let Some(groups) = value.names(cx) else {
        asked.complete = false;
        return asked;
    };
    for (name, value) in groups.entries() {
        let good = read_name(cx, "group", name, &value);
        let group = read_group(cx, good.as_ref().unwrap_or_else(|shown| shown), &value);
        match (good, group) {
            (Ok(_), Some((group, complete))) => {
                asked.complete &= complete;
                asked.groups.push(group);
            }
            (Ok(_) | Err(_), _) => asked.complete = false,
        }
    }
    asked
}

/// A group, and whether all of its routers are as they were meant.
fn read_group(cx: &mut Cx, name: &str, value: &Value<'_>) -> Option<(AskedGroup, bool)> {
    let table = value.table(cx, &keys::VRRP)?;
    let priority = table.get("priority").and_then(|value| read_priority(cx, &value));
    let interval = table.get("interval").and_then(|value| read_interval(cx, &value));
    let preempt = table.get("preempt").and_then(|value| read_preempt(cx, &value));
    let lease = table
        .get("lease")
        .and_then(|value| value.duration(cx, LEASE_LEAST..=LEASE_MOST));
    let announce = table.get("announce").and_then(|value| read_announce(cx, &value));
    let interval_read = table.get("interval").is_none() || interval.is_some();
    let interval = interval.unwrap_or(const { centis(INTERVAL) });
    let mac = shares::read_mac(cx, &table);
    let has_shares = table.get("shares").is_some() || table.meant("shares");
    let shares = table
        .get("shares")
        .map(|value| shares::read(cx, &value, priority));
    let asked = table.require(
        cx,
        "routers",
        "write routers = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"] }]",
    );
    let mut complete = asked.is_some();
    let mut all = Vec::new();
    if let Some(value) = &asked {
        let items = value.array(cx);
        complete &= items.is_some();
        if items.as_ref().is_some_and(Vec::is_empty) {
            value.mistake(
                cx,
                "is empty",
                "write { interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"] } into it",
            );
            complete = false;
        }
        for item in items.unwrap_or_default() {
            match routers::read(cx, &item, interval_read.then_some(interval), has_shares) {
                Some(routers) => all.extend(routers),
                None => complete = false,
            }
        }
    }
    if has_shares {
        complete &= shares.as_ref().is_some_and(Option::is_some);
    }
    if let Some(mac) = mac {
        shares::check_mac(cx, name, &table, mac, has_shares);
    }
    let mut key_files = Vec::new();
    let authentication = table
        .get("authentication")
        .and_then(|value| read_authentication(cx, &value, &mut key_files));
    if let Some(VrrpAuthentication {
        mode: Mode::Enforce, ..
    }) = authentication
        && let Some(asked) = all.iter().find(|asked| routers::takes_version2(&asked.router))
    {
        cx.mistake(
            asked.at,
            format!("vrrp.{name} takes adverts of version 2, which can't be signed, but enforces signatures"),
            "write mode = \"permissive\" under its authentication, or no version2",
        );
    }
    let demote_on = table.get("demote_on").map(|value| read_demote_on(cx, &value));
    let group = AskedGroup {
        name: GroupName::new(name),
        at: table.at,
        routers: all,
        demote_on,
        key_files,
        mac: mac.unwrap_or_default(),
        shares: shares.flatten().unwrap_or_default(),
        priority: priority.unwrap_or(PRIORITY),
        interval,
        preempt: preempt.unwrap_or(Preempt::Never),
        lease: lease.unwrap_or(LEASE),
        announce: announce.unwrap_or(ANNOUNCE),
        authentication,
    };
    Some((group, complete))
}

/// Whole centiseconds of a constant.
const fn centis(duration: Duration) -> Centis {
    match Centis::new((duration.as_millis() / 10) as u16) {
        Some(centis) => centis,
        None => Centis::MAX,
    }
}

fn read_priority(cx: &mut Cx, value: &Value<'_>) -> Option<u8> {
    let priority = u8::try_from(value.integer(cx, 1..=255)?).ok()?;
    if priority < ELIGIBLE {
        value.mistake(
            cx,
            format!("is {priority}, and numbers below {ELIGIBLE} say how much a box is demoted"),
            format!("write {ELIGIBLE} to 254, or 255 on a box whose own addresses they are"),
        );
        return None;
    }
    Some(priority)
}

fn read_interval(cx: &mut Cx, value: &Value<'_>) -> Option<Centis> {
    let interval = value.duration(cx, Centis::MIN.duration()..=Centis::MAX.duration())?;
    let millis = u64::try_from(interval.as_millis()).ok()?;
    let centis = u16::try_from(millis / 10).ok().and_then(Centis::new);
    if millis % 10 != 0 {
        value.mistake(
            cx,
            "is not a multiple of 10ms, in which adverts count",
            format!("write \"{}ms\"", millis - millis % 10),
        );
        return None;
    }
    centis
}

fn read_preempt(cx: &mut Cx, value: &Value<'_>) -> Option<Preempt> {
    if !value.is_table() {
        let words = [("never", Preempt::Never), ("always", Preempt::Always)];
        return value.choice(cx, &words, &[]);
    }
    let table = value.table(cx, &keys::VRRP_PREEMPT)?;
    let delayed = table.require(cx, "delayed", "write preempt = { delayed = \"30s\" }")?;
    let delay = delayed.duration(cx, Duration::from_millis(1)..=DELAY_MOST)?;
    Some(Preempt::Delayed(delay))
}

fn read_announce(cx: &mut Cx, value: &Value<'_>) -> Option<Announce> {
    let table = value.table(cx, &keys::VRRP_ANNOUNCE)?;
    let count = table.get("count").and_then(|value| value.integer(cx, 1..=100));
    let spacing = table
        .get("spacing")
        .and_then(|value| value.duration(cx, Duration::from_millis(10)..=Duration::from_secs(60)));
    let refresh = table
        .get("refresh")
        .and_then(|value| value.duration(cx, Duration::from_secs(1)..=DELAY_MOST));
    Some(Announce {
        count: count.unwrap_or(ANNOUNCE.count),
        spacing: spacing.unwrap_or(ANNOUNCE.spacing),
        refresh,
    })
}

fn read_authentication(
    cx: &mut Cx,
    value: &Value<'_>,
    files: &mut Vec<KeyFile>,
) -> Option<VrrpAuthentication> {
    let table = value.table(cx, &keys::VRRP_AUTHENTICATION)?;
    let mode = match table.get("mode") {
        None => Some(Mode::Enforce),
        Some(value) => {
            let words = [("enforce", Mode::Enforce), ("permissive", Mode::Permissive)];
            value.choice(cx, &words, &[])
        }
    };
    let asked = table.require(
        cx,
        "keys",
        "write keys = [{ id = 1, file = \"/etc/weir/vrrp-1.key\" }], with a secret of `openssl rand -hex 32` in the file",
    )?;
    let items = asked.array(cx)?;
    if items.is_empty() {
        asked.mistake(
            cx,
            "is empty",
            "write { id = 1, file = \"/etc/weir/vrrp-1.key\" } into it",
        );
        return None;
    }
    let mut all: Vec<(u8, PathBuf)> = Vec::new();
    let wanted = items.len();
    for item in items {
        let Some(table) = item.table(cx, &keys::VRRP_KEY) else {
            continue;
        };
        let id = table
            .require(cx, "id", "write its number, the same on all boxes, as in id = 1")
            .and_then(|value| Some((value.integer(cx, 0..=255)?, value)));
        let file = table
            .require(cx, "file", "name the file that holds the key")
            .and_then(|value| Some((read_path(cx, &value)?, value)));
        let (Some((id, id_value)), Some((file, file_value))) = (id, file) else {
            continue;
        };
        let Ok(id) = u8::try_from(id) else { continue };
        if all.iter().any(|(before, _)| *before == id) {
            id_value.mistake(
                cx,
                format!("is {id}, as of another key"),
                "give each key a number of its own",
            );
            continue;
        }
        files.push(KeyFile {
            path: file.clone(),
            at: file_value.at,
            key: file_value.path,
        });
        all.push((id, file));
    }
    let sign_with = match table.get("sign_with") {
        Some(value) => {
            let id = value.integer(cx, 0..=255).and_then(|id| u8::try_from(id).ok())?;
            if all.len() == wanted && !all.iter().any(|(known, _)| *known == id) {
                value.mistake(
                    cx,
                    format!("is {id}, and no key has that number"),
                    "write the id of one of the keys",
                );
                return None;
            }
            id
        }
        None => match all.as_slice() {
            [(id, _)] => *id,
            [] => return None,
            _ => {
                cx.mistake(
                    table.at,
                    format!("[{}] has several keys, but no `sign_with`", table.path),
                    "write the id of the one that signs what this box sends",
                );
                return None;
            }
        },
    };
    Some(VrrpAuthentication {
        keys: all,
        sign_with,
        mode: mode?,
    })
}

fn read_demote_on(cx: &mut Cx, value: &Value<'_>) -> Vec<(DemoteOn, usize)> {
    let mut all: Vec<(DemoteOn, usize)> = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(on) = read_demotion(cx, &item) else {
            continue;
        };
        if let Some((_, first)) = all.iter().find(|(before, _)| before.what == on.what) {
            let line = cx.line(*first);
            item.mistake(
                cx,
                format!("has the same twice (first in line {line})"),
                "remove one",
            );
            continue;
        }
        all.push((on, item.at));
    }
    all
}

fn read_demotion(cx: &mut Cx, item: &Value<'_>) -> Option<DemoteOn> {
    const WHAT: [&str; 4] = ["service", "pool", "link", "file"];
    let table = item.table(cx, &keys::VRRP_DEMOTION)?;
    let by = match table.get("by") {
        None => Some(1),
        Some(value) => value.integer(cx, 1..=MOST),
    };
    let named: Vec<_> = WHAT
        .into_iter()
        .filter_map(|key| Some((key, table.get(key)?)))
        .collect();
    let [(key, value)] = named.as_slice() else {
        if !WHAT.into_iter().any(|key| table.meant(key)) {
            item.mistake(
                cx,
                if named.is_empty() {
                    "says not on what"
                } else {
                    "says more than one thing"
                },
                "write one of service, pool, link and file, as in { link = \"eth1\", by = 10 }",
            );
        }
        return None;
    };
    let what = match *key {
        "file" => {
            let path = read_path(cx, value)?;
            DemoteWhat::File(path.to_string_lossy().into())
        }
        "link" => {
            let name = value.string(cx)?;
            if Interface::new(name).is_none() {
                value.mistake(
                    cx,
                    format!("is {}, which is no interface's name", quoted(name)),
                    "write it as `ip link` shows it",
                );
                return None;
            }
            DemoteWhat::Link(Arc::from(name))
        }
        "service" => DemoteWhat::Service(ServiceName::new(value.string(cx)?)),
        _ => DemoteWhat::Pool(PoolName::new(value.string(cx)?)),
    };
    Some(DemoteOn { what, by: by? })
}
