//! Writing an advert: always of version 3.

use std::net::IpAddr;

use super::{Checksum, Ends, HEADER, octets, sum::Sum};
use crate::vrrp::{
    Centis, Vrid,
    auth::{Keys, Signer},
};

/// What an advert is to say.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Of which virtual router.
    pub vrid: Vrid,
    /// The sender's priority.
    pub priority: u8,
    /// How often it sends.
    pub interval: Centis,
    /// The virtual router's addresses: at least one, all of the family of the packet. What is not is left out, and of more
    /// than 255 the first.
    pub addresses: &'a [IpAddr],
    /// How the checksum is made.
    pub checksum: Checksum,
}

/// Writes the payload of the IP packet that goes to `ends` in place of what `out` held, signed if there is a signer. Once
/// `out` has had the largest advert in it, nothing is allocated.
///
/// # Errors
/// The signer's key is not among the keys.
pub fn write(
    out: &mut Vec<u8>,
    message: &Message<'_>,
    ends: &Ends,
    signer: Option<(Signer, &dyn Keys)>,
) -> Result<(), UnknownKey> {
    out.clear();
    let [interval_0, interval_1] = message.interval.get().to_be_bytes();
    out.extend_from_slice(&[
        3 << 4 | 1,
        message.vrid.get(),
        message.priority,
        0,
        interval_0,
        interval_1,
        0,
        0,
    ]);
    for ip in message.addresses.iter().take(usize::from(u8::MAX)) {
        match (ip, ends) {
            (IpAddr::V4(v4), Ends::V4 { .. }) => out.extend_from_slice(&v4.octets()),
            (IpAddr::V6(v6), Ends::V6 { .. }) => out.extend_from_slice(&v6.octets()),
            (IpAddr::V4(_), Ends::V6 { .. }) | (IpAddr::V6(_), Ends::V4 { .. }) => {}
        }
    }
    let count = (out.len() - HEADER) / octets(ends.family());
    if let Some(place) = out.get_mut(3) {
        *place = count as u8;
    }
    let sum = Sum::NONE
        .bytes(out)
        .pseudo_header(ends, out.len(), message.checksum)
        .checksum();
    if let Some(place) = out.get_mut(6..HEADER) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    match signer {
        Some((signer, keys)) => signer.sign(out, ends, keys).ok_or(UnknownKey(signer.key)),
        None => Ok(()),
    }
}

/// There is no key of this number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownKey(pub u8);

impl std::fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no key {} to sign adverts with", self.0)
    }
}

impl std::error::Error for UnknownKey {}
