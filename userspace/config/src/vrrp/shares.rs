//! `vrrp.NAME.mac` and `vrrp.NAME.shares`: the link address of a group, and how several boxes deal its clients among themselves.

use weir_core::{
    ids::GroupName,
    plan::{GroupMac, GroupShare, VirtualRouter, VrrpGroup},
    vrrp::Vrid,
};

use super::{PRIORITY, read_priority};
use crate::{
    keys,
    reader::{Cx, Table, Value},
};

/// As many as the kernel's programs have room for.
const MOST: usize = 16;

/// A share, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct AskedShare {
    pub(crate) id: Vrid,
    priority: u8,
    pub(crate) at: usize,
}

/// The groups of all shares: each as the whole, but for its number and its priority.
pub(super) fn deal(whole: &VrrpGroup, shares: &[AskedShare]) -> Vec<VrrpGroup> {
    let Some(first) = shares.first() else {
        return Vec::new();
    };
    let dealt = shares.iter().enumerate().map(|(index, share)| VrrpGroup {
        name: GroupName::new(format!("{}/{}", whole.name, share.id)),
        routers: { whole.routers.iter() }
            .map(|router| VirtualRouter {
                id: share.id,
                ..router.clone()
            })
            .collect(),
        priority: share.priority,
        share: Some(GroupShare {
            of: whole.name.clone(),
            index,
            count: shares.len(),
            first: first.id,
        }),
        ..whole.clone()
    });
    dealt.collect()
}

/// `mac`. None if it is wrong.
pub(super) fn read_mac(cx: &mut Cx, table: &Table<'_>) -> Option<GroupMac> {
    match table.get("mac") {
        None => Some(GroupMac::Own),
        Some(value) => {
            let words = [
                ("own", GroupMac::Own),
                ("virtual", GroupMac::Virtual),
                ("multicast", GroupMac::Multicast),
            ];
            value.choice(cx, &words, &[])
        }
    }
}

/// Whether the link address fits what is done with it.
pub(super) fn check_mac(cx: &mut Cx, name: &str, table: &Table<'_>, mac: GroupMac, has_shares: bool) {
    let at = table.get("mac").map_or(table.at, |value| value.at);
    match (mac, has_shares) {
        (GroupMac::Own, true) => cx.mistake(
            at,
            format!("vrrp.{name} has shares, but mac is \"own\": packets would come to one box only"),
            "write mac = \"multicast\" under it; or mac = \"virtual\", if its boxes are on a hub or a mirrored port",
        ),
        (GroupMac::Multicast, false) => cx.mistake(
            at,
            format!("vrrp.{name}.mac is \"multicast\", but it has no shares: all boxes would get what one serves"),
            "write mac = \"virtual\", or shares = [{ id = 51, priority = 200 }, { id = 52, priority = 100 }]",
        ),
        (GroupMac::Own | GroupMac::Virtual, false) | (GroupMac::Virtual | GroupMac::Multicast, true) => {}
    }
}

/// The shares in order of their numbers, so that every box deals alike whatever order stands in its file. None if something
/// of them is wrong.
pub(super) fn read(cx: &mut Cx, value: &Value<'_>, priority: Option<u8>) -> Option<Vec<AskedShare>> {
    let items = value.array(cx)?;
    let wanted = items.len();
    if wanted < 2 {
        value.mistake(
            cx,
            if wanted == 0 { "is empty" } else { "has one share only" },
            "write one for each box at least, as in [{ id = 51, priority = 200 }, { id = 52, priority = 100 }]; or none, and an id for each router",
        );
        return None;
    }
    if wanted > MOST {
        value.mistake(
            cx,
            format!("has {wanted} shares, more than {MOST}"),
            "write fewer: one or two for each box deal clients evenly",
        );
        return None;
    }
    let mut all: Vec<AskedShare> = Vec::new();
    for item in items {
        let Some(table) = item.table(cx, &keys::VRRP_SHARE) else {
            continue;
        };
        let id = table
            .require(cx, "id", "write its number, the same on all boxes, as in id = 51")
            .and_then(|value| Some((value.integer(cx, 1..=255)?, value)));
        let own = match table.get("priority") {
            None => Some(priority.unwrap_or(PRIORITY)),
            Some(value) => read_priority(cx, &value),
        };
        let (Some((id, id_value)), Some(priority)) = (id, own) else {
            continue;
        };
        let Some(id) = u8::try_from(id).ok().and_then(Vrid::new) else {
            continue;
        };
        if let Some(other) = all.iter().find(|share| share.id == id) {
            let line = cx.line(other.at);
            id_value.mistake(
                cx,
                format!("is {id}, as of another share (line {line})"),
                "give each share a number of its own",
            );
            continue;
        }
        all.push(AskedShare {
            id,
            priority,
            at: item.at,
        });
    }
    all.sort_by_key(|share| share.id);
    (all.len() == wanted).then_some(all)
}
