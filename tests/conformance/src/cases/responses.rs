//! Responses, judged as strictly as requests; and how their bodies end.

use crate::case::{Case, GET, OK, Step, answered, asked, case, not_believed, passed};

/// A head with these field lines is no response.
fn bad(id: &'static str, rfc: &'static str, lines: &str) -> Case {
    not_believed(id, rfc, format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello"))
}

fn bad_line(id: &'static str, rfc: &'static str, line: &str) -> Case {
    not_believed(id, rfc, format!("{line}\r\nContent-Length: 0\r\n\r\n"))
}

/// Field lines that pass, and what the client gets of them.
fn fields(id: &'static str, rfc: &'static str, lines: &str, seen: &str) -> Case {
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n";
    answered(
        id,
        rfc,
        format!("{head}{lines}\r\nok"),
        format!("{head}{seen}\r\nok"),
    )
}

fn chunked(id: &'static str, rfc: &'static str, body: &str, seen: &str) -> Case {
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    answered(id, rfc, format!("{head}{body}"), format!("{head}{seen}"))
}

fn bad_chunks(id: &'static str, rfc: &'static str, body: &str) -> Case {
    not_believed(
        id,
        rfc,
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    )
    .together()
}

pub(super) fn cases() -> Vec<Case> {
    [framing(), heads(), good(), bodies(), bodiless()].concat()
}

fn framing() -> Vec<Case> {
    vec![
        bad(
            "response-cl-te",
            "9112 §6.3",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
        ),
        bad(
            "response-te-cl",
            "9112 §6.3",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
        ),
        bad(
            "response-cl-twice-differs",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 6",
        ),
        bad(
            "response-cl-twice-same",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 5",
        ),
        bad("response-cl-list", "9110 §8.6", "Content-Length: 5, 5"),
        bad("response-cl-plus", "9110 §8.6", "Content-Length: +5"),
        bad("response-cl-word", "9110 §8.6", "Content-Length: x"),
        bad("response-cl-empty", "9110 §8.6", "Content-Length:"),
        bad(
            "response-cl-overflow",
            "9110 §8.6",
            "Content-Length: 18446744073709551621",
        ),
        bad("response-te-unknown", "9112 §6.1", "Transfer-Encoding: xchunked"),
        bad("response-te-gzip", "9112 §6.3", "Transfer-Encoding: gzip"),
        bad(
            "response-te-gzip-chunked",
            "9112 §6.1",
            "Transfer-Encoding: gzip, chunked",
        ),
        bad(
            "response-te-twice",
            "9112 §6.1",
            "Transfer-Encoding: chunked, chunked",
        ),
        bad(
            "response-te-then-other",
            "9112 §6.3",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ),
        bad(
            "response-te-vertical-tab",
            "9110 §5.5",
            "Transfer-Encoding: \x0bchunked",
        ),
        not_believed(
            "response-te-http-1.0",
            "9112 §6.1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        bad_chunks("response-chunk-size", "9112 §7.1", "g\r\n"),
        bad_chunks(
            "response-chunk-size-space",
            "9112 §7.1",
            "5 \r\nhello\r\n0\r\n\r\n",
        ),
        bad_chunks(
            "response-chunk-size-wraps",
            "9112 §7.1",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        bad_chunks("response-chunk-bare-lf", "9112 §7.1", "5\nhello\r\n0\r\n\r\n"),
        bad_chunks("response-chunk-end", "9112 §7.1", "5\r\nhelloX\r\n"),
        bad_chunks(
            "response-chunk-extension",
            "9112 §7.1.1",
            "5;\x01\r\nhello\r\n0\r\n\r\n",
        ),
        bad_chunks(
            "response-trailer-length",
            "9110 §6.5.1",
            "0\r\nContent-Length: 5\r\n\r\n",
        ),
        bad_chunks(
            "response-trailer-cookie",
            "9110 §6.5.1",
            "0\r\nSet-Cookie: a\r\n\r\n",
        ),
        bad_chunks("response-trailer-bare-lf", "9112 §2.2", "0\r\nX: y\n\r\n"),
        asked("response-chunk-broken-later", "9112 §7.1")
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .origin("x\r\n")
            .ends()
            .origin_ends()
            .ended("backend-bad-response"),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        not_believed("response-nonsense", "9112 §4", "hello\r\n\r\n"),
        bad_line("response-http-0.9", "9112 §4", "HTTP/0.9 200 OK"),
        bad_line("response-http-2", "9112 §4", "HTTP/2.0 200 OK"),
        bad_line("response-version-case", "9112 §2.3", "http/1.1 200 OK"),
        bad_line("response-status-two-digits", "9110 §15", "HTTP/1.1 20 OK"),
        bad_line("response-status-four-digits", "9110 §15", "HTTP/1.1 2000 OK"),
        bad_line("response-status-099", "9110 §15", "HTTP/1.1 099 OK"),
        bad_line("response-status-600", "9110 §15", "HTTP/1.1 600 OK"),
        bad_line("response-status-word", "9110 §15", "HTTP/1.1 2x0 OK"),
        bad_line("response-two-spaces", "9112 §4", "HTTP/1.1  200 OK"),
        bad_line("response-reason-nul", "9112 §4", "HTTP/1.1 200 O\0K"),
        bad_line("response-reason-bare-cr", "9112 §4", "HTTP/1.1 200 O\rK"),
        not_believed("response-empty-line-before", "9112 §4", format!("\r\n{OK}")),
        not_believed(
            "response-lf",
            "9112 §2.2",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        ),
        bad("response-lf-in-fields", "9112 §2.2", "X: y\nContent-Length: 5"),
        bad("response-cr-in-value", "9112 §2.2", "X: y\rz"),
        bad("response-space-before-colon", "9112 §5.1", "X : y"),
        bad("response-folded", "9112 §5.2", "X: y\r\n z"),
        bad("response-value-nul", "9110 §5.5", "X: \0"),
        bad("response-name-empty", "9110 §5.1", ": y"),
        bad("response-no-colon", "9112 §5", "X"),
        not_believed(
            "response-head-too-large",
            "project: bounds",
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(17 << 10)),
        ),
        not_believed(
            "response-too-many-fields",
            "project: bounds",
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65)),
        ),
        not_believed(
            "response-interim-with-length",
            "9110 §8.6",
            format!("HTTP/1.1 103 H\r\nContent-Length: 5\r\n\r\nhello{OK}"),
        ),
        not_believed(
            "response-interim-chunked",
            "9112 §6.1",
            format!("HTTP/1.1 103 H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{OK}"),
        ),
    ]
}

