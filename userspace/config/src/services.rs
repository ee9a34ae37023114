//! `[services.NAME]`: what clients reach and where it goes.
//!
//! Owns the keys, ranges and defaults of services, and which of them apply to which mode. What ties a service to its
//! pool, to the node and to other services is `cross.rs`.

use std::time::Duration;

use weir_core::{
    ids::{PoolName, Protocol, ServiceName},
    plan::{Forward, Forwarded, Http, IpNet, L4, Limits, Listen, Mode, Service, Tcp, Timeouts},
};

use crate::{
    headers::{self, Direction},
    keys,
    net::{parse_listen, parse_network, unusable},
    pools::read_name,
    primes,
    reader::{Cx, Table, Value},
    tunables::Values,
    words::quoted,
};

/// Ports that one service may listen on, all its ranges together.
const MAX_PORTS: usize = 1024;
/// What this version can't forward by.
const LATER_FORWARD: [&str; 6] = ["full-nat", "dsr", "ipip", "gre", "geneve", "tunnel"];
/// Modes that belong to other versions.
const LATER_MODES: [&str; 5] = ["tls", "https", "http2", "h2", "udp"];
/// Keys of L4 services alone.
const L4_KEYS: [&str; 2] = ["forward", "ring_size"];
/// Keys of HTTP services alone.
const HTTP_KEYS: [&str; 4] = [
    "trusted_proxies",
    "forwarded",
    "request_headers",
    "response_headers",
];

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
    /// The mode and where it stands.
    pub(crate) mode: Option<(Mode, usize)>,
}

/// One listen entry and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedListen {
    pub(crate) listen: Listen,
    pub(crate) at: usize,
}

impl AskedService<'_> {
    /// The service, if nothing of it is missing.
    pub(crate) fn resolve(self) -> Option<Service> {
        Some(Service {
            name: self.name,
            listen: self.listen.into_iter().map(|asked| asked.listen).collect(),
            pool: PoolName::new(self.pool?.0),
            mode: self.mode?.0,
        })
    }
}

#[derive(Clone, Copy)]
enum Word {
    L4,
    Tcp,
    Http,
}

/// All services in file order.
pub(crate) fn read_services<'d>(
    cx: &mut Cx,
    document: &Table<'d>,
    defaults: &Values,
) -> Vec<AskedService<'d>> {
    let Some(services) = document.get("services").and_then(|value| value.names(cx)) else {
        return Vec::new();
    };
    let read = |(name, value): (&'d str, Value<'d>)| {
        let name = read_name(cx, "service", name, &value).unwrap_or_else(|shown| shown);
        read_service(cx, &name, &value, defaults)
    };
    services.entries().into_iter().filter_map(read).collect()
}

fn read_service<'d>(
    cx: &mut Cx,
    name: &str,
    value: &Value<'d>,
    defaults: &Values,
) -> Option<AskedService<'d>> {
    let table = value.table(cx, &keys::SERVICE)?;
    let listen = read_listen(cx, &table);
    let mode_value = table.require(cx, "mode", "write mode = \"http\", \"tcp\" or \"l4\"");
    let word = mode_value.as_ref().and_then(|value| {
        let words = [("l4", Word::L4), ("tcp", Word::Tcp), ("http", Word::Http)];
        value.choice(cx, &words, &LATER_MODES)
    });
    let pool = table
        .require(cx, "pool", "name the pool that it goes to, as in pool = \"web\"")
        .and_then(|value| Some((value.string(cx)?, value.at)));
    let mode = word
        .zip(mode_value)
        .map(|(word, value)| (read_mode(cx, &table, word, defaults), value.at));
    Some(AskedService {
        name: ServiceName::new(name),
        at: table.at,
        listen,
        pool,
        mode,
    })
}

fn read_listen(cx: &mut Cx, table: &Table<'_>) -> Vec<AskedListen> {
    let mend = "write listen = [\"192.0.2.10:80\"]";
    let Some(value) = table.require(cx, "listen", mend) else {
        return Vec::new();
    };
    let Some(items) = value.array(cx) else {
        return Vec::new();
    };
    if items.is_empty() {
        value.mistake(cx, "is empty", mend);
    }
    let read: Vec<AskedListen> = items.iter().filter_map(|item| read_address(cx, item)).collect();
    let ports: usize = read.iter().map(|asked| ports(&asked.listen)).sum();
    if ports > MAX_PORTS {
        value.mistake(
            cx,
            format!("has {ports} ports, more than {MAX_PORTS}"),
            "write smaller ranges, or divide it among several services",
        );
        return Vec::new();
    }
    read
}

