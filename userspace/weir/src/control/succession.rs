//! One control process in the place of another, without a gap: `weir upgrade`, `weir run --replace`.
//!
//! The successor is started beside the one that runs, and asks it for its place over the control socket. That one lets go of
//! everything at once, as if it had crashed, but with word left of what it knows, and from then on only waits. If the successor
//! ends, or says that it can't, before it serves, the one before takes back what is there and goes on, by its own configuration.
//!
//! ```text
//!   weir upgrade ─▶ control ───── starts ─────▶ successor: reads the configuration, looks at what is pinned
//!                      │ ◀── {"command":"replace"} ──┤
//!     last advert, all │                             │
//!     is let go of     ├──────── {"ok":true} ───────▶│ groups go on, programs load, the children are taken over
//!                      │                             │
//!                      │ ◀─────── {"ok":true} ───────┤ the relay serves
//!                    ends                            ▼
//! ```
//!
//! Nothing is decided by time but that a successor which says nothing is ended.
//!
//! This file has the successor's side; who makes way is `succession/way.rs`.

mod way;

use std::{io, path::Path, time::Duration};

use anyhow::{Context, bail};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use tracing::{info, warn};
use weir_core::plan::{Plan, XdpMode};

pub(crate) use self::way::Successor;
pub(super) use self::way::{Upgrade, Way, upgrade_over};
use super::state::{Control, RelayPhase};
use crate::{
    admin::api::{Answer, Request},
    notify,
};

/// How long a predecessor may take to let go: it waits for nothing.
const LETTING_GO: Duration = Duration::from_secs(10);
/// Longest word of one to the other, in bytes.
const WORD: u64 = 1 << 16;
/// In the environment of a process that an upgrade has started: the process that it is to take the place of.
const STARTED_BY: &str = "WEIR_UPGRADE_OF";

/// What each says of itself.
#[derive(Serialize, Deserialize, Debug)]
struct Who {
    pid: u32,
    version: String,
}

impl Who {
    fn own() -> Self {
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Where a plan's tables are pinned. Empty: it has no XDP.
fn pins(plan: &Plan) -> String {
    match plan.node.xdp {
        XdpMode::Off => String::new(),
        XdpMode::Native | XdpMode::Generic => plan.node.pins.display().to_string(),
    }
}

/// Reads one answer. None: the other end is gone.
async fn read_answer(stream: &mut BufReader<UnixStream>) -> anyhow::Result<Option<Answer>> {
    let mut line = String::new();
    match stream.take(WORD).read_line(&mut line).await {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        // It had not read all when it ended.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let answer = serde_json::from_str(&line);
    Ok(Some(answer.with_context(|| {
        format!("it says {line:?}, which is no answer")
    })?))
}

async fn write_line(stream: &mut BufReader<UnixStream>, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    timeout(LETTING_GO, stream.write_all(&text))
        .await
        .context("it does not read")??;
    Ok(())
}

/// Whether the other end has not closed the connection.
fn is_there(stream: &BufReader<UnixStream>) -> bool {
    let peeked = recv(stream.get_ref(), &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR))
}

/// The process whose place this one has taken. It waits for word that this one serves.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl Predecessor {
    /// Has the control process behind a socket let go of everything. None: there is none.
    ///
    /// # Errors
    /// It refuses, and goes on as it was; or it is gone that has started this one.
    pub(super) async fn relieve(socket: &Path, plan: &Plan) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(error).with_context(|| socket.display().to_string());
            }
            Err(_) => match std::env::var(STARTED_BY) {
                Ok(pid) => bail!(
                    "{}: nobody answers there; process {pid}, which has started this one for an upgrade, has ended, or has another \
                     admin.socket: that changes with a restart only",
                    socket.display()
                ),
                Err(_) => return Ok(None),
            },
        };
        let mut stream = BufReader::new(stream);
        let request = Request::Replace {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pins: pins(plan),
        };
        write_line(&mut stream, &request).await?;
        let answer = timeout(LETTING_GO, read_answer(&mut stream))
            .await
            .with_context(|| {
                format!(
                    "the weir that runs does not answer within {} s; look at its log",
                    LETTING_GO.as_secs()
                )
            })??;
        let answer = answer.context("the weir that runs hung up, and may have ended; look at its log")?;
        match answer {
            Answer {
                ok: true,
                result: Some(value),
                ..
            } => {
                let Who { pid, version } = serde_json::from_value(value)?;
                info!(
                    pid,
                    version, "the control process before this one has let go of everything"
                );
                Ok(Some(Self { stream, pid }))
            }
            Answer { error, .. } => bail!(
                "the weir that runs does not make way: {}; it goes on as it was",
                error.unwrap_or_else(|| "it says nothing of why".to_owned())
            ),
        }
    }

    /// Tells it that this one serves, or why it does not.
    pub(super) async fn tell(mut self, outcome: Result<(), &anyhow::Error>) {
        let answer = match outcome {
            Ok(()) => Answer::result(&Who::own()),
            Err(error) => Answer::error(format!("{error:#}")),
        };
        if let Err(error) = write_line(&mut self.stream, &answer).await {
            warn!(
                pid = self.pid,
                error = format!("{error:#}"),
                "the control process before this one can't be told how it went"
            );
        }
    }
}

impl Control {
    /// Tells the process whose place this one has taken that this one serves, once it does.
    ///
    /// # Errors
    /// It is gone, and the service manager that watched it does not know of this one.
    pub(super) async fn tell_of_service(&mut self, is_ending: bool) -> anyhow::Result<()> {
        if !(is_ending || self.relay_phase == RelayPhase::Serving) {
            return Ok(());
        }
        // What is told to end now is this one.
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(());
        };
        if !is_ending && !is_there(&predecessor.stream) && notify::is_watched_by_another() {
            bail!(
                "process {}, whose place this one has taken, died before it could tell the service manager so; that starts weir \
                 anew, and this one makes way",
                predecessor.pid
            );
        }
        predecessor.tell(Ok(())).await;
        Ok(())
    }
}
