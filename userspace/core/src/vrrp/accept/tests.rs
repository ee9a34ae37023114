//! The rules, each by an advert that breaks it.

use super::*;
use crate::vrrp::{
    Centis, Vrid,
    auth::Signer,
    testing::{Stand, ends, ip},
    wire::{Checksum, Message, Packet, read, write},
};

const OWN: &str = "192.0.2.2";

fn rules<'a>(addresses: &'a [IpAddr], senders: Senders<'a>) -> Rules<'a> {
    Rules {
        own: ip(OWN),
        addresses,
        interval: Centis::new(100).unwrap(),
        senders,
        v2: V2::Refused,
    }
}

/// An advert of these addresses, judged.
fn judged(rules: &Rules<'_>, from: &str, to: &str, addresses: &[&str]) -> Result<Option<Unsigned>, Refused> {
    signed(rules, from, to, addresses, None, None)
}

#[expect(clippy::unwrap_in_result, reason = "the result is what the tests are about")]
fn signed(
    rules: &Rules<'_>,
    from: &str,
    to: &str,
    addresses: &[&str],
    signer: Option<Signer>,
    signatures: Option<Signatures<'_>>,
) -> Result<Option<Unsigned>, Refused> {
    let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
    let ends = ends(from, to);
    let message = Message {
        vrid: Vrid::new(7).unwrap(),
        priority: 150,
        interval: Centis::new(100).unwrap(),
        addresses: &addresses,
        checksum: Checksum::Rfc9568,
    };
    let mut payload = Vec::new();
    write(
        &mut payload,
        &message,
        &ends,
        signer.map(|signer| (signer, &Stand as _)),
    )
    .unwrap();
    let packet = Packet {
        ends,
        hops: 255,
        payload: &payload,
    };
    judge(rules, &ends, &read(&packet).unwrap(), signatures)
}

#[test]
fn who_may_send_and_where_to() {
    let ours = [ip("192.0.2.10"), ip("192.0.2.11")];
    let same = &["192.0.2.11", "192.0.2.10"][..];
    let peers = [ip("192.0.2.1"), ip("192.0.2.3")];
    let (group, peers) = (Senders::Group, Senders::Peers(&peers));
    for (senders, from, to, addresses, expected) in [
        (group, "192.0.2.1", "224.0.0.18", same, Ok(None)),
        (group, OWN, "224.0.0.18", same, Err(Refused::OwnAddress)),
        (group, "192.0.2.1", OWN, same, Err(Refused::Destination)),
        (peers, "192.0.2.3", OWN, same, Ok(None)),
        (peers, "192.0.2.4", OWN, same, Err(Refused::Stranger)),
        (peers, "192.0.2.1", "224.0.0.18", same, Err(Refused::Destination)),
        (
            group,
            "192.0.2.1",
            "224.0.0.18",
            &["192.0.2.10"],
            Err(Refused::OtherAddresses),
        ),
        (
            group,
            "192.0.2.1",
            "224.0.0.18",
            &["192.0.2.10", "192.0.2.10"],
            Err(Refused::OtherAddresses),
        ),
        (
            group,
            "192.0.2.1",
            "224.0.0.18",
            &["192.0.2.10", "192.0.2.11", "192.0.2.12"],
            Err(Refused::OtherAddresses),
        ),
    ] {
        let rules = rules(&ours, senders);
        assert_eq!(
            judged(&rules, from, to, addresses),
            expected,
            "{from} to {to}: {addresses:?}"
        );
    }
}

/// Priority 100, every second, 192.0.2.10, the password `weir`.
const V2_PASSWORD: [u8; 20] = [
    0x21, 51, 100, 1, 1, 1, 0xd6, 0xe7, 192, 0, 2, 10, b'w', b'e', b'i', b'r', 0, 0, 0, 0,
];

#[test]
fn version_2_is_taken_if_it_is_wanted_and_alike() {
    let ours = [ip("192.0.2.10")];
    let ends = ends("192.0.2.1", "224.0.0.18");
    let packet = Packet {
        ends,
        hops: 255,
        payload: &V2_PASSWORD,
    };
    let advert = read(&packet).unwrap();
    for (v2, interval, expected) in [
        (V2::Refused, 100, Err(Refused::OldVersion)),
        (V2::Taken(None), 100, Err(Refused::Password)),
        (V2::Taken(Some(*b"other\0\0\0")), 100, Err(Refused::Password)),
        (V2::Taken(Some(*b"weir\0\0\0\0")), 100, Ok(None)),
        (
            V2::Taken(Some(*b"weir\0\0\0\0")),
            200,
            Err(Refused::OtherInterval),
        ),
    ] {
        let rules = Rules {
            v2,
            interval: Centis::new(interval).unwrap(),
            ..rules(&ours, Senders::Group)
        };
        assert_eq!(
            judge(&rules, &ends, &advert, None),
            expected,
            "{v2:?}, {interval}"
        );
    }
}

#[test]
fn signatures_are_refused_or_only_told_of() {
    let ours = [ip("192.0.2.10")];
    let rules = rules(&ours, Senders::Group);
    for mode in [Mode::Permissive, Mode::Enforce] {
        let mut window = Window::default();
        let mut judged = |signer| {
            let signatures = Signatures {
                keys: &Stand,
                mode,
                window: &mut window,
            };
            signed(
                &rules,
                "192.0.2.1",
                "224.0.0.18",
                &["192.0.2.10"],
                signer,
                Some(signatures),
            )
        };
        let refused = |unsigned| match mode {
            Mode::Permissive => Ok(Some(unsigned)),
            Mode::Enforce => Err(Refused::Unsigned(unsigned)),
        };
        let by = |key, sequence| Some(Signer { key, sequence });
        assert_eq!(judged(None), refused(Unsigned::Missing));
        assert_eq!(judged(by(1, 10)), Ok(None));
        assert_eq!(judged(by(1, 10)), refused(Unsigned::Replayed));
        assert_eq!(
            judged(by(2, 9)),
            refused(Unsigned::Replayed),
            "another key does not help"
        );
        assert_eq!(judged(by(2, 11)), Ok(None), "keys may change");
    }
    // Who knows no keys takes it as any other.
    let signer = Signer { key: 1, sequence: 1 };
    let judged = signed(
        &rules,
        "192.0.2.1",
        "224.0.0.18",
        &["192.0.2.10"],
        Some(signer),
        None,
    );
    assert_eq!(judged, Ok(None));
}

#[test]
fn reasons_have_names_of_their_own() {
    let all: Vec<_> = Refused::all().collect();
    let names: std::collections::BTreeSet<_> = all.iter().map(|one| one.name()).collect();
    assert_eq!(names.len(), all.len());
}
