//! Every section of weir.toml with its keys: the one list that readers, messages and the documentation's test share.

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
    keys: &["node", "admin", "pools", "services"],
    later: &[
        ("vrrp", "run keepalived beside it for a pair of boxes"),
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
    keys: &["name", "interfaces", "xdp", "workers", "user", "pins", "hash_key"],
    later: &[],
};

/// `[admin]`
pub static ADMIN: Section = Section {
    heading: "admin",
    keys: &["socket", "http"],
    later: &[],
};

/// `[pools.NAME]`
pub static POOL: Section = Section {
    heading: "pools.NAME",
    keys: &["balance", "backends", "check"],
    later: &[
        (
            "hash",
            "it has balance = \"round-robin\" and \"least-connections\"",
        ),
        (
            "tls",
            "backends are spoken to without TLS; end it on the backend's own box",
        ),
        (
            "proxy_protocol",
            "backends learn the client's address by `forwarded` of an http service",
        ),
    ],
};

/// An element of `pools.NAME.backends`.
pub static BACKEND: Section = Section {
    heading: "pools.NAME.backends",
    keys: &["address", "name", "weight", "backup"],
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
        "verify",
        "ca",
        "server_name",
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
        "ring_size",
        "trusted_proxies",
        "forwarded",
        "request_headers",
        "response_headers",
        "timeouts",
        "limits",
    ],
    later: &[
        ("tls", "end TLS in front of it, or relay it with mode = \"tcp\""),
        (
            "proxy_protocol",
            "put the proxies in front of it into trusted_proxies, and let them send X-Forwarded-For",
        ),
        ("routes", "each service has one pool"),
        ("rules", "each service has one pool"),
        ("sticky", "balance by \"round-robin\" or \"least-connections\""),
    ],
};

/// `[services.NAME.timeouts]`
pub static TIMEOUTS: Section = Section {
    heading: "services.NAME.timeouts",
    keys: &[
        "connect",
        "request_head",
        "client",
        "server",
        "keep_alive",
        "queue",
        "tunnel",
    ],
    later: &[],
};

/// `[services.NAME.limits]`
pub static LIMITS: Section = Section {
    heading: "services.NAME.limits",
    keys: &["head", "headers", "body", "connections"],
    later: &[],
};

/// An element of `services.NAME.request_headers` and `response_headers`.
pub static HEADER_RULE: Section = Section {
    heading: "services.NAME.request_headers",
    keys: &["set", "append", "remove", "value"],
    later: &[("if", "rules apply to every message of the service")],
};

/// Every section.
pub static ALL: [&Section; 10] = [
    &DOCUMENT,
    &NODE,
    &ADMIN,
    &POOL,
    &BACKEND,
    &CHECK,
    &SERVICE,
    &TIMEOUTS,
    &LIMITS,
    &HEADER_RULE,
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
