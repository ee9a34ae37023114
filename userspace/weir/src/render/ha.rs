//! Virtual routers, for people.

use std::fmt::Write;

use super::{row, span, table};
use crate::admin::api::{Demoted, Ha, HaGroup};

/// `weir ha`
pub(crate) fn text(ha: &Ha) -> String {
    if ha.groups.is_empty() {
        return "there are no virtual routers: the configuration has no [vrrp.NAME]\n".to_owned();
    }
    let mut out = String::new();
    for (i, group) in ha.groups.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        one(group, &mut out);
    }
    if let Some(why) = &ha.not_real_time {
        let _ = writeln!(
            out,
            "\nTheir thread does not run in real time ({why}): a busy box will give its addresses away. `weir doctor` says what to do."
        );
    }
    out
}

fn one(group: &HaGroup, out: &mut String) {
    let HaGroup {
        name,
        state,
        since_seconds,
        cause,
        changes,
        priority,
        announced,
        interval_ms,
        preempt,
        lease_ms,
        signatures,
        demotion,
        shares,
        master,
        rival,
        trouble,
        routers,
        services,
        share_of,
    } = group;
    let _ = writeln!(out, "group {name}: {state} for {}, {cause}", span(*since_seconds));
    let mut facts = Vec::new();
    let mut fact = |key: &str, value: String| facts.push(vec![key.to_owned(), value]);
    if let Some(share) = share_of {
        fact(
            "clients",
            format!(
                "share {} of {} in [vrrp.{}]",
                share.number, share.count, share.section
            ),
        );
    }
    for router in routers {
        let trouble = if router.usable {
            ""
        } else {
            ", which can't be used"
        };
        fact(
            "router",
            format!(
                "{} on {}{trouble}: {}",
                router.id,
                router.interface,
                router.addresses.join(" ")
            ),
        );
        if let Some(mac) = &router.mac {
            fact("", format!("at link address {mac}"));
        }
        if let Some(own) = &router.own {
            let to = match router.peers.as_slice() {
                [] => "all on the link".to_owned(),
                peers => peers.join(" "),
            };
            fact("", format!("adverts from {own} to {to}"));
        }
    }
    if !services.is_empty() {
        fact("services", services.join(" "));
    }
    if let Some(master) = master {
        fact(
            "master",
            format!("{} with priority {}", master.address, master.priority),
        );
    }
    if let Some(rival) = rival {
        fact("rival", format!("{rival} is master as well"));
    }
    fact(
        "priority",
        match demotion {
            0 => format!("{priority}, preempts {preempt}"),
            _ => format!("{priority}, preempts {preempt}; announces {announced}, being demoted"),
        },
    );
    fact(
        "demotion",
        match demotion {
            0 => "none".to_owned(),
            total => {
                let shares: Vec<_> = { shares.iter() }
                    .map(|share| format!("{} ({})", share.cause, share.share))
                    .collect();
                format!("{total}: {}", shares.join(", "))
            }
        },
    );
    fact(
        "timing",
        format!("adverts every {interval_ms}ms, lease {lease_ms}ms, signatures {signatures}"),
    );
    fact("changes", changes.to_string());
    if let Some(trouble) = trouble {
        fact("trouble", trouble.clone());
    }
    out.push_str(&table(&facts, "  "));
}

/// What `weir status` shows of it.
pub(super) fn status(groups: &[HaGroup], out: &mut String) {
    if groups.is_empty() {
        return;
    }
    out.push('\n');
    let mut rows = vec![row([
        "GROUP",
        "STATE",
        "SINCE",
        "PRIORITY",
        "DEMOTION",
        "MASTER",
        "ADDRESSES",
    ])];
    for group in groups {
        let master = match (&group.rival, &group.master) {
            (Some(rival), _) => format!("also {rival}"),
            (None, Some(master)) => master.address.clone(),
            (None, None) if group.state == "master" => "this box".to_owned(),
            (None, None) => "-".to_owned(),
        };
        let addresses: Vec<_> = { group.routers.iter() }
            .flat_map(|router| router.addresses.iter().map(String::as_str))
            .collect();
        rows.push(vec![
            group.name.clone(),
            group.state.clone(),
            span(group.since_seconds),
            group.priority.to_string(),
            group.demotion.to_string(),
            master,
            addresses.join(" "),
        ]);
    }
    out.push_str(&table(&rows, ""));
}

