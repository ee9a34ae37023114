//! What a reload changes: old plan against new, for the log, and what a running weir can't change.
//!
//! Owns the comparison and its words; those of a service's keys are `services.rs`, those of a
//! pool's connections and retries `upstream.rs`, those of its source addresses `source.rs`. Never applies anything: the engine
//! does, with the new plan whole.

mod services;
mod source;
mod upstream;
mod vrrp;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use weir_core::{
    ids::{BackendKey, GroupName, PoolName, ServiceName},
    plan::{
        AccessLog, Admin, Balance, Check, CheckKind, ClientSource, Export, HttpProtocol, IpNet, Lists,
        LogFormat, Node, Plan, Pool, Sync, Tunnel, XdpMode,
    },
    proxy::Version,
};

use crate::{pools::quic, units::show_duration};

/// Networks of a list that are named one by one.
const NAMED: usize = 8;

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
    /// A group of virtual routers.
    Vrrp(GroupName),
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
            Self::Vrrp(name) => write!(f, "vrrp {name}"),
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
                    Subject::Vrrp(_) | Subject::Pool(_) | Subject::Backend(_) | Subject::Service(_) => {
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

/// All differences: the node's first and those of the lists, then groups of virtual routers, pools with their backends, then services; in order of the new plan, what
/// was removed before what is left.
pub fn diff(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    node(&mut changes, &old.node, &new.node);
    admin(&mut changes, &old.admin, &new.admin);
    access_log(&mut changes, &old.access_log, &new.access_log);
    lists(&mut changes, &old.lists, &new.lists);
    export(&mut changes, old.export.as_ref(), new.export.as_ref());
    sync(&mut changes, old.sync.as_deref(), new.sync.as_deref());
    vrrp::groups(&mut changes, &old.vrrp, &new.vrrp);
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
        own_addresses,
        xdp,
        workers,
        user,
        pins,
        hash_key,
        tunnel,
        gateways,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: false,
    };
    keys.compare("node.name", name, &new.name, |name| name.to_string());
    keys.compare("node.gateways", gateways, &new.gateways, |gateways| {
        let shown = gateways
            .iter()
            .map(|g| format!("{} by {}", g.address, g.interface));
        list_or_none(&shown.collect::<Vec<_>>())
    });
    keys.compare("node.own_addresses", own_addresses, &new.own_addresses, |list| {
        list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
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
    let Tunnel { source_v4, source_v6 } = tunnel;
    keys.compare(
        "node.tunnel.source_v4",
        source_v4,
        &new.tunnel.source_v4,
        ToString::to_string,
    );
    keys.compare(
        "node.tunnel.source_v6",
        source_v6,
        &new.tunnel.source_v6,
        ToString::to_string,
    );
}

/// A long list is told by how many come and go.
fn lists(changes: &mut Vec<Change>, old: &Lists, new: &Lists) {
    let Lists { allow, ban } = old;
    for (key, old, new) in [("lists.allow", allow, &new.allow), ("lists.ban", ban, &new.ban)] {
        let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
        // Another order is no other list.
        if before == after {
            continue;
        }
        let short = old.len() <= NAMED && new.len() <= NAMED;
        let show = |list: &[IpNet]| {
            if short {
                list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
            } else {
                format!("{} networks", list.len())
            }
        };
        let mut to = show(new);
        if !short {
            to.push_str(&format!(
                " ({} new, {} gone)",
                after.difference(&before).count(),
                before.difference(&after).count()
            ));
        }
        changes.push(Change {
            subject: Subject::Node,
            action: Action::Changed {
                key,
                from: show(old),
                to,
            },
            needs_restart: false,
        });
    }
}

fn export(changes: &mut Vec<Change>, old: Option<&Export>, new: Option<&Export>) {
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: false,
    };
    keys.compare("export", &old, &new, |export| match export {
        Some(Export { table, when, notice }) => {
            let (when, notice) = (when.as_str(), show_duration(*notice));
            format!("table {table}, when {when}, notice {notice}")
        }
        None => "none".into(),
    });
}

fn sync(changes: &mut Vec<Change>, old: Option<&Sync>, new: Option<&Sync>) {
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: false,
    };
    keys.compare("sync", &old, &new, |sync| match sync {
        Some(Sync {
            local,
            peers,
            keys,
            sign_with,
            rate,
        }) => {
            let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
            let keys: Vec<_> = keys
                .iter()
                .map(|(id, file)| format!("{id} of {}", file.display()))
                .collect();
            format!(
                "{local} with {}, keys {}, signs with {sign_with}, {rate}/s",
                peers.join(" "),
                keys.join(" ")
            )
        }
        None => "none".into(),
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

fn access_log(changes: &mut Vec<Change>, old: &AccessLog, new: &AccessLog) {
    let AccessLog { to, format, null } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Node,
        needs_restart: true,
    };
    keys.compare("access_log.to", to, &new.to, ToString::to_string);
    keys.compare("access_log.format", format, &new.format, |format| {
        format.map_or("as the log", LogFormat::as_str).to_owned()
    });
    keys.compare("access_log.null", null, &new.null, ToString::to_string);
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
        source,
        connections,
        retries,
        protocol,
        http2,
        tls,
        proxy,
        client_source,
        interface,
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
    source::changed(&mut keys, source.as_ref(), new.source.as_ref());
    keys.compare("source", client_source, &new.client_source, |source| {
        match source {
            None => "the box",
            Some(ClientSource { port: false }) => "client",
            Some(ClientSource { port: true }) => "client-and-port",
        }
        .into()
    });
    keys.compare("interface", interface, &new.interface, |interface| {
        interface.map_or_else(|| "as the routes say".into(), |interface| interface.to_string())
    });
    upstream::changed(
        &mut keys,
        (connections, &new.connections),
        (retries, &new.retries),
    );
    keys.compare("protocol", protocol, &new.protocol, |protocol| {
        protocol.as_str().into()
    });
    upstream::changed_http2(&mut keys, http2, &new.http2);
    services::tls::changed_of_pool(&mut keys, tls.as_deref(), new.tls.as_deref());
    upstream::changed_proxy(&mut keys, proxy.as_ref(), new.proxy.as_ref());
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
        keys.compare(
            "max_connections",
            &old.max_connections,
            &backend.max_connections,
            |max| upstream::show_max(*max, "the pool's"),
        );
        keys.compare("quic_id", &old.quic_id, &backend.quic_id, |id| {
            id.map_or_else(|| "none".into(), quic::show)
        });
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
        proxy,
    } = old;
    keys.compare("check.interval", interval, &new.interval, |d| show_duration(*d));
    keys.compare("check.timeout", timeout, &new.timeout, |d| show_duration(*d));
    keys.compare("check.rise", rise, &new.rise, ToString::to_string);
    keys.compare("check.fall", fall, &new.fall, ToString::to_string);
    keys.compare("check.jitter", jitter, &new.jitter, ToString::to_string);
    keys.compare("check.port", port, &new.port, |port| {
        port.map_or_else(|| "the backend's".into(), |port| port.to_string())
    });
    keys.compare("check.proxy_protocol", proxy, &new.proxy, |proxy| {
        proxy.map_or("off", Version::as_str).into()
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
        match (&http.tls, http.protocol) {
            (Some(_), HttpProtocol::Http1) => "https",
            (Some(_), HttpProtocol::H2c | HttpProtocol::H2) => "https (h2)",
            (None, HttpProtocol::Http1) => "http",
            (None, HttpProtocol::H2c | HttpProtocol::H2) => "http (h2c)",
        },
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
            Some(old) => services::changed(changes, old, service),
        }
    }
}

fn list_or_none(list: &[String]) -> String {
    if list.is_empty() {
        "none".into()
    } else {
        list.join(", ")
    }
}
