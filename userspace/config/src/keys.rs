//! Every section of weir.toml with its keys: the one list that readers, messages and the documentation's test share.

mod vrrp;

pub use vrrp::{
    VRRP, VRRP_ANNOUNCE, VRRP_AUTHENTICATION, VRRP_DEMOTION, VRRP_KEY, VRRP_PREEMPT, VRRP_ROUTER, VRRP_SHARE,
    VRRP_VERSION2,
};

/// One table of the file.
#[derive(Debug)]
pub struct Section {
    /// Its heading, as in `pools.NAME.check`. Empty for the file itself.
    pub heading: &'static str,
    /// Its keys, sections inside it included.
    pub keys: &'static [&'static str],
    /// Keys that this version refuses by name, each with what to do instead.
    pub(crate) later: &'static [(&'static str, &'static str)],
}

/// The file itself.
pub static DOCUMENT: Section = Section {
    heading: "",
    keys: &[
        "node",
        "admin",
        "access_log",
        "lists",
        "export",
        "sync",
        "vrrp",
        "pools",
        "services",
    ],
    later: &[
        (
            "certificates",
            "end TLS in front of it, or relay it with mode = \"tcp\"",
        ),
        (
            "tunables",
            "write tunables into tunables.d/*.conf beside this file",
        ),
    ],
};

/// `[node]`
pub static NODE: Section = Section {
    heading: "node",
    keys: &[
        "name",
        "interfaces",
        "own_addresses",
        "xdp",
        "workers",
        "user",
        "pins",
        "hash_key",
        "tunnel",
        "gateways",
    ],
    later: &[],
};

/// An element of `node.gateways`.
pub static GATEWAY: Section = Section {
    heading: "node.gateways",
    keys: &["interface", "address"],
    later: &[],
};

/// `[node.tunnel]`
pub static TUNNEL: Section = Section {
    heading: "node.tunnel",
    keys: &["source_v4", "source_v6"],
    later: &[],
};

/// `[admin]`
pub static ADMIN: Section = Section {
    heading: "admin",
    keys: &["socket", "http"],
    later: &[],
};

/// `[access_log]`
pub static ACCESS_LOG: Section = Section {
    heading: "access_log",
    keys: &["to", "format", "null", "facility", "syslog_form"],
    later: &[],
};

/// `[lists]`
pub static LISTS: Section = Section {
    heading: "lists",
    keys: &["allow", "ban", "allow_file", "ban_file"],
    later: &[],
};

/// `[export]`
pub static EXPORT: Section = Section {
    heading: "export",
    keys: &["table", "when", "notice"],
    later: &[],
};

/// `[sync]`
pub static SYNC: Section = Section {
    heading: "sync",
    keys: &["local", "peers", "keys", "sign_with", "rate"],
    later: &[("interface", "write this box's address on it into `local`")],
};

/// An element of `sync.keys`.
pub static SYNC_KEY: Section = Section {
    heading: "sync.keys",
    keys: &["id", "file"],
    later: &[],
};

/// `[pools.NAME]`
pub static POOL: Section = Section {
    heading: "pools.NAME",
    keys: &[
        "balance",
        "backends",
        "check",
        "source",
        "connections",
        "retries",
        "protocol",
        "http2",
        "tls",
        "proxy_protocol",
        "proxy_tlvs",
        "interface",
    ],
    later: &[],
};

/// An element of `pools.NAME.backends`.
pub static BACKEND: Section = Section {
    heading: "pools.NAME.backends",
    keys: &[
        "address",
        "name",
        "weight",
        "backup",
        "quic_id",
        "max_connections",
    ],
    later: &[],
};

/// `[pools.NAME.source]`
pub static SOURCE: Section = Section {
    heading: "pools.NAME.source",
    keys: &["addresses", "ports", "relay_ports", "close"],
    later: &[],
};

/// `[pools.NAME.connections]`
pub static CONNECTIONS: Section = Section {
    heading: "pools.NAME.connections",
    keys: &["idle_min", "idle_max", "idle_timeout", "max", "queue"],
    later: &[(
        "queue_timeout",
        "`queue` in the timeouts of a service says how long its requests wait",
    )],
};

/// `[pools.NAME.http2]`
pub static POOL_HTTP2: Section = Section {
    heading: "pools.NAME.http2",
    keys: &["streams", "window", "ping", "ping_timeout"],
    later: &[(
        "connection_window",
        "it follows from `streams` and `window`, so that no response waits for another's client",
    )],
};

/// `[pools.NAME.retries]`
pub static RETRIES: Section = Section {
    heading: "pools.NAME.retries",
    keys: &["attempts", "budget", "budget_floor", "on"],
    later: &[],
};

