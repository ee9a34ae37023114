//! Certificates of clients: who is asked for one, whom it must be from, and what is made of one that does not hold.
//!
//! Owns authorities, revocation lists and the verdict. What a certificate says besides is [`Peer`](crate::Peer)'s.
//!
//! `optional` takes a connection whatever certificate the client shows, as HAProxy's `verify optional` with
//! `crt-ignore-err all`, and says why one does not count: an application that is told `expired` can send its user to a
//! page that helps, a handshake that is refused shows a browser's error page. Possession of the key is proven either
//! way. `required` refuses in the handshake.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::verify_tls13_signature_with_raw_key,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, UnixTime, pem::PemObject,
    },
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use x509_parser::{
    asn1_rs::Any, certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use crate::{key::sha256, mistake::Mistake, roots::Roots};

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// A certificate is asked for; whoever has none, or one that does not hold, is served all the same.
    Optional,
    /// Nobody is served without a certificate that holds.
    Required,
}

/// Why a client's certificate does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unverified {
    /// Its time is over, or that of one above it.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// No authority of the bundle has issued it.
    UnknownIssuer,
    /// A list of its authority revokes it.
    Revoked,
    /// There are lists, but none of its authority, so nobody knows.
    RevocationUnknown,
    /// It is not for clients (extended key usage).
    WrongPurpose,
    /// A signature in its chain is wrong, or of a kind that is not believed.
    BadSignature,
    /// It can't be read, or breaks a rule of RFC 5280.
    Invalid,
}

impl Unverified {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownIssuer,
        Self::Revoked,
        Self::RevocationUnknown,
        Self::WrongPurpose,
        Self::BadSignature,
        Self::Invalid,
    ];

    /// The word for it: in headers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation-unknown",
            Self::WrongPurpose => "wrong-purpose",
            Self::BadSignature => "bad-signature",
            Self::Invalid => "invalid",
        }
    }

    /// From what rustls says of a certificate.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what rustls adds later is invalid, too"
    )]
    pub fn of(error: &Error) -> Self {
        let Error::InvalidCertificate(error) = error else {
            return Self::Invalid;
        };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongPurpose
            }
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::BadSignature,
            _ => Self::Invalid,
        }
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a service believes that a client is who its certificate says.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    wanted: Wanted,
    strict: Arc<dyn ClientCertVerifier>,
    digest: [u8; 32],
    lists_end: Option<i64>,
}

impl ClientAuth {
    /// Reads a bundle of authorities in PEM, and revocation lists in PEM (each file may hold several). With lists, every
    /// authority in a client's chain must have one, else its certificate does not count; one that is over its
    /// nextUpdate counts still, since an authority that is late should not lock everybody out:
    /// [`lists_end`](Self::lists_end) is there to be watched.
    ///
    /// # Errors
    /// A bundle without a usable authority, or a list that can't be read.
    pub fn read(wanted: Wanted, ca_pem: &[u8], crls_pem: &[&[u8]]) -> Result<Self, Mistake> {
        let roots = Roots::read(ca_pem)?;
        let mut lists = Vec::new();
        for pem in crls_pem {
            let before = lists.len();
            for list in CertificateRevocationListDer::pem_slice_iter(pem) {
                lists.push(list.map_err(|e| Mistake::Pem(e.to_string()))?);
            }
            if lists.len() == before {
                return Err(Mistake::Nothing {
                    wanted: "a revocation list",
                });
            }
        }
        let lists_end = lists.iter().filter_map(next_update).min();
        let builder = WebPkiClientVerifier::builder_with_provider(roots.store(), Arc::new(crate::provider()));
        let strict = builder
            .with_crls(lists)
            .build()
            .map_err(|e| Mistake::Trust(format!("a revocation list can't be used: {e}")))?;
        let mut all = vec![u8::from(wanted == Wanted::Required)];
        for part in [ca_pem].iter().chain(crls_pem) {
            all.extend_from_slice(&sha256(part));
        }
        Ok(Self {
            wanted,
            strict,
            digest: sha256(&all),
            lists_end,
        })
    }

    /// What is asked of clients.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// The earliest nextUpdate of the lists, in seconds since 1970. None: there are no lists, or none says.
    pub fn lists_end(&self) -> Option<i64> {
        self.lists_end
    }

    /// Whether a client's chain, its own certificate first, holds at a time. It costs some signatures' verification. For a
    /// resumed session, too, this says what holds now.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verdict(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Unverified> {
        let (own, others) = chain.split_first().ok_or(Unverified::Invalid)?;
        match self.strict.verify_client_cert(own, others, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(Unverified::of(&error)),
        }
    }

    /// What names whom it believes: tickets of one do not open for another.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        match self.wanted {
            Wanted::Required => Arc::clone(&self.strict),
            Wanted::Optional => Arc::new(Lenient(Arc::clone(&self.strict))),
        }
    }
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    list.next_update().map(|time| time.timestamp())
}

/// Takes any certificate whose key the client has.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Whether it holds is worked out when somebody asks: `ClientAuth::verdict`.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match is_readable(cert) {
            true => self.0.verify_tls12_signature(message, cert, dss),
            false => verify_tls12_by_key(message, cert, dss),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if is_readable(cert) {
            return self.0.verify_tls13_signature(message, cert, dss);
        }
        let key = SubjectPublicKeyInfoDer::from(public_key(cert)?);
        let algorithms = crate::provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whether rustls' verifier reads the certificate. It takes those of version 3 alone, and `openssl x509 -req` makes those of
/// version 1 where nobody asks for an extension.
fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(certificate).is_ok()
}

/// The SubjectPublicKeyInfo in DER of a certificate of any version.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Result<&'a [u8], Error> {
    let read = X509Certificate::from_der(certificate);
    let (_, read) = read.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(read.tbs_certificate.subject_pki.raw)
}

/// Whether a client has the key of a certificate that is not readable, in TLS 1.2.
fn verify_tls12_by_key(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let malformed = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let key = public_key(certificate)?;
    // SubjectPublicKeyInfo ::= SEQUENCE { algorithm SEQUENCE { ... }, subjectPublicKey BIT STRING } (RFC 5280, 4.1.2.7).
    let (_, info) = Any::from_der(key).map_err(|_| malformed())?;
    let (rest, algorithm) = Any::from_der(info.data).map_err(|_| malformed())?;
    let (_, bits) = Any::from_der(rest).map_err(|_| malformed())?;
    // A number of bits that are unused goes before them: none of a key.
    let Some((0, bits)) = bits.data.split_first() else {
        return Err(malformed());
    };
    let known = crate::provider().signature_verification_algorithms.mapping;
    let of_scheme = known.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let mut fitting = of_scheme
        .flat_map(|(_, algorithms)| *algorithms)
        .filter(|one| one.public_key_alg_id().as_ref() == algorithm.data);
    let Some(one) = fitting.next() else {
        return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
    };
    match one.verify_signature(bits, message, signed.signature()) {
        Ok(()) => Ok(HandshakeSignatureValid::assertion()),
        Err(_) => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}

#[cfg(test)]
mod tests;
