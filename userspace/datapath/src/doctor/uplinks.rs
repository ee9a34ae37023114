//! Ways out by one interface: whether there is one, and whether packets that come in by it are let in.
//!
//! The kernel is asked for the route that a socket bound to the interface would take: to backends, and to an address that is
//! far away, as clients may be.

use std::net::IpAddr;

use weir_core::{ids::Interface, plan::Plan};

use super::Finding;
use crate::{sysctl, uplinks::Uplinks};

/// Addresses of nobody's, of the ranges for documentation: what has no route of its own.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1)),
];

/// An interface that listeners or pools name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// It.
    pub interface: Interface,
    /// Whether listeners of IPv4, and of IPv6, are answered by it.
    pub answers: [bool; 2],
    /// Its routers, of either family.
    pub gateways: Vec<IpAddr>,
    /// Backends that are reached by it.
    pub backends: Vec<IpAddr>,
}

impl Uplink {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Vec<Self> {
        let one = |interface: Interface| {
            let listeners = plan.services.iter().flat_map(|service| &service.listen);
            let mut answers = [false; 2];
            for listen in listeners.filter(|listen| listen.interface == Some(interface)) {
                let [v4, v6] = &mut answers;
                *(if listen.addr.is_ipv4() { v4 } else { v6 }) = true;
            }
            let pools = { plan.pools.iter() }
                .filter(|pool| pool.interface == Some(interface) && !pool.is_original_destination());
            let gateways = plan.node.gateways.iter().filter(|g| g.interface == interface);
            let mut backends: Vec<_> = { pools.flat_map(|pool| &pool.backends) }
                .map(|backend| backend.key.address.ip())
                .collect();
            backends.sort_unstable();
            backends.dedup();
            Self {
                interface,
                answers,
                gateways: gateways.map(|g| g.address).collect(),
                backends,
            }
        };
        plan.named_interfaces().into_iter().map(one).collect()
    }
}

pub(super) fn inspect(uplinks: &[Uplink]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for uplink in uplinks {
        let subject = format!("interface {}", uplink.interface);
        let Ok(index) = nix::net::if_::if_nametoindex(uplink.interface.as_str()) else {
            let text = "does not exist, and listeners or pools name it";
            findings.push(Finding::problem(subject, text).mend("create it, or correct the name"));
            continue;
        };
        findings.extend(strict(&subject, uplink.interface));
        let asked = super::interface::in_a_runtime(|| async {
            // Nothing is kept there, so the directory is of no use.
            let routes = Uplinks::new(std::path::Path::new(""))?;
            let mut found = Vec::new();
            for backend in &uplink.backends {
                found.push(way(&routes, uplink, index, *backend, "backend").await);
            }
            for (far, answers) in FAR.into_iter().zip(uplink.answers) {
                let has_router = uplink.gateways.iter().any(|g| g.is_ipv4() == far.is_ipv4());
                if answers || has_router {
                    found.push(way(&routes, uplink, index, far, "far").await);
                }
            }
            Ok(found)
        });
        match asked {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::note(subject, format!("netlink can't be asked: {error}"))),
        }
    }
    findings
}

fn strict(subject: &str, interface: Interface) -> Option<Finding> {
    match sysctl::is_strict(interface.as_str()) {
        Ok(Some(true)) => Some(Finding::note(
            subject,
            "rp_filter is strict, so packets whose way back leads by another interface are dropped; weir makes it loose while it runs",
        )),
        Ok(Some(false)) => Some(Finding::ok(
            subject,
            "lets packets in whichever interface the way back leads by",
        )),
        Ok(None) | Err(_) => None,
    }
}

/// Whether what is bound to the interface reaches an address, and by which router.
async fn way(routes: &Uplinks, uplink: &Uplink, index: u32, to: IpAddr, what: &str) -> Finding {
    let Uplink { interface, .. } = uplink;
    let subject = format!("interface {interface}");
    let router = uplink.gateways.iter().find(|g| g.is_ipv4() == to.is_ipv4());
    match (routes.way_out(index, to).await, router) {
        (Ok(Some(by)), _) => Finding::ok(subject, format!("what is bound to it reaches {to} by {by}")),
        (Ok(None), _) => Finding::ok(subject, format!("what is bound to it reaches {to} on its own link")),
        (Err(error), Some(router)) => Finding::problem(subject, format!("{error}, though node.gateways has {router}"))
            .mend("start weir with this configuration, and see that the interface is up"),
        (Err(error), None) if what == "backend" => Finding::problem(subject, error.to_string()).mend(format!(
            "write node.gateways = [{{ interface = \"{interface}\", address = … }}], or add a route by it"
        )),
        (Err(error), None) => Finding::note(subject, format!("{error}: only clients on its own networks are answered")).mend(format!(
            "write node.gateways = [{{ interface = \"{interface}\", address = … }}], or add a default route by it with a higher metric"
        )),
    }
}
