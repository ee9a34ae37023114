//! One probe: connect, speak, judge, within its time.
//!
//! Owns the order of the phases and the deadline that spans them all. Never speaks HTTP (`http`) or chooses
//! certificates (`tls`) itself.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use weir_core::{
    health::{Failure, Outcome, Phase, ProbeResult},
    ids::Interface,
    plan::{CheckKind, HttpCheck, HttpProtocol},
    proxy::{self, Announced, Version},
};

use crate::{
    failure, http, http2, origin,
    tls::{Configs, HTTP2, server_name},
};

/// What a probe connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// What the connection is bound to: the first of these that the system lets it have; port 0 is the system's choice. Empty:
    /// nothing.
    pub from: Vec<SocketAddr>,
    /// The interface that the connection leaves by. None: as the routes say.
    pub interface: Option<Interface>,
    /// Version of the PROXY header that the connection begins with. It says that the connection is weir's own: `LOCAL`, or
    /// `UNKNOWN` in version 1.
    pub proxy: Option<Version>,
}

impl From<SocketAddr> for Target {
    /// From anywhere, without a header.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            from: Vec::new(),
            interface: None,
            proxy: None,
        }
    }
}

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
    pub async fn probe(&self, target: impl Into<Target>, kind: &CheckKind, timeout: Duration) -> ProbeResult {
        let target = target.into();
        let started = Instant::now();
        let deadline = Deadline::after(started, timeout);
        let outcome = match kind {
            CheckKind::Tcp => tcp(&target, deadline).await,
            CheckKind::Http(check) => self.http(&target, check, deadline).await,
        };
        let outcome = outcome.map_or_else(Outcome::Failed, |()| Outcome::Passed);
        ProbeResult {
            outcome,
            took: started.elapsed(),
        }
    }

    async fn http(&self, target: &Target, check: &HttpCheck, deadline: Deadline) -> Result<(), Failure> {
        if check.tls.is_none() && check.protocol == HttpProtocol::H2c {
            let request = http2::request(target.address, check)?;
            let stream = connect(target, deadline).await?;
            let status = http2::exchange(stream, request);
            return judge(check, deadline.bound(Phase::Response, status).await?);
        }
        let Some(tls) = &check.tls else {
            let request = http::request(target.address, check)?;
            let stream = connect(target, deadline).await?;
            return exchange(stream, &request, check, deadline).await;
        };
        let (http1, http2) = match check.protocol.is_http2() {
            true => (Vec::new(), Some(http2::request(target.address, check)?)),
            false => (http::request(target.address, check)?, None),
        };
        let name = server_name(target.address, check, tls)?;
        // Before connecting, so that the backend isn't kept waiting for our disk.
        let slow = || {
            Err(Failure::Internal(
                "loading certificates took longer than the check may".into(),
            ))
        };
        let config = timeout_at(deadline.0, self.tls.get(tls, check.protocol))
            .await
            .unwrap_or_else(|_| slow())?;
        let stream = connect(target, deadline).await?;
        let stream = deadline
            .bound(Phase::Tls, async {
                let handshake = TlsConnector::from(config).connect(name, stream);
                handshake.await.map_err(|e| failure::stream(Phase::Tls, &e))
            })
            .await?;
        let Some(request) = http2 else {
            return exchange(stream, &http1, check, deadline).await;
        };
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(Failure::Tls("it does not agree on HTTP/2 (ALPN)".into()));
        }
        let status = http2::exchange(stream, request);
        judge(check, deadline.bound(Phase::Response, status).await?)
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

async fn tcp(target: &Target, deadline: Deadline) -> Result<(), Failure> {
    let stream = connect(target, deadline).await?;
    if target.proxy.is_some() {
        // A reset could destroy the header before it was read, and that would be logged as a broken one.
        return Ok(());
    }
    // Close by RST. Nothing was sent and nothing is awaited, so nothing can be lost; and an orderly close would leave a
    // TIME_WAIT here for every check, a port taken for a minute. Only here: RST in an HTTP exchange could tear an
    // answer that the backend still writes, which it would rightly log as an error.
    stream
        .set_zero_linger()
        .map_err(|e| Failure::Internal(e.to_string()))
}

/// Connects, and says first whose connection it is where that is asked for.
async fn connect(target: &Target, deadline: Deadline) -> Result<TcpStream, Failure> {
    let Target {
        address,
        from,
        interface,
        proxy,
    } = target;
    let connected = async {
        let mut stream = origin::connect(*address, from, *interface).await?;
        if let Some(version) = proxy {
            let mut header = Vec::new();
            proxy::write(&mut header, *version, &Announced::default());
            let sent = stream.write_all(&header).await;
            sent.map_err(|e| failure::stream(Phase::Connect, &e))?;
        }
        Ok(stream)
    };
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
    judge(check, status)
}

fn judge(check: &HttpCheck, status: u16) -> Result<(), Failure> {
    if check.accepts(status) {
        Ok(())
    } else {
        Err(Failure::Status(status))
    }
}

#[cfg(test)]
mod tests;
