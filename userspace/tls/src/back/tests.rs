//! Tests of handshakes with servers, both ends in memory.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::{CertificateError, Error, HandshakeKind, ServerConfig};

use super::*;
use crate::{
    ClientAuth, Front, KeySource, LocalKeys, RemoteKeys, Signing, TicketKeys, Tickets, Wanted,
    fixture::{self, Authority, Clock, now, shake},
};

fn server(root: &Authority, clients: Option<&Authority>, policy: Policy) -> Arc<ServerConfig> {
    let key = fixture::p256();
    let certificate = root.issue(&["backend.test"], &key);
    let read = Certificate::read(certificate.pem().as_bytes(), None).unwrap();
    let tickets = Arc::new(TicketKeys::random(3600, now()).unwrap());
    let mut front = Front::new(policy)
        .certificate(read, Vec::new())
        .tickets(Tickets::new(tickets, b"backend", 3600));
    if let Some(clients) = clients {
        let auth = ClientAuth::read(Wanted::Required, clients.pem().as_bytes(), &[]);
        front = front.clients(auth.unwrap());
    }
    front.build(&fixture::keys(&[&key])).unwrap().1
}

fn back(roots: Option<&Authority>) -> Back {
    let roots = roots.map(|root| Roots::read(root.pem().as_bytes()).unwrap());
    Back::new(Policy::intermediate(), roots)
}

fn config(back: &Back, keys: &dyn KeySource) -> Arc<ClientConfig> {
    let mut config = back.build(keys).unwrap();
    config.time_provider = Arc::new(Clock);
    for_server(&config)
}

#[test]
fn servers_are_verified_or_nobody_is() {
    let (root, stranger) = (Authority::new("Root"), Authority::new("Stranger"));
    let keys = LocalKeys::default();
    let server = server(&root, None, Policy::intermediate());
    let by = |roots| config(&back(roots), &keys);
    assert!(shake(&server, &by(Some(&root)), "backend.test").is_ok());
    let why = |roots, name| match shake(&server, &by(roots), name) {
        Err(failed) => failed.1,
        Ok(_) => None,
    };
    assert_eq!(
        why(Some(&stranger), "backend.test"),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
    assert!(matches!(
        why(Some(&root), "other.test"),
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForNameContext { .. }
        ))
    ));
    assert!(shake(&server, &by(None), "other.test").is_ok());
}

/// A key of another process signs for a client, in both versions: in TLS 1.2 all that was said so far.
#[test]
fn a_certificate_is_shown_whose_key_is_elsewhere() {
    let (root, clients) = (Authority::new("Root"), Authority::new("Clients"));
    let (ec, rsa) = (fixture::p256(), fixture::rsa());
    let signing = Arc::new(Signing::default());
    signing.add([&ec, &rsa].map(fixture::read_key));
    let (near, far): (OwnedFd, OwnedFd) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let remote = RemoteKeys::new(1);
    remote.connect(vec![near]).unwrap();
    let serves = Arc::clone(&signing);
    std::thread::spawn(move || serves.serve(&far));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let policy = Policy::intermediate().with_versions([version]).unwrap();
        let server = server(&root, Some(&clients), policy);
        for key in [&ec, &rsa] {
            // Nobody asks for a client by name.
            let shown = clients.issue(&[], key);
            let read = Certificate::read_of_client(shown.pem().as_bytes()).unwrap();
            let before = signing.signed();
            let config = config(&back(Some(&root)).certificate(read), &remote);
            let (server, _) = shake(&server, &config, "backend.test").unwrap();
            assert_eq!(server.peer_certificates().unwrap()[0], *shown.der());
            assert_eq!(signing.signed(), before + 1);
        }
        let without = config(&back(Some(&root)), &remote);
        assert!(shake(&server, &without, "backend.test").is_err());
    }
    assert_eq!(signing.refused(), 0);
    let unknown = fixture::p256();
    let shown = clients.issue(&[], &unknown);
    let read = Certificate::read_of_client(shown.pem().as_bytes()).unwrap();
    let built = back(Some(&root)).certificate(read).build(&LocalKeys::default());
    assert!(matches!(built, Err(Mistake::NoKey(_))));
}

#[test]
fn sessions_are_remembered_by_server() {
    let root = Authority::new("Root");
    let keys = LocalKeys::default();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let policy = Policy::intermediate().with_versions([version]).unwrap();
        let (one, other) = (server(&root, None, policy.clone()), server(&root, None, policy));
        let config = config(&back(Some(&root)), &keys);
        let another = for_server(&config);
        let kind = |server, config| shake(server, config, "backend.test").unwrap().1.handshake_kind();
        assert_ne!(kind(&one, &config), Some(HandshakeKind::Resumed));
        assert_eq!(kind(&one, &config), Some(HandshakeKind::Resumed));
        assert_ne!(kind(&other, &another), Some(HandshakeKind::Resumed));
        assert_eq!(kind(&one, &config), Some(HandshakeKind::Resumed));
    }
}
