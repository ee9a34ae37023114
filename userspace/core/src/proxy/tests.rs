//! The header of either version: good, bad, cut anywhere, and written anew.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn whole(bytes: &[u8]) -> Header<'_> {
    match read(bytes) {
        Ok(Read::Whole(header)) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// Every beginning of a header is the beginning of one, and what follows it changes nothing.
fn grows(bytes: &[u8]) {
    let header = whole(bytes);
    assert_eq!(header.len, bytes.len());
    for cut in 0..bytes.len() {
        assert_eq!(read(&bytes[..cut]), Ok(Read::Partial), "cut at {cut}");
    }
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(whole(&more), header);
}

#[test]
fn lines() {
    let client = |from, to| Origin::Client {
        source: at(from),
        destination: at(to),
    };
    for (line, origin) in [
        (
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443",
            client("192.0.2.7:40000", "198.51.100.1:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
            client("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0", client("0.0.0.0:0", "0.0.0.0:0")),
        (
            "PROXY TCP6 2001:db8::7 2001:db8::1 40000 443",
            client("[2001:db8::7]:40000", "[2001:db8::1]:443"),
        ),
        (
            "PROXY TCP6 ffff:f:ffff:ffff:ffff:ffff:ffff:ffff ffff:f:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
            client(
                "[ffff:f:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:f:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY UNKNOWN", Origin::Unknown),
        ("PROXY UNKNOWN ffff::1 whatever 1", Origin::Unknown),
    ] {
        let line = format!("{line}\r\n");
        assert!(line.len() <= MAX_V1, "{line}");
        let header = whole(line.as_bytes());
        assert_eq!((header.version, header.origin), (Version::V1, origin), "{line}");
        assert_eq!(header.tlvs, Tlvs::NONE);
        grows(line.as_bytes());
    }
}

#[test]
fn bad_lines() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    for (line, why) in [
        ("GET / HTTP/1.1\r\n", Malformed::Missing),
        ("PROXY\r\n", Malformed::Missing),
        ("PROXY\tTCP4", Malformed::Missing),
        ("proxy TCP4", Malformed::Missing),
        ("\x16\x03\x01", Malformed::Missing),
        (long.as_str(), Malformed::LineTooLong),
        ("PROXY UNKNOWN\n", Malformed::LineEnd),
        ("PROXY UNKNOWN\r\r\n", Malformed::LineEnd),
        ("PROXY UNKNOWN\rx", Malformed::LineEnd),
        ("PROXY \r\n", Malformed::Family),
        ("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Family),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Malformed::Family),
        ("PROXY UNKNOWNX\r\n", Malformed::Family),
        ("PROXY TCP4\r\n", Malformed::Words),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Malformed::Words),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Malformed::Words),
        ("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", Malformed::Words),
        ("PROXY TCP4 ::1 1.2.3.4 1 2\r\n", Malformed::Address),
        ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Malformed::Address),
        ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", Malformed::Address),
        ("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", Malformed::Address),
        ("PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n", Malformed::Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Malformed::Address),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Malformed::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Malformed::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 +2\r\n", Malformed::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", Malformed::Port),
    ] {
        assert_eq!(read(line.as_bytes()), Err(why), "{line:?}");
    }
}

/// A header of version 2.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&(block.len() as u16).to_be_bytes());
    bytes.extend_from_slice(block);
    bytes
}

const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4, tlvs].concat())
}

