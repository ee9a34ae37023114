//! Request targets and `Host`: the four forms (RFC 9112 section 3.2), and what may stand in an authority.

use super::head::Malformed;

/// The port of `https`.
const SECURE_PORT: &str = "443";

/// A request target as it goes to the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'b> {
    /// Path and query (or `*`), as the client wrote them.
    pub path: &'b str,
    /// Whether `path` lacks its leading slash: an absolute form whose path is empty but for a query.
    pub slash: bool,
    /// The authority, if the target was in absolute form, or in authority form (`path` is the same then).
    pub authority: Option<&'b str>,
    /// The port that the scheme has, where the target says one; empty for an authority form.
    pub(super) default_port: &'static str,
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
        let plain = |path| Self {
            path,
            slash: false,
            authority: None,
            default_port: "",
        };
        if method == "CONNECT" {
            let (_, port) = split_port(target.as_bytes()).ok_or(Malformed::Target)?;
            if port.is_empty() || port.iter().all(|digit| *digit == b'0') {
                return Err(Malformed::Target);
            }
            check_host(target.as_bytes())?;
            return Ok(Self {
                authority: Some(target),
                ..plain(target)
            });
        }
        if target.starts_with('/') {
            return Ok(plain(target));
        }
        if target == "*" {
            let options = method == "OPTIONS";
            return options.then(|| plain("*")).ok_or(Malformed::Target);
        }
        let (scheme, rest) = target.split_once("://").ok_or(Malformed::Target)?;
        let default_port = if scheme.eq_ignore_ascii_case("http") {
            "80"
        } else if scheme.eq_ignore_ascii_case("https") {
            SECURE_PORT
        } else {
            return Err(Malformed::Target);
        };
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
            default_port,
        })
    }

    /// What the pseudo-fields of HTTP/2 say: `path` is a path, `*`, or the authority of a `CONNECT`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(super) fn of_stream(
        method: &str,
        path: &'b str,
        scheme: Option<&str>,
        authority: Option<&'b str>,
    ) -> Result<Self, Malformed> {
        let target = Self::parse(method, path)?;
        if method == "CONNECT" {
            return Ok(target);
        }
        // An absolute form has no place in `:path`.
        if target.authority.is_some() {
            return Err(Malformed::Target);
        }
        let default_port = match scheme {
            None => "80",
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => "80",
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => SECURE_PORT,
            Some(_) => return Err(Malformed::Target),
        };
        if let Some(authority) = authority {
            check_host(authority.as_bytes())?;
        }
        Ok(Self {
            authority,
            default_port,
            ..target
        })
    }

    /// Whether the target is of `https`.
    pub fn is_secure(&self) -> bool {
        self.default_port == SECURE_PORT
    }

    /// Whether the `Host` field means the same as the target's authority, if it has one: host without regard to case,
    /// the default port of its scheme said or not.
    pub(super) fn agrees_with(&self, host: &[u8]) -> bool {
        let Some(authority) = self.authority else {
            return true;
        };
        let (Some((a, a_port)), Some((b, b_port))) = (split_port(authority.as_bytes()), split_port(host))
        else {
            return false;
        };
        let same_port = match (a_port, b_port) {
            (b"", port) | (port, b"") => port.is_empty() || port == self.default_port.as_bytes(),
            (a, b) => a == b,
        };
        a.eq_ignore_ascii_case(b) && same_port
    }
}

/// Checks a `Host` value (or an authority): `uri-host [ ":" port ]` of RFC 3986, never empty, without user information,
/// and without the comma, which would make it a list to someone else.
pub fn check_host(value: &[u8]) -> Result<(), Malformed> {
    let (host, port) = split_port(value).ok_or(Malformed::Host)?;
    if !is_port(port) {
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

/// A port, or none.
fn is_port(digits: &[u8]) -> bool {
    let number = digits.iter().try_fold(0_u32, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(n * 10 + digit).filter(|n| *n <= u32::from(u16::MAX))
    });
    digits.len() <= 5 && number.is_some()
}

/// Host and port; the port without its colon, empty if there is none.
pub(super) fn split_port(value: &[u8]) -> Option<(&[u8], &[u8])> {
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
            "", ":80", "a b", "a,b", "a/b", "user@a", "a:80:80", "a:8x", "a:123456", "a:65536", "[::1",
            "::1", "[::1]x", "[a]", "%4", "%zz", "a#b", "a?b", "a\\b", "ä", "a\tb", "\"a\"", "<a>",
        ] {
            assert_eq!(check_host(bad.as_bytes()), Err(Malformed::Host), "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        let parse = |method, target| {
            Target::parse(method, target).map(|t| (t.path, t.slash, t.authority, t.is_secure()))
        };
        let origin = |path| Ok((path, false, None, false));
        assert_eq!(parse("GET", "/"), origin("/"));
        assert_eq!(parse("GET", "//a/b?c=|{}^`\\\"<>"), origin("//a/b?c=|{}^`\\\"<>"));
        assert_eq!(parse("OPTIONS", "*"), origin("*"));
        let absolute = |path, slash, a| Ok((path, slash, Some(a), false));
        assert_eq!(parse("GET", "http://a/b?c"), absolute("/b?c", false, "a"));
        assert_eq!(parse("GET", "HTTP://a"), absolute("", true, "a"));
        assert_eq!(parse("GET", "http://a?c=/"), absolute("?c=/", true, "a"));
        assert_eq!(parse("OPTIONS", "http://a:80"), absolute("*", false, "a:80"));
        assert_eq!(parse("GET", "https://a/"), Ok(("/", false, Some("a"), true)));
        assert_eq!(parse("CONNECT", "a:80"), absolute("a:80", false, "a:80"));
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
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "a:0"),
            ("CONNECT", "/"),
            ("CONNECT", "*"),
        ] {
            assert_eq!(parse(method, bad), Err(Malformed::Target), "{method} {bad:?}");
        }
        for bad in ["http://", "http:///x", "http://u@a/", "http://a:b/"] {
            assert_eq!(parse("GET", bad), Err(Malformed::Host), "{bad:?}");
        }
        for bad in ["http://a:80", "a:b", "u@a:80", ":80", "a:80/"] {
            assert_eq!(parse("CONNECT", bad), Err(Malformed::Host), "{bad:?}");
        }
    }

    #[test]
    fn authorities() {
        let same = |target, host: &str| {
            let method = if target == "a:443" { "CONNECT" } else { "GET" };
            Target::parse(method, target)
                .unwrap()
                .agrees_with(host.as_bytes())
        };
        assert!(
            same("/", "b") && same("http://a", "A") && same("http://a:80", "a") && same("http://a", "a:80")
        );
        assert!(
            same("http://a:", "a") && same("https://a", "a:443") && same("http://[::1]:8080", "[::1]:8080")
        );
        assert!(!same("http://a", "b") && !same("http://a:81", "a") && !same("http://a:80", "a:443"));
        assert!(!same("http://a:443", "a") && !same("https://a", "a:80") && !same("http://[::1]", "[::2]"));
        assert!(same("a:443", "A:443") && !same("a:443", "a") && !same("a:443", "a:80"));
    }
}
