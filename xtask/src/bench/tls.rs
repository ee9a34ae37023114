//! The bench of TLS with clients: what handshakes, requests and bytes cost in weir, in HAProxy and in nginx, and what an idle
//! connection holds.
//!
//! Owns the parts, their targets and the report, target/bench/tls.json. As in the bench `http`: one worker each on one core,
//! origin and load on the other, in alternating rounds. A connection's cost is that of all of a proxy's processes, weir's
//! `keys` included, and has one small request in it. `tls/field.rs` has the load of a field test beside it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use weir_harness::Scratch;

use super::{
    commit,
    cpu::settled,
    outcome::{Outcome, Target, show},
    peers::{self, Kind, Origin, go_on, raise_limit},
};
use crate::{shell, workspace::Workspace};

mod field;
mod load;
mod stage;

use load::Loader;
use stage::{Certificates, Proxy};

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// CPU per connection with a full handshake, RSA key of 2048 bits.
    FullRsa,
    /// CPU per connection with a full handshake, key on P-256.
    FullP256,
    /// CPU per connection that takes up a session of TLS 1.3.
    Resumed,
    /// CPU per connection that takes up a session of TLS 1.2.
    #[value(name = "resumed-tls12")]
    ResumedTls12,
    /// CPU per connection with a full handshake and a client's certificate, keys on P-256.
    ClientCertificate,
    /// CPU per small request over TLS on connections that stay.
    #[value(name = "tls-keep-alive")]
    KeepAlive,
    /// CPU per download of 64 MiB over TLS.
    #[value(name = "tls-download")]
    Download,
    /// Memory per idle connection over TLS.
    #[value(name = "tls-idle")]
    Idle,
    /// Memory under the load of a field test: 5000 new connections a minute beside 110 000 L4 flows (root).
    Field,
}

/// What is asked for.
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) connections: u32,
    pub(super) markdown: bool,
}

/// Idle connections.
const IDLE: usize = 10_000;

impl Part {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Unit, what a second of CPU is in it, and the target.
    const fn measure(self) -> (&'static str, f64, f64) {
        match self {
            Self::FullRsa => ("us per connection", 1e6, 0.75),
            Self::FullP256 => ("us per connection", 1e6, 0.6),
            Self::Resumed | Self::ResumedTls12 => ("us per connection", 1e6, 0.75),
            Self::ClientCertificate => ("us per connection", 1e6, 0.8),
            Self::Download => ("ms per 64 MiB", 1e3, 1.0),
            Self::KeepAlive | Self::Idle | Self::Field => ("us per request", 1e6, 1.0),
        }
    }
}

/// Puts the load of the parts that measure CPU on a weir.
pub(super) fn train(workspace: &Workspace, scratch: &Scratch, binary: &Path, origin: &Origin) -> Result<()> {
    let loader = Loader::build(workspace)?;
    shell::heading("its load over TLS");
    let certificates = Certificates::make(scratch)?;
    let weir = Proxy::start(scratch, binary, origin, &certificates, Kind::Weir)?;
    weir.wait(&loader, &certificates)?;
    for part in [
        Part::FullP256,
        Part::Resumed,
        Part::ClientCertificate,
        Part::KeepAlive,
        Part::Download,
    ] {
        go_on()?;
        let (at, args) = load(part, &weir, &certificates, 64, 1);
        let report = loader.begin(at, &args)?.go()?;
        let requests = report.get("requests").and_then(Value::as_u64).unwrap_or_default();
        ensure!(requests > 0, "nothing was answered: {report}");
        shell::note(&format!("{}: {requests} requests", part.name()));
    }
    go_on()?;
    weir.end()
}

pub(super) fn run(workspace: &Workspace, binary: &Path, options: &Options) -> Result<()> {
    peers::prepare()?;
    let loader = Loader::build(workspace)?;
    let scratch = Scratch::new()?;
    let (costs, others): (Vec<Part>, Vec<Part>) = options
        .parts
        .iter()
        .partition(|part| !matches!(part, Part::Idle | Part::Field));
    let mut outcomes = Vec::new();
    let mut field = Value::Null;
    if options.parts.iter().any(|part| *part != Part::Field) {
        let origin = Origin::start(&scratch)?;
        let certificates = Certificates::make(&scratch)?;
        if !costs.is_empty() {
            let proxies: Vec<_> = Kind::ALL
                .into_iter()
                .map(|kind| {
                    let proxy = Proxy::start(&scratch, binary, &origin, &certificates, kind)?;
                    proxy.wait(&loader, &certificates)?;
                    Ok(proxy)
                })
                .collect::<Result<_>>()?;
            for part in costs {
                shell::heading(&format!("tls, {}", part.name()));
                outcomes.push(cost(part, &proxies, &loader, &certificates, options)?);
            }
        }
        if others.contains(&Part::Idle) {
            shell::heading(&format!("tls, {}", Part::Idle.name()));
            outcomes.push(idle(&scratch, binary, &origin, &loader, &certificates)?);
        }
    }
    if others.contains(&Part::Field) {
        shell::heading("tls, field test");
        field = field::run(workspace, binary, &loader)?;
    }
    show("tls", &outcomes, options.markdown);
    let parts: Map<_, _> = outcomes.iter().map(|o| (o.part.clone(), o.report())).collect();
    let report = json!({
        "bench": "tls", "commit": commit(workspace), "rounds": options.rounds, "seconds": options.seconds,
        "connections": options.connections, "versions": peers::versions(), "parts": parts, "field": field,
    });
    super::write(workspace, "tls", &report)
}

