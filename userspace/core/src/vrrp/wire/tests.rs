//! Adverts byte by byte, every reason for which one is refused, and what holds for all.

use proptest::prelude::*;

use super::*;
use crate::vrrp::{
    GROUP_V4, GROUP_V6,
    auth::{Signer, TRAILER},
    testing::{Stand, around, ends, ip, seal},
};

/// VRID 51, priority 100, every second, 192.0.2.10, from 192.0.2.1 to the group: a packet of keepalived 2.2.7 with
/// `vrrp_version 3`, as it was captured.
const KEEPALIVED: [u8; 32] = [
    0x45, 0xc0, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0x18, 0x99, 0xc0, 0x00, 0x02, 0x01, 0xe0,
    0x00, 0x00, 0x12, 0x31, 0x33, 0x64, 0x01, 0x00, 0x64, 0x05, 0xcc, 0xc0, 0x00, 0x02, 0x0a,
];

/// The same to a unicast peer, 192.0.2.2: its payload.
const KEEPALIVED_UNICAST: [u8; 12] = [
    0x31, 0x33, 0x64, 0x01, 0x00, 0x64, 0x23, 0xdc, 0xc0, 0x00, 0x02, 0x0a,
];

/// The same with `vrrp_version 2` and `auth_pass weir`.
const KEEPALIVED_V2: [u8; 20] = [
    0x21, 0x33, 0x64, 0x01, 0x01, 0x01, 0xd6, 0xe7, 0xc0, 0x00, 0x02, 0x0a, 0x77, 0x65, 0x69, 0x72, 0x00,
    0x00, 0x00, 0x00,
];

/// Of fe80::10, from fe80::c0ef:c5ff:fe5f:2f07.
const KEEPALIVED_V6: [u8; 24] = [
    0x31, 0x33, 0x64, 0x01, 0x00, 0x64, 0xb9, 0x61, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
];

/// The first without a pseudo-header: as RFC 9568 says.
const RFC9568: [u8; 12] = [
    0x31, 0x33, 0x64, 0x01, 0x00, 0x64, 0xa8, 0x5c, 0xc0, 0x00, 0x02, 0x0a,
];

fn v4() -> Ends {
    ends("192.0.2.1", "224.0.0.18")
}

fn v6() -> Ends {
    ends("fe80::1", "ff02::12")
}

fn parsed<'a>(payload: &'a [u8], ends: Ends) -> Result<Advert<'a>, Malformed> {
    read(&Packet {
        ends,
        hops: 255,
        payload,
    })
}

fn message(addresses: &[IpAddr]) -> Message<'_> {
    Message {
        vrid: Vrid::new(51).unwrap(),
        priority: 100,
        interval: Centis::new(100).unwrap(),
        addresses,
        checksum: Checksum::Rfc9568,
    }
}

#[test]
fn adverts_of_every_kind_are_read() {
    let v2 = Version::V2 {
        auth: Some(*b"weir\0\0\0\0"),
    };
    let (new, old) = (Checksum::Rfc9568, Checksum::Rfc5798);
    let unicast = ends("192.0.2.1", "192.0.2.2");
    let keepalived_v6 = ends("fe80::c0ef:c5ff:fe5f:2f07", "ff02::12");
    for (bytes, ends, version, checksum, address) in [
        (&RFC9568[..], v4(), Version::V3, new, "192.0.2.10"),
        (&KEEPALIVED[20..], v4(), Version::V3, old, "192.0.2.10"),
        (&KEEPALIVED_UNICAST, unicast, Version::V3, old, "192.0.2.10"),
        (&KEEPALIVED_V2, v4(), v2, new, "192.0.2.10"),
        (&KEEPALIVED_V6, keepalived_v6, Version::V3, new, "fe80::10"),
    ] {
        let advert = parsed(bytes, ends).unwrap();
        assert_eq!((advert.version, advert.checksum), (version, checksum));
        assert_eq!((advert.vrid.get(), advert.priority), (51, 100));
        assert_eq!(advert.interval.get(), 100);
        assert!(advert.addresses.iter().eq([ip(address)]));
        assert_eq!(advert.trailer, None);
    }
    let whole = packet(&KEEPALIVED).unwrap();
    assert_eq!(
        (whole.ends, whole.hops, whole.payload),
        (v4(), 255, &KEEPALIVED[20..])
    );
}

