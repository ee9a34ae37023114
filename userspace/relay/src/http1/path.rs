//! Paths and hosts of requests, compared with what rules speak of.
//!
//! A path is passed on byte for byte, but compared by what it means (RFC 3986 section 6.2.2): an unreserved character is
//! the same percent-encoded or not, the case of the encoding's digits does not count, and slashes in a row count as
//! one, as most backends take them. Dot segments are not resolved: a service that looks at paths refuses them
//! ([`has_dot_segments`]), since weir and the backend could take them differently.

use weir_core::plan::{Conditions, FieldCondition, FieldValue, PathPattern};

use super::{
    fields::{self, Kind},
    forwarded::Trust,
    request::Request,
    target::{Target, split_port},
};

/// Path and query of a target. The path begins with a slash; it is empty for `*` and for an authority form.
pub(super) fn parts<'b>(target: &Target<'b>) -> (&'b str, Option<&'b str>) {
    if !target.slash && !target.path.starts_with('/') {
        return ("", None);
    }
    let (path, query) = match target.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target.path, None),
    };
    (if path.is_empty() { "/" } else { path }, query)
}

/// The authority that a request is for, as it came: that of an absolute target, else `Host`. Empty if there is none.
pub(crate) fn authority<'r>(request: &Request<'r, 'r>) -> &'r [u8] {
    if let Some(authority) = request.target.authority {
        return authority.as_bytes();
    }
    let host = request.fields.iter().find(|f| fields::kind(f.name) == Kind::Host);
    host.map_or(b"", |field| field.value)
}

/// The host of an authority, without port.
pub(crate) fn host(authority: &[u8]) -> &[u8] {
    split_port(authority).map_or(authority, |(host, _)| host)
}

/// Whether the byte is unreserved (RFC 3986 section 2.3).
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// One character of a path in its normal form, and the bytes that it takes in the path.
#[inline]
fn unit(path: &[u8]) -> Option<([u8; 3], usize, usize)> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|n| n as u8);
    let (&first, rest) = path.split_first()?;
    if first == b'%'
        && let [high, low, ..] = rest
        && let (Some(h), Some(l)) = (digit(*high), digit(*low))
    {
        let byte = h << 4 | l;
        if is_unreserved(byte) {
            return Some(([byte, 0, 0], 1, 3));
        }
        return Some(([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()], 3, 3));
    }
    Some(([first, 0, 0], 1, 1))
}

/// Bytes of the path that the pattern stands for, slashes behind a last slash included. None if it does not begin so.
fn matched(pattern: &[u8], path: &[u8]) -> Option<usize> {
    let (mut wanted, mut at, mut after_slash) = (pattern, 0, false);
    loop {
        let left = path.get(at..).unwrap_or_default();
        if after_slash && left.first() == Some(&b'/') {
            at += 1;
            continue;
        }
        if wanted.is_empty() {
            return Some(at);
        }
        let (normal, len, takes) = unit(left)?;
        wanted = wanted.strip_prefix(normal.get(..len)?)?;
        after_slash = normal == [b'/', 0, 0];
        at += takes;
    }
}

/// Whether the path is the pattern's.
pub(super) fn is(pattern: &PathPattern, path: &str) -> bool {
    matched(pattern.as_str().as_bytes(), path.as_bytes()) == Some(path.len())
}

/// Where what follows the prefix begins in the path: at a slash, or at its end. None if the path does not begin with
/// the pattern in whole segments.
pub(super) fn behind(prefix: &PathPattern, path: &str) -> Option<usize> {
    let end = matched(prefix.as_str().as_bytes(), path.as_bytes())?;
    let at_slash = path.as_bytes().get(end) == Some(&b'/');
    if prefix.as_str().ends_with('/') {
        // The slash belongs to both.
        Some(end.saturating_sub(1))
    } else {
        (at_slash || end == path.len()).then_some(end)
    }
}

/// Whether a segment of the path is `.` or `..`, percent-encoded or not, or would be to someone who takes an encoded
/// slash or a backslash for a slash, or cuts a segment's parameters off.
pub(super) fn has_dot_segments(path: &[u8]) -> bool {
    let (mut left, mut dots, mut only_dots) = (path, 0_usize, true);
    while let Some((normal, len, takes)) = unit(left) {
        left = left.get(takes..).unwrap_or_default();
        match normal.get(..len).unwrap_or_default() {
            b"/" | b"\\" | b"%2F" | b"%5C" => {
                if only_dots && (1..=2).contains(&dots) {
                    return true;
                }
                (dots, only_dots) = (0, true);
            }
            b"." if only_dots => dots += 1,
            b";" | b"%3B" if only_dots && (1..=2).contains(&dots) => return true,
            _ => only_dots = false,
        }
    }
    only_dots && (1..=2).contains(&dots)
}

