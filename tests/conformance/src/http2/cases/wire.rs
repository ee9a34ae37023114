//! Frames: their form, their size, what each kind of them may not be.

use crate::http2::{
    case::{Case, Settings, Sight, case},
    frames::{
        Code, GET, asks, block, continuation, data, flag, frame, framed, goaway, headers, integer, kind,
        ping, priority, request, request_with, reset, setting, settings, window_update,
    },
};

const PROTOCOL: &[Code] = &[Code::PROTOCOL_ERROR];
const SIZE: &[Code] = &[Code::FRAME_SIZE_ERROR];
const FLOW: &[Code] = &[Code::FLOW_CONTROL_ERROR];

/// A body's frame that is that much larger than may be.
fn body(settings: Settings, more: usize) -> Vec<u8> {
    data(1, flag::END_STREAM, &vec![b'x'; settings.frame + more])
}

/// A head in one frame that is larger than may be.
fn large_head(settings: Settings) -> Option<Vec<u8>> {
    let mut block = block(&GET);
    block.push(0);
    block.extend(integer(0, 7, 6));
    block.extend(b"x-fill");
    block.extend(integer(0, 7, settings.frame));
    block.extend(vec![b'x'; settings.frame]);
    Some(request(1, &block))
}

pub(super) fn cases() -> Vec<Case> {
    let get = block(&GET);
    let post = asks("POST", &[]);
    let dummy = block(&[("x-dummy", "1")]);
    let began = frame(kind::HEADERS, 0, 1, &get);
    let ended = continuation(1, flag::END_HEADERS, &dummy);
    let unknown = frame(kind::UNKNOWN, 0, 0, &[0; 8]);
    let mut all = vec![
        case(
            "3.4/no-preface",
            "what does not begin with the preface is no HTTP/2",
        )
        .bare()
        .send("INVALID CONNECTION PREFACE\r\n\r\n")
        .see(Sight::Closed)
        .untouched(),
        case("3.4/no-settings", "the preface ends with SETTINGS")
            .bare()
            .send(crate::http2::frames::PREFACE)
            .send(ping(0, [0; 8]))
            .ends(PROTOCOL)
            .untouched(),
        case("4.1/unknown-type", "frames of unknown types are passed over")
            .send(&unknown)
            .alive(),
        case("4.1/undefined-flag", "flags without a meaning are passed over")
            .send(ping(0x16, [1; 8]))
            .see(Sight::Pong([1; 8])),
        case("4.1/reserved-bit", "the reserved bit is passed over")
            .send(frame(kind::PING, 0, 1 << 31, &[1; 8]))
            .see(Sight::Pong([1; 8])),
        case("4.2/largest", "frames of the size that was allowed are taken")
            .send(headers(1, 0, &post))
            .send_by(|settings| (settings.frame <= 1 << 20).then(|| body(settings, 0)))
            .answered(),
        case(
            "4.2/data-too-large",
            "FRAME_SIZE_ERROR, of the stream or the connection",
        )
        .send(headers(1, 0, &post))
        .send_by(|settings| (settings.frame <= 1 << 20).then(|| body(settings, 1)))
        .ends(SIZE)
        .untouched(),
        case(
            "4.2/headers-too-large",
            "what changes the state of compression is an error of the connection",
        )
        .send_by(large_head)
        .ends(SIZE)
        .untouched(),
        case(
            "4.3/no-block",
            "a block that can't be decoded is COMPRESSION_ERROR",
        )
        .send(request(1, &[0x40]))
        .ends(&[Code::COMPRESSION_ERROR])
        .untouched(),
        case(
            "4.3/priority-within",
            "nothing may come between the frames of a head",
        )
        .send([&began[..], &priority(1, 0, 255), &ended].concat())
        .ends(PROTOCOL)
        .untouched(),
        case("4.3/headers-within", "nor a head of another stream")
            .send([&began[..], &request(3, &get), &ended].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("5.4.1/ends", "a connection error ends the connection")
            .send(frame(kind::PING, 0, 3, &[0; 8]))
            .ends(PROTOCOL),
        case("5.5/unknown-type", "extensions that nobody knows are passed over")
            .send(&unknown)
            .alive(),
        case("5.5/unknown-within", "but not between the frames of a head")
            .send(frame(kind::HEADERS, flag::END_STREAM, 1, &get))
            .send(&unknown)
            .ends(PROTOCOL)
            .untouched(),
        case("6.1/on-0", "DATA belongs to a stream")
            .send(data(0, flag::END_STREAM, b"test"))
            .ends(PROTOCOL),
        case("6.1/pads-too-much", "padding is no longer than the frame")
            .send(headers(1, 0, &asks("POST", &[("content-length", "4")])))
            .send(data(1, flag::END_STREAM | flag::PADDED, b"\x06Test"))
            .ends(PROTOCOL)
            .untouched(),
        case("6.1/padded-empty", "the length of the padding is not there")
            .send(headers(1, 0, &post))
            .send(data(1, flag::END_STREAM | flag::PADDED, b""))
            .ends(&[Code::FRAME_SIZE_ERROR, Code::PROTOCOL_ERROR])
            .untouched(),
        case(
            "6.2/priority-within",
            "nothing may come between HEADERS and CONTINUATION",
        )
        .send([&began[..], &priority(1, 0, 255), &ended].concat())
        .ends(PROTOCOL)
        .untouched(),
        case("6.2/headers-within", "nor HEADERS of another stream")
            .send([&began[..], &request(3, &get), &ended].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("6.2/on-0", "HEADERS belong to a stream")
            .send(request(0, &get))
            .ends(PROTOCOL)
            .untouched(),
        case("6.2/pads-too-much", "padding is no longer than the frame")
            .send(request_with(
                1,
                flag::PADDED,
                &[&[get.len() as u8 + 2], &get[..]].concat(),
            ))
            .ends(PROTOCOL)
            .untouched(),
        case("6.2/priority-cut", "a priority is whole")
            .send(request_with(1, flag::PRIORITY, &[0, 0]))
            .ends(&[Code::FRAME_SIZE_ERROR, Code::PROTOCOL_ERROR])
            .untouched(),
        case("6.3/on-0", "PRIORITY belongs to a stream")
            .send(priority(0, 0, 255))
            .ends(PROTOCOL),
        case("6.3/size", "PRIORITY has 5 bytes")
            .send(request(1, &get))
            .send(frame(kind::PRIORITY, 0, 1, &[0x80, 0, 0, 1]))
            .errs(SIZE),
        case("6.4/on-0", "RST_STREAM belongs to a stream")
            .send(reset(0, Code::CANCEL))
            .ends(PROTOCOL),
        case("6.4/on-idle", "what has not begun can't be reset")
            .send(reset(1, Code::CANCEL))
            .ends(PROTOCOL),
        case("6.4/size", "RST_STREAM has 4 bytes")
            .send(request(1, &get))
            .send(frame(kind::RST_STREAM, 0, 1, &[0; 3]))
            .ends(SIZE),
        case("6.5/acknowledges-with-more", "an acknowledgement is empty")
            .send(frame(kind::SETTINGS, flag::ACK, 0, &[0]))
            .ends(SIZE),
        case("6.5/on-a-stream", "SETTINGS belong to the connection")
            .send(frame(kind::SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 0x64]))
            .ends(PROTOCOL),
        case("6.5/size", "settings have 6 bytes each")
            .send(frame(kind::SETTINGS, 0, 0, &[0, 3, 0]))
            .ends(SIZE),
        case("6.5.2/push-is-no-boolean", "ENABLE_PUSH is 0 or 1")
            .send(settings(&[(setting::ENABLE_PUSH, 2)]))
            .ends(PROTOCOL),
        case(
            "6.5.2/connect-is-no-boolean",
            "ENABLE_CONNECT_PROTOCOL is 0 or 1 (RFC 8441 section 3)",
        )
        .send(settings(&[(8, 2)]))
        .ends(PROTOCOL),
        case("6.5.2/window-too-large", "a window is below 2^31")
            .send(settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]))
            .ends(FLOW),
        case("6.5.2/frame-too-small", "frames have at least 2^14 bytes")
            .send(settings(&[(setting::MAX_FRAME_SIZE, 16_383)]))
            .ends(PROTOCOL),
        case("6.5.2/frame-too-large", "and less than 2^24")
            .send(settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)]))
            .ends(PROTOCOL),
        case("6.5.2/unknown", "settings that nobody knows are passed over")
            .send(settings(&[(setting::UNKNOWN, 1)]))
            .alive(),
        case("6.5.3/acknowledged", "settings are acknowledged")
            .send(settings(&[(setting::ENABLE_PUSH, 0)]))
            .see(Sight::Acknowledged),
        case("6.7/not-an-answer", "an answer is not answered")
            .send(ping(flag::ACK, *b"invalid!"))
            .alive(),
        case("6.7/on-a-stream", "PING belongs to the connection")
            .send(frame(kind::PING, 0, 1, &[0; 8]))
            .ends(PROTOCOL),
        case("6.7/size", "PING has 8 bytes")
            .send(frame(kind::PING, 0, 0, &[0; 6]))
            .ends(SIZE),
        case("6.8/on-a-stream", "GOAWAY belongs to the connection")
            .send(frame(kind::GOAWAY, 0, 1, &[0; 8]))
            .ends(PROTOCOL),
        case("6.8/size", "GOAWAY has at least 8 bytes")
            .send(frame(kind::GOAWAY, 0, 0, &[0; 7]))
            .ends(SIZE),
        case("6.9/size", "WINDOW_UPDATE has 4 bytes")
            .send(frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]))
            .ends(SIZE),
        case("6.9/nothing", "an increment of 0 is none")
            .send(window_update(0, 0))
            .ends(PROTOCOL),
        case("6.9/nothing-on-a-stream", "nor for a stream")
            .send(headers(1, 0, &get))
            .send(window_update(1, 0))
            .errs(PROTOCOL),
        case("6.10/many", "a head may have many frames")
            .send([&began[..], &continuation(1, 0, &dummy), &ended].concat())
            .send(data(1, flag::END_STREAM, b""))
            .answered(),
        case("6.10/data-behind", "nothing else may come before END_HEADERS")
            .send(
                [
                    &began[..],
                    &continuation(1, 0, &dummy),
                    &data(1, flag::END_STREAM, b"test"),
                ]
                .concat(),
            )
            .ends(PROTOCOL)
            .untouched(),
        case("6.10/on-0", "CONTINUATION belongs to a stream")
            .send([&began[..], &continuation(0, flag::END_HEADERS, &dummy)].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("6.10/on-another", "and to the stream of its HEADERS")
            .send([&began[..], &continuation(3, flag::END_HEADERS, &dummy)].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("6.10/behind-the-end", "not behind END_HEADERS")
            .send([headers(1, 0, &get), ended.clone()].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("6.10/behind-its-end", "nor behind that of CONTINUATION")
            .send([&began[..], &ended, &ended].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("6.10/behind-data", "nor behind DATA")
            .send([headers(1, 0, &post), data(1, 0, b"test"), ended.clone()].concat())
            .ends(PROTOCOL)
            .untouched(),
        case("7/unknown-goaway", "codes that nobody knows mean nothing special")
            .send(goaway(Code::UNKNOWN))
            .send(ping(0, *b"are you?"))
            .see(Sight::PongOrEnd(*b"are you?")),
        case("7/unknown-reset", "nor in a reset")
            .send(headers(1, 0, &get))
            .send(reset(1, Code::UNKNOWN))
            .send(ping(0, *b"are you?"))
            .see(Sight::PongOrEnd(*b"are you?")),
        case("8.4/push", "a client promises nothing")
            .send(frame(
                kind::PUSH_PROMISE,
                flag::END_HEADERS,
                1,
                &[&[0, 0, 0, 3], &get[..]].concat(),
            ))
            .ends(PROTOCOL)
            .untouched(),
    ];
    // A frame that says more than comes is waited for; it must not be taken for what it is not.
    all.push(
        case("4.1/in-pieces", "a frame may come in any pieces")
            .send(framed(8, kind::PING, 0, 0, &[7; 3]))
            .send([7; 5])
            .see(Sight::Pong([7; 8])),
    );
    all
}
