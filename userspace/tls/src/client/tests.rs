//! Tests of verdicts on certificates of clients.

use std::time::Duration;

use super::*;
use crate::fixture::{self, Authority, chain, keys, now, shake};

#[test]
fn verdicts() {
    let (root, other) = (Authority::new("Root"), Authority::new("Other"));
    let key = fixture::p256();
    let good = root.issue_with(&["a"], &key, |p| p.serial_number = Some(7_u64.into()));
    let bad = root.issue_with(&["b"], &key, |p| p.serial_number = Some(8_u64.into()));
    let strange = other.issue(&["c"], &key);
    let server_only = root.issue_with(&["d"], &key, |p| {
        p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let plain = ClientAuth::read(Wanted::Required, root.pem().as_bytes(), &[]).unwrap();
    let list = root.revoke(&[8]);
    let listed = ClientAuth::read(Wanted::Required, root.pem().as_bytes(), &[list.as_bytes()]).unwrap();
    assert_eq!(
        (plain.lists_end(), listed.lists_end()),
        (None, Some(1_797_292_800))
    );
    let two = format!("{}{}", root.pem(), other.pem());
    let half = ClientAuth::read(Wanted::Optional, two.as_bytes(), &[list.as_bytes()]).unwrap();
    for (auth, certificate, when, verdict) in [
        (&plain, &good, now(), Ok(())),
        (&plain, &bad, now(), Ok(())),
        (&listed, &good, now(), Ok(())),
        (&listed, &bad, now(), Err(Unverified::Revoked)),
        (&half, &bad, now(), Err(Unverified::Revoked)),
        (&half, &strange, now(), Err(Unverified::RevocationUnknown)),
        (&plain, &strange, now(), Err(Unverified::UnknownIssuer)),
        (&plain, &server_only, now(), Err(Unverified::WrongPurpose)),
        (&plain, &good, at(1_800_000_000), Err(Unverified::Expired)),
        (&plain, &good, at(1_700_000_000), Err(Unverified::NotYetValid)),
        // After the list's nextUpdate, 1 797 292 800, it counts on.
        (&listed, &bad, at(1_798_000_000), Err(Unverified::Revoked)),
        (&listed, &good, at(1_798_000_000), Ok(())),
    ] {
        assert_eq!(auth.verdict(&[certificate.der().clone()], when), verdict);
    }
    let garbage = CertificateDer::from(vec![0; 9]);
    assert_eq!(plain.verdict(&[garbage], now()), Err(Unverified::Invalid));
    assert_eq!(plain.verdict(&[], now()), Err(Unverified::Invalid));
}

#[test]
fn bundles_and_lists_are_judged() {
    let root = Authority::new("Root");
    let read = |ca: &str, lists: &[&[u8]]| ClientAuth::read(Wanted::Optional, ca.as_bytes(), lists);
    assert!(matches!(read("", &[]), Err(Mistake::Nothing { .. })));
    assert!(matches!(read("nothing", &[]), Err(Mistake::Nothing { .. })));
    assert!(matches!(
        read(&root.pem(), &[b"nothing"]),
        Err(Mistake::Nothing { .. })
    ));
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(read(hollow, &[]), Err(Mistake::Trust(_))));
    let hollow = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert!(matches!(
        read(&root.pem(), &[hollow.as_bytes()]),
        Err(Mistake::Trust(_))
    ));
}

#[test]
fn words_are_told_apart() {
    let mut words = Unverified::ALL.map(Unverified::as_str);
    words.sort_unstable();
    assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
}

/// A certificate of version 1, as `openssl x509 -req` makes it, and its key.
const VERSION_1: &str = r"
-----BEGIN CERTIFICATE-----
MIIBPTCB4wIUfR6eNb0hoHJTN8QzorETIXE+EEkwCgYIKoZIzj0EAwIwIDEQMA4G
A1UECgwHRXhhbXBsZTEMMAoGA1UEAwwDb2xkMCAXDTI2MTEzMDA5MTEzM1oYDzIx
MjYxMTA2MDkxMTMzWjAgMRAwDgYDVQQKDAdFeGFtcGxlMQwwCgYDVQQDDANvbGQw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATmg2vmaGEvxpL9yJYcX/R1x37ruF34
uX19KRw9cCCB1IpHefza01Ej5y2KbWBJRw3wFh/0LJpM4jmhYixQjKNGMAoGCCqG
SM49BAMCA0kAMEYCIQC7veOLttnllDF1BL/W/2z1DRGy8JIdlwkK3odfVnOP+AIh
AK1bqamgQ2/9dGj356GXAr0VTd1+aByptZgCvntDpp8H
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgPBBN2ZUDRBdT9d2c
jFgdKt6uRpj/1/ArBVwS8MJsLSmhRANCAATmg2vmaGEvxpL9yJYcX/R1x37ruF34
uX19KRw9cCCB1IpHefza01Ej5y2KbWBJRw3wFh/0LJpM4jmhYixQjKNG
-----END PRIVATE KEY-----
";

/// Who is served whatever the certificate may be of any version, but has its key.
#[test]
fn a_certificate_of_version_1_is_shown_and_does_not_hold() {
    let (authority, key) = (Authority::new("Root"), fixture::p256());
    let certificate = authority.issue(&["server.test"], &key);
    let certificate = crate::Certificate::read(chain(&[&certificate]).as_bytes(), None).unwrap();
    let old = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let of_old = crate::PrivateKey::read(VERSION_1.as_bytes()).unwrap();
    let of_other = fixture::read_key(&fixture::p256());
    for (wanted, private, version, served) in [
        (Wanted::Optional, &of_old, &rustls::version::TLS13, true),
        (Wanted::Optional, &of_old, &rustls::version::TLS12, true),
        (Wanted::Optional, &of_other, &rustls::version::TLS13, false),
        (Wanted::Optional, &of_other, &rustls::version::TLS12, false),
        (Wanted::Required, &of_old, &rustls::version::TLS13, false),
        (Wanted::Required, &of_old, &rustls::version::TLS12, false),
    ] {
        let auth = ClientAuth::read(wanted, authority.pem().as_bytes(), &[]).unwrap();
        let front = crate::Front::new(crate::Policy::intermediate())
            .certificate(certificate.clone(), Vec::new())
            .clients(auth.clone());
        let (_, server) = front.build(&keys(&[&key])).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![old.clone()], private.signing_key());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let mut client = rustls::ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        client.time_provider = Arc::new(fixture::Clock);
        let shaken = shake(&server, &Arc::new(client), "server.test");
        assert_eq!(shaken.is_ok(), served, "{wanted:?} {version:?}");
        if let Ok((server, _)) = shaken {
            let chain = std::slice::from_ref(&old);
            assert_eq!(server.peer_certificates().unwrap(), chain);
            assert_eq!(auth.verdict(chain, now()), Err(Unverified::Invalid));
            assert_eq!(crate::Peer::read(&old).unwrap().subject(), "CN=old,O=Example");
        }
    }
}
