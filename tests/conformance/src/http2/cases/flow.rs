//! Windows: what may be sent, and what can't be a window.

use crate::http2::{
    case::{Case, Sight, case},
    frames::{Code, GET, block, headers, request, setting, settings, window_update},
};

const MOST: u32 = (1 << 31) - 1;
const FLOW: &[Code] = &[Code::FLOW_CONTROL_ERROR];

pub(super) fn cases() -> Vec<Case> {
    let get = block(&GET);
    let window = |size| settings(&[(setting::INITIAL_WINDOW_SIZE, size)]);
    vec![
        case("6.5.3/in-order", "of a setting that comes twice the last counts")
            .send(settings(&[
                (setting::INITIAL_WINDOW_SIZE, 100),
                (setting::INITIAL_WINDOW_SIZE, 1),
            ]))
            .see(Sight::Acknowledged)
            .send(request(1, &get))
            .see(Sight::Data(1, 1)),
        case(
            "6.9.1/no-more-than-fits",
            "no more is sent than there is room for",
        )
        .send(window(1))
        .see(Sight::Acknowledged)
        .send(request(1, &get))
        .see(Sight::Data(1, 1)),
        case(
            "6.9.1/connection-overflows",
            "the connection's window is below 2^31",
        )
        .send([window_update(0, MOST), window_update(0, MOST)].concat())
        .ends(FLOW),
        case("6.9.1/stream-overflows", "so is a stream's")
            .send(headers(1, 0, &get))
            .send([window_update(1, MOST), window_update(1, MOST)].concat())
            .resets(FLOW)
            .untouched(),
        case(
            "6.9.2/grows",
            "a setting changes the windows of streams that there are",
        )
        .send(window(0))
        .see(Sight::Acknowledged)
        .send(request(1, &get))
        .see(Sight::Head(1))
        .send(window(1))
        .see(Sight::Data(1, 1)),
        case("6.9.2/below-zero", "a window may fall below zero")
            .send(window(3))
            .see(Sight::Acknowledged)
            .send(request(1, &get))
            .see(Sight::Data(1, 3))
            .send(window(2))
            .see(Sight::Acknowledged)
            .send(window_update(1, 2))
            .see(Sight::Data(1, 1)),
        case("6.9.2/too-large", "a setting above 2^31-1 is FLOW_CONTROL_ERROR")
            .send(window(1 << 31))
            .ends(FLOW),
        case(
            "6.9.2/overflows-a-stream",
            "a setting that takes a stream's window above 2^31-1 is one too",
        )
        .send(headers(1, 0, &get))
        .send([window_update(1, MOST - 65_535), window(MOST)].concat())
        .ends(FLOW)
        .untouched(),
    ]
}
