//! Addresses as people write them: sockets, listeners with ranges of ports, networks.
//!
//! Owns the syntax and the guesses at what a slip meant. Whether an address fits its use is decided by the sections
//! and in `cross.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_core::{
    ids::{Protocol, Scope},
    plan::{IpNet, Listen},
};

use crate::{
    units::Trouble,
    words::{plain, quoted},
};

/// An address and port: `10.0.0.11:8080`, `[2001:db8::11]:8080`.
pub(crate) fn parse_socket(text: &str) -> Result<SocketAddr, Trouble> {
    let (addr, port) = split_port(text, "write the address before the colon, as in 10.0.0.11:80")?;
    Ok(SocketAddr::new(addr, parse_port(port)?))
}

/// A backend's address: as [`parse_socket`], or with `*` for the port that the client addressed, which is then 0.
pub(crate) fn parse_backend(text: &str) -> Result<SocketAddr, Trouble> {
    let (addr, port) = split_port(text, "write the address before the colon, as in 10.0.0.11:80")?;
    let port = if port == "*" { 0 } else { parse_port(port)? };
    Ok(SocketAddr::new(addr, port))
}

/// A range of ports, `FIRST-LAST`, or one port.
pub(crate) fn parse_ports(text: &str) -> Result<(u16, u16), Trouble> {
    let (first, last) = match text.split_once('-') {
        None => {
            let port = parse_port(text)?;
            (port, port)
        }
        Some((first, last)) => (parse_port(first)?, parse_port(last)?),
    };
    if first > last {
        return Err(Trouble::new(
            format!("is turned round ({first}-{last})"),
            format!("write {last}-{first}"),
        ));
    }
    Ok((first, last))
}

/// What a listen entry begins with that is for addresses which are not on the box.
const TRANSPARENT: &str = "transparent:";

/// A listen entry: an address and port, range of ports or `*` for every port, and `/tcp` (which may be left out) or `/udp`.
/// Or `transparent:`, then a network and ports; without a network it is one listener of each family.
pub(crate) fn parse_listen(text: &str) -> Result<Vec<Listen>, Trouble> {
    match text.strip_prefix(TRANSPARENT) {
        Some(rest) => parse_transparent(rest),
        None => Ok(vec![parse_bound(text)?]),
    }
}

/// What stands behind `transparent:`.
fn parse_transparent(rest: &str) -> Result<Vec<Listen>, Trouble> {
    if let Some(rest) = rest.strip_suffix("/udp") {
        return Err(Trouble::new(
            "is transparent and UDP, and only TCP is taken in",
            format!("write {TRANSPARENT}{}", plain(rest)),
        ));
    }
    let rest = rest.strip_suffix("/tcp").unwrap_or(rest);
    let (networks, ports) = match (rest.strip_prefix('['), rest.rsplit_once(':')) {
        (Some(inner), Some((_, ports))) => {
            let network = inner
                .strip_suffix(ports)
                .and_then(|inner| inner.strip_suffix(':'))
                .and_then(|inner| inner.split_once(']'))
                .map(|(host, prefix)| format!("{host}{prefix}"));
            let network = network.ok_or_else(no_network)?;
            (vec![parse_network(&network)?], ports)
        }
        (None, Some((network, ports))) if !network.contains(':') => (vec![parse_network(network)?], ports),
        (None, None) => {
            let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            let networks = everywhere.into_iter().filter_map(|addr| IpNet::new(addr, 0));
            (networks.collect(), rest)
        }
        (Some(_), None) | (None, Some(_)) => return Err(no_network()),
    };
    let (first, last) = match ports {
        "*" => (1, u16::MAX),
        "" => {
            let mend = "write transparent:80 for port 80, transparent:* for every port";
            return Err(Trouble::new("is transparent, without a port", mend));
        }
        _ => parse_ports(ports)?,
    };
    let listen = |network: IpNet| Listen {
        addr: network.addr(),
        first,
        last,
        protocol: Protocol::Tcp,
        scope: Scope::Network(network.prefix()),
        interface: None,
    };
    Ok(networks.into_iter().map(listen).collect())
}

