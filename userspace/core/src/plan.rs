//! The plan: a configuration resolved, defaulted and cross-checked. Immutable; shared behind an `Arc`.
//!
//! Built by `weir-config` alone. Whatever reads a plan may rely on: every service's pool exists, every listen address
//! is used once, weights and ranges are in bounds, durations are positive. Each way of forwarding has the backends,
//! ports, families, source addresses and QUIC ids that it needs; only L4 services meet port 0; no network is both
//! allowed and banned; and nothing that XDP enforces is asked for without it.

mod access;
mod check;
mod export;
mod hello;
mod l4;
mod listen;
mod net;
mod proxy;
mod rewrite;
mod source;
mod sync;
mod tls;
mod upstream;
mod vrrp;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use access::{AccessLog, Facility, LogFormat, LogTarget, Syslog, SyslogForm, SyslogTo};
pub use check::{Check, CheckKind, HttpCheck, TlsCheck};
pub use export::{Export, ExportWhen};
pub use hello::{HelloRule, Passthrough};
pub use l4::{FlowHash, Forward, L4, OnBackendDown};
pub use listen::{Listen, MAX_TRANSPARENT};
pub use net::IpNet;
pub use proxy::{ProxyIn, ProxyOut, ProxyTlvs};
pub use rewrite::{
    ClientFact, Conditions, FieldCondition, FieldValue, Forwarded, ForwardedField, HeaderAction, HeaderRule,
    HostRewrite, PathPattern, PathRewrite, Redirect, Relayed, Replacement, Respond, Rewrite, Rule,
    RuleAction, Template, TemplatePart, Variable, VariableCondition, Via, WebSocket,
};
pub use source::{PortRange, RelayPorts, RelaySource, Source};
pub use sync::Sync;
pub use tls::{
    BackendTls, BackendTrust, ClientAuthority, ClientCertificates, TLS_CIPHERS, TLS_GROUPS, TextFile, Tls,
    TlsCertificate, TlsPolicy, TlsVersion, UnknownNames,
};
pub use upstream::{Connections, Http2, HttpProtocol, Retries, RetryOn};
pub use vrrp::{DemoteOn, DemoteWhat, GroupMac, GroupShare, VirtualRouter, VrrpAuthentication, VrrpGroup};

use crate::ids::{BackendKey, Interface, PoolName, ServiceName};

/// Everything that was asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The box itself.
    pub node: Node,
    /// How operators and Prometheus reach weir.
    pub admin: Admin,
    /// Records of requests and relayed connections.
    pub access_log: AccessLog,
    /// All pools, in order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// All services, in order of the file.
    pub services: Vec<Arc<Service>>,
    /// Networks that are let in or kept out, whatever the service.
    pub lists: Lists,
    /// Routes for a routing daemon. None: there are none.
    pub export: Option<Export>,
    /// What other boxes are told of flows. None: there are no others.
    pub sync: Option<Arc<Sync>>,
    /// Groups of virtual routers, in order of the file. Their addresses are this box's only while it is master.
    pub vrrp: Vec<Arc<VrrpGroup>>,
}

impl Plan {
    /// The pool of that name.
    pub fn pool(&self, name: &PoolName) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|p| p.name == *name)
    }

    /// The transparent listeners of all services.
    pub fn transparent(&self) -> impl Iterator<Item = &Listen> {
        let all = self.services.iter().flat_map(|service| &service.listen);
        all.filter(|listen| listen.is_transparent())
    }

    /// In which families the relay connects from clients' addresses: IPv4, IPv6.
    pub fn client_sources(&self) -> (bool, bool) {
        let mut families = (false, false);
        let mut add = |addr: IpAddr| match addr {
            IpAddr::V4(_) => families.0 = true,
            IpAddr::V6(_) => families.1 = true,
        };
        let relayed = { self.services.iter() }.filter(|service| !matches!(service.mode, Mode::L4(_)));
        for service in relayed {
            let pools = service.pools().into_iter().filter_map(|name| self.pool(name));
            for pool in pools.filter(|pool| pool.client_source.is_some()) {
                if pool.is_original_destination() {
                    service.listen.iter().for_each(|listen| add(listen.addr));
                } else {
                    pool.backends.iter().for_each(|b| add(b.key.address.ip()));
                }
            }
        }
        families
    }

    /// The interfaces that listeners and pools name.
    pub fn named_interfaces(&self) -> std::collections::BTreeSet<Interface> {
        let listeners = self.services.iter().flat_map(|service| &service.listen);
        let pools = self.pools.iter().map(|pool| pool.interface);
        listeners
            .map(|listen| listen.interface)
            .chain(pools)
            .flatten()
            .collect()
    }

    /// The service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.iter().find(|s| s.name == *name)
    }
}

