//! States of streams, their numbers, how many there may be.

use crate::http2::{
    case::{Case, Sight, case},
    frames::{
        Code, GET, asks, block, continuation, data, flag, headers, headers_with_priority, priority, request,
        reset, setting, settings, window_update,
    },
};

const PROTOCOL: &[Code] = &[Code::PROTOCOL_ERROR];
const CLOSED: &[Code] = &[Code::STREAM_CLOSED];
const EITHER: &[Code] = &[Code::STREAM_CLOSED, Code::PROTOCOL_ERROR];

pub(super) fn cases() -> Vec<Case> {
    let get = block(&GET);
    let dummy = block(&[("x-dummy", "1")]);
    let more = data(1, flag::END_STREAM, b"test");
    let rest = continuation(1, flag::END_HEADERS, &dummy);
    let asked = request(1, &get);
    let open = headers(1, 0, &get);
    let back = reset(1, Code::CANCEL);
    vec![
        case("5.1/idle-data", "an idle stream takes HEADERS and PRIORITY alone")
            .send(&more)
            .ends(EITHER)
            .untouched(),
        case("5.1/idle-reset", "no RST_STREAM").send(&back).ends(PROTOCOL),
        case("5.1/idle-window", "no WINDOW_UPDATE")
            .send(window_update(1, 100))
            .ends(PROTOCOL),
        case("5.1/idle-continuation", "no CONTINUATION")
            .send(continuation(1, flag::END_HEADERS, &get))
            .ends(PROTOCOL)
            .untouched(),
        case(
            "5.1/half-closed-data",
            "DATA after the request's end is STREAM_CLOSED",
        )
        .send([&asked[..], &more].concat())
        .errs(CLOSED),
        case("5.1/half-closed-headers", "so are HEADERS")
            .send([&asked[..], &asked].concat())
            .errs(CLOSED),
        case(
            "5.1/half-closed-continuation",
            "CONTINUATION is out of place as well",
        )
        .send([&asked[..], &rest].concat())
        .ends(EITHER),
        case("5.1/reset-data", "DATA after RST_STREAM is STREAM_CLOSED")
            .send([&open[..], &back, &more].concat())
            .errs(CLOSED)
            .untouched(),
        case("5.1/reset-headers", "so are HEADERS")
            .send([&open[..], &back, &asked].concat())
            .errs(CLOSED)
            .untouched(),
        case("5.1/reset-continuation", "CONTINUATION is out of place as well")
            .send([&open[..], &back, &rest].concat())
            .ends(EITHER)
            .untouched(),
        case(
            "5.1/closed-data",
            "DATA after the end is STREAM_CLOSED, of the stream or the connection",
        )
        .send(&asked)
        .see(Sight::Over(1))
        .send(&more)
        .errs(CLOSED),
        case(
            "5.1/closed-headers",
            "HEADERS after the end are STREAM_CLOSED of the connection",
        )
        .send(&asked)
        .see(Sight::Over(1))
        .send(&asked)
        .ends(CLOSED),
        case("5.1/closed-continuation", "CONTINUATION is out of place as well")
            .send(&asked)
            .see(Sight::Over(1))
            .send(&rest)
            .ends(EITHER),
        case("5.1.1/even", "clients have odd numbers")
            .send(request(2, &get))
            .ends(PROTOCOL)
            .untouched(),
        case("5.1.1/smaller", "numbers grow")
            .send([request(5, &get), request(3, &get)].concat())
            .ends(PROTOCOL),
        case("5.1.1/leaves-some-out", "numbers may be left out")
            .send(request(5, &get))
            .see(Sight::Answer(5))
            .send(request(101, &get))
            .see(Sight::Answer(101)),
        case("5.1.2/too-many", "a stream beyond the number is refused")
            .send(settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]))
            .send_by(|settings| {
                let streams = settings.streams.filter(|most| *most <= 1000)?;
                let get = block(&GET);
                Some((0..=streams).flat_map(|n| request(1 + 2 * n, &get)).collect())
            })
            .see(Sight::Resets(0, &[Code::REFUSED_STREAM, Code::PROTOCOL_ERROR])),
        case("6.1/half-closed", "DATA may come in an open stream alone")
            .send([request(1, &asks("POST", &[])), more.clone()].concat())
            .errs(CLOSED),
        case("7540-5.3.1/headers-on-itself", "a stream can't depend on itself")
            .send(headers_with_priority(1, 1, &get))
            .resets(PROTOCOL),
        case("7540-5.3.1/priority-on-itself", "nor by PRIORITY")
            .send(priority(1, 1, 255))
            .resets(PROTOCOL),
    ]
}
