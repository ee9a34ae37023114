//! `[pools.NAME.connections]` and `[pools.NAME.retries]`: the relay's connections to backends, and its further tries.
//!
//! Owns the keys, ranges and defaults. That some service of the pool is relayed, and that there is room for what is kept
//! ready, is seen by `cross/upstream.rs`.

use std::time::Duration;

use weir_core::plan::{Connections, Retries, RetryOn};

use crate::{
    keys,
    reader::{Cx, Table, Value},
    tunables::Values,
};

/// Most connections that a bound may allow.
pub(crate) const MAX_CONNECTIONS: u32 = 1_000_000;
/// Most idle connections that a worker may keep for a backend.
const MAX_IDLE: u32 = 65_535;
/// Most of them that it may keep ready in advance.
const MAX_READY: u32 = 1024;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What makes another try, in words.
#[derive(Clone, Copy)]
enum On {
    Connect,
    Closed,
    Timeout,
    Status(u16),
}

const ON: [(&str, On); 7] = [
    ("connect", On::Connect),
    ("closed", On::Closed),
    ("timeout", On::Timeout),
    ("500", On::Status(500)),
    ("502", On::Status(502)),
    ("503", On::Status(503)),
    ("504", On::Status(504)),
];

/// What other proxies retry on.
const LATER_ON: [&str; 6] = ["404", "408", "425", "429", "5xx", "all"];

/// Both sections of a pool.
pub(crate) fn read(cx: &mut Cx, table: &Table<'_>, defaults: &Values) -> (Connections, Retries) {
    let connections = table
        .get("connections")
        .and_then(|value| value.table(cx, &keys::CONNECTIONS));
    let retries = table
        .get("retries")
        .and_then(|value| value.table(cx, &keys::RETRIES));
    (
        read_connections(cx, connections.as_ref(), defaults),
        read_retries(cx, retries.as_ref(), defaults),
    )
}

/// Both, where nothing of them is written.
pub(super) fn by_default(cx: &mut Cx, defaults: &Values) -> (Connections, Retries) {
    (
        read_connections(cx, None, defaults),
        read_retries(cx, None, defaults),
    )
}

fn read_connections(cx: &mut Cx, table: Option<&Table<'_>>, defaults: &Values) -> Connections {
    let get = |key| table.and_then(|table| table.get(key));
    let idle_max = get("idle_max").map(|value| value.integer(cx, 0..=MAX_IDLE));
    let idle_min_value = get("idle_min");
    let idle_min = idle_min_value
        .as_ref()
        .and_then(|value| value.integer(cx, 0..=MAX_READY));
    // Where `idle_max` can't be read nothing is concluded from it.
    let most = match idle_max {
        None => Some((defaults.relay_upstream_idle_max, " by default")),
        Some(most) => most.map(|most| (most, "")),
    };
    if let (Some(value), Some(min), Some((most, by_default))) = (&idle_min_value, idle_min, most)
        && min > most
    {
        value.mistake(
            cx,
            format!("is {min}, more than `idle_max` ({most}{by_default})"),
            "lower it, or raise idle_max",
        );
    }
    let idle_timeout = get("idle_timeout").and_then(|value| value.duration(cx, MS..=DAY));
    let max = get("max").and_then(|value| value.integer(cx, 1..=MAX_CONNECTIONS));
    let queue = get("queue").and_then(|value| value.integer(cx, 0..=10_000_000));
    Connections {
        idle_min: idle_min.unwrap_or(0),
        idle_max: idle_max.flatten().unwrap_or(defaults.relay_upstream_idle_max),
        idle_timeout: idle_timeout.unwrap_or(defaults.relay_upstream_idle_timeout),
        max,
        queue: queue.unwrap_or(defaults.relay_upstream_queue),
    }
}

fn read_retries(cx: &mut Cx, table: Option<&Table<'_>>, defaults: &Values) -> Retries {
    let mut count = |key, range, default| {
        let value = table.and_then(|table| table.get(key));
        value
            .and_then(|value| value.integer(cx, range))
            .unwrap_or(default)
    };
    let attempts = count("attempts", 1..=16, defaults.relay_retry_attempts);
    let budget = count("budget", 0..=100, defaults.relay_retry_budget);
    let floor = count("budget_floor", 0..=1_000_000, defaults.relay_retry_budget_floor);
    let on = table
        .and_then(|table| table.get("on"))
        .and_then(|value| read_on(cx, &value));
    Retries {
        attempts,
        budget,
        floor,
        on: on.unwrap_or_default(),
    }
}

fn read_on(cx: &mut Cx, value: &Value<'_>) -> Option<RetryOn> {
    let mut on = RetryOn {
        connect: false,
        closed: false,
        timeout: false,
        statuses: Vec::new(),
    };
    for item in value.array(cx)? {
        match item.choice(cx, &ON, &LATER_ON) {
            Some(On::Connect) => on.connect = true,
            Some(On::Closed) => on.closed = true,
            Some(On::Timeout) => on.timeout = true,
            Some(On::Status(status)) if !on.statuses.contains(&status) => on.statuses.push(status),
            Some(On::Status(_)) | None => {}
        }
    }
    on.statuses.sort_unstable();
    Some(on)
}

/// As in the file.
pub(crate) fn show_on(on: &RetryOn) -> String {
    let RetryOn {
        connect,
        closed,
        timeout,
        statuses,
    } = on;
    let words = [(*connect, "connect"), (*closed, "closed"), (*timeout, "timeout")];
    let mut shown: Vec<_> = words
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| word.to_owned())
        .collect();
    shown.extend(statuses.iter().map(ToString::to_string));
    if shown.is_empty() {
        return "nothing".into();
    }
    shown.join(", ")
}
