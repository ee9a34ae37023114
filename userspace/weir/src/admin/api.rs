//! Requests and answers of the control socket. JSON, one object a line, in both directions.
//!
//! A request is `{"command": "...", ...}`; the answer `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`.
//! The shapes are an outside interface: fields are added, never renamed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod ha;
mod tls;

pub(crate) use ha::{Demoted, Ha, HaGroup, HaPeer, HaRouter, HaShare, HaShareOf};
pub(crate) use tls::{TlsFile, TlsList};

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
    /// Answered by [`Upgraded`], or by why the running one goes on.
    Upgrade {},
    /// A process asks for this one's place: see `control::succession`, which has the rest of the connection.
    Replace {
        version: String,
        /// Where its tables are pinned. Empty: it has no XDP.
        pins: String,
    },
    /// Answered by a list of [`Tunable`]s: all, or the one of that name.
    Sysctl { name: Option<String> },
    /// Answered by the [`Tunable`]s as they now are.
    SysctlSet { set: Vec<(String, String)> },
    /// Answered by [`Flows`]. What is left out is not asked for.
    Flows {
        /// Of this service.
        #[serde(default)]
        service: Option<String>,
        /// To this backend: POOL/ADDRESS or POOL/NAME.
        #[serde(default)]
        backend: Option<String>,
        /// Of clients in this network.
        #[serde(default)]
        source: Option<String>,
        /// To virtual addresses in this network.
        #[serde(default)]
        destination: Option<String>,
        /// Only those that have ended.
        #[serde(default)]
        closed: bool,
        /// What comes first: `newest` (the default), `bytes` or `packets`.
        #[serde(default)]
        sort: Option<String>,
        /// How many are shown at most; 0, or left out: 100.
        #[serde(default)]
        limit: u32,
    },
    /// Answered by [`Ha`].
    Ha {},
    /// Sets what an operator holds against this box as master of a group. Answered by a [`Demoted`].
    Demote {
        group: String,
        /// 0 takes it back.
        by: u32,
        /// Have connections of the relay end first. The answer comes when they have.
        #[serde(default)]
        drain: bool,
    },
    /// Answered by [`Lists`].
    Lists {},
    /// Keeps networks out. Answered by a [`ListChange`].
    Ban {
        networks: Vec<String>,
        /// None: for good.
        seconds: Option<u64>,
    },
    /// Lets networks in, free of limits. Answered by a [`ListChange`].
    Allow {
        networks: Vec<String>,
        /// None: for good.
        seconds: Option<u64>,
    },
    /// Takes away what was said at run time. Answered by a [`ListChange`].
    Unlist { networks: Vec<String> },
    /// Answered by [`Explained`].
    Explain {
        /// ADDRESS:PORT.
        src: String,
        /// ADDRESS:PORT.
        dst: String,
        /// `tcp` or `udp`.
        protocol: String,
        /// `tcp`: the flow's first packet rather than one from the middle.
        #[serde(default)]
        syn: bool,
    },
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

/// One control process in the place of another.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgraded {
    /// The version before.
    pub(crate) from: String,
    pub(crate) from_pid: u32,
    /// The version that runs now.
    pub(crate) to: String,
    pub(crate) to_pid: u32,
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
    /// Virtual addresses, and whether routing daemons are told of them. Empty without `[export]`.
    #[serde(default)]
    pub(crate) exports: Vec<Exported>,
    /// Other boxes that are told of flows. Empty without `[sync]`.
    #[serde(default)]
    pub(crate) sync: Vec<SyncPeer>,
    /// Groups of virtual routers. Empty without `[vrrp.NAME]`.
    #[serde(default)]
    pub(crate) ha: Vec<HaGroup>,
    /// Pools whose backends are spoken to over TLS without a look at who they are.
    #[serde(default)]
    pub(crate) unverified: Vec<String>,
    /// Certificates that clients are shown, and those that backends are.
    #[serde(default)]
    pub(crate) certificates: Vec<TlsFile>,
    /// Files of TLS whose content is not what is served, and why.
    #[serde(default)]
    pub(crate) tls_troubles: Vec<(String, String)>,
}

