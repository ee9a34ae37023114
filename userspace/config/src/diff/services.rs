//! What changes of a service: each of its keys by name.
//!
//! Owns how their values are shown. Which services came and went is the parent's.

mod http;
pub(super) mod tls;

use weir_core::plan::{
    FlowHash, HelloRule, L4, Limits, Mode, OnBackendDown, Passthrough, PerSource, ProxyIn, Service, Timeouts,
};

use super::{Change, Keys, Subject, list_or_none};
use crate::units::{show_duration, show_size};

pub(super) fn changed(changes: &mut Vec<Change>, old: &Service, new: &Service) {
    let Service {
        name,
        listen,
        pool,
        mode,
        per_source,
        proxy,
        tls,
    } = old;
    let mut keys = Keys {
        changes,
        subject: Subject::Service(name.clone()),
        needs_restart: false,
    };
    keys.compare("listen", listen, &new.listen, |list| {
        list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    keys.compare("pool", pool, &new.pool, |pool| {
        pool.as_ref().map_or_else(|| "none".into(), ToString::to_string)
    });
    changed_per_source(&mut keys, per_source, &new.per_source);
    changed_proxy(&mut keys, proxy.as_ref(), new.proxy.as_ref());
    tls::changed(&mut keys, tls.as_ref(), new.tls.as_ref());
    match (mode, &new.mode) {
        (Mode::L4(old), Mode::L4(new)) => changed_l4(&mut keys, old, new),
        (Mode::Tcp(old), Mode::Tcp(new)) => {
            changed_timeouts(&mut keys, &old.timeouts, &new.timeouts);
            keys.compare(
                "limits.connections",
                &old.connections,
                &new.connections,
                ToString::to_string,
            );
            changed_passthrough(&mut keys, old.passthrough.as_ref(), new.passthrough.as_ref());
        }
        (Mode::Http(old), Mode::Http(new)) => {
            changed_timeouts(&mut keys, &old.timeouts, &new.timeouts);
            changed_limits(&mut keys, &old.limits, &new.limits);
            http::changed(&mut keys, old, new);
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

fn changed_l4(keys: &mut Keys<'_>, old: &L4, new: &L4) {
    let L4 {
        forward,
        ring_size,
        hash,
        on_backend_down,
        mss,
    } = old;
    keys.compare("forward", forward, &new.forward, |forward| {
        forward.as_str().into()
    });
    keys.compare("hash", hash, &new.hash, |hash| match hash {
        FlowHash::Flow => "flow".into(),
        FlowHash::Source {
            prefix_v4: 32,
            prefix_v6: 128,
        } => "source".into(),
        FlowHash::Source { prefix_v4, prefix_v6 } => format!("source-network /{prefix_v4} and /{prefix_v6}"),
        FlowHash::Quic { len } => format!("quic by {len}-byte ids"),
    });
    keys.compare(
        "on_backend_down",
        on_backend_down,
        &new.on_backend_down,
        |on_backend_down| {
            match on_backend_down {
                OnBackendDown::Remap => "remap",
                OnBackendDown::Reset => "reset",
            }
            .into()
        },
    );
    keys.compare("mss", mss, &new.mss, |mss| {
        mss.map_or_else(|| "by the MTU".into(), |mss| mss.to_string())
    });
    keys.compare("ring_size", ring_size, &new.ring_size, ToString::to_string);
}

fn changed_per_source(keys: &mut Keys<'_>, old: &PerSource, new: &PerSource) {
    let PerSource {
        rate,
        connections,
        prefix_v4,
        prefix_v6,
        ban,
    } = old;
    let bound = |bound: &Option<u32>| bound.map_or_else(|| "any".into(), |n| n.to_string());
    keys.compare("per_source.rate", rate, &new.rate, bound);
    keys.compare("per_source.connections", connections, &new.connections, bound);
    keys.compare("per_source.ban", ban, &new.ban, |ban| {
        ban.map_or_else(|| "none".into(), show_duration)
    });
    keys.compare(
        "per_source.prefix_v4",
        prefix_v4,
        &new.prefix_v4,
        ToString::to_string,
    );
    keys.compare(
        "per_source.prefix_v6",
        prefix_v6,
        &new.prefix_v6,
        ToString::to_string,
    );
}

fn changed_passthrough(keys: &mut Keys<'_>, old: Option<&Passthrough>, new: Option<&Passthrough>) {
    let rules = |all: Option<&Passthrough>| all.map_or_else(Vec::new, |all| all.rules.clone());
    keys.compare("rules", &rules(old), &rules(new), |rules| {
        list_or_none(&rules.iter().map(show_hello_rule).collect::<Vec<_>>())
    });
    if let (Some(old), Some(new)) = (old, new) {
        keys.compare("timeouts.hello", &old.timeout, &new.timeout, |d| {
            show_duration(*d)
        });
    }
}

fn show_hello_rule(rule: &HelloRule) -> String {
    let HelloRule { sni, alpn, pool } = rule;
    let named = |key: &str, values: &[String]| match values {
        [] => String::new(),
        _ => format!("{key} {} ", values.join("|")),
    };
    format!("{}{}to {pool}", named("sni", sni), named("alpn", alpn))
}

fn changed_proxy(keys: &mut Keys<'_>, old: Option<&ProxyIn>, new: Option<&ProxyIn>) {
    let (Some(old), Some(new)) = (old, new) else {
        return keys.compare("proxy_protocol", &old, &new, |proxy| {
            if proxy.is_some() { "on" } else { "none" }.into()
        });
    };
    let ProxyIn { from, timeout } = old;
    keys.compare("proxy_protocol.from", from, &new.from, |list| {
        list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    keys.compare("proxy_protocol.timeout", timeout, &new.timeout, |d| {
        show_duration(*d)
    });
}

fn changed_timeouts(keys: &mut Keys<'_>, old: &Timeouts, new: &Timeouts) {
    let Timeouts {
        handshake,
        connect,
        request_head,
        client,
        server,
        keep_alive,
        queue,
        tunnel,
    } = old;
    for (key, old, new) in [
        ("timeouts.handshake", handshake, &new.handshake),
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
        body_rate,
        connections,
    } = old;
    keys.compare("limits.head", head, &new.head, |n| show_size(u64::from(*n)));
    keys.compare("limits.headers", headers, &new.headers, ToString::to_string);
    keys.compare("limits.body", body, &new.body, |body| {
        body.map_or_else(|| "none".into(), show_size)
    });
    keys.compare("limits.body_rate", body_rate, &new.body_rate, |rate| {
        rate.map_or_else(|| "none".into(), |rate| show_size(u64::from(rate)))
    });
    keys.compare(
        "limits.connections",
        connections,
        &new.connections,
        ToString::to_string,
    );
}
