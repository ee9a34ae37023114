//! What a client's certificate says: the facts that headers, routes and logs ask for.
//!
//! Owns their forms. Reads the certificate once, and works out each fact when it is asked for. Never trusts it: whether
//! it is verified is [`ClientAuth::verdict`](crate::ClientAuth::verdict)'s to say.

use std::{fmt::Write, net::IpAddr};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::Oid,
    certificate::X509Certificate,
    oid_registry as oid,
    prelude::{FromDer, GeneralName},
    x509::{AttributeTypeAndValue, X509Name},
};

use crate::key::sha256;

/// A client's certificate, read. Texts are UTF-8 and may hold anything that whoever made the certificate liked: they
/// are escaped where they go.
#[derive(Debug)]
pub struct Peer<'a> {
    der: &'a [u8],
    read: X509Certificate<'a>,
}

impl<'a> Peer<'a> {
    /// Reads the certificate that a client has shown. None: it can't be read.
    pub fn read(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        match X509Certificate::from_der(certificate) {
            Ok(([], read)) => Some(Self {
                der: certificate.as_ref(),
                read,
            }),
            Ok(_) | Err(_) => None,
        }
    }

    /// The subject as RFC 4514 writes it: last element first, `CN=client,O=Example`.
    pub fn subject(&self) -> String {
        dn(self.read.subject())
    }

    /// The issuer in the same form.
    pub fn issuer(&self) -> String {
        dn(self.read.issuer())
    }

    /// The subject with slashes, first element first: `/O=Example/CN=client`.
    pub fn subject_slashes(&self) -> String {
        slashes(self.read.subject())
    }

    /// The issuer in the same form.
    pub fn issuer_slashes(&self) -> String {
        slashes(self.read.issuer())
    }

    /// The last common name of the subject: the most specific one.
    pub fn common_name(&self) -> Option<String> {
        self.read.subject().iter_common_name().last().map(text)
    }

    /// The alternative names, each with its kind: `DNS:client.example`, `IP:192.0.2.1`, `email:a@example`, `URI:...`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "other kinds have no text")]
    pub fn alternative_names(&self) -> Vec<String> {
        let Ok(Some(names)) = self.read.subject_alternative_name() else {
            return Vec::new();
        };
        let one = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
            GeneralName::URI(name) => Some(format!("URI:{name}")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| format!("IP:{ip}")),
            GeneralName::DirectoryName(name) => Some(format!("DirName:{}", dn(name))),
            _ => None,
        };
        names.value.general_names.iter().filter_map(one).collect()
    }

    /// The serial number in upper-case hexadecimal, as openssl shows it.
    pub fn serial(&self) -> String {
        let bytes = self.read.raw_serial();
        let bytes = match bytes {
            [0, rest @ ..] if !rest.is_empty() => rest,
            all => all,
        };
        hex(bytes).to_ascii_uppercase()
    }

    /// The SHA-256 of the whole certificate, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        hex(&sha256(self.der))
    }

    /// The beginning of its validity, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.read.validity().not_before.timestamp()
    }

    /// The end of its validity, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.read.validity().not_after.timestamp()
    }

    /// The certificate itself. RFC 9440 and others send it in base64.
    pub fn der(&self) -> &'a [u8] {
        self.der
    }

    /// The value of an extension, by the dotted numbers of its OID: its text if it is a string of ASN.1, else its
    /// DER in hexadecimal. None: it has none such, or that is no OID.
    pub fn extension(&self, oid: &str) -> Option<String> {
        let wanted = parse_oid(oid)?;
        let found = self.read.extensions().iter().find(|e| e.oid == wanted)?;
        Some(value(found.value))
    }
}

/// Whether a text is an OID in dotted numbers.
pub fn is_oid(text: &str) -> bool {
    parse_oid(text).is_some()
}

