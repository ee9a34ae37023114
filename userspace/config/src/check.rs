//! `[pools.NAME.check]`: how the health of backends is found out.
//!
//! Owns the keys, ranges and defaults of checks. Running them is `weir-health`, judging them `weir_core::health`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use weir_core::{
    ids::Shown,
    plan::{BackendTls, BackendTrust, Check, CheckKind, HttpCheck, HttpProtocol, ProxyOut, TlsCheck},
};

use crate::{
    keys,
    node::read_path,
    pools::{http2, proxy, tls::read_server_name},
    reader::{Cx, Table, Value},
    tunables::Values,
    units::show_duration,
    words::{listed, quoted},
};

/// Types of later versions.
const LATER_TYPES: [&str; 8] = [
    "tls",
    "icmp",
    "ping",
    "udp",
    "send-expect",
    "websocket",
    "command",
    "grpc",
];
/// Keys of HTTP and HTTPS checks.
const HTTP_KEYS: [&str; 5] = ["path", "method", "host", "status", "protocol"];
/// Keys of HTTPS checks.
const TLS_KEYS: [&str; 3] = ["verify", "ca", "server_name"];
/// Statuses that count as success by default.
const DEFAULT_STATUS: [(u16, u16); 2] = [(200, 299), (300, 399)];

const DAY: Duration = Duration::from_secs(86_400);

/// A file of certificates that a check names: whether it can be read is found out by whoever may read files.
#[derive(Debug)]
pub(crate) struct CaFile {
    pub(crate) path: PathBuf,
    pub(crate) at: usize,
    /// The key's name, for messages.
    pub(crate) key: String,
}

#[derive(Clone, Copy)]
enum Type {
    Tcp,
    Http,
    Https,
}

/// What a pool says of connections to its backends, which its checks follow unless they say otherwise.
pub(crate) struct OfPool {
    pub(crate) protocol: HttpProtocol,
    pub(crate) proxy: Option<ProxyOut>,
    pub(crate) tls: Option<Box<BackendTls>>,
}

impl OfPool {
    /// What listens on another port is another server, of which the pool says nothing.
    fn at(&self, port: bool) -> (HttpProtocol, Option<TlsCheck>) {
        if port {
            let protocol = match self.protocol {
                HttpProtocol::H2 => HttpProtocol::Http1,
                HttpProtocol::Http1 | HttpProtocol::H2c => self.protocol,
            };
            return (protocol, None);
        }
        let tls = self.tls.as_ref().map(|tls| TlsCheck {
            verify: tls.trust != BackendTrust::Anybody,
            ca: tls.trust.authorities().map(|file| file.path.clone()),
            server_name: tls.server_name.clone(),
        });
        (self.protocol, tls)
    }
}

/// `portless` is a backend that has no port of its own to be asked at.
pub(crate) fn read(
    cx: &mut Cx,
    value: &Value<'_>,
    defaults: &Values,
    files: &mut Vec<CaFile>,
    portless: Option<SocketAddr>,
    of_pool: &OfPool,
) -> Option<Check> {
    let table = value.table(cx, &keys::CHECK)?;
    let kind = table
        .require(cx, "type", "write type = \"tcp\", \"http\" or \"https\"")
        .and_then(|value| {
            let words = [("tcp", Type::Tcp), ("http", Type::Http), ("https", Type::Https)];
            value.choice(cx, &words, &LATER_TYPES)
        })
        .map(|kind| {
            let port = table.get("port").is_some() || table.meant("port");
            read_kind(cx, &table, kind, files, of_pool.at(port))
        });
    let (interval, timeout) = read_times(cx, &table, defaults);
    let mut count = |key, range, default| match table.get(key) {
        None => default,
        Some(value) => value.integer(cx, range).unwrap_or(default),
    };
    let rise = count("rise", 1..=1000, defaults.check_rise);
    let fall = count("fall", 1..=1000, defaults.check_fall);
    let jitter = count("jitter", 0..=50, defaults.check_jitter);
    if let Some(backend) = portless
        && table.get("port").is_none()
        && !table.meant("port")
    {
        value.mistake(
            cx,
            format!("has no port to ask, and {} names none", Shown(backend)),
            "write the port that is asked, as in port = 80, in the check",
        );
    }
    let port = table.get("port").and_then(|value| value.integer(cx, 1..=65_535));
    let proxy = match table.get("proxy_protocol") {
        Some(value) => proxy::read_version(cx, &value).flatten(),
        // What listens on another port is another server.
        None if port.is_some() => None,
        None => of_pool.proxy.map(|proxy| proxy.version),
    };
    Some(Check {
        kind: kind?,
        interval,
        timeout,
        rise,
        fall,
        port: port.and_then(|port| u16::try_from(port).ok()),
        jitter: u8::try_from(jitter).unwrap_or(0),
        proxy,
    })
}

