//! Any bytes as the first of a connection: a PROXY header, or a TLS ClientHello that is passed on.
//!
//! Holds: what a header or a hello says does not depend on where it was cut, nor on what follows it; every beginning of
//! it is the beginning of one; what is written for a backend is read there as the same.

use weir_core::proxy::{self, Announced, Origin, Version};
use weir_relay::hello;

/// Checks one byte string.
pub fn check(data: &[u8]) {
    headers(data);
    hellos(data);
}

/// How far an input gets: `proxy v1`, `hello`, or why it is none.
pub fn reached(data: &[u8]) -> Vec<&'static str> {
    let header = match proxy::read(data) {
        Ok(proxy::Read::Whole(header)) => header.version.as_str(),
        Ok(proxy::Read::Partial) => "partial header",
        Err(malformed) => malformed.as_str(),
    };
    let hello = match hello::read(data.get(..hello::MAX).unwrap_or(data)) {
        Ok(hello::Read::Whole(_)) => "hello",
        Ok(hello::Read::Partial) => "partial hello",
        Err(none) => none.as_str(),
    };
    vec![header, hello]
}

fn headers(data: &[u8]) {
    let Ok(proxy::Read::Whole(header)) = proxy::read(data) else {
        return;
    };
    let bytes = &data[..header.len];
    assert_eq!(proxy::read(bytes), Ok(proxy::Read::Whole(header)));
    for cut in cuts(bytes) {
        assert_eq!(
            proxy::read(&bytes[..cut]),
            Ok(proxy::Read::Partial),
            "cut at {cut}"
        );
    }
    let addresses = match header.origin {
        Origin::Client { source, destination } => Some((source, destination)),
        Origin::Local | Origin::Unknown | Origin::Unix => None,
    };
    let tlvs = header.tlvs;
    let announced = Announced {
        addresses,
        alpn: tlvs.alpn,
        authority: tlvs.authority.map(str::as_bytes),
        unique_id: tlvs.unique_id,
        ssl: tlvs.ssl,
        crc32c: true,
    };
    for version in [Version::V1, Version::V2] {
        let mut written = Vec::new();
        proxy::write(&mut written, version, &announced);
        let Ok(proxy::Read::Whole(again)) = proxy::read(&written) else {
            panic!("what weir writes is a header: {}", written.escape_ascii());
        };
        assert_eq!(again.len, written.len());
        match (addresses, again.origin) {
            (Some((from, to)), Origin::Client { source, destination }) => {
                assert_eq!(source.ip().to_canonical(), from.ip().to_canonical());
                assert_eq!(destination.ip().to_canonical(), to.ip().to_canonical());
                assert_eq!((source.port(), destination.port()), (from.port(), to.port()));
            }
            (None, Origin::Unknown | Origin::Local) => continue,
            (Some(_) | None, other) => panic!("{addresses:?} became {other:?}"),
        }
        if version == Version::V2 {
            assert!(again.tlvs.checked);
            assert_eq!(again.tlvs.authority, tlvs.authority);
            assert_eq!(again.tlvs.unique_id, tlvs.unique_id);
            let flags = |tlvs: &proxy::Tlvs<'_>| tlvs.ssl.map(|ssl| (ssl.client, ssl.verify));
            assert_eq!(flags(&again.tlvs), flags(&tlvs));
        }
    }
}

fn hellos(data: &[u8]) {
    let data = data.get(..hello::MAX).unwrap_or(data);
    let Ok(hello::Read::Whole(whole)) = hello::read(data) else {
        return;
    };
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if let Some(name) = &whole.sni {
        assert!(!name.is_empty() && name.chars().all(is_of_names), "{name:?}");
    }
    assert!(whole.alpn().all(|protocol| !protocol.is_empty()));
    // The shortest beginning that is whole says the same; none before it is anything but a beginning.
    let first = (0..=data.len())
        .find(|end| hello::read(&data[..*end]) != Ok(hello::Read::Partial))
        .expect("it is whole at its end");
    assert_eq!(hello::read(&data[..first]), Ok(hello::Read::Whole(whole)));
}

/// Some places inside: all of what is short.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let end = bytes.len();
    (0..end).step_by(end / 64 + 1)
}
