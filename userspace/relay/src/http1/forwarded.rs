//! `X-Forwarded-For`, `Forwarded` (RFC 7239) and their kind: what a backend is told of the client.
//!
//! From a trusted proxy what it says is passed on and its own address appended. From anyone else what it says is
//! dropped, so that nobody can claim an address.

use std::{io::Write, net::IpAddr};

use weir_core::plan::{Forwarded, ForwardedField, IpNet};

use super::{
    fields::{self, Kind},
    path,
    request::Request,
};

/// Whose word counts about where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// Which fields carry addresses.
    pub mode: Forwarded,
    /// Networks whose word counts.
    pub proxies: &'a [IpNet],
    /// Whether the request comes from one of them.
    pub sender: bool,
}

impl<'a> Trust<'a> {
    /// For requests from that address.
    #[inline]
    pub fn new(mode: Forwarded, proxies: &'a [IpNet], sender: IpAddr) -> Self {
        let sender = proxies.iter().any(|net| net.contains(sender));
        Self {
            mode,
            proxies,
            sender,
        }
    }

    /// Whether the request's claims reach the backend.
    pub(super) fn believes(&self) -> bool {
        self.sender || self.mode == Forwarded::Off
    }
}

/// The client's address as it stands in the fields, written once per connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    text: [u8; 40],
    len: u8,
    v6: bool,
}

impl Client {
    /// An IPv4-mapped address is written as IPv4.
    pub fn new(addr: IpAddr) -> Self {
        let addr = addr.to_canonical();
        let mut client = Self {
            text: [0; 40],
            len: 0,
            v6: addr.is_ipv6(),
        };
        let mut room = client.text.as_mut_slice();
        // The longest address has 39 characters (a scope is no part of an IpAddr).
        let _ = write!(room, "{addr}");
        let left = room.len();
        client.len = (client.text.len() - left) as u8;
        client
    }

    fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What is written about the client.
pub(super) struct Told<'a> {
    /// Whose word counts.
    pub(super) trust: Trust<'a>,
    /// Fields besides those of the mode.
    pub(super) fields: &'a [ForwardedField],
    /// The client.
    pub(super) client: &'a Client,
    /// The same as a number.
    pub(super) address: IpAddr,
    /// The port that it connected to.
    pub(super) port: Option<u16>,
    /// The backend sees another `Host` than the client sent.
    pub(super) new_host: bool,
    /// What the client speaks: `http` or `https`.
    pub(super) scheme: &'static str,
}

