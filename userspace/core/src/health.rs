//! Health of backends: the words that every part of weir speaks of, and (in `health/`) the machine behind them.
//!
//! Owns states, wishes, results and causes. Never runs a check (`weir-health` does) and never keeps a backend's record
//! (`engine` does): `machine` says what follows from a check, `schedule` when the next one is due.

pub mod machine;
pub(crate) mod rng;
pub(crate) mod schedule;

use std::{fmt, time::Duration};

/// What is known of a backend's health.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Not known yet: checks run in a burst, no traffic.
    Pending,
    /// In use.
    Up,
    /// Not in use.
    Down,
    /// Was down, passes checks again, not yet often enough: no traffic yet.
    Probation,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Up, Self::Down, Self::Probation];

    /// The word for it in logs, metrics, the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Up => "up",
            Self::Down => "down",
            Self::Probation => "probation",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the operator wants of a backend, laid over its state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Admin {
    /// Nothing special.
    #[default]
    Ready,
    /// Keeps the flows and connections it has, takes no new ones.
    Drain,
    /// Takes nothing; what it has is moved or ended.
    Maint,
}

impl Admin {
    /// Every wish.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maint];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// State and wish together: the word that ring, relay, metrics and command line all go by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Word {
    /// What is known.
    pub state: State,
    /// What is wanted.
    pub admin: Admin,
}

impl Word {
    /// A backend nothing is known of.
    pub const PENDING: Self = Self {
        state: State::Pending,
        admin: Admin::Ready,
    };

    /// Whether it may take new flows, connections and requests.
    pub const fn takes_new(self) -> bool {
        matches!((self.state, self.admin), (State::Up, Admin::Ready))
    }

    /// Whether flows and connections that it has may stay.
    pub const fn keeps_old(self) -> bool {
        matches!((self.state, self.admin), (State::Up, Admin::Ready | Admin::Drain))
    }

    /// As a number, for atomics: see [`Self::from_bits`].
    pub const fn bits(self) -> u8 {
        self.state as u8 | (self.admin as u8) << 4
    }

    /// From [`Self::bits`]; None for a number that no word has.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let state = *State::ALL.get(usize::from(bits & 0xf))?;
        let admin = *Admin::ALL.get(usize::from(bits >> 4))?;
        Some(Self { state, admin })
    }
}

/// How one probe ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeResult {
    /// What came of it.
    pub outcome: Outcome,
    /// From its start to its end.
    pub took: Duration,
}

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected, and why.
    Failed(Failure),
}

/// Why a probe failed. Each cause has one word, and a text with the particulars.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No answer within the check's timeout; in which phase.
    Timeout(Phase),
    /// The connection was refused.
    Refused,
    /// No way there (unreachable, no route), with the system's words.
    Unreachable(String),
    /// The connection broke; in which phase, with the system's words.
    Closed(Phase, String),
    /// The TLS handshake failed, with its words.
    Tls(String),
    /// The answer is no HTTP.
    Malformed(String),
    /// A status that is not among the expected.
    Status(u16),
    /// The probe could not be made: our own fault or the system's (no descriptors, no ports, the health process died).
    /// It does not count against the backend.
    Internal(String),
}

/// Phase of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// TCP handshake.
    Connect,
    /// TLS handshake.
    Tls,
    /// Waiting for the answer.
    Response,
}

impl Phase {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Response => "response",
        }
    }
}

impl Failure {
    /// The cause as one word, for metrics: bounded.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Refused => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Closed(..) => "closed",
            Self::Tls(_) => "tls",
            Self::Malformed(_) => "malformed",
            Self::Status(_) => "status",
            Self::Internal(_) => "internal",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(phase) => write!(f, "timeout in {}", phase.as_str()),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(text) => write!(f, "unreachable: {text}"),
            Self::Closed(phase, text) => write!(f, "connection closed in {}: {text}", phase.as_str()),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::Malformed(text) => write!(f, "not HTTP: {text}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Internal(text) => write!(f, "could not be checked: {text}"),
        }
    }
}
