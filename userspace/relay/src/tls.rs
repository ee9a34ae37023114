//! TLS with clients and with backends: beneath everything else that the relay does.
//!
//! ```text
//!   accept ──▶ handshake ──▶ ALPN says h2 ──▶ session::h2
//!                  │     └─▶ HTTP/1.1, or nothing ──▶ session, or the tunnel of a TCP service
//!                  ▼
//!               refused: an alert, a reason, a record
//! ```
//!
//! With a backend ([`secure`]) this side asks: a connection that is established, and has said whose it is, makes the
//! handshake before it carries a request.
//!
//! Behind the handshake the connection is a [`Socket`](crate::stream::Socket) like any other: [`stream`] makes records of
//! what is sent and takes apart what comes. The protocol itself is rustls'; which certificates, versions and suites there
//! are is decided by whoever hands a [`Front`] over.

mod buffers;
mod client;
mod facts;
mod fault;
mod gate;
mod records;
mod secure;
mod serve;
mod stream;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use weir_core::ids::{PoolName, ServiceName};
use weir_tls::ClientAuth;

pub(crate) use buffers::Buffers;
pub use facts::TlsFacts;
pub(crate) use fault::TlsFault;
pub(crate) use gate::Gate;
pub use secure::Back;
pub(crate) use secure::{Secure, Tools, alert};
pub(crate) use serve::{refuse, serve};
pub(crate) use stream::TlsStream;

/// What a service ends TLS with.
#[derive(Clone, Debug)]
pub struct Front {
    /// How handshakes are made.
    pub config: Arc<rustls::ServerConfig>,
    /// The names that the service's certificates are for: `example.net`, `*.example.net`, or an address. In lower case.
    pub names: Vec<String>,
    /// By what certificates of clients are judged, if they are asked for any.
    pub clients: Option<ClientAuth>,
}

/// What a plan ends TLS with on either side.
#[derive(Clone, Debug, Default)]
pub struct TlsEnds {
    /// With the clients of services, by their names.
    pub fronts: HashMap<ServiceName, Arc<Front>>,
    /// With the backends of pools, by their names.
    pub backs: HashMap<PoolName, Arc<Back>>,
}

impl Front {
    /// Whether a certificate of the service is for this host, as it stands in a request.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.names.iter().any(|name| name.parse() == Ok(address));
        }
        let domain = host.split_once('.').map(|(_, domain)| domain);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(of) => domain.is_some_and(|domain| domain.eq_ignore_ascii_case(of)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_met_as_certificates_mean_them() {
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let names = ["example.net", "*.example.net", "192.0.2.1", "2001:db8::1"];
        let front = Front {
            config: Arc::new(config),
            names: names.map(str::to_owned).to_vec(),
            clients: None,
        };
        for host in [
            "example.net",
            "EXAMPLE.net.",
            "www.example.net",
            "192.0.2.1",
            "[2001:db8:0::1]",
        ] {
            assert!(front.is_for(host), "{host}");
        }
        for host in [
            "",
            "net",
            "a.www.example.net",
            "example.org",
            "192.0.2.2",
            "[2001:db8::2]",
        ] {
            assert!(!front.is_for(host), "{host}");
        }
    }
}