/// `[node]`
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Name of this box, in logs and header values.
    pub name: Arc<str>,
    /// Interfaces that XDP attaches to.
    pub interfaces: Vec<String>,
    /// Addresses that are this box's alone, though others are those of virtual routers: services may have them.
    pub own_addresses: Vec<IpAddr>,
    /// How XDP attaches.
    pub xdp: XdpMode,
    /// Relay worker threads. None: one per core.
    pub workers: Option<u16>,
    /// User that the relay and health processes run as, when weir starts as root.
    pub user: String,
    /// Directory on a bpf file system that maps and links are pinned under.
    pub pins: PathBuf,
    /// Key of the flow hash; boxes that share it place flows alike. None: drawn at random once and kept with the pins.
    pub hash_key: Option<[u64; 2]>,
    /// Networks that the outer source addresses of `ipip` are taken from.
    pub tunnel: Tunnel,
    /// Routers by which what is bound to an interface leaves it, at most one of each interface and family.
    pub gateways: Vec<Gateway>,
}

/// An element of `node.gateways`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Gateway {
    /// One that a listener or a pool names.
    pub interface: Interface,
    /// The router, on that interface's link.
    pub address: IpAddr,
}

/// `[node.tunnel]`: outer source addresses of `ipip`. The flow's hash fills the bits behind the prefix, so that the
/// backend's NIC spreads flows over its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// For IPv4 tunnels.
    pub source_v4: IpNet,
    /// For IPv6 tunnels; the prefix has 96 bits or more, or the hash fills the last 32 bits alone.
    pub source_v6: IpNet,
}

impl Default for Tunnel {
    /// 172.16.0.0/16 and 100::/64, as Katran has them: private, and the discard prefix of RFC 6666.
    fn default() -> Self {
        Self {
            source_v4: IpNet {
                addr: IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 0)),
                prefix: 16,
            },
            source_v6: IpNet {
                addr: IpAddr::V6(std::net::Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)),
                prefix: 64,
            },
        }
    }
}

/// `[lists]`: networks that packets to services are let in from, or kept out. The longest prefix decides.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Lists {
    /// Let in, and free of limits per source.
    pub allow: Vec<IpNet>,
    /// Kept out.
    pub ban: Vec<IpNet>,
}

/// How XDP attaches to the interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver; an error if the driver can't.
    Native,
    /// In the stack, on any interface, slower.
    Generic,
    /// Not at all: a relay without privileges, on ordinary sockets.
    Off,
}

/// `[admin]`
#[derive(Clone, PartialEq, Debug)]
pub struct Admin {
    /// Path of the control socket. The relay's and the health process's sockets lie beside it.
    pub socket: PathBuf,
    /// Where metrics, health and the status page are served. None: nowhere.
    pub http: Option<SocketAddr>,
}