/// Another box, and how it stands with it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct SyncPeer {
    pub(crate) address: String,
    /// `joined`, `joining`, `waiting`, `lost` or `alone`.
    pub(crate) state: String,
    /// Seconds since it was last heard.
    pub(crate) heard_seconds: Option<u64>,
    /// Parts of its flows that came, and how many there are.
    pub(crate) parts: Option<(u32, Option<u32>)>,
    pub(crate) told: u64,
    pub(crate) heard_of: u64,
}

/// A virtual address, and whether there is a route of it for routing daemons.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Exported {
    pub(crate) address: String,
    pub(crate) exported: bool,
}

/// The kernel's part.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Xdp {
    /// `native`, `generic` or `off`.
    pub(crate) mode: String,
    pub(crate) interfaces: Vec<String>,
    /// Virtual addresses that weir keeps on the interfaces.
    pub(crate) addresses: Vec<String>,
    /// SYNs to the relay are answered by cookies: there is a flood.
    #[serde(default)]
    pub(crate) syncookies: bool,
    #[serde(default)]
    pub(crate) listed: ListCounts,
}

/// How many networks are listed.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListCounts {
    /// By the configuration and operators.
    pub(crate) allow: usize,
    /// By the configuration and operators.
    pub(crate) ban: usize,
    /// Banned for going beyond limits, as of a few seconds ago.
    pub(crate) overload: usize,
}

/// A process of this weir.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Process {
    /// `control`, `relay`, `health` or `keys`.
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
    /// The pool that it goes to, unless a rule says otherwise.
    pub(crate) pool: Option<String>,
    /// All pools that it may go to, that one first.
    pub(crate) pools: Vec<PoolUse>,
    /// `up`: some backend takes traffic, or none is needed; `down`: none does.
    pub(crate) state: String,
    /// Of all its pools together.
    pub(crate) backends_in_use: usize,
    pub(crate) backends: usize,
    /// Connections (relay) or flows (L4) since the start.
    pub(crate) connections: u64,
    /// Requests since the start, for `http`.
    pub(crate) requests: u64,
}

/// A pool, as a service has it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct PoolUse {
    pub(crate) pool: String,
    pub(crate) backends_in_use: usize,
    pub(crate) backends: usize,
}

impl Service {
    /// Its pools, for people.
    pub(crate) fn pool_names(&self) -> String {
        let names: Vec<_> = self.pools.iter().map(|p| p.pool.as_str()).collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(",")
        }
    }
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
    /// How its backends are spoken to over TLS, for people. Empty: they are spoken to without.
    #[serde(default)]
    pub(crate) tls: String,
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

/// Flows that the kernel remembers.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flows {
    /// How many there are.
    pub(crate) total: u64,
    /// How many the filter took.
    pub(crate) matched: u64,
    /// Every packet of a recorded flow is counted.
    pub(crate) accounting: bool,
    /// The first of them.
    pub(crate) flows: Vec<Flow>,
}

/// A flow.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) client: String,
    pub(crate) vip: String,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// None: one that is gone, and forgotten.
    pub(crate) service: Option<String>,
    /// POOL/ADDRESS; None: one that is gone, and forgotten.
    pub(crate) backend: Option<String>,
    /// `full-nat`: what the backend takes for the client.
    pub(crate) source: Option<String>,
    pub(crate) age_seconds: u32,
    /// None: it was never looked up since it was recorded.
    pub(crate) idle_seconds: Option<u32>,
    /// None: none were counted.
    pub(crate) packets: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// `open` or `closed`; of `full-nat` also `unanswered` and `closing`.
    pub(crate) state: String,
}