fn ports(listen: &Listen) -> usize {
    usize::from(listen.last.saturating_sub(listen.first)) + 1
}

fn read_address(cx: &mut Cx, item: &Value<'_>) -> Option<AskedListen> {
    let text = item.string(cx)?;
    match parse_listen(text) {
        Ok(listen) => match unusable(listen.addr) {
            None => return Some(AskedListen { listen, at: item.at }),
            Some(why) => item.mistake(
                cx,
                format!("has {}, which {why}", listen.addr),
                "write a unicast address, or 0.0.0.0 or [::] for every one of the box",
            ),
        },
        Err(trouble) => item.trouble(cx, trouble),
    }
    None
}

fn read_mode(cx: &mut Cx, table: &Table<'_>, word: Word, defaults: &Values) -> Mode {
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
                &["timeouts", "limits"],
                "does not apply to an l4 service",
                "remove it, or write mode = \"tcp\" or \"http\"",
            );
            Mode::L4(read_l4(cx, table, defaults))
        }
        Word::Tcp => {
            let mend = "remove it, or write mode = \"l4\"";
            table.refuse(cx, &L4_KEYS, "does not apply to a tcp service", mend);
            let mend = "remove it, or write mode = \"http\"";
            table.refuse(cx, &HTTP_KEYS, "does not apply to a tcp service", mend);
            Mode::Tcp(read_tcp(cx, table, defaults))
        }
        Word::Http => {
            let mend = "remove it, or write mode = \"l4\"";
            table.refuse(cx, &L4_KEYS, "does not apply to an http service", mend);
            Mode::Http(read_http(cx, table, defaults))
        }
    }
}

fn read_l4(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> L4 {
    let forward = table
        .get("forward")
        .and_then(|value| value.choice(cx, &[("nat", Forward::Nat)], &LATER_FORWARD))
        .unwrap_or(Forward::Nat);
    let ring_size = table.get("ring_size").and_then(|value| {
        let size = value.integer(cx, 251..=655_373)?;
        if primes::is_prime(size) {
            return Some(size);
        }
        value.trouble(cx, primes::trouble(size));
        None
    });
    L4 {
        forward,
        ring_size: ring_size.unwrap_or(defaults.l4_ring_size),
    }
}

fn read_tcp(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> Tcp {
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
            &["head", "headers", "body"],
            "does not apply to a tcp service",
            "remove it, or write mode = \"http\"",
        );
    }
    Tcp {
        timeouts: read_timeouts(cx, table, defaults),
        connections: read_limits(cx, table, defaults).connections,
    }
}

fn read_http(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> Http {
    let forwarded = table.get("forwarded").and_then(|value| {
        let words = [
            ("x-forwarded-for", Forwarded::XForwardedFor),
            ("forwarded", Forwarded::Rfc7239),
            ("both", Forwarded::Both),
            ("off", Forwarded::Off),
        ];
        value.choice(cx, &words, &["proxy-protocol", "x-real-ip"])
    });
    let forwarded = forwarded.unwrap_or(Forwarded::XForwardedFor);
    let mut rules = |key, direction| {
        table
            .get(key)
            .map(|value| headers::read(cx, &value, direction, forwarded))
            .unwrap_or_default()
    };
    let request_headers = rules("request_headers", Direction::Request);
    let response_headers = rules("response_headers", Direction::Response);
    Http {
        timeouts: read_timeouts(cx, table, defaults),
        limits: read_limits(cx, table, defaults),
        trusted_proxies: read_networks(cx, table),
        forwarded,
        request_headers,
        response_headers,
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
    let body = get("body").and_then(|value| match value.as_string() {
        Some("none") => None,
        Some(text) if !text.starts_with(|c: char| c.is_ascii_digit()) => {
            value.mistake(
                cx,
                format!("is {}", quoted(text)),
                "write a size such as \"10MiB\", or \"none\"",
            );
            None
        }
        Some(_) | None => value.size(cx, 0..=u64::MAX),
    });
    let connections = get("connections").and_then(|value| value.integer(cx, 1..=10_000_000));
    Limits {
        head: u32::try_from(head.unwrap_or(defaults.relay_limit_head)).unwrap_or(u32::MAX),
        headers: u16::try_from(headers.unwrap_or(defaults.relay_limit_headers)).unwrap_or(u16::MAX),
        body,
        connections: connections.unwrap_or(defaults.relay_limit_connections),
    }
}

fn read_networks(cx: &mut Cx, table: &Table<'_>) -> Vec<IpNet> {
    let items = table
        .get("trusted_proxies")
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