/// `[pools.NAME]`: interchangeable backends.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// How a backend is chosen for a request or connection of the relay.
    pub balance: Balance,
    /// Its backends, in order of the file; never empty.
    pub backends: Vec<Backend>,
    /// How their health is found out. None: they are always up.
    pub check: Option<Check>,
    /// Source addresses and ports that backends see. None: of `full-nat` there is none, and the relay connects from what
    /// the kernel picks.
    pub source: Option<Source>,
    /// The relay's connections to its backends.
    pub connections: Connections,
    /// When the relay tries another backend.
    pub retries: Retries,
    /// What its backends are spoken to in, where that is HTTP.
    pub protocol: HttpProtocol,
    /// The relay's connections, where that is HTTP/2.
    pub http2: Http2,
    /// How they are spoken to over TLS. None: they are spoken to without.
    pub tls: Option<Box<BackendTls>>,
    /// What its backends are told of a client before its bytes. None: nothing. Never with HTTP/2, nor with connections
    /// made in advance: one of them carries many clients.
    pub proxy: Option<ProxyOut>,
    /// The relay's connections come from their client's address. None: from the box's, or from `source`. Never with HTTP/2,
    /// nor with connections made in advance; and all backends are of one family, which all services of the pool listen in.
    pub client_source: Option<ClientSource>,
    /// The interface that the relay's connections to its backends, and checks, leave by. None: as the routes say.
    pub interface: Option<Interface>,
}

/// `source = "client"`: what a backend sees of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientSource {
    /// Its port, too. A connection that would be the second with the same ends fails.
    pub port: bool,
}

/// The pool whose one backend is wherever the client wanted to go: for services that listen transparently.
pub const ORIGINAL_DESTINATION: &str = "original-destination";

impl Pool {
    /// Whether its backend is wherever the client wanted to go. It then has one, whose address (unspecified, port 0) stands
    /// for that.
    pub fn is_original_destination(&self) -> bool {
        self.name.as_str() == ORIGINAL_DESTINATION
    }

    /// Connections to one of its backends at once, of all workers of the relay. None: any number.
    pub fn max_connections(&self, backend: &Backend) -> Option<u32> {
        backend.max_connections.or(self.connections.max)
    }
}

/// What `full-nat` draws from: its part of a [`Source`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePool {
    /// Addresses, no twice; weir adds them to the box. Of each family that a `full-nat` service of the pool has, one at
    /// least.
    pub addresses: Vec<IpAddr>,
    /// First port, at least 1024.
    pub first: u16,
    /// Last port, at least `first`.
    pub last: u16,
}

/// The server id by which QUIC connection ids name a backend: 1 to 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuicId {
    /// Its bytes, the first in the lowest.
    pub value: u64,
    /// How many.
    pub len: u8,
}

/// How the relay chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// Smooth weighted round-robin.
    RoundRobin,
    /// Fewest requests (or connections) in flight relative to the weight.
    LeastConnections,
}

/// One backend of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its identity.
    pub key: BackendKey,
    /// A name for people; the address when none was given.
    pub name: Arc<str>,
    /// Share of traffic, 0 to 256. 0: no new traffic.
    pub weight: u16,
    /// Used only when no other is up.
    pub backup: bool,
    /// Connections of the relay to it at once, in place of the pool's number.
    pub max_connections: Option<u32>,
    /// The server id in the QUIC connection ids that it hands out. All backends of a pool have one of the same length, or
    /// none has.
    pub quic_id: Option<QuicId>,
}

impl Backend {
    /// What stands for wherever the client wanted to go.
    pub fn original_destination() -> Self {
        Self {
            key: BackendKey {
                pool: PoolName::new(ORIGINAL_DESTINATION),
                address: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
            },
            name: ORIGINAL_DESTINATION.into(),
            weight: 1,
            backup: false,
            max_connections: None,
            quic_id: None,
        }
    }

    /// Whether it stands for wherever the client wanted to go.
    pub fn is_original_destination(&self) -> bool {
        self.key.pool.as_str() == ORIGINAL_DESTINATION
    }
}

