//! Whether an advert that reads well may act on a virtual router of this box.
//!
//! Owns the rules that depend on the configuration (RFC 9568 section 7.1), and the one list of reasons for which adverts are
//! refused. What is refused changes nothing: neither a state nor a timer.

use std::{fmt, net::IpAddr};

use super::{
    Centis,
    auth::{Keys, Mode, Unsigned, Window},
    wire::{Advert, Ends, Malformed, V2_AUTH, Version},
};

/// What a virtual router takes for an advert of its own.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// This box's address on the link, from which it sends.
    pub own: IpAddr,
    /// The virtual router's addresses here. Each stands there once.
    pub addresses: &'a [IpAddr],
    /// How often this box would send.
    pub interval: Centis,
    /// Who may send.
    pub senders: Senders<'a>,
    /// What is thought of version 2.
    pub v2: V2,
}

/// Who may send.
#[derive(Clone, Copy, Debug)]
pub enum Senders<'a> {
    /// Everybody on the link, to the group.
    Group,
    /// These, each to this box.
    Peers(&'a [IpAddr]),
}

/// What is thought of adverts of version 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V2 {
    /// They are refused.
    Refused,
    /// They are taken, if they have this password, filled up with zeros. `None`: if they have none.
    Taken(Option<[u8; V2_AUTH]>),
}

/// Why an advert does not act.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Refused {
    /// It is none.
    Malformed(Malformed),
    /// No virtual router of this number is configured on its interface.
    UnknownVrid,
    /// It comes from this box's own address: another box has it too.
    OwnAddress,
    /// Not to the group, or not to this box, as the senders are to do.
    Destination,
    /// From none of the peers.
    Stranger,
    /// Of version 2, which is not taken here.
    OldVersion,
    /// Of version 2, with another password than here, or one where there is none.
    Password,
    /// Of version 2, with another interval than here (RFC 3768 section 7.1).
    OtherInterval,
    /// The sender's virtual router has other addresses.
    OtherAddresses,
    /// It is not signed as it should be.
    Unsigned(Unsigned),
}

impl Refused {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::UnknownVrid,
            Self::OwnAddress,
            Self::Destination,
            Self::Stranger,
            Self::OldVersion,
            Self::Password,
            Self::OtherInterval,
            Self::OtherAddresses,
        ];
        let malformed = Malformed::ALL.into_iter().map(Self::Malformed);
        let signature = Unsigned::ALL.into_iter().map(Self::Unsigned);
        malformed.chain(own).chain(signature)
    }

    /// Its name in counters, logs and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.name(),
            Self::UnknownVrid => "unknown-vrid",
            Self::OwnAddress => "own-address",
            Self::Destination => "destination",
            Self::Stranger => "stranger",
            Self::OldVersion => "old-version",
            Self::Password => "password",
            Self::OtherInterval => "other-interval",
            Self::OtherAddresses => "other-addresses",
            Self::Unsigned(unsigned) => unsigned.name(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Signatures, if the virtual router has keys.
pub struct Signatures<'a> {
    /// The keys.
    pub keys: &'a dyn Keys,
    /// What becomes of adverts that are not signed as they should be.
    pub mode: Mode,
    /// What was taken before.
    pub window: &'a mut Window,
}

/// Judges an advert by the rules of its virtual router. If it is taken, says what [`Mode::Enforce`] would have refused it
/// for.
///
/// # Errors
/// It is not to act, for this reason.
pub fn judge(
    rules: &Rules<'_>,
    ends: &Ends,
    advert: &Advert<'_>,
    signatures: Option<Signatures<'_>>,
) -> Result<Option<Unsigned>, Refused> {
    let (source, destination) = (ends.source(), ends.destination());
    if source == rules.own {
        return Err(Refused::OwnAddress);
    }
    match rules.senders {
        Senders::Group if destination != ends.family().group() => return Err(Refused::Destination),
        Senders::Peers(peers) if !peers.contains(&source) => return Err(Refused::Stranger),
        Senders::Peers(_) if destination != rules.own => return Err(Refused::Destination),
        Senders::Group | Senders::Peers(_) => {}
    }
    if let Version::V2 { auth } = advert.version {
        match rules.v2 {
            V2::Refused => return Err(Refused::OldVersion),
            V2::Taken(password) if auth != password => return Err(Refused::Password),
            // Version 3 learns the master's interval instead.
            V2::Taken(_) if advert.interval != rules.interval => return Err(Refused::OtherInterval),
            V2::Taken(_) => {}
        }
    }
    // Ours stand there once each: as many, and all of them, are the same.
    let are_same = advert.addresses.len() == rules.addresses.len()
        && rules
            .addresses
            .iter()
            .all(|ours| advert.addresses.iter().any(|theirs| theirs == *ours));
    if !are_same {
        return Err(Refused::OtherAddresses);
    }
    let Some(Signatures { keys, mode, window }) = signatures else {
        return Ok(None);
    };
    match (window.verify(advert, ends, keys), mode) {
        (Ok(()), Mode::Permissive | Mode::Enforce) => Ok(None),
        (Err(unsigned), Mode::Permissive) => Ok(Some(unsigned)),
        (Err(unsigned), Mode::Enforce) => Err(Refused::Unsigned(unsigned)),
    }
}

#[cfg(test)]
mod tests;
