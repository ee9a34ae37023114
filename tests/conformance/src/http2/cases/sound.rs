//! Traffic that is in order, of each kind: it is taken.

use crate::http2::{
    case::{Case, Sight, case},
    frames::{
        Code, GET, PREFACE, asks, block, continuation, data, flag, goaway, headers, headers_with_priority,
        kind, ping, priority, request, request_with, reset, setting, settings, window_update,
    },
};

pub(super) fn cases() -> Vec<Case> {
    let get = block(&GET);
    let post = asks("POST", &[]);
    let (head, tail) = get.split_at(5);
    let (middle, end) = tail.split_at(5);
    let padded = |block: &[u8]| [&[8], block, &[0; 8]].concat();
    let stopped = settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    vec![
        case("3.4/preface", "a preface is answered with settings")
            .bare()
            .send([PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])].concat())
            .see(Sight::Settings),
        case("3.4/preface-byte-by-byte", "a preface may come in any pieces")
            .bare()
            .send(&PREFACE[..1])
            .send(&PREFACE[1..20])
            .send(&PREFACE[20..])
            .send(settings(&[]))
            .see(Sight::Settings)
            .see(Sight::Acknowledged),
        case("5.1/priority-on-idle", "PRIORITY may come in any state")
            .send(priority(1, 0, 255))
            .alive(),
        case(
            "5.1/window-on-half-closed",
            "WINDOW_UPDATE is taken after the request's end",
        )
        .send(&stopped)
        .send(request(1, &get))
        .send(window_update(1, 1))
        .see(Sight::Data(1, 1)),
        case("5.1/priority-on-half-closed", "PRIORITY may come in any state")
            .send(&stopped)
            .send(request(1, &get))
            .send(priority(1, 0, 255))
            .send(window_update(1, 1))
            .see(Sight::Data(1, 1)),
        case(
            "5.1/reset-on-half-closed",
            "RST_STREAM is taken after the request's end",
        )
        .send(request(1, &get))
        .send(reset(1, Code::CANCEL))
        .send(ping(0, *b"are you?"))
        .see(Sight::PongOrEnd(*b"are you?")),
        case("5.1/priority-on-closed", "PRIORITY may come in any state")
            .send(request(1, &get))
            .see(Sight::Over(1))
            .send(priority(1, 0, 255))
            .alive(),
        case(
            "5.1/window-on-closed",
            "WINDOW_UPDATE is taken for some time after the end",
        )
        .send(request(1, &get))
        .see(Sight::Over(1))
        .send(window_update(1, 1))
        .alive(),
        case("6.1/one-frame", "a body in one frame")
            .send(headers(1, 0, &post))
            .send(data(1, flag::END_STREAM, b"test"))
            .answered(),
        case("6.1/two-frames", "a body in two frames")
            .send(headers(1, 0, &post))
            .send(data(1, 0, b"test"))
            .send(data(1, flag::END_STREAM, b"test"))
            .answered(),
        case("6.1/padded", "padding is taken off")
            .send(headers(1, 0, &post))
            .send(data(1, flag::END_STREAM | flag::PADDED, b"\x05test\0\0\0\0\0"))
            .answered(),
        case("6.1/empty-end", "an empty frame may be the end")
            .send(headers(1, 0, &post))
            .send(data(1, 0, b"test"))
            .send(data(1, flag::END_STREAM, b""))
            .answered(),
        case("6.1/only-padding", "a frame may have nothing but padding")
            .send(headers(1, 0, &post))
            .send(data(1, flag::PADDED, b"\x03\0\0\0"))
            .send(data(1, flag::END_STREAM, b"test"))
            .answered(),
        case("6.2/whole", "a head in one frame")
            .send(request(1, &get))
            .answered(),
        case("6.2/padded", "padding is taken off")
            .send(request_with(1, flag::PADDED, &padded(&get)))
            .answered(),
        case("6.2/with-priority", "a priority is taken off")
            .send(headers_with_priority(1, 0, &get))
            .answered(),
        case("6.2/padded-with-priority", "both are taken off")
            .send(request_with(
                1,
                flag::PADDED | flag::PRIORITY,
                &[&[8, 0, 0, 0, 0, 255], &get[..], &[0; 8]].concat(),
            ))
            .answered(),
        case("6.3/weight-1", "the least weight")
            .send(priority(1, 0, 0))
            .send(request(1, &get))
            .answered(),
        case("6.3/weight-256", "the greatest weight")
            .send(priority(1, 0, 255))
            .send(request(1, &get))
            .answered(),
        case("6.3/depends", "a stream may depend on one that is idle")
            .send(priority(3, 1, 0))
            .send(request(1, &get))
            .answered(),
        case("6.3/exclusive", "the exclusive bit is no part of the number")
            .send(priority(1, 1 << 31, 0))
            .send(request(1, &get))
            .answered(),
        case(
            "6.3/opens-nothing",
            "PRIORITY leaves a stream idle, and those below it",
        )
        .send(priority(3, 0, 255))
        .send(request(1, &get))
        .answered(),
        case("6.4/takes-back", "a request may be taken back")
            .send(headers(1, 0, &get))
            .send(reset(1, Code::CANCEL))
            .send(ping(0, *b"are you?"))
            .see(Sight::PongOrEnd(*b"are you?")),
        case("6.5/all-known", "all settings that there are")
            .send(settings(&[
                (setting::HEADER_TABLE_SIZE, 4096),
                (setting::ENABLE_PUSH, 1),
                (setting::MAX_CONCURRENT_STREAMS, 100),
                (setting::INITIAL_WINDOW_SIZE, 65_535),
                (setting::MAX_FRAME_SIZE, 16_384),
                (setting::MAX_HEADER_LIST_SIZE, 100),
            ]))
            .see(Sight::Acknowledged),
        case("6.7/echoes", "an answer has the ping's bytes")
            .send(ping(0, *b"h2-cases"))
            .see(Sight::Pong(*b"h2-cases")),
        case("6.8/goodbye", "GOAWAY is no error")
            .send(goaway(Code::NO_ERROR))
            .send(ping(0, *b"are you?"))
            .see(Sight::PongOrEnd(*b"are you?")),
        case("6.8/what-has-begun-is-answered", "GOAWAY takes nothing back")
            .send(request(1, &get))
            .send(goaway(Code::NO_ERROR))
            .answered(),
        case("6.9/connection", "more for the connection")
            .send(window_update(0, 1))
            .send(request(1, &get))
            .answered(),
        case("6.9/stream", "more for a stream")
            .send(request(1, &get))
            .send(window_update(1, 1))
            .answered(),
        case("6.10/one", "a head in two frames")
            .send(
                [
                    crate::http2::frames::frame(kind::HEADERS, flag::END_STREAM, 1, head),
                    continuation(1, flag::END_HEADERS, tail),
                ]
                .concat(),
            )
            .answered(),
        case("6.10/several", "a head in three frames")
            .send(
                [
                    crate::http2::frames::frame(kind::HEADERS, flag::END_STREAM, 1, head),
                    continuation(1, 0, middle),
                    continuation(1, flag::END_HEADERS, end),
                ]
                .concat(),
            )
            .answered(),
        case("8.1/get", "GET").send(request(1, &get)).answered(),
        case("8.1/head", "HEAD")
            .send(request(1, &asks("HEAD", &[])))
            .answered(),
        case("8.1/post", "POST with a body")
            .send(headers(1, 0, &post))
            .send(data(1, flag::END_STREAM, b"test"))
            .answered(),
        case("8.1/post-without-body", "POST without one")
            .send(request(1, &post))
            .answered(),
        case("8.1/trailers", "POST with trailers")
            .send(headers(1, 0, &asks("POST", &[("trailer", "x-test")])))
            .send(data(1, 0, b"test"))
            .send(headers(1, flag::END_STREAM, &block(&[("x-test", "ok")])))
            .answered(),
        case("8.1.1/length-is-right", "a length that is the body's")
            .send(headers(1, 0, &asks("POST", &[("content-length", "8")])))
            .send(data(1, 0, b"test"))
            .send(data(1, flag::END_STREAM, b"test"))
            .answered(),
        case("8.2.2/te-trailers", "TE may say trailers")
            .send(request(1, &asks("GET", &[("te", "trailers")])))
            .answered(),
        case("8.2.3/crumbs", "a cookie may come in crumbs")
            .send(request(1, &asks("GET", &[("cookie", "a=1"), ("cookie", "b=2")])))
            .answered(),
        case("8.3.1/authority-alone", "no Host is needed")
            .send(request(1, &get))
            .answered(),
        case("8.3.1/host-alone", "Host may stand for :authority")
            .send(request(
                1,
                &block(&[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    ("host", "origin.example"),
                ]),
            ))
            .answered(),
        case("8.3.1/any-order", "pseudo-fields have no order")
            .send(request(
                1,
                &block(&[
                    (":path", "/"),
                    (":authority", "origin.example"),
                    (":scheme", "http"),
                    (":method", "GET"),
                ]),
            ))
            .answered(),
    ]
}
