//! Connections: how long they stay, requests in a row, HTTP/1.0, and what a client is told of its connection.

use crate::case::{Case, GET, OK, Stays, Step, asked, case, passed, passed_old};

const CLOSING: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const ALOUD: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok";

/// A request whose connection ends after its response.
fn closes(id: &'static str, rfc: &'static str, request: &str, seen: String) -> Case {
    case(id, rfc)
        .client(request)
        .origin_gets(seen)
        .origin(OK)
        .client_gets(CLOSING)
        .step(Step::ClientGetsEnd { reset: Some(false) })
        .ended("ok")
}

pub(super) fn cases() -> Vec<Case> {
    [clients(), origins(), pipelines()].concat()
}

fn clients() -> Vec<Case> {
    let seen = || passed("GET / HTTP/1.1\r\nHost: a\r\n");
    let old = || passed_old("GET / HTTP/1.1\r\nHost: a\r\n");
    vec![
        closes("close-asked", "9112 §9.6", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", seen()),
        closes("close-case-and-list", "9112 §9.6", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, CLOSE\r\n\r\n", seen()),
        closes("close-in-second-field", "9112 §9.6", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", seen()),
        closes("http-1.0-closes", "9112 §9.3", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", old()),
        closes("http-1.0-proxy-connection", "9112 §C.2.2", "GET / HTTP/1.0\r\nHost: a\r\nProxy-Connection: keep-alive\r\n\r\n", old()),
        closes("close-goes-before-keep-alive-1.0", "9112 §9.3", "GET / HTTP/1.0\r\nHost: a\r\nConnection: close, keep-alive\r\n\r\n", old()),
        case("http-1.0-keep-alive", "9112 §9.3")
            .client("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n")
            .origin_gets(old())
            .origin(OK)
            .client_gets(ALOUD)
            .kept(),
        case("nothing-after-close", "9112 §9.6")
            .client("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(seen())
            .origin(OK)
            .client_gets(CLOSING)
            .ends()
            .step(Step::Connections(1)),
        case("http-1.0-chunked-is-unpacked", "9112 §6.1")
            .client("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            .origin_gets(old())
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nabcde")
            .step(Step::ClientGetsEnd { reset: Some(false) }),
        case("http-1.0-cut-is-a-reset", "9112 §8")
            .client("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            .origin_gets(old())
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nabc")
            .step(Step::OriginEnds)
            .step(Step::ClientGetsEnd { reset: Some(true) })
            .ended("backend-cut"),
        case("http-1.0-no-interim", "9110 §15.2")
            .client("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            .origin_gets(old())
            .origin("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok")
            .client_gets(ALOUD)
            .kept(),
        case("client-ends-its-side-and-waits", "9112 §9.6")
            .client(GET)
            .step(Step::ClientEnds)
            .origin_gets(seen())
            .origin(OK)
            .client_gets(OK)
            .ends()
            .ended("ok"),
        case("client-ends-in-its-head", "9112 §8")
            .client_piece("GET / HTTP/1.1\r\nHo")
            .step(Step::ClientEnds)
            .ends()
            .untouched()
            .ended("client-closed"),
        case("client-says-nothing", "9112 §9.5").step(Step::ClientEnds).ends().untouched(),
        case("client-breaks-off-while-waiting", "project: aborts")
            .client(GET)
            .origin_gets(seen())
            .step(Step::ClientResets)
            .origin_ends()
            .ended("client-closed"),
    ]
}

fn origins() -> Vec<Case> {
    let asked_again = |case: Case| case.kept().step(Step::Connections(2));
    vec![
        asked("origin-kept", "9112 §9.3").origin(OK).client_gets(OK).kept().step(Step::Connections(1)),
        asked_again(
            asked("origin-close", "9112 §9.6")
                .origin("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .client_gets(OK),
        ),
        asked_again(asked("origin-http-1.0", "9112 §9.3").origin("HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok").client_gets(OK)),
        asked("origin-http-1.0-keep-alive", "9112 §9.3")
            .origin("HTTP/1.0 200 OK\r\nDate: x\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
            .client_gets(OK)
            .kept()
            .step(Step::Connections(1)),
        asked("origin-hop-by-hop", "9110 §7.6.1")
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-End: 2\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nX-End: 2\r\nContent-Length: 2\r\n\r\nok")
            .kept(),
        asked_again(
            asked("origin-says-more", "project: no response to a request that was not asked")
                .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
                .client_gets(OK)
                .origin_ends(),
        ),
        asked("origin-ends-before-its-head", "9110 §15.6.3").step(Step::OriginEnds).own(502).ended("backend-closed-early").kept(),
        asked("origin-ends-in-its-head", "9112 §8")
            .origin("HTTP/1.1 200 OK\r\nContent-Le")
            .step(Step::OriginEnds)
            .own(502)
            .ended("backend-closed-early")
            .kept(),
        asked("origin-breaks-off-before-its-head", "project: aborts").step(Step::OriginResets).own(502).kept(),
    ]
}

fn pipelines() -> Vec<Case> {
    let get = |n: u8| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
    let got = |n: u8| passed(&format!("GET /{n} HTTP/1.1\r\nHost: a\r\n"));
    let answer = |n: u8| format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1\r\n\r\n{n}");
    let post = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n";
    let chunked = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
    vec![
        case("pipeline-of-three", "9112 §9.3.2")
            .client(get(1) + &get(2) + &get(3))
            .origin_gets(got(1))
            .origin(answer(1))
            .client_gets(answer(1))
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2))
            .origin_gets(got(3))
            .origin(answer(3))
            .client_gets(answer(3))
            .kept(),
        case("pipeline-after-body", "9112 §6.2")
            .client(format!("{post}\r\nabc{}", get(2)))
            .origin_gets(format!("{}abc", passed(post)))
            .origin(answer(1))
            .client_gets(answer(1))
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2))
            .kept(),
        case("pipeline-after-chunks", "9112 §7.1")
            .client(format!("{chunked}\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n{}", get(2)))
            .origin_gets(format!("{}3\r\nabc\r\n0\r\nX: y\r\n\r\n", passed(chunked)))
            .origin(answer(1))
            .client_gets(answer(1))
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2)),
        case("pipeline-bad-second", "9112 §9.3.2")
            .client(get(1) + "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n" + &get(3))
            .origin_gets(got(1))
            .origin(answer(1))
            .client_gets(answer(1))
            .refusal(400)
            .step(Step::Connections(1)),
        case("pipeline-empty-line-between", "9112 §2.2")
            .client(format!("{post}\r\nabc\r\n{}", get(2)))
            .origin_gets(format!("{}abc", passed(post)))
            .origin(answer(1))
            .client_gets(answer(1))
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2)),
        case("pipeline-half-a-head", "9112 §9.3.2")
            .client_piece(get(1) + "GET /2 HT")
            .origin_gets(got(1))
            .origin(answer(1))
            .client_gets(answer(1))
            .client("TP/1.1\r\nHost: a\r\n\r\n")
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2)),
        case("pipeline-over-a-failure", "9112 §9.3.2")
            .client(get(1) + &get(2))
            .origin_gets(got(1))
            .origin("nonsense\r\n\r\n")
            .step(Step::ClientGetsOwn(502, Stays::Yes, false))
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2)),
        case("pipeline-head-then-get", "9112 §6.3")
            .client(format!("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n{}", get(2)))
            .origin_gets(passed("HEAD /1 HTTP/1.1\r\nHost: a\r\n"))
            .origin("HTTP/1.1 204 No\r\nDate: x\r\n\r\n")
            .client_gets("HTTP/1.1 204 No\r\nDate: x\r\n\r\n")
            .origin_gets(got(2))
            .origin(answer(2))
            .client_gets(answer(2)),
    ]
}