/// The OID of dotted numbers.
fn parse_oid(text: &str) -> Option<Oid<'static>> {
    let arcs: Vec<u64> = text
        .split('.')
        .map(|arc| {
            arc.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| arc.parse().ok())?
        })
        .collect::<Option<_>>()?;
    let [first, second, ..] = arcs.as_slice() else {
        return None;
    };
    // X.660: three arcs at the root, and forty below the first two.
    if *first > 2 || (*first < 2 && *second > 39) {
        return None;
    }
    Oid::from(&arcs).ok()
}

/// The text of an extension's value, or its bytes in hexadecimal.
fn value(der: &[u8]) -> String {
    use x509_parser::asn1_rs::{Any, Tag};
    if let Ok(([], any)) = Any::from_der(der)
        && matches!(
            any.tag(),
            Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString
        )
        && let Ok(text) = std::str::from_utf8(any.data)
    {
        return text.to_owned();
    }
    hex(der)
}

/// An address in an alternative name: 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A name as RFC 4514 writes it.
pub(crate) fn dn(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let elements: Vec<_> = name.iter().collect();
    for (at, element) in elements.into_iter().rev().enumerate() {
        if at > 0 {
            out.push(',');
        }
        for (at, attribute) in element.iter().enumerate() {
            if at > 0 {
                out.push('+');
            }
            out.push_str(&key(attribute));
            out.push('=');
            escape(&text(attribute), &mut out);
        }
    }
    out
}

/// A name as `openssl x509 -nameopt compat` writes it. What divides parts is escaped in a value, so that nobody can be taken
/// for another.
fn slashes(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    for element in name.iter() {
        for (at, attribute) in element.iter().enumerate() {
            out.push(if at > 0 { '+' } else { '/' });
            out.push_str(&key(attribute));
            out.push('=');
            for c in text(attribute).chars() {
                if matches!(c, '/' | '+' | '\\') {
                    out.push('\\');
                }
                control(c, &mut out);
            }
        }
    }
    out
}

/// RFC 4514, 2.4.
fn escape(value: &str, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (at == 0 && matches!(c, ' ' | '#'))
            || (at == last && c == ' ');
        if special {
            out.push('\\');
        }
        control(c, out);
    }
}

/// Control characters never go out as they are: headers and logs are lines.
fn control(c: char, out: &mut String) {
    if c.is_control() {
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            let _ = write!(out, "\\{byte:02X}");
        }
    } else {
        out.push(c);
    }
}

/// The short name of an attribute's type, or its OID (RFC 4514, 2.3).
fn key(attribute: &AttributeTypeAndValue<'_>) -> String {
    let names = [
        (oid::OID_X509_COMMON_NAME, "CN"),
        (oid::OID_X509_LOCALITY_NAME, "L"),
        (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid::OID_X509_ORGANIZATION_NAME, "O"),
        (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid::OID_X509_COUNTRY_NAME, "C"),
        (oid::OID_X509_STREET_ADDRESS, "STREET"),
        (oid::OID_DOMAIN_COMPONENT, "DC"),
        (oid::OID_USERID, "UID"),
        (oid::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
        (oid::OID_X509_SERIALNUMBER, "serialNumber"),
    ];
    names
        .iter()
        .find(|(oid, _)| oid == attribute.attr_type())
        .map_or_else(
            || attribute.attr_type().to_id_string(),
            |(_, name)| (*name).to_owned(),
        )
}

/// The text of an attribute. What is no string is shown as `#` and its bytes (RFC 4514, 2.4).
fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    use x509_parser::asn1_rs::Tag;
    let value = attribute.attr_value();
    match value.tag() {
        Tag::BmpString => String::from_utf16_lossy(
            &value
                .data
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |unit, byte| (unit << 8) | u16::from(*byte)))
                .collect::<Vec<_>>(),
        ),
        Tag::T61String => value.data.iter().map(|byte| char::from(*byte)).collect(),
        _ => match std::str::from_utf8(value.data) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("#{}", hex(value.data)),
        },
    }
}

#[cfg(test)]
mod tests;
