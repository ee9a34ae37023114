//! `[[services.NAME.rules]]` in mode `tcp`: which pool TLS is passed on to, by its ClientHello.
//!
//! Owns the keys of these rules, and which could never do anything. The first that holds decides; that is what the relay
//! goes by, and what a message here relies on.

use std::time::Duration;

use weir_core::{
    ids::PoolName,
    plan::{HelloRule, Passthrough},
};

use super::{DAY, Files, MS, conditions, rules};
use crate::{
    keys,
    reader::{Cx, Table, Value},
    words::quoted,
};

/// How long a ClientHello may take: it is the first thing that a client sends.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What follows a request that is read, and such rules read none.
const OF_HTTP: [&str; 3] = ["redirect", "respond", "rewrite"];
const CONDITIONS_OF_HTTP: [&str; 5] = ["host", "path", "path_prefix", "method", "header"];

/// None without rules.
pub(super) fn read(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> Option<Passthrough> {
    let timeouts = table.get("timeouts").and_then(|value| value.names(cx));
    let given = timeouts.and_then(|timeouts| timeouts.get("hello"));
    let Some(value) = table.get("rules") else {
        if let Some(given) = given.filter(|_| !table.meant("rules")) {
            given.mistake(
                cx,
                "has no effect: without `rules` no ClientHello is waited for",
                "remove it, or write rules = [{ match = { sni = \"www.example.org\" }, pool = \"web\" }]",
            );
        }
        return None;
    };
    let timeout = given.and_then(|value| value.duration(cx, MS..=DAY));
    let items = value.array(cx).unwrap_or_default();
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty, and says nothing",
            "write rules = [{ match = { sni = \"www.example.org\" }, pool = \"web\" }], or remove it",
        );
    }
    if rules::are_too_many(cx, &value, items.len()) {
        return None;
    }
    let mut all: Vec<(HelloRule, usize)> = Vec::new();
    for item in &items {
        let Some(rule) = read_rule(cx, item, files) else {
            continue;
        };
        let same = |(known, _): &&(HelloRule, usize)| known.sni == rule.sni && known.alpn == rule.alpn;
        let earlier = all.iter().find(|(known, _)| known.holds_always());
        if let Some((_, at)) = earlier.or_else(|| all.iter().find(same)) {
            let line = cx.line(*at);
            cx.mistake(
                item.at,
                format!(
                    "this rule of {} never holds: the one in line {line} takes all that it would",
                    item.path
                ),
                "move that one behind it, or remove one of the two",
            );
        }
        all.push((rule, item.at));
    }
    Some(Passthrough {
        rules: all.into_iter().map(|(rule, _)| rule).collect(),
        timeout: timeout.unwrap_or(TIMEOUT),
    })
}

fn read_rule(cx: &mut Cx, item: &Value<'_>, files: &mut Files<'_>) -> Option<HelloRule> {
    let table = item.table(cx, &keys::RULE)?;
    let why = "does not apply to a tcp service";
    table.refuse(
        cx,
        &OF_HTTP,
        why,
        "write the `pool` that its connections go to, or mode = \"http\"",
    );
    let conditions = match table.get("match") {
        Some(value) => read_conditions(cx, &value),
        None if table.meant("match") => None,
        None => Some((Vec::new(), Vec::new())),
    };
    let pool = table.require(
        cx,
        "pool",
        "name the pool that its connections go to, as in pool = \"web\"",
    );
    let pool: Option<PoolName> = pool.and_then(|value| rules::read_pool(cx, &value, files));
    let (sni, alpn) = conditions?;
    Some(HelloRule {
        sni,
        alpn,
        pool: pool?,
    })
}

fn read_conditions(cx: &mut Cx, value: &Value<'_>) -> Option<(Vec<String>, Vec<String>)> {
    let table = value.table(cx, &keys::MATCH)?;
    let why = "does not apply to a tcp service";
    table.refuse(
        cx,
        &CONDITIONS_OF_HTTP,
        why,
        "write `sni` or `alpn`, or mode = \"http\"",
    );
    let sni = conditions::several(cx, &table, "sni", read_name);
    let alpn = conditions::several(cx, &table, "alpn", read_protocol);
    let (sni, alpn) = (sni?, alpn?);
    if sni.is_empty() && alpn.is_empty() {
        if table.entries().is_empty() {
            value.mistake(
                cx,
                "has no condition",
                "write sni or alpn, or remove it for every connection",
            );
        }
        return None;
    }
    Some((sni, alpn))
}

/// A host as of HTTP; but nobody asks for an address by name.
fn read_name(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let name = conditions::read_host_pattern(cx, value)?;
    if name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok() {
        value.mistake(
            cx,
            format!(
                "is {}, and no client names an address (RFC 6066 section 3)",
                quoted(&name)
            ),
            "write a name; clients that name none meet the rules without `sni`",
        );
        return None;
    }
    Some(name)
}

fn read_protocol(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let text = value.string(cx)?;
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    value.mistake(
        cx,
        format!("is {}, which is no protocol of ALPN", quoted(text)),
        "write one as in \"h2\" or \"http/1.1\"",
    );
    None
}
