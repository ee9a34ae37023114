//! `node.gateways`: by which router what is bound to an interface leaves it.
//!
//! Owns its keys, and that there is one of each interface and family. Who needs them is `cross/interfaces.rs`.

use std::net::IpAddr;

use weir_core::plan::Gateway;

use crate::{
    keys,
    net::unusable,
    reader::{Cx, Value},
    words::quoted,
};

/// Those that could be read, each with where it stands.
pub(super) fn read(cx: &mut Cx, value: &Value<'_>) -> Vec<(Gateway, usize)> {
    let mut gateways: Vec<(Gateway, usize)> = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(gateway) = read_one(cx, &item) else {
            continue;
        };
        let same = |(other, _): &&(Gateway, usize)| {
            other.interface == gateway.interface && other.address.is_ipv4() == gateway.address.is_ipv4()
        };
        if let Some((_, first)) = gateways.iter().find(same) {
            let line = cx.line(*first);
            let family = if gateway.address.is_ipv4() { "IPv4" } else { "IPv6" };
            let interface = gateway.interface;
            item.mistake(
                cx,
                format!("is a second {family} router of {interface} (the first in line {line})"),
                "remove one: an interface has one router of each family",
            );
            continue;
        }
        gateways.push((gateway, item.at));
    }
    gateways
}

fn read_one(cx: &mut Cx, item: &Value<'_>) -> Option<Gateway> {
    let table = item.table(cx, &keys::GATEWAY)?;
    let mend = "write { interface = \"eth1\", address = \"198.51.100.1\" }";
    let named = table.require(cx, "interface", mend).is_some();
    let interface = super::read_interface(cx, &table);
    let value = table.require(cx, "address", mend)?;
    let text = value.string(cx)?;
    let Ok(address) = text.parse::<IpAddr>() else {
        let what = format!("is {}, which is no address", quoted(text));
        value.mistake(cx, what, "write the router's, as in 198.51.100.1 or fe80::1");
        return None;
    };
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let why = match address {
        address if address.is_loopback() => Some("is loopback"),
        address if address.is_unspecified() => Some("is no router's"),
        address => unusable(address).filter(|_| !link_local),
    };
    if let Some(why) = why {
        let what = format!("is {address}, which {why}");
        value.mistake(cx, what, "write the router's, as in 198.51.100.1 or fe80::1");
        return None;
    }
    (named).then_some(Gateway {
        interface: interface?,
        address,
    })
}
