//! The health process: runs probes for whoever holds the connection, reports each result once.

use std::future::pending;

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::unbounded_channel,
};
use tracing::{debug, info, warn};
use weir_core::{
    engine::{ProbeId, ProbeRequest},
    ids::{BackendKey, PoolName},
};
use weir_health::{Command, ProbeRunner, Prober};

use crate::{
    cli::LogArgs,
    ipc::{Channel, FromHealth, Listener, ToHealth, WireResult},
};

/// Probes under way at once. One takes one descriptor; the limit keeps a mistake from taking them all.
const AT_ONCE: usize = 4096;

/// `weir role health`
pub(crate) fn run(log: &LogArgs) -> anyhow::Result<()> {
    super::enter("health", log, serve)
}

async fn serve(listener: Listener) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let (commands, commanded) = unbounded_channel();
    let (results, mut finished) = unbounded_channel();
    let runner = tokio::task::spawn_local(ProbeRunner::new(Prober::new(), AT_ONCE).run(commanded, results));
    let mut control: Option<Channel> = None;
    loop {
        tokio::select! {
            biased;
            _ = term.recv() => match &control {
                // A signal to the whole group, as a stop sends it: control says when it is time.
                Some(_) => debug!("SIGTERM: control decides"),
                None => return Ok(()),
            },
            accepted = listener.accept() => {
                let channel = accepted.context("the control listener")?;
                // What the control before it asked for is of no use to this one.
                commands.send(Command::CancelAll).context("the prober has ended")?;
                let hello = FromHealth::Hello { identity: super::identity() };
                match channel.send(&hello, &[]).await {
                    Ok(()) => control = Some(channel),
                    Err(error) => warn!(error = format!("{error:#}"), "control hung up before the greeting"),
                }
            }
            message = receive(control.as_ref()) => match message {
                Ok(Some(ToHealth::Probe(probe))) => {
                    let request = ProbeRequest {
                        id: ProbeId(probe.id),
                        // Whose health it is matters to control only, which knows it by the id.
                        key: BackendKey { pool: PoolName::new(""), address: probe.target },
                        target: probe.target,
                        timeout: probe.timeout(),
                        proxy: probe.proxy(),
                        interface: probe.interface(),
                        from: probe.from.clone(),
                        kind: probe.kind(),
                    };
                    commands.send(Command::Start(Box::new(request))).context("the prober has ended")?;
                }
                Ok(Some(ToHealth::Cancel { id })) => {
                    commands.send(Command::Cancel(ProbeId(id))).context("the prober has ended")?;
                }
                Ok(Some(ToHealth::Stop)) => {
                    runner.abort();
                    return Ok(());
                }
                Ok(None) => {
                    info!("control is gone; waiting for another");
                    commands.send(Command::CancelAll).context("the prober has ended")?;
                    control = None;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "control can't be understood; waiting for another");
                    control = None;
                }
            },
            result = finished.recv() => {
                let (ProbeId(id), result) = result.context("the prober has ended")?;
                if let Some(channel) = &control
                    && let Err(error) = channel.send(&FromHealth::Result(WireResult::new(id, &result)), &[]).await
                {
                    warn!(error = format!("{error:#}"), "a result can't be sent");
                    control = None;
                }
            }
        }
    }
}

async fn receive(control: Option<&Channel>) -> anyhow::Result<Option<ToHealth>> {
    match control {
        Some(channel) => Ok(channel.receive().await?.map(|(message, _)| message)),
        None => pending().await,
    }
}
