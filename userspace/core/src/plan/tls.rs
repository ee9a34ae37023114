//! How a service ends TLS (what it shows its clients, what it speaks, whom it lets in), and how a pool's backends are
//! spoken to over it.

use std::{path::PathBuf, sync::Arc};

/// `[services.NAME.tls]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// What clients are shown: by the name they ask for, and by what they can verify. The first is for those that ask for
    /// no name. Never empty.
    pub certificates: Vec<TlsCertificate>,
    /// What is spoken, as far as the following leave it open.
    pub policy: TlsPolicy,
    /// Versions. None: by the policy.
    pub versions: Option<Vec<TlsVersion>>,
    /// Cipher suites by the names that IANA has for them, best first. None: by the policy.
    pub ciphers: Option<Vec<&'static str>>,
    /// Key exchange groups by the names that IANA has for them. None: by the policy.
    pub groups: Option<Vec<&'static str>>,
    /// Protocols offered by ALPN, best first. Empty: none.
    pub alpn: Vec<String>,
    /// What becomes of a client that asks for a name which no certificate is for.
    pub unknown_names: UnknownNames,
    /// Keys of session tickets, shared with other boxes. None: keys of this process alone, which change by themselves.
    pub ticket_keys: Option<TextFile>,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
}

/// A certificate of a service. Its key is no part of the plan: only its place is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsCertificate {
    /// The certificate and those it was issued by, in PEM; nothing else of the file.
    pub chain: TextFile,
    /// The file of its private key.
    pub key: PathBuf,
    /// An OCSP response to be shown with it: DER, in base64.
    pub ocsp: Option<TextFile>,
}

/// A file that was read with the configuration. What follows from it is decided by its text, so that a change of the
/// file alone changes the plan.
#[derive(Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Its path.
    pub path: PathBuf,
    /// What stands in it. Empty: it was not read.
    pub text: Arc<str>,
}

impl std::fmt::Debug for TextFile {
    /// Without the text, which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextFile")
            .field("path", &self.path)
            .field("bytes", &self.text.len())
            .finish()
    }
}

/// What is spoken, by a name.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum TlsPolicy {
    /// TLS 1.2 with forward secrecy and AEAD, and TLS 1.3.
    #[default]
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

impl TlsPolicy {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intermediate => "intermediate",
            Self::Modern => "modern",
        }
    }

    /// The versions that it has.
    pub const fn versions(self) -> &'static [TlsVersion] {
        match self {
            Self::Intermediate => &[TlsVersion::Tls12, TlsVersion::Tls13],
            Self::Modern => &[TlsVersion::Tls13],
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// Cipher suites that there are, each with its version, in the order in which they are preferred.
pub const TLS_CIPHERS: [(&str, TlsVersion); 9] = [
    ("TLS_AES_256_GCM_SHA384", TlsVersion::Tls13),
    ("TLS_AES_128_GCM_SHA256", TlsVersion::Tls13),
    ("TLS_CHACHA20_POLY1305_SHA256", TlsVersion::Tls13),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TlsVersion::Tls12),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TlsVersion::Tls12),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TlsVersion::Tls12),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", TlsVersion::Tls12),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", TlsVersion::Tls12),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TlsVersion::Tls12),
];

/// Key exchange groups that there are, in the order in which they are preferred.
pub const TLS_GROUPS: [&str; 4] = ["X25519MLKEM768", "x25519", "secp256r1", "secp384r1"];

/// What becomes of a client that asks for a name which no certificate is for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum UnknownNames {
    /// It gets the first certificate.
    #[default]
    Default,
    /// The handshake is refused.
    Refuse,
}

impl UnknownNames {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Refuse => "refuse",
        }
    }
}

/// Whether clients show certificates.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// They are not asked to.
    #[default]
    Off,
    /// They are asked to. One that has none is served, as is one whose certificate does not hold: rules and backends are
    /// told.
    Optional(ClientAuthority),
    /// Only those that show one which holds are served.
    Required(ClientAuthority),
}

impl ClientCertificates {
    /// As in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional(_) => "optional",
            Self::Required(_) => "required",
        }
    }

    /// By whom certificates are judged. None: there are none.
    pub const fn authority(&self) -> Option<&ClientAuthority> {
        match self {
            Self::Off => None,
            Self::Optional(authority) | Self::Required(authority) => Some(authority),
        }
    }
}

/// By whom clients' certificates are judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientAuthority {
    /// Who issues them: certificates in PEM.
    pub ca: TextFile,
    /// What was revoked: lists in PEM.
    pub crl: Option<TextFile>,
}

/// `[pools.NAME.tls]`: how the relay speaks TLS with a pool's backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendTls {
    /// Whom a backend's certificate must be from.
    pub trust: BackendTrust,
    /// The name that is asked for by SNI, and that the certificate must be for. None: no name is asked for, and it must be
    /// for the backend's address.
    pub server_name: Option<String>,
    /// Protocols offered by ALPN, best first; none are where this is empty. `h2` alone where backends are spoken to in
    /// HTTP/2.
    pub alpn: Vec<String>,
    /// What weir shows backends that ask for a client's certificate.
    pub certificate: Option<TlsCertificate>,
    /// What is spoken, as far as the following leave it open.
    pub policy: TlsPolicy,
    /// Versions. None: by the policy.
    pub versions: Option<Vec<TlsVersion>>,
    /// Cipher suites by the names that IANA has for them, best first. None: by the policy.
    pub ciphers: Option<Vec<&'static str>>,
    /// Key exchange groups by the names that IANA has for them. None: by the policy.
    pub groups: Option<Vec<&'static str>>,
}

/// Whom a backend's certificate must be from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendTrust {
    /// An authority that the system has among its own.
    System,
    /// One of these, in PEM.
    Authorities(TextFile),
    /// Whomever: nothing of it is looked at.
    Anybody,
}

impl BackendTrust {
    /// The file of authorities, where there is one.
    pub const fn authorities(&self) -> Option<&TextFile> {
        match self {
            Self::Authorities(file) => Some(file),
            Self::System | Self::Anybody => None,
        }
    }
}
