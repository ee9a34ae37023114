//! Private keys as they stand in a file, and what names a key without telling it.
//!
//! Owns reading and judging a key. Keeps no copy of what it was read from.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use rustls::{
    SignatureScheme,
    pki_types::{
        PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::SigningKey,
};
use x509_parser::{
    asn1_rs::{Any, FromDer as _, Tag},
    oid_registry as oid,
    public_key::PublicKey,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use crate::mistake::Mistake;

/// Shorter RSA keys are refused: NIST SP 800-131A, and what browsers accept.
pub(crate) const LEAST_RSA_BITS: usize = 2048;
/// Longer RSA keys are refused: what aws-lc signs with, and what bounds a signature's size.
pub(crate) const MOST_RSA_BITS: usize = 8192;

/// What names a key: the SHA-256 of its public half (SubjectPublicKeyInfo, RFC 5280, 4.1.2.7). A certificate and a key
/// belong together if it is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// From its display. None: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in id.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(id))
    }

    /// Of a public key in DER.
    pub fn of(public: &[u8]) -> Self {
        Self(sha256(public))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The kind of a key, as far as it decides who can verify with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// RSA, of so many bits.
    Rsa(usize),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("ECDSA P-256"),
            Self::P384 => f.write_str("ECDSA P-384"),
            Self::P521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

impl KeyKind {
    /// The schemes that such a key signs by, best first (RFC 8446, 4.2.3). PKCS#1 is for TLS 1.2 only.
    pub(crate) fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Self::Rsa(_) => &[
                SignatureScheme::RSA_PSS_SHA512,
                SignatureScheme::RSA_PSS_SHA384,
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA512,
                SignatureScheme::RSA_PKCS1_SHA384,
                SignatureScheme::RSA_PKCS1_SHA256,
            ],
            Self::P256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Self::P384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            Self::P521 => &[SignatureScheme::ECDSA_NISTP521_SHA512],
            Self::Ed25519 => &[SignatureScheme::ED25519],
        }
    }

    /// The kind of a public key.
    ///
    /// # Errors
    /// One that is weak, or that this crate does not sign with.
    pub(crate) fn of(public: &SubjectPublicKeyInfo<'_>) -> Result<Self, Mistake> {
        let algorithm = &public.algorithm;
        let unsupported = || Mistake::UnsupportedKey(algorithm.algorithm.to_id_string());
        let kind = if algorithm.algorithm == oid::OID_PKCS1_RSAENCRYPTION {
            match public.parsed() {
                Ok(PublicKey::RSA(key)) => Self::Rsa(bits(key.modulus)),
                Ok(_) | Err(_) => return Err(unsupported()),
            }
        } else if algorithm.algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve.ok_or_else(|| Mistake::UnsupportedKey("a curve without a name".to_owned()))? {
                curve if curve == oid::OID_EC_P256 => Self::P256,
                curve if curve == oid::OID_NIST_EC_P384 => Self::P384,
                curve if curve == oid::asn1_rs::oid!(1.3.132.0.35) => Self::P521,
                curve => return Err(Mistake::UnsupportedKey(format!("curve {}", curve.to_id_string()))),
            }
        } else if algorithm.algorithm == oid::OID_SIG_ED25519 {
            Self::Ed25519
        } else {
            return Err(unsupported());
        };
        match kind {
            Self::Rsa(bits) if bits < LEAST_RSA_BITS => Err(Mistake::Weak { kind }),
            Self::Rsa(bits) if bits > MOST_RSA_BITS => Err(Mistake::UnsupportedKey(kind.to_string())),
            Self::Rsa(_) | Self::P256 | Self::P384 | Self::P521 | Self::Ed25519 => Ok(kind),
        }
    }
}

/// The bits of a number in big-endian bytes.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number
        .get(zeros)
        .map_or(0, |byte| 8 - byte.leading_zeros() as usize);
    (number.len() - zeros).saturating_sub(1) * 8 + first
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// A private key, ready to sign. Not displayed, not cloned into bytes again.
#[derive(Clone, Debug)]
pub struct PrivateKey {
    id: KeyId,
    kind: KeyKind,
    signing: Arc<dyn SigningKey>,
}

