//! Any bytes as what a client of HTTP/2 sends, and as a request that asks for it.
//!
//! Holds: what a stream asks for is read by a backend of HTTP/1.1 as the same request; what frames are counted for does not
//! depend on where reads cut them; the request of an `Upgrade` is the first one of the connection that follows.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use h2::{RecvStream, server};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weir_core::plan::Forwarded;
use weir_relay::{
    http1::{
        head::{HeadLimits, field_store},
        request,
    },
    http2::{
        PREFACE,
        request::{Received, trailers},
        upgrade,
        watch::Watch,
    },
};

use crate::http_head::{meaning, passed_on};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 8 << 10,
    fields: 64,
};

/// Polls of a connection that bring no request until it has nothing more to say: it may answer between them.
const TURNS: usize = 8;

/// Bodies that are read at once.
const BODIES: usize = 32;

/// Checks one byte string.
pub fn check(data: &[u8]) {
    passed(data);
}

/// Checks one, and answers with how many requests would go to a backend, of frames or of an `Upgrade`.
pub fn passed(data: &[u8]) -> usize {
    let mut passed = 0;
    let with_preface;
    let all = if data.starts_with(PREFACE) {
        data
    } else {
        with_preface = [PREFACE, data].concat();
        &with_preface
    };
    for received in requests(all) {
        // What is malformed is refused, and goes nowhere.
        let read = received.read(LIMITS, |request| {
            passed_on(request, Forwarded::Both, false);
            passed_on(request, Forwarded::Off, true);
        });
        passed += usize::from(read.is_ok());
    }
    counts(all);
    passed + usize::from(upgrades(data))
}

/// Bytes, and then a client that waits; and a sink. (What ended there the `h2` crate would take for a connection that is cut,
/// and give none of its requests.)
struct Wire<'a>(&'a [u8]);

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, rest) = self.0.split_at(into.remaining().min(self.0.len()));
        into.put_slice(now);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that a connection of these bytes brings, as the relay takes them from the `h2` crate.
fn requests(all: &[u8]) -> Vec<Received> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = Box::pin(
        server::Builder::new()
            .enable_connect_protocol()
            .max_header_list_size(8 << 10)
            .handshake::<_, Bytes>(Wire(all)),
    );
    let mut taken = Vec::new();
    let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(&mut cx) else {
        return taken;
    };
    let (mut bodies, mut idle) = (Vec::new(), 0);
    while idle < TURNS {
        match connection.poll_accept(&mut cx) {
            Poll::Ready(Some(Ok((request, mut respond)))) => {
                let (parts, body) = request.into_parts();
                taken.push(Received::new(parts, body.is_end_stream(), || [7; 16]));
                if bodies.len() < BODIES {
                    bodies.push(body);
                }
                let _gone = respond.send_response(Response::new(()), true);
            }
            Poll::Ready(Some(Err(_)) | None) => break,
            Poll::Pending => idle += 1,
        }
        bodies.retain_mut(|body| goes_on(body, &mut cx));
    }
    taken
}

/// Takes what has come of a body, and its trailers. Whether more may come.
fn goes_on(body: &mut RecvStream, cx: &mut Context<'_>) -> bool {
    loop {
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                let _gone = body.flow_control().release_capacity(data.len());
            }
            Poll::Ready(Some(Err(_))) => return false,
            Poll::Ready(None) => break,
            Poll::Pending => return true,
        }
    }
    match body.poll_trailers(cx) {
        Poll::Ready(Ok(Some(fields))) => {
            if let Ok(lines) = trailers(&fields) {
                one_section(&lines);
            }
            false
        }
        Poll::Ready(_) => false,
        Poll::Pending => true,
    }
}

/// Trailers as HTTP/1.1 has them are lines of fields, and nothing but.
fn one_section(lines: &[u8]) {
    let text = || lines.escape_ascii().to_string();
    assert!(lines.is_empty() || lines.ends_with(b"\r\n"), "{}", text());
    let whole = lines.strip_suffix(b"\r\n").unwrap_or(lines);
    if lines.is_empty() {
        return;
    }
    for line in whole.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(
            line.contains(&b':') && !line.iter().any(|byte| matches!(byte, b'\r' | 0)),
            "{}",
            text()
        );
    }
}

fn counts(all: &[u8]) {
    let now = Instant::now();
    let count = |piece: usize| {
        let mut watch = Watch::new(PREFACE.len(), 20, now);
        for bytes in all.chunks(piece) {
            watch.received(bytes, now);
            // Nothing is read of a connection behind the rule that it broke.
            if watch.broken().is_some() {
                break;
            }
        }
        (
            watch.is_over(),
            watch.head_since().is_some(),
            watch.take_unseen(),
            watch.broken(),
        )
    };
    let whole = count(all.len().max(1));
    for piece in [1, 5, 64] {
        assert_eq!(count(piece), whole, "in pieces of {piece}");
    }
}

/// Whether it asks for an `Upgrade` that is granted.
fn upgrades(data: &[u8]) -> bool {
    let data = &data[request::skip_empty_lines(data)..];
    let mut store = field_store();
    let Ok(Some(parsed)) = request::parse(data, &mut store, LIMITS) else {
        return false;
    };
    let Some(made) = upgrade::bytes(&parsed) else {
        return false;
    };
    let own = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for cut in 0..own.len() {
        assert!(matches!(upgrade::joined(&made, &own[..cut]), Ok(None)), "{cut}");
    }
    let joined = upgrade::joined(&made, &own);
    let joined = joined.expect("a preface").expect("a whole one");
    // The settings may be ones that no connection can have: then it ends before the request.
    let Some(first) = requests(&joined).into_iter().next() else {
        return false;
    };
    let read = first.read(LIMITS, |again| {
        assert_eq!(meaning(again), meaning(&parsed));
    });
    read.is_ok()
}
