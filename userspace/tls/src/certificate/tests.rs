//! Tests of reading and judging chains.

use rcgen::SanType;

use super::*;
use crate::fixture::{self, Authority, chain, now};

#[test]
fn a_chain_is_read() {
    let root = Authority::new("Root");
    let middle = root.below("Middle");
    let key = fixture::rsa();
    let own = middle.issue_with(&["www.example.net", "*.Example.NET", "192.0.2.1"], &key, |p| {
        p.subject_alt_names
            .push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
        p.subject_alt_names
            .push(SanType::Rfc822Name("a@example.net".try_into().unwrap()));
    });
    for pem in [
        chain(&[&own, &middle.certificate]),
        chain(&[&own, &middle.certificate, &root.certificate]),
        // As some software keeps them: all in one file.
        format!("{}{}{}", key.serialize_pem(), own.pem(), middle.pem()),
    ] {
        let read = Certificate::read(pem.as_bytes(), None).unwrap();
        let names: Vec<_> = read.names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["www.example.net", "*.example.net"]);
        assert_eq!(
            read.addresses(),
            [
                "192.0.2.1".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert_eq!(read.kind(), KeyKind::Rsa(2048));
        assert_eq!(read.subject(), "CN=www.example.net,O=Example\\, Inc.");
        assert_eq!(
            (read.not_before(), read.not_after()),
            (1_767_225_600, 1_798_761_600)
        );
        assert_eq!(read.chain()[0], *own.der());
        assert_eq!(read.check_key(&fixture::read_key(&key)), Ok(()));
        assert_eq!(read.check_dates(now()), Ok(()));
        assert_eq!(read.ocsp(), None);
    }
}

#[test]
fn dates_and_keys_are_judged() {
    let root = Authority::new("Root");
    let (key, other) = (fixture::p256(), fixture::p256());
    let own = root.issue(&["www.example.net"], &key);
    let read = Certificate::read(own.pem().as_bytes(), None).unwrap();
    let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let (begin, end) = (1_767_225_600, 1_798_761_600);
    assert_eq!(read.check_dates(at(begin)), Ok(()));
    assert_eq!(read.check_dates(at(end)), Ok(()));
    let late = read.check_dates(at(end + 1)).unwrap_err();
    assert!(matches!(late, Mistake::Expired { .. }));
    assert!(late.to_string().contains("2027-01-01T00:00:00Z"), "{late}");
    assert!(matches!(
        read.check_dates(at(begin - 1)),
        Err(Mistake::NotYetValid { .. })
    ));
    let wrong = fixture::read_key(&other);
    assert_eq!(
        read.check_key(&wrong),
        Err(Mistake::WrongKey {
            certificate: fixture::read_key(&key).id(),
            key: wrong.id()
        })
    );
}

#[test]
fn what_is_no_good_chain_is_refused() {
    let root = Authority::new("Root");
    let other = Authority::new("Other");
    // The same name, another key: a chain that a client would stumble over.
    let namesake = Authority::new("Root");
    let key = fixture::p256();
    let own = root.issue(&["www.example.net"], &key);
    let nameless = root.issue(&[], &key);
    let weak = std::fs::read_to_string(format!(
        "{}/tests/data/rsa-1024.crt.pem",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap();
    let order = |nth, issuer: &str, next: &str| Mistake::Order {
        nth,
        issuer: issuer.to_owned(),
        next: next.to_owned(),
    };
    let wanted = "a certificate";
    for (pem, mistake) in [
        (String::new(), Mistake::Nothing { wanted }),
        ("garbage\n".repeat(100), Mistake::Nothing { wanted }),
        (key.serialize_pem(), Mistake::Nothing { wanted }),
        (
            chain(&[&own, &other.certificate]),
            order(1, "CN=Root", "CN=Other"),
        ),
        (
            chain(&[&own, &namesake.certificate]),
            order(1, "CN=Root", "CN=Root"),
        ),
        (
            chain(&[&root.certificate, &own]),
            order(1, "CN=Root", "CN=www.example.net,O=Example\\, Inc."),
        ),
        (
            chain(&[&own, &root.certificate, &own]),
            order(2, "CN=Root", "CN=www.example.net,O=Example\\, Inc."),
        ),
        (
            chain(&[&root.certificate, &root.certificate]),
            Mistake::Authority {
                subject: "CN=Root".to_owned(),
            },
        ),
        (
            nameless.pem(),
            Mistake::Nameless {
                subject: "CN=nobody,O=Example\\, Inc.".to_owned(),
            },
        ),
        (
            weak,
            Mistake::Weak {
                kind: KeyKind::Rsa(1024),
            },
        ),
    ] {
        assert_eq!(Certificate::read(pem.as_bytes(), None).unwrap_err(), mistake);
    }
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let second = format!("{}{hollow}", own.pem());
    let mistake = Certificate::read(second.as_bytes(), None).unwrap_err();
    assert!(matches!(mistake, Mistake::Unreadable { nth: 2, .. }), "{mistake}");
    let cut = own.pem();
    let cut = &cut[..cut.len() - 40];
    assert!(matches!(
        Certificate::read(cut.as_bytes(), None),
        Err(Mistake::Pem(_))
    ));
}

#[test]
fn no_text_is_stumbled_over() {
    let root = Authority::new("Root");
    let own = root.issue(&["www.example.net"], &fixture::p256());
    let der = own.der().to_vec();
    // Every single byte changed, and every length: an answer each time, and no panic.
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 0x41;
        let _ = parse(1, &changed).map(|c| (dn(c.subject()), names(&c)));
        let _ = parse(1, &der[..at]);
    }
}
