//! Messages: what a request may not be. Malformed ones are no requests, and nothing of them passes.

use crate::http2::{
    case::{Case, case},
    frames::{Code, GET, asks, block, data, flag, headers, request},
};

const PROTOCOL: &[Code] = &[Code::PROTOCOL_ERROR];

/// A request with that field behind.
fn with(name: &str, value: &str) -> Vec<u8> {
    request(1, &asks("GET", &[(name, value)]))
}

/// A request without that pseudo-field.
fn without(name: &str) -> Vec<u8> {
    let fields: Vec<_> = GET.into_iter().filter(|(n, _)| *n != name).collect();
    request(1, &block(&fields))
}

/// A request with that pseudo-field's value.
fn saying(name: &str, value: &str) -> Vec<u8> {
    let fields = GET.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
    request(1, &block(&fields))
}

pub(super) fn cases() -> Vec<Case> {
    let malformed = |id, rule, sent: Vec<u8>| case(id, rule).send(sent).resets(PROTOCOL).untouched();
    let late = {
        let mut fields = vec![GET[0], GET[1], ("x-test", "ok")];
        fields.extend([GET[2], GET[3]]);
        request(1, &block(&fields))
    };
    let length = |value| headers(1, 0, &asks("POST", &[("content-length", value)]));
    vec![
        case("8.1/second-head", "HEADERS behind the body end the stream")
            .send(headers(1, 0, &asks("POST", &[])))
            .send(data(1, 0, b"test"))
            .send(headers(1, 0, &block(&[("x-test", "ok")])))
            .resets(PROTOCOL)
            .untouched(),
        case("8.1.1/length-too-small", "a body is as long as its length says")
            .send(length("1"))
            .send(data(1, flag::END_STREAM, b"test"))
            .resets(PROTOCOL)
            .untouched(),
        case("8.1.1/length-too-small-in-two", "its frames together")
            .send(length("1"))
            .send(data(1, 0, b"test"))
            .send(data(1, flag::END_STREAM, b"test"))
            .resets(PROTOCOL)
            .untouched(),
        case("8.1.1/length-too-large", "and no shorter")
            .send(length("10"))
            .send(data(1, flag::END_STREAM, b"test"))
            .resets(PROTOCOL)
            .untouched(),
        case("8.1.1/length-without-body", "nor is it nothing")
            .send(request(1, &asks("POST", &[("content-length", "4")])))
            .resets(PROTOCOL)
            .untouched(),
        malformed("8.2.1/uppercase", "names are lower case", with("X-TEST", "ok")),
        malformed("8.2.1/name-blank", "a name has no blank", with("x test", "ok")),
        malformed("8.2.1/name-empty", "a name is not empty", with("", "ok")),
        malformed(
            "8.2.1/name-colon",
            "a name has no colon behind its first byte",
            with("x:test", "ok"),
        ),
        malformed("8.2.1/value-nul", "a value has no NUL", with("x-test", "a\0b")),
        malformed("8.2.1/value-cr", "no CR", with("x-test", "a\rb")),
        malformed("8.2.1/value-lf", "no LF", with("x-test", "a\nx-evil: 1")),
        malformed(
            "8.2.1/value-blank-before",
            "does not begin with a blank",
            with("x-test", " a"),
        ),
        malformed(
            "8.2.1/value-blank-behind",
            "nor end with one",
            with("x-test", "a "),
        ),
        malformed(
            "8.2.2/connection",
            "Connection is of HTTP/1",
            with("connection", "keep-alive"),
        ),
        malformed(
            "8.2.2/proxy-connection",
            "Proxy-Connection too",
            with("proxy-connection", "keep-alive"),
        ),
        malformed(
            "8.2.2/keep-alive",
            "Keep-Alive too",
            with("keep-alive", "timeout=5"),
        ),
        malformed(
            "8.2.2/transfer-encoding",
            "Transfer-Encoding too",
            with("transfer-encoding", "chunked"),
        ),
        malformed("8.2.2/upgrade", "Upgrade too", with("upgrade", "h2c")),
        malformed(
            "8.2.2/te",
            "TE says trailers or nothing",
            with("te", "trailers, deflate;q=0.5"),
        ),
        malformed(
            "8.3/unknown",
            "no other pseudo-fields than those of the RFC",
            with(":test", "ok"),
        ),
        malformed(
            "8.3/of-a-response",
            "nor those of responses",
            with(":status", "200"),
        ),
        case("8.3/in-trailers", "nor any in trailers")
            .send(headers(1, 0, &asks("POST", &[])))
            .send(data(1, 0, b"test"))
            .send(headers(1, flag::END_STREAM, &block(&[(":method", "GET")])))
            .resets(PROTOCOL)
            .untouched(),
        malformed("8.3/behind-fields", "they stand before the fields", late),
        malformed("8.3.1/path-empty", "a path is not empty", saying(":path", "")),
        malformed(
            "8.3.1/path-relative",
            "it begins with a slash",
            saying(":path", "index.html"),
        ),
        malformed("8.3.1/no-method", "there is a method", without(":method")),
        malformed("8.3.1/no-scheme", "and a scheme", without(":scheme")),
        malformed("8.3.1/no-path", "and a path", without(":path")),
        malformed("8.3.1/two-methods", "once", with(":method", "GET")),
        malformed("8.3.1/two-schemes", "once", with(":scheme", "http")),
        malformed("8.3.1/two-paths", "once", with(":path", "/")),
        malformed(
            "8.3.1/two-authorities",
            "once",
            with(":authority", "origin.example"),
        ),
        malformed(
            "8.5/connect-with-path",
            "CONNECT has no scheme and no path",
            saying(":method", "CONNECT"),
        ),
    ]
}
