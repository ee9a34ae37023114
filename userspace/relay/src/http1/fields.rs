//! Header fields: which ones mean something to a relay, and the values it must understand.
//!
//! Field order, names' case and values' bytes are never changed; what is hop-by-hop (RFC 9110 section 7.6.1) ends here.

use super::head::Malformed;

/// Fields that a relay must understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Passed on as it is.
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Upgrade,
    Expect,
    XForwardedFor,
    Forwarded,
    MaxForwards,
    Via,
    /// What else claims something of the client: `X-Real-IP`, `X-Forwarded-Proto` and its kind. Believed only from
    /// those whose word counts.
    Claim,
    /// Ends here whatever it says: `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`, and names that pass for one of
    /// this list to whoever reads `_` as `-`, as CGI and its heirs do.
    HopByHop,
}

/// Tells the kind by length first: most fields are done with after one comparison of numbers.
#[inline]
pub(crate) fn kind(name: &str) -> Kind {
    let kind = plain_kind(name);
    if kind == Kind::Other && name.as_bytes().contains(&b'_') {
        masked_kind(name)
    } else {
        kind
    }
}

/// The kind of a name with `_` in it.
#[cold]
fn masked_kind(name: &str) -> Kind {
    let dashed = name.replace('_', "-");
    if plain_kind(&dashed) == Kind::Other {
        Kind::Other
    } else {
        Kind::HopByHop
    }
}

#[inline]
fn plain_kind(name: &str) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Kind::Te,
        3 if is("via") => Kind::Via,
        4 if is("host") => Kind::Host,
        6 if is("expect") => Kind::Expect,
        7 if is("upgrade") => Kind::Upgrade,
        9 if is("forwarded") => Kind::Forwarded,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::HopByHop,
        14 if is("content-length") => Kind::ContentLength,
        14 if is("http2-settings") => Kind::HopByHop,
        15 if is("x-forwarded-for") => Kind::XForwardedFor,
        16 if is("proxy-connection") => Kind::HopByHop,
        17 if is("transfer-encoding") => Kind::TransferEncoding,
        9 if is("x-real-ip") => Kind::Claim,
        12 if is("max-forwards") => Kind::MaxForwards,
        12.. if is_forwarded_kind(name) => Kind::Claim,
        _ => Kind::Other,
    }
}

/// `X-Forwarded-Proto`, `-Host`, `-Port` and whatever else begins like that.
#[inline]
fn is_forwarded_kind(name: &str) -> bool {
    let start = name.as_bytes().get(..12);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
}

/// Fields that a `Connection` field can't take out of a message, because what comes after weir relies on them.
///
/// RFC 9110 section 7.6.1 has a sender never nominate such fields; a client that does wants to hide something.
pub(super) fn protected(name: &[u8]) -> bool {
    const NAMES: [&str; 22] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "content-range",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "cache-control",
        "date",
        "expect",
        "forwarded",
        "location",
        "max-forwards",
        "origin",
        "range",
        "trailer",
        "transfer-encoding",
        "vary",
        "via",
        "x-real-ip",
    ];
    // X-Forwarded-For, -Proto, -Host and their kind.
    let forwarded = name
        .get(..11)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded"));
    forwarded || NAMES.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

/// What `Connection` fields say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Other names are in it: the fields so named end here.
    pub(super) nominates: bool,
}

impl Connection {
    pub(super) fn read(&mut self, value: &[u8]) {
        // What nearly all of HTTP/1.1 says, if anything.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for token in list(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.nominates = true;
            }
        }
    }
}

/// The members of a comma-separated list, trimmed, without empty ones (RFC 9110 section 5.6.1).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether a `Connection` field nominates that name.
pub(crate) fn nominated(fields: &[httparse::Header<'_>], name: &str) -> bool {
    let connections = fields.iter().filter(|f| kind(f.name) == Kind::Connection);
    connections
        .flat_map(|f| list(f.value))
        .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
}

/// A `Content-Length`: digits alone, no list, no sign (RFC 9110 section 8.6).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() {
        return Err(Malformed::ContentLength);
    }
    let mut length = 0_u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Malformed::ContentLength);
        }
        let next = length
            .checked_mul(10)
            .and_then(|l| l.checked_add(u64::from(digit)));
        length = next.ok_or(Malformed::ContentLength)?;
    }
    // Nobody has such a body; what is near the limit of 64 bits is there to overflow someone's arithmetic.
    if length > i64::MAX as u64 {
        Err(Malformed::ContentLength)
    } else {
        Ok(length)
    }
}

