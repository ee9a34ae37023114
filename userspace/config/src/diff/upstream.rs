//! What changes in `[pools.NAME.connections]`, `[pools.NAME.retries]` and `[pools.NAME.http2]`.

use weir_core::plan::{Connections, Http2, ProxyOut, ProxyTlvs, Retries};

use super::{Keys, list_or_none};
use crate::{
    pools::upstream::show_on,
    units::{show_duration, show_size},
};

pub(super) fn changed(
    keys: &mut Keys<'_>,
    (old, new): (&Connections, &Connections),
    (old_retries, new_retries): (&Retries, &Retries),
) {
    // Every field is named, so that a new one can't be forgotten.
    let Connections {
        idle_min,
        idle_max,
        idle_timeout,
        max,
        queue,
    } = old;
    keys.compare(
        "connections.idle_min",
        idle_min,
        &new.idle_min,
        ToString::to_string,
    );
    keys.compare(
        "connections.idle_max",
        idle_max,
        &new.idle_max,
        ToString::to_string,
    );
    keys.compare("connections.idle_timeout", idle_timeout, &new.idle_timeout, |d| {
        show_duration(*d)
    });
    keys.compare("connections.max", max, &new.max, |max| {
        show_max(*max, "any number")
    });
    keys.compare("connections.queue", queue, &new.queue, ToString::to_string);
    let Retries {
        attempts,
        budget,
        floor,
        on,
    } = old_retries;
    keys.compare(
        "retries.attempts",
        attempts,
        &new_retries.attempts,
        ToString::to_string,
    );
    keys.compare("retries.budget", budget, &new_retries.budget, ToString::to_string);
    keys.compare(
        "retries.budget_floor",
        floor,
        &new_retries.floor,
        ToString::to_string,
    );
    keys.compare("retries.on", on, &new_retries.on, show_on);
}

pub(super) fn changed_http2(keys: &mut Keys<'_>, old: &Http2, new: &Http2) {
    let Http2 {
        streams,
        window,
        ping,
        ping_timeout,
    } = old;
    keys.compare("http2.streams", streams, &new.streams, ToString::to_string);
    keys.compare("http2.window", window, &new.window, |window| {
        show_size(u64::from(*window))
    });
    keys.compare("http2.ping", ping, &new.ping, |ping| {
        ping.map_or_else(|| "never".into(), show_duration)
    });
    keys.compare("http2.ping_timeout", ping_timeout, &new.ping_timeout, |d| {
        show_duration(*d)
    });
}

pub(super) fn changed_proxy(keys: &mut Keys<'_>, old: Option<&ProxyOut>, new: Option<&ProxyOut>) {
    let version = |proxy: Option<&ProxyOut>| proxy.map(|proxy| proxy.version);
    keys.compare("proxy_protocol", &version(old), &version(new), |version| {
        version.map_or("off", |version| version.as_str()).into()
    });
    let tlvs = |proxy: Option<&ProxyOut>| proxy.map_or_else(ProxyTlvs::default, |proxy| proxy.tlvs);
    keys.compare("proxy_tlvs", &tlvs(old), &tlvs(new), |tlvs| {
        let all = tlvs.named().into_iter().filter(|(_, is)| *is);
        list_or_none(&all.map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    });
}

pub(super) fn show_max(max: Option<u32>, none: &str) -> String {
    max.map_or_else(|| none.into(), |max| max.to_string())
}