/// `weir demote`
pub(crate) fn demoted(demoted: &Demoted) -> String {
    let Demoted {
        group,
        from,
        to,
        total,
    } = demoted;
    match (to, total - to.min(total)) {
        (0, 0) if *from == 0 => format!("{group}: an operator holds nothing against this box, as before\n"),
        (0, 0) => format!("{group}: nothing speaks against this box any more\n"),
        (0, rest) => format!(
            "{group}: an operator holds nothing against this box any more; other things do, by {rest}\n"
        ),
        (to, 0) => format!("{group}: this box is demoted by {to}\n"),
        (to, rest) => format!("{group}: this box is demoted by {to}, and by {rest} for other things\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{HaPeer, HaRouter, HaShare, HaShareOf};

    fn group() -> HaGroup {
        HaGroup {
            name: "edge".into(),
            state: "backup".into(),
            since_seconds: 61,
            cause: "192.0.2.2 is master with priority 100".into(),
            changes: 3,
            priority: 150,
            announced: 9,
            interval_ms: 1000,
            preempt: "never".into(),
            lease_ms: 100,
            signatures: "none".into(),
            demotion: 1,
            shares: vec![HaShare {
                cause: "no backend of service www is up".into(),
                share: 1,
            }],
            master: Some(HaPeer {
                address: "192.0.2.2".into(),
                priority: 100,
            }),
            rival: None,
            trouble: None,
            routers: vec![HaRouter {
                id: 51,
                interface: "eth0".into(),
                family: "IPv4".into(),
                addresses: vec!["192.0.2.10/24".into()],
                mac: Some("03:00:5e:00:01:33".into()),
                own: Some("192.0.2.1".into()),
                peers: Vec::new(),
                usable: true,
            }],
            services: vec!["www".into()],
            share_of: Some(HaShareOf {
                section: "edge".into(),
                number: 1,
                count: 2,
            }),
        }
    }

    #[test]
    fn a_group_says_what_it_is_and_why() {
        let ha = Ha {
            not_real_time: Some("EPERM".into()),
            groups: vec![group()],
        };
        assert_eq!(
            text(&ha),
            "group edge: backup for 1m 1s, 192.0.2.2 is master with priority 100\n  \
             clients   share 1 of 2 in [vrrp.edge]\n  \
             router    51 on eth0: 192.0.2.10/24\n            at link address 03:00:5e:00:01:33\n            adverts from 192.0.2.1 to all on the link\n  \
             services  www\n  \
             master    192.0.2.2 with priority 100\n  \
             priority  150, preempts never; announces 9, being demoted\n  \
             demotion  1: no backend of service www is up (1)\n  \
             timing    adverts every 1000ms, lease 100ms, signatures none\n  \
             changes   3\n\n\
             Their thread does not run in real time (EPERM): a busy box will give its addresses away. `weir doctor` says what to do.\n"
        );
        let mut out = String::new();
        status(&ha.groups, &mut out);
        assert_eq!(
            out,
            "\nGROUP  STATE   SINCE  PRIORITY  DEMOTION  MASTER     ADDRESSES\n\
             edge   backup  1m 1s  150       1         192.0.2.2  192.0.2.10/24\n"
        );
    }

    #[test]
    fn what_a_demotion_has_come_to() {
        let said = |from, to, total| {
            demoted(&Demoted {
                group: "edge".into(),
                from,
                to,
                total,
            })
        };
        assert_eq!(said(0, 128, 128), "edge: this box is demoted by 128\n");
        assert_eq!(
            said(0, 1, 3),
            "edge: this box is demoted by 1, and by 2 for other things\n"
        );
        assert_eq!(said(1, 0, 0), "edge: nothing speaks against this box any more\n");
        assert_eq!(
            said(0, 0, 0),
            "edge: an operator holds nothing against this box, as before\n"
        );
        assert_eq!(
            said(1, 0, 2),
            "edge: an operator holds nothing against this box any more; other things do, by 2\n"
        );
    }
}
