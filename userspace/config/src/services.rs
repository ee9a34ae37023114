//! `[services.NAME]`: what clients reach and where it goes.
//!
//! Owns the keys, ranges and defaults of services, and which of them apply to which mode; those of L4 alone are read by
//! `l4.rs`. What ties a service to its pool, to the node and to other services is `cross.rs`.

mod conditions;
mod hello;
mod http;
mod l4;
mod proxy;
mod rewrite;
mod rules;
mod tls;

pub(crate) use tls::certificate_files;

use std::{collections::BTreeMap, time::Duration};

use weir_core::{
    ids::{PoolName, Protocol, ServiceName},
    plan::{
        FlowHash, IpNet, L4, Limits, Listen, Mode, PerSource, ProxyIn, Rule, RuleAction, Service, Tcp,
        Timeouts, Tls,
    },
};

use crate::{
    bodies::{Bodies, BodyFile},
    keys,
    net::{parse_listen, parse_network, unusable},
    node::read_interface,
    pools::read_name,
    reader::{Cx, Table, Value},
    tls_files::{Judged, TlsFile, TlsFiles},
    tunables::Values,
    words::quoted,
};

/// Ports that one service may listen on, all its ranges together.
const MAX_PORTS: usize = 1024;
const NAME_POOL: &str = "name the pool that it goes to, as in pool = \"web\"";
/// Modes that belong to other versions.
const LATER_MODES: [&str; 5] = ["tls", "https", "http2", "h2", "udp"];
/// Keys of HTTP services alone.
const HTTP_KEYS: [&str; 13] = [
    "trusted_proxies",
    "forwarded",
    "forwarded_fields",
    "via",
    "allow_trace",
    "allow_connect",
    "loop_limit",
    "websocket",
    "http2",
    "request_id",
    "rewrite",
    "request_headers",
    "response_headers",
];

/// Bytes per second that a request body comes at, unless the service says otherwise. Who sends less is not slow.
const BODY_RATE: u32 = 500;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A service as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedService<'d> {
    pub(crate) name: ServiceName,
    /// Where the section begins.
    pub(crate) at: usize,
    pub(crate) listen: Vec<AskedListen>,
    /// The pool's name and where it stands.
    pub(crate) pool: Option<(&'d str, usize)>,
    /// The pools that its rules name.
    pub(crate) rule_pools: Vec<AskedPool>,
    /// It needs no pool of its own: its rules take every request.
    pub(crate) pool_optional: bool,
    /// The mode and where it stands.
    pub(crate) mode: Option<(Mode, usize)>,
    /// Whether all of `listen` could be read.
    pub(crate) listen_known: bool,
    /// Whether `forward` is as it was meant.
    pub(crate) forward_known: bool,
    /// Where `mss` stands.
    pub(crate) mss_at: Option<usize>,
    /// Where `limits.connections` stands.
    pub(crate) connections_at: Option<usize>,
    /// Limits per source and where their section stands.
    pub(crate) per_source: Option<(PerSource, usize)>,
    /// Whose PROXY headers are taken.
    pub(crate) proxy: Option<ProxyIn>,
    /// How TLS ends here.
    pub(crate) tls: Option<Tls>,
}

/// A pool that a rule names, where it stands and its key.
#[derive(Clone, Debug)]
pub(crate) struct AskedPool {
    pub(crate) name: String,
    pub(crate) at: usize,
    pub(crate) key: String,
}

/// One listen entry and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedListen {
    pub(crate) listen: Listen,
    pub(crate) at: usize,
}