impl PrivateKey {
    /// Reads the one key of a PEM text: PKCS#8, PKCS#1 or SEC 1. What was decoded on the way is zeroed.
    ///
    /// # Errors
    /// No key, several, an encrypted one, a weak one, or one of a kind that is not supported.
    pub fn read(text: &[u8]) -> Result<Self, Mistake> {
        let mut keys = PrivateKeyDer::pem_slice_iter(text);
        let wanted = "a private key";
        let mut der = match keys.next() {
            Some(der) => der.map_err(|e| Mistake::Pem(e.to_string()))?,
            None if contains(text, b"ENCRYPTED PRIVATE KEY") => {
                return Err(Mistake::UnsupportedKey("an encrypted one".to_owned()));
            }
            None => return Err(Mistake::Nothing { wanted }),
        };
        let read = match keys.next() {
            Some(another) => {
                if let Ok(mut another) = another {
                    zero(&mut another);
                }
                Err(Mistake::Several {
                    wanted: "one private key",
                })
            }
            None => Self::from_der(&der),
        };
        zero(&mut der);
        read
    }

    /// Reads all keys of a PEM text: those that were taken from files, one after the other.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for their number.
    pub fn read_all(text: &[u8]) -> Result<Vec<Self>, Mistake> {
        let read = |der: Result<PrivateKeyDer<'static>, _>| {
            let mut der = der.map_err(|e: pem::Error| Mistake::Pem(e.to_string()))?;
            let read = Self::from_der(&der);
            zero(&mut der);
            read
        };
        PrivateKeyDer::pem_slice_iter(text).map(read).collect()
    }

    /// The block of a PEM text that is its private key, with a line's end after it: what is handed on, and nothing else
    /// of the file. None: there is none.
    pub fn block(text: &[u8]) -> Option<&[u8]> {
        let mut begin = None;
        let mut at = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let start = at;
            at += line.len();
            let line = line.trim_ascii();
            if !line.ends_with(b"PRIVATE KEY-----") {
                continue;
            }
            match begin {
                None if line.starts_with(b"-----BEGIN ") => begin = Some(start),
                Some(begin) if line.starts_with(b"-----END ") => return text.get(begin..at),
                None | Some(_) => {}
            }
        }
        None
    }

    fn from_der(der: &PrivateKeyDer<'_>) -> Result<Self, Mistake> {
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(der).map_err(|_| unusable(der))?;
        let public = signing
            .public_key()
            .ok_or_else(|| Mistake::UnsupportedKey("its public half can't be told".to_owned()))?;
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&public)
            .map_err(|e| Mistake::UnsupportedKey(format!("its public half: {e}")))?;
        let kind = KeyKind::of(&parsed)?;
        let id = KeyId::of(&public);
        Ok(Self { id, kind, signing })
    }

    /// What names it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Its kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// What signs with it.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.signing)
    }
}

/// What keeps aws-lc from using a key: of RSA, mostly its size.
fn unusable(der: &PrivateKeyDer<'_>) -> Mistake {
    let bits = if let PrivateKeyDer::Pkcs1(key) = der {
        rsa_bits(key.secret_pkcs1_der())
    } else if let PrivateKeyDer::Pkcs8(key) = der {
        rsa_bits_within(key.secret_pkcs8_der())
    } else {
        None
    };
    match bits {
        Some(bits) if bits < LEAST_RSA_BITS => Mistake::Weak {
            kind: KeyKind::Rsa(bits),
        },
        Some(bits) => Mistake::UnsupportedKey(KeyKind::Rsa(bits).to_string()),
        None => Mistake::UnsupportedKey("it can't be read as RSA, ECDSA or Ed25519".to_owned()),
    }
}

/// RSAPrivateKey ::= SEQUENCE { version, modulus, ... } (RFC 8017, A.1.2).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let (_, key) = Any::from_der(der).ok()?;
    let (rest, _version) = Any::from_der(key.data).ok()?;
    let (_, modulus) = Any::from_der(rest).ok()?;
    (modulus.tag() == Tag::Integer).then(|| bits(modulus.data))
}

/// PrivateKeyInfo ::= SEQUENCE { version, algorithm, privateKey OCTET STRING, ... } (RFC 5208, 5).
fn rsa_bits_within(der: &[u8]) -> Option<usize> {
    let (_, info) = Any::from_der(der).ok()?;
    let (rest, _version) = Any::from_der(info.data).ok()?;
    let (rest, algorithm) = AlgorithmIdentifier::from_der(rest).ok()?;
    let (_, key) = Any::from_der(rest).ok()?;
    (algorithm.algorithm == oid::OID_PKCS1_RSAENCRYPTION).then(|| rsa_bits(key.data))?
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Overwrites a decoded key.
fn zero(der: &mut PrivateKeyDer<'static>) {
    use zeroize::Zeroize;
    der.zeroize();
}

#[cfg(test)]
mod tests;