/// `[services.NAME]`: what clients reach.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Where clients reach it; never empty, no key twice.
    pub listen: Vec<Listen>,
    /// Where its traffic goes, unless a rule says otherwise. None: a rule decides of every request, or a connection that no
    /// rule takes is refused. Only services with rules can do without.
    pub pool: Option<PoolName>,
    /// What kind of traffic it is.
    pub mode: Mode,
    /// What one network of clients may have of it. Needs XDP.
    pub per_source: PerSource,
    /// Who tells by the PROXY protocol who its clients are. None: nobody. Never of an L4 service.
    pub proxy: Option<ProxyIn>,
    /// How TLS with its clients ends here. None: it does not. Never of an L4 service.
    pub tls: Option<Tls>,
}

impl Service {
    /// The pools that its traffic may go to, its own first; each once.
    pub fn pools(&self) -> Vec<&PoolName> {
        let mut pools: Vec<_> = self.pool.iter().collect();
        for pool in self.chosen_pools().into_iter().flatten() {
            if !pools.contains(&pool) {
                pools.push(pool);
            }
        }
        pools
    }

    /// By rule, the pool that it chooses, if it does.
    pub fn chosen_pools(&self) -> Vec<Option<&PoolName>> {
        match &self.mode {
            Mode::Http(http) => { http.rules.iter() }
                .map(|rule| match &rule.action {
                    RuleAction::Relay(Relayed { pool, .. }) => pool.as_ref(),
                    RuleAction::Redirect(_) | RuleAction::Respond(_) => None,
                })
                .collect(),
            Mode::Tcp(tcp) => { tcp.passthrough.iter() }
                .flat_map(|passthrough| &passthrough.rules)
                .map(|rule| Some(&rule.pool))
                .collect(),
            Mode::L4(_) => Vec::new(),
        }
    }
}

/// `[services.NAME.per_source]`: bounds on TCP connections from one network of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerSource {
    /// New connections per second. None: any number.
    pub rate: Option<u32>,
    /// Open connections. None: any number.
    pub connections: Option<u32>,
    /// Prefix length of an IPv4 network, 0 to 32.
    pub prefix_v4: u8,
    /// Prefix length of an IPv6 network, 0 to 128.
    pub prefix_v6: u8,
    /// A network that goes beyond is banned from every service for this long. None: what is too much is dropped.
    pub ban: Option<Duration>,
}

impl Default for PerSource {
    fn default() -> Self {
        Self {
            rate: None,
            connections: None,
            prefix_v4: 32,
            prefix_v6: 64,
            ban: None,
        }
    }
}

impl PerSource {
    /// Whether anything is bounded.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.connections.is_some()
    }
}

/// What weir does with a service's traffic.
#[expect(
    clippy::large_enum_variant,
    reason = "there are few services, and each lies behind an Arc"
)]
#[derive(Clone, PartialEq, Debug)]
pub enum Mode {
    /// Packets are forwarded by XDP.
    L4(L4),
    /// Bytes are relayed.
    Tcp(Tcp),
    /// Requests are relayed.
    Http(Http),
}

/// `mode = "tcp"`
#[derive(Clone, PartialEq, Debug)]
pub struct Tcp {
    /// Phase timeouts; only `handshake`, `connect`, `queue` and `tunnel` matter here.
    pub timeouts: Timeouts,
    /// Open connections at once.
    pub connections: u32,
    /// TLS is passed on, to a pool chosen by its ClientHello. None: whatever is spoken goes to the service's pool.
    pub passthrough: Option<Passthrough>,
}

/// `mode = "http"`
#[derive(Clone, PartialEq, Debug)]
pub struct Http {
    /// Phase timeouts.
    pub timeouts: Timeouts,
    /// Bounds per connection and in total.
    pub limits: Limits,
    /// Networks whose `X-Forwarded-For` and `Forwarded` are believed and appended to; from others they are replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// What tells backends the client's address.
    pub forwarded: Forwarded,
    /// What further fields tell backends of the client.
    pub forwarded_fields: Vec<ForwardedField>,
    /// What it does as an intermediary beyond plain requests.
    pub wire: Wire,
    /// How closely WebSocket handshakes are looked at.
    pub websocket: WebSocket,
    /// What clients may do in HTTP/2.
    pub http2: ClientHttp2,
    /// The field that carries a request's id to backends, and from trusted proxies. None: requests have no id, unless a
    /// value speaks of it.
    pub request_id: Option<String>,
    /// What becomes of target and `Host` of requests that no rule holds for.
    pub rewrite: Rewrite,
    /// Rules, in order: the first that holds decides.
    pub rules: Vec<Rule>,
    /// Changes to requests, in order.
    pub request_headers: Vec<HeaderRule>,
    /// Changes to responses, in order.
    pub response_headers: Vec<HeaderRule>,
}

