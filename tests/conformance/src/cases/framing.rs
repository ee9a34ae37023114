//! How long a request body is: lengths, codings, chunks, and everything that could be read in two ways.

use crate::case::{Case, case, passed, passes, refused};

/// What stands behind the head is a request to whoever reads the framing in another way.
const SMUGGLED: &str = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

fn smuggled(id: &'static str, rfc: &'static str, fields: &str, status: u16) -> Case {
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{SMUGGLED}");
    refused(id, rfc, request, status)
}

/// A chunked body that is none.
fn bad_chunks(id: &'static str, rfc: &'static str, body: &str) -> Case {
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    refused(id, rfc, request, 400)
}

/// A chunked body, and what of it is passed on.
fn chunks(id: &'static str, rfc: &'static str, body: &str, seen: &str) -> Case {
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    passes(id, rfc, request, format!("{}{seen}", chunked_head()))
}

fn chunked_head() -> String {
    passed("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
}

pub(super) fn cases() -> Vec<Case> {
    [lengths(), codings(), good_chunks(), broken_chunks(), trailers()].concat()
}

fn lengths() -> Vec<Case> {
    let head = |length: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
    let long = "9".repeat(40);
    vec![
        passes(
            "cl-body",
            "9112 §6.2",
            format!("{}\r\nhello", head("5")),
            format!("{}hello", passed(&head("5"))),
        ),
        passes(
            "cl-zero",
            "9112 §6.3",
            format!("{}\r\n", head("0")),
            passed(&head("0")),
        ),
        passes(
            "cl-leading-zeros",
            "9110 §8.6",
            format!("{}\r\nhello", head("0005")),
            format!("{}hello", passed(&head("0005"))),
        ),
        passes(
            "cl-on-get",
            "9110 §9.3.1",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            format!(
                "{}hi",
                passed("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n")
            ),
        ),
        passes(
            "no-length-no-body",
            "9112 §6.3",
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            passed("POST / HTTP/1.1\r\nHost: a\r\n"),
        ),
        smuggled(
            "cl-te",
            "9112 §6.1",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            400,
        ),
        smuggled(
            "te-cl",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            400,
        ),
        smuggled(
            "cl-twice-differs",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 6",
            400,
        ),
        smuggled(
            "cl-twice-same",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 5",
            400,
        ),
        smuggled("cl-list-same", "9110 §8.6", "Content-Length: 5, 5", 400),
        smuggled("cl-list-differs", "9110 §8.6", "Content-Length: 5, 6", 400),
        smuggled("cl-plus", "9110 §8.6", "Content-Length: +5", 400),
        smuggled("cl-minus", "9110 §8.6", "Content-Length: -5", 400),
        smuggled("cl-hex", "9110 §8.6", "Content-Length: 0x5", 400),
        smuggled("cl-fraction", "9110 §8.6", "Content-Length: 5.0", 400),
        smuggled("cl-two-words", "9110 §8.6", "Content-Length: 5 5", 400),
        smuggled("cl-empty", "9110 §8.6", "Content-Length: ", 400),
        smuggled("cl-word", "9110 §8.6", "Content-Length: five", 400),
        smuggled("cl-quoted", "9110 §8.6", "Content-Length: \"5\"", 400),
        smuggled(
            "cl-overflow-64",
            "9110 §8.6",
            "Content-Length: 18446744073709551621",
            400,
        ),
        smuggled(
            "cl-overflow-63",
            "9110 §8.6",
            "Content-Length: 9223372036854775808",
            400,
        ),
        smuggled(
            "cl-overflow-long",
            "9110 §8.6",
            &format!("Content-Length: {long}"),
            400,
        ),
        smuggled("cl-vertical-tab", "9110 §5.5", "Content-Length: 5\x0b", 400),
        smuggled("cl-form-feed", "9110 §5.5", "Content-Length: \x0c5", 400),
        smuggled("cl-no-break-space", "9110 §8.6", "Content-Length: \u{a0}5", 400),
        case("cl-masked", "project: names that pass for others")
            .client("GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n")
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin(crate::case::OK)
            .client_gets(crate::case::OK)
            .kept(),
    ]
}

fn codings() -> Vec<Case> {
    vec![
        passes(
            "te-case",
            "9112 §7",
            "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-encoding: ChUnKeD\r\n\r\n0\r\n\r\n",
            format!("{}0\r\n\r\n", chunked_head()),
        ),
        smuggled(
            "te-twice",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        smuggled(
            "te-list-twice",
            "9112 §6.1",
            "Transfer-Encoding: chunked, chunked",
            400,
        ),
        smuggled(
            "te-then-identity",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        smuggled(
            "te-chunked-not-last",
            "9112 §6.3",
            "Transfer-Encoding: chunked, gzip",
            400,
        ),
        smuggled("te-identity", "9112 §6.3", "Transfer-Encoding: identity", 400),
        smuggled("te-unknown", "9112 §6.3", "Transfer-Encoding: xchunked", 400),
        smuggled("te-gzip-alone", "9112 §6.3", "Transfer-Encoding: gzip", 400),
        smuggled(
            "te-gzip-chunked",
            "9112 §6.1",
            "Transfer-Encoding: gzip, chunked",
            501,
        ),
        smuggled(
            "te-gzip-chunked-in-two",
            "9112 §6.1",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            501,
        ),
        smuggled("te-parameter", "9112 §7", "Transfer-Encoding: chunked;q=1", 400),
        smuggled("te-quoted", "9112 §7", "Transfer-Encoding: \"chunked\"", 400),
        smuggled("te-single-quoted", "9112 §7", "Transfer-Encoding: 'chunked'", 400),
        smuggled("te-empty", "9112 §6.1", "Transfer-Encoding: ", 400),
        smuggled(
            "te-leading-comma",
            "9110 §5.6.1",
            "Transfer-Encoding: , chunked",
            400,
        ),
        smuggled(
            "te-trailing-comma",
            "9110 §5.6.1",
            "Transfer-Encoding: chunked,",
            400,
        ),
        smuggled(
            "te-vertical-tab",
            "9110 §5.5",
            "Transfer-Encoding: \x0bchunked",
            400,
        ),
        smuggled("te-form-feed", "9110 §5.5", "Transfer-Encoding: chunked\x0c", 400),
        smuggled("te-nul", "9110 §5.5", "Transfer-Encoding: chunked\0", 400),
        smuggled("te-folded", "9112 §5.2", "Transfer-Encoding:\r\n chunked", 400),
        smuggled(
            "te-space-before-colon",
            "9112 §5.1",
            "Transfer-Encoding : chunked",
            400,
        ),
        smuggled(
            "te-tab-before-colon",
            "9112 §5.1",
            "Transfer-Encoding\t: chunked",
            400,
        ),
        smuggled(
            "te-bad-byte-in-name",
            "9110 §5.1",
            "Transfer\u{2010}Encoding: chunked",
            400,
        ),
        smuggled(
            "te-after-bare-cr",
            "9112 §2.2",
            "X: y\rTransfer-Encoding: chunked",
            400,
        ),
        smuggled(
            "te-after-bare-lf",
            "9112 §2.2",
            "X: y\nTransfer-Encoding: chunked",
            400,
        ),
        refused(
            "te-http-1.0",
            "9112 §6.1",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        refused(
            "te-http-1.0-with-length",
            "9112 §6.1",
            "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ]
}

fn good_chunks() -> Vec<Case> {
    vec![
        chunks("chunk-empty", "9112 §7.1", "0\r\n\r\n", "0\r\n\r\n"),
        chunks(
            "chunk-one",
            "9112 §7.1",
            "5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-two-become-one",
            "9112 §7.1",
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-upper-hex",
            "9112 §7.1",
            "A\r\n0123456789\r\n0\r\n\r\n",
            "a\r\n0123456789\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-leading-zeros",
            "9112 §7.1",
            "005\r\nhello\r\n000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-extension-ends-here",
            "9112 §7.1.1",
            "5;a=b\r\nhello\r\n0;c\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-extension-quoted",
            "9112 §7.1.1",
            "5;a=\"b;\\\"c\"\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-extension-blanks",
            "9112 §7.1.1",
            "5 ; a = b\t;c\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-data-like-framing",
            "9112 §7.1",
            "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        ),
        chunks(
            "chunk-data-with-nul",
            "9112 §7.1",
            "3\r\n\0\n\r\r\n0\r\n\r\n",
            "3\r\n\0\n\r\r\n0\r\n\r\n",
        ),
        case("chunks-pass-as-they-come", "9112 §7.1")
            .client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .origin_gets(chunked_head())
            .client_piece("2\r\nhe\r\n")
            .origin_gets("2\r\nhe\r\n")
            .client_piece("3\r\nl")
            .origin_gets("1\r\nl\r\n")
            .client_piece("lo\r")
            .origin_gets("2\r\nlo\r\n")
            .client("\n0\r\n\r\n")
            .origin_gets("0\r\n\r\n")
            .origin(crate::case::OK)
            .client_gets(crate::case::OK)
            .kept(),
    ]
}

fn broken_chunks() -> Vec<Case> {
    let bad = bad_chunks;
    vec![
        bad("chunk-size-letter", "9112 §7.1", "g\r\n"),
        bad("chunk-size-missing", "9112 §7.1", "\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-0x", "9112 §7.1", "0x5\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-plus", "9112 §7.1", "+5\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-minus", "9112 §7.1", "-5\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-space-before", "9112 §7.1", " 5\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-space-behind", "9112 §7.1", "5 \r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-tab-behind", "9112 §7.1", "5\t\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-size-underscore", "9112 §7.1", "1_0\r\nhello\r\n0\r\n\r\n"),
        bad(
            "chunk-size-64-bits",
            "9112 §7.1",
            "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-size-wraps-to-5",
            "9112 §7.1",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-size-wraps-32",
            "9112 §7.1",
            "f0000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        bad("chunk-line-bare-lf", "9112 §7.1", "5\nhello\r\n0\r\n\r\n"),
        bad("chunk-line-bare-cr", "9112 §7.1", "5\rhello\r\n0\r\n\r\n"),
        bad("chunk-line-cr-cr-lf", "9112 §7.1", "5\r\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-line-nul", "9112 §7.1", "5\0\r\nhello\r\n0\r\n\r\n"),
        bad("chunk-data-too-long", "9112 §7.1", "5\r\nhelloX\r\n0\r\n\r\n"),
        bad("chunk-data-ends-in-lf", "9112 §7.1", "5\r\nhello\n0\r\n\r\n"),
        bad("chunk-data-ends-in-cr", "9112 §7.1", "5\r\nhello\r0\r\n\r\n"),
        bad("chunk-data-without-end", "9112 §7.1", "5\r\nhello0\r\n\r\n"),
        bad("chunk-extension-empty", "9112 §7.1.1", "5;\r\nhello\r\n0\r\n\r\n"),
        bad(
            "chunk-extension-no-value",
            "9112 §7.1.1",
            "5;a=\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-no-name",
            "9112 §7.1.1",
            "5;=b\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-two-words",
            "9112 §7.1.1",
            "5;a b\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-control",
            "9112 §7.1.1",
            "5;a=\x01\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-bare-lf",
            "9112 §7.1.1",
            "5;a\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-bare-cr",
            "9112 §7.1.1",
            "5;a\rX\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-open-quote",
            "9112 §7.1.1",
            "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        ),
        bad(
            "chunk-extension-long",
            "project: bounds",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000)),
        ),
        bad("chunk-last-bare-lf", "9112 §7.1", "0\n\n"),
        bad("chunk-end-bare-lf", "9112 §7.1", "0\r\n\n"),
        case("chunk-broken-later", "9112 §7.1")
            .client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .origin_gets(format!("{}5\r\nhello\r\n", chunked_head()))
            .client("x\r\n")
            .refusal(400)
            .origin_ends()
            .ended("client-bad-request"),
    ]
}

fn trailers() -> Vec<Case> {
    let bad = bad_chunks;
    vec![
        chunks(
            "trailer-passes",
            "9110 §6.5",
            "5\r\nhello\r\n0\r\nX-Sum:  1 \r\nx-more: a\r\n\r\n",
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-more: a\r\n\r\n",
        ),
        passes(
            "trailer-announced",
            "9110 §6.6.2",
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
            format!(
                "{}0\r\nX-Sum: 1\r\n\r\n",
                passed("POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n")
            ),
        ),
        bad(
            "trailer-content-length",
            "9110 §6.5.1",
            "0\r\nContent-Length: 5\r\n\r\n",
        ),
        bad(
            "trailer-transfer-encoding",
            "9110 §6.5.1",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        bad("trailer-host", "9110 §6.5.1", "0\r\nHost: b\r\n\r\n"),
        bad(
            "trailer-connection",
            "9110 §7.6.1",
            "0\r\nConnection: close\r\n\r\n",
        ),
        bad(
            "trailer-authorization",
            "9110 §6.5.1",
            "0\r\nAuthorization: Basic x\r\n\r\n",
        ),
        bad(
            "trailer-forwarded-for",
            "9110 §6.5.1",
            "0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        ),
        bad("trailer-space-before-colon", "9112 §5.1", "0\r\nX : y\r\n\r\n"),
        bad("trailer-folded", "9112 §5.2", "0\r\nX: y\r\n z\r\n\r\n"),
        bad("trailer-bare-lf", "9112 §2.2", "0\r\nX: y\n\r\n"),
        bad("trailer-bare-cr", "9112 §2.2", "0\r\nX: y\rZ: a\r\n\r\n"),
        bad("trailer-nul", "9110 §5.5", "0\r\nX: \0\r\n\r\n"),
        bad("trailer-no-colon", "9112 §5", "0\r\nX\r\n\r\n"),
        bad(
            "trailer-long",
            "project: bounds",
            &format!("0\r\nX: {}\r\n\r\n", "y".repeat(17 << 10)),
        ),
        bad(
            "trailer-many",
            "project: bounds",
            &format!("0\r\n{}\r\n", "X: y\r\n".repeat(65)),
        ),
    ]
}
