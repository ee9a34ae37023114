//! What the command line prints: answers of the control socket as text for people.

pub(crate) mod ha;

use std::fmt::Write;

use weir_tls::Moment;

use crate::{
    admin::api::{Backend, Explained, Flow, Flows, ListChange, Lists, Pools, Slot, Status, SyncPeer, Way},
    tls,
};

/// Rows of cells as aligned columns, two spaces apart; the last column is not padded.
fn table(rows: &[Vec<String>], indent: &str) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', pad));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|&c| c.to_owned()).collect()
}

/// A span of time, in the two largest units: `3d 4h`, `12s`.
pub(crate) fn span(seconds: u64) -> String {
    let (d, h, m, s) = (
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

/// How it stands with a box that is told of flows.
fn sync_peer(peer: &SyncPeer) -> String {
    let state = match peer.state.as_str() {
        "joining" => {
            let (came, of) = peer.parts.unwrap_or_default();
            let of = of.map_or_else(|| "?".to_owned(), |of| of.to_string());
            format!("its flows are coming, part {came} of {of}")
        }
        "waiting" => "is waited for".to_owned(),
        "alone" => "was not heard since the start".to_owned(),
        "lost" => format!("lost, heard {} ago", span(peer.heard_seconds.unwrap_or(0))),
        other => other.to_owned(),
    };
    format!(
        "{}: {state}; {} entries sent, {} received",
        peer.address, peer.told, peer.heard_of
    )
}

/// `weir status`
pub(crate) fn status(status: &Status) -> String {
    let Status {
        version,
        node,
        config,
        generation,
        reload_error,
        ready,
        waiting_for,
        uptime_seconds,
        xdp,
        exports,
        sync,
        ..
    } = status;
    let mut out = format!("weir {version} on {node}: ");
    if *ready {
        out.push_str("ready\n");
    } else {
        let _ = writeln!(out, "not ready, waiting for {}", waiting_for.join(", "));
    }
    let mut facts = vec![
        vec!["running for".to_owned(), span(*uptime_seconds)],
        vec![
            "configuration".to_owned(),
            format!("{config}, applied {generation} time(s)"),
        ],
    ];
    let interfaces = if xdp.interfaces.is_empty() {
        String::new()
    } else {
        format!(" on {}", xdp.interfaces.join(", "))
    };
    facts.push(vec!["xdp".to_owned(), format!("{}{interfaces}", xdp.mode)]);
    if !xdp.addresses.is_empty() {
        facts.push(vec!["addresses".to_owned(), xdp.addresses.join(", ")]);
    }
    if !exports.is_empty() {
        let shown = exports.iter().map(|export| match export.exported {
            true => export.address.clone(),
            false => format!("{} (withdrawn)", export.address),
        });
        facts.push(vec!["exported".to_owned(), shown.collect::<Vec<_>>().join(", ")]);
    }
    for peer in sync {
        facts.push(vec!["flows told to".to_owned(), sync_peer(peer)]);
    }
    if xdp.syncookies {
        let flood = "a flood of SYNs to the relay: answered by cookies";
        facts.push(vec!["protection".to_owned(), flood.to_owned()]);
    }
    let counts = &xdp.listed;
    if counts.allow + counts.ban + counts.overload > 0 {
        let overload = match counts.overload {
            0 => String::new(),
            n => format!(", {n} more for overload"),
        };
        let text = format!("{} allowed, {} banned{overload}", counts.allow, counts.ban);
        facts.push(vec!["networks listed".to_owned(), text]);
    }
    out.push_str(&table(&facts, "  "));
    if let Some(error) = reload_error {
        let _ = writeln!(
            out,
            "\nThe last reload was refused; the configuration before it is in force:\n{error}"
        );
    }
    out.push('\n');
    let mut rows = vec![row(["PROCESS", "PID", "STATE", "SINCE", "RESTARTS"])];
    for p in &status.processes {
        let state = if p.adopted {
            format!("{} (taken over)", p.state)
        } else {
            p.state.clone()
        };
        rows.push(vec![
            p.role.clone(),
            p.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            state,
            span(p.since_seconds),
            p.restarts.to_string(),
        ]);
    }
    out.push_str(&table(&rows, ""));
    out.push('\n');
    let mut rows = vec![row([
        "SERVICE",
        "MODE",
        "STATE",
        "BACKENDS",
        "POOL",
        "CONNECTIONS",
        "REQUESTS",
        "LISTEN",
    ])];
    for s in &status.services {
        rows.push(vec![
            s.name.clone(),
            s.mode.clone(),
            s.state.clone(),
            format!("{}/{}", s.backends_in_use, s.backends),
            s.pool_names(),
            s.connections.to_string(),
            if s.mode == "http" {
                s.requests.to_string()
            } else {
                "-".to_owned()
            },
            s.listen.join(" "),
        ]);
    }
    out.push_str(&table(&rows, ""));
    ha::status(&status.ha, &mut out);
    certificates(status, &mut out);
    out
}

fn certificates(status: &Status, out: &mut String) {
    if !status.certificates.is_empty() {
        out.push('\n');
        let mut rows = vec![row(["CERTIFICATE", "SHOWN BY", "NAMES", "KEY", "VALID UNTIL"])];
        for c in &status.certificates {
            rows.push(vec![
                c.file.clone(),
                match c.pool.as_str() {
                    "" => c.service.clone(),
                    pool => format!("pool {pool}"),
                },
                match c.names.as_slice() {
                    [] => c.subject.clone(),
                    names => names.join(" "),
                },
                c.key.clone(),
                Moment(c.not_after).to_string(),
            ]);
        }
        out.push_str(&table(&rows, ""));
    }
    for pool in &status.unverified {
        let _ = writeln!(out, "\n{}", tls::unverified(pool));
    }
    for (file, why) in &status.tls_troubles {
        let _ = writeln!(
            out,
            "\n{file} has changed and does not hold; what was served before is served on:\n{why}"
        );
    }
}

/// `weir pools`
pub(crate) fn pools(pools: &Pools) -> String {
    let mut out = String::new();
    for (i, pool) in pools.pools.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let tls = match pool.tls.as_str() {
            "" => String::new(),
            tls => format!(", {tls}"),
        };
        let _ = writeln!(
            out,
            "pool {}: {}, check {}{tls}",
            pool.name, pool.balance, pool.check
        );
        let mut rows = vec![row([
            "BACKEND", "NAME", "WEIGHT", "STATE", "SINCE", "IN USE", "CHECKS", "CAUSE",
        ])];
        rows.extend(pool.backends.iter().map(backend));
        out.push_str(&table(&rows, "  "));
    }
    out
}

/// `weir flows`
pub(crate) fn flows(flows: &Flows) -> String {
    let mut rows = vec![row([
        "CLIENT", "ADDRESS", "PROTO", "SERVICE", "BACKEND", "SOURCE", "AGE", "IDLE", "PACKETS", "BYTES",
        "STATE",
    ])];
    rows.extend(flows.flows.iter().map(flow));
    let mut out = table(&rows, "");
    let Flows { total, matched, .. } = flows;
    let shown = flows.flows.len();
    let _ = write!(out, "\n{shown} shown of {matched}");
    if matched != total {
        let _ = write!(out, " that match, of {total} in all");
    }
    out.push('\n');
    out
}

fn flow(flow: &Flow) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    vec![
        flow.client.clone(),
        flow.vip.clone(),
        flow.protocol.clone(),
        text(&flow.service),
        text(&flow.backend),
        text(&flow.source),
        span(flow.age_seconds.into()),
        flow.idle_seconds
            .map_or_else(|| "-".to_owned(), |s| span(s.into())),
        number(flow.packets),
        number(flow.bytes),
        flow.state.clone(),
    ]
}