/// What an HTTP service does as an intermediary, where RFC 9110 leaves it a choice or operators want one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Which messages carry `Via`, with the node's name (RFC 9110 section 7.6.3).
    pub via: Via,
    /// `TRACE` is served and passed on; else it is refused.
    pub trace: bool,
    /// `CONNECT` is passed on to backends, which are proxies then; else it is refused.
    pub connect: bool,
    /// How often a request may have come through this box before, as `Via` says. None: any number.
    pub loop_limit: Option<u32>,
}

impl Wire {
    /// Services of one box may stand in a row, some of them twice; more than that is a loop.
    pub const LOOP_LIMIT: u32 = 4;
}

impl Default for Wire {
    /// As the RFC has it, and nothing that nobody asked for.
    fn default() -> Self {
        Self {
            via: Via::Requests,
            trace: false,
            connect: false,
            loop_limit: Some(Self::LOOP_LIMIT),
        }
    }
}

/// HTTP/2 with the clients of an HTTP service (RFC 9113).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientHttp2 {
    /// It is spoken at all.
    pub enabled: bool,
    /// `Upgrade: h2c` of an HTTP/1.1 request is followed (RFC 7540 section 3.2).
    pub upgrade: bool,
    /// Requests under way at once, per connection.
    pub streams: u32,
    /// Bytes of a request body that may come before the backend has taken them, per request.
    pub window: u32,
    /// The same, of all requests of a connection together: less than [`Self::room`] lets requests whose backends take
    /// nothing hold up the others.
    pub connection_window: u32,
    /// Frames that are of no use which a connection may have ahead; they are forgiven over time.
    pub offences: u32,
}

impl Default for ClientHttp2 {
    fn default() -> Self {
        Self {
            enabled: true,
            upgrade: true,
            streams: 100,
            window: 64 << 10,
            connection_window: Self::room(100, 64 << 10),
            offences: 500,
        }
    }
}

impl ClientHttp2 {
    /// The largest window of a connection that may be asked for.
    pub const CONNECTION_WINDOW: u32 = 1 << 30;

    /// The window of a connection that has room for that many requests of that window each, however little of any of
    /// them is taken; [`Self::CONNECTION_WINDOW`] at the most.
    pub const fn room(streams: u32, window: u32) -> u32 {
        let room = streams.saturating_mul(window);
        if room < Self::CONNECTION_WINDOW {
            room
        } else {
            Self::CONNECTION_WINDOW
        }
    }
}

/// Phase timeouts of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// From the accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// To connect to a backend.
    pub connect: Duration,
    /// From a request's first byte to the end of its head.
    pub request_head: Duration,
    /// Silence of the client while weir waits for it.
    pub client: Duration,
    /// Silence of the backend while weir waits for it.
    pub server: Duration,
    /// Idle between requests.
    pub keep_alive: Duration,
    /// Waiting for a backend.
    pub queue: Duration,
    /// Silence in both directions of a tunnel (`mode = "tcp"`, or after an upgrade).
    pub tunnel: Duration,
}

/// Bounds of an HTTP service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a request or response head.
    pub head: u32,
    /// Header fields of a head.
    pub headers: u16,
    /// Bytes of a request body. None: any.
    pub body: Option<u64>,
    /// Bytes per second that a request body must come at, from when its silence would be over until its response
    /// begins. None: any.
    pub body_rate: Option<u32>,
    /// Open client connections at once.
    pub connections: u32,
}
