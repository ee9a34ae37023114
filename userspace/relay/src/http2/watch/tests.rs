//! Frames by tables: what is an offence and what is not.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn watch(allowed: u32) -> (Watch, Instant) {
    let now = Instant::now();
    (settled(allowed, now), now)
}

/// One whose client has sent its settings.
fn settled(allowed: u32, now: Instant) -> Watch {
    let mut watch = Watch::new(0, allowed, now);
    let first = frame(kind::SETTINGS, 0, 0, b"");
    assert_eq!(watch.received(&first, now), first.len());
    watch
}

/// Offences of that many frames, the credit used up before.
fn cost(frames: &[Vec<u8>]) -> u32 {
    let (mut watch, now) = watch(1000);
    watch.credit = 0;
    for frame in frames {
        assert_eq!(watch.received(frame, now), frame.len());
    }
    watch.offences
}

#[test]
fn what_is_an_offence() {
    let check = |what, frames: &[Vec<u8>], expected| assert_eq!(cost(frames), expected, "{what}");
    check("more settings", &vec![frame(kind::SETTINGS, 0, 0, b""); 2], 2);
    check("acks", &vec![frame(kind::SETTINGS, ACK, 0, b""); 9], 0);
    check("pings", &vec![frame(kind::PING, 0, 0, b"12345678"); 9], 9);
    check("pongs", &vec![frame(kind::PING, ACK, 0, b"12345678"); 9], 0);
    check("resets", &vec![frame(kind::RST_STREAM, 0, 1, &[0; 4]); 9], 9);
    check("priorities", &vec![frame(kind::PRIORITY, 0, 1, &[0; 5]); 9], 9);
    check("windows", &vec![frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]); 9], 9);
    check("empty data", &vec![frame(kind::DATA, 0, 1, b""); 9], 9);
    check("the end", &[frame(kind::DATA, END_STREAM, 1, b"")], 0);
    check("data", &vec![frame(kind::DATA, 0, 1, b"x"); 9], 0);
    check(
        "empty continuations",
        &vec![frame(kind::CONTINUATION, 0, 1, b""); 9],
        9,
    );
    check("unknown", &vec![frame(0x77, 0, 0, b""); 9], 9);
    check(
        "requests",
        &vec![frame(kind::HEADERS, END_HEADERS, 1, b"x"); 9],
        0,
    );
}

#[test]
fn requests_and_data_earn_a_credit() {
    let (mut watch, now) = watch(10);
    let update = frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]);
    for _ in 0..CREDIT {
        watch.received(&update, now);
    }
    assert_eq!(watch.offences, 0);
    watch.received(&update, now);
    assert_eq!(watch.offences, 1);
    watch.received(&frame(kind::HEADERS, END_HEADERS, 1, b""), now);
    watch.sent(&frame(kind::DATA, 0, 1, b"data"), now);
    for _ in 0..5 {
        watch.received(&update, now);
    }
    assert_eq!(watch.offences, 2);
}

#[test]
fn offences_are_forgiven() {
    let (mut watch, now) = watch(30);
    let reset = frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    for _ in 0..31 {
        watch.received(&reset, now);
    }
    assert!(watch.is_over());
    let mut watch = settled(30, now);
    for second in 0..600 {
        watch.received(&reset, now + Duration::from_secs(second));
    }
    assert!(!watch.is_over());
}

#[test]
fn a_stream_that_is_over_can_be_reset() {
    let (mut watch, now) = watch(10);
    watch.begin(5);
    watch.received(&frame(kind::RST_STREAM, 0, 3, &[0; 4]), now);
    assert_eq!(watch.offences, 0);
    watch.received(&frame(kind::RST_STREAM, 0, 5, &[0; 4]), now);
    watch.end(5);
    watch.received(&frame(kind::RST_STREAM, 0, 5, &[0; 4]), now);
    watch.received(&frame(kind::RST_STREAM, 0, 7, &[0; 4]), now);
    assert_eq!(watch.offences, 2);
}

#[test]
fn resets_that_the_client_has_brought_about() {
    let (mut watch, now) = watch(10);
    let reset = |stream, code: u32| frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    // Not the client's doing.
    for code in [0, 2, 8, 13] {
        watch.sent(&reset(1, code), now);
    }
    assert_eq!((watch.offences, watch.take_unseen()), (0, 0));
    // Never taken; taken and reset by weir, in either order; another error.
    watch.sent(&reset(1, PROTOCOL_ERROR), now);
    assert_eq!(watch.take_unseen(), 1);
    watch.begin(3);
    watch.sent(&reset(3, PROTOCOL_ERROR), now);
    watch.begin(5);
    watch.blame(5);
    watch.end(5);
    watch.sent(&reset(5, PROTOCOL_ERROR), now);
    watch.sent(&reset(7, 5), now);
    assert_eq!((watch.offences, watch.take_unseen()), (4, 0));
    // They are forgiven like all others.
    watch.sent(&reset(9, 5), now + FORGIVEN);
    assert_eq!(watch.offences, 1);
}

