//! The keys process: holds private keys, and signs with them for the relay.
//!
//! Owns who is answered: each socket that control hands over has a thread of its own, and is served until its other end
//! is closed. So the relay's handshakes go on while control is away, and while a relay drains whose successor has another keys
//! process. What is signed, `weir_tls::Signing` decides.

use std::{
    future::pending,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing::{debug, info, warn};
use weir_tls::{KeyId, PrivateKey, Signing};

use crate::{
    cli::LogArgs,
    ipc::{self, Channel, FromKeys, Listener, ToKeys},
    privileges,
};

/// A thread that signs needs little.
const STACK: usize = 256 * 1024;

/// `weir role keys`
pub(crate) fn run(log: &LogArgs) -> anyhow::Result<()> {
    super::enter("keys", log, serve)
}

/// The sockets that are served.
#[derive(Default)]
struct Lanes {
    count: AtomicUsize,
    /// Rung when one is closed.
    closed: Notify,
}

/// One of them, as long as it is served.
struct Lane(Arc<Lanes>);

impl Lane {
    fn of(lanes: &Arc<Lanes>) -> Self {
        lanes.count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(lanes))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.closed.notify_one();
    }
}

async fn serve(listener: Listener) -> anyhow::Result<()> {
    match privileges::guard_memory()? {
        None => debug!("memory is locked"),
        Some(why) => warn!(why, "memory can't be locked: keys may be written to swap"),
    }
    let mut term = signal(SignalKind::terminate())?;
    let signing = Arc::new(Signing::default());
    let lanes = Arc::new(Lanes::default());
    let mut control: Option<Channel> = None;
    let mut is_retired = false;
    loop {
        if is_retired && lanes.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = lanes.closed.notified(), if is_retired => {}
            _ = term.recv() => match &control {
                // A signal to the whole group, as a stop sends it: control says when it is time.
                Some(_) => info!("SIGTERM: control decides"),
                None => return Ok(()),
            },
            accepted = listener.accept() => {
                let channel = accepted.context("the control listener")?;
                let hello = FromKeys::Hello { identity: super::identity() };
                match channel.send(&hello, &[]).await {
                    Ok(()) => {
                        control = Some(channel);
                        is_retired = false;
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "control hung up before the greeting"),
                }
            }
            message = receive(control.as_ref()) => match message {
                Ok(Some((ToKeys::Stop, _))) => return Ok(()),
                Ok(Some((ToKeys::Retire, _))) => is_retired = true,
                Ok(Some((message, fds))) => {
                    let answer = obey(&signing, &lanes, message, fds);
                    if let (Some(channel), Some(answer)) = (&control, answer)
                        && let Err(error) = channel.send(&answer, &[]).await
                    {
                        warn!(error = format!("{error:#}"), "control can't be answered; waiting for another");
                        control = None;
                    }
                }
                Ok(None) => {
                    info!("control is gone; keys go on signing and wait for another");
                    control = None;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "control can't be understood; waiting for another");
                    control = None;
                }
            },
        }
    }
}

fn obey(signing: &Arc<Signing>, lanes: &Arc<Lanes>, message: ToKeys, fds: Vec<OwnedFd>) -> Option<FromKeys> {
    match message {
        ToKeys::Keys { id } => Some(holds(id, take(signing, fds))),
        ToKeys::Retain { id } => Some(holds(id, retain(signing, fds))),
        ToKeys::Signers => {
            for socket in fds {
                let (signing, lane) = (Arc::clone(signing), Lane::of(lanes));
                let work = move || {
                    let _lane = lane;
                    if let Err(error) = signing.serve(&socket) {
                        warn!(%error, "a worker of the relay is signed for no more");
                    }
                };
                let spawned = thread::Builder::new()
                    .name("signer".to_owned())
                    .stack_size(STACK)
                    .spawn(work);
                if let Err(error) = spawned {
                    warn!(%error, "no thread for a worker of the relay");
                }
            }
            None
        }
        ToKeys::Stats { id } => Some(FromKeys::Stats {
            id,
            signed: signing.signed(),
            refused: signing.refused(),
        }),
        ToKeys::Retire | ToKeys::Stop => None,
    }
}

fn take(signing: &Signing, fds: Vec<OwnedFd>) -> anyhow::Result<usize> {
    let fd = fds.into_iter().next().context("keys without their file")?;
    let secret = ipc::read_secret(fd)?;
    let keys = PrivateKey::read_all(secret.bytes()).map_err(|mistake| anyhow!("{mistake}"))?;
    Ok(signing.add(keys))
}

fn retain(signing: &Signing, fds: Vec<OwnedFd>) -> anyhow::Result<usize> {
    let fd = fds.into_iter().next().context("names without their text")?;
    let text = ipc::read_text(fd)?;
    let names = text
        .lines()
        .map(|line| KeyId::parse(line).context("no name of a key"));
    Ok(signing.retain(&names.collect::<anyhow::Result<_>>()?))
}

fn holds(id: u64, done: anyhow::Result<usize>) -> FromKeys {
    match done {
        Ok(keys) => FromKeys::Holds {
            id,
            keys,
            error: None,
        },
        Err(error) => FromKeys::Holds {
            id,
            keys: 0,
            error: Some(format!("{error:#}")),
        },
    }
}

async fn receive(control: Option<&Channel>) -> anyhow::Result<Option<(ToKeys, Vec<OwnedFd>)>> {
    match control {
        Some(channel) => channel.receive().await,
        None => pending().await,
    }
}
