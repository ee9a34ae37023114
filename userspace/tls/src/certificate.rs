//! A certificate with its chain, as a file holds it, judged before anybody is served with it, or shown it.
//!
//! Owns what is read of it and what is refused. Does not verify signatures: whom a client trusts, nobody here knows.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer, prelude::GeneralName,
};

use crate::{
    key::{KeyId, KeyKind, PrivateKey},
    mistake::Mistake,
    names::Pattern,
    ocsp::Staple,
    peer::{address, dn},
};

/// A certificate with what a server sends beside it.
#[derive(Clone, Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    subject: String,
    names: Vec<Pattern>,
    addresses: Vec<IpAddr>,
    key: KeyId,
    kind: KeyKind,
    not_before: i64,
    not_after: i64,
    staple: Option<Staple>,
}

impl Certificate {
    /// Reads a chain in PEM, the server's certificate first, each followed by its issuer's; and an OCSP response for
    /// it in DER (RFC 6960), if one is to be stapled. Other things in the PEM, as a key, are passed over.
    ///
    /// # Errors
    /// What can't be read, a wrong order, a weak key, a certificate without names or of an authority, a staple for
    /// another certificate. Dates are for [`check_dates`](Self::check_dates).
    pub fn read(chain_pem: &[u8], ocsp: Option<&[u8]>) -> Result<Self, Mistake> {
        Self::read_as(chain_pem, ocsp, true)
    }

    /// Reads a chain in PEM that a client shows, its own certificate first. Nothing is asked for by name of it, so it needs
    /// none.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for the names.
    pub fn read_of_client(chain_pem: &[u8]) -> Result<Self, Mistake> {
        Self::read_as(chain_pem, None, false)
    }

    fn read_as(chain_pem: &[u8], ocsp: Option<&[u8]>, of_server: bool) -> Result<Self, Mistake> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|e| Mistake::Pem(e.to_string()))?;
        let mut parsed = Vec::with_capacity(chain.len());
        for (at, der) in chain.iter().enumerate() {
            parsed.push(parse(at + 1, der)?);
        }
        let Some(leaf) = parsed.first() else {
            return Err(Mistake::Nothing {
                wanted: "a certificate",
            });
        };
        check_order(&parsed)?;
        let subject = dn(leaf.subject());
        if leaf.is_ca() && parsed.len() > 1 {
            return Err(Mistake::Authority { subject });
        }
        let (names, addresses) = names(leaf);
        if of_server && names.is_empty() && addresses.is_empty() {
            return Err(Mistake::Nameless { subject });
        }
        let kind = KeyKind::of(leaf.public_key())?;
        let key = KeyId::of(leaf.public_key().raw);
        let staple = ocsp.map(|der| Staple::read(der, leaf.raw_serial())).transpose()?;
        let (not_before, not_after) = (
            leaf.validity().not_before.timestamp(),
            leaf.validity().not_after.timestamp(),
        );
        drop(parsed);
        Ok(Self {
            chain,
            subject,
            names,
            addresses,
            key,
            kind,
            not_before,
            not_after,
            staple,
        })
    }

    /// Whether it is valid at a time.
    ///
    /// # Errors
    /// It has expired, or is not valid yet; or its OCSP response has ended, which clients take for an attack.
    pub fn check_dates(&self, now: UnixTime) -> Result<(), Mistake> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let subject = self.subject.clone();
        if now > self.not_after {
            let not_after = self.not_after;
            return Err(Mistake::Expired { subject, not_after });
        }
        if now < self.not_before {
            let not_before = self.not_before;
            return Err(Mistake::NotYetValid { subject, not_before });
        }
        self.staple
            .as_ref()
            .map_or(Ok(()), |staple| staple.check_dates(now))
    }

    /// Whether a key is its own.
    ///
    /// # Errors
    /// It is another.
    pub fn check_key(&self, key: &PrivateKey) -> Result<(), Mistake> {
        if self.key == key.id() {
            return Ok(());
        }
        Err(Mistake::WrongKey {
            certificate: self.key,
            key: key.id(),
        })
    }

    /// The chain in DER, as it is sent.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The OCSP response in DER, as it is stapled.
    pub fn ocsp(&self) -> Option<&[u8]> {
        self.staple.as_ref().map(Staple::der)
    }

    /// The last moment that the OCSP response is good for, in seconds since 1970. None: there is none, or it does not say.
    pub fn ocsp_end(&self) -> Option<i64> {
        self.staple.as_ref().and_then(Staple::end)
    }

    /// Its subject, as RFC 4514 writes it. May be empty.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The names of servers among its alternative names (RFC 5280, 4.2.1.6).
    pub fn names(&self) -> &[Pattern] {
        &self.names
    }

    /// The addresses among its alternative names.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What names its key.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The kind of its key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The beginning of its validity, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// The end of its validity, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

fn parse(nth: usize, der: &[u8]) -> Result<X509Certificate<'_>, Mistake> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Mistake::Unreadable {
            nth,
            why: "something follows it".to_owned(),
        }),
        Err(e) => Err(Mistake::Unreadable {
            nth,
            why: e.to_string(),
        }),
    }
}

/// Each certificate must be followed by its issuer's: TLS 1.2 asks for that (RFC 5246, 7.4.2), and some clients do
/// still. Names decide, and key identifiers where both are there.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), Mistake> {
    for (at, pair) in chain.windows(2).enumerate() {
        let [certificate, next] = pair else { continue };
        let named = certificate.issuer().as_raw() == next.subject().as_raw();
        let identified = match (authority_key(certificate), subject_key(next)) {
            (Some(wanted), Some(found)) => wanted == found,
            (Some(_), None) | (None, Some(_) | None) => true,
        };
        if !named || !identified {
            return Err(Mistake::Order {
                nth: at + 1,
                issuer: dn(certificate.issuer()),
                next: dn(next.subject()),
            });
        }
    }
    Ok(())
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        id.key_identifier.as_ref().map(|key| key.0)
    })
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(key) = extension.parsed_extension() else {
            return None;
        };
        Some(key.0)
    })
}

/// The names and addresses of a server. What is no host name (an internationalised one that is not encoded, say) can't
/// be asked for and is left out.
fn names(leaf: &X509Certificate<'_>) -> (Vec<Pattern>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let Ok(Some(alternative)) = leaf.subject_alternative_name() else {
        return (names, addresses);
    };
    for name in &alternative.value.general_names {
        if let GeneralName::DNSName(name) = name {
            names.extend(Pattern::read(name));
        } else if let GeneralName::IPAddress(bytes) = name {
            addresses.extend(address(bytes));
        }
    }
    (names, addresses)
}

#[cfg(test)]
mod tests;
