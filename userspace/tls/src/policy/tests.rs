//! Tests of policies and their names.

use super::*;

#[test]
fn named_policies_are_what_they_say() {
    let modern = Policy::named("modern").unwrap();
    assert!(modern.suites.iter().all(|s| s.version() == &version::TLS13));
    let intermediate = Policy::named("intermediate").unwrap();
    let names: Vec<_> = intermediate.suites.iter().map(suite_name).collect();
    assert_eq!(names.len(), 9, "{names:?}");
    assert_eq!(names[0], "TLS_AES_128_GCM_SHA256");
    assert_eq!(names[3], "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    assert!(
        names[2].contains("CHACHA20") && names[8].contains("CHACHA20"),
        "{names:?}"
    );
    for name in names {
        assert!(name.contains("GCM") || name.contains("CHACHA20"), "{name}");
        assert!(
            name.starts_with("TLS_ECDHE_") || name.starts_with("TLS_AES") || name.starts_with("TLS_CHACHA")
        );
    }
    for policy in [modern, intermediate] {
        assert_eq!(policy.groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
        assert!(policy.checked().is_ok());
    }
    assert!(Policy::named("old").is_none());
}

#[test]
fn lists_are_taken_in_their_order() {
    let policy = Policy::intermediate()
        .with_suites([
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ])
        .and_then(|p| p.with_groups(["secp384r1", "x25519"]))
        .unwrap();
    let provider = policy.provider();
    let names: Vec<_> = provider.cipher_suites.iter().map(suite_name).collect();
    assert_eq!(
        names,
        [
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
        ]
    );
    assert_eq!(provider.kx_groups[0].name(), rustls::NamedGroup::secp384r1);
    let one = Policy::intermediate().with_versions(["TLSv1.2"]).unwrap();
    assert_eq!(one.suites.len(), 6);
    // What was chosen stays chosen, in whichever order.
    let chosen = Policy::intermediate()
        .with_suites(["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])
        .and_then(|policy| policy.with_versions(["TLSv1.2"]))
        .unwrap();
    assert_eq!(chosen.suites.len(), 1);
}

#[test]
fn what_nobody_could_speak_is_refused() {
    let policy = Policy::intermediate;
    for (made, part) in [
        (
            policy().with_versions(["TLSv1.1"]),
            "no version \"TLSv1.1\"; there are TLSv1.2, TLSv1.3",
        ),
        (policy().with_versions([]), "name at least one version"),
        (
            policy().with_suites(["TLS_RSA_WITH_AES_128_CBC_SHA"]),
            "TLS_AES_128_GCM_SHA256",
        ),
        (
            policy().with_suites(["TLS_AES_128_GCM_SHA256"]),
            "no cipher suite is left for TLSv1.2",
        ),
        (
            Policy::modern().with_suites(["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]),
            "not one of the versions",
        ),
        (policy().with_groups(["X25519MLKEM768"]), "left for TLSv1.2"),
        (
            policy().with_groups(["X25519"]),
            "there are X25519MLKEM768, x25519",
        ),
    ] {
        let text = made.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    assert!(Policy::modern().with_groups(["MLKEM768"]).is_ok());
}