fn no_network() -> Trouble {
    Trouble::new(
        "is transparent, but not of networks and ports that can be told apart",
        "write transparent:80, transparent:203.0.113.0/24:80 or transparent:[2001:db8::]/32:80",
    )
}

fn parse_bound(text: &str) -> Result<Listen, Trouble> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((rest, other)) => {
            return Err(Trouble::new(
                format!("has {} for its protocol", quoted(other)),
                format!("write {}/tcp or {0}/udp", plain(rest)),
            ));
        }
    };
    let every =
        "write 0.0.0.0 before the colon for every IPv4 address of the box, [::] for every IPv6 address";
    let (addr, ports) = split_port(rest, every)?;
    let (first, last) = match ports.split_once('-') {
        None if ports == "*" => (0, 0),
        None => {
            let port = parse_port(ports)?;
            (port, port)
        }
        Some((first, last)) => (parse_port(first)?, parse_port(last)?),
    };
    if first > last {
        let host = SocketAddr::new(addr, 0).to_string();
        let host = host.strip_suffix('0').unwrap_or(&host);
        return Err(Trouble::new(
            format!("has its port range turned round ({first}-{last})"),
            format!("write {host}{last}-{first}"),
        ));
    }
    Ok(Listen {
        addr,
        first,
        last,
        protocol,
        scope: Scope::Address,
        interface: None,
    })
}

/// A network in CIDR form, or one address.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, Trouble> {
    let (addr_text, prefix_text) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let Ok(addr) = addr_text.parse::<IpAddr>() else {
        let trouble = if addr_text.starts_with('[') {
            Trouble::new(
                format!("has {} in brackets", quoted(text)),
                "write networks without brackets, as in 2001:db8::/32",
            )
        } else {
            Trouble::new(
                format!("has {}, which is no network", quoted(text)),
                "write one as in 10.0.0.0/8 or 2001:db8::/32",
            )
        };
        return Err(trouble);
    };
    let width: u8 = if addr.is_ipv4() { 32 } else { 128 };
    if addr.to_canonical() != addr {
        return Err(Trouble::new(
            format!("has {}, an IPv4 address in IPv6 form", quoted(text)),
            match prefix_text.and_then(parse_decimal) {
                Some(prefix @ 96..=128) => format!("write {}/{}", addr.to_canonical(), prefix - 96),
                Some(_) | None => format!("write the IPv4 network, as in {}/32", addr.to_canonical()),
            },
        ));
    }
    let prefix = match prefix_text {
        None => width,
        Some(prefix) => match parse_decimal(prefix) {
            Some(prefix) if prefix <= u32::from(width) => prefix as u8,
            Some(_) | None => {
                return Err(Trouble::new(
                    format!("has {}, without a valid prefix length", quoted(text)),
                    format!("write a number from 0 to {width} after the slash"),
                ));
            }
        },
    };
    IpNet::new(addr, prefix).ok_or_else(|| {
        Trouble::new(
            format!("has {}, with bits set behind its prefix", quoted(text)),
            format!(
                "write {}/{prefix} for the network, or {addr}/{width} for the one address",
                masked(addr, prefix)
            ),
        )
    })
}

