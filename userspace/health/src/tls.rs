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
    ClientConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
};
use tokio::sync::OnceCell;
use weir_core::{
    health::Failure,
    plan::{HttpCheck, HttpProtocol, TlsCheck},
};
use weir_tls::{Anybody, Roots};

/// The protocols, as ALPN names them.
pub(crate) const HTTP1: &[u8] = b"http/1.1";
pub(crate) const HTTP2: &[u8] = b"h2";

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
    pub(crate) async fn get(
        &self,
        check: &TlsCheck,
        protocol: HttpProtocol,
    ) -> Result<Arc<ClientConfig>, Failure> {
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
        let made = made.map_err(Failure::Internal)?;
        Ok(match protocol.is_http2() {
            true => http2(&made),
            false => made,
        })
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
    let pem = fs::read(path).map_err(|e| unreadable(path, &e))?;
    verified(Roots::read(&pem).map_err(|e| unreadable(path, &e))?)
}

fn system() -> Result<Arc<ClientConfig>, String> {
    verified(Roots::of_system().map_err(|e| e.to_string())?)
}

fn verified(roots: Roots) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?;
    let builder = builder.with_root_certificates(roots.store());
    Ok(finish(builder.with_no_client_auth()))
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = provider();
    let verifier = Arc::new(Anybody::new(provider.clone()));
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
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Arc::new(config)
}

/// The same for a check in HTTP/2.
fn http2(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![HTTP2.to_vec()];
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

#[cfg(test)]
mod tests;
