//! Methods with a meaning to intermediaries: `TRACE`, `OPTIONS`, `CONNECT`, `HEAD`; and those without.

use crate::case::{Case, OK, Setting, Stays, Step, case, passed, passes, refused};

fn method(id: &'static str, method: &str) -> Case {
    let head = format!("{method} /x HTTP/1.1\r\nHost: a\r\n");
    passes(id, "9110 §9.1", format!("{head}\r\n"), passed(&head))
}

/// A request under a setting, and what of it is passed on.
fn under(id: &'static str, rfc: &'static str, setting: Setting, request: &str, seen: &str) -> Case {
    case(id, rfc)
        .under(setting)
        .client(request)
        .origin_gets(seen)
        .origin(OK)
        .client_gets(OK)
}

/// A request that is answered here, and the connection stays.
fn answered_here(id: &'static str, rfc: &'static str, setting: Setting, request: &str, answer: &str) -> Case {
    case(id, rfc)
        .under(setting)
        .client(request)
        .step(Step::ClientGetsDated(answer.into()))
        .untouched()
        .kept()
}

fn refused_under(id: &'static str, rfc: &'static str, setting: Setting, request: &str, status: u16) -> Case {
    refused(id, rfc, request, status).under(setting)
}

pub(super) fn cases() -> Vec<Case> {
    [plain(), trace(), options(), connect()].concat()
}