/// What would become of a packet, and why.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    /// `forward`, `reply`, `pass` or `drop`.
    pub(crate) verdict: String,
    pub(crate) reason: String,
    /// What docs/reasons.md says of the reason.
    pub(crate) meaning: String,
    /// The service that it is for, or an answer of.
    pub(crate) service: Option<String>,
    /// None when no ring was asked.
    pub(crate) slot: Option<Slot>,
    /// POOL/ADDRESS of the backend that takes it, or that it comes from.
    pub(crate) backend: Option<String>,
    /// The rule that chose the backend, as docs/observing.md lists them.
    pub(crate) rule: Option<String>,
    /// The same for people.
    pub(crate) why: Option<String>,
    /// What the flow table has, where it was asked.
    pub(crate) record: Option<Record>,
    /// What the lists say of the source, for people.
    pub(crate) listed: Option<String>,
    pub(crate) way: Option<Way>,
    /// What is sent; None: nothing is.
    pub(crate) becomes: Option<Becomes>,
    /// What would be counted beside the reason, in order.
    pub(crate) notes: Vec<String>,
}

/// The slot of a ring that a flow falls on.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) index: u32,
    pub(crate) of: u32,
    pub(crate) current: Option<String>,
    pub(crate) previous: Option<String>,
    /// Since the last change; None: never, or long ago.
    pub(crate) changed_seconds: Option<u32>,
}

/// A flow in the flow table.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) backend: Option<String>,
    pub(crate) age_seconds: u32,
    pub(crate) closed: bool,
}

/// A way out of the box.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// The kernel's routes are asked packet by packet; then the rest is not known.
    pub(crate) asked: bool,
    pub(crate) interface: Option<String>,
    /// Link address of the next hop.
    pub(crate) link: Option<String>,
    pub(crate) mtu: Option<u32>,
}

/// A packet as it is sent.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Becomes {
    pub(crate) src: String,
    pub(crate) dst: String,
    /// Of the packet around it, by `ipip`.
    pub(crate) outer_src: Option<String>,
    pub(crate) outer_dst: Option<String>,
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

/// All networks that are listed.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) lists: Vec<Listed>,
}

/// A network that is listed.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) network: String,
    /// `allow` or `ban`.
    pub(crate) rule: String,
    /// `configuration`, `operator` or `overload`.
    pub(crate) origin: String,
    /// None: for good.
    pub(crate) seconds_left: Option<u64>,
}

/// What was listed at run time, or taken from the lists.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListChange {
    pub(crate) networks: Vec<String>,
    /// `allow`, `ban` or `none`.
    pub(crate) rule: String,
    /// None: for good.
    pub(crate) seconds: Option<u64>,
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
            (r#"{"command":"lists"}"#, Request::Lists {}),
            (
                r#"{"command":"ban","networks":["192.0.2.0/24"],"seconds":600}"#,
                Request::Ban {
                    networks: vec!["192.0.2.0/24".into()],
                    seconds: Some(600),
                },
            ),
            (
                r#"{"command":"unlist","networks":["192.0.2.0/24"]}"#,
                Request::Unlist {
                    networks: vec!["192.0.2.0/24".into()],
                },
            ),
            (r#"{"command":"sysctl"}"#, Request::Sysctl { name: None }),
            (
                r#"{"command":"sysctl-set","set":[["weir.relay.drain","5s"]]}"#,
                Request::SysctlSet {
                    set: vec![("weir.relay.drain".into(), "5s".into())],
                },
            ),
            (
                r#"{"command":"flows","source":"10.0.0.0/8","limit":5}"#,
                Request::Flows {
                    service: None,
                    backend: None,
                    source: Some("10.0.0.0/8".into()),
                    destination: None,
                    closed: false,
                    sort: None,
                    limit: 5,
                },
            ),
            (
                r#"{"command":"explain","src":"198.51.100.7:40000","dst":"192.0.2.10:80","protocol":"tcp"}"#,
                Request::Explain {
                    src: "198.51.100.7:40000".into(),
                    dst: "192.0.2.10:80".into(),
                    protocol: "tcp".into(),
                    syn: false,
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