/// Interval and timeout. A timeout that is not given is the tunable's, or half the interval where that is too long.
fn read_times(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> (Duration, Duration) {
    let given = |cx: &mut Cx, key, min| {
        table
            .get(key)
            .map(|value| (value.duration(cx, Duration::from_millis(min)..=DAY), value))
    };
    let interval_given = given(cx, "interval", 10);
    let timeout_given = given(cx, "timeout", 1);
    let interval = match &interval_given {
        Some((interval, _)) => *interval,
        None => Some(defaults.check_interval),
    };
    match (interval, timeout_given) {
        (Some(interval), Some((Some(timeout), value))) => {
            if timeout >= interval {
                let by_default = if interval_given.is_none() {
                    " by default"
                } else {
                    ""
                };
                value.mistake(
                    cx,
                    format!(
                        "is {}, not shorter than the interval ({}{by_default})",
                        show_duration(timeout),
                        show_duration(interval)
                    ),
                    "shorten the timeout or lengthen the interval",
                );
            }
            (interval, timeout)
        }
        (Some(interval), None) if defaults.check_timeout < interval => (interval, defaults.check_timeout),
        (Some(interval), None) => (interval, interval / 2),
        (Some(interval), Some((None, _))) => (interval, defaults.check_timeout),
        (None, _) => (defaults.check_interval, defaults.check_timeout),
    }
}

fn read_kind(
    cx: &mut Cx,
    table: &Table<'_>,
    kind: Type,
    files: &mut Vec<CaFile>,
    (protocol, tls): (HttpProtocol, Option<TlsCheck>),
) -> CheckKind {
    let kind = match (kind, &tls) {
        // What is spoken to the pool's backends.
        (Type::Http, Some(_)) => Type::Https,
        (kind, _) => kind,
    };
    match kind {
        Type::Tcp => {
            let mend = "remove it, or write type = \"http\"";
            table.refuse(cx, &HTTP_KEYS, "does not apply to a tcp check", mend);
            table.refuse(
                cx,
                &TLS_KEYS,
                "does not apply to a tcp check",
                "remove it, or write type = \"https\"",
            );
            CheckKind::Tcp
        }
        Type::Http => {
            let mend = "remove it, or write type = \"https\"";
            table.refuse(cx, &TLS_KEYS, "does not apply to an http check", mend);
            let protocol = read_protocol(cx, table, HttpProtocol::H2, "h2c").unwrap_or(protocol);
            read_http(cx, table, protocol, None)
        }
        Type::Https => {
            let asked = read_protocol(cx, table, HttpProtocol::H2c, "h2");
            let protocol = asked.unwrap_or(match protocol {
                HttpProtocol::H2c => HttpProtocol::Http1,
                HttpProtocol::Http1 | HttpProtocol::H2 => protocol,
            });
            let tls = read_tls(cx, table, files, tls);
            read_http(cx, table, protocol, Some(tls))
        }
    }
}

/// `protocol` of a check; one of them is not for its type.
fn read_protocol(cx: &mut Cx, table: &Table<'_>, never: HttpProtocol, instead: &str) -> Option<HttpProtocol> {
    let value = table.get("protocol")?;
    let protocol = http2::read_protocol(cx, &value)?;
    if protocol != never {
        return Some(protocol);
    }
    let over = match never {
        HttpProtocol::H2 => "over TLS, and the check is not",
        HttpProtocol::H2c | HttpProtocol::Http1 => "over plain TCP, and the check is over TLS",
    };
    value.mistake(
        cx,
        format!("is `{}`, which is spoken {over}", never.as_str()),
        format!("write \"{instead}\" or \"http/1.1\""),
    );
    None
}

fn read_http(cx: &mut Cx, table: &Table<'_>, protocol: HttpProtocol, tls: Option<TlsCheck>) -> CheckKind {
    let method = table.get("method").and_then(|value| read_method(cx, &value));
    let path = table.get("path").and_then(|value| read_target(cx, &value));
    let host = table.get("host").and_then(|value| read_host(cx, &value));
    let status = table.get("status").and_then(|value| read_status(cx, &value));
    CheckKind::Http(HttpCheck {
        protocol,
        tls,
        method: method.unwrap_or_else(|| "GET".into()),
        path: path.unwrap_or_else(|| "/".into()),
        host,
        status: status.unwrap_or_else(|| DEFAULT_STATUS.to_vec()),
    })
}

/// What is not said is as the pool has it.
fn read_tls(cx: &mut Cx, table: &Table<'_>, files: &mut Vec<CaFile>, of_pool: Option<TlsCheck>) -> TlsCheck {
    let of_pool = of_pool.unwrap_or(TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    });
    let asked = table.get("verify").and_then(|value| value.boolean(cx));
    let ca = table.get("ca").and_then(|value| {
        if asked == Some(false) {
            value.mistake(cx, "has no effect with verify = false", "remove one of the two");
        }
        let path = read_path(cx, &value)?;
        files.push(CaFile {
            path: path.clone(),
            at: value.at,
            key: value.path,
        });
        Some(path)
    });
    let server_name = table
        .get("server_name")
        .and_then(|value| read_server_name(cx, &value));
    let verify = asked.unwrap_or_else(|| of_pool.verify || ca.is_some());
    TlsCheck {
        verify,
        ca: ca.or(of_pool.ca).filter(|_| verify),
        server_name: server_name.or(of_pool.server_name),
    }
}

