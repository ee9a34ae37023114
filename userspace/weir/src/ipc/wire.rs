//! The messages themselves, as they are serialised. Conversions from and to the core's types stand beside them.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weir_core::{
    engine::ProbeRequest,
    health::{Failure, Outcome, Phase, ProbeResult, Word},
    ids::{BackendKey, Interface, ListenKey, PoolName, Protocol, Scope},
    plan::{CheckKind, HttpCheck, HttpProtocol, TlsCheck},
    proxy::Version,
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
    /// Where signatures are asked for from now on: one descriptor per worker.
    Signers,
    /// Sockets of one family that may have addresses of others, each a descriptor.
    Sockets { v6: bool },
    /// Answered by [`FromRelay::Stats`].
    Stats { id: u64 },
    /// Answered by one [`FromRelay::Listener`] each, then [`FromRelay::ListenersEnd`].
    Listeners,
    /// Serve on, but have connections end where that costs nothing. Answered by [`FromRelay::Eased`], at the latest after that
    /// time.
    Ease { within_ms: u64 },
    /// The end that connections were eased out for has come or is off: serve as ever.
    ServeOn,
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
    /// So many sockets that may have addresses of others are wanted, by family. Answered by [`ToRelay::Sockets`].
    Lacks { v4: usize, v6: usize },
    /// Connections that were open have ended, all but so many.
    Eased { left: u64 },
    /// Drained; the process exits. How many connections were cut.
    Drained { cut: u64 },
}

/// Control to health.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum ToHealth {
    /// Run a probe.
    Probe(Box<WireProbe>),
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

/// Control to keys.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum ToKeys {
    /// Hold these keys, too. One descriptor: a secret, private keys in PEM. Answered by [`FromKeys::Holds`].
    Keys { id: u64 },
    /// Forget all keys but these. One descriptor: their names, one a line. Answered by [`FromKeys::Holds`].
    Retain { id: u64 },
    /// Sockets that the relay asks for signatures over, one per worker. Those before are served until they are closed.
    Signers,
    /// Answered by [`FromKeys::Stats`].
    Stats { id: u64 },
    /// Another process has its place: exit once nobody asks over the sockets that it has.
    Retire,
    /// Exit.
    Stop,
}

/// Keys to control.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum FromKeys {
    /// Said first on every connection.
    Hello { identity: String },
    /// So many keys are held. With an error: as many as before, and why.
    Holds {
        id: u64,
        keys: usize,
        error: Option<String>,
    },
    /// Counters since the process started.
    Stats { id: u64, signed: u64, refused: u64 },
}

impl super::Greeting for FromKeys {
    fn identity(&self) -> Option<&str> {
        if let Self::Hello { identity } = self {
            Some(identity)
        } else {
            None
        }
    }
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
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct WireKey {
    addr: SocketAddr,
    udp: bool,
    /// The prefix of a transparent listener's network.
    network: Option<u8>,
    /// The interface that it is for.
    #[serde(default)]
    interface: Option<String>,
}

impl From<ListenKey> for WireKey {
    fn from(key: ListenKey) -> Self {
        Self {
            addr: SocketAddr::new(key.addr, key.port),
            udp: key.protocol == Protocol::Udp,
            network: match key.scope {
                Scope::Address => None,
                Scope::Network(prefix) => Some(prefix),
            },
            interface: key.interface.map(|interface| interface.to_string()),
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
            scope: key.network.map_or(Scope::Address, Scope::Network),
            interface: { key.interface.as_deref() }.and_then(Interface::new),
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
    /// Version of the PROXY header that it begins with.
    #[serde(default)]
    proxy: Option<u8>,
    /// What it may be bound to.
    #[serde(default)]
    pub(crate) from: Vec<SocketAddr>,
    /// The interface that it leaves by.
    #[serde(default)]
    interface: Option<String>,
    http: Option<WireHttp>,
}

#[derive(Serialize, Deserialize, Debug)]
struct WireHttp {
    http2: bool,
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
    pub(crate) fn new(probe: &ProbeRequest) -> Self {
        let ProbeRequest {
            id,
            key: _,
            target,
            kind,
            from,
            interface,
            proxy,
            timeout,
        } = probe;
        let http = match kind {
            CheckKind::Tcp => None,
            CheckKind::Http(HttpCheck {
                protocol,
                tls,
                method,
                path,
                host,
                status,
            }) => Some(WireHttp {
                http2: protocol.is_http2(),
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
            id: id.0,
            target: *target,
            timeout_us: micros(*timeout),
            proxy: proxy.map(|version| match version {
                Version::V1 => 1,
                Version::V2 => 2,
            }),
            from: from.clone(),
            interface: interface.map(|interface| interface.to_string()),
            http,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_us)
    }

    pub(crate) fn proxy(&self) -> Option<Version> {
        match self.proxy {
            Some(1) => Some(Version::V1),
            Some(_) => Some(Version::V2),
            None => None,
        }
    }

    pub(crate) fn interface(&self) -> Option<Interface> {
        Interface::new(self.interface.as_deref()?)
    }

    pub(crate) fn kind(self) -> CheckKind {
        match self.http {
            None => CheckKind::Tcp,
            Some(WireHttp {
                http2,
                tls,
                method,
                path,
                host,
                status,
            }) => CheckKind::Http(HttpCheck {
                protocol: match (http2, &tls) {
                    (true, Some(_)) => HttpProtocol::H2,
                    (true, None) => HttpProtocol::H2c,
                    (false, _) => HttpProtocol::Http1,
                },
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
    use weir_core::engine::ProbeId;

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
        let tls = TlsCheck {
            verify: true,
            ca: Some("/etc/ca.pem".into()),
            server_name: Some("b.example".into()),
        };
        let http = |protocol, tls| {
            CheckKind::Http(HttpCheck {
                protocol,
                tls,
                method: "HEAD".into(),
                path: "/healthz".into(),
                host: None,
                status: vec![(200, 299), (404, 404)],
            })
        };
        let kinds = [
            (CheckKind::Tcp, None),
            (http(HttpProtocol::Http1, None), Some(Version::V1)),
            (http(HttpProtocol::Http1, Some(tls.clone())), Some(Version::V2)),
            (http(HttpProtocol::H2c, None), None),
            (http(HttpProtocol::H2, Some(tls)), None),
        ];
        for (kind, proxy) in kinds {
            let target = "[::1]:80".parse().unwrap();
            let asked = ProbeRequest {
                id: ProbeId(3),
                key: BackendKey {
                    pool: PoolName::new("web"),
                    address: target,
                },
                target,
                kind,
                from: vec!["[2001:db8::5]:3000".parse().unwrap()],
                interface: Interface::new("eth1"),
                proxy,
                timeout: Duration::from_millis(1500),
            };
            let probe = through_json(&WireProbe::new(&asked));
            assert_eq!((probe.id, probe.target), (3, target));
            assert_eq!(probe.from, asked.from);
            assert_eq!(probe.interface(), asked.interface);
            assert_eq!((probe.timeout(), probe.proxy()), (asked.timeout, proxy));
            assert_eq!(probe.kind(), asked.kind);
        }
    }

    #[test]
    fn keys_and_words_survive_the_way() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let key = ListenKey {
                addr: "2001:db8::10".parse().unwrap(),
                port: 53,
                protocol,
                scope: Scope::Address,
                interface: Interface::new("eth1").filter(|_| protocol == Protocol::Tcp),
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
