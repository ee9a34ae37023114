//! Tests of whole handshakes, both ends in memory.

use rustls::{Error, HandshakeKind, ProtocolVersion, SignatureScheme};

use super::*;
use crate::{
    client::{Unverified, Wanted},
    fixture::{self, Authority, chain, now, shake, shown},
    tickets::TicketKeys,
};

fn read(certificate: &rcgen::Certificate) -> Certificate {
    Certificate::read(certificate.pem().as_bytes(), None).unwrap()
}

fn tickets() -> Tickets {
    Tickets::new(Arc::new(TicketKeys::random(3600, now()).unwrap()), b"web", 3600)
}

#[test]
fn certificates_are_chosen_by_name_then_by_key() {
    let root = Authority::new("Root");
    let (ec, rsa, other) = (fixture::p256(), fixture::rsa(), fixture::p256());
    let names = ["www.example.net", "example.net"];
    let (by_ec, by_rsa) = (root.issue(&names, &ec), root.issue(&names, &rsa));
    let wild = root.issue(&["*.example.net"], &other);
    let keys = fixture::keys(&[&ec, &rsa, &other]);
    let front = Front::new(Policy::intermediate())
        .certificate(read(&by_ec), Vec::new())
        .certificate(read(&by_rsa), Vec::new())
        .certificate(read(&wild), Vec::new());
    let (served, config) = front.build(&keys).unwrap();
    let plain = fixture::client(&root, None);
    // A client that can't verify ECDSA.
    let mut provider = crate::provider();
    let supported = &mut provider.signature_verification_algorithms;
    let rsa_only: Vec<_> = supported
        .mapping
        .iter()
        .filter(|(scheme, _)| {
            matches!(
                scheme,
                SignatureScheme::RSA_PSS_SHA256 | SignatureScheme::RSA_PKCS1_SHA256
            )
        })
        .copied()
        .collect();
    supported.mapping = rsa_only.leak();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.certificate.der().clone()).unwrap();
    let old = rustls::ClientConfig::builder_with_details(Arc::new(provider), Arc::new(fixture::Clock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (plain, old) = (Arc::new(plain), Arc::new(old));
    for (client, name, certificate) in [
        (&plain, "www.example.net", &by_ec),
        (&plain, "WWW.example.NET", &by_ec),
        (&old, "www.example.net", &by_rsa),
        (&plain, "other.example.net", &wild),
    ] {
        let (_, client) = shake(&config, client, name).unwrap();
        assert_eq!(shown(&client), certificate.der(), "{name}");
    }
    for (name, known) in [
        (Some("www.example.net"), true),
        (Some("Other.example.net."), true),
        (Some("elsewhere.example"), true),
        (None, true),
    ] {
        assert_eq!(served.knows(name), known, "{name:?}");
    }
    let (served, config) = front.strict(true).build(&keys).unwrap();
    for (name, known) in [
        (Some("www.example.net"), true),
        (Some("a.b.example.net"), false),
        (Some("elsewhere.example"), false),
        (None, false),
    ] {
        assert_eq!(served.knows(name), known, "{name:?}");
    }
    assert!(shake(&config, &plain, "elsewhere.example").is_err());
}

#[test]
fn given_names_replace_a_certificates_own() {
    let root = Authority::new("Root");
    let key = fixture::p256();
    let own = root.issue(&["www.example.net", "example.net"], &key);
    let front = Front::new(Policy::modern())
        .certificate(read(&own), vec![Pattern::read("example.net").unwrap()])
        .strict(true);
    let (served, _) = front.build(&fixture::keys(&[&key])).unwrap();
    assert!(served.knows(Some("example.net")) && !served.knows(Some("www.example.net")));
}

#[test]
fn parts_that_are_missing_are_named() {
    let root = Authority::new("Root");
    let (key, other) = (fixture::p256(), fixture::p256());
    let front = Front::new(Policy::modern());
    assert_eq!(
        front.build(&fixture::keys(&[&key])).unwrap_err(),
        Mistake::NoCertificate
    );
    let front = front.certificate(read(&root.issue(&["a.example"], &key)), Vec::new());
    let id = fixture::read_key(&key).id();
    assert_eq!(
        front.build(&fixture::keys(&[&other])).unwrap_err(),
        Mistake::NoKey(id)
    );
}

#[test]
fn policies_and_protocols_are_agreed_on() {
    let root = Authority::new("Root");
    let key = fixture::p256();
    let middle = root.below("Middle");
    let own = middle.issue(&["www.example.net"], &key);
    let certificate = Certificate::read(chain(&[&own, &middle.certificate]).as_bytes(), None).unwrap();
    let keys = fixture::keys(&[&key]);
    let build = |policy| {
        let front = Front::new(policy).certificate(certificate.clone(), Vec::new());
        front.alpn(["h2", "http/1.1"]).build(&keys).unwrap().1
    };
    let (modern, intermediate) = (build(Policy::modern()), build(Policy::intermediate()));
    let client = |versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.certificate.der().clone()).unwrap();
        let provider = Policy::intermediate().provider();
        let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(fixture::Clock));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let old = client(&[&rustls::version::TLS12], &["http/1.1"]);
    let new = client(&[&rustls::version::TLS13], &["http/1.1", "h2"]);
    let name = "www.example.net";
    let (server, _) = shake(&intermediate, &old, name).unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(server.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let (server, _) = shake(&modern, &new, name).unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    let group = server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let server = shake(&modern, &old, name).unwrap_err().0;
    assert!(matches!(server, Some(Error::PeerIncompatible(_))), "{server:?}");
    let strange = client(&[&rustls::version::TLS13], &["imap"]);
    let server = shake(&modern, &strange, name).unwrap_err().0;
    assert_eq!(server, Some(Error::NoApplicationProtocol));
    assert!(shake(&modern, &client(&[&rustls::version::TLS13], &[]), name).is_ok());
}

