//! `X-Forwarded-For` and `Forwarded` (RFC 7239): what a backend is told of the client's address.
//!
//! From a trusted proxy what it says is passed on and its own address appended. From anyone else what it says is
//! dropped, so that nobody can claim an address.

use std::{io::Write, net::IpAddr};

use weir_core::plan::Forwarded;

use super::{
    fields::{self, Kind},
    request::Request,
};

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

/// Writes the forwarding fields.
pub(super) fn write(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    mode: Forwarded,
    trusted: bool,
    client: &Client,
) {
    let (x, rfc) = match mode {
        Forwarded::XForwardedFor => (true, false),
        Forwarded::Rfc7239 => (false, true),
        Forwarded::Both => (true, true),
        Forwarded::Off => (false, false),
    };
    if x {
        out.extend_from_slice(b"X-Forwarded-For: ");
        passed_on(out, request, Kind::XForwardedFor, trusted);
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if rfc {
        out.extend_from_slice(b"Forwarded: ");
        passed_on(out, request, Kind::Forwarded, trusted);
        let (open, close): (&[u8], &[u8]) = if client.v6 {
            (b"for=\"[", b"]\"")
        } else {
            (b"for=", b"")
        };
        out.extend_from_slice(open);
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(close);
        out.extend_from_slice(b";proto=http\r\n");
    }
}

/// Whether an existing field that claims something of the client stays where it is: those weir adds nothing to, unless
/// their sender can't be trusted.
pub(super) fn stays(name: &str, mode: Forwarded, trusted: bool) -> bool {
    match (mode, fields::kind(name)) {
        (Forwarded::Off, _) => true,
        (Forwarded::XForwardedFor, Kind::Forwarded) | (Forwarded::Rfc7239, Kind::XForwardedFor) => trusted,
        (_, Kind::Claim) => trusted,
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
