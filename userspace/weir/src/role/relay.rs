//! The relay process: puts `weir-relay` to work as control says.

mod tls;

use std::{
    collections::BTreeMap,
    future::pending,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use weir_config::Source;
use weir_core::{
    ids::{ListenKey, ServiceName},
    plan::{LogTarget, Plan},
};
use weir_relay::{AccessLog, Options, Relay, Stock};
use weir_tls::RemoteKeys;

use crate::{
    cli::{AccessArgs, LogArgs},
    ipc::{self, Channel, FromRelay, Listener, ToRelay, borrow, stats::RelayStats},
};

/// How long to drain before any configuration has said.
const DRAIN: Duration = Duration::from_secs(30);

/// `weir role relay`
pub(crate) fn run(workers: u16, access: &AccessArgs, log: &LogArgs) -> anyhow::Result<()> {
    let access_log = AccessLog {
        to: LogTarget::from_word(&access.access_log),
        format: access.access_format,
        null: access.access_null,
    };
    super::enter("relay", log, async |listener| {
        let relay = Relay::start(Options { workers, access_log })?;
        let stock = relay.stock();
        let process = Process {
            relay,
            keys: RemoteKeys::new(usize::from(workers)),
            drain: DRAIN,
            coming: None,
            ends: tls::Ends::new()?,
            stock,
        };
        process.serve(listener).await
    })
}

/// A configuration that is being told and not yet applied.
struct Coming {
    generation: u64,
    plan: Arc<Plan>,
    listeners: BTreeMap<ListenKey, (ServiceName, Vec<OwnedFd>)>,
}

struct Process {
    relay: Relay,
    /// Who signs for it. It holds no private key.
    keys: RemoteKeys,
    /// How long to drain when nobody says.
    drain: Duration,
    coming: Option<Coming>,
    ends: tls::Ends,
    /// Sockets that may have addresses of others, which only control can make.
    stock: Arc<Stock>,
}

impl Process {
    async fn serve(mut self, listener: Listener) -> anyhow::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut control: Option<Channel> = None;
        let stock = Arc::clone(&self.stock);
        let mut minutes = tokio::time::interval(Duration::from_secs(60));
        let mut easing: Option<Pin<Box<dyn Future<Output = u64>>>> = None;
        loop {
            tokio::select! {
                biased;
                _ = term.recv() => match &control {
                    // A signal to the whole group, as a stop sends it: control says when it is time.
                    Some(_) => info!("SIGTERM: control decides"),
                    None => {
                        info!("SIGTERM: draining");
                        let within = self.drain;
                        return self.end(None, within).await;
                    }
                },
                _ = minutes.tick() => {
                    self.ends.turn();
                    // What control could not make then it may be able to make now.
                    stock.forget_asked();
                }
                accepted = listener.accept() => {
                    let channel = accepted.context("the control listener")?;
                    let hello = FromRelay::Hello { identity: super::identity() };
                    match channel.send(&hello, &[]).await {
                        Ok(()) => {
                            self.coming = None;
                            control = Some(channel);
                            // The end that the control before this one was at is off.
                            self.relay.serve_on();
                            easing = None;
                            // Whoever was asked before is gone.
                            stock.forget_asked();
                        }
                        Err(error) => warn!(error = format!("{error:#}"), "control hung up before the greeting"),
                    }
                }
                (v4, v6) = stock.lacks(), if control.is_some() => {
                    if let Some(channel) = &control
                        && let Err(error) = channel.send(&FromRelay::Lacks { v4, v6 }, &[]).await
                    {
                        warn!(error = format!("{error:#}"), "control can't be asked for sockets");
                    }
                }
                left = async { easing.as_mut()?.await.into() }, if easing.is_some() => {
                    easing = None;
                    if let (Some(left), Some(channel)) = (left, &control) {
                        // Control may be gone; its successor knows nothing of it.
                        let _ = channel.send(&FromRelay::Eased { left }, &[]).await;
                    }
                }
                message = receive(control.as_ref()) => match message {
                    Ok(Some((ToRelay::Ease { within_ms }, _))) => {
                        easing = Some(Box::pin(self.relay.ease(Duration::from_millis(within_ms))));
                    }
                    Ok(Some((ToRelay::ServeOn, _))) => {
                        info!("connections are to end no more");
                        self.relay.serve_on();
                        easing = None;
                    }
                    Ok(Some((ToRelay::Drain { within_ms }, _))) => {
                        // Who is obeyed no more answers nobody either.
                        drop(listener);
                        return self.end(control.as_ref(), Duration::from_millis(within_ms)).await;
                    }
                    Ok(Some((message, fds))) => {
                        if let Some(channel) = &control
                            && let Err(error) = self.obey(message, fds, channel).await
                        {
                            warn!(error = format!("{error:#}"), "control's message could not be obeyed");
                        }
                    }
                    Ok(None) => {
                        info!("control is gone; the relay goes on and waits for another");
                        control = None;
                    }
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "control can't be understood; the relay goes on and waits for another");
                        control = None;
                    }
                },
            }
        }
    }

    async fn obey(&mut self, message: ToRelay, fds: Vec<OwnedFd>, control: &Channel) -> anyhow::Result<()> {
        match message {
            ToRelay::Config { generation } => {
                let fd = fds
                    .into_iter()
                    .next()
                    .context("a configuration without its text")?;
                let source: Source =
                    serde_json::from_str(&ipc::read_text(fd)?).context("a configuration's source")?;
                self.drain = source.tunables.values().relay_drain;
                let tunables = source.tunables.values();
                self.relay.set_memory(tunables.relay_limit_memory);
                self.relay
                    .set_connections(tunables.relay_limit_connections_total.into());
                self.relay.set_streams(tunables.relay_limit_streams_total.into());
                self.relay.set_handshakes(tunables.relay_limit_handshakes.into());
                match source.resolve() {
                    Ok(plan) => {
                        self.coming = Some(Coming {
                            generation,
                            plan: Arc::new(plan),
                            listeners: BTreeMap::new(),
                        });
                    }
                    // Control has resolved the same text by the same code: the two are not of one build.
                    Err(report) => {
                        self.coming = None;
                        control
                            .send(
                                &FromRelay::Refused {
                                    generation,
                                    error: report.to_string(),
                                },
                                &[],
                            )
                            .await?;
                    }
                }
            }
            ToRelay::Listener { key, service } => {
                let coming = self
                    .coming
                    .as_mut()
                    .context("a listener before its configuration")?;
                coming
                    .listeners
                    .insert(key.into(), (ServiceName::new(service), fds));
            }
            ToRelay::Words(words) => {
                let words = words
                    .into_iter()
                    .map(ipc::WireWord::parse)
                    .collect::<anyhow::Result<Vec<_>>>()?;
                self.relay.set_words(&words);
            }
            ToRelay::Apply { generation } => {
                let coming = self.coming.take().context("nothing to apply")?;
                if coming.generation != generation {
                    bail!(
                        "told to apply configuration {generation}, but {} was told",
                        coming.generation
                    );
                }
                let answer = match self.apply(coming) {
                    Ok(()) => FromRelay::Applied { generation },
                    Err(error) => {
                        error!(
                            generation,
                            error = format!("{error:#}"),
                            "the configuration can't be applied"
                        );
                        FromRelay::Refused {
                            generation,
                            error: format!("{error:#}"),
                        }
                    }
                };
                control.send(&answer, &[]).await?;
            }
            ToRelay::Signers => self.keys.connect(fds).context("sockets for signatures")?,
            ToRelay::Sockets { v6 } => self.stock.give(v6, fds),
            ToRelay::Stats { id } => {
                let stats = RelayStats::from(&self.relay.snapshot());
                let text = ipc::text("weir-stats", &serde_json::to_vec(&stats)?)?;
                control.send(&FromRelay::Stats { id }, &[text.as_fd()]).await?;
            }
            ToRelay::Listeners => {
                let error = self.tell_listeners(control).await.err().map(|e| format!("{e:#}"));
                control.send(&FromRelay::ListenersEnd { error }, &[]).await?;
            }
            ToRelay::Ease { .. } | ToRelay::ServeOn | ToRelay::Drain { .. } => {
                bail!("an end is not obeyed here")
            }
        }
        Ok(())
    }

    async fn tell_listeners(&self, control: &Channel) -> anyhow::Result<()> {
        for (key, service, sockets) in self.relay.listeners().context("duplicating listening sockets")? {
            let message = FromRelay::Listener {
                key: key.into(),
                service: service.as_str().to_owned(),
            };
            control.send(&message, &borrow(&sockets)).await?;
        }
        Ok(())
    }

    fn apply(&mut self, coming: Coming) -> anyhow::Result<()> {
        let Coming {
            generation: _,
            plan,
            listeners,
        } = coming;
        let listeners = listeners
            .into_iter()
            .map(|(key, (service, sockets))| weir_relay::Listener {
                key,
                service,
                sockets,
            })
            .collect();
        let ends = self.ends.of(&plan, &self.keys)?;
        self.relay.apply_with(plan, listeners, &ends)?;
        Ok(())
    }

    async fn end(self, control: Option<&Channel>, within: Duration) -> anyhow::Result<()> {
        let cut = self.relay.drain(within).await;
        info!(cut, "drained");
        if let Some(control) = control {
            // Control may be gone; the drain is done all the same.
            let _ = control.send(&FromRelay::Drained { cut }, &[]).await;
        }
        Ok(())
    }
}

async fn receive(control: Option<&Channel>) -> anyhow::Result<Option<(ToRelay, Vec<OwnedFd>)>> {
    match control {
        Some(channel) => channel.receive().await,
        None => pending().await,
    }
}
