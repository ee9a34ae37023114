//! The files of a plan's TLS as control and relay both read them.
//!
//! Owns the way from what the plan holds to what `weir_tls` makes of it. Private keys are read by control only, on their
//! way to the keys process.

use std::{fs::File, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use weir_core::plan::{BackendTls, BackendTrust, ClientCertificates, Plan, TlsCertificate};
use weir_tls::{Certificate, ClientAuth, Mistake, PrivateKey, Secret, Wanted};

/// Longest file of a key, in bytes.
const LONGEST_KEY: u64 = 1 << 20;

/// A certificate of a plan, with what is stapled.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn certificate(one: &TlsCertificate) -> Result<Certificate, Mistake> {
    let staple = one.ocsp.as_ref().map(|file| STANDARD.decode(&*file.text));
    let staple = staple.transpose().map_err(|e| Mistake::Staple(e.to_string()))?;
    Certificate::read(one.chain.text.as_bytes(), staple.as_deref())
}

/// A certificate of a plan that backends are shown.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn certificate_for_backends(one: &TlsCertificate) -> Result<Certificate, Mistake> {
    Certificate::read_of_client(one.chain.text.as_bytes())
}

/// Pools whose backends are spoken to over TLS without a look at who they are.
pub(crate) fn unverified_pools(plan: &Plan) -> impl Iterator<Item = &str> {
    let unverified = |tls: &BackendTls| tls.trust == BackendTrust::Anybody;
    plan.pools
        .iter()
        .filter(move |pool| pool.tls.as_deref().is_some_and(unverified))
        .map(|pool| pool.name.as_str())
}

/// What is to be said of such a pool.
pub(crate) fn unverified(pool: &str) -> String {
    format!(
        "pool {pool}: verify = false, so whoever answers at its backends' addresses is believed, and reads and changes \
         all that goes there; name their authority by `ca` instead"
    )
}

/// How a pool's backends are spoken to, for people.
pub(crate) fn describe(tls: &BackendTls) -> String {
    let name = tls.server_name.as_ref();
    let name = name.map_or_else(|| "its address".to_owned(), |name| format!("the name {name}"));
    match &tls.trust {
        BackendTrust::Anybody => "TLS, not verified".to_owned(),
        BackendTrust::System => format!("TLS, verified for {name} by the system's authorities"),
        BackendTrust::Authorities(file) => {
            format!("TLS, verified for {name} by {}", file.path.display())
        }
    }
}

/// Whom a plan believes who its clients are. None: they are not asked.
///
/// # Errors
/// A bundle or a list that can't be used.
pub(crate) fn clients(clients: &ClientCertificates) -> Result<Option<ClientAuth>, Mistake> {
    let (wanted, authority) = match clients {
        ClientCertificates::Off => return Ok(None),
        ClientCertificates::Optional(authority) => (Wanted::Optional, authority),
        ClientCertificates::Required(authority) => (Wanted::Required, authority),
    };
    let lists: Vec<_> = authority.crl.iter().map(|file| file.text.as_bytes()).collect();
    ClientAuth::read(wanted, authority.ca.text.as_bytes(), &lists).map(Some)
}

/// The private key in a file, read and as text, without whatever else stands there.
///
/// # Errors
/// The file can't be read; or what is wrong with it.
pub(crate) fn private_key(path: &Path) -> io::Result<Result<(PrivateKey, Secret), Mistake>> {
    let text = Secret::read(File::open(path)?, LONGEST_KEY)?;
    let block = || {
        let block = PrivateKey::block(text.bytes()).unwrap_or_default();
        Secret::concat([block, b"\n"].into_iter())
    };
    Ok(PrivateKey::read(text.bytes()).map(|key| (key, block())))
}
