//! Changes of groups of virtual routers. A group that is changed goes on as what it is.

use std::sync::Arc;

use weir_core::{
    plan::{DemoteOn, DemoteWhat, GroupMac, VirtualRouter, VrrpAuthentication, VrrpGroup},
    vrrp::{
        accept::V2,
        auth::Mode,
        machine::{Announce, Preempt},
        wire::Checksum,
    },
};

use super::{Action, Change, Keys, Subject, existence, list_or_none};
use crate::units::show_duration;

pub(super) fn groups(changes: &mut Vec<Change>, old: &[Arc<VrrpGroup>], new: &[Arc<VrrpGroup>]) {
    let subject = |group: &VrrpGroup| Subject::Vrrp(group.name.clone());
    for gone in old
        .iter()
        .filter(|old| new.iter().all(|new| new.name != old.name))
    {
        existence(changes, subject(gone), Action::Removed);
    }
    for group in new {
        match old.iter().find(|old| old.name == group.name) {
            None => existence(changes, subject(group), Action::Added),
            Some(old) if old == group => {}
            Some(old) => changed(changes, old, group),
        }
    }
}

fn changed(changes: &mut Vec<Change>, old: &VrrpGroup, new: &VrrpGroup) {
    // Every field is named, so that a new one can't be forgotten.
    let VrrpGroup {
        name,
        routers,
        priority,
        interval,
        preempt,
        lease,
        announce,
        authentication,
        demote_on,
        mac,
        share,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Vrrp(name.clone()),
        needs_restart: false,
    };
    keys.compare("mac", mac, &new.mac, |mac| {
        match mac {
            GroupMac::Own => "own",
            GroupMac::Virtual => "virtual",
            GroupMac::Multicast => "multicast",
        }
        .into()
    });
    keys.compare("shares", share, &new.share, |share| {
        share.as_ref().map_or_else(
            || "none".into(),
            |share| format!("{} of {}", share.index + 1, share.count),
        )
    });
    keys.compare("routers", routers, &new.routers, |routers| {
        list_or_none(&routers.iter().map(show_router).collect::<Vec<_>>())
    });
    keys.compare("priority", priority, &new.priority, ToString::to_string);
    keys.compare("interval", interval, &new.interval, |interval| {
        show_duration(interval.duration())
    });
    keys.compare("preempt", preempt, &new.preempt, |preempt| match preempt {
        Preempt::Never => "never".into(),
        Preempt::Always => "always".into(),
        Preempt::Delayed(delay) => format!("delayed {}", show_duration(*delay)),
    });
    keys.compare("lease", lease, &new.lease, |lease| show_duration(*lease));
    keys.compare("announce", announce, &new.announce, show_announce);
    keys.compare("authentication", authentication, &new.authentication, |it| {
        it.as_ref().map_or_else(|| "none".into(), show_authentication)
    });
    keys.compare("demote_on", demote_on, &new.demote_on, |all| {
        list_or_none(&all.iter().map(show_demotion).collect::<Vec<_>>())
    });
}

fn show_router(router: &VirtualRouter) -> String {
    let VirtualRouter {
        id,
        interface,
        addresses,
        source,
        peers,
        checksum,
        v2,
    } = router;
    let addresses: Vec<_> = addresses
        .iter()
        .map(|(ip, prefix)| format!("{ip}/{prefix}"))
        .collect();
    let mut out = format!("{id} on {interface} with {}", addresses.join(" "));
    if let Some(source) = source {
        out.push_str(&format!(" from {source}"));
    }
    if !peers.is_empty() {
        let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
        out.push_str(&format!(" to {}", peers.join(" ")));
    }
    match checksum {
        Checksum::Rfc9568 => {}
        Checksum::Rfc5798 => out.push_str(" rfc5798"),
    }
    match v2 {
        V2::Refused => {}
        // The password is a secret, if a poor one.
        V2::Taken(_) => out.push_str(" version2"),
    }
    out
}

fn show_announce(announce: &Announce) -> String {
    let Announce {
        count,
        spacing,
        refresh,
    } = announce;
    let refresh = refresh.map_or_else(|| "never".into(), show_duration);
    format!("{count} times every {}, again {refresh}", show_duration(*spacing))
}

fn show_authentication(authentication: &VrrpAuthentication) -> String {
    let VrrpAuthentication {
        keys,
        sign_with,
        mode,
    } = authentication;
    let keys: Vec<_> = keys
        .iter()
        .map(|(id, file)| format!("{id} of {}", file.display()))
        .collect();
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Permissive => "permissive",
    };
    format!("{mode}, keys {}, signs with {sign_with}", keys.join(" and "))
}

fn show_demotion(on: &DemoteOn) -> String {
    let what = match &on.what {
        DemoteWhat::Service(name) => format!("service {name}"),
        DemoteWhat::Pool(name) => format!("pool {name}"),
        DemoteWhat::Link(name) => format!("link {name}"),
        DemoteWhat::File(path) => format!("file {path}"),
    };
    format!("{what} by {}", on.by)
}