/// What tls_load is told for a part, and where it goes.
fn load(
    part: Part,
    proxy: &Proxy,
    certificates: &Certificates,
    connections: u32,
    seconds: u32,
) -> (std::net::SocketAddr, Vec<String>) {
    let (at, mode) = match part {
        Part::FullRsa => (proxy.rsa, "new"),
        Part::FullP256 => (proxy.p256, "new"),
        Part::Resumed | Part::ResumedTls12 => (proxy.rsa, "resumed"),
        Part::ClientCertificate => (proxy.clients, "new"),
        Part::KeepAlive | Part::Download | Part::Idle | Part::Field => (proxy.p256, "keep-alive"),
    };
    let connections = if part == Part::Download { 1 } else { connections };
    let mut args = vec![
        mode.to_owned(),
        format!("connections={connections}"),
        format!("seconds={seconds}"),
    ];
    match part {
        Part::ResumedTls12 => args.push("version=1.2".to_owned()),
        Part::ClientCertificate => args.push(format!("identity={}", certificates.client)),
        Part::Download => args.push(format!("path={}", peers::LARGE.0)),
        Part::FullRsa | Part::FullP256 | Part::Resumed | Part::KeepAlive | Part::Idle | Part::Field => {}
    }
    (at, args)
}

fn cost(
    part: Part,
    proxies: &[Proxy],
    loader: &Loader,
    certificates: &Certificates,
    options: &Options,
) -> Result<Outcome> {
    let (unit, per, target) = part.measure();
    let mut figures: Vec<_> = proxies.iter().map(|p| (p.kind.name(), Vec::new())).collect();
    let mut served = Vec::new();
    // The first round warms caches and pools, and shows that it works.
    for round in 0..=options.rounds {
        let mut told = format!("{round:>2} of {}", options.rounds);
        for (proxy, (name, figures)) in proxies.iter().zip(&mut figures) {
            go_on()?;
            let (at, args) = load(part, proxy, certificates, options.connections, options.seconds);
            let waiting = loader.begin(at, &args);
            let waiting = waiting.with_context(|| format!("{name}: {}", proxy.complaint()))?;
            let tree = proxy.tree()?;
            let before = tree.seconds();
            let report = waiting.go();
            let report = report.with_context(|| format!("{name}: {}", proxy.complaint()))?;
            let used = tree.seconds() - before;
            let count = |what: &str| report.get(what).and_then(Value::as_u64).unwrap_or_default();
            let requests = count("requests");
            ensure!(requests > 0, "{name}: nothing was answered: {report}");
            let resumed = match part {
                Part::Resumed | Part::ResumedTls12 => requests,
                Part::FullRsa | Part::FullP256 | Part::ClientCertificate => 0,
                Part::KeepAlive | Part::Download | Part::Idle | Part::Field => count("resumed"),
            };
            ensure!(
                count("resumed") == resumed,
                "{name}: {} of {requests} connections took up a session, and not {resumed}",
                count("resumed")
            );
            if round > 0 {
                let figure = used * per / requests as f64;
                told.push_str(&format!("   {name} {figure:.2} ({requests})"));
                figures.push(figure);
                served.push(json!([name, requests]));
            }
        }
        if round > 0 {
            shell::note(&told);
        }
    }
    Ok(Outcome {
        part: part.name(),
        unit,
        figures,
        target: Target::Ratio(target),
        more: json!({ "requests": served }),
    })
}

/// Resident memory of idle connections that have had one answer each.
fn idle(
    scratch: &Scratch,
    binary: &Path,
    origin: &Origin,
    loader: &Loader,
    certificates: &Certificates,
) -> Result<Outcome> {
    // The client's limit is inherited.
    raise_limit(IDLE as u64 + 1_000)?;
    let mut figures = Vec::new();
    let mut more = Vec::new();
    for kind in Kind::ALL {
        go_on()?;
        let proxy = Proxy::start(scratch, binary, origin, certificates, kind)?;
        proxy.wait(loader, certificates)?;
        let begin = |count: usize| {
            let args = ["idle".to_owned(), format!("connections={count}")];
            loader.begin(proxy.p256, &args)
        };
        drop(begin(200)?);
        let tree = proxy.tree()?;
        let before = settled(&tree)?;
        let open = begin(IDLE).with_context(|| format!("{}: {}", kind.name(), proxy.complaint()))?;
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
        target: Target::Most(14.0),
        more: json!({ "connections": IDLE, "resident": more }),
    })
}
