//! What is wrong with a certificate, a key, a staple, a bundle or a policy, in words for whoever wrote the file.
//!
//! Owns the words. Which file it is, the caller adds.

use std::fmt;

use crate::key::{KeyId, KeyKind};

/// What is wrong. Displayed without the file's name, and with what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mistake {
    /// The text is no PEM, or not one that is well formed.
    Pem(String),
    /// PEM without anything of the kind that is wanted.
    Nothing {
        /// What is wanted, as a noun with its article.
        wanted: &'static str,
    },
    /// More than one where one is wanted.
    Several {
        /// What is wanted, as a noun with its article.
        wanted: &'static str,
    },
    /// A certificate that can't be read. Counted from 1.
    Unreadable {
        /// Which one of the file.
        nth: usize,
        /// What it fails by.
        why: String,
    },
    /// The first certificate is that of an authority, not of a server.
    Authority {
        /// Whose it is.
        subject: String,
    },
    /// A certificate is not followed by that of its issuer.
    Order {
        /// Which one of the file, counted from 1.
        nth: usize,
        /// Who issued it.
        issuer: String,
        /// Whose certificate comes next.
        next: String,
    },
    /// A server's certificate that names nobody: clients look at the subject's alternative names only (RFC 9525, 2).
    Nameless {
        /// Its subject.
        subject: String,
    },
    /// A key too short to be relied on.
    Weak {
        /// What it is.
        kind: KeyKind,
    },
    /// A key of a kind that is not served here.
    UnsupportedKey(String),
    /// The key is not the one the certificate is for.
    WrongKey {
        /// What the certificate is for.
        certificate: KeyId,
        /// What the key is.
        key: KeyId,
    },
    /// A certificate whose time is over.
    Expired {
        /// Whose it is.
        subject: String,
        /// The end, in seconds since 1970.
        not_after: i64,
    },
    /// A certificate whose time has not come.
    NotYetValid {
        /// Whose it is.
        subject: String,
        /// The beginning, in seconds since 1970.
        not_before: i64,
    },
    /// An OCSP response that can't be stapled.
    Staple(String),
    /// A name that is no server's name.
    BadName(String),
    /// A name in a policy that means nothing here.
    Unknown {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// What there is instead.
        known: String,
    },
    /// A policy that nobody could speak.
    Policy(String),
    /// Keys for session tickets that can't be used.
    TicketKeys(String),
    /// A bundle of authorities or a revocation list that can't be used.
    Trust(String),
    /// A certificate was given whose key nobody holds.
    NoKey(KeyId),
    /// Nothing to serve.
    NoCertificate,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(why) => write!(f, "no PEM that can be read: {why}"),
            Self::Nothing { wanted } => write!(f, "does not hold {wanted} in PEM form"),
            Self::Several { wanted } => write!(f, "holds more than {wanted}; keep one"),
            Self::Unreadable { nth, why } => write!(f, "certificate {nth} can't be read: {why}"),
            Self::Authority { subject } => write!(
                f,
                "the first certificate is that of an authority ({subject}); put the server's own certificate first"
            ),
            Self::Order { nth, issuer, next } => write!(
                f,
                "certificate {nth} was issued by \"{issuer}\", but the next one is that of \"{next}\"; order them from \
                 the server's own to the authority's, without others between"
            ),
            Self::Nameless { subject } => write!(
                f,
                "the certificate of \"{subject}\" has no DNS name or address among its alternative names, so no client \
                 accepts it; have it issued with subjectAltName"
            ),
            Self::Weak { kind } => write!(
                f,
                "a key of {kind} is too weak; use ECDSA P-256, or RSA of at least {} bits",
                crate::key::LEAST_RSA_BITS
            ),
            Self::UnsupportedKey(what) => write!(
                f,
                "a key that is not supported ({what}); use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits, \
                 not encrypted"
            ),
            Self::WrongKey { certificate, key } => write!(
                f,
                "the key is not the certificate's: it has the public key {key}, the certificate is for {certificate} \
                 (SHA-256 of each)"
            ),
            Self::Expired { subject, not_after } => write!(
                f,
                "the certificate of \"{subject}\" has expired: it was valid until {}",
                Moment(*not_after)
            ),
            Self::NotYetValid { subject, not_before } => write!(
                f,
                "the certificate of \"{subject}\" is not valid yet, but from {} on; is this machine's clock right?",
                Moment(*not_before)
            ),
            Self::Staple(why) => write!(f, "the OCSP response can't be stapled: {why}"),
            Self::BadName(name) => write!(
                f,
                "\"{name}\" is no name of a server; write a host name, or *. and a domain for all names one label below it"
            ),
            Self::Unknown { what, name, known } => {
                write!(f, "there is no {what} \"{name}\"; there are {known}")
            }
            Self::Policy(why) => f.write_str(why),
            Self::TicketKeys(why) => write!(f, "ticket keys: {why}"),
            Self::Trust(why) => f.write_str(why),
            Self::NoKey(id) => write!(f, "nobody holds the key of the certificate for public key {id}"),
            Self::NoCertificate => f.write_str("no certificate to serve"),
        }
    }
}

impl std::error::Error for Mistake {}

/// A moment in UTC, in seconds since 1970, displayed as RFC 3339 writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment(pub i64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        // Days since 1970 to a date in the Gregorian calendar, counted in eras of 400 years that begin in March.
        let shifted = day + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let date = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_796_000_000, "2026-11-30T00:53:20Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Moment(seconds).to_string(), text);
        }
    }
}
