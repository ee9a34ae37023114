//! The control socket: reads one JSON request a line, asks the control loop, writes one JSON answer a line.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use super::api::{Answer, Request};
use crate::control::{Ask, Successor};

/// Longest request, in bytes: a file of tunables fits many times over.
const MAX_REQUEST: u64 = 1 << 20;
/// A client that is silent for this long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// Open connections at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;

/// A bound control socket. Its path is removed when it is dropped.
pub(crate) struct ControlSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl ControlSocket {
    /// Binds the path (mode 0600, replacing a socket nobody answers on) and serves it.
    ///
    /// # Errors
    /// The path can't be bound. That no other weir lives behind it is the caller's lock to ensure.
    pub(crate) fn serve(path: &Path, control: mpsc::Sender<Ask>) -> anyhow::Result<Self> {
        match std::fs::remove_file(path) {
            Ok(()) => debug!(path = %path.display(), "removed a stale control socket"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(e).with_context(|| format!("admin.socket {}: can't be replaced", path.display()));
            }
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "admin.socket {}: can't be bound; choose a path you may write to",
                path.display()
            )
        })?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("admin.socket {}: mode can't be set", path.display()))?;
        let task = tokio::task::spawn_local(accept(listener, control));
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // It may be gone already, and a leftover is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, control: mpsc::Sender<Ask>) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = converse(stream, &control).await {
                        debug!(%error, "a control connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "control socket: accept failed");
                // Out of descriptors, most likely: give others the time to free some.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, control: &mpsc::Sender<Ask>) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(MAX_REQUEST);
        let length = timeout(IDLE, limited.read_until(b'\n', &mut line))
            .await
            .context("silent for too long")??;
        if length == 0 {
            return Ok(());
        }
        let answer = if !line.ends_with(b"\n") && length as u64 == MAX_REQUEST {
            Answer::error(format!("a request is at most {MAX_REQUEST} bytes"))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                Ok(Request::Replace { version, pins }) => {
                    let stream = read.into_inner().reunite(write)?;
                    let asked = Ask::Replace(Successor::new(stream, version, pins));
                    // If nobody listens any more the connection ends, which says it all.
                    let _ = control.send(asked).await;
                    return Ok(());
                }
                Ok(request) => crate::control::ask(control, request).await,
                Err(e) => Answer::error(format!("not a request: {e}")),
            }
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        timeout(IDLE, write.write_all(&text))
            .await
            .context("the client does not read")??;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}
