//! From `Upgrade: h2c` to a connection of HTTP/2 (RFC 7540 section 3.2): the request that asked for it becomes the
//! connection's first stream.
//!
//! The `h2` crate begins with a preface and knows no such first stream. So it is shown what a client would have sent that
//! began with HTTP/2: a preface, the settings of `HTTP2-Settings`, and the request's head, uncompressed. The client's own
//! preface, which follows the `101`, is taken off.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::PREFACE;
use crate::http1::{
    fields::{self, Kind},
    request::Request,
};

/// Bytes of a frame without being asked for more (RFC 9113 section 4.2).
const FRAME: usize = 16 << 10;

/// Bytes that `HTTP2-Settings` may hold: no client has that many settings.
const SETTINGS: usize = 6 * 32;

/// The bytes of HTTP/2 that stand for a request which asks for `h2c`, if it does so properly: one `HTTP2-Settings`, which
/// `Connection` names, and no body (RFC 7540 section 3.2.1).
pub fn bytes(request: &Request<'_, '_>) -> Option<Vec<u8>> {
    let mut settings = request
        .fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("http2-settings"));
    let (only, None) = (settings.next()?, settings.next()) else {
        return None;
    };
    if !fields::nominated(request.fields, "http2-settings") {
        return None;
    }
    let settings = decode(only.value)?;
    let block = block(request)?;
    let mut out = PREFACE.to_vec();
    frame(&mut out, 4, 0, 0, &settings);
    // HEADERS with END_STREAM, CONTINUATION; the last has END_HEADERS.
    let pieces = block.len().div_ceil(FRAME).max(1);
    for (at, piece) in block.chunks(FRAME).enumerate() {
        let (kind, begins) = if at == 0 { (1, 1) } else { (9, 0) };
        let ends = if at + 1 == pieces { 4 } else { 0 };
        frame(&mut out, kind, begins | ends, 1, piece);
    }
    Some(out)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The settings: base64url without padding (RFC 4648 section 5), whole ones.
fn decode(value: &[u8]) -> Option<Vec<u8>> {
    let settings = URL_SAFE_NO_PAD.decode(value).ok()?;
    (settings.len() % 6 == 0 && settings.len() <= SETTINGS).then_some(settings)
}

/// The head in HPACK, as literals that are not indexed (RFC 7541 section 6.2.2). None: it can't be said in HTTP/2.
fn block(request: &Request<'_, '_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let host = request.fields.iter().find(|f| fields::kind(f.name) == Kind::Host);
    let authority = match (request.target.authority, host) {
        (Some(authority), _) => authority.as_bytes(),
        (None, Some(host)) => host.value,
        (None, None) => return None,
    };
    let scheme: &[u8] = if request.target.is_secure() {
        b"https"
    } else {
        b"http"
    };
    literal(&mut out, b":method", request.method.as_bytes());
    literal(&mut out, b":scheme", scheme);
    literal(&mut out, b":authority", authority);
    let slash = if request.target.slash { "/" } else { "" };
    literal(
        &mut out,
        b":path",
        format!("{slash}{}", request.target.path).as_bytes(),
    );
    for (at, field) in request.fields.iter().enumerate() {
        let kind = fields::kind(field.name);
        if kind == Kind::Host || request.dropped.contains(at) && kind != Kind::Te {
            continue;
        }
        if kind == Kind::Te && !request.te_trailers {
            continue;
        }
        let value = if kind == Kind::Te {
            b"trailers"
        } else {
            field.value
        };
        literal(&mut out, field.name.to_ascii_lowercase().as_bytes(), value);
    }
    if let Some(forwards) = request.max_forwards {
        literal(&mut out, b"max-forwards", forwards.to_string().as_bytes());
    }
    Some(out)
}

fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        length(out, text.len());
        out.extend_from_slice(text);
    }
}

/// An integer with a prefix of 7 bits (RFC 7541 section 5.1).
fn length(out: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        out.push((length & 0x7f) as u8);
        return;
    };
    out.push(127);
    while rest >= 128 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What stands for the request (as [`bytes()`] made it) and what the client has sent itself, as one beginning: one preface,
/// one frame with the settings of both. None: the client's are not whole yet.
///
/// # Errors
/// The client has begun otherwise.
pub fn joined(made: &[u8], own: &[u8]) -> Result<Option<Vec<u8>>, NoPreface> {
    let here = own.len().min(PREFACE.len());
    if own.get(..here) != PREFACE.get(..here) {
        return Err(NoPreface);
    }
    let Some(frame) = own.get(PREFACE.len()..).filter(|rest| rest.len() >= 9) else {
        return Ok(None);
    };
    let length = |frame: &[u8]| match frame {
        [0, b, c, 4, 0, ..] => Ok(usize::from(*b) << 8 | usize::from(*c)),
        _ => Err(NoPreface),
    };
    let theirs = length(frame)?;
    if theirs > FRAME / 2 {
        return Err(NoPreface);
    }
    let Some(payload) = frame.get(9..9 + theirs) else {
        return Ok(None);
    };
    let asked = made.get(PREFACE.len()..).ok_or(NoPreface)?;
    let ours = length(asked)?;
    let mut settings = asked.get(9..9 + ours).ok_or(NoPreface)?.to_vec();
    settings.extend_from_slice(payload);
    let mut out = PREFACE.to_vec();
    self::frame(&mut out, 4, 0, 0, &settings);
    out.extend_from_slice(asked.get(9 + ours..).unwrap_or_default());
    out.extend_from_slice(frame.get(9 + theirs..).unwrap_or_default());
    Ok(Some(out))
}

