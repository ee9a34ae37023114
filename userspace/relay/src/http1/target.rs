//! Request targets and `Host`: the four forms (RFC 9112 section 3.2), and what may stand in an authority.

use super::head::Malformed;

/// A request target as it goes to the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'b> {
    /// Path and query (or `*`), as the client wrote them.
    pub path: &'b str,
    /// Whether `path` lacks its leading slash: an absolute form whose path is empty but for a query.
    pub slash: bool,
    /// The authority, if the target was in absolute form.
    pub authority: Option<&'b str>,
}

impl<'b> Target<'b> {
    /// Parses a target.
    ///
    /// Visible ASCII but `#` may stand in it: what browsers send unescaped is more than RFC 3986 allows, and none of it
    /// can end a target early. `*` is for OPTIONS alone.
    ///
    /// # Errors
    /// [`Malformed::Target`], or [`Malformed::Host`] for the authority of an absolute form.
    pub fn parse(method: &str, target: &'b str) -> Result<Self, Malformed> {
        if !target.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#') {
            return Err(Malformed::Target);
        }
        if target.starts_with('/') {
            return Ok(Self {
                path: target,
                slash: false,
                authority: None,
            });
        }
        if target == "*" {
            let options = method == "OPTIONS";
            return if options {
                Ok(Self {
                    path: "*",
                    slash: false,
                    authority: None,
                })
            } else {
                Err(Malformed::Target)
            };
        }
        let (scheme, rest) = target.split_once("://").ok_or(Malformed::Target)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(Malformed::Target);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(Malformed::Target)?;
        check_host(authority.as_bytes())?;
        let (path, slash) = match path {
            "" if method == "OPTIONS" => ("*", false),
            _ => (path, !path.starts_with('/')),
        };
        Ok(Self {
            path,
            slash,
            authority: Some(authority),
        })
    }
}

/// Checks a `Host` value (or an authority): `uri-host [ ":" port ]` of RFC 3986, never empty, without user information,
/// and without the comma, which would make it a list to someone else.
pub fn check_host(value: &[u8]) -> Result<(), Malformed> {
    let (host, port) = split_port(value).ok_or(Malformed::Host)?;
    if !port.iter().all(u8::is_ascii_digit) || port.len() > 5 {
        return Err(Malformed::Host);
    }
    if let Some(literal) = host.strip_prefix(b"[") {
        let literal = literal.strip_suffix(b"]").ok_or(Malformed::Host)?;
        let text = std::str::from_utf8(literal).map_err(|_| Malformed::Host)?;
        return text
            .parse::<std::net::Ipv6Addr>()
            .map(|_| ())
            .map_err(|_| Malformed::Host);
    }
    let mut bytes = host.iter();
    if host.is_empty() {
        return Err(Malformed::Host);
    }
    while let Some(byte) = bytes.next() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {}
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' => {}
            b'%' => {
                let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
                if !hex(bytes.next()) || !hex(bytes.next()) {
                    return Err(Malformed::Host);
                }
            }
            _ => return Err(Malformed::Host),
        }
    }
    Ok(())
}

/// Whether an absolute form's authority and the `Host` field mean the same: host without regard to case, the default
/// port said or not.
pub fn same_host(authority: &[u8], host: &[u8]) -> bool {
    let (Some((a, a_port)), Some((b, b_port))) = (split_port(authority), split_port(host)) else {
        return false;
    };
    let default = |port: &[u8]| port.is_empty() || port == b"80" || port == b"443";
    a.eq_ignore_ascii_case(b)
        && (a_port == b_port
            || (default(a_port) && b_port.is_empty())
            || (a_port.is_empty() && default(b_port)))
}

/// Host and port; the port without its colon, empty if there is none.
fn split_port(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let search = if value.starts_with(b"[") {
        value.iter().position(|b| *b == b']')?
    } else {
        0
    };
    match value.get(search..)?.iter().position(|b| *b == b':') {
        Some(colon) => Some((value.get(..search + colon)?, value.get(search + colon + 1..)?)),
        None => Some((value, b"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "a",
            "example.com",
            "example.com:80",
            "example.com:",
            "192.0.2.1:8080",
            "[2001:db8::1]",
            "[::1]:80",
            "a_b",
            "%41b",
            "xn--bcher-kva.example",
            "a;b",
        ] {
            assert_eq!(check_host(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "a/b", "user@a", "a:80:80", "a:8x", "a:123456", "[::1", "::1", "[::1]x",
            "[a]", "%4", "%zz", "a#b", "a?b", "a\\b", "ä", "a\tb", "\"a\"", "<a>",
        ] {
            assert_eq!(check_host(bad.as_bytes()), Err(Malformed::Host), "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        let parse = |method, target| Target::parse(method, target);
        let origin = |path| {
            Ok(Target {
                path,
                slash: false,
                authority: None,
            })
        };
        assert_eq!(parse("GET", "/"), origin("/"));
        assert_eq!(parse("GET", "//a/b?c=|{}^`\\\"<>"), origin("//a/b?c=|{}^`\\\"<>"));
        assert_eq!(parse("OPTIONS", "*"), origin("*"));
        let absolute = |path, slash, a| {
            Ok(Target {
                path,
                slash,
                authority: Some(a),
            })
        };
        assert_eq!(parse("GET", "http://a/b?c"), absolute("/b?c", false, "a"));
        assert_eq!(parse("GET", "HTTP://a"), absolute("", true, "a"));
        assert_eq!(parse("GET", "http://a?c=/"), absolute("?c=/", true, "a"));
        assert_eq!(parse("OPTIONS", "http://a:80"), absolute("*", false, "a:80"));
        for (method, bad) in [
            ("GET", ""),
            ("GET", "*"),
            ("GET", "a"),
            ("GET", "a:80"),
            ("GET", "/a#b"),
            ("GET", "ftp://a/"),
            ("GET", "/ä"),
            ("GET", "http:/a"),
            ("OPTIONS", "**"),
            ("GET", "?a"),
        ] {
            assert_eq!(parse(method, bad), Err(Malformed::Target), "{method} {bad:?}");
        }
        for bad in ["http://", "http:///x", "http://u@a/", "http://a:b/"] {
            assert_eq!(parse("GET", bad), Err(Malformed::Host), "{bad:?}");
        }
    }

    #[test]
    fn authorities() {
        let same = |a: &str, b: &str| same_host(a.as_bytes(), b.as_bytes());
        assert!(same("a", "A") && same("a:80", "a") && same("a", "a:80") && same("[::1]:8080", "[::1]:8080"));
        assert!(!same("a", "b") && !same("a:81", "a") && !same("a:80", "a:443") && !same("[::1]", "[::2]"));
    }
}