/// `[pools.NAME.check]`
pub static CHECK: Section = Section {
    heading: "pools.NAME.check",
    keys: &[
        "type",
        "interval",
        "timeout",
        "rise",
        "fall",
        "port",
        "jitter",
        "path",
        "method",
        "host",
        "status",
        "protocol",
        "verify",
        "ca",
        "server_name",
        "proxy_protocol",
    ],
    later: &[
        ("send", "check with type = \"tcp\" or \"http\" instead"),
        ("expect", "check with type = \"tcp\" or \"http\" instead"),
        ("command", "check with type = \"tcp\" or \"http\" instead"),
        ("headers", "`host` sets the one header that checks send"),
        ("body", "`status` decides whether an answer is good"),
    ],
};

/// `[services.NAME]`
pub static SERVICE: Section = Section {
    heading: "services.NAME",
    keys: &[
        "listen",
        "mode",
        "pool",
        "forward",
        "hash",
        "hash_prefix_v4",
        "hash_prefix_v6",
        "on_backend_down",
        "mss",
        "ring_size",
        "http2",
        "per_source",
        "trusted_proxies",
        "forwarded",
        "forwarded_fields",
        "via",
        "allow_trace",
        "allow_connect",
        "loop_limit",
        "websocket",
        "request_id",
        "rewrite",
        "rules",
        "request_headers",
        "response_headers",
        "timeouts",
        "limits",
        "proxy_protocol",
        "tls",
    ],
    later: &[
        (
            "routes",
            "write `rules`, as in { match = { path_prefix = \"/api\" }, pool = \"api\" }",
        ),
        ("redirects", "write a rule with `redirect` into `rules`"),
        ("responses", "write a rule with `respond` into `rules`"),
        ("sticky", "balance by \"round-robin\" or \"least-connections\""),
    ],
};

/// An element of `services.NAME.listen`.
pub static LISTEN: Section = Section {
    heading: "services.NAME.listen",
    keys: &["address", "interface"],
    later: &[],
};

/// `[services.NAME.timeouts]`
pub static TIMEOUTS: Section = Section {
    heading: "services.NAME.timeouts",
    keys: &[
        "handshake",
        "connect",
        "request_head",
        "client",
        "server",
        "keep_alive",
        "queue",
        "tunnel",
        "hello",
    ],
    later: &[],
};

/// `[services.NAME.limits]`
pub static LIMITS: Section = Section {
    heading: "services.NAME.limits",
    keys: &["head", "headers", "body", "body_rate", "connections"],
    later: &[],
};

/// `[pools.NAME.tls]`
pub static POOL_TLS: Section = Section {
    heading: "pools.NAME.tls",
    keys: &[
        "verify",
        "ca",
        "server_name",
        "alpn",
        "certificate",
        "policy",
        "versions",
        "ciphers",
        "groups",
    ],
    later: &[
        (
            "key",
            "put it into the file of its certificate, or write certificate = { chain = \"…\", key = \"…\" }",
        ),
        ("sni", "the name that is asked for is `server_name`"),
        (
            "crl",
            "whether a backend's certificate was revoked is not looked up",
        ),
    ],
};

/// `pools.NAME.tls.certificate`
pub static POOL_TLS_CERTIFICATE: Section = Section {
    heading: "pools.NAME.tls.certificate",
    keys: &["chain", "key"],
    later: &[],
};

/// `[services.NAME.proxy_protocol]`
pub static PROXY_PROTOCOL: Section = Section {
    heading: "services.NAME.proxy_protocol",
    keys: &["from", "timeout"],
    later: &[],
};

/// `[services.NAME.tls]`
pub static TLS: Section = Section {
    heading: "services.NAME.tls",
    keys: &[
        "certificates",
        "policy",
        "versions",
        "ciphers",
        "groups",
        "alpn",
        "unknown_names",
        "ticket_keys",
        "client_certificates",
        "client_ca",
        "client_crl",
    ],
    later: &[
        (
            "key",
            "put it into the file of its certificate, or write certificates = [{ chain = \"…\", key = \"…\" }]",
        ),
        (
            "early_data",
            "clients send their request with the handshake's last message",
        ),
        ("acme", "have a client of ACME write the files, and reload weir"),
    ],
};

/// An element of `services.NAME.tls.certificates`.
pub static TLS_CERTIFICATE: Section = Section {
    heading: "services.NAME.tls.certificates",
    keys: &["chain", "key", "ocsp"],
    later: &[],
};

/// `[services.NAME.websocket]`
pub static WEBSOCKET: Section = Section {
    heading: "services.NAME.websocket",
    keys: &["strict", "protocols"],
    later: &[],
};

/// `[services.NAME.http2]`
pub static HTTP2: Section = Section {
    heading: "services.NAME.http2",
    keys: &[
        "enabled",
        "upgrade",
        "streams",
        "window",
        "connection_window",
        "offences",
    ],
    later: &[],
};

