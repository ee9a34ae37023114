//! Telling a backend whose connection it gets: the PROXY header that connections to some pools begin with.
//!
//! Such a connection is one client's for good: it is not used for another's requests.

use std::net::SocketAddr;

use weir_core::{
    plan::{ClientFact, ProxyOut, ProxyTlvs},
    proxy::{Announced, Ssl, Tlvs, ssl, write},
};

use crate::{caller::Told, tls::TlsFacts};

/// What is known of a client's connection.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) client: SocketAddr,
    /// Where it connected to.
    pub(crate) server: Option<SocketAddr>,
    /// What a proxy in front told.
    pub(crate) told: Option<&'a Told>,
    /// The name that it asked for by SNI, as far as weir saw it itself.
    pub(crate) sni: Option<&'a str>,
    /// What its TLS handshake with weir came to, if weir ends it.
    pub(crate) tls: Option<&'a TlsFacts>,
    /// The id of what it goes out for.
    pub(crate) id: &'a [u8],
}

/// The header.
pub(crate) fn header(out: &ProxyOut, known: &Known<'_>) -> Vec<u8> {
    let ProxyTlvs {
        alpn,
        authority,
        ssl,
        unique_id,
        crc32c,
    } = out.tlvs;
    let told = known.told.map_or(Tlvs::NONE, Told::tlvs);
    // What weir has seen itself goes before what it was told.
    let own = known.tls;
    let own_alpn = own.map(|tls| &*tls.alpn).filter(|alpn| !alpn.is_empty());
    let own_name = own.map(|tls| &*tls.sni).filter(|name| !name.is_empty());
    let announced = Announced {
        // A client whose server is not known is none that could be told of.
        addresses: known.server.map(|server| (known.client, server)),
        alpn: own_alpn.or(told.alpn).filter(|_| alpn),
        authority: known
            .sni
            .or(own_name)
            .or(told.authority)
            .filter(|_| authority)
            .map(str::as_bytes),
        unique_id: Some(known.id).filter(|id| unique_id && !id.is_empty()),
        ssl: ssl.then(|| own.map(of_tls).or(told.ssl).unwrap_or(PLAIN)),
        crc32c,
    };
    let mut bytes = Vec::new();
    write(&mut bytes, out.version, &announced);
    bytes
}

/// What weir knows of TLS that it ends itself.
fn of_tls(tls: &TlsFacts) -> Ssl<'_> {
    let shown = tls.client.as_deref();
    let mut client = ssl::CLIENT_SSL;
    if shown.is_some() {
        client |= ssl::CERT_SESS;
        // Who resumes a session shows none.
        if !tls.resumed {
            client |= ssl::CERT_CONN;
        }
    }
    let cn = tls.fact(ClientFact::CommonName);
    Ssl {
        client,
        verify: u32::from(shown.is_none_or(|shown| shown.verdict().is_err())),
        version: Some(match tls.version {
            "1.2" => b"TLSv1.2",
            _ => b"TLSv1.3",
        }),
        cn: Some(cn.as_bytes()).filter(|cn| !cn.is_empty()),
        cipher: Some(openssl_name(tls.cipher).as_bytes()),
        sig_alg: None,
        key_alg: None,
    }
}

/// OpenSSL's name of a suite, by which proxies tell it: that of TLS 1.3 is IANA's.
fn openssl_name(cipher: &str) -> &str {
    match cipher {
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other,
    }
}

/// No TLS, and so no certificate that was shown and is good.
const PLAIN: Ssl<'static> = Ssl {
    client: 0,
    verify: 1,
    version: None,
    cn: None,
    cipher: None,
    sig_alg: None,
    key_alg: None,
};

#[cfg(test)]
mod tests {
    use weir_core::proxy::{Origin, Read, Version, read};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_asked_for_is_told() {
        let known = Known {
            client: at("192.0.2.7:40000"),
            server: Some(at("198.51.100.1:443")),
            told: None,
            sni: Some("a.example"),
            tls: None,
            id: b"id-1",
        };
        let mut out = ProxyOut {
            version: Version::V2,
            tlvs: ProxyTlvs::default(),
        };
        let bytes = header(&out, &known);
        let Ok(Read::Whole(plain)) = read(&bytes) else {
            panic!("{}", bytes.escape_ascii());
        };
        let addresses = Origin::Client {
            source: at("192.0.2.7:40000"),
            destination: at("198.51.100.1:443"),
        };
        assert_eq!((plain.origin, plain.tlvs), (addresses, Tlvs::NONE));
        out.tlvs = ProxyTlvs {
            alpn: true,
            authority: true,
            ssl: true,
            unique_id: true,
            crc32c: true,
        };
        let bytes = header(&out, &known);
        let Ok(Read::Whole(full)) = read(&bytes) else {
            panic!("{}", bytes.escape_ascii());
        };
        let told = Tlvs {
            authority: Some("a.example"),
            unique_id: Some(b"id-1"),
            ssl: Some(PLAIN),
            checked: true,
            ..Tlvs::NONE
        };
        assert_eq!(full.tlvs, told);
        let facts = TlsFacts {
            version: "1.2",
            cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            sni: "b.example".into(),
            alpn: (*b"h2").into(),
            resumed: false,
            client: None,
        };
        let ended = Known {
            sni: None,
            tls: Some(&facts),
            ..known
        };
        let bytes = header(&out, &ended);
        let Ok(Read::Whole(full)) = read(&bytes) else {
            panic!("{}", bytes.escape_ascii());
        };
        let own = Tlvs {
            alpn: Some(b"h2"),
            authority: Some("b.example"),
            ssl: Some(Ssl {
                client: ssl::CLIENT_SSL,
                verify: 1,
                version: Some(b"TLSv1.2"),
                cipher: Some(b"ECDHE-RSA-AES128-GCM-SHA256"),
                ..PLAIN
            }),
            ..told
        };
        assert_eq!(full.tlvs, own);
        out.version = Version::V1;
        assert_eq!(
            header(&out, &known),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
        );
    }
}
