//! Tests of reading and judging keys.

use super::*;
use crate::fixture;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn keys_of_every_kind_are_read_in_every_form() {
    for (pair, kind) in [
        (fixture::p256(), KeyKind::P256),
        (fixture::key_of(&rcgen::PKCS_ECDSA_P384_SHA384), KeyKind::P384),
        (fixture::key_of(&rcgen::PKCS_ECDSA_P521_SHA512), KeyKind::P521),
        (fixture::key_of(&rcgen::PKCS_ED25519), KeyKind::Ed25519),
        (fixture::rsa(), KeyKind::Rsa(2048)),
    ] {
        let key = fixture::read_key(&pair);
        assert_eq!(key.kind(), kind);
        use rcgen::PublicKeyData;
        assert_eq!(key.id(), KeyId::of(&pair.subject_public_key_info()), "{kind}");
    }
    // With the block of parameters that `openssl ecparam` writes before the key.
    assert_eq!(
        PrivateKey::read(&data("p256.sec1.pem")).unwrap().kind(),
        KeyKind::P256
    );
}

#[test]
fn what_is_no_good_key_is_refused() {
    let weak = Mistake::Weak {
        kind: KeyKind::Rsa(1024),
    };
    let one = fixture::p256().serialize_pem();
    let certificate = fixture::Authority::new("x").pem();
    let wanted = "a private key";
    for (text, mistake) in [
        (data("rsa-1024.key.pem"), weak.clone()),
        (data("rsa-1024.pkcs1.pem"), weak),
        (
            data("encrypted.pem"),
            Mistake::UnsupportedKey("an encrypted one".to_owned()),
        ),
        (Vec::new(), Mistake::Nothing { wanted }),
        (b"garbage".to_vec(), Mistake::Nothing { wanted }),
        (certificate.into_bytes(), Mistake::Nothing { wanted }),
        (
            format!("{one}{one}").into_bytes(),
            Mistake::Several {
                wanted: "one private key",
            },
        ),
    ] {
        assert_eq!(PrivateKey::read(&text).unwrap_err(), mistake);
    }
    for name in ["dsa.pem", "secp256k1.pem"] {
        let mistake = PrivateKey::read(&data(name)).unwrap_err();
        assert!(matches!(mistake, Mistake::UnsupportedKey(_)), "{name}: {mistake}");
    }
    let cut = &one[..one.len() - 40];
    assert!(matches!(PrivateKey::read(cut.as_bytes()), Err(Mistake::Pem(_))));
    let hollow = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(
        PrivateKey::read(hollow.as_bytes()),
        Err(Mistake::UnsupportedKey(_))
    ));
}

#[test]
fn a_key_is_not_shown() {
    let pair = fixture::p256();
    let key = fixture::read_key(&pair);
    let shown = format!("{key:?}");
    assert!(!shown.contains("0x") && shown.len() < 300, "{shown}");
}

#[test]
fn only_the_key_of_a_file_is_handed_on() {
    let (one, two) = (fixture::p256(), fixture::rsa());
    let certificate = fixture::Authority::new("x").pem();
    let mixed = format!("text\n{certificate}{}{certificate}", one.serialize_pem());
    let block = PrivateKey::block(mixed.as_bytes()).unwrap();
    assert_eq!(block.trim_ascii(), one.serialize_pem().trim().as_bytes());
    assert_eq!(PrivateKey::block(certificate.as_bytes()), None);
    assert_eq!(
        PrivateKey::block(b"-----END PRIVATE KEY-----\n-----BEGIN PRIVATE KEY-----\n"),
        None
    );
    let all = [block, &data("p256.sec1.pem"), two.serialize_pem().as_bytes()].concat();
    let kinds: Vec<_> = PrivateKey::read_all(&all)
        .unwrap()
        .iter()
        .map(PrivateKey::kind)
        .collect();
    assert_eq!(kinds, [KeyKind::P256, KeyKind::P256, KeyKind::Rsa(2048)]);
    assert!(PrivateKey::read_all(b"").unwrap().is_empty());
    assert!(PrivateKey::read_all(&data("rsa-1024.key.pem")).is_err());
}

#[test]
fn a_name_survives_its_text() {
    let id = KeyId::of(b"x");
    assert_eq!(KeyId::parse(&id.to_string()), Some(id));
    for bad in [
        "",
        "00",
        &"0".repeat(63),
        &"g".repeat(64),
        &"+1".repeat(32),
        &"é".repeat(32),
    ] {
        assert_eq!(KeyId::parse(bad), None, "{bad}");
    }
}
