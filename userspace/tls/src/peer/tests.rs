//! Tests of what a client's certificate says.

use rcgen::{CustomExtension, DnType, DnValue, SanType};

use super::*;
use crate::fixture::{self, Authority};

#[test]
fn the_facts() {
    let root = Authority::new("Root / One");
    let key = fixture::p256();
    let own = root.issue_with(&["client.example"], &key, |p| {
        p.serial_number = Some(0x00ab_cdef_u64.into());
        p.subject_alt_names
            .push(SanType::Rfc822Name("a@example.net".try_into().unwrap()));
        p.subject_alt_names
            .push(SanType::URI("https://example.net/x".try_into().unwrap()));
        p.subject_alt_names
            .push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
        p.custom_extensions = vec![
            CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], b"\x0c\x05hello".to_vec()),
            CustomExtension::from_oid_content(&[1, 2, 3, 4, 6], b"\x02\x01\x07".to_vec()),
        ];
    });
    let peer = Peer::read(own.der()).unwrap();
    assert_eq!(peer.subject(), "CN=client.example,O=Example\\, Inc.");
    assert_eq!(peer.subject_slashes(), "/O=Example, Inc./CN=client.example");
    assert_eq!(peer.issuer(), "CN=Root / One");
    assert_eq!(peer.issuer_slashes(), "/CN=Root \\/ One");
    assert_eq!(peer.common_name().as_deref(), Some("client.example"));
    assert_eq!(
        peer.alternative_names(),
        [
            "DNS:client.example",
            "email:a@example.net",
            "URI:https://example.net/x",
            "IP:2001:db8::1"
        ]
    );
    assert_eq!(peer.serial(), "ABCDEF");
    assert_eq!(peer.fingerprint().len(), 64);
    assert_eq!(
        (peer.not_before(), peer.not_after()),
        (1_767_225_600, 1_798_761_600)
    );
    assert_eq!(peer.der(), own.der().as_ref());
    assert_eq!(peer.extension("1.2.3.4.5").as_deref(), Some("hello"));
    assert_eq!(peer.extension("1.2.3.4.6").as_deref(), Some("020107"));
    assert_eq!(peer.extension("1.2.3.4.7"), None);
    for no_oid in [
        "",
        "1",
        "x",
        "1..2",
        "3.1",
        "1.40",
        "1.2.x",
        "1.+2",
        "1.99999999999999999999999",
    ] {
        assert_eq!(peer.extension(no_oid), None, "{no_oid}");
    }
}

#[test]
fn names_that_play_tricks_are_escaped() {
    let root = Authority::new("Root");
    let key = fixture::p256();
    let own = root.issue_with(&["x.example"], &key, |p| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name
            .push(DnType::OrganizationName, " #a+b\"c<d>e;f\\ ");
        p.distinguished_name
            .push(DnType::CommonName, "x/CN=admin\r\nX-Evil: 1");
        p.distinguished_name.push(
            DnType::LocalityName,
            DnValue::BmpString("Köln".try_into().unwrap()),
        );
    });
    let peer = Peer::read(own.der()).unwrap();
    assert_eq!(
        peer.subject(),
        "L=Köln,CN=x/CN=admin\\0D\\0AX-Evil: 1,O=\\ #a\\+b\\\"c\\<d\\>e\\;f\\\\\\ "
    );
    assert_eq!(
        peer.subject_slashes(),
        "/O= #a\\+b\"c<d>e;f\\\\ /CN=x\\/CN=admin\\0D\\0AX-Evil: 1/L=Köln"
    );
}

#[test]
fn garbage_is_nobody() {
    assert!(Peer::read(&CertificateDer::from(vec![1, 2, 3])).is_none());
    assert!(Peer::read(&CertificateDer::from(Vec::new())).is_none());
}
