//! What an exchange asks of its client's side, whatever HTTP the client speaks.
//!
//! The exchange reads the request's body and hands over the response as weir has written it: a head in lines, body bytes
//! in the worker's buffer, trailer lines. How that goes over the wire is the client's affair: bytes of a connection
//! (`h1`), or frames of a stream.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
};

use super::{exchange::Exchange, send::Sent};
use crate::{
    fault::Fault,
    http1::{version::Version, write::ClientConnection},
    scratch::{Pending, Scratch},
    stream::Stream,
    tls::TlsFacts,
};

/// The client's side of an exchange. As a [`Stream`] it takes what is left of the response, and after a switch the bytes
/// of the tunnel.
pub(super) trait Client: Stream {
    /// Reads more of the request's body into the worker's buffer, decoded, at most `most` bytes. Counts what came.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        most: usize,
    ) -> Poll<Result<Piece, Fault>>;

    /// All that was read of the body has gone on: as much may come again.
    fn took_body(&mut self);

    /// Sends an interim response's head, which lies in `scratch.head`.
    fn send_interim(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> io::Result<Sent>;

    /// Sends a part of the response.
    fn send_part(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, part: Part<'_>) -> io::Result<Sent>;

    /// The response switches to a tunnel: its head, and the first bytes behind it. Answers with the status that the
    /// client is told, and what is to be sent.
    fn switch(&mut self, status: u16, head: Vec<u8>, rest: &[u8]) -> io::Result<(u16, Pending)>;

    /// Whether a `101` with that `Sec-WebSocket-Accept` answers what the backend was asked on the client's behalf.
    fn proves_switch(&self, accept: Option<&[u8]>) -> bool;

    /// Whether it asked for a tunnel that only a `101` of the backend opens, but for it any success would say so.
    fn asked_switch(&self) -> bool;

    /// Whether a fault is told by a response; else the exchange just breaks off.
    fn answers(fault: Fault) -> bool;

    /// A whole response of weir's own, head and body: answers with what of it is to be sent.
    fn begin_own(&mut self, own: Vec<u8>) -> io::Result<Pending>;

    /// Ends the response though it is not whole, so that what the client has of it can't pass for the whole.
    /// `unframed`: only the end of the connection would tell.
    fn break_off(&mut self, fault: Fault, unframed: bool);

    /// What a client that speaks `version` is told of its connection, which is kept or not.
    fn told(keeps: bool, version: Version) -> ClientConnection;

    /// Bytes that came behind the request, for the tunnel that follows it.
    fn take_ahead(&mut self) -> Vec<u8>;

    /// Whether nothing of what it sent is unread.
    fn is_quiet(&self) -> bool;

    /// Whether it is gone for good. Asks the system; nobody is woken when that changes.
    fn is_broken(&self) -> bool;

    /// What it means that it is gone.
    fn gone(&self) -> Fault;

    /// What its connection's TLS handshake came to. None: it does without TLS.
    fn tls(&self) -> Option<&Rc<TlsFacts>>;

    /// The address that it connected to.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A piece of a request's body, in the worker's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Bytes that the read gave, framing included.
    pub(super) read: usize,
}

/// A part of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// The head, if this is the first part.
    pub(super) head: &'a [u8],
    /// Where the body's bytes lie in the worker's buffer.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The body goes out in chunks.
    pub(super) chunked: bool,
    /// Nothing follows but the trailer lines.
    pub(super) done: bool,
    pub(super) trailers: &'a [u8],
    /// The connection's end may be announced with it.
    pub(super) last: bool,
}
