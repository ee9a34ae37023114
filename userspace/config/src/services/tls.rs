//! `[services.NAME.tls]`: what TLS with clients is ended with.
//!
//! Owns the keys, and what of them fits together. What stands in the files is not judged here: they are read by whoever
//! loads (`tls_files`).

use weir_core::plan::{
    ClientAuthority, ClientCertificates, ClientHttp2, TextFile, Tls, TlsCertificate, UnknownNames,
};
use weir_tls::Policy;

use super::Files;
use crate::{
    keys,
    node::read_path,
    reader::{Cx, Table, Value},
    spoken,
    tls_files::{Judged, Part, TlsFile},
    words::quoted,
};

const NAME_CERTIFICATES: &str =
    "write certificates = [\"/etc/weir/www.pem\"], a file with the certificates and their key";

/// What clients are spoken to in behind TLS.
#[derive(Clone, Copy)]
pub(super) enum Inside {
    Tcp,
    Http(ClientHttp2),
}

/// What clients that speak `h2`, and those that speak `http/1.1`, are asked for by ALPN.
const HTTP2: &str = "h2";
const HTTP1: &str = "http/1.1";

pub(super) fn read(cx: &mut Cx, table: &Table<'_>, inside: Inside, files: &mut Files<'_>) -> Option<Tls> {
    let table = table.get("tls")?.table(cx, &keys::TLS)?;
    let certificates = read_certificates(cx, &table, files);
    let (spoken, groups_value) = spoken::read(cx, &table);
    let alpn = read_alpn(cx, &table, inside);
    let unknown_names = table.get("unknown_names").and_then(|value| {
        let words = [UnknownNames::Default, UnknownNames::Refuse].map(|names| (names.as_str(), names));
        value.choice(cx, &words, &[])
    });
    let ticket_keys = table
        .get("ticket_keys")
        .and_then(|value| files.tls(cx, &value, Part::TicketKeys));
    let ticket_keys = ticket_keys.map(|(text, named)| {
        files.judged.push(Judged::TicketKeys(named));
        text
    });
    let clients = read_clients(cx, &table, files);
    let tls = Tls {
        certificates,
        policy: spoken.policy,
        versions: spoken.versions,
        ciphers: spoken.ciphers,
        groups: spoken.groups,
        alpn,
        unknown_names: unknown_names.unwrap_or_default(),
        ticket_keys,
        clients,
    };
    // Versions and suites were judged where they stand.
    let without_ciphers = Tls {
        ciphers: None,
        ..tls.clone()
    };
    spoken::judge_groups(cx, groups_value.as_ref(), Policy::asked(&without_ciphers));
    Some(tls)
}

impl Files<'_> {
    /// A file that a value names.
    pub(crate) fn tls(&mut self, cx: &mut Cx, value: &Value<'_>, part: Part) -> Option<(TextFile, TlsFile)> {
        let path = read_path(cx, value)?;
        let text = self.tls.get(&path, part).unwrap_or_default().into();
        let named = TlsFile {
            path: path.clone(),
            part,
            at: value.at,
            key: value.path.clone(),
        };
        self.tls_named.push(named.clone());
        Some((TextFile { path, text }, named))
    }
}

