//! A service's side of TLS: everything that a handshake goes by, as one configuration of rustls.
//!
//! Owns how the parts come together. A configuration is made once for a plan or a changed file, shared by all
//! connections, and never changed.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

use crate::{
    certificate::Certificate,
    client::{ClientAuth, Wanted},
    keys::KeySource,
    mistake::Mistake,
    names::Pattern,
    policy::Policy,
    served::Served,
    tickets::Tickets,
};

/// What a service wants of TLS.
#[derive(Clone, Debug)]
pub struct Front {
    policy: Policy,
    certificates: Vec<(Certificate, Vec<Pattern>)>,
    strict: bool,
    alpn: Vec<Vec<u8>>,
    tickets: Option<Tickets>,
    clients: Option<ClientAuth>,
    clock: Arc<dyn TimeProvider>,
}

impl Front {
    /// By a policy; without certificates, ALPN, tickets and certificates of clients.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            certificates: Vec::new(),
            strict: false,
            alpn: Vec::new(),
            tickets: None,
            clients: None,
            clock: Arc::new(DefaultTimeProvider),
        }
    }

    /// Serves a certificate for its names, or for `names` if there are any. Several may be for one name, with keys of
    /// several kinds: the first that a client can verify is sent, so the one that costs least comes first. The first of
    /// all is the default.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate, names: Vec<Pattern>) -> Self {
        self.certificates.push((certificate, names));
        self
    }

    /// Refuses clients that ask for no name or for a name without a certificate, instead of showing them the default.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The protocols that are spoken inside (RFC 7301), in order of preference. A client that speaks none of them is
    /// refused; one that names none is served.
    #[must_use]
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.alpn = protocols.into_iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Lets sessions be resumed by tickets, but not where a client's certificate is required. They are good for the same
    /// policy of client certificates only.
    #[must_use]
    pub fn tickets(mut self, tickets: Tickets) -> Self {
        self.tickets = Some(tickets);
        self
    }

    /// Asks clients for certificates.
    #[must_use]
    pub fn clients(mut self, clients: ClientAuth) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Has this clock say what time it is, instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn TimeProvider>) -> Self {
        self.clock = clock;
        self
    }

    /// The names table and the configuration of rustls, signing by `keys`.
    ///
    /// # Errors
    /// No certificate, one whose key `keys` does not have, or a policy that rustls does not take.
    pub fn build(&self, keys: &dyn KeySource) -> Result<(Arc<Served>, Arc<ServerConfig>), Mistake> {
        if self.certificates.is_empty() {
            return Err(Mistake::NoCertificate);
        }
        let served = Arc::new(Served::new(
            &self.certificates,
            keys,
            self.strict,
            Arc::clone(&self.clock),
        )?);
        let builder = ServerConfig::builder_with_details(self.policy.provider(), Arc::clone(&self.clock))
            .with_protocol_versions(self.policy.versions())
            .map_err(|e| Mistake::Policy(e.to_string()))?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&served) as Arc<_>);
        config.alpn_protocols.clone_from(&self.alpn);
        // Sessions are in tickets or nowhere: a table of them would be memory that clients fill.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        // The policy's order of suites counts, not the client's.
        config.ignore_client_order = true;
        // Who resumes shows no certificate, and nobody would look at that of the session again: it may have expired since, or
        // been revoked. Where one is required each connection shows it.
        let required = { self.clients.as_ref() }.is_some_and(|clients| clients.wanted() == Wanted::Required);
        match self.tickets.as_ref().filter(|_| !required) {
            Some(tickets) => {
                let clients = self.clients.as_ref().map_or(&[0; 32], ClientAuth::digest);
                config.ticketer = Arc::new(tickets.within(clients));
            }
            None => config.send_tls13_tickets = 0,
        }
        Ok((served, Arc::new(config)))
    }
}

#[cfg(test)]
mod tests;
