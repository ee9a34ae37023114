//! CPU per request: user and system time of all of a proxy's processes.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    super::{
        client,
        outcome::{Outcome, Target},
        peers::{LARGE, MEDIUM, SMALL, go_on},
    },
    Options, Part,
    load::{h2load, wrk},
    stage::{Proxy, relaying},
};
use crate::shell;

/// Downloads of one round.
const DOWNLOADS: u32 = 12;
/// What the client of downloads reads at once.
const DOWNLOAD_BUFFER: usize = 64 << 10;

pub(super) fn run(part: Part, proxies: &[Proxy], options: &Options) -> Result<Outcome> {
    let (unit, per, target) = match part {
        Part::Download => ("ms per 64 MiB", 1e3, 0.7),
        Part::Body => ("us per request", 1e6, 0.75),
        Part::NewConnection => ("us per connection", 1e6, 0.8),
        Part::Tcp => ("us per request", 1e6, 0.95),
        Part::Http2 => ("us per request", 1e6, 1.0),
        Part::KeepAlive | Part::Latency | Part::Idle | Part::Churn => ("us per request", 1e6, 0.9),
    };
    let count = match part == Part::Tcp {
        true => relaying(proxies)?,
        false => proxies.len(),
    };
    let proxies = proxies.get(..count).unwrap_or_default();
    let mut figures: Vec<_> = proxies.iter().map(|p| (p.kind.name(), Vec::new())).collect();
    let mut served = Vec::new();
    for proxy in proxies.iter() {
        // Warms caches and pools, and shows that it works.
        load(part, proxy, 1, options.connections)?;
    }
    for round in 1..=options.rounds {
        let mut told = format!("{round:>2} of {}", options.rounds);
        for (proxy, (name, figures)) in proxies.iter().zip(&mut figures) {
            go_on()?;
            let tree = proxy.tree()?;
            let before = tree.seconds();
            let requests = load(part, proxy, options.seconds, options.connections)
                .with_context(|| format!("{name}: {}", proxy.complaint()))?;
            let figure = (tree.seconds() - before) * per / requests as f64;
            told.push_str(&format!("   {name} {figure:.2} ({requests})"));
            figures.push(figure);
            served.push(json!([name, requests]));
        }
        shell::note(&told);
    }
    Ok(Outcome {
        part: part.name(),
        unit,
        figures,
        target: Target::Ratio(target),
        more: json!({ "requests": served }),
    })
}

/// One round of load. Answers with the requests that were served.
pub(super) fn load(part: Part, proxy: &Proxy, seconds: u32, connections: u32) -> Result<u64> {
    let small = |at, header| wrk(at, SMALL.0, seconds, connections, header);
    match part {
        Part::Body => wrk(proxy.http, MEDIUM.0, seconds, connections, None),
        Part::NewConnection => small(proxy.http, Some("Connection: close")),
        Part::Tcp => small(proxy.tcp.context("it relays no bytes")?, None),
        Part::Http2 => h2load(proxy.http2, SMALL.0, seconds, connections),
        Part::Download => client::beside(|| {
            let mut client = client::Client::connect(proxy.http)?.with_buffer(DOWNLOAD_BUFFER);
            for _ in 0..DOWNLOADS * seconds {
                let length = client.get(LARGE.0)?;
                ensure!(length == LARGE.1 as u64, "a body of {length} bytes");
            }
            Ok((DOWNLOADS * seconds).into())
        }),
        Part::KeepAlive | Part::Latency | Part::Idle | Part::Churn => small(proxy.http, None),
    }
}
