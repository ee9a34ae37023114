//! Two listeners where only one can be.
//!
//! Of one address and port there is one listener; by different interfaces there may be several. What XDP sees first it knows by
//! address and port alone, so there they are one service's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use weir_core::{
    ids::{Interface, ListenKey, Protocol, Scope, Shown},
    plan::{Listen, Mode, XdpMode},
};

use crate::{
    node::{AskedAdmin, AskedNode},
    reader::Cx,
    services::{AskedListen, AskedService},
};

/// Who listens on a range of ports of one address.
#[derive(Clone, Copy)]
struct Claim<'s> {
    last: u16,
    /// The service; None for admin.http.
    service: Option<&'s str>,
    listen: Listen,
    /// Where it stands. None: it is a default.
    at: Option<usize>,
}

/// Ranges by first port, which never overlap.
type Ranges<'s> = BTreeMap<u16, Claim<'s>>;

/// Ranges that are taken, by protocol, scope and address, then by interface. Of transparent listeners the narrower network goes
/// before the wider one, so only those of the very same can overlap.
type Taken<'s> = BTreeMap<(Protocol, Scope, IpAddr), BTreeMap<Option<Interface>, Ranges<'s>>>;

/// How two claims are at odds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clash {
    /// They are the same.
    Same,
    /// One is of every address.
    EveryAddress,
    /// Sockets are bound to both, and one of them to every interface.
    EveryInterface,
    /// Two services are told apart by interface alone, which XDP does not look at.
    ByInterface,
}

/// Two claims to one address, port and protocol; and, among sockets that are really bound, a wildcard and an address
/// that it covers.
pub(super) fn check(cx: &mut Cx, node: &AskedNode, admin: &AskedAdmin, services: &[AskedService<'_>]) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for service in services {
        // Every port is told to be a mistake where it is no packets' service.
        let l4 = matches!(service.mode, Some((Mode::L4(_), _)));
        let listeners = service
            .listen
            .iter()
            .filter(|asked| l4 || !asked.listen.is_every_port());
        claims.extend(listeners.map(|&AskedListen { listen, at }| Claim {
            last: listen.last,
            service: Some(service.name.as_str()),
            listen,
            at: Some(at),
        }));
    }
    if let Some(http) = admin.admin.http {
        let listen = Listen {
            addr: http.ip(),
            first: http.port(),
            last: http.port(),
            protocol: Protocol::Tcp,
            scope: Scope::Address,
            interface: None,
        };
        claims.push(Claim {
            last: listen.last,
            service: None,
            listen,
            at: admin.http_at,
        });
    }
    let mut taken: Taken<'_> = BTreeMap::new();
    let mut kept = Vec::with_capacity(claims.len());
    for claim in claims {
        let of_address = taken
            .entry((claim.listen.protocol, claim.listen.scope, claim.listen.addr))
            .or_default();
        let clash = { of_address.iter() }.find_map(|(interface, ranges)| {
            // One port goes before every port; but what weir listens on for itself would never be reached.
            let every = ranges.get(&0).filter(|_| claim.service.is_none()).copied();
            let other = every.or_else(|| overlapping(ranges, &claim.listen))?;
            if *interface == claim.listen.interface {
                return Some((other, Clash::Same));
            }
            let bound = is_bound(node, &claim) || is_bound(node, &other);
            let everywhere = interface.is_none() || claim.listen.interface.is_none();
            let clash = match (claim.listen.is_transparent(), bound) {
                (false, true) if everywhere => Clash::EveryInterface,
                (false, false) if other.service != claim.service => Clash::ByInterface,
                (true | false, _) => return None,
            };
            Some((other, clash))
        });
        if let Some((other, clash)) = clash {
            conflict(cx, &claim, &other, clash);
        } else {
            let ranges = of_address.entry(claim.listen.interface).or_default();
            ranges.insert(claim.listen.first, claim);
            kept.push(claim);
        }
    }
    for claim in kept {
        if !is_bound(node, &claim) || claim.listen.addr.is_unspecified() || claim.listen.is_transparent() {
            continue;
        }
        let wildcard: IpAddr = match claim.listen.addr {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let covering = taken.get(&(claim.listen.protocol, Scope::Address, wildcard));
        let mine = claim.listen.interface;
        let mut covering = { covering.into_iter().flatten() }
            .filter(|(interface, _)| interface.is_none() || mine.is_none() || **interface == mine);
        if let Some(wide) = covering.find_map(|(_, ranges)| overlapping(ranges, &claim.listen)) {
            conflict(cx, &claim, &wide, Clash::EveryAddress);
        }
    }
}

/// Whether a socket is bound to the address; others are reached by sk_lookup.
fn is_bound(node: &AskedNode, claim: &Claim<'_>) -> bool {
    node.xdp == Some(XdpMode::Off) || claim.service.is_none() || !claim.listen.is_virtual()
}

/// A range that shares a port with the listener.
fn overlapping<'s>(ranges: &Ranges<'s>, listen: &Listen) -> Option<Claim<'s>> {
    let (_, nearest) = ranges.range(..=listen.last).next_back()?;
    (nearest.last >= listen.first).then_some(*nearest)
}

fn conflict(cx: &mut Cx, claim: &Claim<'_>, other: &Claim<'_>, clash: Clash) {
    let who = |claim: &Claim<'_>| match claim.service {
        Some(service) => format!("services.{service}"),
        None => "admin.http".to_owned(),
    };
    let port = claim.listen.first.max(other.listen.first);
    let proto = claim.listen.protocol.as_str();
    let address = ListenKey {
        addr: claim.listen.addr,
        port,
        protocol: claim.listen.protocol,
        scope: claim.listen.scope,
        interface: claim.listen.interface,
    };
    let place = |cx: &Cx, at: Option<usize>| {
        at.map_or_else(|| "by default".into(), |at| format!("in line {}", cx.line(at)))
    };
    // A default has no place of its own: then the other one is told.
    let (at, teller, told) = match (claim.at, other.at) {
        (Some(at), _) => (at, claim, other),
        (None, Some(at)) => (at, other, claim),
        (None, None) => (0, claim, other),
    };
    let elsewhere = place(cx, told.at);
    let what = if clash == Clash::EveryAddress {
        let wide = |claim: &Claim<'_>| Shown(SocketAddr::new(claim.listen.addr, port));
        format!(
            "{} listens on {}/{proto}, and {} {elsewhere} on {}/{proto}: one of them is every address",
            who(teller),
            wide(teller),
            who(told),
            wide(told)
        )
    } else if claim.service == other.service {
        format!("{} listens on {address} twice (also {elsewhere})", who(teller))
    } else {
        format!(
            "{} listens on {address}, as {} {elsewhere} does",
            who(teller),
            who(told)
        )
    };
    let mend = match clash {
        Clash::Same | Clash::EveryAddress => "give one of them another address or port",
        Clash::EveryInterface => {
            "name an interface for each of them, or give one of them another address or port"
        }
        Clash::ByInterface => {
            "give one of them another address or port: XDP knows a service by these alone, whatever the interface"
        }
    };
    cx.mistake(at, what, mend);
}
