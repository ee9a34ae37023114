//! The certificate that a client has shown: whether it holds, and what it says, worked out once per connection and only if
//! somebody asks.

use std::{
    cell::{OnceCell, RefCell},
    fmt::{self, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, UnixTime};
use weir_core::plan::ClientFact;
use weir_tls::{ClientAuth, Moment, Peer, Unverified, Wanted};

/// A client's certificate, with those that it was issued by as far as they came along.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    auth: ClientAuth,
    verdict: OnceCell<Result<(), Unverified>>,
    facts: OnceCell<Box<Facts>>,
    /// By OID, as far as they were asked for.
    extensions: RefCell<Vec<(Box<str>, Box<str>)>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown")
            .field("verdict", &self.verdict.get())
            .finish_non_exhaustive()
    }
}

/// What it says. Empty where it can't be read.
#[derive(Default)]
struct Facts {
    verify: String,
    subject: String,
    issuer: String,
    subject_slashes: String,
    issuer_slashes: String,
    common_name: String,
    alternative_names: String,
    serial: String,
    fingerprint: String,
    not_before: String,
    not_after: String,
    certificate: String,
}

impl Shown {
    /// Of a chain that was shown. None: it was not.
    pub(super) fn of(chain: Option<&[CertificateDer<'static>]>, auth: &ClientAuth) -> Option<Box<Self>> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let verdict = OnceCell::new();
        if auth.wanted() == Wanted::Required {
            // The handshake has seen to it, and such sessions are not taken up again.
            let _ = verdict.set(Ok(()));
        }
        Some(Box::new(Self {
            chain: chain.to_vec(),
            auth: auth.clone(),
            verdict,
            facts: OnceCell::new(),
            extensions: RefCell::default(),
        }))
    }

    /// Whether it holds, as of when that was first asked on this connection.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn verdict(&self) -> Result<(), Unverified> {
        *self
            .verdict
            .get_or_init(|| self.auth.verdict(&self.chain, UnixTime::now()))
    }

    /// A fact. Never with bytes that would end a field or a line.
    pub(crate) fn fact(&self, fact: ClientFact) -> &str {
        let facts = self.facts.get_or_init(|| Box::new(self.read()));
        match fact {
            ClientFact::Verify => &facts.verify,
            ClientFact::Subject => &facts.subject,
            ClientFact::Issuer => &facts.issuer,
            ClientFact::SubjectSlashes => &facts.subject_slashes,
            ClientFact::IssuerSlashes => &facts.issuer_slashes,
            ClientFact::CommonName => &facts.common_name,
            ClientFact::AlternativeNames => &facts.alternative_names,
            ClientFact::Serial => &facts.serial,
            ClientFact::Fingerprint => &facts.fingerprint,
            ClientFact::NotBefore => &facts.not_before,
            ClientFact::NotAfter => &facts.not_after,
            ClientFact::Certificate => &facts.certificate,
        }
    }

    fn read(&self) -> Facts {
        let verify = match self.verdict() {
            Ok(()) => "ok".to_owned(),
            Err(why) => format!("failed:{why}"),
        };
        let Some(own) = self.chain.first() else {
            return Facts::default();
        };
        let Some(peer) = Peer::read(own) else {
            return Facts {
                verify,
                certificate: STANDARD.encode(own),
                ..Facts::default()
            };
        };
        Facts {
            verify,
            subject: printable(&peer.subject()),
            issuer: printable(&peer.issuer()),
            subject_slashes: printable(&peer.subject_slashes()),
            issuer_slashes: printable(&peer.issuer_slashes()),
            common_name: printable(&peer.common_name().unwrap_or_default()),
            alternative_names: printable(&peer.alternative_names().join(",")),
            serial: peer.serial(),
            fingerprint: peer.fingerprint(),
            not_before: Moment(peer.not_before()).to_string(),
            not_after: Moment(peer.not_after()).to_string(),
            certificate: STANDARD.encode(own),
        }
    }

    /// Hands over the value of an extension; an empty one if it has none.
    pub(crate) fn extension(&self, oid: &str, with: impl FnOnce(&str)) {
        let mut known = self.extensions.borrow_mut();
        if let Some((_, value)) = known.iter().find(|(known, _)| **known == *oid) {
            return with(value);
        }
        let peer = self.chain.first().and_then(|own| Peer::read(own));
        let value = peer.and_then(|peer| peer.extension(oid)).unwrap_or_default();
        let value = printable(&value);
        with(&value);
        known.push((oid.into(), value.into()));
    }
}

/// A text without control characters: each byte of one is written as a backslash and two digits, as RFC 4514 does.
fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string can't fail.
                let _ = write!(out, "\\{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_line() {
        assert_eq!(printable("a\r\nX: y\0\u{85}"), "a\\0D\\0AX: y\\00\\C2\\85");
        assert_eq!(printable("Jürgen, Ä"), "Jürgen, Ä");
    }
}
