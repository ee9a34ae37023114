//! The pool `original-destination`: wherever the client wanted to go. It need not be written; its section says how its
//! connections are made.

use weir_core::{
    ids::PoolName,
    plan::{Backend, Balance, ORIGINAL_DESTINATION, Pool},
};

use super::{AskedPool, AskedPools, upstream};
use crate::{
    reader::{Cx, Table},
    services::AskedService,
    tunables::Values,
};

/// Keys that are about backends which are known in advance.
const NOT_ITS: [&str; 5] = ["backends", "balance", "check", "protocol", "http2"];

/// Refuses what makes no sense of it, and gives it what stands for its backend.
pub(super) fn complete(cx: &mut Cx, table: &Table<'_>, asked: &mut AskedPool) {
    table.refuse(
        cx,
        &NOT_ITS,
        "does not apply to the pool original-destination, whose backends are where clients want to go",
        "remove it, or write it in a pool of another name",
    );
    if let Some(value) = table
        .get("connections")
        .and_then(|connections| connections.peek("idle_min"))
    {
        value.mistake(
            cx,
            "does not apply to the pool original-destination: where its connections lead is not known in advance",
            "remove it",
        );
    }
    if let Some(value) = table.get("source").filter(|value| value.as_string().is_none()) {
        value.mistake(
            cx,
            "has addresses, and the pool original-destination takes only the client's",
            "write source = \"client\", or leave it out",
        );
    }
    give_backend(asked, table.at);
}

/// Adds the pool where a service names it and no section does.
pub(crate) fn add(cx: &mut Cx, pools: &mut AskedPools, services: &[AskedService<'_>], defaults: &Values) {
    let named = |service: &AskedService<'_>| {
        let own = service.pool.iter().map(|(name, _)| *name);
        let by_rules = service.rule_pools.iter().map(|asked| asked.name.as_str());
        own.chain(by_rules).any(|name| name == ORIGINAL_DESTINATION)
    };
    let written = |pools: &AskedPools| {
        let mut read = pools.pools.iter().map(|asked| asked.pool.name.as_str());
        let mut unread = pools.unread.iter().map(String::as_str);
        read.any(|name| name == ORIGINAL_DESTINATION) || unread.any(|name| name == ORIGINAL_DESTINATION)
    };
    if written(pools) || !services.iter().any(named) {
        return;
    }
    let (connections, retries) = upstream::by_default(cx, defaults);
    let mut asked = AskedPool {
        pool: Pool {
            name: PoolName::new(ORIGINAL_DESTINATION),
            balance: Balance::RoundRobin,
            backends: Vec::new(),
            check: None,
            source: None,
            connections,
            retries,
            protocol: weir_core::plan::HttpProtocol::default(),
            http2: weir_core::plan::Http2::default(),
            tls: None,
            proxy: None,
            client_source: None,
            interface: None,
        },
        backends_at: Vec::new(),
        complete: false,
        source: None,
        has_source: false,
        client_at: None,
        relay_keys: Vec::new(),
        idle_min_at: None,
    };
    give_backend(&mut asked, 0);
    pools.pools.push(asked);
}

fn give_backend(asked: &mut AskedPool, at: usize) {
    asked.pool.balance = Balance::RoundRobin;
    asked.pool.check = None;
    asked.pool.backends = vec![Backend::original_destination()];
    asked.backends_at = vec![at];
    asked.complete = true;
}
