//! The plan: a configuration resolved, defaulted and cross-checked. Immutable; shared behind an `Arc`.
//!
//! Built by `weir-config` alone. Whatever reads a plan may rely on: every service's pool exists, every listen address
//! is used once, weights and ranges are in bounds, durations are positive.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::ids::{BackendKey, ListenKey, PoolName, Protocol, ServiceName};

/// Everything that was asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The box itself.
    pub node: Node,
    /// How operators and Prometheus reach weir.
    pub admin: Admin,
    /// All pools, in order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// All services, in order of the file.
    pub services: Vec<Arc<Service>>,
}

impl Plan {
    /// The pool of that name.
    pub fn pool(&self, name: &PoolName) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|p| p.name == *name)
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
}

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

/// `[services.NAME]`: what clients reach.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Where clients reach it; never empty, no key twice.
    pub listen: Vec<Listen>,
    /// Where its traffic goes.
    pub pool: PoolName,
    /// What kind of traffic it is.
    pub mode: Mode,
}

/// One listen entry: an address with a range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The address.
    pub addr: IpAddr,
    /// First port, at least 1.
    pub first: u16,
    /// Last port, at least `first`.
    pub last: u16,
    /// The transport.
    pub protocol: Protocol,
}

impl Listen {
    /// One key per port.
    pub fn keys(&self) -> impl Iterator<Item = ListenKey> + use<> {
        let Self {
            addr,
            first,
            last,
            protocol,
        } = *self;
        (first..=last).map(move |port| ListenKey { addr, port, protocol })
    }

    /// Whether sk_lookup steers it (a virtual address), or a socket is bound to it as it stands (loopback, unspecified).
    pub fn is_virtual(&self) -> bool {
        Self::is_virtual_address(self.addr)
    }

    /// The same of an address.
    pub fn is_virtual_address(addr: IpAddr) -> bool {
        !addr.is_loopback() && !addr.is_unspecified()
    }
}

/// What weir does with a service's traffic.
#[derive(Clone, PartialEq, Debug)]
pub enum Mode {
    /// Packets are forwarded by XDP.
    L4(L4),
    /// Bytes are relayed.
    Tcp(Tcp),
    /// Requests are relayed.
    Http(Http),
}

/// `mode = "l4"`
#[derive(Clone, PartialEq, Debug)]
pub struct L4 {
    /// How packets reach the backend.
    pub forward: Forward,
    /// Slots of its Maglev ring: a prime.
    pub ring_size: u32,
}

/// How packets reach the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// The destination is rewritten; the backend answers through this box.
    Nat,
}

/// `mode = "tcp"`
#[derive(Clone, PartialEq, Debug)]
pub struct Tcp {
    /// Phase timeouts; only `connect`, `queue` and `tunnel` matter here.
    pub timeouts: Timeouts,
    /// Open connections at once.
    pub connections: u32,
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
    /// Changes to requests, in order.
    pub request_headers: Vec<HeaderRule>,
    /// Changes to responses, in order.
    pub response_headers: Vec<HeaderRule>,
}

/// Phase timeouts of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
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
    /// Open client connections at once.
    pub connections: u32,
}

/// What tells backends the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// `X-Forwarded-For`, appended.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), appended.
    Rfc7239,
    /// Both.
    Both,
    /// Neither; what the client sent passes as it is.
    Off,
}

/// One change of a message's header section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderRule {
    /// Field name, a token, in the case given.
    pub name: String,
    /// What is done to it.
    pub action: HeaderAction,
}

/// What a header rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderAction {
    /// All fields of that name are replaced by one.
    Set(Template),
    /// One field is added after those present.
    Append(Template),
    /// All fields of that name are taken out.
    Remove,
}

/// A value with variables, parsed: `{node.name}`, `{client.address}`, …
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// Its parts, in order.
    pub parts: Vec<TemplatePart>,
}

/// A part of a [`Template`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TemplatePart {
    /// Bytes as they stand: visible ASCII, space, tab.
    Literal(String),
    /// What a variable stands for.
    Variable(Variable),
}

/// Variables of header values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Variable {
    /// `{node.name}`
    NodeName,
    /// `{service.name}`
    ServiceName,
    /// `{pool.name}`
    PoolName,
    /// `{client.address}`: without port.
    ClientAddress,
    /// `{client.port}`
    ClientPort,
    /// `{server.address}`: the address the client connected to.
    ServerAddress,
    /// `{server.port}`
    ServerPort,
    /// `{backend.name}`: empty in a response of weir's own.
    BackendName,
    /// `{backend.address}`: with port.
    BackendAddress,
}

impl Variable {
    /// Every variable with its name.
    pub const ALL: [(&'static str, Self); 9] = [
        ("node.name", Self::NodeName),
        ("service.name", Self::ServiceName),
        ("pool.name", Self::PoolName),
        ("client.address", Self::ClientAddress),
        ("client.port", Self::ClientPort),
        ("server.address", Self::ServerAddress),
        ("server.port", Self::ServerPort),
        ("backend.name", Self::BackendName),
        ("backend.address", Self::BackendAddress),
    ];
}

/// A network in CIDR form. Host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IpNet {
    addr: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// A network; None if the prefix is too long for the family or host bits are set.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let (bits, width) = to_bits(addr);
        if prefix > width {
            return None;
        }
        let host = if prefix == width {
            0
        } else {
            bits & (u128::MAX >> (128 - u32::from(width) + u32::from(prefix)))
        };
        (host == 0).then_some(Self { addr, prefix })
    }

    /// Whether it holds the address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (net, width) = to_bits(self.addr);
        let (bits, other) = to_bits(ip.to_canonical());
        width == other && (self.prefix == 0 || (net ^ bits) >> (width - self.prefix) == 0)
    }
}

impl std::fmt::Display for IpNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

fn to_bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_they_should() {
        let net = |a: &str, p| IpNet::new(a.parse().unwrap(), p);
        let ip = |a: &str| a.parse::<IpAddr>().unwrap();
        let ten = net("10.0.0.0", 8).unwrap();
        assert!(ten.contains(ip("10.255.0.1")) && ten.contains(ip("::ffff:10.1.2.3")));
        assert!(!ten.contains(ip("11.0.0.1")) && !ten.contains(ip("::1")));
        assert!(net("0.0.0.0", 0).unwrap().contains(ip("203.0.113.9")));
        assert!(!net("0.0.0.0", 0).unwrap().contains(ip("2001:db8::1")));
        assert!(net("::", 0).unwrap().contains(ip("2001:db8::1")));
        let host = net("2001:db8::1", 128).unwrap();
        assert!(host.contains(ip("2001:db8::1")) && !host.contains(ip("2001:db8::2")));
        assert_eq!(net("10.0.0.1", 8), None);
        assert_eq!(net("10.0.0.0", 33), None);
        assert_eq!(net("2001:db8::1", 64), None);
    }
}
