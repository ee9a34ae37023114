//! Reading a TLS ClientHello that is only passed on: which name it asks for (SNI, RFC 6066 section 3) and which protocols
//! it offers (ALPN, RFC 7301 section 3.1), for rules to choose a pool by.
//!
//! Owns records, the handshake message and these two extensions, bounded and strict. Sans-IO: it is given all that has
//! come so far, and says whether that is a whole hello. Never judges versions, ciphers and keys: that is the backend's,
//! and what a TLS library would refuse (or has no name for yet) is still to be passed on. That is why it is none.
//!
//! ```text
//!  record (RFC 8446 section 5.1):  22 · version (2) · length (2) · part of ↓
//!  message (section 4):            1 · length (3) · version (2) · random (32) · session id · suites · compression · extensions
//! ```

use std::borrow::Cow;

/// Most bytes that are looked at, the heads of records included.
pub const MAX: usize = 16 << 10;

/// Most records that a hello may come in.
const MAX_RECORDS: usize = 256;

const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;

/// What bytes from the start of a connection are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// A ClientHello, whole.
    Whole(Hello),
    /// The beginning of one: there has to come more.
    Partial,
}

/// What of a ClientHello rules look at.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The name that is asked for, in small letters. Nothing but what host names are made of.
    pub sni: Option<String>,
    /// The list of protocols that are offered, as it came: each behind a byte of its length.
    alpn: Vec<u8>,
}

impl Hello {
    /// The protocols that are offered, in the client's order.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.alpn.as_slice();
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first()?;
            let (one, behind) = behind.split_at_checked(usize::from(*len))?;
            rest = behind;
            Some(one)
        })
    }
}

/// Why bytes are no ClientHello, or none that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoHello {
    /// They are no TLS at all.
    NotTls,
    /// A record that is empty, too long, or of another kind within the message.
    Record,
    /// More than [`MAX`] bytes, or too many records.
    TooLarge,
    /// Another message of a handshake.
    Message,
    /// A part that goes beyond the message, or bytes that belong to none.
    Form,
    /// An extension that is there twice.
    Twice,
    /// A name that is none.
    Name,
    /// A list of protocols that is none.
    Protocols,
}

impl NoHello {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::NotTls,
        Self::Record,
        Self::TooLarge,
        Self::Message,
        Self::Form,
        Self::Twice,
        Self::Name,
        Self::Protocols,
    ];

    /// What is wrong, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "no TLS",
            Self::Record => "bad record before the end of the ClientHello",
            Self::TooLarge => "ClientHello too large",
            Self::Message => "another message than a ClientHello",
            Self::Form => "malformed ClientHello",
            Self::Twice => "extension twice in ClientHello",
            Self::Name => "malformed server name in ClientHello",
            Self::Protocols => "malformed protocol list in ClientHello",
        }
    }
}

/// Reads what has come since the connection began, at most [`MAX`] bytes.
///
/// # Errors
/// It can't become a ClientHello that is taken. That is told as soon as it shows.
pub fn read(bytes: &[u8]) -> Result<Read, NoHello> {
    let Some(message) = message(bytes)? else {
        return match bytes.len() {
            MAX.. => Err(NoHello::TooLarge),
            _ => Ok(Read::Partial),
        };
    };
    let body = message.get(MESSAGE_HEAD..).unwrap_or_default();
    body_of(body).map(Read::Whole)
}

/// The handshake message, put together from its records. None: it is not whole.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, NoHello> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    for record in 0..MAX_RECORDS {
        let Some((part, behind)) = first_record(rest, record == 0)? else {
            return Ok(None);
        };
        if message.is_empty() {
            message = Cow::Borrowed(part);
        } else {
            message.to_mut().extend_from_slice(part);
        }
        rest = behind;
        let Some(len) = length(&message)? else { continue };
        if message.len() == len {
            return Ok(Some(message));
        }
        // What follows a ClientHello waits for an answer, or is in a record of its own (RFC 8446 section 5.1).
        if message.len() > len {
            return Err(NoHello::Form);
        }
    }
    Err(NoHello::TooLarge)
}

