//! The messages themselves, as they are serialised. Conversions from and to the core's types stand beside them.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weir_core::{
    health::{Failure, Outcome, Phase, ProbeResult, Word},
    ids::{BackendKey, ListenKey, PoolName, Protocol},
    plan::{CheckKind, HttpCheck, TlsCheck},
};

/// Control to relay.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum ToRelay {
    /// A configuration to resolve and, with the next [`Self::Apply`], to serve. One descriptor: its
    /// [`Source`](weir_config::Source) as JSON. The generation counts up with each configuration.
    Config { generation: u64 },
    /// A listener of that configuration, with its sockets (one descriptor per worker). No descriptors: the relay keeps
    /// the sockets it has.
    Listener { key: WireKey, service: String },
    /// All listeners are told: serve them, and no others.
    Apply { generation: u64 },
    /// Health words, any number of messages, each adding to what was told before.
    Words(Vec<WireWord>),
    /// Answered by [`FromRelay::Stats`].
    Stats { id: u64 },
    /// Answered by one [`FromRelay::Listener`] each, then [`FromRelay::ListenersEnd`].
    Listeners,
    /// Stop accepting, end within the time, exit.
    Drain { within_ms: u64 },
}

/// Relay to control.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum FromRelay {
    /// Said first on every connection.
    Hello { identity: String },
    /// A listener that the relay holds, with duplicates of its sockets.
    Listener { key: WireKey, service: String },
    /// No more listeners. With an error: not all could be sent, and why.
    ListenersEnd { error: Option<String> },
    /// The configuration is in force.
    Applied { generation: u64 },
    /// The configuration could not be applied.
    Refused { generation: u64, error: String },
    /// Counters. One descriptor: JSON text.
    Stats { id: u64 },
    /// Drained; the process exits. How many connections were cut.
    Drained { cut: u64 },
}

/// Control to health.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum ToHealth {
    /// Run a probe.
    Probe(WireProbe),
    /// Its result is no longer wanted.
    Cancel { id: u64 },
    /// Exit.
    Stop,
}

/// Health to control.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum FromHealth {
    /// Said first on every connection.
    Hello { identity: String },
    /// A probe ended.
    Result(WireResult),
}

impl super::Greeting for FromRelay {
    fn identity(&self) -> Option<&str> {
        if let Self::Hello { identity } = self {
            Some(identity)
        } else {
            None
        }
    }
}

impl super::Greeting for FromHealth {
    fn identity(&self) -> Option<&str> {
        if let Self::Hello { identity } = self {
            Some(identity)
        } else {
            None
        }
    }
}

/// A [`ListenKey`].
#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
pub(crate) struct WireKey {
    addr: SocketAddr,
    udp: bool,
}

impl From<ListenKey> for WireKey {
    fn from(key: ListenKey) -> Self {
        Self {
            addr: SocketAddr::new(key.addr, key.port),
            udp: key.protocol == Protocol::Udp,
        }
    }
}

impl From<WireKey> for ListenKey {
    fn from(key: WireKey) -> Self {
        let protocol = if key.udp { Protocol::Udp } else { Protocol::Tcp };
        Self {
            addr: key.addr.ip(),
            port: key.addr.port(),
            protocol,
        }
    }
}

/// A backend with its word.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct WireWord {
    pool: String,
    address: SocketAddr,
    bits: u8,
}

impl WireWord {
    pub(crate) fn new(key: &BackendKey, word: Word) -> Self {
        Self {
            pool: key.pool.as_str().to_owned(),
            address: key.address,
            bits: word.bits(),
        }
    }

    pub(crate) fn parse(self) -> anyhow::Result<(BackendKey, Word)> {
        let word = Word::from_bits(self.bits).with_context(|| format!("health word {:#x}", self.bits))?;
        Ok((
            BackendKey {
                pool: PoolName::new(self.pool),
                address: self.address,
            },
            word,
        ))
    }
}

/// A probe to run.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct WireProbe {
    pub(crate) id: u64,
    pub(crate) target: SocketAddr,
    timeout_us: u64,
    http: Option<WireHttp>,
}

#[derive(Serialize, Deserialize, Debug)]
struct WireHttp {
    tls: Option<WireTls>,
    method: String,
    path: String,
    host: Option<String>,
    status: Vec<(u16, u16)>,
}

#[derive(Serialize, Deserialize, Debug)]
struct WireTls {
    verify: bool,
    ca: Option<PathBuf>,
    server_name: Option<String>,
}

impl WireProbe {
    pub(crate) fn new(id: u64, target: SocketAddr, kind: &CheckKind, timeout: Duration) -> Self {
        let http = match kind {
            CheckKind::Tcp => None,
            CheckKind::Http(HttpCheck {
                tls,
                method,
                path,
                host,
                status,
            }) => Some(WireHttp {
                tls: tls.as_ref().map(
                    |TlsCheck {
                         verify,
                         ca,
                         server_name,
                     }| WireTls {
                        verify: *verify,
                        ca: ca.clone(),
                        server_name: server_name.clone(),
                    },
                ),
                method: method.clone(),
                path: path.clone(),
                host: host.clone(),
                status: status.clone(),
            }),
        };
        Self {
            id,
            target,
            timeout_us: micros(timeout),
            http,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_us)
    }

