//! Limits and times: each with its answer and its counter.

use std::time::Duration;

use crate::case::{Case, GET, OK, Setting, Stays, Step, asked, case, passed, passes, refused};

/// Longer than any short time of a setting.
const LONG: Duration = Duration::from_millis(800);

pub(super) fn cases() -> Vec<Case> {
    [sizes(), times()].concat()
}

fn sizes() -> Vec<Case> {
    let long = "x".repeat(17 << 10);
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let fits = format!("{start}{}\r\n", "x".repeat((16 << 10) - start.len() - 4));
    let fields: String = (0..62).map(|i| format!("X-{i}: y\r\n")).collect();
    let small = |id, request: &str| refused(id, "9110 §15.5.14", request, 413).under(Setting::SmallBody);
    vec![
        passes(
            "head-just-fits",
            "project: bounds",
            format!("{fits}\r\n"),
            passed(&fits),
        ),
        refused(
            "head-too-large",
            "6585 §5",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
            431,
        ),
        refused(
            "head-too-large-and-open",
            "6585 §5",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
            431,
        ),
        passes(
            "fields-just-fit",
            "project: bounds",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
            passed(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}")),
        ),
        refused(
            "fields-too-many",
            "6585 §5",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}Y: 1\r\nZ: 2\r\n\r\n"),
            431,
        ),
        refused(
            "target-too-long",
            "9110 §15.5.15",
            format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
            414,
        ),
        refused(
            "target-too-long-and-open",
            "9110 §15.5.15",
            format!("GET /{long}"),
            414,
        ),
        refused("method-too-long", "9112 §3", long.as_str(), 501),
        small(
            "body-too-large",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
        ),
        small(
            "body-too-large-announced",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n",
        ),
        small(
            "body-too-large-in-chunks",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        ),
        case("body-too-large-later", "9110 §15.5.14")
            .under(Setting::SmallBody)
            .client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .origin_gets(format!(
                "{}5\r\nhello\r\n",
                passed("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
            ))
            .client("6\r\n world\r\n")
            .refusal(413)
            .origin_ends()
            .ended("client-body-too-large"),
        case("body-just-fits", "project: bounds")
            .under(Setting::SmallBody)
            .client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhelloworld")
            .origin_gets(format!(
                "{}helloworld",
                passed("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n")
            ))
            .origin(OK)
            .client_gets(OK)
            .kept(),
    ]
}

fn times() -> Vec<Case> {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n";
    let every = Duration::from_millis(30);
    vec![
        case("slow-head-stops", "9110 §15.5.9")
            .under(Setting::ShortHead)
            .client("GET / HTTP/1.1\r\nHo")
            .refusal(408)
            .untouched()
            .ended("client-timeout-head"),
        case("slow-head-drips", "9110 §15.5.9")
            .under(Setting::ShortHead)
            .client("GET / HTTP/1.1\r\nX: ")
            .step(Step::ClientDrips(b"y", every))
            .refusal(408)
            .untouched()
            .ended("client-timeout-head"),
        case("slow-head-never-begins", "9112 §9.5")
            .under(Setting::ShortHead)
            .ends()
            .untouched(),
        case("slow-second-head", "9110 §15.5.9")
            .under(Setting::ShortHead)
            .client(GET)
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin(OK)
            .client_gets(OK)
            .client("GET /")
            .refusal(408)
            .ended("client-timeout-head"),
        case("slow-body-stops", "9110 §15.5.9")
            .under(Setting::ShortClient)
            .client(format!("{post}\r\nhello"))
            .origin_gets(format!("{}hello", passed(post)))
            .refusal(408)
            .origin_ends()
            .ended("client-timeout"),
        case("slow-body-drips", "project: slow bodies")
            .under(Setting::BodyRate)
            .client(format!("{post}\r\n"))
            .origin_gets(passed(post))
            .step(Step::ClientDrips(b"y", every))
            .step(Step::OriginGetsOnly(b'y'))
            .refusal(408)
            .origin_ends()
            .ended("client-timeout"),
        case("idle-client", "9112 §9.5")
            .under(Setting::ShortIdle)
            .client(GET)
            .origin_gets(passed("GET / HTTP/1.1\r\nHost: a\r\n"))
            .origin(OK)
            .client_gets(OK)
            .step(Step::ClientGetsEnd { reset: Some(false) }),
        asked("slow-origin", "9110 §15.6.5")
            .under(Setting::ShortServer)
            .step(Step::ClientGetsOwn(504, Stays::Yes, false))
            .origin_ends()
            .ended("backend-timeout-response")
            .kept(),
        asked("slow-origin-in-its-head", "9110 §15.6.5")
            .under(Setting::ShortServer)
            .origin("HTTP/1.1 200 O")
            .step(Step::ClientGetsOwn(504, Stays::Yes, false))
            .origin_ends()
            .ended("backend-timeout-response"),
        asked("slow-origin-in-its-body", "9112 §8")
            .under(Setting::ShortServer)
            .origin("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhe")
            .client_gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhe")
            .ends()
            .origin_ends()
            .ended("backend-timeout"),
        asked("slow-origin-is-not-the-clients-fault", "project: times by phase")
            .under(Setting::ShortClient)
            .step(Step::Silence(LONG))
            .origin(OK)
            .client_gets(OK),
    ]
}
