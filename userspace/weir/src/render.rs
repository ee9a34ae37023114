//! What the command line prints: answers of the control socket as text for people.

use std::fmt::Write;

use crate::admin::api::{Backend, Pools, Status};

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
            s.pool.clone(),
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
    out
}

/// `weir pools`
pub(crate) fn pools(pools: &Pools) -> String {
    let mut out = String::new();
    for (i, pool) in pools.pools.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let _ = writeln!(out, "pool {}: {}, check {}", pool.name, pool.balance, pool.check);
        let mut rows = vec![row([
            "BACKEND", "NAME", "WEIGHT", "STATE", "SINCE", "IN USE", "CHECKS", "CAUSE",
        ])];
        rows.extend(pool.backends.iter().map(backend));
        out.push_str(&table(&rows, "  "));
    }
    out
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
    fn columns_line_up_and_do_not_trail() {
        let rows = vec![row(["A", "B", "C"]), row(["long cell", "b", ""])];
        assert_eq!(table(&rows, " "), " A          B  C\n long cell  b\n");
    }
}