impl AskedService<'_> {
    /// The service, if nothing of it is missing. `quic_len` is the length of QUIC server ids, by pool.
    pub(crate) fn resolve(self, quic_len: &BTreeMap<String, u8>) -> Option<Service> {
        let pool = match self.pool {
            Some((pool, _)) => Some(pool),
            None if self.pool_optional => None,
            None => return None,
        };
        let (mut mode, _) = self.mode?;
        if let Mode::L4(L4 {
            hash: FlowHash::Quic { len },
            ..
        }) = &mut mode
        {
            *len = *quic_len.get(pool?)?;
        }
        Some(Service {
            name: self.name,
            listen: self.listen.into_iter().map(|asked| asked.listen).collect(),
            pool: pool.map(PoolName::new),
            mode,
            per_source: self
                .per_source
                .map_or_else(PerSource::default, |(limits, _)| limits),
            proxy: self.proxy,
            tls: self.tls,
        })
    }
}

#[derive(Clone, Copy)]
enum Word {
    L4,
    Tcp,
    Http,
}

/// All services in file order, and whether each could be read.
pub(crate) fn read_services<'d>(
    cx: &mut Cx,
    document: &Table<'d>,
    defaults: &Values,
    from: &mut Files<'_>,
) -> (Vec<AskedService<'d>>, bool) {
    let Some(value) = document.get("services") else {
        return (Vec::new(), !document.meant("services"));
    };
    let Some(services) = value.names(cx) else {
        return (Vec::new(), false);
    };
    let read = |(name, value): (&'d str, Value<'d>)| {
        let name = read_name(cx, "service", name, &value).unwrap_or_else(|shown| shown);
        read_service(cx, &name, &value, defaults, from)
    };
    let entries = services.entries();
    let all = entries.len();
    let read: Vec<_> = entries.into_iter().filter_map(read).collect();
    let complete = read.len() == all;
    (read, complete)
}

/// What services name: files that rules answer with, and files of TLS (those that were read, and those that are named),
/// and the pools of one service.
pub(crate) struct Files<'f> {
    bodies: &'f Bodies,
    pub(crate) named: Vec<BodyFile>,
    tls: &'f TlsFiles,
    pub(crate) tls_named: Vec<TlsFile>,
    pub(crate) judged: Vec<Judged>,
    pools: Vec<AskedPool>,
}

impl<'f> Files<'f> {
    pub(crate) const fn new(bodies: &'f Bodies, tls: &'f TlsFiles) -> Self {
        Self {
            bodies,
            named: Vec::new(),
            tls,
            tls_named: Vec::new(),
            judged: Vec::new(),
            pools: Vec::new(),
        }
    }
}

fn read_service<'d>(
    cx: &mut Cx,
    name: &str,
    value: &Value<'d>,
    defaults: &Values,
    files: &mut Files<'_>,
) -> Option<AskedService<'d>> {
    let table = value.table(cx, &keys::SERVICE)?;
    let (listen, listen_known) = read_listen(cx, &table);
    cx.ends_tls = table.get("tls").is_some() || table.meant("tls");
    let asked = table
        .get("tls")
        .and_then(|value| value.peek("client_certificates"));
    cx.asks_clients = asked.is_some_and(|value| value.as_string() != Some("off")) || table.meant("tls");
    let mode_value = table.require(cx, "mode", "write mode = \"http\", \"tcp\" or \"l4\"");
    let word = mode_value.as_ref().and_then(|value| {
        let words = [("l4", Word::L4), ("tcp", Word::Tcp), ("http", Word::Http)];
        value.choice(cx, &words, &LATER_MODES)
    });
    let mode = word
        .zip(mode_value)
        .map(|(word, value)| (read_mode(cx, &table, word, defaults, files), value.at));
    let inside = match &mode {
        Some((Mode::Http(http), _)) => Some(tls::Inside::Http(http.http2)),
        Some((Mode::Tcp(_), _)) => Some(tls::Inside::Tcp),
        Some((Mode::L4(_), _)) | None => None,
    };
    let tls = inside.and_then(|inside| tls::read(cx, &table, inside, files));
    refuse_handshake(cx, &table);
    if tls.is_some()
        && matches!(inside, Some(tls::Inside::Tcp))
        && let Some(value) = table.get("rules")
    {
        value.mistake(
            cx,
            "passes TLS on by its ClientHello, and the service ends TLS",
            "remove one of the two",
        );
    }
    let rule_pools = std::mem::take(&mut files.pools);
    let needs_pool = match &mode {
        Some((Mode::Tcp(_), _)) if table.meant("rules") => None,
        Some((Mode::Http(http), _)) => needs_pool(&table, &http.rules),
        // What no rule takes is refused.
        Some((
            Mode::Tcp(Tcp {
                passthrough: Some(_), ..
            }),
            _,
        )) => None,
        Some((Mode::Tcp(_) | Mode::L4(_), _)) | None => Some(NAME_POOL),
    };
    let pool = match (table.get("pool"), needs_pool) {
        (None, None) => None,
        (None, Some(mend)) => {
            table.require(cx, "pool", mend);
            None
        }
        (Some(value), _) => value.string(cx).map(|name| (name, value.at)),
    };
    let per_source = l4::read_per_source(cx, &table);
    let proxy = match &mode {
        Some((Mode::L4(_), _)) => None,
        Some((Mode::Tcp(_) | Mode::Http(_), _)) | None => proxy::read(cx, &table),
    };
    Some(AskedService {
        name: ServiceName::new(name),
        at: table.at,
        listen,
        pool,
        rule_pools,
        pool_optional: needs_pool.is_none(),
        mode,
        listen_known,
        forward_known: l4::knows_forward(&table),
        connections_at: table
            .get("limits")
            .and_then(|limits| Some(limits.peek("connections")?.at)),
        mss_at: table.get("mss").map(|value| value.key_at),
        per_source,
        proxy,
        tls,
    })
}

