//! Tests of verdicts on certificates of clients.

use std::time::Duration;

use super::*;
use crate::fixture::{self, Authority, now};

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