#[test]
fn headers() {
    let unix = [b'u'; 216];
    let mut v6 = [0; 36];
    v6[15] = 1;
    v6[31] = 2;
    v6[35] = 3;
    for (bytes, origin) in [
        (
            v2(0x21, 0x11, &V4),
            Origin::Client {
                source: at("192.0.2.7:40000"),
                destination: at("198.51.100.1:443"),
            },
        ),
        (
            v2(0x21, 0x21, &v6),
            Origin::Client {
                source: at("[::1]:0"),
                destination: at("[::2]:3"),
            },
        ),
        (v2(0x21, 0x31, &unix), Origin::Unix),
        (v2(0x21, 0x00, b""), Origin::Unknown),
        (v2(0x21, 0x12, &V4), Origin::Unknown),
        (v2(0x21, 0x22, &v6), Origin::Unknown),
        (v2(0x21, 0x32, &unix), Origin::Unknown),
        (v2(0x21, 0x00, &[4, 0, 1, 9]), Origin::Unknown),
        (v2(0x20, 0x00, b""), Origin::Local),
        // What a proxy says of itself beyond that is skipped.
        (v2(0x20, 0x11, &V4), Origin::Local),
        (v2(0x20, 0xff, b"anything"), Origin::Local),
    ] {
        assert_eq!(whole(&bytes).origin, origin);
        grows(&bytes);
    }
}

