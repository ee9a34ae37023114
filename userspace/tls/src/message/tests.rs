//! Tests of requests and answers as packets.

use proptest::prelude::*;

use super::*;

fn tls13(hash: usize) -> Vec<u8> {
    [
        &[b' '; 64][..],
        b"TLS 1.3, server CertificateVerify\0",
        &vec![7; hash],
    ]
    .concat()
}

fn tls12(point: usize) -> Vec<u8> {
    tls12_of(29, &vec![1; point])
}

fn tls12_of(group: u8, point: &[u8]) -> Vec<u8> {
    [&[9; 64][..], &[3, 0, group, point.len() as u8], point].concat()
}

/// Messages of these types.
fn transcript(kinds: &[u8]) -> Vec<u8> {
    let message = |kind: &u8| [&[*kind, 0, 1, 0][..], &[0x30; 256]].concat();
    kinds.iter().flat_map(message).collect()
}

#[test]
fn only_what_is_signed_in_a_handshake_is_signed() {
    for (message, signed) in [
        (tls13(32), true),
        (tls13(48), true),
        (tls13(31), false),
        (tls12(32), true),
        (tls12_of(23, &[4; 65]), true),
        (tls12_of(24, &[4; 97]), true),
        (tls12_of(23, &[2; 65]), false),
        (tls12_of(23, &[4; 97]), false),
        (tls12_of(24, &[4; 65]), false),
        (tls12_of(29, &[4; 65]), false),
        (tls12_of(25, &[4; 133]), false),
        (tls12(255), false),
        (tls12(0), false),
        ([tls12(32), vec![0]].concat(), false),
        (tls12(32)[..99].to_vec(), false),
        (
            [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat(),
            true,
        ),
        (transcript(&[1, 2, 11, 12, 13, 14, 11, 16]), true),
        (transcript(&[1, 2, 11, 22, 12, 13, 14, 11, 16]), true),
        // Not asked for, not shown, out of order, with more behind, cut short.
        (transcript(&[1, 2, 11, 12, 14, 11, 16]), false),
        (transcript(&[1, 2, 11, 12, 13, 14, 16]), false),
        (transcript(&[2, 1, 11, 12, 13, 14, 16]), false),
        (transcript(&[1, 2, 11, 12, 13, 14, 11, 16, 20]), false),
        (transcript(&[1, 2, 13, 14, 11, 16])[1..].to_vec(), false),
        // A certificate, a token.
        (b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9".to_vec(), false),
        (vec![0x30; 300], false),
        (Vec::new(), false),
    ] {
        assert_eq!(is_of_a_handshake(&message), signed, "{message:?}");
    }
}

proptest! {
    #[test]
    fn requests_survive(number: u32, key: [u8; 32], scheme: u16, message in prop::collection::vec(any::<u8>(), 0..600)) {
        let request = Request { number, key: KeyId(key), scheme: scheme.into(), message: &message };
        match request.encode() {
            Some(packet) => {
                prop_assert!(packet.len() <= MOST_REQUEST);
                prop_assert_eq!(Request::decode(&packet), Some(request));
            }
            None => prop_assert!(message.is_empty() || message.len() > MOST_TO_SIGN),
        }
    }

    #[test]
    fn answers_survive(number: u32, signature in prop::collection::vec(any::<u8>(), 1..=MOST_SIGNATURE)) {
        let packet = encode_answer(number, Ok(&signature));
        prop_assert_eq!(decode_answer(&packet), Some((number, Ok(signature.as_slice()))));
        for refusal in Refusal::ALL {
            let packet = encode_answer(number, Err(refusal));
            prop_assert_eq!(decode_answer(&packet), Some((number, Err(refusal))));
        }
    }

    #[test]
    fn garbage_is_judged_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..1200)) {
        let _ = decode_answer(&packet);
        if let Some(request) = Request::decode(&packet) {
            prop_assert_eq!(request.encode(), Some(packet.clone()));
            let _ = is_of_a_handshake(request.message);
        }
    }
}

#[test]
fn what_is_too_long_is_no_answer() {
    assert_eq!(
        decode_answer(&encode_answer(1, Ok(&[0; 1025]))),
        Some((1, Err(Refusal::Failed)))
    );
    let mut long = encode_answer(1, Ok(&[0; 1024]));
    long.push(0);
    assert_eq!(decode_answer(&long), None);
    let mut refused = encode_answer(1, Err(Refusal::NoKey));
    refused.push(0);
    assert_eq!(decode_answer(&refused), None);
}