/// Why an address can't be what packets or connections are sent to, or clients reach; None if it can.
pub(crate) fn unusable(addr: IpAddr) -> Option<&'static str> {
    match addr {
        IpAddr::V4(v4) if v4.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("is a reserved address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 && !v4.is_unspecified() => Some("is a reserved address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_multicast() => Some("is a multicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("is a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an IPv4 address in IPv6 form"),
        IpAddr::V6(_) => None,
    }
}

/// The address, and what stands behind the colon.
fn split_port<'t>(text: &'t str, no_address: &str) -> Result<(IpAddr, &'t str), Trouble> {
    let no_address = || Trouble::new(format!("is {}, without an address", quoted(text)), no_address);
    if let Some(inner) = text.strip_prefix('[') {
        let Some((host, rest)) = inner.split_once(']') else {
            return Err(Trouble::new(
                format!("is {}, with a bracket that is not closed", quoted(text)),
                "write IPv6 as in [2001:db8::10]:80",
            ));
        };
        let addr = parse_v6(host)?;
        return match rest.strip_prefix(':') {
            Some(port) if !port.is_empty() => Ok((addr, port)),
            Some(_) | None => Err(no_port(text, &format!("[{host}]"))),
        };
    }
    match text.rsplit_once(':') {
        None if text.parse::<Ipv4Addr>().is_ok() => Err(no_port(text, text)),
        None if text.is_empty() => Err(Trouble::new(
            "is empty",
            "write an address and port, as in 192.0.2.10:80",
        )),
        None if text.bytes().all(|b| b.is_ascii_digit()) => Err(no_address()),
        None => Err(not_an_address(text, "80")),
        Some(("" | "*", _)) => Err(no_address()),
        Some((host, port)) if host.contains(':') => {
            let guess = match (host.parse::<Ipv6Addr>(), parse_decimal(port)) {
                (Ok(addr), Some(_)) => format!("write [{addr}]:{port}"),
                (Ok(_) | Err(_), _) => match text.parse::<Ipv6Addr>() {
                    Ok(addr) => format!("write [{addr}]:PORT"),
                    Err(_) => "write IPv6 as in [2001:db8::10]:80".into(),
                },
            };
            Err(Trouble::new(
                format!("is {}, IPv6 without brackets", quoted(text)),
                guess,
            ))
        }
        Some((host, "")) => Err(no_port(text, host)),
        Some((host, port)) => match host.parse::<Ipv4Addr>() {
            Ok(addr) => Ok((addr.into(), port)),
            Err(_) => Err(not_an_address(host, port)),
        },
    }
}

fn parse_v6(host: &str) -> Result<IpAddr, Trouble> {
    if let Some((addr, _)) = host.split_once('%') {
        return Err(Trouble::new(
            format!("is {}, an address with an interface", quoted(host)),
            format!(
                "this version has no link-local addresses: write a global one in place of {}",
                plain(addr)
            ),
        ));
    }
    host.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| {
        let mend = match host.parse::<Ipv4Addr>() {
            Ok(_) => "write IPv4 without brackets, as in 192.0.2.10:80",
            Err(_) => "write IPv6 as in [2001:db8::10]:80",
        };
        Trouble::new(
            format!("has {} in brackets, which is no IPv6 address", quoted(host)),
            mend,
        )
    })
}

fn parse_port(text: &str) -> Result<u16, Trouble> {
    match parse_decimal(text) {
        Some(0) => Err(Trouble::new("has port 0", "write a port from 1 to 65535")),
        Some(port) => u16::try_from(port).map_err(|_| bad_port(text)),
        None => Err(bad_port(text)),
    }
}

fn bad_port(text: &str) -> Trouble {
    let mend = if text == "*" {
        "write a port from 1 to 65535, or a range as in 8000-8010"
    } else {
        "write a number from 1 to 65535"
    };
    Trouble::new(format!("has {} for its port", quoted(text)), mend)
}

fn no_port(text: &str, host: &str) -> Trouble {
    Trouble::new(
        format!("is {}, without a port", quoted(text)),
        format!("write {}:80 for port 80", plain(host)),
    )
}

fn not_an_address(host: &str, port: &str) -> Trouble {
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Trouble::new(
            format!("has {}, which is no IPv4 address", quoted(host)),
            "write four numbers from 0 to 255 with dots between them, without leading zeros",
        );
    }
    Trouble::new(
        format!(
            "has the host name {}, and this version resolves no names",
            quoted(host)
        ),
        format!("write its address, as in 10.0.0.11:{}", plain(port)),
    )
}

/// Digits only, so that neither `+1` nor `٣` counts.
fn parse_decimal(text: &str) -> Option<u32> {
    (!text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn masked(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}
