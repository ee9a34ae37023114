//! What a pool says of the relay's connections, against the services that use it and the workers that share it.

use std::collections::BTreeSet;

use weir_core::{ids::Shown, plan::Mode};

use super::Asked;
use crate::reader::Cx;

pub(super) fn check(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let packets_only = packets_only(asked);
    let workers = u32::from(asked.node.node.workers.unwrap_or(1));
    for pool in &asked.pools.pools {
        let name = pool.pool.name.as_str();
        if packets_only.contains(name) {
            for (key, at) in &pool.relay_keys {
                cx.mistake(
                    *at,
                    format!("{key} has no effect: the relay does not serve pool `{name}`, only services of mode \"l4\" use it"),
                    "remove it, or use the pool in a service of mode \"http\" or \"tcp\"",
                );
            }
            continue;
        }
        let Some(at) = pool.idle_min_at else { continue };
        let min = pool.pool.connections.idle_min;
        let all = min.saturating_mul(workers);
        let short = |b: &&weir_core::plan::Backend| pool.pool.max_connections(b).is_some_and(|max| max < all);
        if let Some(backend) = pool.pool.backends.iter().find(short)
            && let Some(max) = pool.pool.max_connections(backend)
        {
            let address = Shown(backend.key.address);
            let each = match workers {
                1 => format!("{min}"),
                _ => format!("{min} for each of {workers} workers, {all} in all"),
            };
            cx.mistake(
                at,
                format!("pools.{name}.connections.idle_min is {each}, and {address} may have no more than {max} connections"),
                "lower it, or raise the number of connections",
            );
        }
    }
}

/// Pools that services use, all of them of mode "l4". None of a pool if a service could not be read.
fn packets_only<'s>(asked: &Asked<'s, '_>) -> BTreeSet<&'s str> {
    let (mut used, mut relayed) = (BTreeSet::new(), BTreeSet::new());
    if !asked.services_complete {
        return used;
    }
    for service in asked.services {
        let Some((mode, _)) = service.mode.as_ref() else {
            return BTreeSet::new();
        };
        let own = service.pool.map(|(name, _)| name);
        if own.is_none() && !service.pool_optional {
            return BTreeSet::new();
        }
        match mode {
            Mode::Tcp(_) | Mode::Http(_) => {
                relayed.extend(own);
                relayed.extend(service.rule_pools.iter().map(|asked| asked.name.as_str()));
            }
            Mode::L4(_) => used.extend(own),
        }
    }
    used.difference(&relayed).copied().collect()
}
