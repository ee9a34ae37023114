//! Requests and answers of the control socket. JSON, one object a line, in both directions.
//!
//! A request is `{"command": "...", ...}`; the answer `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`.
//! The shapes are an outside interface: fields are added, never renamed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be asked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Answered by a [`Status`].
    Status {},
    /// Answered by [`Pools`].
    Pools {},
    /// Answered by a [`Changed`].
    Backend {
        /// POOL/ADDRESS or POOL/NAME.
        backend: String,
        /// `ready`, `drain` or `maint`.
        wish: String,
    },
    /// Answered by [`Reloaded`].
    Reload {},
    /// Answered by a list of [`Tunable`]s: all, or the one of that name.
    Sysctl { name: Option<String> },
    /// Answered by the [`Tunable`]s as they now are.
    SysctlSet { set: Vec<(String, String)> },
}

/// An answer, as it goes over the socket.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Answer {
    /// Success, with what was asked for.
    pub(crate) fn result(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self {
                ok: true,
                result: Some(value),
                error: None,
            },
            Err(e) => Self::error(format!("the answer can't be written as JSON: {e}")),
        }
    }

    /// Failure, and why.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self {
            ok: false,
            result: None,
            error: Some(text.into()),
        }
    }
}

/// The running weir.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) config: String,
    /// Counts up with each configuration applied.
    pub(crate) generation: u64,
    /// Why the last reload was refused, if it was.
    pub(crate) reload_error: Option<String>,
    pub(crate) ready: bool,
    /// What is waited for, when not ready.
    pub(crate) waiting_for: Vec<String>,
    pub(crate) uptime_seconds: u64,
    pub(crate) xdp: Xdp,
    pub(crate) processes: Vec<Process>,
    pub(crate) services: Vec<Service>,
}

/// The kernel's part.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Xdp {
    /// `native`, `generic` or `off`.
    pub(crate) mode: String,
    pub(crate) interfaces: Vec<String>,
    /// Virtual addresses that weir keeps on the interfaces.
    pub(crate) addresses: Vec<String>,
}

/// A process of this weir.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Process {
    /// `control`, `relay` or `health`.
    pub(crate) role: String,
    /// None while it is being started.
    pub(crate) pid: Option<u32>,
    /// `running` or `starting`.
    pub(crate) state: String,
    pub(crate) since_seconds: u64,
    /// How often it had to be started again.
    pub(crate) restarts: u64,
    /// It was found running when this control process started.
    pub(crate) adopted: bool,
}

/// A service.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// `l4`, `tcp` or `http`.
    pub(crate) mode: String,
    pub(crate) listen: Vec<String>,
    pub(crate) pool: String,
    /// `up`: some backend takes traffic; `down`: none does.
    pub(crate) state: String,
    pub(crate) backends_in_use: usize,
    pub(crate) backends: usize,
    /// Connections (relay) or flows (L4) since the start.
    pub(crate) connections: u64,
    /// Requests since the start, for `http`.
    pub(crate) requests: u64,
}

/// All pools.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Pools {
    pub(crate) pools: Vec<Pool>,
}

/// A pool.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) balance: String,
    /// What is checked, for people: `http GET /healthz every 2s`, or `none`.
    pub(crate) check: String,
    pub(crate) backends: Vec<Backend>,
}

/// A backend.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Backend {
    pub(crate) address: String,
    pub(crate) name: String,
    pub(crate) weight: u16,
    pub(crate) backup: bool,
    /// `pending`, `up`, `down` or `probation`.
    pub(crate) state: String,
    /// `ready`, `drain` or `maint`.
    pub(crate) admin: String,
    /// Whether it is given new flows, connections and requests now.
    pub(crate) in_use: bool,
    /// Why it is in this state.
    pub(crate) cause: String,
    pub(crate) since_seconds: u64,
    pub(crate) checks: Checks,
    pub(crate) traffic: Traffic,
}

/// The checks of a backend.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Checks {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) transitions: u64,
    /// How the last one ended.
    pub(crate) last: Option<String>,
    pub(crate) last_took_ms: Option<f64>,
}

/// What a backend has carried on both planes, since the start.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) l4_flows: u64,
    pub(crate) l4_packets_in: u64,
    pub(crate) l4_packets_out: u64,
    pub(crate) l4_bytes_in: u64,
    pub(crate) l4_bytes_out: u64,
    pub(crate) relay_connections: u64,
    pub(crate) relay_requests: u64,
    pub(crate) relay_in_flight: u64,
    pub(crate) relay_bytes_in: u64,
    pub(crate) relay_bytes_out: u64,
}

/// An operator's wish was taken.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) backend: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A configuration was applied.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reloaded {
    pub(crate) generation: u64,
    /// One line per change, for people.
    pub(crate) changes: Vec<String>,
}

/// A tunable.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tunable {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) default: String,
    /// `default`, `FILE:LINE` or `runtime`.
    pub(crate) origin: String,
    /// Takes effect without a restart.
    pub(crate) live: bool,
    pub(crate) range: String,
    pub(crate) description: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let cases = [
            (r#"{"command":"status"}"#, Request::Status {}),
            (r#"{"command":"pools"}"#, Request::Pools {}),
            (r#"{"command":"reload"}"#, Request::Reload {}),
            (
                r#"{"command":"backend","backend":"web/10.0.0.1:80","wish":"drain"}"#,
                Request::Backend {
                    backend: "web/10.0.0.1:80".into(),
                    wish: "drain".into(),
                },
            ),
            (r#"{"command":"sysctl"}"#, Request::Sysctl { name: None }),
            (
                r#"{"command":"sysctl-set","set":[["weir.relay.drain","5s"]]}"#,
                Request::SysctlSet {
                    set: vec![("weir.relay.drain".into(), "5s".into())],
                },
            ),
        ];
        for (text, want) in cases {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), want, "{text}");
        }
        assert!(serde_json::from_str::<Request>(r#"{"command":"status","extra":1}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"command":"reboot"}"#).is_err());
    }
}
