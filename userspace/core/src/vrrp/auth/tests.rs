//! Signatures: what they cover, and in which order adverts are taken.

use super::*;
use crate::vrrp::{
    Centis,
    testing::{Stand, ends, ip},
    wire::{Checksum, Message, Packet, UnknownKey, read, write},
};

fn signed(ends: &Ends, signer: Signer) -> Result<Vec<u8>, UnknownKey> {
    let message = Message {
        vrid: Vrid::new(7).unwrap(),
        priority: 150,
        interval: Centis::new(100).unwrap(),
        addresses: &[ip("192.0.2.10")],
        checksum: Checksum::Rfc9568,
    };
    let mut payload = Vec::new();
    write(&mut payload, &message, ends, Some((signer, &Stand)))?;
    Ok(payload)
}

/// Reads and verifies a payload that was sent between these ends.
fn verify(window: &mut Window, payload: &[u8], ends: Ends) -> Option<Result<(), Unsigned>> {
    let packet = Packet {
        ends,
        hops: 255,
        payload,
    };
    let advert = read(&packet).ok()?;
    Some(window.verify(&advert, &ends, &Stand))
}

fn group() -> Ends {
    ends("192.0.2.1", "224.0.0.18")
}

#[test]
fn every_bit_is_covered() {
    let payload = signed(&group(), Signer { key: 1, sequence: 5 }).unwrap();
    assert_eq!(verify(&mut Window::default(), &payload, group()), Some(Ok(())));
    for bit in 0..payload.len() * 8 {
        let mut flipped = payload.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Malformed, or not signed so.
        let verdict = verify(&mut Window::default(), &flipped, group());
        assert!(
            matches!(verdict, None | Some(Err(Unsigned::Wrong | Unsigned::Key))),
            "bit {bit}: {verdict:?}"
        );
    }
}

#[test]
fn addresses_are_covered() {
    let payload = signed(&group(), Signer { key: 1, sequence: 5 }).unwrap();
    for other in [ends("192.0.2.3", "224.0.0.18"), ends("192.0.2.1", "192.0.2.2")] {
        let verdict = verify(&mut Window::default(), &payload, other);
        assert_eq!(verdict, Some(Err(Unsigned::Wrong)));
    }
}

#[test]
fn a_key_that_is_not_there_signs_nothing() {
    let unknown = signed(&group(), Signer { key: 3, sequence: 5 });
    assert_eq!(unknown, Err(UnknownKey(3)));
    assert_eq!(
        UnknownKey(3).to_string(),
        "there is no key 3 to sign adverts with"
    );
}

#[test]
fn each_sender_has_its_own_order() {
    let mut window = Window::default();
    let other = ends("192.0.2.3", "224.0.0.18");
    for (ends, sequence, expected) in [
        (group(), 5, Ok(())),
        (group(), 5, Err(Unsigned::Replayed)),
        (other, 4, Ok(())),
        (group(), 4, Err(Unsigned::Replayed)),
        (group(), 900, Ok(())),
        (group(), 899, Err(Unsigned::Replayed)),
        (other, 5, Ok(())),
    ] {
        let payload = signed(&ends, Signer { key: 1, sequence }).unwrap();
        assert_eq!(verify(&mut window, &payload, ends), Some(expected), "{sequence}");
    }
}

#[test]
fn what_is_wrong_does_not_move_the_window() {
    let mut window = Window::default();
    let mut forged = signed(
        &group(),
        Signer {
            key: 1,
            sequence: 900,
        },
    )
    .unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(verify(&mut window, &forged, group()), Some(Err(Unsigned::Wrong)));
    let payload = signed(&group(), Signer { key: 1, sequence: 5 }).unwrap();
    assert_eq!(verify(&mut window, &payload, group()), Some(Ok(())));
}

#[test]
fn sequences_only_rise() {
    let mut sequence = Sequence::new(1_000, None);
    assert_eq!(
        [sequence.next(), sequence.next(), sequence.last()],
        [1_001, 1_002, 1_002]
    );
    assert_eq!(
        Sequence::new(500, Some(1_002)).next(),
        1_003,
        "the clock went back"
    );
    assert_eq!(Sequence::new(5_000, Some(1_002)).next(), 5_001);
    assert_eq!(Sequence::new(u64::MAX, None).next(), u64::MAX);
}
