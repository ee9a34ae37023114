//! `pools.NAME.proxy_protocol` and `proxy_tlvs`: what backends are told of a client by the PROXY protocol.
//!
//! Owns the keys, and what can't go with them within a pool. That some service of the pool is relayed is seen by
//! `cross/upstream.rs`.

use weir_core::{
    plan::{HttpProtocol, ProxyOut, ProxyTlvs},
    proxy::Version,
};

use crate::reader::{Cx, Table, Value};

#[derive(Clone, Copy)]
enum Tlv {
    Alpn,
    Authority,
    Ssl,
    UniqueId,
    Crc32c,
}

const TLVS: [(&str, Tlv); 5] = [
    ("alpn", Tlv::Alpn),
    ("authority", Tlv::Authority),
    ("ssl", Tlv::Ssl),
    ("unique-id", Tlv::UniqueId),
    ("crc32c", Tlv::Crc32c),
];

pub(crate) fn read(cx: &mut Cx, table: &Table<'_>, protocol: HttpProtocol) -> Option<ProxyOut> {
    let value = table.get("proxy_protocol");
    let version = value.as_ref().map(|value| read_version(cx, value));
    let tlvs = read_tlvs(cx, table, version);
    let (value, version) = (value?, version??);
    let idle_min = table.get("connections").and_then(|value| value.peek("idle_min"));
    if protocol.is_http2() {
        value.mistake(
            cx,
            "tells of one client, and a connection of HTTP/2 carries many",
            "remove it, or write protocol = \"http/1.1\"",
        );
    } else if let Some(idle_min) = idle_min.filter(|_| version.is_some()) {
        idle_min.mistake(
            cx,
            "has no effect: each connection begins with its client's PROXY header, so none is made in advance",
            "remove it, or proxy_protocol",
        );
    }
    version.map(|version| ProxyOut { version, tlvs })
}

/// None if it can't be read, Some(None) if it is `off`.
pub(crate) fn read_version(cx: &mut Cx, value: &Value<'_>) -> Option<Option<Version>> {
    let words = [
        ("v1", Some(Version::V1)),
        ("v2", Some(Version::V2)),
        ("off", None),
    ];
    value.choice(cx, &words, &[])
}

fn read_tlvs(cx: &mut Cx, table: &Table<'_>, version: Option<Option<Option<Version>>>) -> ProxyTlvs {
    let mut tlvs = ProxyTlvs::default();
    let Some(value) = table.get("proxy_tlvs") else {
        return tlvs;
    };
    let none = match version {
        // Nothing is concluded from what can't be read.
        Some(None | Some(Some(Version::V2))) => None,
        Some(Some(Some(Version::V1))) => Some("version 1 has no room for it"),
        Some(Some(None)) | None => Some("backends are sent no PROXY header"),
    };
    if let Some(why) = none.filter(|_| !table.meant("proxy_protocol")) {
        let mend = "write proxy_protocol = \"v2\", or remove it";
        value.mistake(cx, format!("has no effect: {why}"), mend);
    }
    for item in value.array(cx).unwrap_or_default() {
        let Some(tlv) = item.choice(cx, &TLVS, &["netns", "cert-cn", "ssl-cipher"]) else {
            continue;
        };
        let place = match tlv {
            Tlv::Alpn => &mut tlvs.alpn,
            Tlv::Authority => &mut tlvs.authority,
            Tlv::Ssl => &mut tlvs.ssl,
            Tlv::UniqueId => &mut tlvs.unique_id,
            Tlv::Crc32c => &mut tlvs.crc32c,
        };
        if std::mem::replace(place, true) {
            item.mistake(cx, "has a TLV twice", "remove one of them");
        }
    }
    tlvs
}