#[test]
fn sessions_are_resumed_by_tickets_in_both_versions() {
    let root = Authority::new("Root");
    let key = fixture::p256();
    let front = Front::new(Policy::intermediate())
        .certificate(read(&root.issue(&["www.example.net"], &key)), Vec::new())
        .tickets(tickets());
    let keys = fixture::keys(&[&key]);
    let (_, config) = front.build(&keys).unwrap();
    // Made anew, as by a reload: tickets go on, and no key is needed to resume.
    let (_, again) = front.build(&keys).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.certificate.der().clone()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_details(Arc::new(crate::provider()), Arc::new(fixture::Clock));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let client = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let (server, _) = shake(&config, &client, "www.example.net").unwrap();
        assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        let (server, _) = shake(&again, &client, "www.example.net").unwrap();
        assert_eq!(
            server.handshake_kind(),
            Some(HandshakeKind::Resumed),
            "{version:?}"
        );
    }
}

#[test]
fn without_tickets_nothing_is_resumed() {
    let root = Authority::new("Root");
    let key = fixture::p256();
    let front = Front::new(Policy::intermediate())
        .certificate(read(&root.issue(&["www.example.net"], &key)), Vec::new());
    let (_, config) = front.build(&fixture::keys(&[&key])).unwrap();
    let client = Arc::new(fixture::client(&root, None));
    for _ in 0..2 {
        let (server, _) = shake(&config, &client, "www.example.net").unwrap();
        assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn clients_are_asked_as_it_is_wanted() {
    let (root, other) = (Authority::new("Root"), Authority::new("Other"));
    let (key, own) = (fixture::p256(), fixture::p256());
    let certificate = read(&root.issue(&["www.example.net"], &key));
    let keys = fixture::keys(&[&key]);
    let (good, strange) = (root.issue(&["client"], &own), other.issue(&["client"], &own));
    let name = "www.example.net";
    let build = |wanted| {
        let clients = ClientAuth::read(wanted, root.pem().as_bytes(), &[]).unwrap();
        let front = Front::new(Policy::modern()).certificate(certificate.clone(), Vec::new());
        (front.clients(clients.clone()).build(&keys).unwrap().1, clients)
    };
    let client = |identity| Arc::new(fixture::client(&root, identity));
    let (required, _) = build(Wanted::Required);
    assert!(shake(&required, &client(Some((&good, &own))), name).is_ok());
    let error = shake(&required, &client(None), name).unwrap_err().0;
    assert_eq!(error, Some(Error::NoCertificatesPresented));
    let error = shake(&required, &client(Some((&strange, &own))), name)
        .unwrap_err()
        .0;
    assert_eq!(Unverified::of(&error.unwrap()), Unverified::UnknownIssuer);
    let (optional, clients) = build(Wanted::Optional);
    let (server, _) = shake(&optional, &client(None), name).unwrap();
    assert!(server.peer_certificates().is_none());
    for (certificate, verdict) in [(&good, Ok(())), (&strange, Err(Unverified::UnknownIssuer))] {
        let (server, _) = shake(&optional, &client(Some((certificate, &own))), name).unwrap();
        assert_eq!(
            clients.verdict(server.peer_certificates().unwrap(), now()),
            verdict
        );
    }
    // A certificate without its key proves nothing.
    let thief = fixture::p256();
    let mut config = fixture::client(&root, Some((&good, &own)));
    let signing = fixture::read_key(&thief).signing_key();
    let stolen = rustls::sign::CertifiedKey::new(vec![good.der().clone()], signing);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let error = shake(&optional, &Arc::new(config), name).unwrap_err().0;
    assert!(matches!(error, Some(Error::InvalidCertificate(_))), "{error:?}");
}

#[test]
fn a_ticket_is_no_way_around_other_authorities() {
    let (root, other) = (Authority::new("Root"), Authority::new("Other"));
    let (key, own) = (fixture::p256(), fixture::p256());
    let keys = fixture::keys(&[&key]);
    let front = Front::new(Policy::modern())
        .certificate(read(&root.issue(&["www.example.net"], &key)), Vec::new())
        .tickets(tickets());
    let open = front.build(&keys).unwrap().1;
    let ask = |ca: &Authority, lists: &[&[u8]]| {
        let clients = ClientAuth::read(Wanted::Required, ca.pem().as_bytes(), lists).unwrap();
        front.clone().clients(clients).build(&keys).unwrap().1
    };
    let mine = root.issue_with(&["client"], &own, |p| p.serial_number = Some(8_u64.into()));
    let name = "www.example.net";
    // Resumed without a certificate where one is required: no.
    let client = Arc::new(fixture::client(&root, None));
    shake(&open, &client, name).unwrap();
    let error = shake(&ask(&root, &[]), &client, name).unwrap_err().0;
    assert_eq!(error, Some(Error::NoCertificatesPresented));
    // With one it is shown and judged each time: it may be revoked or over by then, or its authority no longer believed.
    let client = Arc::new(fixture::client(&root, Some((&mine, &own))));
    shake(&ask(&root, &[]), &client, name).unwrap();
    let (server, _) = shake(&ask(&root, &[]), &client, name).unwrap();
    assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(server.peer_certificates().unwrap()[0], *mine.der());
    let list = root.revoke(&[8]);
    let error = shake(&ask(&root, &[list.as_bytes()]), &client, name)
        .unwrap_err()
        .0;
    assert_eq!(Unverified::of(&error.unwrap()), Unverified::Revoked);
    assert!(shake(&ask(&other, &[]), &client, name).is_err());
}