#[test]
fn a_head_is_under_way_until_its_end() {
    let (mut watch, now) = watch(10);
    let later = now + Duration::from_secs(1);
    watch.received(&frame(kind::HEADERS, 0, 1, b"x"), now);
    watch.received(&frame(kind::CONTINUATION, 0, 1, b"x"), later);
    assert_eq!(watch.head_since(), Some(now));
    watch.received(&frame(kind::CONTINUATION, END_HEADERS, 1, b"x"), later);
    assert_eq!(watch.head_since(), None);
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut all = b"PREFACE".to_vec();
    all.extend(frame(kind::SETTINGS, 0, 0, &[1; 18]));
    all.extend(frame(kind::RST_STREAM, 0, 9, &7_u32.to_be_bytes()));
    all.extend(frame(kind::DATA, 0, 1, &[3; 300]));
    all.extend(frame(kind::RST_STREAM, 0, 11, b""));
    all.extend(frame(kind::RST_STREAM, 0, 0x8000_000b, b"123456"));
    let scan = |pieces: usize| {
        let mut scanner = Scanner {
            skip: 7,
            ..Scanner::default()
        };
        let mut frames = Vec::new();
        for mut piece in all.chunks(pieces) {
            while let Some(frame) = scanner.next(&mut piece) {
                match frame {
                    Seen::Frame(frame) => frames.push((frame.kind, frame.length, frame.stream)),
                    Seen::Setting(id, value) => assert_eq!((id, value), (0x101, 0x101_0101)),
                }
            }
        }
        frames
    };
    let expected = [(4, 18, 0), (3, 4, 9), (0, 300, 1), (3, 0, 11), (3, 6, 11)];
    for pieces in 1..40 {
        assert_eq!(scan(pieces), expected, "{pieces}");
    }
    assert_eq!(scan(all.len()), expected);
}

/// What a client sends after its first settings: how many bytes of it are let through, and the code for what is not.
#[test]
fn what_breaks_a_rule() {
    let check = |what: &str, frames: &[Vec<u8>], expected: Option<u32>| {
        let all = frames.concat();
        let before: usize = frames.iter().rev().skip(1).map(Vec::len).sum();
        for pieces in [1, 3, 7, all.len()] {
            let (mut watch, now) = watch(1000);
            let mut let_through = 0;
            for piece in all.chunks(pieces) {
                if watch.broken().is_none() {
                    let_through += watch.received(piece, now);
                }
            }
            assert_eq!(watch.broken(), expected, "{what} by {pieces}");
            match expected {
                None => assert_eq!(let_through, all.len(), "{what}"),
                // The last of the frames is never whole.
                Some(_) => assert!(
                    let_through >= before && let_through < all.len(),
                    "{what} by {pieces}: {let_through}"
                ),
            }
        }
    };
    let size = Some(FRAME_SIZE_ERROR);
    for (kind, flags, length) in [
        (kind::PRIORITY, 0, 4),
        (kind::PRIORITY, 0, 6),
        (kind::RST_STREAM, 0, 3),
        (kind::RST_STREAM, 0, 5),
        (kind::SETTINGS, 0, 5),
        (kind::SETTINGS, ACK, 6),
        (kind::PING, 0, 7),
        (kind::PING, ACK, 9),
        (kind::GOAWAY, 0, 7),
        (kind::WINDOW_UPDATE, 0, 5),
    ] {
        check("a size", &[frame(kind, flags, 0, &vec![0; length])], size);
    }
    let window = |size: u32| {
        let max_streams = [0, 3, 0x80, 0, 0, 0];
        frame(
            kind::SETTINGS,
            0,
            0,
            &[&max_streams[..], &[0, 4], &size.to_be_bytes()].concat(),
        )
    };
    check("a window", &[window(WINDOW_MOST)], None);
    check("no window", &[window(WINDOW_MOST + 1)], Some(FLOW_CONTROL_ERROR));
    let head = |stream, end| frame(kind::HEADERS, END_HEADERS | end, stream, b"x");
    let data = |stream, end| frame(kind::DATA, end, stream, b"x");
    let reset = frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    let closed = Some(STREAM_CLOSED);
    check("trailers", &[head(1, 0), data(1, 0), head(1, END_STREAM)], None);
    check("data behind the end", &[head(1, END_STREAM), data(1, 0)], closed);
    check(
        "a head behind the end",
        &[head(1, END_STREAM), head(1, 0)],
        closed,
    );
    check(
        "data behind its end",
        &[head(1, 0), data(1, END_STREAM), head(3, 0), data(1, 0)],
        closed,
    );
    check(
        "a head behind a reset",
        &[head(1, 0), reset.clone(), head(1, 0)],
        closed,
    );
    // The crate resets the stream for it.
    check(
        "data behind a reset",
        &[head(1, 0), reset.clone(), data(1, 0)],
        None,
    );
    check("a reset behind the end", &[head(1, END_STREAM), reset], None);
    check("another stream", &[head(1, END_STREAM), data(3, 0)], None);
}

#[test]
fn settings_come_first() {
    let now = Instant::now();
    for (first, expected) in [
        (frame(kind::SETTINGS, 0, 0, b""), None),
        (frame(kind::SETTINGS, ACK, 0, b""), Some(PROTOCOL_ERROR)),
        (frame(kind::PING, 0, 0, &[0; 8]), Some(PROTOCOL_ERROR)),
        (frame(kind::HEADERS, END_HEADERS, 1, b"x"), Some(PROTOCOL_ERROR)),
    ] {
        let mut watch = Watch::new(0, 10, now);
        watch.received(&first, now);
        assert_eq!(watch.broken(), expected, "{first:?}");
    }
}