/// A `Max-Forwards` (RFC 9110 section 7.6.2). What is too large to count is as good as the largest number.
pub(super) fn max_forwards(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::MaxForwards);
    }
    let add = |n: u64, digit: &u8| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Ok(value.iter().fold(0, add))
}

/// What the `Transfer-Encoding` fields of a message add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Codings {
    present: bool,
    chunked: bool,
    /// Another coding was named before it.
    unknown: bool,
    fault: Option<Malformed>,
}

impl Codings {
    /// Takes one field's value.
    pub(super) fn read(&mut self, value: &[u8]) {
        self.present = true;
        let mut any = false;
        for coding in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            any = true;
            if self.chunked {
                // Something after `chunked`, or `chunked` twice.
                self.fault = Some(Malformed::TransferCoding);
            } else if coding.eq_ignore_ascii_case(b"chunked") {
                self.chunked = true;
            } else if coding.is_empty() || !coding.iter().all(|b| is_token(*b)) {
                self.fault = Some(Malformed::TransferCoding);
            } else {
                self.unknown = true;
            }
        }
        if !any {
            self.fault = Some(Malformed::TransferCoding);
        }
    }

    /// Whether the body is chunked. Any other coding is refused: in front of `chunked` it is one that weir does not do;
    /// without it the length of the body is open (RFC 9112 section 6.3).
    pub(super) fn chunked(self) -> Result<bool, Malformed> {
        match (self.fault, self.present, self.chunked, self.unknown) {
            (Some(fault), ..) => Err(fault),
            (None, false, ..) => Ok(false),
            (None, true, true, false) => Ok(true),
            (None, true, true, true) => Err(Malformed::UnknownCoding),
            (None, true, false, _) => Err(Malformed::TransferCoding),
        }
    }
}

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
#[inline]
pub(crate) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// Fields that no trailer section may hold: framing, routing, and what steers the handling of the message.
pub(crate) fn barred_from_trailers(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "max-forwards",
        "proxy-authorization",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "www-authenticate",
        "x-forwarded-for",
    ];
    kind(name) != Kind::Other || NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = b"!#$%&'*+-.^_`|~";
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || token.contains(&byte);
            assert_eq!(is_token(byte), expected, "{byte:#x}");
        }
    }

    #[test]
    fn lengths() {
        let check =
            |value: &str, expected| assert_eq!(content_length(value.as_bytes()), expected, "{value:?}");
        let bad = Err(Malformed::ContentLength);
        check("0", Ok(0));
        check("007", Ok(7));
        check("9223372036854775807", Ok(i64::MAX as u64));
        for value in [
            "",
            "+1",
            "-1",
            "1 1",
            "1,1",
            "0x10",
            "1e3",
            "18446744073709551616",
            "9223372036854775808",
            "１",
        ] {
            check(value, bad);
        }
    }

    #[test]
    fn forwards() {
        let check = |value: &str, expected| assert_eq!(max_forwards(value.as_bytes()), expected, "{value:?}");
        check("0", Ok(0));
        check("012", Ok(12));
        check("99999999999999999999999", Ok(u64::MAX));
        for value in ["", "-1", "+1", "1 ", "1, 2", "x"] {
            check(value, Err(Malformed::MaxForwards));
        }
    }

    #[test]
    fn codings() {
        let check = |values: &[&str], expected| {
            let mut codings = Codings::default();
            for value in values {
                codings.read(value.as_bytes());
            }
            assert_eq!(codings.chunked(), expected, "{values:?}");
        };
        check(&[], Ok(false));
        check(&["chunked"], Ok(true));
        check(&["CHunked"], Ok(true));
        check(&["gzip, chunked"], Err(Malformed::UnknownCoding));
        check(&["gzip", "chunked"], Err(Malformed::UnknownCoding));
        check(&["xchunked"], Err(Malformed::TransferCoding));
        check(&["identity"], Err(Malformed::TransferCoding));
        check(&["gzip"], Err(Malformed::TransferCoding));
        check(&["chunked", "chunked"], Err(Malformed::TransferCoding));
        check(&["chunked, chunked"], Err(Malformed::TransferCoding));
        check(&["chunked, gzip"], Err(Malformed::TransferCoding));
        check(&["chunked;a=b"], Err(Malformed::TransferCoding));
        check(&["\"chunked\""], Err(Malformed::TransferCoding));
        check(&[""], Err(Malformed::TransferCoding));
        check(&[",chunked"], Err(Malformed::TransferCoding));
        check(&["chunked,"], Err(Malformed::TransferCoding));
    }
}
