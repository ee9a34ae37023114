//! The TLVs of version 2 (section 2.2.1 and on): what a proxy tells besides the addresses.
//!
//! Known are those that say something of the connection. Others are skipped, but have to be well-formed.

use super::{Malformed, crc32c::Crc32c};

/// Types, section 2.2.
pub(super) mod kind {
    pub(in crate::proxy) const ALPN: u8 = 0x01;
    pub(in crate::proxy) const AUTHORITY: u8 = 0x02;
    pub(in crate::proxy) const CRC32C: u8 = 0x03;
    pub(in crate::proxy) const NOOP: u8 = 0x04;
    pub(in crate::proxy) const UNIQUE_ID: u8 = 0x05;
    pub(in crate::proxy) const SSL: u8 = 0x20;
}

/// Types within the TLV `SSL`, and its flags.
pub mod ssl {
    /// The client came over TLS.
    pub const CLIENT_SSL: u8 = 0x01;
    /// It showed a certificate on this connection.
    pub const CERT_CONN: u8 = 0x02;
    /// It showed one at least once in the session.
    pub const CERT_SESS: u8 = 0x04;

    pub(in crate::proxy) const VERSION: u8 = 0x21;
    pub(in crate::proxy) const CN: u8 = 0x22;
    pub(in crate::proxy) const CIPHER: u8 = 0x23;
    pub(in crate::proxy) const SIG_ALG: u8 = 0x24;
    pub(in crate::proxy) const KEY_ALG: u8 = 0x25;
}

/// Longest unique id.
pub(super) const UNIQUE_ID_MAX: usize = 128;

/// Longest name of a host (RFC 1035 section 2.3.4).
pub(super) const AUTHORITY_MAX: usize = 255;

/// What was told besides the addresses. An empty value counts as one that is there.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tlvs<'a> {
    /// The application's protocol, as ALPN names it: `h2`.
    pub alpn: Option<&'a [u8]>,
    /// The host that the client asked for, by SNI for example. Nothing but what host names are made of.
    pub authority: Option<&'a str>,
    /// The connection's id: any bytes, up to 128.
    pub unique_id: Option<&'a [u8]>,
    /// What is known of the client's TLS.
    pub ssl: Option<Ssl<'a>>,
    /// There was a checksum, and it is right.
    pub checked: bool,
}

/// The TLV `SSL` (section 2.2.5). Its texts are US-ASCII in practice, but nothing assures it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ssl<'a> {
    /// [`ssl::CLIENT_SSL`] and the others.
    pub client: u8,
    /// 0: a certificate was shown and is good.
    pub verify: u32,
    /// As in `TLSv1.3`.
    pub version: Option<&'a [u8]>,
    /// The common name of the certificate's subject.
    pub cn: Option<&'a [u8]>,
    /// The cipher, as in `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: Option<&'a [u8]>,
    /// How the proxy's own certificate is signed.
    pub sig_alg: Option<&'a [u8]>,
    /// The key of the proxy's own certificate.
    pub key_alg: Option<&'a [u8]>,
}

impl<'a> Tlvs<'a> {
    /// Nothing was told.
    pub const NONE: Self = Self {
        alpn: None,
        authority: None,
        unique_id: None,
        ssl: None,
        checked: false,
    };

    /// Reads the TLVs of a header; `header` is all of it, for the checksum.
    pub(super) fn new(block: &'a [u8], header: &'a [u8]) -> Result<Self, Malformed> {
        let mut tlvs = Self::NONE;
        let mut rest = block;
        while let Some(Tlv { kind, value, behind }) = next(rest)? {
            match kind {
                kind::ALPN => once(&mut tlvs.alpn, value)?,
                kind::AUTHORITY => once(&mut tlvs.authority, host(value)?)?,
                kind::UNIQUE_ID if value.len() > UNIQUE_ID_MAX => return Err(Malformed::UniqueId),
                kind::UNIQUE_ID => once(&mut tlvs.unique_id, value)?,
                kind::SSL => once(&mut tlvs.ssl, Ssl::new(value)?)?,
                kind::CRC32C if tlvs.checked => return Err(Malformed::TlvTwice),
                kind::CRC32C => {
                    let at = header.len() - behind.len() - value.len();
                    check(header, at, value)?;
                    tlvs.checked = true;
                }
                kind::NOOP => {}
                // What has a meaning to others only.
                _ => {}
            }
            rest = behind;
        }
        Ok(tlvs)
    }
}

impl<'a> Ssl<'a> {
    fn new(block: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, mut rest) = block.split_first_chunk::<5>().ok_or(Malformed::Tlv)?;
        let [client, a, b, c, d] = *fixed;
        let mut read = Self {
            client,
            verify: u32::from_be_bytes([a, b, c, d]),
            ..Self::default()
        };
        while let Some(Tlv { kind, value, behind }) = next(rest)? {
            match kind {
                ssl::VERSION => once(&mut read.version, value)?,
                ssl::CN => once(&mut read.cn, value)?,
                ssl::CIPHER => once(&mut read.cipher, value)?,
                ssl::SIG_ALG => once(&mut read.sig_alg, value)?,
                ssl::KEY_ALG => once(&mut read.key_alg, value)?,
                _ => {}
            }
            rest = behind;
        }
        Ok(read)
    }

    /// Whether the client came over TLS.
    pub const fn is_tls(&self) -> bool {
        self.client & ssl::CLIENT_SSL != 0
    }
}

/// One of them, and what follows it.
struct Tlv<'a> {
    kind: u8,
    value: &'a [u8],
    behind: &'a [u8],
}

/// The first one. None: there is none.
fn next(bytes: &[u8]) -> Result<Option<Tlv<'_>>, Malformed> {
    match bytes {
        [] => Ok(None),
        &[kind, high, low, ref rest @ ..] => {
            let len = usize::from(u16::from_be_bytes([high, low]));
            let (value, behind) = rest.split_at_checked(len).ok_or(Malformed::Tlv)?;
            Ok(Some(Tlv { kind, value, behind }))
        }
        [..] => Err(Malformed::Tlv),
    }
}

/// What is told twice may differ, and then each reader would believe another.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::TlvTwice),
    }
}

/// It goes into logs and rules, so it has to be what a host name is made of.
fn host(value: &[u8]) -> Result<&str, Malformed> {
    let is_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    let is_host = !value.is_empty() && value.len() <= AUTHORITY_MAX && value.iter().all(is_name);
    let text = std::str::from_utf8(value).ok();
    text.filter(|_| is_host).ok_or(Malformed::Authority)
}

/// Checks the sum of the whole header, the sum's own four bytes at `at` taken for zero (section 2.2.3).
fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let told = u32::from_be_bytes(value.try_into().map_err(|_| Malformed::Tlv)?);
    let before = header.get(..at).unwrap_or_default();
    let behind = header.get(at + value.len()..).unwrap_or_default();
    let sum = Crc32c::NEW.add(before).add(&[0; 4]).add(behind).finish();
    if sum == told {
        Ok(())
    } else {
        Err(Malformed::Checksum)
    }
}