pub(crate) fn read_method(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    let method = value.string(cx)?;
    let upper = method.to_ascii_uppercase();
    if method.is_empty() || method.len() > 32 || !method.bytes().all(crate::headers::is_token_byte) {
        value.mistake(
            cx,
            format!("is {}, which is no method", quoted(method)),
            "write \"GET\" or \"HEAD\"",
        );
    } else if method == "CONNECT" {
        value.mistake(
            cx,
            "is `CONNECT`, which opens a tunnel",
            "write \"GET\" or \"HEAD\"",
        );
    } else if method != upper && KNOWN.contains(&upper.as_str()) {
        value.mistake(
            cx,
            format!("is {}, and methods heed case", quoted(method)),
            format!("write \"{upper}\""),
        );
    } else {
        return Some(method.to_owned());
    }
    None
}

/// An origin-form request target (RFC 9112 section 3.2.1).
fn read_target(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let path = value.string(cx)?;
    if !path.starts_with('/') {
        value.mistake(
            cx,
            format!("is {}", quoted(path)),
            "begin it with /, as in /healthz",
        );
        return None;
    }
    let odd = path.chars().find(|&c| {
        !c.is_ascii_graphic() || matches!(c, '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    });
    if let Some(odd) = odd {
        value.mistake(
            cx,
            format!(
                "has the character {}, which a request target can't have",
                quoted(&odd.to_string())
            ),
            "percent-encode it, as in %20 for a space, or remove it",
        );
        return None;
    }
    Some(path.to_owned())
}

/// A `Host` field's value (RFC 9110 section 7.2): a name or address, and perhaps a port.
fn read_host(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let host = value.string(cx)?;
    if !is_host(host) {
        value.mistake(
            cx,
            format!("is {}, which is no Host header", quoted(host)),
            "write a name or address, and a port if need be, as in www.example.org:8080",
        );
        return None;
    }
    Some(host.to_owned())
}

/// Whether it is a name or address, and perhaps a port.
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        Some(_) | None => (host, None),
    };
    let literal = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let good_name = literal.map_or_else(
        || is_dns_name(name) || name.parse::<std::net::Ipv4Addr>().is_ok(),
        |v6| v6.parse::<std::net::Ipv6Addr>().is_ok(),
    );
    let good_port =
        port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0));
    good_name && good_port
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63.
pub(crate) fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn read_status(cx: &mut Cx, value: &Value<'_>) -> Option<Vec<(u16, u16)>> {
    let items = value.array(cx)?;
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty, so that every check would fail",
            "write status = [\"2xx\", \"3xx\"]",
        );
        return None;
    }
    let mut ranges = Some(Vec::new());
    for item in items {
        let range = item.string(cx).and_then(|text| {
            let range = parse_status(text);
            if range.is_none() {
                item.mistake(
                    cx,
                    format!("has {}, which is no status from 200 to 599", quoted(text)),
                    format!("write {}", listed(&["\"2xx\"", "\"404\"", "\"200-299\""], "or")),
                );
            }
            range
        });
        match (range, &mut ranges) {
            (Some(range), Some(list)) => list.push(range),
            (Some(_), None) => {}
            (None, _) => ranges = None,
        }
    }
    ranges
}

/// `2xx`, `404` or `200-299`, within 200 to 599: a check waits for the final answer.
fn parse_status(text: &str) -> Option<(u16, u16)> {
    let one = |text: &str| -> Option<u16> {
        let number = (text.len() == 3).then(|| text.parse::<u16>().ok()).flatten()?;
        (200..=599).contains(&number).then_some(number)
    };
    if let Some(class) = text.strip_suffix("xx") {
        let low = one(&format!("{class}00"))?;
        return Some((low, low + 99));
    }
    match text.split_once('-') {
        None => one(text).map(|status| (status, status)),
        Some((low, high)) => {
            let (low, high) = (one(low)?, one(high)?);
            (low <= high).then_some((low, high))
        }
    }
}
