//! Request heads: request lines, fields, line ends, and what of the fields is passed on.

use crate::case::{Case, Setting, case, passed, passed_old, passes, refused};

/// A field line that must not stand in a head.
fn bad_field(id: &'static str, rfc: &'static str, line: &str) -> Case {
    refused(
        id,
        rfc,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"),
        400,
    )
}

/// Field lines, and what of them is passed on.
fn fields(id: &'static str, rfc: &'static str, lines: &str, seen: &str) -> Case {
    passes(
        id,
        rfc,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"),
        passed(&format!("GET / HTTP/1.1\r\nHost: a\r\n{seen}")),
    )
}

/// Any first line.
fn line(id: &'static str, rfc: &'static str, line: &str, status: u16) -> Case {
    refused(id, rfc, format!("{line}\r\nHost: a\r\n\r\n"), status)
}

pub(super) fn cases() -> Vec<Case> {
    [
        request_lines(),
        line_ends(),
        names_and_values(),
        hop_by_hop(),
        end_to_end(),
        forwarding(),
    ]
    .concat()
}

fn request_lines() -> Vec<Case> {
    vec![
        line("line-two-spaces-before-target", "9112 §3", "GET  / HTTP/1.1", 400),
        line(
            "line-two-spaces-before-version",
            "9112 §3",
            "GET /  HTTP/1.1",
            400,
        ),
        line("line-space-first", "9112 §3", " GET / HTTP/1.1", 400),
        line("line-space-last", "9112 §3", "GET / HTTP/1.1 ", 400),
        line("line-tab", "9112 §3", "GET\t/ HTTP/1.1", 400),
        line("line-space-in-target", "9112 §3", "GET /a b HTTP/1.1", 400),
        line("line-no-version", "9112 §3", "GET /", 400),
        line("line-no-target", "9112 §3", "GET HTTP/1.1", 400),
        line("line-method-alone", "9112 §3", "GET", 400),
        line("line-bad-method", "9110 §9.1", "G@T / HTTP/1.1", 400),
        line("line-empty-method", "9110 §9.1", "/ HTTP/1.1", 400),
        line("line-bare-cr", "9112 §2.2", "GET / \rHTTP/1.1", 400),
        line("version-lower-case", "9112 §2.3", "GET / http/1.1", 400),
        line("version-no-dot", "9112 §2.3", "GET / HTTP/11", 400),
        line("version-three-digits", "9112 §2.3", "GET / HTTP/1.10", 400),
        line("version-other-name", "9112 §2.3", "GET / HTTX/1.1", 400),
        line("version-2.0", "9110 §15.6.6", "GET / HTTP/2.0", 505),
        line("version-0.9", "9110 §15.6.6", "GET / HTTP/0.9", 505),
        line("version-3.1", "9110 §15.6.6", "GET / HTTP/3.1", 505),
        refused(
            "version-h2-preface",
            "9113 §3.4",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            505,
        ),
        refused(
            "line-tls",
            "project: a TLS client",
            "\x16\x03\x01\x02\r\n\r\n",
            400,
        ),
        passes(
            "version-1.2-is-1.1",
            "9110 §2.5",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            passed("GET / HTTP/1.1\r\nHost: a\r\n"),
        ),
        passes(
            "line-empty-line-before",
            "9112 §2.2",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("GET / HTTP/1.1\r\nHost: a\r\n"),
        ),
        refused("line-many-empty-lines", "project: bounds", "\r\n".repeat(10), 400),
        refused(
            "line-bare-lf-before",
            "9112 §2.2",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        refused(
            "line-bad-head-request",
            "9110 §9.3.2",
            "HEAD / HTTP/1.1\r\n\r\n",
            400,
        ),
    ]
}

fn line_ends() -> Vec<Case> {
    vec![
        refused("lf-everywhere", "9112 §2.2", "GET / HTTP/1.1\nHost: a\n\n", 400),
        refused(
            "lf-request-line",
            "9112 §2.2",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            400,
        ),
        refused(
            "lf-field",
            "9112 §2.2",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            400,
        ),
        refused(
            "lf-last-field",
            "9112 §2.2",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            400,
        ),
        refused(
            "lf-empty-line",
            "9112 §2.2",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            400,
        ),
        refused("lf-early", "9112 §2.2", "GET / HTTP/1.1\r\nHost: a\nX: y", 400),
        bad_field("cr-in-value", "9112 §2.2", "X: y\rz"),
        bad_field("cr-cr-lf", "9112 §2.2", "X: y\r\r"),
        bad_field("cr-in-name", "9112 §2.2", "X\ry: z"),
        bad_field("cr-first", "9112 §2.2", "\rX: y"),
    ]
}

fn names_and_values() -> Vec<Case> {
    vec![
        bad_field("name-space-before-colon", "9112 §5.1", "X : y"),
        bad_field("name-tab-before-colon", "9112 §5.1", "X\t: y"),
        bad_field("name-space-inside", "9112 §5.1", "X y: z"),
        bad_field("name-empty", "9110 §5.1", ": y"),
        bad_field("name-no-colon", "9112 §5", "X"),
        bad_field("name-parentheses", "9110 §5.1", "(X): y"),
        bad_field("name-nul", "9110 §5.1", "X\0: y"),
        bad_field("name-not-ascii", "9110 §5.1", "\u{fc}: y"),
        bad_field("name-del", "9110 §5.1", "X\x7f: y"),
        bad_field("value-nul", "9110 §5.5", "X: a\0b"),
        bad_field("value-control", "9110 §5.5", "X: a\x01b"),
        bad_field("value-del", "9110 §5.5", "X: \x7f"),
        bad_field("fold-space", "9112 §5.2", "X: y\r\n z"),
        bad_field("fold-tab", "9112 §5.2", "X: y\r\n\tz"),
        refused(
            "fold-first",
            "9112 §2.2",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            400,
        ),
        bad_field("fold-hides-length", "9112 §5.2", "X: y\r\n Content-Length: 5"),
        fields("value-empty", "9110 §5.5", "X:\r\nY: \r\n", "X: \r\nY: \r\n"),
        fields(
            "value-blanks-around",
            "9110 §5.5",
            "X:\t y z \t\r\n",
            "X: y z\r\n",
        ),
        fields("value-tab-inside", "9110 §5.5", "X: y\tz\r\n", "X: y\tz\r\n"),
        passes(
            "value-not-ascii",
            "9110 §5.5",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\x80\xe4\r\n\r\n".as_slice(),
            [
                b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\x80\xe4\r\n".as_slice(),
                crate::case::ADDED.as_bytes(),
                b"\r\n",
            ]
            .concat()
            .as_slice(),
        ),
        fields(
            "name-all-token-bytes",
            "9110 §5.6.2",
            "!#$%&'*+-.^`|~0aZ: y\r\n",
            "!#$%&'*+-.^`|~0aZ: y\r\n",
        ),
    ]
}

fn hop_by_hop() -> Vec<Case> {
    let f = fields;
    vec![
        f(
            "hop-keep-alive",
            "9110 §7.6.1",
            "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
            "",
        ),
        f(
            "hop-proxy-connection",
            "9112 §C.2.2",
            "Proxy-Connection: keep-alive\r\n",
            "",
        ),
        f(
            "hop-nominated",
            "9110 §7.6.1",
            "X-Hop: 1\r\nX-End: 2\r\nConnection: x-hop\r\nX-HOP: 3\r\n",
            "X-End: 2\r\n",
        ),
        f(
            "hop-nominated-list",
            "9110 §7.6.1",
            "A: 1\r\nConnection: ,a , keep-alive,\r\nB: 2\r\nConnection: b\r\nC: 3\r\n",
            "C: 3\r\n",
        ),
        f("hop-nominated-not-there", "9110 §7.6.1", "Connection: x\r\n", ""),
        f(
            "hop-nominated-host",
            "project: what backends rely on",
            "Connection: host\r\n",
            "",
        ),
        f(
            "hop-nominated-cookie",
            "project: what backends rely on",
            "Connection: Cookie\r\nCookie: a=b\r\n",
            "Cookie: a=b\r\n",
        ),
        f(
            "hop-nominated-forwarded",
            "project: what backends rely on",
            "Connection: X-Forwarded-For\r\n",
            "",
        ),
        f("hop-te", "9110 §10.1.4", "TE: gzip\r\nConnection: TE\r\n", ""),
        f(
            "hop-te-trailers",
            "9110 §10.1.4",
            "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n",
            "TE: trailers\r\nConnection: TE\r\n",
        ),
        f(
            "hop-upgrade-without-option",
            "9110 §7.8",
            "Upgrade: websocket\r\n",
            "",
        ),
        f(
            "hop-option-without-upgrade",
            "9110 §7.8",
            "Connection: upgrade\r\n",
            "",
        ),
        f(
            "hop-h2c",
            "9113 §3.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            "",
        ),
        f(
            "hop-proxy-authorization-passes",
            "9110 §11.7.2",
            "Proxy-Authorization: Basic x\r\n",
            "Proxy-Authorization: Basic x\r\n",
        ),
    ]
}

fn end_to_end() -> Vec<Case> {
    let f = fields;
    vec![
        // weir takes no part in a trace, so both fields pass as they are, in their order, parseable or not.
        fields(
            "traceparent",
            "Trace Context §4.2",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTraceState: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7\r\ntracestate: x=1\r\n",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTraceState: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7\r\ntracestate: x=1\r\n",
        ),
        fields(
            "traceparent-of-the-future",
            "Trace Context §4.2",
            "traceparent: cc-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be\r\ntraceparent: junk\r\n",
            "traceparent: cc-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be\r\ntraceparent: junk\r\n",
        ),
        f(
            "order-and-case",
            "9110 §5.3",
            "b: 1\r\nA: 2\r\nB: 3\r\na: 4\r\n",
            "b: 1\r\nA: 2\r\nB: 3\r\na: 4\r\n",
        ),
        passes(
            "host-in-its-place",
            "9110 §5.3",
            "GET / HTTP/1.1\r\nA: 1\r\nhOST: a\r\nB: 2\r\n\r\n",
            passed("GET / HTTP/1.1\r\nA: 1\r\nhOST: a\r\nB: 2\r\n"),
        ),
        f(
            "lists-stay-apart",
            "9110 §5.3",
            "Accept: a\r\nAccept: b, c\r\nCookie: x=1\r\nCookie: y=2\r\n",
            "Accept: a\r\nAccept: b, c\r\nCookie: x=1\r\nCookie: y=2\r\n",
        ),
        f(
            "unknown-fields-pass",
            "9110 §5.1",
            "X-Any: thing\r\nPriority: u=1\r\nSec-Fetch-Mode: cors\r\n",
            "X-Any: thing\r\nPriority: u=1\r\nSec-Fetch-Mode: cors\r\n",
        ),
        f(
            "max-forwards-of-get-passes",
            "9110 §7.6.2",
            "Max-Forwards: 0\r\n",
            "Max-Forwards: 0\r\n",
        ),
        f(
            "expect-without-body",
            "9110 §10.1.1",
            "Expect: 100-continue\r\n",
            "",
        ),
        f(
            "expect-unknown-passes",
            "9110 §10.1.1",
            "Expect: something\r\n",
            "Expect: something\r\n",
        ),
        f(
            "cache-fields-pass",
            "9110 §7.7",
            "Cache-Control: no-transform\r\nIf-None-Match: \"x\"\r\nRange: bytes=0-1\r\n",
            "Cache-Control: no-transform\r\nIf-None-Match: \"x\"\r\nRange: bytes=0-1\r\n",
        ),
        f(
            "quoted-strings-pass",
            "9110 §5.6.4",
            "X: \"a, b; \\\"c\\\"\", (comment)\r\n",
            "X: \"a, b; \\\"c\\\"\", (comment)\r\n",
        ),
    ]
}

fn forwarding() -> Vec<Case> {
    vec![
        fields("via-appended", "9110 §7.6.3", "Via: 1.0 fred, 1.1 p\r\nX: y\r\n", "Via: 1.0 fred, 1.1 p\r\nX: y\r\n"),
        passes("via-http-1.0", "9110 §7.6.3", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", passed_old("GET / HTTP/1.1\r\nHost: a\r\n"))
            .replace_answer("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"),
        case("via-off", "9110 §7.6.3")
            .under(Setting::NoVia)
            .client(crate::case::GET)
            .origin_gets("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n")
            .origin(crate::case::OK)
            .client_gets(crate::case::OK),
        fields("forwarded-for-not-believed", "project: claims", "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n", ""),
        case("forwarded-for-believed", "project: claims")
            .under(Setting::Trusted)
            .client("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n")
            .origin_gets("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nVia: 1.1 edge-1\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.1\r\n\r\n")
            .origin(crate::case::OK)
            .client_gets(crate::case::OK),
    ]
}
