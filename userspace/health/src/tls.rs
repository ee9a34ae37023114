//! How a check speaks TLS: which certificates it believes, and what name it asks for.
//!
//! Owns the client configurations and their reloading. Never connects.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::sync::OnceCell;
use weir_core::{
    health::Failure,
    plan::{HttpCheck, TlsCheck},
};

/// Client configurations, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Configs {
    unverified: OnceCell<Arc<ClientConfig>>,
    system: OnceCell<Arc<ClientConfig>>,
    bundles: Mutex<HashMap<PathBuf, (Stamp, Arc<ClientConfig>)>>,
}

/// What tells a file from the one that replaced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    changed: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Configs {
    /// The configuration for a check. What is wrong with the certificates it should believe is our own fault.
    pub(crate) async fn get(&self, check: &TlsCheck) -> Result<Arc<ClientConfig>, Failure> {
        let made = match (check.verify, &check.ca) {
            (false, _) => self
                .unverified
                .get_or_try_init(async || unverified())
                .await
                .cloned(),
            (true, None) => self
                .system
                .get_or_try_init(async || blocking(system).await)
                .await
                .cloned(),
            (true, Some(path)) => self.bundle(path).await,
        };
        made.map_err(Failure::Internal)
    }

    async fn bundle(&self, path: &Path) -> Result<Arc<ClientConfig>, String> {
        let owned = path.to_owned();
        let stamp = blocking(move || stamp(&owned).map_err(|e| unreadable(&owned, &e))).await?;
        let known = self
            .bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned();
        if let Some((known, config)) = known
            && known == stamp
        {
            return Ok(config);
        }
        let owned = path.to_owned();
        let config = blocking(move || bundle(&owned)).await?;
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        bundles.insert(path.to_owned(), (stamp, config.clone()));
        Ok(config)
    }
}

/// Runs what waits for a disk beside the runtime's thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(format!("loading certificates: {e}")))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("CA bundle {}: {error}", path.display())
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path)?;
    Ok(Stamp {
        changed: meta.modified().ok(),
        length: meta.len(),
        inode: meta.ino(),
    })
}

fn bundle(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let certs = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certs = certs.map_err(|e| unreadable(path, &e))?;
    if certs.is_empty() {
        return Err(unreadable(path, &"no certificate in it"));
    }
    let mut roots = RootCertStore::empty();
    for cert in certs {
        roots.add(cert).map_err(|e| unreadable(path, &e))?;
    }
    verified(roots)
}

fn system() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some roots of a system are often of a kind that can't be used: the others count.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found
            .errors
            .first()
            .map_or_else(String::new, |e| format!(" ({e})"));
        return Err(format!(
            "no root certificates on this system{why}: install ca-certificates, or name a bundle with `ca`"
        ));
    }
    verified(roots)
}

fn verified(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?;
    Ok(finish(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = provider();
    let verifier = Arc::new(AcceptsAnyCertificate(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?;
    Ok(finish(
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
    ))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    // Each check is to see the certificate anew: a resumed session would not show that it has expired meanwhile.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The name to ask for and to verify: `server_name`, or else the `Host` without its port, or else the address.
pub(crate) fn server_name(
    target: SocketAddr,
    check: &HttpCheck,
    tls: &TlsCheck,
) -> Result<ServerName<'static>, Failure> {
    let Some(name) = tls
        .server_name
        .as_deref()
        .or_else(|| check.host.as_deref().map(without_port))
    else {
        return Ok(ServerName::from(target.ip()));
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(ServerName::from(ip));
    }
    ServerName::try_from(name.to_owned())
        .map_err(|e| Failure::Internal(format!("the check's server name {name:?}: {e}")))
}

/// A `Host` without its port. IPv6 stands in brackets there (RFC 3986, 3.2.2).
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            let bracketed = name.starts_with('[');
            if bracketed == name.ends_with(']') {
                name
            } else {
                host
            }
        }
        Some(_) | None => host,
    }
}

/// For checks with `verify` off: whoever answers is believed. Such a check says that TLS works there, not who it is.
#[derive(Debug)]
struct AcceptsAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature proves possession of a key that nobody has vouched for: it would prove nothing. And checking it would
    // refuse certificates that can't be read, which `verify` off is there to bear with.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