/// Writes the forwarding fields.
#[inline]
pub(super) fn write(out: &mut Vec<u8>, request: &Request<'_, '_>, told: &Told<'_>) {
    let trusted = told.trust.sender;
    let (x, rfc) = match told.trust.mode {
        Forwarded::XForwardedFor => (true, false),
        Forwarded::Rfc7239 => (false, true),
        Forwarded::Both => (true, true),
        Forwarded::Off => (false, false),
    };
    if x {
        out.extend_from_slice(b"X-Forwarded-For: ");
        passed_on(out, request, Kind::XForwardedFor, trusted);
        out.extend_from_slice(told.client.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if rfc {
        out.extend_from_slice(b"Forwarded: ");
        passed_on(out, request, Kind::Forwarded, trusted);
        let (open, close): (&[u8], &[u8]) = if told.client.v6 {
            (b"for=\"[", b"]\"")
        } else {
            (b"for=", b"")
        };
        out.extend_from_slice(open);
        out.extend_from_slice(told.client.as_bytes());
        out.extend_from_slice(close);
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(told.scheme.as_bytes());
        let authority = if told.new_host {
            path::authority(request)
        } else {
            b""
        };
        if !authority.is_empty() {
            // A checked authority holds neither quotes nor backslashes.
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(authority);
            out.push(b'"');
        }
        out.extend_from_slice(b"\r\n");
    }
    for field in told.fields {
        further(out, request, *field, told);
    }
}

/// Writes one of the further fields, unless a trusted proxy has said it already.
fn further(out: &mut Vec<u8>, request: &Request<'_, '_>, field: ForwardedField, told: &Told<'_>) {
    let said = |name: &str| {
        let mut claims = (0..).zip(request.fields);
        claims.any(|(at, f)| request.forwarded.contains(at) && f.name.eq_ignore_ascii_case(name))
    };
    let name = field.name();
    if field != ForwardedField::RealIp && told.trust.sender && said(name) {
        return;
    }
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let before = out.len();
    // Writing to a Vec can't fail.
    let _ = match field {
        ForwardedField::Proto => out.write_all(told.scheme.as_bytes()),
        ForwardedField::Host => out.write_all(path::authority(request)),
        ForwardedField::Port => told.port.map_or(Ok(()), |port| write!(out, "{port}")),
        ForwardedField::RealIp => {
            write!(
                out,
                "{}",
                origin(request, told.trust, told.address).to_canonical()
            )
        }
    };
    if out.len() == before {
        // HTTP/1.0 without a host, or a port that the system would not tell: nothing is better than an empty word.
        out.truncate(start);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether an existing field that claims something of the client stays where it is: those weir adds nothing to, unless
/// their sender can't be trusted.
pub(super) fn stays(name: &str, trust: Trust<'_>, written: &[ForwardedField]) -> bool {
    if let Some(field) = written.iter().find(|f| f.name().eq_ignore_ascii_case(name)) {
        return trust.sender && *field != ForwardedField::RealIp;
    }
    match (trust.mode, fields::kind(name)) {
        (Forwarded::Off, _) => true,
        (Forwarded::XForwardedFor, Kind::Forwarded) | (Forwarded::Rfc7239, Kind::XForwardedFor) => {
            trust.sender
        }
        (_, Kind::Claim) => trust.sender,
        _ => false,
    }
}

fn passed_on(out: &mut Vec<u8>, request: &Request<'_, '_>, kind: Kind, trusted: bool) {
    if !trusted {
        return;
    }
    for field in request
        .fields
        .iter()
        .filter(|f| fields::kind(f.name) == kind && !f.value.is_empty())
    {
        out.extend_from_slice(field.value);
        out.extend_from_slice(b", ");
    }
}

/// The client behind all trusted proxies: the last address in the chain that is no trusted proxy's. Each proxy vouches
/// for the one before it, so what stands before an address that nobody vouches for, or before a word that is no
/// address, counts for nothing. `sender` is who the request came from.
pub(super) fn origin(request: &Request<'_, '_>, trust: Trust<'_>, sender: IpAddr) -> IpAddr {
    if !trust.sender {
        return sender;
    }
    let has = |kind| request.fields.iter().any(|f| fields::kind(f.name) == kind);
    let rfc = match trust.mode {
        Forwarded::Off => return sender,
        Forwarded::Rfc7239 => true,
        Forwarded::XForwardedFor => false,
        Forwarded::Both => !has(Kind::XForwardedFor),
    };
    let kind = if rfc { Kind::Forwarded } else { Kind::XForwardedFor };
    let mut chain = Chain::default();
    for field in request.fields.iter().filter(|f| fields::kind(f.name) == kind) {
        if rfc {
            rfc7239(field.value, |address| chain.add(address, trust.proxies));
        } else {
            fields::list(field.value).for_each(|member| chain.add(address(member), trust.proxies));
        }
    }
    chain.origin.unwrap_or(sender)
}

/// A chain of addresses, read from its beginning.
#[derive(Default)]
struct Chain {
    /// The client, should all that follows be trusted proxies.
    origin: Option<IpAddr>,
}

impl Chain {
    fn add(&mut self, address: Option<IpAddr>, proxies: &[IpNet]) {
        match address {
            Some(address) => {
                let trusted = proxies.iter().any(|net| net.contains(address));
                if !trusted || self.origin.is_none() {
                    self.origin = Some(address);
                }
            }
            None => self.origin = None,
        }
    }
}

/// Calls with the address of each element of a `Forwarded` value; None for one that has none.
fn rfc7239(value: &[u8], mut each: impl FnMut(Option<IpAddr>)) {
    let mut quoted = false;
    let mut escaped = false;
    let outside = |byte: &u8| {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    };
    for element in value.split(outside).map(<[u8]>::trim_ascii) {
        if element.is_empty() {
            continue;
        }
        // A semicolon inside quotes can't be part of an address, and what it cuts in two is none.
        let node = element.split(|b| *b == b';').find_map(|pair| {
            let (name, value) = pair.trim_ascii().split_at_checked(4)?;
            name.eq_ignore_ascii_case(b"for=").then_some(value)
        });
        each(node.and_then(|node| {
            let bare = node.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\""));
            address(bare.unwrap_or(node))
        }));
    }
}

/// An address, with a port or without; IPv6 in brackets or, as `X-Forwarded-For` has it, bare.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, port) = rest.split_once(']')?;
            (port.is_empty() || port.starts_with(':')).then_some(inside)?
        }
        None => match text.split_once(':') {
            Some((v4, port)) if !port.contains(':') => v4,
            Some(_) | None => text,
        },
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("[::1", None),
            ("[::1]x", None),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
            ("192.0.2.1 192.0.2.2", None),
        ] {
            assert_eq!(address(text.as_bytes()), expected.map(ip), "{text}");
        }
    }

    /// Each chain as it stands in `X-Forwarded-For`, and who the client is when 10/8 and `fd00::/8` are trusted.
    #[test]
    fn the_last_that_nobody_vouches_for_is_the_client() {
        let proxies = [
            IpNet::new(ip("10.0.0.0"), 8).unwrap(),
            IpNet::new(ip("fd00::"), 8).unwrap(),
        ];
        for (chain, expected) in [
            ("", None),
            ("192.0.2.1", Some("192.0.2.1")),
            ("203.0.113.9, 192.0.2.1", Some("192.0.2.1")),
            ("203.0.113.9, 192.0.2.1, 10.0.0.1", Some("192.0.2.1")),
            ("10.9.9.9, 192.0.2.1, fd00::1, 10.0.0.1", Some("192.0.2.1")),
            ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
            ("192.0.2.1, nonsense, 10.0.0.2", Some("10.0.0.2")),
            ("192.0.2.1, nonsense", None),
            ("nonsense, 192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1,, ,10.0.0.2", Some("192.0.2.1")),
        ] {
            let mut read = Chain::default();
            for member in fields::list(chain.as_bytes()) {
                read.add(address(member), &proxies);
            }
            assert_eq!(read.origin, expected.map(ip), "{chain}");
        }
    }

    #[test]
    fn elements_of_forwarded() {
        let read = |value: &str| {
            let mut all = Vec::new();
            rfc7239(value.as_bytes(), |address| all.push(address));
            all
        };
        assert_eq!(
            read("for=192.0.2.1;proto=http, For=\"[2001:db8::1]:80\";by=x,proto=http;for=192.0.2.2"),
            [
                Some(ip("192.0.2.1")),
                Some(ip("2001:db8::1")),
                Some(ip("192.0.2.2"))
            ]
        );
        assert_eq!(read("for=unknown, for=_x, by=192.0.2.1, ,"), [None, None, None]);
        // A quoted comma or an escaped quote does not begin another element.
        assert_eq!(read("for=\"192.0.2.1, for=192.0.2.2\""), [None]);
        assert_eq!(
            read("for=\"\\\", for=192.0.2.2\", for=192.0.2.3"),
            [None, Some(ip("192.0.2.3"))]
        );
    }
}
