//! What a process without keys and the one with them say to each other: one request a packet, one answer a packet.
//!
//! Owns both forms and their limits, and what is signed at all: what a server or a client signs in a handshake, so that a
//! relay in the wrong hands gets no signature that means something elsewhere. Numbers are big-endian.
//!
//! ```text
//! request: version (1) | number (4) | key (32) | scheme (2) | what is to be signed (1 to 32768)
//! answer:  version (1) | number (4) | status (1) | the signature if the status is 0 (1 to 1024)
//! ```

use rustls::SignatureScheme;

use crate::key::KeyId;

const VERSION: u8 = 1;
/// Bytes before what is to be signed.
const HEAD: usize = 1 + 4 + 32 + 2;
/// Longest thing to sign. TLS 1.3's has 162 bytes at most (RFC 8446, 4.4.3), that of a server in TLS 1.2 201 with the groups
/// there are. A client in TLS 1.2 signs all that was said of the handshake, with both chains of certificates.
const MOST_TO_SIGN: usize = 32 << 10;
/// Longest signature: RSA of 8192 bits.
const MOST_SIGNATURE: usize = 1024;
/// Longest request, in bytes. A packet that is longer is none.
pub(crate) const MOST_REQUEST: usize = HEAD + MOST_TO_SIGN;
/// Longest answer, in bytes.
pub(crate) const MOST_ANSWER: usize = 1 + 4 + 1 + MOST_SIGNATURE;

/// A wish for a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request<'a> {
    /// Which answer belongs to it.
    pub(crate) number: u32,
    pub(crate) key: KeyId,
    pub(crate) scheme: SignatureScheme,
    pub(crate) message: &'a [u8],
}

impl<'a> Request<'a> {
    /// None: it is too long to be signed.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        if self.message.is_empty() || self.message.len() > MOST_TO_SIGN {
            return None;
        }
        let mut packet = Vec::with_capacity(HEAD + self.message.len());
        packet.push(VERSION);
        packet.extend_from_slice(&self.number.to_be_bytes());
        packet.extend_from_slice(&self.key.0);
        packet.extend_from_slice(&u16::from(self.scheme).to_be_bytes());
        packet.extend_from_slice(self.message);
        Some(packet)
    }

    /// None: it is none.
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (head, message) = packet.split_first_chunk::<HEAD>()?;
        if message.is_empty() || message.len() > MOST_TO_SIGN {
            return None;
        }
        let (version, head) = head.split_first()?;
        let (number, head) = head.split_first_chunk()?;
        let (key, head) = head.split_first_chunk()?;
        let scheme = head.first_chunk()?;
        (*version == VERSION).then_some(Self {
            number: u32::from_be_bytes(*number),
            key: KeyId(*key),
            scheme: u16::from_be_bytes(*scheme).into(),
            message,
        })
    }
}

/// Why nothing was signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The key is not here.
    NoKey = 1,
    /// The key does not sign by this scheme.
    Scheme = 2,
    /// It is nothing that is signed in a handshake.
    Message = 3,
    /// Signing failed.
    Failed = 4,
}

impl Refusal {
    pub(crate) const ALL: [Self; 4] = [Self::NoKey, Self::Scheme, Self::Message, Self::Failed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoKey => "the keys process does not have the key",
            Self::Scheme => "the key does not sign by that scheme",
            Self::Message => "the keys process does not sign such a thing",
            Self::Failed => "signing failed",
        }
    }
}

/// What a request is answered with.
pub(crate) type Verdict<'a> = Result<&'a [u8], Refusal>;

/// An answer's packet. A signature that is too long becomes a failure: there is none such.
pub(crate) fn encode_answer(number: u32, verdict: Verdict<'_>) -> Vec<u8> {
    let verdict = match verdict {
        Ok(signature) if signature.is_empty() || signature.len() > MOST_SIGNATURE => Err(Refusal::Failed),
        other => other,
    };
    let mut packet = Vec::with_capacity(MOST_ANSWER);
    packet.push(VERSION);
    packet.extend_from_slice(&number.to_be_bytes());
    match verdict {
        Ok(signature) => {
            packet.push(0);
            packet.extend_from_slice(signature);
        }
        Err(refusal) => packet.push(refusal as u8),
    }
    packet
}

/// Number and verdict of an answer. None: it is none.
pub(crate) fn decode_answer(packet: &[u8]) -> Option<(u32, Verdict<'_>)> {
    let (version, rest) = packet.split_first()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (status, signature) = rest.split_first()?;
    let verdict = match status {
        0 if !signature.is_empty() && signature.len() <= MOST_SIGNATURE => Ok(signature),
        0 => return None,
        status if signature.is_empty() => Err(*Refusal::ALL.iter().find(|r| **r as u8 == *status)?),
        _ => return None,
    };
    (*version == VERSION).then_some((u32::from_be_bytes(*number), verdict))
}

/// Whether it is what a server or a client signs in a handshake.
pub(crate) fn is_of_a_handshake(message: &[u8]) -> bool {
    is_tls13(message) || is_tls12(message) || is_tls12_of_client(message)
}

/// RFC 8446, 4.4.3: 64 spaces, the context, a zero, a hash of 32 or 48 bytes.
fn is_tls13(message: &[u8]) -> bool {
    let contexts: [&[u8]; 2] = [
        b"TLS 1.3, server CertificateVerify\0",
        b"TLS 1.3, client CertificateVerify\0",
    ];
    let Some(rest) = message.strip_prefix(&[b' '; 64]) else {
        return false;
    };
    contexts
        .iter()
        .filter_map(|context| rest.strip_prefix(*context))
        .any(|hash| matches!(hash.len(), 32 | 48))
}

/// RFC 5246, 7.4.8: the messages of the handshake so far, whole and in their order, from the ClientHello to the
/// ClientKeyExchange; each a type, a length of three bytes and so many bytes.
fn is_tls12_of_client(message: &[u8]) -> bool {
    const CLIENT_HELLO: u8 = 1;
    const SERVER_HELLO: u8 = 2;
    const CERTIFICATE: u8 = 11;
    const CERTIFICATE_REQUEST: u8 = 13;
    const SERVER_HELLO_DONE: u8 = 14;
    const CLIENT_KEY_EXCHANGE: u8 = 16;
    let mut kinds = Vec::new();
    let mut rest = message;
    while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk() {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let Some((_, next)) = body.split_at_checked(length) else {
            return false;
        };
        kinds.push(kind);
        rest = next;
    }
    rest.is_empty()
        && kinds.starts_with(&[CLIENT_HELLO, SERVER_HELLO])
        && kinds.contains(&CERTIFICATE_REQUEST)
        && kinds.ends_with(&[SERVER_HELLO_DONE, CERTIFICATE, CLIENT_KEY_EXCHANGE])
}

/// RFC 8422, 5.4: both randoms, then a named curve that is offered here, and a point of it: ServerECDHParams. The less of
/// it is free, the less else can pass for it: a certificate is not this short and has no such bytes where it must.
fn is_tls12(message: &[u8]) -> bool {
    let Some((_randoms, parameters)) = message.split_first_chunk::<64>() else {
        return false;
    };
    match parameters {
        // x25519
        [3, 0, 29, 32, point @ ..] => point.len() == 32,
        // secp256r1 and secp384r1, whose points are uncompressed.
        [3, 0, 23, 65, 4, point @ ..] => point.len() == 64,
        [3, 0, 24, 97, 4, point @ ..] => point.len() == 96,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
