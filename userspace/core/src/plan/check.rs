//! How the health of a pool's backends is found out.

use std::{path::PathBuf, time::Duration};

use super::HttpProtocol;
use crate::proxy::Version;

/// `[pools.NAME.check]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// Port to check instead of the backend's own.
    pub port: Option<u16>,
    /// Random share of the interval, in percent, by which each check is moved, so that checks spread out. 0 to 50.
    pub jitter: u8,
    /// Version of the PROXY header that its connections begin with; it says that they are weir's own. None: they begin
    /// with none.
    pub proxy: Option<Version>,
}

/// What a check asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP request is answered as expected.
    Http(HttpCheck),
}

/// An HTTP or HTTPS check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpCheck {
    /// What is spoken: never `h2` without TLS, never `h2c` over it.
    pub protocol: HttpProtocol,
    /// Over TLS.
    pub tls: Option<TlsCheck>,
    /// Request method, `GET` or `HEAD` or another token.
    pub method: String,
    /// Request target, beginning with `/`.
    pub path: String,
    /// `Host` header. None: the backend's address.
    pub host: Option<String>,
    /// Statuses that count as success, as inclusive ranges.
    pub status: Vec<(u16, u16)>,
}

impl HttpCheck {
    /// Whether a status counts as success.
    pub fn accepts(&self, status: u16) -> bool {
        self.status
            .iter()
            .any(|&(low, high)| (low..=high).contains(&status))
    }
}

/// How an HTTPS check treats the certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsCheck {
    /// Verify chain and name against the system's roots (or `ca`).
    pub verify: bool,
    /// PEM bundle instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// Server name for SNI and verification. None: the `Host`, or the address.
    pub server_name: Option<String>,
}