/// `weir lists`
pub(crate) fn lists(lists: &Lists) -> String {
    if lists.lists.is_empty() {
        return "no network is listed\n".to_owned();
    }
    let mut rows = vec![row(["NETWORK", "RULE", "BY", "LEFT"])];
    rows.extend(lists.lists.iter().map(|l| {
        let left = l.seconds_left.map_or_else(|| "-".to_owned(), span);
        vec![l.network.clone(), l.rule.clone(), l.origin.clone(), left]
    }));
    table(&rows, "")
}

/// `weir ban`, `weir allow`, `weir unlist`
pub(crate) fn list_change(change: &ListChange) -> String {
    let ListChange {
        networks,
        rule,
        seconds,
    } = change;
    let done = match rule.as_str() {
        "ban" => "banned",
        "allow" => "allowed",
        _ => "not listed any more",
    };
    let time = seconds.map_or_else(String::new, |seconds| format!(" for {}", span(seconds)));
    networks
        .iter()
        .map(|network| format!("{network}: {done}{time}\n"))
        .collect()
}

/// `weir explain flow`
pub(crate) fn explained(explained: &Explained) -> String {
    let Explained {
        verdict,
        reason,
        meaning,
        service,
        slot,
        backend,
        why,
        record,
        listed,
        way,
        becomes,
        notes,
        ..
    } = explained;
    let or_gone = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    let mut rows = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    fact("source", listed.clone());
    fact("service", service.clone());
    fact("slot", slot.as_ref().map(slot_in_words));
    fact("backend", backend.clone());
    fact("why", why.clone());
    fact(
        "record",
        record.as_ref().map(|record| {
            let (age, end) = (
                span(record.age_seconds.into()),
                if record.closed { ", ended" } else { "" },
            );
            format!("to {}, {age} old{end}", or_gone(&record.backend))
        }),
    );
    fact("way out", way.as_ref().map(way_in_words));
    fact(
        "becomes",
        becomes.as_ref().map(|b| match (&b.outer_src, &b.outer_dst) {
            (Some(src), Some(dst)) => format!("{} -> {}, inside {src} -> {dst}", b.src, b.dst),
            _ => format!("{} -> {}", b.src, b.dst),
        }),
    );
    fact("counted", (!notes.is_empty()).then(|| notes.join(", ")));
    let conditional = way.as_ref().is_some_and(|way| way.asked) && verdict == "forward";
    let condition = if conditional {
        ", if the kernel's routes lead there"
    } else {
        ""
    };
    let mut out = format!("{verdict}, {reason}{condition}: {meaning}\n");
    out.push_str(&table(&rows, "  "));
    out
}

