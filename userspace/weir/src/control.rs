//! The control process: holds the engine and everything that needs privilege, and connects all parts.
//!
//! One loop on one thread owns all state (`state::Control`); everything else (admin socket, HTTP endpoint, signals,
//! children) sends it events. So nothing here is locked, and every decision is made in one order.
//!
//! ```text
//! signals ─────┐                        ┌─▶ engine (weir-core): health, what follows
//! admin, HTTP ─┼─▶ Control: one loop ───┼─▶ kernel: BPF maps, addresses (weir-datapath)
//! relay ───────┤      ▲                 ├─▶ relay process: configuration, sockets, health words
//! health ──────┤      └── engine timers ├─▶ health process: probes
//! keys ────────┘                        └─▶ keys process: private keys, while a service ends TLS
//! ```

mod adopt;
mod answers;
mod apply;
mod certificates;
mod child;
mod ending;
mod explain;
mod exports;
mod flows;
mod ha;
mod interfaces;
mod kernel;
mod keys;
mod protect;
mod relay_link;
mod relief;
mod saved;
mod signing;
mod sources;
mod start;
mod state;
mod succession;
mod sweeps;

use anyhow::Context;
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

pub(crate) use self::succession::Successor;
pub(crate) use self::sweeps::FlowTables;
#[cfg(test)]
pub(crate) use self::sweeps::{FlowTable, PortForecast};
use crate::{
    admin::{
        api::{Answer, Pools, Request, Status},
        metrics::Scrape,
    },
    cli::RunArgs,
    context::Loaded,
};

/// What is asked of the control loop from outside.
pub(crate) enum Ask {
    /// A request of the control socket.
    Request(Request, oneshot::Sender<Answer>),
    /// What the status page and readiness show.
    View(oneshot::Sender<(Status, Pools)>),
    /// What Prometheus gets.
    Scrape(oneshot::Sender<Scrape>),
    /// [`Request::Upgrade`]
    Upgrade(oneshot::Sender<Answer>),
    /// [`Request::Replace`]
    Replace(Successor),
}

/// Asks; an answer that never comes (weir is stopping) becomes an error answer.
pub(crate) async fn ask(control: &mpsc::Sender<Ask>, request: Request) -> Answer {
    let (reply, answer) = oneshot::channel();
    let stopping = || Answer::error("weir is stopping, or makes way for another process of it: ask again");
    let asked = if request == (Request::Upgrade {}) {
        Ask::Upgrade(reply)
    } else {
        Ask::Request(request, reply)
    };
    if control.send(asked).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}

/// Status and pools. None: weir is stopping.
pub(crate) async fn view(control: &mpsc::Sender<Ask>) -> Option<(Status, Pools)> {
    let (reply, answer) = oneshot::channel();
    control.send(Ask::View(reply)).await.ok()?;
    answer.await.ok()
}

/// All counters. None: weir is stopping.
pub(crate) async fn scrape(control: &mpsc::Sender<Ask>) -> Option<Scrape> {
    let (reply, answer) = oneshot::channel();
    control.send(Ask::Scrape(reply)).await.ok()?;
    answer.await.ok()
}

/// `weir run`: until a signal ends it.
///
/// # Errors
/// What keeps weir from starting. Once it runs, it mends what breaks or says why it can't.
pub(crate) fn run(args: &RunArgs, loaded: Loaded) -> anyhow::Result<()> {
    crate::privileges::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("async runtime")?;
    LocalSet::new().block_on(&runtime, state::Control::run(args, loaded))
}