    pub(crate) fn kind(self) -> CheckKind {
        match self.http {
            None => CheckKind::Tcp,
            Some(WireHttp {
                tls,
                method,
                path,
                host,
                status,
            }) => CheckKind::Http(HttpCheck {
                tls: tls.map(
                    |WireTls {
                         verify,
                         ca,
                         server_name,
                     }| TlsCheck {
                        verify,
                        ca,
                        server_name,
                    },
                ),
                method,
                path,
                host,
                status,
            }),
        }
    }
}

/// How a probe ended.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct WireResult {
    pub(crate) id: u64,
    took_us: u64,
    failure: Option<WireFailure>,
}

#[derive(Serialize, Deserialize, Debug)]
struct WireFailure {
    cause: String,
    phase: Option<String>,
    text: String,
    status: u16,
}

impl WireResult {
    pub(crate) fn new(id: u64, result: &ProbeResult) -> Self {
        let failure = match &result.outcome {
            Outcome::Passed => None,
            Outcome::Failed(failure) => Some(WireFailure::new(failure)),
        };
        Self {
            id,
            took_us: micros(result.took),
            failure,
        }
    }

    pub(crate) fn parse(self) -> anyhow::Result<(u64, ProbeResult)> {
        let outcome = match self.failure {
            None => Outcome::Passed,
            Some(failure) => Outcome::Failed(failure.parse()?),
        };
        Ok((
            self.id,
            ProbeResult {
                outcome,
                took: Duration::from_micros(self.took_us),
            },
        ))
    }
}

impl WireFailure {
    fn new(failure: &Failure) -> Self {
        let (phase, text, status) = match failure {
            Failure::Timeout(phase) => (Some(*phase), "", 0),
            Failure::Refused => (None, "", 0),
            Failure::Closed(phase, text) => (Some(*phase), text.as_str(), 0),
            Failure::Unreachable(text)
            | Failure::Tls(text)
            | Failure::Malformed(text)
            | Failure::Internal(text) => (None, text.as_str(), 0),
            Failure::Status(status) => (None, "", *status),
        };
        Self {
            cause: failure.cause().to_owned(),
            phase: phase.map(|p| p.as_str().to_owned()),
            text: text.to_owned(),
            status,
        }
    }

    fn parse(self) -> anyhow::Result<Failure> {
        let phase = || {
            let name = self.phase.as_deref().context("a failure without its phase")?;
            [Phase::Connect, Phase::Tls, Phase::Response]
                .into_iter()
                .find(|p| p.as_str() == name)
                .with_context(|| format!("unknown phase {name}"))
        };
        Ok(match self.cause.as_str() {
            "timeout" => Failure::Timeout(phase()?),
            "refused" => Failure::Refused,
            "unreachable" => Failure::Unreachable(self.text),
            "closed" => Failure::Closed(phase()?, self.text),
            "tls" => Failure::Tls(self.text),
            "malformed" => Failure::Malformed(self.text),
            "status" => Failure::Status(self.status),
            "internal" => Failure::Internal(self.text),
            other => bail!("unknown failure {other}"),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through_json<T: Serialize + for<'a> Deserialize<'a>>(value: &T) -> T {
        serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
    }

    #[test]
    fn every_failure_survives_the_way() {
        let text = || "the system's words".to_owned();
        let failures = [
            Failure::Timeout(Phase::Connect),
            Failure::Timeout(Phase::Tls),
            Failure::Timeout(Phase::Response),
            Failure::Refused,
            Failure::Unreachable(text()),
            Failure::Closed(Phase::Response, text()),
            Failure::Tls(text()),
            Failure::Malformed(text()),
            Failure::Status(503),
            Failure::Internal(text()),
        ];
        for failure in failures {
            let result = ProbeResult {
                outcome: Outcome::Failed(failure),
                took: Duration::from_micros(1234),
            };
            assert_eq!(
                through_json(&WireResult::new(7, &result)).parse().unwrap(),
                (7, result)
            );
        }
    }

    #[test]
    fn probes_survive_the_way() {
        let http = CheckKind::Http(HttpCheck {
            tls: Some(TlsCheck {
                verify: true,
                ca: Some("/etc/ca.pem".into()),
                server_name: Some("b.example".into()),
            }),
            method: "HEAD".into(),
            path: "/healthz".into(),
            host: None,
            status: vec![(200, 299), (404, 404)],
        });
        for kind in [CheckKind::Tcp, http] {
            let probe = WireProbe::new(3, "[::1]:80".parse().unwrap(), &kind, Duration::from_millis(1500));
            let probe = through_json(&probe);
            assert_eq!(probe.timeout(), Duration::from_millis(1500));
            assert_eq!(probe.kind(), kind);
        }
    }

    #[test]
    fn keys_and_words_survive_the_way() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let key = ListenKey {
                addr: "2001:db8::10".parse().unwrap(),
                port: 53,
                protocol,
            };
            assert_eq!(ListenKey::from(through_json(&WireKey::from(key))), key);
        }
        let key = BackendKey {
            pool: PoolName::new("web"),
            address: "10.0.0.1:80".parse().unwrap(),
        };
        let word = through_json(&WireWord::new(&key, Word::PENDING)).parse().unwrap();
        assert_eq!(word, (key, Word::PENDING));
    }
}