/// `[services.NAME.per_source]`
pub static PER_SOURCE: Section = Section {
    heading: "services.NAME.per_source",
    keys: &["rate", "connections", "ban", "prefix_v4", "prefix_v6"],
    later: &[],
};

/// An element of `services.NAME.request_headers` and `response_headers`.
pub static HEADER_RULE: Section = Section {
    heading: "services.NAME.request_headers",
    keys: &["set", "append", "remove", "replace", "find", "value"],
    later: &[("if", "rules apply to every message of the service")],
};

/// `[services.NAME.rewrite]`, and the same in a rule.
pub static REWRITE: Section = Section {
    heading: "services.NAME.rewrite",
    keys: &["strip_prefix", "add_prefix", "path", "replace", "query", "host"],
    later: &[(
        "regex",
        "write strip_prefix and add_prefix, or `path` with variables",
    )],
};

/// An element of `services.NAME.rewrite.replace`.
pub static PATH_REPLACE: Section = Section {
    heading: "services.NAME.rewrite.replace",
    keys: &["find", "with"],
    later: &[],
};

/// An element of `services.NAME.rules`.
pub static RULE: Section = Section {
    heading: "services.NAME.rules",
    keys: &["match", "redirect", "respond", "rewrite", "pool"],
    later: &[],
};

/// `services.NAME.rules.match`
pub static MATCH: Section = Section {
    heading: "services.NAME.rules.match",
    keys: &[
        "host",
        "path",
        "path_prefix",
        "method",
        "header",
        "variable",
        "sni",
        "alpn",
    ],
    later: &[
        ("path_regex", "write `path` or `path_prefix`"),
        (
            "query",
            "write `host`, `path`, `path_prefix`, `method` or `header`",
        ),
    ],
};

/// An element of `services.NAME.rules.match.header`.
pub static MATCH_HEADER: Section = Section {
    heading: "services.NAME.rules.match.header",
    keys: &["name", "value", "prefix"],
    later: &[
        ("regex", "write `value` or `prefix`"),
        ("suffix", "write `value` or `prefix`"),
    ],
};

/// An element of `services.NAME.rules.match.variable`.
pub static MATCH_VARIABLE: Section = Section {
    heading: "services.NAME.rules.match.variable",
    keys: &["name", "value", "prefix"],
    later: &[
        ("regex", "write `value` or `prefix`"),
        ("suffix", "write `value` or `prefix`"),
    ],
};

/// `services.NAME.rules.redirect`
pub static REDIRECT: Section = Section {
    heading: "services.NAME.rules.redirect",
    keys: &["to", "status"],
    later: &[],
};

/// `services.NAME.rules.respond`
pub static RESPOND: Section = Section {
    heading: "services.NAME.rules.respond",
    keys: &["status", "body", "file", "content_type", "headers"],
    later: &[],
};

/// Every section.
pub static ALL: [&Section; 47] = [
    &DOCUMENT,
    &NODE,
    &TUNNEL,
    &GATEWAY,
    &ADMIN,
    &ACCESS_LOG,
    &LISTS,
    &EXPORT,
    &SYNC,
    &SYNC_KEY,
    &VRRP,
    &VRRP_ROUTER,
    &VRRP_SHARE,
    &VRRP_VERSION2,
    &VRRP_PREEMPT,
    &VRRP_ANNOUNCE,
    &VRRP_AUTHENTICATION,
    &VRRP_KEY,
    &VRRP_DEMOTION,
    &POOL,
    &BACKEND,
    &SOURCE,
    &CONNECTIONS,
    &RETRIES,
    &POOL_HTTP2,
    &POOL_TLS,
    &POOL_TLS_CERTIFICATE,
    &CHECK,
    &SERVICE,
    &LISTEN,
    &TIMEOUTS,
    &LIMITS,
    &PROXY_PROTOCOL,
    &TLS,
    &TLS_CERTIFICATE,
    &WEBSOCKET,
    &HTTP2,
    &PER_SOURCE,
    &HEADER_RULE,
    &REWRITE,
    &PATH_REPLACE,
    &RULE,
    &MATCH,
    &MATCH_HEADER,
    &MATCH_VARIABLE,
    &REDIRECT,
    &RESPOND,
];

/// Another section that has the key, by its heading in brackets. None if several have it.
pub(crate) fn elsewhere(here: &Section, key: &str) -> Option<String> {
    let mut found = ALL
        .iter()
        .filter(|s| s.heading != here.heading && s.keys.contains(&key));
    match (found.next(), found.next()) {
        (Some(section), None) if section.heading.is_empty() => {
            Some("the file itself, outside of every section".into())
        }
        (Some(section), None) => Some(format!("[{}]", section.heading)),
        (Some(_), Some(_)) | (None, _) => None,
    }
}
