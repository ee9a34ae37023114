//! Bodies on their way: interim responses and `100-continue`, early responses, aborts in both directions.

use crate::case::{Case, OK, Step, asked, case, passed};

const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n";
const EXPECTING: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn put(id: &'static str, rfc: &'static str) -> Case {
    case(id, rfc)
        .client(format!("{PUT}\r\n"))
        .origin_gets(passed(PUT))
}

fn expecting(id: &'static str, rfc: &'static str) -> Case {
    case(id, rfc)
        .client(format!("{EXPECTING}\r\n"))
        .origin_gets(passed(EXPECTING))
}

pub(super) fn cases() -> Vec<Case> {
    [interim(), early(), aborts()].concat()
}

fn interim() -> Vec<Case> {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: y\r\n\r\n";
    vec![
        asked("interim-passes", "9110 §15.2")
            .origin(format!("{hints}{OK}"))
            .client_gets(format!("{hints}{OK}"))
            .kept(),
        asked("interim-unasked-100", "9110 §15.2")
            .origin(format!("{CONTINUE}{OK}"))
            .client_gets(format!("{CONTINUE}{OK}"))
            .kept(),
        asked("interim-alone-first", "9110 §15.2")
            .origin(hints)
            .client_gets(hints)
            .origin(OK)
            .client_gets(OK)
            .kept(),
        asked("interim-several", "9110 §15.2")
            .origin(format!("HTTP/1.1 102 Processing\r\n\r\n{hints}{hints}{OK}"))
            .client_gets(format!("HTTP/1.1 102 Processing\r\n\r\n{hints}{hints}{OK}"))
            .kept(),
        asked("interim-hop-by-hop", "9110 §7.6.1")
            .origin(format!(
                "HTTP/1.1 103 H\r\nConnection: x\r\nX: y\r\nKeep-Alive: z\r\nContent-Length: 0\r\n\r\n{OK}"
            ))
            .client_gets(format!("HTTP/1.1 103 H\r\n\r\n{OK}"))
            .kept(),
        asked("interim-without-end", "project: bounds")
            .origin(CONTINUE.repeat(65))
            .client_gets(CONTINUE.repeat(64))
            .own(502)
            .ended("backend-bad-response"),
        expecting("continue", "9110 §10.1.1")
            .origin(CONTINUE)
            .client_gets(CONTINUE)
            .client("hello")
            .origin_gets("hello")
            .origin(OK)
            .client_gets(OK)
            .kept(),
        expecting("continue-client-does-not-wait", "9110 §10.1.1")
            .client("hello")
            .origin_gets("hello")
            .origin(format!("{CONTINUE}{OK}"))
            .client_gets(format!("{CONTINUE}{OK}"))
            .kept(),
        expecting("continue-denied", "9110 §10.1.1")
            .origin("HTTP/1.1 417 No\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
            .client_gets("HTTP/1.1 417 No\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ends(),
        case("continue-chunked", "9110 §10.1.1")
            .client("PUT / HTTP/1.1\r\nHost: a\r\nexpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n")
            .origin_gets(passed(
                "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            ))
            .origin(CONTINUE)
            .client_gets(CONTINUE)
            .client("2\r\nhi\r\n0\r\n\r\n")
            .origin_gets("2\r\nhi\r\n0\r\n\r\n")
            .origin(OK)
            .client_gets(OK)
            .kept(),
        case("continue-of-http-1.0-is-ignored", "9110 §10.1.1")
            .client("PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi")
            .origin_gets(format!(
                "{}hi",
                crate::case::passed_old("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n")
            ))
            .origin(OK)
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .ends(),
        case("continue-empty-body", "9110 §10.1.1")
            .client("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
            .origin_gets(passed("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"))
            .origin(OK)
            .client_gets(OK)
            .kept(),
    ]
}

fn early() -> Vec<Case> {
    vec![
        put("early-response", "9112 §9.5")
            .client_piece("he")
            .origin_gets("he")
            .origin("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
            .client_gets("HTTP/1.1 403 No\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .step(Step::ClientGetsEnd { reset: Some(false) }),
        put("early-response-begins-body-goes-on", "9112 §9.5")
            .client_piece("he")
            .origin_gets("he")
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\no")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\no")
            .client("llo")
            .origin_gets("llo")
            .origin("k")
            .client_gets("k")
            .ends()
            .ended("ok"),
        put("early-response-and-origin-ends", "9112 §9.5")
            .origin("HTTP/1.1 413 No\r\nDate: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .step(Step::OriginEnds)
            .client_gets("HTTP/1.1 413 No\r\nDate: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .ends(),
    ]
}

fn aborts() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\n";
    let broken_off = |id, fields: &'static str, seen: &'static str, reset: bool| {
        let case = asked(id, "9112 §8")
            .origin(format!("{head}{fields}"))
            .client_gets(format!("{head}{seen}"));
        let end = if reset {
            Step::OriginResets
        } else {
            Step::OriginEnds
        };
        case.step(end).ends().ended("backend-cut")
    };
    vec![
        put("client-ends-in-its-body", "9112 §8")
            .client_piece("he")
            .origin_gets("he")
            .step(Step::ClientEnds)
            .origin_ends()
            .ends()
            .ended("client-closed"),
        case("client-ends-in-its-chunks", "9112 §8")
            .client("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
            .origin_gets(format!(
                "{}2\r\nhe\r\n",
                passed("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
            ))
            .step(Step::ClientEnds)
            .origin_ends()
            .ended("client-closed"),
        put("client-breaks-off-in-its-body", "project: aborts")
            .client_piece("he")
            .origin_gets("he")
            .step(Step::ClientResets)
            .origin_ends()
            .ended("client-closed"),
        asked("client-breaks-off-in-its-response", "project: aborts")
            .origin(format!("{head}Content-Length: 10\r\n\r\nhello"))
            .client_gets(format!("{head}Content-Length: 10\r\n\r\nhello"))
            .step(Step::ClientResets)
            .origin_ends()
            .ended("client-closed"),
        broken_off(
            "origin-ends-in-its-body",
            "Content-Length: 10\r\n\r\nhello",
            "Content-Length: 10\r\n\r\nhello",
            false,
        ),
        broken_off(
            "origin-breaks-off-in-its-body",
            "Content-Length: 10\r\n\r\nhello",
            "Content-Length: 10\r\n\r\nhello",
            true,
        ),
        broken_off(
            "origin-ends-in-its-chunks",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        broken_off(
            "origin-ends-before-the-last-line",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        broken_off(
            "origin-breaks-off-where-its-end-is-the-end",
            "\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            true,
        ),
        put("origin-ends-in-the-request-body", "9112 §9.5")
            .step(Step::OriginEnds)
            .refusal(502)
            .ended("backend-closed-early"),
    ]
}