#[test]
fn what_is_written_is_what_the_rfc_says() {
    let mut out = vec![0xff; 500];
    let addresses = [ip("192.0.2.10")];
    write(&mut out, &message(&addresses), &v4(), None).unwrap();
    assert_eq!(out, RFC9568);
    let old = Message {
        checksum: Checksum::Rfc5798,
        ..message(&addresses)
    };
    write(&mut out, &old, &v4(), None).unwrap();
    assert_eq!(out, KEEPALIVED[20..]);
    write(&mut out, &old, &ends("192.0.2.1", "192.0.2.2"), None).unwrap();
    assert_eq!(out, KEEPALIVED_UNICAST);
    let addresses = [ip("fe80::10"), ip("2001:db8::10")];
    write(&mut out, &message(&addresses), &v6(), None).unwrap();
    assert_eq!(out.len(), 8 + 32);
    assert_eq!(parsed(&out, v6()).unwrap().checksum, Checksum::Rfc9568);
    // Another receiver is another pseudo-header.
    assert_eq!(parsed(&out, ends("fe80::1", "fe80::2")), Err(Malformed::Checksum));
}

#[test]
fn addresses_of_the_other_family_and_too_many_are_left_out() {
    let mut out = Vec::new();
    let mixed = [ip("2001:db8::10"), ip("192.0.2.10")];
    write(&mut out, &message(&mixed), &v4(), None).unwrap();
    assert_eq!(out, RFC9568);
    let many = vec![ip("192.0.2.10"); 300];
    write(&mut out, &message(&many), &v4(), None).unwrap();
    assert_eq!(parsed(&out, v4()).unwrap().addresses.len(), 255);
}

#[test]
fn groups_and_link_addresses() {
    assert_eq!(GROUP_V4.to_string(), "224.0.0.18");
    assert_eq!(GROUP_V6.to_string(), "ff02::12");
    let vrid = Vrid::new(0x33).unwrap();
    assert_eq!(vrid.mac(Family::V4), [0, 0, 0x5e, 0, 1, 0x33]);
    assert_eq!(vrid.mac(Family::V6), [0, 0, 0x5e, 0, 2, 0x33]);
}

/// The message with one byte set, and its checksum made right again (that of version 2 and 3 over IPv4).
fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    let sum = sum::Sum::NONE.bytes(&bytes[..6]).bytes(&bytes[8..]).checksum();
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn every_malformed_message_has_its_reason() {
    let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
    let longer = |bytes: &[u8], tail: &[u8]| [bytes, tail].concat();
    for (why, payload, reason) in [
        ("nothing", vec![], Malformed::Short),
        ("half a header", cut(&RFC9568, 5), Malformed::Short),
        ("half an address", cut(&RFC9568, 1), Malformed::Short),
        ("no password", cut(&KEEPALIVED_V2, 8), Malformed::Short),
        ("a byte more", longer(&RFC9568, &[0]), Malformed::Long),
        ("a word more", longer(&KEEPALIVED_V2, &[0; 4]), Malformed::Long),
        ("no trailer", longer(&RFC9568, &[0; TRAILER]), Malformed::Long),
        ("version 1", with(&RFC9568, 0, 0x11), Malformed::Version),
        ("version 4", with(&RFC9568, 0, 0x41), Malformed::Version),
        ("type 2", with(&RFC9568, 0, 0x32), Malformed::Type),
        ("VRID 0", with(&RFC9568, 1, 0), Malformed::Vrid),
        ("interval 0", with(&RFC9568, 5, 0), Malformed::Interval),
        ("0 seconds", with(&KEEPALIVED_V2, 5, 0), Malformed::Interval),
        ("an old MD5", with(&KEEPALIVED_V2, 4, 2), Malformed::AuthType),
        ("no address", with(&cut(&RFC9568, 4), 3, 0), Malformed::NoAddress),
    ] {
        assert_eq!(parsed(&payload, v4()).map(|_| ()), Err(reason), "{why}");
    }
    for at in 0..RFC9568.len() {
        let mut flipped = RFC9568;
        flipped[at] ^= 0x10;
        assert!(parsed(&flipped, v4()).is_err(), "byte {at}");
    }
    assert_eq!(
        parsed(&with(&RFC9568, 0, 0x21), v6()).map(|_| ()),
        Err(Malformed::Version),
        "there is no version 2 over IPv6"
    );
    for hops in [0, 1, 64, 254] {
        let packet = Packet {
            ends: v4(),
            hops,
            payload: &RFC9568,
        };
        assert_eq!(read(&packet).map(|_| ()), Err(Malformed::Hops));
    }
}

#[test]
fn reserved_bits_are_ignored_and_long_seconds_are_cut() {
    let reserved = with(&RFC9568, 4, 0xf0);
    assert_eq!(parsed(&reserved, v4()).unwrap().interval.get(), 100);
    let long = with(&KEEPALIVED_V2, 5, 255);
    assert_eq!(parsed(&long, v4()).unwrap().interval, Centis::MAX);
}