fn read_certificates(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> Vec<TlsCertificate> {
    let Some(value) = table.require(cx, "certificates", NAME_CERTIFICATES) else {
        return Vec::new();
    };
    let Some(items) = value.array(cx) else {
        return Vec::new();
    };
    if items.is_empty() {
        value.mistake(cx, "is empty", NAME_CERTIFICATES);
    }
    let read = |item: &Value<'_>| read_certificate(cx, item, files);
    items.iter().filter_map(read).collect()
}

fn read_certificate(cx: &mut Cx, item: &Value<'_>, files: &mut Files<'_>) -> Option<TlsCertificate> {
    let (certificate, chain, key, ocsp) = certificate_files(cx, item, &keys::TLS_CERTIFICATE, files)?;
    files.judged.push(Judged::Certificate { chain, key, ocsp });
    Some(certificate)
}

/// A certificate, and its files: the chain's, the key's, that of what is stapled. They are not judged yet.
pub(crate) fn certificate_files(
    cx: &mut Cx,
    item: &Value<'_>,
    section: &'static keys::Section,
    files: &mut Files<'_>,
) -> Option<(TlsCertificate, TlsFile, TlsFile, Option<TlsFile>)> {
    if item.as_string().is_some() {
        return certificate(cx, item, item, None, files);
    }
    if !item.is_table() {
        item.mistake(
            cx,
            "has what is neither a path nor a table",
            "write \"/etc/weir/www.pem\", or { chain = \"/etc/weir/www.pem\", key = \"/etc/weir/www.key\" }",
        );
        return None;
    }
    let table = item.table(cx, section)?;
    let mend = "name the file of the certificate and those it was issued by";
    let chain = table.require(cx, "chain", mend)?;
    let key = table.get("key").unwrap_or_else(|| chain.clone());
    certificate(cx, &chain, &key, table.get("ocsp").as_ref(), files)
}

fn certificate(
    cx: &mut Cx,
    chain: &Value<'_>,
    key: &Value<'_>,
    ocsp: Option<&Value<'_>>,
    files: &mut Files<'_>,
) -> Option<(TlsCertificate, TlsFile, TlsFile, Option<TlsFile>)> {
    let (chain, chain_file) = files.tls(cx, chain, Part::Certificates)?;
    let (key, key_file) = files.tls(cx, key, Part::Key)?;
    let (ocsp, ocsp_file) = match ocsp {
        Some(value) => files.tls(cx, value, Part::Ocsp).unzip(),
        None => (None, None),
    };
    let certificate = TlsCertificate {
        chain,
        key: key.path,
        ocsp,
    };
    Some((certificate, chain_file, key_file, ocsp_file))
}

fn read_alpn(cx: &mut Cx, table: &Table<'_>, inside: Inside) -> Vec<String> {
    let Some(value) = table.get("alpn") else {
        return match inside {
            Inside::Tcp => Vec::new(),
            Inside::Http(http2) if http2.enabled => vec![HTTP2.to_owned(), HTTP1.to_owned()],
            Inside::Http(_) => vec![HTTP1.to_owned()],
        };
    };
    let mut alpn: Vec<String> = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(name) = item.string(cx) else { continue };
        let (what, mend) = match inside {
            Inside::Http(_) if name != HTTP2 && name != HTTP1 => (
                "which an http service does not speak",
                "write \"h2\" and \"http/1.1\", or one of them",
            ),
            Inside::Http(http2) if name == HTTP2 && !http2.enabled => {
                ("and http2.enabled is false", "remove one of the two")
            }
            // RFC 7301 section 3.1.
            Inside::Tcp if name.is_empty() || name.len() > 255 => {
                ("which is no protocol", "write names as in \"postgresql\"")
            }
            Inside::Tcp | Inside::Http(_) if alpn.iter().any(|known| known == name) => {
                ("which it has already", "remove one of them")
            }
            Inside::Tcp | Inside::Http(_) => {
                alpn.push(name.to_owned());
                continue;
            }
        };
        item.mistake(cx, format!("has {}, {what}", quoted(name)), mend);
    }
    alpn
}

#[derive(Clone, Copy)]
enum Clients {
    Off,
    Optional,
    Required,
}

fn read_clients(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> ClientCertificates {
    let asked = table.get("client_certificates").map(|value| {
        let words = [
            ("off", Clients::Off),
            ("optional", Clients::Optional),
            ("required", Clients::Required),
        ];
        value.choice(cx, &words, &[])
    });
    let meant = table.meant("client_certificates");
    let asked = match asked {
        // It can't be told what belongs to it.
        Some(None) => return ClientCertificates::Off,
        None if meant => return ClientCertificates::Off,
        Some(Some(asked)) => asked,
        None => Clients::Off,
    };
    if matches!(asked, Clients::Off) {
        table.refuse(
            cx,
            &["client_ca", "client_crl"],
            "has no effect: clients are not asked for certificates",
            "write client_certificates = \"required\" or \"optional\", or remove it",
        );
        return ClientCertificates::Off;
    }
    let mend = "name a PEM file of the certificates that issue those of clients";
    let Some(ca) = table.require(cx, "client_ca", mend) else {
        return ClientCertificates::Off;
    };
    let Some((ca, ca_file)) = files.tls(cx, &ca, Part::Certificates) else {
        return ClientCertificates::Off;
    };
    let (crl, crl_file) = match table.get("client_crl") {
        Some(value) => files.tls(cx, &value, Part::Revocations).unzip(),
        None => (None, None),
    };
    files.judged.push(Judged::Clients {
        ca: ca_file,
        crl: crl_file,
    });
    let authority = ClientAuthority { ca, crl };
    match asked {
        Clients::Required => ClientCertificates::Required(authority),
        Clients::Optional | Clients::Off => ClientCertificates::Optional(authority),
    }
}
