//! Backends that speak HTTP/2: one frame by frame, by the test's hand; one by the `h2` crate, for what messages mean.

use std::{future::Future, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use weir_core::plan::{Http2, HttpProtocol};

use crate::support::*;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `:status: 200` alone.
pub(crate) const OK: &[u8] = &[0x88];

/// Setting 3.
pub(crate) const fn max_streams(most: u32) -> [u8; 6] {
    let [a, b, c, d] = most.to_be_bytes();
    [0, 3, a, b, c, d]
}

/// Setting 4.
pub(crate) const fn window(bytes: u32) -> [u8; 6] {
    let [a, b, c, d] = bytes.to_be_bytes();
    [0, 4, a, b, c, d]
}

/// A field that no table has.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        out.push(u8::try_from(text.len()).unwrap());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// A pool of HTTP/2 backends.
pub(crate) fn h2c(setup: Setup) -> Setup {
    Setup {
        protocol: HttpProtocol::H2c,
        ..setup
    }
}

pub(crate) fn h2c_with(setup: Setup, change: impl FnOnce(&mut Http2)) -> Setup {
    let mut setup = h2c(setup);
    change(&mut setup.http2);
    setup
}

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection of the relay's, frame by frame.
pub(crate) struct H2 {
    pub(crate) raw: Raw,
    /// PINGs are answered.
    pub(crate) pongs: bool,
}

impl H2 {
    /// The next connection, with these settings told.
    pub(crate) fn accept(backend: &Backend, settings: &[u8]) -> Self {
        let mut h2 = Self::silent(backend);
        h2.send(SETTINGS, 0, 0, settings);
        h2
    }

    /// The next connection, and not a word.
    pub(crate) fn silent(backend: &Backend) -> Self {
        let mut raw = backend.accept();
        assert_eq!(raw.exactly(24), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        Self { raw, pongs: true }
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.raw.send(frame);
    }

    /// The next frame that says something of a stream, or of the connection's end.
    pub(crate) fn frame(&mut self) -> Frame {
        loop {
            let head = self.raw.exactly(9);
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let frame = Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload: self.raw.exactly(len),
            };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
                PING if frame.flags & ACK == 0 && self.pongs => self.send(PING, ACK, 0, &frame.payload),
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return frame,
            }
        }
    }

    /// The next request: its stream, and whether that is all of it.
    pub(crate) fn request(&mut self) -> (u32, bool) {
        let frame = self.frame();
        assert_eq!(frame.kind, HEADERS, "{frame:?}");
        (frame.stream, frame.flags & END_STREAM != 0)
    }

    /// The next frame is this.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: u8, stream: u32) -> Frame {
        let frame = self.frame();
        assert_eq!((frame.kind, frame.stream), (kind, stream), "{frame:?}");
        frame
    }

    pub(crate) fn head(&mut self, stream: u32, block: &[u8], end: bool) {
        let end = if end { END_STREAM } else { 0 };
        self.send(HEADERS, END_HEADERS | end, stream, block);
    }

    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.send(DATA, if end { END_STREAM } else { 0 }, stream, bytes);
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub(crate) fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload);
    }

    /// The connection ends in order: GOAWAY without an error, then no more.
    pub(crate) fn ends(&mut self) {
        let frame = self.frame();
        assert_eq!(frame.kind, GOAWAY, "{frame:?}");
        assert_eq!(frame.payload[4..8], [0; 4], "{frame:?}");
        self.raw.ends();
    }
}

/// A backend that answers by a function, until the process ends.
pub(crate) fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    A: Future<Output = ()> + 'static,
{
    serve_by(h2::server::Builder::new(), answer)
}

/// The same, with these settings.
pub(crate) fn serve_by<F, A>(settings: h2::server::Builder, answer: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    A: Future<Output = ()> + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let answer = Rc::new(answer);
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let answer = Rc::clone(&answer);
                let settings = settings.clone();
                tokio::task::spawn_local(async move {
                    let Ok(mut connection) = settings.handshake(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::task::spawn_local(answer(request, respond));
                    }
                });
            }
        });
    });
    at
}

/// All of a body, and its trailers.
pub(crate) async fn read_body(body: &mut RecvStream) -> Option<(Vec<u8>, String)> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        all.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok()?.unwrap_or_default();
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}|", String::from_utf8_lossy(value.as_bytes()))
    };
    Some((all, trailers.iter().map(line).collect()))
}
