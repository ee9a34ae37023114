//! Request targets and `Host`.

use crate::case::{Case, Setting, case, passed, passes, refused};

fn host(id: &'static str, value: &str) -> Case {
    refused(
        id,
        "9112 §3.2",
        format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"),
        400,
    )
}

fn good_host(id: &'static str, value: &str) -> Case {
    let head = format!("GET / HTTP/1.1\r\nHost: {value}\r\n");
    passes(id, "9110 §7.2", format!("{head}\r\n"), passed(&head))
}

fn target(id: &'static str, rfc: &'static str, target: &str, status: u16) -> Case {
    refused(
        id,
        rfc,
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
        status,
    )
}

fn good(id: &'static str, rfc: &'static str, target: &str) -> Case {
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n");
    passes(id, rfc, format!("{head}\r\n"), passed(&head))
}

fn absolute(id: &'static str, method: &str, from: &str, host: &str, path: &str, authority: &str) -> Case {
    passes(
        id,
        "9112 §3.2.2",
        format!("{method} {from} HTTP/1.1\r\nX: y\r\nHost: {host}\r\n\r\n"),
        passed(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nX: y\r\n"
        )),
    )
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        refused("host-missing", "9112 §3.2", "GET / HTTP/1.1\r\n\r\n", 400),
        refused(
            "host-twice-same",
            "9112 §3.2",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
        ),
        refused(
            "host-twice-differs",
            "9112 §3.2",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            400,
        ),
        refused(
            "host-twice-http-1.0",
            "9112 §3.2",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
        ),
        host("host-empty", ""),
        host("host-port-alone", ":80"),
        host("host-space", "a b"),
        host("host-comma", "a, b"),
        host("host-slash", "a/b"),
        host("host-userinfo", "u@a"),
        host("host-question-mark", "a?b"),
        host("host-fragment", "a#b"),
        host("host-backslash", "a\\b"),
        host("host-quotes", "\"a\""),
        host("host-not-ascii", "\u{e4}"),
        host("host-port-word", "a:b"),
        host("host-port-twice", "a:80:80"),
        host("host-port-too-large", "a:65536"),
        host("host-port-sign", "a:+80"),
        host("host-bracket-open", "[::1"),
        host("host-bracket-name", "[a]"),
        host("host-bracket-rest", "[::1]x"),
        host("host-v6-bare", "::1"),
        host("host-bad-escape", "%4"),
        host("host-with-scheme", "http://a"),
        good_host("host-port", "a.example:8080"),
        good_host("host-port-empty", "a.example:"),
        good_host("host-v4", "192.0.2.1:80"),
        good_host("host-v6", "[2001:db8::1]:80"),
        good_host("host-underscore", "a_b.example"),
        good_host("host-upper", "EXAMPLE.com"),
        good(
            "target-bytes",
            "9110 §4.2.3",
            "/a/../b//c/./%2e%2E/%00;p=1?q=%zz&r=a+b",
        ),
        good(
            "target-odd-bytes",
            "project: what browsers send",
            "/|{}^`\\\"<>[]",
        ),
        good("target-double-slash", "9112 §3.2.1", "//a/b"),
        good("target-only-query", "9112 §3.2.1", "/?"),
        good("target-long", "9112 §3", &format!("/{}", "x".repeat(8000))),
        target("target-empty-query", "9112 §3.2.1", "?a", 400),
        target("target-relative", "9112 §3.2.1", "a/b", 400),
        target("target-fragment", "9112 §3.2.1", "/a#b", 400),
        target("target-not-ascii", "9112 §3.2.1", "/\u{e4}", 400),
        target("target-control", "9112 §3.2.1", "/\x01", 400),
        target("target-del", "9112 §3.2.1", "/\x7f", 400),
        target("target-nul", "9112 §3.2.1", "/\0", 400),
        target("target-star", "9112 §3.2.4", "*", 400),
        target("target-authority", "9112 §3.2.3", "a:80", 400),
        target("target-other-scheme", "9110 §4.2", "ftp://a/", 400),
        target("absolute-no-host", "9110 §4.2.1", "http:///x", 400),
        target("absolute-userinfo", "9110 §4.2.4", "http://a@a/", 400),
        target("absolute-one-slash", "9112 §3.2.2", "http:/a/", 400),
        target("absolute-other-host", "9112 §3.2.2", "http://b/", 400),
        target("absolute-other-port", "9112 §3.2.2", "http://a:81/", 400),
        target("absolute-tls-port", "9112 §3.2.2", "http://a:443/", 400),
        target("absolute-https", "9110 §7.4", "https://a/", 421),
        refused(
            "absolute-without-host",
            "9112 §3.2",
            "GET http://a/ HTTP/1.1\r\n\r\n",
            400,
        ),
        absolute("absolute", "GET", "http://a/x?y", "a", "/x?y", "a"),
        absolute(
            "absolute-host-from-target",
            "GET",
            "http://A:80/",
            "a",
            "/",
            "A:80",
        ),
        absolute("absolute-no-path", "GET", "http://a", "a", "/", "a"),
        absolute("absolute-query-alone", "GET", "http://a?y", "a", "/?y", "a"),
        absolute("absolute-scheme-case", "GET", "HTTP://a/", "a", "/", "a"),
        absolute("absolute-options", "OPTIONS", "http://a", "a", "*", "a"),
        case("absolute-https-trusted", "9110 §7.4")
            .under(Setting::Trusted)
            .client("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin(crate::case::OK)
            .client_gets(crate::case::OK),
        passes(
            "absolute-http-1.0",
            "9112 §3.2",
            "GET http://b/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            crate::case::passed_old("GET / HTTP/1.1\r\nHost: b\r\n"),
        )
        .replace_answer(
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        ),
    ]
}
