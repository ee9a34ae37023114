//! What a reload changes: old plan against new, for the log, and what a running weir can't change.
//!
//! Owns the comparison and its words. Never applies anything: the engine does, with the new plan whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use weir_core::{
    ids::{BackendKey, PoolName, ServiceName},
    plan::{
        Admin, Balance, Check, CheckKind, Forward, Forwarded, HeaderAction, HeaderRule, Limits, Listen, Mode,
        Node, Plan, Pool, Service, TemplatePart, Timeouts, Variable, XdpMode,
    },
};

use crate::units::{show_duration, show_size};

/// One difference. Printed as one line: `services.www.timeouts.client: 25s → 30s`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What it is about.
    pub subject: Subject,
    /// What happened to it.
    pub action: Action,
    needs_restart: bool,
}

impl Change {
    /// Whether it takes effect only with a restart: a reload that holds such a change must be refused.
    pub const fn needs_restart(&self) -> bool {
        self.needs_restart
    }
}

/// What a change is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// The box, or how operators reach it.
    Node,
    /// A pool.
    Pool(PoolName),
    /// A backend.
    Backend(BackendKey),
    /// A service.
    Service(ServiceName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Backend(key) => write!(f, "backend {key}"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// What happened to a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// One of its keys changed.
    Changed {
        /// The key, as it stands in the file below the subject: `check.interval`. For the node with its section.
        key: &'static str,
        /// Its old value.
        from: String,
        /// Its new value.
        to: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Added => write!(f, "{} added", self.subject),
            Action::Removed => write!(f, "{} removed", self.subject),
            Action::Changed { key, from, to } => {
                match self.subject {
                    Subject::Node => write!(f, "{key}: {from} → {to}")?,
                    Subject::Pool(_) | Subject::Backend(_) | Subject::Service(_) => {
                        write!(f, "{}: {key}: {from} → {to}", self.subject)?;
                    }
                }
                if self.needs_restart {
                    f.write_str(" (needs a restart)")
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// All differences: the node's first, then pools with their backends, then services; in order of the new plan, what
/// was removed before what is left.
pub fn diff(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    node(&mut changes, &old.node, &new.node);
    admin(&mut changes, &old.admin, &new.admin);
    pools(&mut changes, old, new);
    services(&mut changes, old, new);
    changes
}

/// One key of a subject in its two versions.
struct Keys<'c> {
    changes: &'c mut Vec<Change>,
    subject: Subject,
    needs_restart: bool,
}

impl Keys<'_> {
    fn compare<T: PartialEq>(&mut self, key: &'static str, old: &T, new: &T, show: impl Fn(&T) -> String) {
        if old != new {
            self.changes.push(Change {
                subject: self.subject.clone(),
                action: Action::Changed {
                    key,
                    from: show(old),
                    to: show(new),
                },
                needs_restart: self.needs_restart,
            });
        }
    }
}

fn existence(changes: &mut Vec<Change>, subject: Subject, action: Action) {
    changes.push(Change {
        subject,
        action,
        needs_restart: false,
    });
}

fn node(changes: &mut Vec<Change>, old: &Node, new: &Node) {
    // Every field is named, so that a new one can't be forgotten.
    let Node {
        name,
        interfaces,
        xdp,
        workers,
        user,
        pins,
        hash_key,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: false,
    };
    keys.compare("node.name", name, &new.name, |name| name.to_string());
    keys.needs_restart = true;
    keys.compare("node.interfaces", interfaces, &new.interfaces, |list| {
        list_or_none(list)
    });
    keys.compare("node.xdp", xdp, &new.xdp, |xdp| {
        match xdp {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        }
        .into()
    });
    keys.compare("node.workers", workers, &new.workers, |n| {
        n.map_or_else(|| "one per core".into(), |n| n.to_string())
    });
    keys.compare("node.user", user, &new.user, Clone::clone);
    keys.compare("node.pins", pins, &new.pins, |path| path.display().to_string());
    // The key is a secret: it does not go to the log.
    keys.compare("node.hash_key", hash_key, &new.hash_key, |key| {
        if key.is_some() { "set" } else { "drawn" }.into()
    });
}

fn admin(changes: &mut Vec<Change>, old: &Admin, new: &Admin) {
    let Admin { socket, http } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: true,
    };
    keys.compare("admin.socket", socket, &new.socket, |path| {
        path.display().to_string()
    });
    keys.compare("admin.http", http, &new.http, |http| {
        http.map_or_else(|| "off".into(), |http| http.to_string())
    });
}

fn pools(changes: &mut Vec<Change>, old: &Plan, new: &Plan) {
    let before: BTreeMap<_, _> = old.pools.iter().map(|pool| (&pool.name, pool)).collect();
    let after: BTreeSet<_> = new.pools.iter().map(|pool| &pool.name).collect();
    for gone in old.pools.iter().filter(|pool| !after.contains(&pool.name)) {
        existence(changes, Subject::Pool(gone.name.clone()), Action::Removed);
    }
    for pool in &new.pools {
        match before.get(&pool.name) {
            None => existence(changes, Subject::Pool(pool.name.clone()), Action::Added),
            Some(old) if *old == pool => {}
            Some(old) => changed_pool(changes, old, pool),
        }
    }
}

fn changed_pool(changes: &mut Vec<Change>, old: &Pool, new: &Pool) {
    let Pool {
        name,
        balance,
        backends,
        check,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Pool(name.clone()),
        needs_restart: false,
    };
    keys.compare("balance", balance, &new.balance, |balance| {
        match balance {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
        }
        .into()
    });
    match (check, &new.check) {
        (Some(old), Some(new)) => changed_check(&mut keys, old, new),
        (old, new) => keys.compare("check", old, new, |check| {
            if check.is_some() { "on" } else { "none" }.into()
        }),
    }
    let before: BTreeMap<_, _> = backends.iter().map(|backend| (&backend.key, backend)).collect();
    let after: BTreeSet<_> = new.backends.iter().map(|backend| &backend.key).collect();
    for gone in backends.iter().filter(|backend| !after.contains(&backend.key)) {
        existence(changes, Subject::Backend(gone.key.clone()), Action::Removed);
    }
    for backend in &new.backends {
        let subject = Subject::Backend(backend.key.clone());
        let Some(old) = before.get(&backend.key) else {
            existence(changes, subject, Action::Added);
            continue;
        };
        let mut keys = Keys {
            changes,
            subject,
            needs_restart: false,
        };
        keys.compare("name", &old.name, &backend.name, |name| name.to_string());
        keys.compare("weight", &old.weight, &backend.weight, ToString::to_string);
        keys.compare("backup", &old.backup, &backend.backup, ToString::to_string);
    }
}

fn changed_check(keys: &mut Keys<'_>, old: &Check, new: &Check) {
    let Check {
        kind,
        interval,
        timeout,
        rise,
        fall,
        port,
        jitter,
    } = old;
    keys.compare("check.interval", interval, &new.interval, |d| show_duration(*d));
    keys.compare("check.timeout", timeout, &new.timeout, |d| show_duration(*d));
    keys.compare("check.rise", rise, &new.rise, ToString::to_string);
    keys.compare("check.fall", fall, &new.fall, ToString::to_string);
    keys.compare("check.jitter", jitter, &new.jitter, ToString::to_string);
    keys.compare("check.port", port, &new.port, |port| {
        port.map_or_else(|| "the backend's".into(), |port| port.to_string())
    });
    keys.compare("check", kind, &new.kind, show_check);
}

fn show_check(kind: &CheckKind) -> String {
    let http = match kind {
        CheckKind::Tcp => return "tcp".into(),
        CheckKind::Http(http) => http,
    };
    let status: Vec<_> = http
        .status
        .iter()
        .map(|(low, high)| {
            if low == high {
                low.to_string()
            } else {
                format!("{low}-{high}")
            }
        })
        .collect();
    let mut out = format!(
        "{} {} {}",
        if http.tls.is_some() { "https" } else { "http" },
        http.method,
        http.path
    );
    if let Some(host) = &http.host {
        out.push_str(&format!(" host {host}"));
    }
    out.push_str(&format!(" status {}", status.join(",")));
    if let Some(tls) = &http.tls {
        if !tls.verify {
            out.push_str(" unverified");
        }
        if let Some(ca) = &tls.ca {
            out.push_str(&format!(" ca {}", ca.display()));
        }
        if let Some(name) = &tls.server_name {
            out.push_str(&format!(" server_name {name}"));
        }
    }
    out
}

fn services(changes: &mut Vec<Change>, old: &Plan, new: &Plan) {
    let before: BTreeMap<_, _> = old
        .services
        .iter()
        .map(|service| (&service.name, service))
        .collect();
    let after: BTreeSet<_> = new.services.iter().map(|service| &service.name).collect();
    for gone in old
        .services
        .iter()
        .filter(|service| !after.contains(&service.name))
    {
        existence(changes, Subject::Service(gone.name.clone()), Action::Removed);
    }
    for service in &new.services {
        match before.get(&service.name) {
            None => existence(changes, Subject::Service(service.name.clone()), Action::Added),
            Some(old) if *old == service => {}
            Some(old) => changed_service(changes, old, service),
        }
    }
}

fn changed_service(changes: &mut Vec<Change>, old: &Service, new: &Service) {
    let Service {
        name,
        listen,
        pool,
        mode,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Service(name.clone()),
        needs_restart: false,
    };
    keys.compare("listen", listen, &new.listen, |list| {
        list_or_none(&list.iter().map(show_listen).collect::<Vec<_>>())
    });
    keys.compare("pool", pool, &new.pool, ToString::to_string);
    match (mode, &new.mode) {
        (Mode::L4(old), Mode::L4(new)) => {
            keys.compare("forward", &old.forward, &new.forward, |forward| match forward {
                Forward::Nat => "nat".into(),
            });
            keys.compare("ring_size", &old.ring_size, &new.ring_size, ToString::to_string);
        }
        (Mode::Tcp(old), Mode::Tcp(new)) => {
            changed_timeouts(&mut keys, &old.timeouts, &new.timeouts);
            keys.compare(
                "limits.connections",
                &old.connections,
                &new.connections,
                ToString::to_string,
            );
        }
        (Mode::Http(old), Mode::Http(new)) => {
            changed_timeouts(&mut keys, &old.timeouts, &new.timeouts);
            changed_limits(&mut keys, &old.limits, &new.limits);
            keys.compare(
                "trusted_proxies",
                &old.trusted_proxies,
                &new.trusted_proxies,
                |list| list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>()),
            );
            keys.compare("forwarded", &old.forwarded, &new.forwarded, |forwarded| {
                match forwarded {
                    Forwarded::XForwardedFor => "x-forwarded-for",
                    Forwarded::Rfc7239 => "forwarded",
                    Forwarded::Both => "both",
                    Forwarded::Off => "off",
                }
                .into()
            });
            keys.compare(
                "request_headers",
                &old.request_headers,
                &new.request_headers,
                |list| show_rules(list),
            );
            keys.compare(
                "response_headers",
                &old.response_headers,
                &new.response_headers,
                |list| show_rules(list),
            );
        }
        (old, new) => keys.compare("mode", old, new, |mode| {
            match mode {
                Mode::L4(_) => "l4",
                Mode::Tcp(_) => "tcp",
                Mode::Http(_) => "http",
            }
            .into()
        }),
    }
}

fn changed_timeouts(keys: &mut Keys<'_>, old: &Timeouts, new: &Timeouts) {
    let Timeouts {
        connect,
        request_head,
        client,
        server,
        keep_alive,
        queue,
        tunnel,
    } = old;
    for (key, old, new) in [
        ("timeouts.connect", connect, &new.connect),
        ("timeouts.request_head", request_head, &new.request_head),
        ("timeouts.client", client, &new.client),
        ("timeouts.server", server, &new.server),
        ("timeouts.keep_alive", keep_alive, &new.keep_alive),
        ("timeouts.queue", queue, &new.queue),
        ("timeouts.tunnel", tunnel, &new.tunnel),
    ] {
        keys.compare(key, old, new, |d| show_duration(*d));
    }
}

fn changed_limits(keys: &mut Keys<'_>, old: &Limits, new: &Limits) {
    let Limits {
        head,
        headers,
        body,
        connections,
    } = old;
    keys.compare("limits.head", head, &new.head, |n| show_size(u64::from(*n)));
    keys.compare("limits.headers", headers, &new.headers, ToString::to_string);
    keys.compare("limits.body", body, &new.body, |body| {
        body.map_or_else(|| "none".into(), show_size)
    });
    keys.compare(
        "limits.connections",
        connections,
        &new.connections,
        ToString::to_string,
    );
}

fn show_listen(listen: &Listen) -> String {
    let first = std::net::SocketAddr::new(listen.addr, listen.first);
    let range = if listen.first == listen.last {
        String::new()
    } else {
        format!("-{}", listen.last)
    };
    format!("{first}{range}/{}", listen.protocol.as_str())
}

fn show_rules(rules: &[HeaderRule]) -> String {
    let template = |parts: &[TemplatePart]| -> String {
        parts
            .iter()
            .map(|part| match part {
                TemplatePart::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
                TemplatePart::Variable(variable) => format!("{{{}}}", variable_name(*variable)),
            })
            .collect()
    };
    let shown: Vec<_> = rules
        .iter()
        .map(|rule| match &rule.action {
            HeaderAction::Set(value) => format!("set {}: {}", rule.name, template(&value.parts)),
            HeaderAction::Append(value) => format!("append {}: {}", rule.name, template(&value.parts)),
            HeaderAction::Remove => format!("remove {}", rule.name),
        })
        .collect();
    list_or_none(&shown)
}

fn variable_name(variable: Variable) -> &'static str {
    Variable::ALL
        .iter()
        .find(|(_, known)| *known == variable)
        .map_or("", |(name, _)| name)
}

fn list_or_none(list: &[String]) -> String {
    if list.is_empty() {
        "none".into()
    } else {
        list.join(", ")
    }
}
