//! Interfaces that listeners and pools name, and the routers there.

use weir_core::plan::{Mode, XdpMode};

use super::Asked;
use crate::{
    reader::Cx,
    services::{AskedListen, AskedService},
};

pub(super) fn check(cx: &mut Cx, asked: &Asked<'_, '_>) {
    for service in asked.services {
        for listen in service
            .listen
            .iter()
            .filter(|asked| asked.listen.interface.is_some())
        {
            check_listener(cx, asked, service, listen);
        }
    }
    check_gateways(cx, asked);
}

fn check_listener(cx: &mut Cx, asked: &Asked<'_, '_>, service: &AskedService<'_>, listener: &AskedListen) {
    let AskedListen { listen, at } = *listener;
    let Some(interface) = listen.interface else { return };
    let name = &service.name;
    if let Some((Mode::L4(_), _)) = service.mode {
        cx.mistake(
            at,
            format!("services.{name}.listen names the interface {interface}, and XDP sends the answers of mode \"l4\" as this box's routes say"),
            format!(
                "remove it, and have the routes tell by the backend's address: `ip route add default via ROUTER dev {interface} table \
                 100`, `ip rule add from BACKEND lookup 100`"
            ),
        );
        return;
    }
    if listen.addr.is_loopback() && interface.as_str() != "lo" {
        cx.mistake(
            at,
            format!(
                "services.{name}.listen has {}, which nothing comes to by {interface}",
                listen.addr
            ),
            "remove the interface, or write an address that others reach",
        );
    }
    let node = asked.node;
    let attached = &node.node.interfaces;
    if listen.is_transparent()
        && !attached.is_empty()
        && !attached.iter().any(|name| name == interface.as_str())
    {
        cx.mistake(
            at,
            format!("services.{name}.listen is transparent on {interface}, which is not one of node.interfaces: nothing is taken in there"),
            format!("add \"{interface}\" to node.interfaces"),
        );
    }
}

/// Nothing is asked for in vain.
fn check_gateways(cx: &mut Cx, asked: &Asked<'_, '_>) {
    let node = asked.node;
    let used = |interface| {
        let listeners = asked.services.iter().flat_map(|service| &service.listen);
        let mut listeners = listeners.filter_map(|asked| asked.listen.interface);
        let mut pools = asked.pools.pools.iter().filter_map(|asked| asked.pool.interface);
        listeners.any(|other| other == interface) || pools.any(|other| other == interface)
    };
    let known = asked.services_complete
        && asked.pools.complete
        && asked.pools.unread.is_empty()
        && asked.services.iter().all(|service| service.listen_known);
    for (gateway, at) in node.node.gateways.iter().zip(&node.gateways_at) {
        let interface = gateway.interface;
        if node.xdp == Some(XdpMode::Off) {
            cx.mistake(
                *at,
                "node.gateways is for routes that weir installs, which it does not do with node.xdp = \"off\"",
                format!(
                    "remove it, and add the route: `ip route add default via {} dev {interface} metric 4096`",
                    gateway.address
                ),
            );
        } else if known && !used(interface) {
            cx.mistake(
                *at,
                format!("node.gateways has {interface}, which no listener and no pool names"),
                format!("write interface = \"{interface}\" where it is meant, or remove it"),
            );
        }
    }
}