fn slot_in_words(slot: &Slot) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    let mut out = format!("{} of {}: {}", slot.index, slot.of, name(&slot.current));
    if let Some(ago) = slot.changed_seconds {
        let _ = write!(
            out,
            ", since {}; before: {}",
            span(ago.into()),
            name(&slot.previous)
        );
    }
    out
}

fn way_in_words(way: &Way) -> String {
    match way {
        Way {
            interface: Some(interface),
            link: Some(link),
            mtu: Some(mtu),
            ..
        } => format!("{interface}, to {link}, MTU {mtu}"),
        _ => "not known in advance: the kernel's routes are asked".to_owned(),
    }
}

fn backend(b: &Backend) -> Vec<String> {
    let weight = if b.backup {
        format!("{} backup", b.weight)
    } else {
        b.weight.to_string()
    };
    let state = if b.admin == "ready" {
        b.state.clone()
    } else {
        format!("{}, {}", b.state, b.admin)
    };
    vec![
        b.address.clone(),
        b.name.clone(),
        weight,
        state,
        span(b.since_seconds),
        if b.in_use { "yes" } else { "no" }.to_owned(),
        format!("{} ok, {} failed", b.checks.passed, b.checks.failed),
        b.cause.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Listed;

    #[test]
    fn flows_show_dashes_for_what_is_not_known() {
        let flow = Flow {
            client: "198.51.100.7:40000".to_owned(),
            vip: "192.0.2.10:80".to_owned(),
            protocol: "tcp".to_owned(),
            service: Some("www".to_owned()),
            backend: None,
            source: None,
            age_seconds: 75,
            idle_seconds: None,
            packets: None,
            bytes: None,
            state: "open".to_owned(),
        };
        let text = flows(&Flows {
            total: 1_000_000,
            matched: 7,
            accounting: false,
            flows: vec![flow],
        });
        let lines: Vec<_> = text.lines().collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(
            words,
            [
                "198.51.100.7:40000",
                "192.0.2.10:80",
                "tcp",
                "www",
                "-",
                "-",
                "1m",
                "15s",
                "-",
                "-",
                "-",
                "open"
            ]
        );
        assert_eq!(lines[3], "1 shown of 7 that match, of 1000000 in all");
    }

    #[test]
    fn spans_show_two_units() {
        for (seconds, want) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_725, "1h 2m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(seconds), want);
        }
    }

    #[test]
    fn lists_say_by_whom_and_how_long() {
        let listed = |network: &str, rule: &str, origin: &str, seconds_left| Listed {
            network: network.into(),
            rule: rule.into(),
            origin: origin.into(),
            seconds_left,
        };
        let text = lists(&Lists {
            lists: vec![
                listed("10.0.0.0/8", "allow", "configuration", None),
                listed("192.0.2.7/32", "ban", "overload", Some(90)),
            ],
        });
        assert_eq!(
            text,
            "NETWORK       RULE   BY             LEFT\n\
             10.0.0.0/8    allow  configuration  -\n\
             192.0.2.7/32  ban    overload       1m 30s\n"
        );
        let change = |rule: &str, seconds| {
            list_change(&ListChange {
                networks: vec!["192.0.2.0/24".into()],
                rule: rule.into(),
                seconds,
            })
        };
        assert_eq!(change("ban", Some(600)), "192.0.2.0/24: banned for 10m 0s\n");
        assert_eq!(change("none", None), "192.0.2.0/24: not listed any more\n");
    }

    #[test]
    fn columns_line_up_and_do_not_trail() {
        let rows = vec![row(["A", "B", "C"]), row(["long cell", "b", ""])];
        assert_eq!(table(&rows, " "), " A          B  C\n long cell  b\n");
    }
}
