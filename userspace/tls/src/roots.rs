//! Whom the other side's certificate must be from: a bundle of authorities, those of the system, or whomever.
//!
//! Owns reading bundles, and the verifier that asks for nothing. What follows from a certificate that does not hold is
//! rustls'.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::{key::sha256, mistake::Mistake};

/// Authorities that are believed.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    digest: [u8; 32],
}

impl Roots {
    /// Reads a bundle in PEM.
    ///
    /// # Errors
    /// One without an authority, or with one that can't be used.
    pub fn read(pem: &[u8]) -> Result<Self, Mistake> {
        let mut store = RootCertStore::empty();
        let mut all = Vec::new();
        for (at, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(|e| Mistake::Pem(e.to_string()))?;
            all.extend_from_slice(&sha256(&certificate));
            store.add(certificate).map_err(|e| {
                Mistake::Trust(format!("authority {} of the bundle can't be used: {e}", at + 1))
            })?;
        }
        if store.is_empty() {
            return Err(Mistake::Nothing {
                wanted: "an authority's certificate",
            });
        }
        Ok(Self {
            store: Arc::new(store),
            digest: sha256(&all),
        })
    }

    /// The system's own, from where its TLS libraries look for them (`SSL_CERT_FILE`, `SSL_CERT_DIR`, /etc/ssl). Reads files.
    ///
    /// # Errors
    /// There are none that can be used.
    pub fn of_system() -> Result<Self, Mistake> {
        let found = rustls_native_certs::load_native_certs();
        let all: Vec<_> = found.certs.iter().flat_map(|one| sha256(one)).collect();
        let mut store = RootCertStore::empty();
        // Some roots of a system are often of a kind that can't be used: the others count.
        let (usable, _) = store.add_parsable_certificates(found.certs);
        if usable == 0 {
            let why = found.errors.first();
            let why = why.map_or_else(String::new, |e| format!(" ({e})"));
            return Err(Mistake::Trust(format!(
                "no root certificates on this system{why}; install ca-certificates, or name a bundle with `ca`"
            )));
        }
        Ok(Self {
            store: Arc::new(store),
            digest: sha256(&all),
        })
    }

    /// For rustls' verifiers.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }

    /// What tells these from others.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// Believes whoever answers: TLS then says nothing of who that is.
#[derive(Debug)]
pub struct Anybody(Arc<CryptoProvider>);

impl Anybody {
    /// By what a provider can verify, which is what is told that can be.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature proves possession of a key that nobody has vouched for: it would prove nothing. And checking it would
    // refuse certificates that can't be read, which this is there to bear with.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