/// Whether the conditions hold; if they do, where what follows a matched prefix begins in the path.
pub(super) fn holds(conditions: &Conditions, request: &Request<'_, '_>, trust: Trust<'_>) -> Option<usize> {
    let Conditions {
        host: hosts,
        path: paths,
        path_prefix: prefixes,
        method: methods,
        header,
        // Of the connection.
        variable: _,
    } = conditions;
    if !methods.is_empty() && !methods.iter().any(|m| m == request.method) {
        return None;
    }
    if !hosts.is_empty() {
        let host = host(authority(request));
        let host = host.strip_suffix(b".").unwrap_or(host);
        if !hosts.iter().any(|pattern| is_host(pattern.as_bytes(), host)) {
            return None;
        }
    }
    if !header
        .iter()
        .all(|condition| has_field(condition, request, trust))
    {
        return None;
    }
    let (path, _) = parts(&request.target);
    if !paths.is_empty() && !paths.iter().any(|pattern| is(pattern, path)) {
        return None;
    }
    if prefixes.is_empty() {
        return Some(path.len());
    }
    prefixes.iter().find_map(|prefix| behind(prefix, path))
}

/// Whether one of the fields of that name is as the condition says. What a client claims of addresses without being
/// trusted is not there.
fn has_field(condition: &FieldCondition, request: &Request<'_, '_>, trust: Trust<'_>) -> bool {
    let is = |value: &[u8]| match &condition.value {
        FieldValue::Any => true,
        FieldValue::OneOf(wanted) => wanted.iter().any(|w| w.as_bytes() == value),
        FieldValue::Prefix(starts) => starts.iter().any(|start| value.starts_with(start.as_bytes())),
    };
    let mut fields = (0..).zip(request.fields);
    fields.any(|(at, field)| {
        field.name.eq_ignore_ascii_case(&condition.name)
            && (!request.forwarded.contains(at) || trust.believes())
            && is(field.value)
    })
}

fn is_host(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        // `*.example.org`: at least one character in front of the dot.
        Some(suffix) => host
            .len()
            .checked_sub(suffix.len())
            .filter(|front| *front > 0)
            .and_then(|front| host.get(front..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::new(text)
    }

    #[test]
    fn whole_paths() {
        for (wanted, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a", "/A", false),
            ("/a", "/%61", true),
            ("/a", "//a", true),
            ("/a/", "/a//", true),
            ("/a%2Fb", "/a%2fb", true),
            ("/a%2Fb", "/a/b", false),
            ("/a b", "/a%20b", false),
            ("/a%20b", "/a%20b", true),
            ("/~a", "/%7ea", true),
            ("/", "/", true),
            ("/", "", false),
            ("/a%", "/a%", true),
        ] {
            assert_eq!(is(&pattern(wanted), path), expected, "{wanted} {path}");
        }
    }

    #[test]
    fn prefixes_are_whole_segments() {
        for (prefix, path, expected) in [
            ("/a", "/a", Some("")),
            ("/a", "/a/b", Some("/b")),
            ("/a", "/ab", None),
            ("/a", "/%61/b", Some("/b")),
            ("/a", "//a//b", Some("//b")),
            ("/a/", "/a", None),
            ("/a/", "/a/", Some("/")),
            ("/a/", "/a/b", Some("/b")),
            ("/a/", "/a//b", Some("/b")),
            ("/", "/", Some("/")),
            ("/", "/x", Some("/x")),
            ("/", "", None),
            ("/a", "/a%2Fb", None),
        ] {
            let rest = behind(&pattern(prefix), path).map(|at| &path[at..]);
            assert_eq!(rest, expected, "{prefix} {path}");
        }
    }

    #[test]
    fn dot_segments() {
        for bad in [
            "/.",
            "/..",
            "/a/../b",
            "/./a",
            "/%2e%2E/a",
            "/.%2e",
            "/a/..%2fb",
            "/a%5c..",
            "/a\\..\\b",
            "/..;/a",
            "/..%3ba",
            "/.;x=1/a",
        ] {
            assert!(has_dot_segments(bad.as_bytes()), "{bad}");
        }
        for good in [
            "",
            "/",
            "/a",
            "/a.b",
            "/...",
            "/.a",
            "/a..",
            "/.well-known/x",
            "/a/..b/c",
            "/;..",
            "/a;..b",
        ] {
            assert!(!has_dot_segments(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn hosts() {
        for (wanted, host, expected) in [
            ("example.org", "EXAMPLE.org", true),
            ("example.org", "www.example.org", false),
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "a.b.Example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "wwwexample.org", false),
        ] {
            assert_eq!(
                is_host(wanted.as_bytes(), host.as_bytes()),
                expected,
                "{wanted} {host}"
            );
        }
        for (authority, expected) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("", "")] {
            assert_eq!(host(authority.as_bytes()), expected.as_bytes());
        }
    }
}
