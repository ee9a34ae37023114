//! Floods: frames that are of no use are counted, and too many end the connection with its own reason. Nothing of it
//! reaches a backend more often than the limit says.

use weir_relay::Reason;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, Frames, GET, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get,
};
use crate::support::{Backend, Lab, Setup};

const OFFENCES: u32 = 50;

fn lab(backend: &Backend) -> Lab {
    Lab::new(Setup::http_with(&[backend.at], |http| {
        http.http2.offences = OFFENCES
    }))
}

/// Sends frames until the connection is ended for it, some at a time.
fn flood(lab: &Lab, what: &str, mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut client = Frames::connect(lab.at);
    let mut sent = 0;
    while sent < 4000 && client.try_send(&next(sent)) {
        sent += 1;
    }
    let goaway = client.until(GOAWAY);
    assert_eq!(goaway.code(), ENHANCE_YOUR_CALM, "{what}");
    drop(client);
}

#[test]
fn floods_of_every_kind() {
    let backend = Backend::new();
    let lab = lab(&backend);
    let open = frame(HEADERS, END_HEADERS, 1, &block(&GET));
    let stream = |n: u32, kind: u8, payload: &[u8]| match n {
        0 => open.clone(),
        _ => frame(kind, 0, 1, payload),
    };
    let mut ends = 0;
    let mut check = |what, next: &mut dyn FnMut(u32) -> Vec<u8>| {
        flood(&lab, what, next);
        ends += 1;
        crate::support::until(what, || lab.service().ends[Reason::ClientFlood as usize] >= ends);
        crate::support::until("all streams are over", || lab.service().open == 0);
        ends = lab.service().ends[Reason::ClientFlood as usize];
    };
    check("pings", &mut |_| frame(PING, 0, 0, b"12345678"));
    check("settings", &mut |_| frame(SETTINGS, 0, 0, &[]));
    check("priorities", &mut |n| {
        frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])
    });
    check("window updates", &mut |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    });
    check("empty data", &mut |n| stream(n, DATA, b""));
    check("unknown frames", &mut |_| frame(0x7f, 0, 0, b"x"));
}

#[test]
fn rapid_resets() {
    let backend = Backend::new();
    let lab = lab(&backend);
    flood(&lab, "rapid resets", |n| {
        let id = 2 * n + 1;
        [get(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    });
    crate::support::until("it is on record", || {
        lab.service().ends[Reason::ClientFlood as usize] > 0
    });
    let counts = lab.service();
    assert!(
        counts.requests <= u64::from(OFFENCES) * 4,
        "{} requests",
        counts.requests
    );
}

/// Streams that weir is made to reset cost the client as much as those that it resets itself.
#[test]
fn made_you_reset() {
    let backend = Backend::new();
    let lab = lab(&backend);
    flood(&lab, "a window that overflows on each", |n| {
        let id = 2 * n + 1;
        [get(id), frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff])].concat()
    });
    let lab = self::lab(&backend);
    flood(&lab, "a malformed head each", |n| {
        frame(HEADERS, END_HEADERS | 1, 2 * n + 1, &block(&[(":method", "GET")]))
    });
    crate::support::until("it is on record", || {
        lab.service().ends[Reason::ClientFlood as usize] > 0
    });
}

#[test]
fn continuations_without_end() {
    let backend = Backend::new();
    let lab = lab(&backend);
    for payload in [&b""[..], &[0, 1, b'x', 1, b'y']] {
        let before = lab.service().ends[Reason::ClientFlood as usize];
        flood(&lab, "continuations", |n| match n {
            0 => frame(HEADERS, 0, 1, &block(&GET)),
            _ => frame(CONTINUATION, 0, 1, payload),
        });
        crate::support::until("it is on record", || {
            lab.service().ends[Reason::ClientFlood as usize] > before
        });
    }
    assert!(backend.is_untouched());
}

/// A few bytes that stand for a great many: each names an entry of the table that is as large as may be.
#[test]
fn hpack_bombs() {
    let backend = Backend::new();
    let lab = lab(&backend);
    let mut client = Frames::connect(lab.at);
    let mut head = block(&GET);
    // With incremental indexing: x: yyy…, 4000 bytes; then the entry again and again.
    head.extend([0x40, 1, b'x', 127, 0xa1, 30]);
    head.extend(vec![b'y'; 127 + 0x21 + 30 * 128]);
    head.extend(vec![0x80 | 62; 8000]);
    client.send(frame(HEADERS, END_HEADERS | 1, 1, &head));
    assert_eq!(client.until(GOAWAY).code(), ENHANCE_YOUR_CALM);
    lab.ended(Reason::ClientFlood, 1);
    assert!(backend.is_untouched());
}

#[test]
fn a_busy_client_is_no_flood() {
    let backend = Backend::new();
    let at = backend.serve("ok");
    let lab = Lab::new(Setup::http_with(&[at], |http| http.http2.offences = OFFENCES));
    let mut client = Frames::connect(lab.at);
    for n in 0..400 {
        let id = 2 * n + 1;
        client.send([get(id), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 2])].concat());
        loop {
            let data = client.until(DATA);
            if data.flags & 1 == 1 {
                break;
            }
        }
        if n % 4 == 0 {
            client.send(frame(PING, 0, 0, b"12345678"));
        }
    }
    lab.ended(Reason::Ok, 400);
    assert_eq!(lab.service().ends[Reason::ClientFlood as usize], 0);
}