fn plain() -> Vec<Case> {
    vec![
        method("method-put", "PUT"),
        method("method-delete", "DELETE"),
        method("method-patch", "PATCH"),
        method("method-unknown", "BREW"),
        method("method-lower-case-is-another", "get"),
        method("method-all-token-bytes", "M!#$%&'*+-.^_`|~0"),
        case("head-with-length", "9110 §9.3.2")
            .head()
            .client("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(passed("HEAD / HTTP/1.1\r\nHost: a\r\n"))
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1000\r\n\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1000\r\n\r\n")
            .kept(),
        case("head-chunked", "9112 §6.3")
            .head()
            .client("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(passed("HEAD / HTTP/1.1\r\nHost: a\r\n"))
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n")
            .kept(),
        case("head-to-dead-backend", "9110 §9.3.2")
            .head()
            .client("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(passed("HEAD / HTTP/1.1\r\nHost: a\r\n"))
            .step(Step::OriginEnds)
            .own(502)
            .kept(),
        case("head-with-a-body-all-the-same", "9112 §6.3")
            .head()
            .client("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(passed("HEAD / HTTP/1.1\r\nHost: a\r\n"))
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\n")
            .origin_ends()
            .kept()
            .step(Step::Connections(2)),
    ]
}

fn trace() -> Vec<Case> {
    let trace = |fields: &str| format!("TRACE /x HTTP/1.1\r\nHost: a\r\n{fields}");
    vec![
        refused("trace-refused", "9110 §9.3.8", format!("{}\r\n", trace("")), 501),
        refused(
            "trace-refused-at-0",
            "9110 §9.3.8",
            format!("{}\r\n", trace("Max-Forwards: 0\r\n")),
            501,
        ),
        under(
            "trace-passes",
            "9110 §9.3.8",
            Setting::Trace,
            &format!("{}\r\n", trace("")),
            &passed(&trace("")),
        ),
        under(
            "trace-counts-down",
            "9110 §7.6.2",
            Setting::Trace,
            &format!("{}\r\n", trace("Max-Forwards: 10\r\nX: y\r\n")),
            &passed(&trace("X: y\r\nMax-Forwards: 9\r\n")),
        ),
        answered_here(
            "trace-answered-at-0",
            "9110 §9.3.8",
            Setting::Trace,
            &format!(
                "{}\r\n",
                trace("Max-Forwards: 0\r\nCookie: secret\r\nauthorization: secret\r\nX: y\r\n")
            ),
            "HTTP/1.1 200 OK\r\nDate: *\r\nContent-Type: message/http\r\nContent-Length: 53\r\nCache-Control: no-store\r\n\r\n\
             TRACE /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nX: y\r\n\r\n",
        ),
        refused_under(
            "trace-with-body",
            "9110 §9.3.8",
            Setting::Trace,
            &format!("{}\r\nx", trace("Content-Length: 1\r\n")),
            400,
        ),
        refused_under(
            "trace-max-forwards-word",
            "9110 §7.6.2",
            Setting::Trace,
            &format!("{}\r\n", trace("Max-Forwards: x\r\n")),
            400,
        ),
    ]
}

fn options() -> Vec<Case> {
    let options = |fields: &str| format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{fields}");
    let answer = "HTTP/1.1 200 OK\r\nDate: *\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\r\n";
    let plain = Setting::Plain;
    vec![
        under(
            "options-star",
            "9110 §9.3.7",
            plain,
            &format!("{}\r\n", options("")),
            &passed(&options("")),
        ),
        under(
            "options-counts-down",
            "9110 §7.6.2",
            plain,
            &format!("{}\r\n", options("max-forwards: 1\r\n")),
            &passed(&options("Max-Forwards: 0\r\n")),
        ),
        under(
            "options-counts-down-from-far",
            "9110 §7.6.2",
            plain,
            &format!("{}\r\n", options("Max-Forwards: 99999999999999999999\r\n")),
            &passed(&options("Max-Forwards: 18446744073709551614\r\n")),
        ),
        answered_here(
            "options-answered-at-0",
            "9110 §7.6.2",
            plain,
            &format!("{}\r\n", options("Max-Forwards: 0\r\n")),
            answer,
        ),
        answered_here(
            "options-of-a-path-at-0",
            "9110 §7.6.2",
            plain,
            "OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
            answer,
        ),
        answered_here(
            "options-with-body-at-0",
            "9110 §7.6.2",
            plain,
            "OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 2\r\n\r\nhi",
            answer,
        ),
        refused(
            "options-max-forwards-word",
            "9110 §7.6.2",
            format!("{}\r\n", options("Max-Forwards: one\r\n")),
            400,
        ),
        refused(
            "options-max-forwards-minus",
            "9110 §7.6.2",
            format!("{}\r\n", options("Max-Forwards: -1\r\n")),
            400,
        ),
        refused(
            "options-max-forwards-twice",
            "9110 §7.6.2",
            format!("{}\r\n", options("Max-Forwards: 1\r\nMax-Forwards: 1\r\n")),
            400,
        ),
    ]
}

fn connect() -> Vec<Case> {
    let connect = "CONNECT a:8443 HTTP/1.1\r\nHost: a:8443\r\n";
    let asked = |id, rfc| {
        case(id, rfc)
            .under(Setting::Connect)
            .client_piece(format!("{connect}\r\n"))
            .origin_gets(passed(connect))
    };
    let bad = |id, target: &str, fields: &str| {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n");
        refused_under(id, "9110 §9.3.6", Setting::Connect, &request, 400)
    };
    vec![
        refused("connect-refused", "9110 §9.3.6", format!("{connect}\r\n"), 501),
        asked("connect-tunnel", "9110 §9.3.6")
            .origin("HTTP/1.1 200 Fine\r\nDate: x\r\n\r\nfirst")
            .client_gets("HTTP/1.1 200 Fine\r\nDate: x\r\n\r\nfirst")
            .client("GET\0\n")
            .origin_gets("GET\0\n")
            .step(Step::ClientEnds)
            .origin_ends()
            .origin("last")
            .step(Step::OriginEnds)
            .client_gets("last")
            .ends()
            .ended("ok"),
        asked("connect-2xx-without-framing", "9110 §9.3.6")
            .origin("HTTP/1.1 201 Created\r\nDate: x\r\nContent-Length: 5\r\nX: y\r\n\r\nfirst and more")
            .client_gets("HTTP/1.1 201 Created\r\nDate: x\r\nX: y\r\n\r\nfirst and more")
            .client("x")
            .origin_gets("x"),
        asked("connect-2xx-chunked-is-no-framing", "9110 §9.3.6")
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\nzz")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nzz"),
        asked("connect-denied", "9110 §9.3.6")
            .origin("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
            .client_gets("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .ends(),
        case(
            "connect-denied-with-bytes-ahead",
            "project: what was meant for a tunnel is no request",
        )
        .under(Setting::Connect)
        .client(format!("{connect}\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"))
        .origin_gets(passed(connect))
        .origin("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
        .client_gets("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        .ends(),
        case("connect-bytes-ahead", "9110 §9.3.6")
            .under(Setting::Connect)
            .client(format!("{connect}\r\nahead"))
            .origin_gets(passed(connect))
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n")
            .origin_gets("ahead"),
        bad("connect-without-port", "a", ""),
        bad("connect-port-0", "a:0", ""),
        bad("connect-port-empty", "a:", ""),
        bad("connect-path", "/x", ""),
        bad("connect-body", "a:8443", "Content-Length: 1\r\n"),
        refused_under(
            "connect-other-host",
            "9112 §3.2.3",
            Setting::Connect,
            "CONNECT a:8443 HTTP/1.1\r\nHost: b:8443\r\n\r\n",
            400,
        ),
        asked("connect-dead-backend", "9110 §9.3.6")
            .step(Step::OriginEnds)
            .step(Step::ClientGetsOwn(502, Stays::No, false))
            .ends(),
    ]
}
