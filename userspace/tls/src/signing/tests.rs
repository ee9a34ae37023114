//! Tests of what is signed and what is refused.

use rustls::SignatureScheme;

use super::*;
use crate::{fixture, key::KeyId, message::decode_answer};

fn handshake() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat()
}

#[test]
fn each_kind_signs_by_its_own_schemes_only() {
    let pairs = [
        fixture::p256(),
        fixture::key_of(&rcgen::PKCS_ECDSA_P384_SHA384),
        fixture::key_of(&rcgen::PKCS_ECDSA_P521_SHA512),
        fixture::key_of(&rcgen::PKCS_ED25519),
        fixture::rsa(),
    ];
    let keys: Vec<_> = pairs.iter().map(fixture::read_key).collect();
    let signing = Signing::default();
    signing.add(keys.iter().cloned());
    let every: Vec<_> = keys
        .iter()
        .flat_map(|key| key.kind().schemes())
        .copied()
        .collect();
    let message = handshake();
    let (mut signed, mut refused) = (0, 0);
    for key in &keys {
        for scheme in every.iter().copied().chain([
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ED448,
            0xffff.into(),
        ]) {
            let fits = key.kind().schemes().contains(&scheme);
            let request = Request {
                number: 5,
                key: key.id(),
                scheme,
                message: &message,
            };
            let answer = signing.answer(&request.encode().unwrap()).unwrap();
            let (number, verdict) = decode_answer(&answer).unwrap();
            assert_eq!(number, 5);
            match verdict {
                Ok(_) => assert!(fits, "{:?} {scheme:?}", key.kind()),
                Err(refusal) => assert_eq!(
                    (refusal, fits),
                    (Refusal::Scheme, false),
                    "{:?} {scheme:?}",
                    key.kind()
                ),
            }
            signed += u64::from(fits);
            refused += u64::from(!fits);
        }
    }
    assert_eq!((signing.signed(), signing.refused()), (signed, refused));
}

#[test]
fn anything_else_is_refused() {
    let pair = fixture::p256();
    let key = fixture::read_key(&pair);
    let signing = Signing::default();
    let message = handshake();
    let request = Request {
        number: 1,
        key: key.id(),
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        message: &message,
    };
    let verdict = |request: Request<'_>| {
        let answer = signing.answer(&request.encode().unwrap()).unwrap();
        decode_answer(&answer).unwrap().1.map(<[u8]>::to_vec)
    };
    assert_eq!(verdict(request), Err(Refusal::NoKey), "before there are keys");
    signing.add([key]);
    assert!(verdict(request).is_ok());
    let key = KeyId([0; 32]);
    assert_eq!(verdict(Request { key, ..request }), Err(Refusal::NoKey));
    let other = [b"something else".as_slice(); 10].concat();
    assert_eq!(
        verdict(Request {
            message: &other,
            ..request
        }),
        Err(Refusal::Message)
    );
    assert_eq!(signing.retain(&BTreeSet::from([request.key])), 1);
    assert!(verdict(request).is_ok());
    assert_eq!(signing.retain(&BTreeSet::new()), 0);
    assert_eq!(verdict(request), Err(Refusal::NoKey), "after they are taken away");
}