/// Where no TLS is, there is no handshake.
fn refuse_handshake(cx: &mut Cx, table: &Table<'_>) {
    if table.get("tls").is_none()
        && !table.meant("tls")
        && let Some(value) = table.get("timeouts").and_then(|value| value.peek("handshake"))
    {
        value.mistake(
            cx,
            "has no effect: the service does not end TLS",
            "remove it, or write [services.NAME.tls]",
        );
    }
}

/// Why an HTTP service can't do without a pool: the mend. None: its rules take every request, and each says itself what
/// becomes of it (or one of them could not be read, which is told already).
fn needs_pool(table: &Table<'_>, rules: &[Rule]) -> Option<&'static str> {
    let asked = table.get("rules").and_then(|value| value.elements()).unwrap_or(0);
    let relies = |rule: &Rule| match &rule.action {
        RuleAction::Relay(relayed) => relayed.pool.is_none(),
        RuleAction::Redirect(_) | RuleAction::Respond(_) => false,
    };
    if asked == 0 && !table.meant("rules") {
        Some(NAME_POOL)
    } else if asked != rules.len() || table.meant("rules") {
        None
    } else if rules.iter().any(relies) {
        Some("name the pool that it goes to, or a `pool` in each rule that has `rewrite`")
    } else if !rules.iter().any(|rule| rule.conditions.hold_always()) {
        Some(
            "name the pool for requests that no rule takes, or end `rules` with one without `match`, as in { respond = { \
             status = 404 } }",
        )
    } else {
        None
    }
}

/// The addresses, and whether all could be read.
fn read_listen(cx: &mut Cx, table: &Table<'_>) -> (Vec<AskedListen>, bool) {
    let mend = "write listen = [\"192.0.2.10:80\"]";
    let Some(value) = table.require(cx, "listen", mend) else {
        return (Vec::new(), false);
    };
    let Some(items) = value.array(cx) else {
        return (Vec::new(), false);
    };
    if items.is_empty() {
        value.mistake(cx, "is empty", mend);
    }
    let entries: Vec<_> = items.iter().filter_map(|item| read_address(cx, item)).collect();
    let all_read = entries.len() == items.len();
    let read: Vec<AskedListen> = entries.into_iter().flatten().collect();
    let ports: usize = read.iter().map(|asked| ports(&asked.listen)).sum();
    if ports > MAX_PORTS {
        value.mistake(
            cx,
            format!("has {ports} ports, more than {MAX_PORTS}"),
            "write smaller ranges, or divide it among several services",
        );
        return (Vec::new(), false);
    }
    let known = !items.is_empty() && all_read;
    (read, known)
}

/// Ports that have a socket of their own each.
fn ports(listen: &Listen) -> usize {
    if listen.is_transparent() {
        return 1;
    }
    usize::from(listen.last.saturating_sub(listen.first)) + 1
}

/// What one entry stands for: more than one listener if it is transparent, of both families.
fn read_address(cx: &mut Cx, item: &Value<'_>) -> Option<Vec<AskedListen>> {
    let (value, interface) = match item.is_table() {
        true => {
            let table = item.table(cx, &keys::LISTEN)?;
            let interface = read_interface(cx, &table);
            if interface.is_none() && table.get("interface").is_some() {
                return None;
            }
            let mend = "write { address = \"192.0.2.10:443\", interface = \"eth1\" }";
            (Some(table.require(cx, "address", mend)?), interface)
        }
        false => (None, None),
    };
    let item = value.as_ref().unwrap_or(item);
    let text = item.string(cx)?;
    let listens = match parse_listen(text) {
        Ok(listens) => listens,
        Err(trouble) => {
            item.trouble(cx, trouble);
            return None;
        }
    };
    for listen in &listens {
        if let Some(why) = unusable(listen.addr) {
            let mend = if listen.is_transparent() {
                "write a network of unicast addresses"
            } else {
                "write a unicast address, or 0.0.0.0 or [::] for every one of the box"
            };
            item.mistake(cx, format!("has {}, which {why}", listen.addr), mend);
            return None;
        }
        if listen.is_transparent() && listen.addr.is_loopback() {
            item.mistake(
                cx,
                format!("has {}, which no other box sends packets to", listen.addr),
                "write the network of the addresses that clients reach through this box",
            );
            return None;
        }
    }
    let asked = |listen| AskedListen {
        listen: Listen { interface, ..listen },
        at: item.at,
    };
    Some(listens.into_iter().map(asked).collect())
}

fn read_mode(cx: &mut Cx, table: &Table<'_>, word: Word, defaults: &Values, files: &mut Files<'_>) -> Mode {
    match word {
        Word::L4 => {
            table.refuse(
                cx,
                &HTTP_KEYS,
                "does not apply to an l4 service",
                "remove it, or write mode = \"http\"",
            );
            table.refuse(
                cx,
                &["timeouts", "limits", "rules", "proxy_protocol", "tls"],
                "does not apply to an l4 service",
                "remove it, or write mode = \"tcp\" or \"http\"",
            );
            Mode::L4(l4::read(cx, table, defaults))
        }
        Word::Tcp => {
            let mend = "remove it, or write mode = \"l4\"";
            table.refuse(cx, &l4::KEYS, "does not apply to a tcp service", mend);
            let mend = "remove it, or write mode = \"http\"";
            table.refuse(cx, &HTTP_KEYS, "does not apply to a tcp service", mend);
            Mode::Tcp(read_tcp(cx, table, defaults, files))
        }
        Word::Http => {
            let mend = "remove it, or write mode = \"l4\"";
            table.refuse(cx, &l4::KEYS, "does not apply to an http service", mend);
            Mode::Http(http::read(cx, table, defaults, files))
        }
    }
}

fn read_tcp(cx: &mut Cx, table: &Table<'_>, defaults: &Values, files: &mut Files<'_>) -> Tcp {
    if let Some(timeouts) = table.get("timeouts").and_then(|value| value.names(cx)) {
        timeouts.refuse(
            cx,
            &["client", "server"],
            "does not apply to a tcp service",
            "write `tunnel`, which is the silence in both directions",
        );
        timeouts.refuse(
            cx,
            &["request_head", "keep_alive"],
            "does not apply to a tcp service",
            "remove it, or write mode = \"http\"",
        );
    }
    if let Some(limits) = table.get("limits").and_then(|value| value.names(cx)) {
        limits.refuse(
            cx,
            &["head", "headers", "body", "body_rate"],
            "does not apply to a tcp service",
            "remove it, or write mode = \"http\"",
        );
    }
    Tcp {
        timeouts: read_timeouts(cx, table, defaults),
        connections: read_limits(cx, table, defaults).connections,
        passthrough: hello::read(cx, table, files),
    }
}

fn read_timeouts(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> Timeouts {
    let section = table
        .get("timeouts")
        .and_then(|value| value.table(cx, &keys::TIMEOUTS));
    let mut read = |key, max, default| {
        let value = section.as_ref().and_then(|section| section.get(key));
        value
            .and_then(|value| value.duration(cx, MS..=max))
            .unwrap_or(default)
    };
    Timeouts {
        handshake: read("handshake", DAY, defaults.relay_timeout_handshake),
        connect: read("connect", DAY, defaults.relay_timeout_connect),
        request_head: read("request_head", DAY, defaults.relay_timeout_request_head),
        client: read("client", DAY, defaults.relay_timeout_client),
        server: read("server", DAY, defaults.relay_timeout_server),
        keep_alive: read("keep_alive", DAY, defaults.relay_timeout_keep_alive),
        queue: read("queue", DAY, defaults.relay_timeout_queue),
        tunnel: read("tunnel", MONTH, defaults.relay_timeout_tunnel),
    }
}

fn read_limits(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> Limits {
    let section = table
        .get("limits")
        .and_then(|value| value.table(cx, &keys::LIMITS));
    let get = |key| section.as_ref().and_then(|section| section.get(key));
    let head = get("head").and_then(|value| value.size(cx, 1 << 10..=1 << 20));
    let headers = get("headers").and_then(|value| value.integer(cx, 1..=1024));
    let body = match get("body") {
        Some(value) => read_bound(cx, &value, "10MiB", u64::MAX),
        None => None,
    };
    let body_rate = match get("body_rate") {
        Some(value) => read_bound(cx, &value, "1KiB", 1 << 30).and_then(|n| u32::try_from(n).ok()),
        None => Some(BODY_RATE),
    };
    let connections = get("connections").and_then(|value| value.integer(cx, 1..=10_000_000));
    Limits {
        head: u32::try_from(head.unwrap_or(defaults.relay_limit_head)).unwrap_or(u32::MAX),
        headers: u16::try_from(headers.unwrap_or(defaults.relay_limit_headers)).unwrap_or(u16::MAX),
        body,
        body_rate,
        connections: connections.unwrap_or(defaults.relay_limit_connections),
    }
}

/// A size, or None for `"none"` and for what is wrong.
fn read_bound(cx: &mut Cx, value: &Value<'_>, example: &str, most: u64) -> Option<u64> {
    match value.as_string() {
        Some("none") => None,
        Some(text) if !text.starts_with(|c: char| c.is_ascii_digit()) => {
            value.mistake(
                cx,
                format!("is {}", quoted(text)),
                format!("write a size such as \"{example}\", or \"none\""),
            );
            None
        }
        Some(_) | None => value.size(cx, 0..=most),
    }
}

fn read_networks(cx: &mut Cx, table: &Table<'_>, key: &str) -> Vec<IpNet> {
    let items = table
        .get(key)
        .and_then(|value| value.array(cx))
        .unwrap_or_default();
    let mut networks = Vec::new();
    for item in items {
        let Some(text) = item.string(cx) else { continue };
        match parse_network(text) {
            Ok(network) => networks.push(network),
            Err(trouble) => item.trouble(cx, trouble),
        }
    }
    networks
}

/// Whether a mode can be reached by the protocol; UDP is for packets alone.
pub(crate) const fn takes(mode: &Mode, protocol: Protocol) -> bool {
    match (mode, protocol) {
        (Mode::L4(_), _) | (Mode::Tcp(_) | Mode::Http(_), Protocol::Tcp) => true,
        (Mode::Tcp(_) | Mode::Http(_), Protocol::Udp) => false,
    }
}