fn good() -> Vec<Case> {
    let f = fields;
    let status = |id, line: &str| {
        let head = format!("{line}\r\nDate: x\r\nContent-Length: 0\r\n\r\n");
        answered(id, "9112 §4", head.as_str(), head.as_str())
    };
    vec![
        f(
            "response-order-and-case",
            "9110 §5.3",
            "b: 1\r\nA: 2\r\nSet-Cookie: x=1; Path=/\r\nset-cookie: y\r\na: 3\r\n",
            "b: 1\r\nA: 2\r\nSet-Cookie: x=1; Path=/\r\nset-cookie: y\r\na: 3\r\n",
        ),
        f("response-value-blanks", "9110 §5.5", "X:\t y\t\r\n", "X: y\r\n"),
        f(
            "response-via-passes",
            "9110 §7.6.3",
            "Via: 1.1 p\r\nServer: s\r\n",
            "Via: 1.1 p\r\nServer: s\r\n",
        ),
        f(
            "response-upgrade-is-hop-by-hop",
            "9110 §7.8",
            "Upgrade: h2c\r\nConnection: Upgrade\r\n",
            "",
        ),
        f(
            "response-trailer-field-passes",
            "9110 §6.6.2",
            "Trailer: X\r\n",
            "Trailer: X\r\n",
        ),
        status("response-reason-passes", "HTTP/1.1 200 All is well, really"),
        status("response-reason-empty", "HTTP/1.1 200 "),
        status("response-unknown-status", "HTTP/1.1 299 Odd"),
        status("response-499", "HTTP/1.1 499 x"),
        status("response-599", "HTTP/1.1 599 x"),
        answered(
            "response-reason-missing",
            "9112 §4",
            "HTTP/1.1 200\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 \r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        ),
        answered(
            "response-version-1.3-is-1.1",
            "9110 §2.5",
            "HTTP/1.3 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
            OK,
        ),
        asked("response-is-dated", "9110 §6.6.1")
            .origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .step(Step::ClientGetsDated(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: *\r\n\r\nok".into(),
            )),
        answered(
            "response-426-names-protocols",
            "9110 §15.5.22",
            "HTTP/1.1 426 Upgrade Required\r\nDate: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 426 Upgrade Required\r\nDate: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\n";
    let in_chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    vec![
        chunked(
            "response-chunks",
            "9112 §7.1",
            "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        chunked("response-chunks-empty", "9112 §7.1", "0\r\n\r\n", "0\r\n\r\n"),
        chunked(
            "response-trailers",
            "9110 §6.5",
            "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
            "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        answered(
            "response-te-case",
            "9112 §7",
            format!("{head}transfer-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n"),
            format!("{in_chunks}0\r\n\r\n"),
        ),
        asked("response-until-the-end", "9112 §6.3")
            .origin(format!("{head}\r\nhello"))
            .client_gets(format!("{in_chunks}5\r\nhello\r\n"))
            .step(Step::OriginEnds)
            .client_gets("0\r\n\r\n")
            .ended("ok")
            .kept(),
        asked("response-until-the-end-empty", "9112 §6.3")
            .origin(format!("{head}\r\n"))
            .step(Step::OriginEnds)
            .client_gets(format!("{in_chunks}0\r\n\r\n"))
            .kept(),
        asked("response-until-the-end-http-1.0", "9112 §6.3")
            .origin("HTTP/1.0 200 OK\r\nDate: x\r\n\r\nhello")
            .client_gets(format!("{in_chunks}5\r\nhello\r\n"))
            .step(Step::OriginEnds)
            .client_gets("0\r\n\r\n")
            .kept(),
        case("response-until-the-end-of-both", "9112 §6.3")
            .client("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            .origin_gets(crate::case::passed_old("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin(format!("{head}\r\nhello"))
            .step(Step::OriginEnds)
            .client_gets(format!("{head}Connection: close\r\n\r\nhello"))
            .step(Step::ClientGetsEnd { reset: Some(false) })
            .ended("ok"),
        asked("response-in-pieces", "9112 §6.2")
            .origin("HTTP/1.1 200 OK\r\nDa")
            .origin("te: x\r\nContent-Length: 5\r\n\r\nhe")
            .origin("llo")
            .client_gets(format!("{head}Content-Length: 5\r\n\r\nhello"))
            .kept(),
        answered(
            "response-length-0",
            "9112 §6.3",
            format!("{head}Content-Length: 0\r\n\r\n"),
            format!("{head}Content-Length: 0\r\n\r\n"),
        ),
    ]
}

fn bodiless() -> Vec<Case> {
    let get_again = |case: Case| case.origin_ends().kept().step(Step::Connections(2));
    vec![
        answered(
            "response-204",
            "9112 §6.3",
            "HTTP/1.1 204 No\r\nDate: x\r\n\r\n",
            "HTTP/1.1 204 No\r\nDate: x\r\n\r\n",
        ),
        answered(
            "response-204-length-0",
            "9110 §8.6",
            "HTTP/1.1 204 No\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No\r\nDate: x\r\n\r\n",
        ),
        get_again(
            asked("response-204-with-body", "9110 §8.6")
                .origin("HTTP/1.1 204 No\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
                .client_gets("HTTP/1.1 204 No\r\nDate: x\r\n\r\n"),
        ),
        get_again(
            asked("response-204-with-body-to-come", "9110 §8.6")
                .origin("HTTP/1.1 204 No\r\nDate: x\r\nContent-Length: 2\r\n\r\n")
                .client_gets("HTTP/1.1 204 No\r\nDate: x\r\n\r\n"),
        ),
        get_again(
            asked("response-204-chunked", "9112 §6.1")
                .origin("HTTP/1.1 204 No\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                .client_gets("HTTP/1.1 204 No\r\nDate: x\r\n\r\n"),
        ),
        answered(
            "response-304-length",
            "9110 §15.4.5",
            "HTTP/1.1 304 Not\r\nDate: x\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n",
            "HTTP/1.1 304 Not\r\nDate: x\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n",
        ),
        answered(
            "response-304-chunked",
            "9112 §6.1",
            "HTTP/1.1 304 Not\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 304 Not\r\nDate: x\r\n\r\n",
        ),
        answered(
            "response-205",
            "9110 §15.3.6",
            "HTTP/1.1 205 Reset\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 205 Reset\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        ),
        asked("response-101-unasked", "9110 §15.2.2")
            .origin("HTTP/1.1 101 Switch\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .own(502)
            .origin_ends()
            .ended("backend-bad-response"),
        case("response-to-the-right-request", "9112 §9.2")
            .client(GET)
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n")
            .client_gets(OK)
            .origin_ends()
            .kept(),
    ]
}
