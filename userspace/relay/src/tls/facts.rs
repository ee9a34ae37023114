//! What a handshake came to: for variables, records and counters.

use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use weir_core::plan::ClientFact;

use super::client::Shown;

/// The facts of one connection.
#[derive(Debug)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite, by the name that IANA has for it.
    pub cipher: &'static str,
    /// The name that the client asked for. Empty: none.
    pub sni: Box<str>,
    /// The protocol that was agreed on. Empty: none.
    pub alpn: Box<[u8]>,
    /// An earlier session was taken up again.
    pub resumed: bool,
    /// The certificate that the client has shown; of a session that was taken up again, what it showed then.
    pub(crate) client: Option<Box<Shown>>,
}

/// The name that a client asked for. Empty: none; or it is ourselves that asked.
pub(super) struct Asked(pub(super) String);

impl TlsFacts {
    pub(super) fn of(conn: &CommonState, asked: Asked) -> Self {
        Self {
            version: match conn.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                Some(ProtocolVersion::TLSv1_3) => "1.3",
                _ => "",
            },
            cipher: conn
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .map_or("", iana),
            sni: asked.0.into(),
            alpn: conn.alpn_protocol().unwrap_or_default().into(),
            resumed: conn.handshake_kind() == Some(HandshakeKind::Resumed),
            client: None,
        }
    }
}

impl TlsFacts {
    /// What is said of the client's certificate: whether it holds, whether there is one.
    pub(crate) fn fact(&self, fact: ClientFact) -> &str {
        match (&self.client, fact) {
            (Some(shown), fact) => shown.fact(fact),
            (None, ClientFact::Verify) => "none",
            (None, _) => "",
        }
    }
}

/// IANA's name of a suite, which rustls has in its own form for TLS 1.3.
fn iana(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}