#[test]
fn every_ip_header_that_is_none_has_its_reason() {
    let good = around(&RFC9568, &v4());
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        seal(&mut bytes);
        bytes
    };
    let good6 = around(&RFC9568, &v6());
    let changed6 = |at: usize, value: u8| {
        let mut bytes = good6.clone();
        bytes[at] = value;
        bytes
    };
    let mut spoiled = good.clone();
    spoiled[8] = 254;
    for (why, bytes, reason) in [
        ("nothing", vec![], Malformed::Truncated),
        ("half a header", good[..19].to_vec(), Malformed::Truncated),
        ("half a packet", good[..31].to_vec(), Malformed::Truncated),
        ("version 5", changed(0, 0x55), Malformed::IpHeader),
        ("a header of 16 bytes", changed(0, 0x44), Malformed::IpHeader),
        ("shorter than its header", changed(3, 19), Malformed::IpHeader),
        ("another hop limit", spoiled, Malformed::IpChecksum),
        ("more to come", changed(6, 0x20), Malformed::Fragment),
        ("an offset", changed(7, 1), Malformed::Fragment),
        ("TCP", changed(9, 6), Malformed::Protocol),
        ("half of IPv6", good6[..39].to_vec(), Malformed::Truncated),
        ("longer than it is", changed6(5, 13), Malformed::Truncated),
        ("a fragment of IPv6", changed6(6, 44), Malformed::Fragment),
        ("hop by hop options", changed6(6, 0), Malformed::Protocol),
    ] {
        assert_eq!(packet(&bytes).map(|_| ()), Err(reason), "{why}");
    }
    // Ethernet fills short frames up.
    let padded = [&good[..], &[0; 14]].concat();
    let whole = packet(&padded).unwrap();
    assert_eq!((whole.ends, whole.hops, whole.payload), (v4(), 255, &RFC9568[..]));
    // Options of IPv4 are skipped.
    let mut options = good.clone();
    options[0] = 0x46;
    options[3] += 4;
    options.splice(20..20, [0x94, 4, 0, 0]);
    options[10..12].fill(0);
    let sum = sum::Sum::NONE.bytes(&options[..24]).checksum();
    options[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(packet(&options).unwrap().payload, &RFC9568[..]);
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: std::collections::BTreeSet<_> = Malformed::ALL.iter().map(|one| one.name()).collect();
    assert_eq!(names.len(), Malformed::ALL.len());
}

fn addresses(family: Family) -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec(any::<u128>(), 1..40).prop_map(move |all| {
        let one = |bits: u128| match family {
            Family::V4 => IpAddr::V4((bits as u32).into()),
            Family::V6 => IpAddr::V6(bits.into()),
        };
        all.into_iter().map(one).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(
        is_v6: bool,
        vrid in 1u8..,
        priority: u8,
        interval in 1u16..=0xfff,
        is_old: bool,
        key in prop::option::of((1u8..=2, any::<u64>())),
        many in addresses(Family::V4),
        many6 in addresses(Family::V6),
    ) {
        let (ends, addresses) = if is_v6 { (v6(), many6) } else { (v4(), many) };
        let checksum = if is_old { Checksum::Rfc5798 } else { Checksum::Rfc9568 };
        let message = Message {
            vrid: Vrid::new(vrid).unwrap(),
            priority,
            interval: Centis::new(interval).unwrap(),
            addresses: &addresses,
            checksum,
        };
        let signer = key.map(|(key, sequence)| Signer { key, sequence });
        let mut out = Vec::new();
        write(&mut out, &message, &ends, signer.map(|signer| (signer, &Stand as _))).unwrap();
        let bytes = around(&out, &ends);
        let advert = read(&packet(&bytes).unwrap()).unwrap();
        prop_assert_eq!(advert.vrid, message.vrid);
        prop_assert_eq!((advert.priority, advert.interval), (priority, message.interval));
        prop_assert!(advert.addresses.iter().eq(addresses.iter().copied()));
        prop_assert_eq!(advert.version, Version::V3);
        prop_assert_eq!(advert.trailer.map(|t| (t.key, t.sequence)), key);
        if is_v6 {
            prop_assert_eq!(advert.checksum, Checksum::Rfc9568);
        }
        // Cut anywhere, it is none.
        for end in 0..out.len() {
            if end != advert.message.len() {
                prop_assert!(parsed(&out[..end], ends).is_err(), "cut at {}", end);
            }
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>, is_v6: bool) {
        let _ = packet(&bytes).map(|packet| read(&packet).map(|_| ()));
        let _ = parsed(&bytes, if is_v6 { v6() } else { v4() });
    }
}
