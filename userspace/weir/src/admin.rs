//! How operators, scripts and Prometheus reach a running weir: the control socket and the HTTP endpoint.
//!
//! `api` holds the shapes of requests and answers (JSON, one a line), `socket` serves them on a Unix socket, `http`
//! serves metrics, health and a status page, `metrics` turns counters into Prometheus text. All of them only read
//! snapshots or send requests to the control loop; none touches the engine or the datapath.

pub(crate) mod api;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod socket;
