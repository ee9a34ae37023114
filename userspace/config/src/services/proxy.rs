//! `[services.NAME.proxy_protocol]`: from whom the PROXY protocol is taken.
//!
//! Owns the keys, ranges and defaults.

use std::time::Duration;

use weir_core::plan::ProxyIn;

use super::{DAY, MS, read_networks};
use crate::{
    keys,
    reader::{Cx, Table},
};

/// How long a proxy may take for its header: it is the first thing that it sends.
const TIMEOUT: Duration = Duration::from_secs(3);

/// None if it is not asked for, or can't be read.
pub(super) fn read(cx: &mut Cx, table: &Table<'_>) -> Option<ProxyIn> {
    let value = table.get("proxy_protocol")?;
    let mend =
        "write proxy_protocol = { from = [\"10.0.0.0/8\"] } with the networks of the proxies in front of it";
    if value.as_string().is_some() || !value.is_table() && value.elements().is_none() {
        value.mistake(cx, "says not whose headers are believed", mend);
        return None;
    }
    let section = value.table(cx, &keys::PROXY_PROTOCOL)?;
    let networks = section.require(
        cx,
        "from",
        "write from = [\"10.0.0.0/8\"], the networks of the proxies in front of it",
    );
    if let Some(networks) = &networks
        && networks.elements() == Some(0)
    {
        networks.mistake(
            cx,
            "is empty, and no connection would begin with a header",
            "write the networks of the proxies in front of it, or remove proxy_protocol",
        );
    }
    let from = read_networks(cx, &section, "from");
    let timeout = section
        .get("timeout")
        .and_then(|value| value.duration(cx, MS..=DAY))
        .unwrap_or(TIMEOUT);
    networks.map(|_| ProxyIn { from, timeout })
}