#[test]
fn bad_headers() {
    let long = vec![0; MAX_V2 - 15];
    for (bytes, why) in [
        (v2(0x11, 0x11, &V4), Malformed::Version),
        (v2(0x31, 0x11, &V4), Malformed::Version),
        (v2(0x22, 0x11, &V4), Malformed::Command),
        (v2(0x2f, 0x11, &V4), Malformed::Command),
        (v2(0x21, 0x13, &V4), Malformed::Transport),
        (v2(0x21, 0x10, &V4), Malformed::Transport),
        (v2(0x21, 0x01, &V4), Malformed::Transport),
        (v2(0x21, 0x41, &V4), Malformed::Transport),
        (v2(0x21, 0x11, &V4[..11]), Malformed::Short),
        (v2(0x21, 0x21, &[0; 35]), Malformed::Short),
        (v2(0x21, 0x31, &[0; 215]), Malformed::Short),
        (v2(0x21, 0x12, &V4[..11]), Malformed::Short),
        (v2(0x21, 0x22, &[0; 35]), Malformed::Short),
        (v2(0x21, 0x32, &[0; 215]), Malformed::Short),
        (v2(0x20, 0x00, &long), Malformed::TooLong),
        (with_tlvs(&[4]), Malformed::Tlv),
        (with_tlvs(&[4, 0]), Malformed::Tlv),
        (with_tlvs(&[4, 0, 1]), Malformed::Tlv),
        (with_tlvs(&[0xee, 0, 2, 1]), Malformed::Tlv),
        (with_tlvs(&[0x20, 0, 4, 1, 0, 0, 0]), Malformed::Tlv),
        (with_tlvs(&[0x20, 0, 6, 1, 0, 0, 0, 0, 0x21]), Malformed::Tlv),
        (with_tlvs(&[3, 0, 3, 0, 0, 0]), Malformed::Tlv),
        (with_tlvs(&[3, 0, 4, 1, 2, 3, 4]), Malformed::Checksum),
        (with_tlvs(&[1, 0, 2, b'h', b'2', 1, 0, 0]), Malformed::TlvTwice),
        (with_tlvs(&[2, 0, 0]), Malformed::Authority),
        (with_tlvs(&[2, 0, 3, b'a', b'\n', b'b']), Malformed::Authority),
        (
            with_tlvs(&[&[5, 0, 129], [0; 129].as_slice()].concat()),
            Malformed::UniqueId,
        ),
    ] {
        assert_eq!(read(&bytes), Err(why), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_length_is_judged_before_it_is_waited_for() {
    let mut head = SIGNATURE.to_vec();
    head.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
    assert_eq!(read(&head), Err(Malformed::TooLong));
}

/// As HAProxy 2.6 writes it with `send-proxy-v2 proxy-v2-options ssl,authority,crc32c,unique-id`, but for the sum.
#[test]
fn what_is_told_is_read() {
    let announced = Announced {
        addresses: Some((at("192.0.2.7:40000"), at("198.51.100.1:443"))),
        alpn: Some(b"h2"),
        authority: Some(b"www.example.org"),
        unique_id: Some(b"id-1"),
        ssl: Some(Ssl {
            client: ssl::CLIENT_SSL | ssl::CERT_CONN,
            verify: 0,
            version: Some(b"TLSv1.3"),
            cn: Some(b"someone"),
            cipher: Some(b"TLS_AES_128_GCM_SHA256"),
            sig_alg: Some(b"SHA256"),
            key_alg: Some(b"EC256"),
        }),
        crc32c: true,
    };
    let mut bytes = Vec::new();
    write(&mut bytes, Version::V2, &announced);
    let tlvs = whole(&bytes).tlvs;
    assert_eq!(tlvs.alpn, announced.alpn);
    assert_eq!(tlvs.authority.map(str::as_bytes), announced.authority);
    assert_eq!(tlvs.unique_id, announced.unique_id);
    assert_eq!(tlvs.ssl, announced.ssl);
    assert!(tlvs.checked);
    grows(&bytes);
    // Any change of any bit is seen, where it is not told otherwise before.
    for at in SIGNATURE.len()..bytes.len() {
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            if let Ok(Read::Whole(header)) = read(&wrong) {
                // A proxy's own; or the sum itself became something else.
                let taken = header.origin == Origin::Local || !header.tlvs.checked;
                assert!(taken, "bit {bit} of byte {at}: {header:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_left_out() {
    let long = [b'a'; 300];
    let announced = Announced {
        authority: Some(&long),
        unique_id: Some(&long),
        ..Announced::default()
    };
    let mut bytes = Vec::new();
    write(&mut bytes, Version::V2, &announced);
    assert_eq!(whole(&bytes).tlvs, Tlvs::NONE);
    assert_eq!(whole(&bytes).origin, Origin::Local);
    bytes.clear();
    write(&mut bytes, Version::V1, &announced);
    assert_eq!(bytes, b"PROXY UNKNOWN\r\n");
}

#[test]
fn families_are_never_mixed() {
    for (from, to, text) in [
        ("1.2.3.4:5", "6.7.8.9:10", "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"),
        (
            "[::ffff:1.2.3.4]:5",
            "6.7.8.9:10",
            "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n",
        ),
        (
            "1.2.3.4:5",
            "[2001:db8::1]:10",
            "PROXY TCP6 ::ffff:1.2.3.4 2001:db8::1 5 10\r\n",
        ),
    ] {
        let announced = Announced {
            addresses: Some((at(from), at(to))),
            ..Announced::default()
        };
        let mut bytes = Vec::new();
        write(&mut bytes, Version::V1, &announced);
        assert_eq!(String::from_utf8_lossy(&bytes), text);
        whole(&bytes);
    }
}

#[test]
fn every_mistake_has_its_words() {
    for (i, one) in Malformed::ALL.iter().enumerate() {
        let same = |other: &&Malformed| other.as_str() == one.as_str();
        assert_eq!(*one as usize, i);
        assert_eq!(Malformed::ALL.iter().filter(same).count(), 1, "{one:?}");
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| (std::net::Ipv4Addr::from(ip), port).into());
    let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| (std::net::Ipv6Addr::from(ip), port).into());
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        from in address(),
        to in address(),
        v1 in any::<bool>(),
        id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=128)),
        crc32c in any::<bool>(),
    ) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let announced = Announced { addresses: Some((from, to)), unique_id: id.as_deref(), crc32c, ..Announced::default() };
        let mut bytes = Vec::new();
        write(&mut bytes, version, &announced);
        let header = whole(&bytes);
        let Origin::Client { source, destination } = header.origin else { panic!("{header:?}") };
        let same = |a: SocketAddr, b: SocketAddr| (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port());
        prop_assert!(same(source, from) && same(destination, to));
        if !v1 {
            prop_assert_eq!(header.tlvs.unique_id, id.as_deref());
            prop_assert_eq!(header.tlvs.checked, crc32c);
        }
        grows(&bytes);
    }

    #[test]
    fn any_block_is_judged(command in 0x20_u8..=0x21, family in any::<u8>(), block in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = v2(command, family, &block);
        if let Ok(Read::Whole(_)) = read(&bytes) {
            grows(&bytes);
        }
    }
}