/// The content of a record, and what follows it.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record. None: its head is not whole, or a part of
/// it is still to come.
fn first_record(bytes: &[u8], first: bool) -> Result<Option<Record<'_>>, NoHello> {
    let wrong = if first { NoHello::NotTls } else { NoHello::Record };
    let mut head = bytes.iter();
    if head.next().is_some_and(|kind| *kind != 22) || head.next().is_some_and(|major| *major != 3) {
        return Err(wrong);
    }
    if head.next().is_some_and(|minor| *minor > 4) {
        return Err(wrong);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEAD>() else {
        return Ok(None);
    };
    let [.., high, low] = *head;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(1..=1 << 14).contains(&len) {
        return Err(NoHello::Record);
    }
    // That it is too large, or no hello, may show before it is whole.
    if first {
        length(rest.get(..len).unwrap_or(rest))?;
    }
    Ok(rest.split_at_checked(len))
}

/// The length of a message that begins so, its head included. None: that is still to come.
fn length(message: &[u8]) -> Result<Option<usize>, NoHello> {
    if message.first().is_some_and(|kind| *kind != 1) {
        return Err(NoHello::Message);
    }
    let Some((head, _)) = message.split_first_chunk::<MESSAGE_HEAD>() else {
        return Ok(None);
    };
    let [_, high, middle, low] = *head;
    let len = u32::from_be_bytes([0, high, middle, low]) as usize + MESSAGE_HEAD;
    if len > MAX - RECORD_HEAD {
        return Err(NoHello::TooLarge);
    }
    Ok(Some(len))
}

/// RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2.
fn body_of(body: &[u8]) -> Result<Hello, NoHello> {
    let mut rest = body;
    if take(&mut rest, 2)?.first() != Some(&3) {
        return Err(NoHello::Form);
    }
    take(&mut rest, 32)?;
    if vector8(&mut rest)?.len() > 32 {
        return Err(NoHello::Form);
    }
    let suites = vector16(&mut rest)?;
    if suites.is_empty() || !suites.len().is_multiple_of(2) {
        return Err(NoHello::Form);
    }
    if vector8(&mut rest)?.is_empty() {
        return Err(NoHello::Form);
    }
    let mut hello = Hello::default();
    if rest.is_empty() {
        // TLS 1.2 and before could do without extensions.
        return Ok(hello);
    }
    let mut extensions = vector16(&mut rest)?;
    if !rest.is_empty() {
        return Err(NoHello::Form);
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let content = vector16(&mut extensions)?;
        match kind {
            [0, 0] if std::mem::replace(&mut named, true) => return Err(NoHello::Twice),
            [0, 0] => hello.sni = Some(name(content)?),
            [0, 16] if std::mem::replace(&mut offered, true) => return Err(NoHello::Twice),
            [0, 16] => hello.alpn = protocols(content)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// One host name; no other kind of name has ever been defined.
fn name(mut content: &[u8]) -> Result<String, NoHello> {
    let mut list = vector16(&mut content).map_err(|_| NoHello::Name)?;
    let kind = take(&mut list, 1).map_err(|_| NoHello::Name)?;
    let name = vector16(&mut list).map_err(|_| NoHello::Name)?;
    let is_of_names = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let sound = kind == [0]
        && content.is_empty()
        && list.is_empty()
        && (1..=255).contains(&name.len())
        && name.iter().all(is_of_names);
    match std::str::from_utf8(name) {
        Ok(name) if sound => Ok(name.to_ascii_lowercase()),
        Ok(_) | Err(_) => Err(NoHello::Name),
    }
}

fn protocols(mut content: &[u8]) -> Result<Vec<u8>, NoHello> {
    let list = vector16(&mut content).map_err(|_| NoHello::Protocols)?;
    let mut rest = list;
    while !rest.is_empty() {
        let one = vector8(&mut rest).map_err(|_| NoHello::Protocols)?;
        if one.is_empty() {
            return Err(NoHello::Protocols);
        }
    }
    if list.is_empty() || !content.is_empty() {
        return Err(NoHello::Protocols);
    }
    Ok(list.to_vec())
}

/// Takes `len` bytes.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], NoHello> {
    let (taken, behind) = rest.split_at_checked(len).ok_or(NoHello::Form)?;
    *rest = behind;
    Ok(taken)
}

/// Takes what stands behind its length in one byte.
fn vector8<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], NoHello> {
    let len = take(rest, 1)?.iter().fold(0, |_, byte| usize::from(*byte));
    take(rest, len)
}

/// Takes what stands behind its length in two bytes.
fn vector16<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], NoHello> {
    let len = take(rest, 2)?
        .iter()
        .fold(0, |len, byte| len << 8 | usize::from(*byte));
    take(rest, len)
}

#[cfg(test)]
mod tests;
