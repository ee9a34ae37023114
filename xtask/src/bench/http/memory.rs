//! Memory: what an idle keep-alive connection holds, and what connections that have ended leave behind.
//!
//! Resident memory of all of a proxy's processes, which have done nothing else before: pools that were filled by an
//! earlier load would hide what connections take. What the kernel holds for sockets is not in it.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weir_harness::Scratch;

use super::{
    super::{
        client,
        cpu::settled,
        outcome::{Outcome, Target},
        peers::{Kind, Origin, SMALL, go_on, raise_limit},
    },
    Logs, Part,
    stage::Proxy,
};
use crate::shell;

/// Idle connections.
const IDLE: usize = 10_000;
/// Connections that come and go: all, and at once.
const CHURNED: usize = 20_000;
const AT_ONCE: usize = 1_000;
/// KiB that the churn may leave behind: what an allocator may take for itself. That is 26 bytes for each connection.
const LEFT: f64 = 512.0;

pub(super) fn idle(scratch: &Scratch, binary: &Path, origin: &Origin, logs: Logs) -> Result<Outcome> {
    raise_limit(IDLE as u64 + 1_000)?;
    let mut figures = Vec::new();
    let mut more = Vec::new();
    for kind in Kind::ALL {
        go_on()?;
        let proxy = Proxy::start(scratch, binary, origin, logs, kind)?;
        for at in 0..200 {
            client::Client::connect(proxy.http)?
                .get(SMALL.0)
                .with_context(|| format!("request {at} of {}", kind.name()))?;
        }
        let tree = proxy.tree()?;
        let before = settled(&tree)?;
        let open = client::beside(|| connections(proxy.http, IDLE))?;
        let during = tree.held();
        drop(open);
        let after = settled(&tree)?;
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        let figure = kib(during.resident.saturating_sub(before.resident)) / IDLE as f64;
        shell::note(&format!(
            "{:<8} {figure:.2} KiB per connection: {:.0} KiB before, {:.0} with {IDLE}, {:.0} after",
            kind.name(),
            kib(before.resident),
            kib(during.resident),
            kib(after.resident)
        ));
        ensure!(
            during.descriptors >= IDLE as u64,
            "{} does not hold all connections: {} descriptors",
            kind.name(),
            during.descriptors
        );
        more.push(json!({ "name": kind.name(), "kib": [kib(before.resident), kib(during.resident), kib(after.resident)] }));
        figures.push((kind.name(), vec![figure]));
    }
    Ok(Outcome {
        part: Part::Idle.name(),
        unit: "KiB each",
        figures,
        target: Target::Most(2.0),
        more: json!({ "connections": IDLE, "resident": more }),
    })
}

pub(super) fn churn(scratch: &Scratch, binary: &Path, origin: &Origin, logs: Logs) -> Result<Outcome> {
    raise_limit(IDLE as u64 + 1_000)?;
    let mut figures = Vec::new();
    let mut more = Vec::new();
    for kind in Kind::ALL {
        go_on()?;
        let proxy = Proxy::start(scratch, binary, origin, logs, kind)?;
        let tree = proxy.tree()?;
        // Twice as many at once as later: what the allocator takes for that many it has then.
        client::beside(|| connections(proxy.http, 2 * AT_ONCE))?;
        client::beside(|| connections(proxy.http, AT_ONCE))?;
        let before = settled(&tree)?;
        for _ in 0..CHURNED / AT_ONCE {
            go_on()?;
            client::beside(|| connections(proxy.http, AT_ONCE))?;
        }
        let after = settled(&tree)?;
        let kib = (after.resident as f64 - before.resident as f64) / 1024.0;
        let descriptors = after.descriptors as i64 - before.descriptors as i64;
        shell::note(&format!(
            "{:<8} {CHURNED} connections left {kib:.0} KiB, {descriptors} descriptors",
            kind.name()
        ));
        ensure!(
            kind != Kind::Weir || descriptors <= 0,
            "weir has kept {descriptors} descriptors"
        );
        more.push(json!({ "name": kind.name(), "descriptors": descriptors }));
        figures.push((kind.name(), vec![kib]));
    }
    Ok(Outcome {
        part: Part::Churn.name(),
        unit: "KiB more",
        figures,
        target: Target::Most(LEFT),
        more: json!({ "connections": CHURNED, "at_once": AT_ONCE, "descriptors": more }),
    })
}

/// Connections that have had one answer each. One destination has ports enough for as many as are meant here.
fn connections(at: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let mut client =
            client::Client::connect(at).with_context(|| format!("connection {number} of {count}"))?;
        client
            .get(SMALL.0)
            .with_context(|| format!("connection {number} of {count}"))?;
        open.push(client.into_stream());
    }
    Ok(open)
}
