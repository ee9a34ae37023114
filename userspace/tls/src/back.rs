//! A pool's side of TLS towards its backends: everything that a handshake goes by, as one configuration of rustls.
//!
//! Owns how the parts come together, as [`Front`](crate::Front) does towards clients. Which name is asked for is said when
//! a connection is made.

use std::sync::Arc;

use rustls::{
    ClientConfig,
    client::Resumption,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificate::Certificate,
    keys::KeySource,
    mistake::Mistake,
    policy::Policy,
    roots::{Anybody, Roots},
};

/// What a pool wants of TLS.
#[derive(Clone, Debug)]
pub struct Back {
    policy: Policy,
    /// None: whoever answers is believed.
    roots: Option<Roots>,
    alpn: Vec<Vec<u8>>,
    certificate: Option<Certificate>,
}

impl Back {
    /// By a policy, believing what these authorities have issued, or without any whoever answers.
    pub fn new(policy: Policy, roots: Option<Roots>) -> Self {
        Self {
            policy,
            roots,
            alpn: Vec::new(),
            certificate: None,
        }
    }

    /// The protocols that are offered (RFC 7301), in order of preference. A server that chooses none is taken all the same.
    #[must_use]
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.alpn = protocols.into_iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Shows this certificate to servers that ask for one.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// The configuration of rustls, signing by `keys`. It remembers no sessions: see [`for_server`].
    ///
    /// # Errors
    /// A certificate whose key `keys` does not have, or a policy that rustls does not take.
    pub fn build(&self, keys: &dyn KeySource) -> Result<ClientConfig, Mistake> {
        let provider = self.policy.provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.policy.versions())
            .map_err(|e| Mistake::Policy(e.to_string()))?;
        let builder = match &self.roots {
            Some(roots) => builder.with_root_certificates(roots.store()),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody::new(provider))),
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let id = certificate.key();
                let signing = keys
                    .signing_key(&id, certificate.kind())
                    .ok_or(Mistake::NoKey(id))?;
                let shown = CertifiedKey::new(certificate.chain().to_vec(), signing);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The same configuration with a memory of sessions with one server, which nobody else's are in.
///
/// Sessions with servers of one name are no use to each other unless they share the keys of their tickets, so each has its
/// own memory; of few tickets, for a server gives out new ones with each handshake.
pub fn for_server(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(1);
    Arc::new(config)
}

#[cfg(test)]
mod tests;
