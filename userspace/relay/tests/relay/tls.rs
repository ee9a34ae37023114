//! TLS with clients, and with backends: what is spoken inside it, how it begins and ends, and what becomes of those who can't or won't.

mod backends;
mod ends;
mod fails;
mod requests;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};
use weir_relay::Front;

use crate::support::{Lab, PATIENCE};

/// A certificate for `www.test` and `*.many.test`, and who trusts it.
pub(crate) struct Authority {
    pub(crate) roots: Arc<RootCertStore>,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let names = ["www.test".to_owned(), "*.many.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self {
            roots: Arc::new(roots),
            chain: vec![made.cert.der().clone()],
            key: made.signing_key.serialize_der(),
        }
    }

    /// Of these versions only.
    pub(crate) fn front_of(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<Front> {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let mut config = rustls::ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key.into())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(Front {
            config: Arc::new(config),
            names: vec!["www.test".into()],
            clients: None,
        })
    }

    pub(crate) fn front(&self, alpn: &[&str], change: impl FnOnce(&mut rustls::ServerConfig)) -> Arc<Front> {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key.into())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        change(&mut config);
        Arc::new(Front {
            config: Arc::new(config),
            names: vec!["www.test".into(), "*.many.test".into()],
            clients: None,
        })
    }

    /// What clients go by. `versions`: `12`, `13` or both.
    pub(crate) fn client(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client whose handshake is not made yet.
pub(crate) fn begin(lab: &Lab, config: &ClientConfig, name: &str) -> Stream {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
    let stream = TcpStream::connect(lab.at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// A client whose handshake is made.
pub(crate) fn connect(lab: &Lab, config: &ClientConfig, name: &str) -> Stream {
    let mut stream = begin(lab, config, name);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

/// Reads until a head is whole.
pub(crate) fn head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_ne!(
            stream.read(&mut byte).unwrap(),
            0,
            "ended in {}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

pub(crate) fn text(stream: &mut Stream, count: usize) -> String {
    let mut text = vec![0; count];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

pub(crate) fn send(stream: &mut Stream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).unwrap();
    stream.flush().unwrap();
}

pub(crate) const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS12, &rustls::version::TLS13];

/// The versions, one at a time.
pub(crate) const EACH: [(&str, &[&rustls::SupportedProtocolVersion]); 2] = [
    ("1.2", &[&rustls::version::TLS12]),
    ("1.3", &[&rustls::version::TLS13]),
];

pub(crate) const SHORT: Duration = Duration::from_millis(300);
