//! One probe: connect, speak, judge, within its time.
//!
//! Owns the order of the phases and the deadline that spans them all. Never speaks HTTP (`http`) or chooses
//! certificates (`tls`) itself.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use weir_core::{
    health::{Failure, Outcome, Phase, ProbeResult},
    plan::{CheckKind, HttpCheck},
};

use crate::{
    failure, http,
    tls::{Configs, server_name},
};

/// Runs probes. Cheap to clone; clones share the certificates they have loaded.
///
/// The system's root certificates are loaded once, when a probe first needs them; a `ca` bundle again whenever the file
/// was replaced or changed.
#[derive(Clone, Debug, Default)]
pub struct Prober {
    tls: Arc<Configs>,
}

impl Prober {
    /// Reads nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one probe. Must be called within a tokio runtime with I/O and time enabled. Dropping the future ends the
    /// probe and closes its connection.
    pub async fn probe(&self, target: SocketAddr, kind: &CheckKind, timeout: Duration) -> ProbeResult {
        let started = Instant::now();
        let deadline = Deadline::after(started, timeout);
        let outcome = match kind {
            CheckKind::Tcp => tcp(target, deadline).await,
            CheckKind::Http(check) => self.http(target, check, deadline).await,
        };
        let outcome = outcome.map_or_else(Outcome::Failed, |()| Outcome::Passed);
        ProbeResult {
            outcome,
            took: started.elapsed(),
        }
    }

    async fn http(&self, target: SocketAddr, check: &HttpCheck, deadline: Deadline) -> Result<(), Failure> {
        let request = http::request(target, check)?;
        let Some(tls) = &check.tls else {
            let stream = connect(target, deadline).await?;
            return exchange(stream, &request, check, deadline).await;
        };
        let name = server_name(target, check, tls)?;
        // Before connecting, so that the backend isn't kept waiting for our disk.
        let slow = || {
            Err(Failure::Internal(
                "loading certificates took longer than the check may".into(),
            ))
        };
        let config = timeout_at(deadline.0, self.tls.get(tls))
            .await
            .unwrap_or_else(|_| slow())?;
        let stream = connect(target, deadline).await?;
        let stream = deadline
            .bound(Phase::Tls, async {
                let handshake = TlsConnector::from(config).connect(name, stream);
                handshake.await.map_err(|e| failure::stream(Phase::Tls, &e))
            })
            .await?;
        exchange(stream, &request, check, deadline).await
    }
}

/// When a probe has to be over.
#[derive(Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn after(started: Instant, timeout: Duration) -> Self {
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
        Self(started + timeout.min(LONGEST))
    }

    /// Runs one phase; it fails if it isn't over by then.
    async fn bound<T>(
        self,
        phase: Phase,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        timeout_at(self.0, work)
            .await
            .unwrap_or(Err(Failure::Timeout(phase)))
    }
}

async fn tcp(target: SocketAddr, deadline: Deadline) -> Result<(), Failure> {
    let stream = connect(target, deadline).await?;
    // Close by RST. Nothing was sent and nothing is awaited, so nothing can be lost; and an orderly close would leave a
    // TIME_WAIT here for every check, a port taken for a minute. Only here: RST in an HTTP exchange could tear an
    // answer that the backend still writes, which it would rightly log as an error.
    stream
        .set_zero_linger()
        .map_err(|e| Failure::Internal(e.to_string()))
}

async fn connect(target: SocketAddr, deadline: Deadline) -> Result<TcpStream, Failure> {
    let connected = async { TcpStream::connect(target).await.map_err(|e| failure::connect(&e)) };
    deadline.bound(Phase::Connect, connected).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
    check: &HttpCheck,
    deadline: Deadline,
) -> Result<(), Failure> {
    let status = deadline
        .bound(Phase::Response, http::exchange(stream, request))
        .await?;
    if check.accepts(status) {
        Ok(())
    } else {
        Err(Failure::Status(status))
    }
}

#[cfg(test)]
mod tests;