/// What came is no preface of HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no preface of HTTP/2")]
pub struct NoPreface;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{
        head::{HeadLimits, field_store},
        request,
    };

    fn made(head: &str) -> Option<Vec<u8>> {
        let mut store = field_store();
        let limits = HeadLimits {
            bytes: 100_000,
            fields: 100,
        };
        let request = request::parse(head.as_bytes(), &mut store, limits);
        bytes(&request.ok().flatten()?)
    }

    #[test]
    fn settings() {
        let check = |value: &str, expected: Option<&[u8]>| {
            assert_eq!(decode(value.as_bytes()).as_deref(), expected, "{value}");
        };
        check("", Some(b""));
        check("AAMAAABk", Some(&[0, 3, 0, 0, 0, 100]));
        check(
            "AAMAAABkAAQAoAAAAAIAAAAA",
            Some(&[0, 3, 0, 0, 0, 100, 0, 4, 0, 0xa0, 0, 0, 0, 2, 0, 0, 0, 0]),
        );
        for bad in [
            "AAMAAABk=",
            "AAMA",
            "AAMAAAB",
            "AA MAAABk",
            "AAMAAABkA",
            "A",
            "+AMAAABk",
        ] {
            check(bad, None);
        }
        assert_eq!(
            decode("AAMAAABk".repeat(32).as_bytes()).map(|s| s.len()),
            Some(192)
        );
        assert_eq!(decode("AAMAAABk".repeat(33).as_bytes()), None);
    }

    #[test]
    fn what_asks_for_it() {
        let ask = |fields: &str| made(&format!("GET /a HTTP/1.1\r\nHost: b\r\n{fields}\r\n")).is_some();
        assert!(ask(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        ));
        assert!(!ask(
            "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        ));
        assert!(!ask("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"));
        assert!(!ask(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: *\r\n"
        ));
        assert!(!ask(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nHTTP2-Settings: AAMAAABk\r\n"
        ));
    }

    #[test]
    fn the_request_becomes_a_stream() {
        let made = made(
            "GET /a?b HTTP/1.1\r\nHost: c\r\nConnection: Upgrade, HTTP2-Settings\r\nX-Y: z\r\nTE: trailers\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        )
        .unwrap();
        let mut expected = PREFACE.to_vec();
        expected.extend(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d");
        let block = b"\0\x07:method\x03GET\0\x07:scheme\x04http\0\x0a:authority\x01c\0\x05:path\x04/a?b\0\x03x-y\x01z\0\x02te\x08trailers";
        frame(&mut expected, 1, 5, 1, block);
        assert_eq!(made, expected);
    }

    #[test]
    fn a_long_head_goes_in_pieces() {
        let long = "x".repeat(40_000);
        let made = made(&format!(
            "GET / HTTP/1.1\r\nHost: c\r\nConnection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nX: {long}\r\n\r\n"
        ))
        .unwrap();
        let mut rest = &made[PREFACE.len() + 15..];
        let mut seen = Vec::new();
        while let [a, b, c, kind, flags, ..] = rest {
            seen.push((*kind, *flags));
            rest = &rest[9 + usize::from(*a) * 65_536 + usize::from(*b) * 256 + usize::from(*c)..];
        }
        assert_eq!(seen, [(1, 1), (9, 0), (9, 4)]);
    }

    #[test]
    fn lengths() {
        let check = |n, expected: &[u8]| {
            let mut out = Vec::new();
            length(&mut out, n);
            assert_eq!(out, expected, "{n}");
        };
        check(0, &[0]);
        check(126, &[126]);
        check(127, &[127, 0]);
        check(254, &[127, 127]);
        check(255, &[127, 0x80, 1]);
        check(1464, &[127, 0xb9, 10]);
    }

    #[test]
    fn two_beginnings_are_one() {
        let settings = |payload: &[u8]| {
            let mut out = PREFACE.to_vec();
            frame(&mut out, 4, 0, 0, payload);
            out
        };
        let made = [settings(&[0, 3, 0, 0, 0, 1]), b"HEADERS".to_vec()].concat();
        let own = [settings(&[0, 4, 0, 0, 0, 2]), b"more".to_vec()].concat();
        let expected = [
            settings(&[0, 3, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2]),
            b"HEADERSmore".to_vec(),
        ]
        .concat();
        assert_eq!(joined(&made, &own), Ok(Some(expected)));
        let whole = own.len() - 4;
        for len in 0..whole {
            assert_eq!(joined(&made, &own[..len]), Ok(None), "{len}");
        }
        assert_eq!(joined(&made, b"GET "), Err(NoPreface));
        let mut other = PREFACE.to_vec();
        frame(&mut other, 6, 0, 0, b"12345678");
        assert_eq!(joined(&made, &other), Err(NoPreface));
    }
}
